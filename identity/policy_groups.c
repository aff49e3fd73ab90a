/* Groups: identities that the same specs select. They have the same rows, so what must be said about every identity
 * is worked out once per group. Made by splitting: each spec cuts the groups of those whom it selects in two. */
#include "policy_compiled.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int append_spec(struct cs_group *g, uint32_t spec)
{
	uint32_t *grown = realloc(g->specs, (g->nspecs + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	g->specs = grown;
	g->specs[g->nspecs++] = spec;
	return 0;
}

/* A new group with the specs of `like`. */
static int copy_group(struct cs_compiled *c, uint32_t like, uint32_t *ret)
{
	if (c->ngroups == c->groups_room) {
		size_t room = c->groups_room ? c->groups_room * 2 : 16;
		struct cs_group *grown = realloc(c->groups, room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		c->groups = grown;
		c->groups_room = room;
	}
	struct cs_group *g = &c->groups[c->ngroups];
	size_t n = like == CS_NONE ? 0 : c->groups[like].nspecs;
	*g = (struct cs_group){.specs = malloc((n + 1) * sizeof(*g->specs)), .nspecs = n};
	if (!g->specs)
		return -ENOMEM;
	if (n)
		memcpy(g->specs, c->groups[like].specs, n * sizeof(*g->specs));
	*ret = (uint32_t)c->ngroups++;
	return 0;
}

/* hits and target are by group, with room for one group per identity and the first; hits is all zero between calls. */
static int split(struct cs_compiled *c, uint32_t spec, uint32_t *hits, uint32_t *target)
{
	const struct cs_set *s = c->specs[spec].subjects;
	for (size_t i = 0; i < s->n; i++)
		hits[c->group_of[s->v[i]]]++;
	for (size_t i = 0; i < s->n; i++) {
		uint32_t old = c->group_of[s->v[i]];
		if (hits[old] == 0)
			continue; /* seen */
		target[old] = old;
		int r = 0;
		if (hits[old] < c->groups[old].members)
			r = copy_group(c, old, &target[old]);
		if (r == 0)
			r = append_spec(&c->groups[target[old]], spec);
		if (r < 0)
			return r;
		hits[old] = 0;
	}
	for (size_t i = 0; i < s->n; i++) {
		uint32_t *g = &c->group_of[s->v[i]];
		c->groups[*g].members--;
		*g = target[*g];
		c->groups[*g].members++;
	}
	return 0;
}

int cs_make_groups(struct cs_compiled *c)
{
	uint32_t first, *hits = calloc(c->nids + 2, sizeof(*hits)), *target = calloc(c->nids + 2, sizeof(*target));
	c->group_of = calloc(c->nids + 1, sizeof(*c->group_of));
	int r = hits && target && c->group_of ? copy_group(c, CS_NONE, &first) : -ENOMEM;
	if (r == 0)
		c->groups[first].members = c->nids;
	for (uint32_t i = 0; r == 0 && i < c->nspecs; i++)
		r = split(c, i, hits, target);
	free(hits);
	free(target);
	return r;
}

int cs_join_group(struct cs_compiled *c, const uint32_t *specs, size_t nspecs, uint32_t *ret)
{
	for (uint32_t i = 0; i < c->ngroups; i++) {
		struct cs_group *g = &c->groups[i];
		if (g->members > 0 && g->nspecs == nspecs &&
			(nspecs == 0 || memcmp(g->specs, specs, nspecs * sizeof(*specs)) == 0)) {
			g->members++;
			*ret = i;
			return 0;
		}
	}
	int r = copy_group(c, CS_NONE, ret);
	for (size_t i = 0; r == 0 && i < nspecs; i++)
		r = append_spec(&c->groups[*ret], specs[i]);
	if (r == 0)
		c->groups[*ret].members = 1;
	return r;
}
