/* Rows and defaults of the identities of one node. */
#include "policy_compiled.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The policy's words for what the endpoint does at each hook. */
static const enum cs_policy_dir dir_at[] = {[CS_FROM] = CS_EGRESS, [CS_TO] = CS_INGRESS};

struct writer {
	struct cs_picks picks;
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
		verdict[hook] = cs_decide(&w->picks, dir, picked[dir], CS_NONE);
		needed |= picked[dir] != CS_NONE || verdict[hook].verdict != d->verdict[hook][CS_PEER_OTHER].verdict;
	}
	return needed ? add_row(w, remote, verdict) : 0;
}

static int add_endpoints(struct writer *w)
{
	struct cs_picks *p = &w->picks;
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
	struct cs_picks *p = &w->picks;
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
	const struct cs_compiled *c = w->picks.c;
	cs_picks_fill(&w->picks, &c->groups[c->group_of[index]]);
	w->local = c->ids[index];
	struct cs_policy_default d = make_default(&w->picks, w->local);
	w->rows.defaults[w->rows.ndefaults++] = d;
	int r = add_reserved(w, CS_ID_HOST, w->picks.host, &d);
	if (r == 0)
		r = add_reserved(w, CS_ID_REMOTE_NODE, w->picks.remote_node, &d);
	if (r == 0)
		r = add_endpoints(w);
	return r == 0 ? add_prefixes(w) : r;
}

static int add_locals(struct writer *w, uint32_t *locals, size_t n)
{
	const struct cs_compiled *c = w->picks.c;
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

int cs_compiled_rows(
	const struct cs_compiled *c, const uint32_t *locals, size_t nlocals, struct cs_rows *ret, struct cs_error *e)
{
	struct writer w = {.e = e};
	if (cs_picks_init(&w.picks, c) < 0)
		return cs_error_set(e, -ENOMEM, "out of memory");
	uint32_t *sorted = malloc((nlocals + 1) * sizeof(*sorted));
	w.rows.defaults = malloc((nlocals + 1) * sizeof(*w.rows.defaults));
	int r = sorted && w.rows.defaults ? 0 : cs_error_set(e, -ENOMEM, "out of memory");
	if (r == 0 && nlocals) {
		memcpy(sorted, locals, nlocals * sizeof(*sorted));
		r = add_locals(&w, sorted, nlocals);
	}
	free(sorted);
	cs_picks_fini(&w.picks);
	if (r < 0) {
		cs_rows_fini(&w.rows);
		return r;
	}
	*ret = w.rows;
	return 0;
}
