/* Random policies over random identities, against a second, naive reading of the rules that walks all pairs; the same
 * input shuffled; and a cluster of the stated size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "policy_fixture.h"

#define RUNS 400

static uint32_t seed;

static unsigned any(unsigned n)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % n;
}

/* ---- random input ---- */

static const char *const namespaces[] = {"a", "b", "default"};
static const char *const prefixes[] = {"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "0.0.0.0/0",
	"192.0.2.0/24", "'2001:db8::/32'", "'2001:db8:1::/48'"};
#define NPREFIXES (sizeof(prefixes) / sizeof(prefixes[0]))

static void put_selector(FILE *out)
{
	switch (any(7)) {
	case 0:
		fputs("{}", out);
		break;
	case 1:
		fprintf(out, "{matchExpressions: [{key: x, operator: NotIn, values: [v%u, v%u]}]}", any(3), any(3));
		break;
	case 2:
		fprintf(out, "{matchExpressions: [{key: 'k8s:y', operator: %s}]}", any(2) ? "Exists" : "DoesNotExist");
		break;
	case 3:
		fprintf(out, "{matchExpressions: [{key: x, operator: In, values: [v%u, v%u]}], matchLabels: {y: v%u}}",
			any(3), any(3), any(2));
		break;
	case 4:
		fprintf(out, "{matchLabels: {x: v%u, 'k8s:io.kubernetes.pod.namespace': %s}}", any(3),
			namespaces[any(3)]);
		break;
	case 5:
		fputs("{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}", out);
		break;
	default:
		fprintf(out, "{matchLabels: {%sx: v%u}}", any(2) ? "any:" : "container:", any(3));
	}
}

static void put_cidr_set(FILE *out)
{
	static const char *const sets[] = {"{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}",
		"{cidr: 10.0.0.0/8, except: [10.1.2.0/24, 10.2.0.0/16]}", "{cidr: 10.1.0.0/16}",
		"{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}", "{cidr: '::/0', except: ['2001:db8:1::/48']}"};
	fprintf(out, "[%s, %s]", sets[any(5)], sets[any(5)]);
}

static void put_rule(FILE *out, const char *way, bool deny)
{
	static const char *const entities[] = {"all", "cluster", "host", "remote-node", "world"};
	fputc('{', out);
	switch (any(6)) {
	case 0:
		fprintf(out, "%sEntities: [%s, %s]", way, entities[any(5)], entities[any(5)]);
		break;
	case 1:
		fprintf(out, "%sCIDR: [%s, %s]", way, prefixes[any(NPREFIXES)], prefixes[any(NPREFIXES)]);
		break;
	case 2:
		fprintf(out, "%sCIDRSet: ", way);
		put_cidr_set(out);
		break;
	case 3:
		fputs(any(4) ? "}" : "toPorts: [{ports: [{port: 80}]}]}", out);
		return;
	default:
		fprintf(out, "%sEndpoints: [", way);
		put_selector(out);
		fputs(", ", out);
		put_selector(out);
		fputc(']', out);
	}
	if (!deny && any(2))
		fprintf(out, ", authentication: {mode: %s}",
			any(8) == 0   ? "test-always-fail"
			: any(4) == 0 ? "disabled"
				      : "required");
	fputc('}', out);
}

static void put_policy(FILE *out, unsigned number)
{
	static const struct {
		const char *section, *way;
		bool deny;
	} sections[] = {{"ingress", "from", false}, {"egress", "to", false}, {"ingressDeny", "from", true},
		{"egressDeny", "to", true}};
	bool some = false;
	fprintf(out, "%s/p%u {endpointSelector: {matchExpressions: [{key: x, operator: In, values: [v%u, v%u]}]}",
		namespaces[any(3)], number, any(3), any(3));
	for (unsigned i = 0; i < 4; i++) {
		if (any(3) || (i == 3 && !some)) {
			some = true;
			fprintf(out, ", %s: [", sections[i].section);
			for (unsigned n = any(4); n > 0; n--) {
				put_rule(out, sections[i].way, sections[i].deny);
				fputs(n > 1 ? ", " : "", out);
			}
			fputc(']', out);
		}
	}
	fputs("}\n", out);
}

