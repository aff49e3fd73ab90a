/* What the datapath said of each kind of drop before: its records count from the beginning, events since the one before.
 * Pure. Bounded: beyond CS_DROPS_MAX the oldest is forgotten, and counts from the beginning again. */
#ifndef CS_DROPS_H
#define CS_DROPS_H

#include <countersign/maps.h>
#include <stdint.h>

#define CS_DROPS_MAX 16384 /* as many as cs_seen has rows */

struct cs_drops;
struct cs_drops *cs_drops_new(void);
void cs_drops_free(struct cs_drops *drops);
/* Packets since the record before of this key. */
uint64_t cs_drops_since(struct cs_drops *drops, const struct cs_drop *record);

#endif
