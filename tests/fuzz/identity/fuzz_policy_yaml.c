/* Any bytes: policies with every name filled in, which compile, or an error that names the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "policy_witness.h"
#include "policy_yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_policy(const struct cs_cnp *p)
{
	char text[256];
	if (!strchr(p->name, '/') || p->nspecs == 0)
		abort();
	for (size_t i = 0; i < p->nspecs; i++) {
		const struct cs_spec *s = &p->specs[i];
		if (!s->selects[CS_INGRESS] && !s->selects[CS_EGRESS])
			abort();
		cs_selector_format(&s->subject, text, sizeof(text));
		for (size_t j = 0; j < s->nrules; j++)
			if (!s->rules[j].name || !s->selects[s->rules[j].dir])
				abort();
	}
}

static void compile(const struct cs_cnp_set *set)
{
	struct cs_witnesses w = {0};
	struct cs_rows rows = {0};
	struct cs_error e = {0};
	if (cs_witnesses_make(set, &w, &e) < 0)
		abort();
	struct cs_compile_input in = {.policies = set, .identities = w.identities, .nidentities = w.n};
	struct cs_compiled *c = cs_policy_compile(&in, &e);
	if (!c || (w.n && cs_compiled_rows(c, &w.identities[0].id, 1, &rows, &e) < 0))
		abort();
	if (rows.ndefaults != (w.n ? 1 : 0))
		abort();
	cs_rows_fini(&rows);
	cs_compiled_free(c);
	cs_witnesses_fini(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_cnp_set set = {0};
	struct cs_error e = {0};
	if (cs_policy_yaml_parse("f", data, size, &set, &e) < 0) {
		if (strncmp(e.text, "f:", 2) != 0 || set.n != 0)
			abort();
		return 0;
	}
	for (size_t i = 0; i < set.n; i++)
		check_policy(set.items[i]);
	compile(&set);
	cs_cnp_set_fini(&set);
	return 0;
}
