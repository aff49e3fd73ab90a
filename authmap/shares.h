/* How many dials each local identity has under way. Peers that never answer keep their places for the whole deadline: the
 * workload that asks for many of them must not take the places of all. Pure. At most as many rows as dials. */
#ifndef CS_SHARES_H
#define CS_SHARES_H

#include <stddef.h>
#include <stdint.h>

struct cs_shares; /* NULL: nobody dials */

void cs_shares_take(struct cs_shares **shares, uint32_t identity);
void cs_shares_give(struct cs_shares **shares, uint32_t identity);
size_t cs_shares_of(struct cs_shares *shares, uint32_t identity);

#endif
