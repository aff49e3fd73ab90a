/* Rows and defaults of the identities of one node. */
#include "policy_compiled.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The policy's words for what the endpoint does at each hook. */
static const enum cs_policy_dir dir_at[] = {[CS_FROM] = CS_EGRESS, [CS_TO] = CS_INGRESS};

struct writer {
	struct cs_picks *picks;
	struct cs_rows rows;
	size_t room;
	uint32_t local;
	struct cs_error *e;
};

void cs_rows_fini(struct cs_rows *r)
{
	free(r->rows);
	free(r->defaults);
	*r = (struct cs_rows){0};
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static int add_row(struct writer *w, uint32_t remote, const struct cs_decision verdict[2])
{
	struct cs_rows *r = &w->rows;
	if (r->nrows == CS_ROWS_MAX)
		return cs_error_set(w->e, -E2BIG, "policies need more than %d rows for the identities of one node",
			(int)CS_ROWS_MAX);
	if (r->nrows == w->room) {
		size_t room = w->room ? w->room * 2 : 64;
		struct cs_policy_row *grown = realloc(r->rows, room * sizeof(*grown));
		if (!grown)
			return cs_error_set(w->e, -ENOMEM, "out of memory");
		r->rows = grown;
		w->room = room;
	}
	struct cs_policy_row *row = &r->rows[r->nrows++];
	*row = (struct cs_policy_row){.local = w->local, .remote = remote};
	memcpy(row->verdict, verdict, sizeof(row->verdict));
	return 0;
}

static struct cs_policy_default make_default(const struct cs_picks *p, uint32_t local)
{
	struct cs_policy_default d = {.local = local};
	struct cs_decision endpoints[2];
	for (int hook = 0; hook < 2; hook++) {
		enum cs_policy_dir dir = dir_at[hook];
		endpoints[hook] = cs_decide(p, dir, p->endpoints[dir], CS_NONE);
		d.verdict[hook][CS_PEER_OTHER] = cs_decide(p, dir, p->world[dir], CS_NONE);
	}
	cs_join(endpoints);
	for (int hook = 0; hook < 2; hook++)
		d.verdict[hook][CS_PEER_ENDPOINT] = endpoints[hook];
	return d;
}

/* host and remote-node: a row where a rule names them, and where they differ from the world, whose verdict is the
 * default of their class. */
static int add_reserved(struct writer *w, uint32_t remote, const uint32_t picked[2], const struct cs_policy_default *d)
{
	struct cs_decision verdict[2];
	bool needed = false;
	for (int hook = 0; hook < 2; hook++) {
		enum cs_policy_dir dir = dir_at[hook];
		verdict[hook] = cs_decide(w->picks, dir, picked[dir], CS_NONE);
		needed |= picked[dir] != CS_NONE || verdict[hook].verdict != d->verdict[hook][CS_PEER_OTHER].verdict;
	}
	return needed ? add_row(w, remote, verdict) : 0;
}

static int add_endpoints(struct writer *w)
{
	struct cs_picks *p = w->picks;
	qsort(p->named_ids, p->nnamed_ids, sizeof(*p->named_ids), by_number);
	for (size_t i = 0; i < p->nnamed_ids; i++) {
		struct cs_decision verdict[2];
		for (int hook = 0; hook < 2; hook++) {
			enum cs_policy_dir dir = dir_at[hook];
			verdict[hook] = cs_decide(p, dir, p->ids[dir][p->named_ids[i]], p->endpoints[dir]);
		}
		cs_join(verdict);
		int r = add_row(w, p->c->ids[p->named_ids[i]], verdict);
		if (r < 0)
			return r;
	}
	return 0;
}

static int by_remote(const void *a, const void *b)
{
	const struct cs_policy_row *x = a, *y = b;
	return (x->remote > y->remote) - (x->remote < y->remote);
}

static int add_prefixes(struct writer *w)
{
	struct cs_picks *p = w->picks;
	size_t first = w->rows.nrows;
	for (size_t i = 0; i < p->nnamed_prefixes; i++) {
		struct cs_decision verdict[2];
		for (int hook = 0; hook < 2; hook++) {
			enum cs_policy_dir dir = dir_at[hook];
			verdict[hook] = cs_decide(p, dir, p->prefixes[dir][p->named_prefixes[i]], p->world[dir]);
		}
		int r = add_row(w, p->c->prefixes[p->named_prefixes[i]].id, verdict);
		if (r < 0)
			return r;
	}
	if (w->rows.nrows > first)
		qsort(w->rows.rows + first, w->rows.nrows - first, sizeof(*w->rows.rows), by_remote);
	return 0;
}

/* In the order of the peers' numbers: reserved, endpoints, CIDRs. The world is the default, and has no row. */
static int add_local(struct writer *w, uint32_t index)
{
	const struct cs_compiled *c = w->picks->c;
	cs_picks_fill(w->picks, &c->groups[c->group_of[index]]);
	w->local = c->ids[index];
	struct cs_policy_default d = make_default(w->picks, w->local);
	w->rows.defaults[w->rows.ndefaults++] = d;
	int r = add_reserved(w, CS_ID_HOST, w->picks->host, &d);
	if (r == 0)
		r = add_reserved(w, CS_ID_REMOTE_NODE, w->picks->remote_node, &d);
	if (r == 0)
		r = add_endpoints(w);
	return r == 0 ? add_prefixes(w) : r;
}

static int add_locals(struct writer *w, uint32_t *locals, size_t n)
{
	const struct cs_compiled *c = w->picks->c;
	qsort(locals, n, sizeof(*locals), by_number);
	for (size_t i = 0; i < n; i++) {
		if (i > 0 && locals[i] == locals[i - 1])
			continue;
		const uint32_t *at = bsearch(&locals[i], c->ids, c->nids, sizeof(*c->ids), by_number);
		int r = at ? add_local(w, (uint32_t)(at - c->ids)) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* Made once, and anew when more identities were added than it has room for. */
static int have_picks(struct cs_compiled *c)
{
	if (c->picks && c->picks->ids_room >= c->nids)
		return 0;
	if (c->picks)
		cs_picks_fini(c->picks);
	free(c->picks);
	c->picks = calloc(1, sizeof(*c->picks));
	int r = c->picks ? cs_picks_init(c->picks, c) : -ENOMEM;
	if (r < 0) {
		free(c->picks);
		c->picks = NULL;
	}
	return r;
}

int cs_compiled_rows(
	struct cs_compiled *c, const uint32_t *locals, size_t nlocals, struct cs_rows *ret, struct cs_error *e)
{
	struct writer w = {.e = e};
	if (have_picks(c) < 0)
		return cs_error_set(e, -ENOMEM, "out of memory");
	w.picks = c->picks;
	uint32_t *sorted = malloc((nlocals + 1) * sizeof(*sorted));
	w.rows.defaults = malloc((nlocals + 1) * sizeof(*w.rows.defaults));
	int r = sorted && w.rows.defaults ? 0 : cs_error_set(e, -ENOMEM, "out of memory");
	if (r == 0 && nlocals) {
		memcpy(sorted, locals, nlocals * sizeof(*sorted));
		r = add_locals(&w, sorted, nlocals);
	}
	free(sorted);
	if (r < 0) {
		cs_rows_fini(&w.rows);
		return r;
	}
	*ret = w.rows;
	return 0;
}

/* --- rows whose remote is new --- */

/* What a group's rules say about one of the added ones. */
struct pair {
	uint32_t remote; /* index */
	uint32_t rules[2];
};
struct group_rows {
	bool made;
	struct pair *pairs;
	size_t n;
};
/* Which of the added ones a rule names. */
struct named {
	uint32_t *at; /* indices into c->added */
	size_t n;
};

/* Those of the set that were added: both are ascending, and what was added is mostly at the end. */
static int note_named(const struct cs_compiled *c, const struct cs_set *set, struct named *ret)
{
	size_t k = c->nadded, i = set->n;
	while (k > 0 && i > 0) {
		if (set->v[i - 1] > c->added[k - 1]) {
			i--;
		} else if (set->v[i - 1] < c->added[k - 1]) {
			k--;
		} else {
			uint32_t *grown = realloc(ret->at, (ret->n + 1) * sizeof(*grown));
			if (!grown)
				return -ENOMEM;
			ret->at = grown;
			ret->at[ret->n++] = (uint32_t)--k;
			i--;
		}
	}
	return 0;
}

/* One per rule; NULL: out of memory. *any: some rule names one. */
static struct named *named_by_rules(const struct cs_compiled *c, bool *any)
{
	struct named *named = calloc(c->nrules + 1, sizeof(*named));
	int r = named ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < c->nrules; i++) {
		for (size_t k = 0; r == 0 && k < c->rules[i].nsets; k++)
			r = note_named(c, c->rules[i].sets[k], &named[i]);
		*any |= named[i].n > 0;
	}
	if (r == 0)
		return named;
	for (size_t i = 0; named && i < c->nrules; i++)
		free(named[i].at);
	free(named);
	return NULL;
}

/* picked is by added one and direction, all CS_NONE between calls. */
static int make_group_rows(const struct cs_compiled *c, const struct cs_group *g, const struct named *named,
	uint32_t (*picked)[2], struct cs_picks *light, struct group_rows *ret)
{
	ret->made = true;
	*light = (struct cs_picks){.c = c, .endpoints = {CS_NONE, CS_NONE}, .selects = {CS_NONE, CS_NONE}};
	for (size_t i = 0; i < g->nspecs; i++) {
		const struct cs_compiled_spec *s = &c->specs[g->specs[i]];
		for (int dir = 0; dir < 2; dir++)
			if (s->spec->selects[dir] && light->selects[dir] == CS_NONE)
				light->selects[dir] = g->specs[i];
		for (uint32_t k = s->first_rule; k < s->first_rule + s->nrules; k++) {
			enum cs_policy_dir dir = c->rules[k].rule->dir;
			if (c->rules[k].endpoints)
				light->endpoints[dir] = cs_stronger(c, light->endpoints[dir], k);
			for (size_t m = 0; m < named[k].n; m++)
				picked[named[k].at[m]][dir] = cs_stronger(c, picked[named[k].at[m]][dir], k);
		}
	}
	ret->pairs = malloc((c->nadded + 1) * sizeof(*ret->pairs));
	for (size_t i = 0; i < c->nadded; i++) {
		bool is = picked[i][0] != CS_NONE || picked[i][1] != CS_NONE;
		if (is && ret->pairs)
			ret->pairs[ret->n++] =
				(struct pair){.remote = c->added[i], .rules = {picked[i][0], picked[i][1]}};
		picked[i][0] = picked[i][1] = CS_NONE;
	}
	return ret->pairs ? 0 : -ENOMEM;
}

static int add_pairs(
	struct writer *w, const struct cs_compiled *c, const struct cs_picks *light, const struct group_rows *g)
{
	for (size_t i = 0; i < g->n; i++) {
		struct cs_decision verdict[2];
		for (int hook = 0; hook < 2; hook++) {
			enum cs_policy_dir dir = dir_at[hook];
			verdict[hook] = cs_decide(light, dir, g->pairs[i].rules[dir], light->endpoints[dir]);
		}
		cs_join(verdict);
		int r = add_row(w, c->ids[g->pairs[i].remote], verdict);
		if (r < 0)
			return r;
	}
	return 0;
}

static int add_locals_of_groups(
	struct writer *w, const struct cs_compiled *c, const uint32_t *locals, size_t n, const struct named *named)
{
	struct group_rows *groups = calloc(c->ngroups + 1, sizeof(*groups));
	struct cs_picks *light = calloc(c->ngroups + 1, sizeof(*light));
	uint32_t(*picked)[2] = malloc((c->nadded + 1) * sizeof(*picked));
	int r = groups && light && picked ? 0 : -ENOMEM;
	if (r == 0)
		memset(picked, 0xff, (c->nadded + 1) * sizeof(*picked));
	for (size_t i = 0; r == 0 && i < n; i++) {
		const uint32_t *at = bsearch(&locals[i], c->ids, c->nids, sizeof(*c->ids), by_number);
		if (!at)
			continue;
		uint32_t g = c->group_of[at - c->ids];
		if (!groups[g].made)
			r = make_group_rows(c, &c->groups[g], named, picked, &light[g], &groups[g]);
		w->local = locals[i];
		if (r == 0)
			r = add_pairs(w, c, &light[g], &groups[g]);
	}
	for (size_t i = 0; groups && i < c->ngroups; i++)
		free(groups[i].pairs);
	free(groups);
	free(light);
	free(picked);
	return r;
}

bool cs_compiled_added_any(const struct cs_compiled *c)
{
	for (size_t i = 0; i < c->nrules; i++)
		for (size_t k = 0; k < c->rules[i].nsets; k++) {
			struct named named = {0};
			bool any = note_named(c, c->rules[i].sets[k], &named) < 0 || named.n > 0;
			free(named.at);
			if (any)
				return true;
		}
	return false;
}

int cs_compiled_added_rows(
	struct cs_compiled *c, const uint32_t *locals, size_t nlocals, struct cs_rows *ret, struct cs_error *e)
{
	struct writer w = {.e = e};
	bool any = false;
	struct named *named = named_by_rules(c, &any);
	if (!named)
		return cs_error_set(e, -ENOMEM, "out of memory");
	int r = any ? add_locals_of_groups(&w, c, locals, nlocals, named) : 0;
	for (size_t i = 0; i < c->nrules; i++)
		free(named[i].at);
	free(named);
	if (r < 0) {
		cs_rows_fini(&w.rows);
		return r == -ENOMEM ? cs_error_set(e, r, "out of memory") : r;
	}
	*ret = w.rows;
	return 0;
}
