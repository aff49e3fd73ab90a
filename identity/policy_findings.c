/* What the compiler has to say about rules that mean something else than a reader would think. */
#include "policy_compiled.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "labels_filter.h"

static const char *const kind_names[] = {
	[CS_FINDING_WIDER] = "wider-than-written",
	[CS_FINDING_ASKS_MORE] = "asks-more-than-written",
	[CS_FINDING_NEVER] = "never-authenticates",
	[CS_FINDING_NOT_SERVICES] = "not-enforceable-through-services",
	[CS_FINDING_NO_LABEL] = "label-in-no-identity",
	[CS_FINDING_DEPENDS] = "hits-depends-on",
};

struct finder {
	struct cs_compiled *c;
	const struct cs_compile_input *in;
	bool *asks_more; /* by rule */
	bool *seen;      /* by group */
	uint8_t *covers; /* by rule: 0 not looked at, 1 no, 2 yes */
	size_t room;
};

const char *cs_finding_kind_name(enum cs_finding_kind kind)
{
	return kind_names[kind];
}

static int add(struct finder *f, const struct cs_compiled_rule *r, enum cs_finding_kind kind, char *text)
{
	struct cs_compiled *c = f->c;
	if (text && c->nfindings == f->room) {
		size_t room = f->room ? f->room * 2 : 16;
		struct cs_finding *grown = realloc(c->findings, room * sizeof(*grown));
		if (grown) {
			c->findings = grown;
			f->room = room;
		}
	}
	if (!text || c->nfindings == f->room) {
		free(text);
		return -ENOMEM;
	}
	c->findings[c->nfindings++] =
		(struct cs_finding){.kind = kind, .policy = r->policy, .rule = r->rule, .text = text};
	return 0;
}

CS_PRINTF(1, 2) static char *words(const char *fmt, ...)
{
	char *text = NULL;
	va_list args;
	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	va_end(args);
	return text;
}

static int find_wider(struct finder *f, const struct cs_compiled_rule *r)
{
	static const char *const more[] = {[CS_DENY] = "more is denied than written",
		[CS_REQUIRE] = "whoever authenticates gets more than written",
		[CS_PASS] = "more passes than written"};
	if (!r->rule->ports)
		return 0;
	return add(f, r, CS_FINDING_WIDER,
		words("ports are not looked at (%s): the rule holds for all traffic with these peers, so %s",
			r->rule->ports, more[r->verdict]));
}

static const char *name_of_dir(enum cs_policy_dir dir)
{
	return dir == CS_INGRESS ? "ingress" : "egress";
}

static int find_asks_more(struct finder *f, const struct cs_compiled_rule *r)
{
	if (!f->asks_more[r - f->c->rules])
		return 0;
	return add(f, r, CS_FINDING_ASKS_MORE,
		words("%s with these peers would pass, but is required to be authenticated too: what is authenticated "
		      "is a pair, and a reply is a packet like any other",
			name_of_dir(!r->rule->dir)));
}

static int find_never(struct finder *f, const struct cs_compiled_rule *r)
{
	static const struct {
		unsigned entity;
		const char *name;
	} others[] = {{CS_ENTITY_HOST, "host"}, {CS_ENTITY_REMOTE_NODE, "remote-node"}, {CS_ENTITY_WORLD, "world"}};
	char peers[64] = "";
	if (r->rule->auth == CS_AUTH_ALWAYS_FAIL)
		return add(f, r, CS_FINDING_NEVER, words("test-always-fail: no peer passes, as if denied"));
	if (r->verdict != CS_REQUIRE)
		return 0;
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (r->rule->entities & others[i].entity)
			snprintf(peers + strlen(peers), sizeof(peers) - strlen(peers), "%s%s", *peers ? ", " : "",
				others[i].name);
	if (r->rule->ncidrs)
		snprintf(peers + strlen(peers), sizeof(peers) - strlen(peers), "%sCIDRs", *peers ? ", " : "");
	if (!*peers)
		return 0;
	return add(f, r, CS_FINDING_NEVER,
		words("%s cannot authenticate, so requiring it refuses them; allow them in a rule of their own without "
		      "authentication, or leave them out",
			peers));
}

static bool has_all(const struct cs_set *outer, const struct cs_set *inner)
{
	size_t at = 0;
	if (inner->n > outer->n)
		return false;
	for (size_t i = 0; i < inner->n; i++) {
		while (at < outer->n && outer->v[at] < inner->v[i])
			at++;
		if (at == outer->n || outer->v[at] != inner->v[i])
			return false;
	}
	return true;
}

