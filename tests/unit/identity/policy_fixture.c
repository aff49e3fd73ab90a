#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "policy_fixture.h"
#include "policy_yaml.h"

static void add_policy(struct fixture *f, const char *line, size_t n)
{
	char *text = NULL, name[64], ns[64];
	struct cs_error e = {0};
	int used = 0;
	if (sscanf(line, " %63[^/]/%63s %n", ns, name, &used) != 2)
		fail_msg("no policy: %.*s", (int)n, line);
	int length = asprintf(&text,
		"{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: %s, namespace: %s}, %s: "
		"%.*s}\n",
		name, ns, line[used] == '[' ? "specs" : "spec", (int)n - used, line + used);
	if (cs_policy_yaml_parse("t", text, (size_t)length, &f->policies, &e) < 0)
		fail_msg("%s\n%s", e.text, text);
	free(text);
}

void fixture_policies(struct fixture *f, const char *text)
{
	while (*text) {
		size_t n = strcspn(text, "\n");
		if (n > 0)
			add_policy(f, text, n);
		text += n + (text[n] == '\n');
	}
}

void fixture_identity(struct fixture *f, uint32_t id, const char *labels)
{
	struct cs_error e = {0};
	if (f->nidentities == f->room) {
		f->room = f->room ? f->room * 2 : 16;
		f->labels = realloc(f->labels, f->room * sizeof(*f->labels));
		f->identities = realloc(f->identities, f->room * sizeof(*f->identities));
	}
	if (cs_labels_parse(labels, strlen(labels), &f->labels[f->nidentities], &e) < 0)
		fail_msg("%s", e.text);
	f->identities[f->nidentities++].id = id;
}

void fixture_compile(struct fixture *f)
{
	struct cs_error e = {0};
	uint32_t *locals = malloc((f->nidentities + 1) * sizeof(*locals));
	for (size_t i = 0; i < f->nidentities; i++) {
		f->identities[i].labels = &f->labels[i];
		locals[i] = f->identities[i].id;
	}
	f->in.policies = &f->policies;
	f->in.identities = f->identities;
	f->in.nidentities = f->nidentities;
	f->compiled = cs_policy_compile(&f->in, &e);
	if (!f->compiled || cs_compiled_rows(f->compiled, locals, f->nidentities, &f->rows, &e) < 0)
		fail_msg("%s", e.text);
	free(locals);
}

void fixture_free(struct fixture *f)
{
	cs_rows_fini(&f->rows);
	cs_compiled_free(f->compiled);
	for (size_t i = 0; i < f->nidentities; i++)
		cs_labels_fini(&f->labels[i]);
	free(f->labels);
	free(f->identities);
	cs_cnp_set_fini(&f->policies);
	*f = (struct fixture){0};
}

static void dump_decision(FILE *out, const struct cs_decision *d)
{
	fprintf(out, " %c(%s %s)", "DRP"[d->verdict], d -> policy ? d -> policy -> name : "-", cs_decision_rule(d));
}

char *fixture_dump(const struct fixture *f)
{
	char *text = NULL;
	size_t n = 0;
	FILE *out = open_memstream(&text, &n);
	for (size_t i = 0; i < f->rows.nrows; i++) {
		const struct cs_policy_row *r = &f->rows.rows[i];
		fprintf(out, "row %u %u", r->local, r->remote);
		dump_decision(out, &r->verdict[CS_FROM]);
		dump_decision(out, &r->verdict[CS_TO]);
		fputc('\n', out);
	}
	for (size_t i = 0; i < f->rows.ndefaults; i++) {
		const struct cs_policy_default *d = &f->rows.defaults[i];
		fprintf(out, "default %u", d->local);
		for (int k = 0; k < 4; k++)
			dump_decision(out, &d->verdict[k / 2][k % 2]);
		fputc('\n', out);
	}
	const struct cs_prefix_identity *p = cs_compiled_prefixes(f->compiled, &n);
	for (size_t i = 0; i < n; i++) {
		char prefix[CS_PREFIX_TEXT];
		cs_prefix_format(&p[i].prefix, prefix);
		fprintf(out, "prefix %s %u\n", prefix, p[i].id);
	}
	const struct cs_finding *findings = cs_compiled_findings(f->compiled, &n);
	for (size_t i = 0; i < n; i++)
		fprintf(out, "finding %s %s %s\n", findings[i].policy->name, findings[i].rule->name,
			cs_finding_kind_name(findings[i].kind));
	fclose(out);
	return text;
}

static int by_pair(const void *a, const void *b)
{
	const struct cs_policy_row *x = a, *y = b;
	if (x->local != y->local)
		return x->local < y->local ? -1 : 1;
	return (x->remote > y->remote) - (x->remote < y->remote);
}

static int by_local(const void *a, const void *b)
{
	const struct cs_policy_default *x = a, *y = b;
	return (x->local > y->local) - (x->local < y->local);
}

const struct cs_decision *fixture_verdict(const struct fixture *f, uint32_t local, uint32_t remote, enum cs_dir dir)
{
	struct cs_policy_row key = {.local = local, .remote = remote};
	const struct cs_policy_row *row =
		f->rows.nrows ? bsearch(&key, f->rows.rows, f->rows.nrows, sizeof(key), by_pair) : NULL;
	if (row)
		return &row->verdict[dir];
	struct cs_policy_default dkey = {.local = local};
	const struct cs_policy_default *d = bsearch(&dkey, f->rows.defaults, f->rows.ndefaults, sizeof(dkey), by_local);
	assert_non_null(d);
	bool endpoint = remote >= CS_ID_FIRST_AUTH && remote < CS_ID_LOCAL_SCOPE;
	return &d->verdict[dir][endpoint ? CS_PEER_ENDPOINT : CS_PEER_OTHER];
}

uint32_t fixture_prefix(const struct fixture *f, const char *text)
{
	size_t n;
	const struct cs_prefix_identity *p = cs_compiled_prefixes(f->compiled, &n);
	for (size_t i = 0; i < n; i++) {
		char prefix[CS_PREFIX_TEXT];
		cs_prefix_format(&p[i].prefix, prefix);
		if (strcmp(prefix, text) == 0)
			return p[i].id;
	}
	return 0;
}
