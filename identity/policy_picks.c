/* For one group and each peer: which rule decides. */
#include "policy_compiled.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t *all_none(size_t n)
{
	uint32_t *v = malloc((n + 1) * sizeof(*v));
	if (v)
		memset(v, 0xff, (n + 1) * sizeof(*v));
	return v;
}

int cs_picks_init(struct cs_picks *p, const struct cs_compiled *c)
{
	*p = (struct cs_picks){.c = c, .ids_room = c->nids + c->nids / 2 + 64}; /* identities are added */
	p->named_ids = malloc((p->ids_room + 1) * sizeof(*p->named_ids));
	p->named_prefixes = malloc((c->nprefixes + 1) * sizeof(*p->named_prefixes));
	bool ok = p->named_ids && p->named_prefixes;
	for (int dir = 0; dir < 2; dir++) {
		p->ids[dir] = all_none(p->ids_room);
		p->prefixes[dir] = all_none(c->nprefixes);
		ok = ok && p->ids[dir] && p->prefixes[dir];
	}
	if (!ok)
		cs_picks_fini(p);
	return ok ? 0 : -ENOMEM;
}

void cs_picks_fini(struct cs_picks *p)
{
	for (int dir = 0; dir < 2; dir++) {
		free(p->ids[dir]);
		free(p->prefixes[dir]);
	}
	free(p->named_ids);
	free(p->named_prefixes);
	*p = (struct cs_picks){0};
}

uint32_t cs_stronger(const struct cs_compiled *c, uint32_t a, uint32_t b)
{
	if (a == CS_NONE || b == CS_NONE)
		return a == CS_NONE ? b : a;
	if (c->rules[a].verdict != c->rules[b].verdict)
		return c->rules[a].verdict < c->rules[b].verdict ? a : b;
	return a < b ? a : b;
}

static void pick(const struct cs_compiled *c, uint32_t *at, uint32_t rule)
{
	*at = cs_stronger(c, *at, rule);
}

static void pick_set(struct cs_picks *p, const struct cs_set *s, uint32_t *const by_dir[2], enum cs_policy_dir dir,
	uint32_t rule, uint32_t *named, size_t *nnamed)
{
	for (size_t i = 0; i < s->n; i++) {
		uint32_t at = s->v[i];
		if (by_dir[CS_INGRESS][at] == CS_NONE && by_dir[CS_EGRESS][at] == CS_NONE)
			named[(*nnamed)++] = at;
		pick(p->c, &by_dir[dir][at], rule);
	}
}

static void pick_rule(struct cs_picks *p, uint32_t index)
{
	const struct cs_compiled_rule *r = &p->c->rules[index];
	enum cs_policy_dir dir = r->rule->dir;
	unsigned entities = r->rule->entities;
	if (r->endpoints)
		pick(p->c, &p->endpoints[dir], index);
	if (entities & CS_ENTITY_HOST)
		pick(p->c, &p->host[dir], index);
	if (entities & CS_ENTITY_REMOTE_NODE)
		pick(p->c, &p->remote_node[dir], index);
	if (entities & CS_ENTITY_WORLD)
		pick(p->c, &p->world[dir], index);
	for (size_t i = 0; i < r->nsets; i++)
		pick_set(p, r->sets[i], p->ids, dir, index, p->named_ids, &p->nnamed_ids);
	pick_set(p, &r->prefixes, p->prefixes, dir, index, p->named_prefixes, &p->nnamed_prefixes);
}

static void reset(struct cs_picks *p)
{
	for (int dir = 0; dir < 2; dir++) {
		for (size_t i = 0; i < p->nnamed_ids; i++)
			p->ids[dir][p->named_ids[i]] = CS_NONE;
		for (size_t i = 0; i < p->nnamed_prefixes; i++)
			p->prefixes[dir][p->named_prefixes[i]] = CS_NONE;
		p->endpoints[dir] = p->host[dir] = p->remote_node[dir] = p->world[dir] = CS_NONE;
		p->selects[dir] = CS_NONE;
	}
	p->nnamed_ids = p->nnamed_prefixes = 0;
}

void cs_picks_fill(struct cs_picks *p, const struct cs_group *g)
{
	reset(p);
	for (size_t i = 0; i < g->nspecs; i++) {
		const struct cs_compiled_spec *s = &p->c->specs[g->specs[i]];
		for (int dir = 0; dir < 2; dir++)
			if (s->spec->selects[dir] && p->selects[dir] == CS_NONE)
				p->selects[dir] = g->specs[i];
		for (uint32_t r = 0; r < s->nrules; r++)
			pick_rule(p, s->first_rule + r);
	}
}

struct cs_decision cs_decide(const struct cs_picks *p, enum cs_policy_dir dir, uint32_t a, uint32_t b)
{
	struct cs_decision d = {.verdict = CS_PASS, .dir = (uint8_t)dir};
	uint32_t rule = cs_stronger(p->c, a, b);
	if (rule != CS_NONE) {
		d.verdict = p->c->rules[rule].verdict;
		d.policy = p->c->rules[rule].policy;
		d.rule = p->c->rules[rule].rule;
	} else if (p->selects[dir] != CS_NONE) {
		d.verdict = CS_DENY;
		d.policy = p->c->specs[p->selects[dir]].policy;
	}
	return d;
}

bool cs_join(struct cs_decision verdict[2])
{
	for (int i = 0; i < 2; i++)
		if (verdict[i].verdict == CS_REQUIRE && verdict[!i].verdict == CS_PASS) {
			verdict[!i] = verdict[i];
			return true;
		}
	return false;
}
