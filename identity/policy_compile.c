#include "policy_compiled.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint8_t verdict_of(const struct cs_rule *rule)
{
	if (rule->deny || rule->auth == CS_AUTH_ALWAYS_FAIL)
		return CS_DENY;
	return rule->auth == CS_AUTH_REQUIRED ? CS_REQUIRE : CS_PASS;
}

/* A selector that asks for nothing but a namespace, whichever, and finds everybody: one default instead of a row for
 * each identity. Whom it finds is looked at, because a namespace label may come from another source than k8s. */
bool cs_selector_may_mean_everybody(const struct cs_selector *s)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->reqs[i].op != CS_SEL_EXISTS || strcmp(s->reqs[i].key, CS_LABEL_NAMESPACE) != 0)
			return false;
	return true;
}

static bool means_everybody(const struct cs_compiled *c, const struct cs_selector *s, const struct cs_set *set)
{
	return cs_selector_may_mean_everybody(s) && set->n == c->nids;
}

static int compile_rule(struct cs_compiled *c, struct cs_compiled_rule *ret)
{
	const struct cs_rule *rule = ret->rule;
	ret->verdict = verdict_of(rule);
	ret->endpoints = rule->entities & CS_ENTITY_ENDPOINTS;
	ret->sets = malloc((rule->nselectors + 1) * sizeof(struct cs_set *));
	if (!ret->sets)
		return -ENOMEM;
	for (size_t i = 0; i < rule->nselectors; i++) {
		const struct cs_set *set = cs_resolved_set(c, &rule->selectors[i]);
		if (means_everybody(c, &rule->selectors[i], set))
			ret->endpoints = true;
		else
			ret->sets[ret->nsets++] = set;
	}
	return rule->ncidrs ? cs_prefixes_of_rule(c, rule, &ret->prefixes) : 0;
}

static int compile_spec(struct cs_compiled *c, const struct cs_cnp *policy, const struct cs_spec *spec)
{
	struct cs_compiled_spec *s = &c->specs[c->nspecs];
	*s = (struct cs_compiled_spec){.policy = policy,
		.spec = spec,
		.subjects = cs_resolved_set(c, &spec->subject),
		.first_rule = (uint32_t)c->nrules,
		.nrules = (uint32_t)spec->nrules};
	for (size_t i = 0; i < spec->nrules; i++) {
		struct cs_compiled_rule *r = &c->rules[c->nrules++];
		*r = (struct cs_compiled_rule){.policy = policy, .rule = &spec->rules[i], .spec = (uint32_t)c->nspecs};
		int rc = compile_rule(c, r);
		if (rc < 0)
			return rc;
	}
	c->nspecs++;
	return 0;
}

static int compile_specs(struct cs_compiled *c, const struct cs_cnp_set *policies)
{
	size_t nspecs = 0, nrules = 0;
	for (size_t i = 0; i < policies->n; i++)
		for (size_t j = 0; j < policies->items[i]->nspecs; j++, nspecs++)
			nrules += policies->items[i]->specs[j].nrules;
	c->specs = calloc(nspecs + 1, sizeof(*c->specs));
	c->rules = calloc(nrules + 1, sizeof(*c->rules));
	int r = c->specs && c->rules ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < policies->n; i++)
		for (size_t j = 0; r == 0 && j < policies->items[i]->nspecs; j++)
			r = compile_spec(c, policies->items[i], &policies->items[i]->specs[j]);
	return r;
}

struct cs_compiled *cs_policy_compile(const struct cs_compile_input *in, struct cs_error *e)
{
	struct cs_compiled *c = calloc(1, sizeof(*c));
	if (!c) {
		cs_error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	int r = cs_resolve(c, in, e);
	if (r == 0)
		r = cs_number_prefixes(c, in, e);
	if (r == 0) {
		r = compile_specs(c, in->policies);
		if (r == 0)
			r = cs_make_groups(c);
		if (r == 0)
			r = cs_find(c, in);
		if (r < 0)
			cs_error_set(e, r, "out of memory");
	}
	if (r < 0) {
		cs_compiled_free(c);
		return NULL;
	}
	return c;
}

void cs_compiled_free(struct cs_compiled *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->nrules; i++) {
		free(c->rules[i].sets);
		free(c->rules[i].prefixes.v);
	}
	for (size_t i = 0; i < c->ngroups; i++)
		free(c->groups[i].specs);
	for (size_t i = 0; i < c->nresolved; i++)
		free(c->resolved[i].set.v);
	for (size_t i = 0; i < c->nfindings; i++)
		free(c->findings[i].text);
	free(c->rules);
	free(c->specs);
	free(c->groups);
	free(c->group_of);
	free(c->resolved);
	free(c->prefixes);
	free(c->findings);
	free(c->ids);
	free(c->added);
	if (c->picks)
		cs_picks_fini(c->picks);
	free(c->picks);
	free(c);
}

const struct cs_prefix_identity *cs_compiled_prefixes(const struct cs_compiled *c, size_t *n)
{
	*n = c->nprefixes;
	return c->prefixes;
}

const struct cs_finding *cs_compiled_findings(const struct cs_compiled *c, size_t *n)
{
	*n = c->nfindings;
	return c->findings;
}

size_t cs_compiled_count(const struct cs_compiled *c, const struct cs_spec *spec)
{
	return cs_resolved_set(c, &spec->subject)->n;
}

const char *cs_decision_rule(const struct cs_decision *d)
{
	if (d->rule)
		return d->rule->name;
	return !d->policy ? "" : d->dir == CS_INGRESS ? "ingress" : "egress";
}