static char *random_policies(unsigned n)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	for (unsigned i = 0; i < n; i++)
		put_policy(out, i);
	fclose(out);
	return text;
}

static void random_identity(char out[256])
{
	snprintf(out, 256, "%s:x=v%u", any(3) ? "k8s" : "container", any(3));
	if (any(3))
		snprintf(out + strlen(out), 256 - strlen(out), ";k8s:y=v%u", any(2));
	if (any(4))
		snprintf(out + strlen(out), 256 - strlen(out), ";%s:io.kubernetes.pod.namespace=%s",
			any(10) ? "k8s" : "container", namespaces[any(3)]);
}

/* ---- the naive reading ---- */

struct peer {
	uint32_t id;
	const struct cs_labels *labels; /* endpoints */
	const struct cs_prefix *prefix; /* CIDR identities */
};

static bool cidr_means(const struct cs_cidr *cidr, const struct cs_prefix *p)
{
	for (size_t i = 0; i < cidr->nexcept; i++)
		if (cs_prefix_contains(&cidr->except[i], p))
			return false;
	return cs_prefix_contains(&cidr->prefix, p);
}

static bool means(const struct cs_rule *r, const struct peer *p)
{
	if (p->id == CS_ID_HOST)
		return r->entities & CS_ENTITY_HOST;
	if (p->id == CS_ID_REMOTE_NODE)
		return r->entities & CS_ENTITY_REMOTE_NODE;
	if (p->id == CS_ID_WORLD)
		return r->entities & CS_ENTITY_WORLD;
	bool yes = r->entities & (p->labels ? CS_ENTITY_ENDPOINTS : CS_ENTITY_WORLD);
	for (size_t i = 0; p->labels && i < r->nselectors; i++)
		yes |= cs_selector_match(&r->selectors[i], p->labels);
	for (size_t i = 0; p->prefix && i < r->ncidrs; i++)
		yes |= cidr_means(&r->cidrs[i], p->prefix);
	return yes;
}

static enum cs_verdict direction(
	const struct fixture *f, const struct cs_labels *local, const struct peer *peer, enum cs_policy_dir dir)
{
	bool selected = false, pass = false, require = false, deny = false;
	for (size_t i = 0; i < f->policies.n; i++)
		for (size_t j = 0; j < f->policies.items[i]->nspecs; j++) {
			const struct cs_spec *s = &f->policies.items[i]->specs[j];
			if (!cs_selector_match(&s->subject, local))
				continue;
			selected |= s->selects[dir];
			for (size_t k = 0; k < s->nrules; k++) {
				const struct cs_rule *r = &s->rules[k];
				if (r->dir != dir || !means(r, peer))
					continue;
				deny |= r->deny || r->auth == CS_AUTH_ALWAYS_FAIL;
				require |= r->auth == CS_AUTH_REQUIRED;
				pass = true;
			}
		}
	if (!selected)
		return CS_PASS;
	return deny || !pass ? CS_DENY : require ? CS_REQUIRE : CS_PASS;
}

static void check_pair(const struct fixture *f, const struct cs_compile_identity *local, const struct peer *peer)
{
	enum cs_verdict from = direction(f, local->labels, peer, CS_EGRESS),
			to = direction(f, local->labels, peer, CS_INGRESS);
	if (peer->labels && (from == CS_REQUIRE || to == CS_REQUIRE) && from != CS_DENY && to != CS_DENY)
		from = to = CS_REQUIRE;
	enum cs_verdict got_from = fixture_verdict(f, local->id, peer->id, CS_FROM)->verdict,
			got_to = fixture_verdict(f, local->id, peer->id, CS_TO)->verdict;
	if (got_from != from || got_to != to)
		fail_msg("%u with %u is %c%c, not %c%c\n%s", local->id, peer->id, "DRP"[got_from], "DRP"[got_to],
			"DRP"[from], "DRP"[to], fixture_dump(f));
}

