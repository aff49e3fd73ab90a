#include "drops.h"

#include <stdlib.h>
#include <uthash.h>

struct seen {
	struct cs_drop_key key;
	uint64_t packets;
	UT_hash_handle hh;
};
struct cs_drops {
	struct seen *table; /* in the order of their last records */
};

struct cs_drops *cs_drops_new(void)
{
	struct cs_drops *drops = calloc(1, sizeof(*drops));
	if (!drops)
		abort();
	return drops;
}

static void forget(struct cs_drops *drops, struct seen *seen)
{
	HASH_DEL(drops->table, seen);
	free(seen);
}

void cs_drops_free(struct cs_drops *drops)
{
	struct seen *seen, *next;
	if (!drops)
		return;
	HASH_ITER (hh, drops->table, seen, next)
		forget(drops, seen);
	free(drops);
}

uint64_t cs_drops_since(struct cs_drops *drops, const struct cs_drop *record)
{
	struct seen *seen;
	uint64_t before = 0;
	HASH_FIND(hh, drops->table, &record->key, sizeof(record->key), seen);
	if (seen) {
		before = seen->packets;
		HASH_DEL(drops->table, seen);
	} else {
		if (HASH_COUNT(drops->table) >= CS_DROPS_MAX)
			forget(drops, drops->table);
		seen = calloc(1, sizeof(*seen));
		if (!seen)
			abort();
		seen->key = record->key;
	}
	seen->packets = record->packets;
	HASH_ADD(hh, drops->table, key, sizeof(seen->key), seen);
	/* Fewer than before: the datapath had forgotten the key, and began anew. */
	return record->packets >= before ? record->packets - before : record->packets;
}
