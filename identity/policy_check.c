#include "policy_check.h"
#include "labels_filter.h"
#include "policy_files.h"
#include "policy_report.h"
#include "policy_witness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FINE = 0, REFUSED = 1, USAGE = 2 };

struct check {
	struct cs_policy_report report;
	struct cs_cnp_set policies;
	bool json;
	int exit_code;
};

static void usage(FILE *out)
{
	fputs("Usage: countersign-identityd --check-policy [--strict] [-o table|json] FILE|DIR...\n"
	      "\n"
	      "Reads CiliumNetworkPolicy files (cilium.io/v2) and says what they would do. No daemon is asked.\n"
	      "Of a directory *.yaml and *.yml are read; - is stdin.\n"
	      "\n"
	      "  --strict        refuse rules that are wider than written (ports are not looked at)\n"
	      "  -o table|json   for people (default) or for machines\n"
	      "\n"
	      "Exit code: 0 fine, 1 a policy is refused, 2 usage, or a file that cannot be read.\n"
	      "\n"
	      "Examples:\n"
	      "  countersign-identityd --check-policy web.yaml\n"
	      "  countersign-identityd --check-policy --strict -o json /etc/countersign/policies\n",
		out);
}

static void worst(struct check *c, int code)
{
	if (code > c->exit_code)
		c->exit_code = code;
}

static int refuse(struct check *c, const struct cs_error *e)
{
	bool content = e->code == -EINVAL || e->code == -EEXIST || e->code == -E2BIG;
	char **grown = realloc(c->report.errors, (c->report.nerrors + 1) * sizeof(*grown)), *text = strdup(e->text);
	c->report.errors = grown ? grown : c->report.errors;
	if (!grown || !text) {
		free(text);
		return -ENOMEM;
	}
	c->report.errors[c->report.nerrors++] = text;
	fprintf(stderr, "%s\n", text);
	worst(c, content ? REFUSED : USAGE);
	return 0;
}

/* Goes on after an error, so that one run shows them all. */
static int load(struct check *c, const char *path)
{
	struct cs_policy_files files = {0};
	struct cs_error e;
	if (cs_policy_files_list(path, &files, &e) < 0)
		return refuse(c, &e);
	int r = 0;
	for (size_t i = 0; r == 0 && i < files.n; i++) {
		c->report.nfiles++;
		if (cs_policy_file_load(files.paths[i], &c->policies, &e) < 0)
			r = refuse(c, &e);
	}
	cs_policy_files_fini(&files);
	return r;
}

static void count_wider(struct check *c)
{
	size_t n;
	const struct cs_finding *f = cs_compiled_findings(c->report.compiled, &n);
	for (size_t i = 0; i < n; i++)
		c->report.nwider += f[i].kind == CS_FINDING_WIDER;
	if (c->report.strict && c->report.nwider)
		worst(c, REFUSED);
}

static int report(struct check *c)
{
	struct cs_witnesses w = {0};
	struct cs_error e;
	if (cs_witnesses_make(&c->policies, &w, &e) < 0)
		return refuse(c, &e);
	struct cs_label_filter *filter = NULL;
	struct cs_compiled *compiled = NULL;
	if (cs_label_filter_new(true, NULL, &filter, &e) == 0) {
		struct cs_compile_input in = {
			.policies = &c->policies, .identities = w.identities, .nidentities = w.n, .filter = filter};
		compiled = cs_policy_compile(&in, &e);
		cs_label_filter_free(filter);
	}
	cs_witnesses_fini(&w);
	if (!compiled)
		return refuse(c, &e);
	c->report.policies = &c->policies;
	c->report.compiled = compiled;
	count_wider(c);
	int r = 0;
	if (c->json)
		r = cs_policy_report_json(&c->report, stdout);
	else
		cs_policy_report_table(&c->report, stdout);
	cs_compiled_free(compiled);
	return r;
}

/* Number of options, or -1. */
static int parse_options(struct check *c, int argc, char **argv)
{
	int i = 0;
	for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
		if (strcmp(argv[i], "--") == 0)
			return i + 1;
		if (strcmp(argv[i], "--strict") == 0) {
			c->report.strict = true;
		} else if (strcmp(argv[i], "-o") == 0 && i + 1 < argc && strcmp(argv[i + 1], "json") == 0) {
			c->json = true;
			i++;
		} else if (strcmp(argv[i], "-o") == 0 && i + 1 < argc && strcmp(argv[i + 1], "table") == 0) {
			c->json = false;
			i++;
		} else {
			fprintf(stderr, "--check-policy does not know '%s'; see --check-policy --help\n", argv[i]);
			return -1;
		}
	}
	return i;
}

static void fini(struct check *c)
{
	for (size_t i = 0; i < c->report.nerrors; i++)
		free(c->report.errors[i]);
	free(c->report.errors);
	cs_cnp_set_fini(&c->policies);
}

int cs_policy_check_main(int argc, char **argv)
{
	struct check c = {0};
	if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
		usage(stdout);
		return FINE;
	}
	int at = parse_options(&c, argc, argv);
	if (at < 0)
		return USAGE;
	if (at == argc) {
		usage(stderr);
		return USAGE;
	}
	int r = 0;
	for (; r == 0 && at < argc; at++)
		r = load(&c, argv[at]);
	if (r == 0)
		r = report(&c);
	if (r < 0) {
		fprintf(stderr, "out of memory\n");
		c.exit_code = USAGE;
	}
	if (fflush(stdout) != 0) {
		fprintf(stderr, "write the report: %s\n", strerror(errno));
		c.exit_code = USAGE;
	}
	fini(&c);
	return c.exit_code;
}
