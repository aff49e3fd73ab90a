#include "policy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void selector_fini(struct cs_selector *s)
{
	for (size_t i = 0; i < s->n; i++) {
		struct cs_requirement *r = &s->reqs[i];
		for (size_t j = 0; j < r->nvalues; j++)
			free(r->values[j]);
		free(r->values);
		free(r->key);
	}
	free(s->reqs);
}

static void rule_fini(struct cs_rule *r)
{
	for (size_t i = 0; i < r->nselectors; i++)
		selector_fini(&r->selectors[i]);
	for (size_t i = 0; i < r->ncidrs; i++)
		free(r->cidrs[i].except);
	free(r->selectors);
	free(r->cidrs);
	free(r->ports);
	free(r->name);
}

void cs_cnp_free(struct cs_cnp *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->nspecs; i++) {
		struct cs_spec *s = &p->specs[i];
		for (size_t j = 0; j < s->nrules; j++)
			rule_fini(&s->rules[j]);
		free(s->rules);
		selector_fini(&s->subject);
	}
	free(p->specs);
	free(p->name);
	free(p->file);
	free(p);
}

void cs_cnp_set_fini(struct cs_cnp_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		cs_cnp_free(set->items[i]);
	free(set->items);
	*set = (struct cs_cnp_set){0};
}

