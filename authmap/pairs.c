#include "pairs.h"

#include <countersign/handshaker.h>
#include <stdlib.h>
#include <string.h>

struct cs_pairs {
	struct cs_pair *table;
	size_t max, live;
	unsigned accepted[65536]; /* by node */
};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

struct cs_pairs *cs_pairs_new(size_t max)
{
	struct cs_pairs *p = must(calloc(1, sizeof(*p)));
	p->max = max;
	return p;
}

void cs_pairs_free(struct cs_pairs *p)
{
	struct cs_pair *pair, *next;
	if (!p)
		return;
	HASH_ITER (hh, p->table, pair, next) {
		HASH_DEL(p->table, pair);
		free(pair);
	}
	free(p);
}

struct cs_pair *cs_pairs_find(const struct cs_pairs *p, const struct cs_auth_key *key)
{
	struct cs_pair *pair;
	HASH_FIND(hh, p->table, key, sizeof(*key), pair);
	return pair;
}

struct cs_pair *cs_pairs_get(struct cs_pairs *p, const struct cs_auth_key *key)
{
	struct cs_pair *pair = cs_pairs_find(p, key);
	if (pair || HASH_COUNT(p->table) >= p->max)
		return pair;
	pair = must(calloc(1, sizeof(*pair)));
	pair->key = *key;
	HASH_ADD(hh, p->table, key, sizeof(pair->key), pair);
	return pair;
}

bool cs_pairs_drop(struct cs_pairs *p, struct cs_pair *pair, int64_t now_mono_ms)
{
	if (pair->live || pair->attempt || pair->waiting ||
		(pair->refused && now_mono_ms < pair->refused_until_mono_ms + CS_REFUSED_KEEP_MS))
		return false;
	HASH_DEL(p->table, pair);
	free(pair);
	return true;
}

void cs_pairs_each(struct cs_pairs *p, bool (*fn)(struct cs_pair *pair, void *data), void *data)
{
	struct cs_pair *pair, *next;
	HASH_ITER (hh, p->table, pair, next)
		if (!fn(pair, data))
			return;
}

size_t cs_pairs_count(const struct cs_pairs *p)
{
	return HASH_COUNT(p->table);
}

size_t cs_pairs_live(const struct cs_pairs *p)
{
	return p->live;
}

unsigned cs_pairs_accepted(const struct cs_pairs *p, uint16_t node)
{
	return p->accepted[node];
}

/* ---- time ---- */

/* Whatever the number: one from the maps is not to be believed. */
static int64_t left_ms_of(int64_t not_after_unix_s, const struct cs_instant *now)
{
	int64_t far_s = INT64_MAX / 1000 / 1024; /* what is computed from it has room too */
	if (not_after_unix_s < 0)
		return 0;
	return (not_after_unix_s < far_s ? not_after_unix_s : far_s) * 1000 - now->unix_ms;
}

uint64_t cs_pair_value(int64_t not_after_unix_s, int64_t max_ttl_ms, uint64_t flags, const struct cs_instant *now)
{
	int64_t left_ms = left_ms_of(not_after_unix_s, now);
	if (left_ms > max_ttl_ms)
		left_ms = max_ttl_ms;
	if (left_ms <= 0)
		return 0;
	return (now->coarse_ns + (uint64_t)left_ms * 1000000) | (flags & ~CS_AUTH_EXPIRY);
}

/* A twentieth, from the key, so that pairs of one certificate do not all come at once. */
static int64_t jitter(const struct cs_pair *pair, int64_t span_ms)
{
	uint64_t h = (pair->key.local * 2654435761u) ^ (pair->key.remote * 40503u) ^ (pair->key.node * 97u);
	return span_ms > 0 ? (int64_t)(h % 1024) * span_ms / 1024 : 0;
}

