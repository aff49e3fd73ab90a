/* Does this machine's identityd lead its cluster? Where several replicas of the cluster role run, one registrar beside each,
 * the one beside the leader is active. Two at a time, for a moment, do no harm: what one made the other finds. */
#ifndef CS_LEADER_H
#define CS_LEADER_H

#include "loop.h"

#define CS_LEADER_ASK_MS   2000
#define CS_LEADER_FAILURES 3 /* in a row, and its last word counts no more */

struct cs_leader;

/* socket: identityd's status.sock; need not exist yet. changed is called from the loop. */
CS_MUST_USE int cs_leader_new(struct cs_loop *loop, const char *socket, void (*changed)(void *data), void *data,
	struct cs_leader **ret, struct cs_error *e);
/* Its last word; false at the start, and when it has not answered CS_LEADER_FAILURES times. */
bool cs_leader_is(const struct cs_leader *l);
/* It has said whether it leads. Otherwise e says why that is not known. */
CS_MUST_USE bool cs_leader_is_known(const struct cs_leader *l, struct cs_error *e);
/* The loop ends later; free after that. NULL is fine. */
void cs_leader_close(struct cs_leader *l);
void cs_leader_free(struct cs_leader *l);

#endif