/* Index of the first item whose name is not less. */
static size_t lower_bound(const struct cs_cnp_set *set, const char *name)
{
	size_t low = 0, high = set->n;
	while (low < high) {
		size_t mid = (low + high) / 2;
		if (strcmp(set->items[mid]->name, name) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

const struct cs_cnp *cs_cnp_set_get(const struct cs_cnp_set *set, const char *name)
{
	size_t at = lower_bound(set, name);
	return at < set->n && strcmp(set->items[at]->name, name) == 0 ? set->items[at] : NULL;
}

static int check_new(const struct cs_cnp_set *set, const struct cs_cnp *p, struct cs_error *e)
{
	const struct cs_cnp *there = cs_cnp_set_get(set, p->name);
	if (!there)
		return 0;
	return cs_error_set(e, -EEXIST, "%s:%u: policy '%s' is already in %s:%u; rename one", p->file, p->line, p->name,
		there->file, there->line);
}

static int make_room(struct cs_cnp_set *set, size_t more, struct cs_error *e)
{
	struct cs_cnp **grown = realloc(set->items, (set->n + more + 1) * sizeof(struct cs_cnp *));
	if (!grown)
		return cs_error_set(e, -ENOMEM, "out of memory");
	set->items = grown;
	return 0;
}

static void insert(struct cs_cnp_set *set, struct cs_cnp *p)
{
	size_t at = lower_bound(set, p->name);
	memmove(set->items + at + 1, set->items + at, (set->n - at) * sizeof(struct cs_cnp *));
	set->items[at] = p;
	set->n++;
}

int cs_cnp_set_add_take(struct cs_cnp_set *set, struct cs_cnp *p, struct cs_error *e)
{
	int r = check_new(set, p, e);
	if (r == 0)
		r = make_room(set, 1, e);
	if (r == 0)
		insert(set, p);
	else
		cs_cnp_free(p);
	return r;
}

int cs_cnp_set_merge(struct cs_cnp_set *to, struct cs_cnp_set *from, struct cs_error *e)
{
	int r = make_room(to, from->n, e);
	for (size_t i = 0; r == 0 && i < from->n; i++)
		r = check_new(to, from->items[i], e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < from->n; i++)
		insert(to, from->items[i]);
	from->n = 0;
	return 0;
}

static bool has_value(const struct cs_requirement *r, const char *value)
{
	size_t low = 0, high = r->nvalues;
	while (low < high) {
		size_t mid = (low + high) / 2;
		int order = strcmp(r->values[mid], value);
		if (order == 0)
			return true;
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

/* The value that a requirement looks at, or NULL when the label is not there. */
static const char *value_of(const struct cs_requirement *r, const struct cs_labels *labels)
{
	const struct cs_label *l = cs_labels_get(labels, r->key);
	if (l)
		return !r->source || r->source == l->source ? l->value : NULL;
	if (strcmp(r->key, CS_LABEL_NAMESPACE) == 0 && (!r->source || strcmp(r->source, "k8s") == 0))
		return CS_LABEL_NAMESPACE_DEFAULT;
	return NULL;
}

static bool requirement_holds(const struct cs_requirement *r, const struct cs_labels *labels)
{
	const char *value = value_of(r, labels);
	switch (r->op) {
	case CS_SEL_IN:
		return value && has_value(r, value);
	case CS_SEL_NOT_IN: /* as in Kubernetes: also where the label is not there */
		return !value || !has_value(r, value);
	case CS_SEL_EXISTS:
		return value;
	case CS_SEL_NOT_EXISTS:
		return !value;
	}
	return false;
}

bool cs_selector_match(const struct cs_selector *s, const struct cs_labels *labels)
{
	for (size_t i = 0; i < s->n; i++)
		if (!requirement_holds(&s->reqs[i], labels))
			return false;
	return true;
}

int cs_requirement_cmp(const struct cs_requirement *a, const struct cs_requirement *b)
{
	int order = strcmp(a->key, b->key);
	if (order == 0)
		order = strcmp(a->source ? a->source : "", b->source ? b->source : "");
	if (order == 0)
		order = (int)a->op - (int)b->op;
	for (size_t i = 0; order == 0 && i < a->nvalues && i < b->nvalues; i++)
		order = strcmp(a->values[i], b->values[i]);
	if (order == 0)
		order = (a->nvalues > b->nvalues) - (a->nvalues < b->nvalues);
	return order;
}

int cs_selector_cmp(const struct cs_selector *a, const struct cs_selector *b)
{
	for (size_t i = 0; i < a->n && i < b->n; i++) {
		int order = cs_requirement_cmp(&a->reqs[i], &b->reqs[i]);
		if (order != 0)
			return order;
	}
	return (a->n > b->n) - (a->n < b->n);
}

static void put_requirement(FILE *out, const struct cs_requirement *r)
{
	static const char *const ops[] = {[CS_SEL_IN] = " in (", [CS_SEL_NOT_IN] = " not in ("};
	const char *source = r->source ? r->source : "", *colon = r->source ? ":" : "";
	if (r->op == CS_SEL_EXISTS || r->op == CS_SEL_NOT_EXISTS) {
		fprintf(out, "%s%s%s%s", r->op == CS_SEL_NOT_EXISTS ? "!" : "", source, colon, r->key);
		return;
	}
	fprintf(out, "%s%s%s", source, colon, r->key);
	if (r->op == CS_SEL_IN && r->nvalues == 1) {
		fprintf(out, "=%s", r->values[0]);
		return;
	}
	fputs(ops[r->op], out);
	for (size_t i = 0; i < r->nvalues; i++)
		fprintf(out, "%s%s", i ? ", " : "", r->values[i]);
	fputc(')', out);
}

void cs_selector_format(const struct cs_selector *s, char *out, size_t size)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);
	if (f) {
		if (s->n == 0)
			fputs("everything", f);
		for (size_t i = 0; i < s->n; i++) {
			fputs(i ? ", " : "", f);
			put_requirement(f, &s->reqs[i]);
		}
		fclose(f);
	}
	snprintf(out, size, "%s", text ? text : "");
	if (n >= size && size > 3)
		memcpy(out + size - 4, "...", 4);
	free(text);
}

int cs_prefix_cmp(const struct cs_prefix *a, const struct cs_prefix *b)
{
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	int order = memcmp(a->addr, b->addr, sizeof(a->addr));
	return order != 0 ? order : (int)a->bits - (int)b->bits;
}

/* Zeroes what comes after `bits`; true if something was there. */
static bool mask(struct cs_prefix *p)
{
	bool any = false;
	for (unsigned i = 0; i < sizeof(p->addr); i++) {
		unsigned keep = p->bits > i * 8 ? p->bits - i * 8 : 0;
		uint8_t m = keep >= 8 ? 0xff : (uint8_t)(0xff00 >> keep);
		any |= (p->addr[i] & (uint8_t)~m) != 0;
		p->addr[i] &= m;
	}
	return any;
}

bool cs_prefix_contains(const struct cs_prefix *outer, const struct cs_prefix *inner)
{
	if (outer->family != inner->family || inner->bits < outer->bits)
		return false;
	struct cs_prefix cut = *inner;
	cut.bits = outer->bits;
	mask(&cut);
	return memcmp(cut.addr, outer->addr, sizeof(cut.addr)) == 0;
}

void cs_prefix_format(const struct cs_prefix *p, char out[CS_PREFIX_TEXT])
{
	char addr[INET6_ADDRSTRLEN];
	inet_ntop(p->family == 4 ? AF_INET : AF_INET6, p->addr, addr, sizeof(addr));
	snprintf(out, CS_PREFIX_TEXT, "%s/%u", addr, p->bits);
}

/* Decimal digits, at most max; -1 for anything else. */
static int small_number(const char *text, int max)
{
	int n = 0;
	if (!*text || (text[0] == '0' && text[1]))
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		n = n * 10 + *text - '0';
		if (n > max)
			return -1;
	}
	return n;
}

int cs_prefix_parse(const char *text, struct cs_prefix *ret, struct cs_error *e)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* ::ffff:0:0/96 */
	struct cs_prefix p = {0};
	char addr[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t n = slash ? (size_t)(slash - text) : strlen(text);
	if (n >= sizeof(addr))
		return cs_error_set(e, -EINVAL, "'%.48s' is not a CIDR like 10.0.0.0/8 or 2001:db8::/32", text);
	memcpy(addr, text, n);
	addr[n] = '\0';
	if (inet_pton(AF_INET, addr, p.addr) == 1)
		p.family = 4;
	else if (inet_pton(AF_INET6, addr, p.addr) == 1)
		p.family = 6;
	else
		return cs_error_set(e, -EINVAL, "'%.48s' is not a CIDR like 10.0.0.0/8 or 2001:db8::/32", text);
	int max = p.family == 4 ? 32 : 128, bits = slash ? small_number(slash + 1, max) : max;
	if (bits < 0)
		return cs_error_set(e, -EINVAL, "'%.48s' is not a CIDR: the length must be 0 to %d", text, max);
	p.bits = (uint8_t)bits;
	if (p.family == 6 && bits >= 96 && memcmp(p.addr, mapped, sizeof(mapped)) == 0)
		return cs_error_set(e, -EINVAL, "'%.48s' never stands in a packet; write it as IPv4", text);
	if (mask(&p)) {
		char meant[CS_PREFIX_TEXT];
		cs_prefix_format(&p, meant);
		return cs_error_set(e, -EINVAL, "'%.48s' has bits set after its length; is %s meant?", text, meant);
	}
	*ret = p;
	return 0;
}