static void check_all_pairs(const struct fixture *f)
{
	static const uint32_t reserved[] = {CS_ID_HOST, CS_ID_WORLD, CS_ID_REMOTE_NODE};
	size_t n;
	const struct cs_prefix_identity *cidrs = cs_compiled_prefixes(f->compiled, &n);
	for (size_t i = 0; i < f->nidentities; i++) {
		for (size_t j = 0; j < 3; j++)
			check_pair(f, &f->identities[i], &(struct peer){.id = reserved[j]});
		for (size_t j = 0; j < f->nidentities; j++)
			check_pair(f, &f->identities[i],
				&(struct peer){.id = f->identities[j].id, .labels = f->identities[j].labels});
		for (size_t j = 0; j < n; j++)
			check_pair(f, &f->identities[i], &(struct peer){.id = cidrs[j].id, .prefix = &cidrs[j].prefix});
	}
}

static void all_pairs_agree_with_the_naive_reading(void **state)
{
	(void)state;
	size_t rows = 0, required = 0;
	for (unsigned run = 0; run < RUNS; run++) {
		struct fixture f = {0};
		seed = run;
		any(2);
		char *text = random_policies(1 + any(5)), labels[256];
		fixture_policies(&f, text);
		for (uint32_t i = 0; i < 14; i++) {
			random_identity(labels);
			fixture_identity(&f, 300 + i, labels);
		}
		fixture_compile(&f);
		check_all_pairs(&f);
		rows += f.rows.nrows;
		for (size_t i = 0; i < f.rows.nrows; i++)
			required += f.rows.rows[i].verdict[CS_TO].verdict == CS_REQUIRE;
		free(text);
		fixture_free(&f);
	}
	/* The generator is worth nothing if it makes only easy cases. */
	assert_true(rows > RUNS * 20 && required > RUNS);
}

/* ---- order ---- */

static void shuffle_lines(char *text)
{
	char *lines[16], *copy = strdup(text), *save = NULL;
	unsigned n = 0;
	for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		lines[n++] = line;
	*text = '\0';
	for (; n > 0; n--) {
		unsigned at = any(n);
		text = stpcpy(stpcpy(text, lines[at]), "\n");
		lines[at] = lines[n - 1];
	}
	free(copy);
}

static char *dump_in_order(const char *policies, unsigned first, const struct cs_prefix_identity *known, size_t nknown)
{
	struct fixture f = {0};
	char labels[14][256];
	uint32_t keep = seed;
	seed = 77;
	for (unsigned i = 0; i < 14; i++)
		random_identity(labels[i]);
	seed = keep;
	fixture_policies(&f, policies);
	for (unsigned i = 0; i < 14; i++) {
		unsigned at = (first + i * 5) % 14; /* 5 and 14 are coprime: every one, in another order */
		fixture_identity(&f, 300 + at, labels[at]);
	}
	f.in.prefixes = known;
	f.in.nprefixes = nknown;
	fixture_compile(&f);
	char *text = fixture_dump(&f);
	fixture_free(&f);
	return text;
}

static void order_changes_nothing(void **state)
{
	(void)state;
	struct cs_prefix_identity known[2] = {{.id = CS_ID_LOCAL_SCOPE + 5}, {.id = CS_ID_LOCAL_SCOPE + 9}}, turned[2];
	struct cs_error e;
	assert_int_equal(cs_prefix_parse("10.1.0.0/16", &known[0].prefix, &e), 0);
	assert_int_equal(cs_prefix_parse("10.2.0.0/16", &known[1].prefix, &e), 0);
	turned[0] = known[1], turned[1] = known[0];
	for (unsigned run = 0; run < 60; run++) {
		seed = run + 1000;
		char *text = random_policies(6);
		char *straight = dump_in_order(text, 0, known, 2);
		shuffle_lines(text);
		char *shuffled = dump_in_order(text, 1 + any(13), turned, 2);
		assert_string_equal(straight, shuffled);
		free(text);
		free(straight);
		free(shuffled);
	}
}

