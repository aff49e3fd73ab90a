/* Selectors -> sets of identities. An index by label keeps the cost near the size of the answer: a selector that asks
 * for a value looks only at the identities that have it. */
#include "policy_compiled.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

/* Identities with one label, "key=value". Whatever the source: the index only proposes, the selector decides. */
struct posting {
	char *label;
	uint32_t *v;
	size_t n, room;
	UT_hash_handle hh;
};
#define LABEL_ROOM (CS_LABEL_KEY_MAX + CS_LABEL_VALUE_MAX + 2)

struct index {
	const struct cs_compile_identity *identities; /* by id */
	size_t n;
	struct posting *postings;
};

static struct posting *find_posting(const struct index *x, const char *key, const char *value)
{
	char label[LABEL_ROOM];
	struct posting *p;
	snprintf(label, sizeof(label), "%s=%s", key, value);
	HASH_FIND_STR(x->postings, label, p);
	return p;
}

static struct posting *make_posting(struct index *x, const char *key, const char *value)
{
	struct posting *p = calloc(1, sizeof(*p));
	if (!p || asprintf(&p->label, "%s=%s", key, value) < 0) {
		free(p);
		return NULL;
	}
	HASH_ADD_KEYPTR(hh, x->postings, p->label, strlen(p->label), p);
	if (!p->hh.tbl) {
		free(p->label);
		free(p);
		return NULL;
	}
	return p;
}