static bool covers(struct finder *f, uint32_t index, const struct cs_set *subjects)
{
	const struct cs_compiled_rule *r = &f->c->rules[index];
	if (r->rule->dir != CS_INGRESS || r->verdict != CS_REQUIRE)
		return false;
	if (!f->covers[index]) {
		f->covers[index] = r->endpoints ? 2 : 1;
		for (size_t i = 0; i < r->nsets; i++)
			if (has_all(r->sets[i], subjects))
				f->covers[index] = 2;
	}
	return f->covers[index] == 2;
}

/* Does some rule of the group require authentication of all subjects at ingress? */
static bool group_covers(struct finder *f, const struct cs_group *g, const struct cs_set *subjects)
{
	for (size_t i = 0; i < g->nspecs; i++) {
		const struct cs_compiled_spec *s = &f->c->specs[g->specs[i]];
		for (uint32_t j = 0; j < s->nrules; j++)
			if (covers(f, s->first_rule + j, subjects))
				return true;
	}
	return false;
}

/* Is every peer's own ingress covered? One group at a time; a peer nobody knows yet is not. */
static bool peers_cover(struct finder *f, const struct cs_compiled_rule *r)
{
	const struct cs_compiled *c = f->c;
	const struct cs_set *subjects = c->specs[r->spec].subjects;
	size_t known = 0;
	memset(f->seen, 0, c->ngroups * sizeof(*f->seen));
	memset(f->covers, 0, c->nrules * sizeof(*f->covers));
	for (uint32_t g = 0; r->endpoints && g < c->ngroups; g++) {
		known += c->groups[g].members;
		if (c->groups[g].members && !group_covers(f, &c->groups[g], subjects))
			return false;
	}
	for (size_t i = 0; i < r->nsets; i++)
		for (size_t j = 0; j < r->sets[i]->n; j++) {
			uint32_t g = c->group_of[r->sets[i]->v[j]];
			known++;
			if (!f->seen[g] && !group_covers(f, &c->groups[g], subjects))
				return false;
			f->seen[g] = true;
		}
	return known > 0;
}

static int find_not_services(struct finder *f, const struct cs_compiled_rule *r)
{
	if (r->rule->dir != CS_EGRESS || r->verdict != CS_REQUIRE || (!r->endpoints && !r->nsets) || peers_cover(f, r))
		return 0;
	return add(f, r, CS_FINDING_NOT_SERVICES,
		words("required at egress only: a Service address has no identity on this side, so traffic through one "
		      "is not covered; require it in an ingress rule of the peers as well"));
}

/* `any:` is whatever source takes it. */
static bool in_some_identity(const struct cs_label_filter *filter, const struct cs_requirement *q)
{
	static const char *const sources[] = {"k8s", "container", "unspec", "reserved"};
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
		const struct cs_label label = {.source = sources[i], .key = q->key, .value = (char *)""};
		if ((!q->source || strcmp(q->source, sources[i]) == 0) && cs_label_filter_takes(filter, &label))
			return true;
	}
	return false;
}

static int find_no_label_in(
	struct finder *f, const struct cs_compiled_rule *r, const struct cs_selector *s, const char *what)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct cs_requirement *q = &s->reqs[i];
		bool positive = q->op == CS_SEL_IN || q->op == CS_SEL_EXISTS;
		if (in_some_identity(f->in->filter, q))
			continue;
		return add(f, r, CS_FINDING_NO_LABEL,
			words("the label %s%s%s is in no identity (labels.filter leaves it out), so %s %s",
				q->source ? q->source : "", q->source ? ":" : "", q->key, what,
				positive ? "mean nobody" : "exclude nobody by it"));
	}
	return 0;
}

static int find_no_label(struct finder *f, const struct cs_compiled_rule *r)
{
	const struct cs_compiled_spec *spec = &f->c->specs[r->spec];
	int result = 0;
	if (!f->in->filter)
		return 0;
	if (r == &f->c->rules[spec->first_rule]) /* said once */
		result = find_no_label_in(f, r, &spec->spec->subject, "the endpoints of the whole spec");
	for (size_t i = 0; result == 0 && i < r->rule->nselectors; i++)
		result = find_no_label_in(f, r, &r->rule->selectors[i], "these peers");
	return result;
}

static bool overlaps(const struct cs_cidr *cidr, const struct cs_prefix *p)
{
	for (size_t i = 0; i < cidr->nexcept; i++)
		if (cs_prefix_contains(&cidr->except[i], p))
			return false;
	return cs_prefix_contains(&cidr->prefix, p) || cs_prefix_contains(p, &cidr->prefix);
}

static const struct cs_prefix *depends_prefix(const struct finder *f, const struct cs_compiled_rule *r)
{
	for (size_t i = 0; i < f->in->ndepends_prefixes; i++) {
		const struct cs_prefix *p = &f->in->depends_prefixes[i];
		if (r->rule->entities & CS_ENTITY_WORLD)
			return p;
		for (size_t j = 0; j < r->rule->ncidrs; j++)
			if (overlaps(&r->rule->cidrs[j], p))
				return p;
	}
	return NULL;
}

