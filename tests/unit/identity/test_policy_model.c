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

/* ---- identities that come later ---- */

static int by_remote(const void *a, const void *b)
{
	const struct cs_policy_row *x = a, *y = b;
	if (x->local != y->local)
		return x->local < y->local ? -1 : 1;
	return (x->remote > y->remote) - (x->remote < y->remote);
}

static void assert_same_decisions(const struct cs_decision *a, const struct cs_decision *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(a[i].verdict, b[i].verdict);
		assert_int_equal(a[i].dir, b[i].dir);
		assert_ptr_equal(a[i].policy, b[i].policy);
		assert_ptr_equal(a[i].rule, b[i].rule);
	}
}

static void assert_same_rows(const struct cs_rows *a, const struct cs_rows *b)
{
	assert_int_equal(a->nrows, b->nrows);
	for (size_t i = 0; i < a->nrows; i++) {
		assert_int_equal(a->rows[i].local, b->rows[i].local);
		assert_int_equal(a->rows[i].remote, b->rows[i].remote);
		assert_same_decisions(a->rows[i].verdict, b->rows[i].verdict, 2);
	}
	assert_int_equal(a->ndefaults, b->ndefaults);
	for (size_t i = 0; i < a->ndefaults; i++)
		for (int dir = 0; dir < 2; dir++)
			assert_same_decisions(a->defaults[i].verdict[dir], b->defaults[i].verdict[dir], 2);
}

/* What the locals had, and what cs_compiled_added_rows says came, is what they have. */
static void check_added_rows(
	struct cs_compiled *c, const struct cs_rows *before, const uint32_t *locals, size_t n, size_t *added)
{
	struct cs_rows now, more;
	struct cs_error e;
	assert_int_equal(cs_compiled_rows(c, locals, n, &now, &e), 0);
	assert_int_equal(cs_compiled_added_rows(c, locals, n, &more, &e), 0);
	*added += more.nrows;
	more.rows = realloc(more.rows, (before->nrows + more.nrows + 1) * sizeof(*more.rows));
	if (before->nrows)
		memcpy(more.rows + more.nrows, before->rows, before->nrows * sizeof(*more.rows));
	more.nrows += before->nrows;
	qsort(more.rows, more.nrows, sizeof(*more.rows), by_remote);
	more.defaults = now.defaults;
	more.ndefaults = now.ndefaults;
	assert_same_rows(&more, &now);
	free(more.rows);
	cs_rows_fini(&now);
}

/* As if they had been there from the start, whatever their numbers are. */
static void identities_are_added(void **state)
{
	(void)state;
	size_t done = 0, anew = 0, rows = 0;
	for (unsigned run = 0; run < RUNS; run++) {
		struct fixture f = {0};
		seed = 77000 + run;
		any(2);
		char *text = random_policies(1 + any(5)), labels[256];
		uint32_t ids[24];
		fixture_policies(&f, text);
		for (uint32_t i = 0; i < 24; i++) {
			random_identity(labels);
			ids[i] = run % 2 ? 300 + i : 300 + (i * 7) % 24;
			fixture_identity(&f, ids[i], labels);
		}
		fixture_compile(&f); /* what it must be in the end */
		struct cs_compile_input in = f.in;
		struct cs_error e;
		size_t n = any(8);
		in.nidentities = n;
		struct cs_compiled *c = cs_policy_compile(&in, &e);
		assert_non_null(c);
		while (n < 24) {
			size_t more = 1 + any(4);
			struct cs_rows before;
			more = n + more > 24 ? 24 - n : more;
			assert_int_equal(cs_compiled_rows(c, ids, n, &before, &e), 0);
			int r = cs_compiled_add(c, f.identities + n, more, &e);
			assert_true(r >= 0);
			if (r == 1) {
				check_added_rows(c, &before, ids, n, &rows);
				done++;
			}
			cs_rows_fini(&before);
			n += more;
			if (r == 0) {
				anew++;
				cs_compiled_free(c);
				in.nidentities = n;
				c = cs_policy_compile(&in, &e);
				assert_non_null(c);
			}
		}
		struct cs_rows all;
		assert_int_equal(cs_compiled_rows(c, ids, 24, &all, &e), 0);
		assert_same_rows(&all, &f.rows);
		assert_int_equal(cs_compiled_add(c, f.identities, 1, &e), 0); /* it is there */
		cs_rows_fini(&all);
		cs_compiled_free(c);
		free(text);
		fixture_free(&f);
	}
	assert_true(done > RUNS && rows > RUNS); /* it is worth something, and almost always possible */
	assert_true(anew < done / 4);
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
		cmocka_unit_test(identities_are_added),
		cmocka_unit_test(order_changes_nothing),
		cmocka_unit_test(a_large_cluster),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