static int post(struct index *x, const char *key, const char *value, uint32_t identity)
{
	struct posting *p = find_posting(x, key, value);
	if (!p && !(p = make_posting(x, key, value)))
		return -ENOMEM;
	if (p->n == p->room) {
		size_t room = p->room ? p->room * 2 : 4;
		uint32_t *grown = realloc(p->v, room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		p->v = grown;
		p->room = room;
	}
	p->v[p->n++] = identity;
	return 0;
}

static int make_index(struct index *x)
{
	for (uint32_t i = 0; i < x->n; i++) {
		const struct cs_labels *l = x->identities[i].labels;
		int r = 0;
		for (size_t j = 0; r == 0 && j < l->n; j++)
			r = post(x, l->items[j].key, l->items[j].value, i);
		if (r == 0 && !cs_labels_get(l, CS_LABEL_NAMESPACE))
			r = post(x, CS_LABEL_NAMESPACE, CS_LABEL_NAMESPACE_DEFAULT, i);
		if (r < 0)
			return r;
	}
	return 0;
}

static void free_index(struct index *x)
{
	struct posting *p, *next;
	HASH_ITER (hh, x->postings, p, next) {
		HASH_DEL(x->postings, p);
		free(p->label);
		free(p->v);
		free(p);
	}
}

static size_t candidates(const struct index *x, const struct cs_requirement *q)
{
	size_t n = 0;
	for (size_t i = 0; i < q->nvalues; i++) {
		const struct posting *p = find_posting(x, q->key, q->values[i]);
		n += p ? p->n : 0;
	}
	return n;
}

/* The requirement that leaves the fewest identities to look at, or NULL: all. *n: how many. */
static const struct cs_requirement *cheapest(const struct index *x, const struct cs_selector *s, size_t *n)
{
	const struct cs_requirement *best = NULL;
	*n = x->n;
	for (size_t i = 0; i < s->n; i++) {
		if (s->reqs[i].op != CS_SEL_IN)
			continue;
		size_t one = candidates(x, &s->reqs[i]);
		if (one < *n || !best) {
			*n = one;
			best = &s->reqs[i];
		}
	}
	return best;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void add_if_match(const struct index *x, const struct cs_selector *s, uint32_t i, struct cs_set *set)
{
	if (cs_selector_match(s, x->identities[i].labels))
		set->v[set->n++] = i;
}

static int evaluate(const struct index *x, const struct cs_selector *s, struct cs_set *ret)
{
	size_t n;
	const struct cs_requirement *q = cheapest(x, s, &n);
	ret->v = malloc((n + 1) * sizeof(*ret->v));
	if (!ret->v)
		return -ENOMEM;
	for (uint32_t i = 0; !q && i < x->n; i++)
		add_if_match(x, s, i, ret);
	/* A key has one value, so the lists of several values have nothing in common. */
	for (size_t i = 0; q && i < q->nvalues; i++) {
		const struct posting *p = find_posting(x, q->key, q->values[i]);
		for (size_t j = 0; p && j < p->n; j++)
			add_if_match(x, s, p->v[j], ret);
	}
	if (q && q->nvalues > 1)
		qsort(ret->v, ret->n, sizeof(*ret->v), by_number);
	uint32_t *fit = realloc(ret->v, (ret->n + 1) * sizeof(*fit));
	ret->v = fit ? fit : ret->v;
	ret->room = fit ? ret->n + 1 : n + 1;
	return 0;
}

static int by_selector(const void *a, const void *b)
{
	const struct cs_resolved *x = a, *y = b;
	return cs_selector_cmp(x->selector, y->selector);
}

/* Every selector of every policy, each once. */
static int collect(struct cs_compiled *c, const struct cs_cnp_set *policies)
{
	size_t n = 0;
	for (size_t pass = 0; pass < 2; pass++) {
		if (pass == 1 && !(c->resolved = calloc(n + 1, sizeof(*c->resolved))))
			return -ENOMEM;
		n = 0;
		for (size_t i = 0; i < policies->n; i++)
			for (size_t j = 0; j < policies->items[i]->nspecs; j++) {
				const struct cs_spec *s = &policies->items[i]->specs[j];
				if (pass == 1)
					c->resolved[n].selector = &s->subject;
				n++;
				for (size_t k = 0; k < s->nrules; k++)
					for (size_t m = 0; m < s->rules[k].nselectors; m++, n++)
						if (pass == 1)
							c->resolved[n].selector = &s->rules[k].selectors[m];
			}
	}
	qsort(c->resolved, n, sizeof(*c->resolved), by_selector);
	for (size_t i = 0; i < n; i++)
		if (c->nresolved == 0 || by_selector(&c->resolved[i], &c->resolved[c->nresolved - 1]) != 0)
			c->resolved[c->nresolved++] = c->resolved[i];
	return 0;
}

const struct cs_set *cs_resolved_set(const struct cs_compiled *c, const struct cs_selector *s)
{
	struct cs_resolved key = {.selector = s};
	const struct cs_resolved *found = bsearch(&key, c->resolved, c->nresolved, sizeof(key), by_selector);
	return &found->set; /* collect() saw every selector */
}

static int by_id(const void *a, const void *b)
{
	const struct cs_compile_identity *x = a, *y = b;
	return (x->id > y->id) - (x->id < y->id);
}

static int sort_identities(struct cs_compiled *c, const struct cs_compile_input *in, struct cs_compile_identity *sorted,
	struct cs_error *e)
{
	if (in->nidentities)
		memcpy(sorted, in->identities, in->nidentities * sizeof(*sorted));
	qsort(sorted, in->nidentities, sizeof(*sorted), by_id);
	c->ids_room = in->nidentities + 1;
	c->ids = malloc(c->ids_room * sizeof(*c->ids));
	if (!c->ids)
		return cs_error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < in->nidentities; i++) {
		uint32_t id = sorted[i].id;
		if (id < CS_ID_FIRST_AUTH || id >= CS_ID_LOCAL_SCOPE)
			return cs_error_set(e, -ERANGE, "identity %u is not one of a workload (%u to %u)", id,
				(unsigned)CS_ID_FIRST_AUTH, (unsigned)CS_ID_LOCAL_SCOPE - 1);
		if (i > 0 && id == c->ids[i - 1])
			return cs_error_set(e, -EEXIST, "identity %u is there twice", id);
		c->ids[c->nids++] = id;
	}
	return 0;
}

int cs_resolve(struct cs_compiled *c, const struct cs_compile_input *in, struct cs_error *e)
{
	struct cs_compile_identity *sorted = malloc((in->nidentities + 1) * sizeof(*sorted));
	if (!sorted)
		return cs_error_set(e, -ENOMEM, "out of memory");
	int r = sort_identities(c, in, sorted, e);
	if (r < 0) {
		free(sorted);
		return r;
	}
	struct index x = {.identities = sorted, .n = in->nidentities};
	r = make_index(&x);
	if (r == 0)
		r = collect(c, in->policies);
	for (size_t i = 0; r == 0 && i < c->nresolved; i++)
		r = evaluate(&x, c->resolved[i].selector, &c->resolved[i].set);
	free_index(&x);
	free(sorted);
	return r < 0 ? cs_error_set(e, r, "out of memory") : 0;
}
