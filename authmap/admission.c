#include "admission.h"

#include <stdlib.h>
#include <uthash.h>

/* A node that has, or had a moment ago, connections here. */
struct guest {
	uint16_t node;
	unsigned in_flight;
	int64_t millitokens, at_mono_ms;
	UT_hash_handle hh;
};
struct cs_admission {
	size_t max, in_flight;
	struct guest *guests;
};

#define FULL ((int64_t)CS_ACCEPT_RATE_PER_S * 1000)

struct cs_admission *cs_admission_new(size_t max_in_flight)
{
	struct cs_admission *ad = calloc(1, sizeof(*ad));
	if (!ad)
		abort();
	ad->max = max_in_flight;
	return ad;
}

void cs_admission_free(struct cs_admission *ad)
{
	struct guest *g, *next;
	if (!ad)
		return;
	HASH_ITER (hh, ad->guests, g, next) {
		HASH_DEL(ad->guests, g);
		free(g);
	}
	free(ad);
}

static struct guest *guest_of(struct cs_admission *ad, uint16_t node, int64_t now)
{
	struct guest *g;
	HASH_FIND(hh, ad->guests, &node, sizeof(node), g);
	if (!g) {
		g = calloc(1, sizeof(*g)); /* at most 65,535: node ids */
		if (!g)
			abort();
		g->node = node;
		g->millitokens = FULL;
		g->at_mono_ms = now;
		HASH_ADD(hh, ad->guests, node, sizeof(g->node), g);
	}
	return g;
}

enum cs_reason cs_admission_ask(struct cs_admission *ad, uint16_t node, int64_t now_mono_ms)
{
	struct guest *g = guest_of(ad, node, now_mono_ms);
	if (now_mono_ms > g->at_mono_ms) {
		int64_t passed_ms = now_mono_ms - g->at_mono_ms;
		g->millitokens += passed_ms > 1000 ? FULL : passed_ms * CS_ACCEPT_RATE_PER_S;
		if (g->millitokens > FULL)
			g->millitokens = FULL;
		g->at_mono_ms = now_mono_ms;
	}
	if (ad->in_flight >= ad->max || g->in_flight >= CS_ACCEPTS_PER_NODE || g->millitokens < 1000)
		return CS_R_TOO_MANY;
	g->millitokens -= 1000;
	g->in_flight++;
	ad->in_flight++;
	return CS_R_NONE;
}

void cs_admission_done(struct cs_admission *ad, uint16_t node)
{
	struct guest *g;
	HASH_FIND(hh, ad->guests, &node, sizeof(node), g);
	if (!g || !g->in_flight)
		return;
	g->in_flight--;
	ad->in_flight--;
}

size_t cs_admission_in_flight(const struct cs_admission *ad)
{
	return ad->in_flight;
}