/* ---- one after the other ---- */

/* The first `base` are compiled, the others come one by one as they do in a cluster; how many of them had only to be
 * appended. */
static char *dump_one_by_one(
	const char *policies, char labels[][256], unsigned base, unsigned n, unsigned *ret_appended)
{
	struct fixture f = {0};
	fixture_policies(&f, policies);
	for (unsigned i = 0; i < base; i++)
		fixture_identity(&f, 300 + i, labels[i]);
	fixture_compile(&f);
	for (unsigned i = base; i < n; i++) {
		struct cs_error e;
		uint32_t locals[32];
		fixture_identity(&f, 300 + i, labels[i]);
		struct cs_compile_identity one = {.id = 300 + i, .labels = &f.labels[i]};
		bool appended = cs_compiled_append(f.compiled, &one, 1);
		*ret_appended += appended;
		cs_rows_fini(&f.rows);
		if (!appended) {
			cs_compiled_free(f.compiled);
			fixture_compile(&f);
			continue;
		}
		for (unsigned k = 0; k <= i; k++)
			locals[k] = 300 + k;
		assert_int_equal(cs_compiled_rows(f.compiled, locals, i + 1, &f.rows, &e), 0);
	}
	char *text = fixture_dump(&f);
	fixture_free(&f);
	return text;
}

static void what_is_appended_is_as_if_compiled(void **state)
{
	(void)state;
	unsigned appended = 0, compiled = 0;
	for (unsigned run = 0; run < RUNS; run++) {
		char labels[20][256];
		unsigned none = 0;
		seed = run + 5000;
		char *policies = random_policies(any(4));
		for (unsigned i = 0; i < 20; i++) {
			random_identity(labels[i]);
			if (any(2)) /* of interest to few */
				snprintf(labels[i], sizeof(labels[i]), "k8s:z=%u;k8s:io.kubernetes.pod.namespace=%s", i,
					any(3) ? "other" : "a");
		}
		char *whole = dump_one_by_one(policies, labels, 20, 20, &none);
		unsigned before = appended;
		char *pieces = dump_one_by_one(policies, labels, any(12), 20, &appended);
		assert_string_equal(whole, pieces);
		compiled += appended == before;
		free(policies);
		free(whole);
		free(pieces);
	}
	/* Both ways were gone. */
	assert_true(appended > RUNS && compiled > RUNS / 20);
}

static void what_cannot_be_appended(void **state)
{
	(void)state;
	struct fixture f = {0};
	fixture_policies(&f, "a/p {endpointSelector: {matchLabels: {x: v1}}, ingress: [{fromEndpoints: [{matchLabels: "
			     "{y: v1}}]}]}\n");
	fixture_identity(&f, 300, "k8s:x=v1;k8s:io.kubernetes.pod.namespace=a");
	fixture_identity(&f, 301, "k8s:z=v1;k8s:io.kubernetes.pod.namespace=a");
	fixture_identity(&f, 302, "k8s:z=v2;k8s:io.kubernetes.pod.namespace=a");
	fixture_identity(&f, 303, "k8s:y=v1;k8s:io.kubernetes.pod.namespace=a");
	f.nidentities = 2;
	fixture_compile(&f);
	struct cs_compile_identity known = {.id = 301, .labels = &f.labels[2]},
				   lower = {.id = 299, .labels = &f.labels[2]};
	struct cs_compile_identity meant = {.id = 303, .labels = &f.labels[3]},
				   fine = {.id = 302, .labels = &f.labels[2]};
	struct cs_compile_identity beyond = {.id = CS_ID_LOCAL_SCOPE, .labels = &f.labels[2]};
	struct cs_compile_identity both[2] = {fine, meant};
	assert_false(cs_compiled_append(f.compiled, &known, 1));
	assert_false(cs_compiled_append(f.compiled, &lower, 1));
	assert_false(cs_compiled_append(f.compiled, &meant, 1));
	assert_false(cs_compiled_append(f.compiled, &beyond, 1));
	assert_false(cs_compiled_append(f.compiled, both, 2)); /* all or nothing */
	assert_true(cs_compiled_append(f.compiled, &fine, 1));
	assert_false(cs_compiled_append(f.compiled, &fine, 1));
	f.nidentities = 4;
	fixture_free(&f);
}

