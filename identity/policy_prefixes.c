/* CIDR identities: every prefix that a policy names, `except` included, has a number of its own. The datapath finds
 * the longest prefix, so a rule for 10.0.0.0/8 must also name what lies inside it. */
#include "policy_compiled.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NUMBER_MAX 0xffffff

static int by_prefix(const void *a, const void *b)
{
	const struct cs_prefix_identity *x = a, *y = b;
	return cs_prefix_cmp(&x->prefix, &y->prefix);
}

static int by_number(const void *a, const void *b)
{
	const struct cs_prefix_identity *x = a, *y = b;
	return (x->id > y->id) - (x->id < y->id);
}

static size_t count_prefixes(const struct cs_cnp_set *policies)
{
	size_t n = 0;
	for (size_t i = 0; i < policies->n; i++)
		for (size_t j = 0; j < policies->items[i]->nspecs; j++) {
			const struct cs_spec *s = &policies->items[i]->specs[j];
			for (size_t k = 0; k < s->nrules; k++)
				for (size_t m = 0; m < s->rules[k].ncidrs; m++)
					n += 1 + s->rules[k].cidrs[m].nexcept;
		}
	return n;
}

static void collect_rule(struct cs_compiled *c, const struct cs_rule *rule)
{
	for (size_t i = 0; i < rule->ncidrs; i++) {
		c->prefixes[c->nprefixes++].prefix = rule->cidrs[i].prefix;
		for (size_t j = 0; j < rule->cidrs[i].nexcept; j++)
			c->prefixes[c->nprefixes++].prefix = rule->cidrs[i].except[j];
	}
}

static int collect(struct cs_compiled *c, const struct cs_cnp_set *policies, struct cs_error *e)
{
	c->prefixes = calloc(count_prefixes(policies) + 1, sizeof(*c->prefixes));
	if (!c->prefixes)
		return cs_error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < policies->n; i++)
		for (size_t j = 0; j < policies->items[i]->nspecs; j++)
			for (size_t k = 0; k < policies->items[i]->specs[j].nrules; k++)
				collect_rule(c, &policies->items[i]->specs[j].rules[k]);
	qsort(c->prefixes, c->nprefixes, sizeof(*c->prefixes), by_prefix);
	size_t kept = 0;
	for (size_t i = 0; i < c->nprefixes; i++)
		if (kept == 0 || by_prefix(&c->prefixes[i], &c->prefixes[kept - 1]) != 0)
			c->prefixes[kept++] = c->prefixes[i];
	c->nprefixes = kept;
	if (kept > CS_PREFIX_IDENTITIES_MAX)
		return cs_error_set(e, -E2BIG, "policies name %zu different CIDRs, more than %d", kept,
			(int)CS_PREFIX_IDENTITIES_MAX);
	return 0;
}

/* known is sorted by number. */
static int check_known(const struct cs_prefix_identity *known, size_t n, struct cs_error *e)
{
	for (size_t i = 0; i < n; i++) {
		uint32_t id = known[i].id;
		if (id <= CS_ID_LOCAL_SCOPE || id > CS_ID_LOCAL_SCOPE + NUMBER_MAX)
			return cs_error_set(e, -ERANGE, "%u is not the number of a CIDR identity", id);
		if (i > 0 && id == known[i - 1].id)
			return cs_error_set(e, -EEXIST, "CIDR identity %u is given twice", id);
	}
	return 0;
}

/* New numbers go up from the highest, so that one that was let go is not soon somebody else's; then the gaps. */
static int number_new(struct cs_compiled *c, const struct cs_prefix_identity *known, size_t n, struct cs_error *e)
{
	uint32_t next = n ? known[n - 1].id + 1 : CS_ID_LOCAL_SCOPE + 1, gap = CS_ID_LOCAL_SCOPE + 1;
	size_t at = 0;
	for (size_t i = 0; i < c->nprefixes; i++) {
		if (c->prefixes[i].id)
			continue;
		if (next <= CS_ID_LOCAL_SCOPE + NUMBER_MAX) {
			c->prefixes[i].id = next++;
			continue;
		}
		while (at < n && known[at].id == gap) {
			at++;
			gap++;
		}
		if (gap > CS_ID_LOCAL_SCOPE + NUMBER_MAX)
			return cs_error_set(e, -ENOSPC, "all %d CIDR identities are given", NUMBER_MAX);
		c->prefixes[i].id = gap++;
	}
	return 0;
}

static int take_known(struct cs_compiled *c, struct cs_prefix_identity *known, size_t n, struct cs_error *e)
{
	qsort(known, n, sizeof(*known), by_prefix);
	for (size_t i = 0, j = 0; i < n; i++) {
		if (i > 0 && by_prefix(&known[i], &known[i - 1]) == 0) {
			char text[CS_PREFIX_TEXT];
			cs_prefix_format(&known[i].prefix, text);
			return cs_error_set(e, -EEXIST, "CIDR %s has two numbers", text);
		}
		while (j < c->nprefixes && by_prefix(&c->prefixes[j], &known[i]) < 0)
			j++;
		if (j < c->nprefixes && by_prefix(&c->prefixes[j], &known[i]) == 0)
			c->prefixes[j].id = known[i].id;
	}
	qsort(known, n, sizeof(*known), by_number);
	return check_known(known, n, e);
}

int cs_number_prefixes(struct cs_compiled *c, const struct cs_compile_input *in, struct cs_error *e)
{
	int r = collect(c, in->policies, e);
	if (r < 0)
		return r;
	struct cs_prefix_identity *known = malloc((in->nprefixes + 1) * sizeof(*known));
	if (!known)
		return cs_error_set(e, -ENOMEM, "out of memory");
	if (in->nprefixes)
		memcpy(known, in->prefixes, in->nprefixes * sizeof(*known));
	r = take_known(c, known, in->nprefixes, e);
	if (r == 0)
		r = number_new(c, known, in->nprefixes, e);
	free(known);
	return r;
}

static bool is_excepted(const struct cs_cidr *cidr, const struct cs_prefix *p)
{
	for (size_t i = 0; i < cidr->nexcept; i++)
		if (cs_prefix_contains(&cidr->except[i], p))
			return true;
	return false;
}

/* In the order of cs_prefix_cmp what lies inside a prefix follows it without a gap. */
static size_t first_inside(const struct cs_compiled *c, const struct cs_prefix *p)
{
	size_t low = 0, high = c->nprefixes;
	while (low < high) {
		size_t mid = (low + high) / 2;
		if (cs_prefix_cmp(&c->prefixes[mid].prefix, p) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

int cs_prefixes_of_rule(const struct cs_compiled *c, const struct cs_rule *rule, struct cs_set *ret)
{
	bool *in = calloc(c->nprefixes + 1, sizeof(*in));
	ret->v = malloc((c->nprefixes + 1) * sizeof(*ret->v));
	if (!in || !ret->v) {
		free(in);
		return -ENOMEM;
	}
	for (size_t i = 0; i < rule->ncidrs; i++) {
		const struct cs_cidr *cidr = &rule->cidrs[i];
		for (size_t j = first_inside(c, &cidr->prefix);
			j < c->nprefixes && cs_prefix_contains(&cidr->prefix, &c->prefixes[j].prefix); j++)
			in[j] |= !is_excepted(cidr, &c->prefixes[j].prefix);
	}
	for (uint32_t j = 0; j < c->nprefixes; j++)
		if (in[j])
			ret->v[ret->n++] = j;
	free(in);
	return 0;
}
