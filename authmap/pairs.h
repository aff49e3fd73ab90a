/* The pairs that this node has to do with: what lives in cs_auth, what is being asked, what was refused. Pure: the clocks
 * are passed in, the maps are written by others (entries.h). Bounded by the settings of both maps. */
#ifndef CS_PAIRS_H
#define CS_PAIRS_H

#include <countersign/maps.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>
#include "error.h"

#define CS_RENEW_MIN_MS    5000   /* between two renewals of one pair */
#define CS_RENEW_MAX_MS    300000 /* ... when they fail */
#define CS_REFUSED_KEEP_MS 60000  /* for who asks why */

/* One instant on all clocks. */
struct cs_instant {
	uint64_t coarse_ns; /* of the maps */
	int64_t mono_ms, unix_ms;
};

struct cs_pair {
	struct cs_auth_key key;
	/* An entry */
	bool live;
	bool adopted;   /* an earlier life wrote it, and nobody has looked at its basis yet */
	uint64_t value; /* as in cs_auth, without CS_AUTH_FLUSHING */
	struct cs_basis basis;
	int64_t since_unix_ms;
	int64_t renew_mono_ms; /* when to authenticate again, before it expires */
	unsigned renewals_failed;
	/* A question */
	uint64_t attempt;           /* the request that runs; 0: none */
	bool waiting;               /* for a free place */
	int64_t not_before_mono_ms; /* while it waits */
	unsigned tries;             /* attempts for this question so far */
	int64_t asked_unix_ms, asked_mono_ms;
	/* A refusal */
	enum cs_reason refused;
	int64_t refused_until_mono_ms, refused_unix_ms;
	UT_hash_handle hh;
	struct cs_pair *wait_prev, *wait_next;
};

struct cs_pairs;
struct cs_pairs *cs_pairs_new(size_t max);
void cs_pairs_free(struct cs_pairs *p);
struct cs_pair *cs_pairs_find(const struct cs_pairs *p, const struct cs_auth_key *key);
/* Found, or made. NULL: as many as may be. */
struct cs_pair *cs_pairs_get(struct cs_pairs *p, const struct cs_auth_key *key);
/* Frees a pair that has neither entry nor question, and whose refusal is old enough. True: freed. */
bool cs_pairs_drop(struct cs_pairs *p, struct cs_pair *pair, int64_t now_mono_ms);
/* In no order; fn may have the pair dropped that it was given. It returns false to end the walk. */
void cs_pairs_each(struct cs_pairs *p, bool (*fn)(struct cs_pair *pair, void *data), void *data);
size_t cs_pairs_count(const struct cs_pairs *p);
size_t cs_pairs_live(const struct cs_pairs *p);
/* Entries that dials of this node have here. */
unsigned cs_pairs_accepted(const struct cs_pairs *p, uint16_t node);

/* The value of an entry: min(not_after, now + max_ttl) on the maps' clock, with these flags. 0: it is over. */
uint64_t cs_pair_value(int64_t not_after_unix_s, int64_t max_ttl_ms, uint64_t flags, const struct cs_instant *now);
/* The entry is in the map now, or has a new basis. */
void cs_pair_set_live(struct cs_pairs *p, struct cs_pair *pair, const struct cs_basis *basis, uint64_t value,
	const struct cs_instant *now);
/* It is not any more. */
void cs_pair_set_dead(struct cs_pairs *p, struct cs_pair *pair);
void cs_pair_set_refused(struct cs_pair *pair, enum cs_reason reason, int64_t backoff_ms, const struct cs_instant *now);
/* A renewal brought nothing newer than what is there. */
void cs_pair_renewed(struct cs_pair *pair, const struct cs_instant *now);
/* A renewal did not succeed. */
void cs_pair_renewal_failed(struct cs_pair *pair, const struct cs_instant *now);
/* This node's SVID of that pair is a new one, with a later end: renew soon, spread over spread_ms. */
void cs_pair_rotated(struct cs_pair *pair, int64_t spread_ms, const struct cs_instant *now);

enum cs_pair_due {
	CS_PAIR_KEEP,
	CS_PAIR_EXPIRED,  /* delete it */
	CS_PAIR_LENGTHEN, /* write *ret_value */
	CS_PAIR_RENEW,    /* authenticate again */
};
/* What is due, to be asked every second. Adopted entries only expire. */
enum cs_pair_due cs_pair_due(
	const struct cs_pair *pair, int64_t max_ttl_ms, const struct cs_instant *now, uint64_t *ret_value);

#endif