/* The dialler renews after two thirds of what is left, the other side after five sixths, if nobody came. */
static int64_t renew_at(const struct cs_pair *pair, const struct cs_instant *now)
{
	int64_t left_ms = left_ms_of((int64_t)pair->basis.not_after_unix_s, now);
	int64_t after_ms = pair->basis.role == CS_HS_ACCEPTOR ? left_ms / 6 * 5 : left_ms / 3 * 2;
	after_ms -= jitter(pair, left_ms / 20);
	return now->mono_ms + (after_ms > CS_RENEW_MIN_MS ? after_ms : CS_RENEW_MIN_MS);
}

void cs_pair_set_live(struct cs_pairs *p, struct cs_pair *pair, const struct cs_basis *basis, uint64_t value,
	const struct cs_instant *now)
{
	if (pair->live)
		cs_pair_set_dead(p, pair);
	p->live++;
	if (basis->role == CS_HS_ACCEPTOR)
		p->accepted[pair->key.node]++;
	pair->live = true;
	pair->adopted = false;
	pair->basis = *basis;
	pair->value = value;
	pair->since_unix_ms = (int64_t)basis->written_unix_s * 1000;
	pair->renewals_failed = 0;
	pair->renew_mono_ms = renew_at(pair, now);
	pair->refused = CS_R_NONE;
	pair->tries = 0;
}

void cs_pair_set_dead(struct cs_pairs *p, struct cs_pair *pair)
{
	if (!pair->live)
		return;
	p->live--;
	if (pair->basis.role == CS_HS_ACCEPTOR)
		p->accepted[pair->key.node]--;
	pair->live = pair->adopted = false;
	pair->value = 0;
}

void cs_pair_set_refused(struct cs_pair *pair, enum cs_reason reason, int64_t backoff_ms, const struct cs_instant *now)
{
	pair->refused = reason;
	pair->refused_until_mono_ms = now->mono_ms + backoff_ms;
	pair->refused_unix_ms = now->unix_ms;
	pair->tries = 0;
}

void cs_pair_renewed(struct cs_pair *pair, const struct cs_instant *now)
{
	pair->renewals_failed = 0;
	pair->tries = 0;
	pair->renew_mono_ms = renew_at(pair, now);
}

void cs_pair_renewal_failed(struct cs_pair *pair, const struct cs_instant *now)
{
	int64_t after_ms = CS_RENEW_MIN_MS;
	for (unsigned i = 0; i < pair->renewals_failed && after_ms < CS_RENEW_MAX_MS; i++)
		after_ms *= 2;
	pair->renewals_failed++;
	pair->tries = 0;
	pair->renew_mono_ms = now->mono_ms + (after_ms < CS_RENEW_MAX_MS ? after_ms : CS_RENEW_MAX_MS);
}

void cs_pair_rotated(struct cs_pair *pair, int64_t spread_ms, const struct cs_instant *now)
{
	int64_t at = now->mono_ms + jitter(pair, spread_ms);
	if (pair->live && at < pair->renew_mono_ms)
		pair->renew_mono_ms = at;
}

enum cs_pair_due cs_pair_due(
	const struct cs_pair *pair, int64_t max_ttl_ms, const struct cs_instant *now, uint64_t *ret_value)
{
	if (!pair->live)
		return CS_PAIR_KEEP;
	uint64_t until = pair->value & CS_AUTH_EXPIRY;
	if (until <= now->coarse_ns)
		return CS_PAIR_EXPIRED;
	if (pair->adopted)
		return CS_PAIR_KEEP;
	*ret_value =
		cs_pair_value((int64_t)pair->basis.not_after_unix_s, max_ttl_ms, pair->value & ~CS_AUTH_EXPIRY, now);
	if (*ret_value == 0)
		return CS_PAIR_EXPIRED;
	/* Worth a write once an eighth of the longest life can be gained. */
	if ((*ret_value & CS_AUTH_EXPIRY) >= until + (uint64_t)max_ttl_ms * 1000000 / 8)
		return CS_PAIR_LENGTHEN;
	return now->mono_ms >= pair->renew_mono_ms && !pair->attempt && !pair->waiting ? CS_PAIR_RENEW : CS_PAIR_KEEP;
}