/* ---- size ---- */

#define MANY     65000
#define POLICIES 300
#define LOCALS   100

static void size_policies(struct fixture *f)
{
	char text[512];
	for (unsigned i = 0; i < POLICIES; i++) {
		snprintf(text, sizeof(text),
			"ns%u/p%u {endpointSelector: {matchLabels: {app: a%u}}, ingress: [{fromEndpoints: "
			"[{matchLabels: "
			"{app: a%u}}], authentication: {mode: required}}, {fromEndpoints: [{matchLabels: {tier: "
			"t%u}}]}], "
			"egress: [{toEndpoints: [{}], authentication: {mode: required}}, {toCIDR: [10.%u.0.0/16]}]}",
			i % 10, i, i, (i * 7) % POLICIES, i % 5, i % 256);
		fixture_policies(f, text);
	}
}

static void a_large_cluster(void **state)
{
	(void)state;
	struct fixture f = {0};
	struct timespec start, end;
	struct cs_error e;
	char labels[128];
	size_policies(&f);
	for (uint32_t i = 0; i < MANY; i++) {
		/* namespace by app, so that policies find somebody; every identity has a label of its own */
		snprintf(labels, sizeof(labels),
			"k8s:app=a%u;k8s:tier=t%u;k8s:pod=p%u;k8s:io.kubernetes.pod.namespace=ns%u", i % POLICIES,
			i % 7, i, i % 10);
		fixture_identity(&f, 300 + i, labels);
	}
	for (size_t i = 0; i < f.nidentities; i++)
		f.identities[i].labels = &f.labels[i];
	f.in = (struct cs_compile_input){
		.policies = &f.policies, .identities = f.identities, .nidentities = f.nidentities};
	clock_gettime(CLOCK_MONOTONIC, &start);
	f.compiled = cs_policy_compile(&f.in, &e);
	assert_non_null(f.compiled);
	clock_gettime(CLOCK_MONOTONIC, &end);
	print_message(
		"# compile: %ld ms\n", (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000);
	uint32_t locals[LOCALS];
	for (uint32_t i = 0; i < LOCALS; i++)
		locals[i] = 300 + i * 650;
	assert_int_equal(cs_compiled_rows(f.compiled, locals, LOCALS, &f.rows, &e), 0);
	clock_gettime(CLOCK_MONOTONIC, &start);
	print_message("# rows of %d identities: %zu in %ld ms\n", LOCALS, f.rows.nrows,
		(start.tv_sec - end.tv_sec) * 1000 + (start.tv_nsec - end.tv_nsec) / 1000000);
	/* Each local: its namespace (6,500), two CIDRs at most, nobody else. */
	assert_true(f.rows.nrows > 0 && f.rows.nrows <= LOCALS * (6500 + 2));
	assert_int_equal(f.rows.ndefaults, LOCALS);
	fixture_free(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_pairs_agree_with_the_naive_reading),
		cmocka_unit_test(order_changes_nothing),
		cmocka_unit_test(what_is_appended_is_as_if_compiled),
		cmocka_unit_test(what_cannot_be_appended),
		cmocka_unit_test(a_large_cluster),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
