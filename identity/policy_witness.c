#include "policy_witness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void cs_witnesses_fini(struct cs_witnesses *w)
{
	for (size_t i = 0; i < w->n; i++)
		cs_labels_fini(&w->labels[i]);
	free(w->labels);
	free(w->identities);
	*w = (struct cs_witnesses){0};
}

static size_t count_selectors(const struct cs_cnp_set *policies)
{
	size_t n = 0;
	for (size_t i = 0; i < policies->n; i++)
		for (size_t j = 0; j < policies->items[i]->nspecs; j++) {
			const struct cs_spec *s = &policies->items[i]->specs[j];
			n++;
			for (size_t k = 0; k < s->nrules; k++)
				n += s->rules[k].nselectors;
		}
	return n;
}

/* Labels that a selector asks for. False if it cannot be satisfied this way (it contradicts itself, or asks for more
 * labels than a set may have): such a selector has no witness. */
static bool satisfy(const struct cs_selector *s, struct cs_labels *ret)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct cs_requirement *q = &s->reqs[i];
		if (q->op != CS_SEL_IN && q->op != CS_SEL_EXISTS)
			continue;
		if (cs_labels_get(ret, q->key))
			continue; /* whether it fits is seen at the end */
		const char *value = q->op == CS_SEL_IN ? q->values[0] : "any-value";
		if (cs_labels_add(ret, q->source ? q->source : "k8s", q->key, value, NULL) < 0)
			return false;
	}
	return cs_selector_match(s, ret);
}

static void add(struct cs_witnesses *w, const struct cs_selector *s)
{
	struct cs_labels *labels = &w->labels[w->n];
	if (!satisfy(s, labels)) {
		cs_labels_fini(labels);
		return;
	}
	w->identities[w->n] = (struct cs_compile_identity){.id = CS_ID_FIRST_AUTH + (uint32_t)w->n, .labels = labels};
	w->n++;
}

int cs_witnesses_make(const struct cs_cnp_set *policies, struct cs_witnesses *ret, struct cs_error *e)
{
	size_t room = count_selectors(policies) + 1;
	struct cs_witnesses w = {
		.identities = calloc(room, sizeof(*w.identities)), .labels = calloc(room, sizeof(*w.labels))};
	if (!w.identities || !w.labels) {
		cs_witnesses_fini(&w);
		return cs_error_set(e, -ENOMEM, "out of memory");
	}
	for (size_t i = 0; i < policies->n; i++)
		for (size_t j = 0; j < policies->items[i]->nspecs; j++) {
			const struct cs_spec *s = &policies->items[i]->specs[j];
			add(&w, &s->subject);
			for (size_t k = 0; k < s->nrules; k++)
				for (size_t m = 0; m < s->rules[k].nselectors; m++)
					add(&w, &s->rules[k].selectors[m]);
		}
	*ret = w;
	return 0;
}
