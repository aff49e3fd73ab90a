/* May an entry be written because of this verdict? May one that was written still stand? Pure; both start at no.
 *
 * A handshaker says that two certificates were verified and that both sides proved possession of their keys, and which
 * generations that rests on. What it says is worth no more than that: everything else is known here, and is looked up at
 * this very moment. */
#ifndef CS_VERDICT_H
#define CS_VERDICT_H

#include <countersign/handshaker.h>
#include <countersign/maps.h>
#include "pairs.h"
#include "svids.h"
#include "world.h"

#define CS_ACCEPTED_MAX 4096 /* entries that one remote node's dials may have here */

struct cs_facts {
	const struct cs_world *world;
	const struct cs_svids *svids;
	const struct cs_pairs *pairs;
	int64_t now_unix_s;
	bool stale; /* the directory has been silent for longer than directory.max_stale */
};

/* The request, as the monitor remembers it. */
struct cs_ask {
	enum cs_hs_role role;
	uint32_t local, remote; /* dialler, loopback; of an accept nothing is known before the verdict */
	uint16_t node;          /* whose address is at the other end; 0: loopback */
	struct cs_world_generations generations; /* when it began; of an accept, the node's alone counts */
};

struct cs_allowed {
	size_t n; /* 1; loopback: 2 */
	struct cs_allowed_entry {
		struct cs_auth_key key;
		struct cs_basis basis;
		uint64_t reply_flags; /* CS_AUTH_REPLY_* */
		bool asks; /* policy asks for this pair: write it. Else the peer gets its yes, and that is all */
	} entry[2];
};

/* CS_R_NONE and *ret, or why not. */
enum cs_reason cs_verdict_check(
	const struct cs_facts *f, const struct cs_ask *ask, const struct cs_hs_verdict *v, struct cs_allowed *ret);

/* CS_R_NONE, or why an entry that rests on this basis has to go. Also for those that an earlier life wrote. */
enum cs_reason cs_entry_check(const struct cs_facts *f, const struct cs_auth_key *key, const struct cs_basis *basis);

/* What is known before a byte is exchanged: CS_R_NONE, or why dialling for this key is in vain. */
enum cs_reason cs_dial_check(const struct cs_facts *f, const struct cs_auth_key *key);

/* The trust domain in a SPIFFE ID of the directory: borrowed, not terminated. NULL: it has none. */
const char *cs_trust_domain_of(const char *spiffe_id, size_t *ret_len);

#endif
