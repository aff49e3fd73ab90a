#include "shares.h"

#include <stdlib.h>
#include <uthash.h>

struct cs_shares {
	uint32_t identity;
	size_t n;
	UT_hash_handle hh;
};

static struct cs_shares *find(struct cs_shares *shares, uint32_t identity)
{
	struct cs_shares *s;
	HASH_FIND(hh, shares, &identity, sizeof(identity), s);
	return s;
}

void cs_shares_take(struct cs_shares **shares, uint32_t identity)
{
	struct cs_shares *s = find(*shares, identity);
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s)
			abort();
		s->identity = identity;
		HASH_ADD(hh, *shares, identity, sizeof(s->identity), s);
	}
	s->n++;
}

void cs_shares_give(struct cs_shares **shares, uint32_t identity)
{
	struct cs_shares *s = find(*shares, identity);
	if (!s || --s->n > 0)
		return;
	HASH_DEL(*shares, s);
	free(s);
}

size_t cs_shares_of(struct cs_shares *shares, uint32_t identity)
{
	const struct cs_shares *s = find(shares, identity);
	return s ? s->n : 0;
}
