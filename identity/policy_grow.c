/* More identities for what is compiled already. */
#include "policy_compiled.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct growing {
	struct cs_compiled *c;
	struct cs_compile_identity *fresh; /* by id */
	size_t n;
	uint32_t *moved;    /* old index -> new index; NULL: all are behind the old ones */
	uint32_t *at;       /* new index of each fresh one */
	uint32_t **matches; /* by selector: which of the fresh ones, ascending */
	size_t *nmatches;
};

static int by_id(const void *a, const void *b)
{
	const struct cs_compile_identity *x = a, *y = b;
	return (x->id > y->id) - (x->id < y->id);
}

/* New places, in the order of numbers. 0: one of them is no workload's number, or is there already. */
static int place(struct growing *g)
{
	const struct cs_compiled *c = g->c;
	size_t old = 0;
	qsort(g->fresh, g->n, sizeof(*g->fresh), by_id);
	bool behind = c->nids == 0 || g->fresh[0].id > c->ids[c->nids - 1];
	if (!behind && !(g->moved = malloc(c->nids * sizeof(*g->moved))))
		return -ENOMEM;
	old = behind ? c->nids : 0;
	for (size_t i = 0; i < g->n; i++) {
		uint32_t id = g->fresh[i].id;
		if (id < CS_ID_FIRST_AUTH || id >= CS_ID_LOCAL_SCOPE || (i > 0 && id == g->fresh[i - 1].id))
			return 0;
		for (; old < c->nids && c->ids[old] < id; old++)
			g->moved[old] = (uint32_t)(old + i);
		if (old < c->nids && c->ids[old] == id)
			return 0;
		g->at[i] = (uint32_t)(old + i);
	}
	for (; old < c->nids; old++)
		g->moved[old] = (uint32_t)(old + g->n);
	return 1;
}

/* 0: a selector means everybody no longer, or only now. */
static int match(struct growing *g)
{
	const struct cs_compiled *c = g->c;
	for (size_t i = 0; i < c->nresolved; i++) {
		const struct cs_resolved *s = &c->resolved[i];
		for (size_t k = 0; k < g->n; k++) {
			if (!cs_selector_match(s->selector, g->fresh[k].labels))
				continue;
			if (!g->matches[i] && !(g->matches[i] = malloc(g->n * sizeof(uint32_t))))
				return -ENOMEM;
			g->matches[i][g->nmatches[i]++] = (uint32_t)k;
		}
		bool was = s->set.n == c->nids, is = s->set.n + g->nmatches[i] == c->nids + g->n;
		if (cs_selector_may_mean_everybody(s->selector) && was != is)
			return 0;
	}
	return 1;
}

/* Room first, so that nothing is half done. */
static int make_room(struct growing *g)
{
	struct cs_compiled *c = g->c;
	if (c->nids + g->n + 1 > c->ids_room) {
		size_t room = (c->nids + g->n) * 3 / 2 + 64;
		uint32_t *ids = realloc(c->ids, room * sizeof(*ids));
		c->ids = ids ? ids : c->ids;
		uint32_t *groups = ids ? realloc(c->group_of, room * sizeof(*groups)) : NULL;
		if (!groups)
			return -ENOMEM;
		c->group_of = groups;
		c->ids_room = room;
	}
	for (size_t i = 0; i < c->nresolved; i++) {
		struct cs_set *set = &c->resolved[i].set;
		if (set->n + g->nmatches[i] <= set->room)
			continue;
		size_t room = (set->n + g->nmatches[i]) * 3 / 2 + 4;
		uint32_t *v = realloc(set->v, room * sizeof(*v));
		if (!v)
			return -ENOMEM;
		set->v = v;
		set->room = room;
	}
	uint32_t *added = realloc(c->added, (g->n + 1) * sizeof(*added));
	c->added = added ? added : c->added;
	return added ? 0 : -ENOMEM;
}

/* Into an ascending set, from the end. */
static void insert(struct cs_set *set, const uint32_t *more, size_t n, const uint32_t *at)
{
	size_t to = set->n + n, from = set->n;
	for (size_t k = n; k > 0;) {
		if (from > 0 && set->v[from - 1] > at[more[k - 1]])
			set->v[--to] = set->v[--from];
		else
			set->v[--to] = at[more[--k]];
	}
	set->n += n;
}

static void grow_sets(struct growing *g)
{
	struct cs_compiled *c = g->c;
	for (size_t i = 0; i < c->nresolved; i++) {
		struct cs_set *set = &c->resolved[i].set;
		for (size_t k = 0; g->moved && k < set->n; k++)
			set->v[k] = g->moved[set->v[k]];
		insert(set, g->matches[i], g->nmatches[i], g->at);
	}
}

static void grow_ids(struct growing *g)
{
	struct cs_compiled *c = g->c;
	for (size_t i = c->nids; g->moved && i > 0; i--) {
		c->ids[g->moved[i - 1]] = c->ids[i - 1];
		c->group_of[g->moved[i - 1]] = c->group_of[i - 1];
	}
	c->nids += g->n;
	c->nadded = g->n;
	for (size_t i = 0; i < g->n; i++) {
		c->ids[g->at[i]] = g->fresh[i].id;
		c->added[i] = g->at[i];
	}
}

static bool has(const struct cs_set *set, uint32_t index)
{
	size_t low = 0, high = set->n;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (set->v[middle] < index)
			low = middle + 1;
		else
			high = middle;
	}
	return low < set->n && set->v[low] == index;
}

static int join_groups(struct growing *g)
{
	struct cs_compiled *c = g->c;
	uint32_t *specs = malloc((c->nspecs + 1) * sizeof(*specs));
	int r = specs ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < g->n; i++) {
		size_t n = 0;
		for (uint32_t k = 0; k < c->nspecs; k++)
			if (has(c->specs[k].subjects, g->at[i]))
				specs[n++] = k;
		r = cs_join_group(c, specs, n, &c->group_of[g->at[i]]);
	}
	free(specs);
	return r;
}

static int grow(struct growing *g)
{
	int r = place(g);
	if (r == 1)
		r = match(g);
	if (r <= 0)
		return r;
	r = make_room(g);
	if (r < 0)
		return r;
	grow_sets(g);
	grow_ids(g);
	r = join_groups(g);
	return r < 0 ? r : 1;
}

int cs_compiled_add(struct cs_compiled *c, const struct cs_compile_identity *identities, size_t n, struct cs_error *e)
{
	struct growing g = {.c = c, .n = n};
	if (n == 0)
		return 1;
	g.fresh = malloc(n * sizeof(*g.fresh));
	g.at = malloc(n * sizeof(*g.at));
	g.matches = calloc(c->nresolved + 1, sizeof(*g.matches));
	g.nmatches = calloc(c->nresolved + 1, sizeof(*g.nmatches));
	int r = -ENOMEM;
	if (g.fresh && g.at && g.matches && g.nmatches) {
		memcpy(g.fresh, identities, n * sizeof(*g.fresh));
		r = grow(&g);
	}
	for (size_t i = 0; g.matches && i < c->nresolved; i++)
		free(g.matches[i]);
	free(g.matches);
	free(g.nmatches);
	free(g.moved);
	free(g.at);
	free(g.fresh);
	return r < 0 ? cs_error_set(e, r, "out of memory") : r;
}