static bool set_has(const struct cs_compiled *c, const struct cs_set *s, uint32_t id)
{
	size_t low = 0, high = s->n;
	while (low < high) {
		size_t mid = (low + high) / 2;
		if (c->ids[s->v[mid]] < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < s->n && c->ids[s->v[low]] == id;
}

static uint32_t depends_identity(const struct finder *f, const struct cs_compiled_rule *r)
{
	for (size_t i = 0; i < f->in->ndepends_identities; i++) {
		uint32_t id = f->in->depends_identities[i];
		if (r->endpoints)
			return id;
		for (size_t j = 0; j < r->nsets; j++)
			if (set_has(f->c, r->sets[j], id))
				return id;
	}
	return CS_ID_UNKNOWN;
}

static int find_depends(struct finder *f, const struct cs_compiled_rule *r)
{
	char peer[CS_PREFIX_TEXT + 16];
	if (r->verdict == CS_PASS)
		return 0;
	const struct cs_prefix *p = depends_prefix(f, r);
	uint32_t id = p ? CS_ID_UNKNOWN : depends_identity(f, r);
	if (!p && id == CS_ID_UNKNOWN)
		return 0;
	if (p)
		cs_prefix_format(p, peer);
	else
		snprintf(peer, sizeof(peer), "identity %u", id);
	return add(f, r, CS_FINDING_DEPENDS,
		words("%s is in depends_on, which passes before policy: the rule does nothing there", peer));
}

static uint8_t verdict_of(const struct cs_picks *p, int dir, uint32_t rule)
{
	if (rule != CS_NONE)
		return p->c->rules[rule].verdict;
	return p->selects[dir] == CS_NONE ? CS_PASS : CS_DENY;
}

static void note_join(struct finder *f, const struct cs_picks *p, uint32_t ingress, uint32_t egress)
{
	uint8_t in = verdict_of(p, CS_INGRESS, ingress), out = verdict_of(p, CS_EGRESS, egress);
	if (in == CS_REQUIRE && out == CS_PASS)
		f->asks_more[ingress] = true;
	if (out == CS_REQUIRE && in == CS_PASS)
		f->asks_more[egress] = true;
}

static bool group_requires(const struct cs_compiled *c, const struct cs_group *g)
{
	for (size_t i = 0; i < g->nspecs; i++) {
		const struct cs_compiled_spec *s = &c->specs[g->specs[i]];
		for (uint32_t j = 0; j < s->nrules; j++)
			if (c->rules[s->first_rule + j].verdict == CS_REQUIRE)
				return true;
	}
	return false;
}

/* The same walk as for rows, once per group, to see which requirements spread to the other direction. */
static int note_joins(struct finder *f)
{
	const struct cs_compiled *c = f->c;
	struct cs_picks p;
	int r = cs_picks_init(&p, c);
	for (size_t g = 0; r == 0 && g < c->ngroups; g++) {
		if (!c->groups[g].members || !group_requires(c, &c->groups[g]))
			continue;
		cs_picks_fill(&p, &c->groups[g]);
		note_join(f, &p, p.endpoints[CS_INGRESS], p.endpoints[CS_EGRESS]);
		for (size_t i = 0; i < p.nnamed_ids; i++) {
			uint32_t at = p.named_ids[i];
			note_join(f, &p, cs_stronger(c, p.ids[CS_INGRESS][at], p.endpoints[CS_INGRESS]),
				cs_stronger(c, p.ids[CS_EGRESS][at], p.endpoints[CS_EGRESS]));
		}
	}
	cs_picks_fini(&p);
	return r;
}

int cs_find(struct cs_compiled *c, const struct cs_compile_input *in)
{
	static int (*const finders[])(struct finder *, const struct cs_compiled_rule *) = {
		find_wider, find_asks_more, find_never, find_not_services, find_no_label, find_depends};
	struct finder f = {.c = c, .in = in};
	f.asks_more = calloc(c->nrules + 1, sizeof(*f.asks_more));
	f.covers = calloc(c->nrules + 1, sizeof(*f.covers));
	f.seen = calloc(c->ngroups + 1, sizeof(*f.seen));
	int r = f.asks_more && f.covers && f.seen ? note_joins(&f) : -ENOMEM;
	for (size_t i = 0; r == 0 && i < c->nrules; i++)
		for (size_t k = 0; r == 0 && k < sizeof(finders) / sizeof(finders[0]); k++)
			r = finders[k](&f, &c->rules[i]);
	free(f.asks_more);
	free(f.covers);
	free(f.seen);
	return r;
}
