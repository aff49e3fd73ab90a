/* The cluster role's core: what a claim changes in the directory, and what a refusal or a file that is wrong does not. */
#include "core.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
#include "mem.h"

#define KIND(name) COUNTERSIGN__V1__KIND__KIND_##name

static char dir[] = "/tmp/countersign-core-XXXXXX", store[64], placement[64], policies[64], policy[80];
static struct cs_core_config config;
static struct cs_numbers numbers;
static struct cs_label_filter *filter;
static struct cs_core *core;
static struct cs_directory *directory;

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void open_core(void)
{
	struct cs_changes changes = {0};
	struct cs_error e = {0};
	if (cs_core_open(&config, &core, &changes, &e) < 0)
		fail_msg("%s", e.text);
	directory = cs_dir_new(changes.epoch, NULL);
	assert_int_equal(cs_changes_apply_take(&changes, directory, &e), 0);
	assert_true(cs_dir_published(directory));
}

static void close_core(void)
{
	cs_core_close(core);
	cs_dir_free(directory);
	core = NULL;
	directory = NULL;
}

static void remove_store(void)
{
	static const char *const suffixes[] = {"", "-wal", ".lock"};
	for (size_t i = 0; i < 3; i++) {
		char name[80];
		snprintf(name, sizeof(name), "%s%s", store, suffixes[i]);
		unlink(name);
	}
	unlink(placement);
	unlink(policy);
}

static int setup(void **state)
{
	const struct cs_numbers_config own = {.clusters_max = 255, .trust_domain = "example.org"};
	struct cs_error e;
	(void)state;
	remove_store();
	cs_numbers_fini(&numbers);
	assert_int_equal(cs_numbers_init(&numbers, &own, &e), 0);
	cs_label_filter_free(filter);
	assert_int_equal(cs_label_filter_new(true, NULL, &filter, &e), 0);
	config = (struct cs_core_config){.store_path = store,
		.trust_domain = "example.org",
		.spiffe_id_template = "spiffe://example.org/identity/{id}",
		.numbers = &numbers,
		.label_filter = filter,
		.placement_file = placement,
		.policy_dir = policies};
	return 0;
}

static struct cs_ask *new_claims(enum cs_ask_kind kind, const char *node, size_t n)
{
	return cs_ask_new(kind, node, n);
}

static void fill(struct cs_claim *claim, const char *id, const char *labels, uint8_t ip)
{
	struct cs_error e;
	claim->id = cs_xstrdup(id);
	assert_int_equal(cs_labels_parse(labels, strlen(labels), &claim->labels, &e), 0);
	claim->addrs[0] = (struct cs_ip){.len = 4, .bytes = {10, 0, 0, ip}};
	claim->naddrs = 1;
}

/* The ask, answered and in the directory. */
static struct cs_ask *run(struct cs_ask *ask)
{
	struct cs_changes changes = {0};
	struct cs_error e;
	assert_int_equal(cs_core_ask(core, &ask, 1, &changes, &e), 0);
	assert_int_equal(cs_changes_apply_take(&changes, directory, &e), 0);
	assert_true(ask->revision <= cs_dir_revision(directory));
	return ask;
}

static struct cs_ask *claim(const char *node, const char *id, const char *labels, uint8_t ip)
{
	struct cs_ask *ask = new_claims(CS_ASK_CLAIM, node, 1);
	fill(&ask->claims[0], id, labels, ip);
	return run(ask);
}

static uint32_t claimed(const char *node, const char *id, const char *labels, uint8_t ip)
{
	struct cs_ask *ask = claim(node, id, labels, ip);
	assert_int_equal(ask->claims[0].result, 0);
	uint32_t identity = ask->claims[0].identity;
	cs_ask_free(ask);
	return identity;
}

static void release(const char *node, const char *id)
{
	struct cs_ask *ask = new_claims(CS_ASK_RELEASE, node, 1);
	ask->claims[0].id = cs_xstrdup(id);
	cs_ask_free(run(ask));
}

static const Countersign__V1__Endpoint *endpoint(const char *node, const char *id)
{
	cs_record key = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Endpoint m = COUNTERSIGN__V1__ENDPOINT__INIT;
	m.node = (char *)node;
	m.id = (char *)id;
	key.record_case = COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT;
	key.endpoint = &m;
	const cs_record *found = cs_dir_get(directory, &key);
	return found ? found->endpoint : NULL;
}

static void test_claims(void **state)
{
	(void)state;
	open_core();
	assert_int_equal(claimed("n1", "a", "k8s:app=a", 1), 256);
	assert_int_equal(claimed("n1", "b", "k8s:app=a", 2), 256);
	assert_int_equal(claimed("n2", "c", "k8s:app=c", 3), 257);
	assert_int_equal(endpoint("n1", "a")->identity, 256);
	assert_string_equal(cs_dir_placement(directory, 256, "n1")->authority, "self");
	assert_int_equal(cs_dir_count(directory, KIND(POLICY_DEFAULT)), 2);
	assert_true(cs_dir_identity(directory, 256)->incarnation != 0);
	/* One revision for all that a claim changes. */
	uint64_t before = cs_dir_revision(directory);
	assert_int_equal(claimed("n2", "d", "k8s:app=d", 4), 258);
	assert_int_equal(cs_dir_revision(directory), before + 1);
	/* A placement goes with its last endpoint. */
	release("n1", "a");
	assert_non_null(cs_dir_placement(directory, 256, "n1"));
	release("n1", "b");
	assert_null(cs_dir_placement(directory, 256, "n1"));
	assert_null(endpoint("n1", "b"));
	assert_non_null(cs_dir_identity(directory, 256));
	assert_int_equal(cs_dir_count(directory, KIND(POLICY_DEFAULT)), 2); /* of 257 and 258 */
	/* Other labels for an endpoint move its placement. */
	assert_int_equal(claimed("n2", "c", "k8s:app=a", 3), 256);
	assert_null(cs_dir_placement(directory, 257, "n2"));
	assert_non_null(cs_dir_placement(directory, 256, "n2"));
	/* The same again is no revision. */
	before = cs_dir_revision(directory);
	assert_int_equal(claimed("n2", "c", "k8s:app=a", 3), 256);
	assert_int_equal(cs_dir_revision(directory), before);
	uint64_t epoch = cs_dir_epoch(directory);
	close_core();
	open_core();
	assert_true(cs_dir_epoch(directory) == epoch);
	assert_int_equal(cs_dir_revision(directory), before); /* the same facts are the same directory */
	assert_int_equal(endpoint("n2", "c")->identity, 256);
	assert_int_equal(cs_dir_count(directory, KIND(IDENTITY)), 3);
	close_core();
}

static void test_reconcile(void **state)
{
	(void)state;
	open_core();
	claimed("n1", "a", "k8s:app=a", 1);
	claimed("n1", "b", "k8s:app=b", 2);
	claimed("n1", "gone", "k8s:app=gone", 3);
	claimed("n2", "other", "k8s:app=other", 4);
	/* a and b swap their addresses; `gone` goes, and its address to a new one; one is refused. */
	struct cs_ask *ask = new_claims(CS_ASK_RECONCILE, "n1", 4);
	fill(&ask->claims[0], "a", "k8s:app=a", 2);
	fill(&ask->claims[1], "b", "k8s:app=b", 1);
	fill(&ask->claims[2], "new", "k8s:app=new", 3);
	fill(&ask->claims[3], "taken", "k8s:app=taken", 4);
	run(ask);
	for (int i = 0; i < 3; i++)
		assert_int_equal(ask->claims[i].result, 0);
	assert_int_equal(ask->claims[3].error.reason, CS_R_ADDRESS_TAKEN);
	assert_int_equal(ask->claims[3].identity, 0);
	cs_ask_free(ask);
	assert_int_equal(endpoint("n1", "a")->addresses[0]->ip.data[3], 2);
	assert_int_equal(endpoint("n1", "b")->addresses[0]->ip.data[3], 1);
	assert_null(endpoint("n1", "gone"));
	assert_non_null(endpoint("n1", "new"));
	assert_non_null(endpoint("n2", "other"));
	assert_non_null(cs_dir_placement(directory, 256, "n1"));
	cs_ask_free(run(new_claims(CS_ASK_RECONCILE, "n1", 0)));
	assert_int_equal(cs_dir_count(directory, KIND(ENDPOINT)), 1);
	assert_int_equal(cs_dir_count(directory, KIND(PLACEMENT)), 1);
	close_core();
}

static void test_static_placement(void **state)
{
	(void)state;
	config.authority = CS_AUTHORITY_STATIC;
	write_file(placement, "placements:\n- labels: [k8s:app=a]\n  nodes: [n1]\n");
	open_core();
	claimed("n1", "a", "k8s:app=a", 1);
	struct cs_ask *ask = claim("n2", "a", "k8s:app=a", 2);
	assert_int_equal(ask->claims[0].error.reason, CS_R_PLACEMENT_REFUSED);
	assert_int_equal(ask->claims[0].identity, 256); /* it is known */
	cs_ask_free(ask);
	ask = claim("n2", "b", "k8s:app=b", 2);
	assert_int_equal(ask->claims[0].error.reason, CS_R_PLACEMENT_REFUSED);
	assert_int_equal(ask->claims[0].identity, 0); /* and none is made */
	cs_ask_free(ask);
	assert_int_equal(cs_dir_count(directory, KIND(ENDPOINT)), 1);
	/* A stored claim that changes to labels that are refused is no claim any more. */
	ask = claim("n1", "a", "k8s:app=b", 1);
	assert_int_equal(ask->claims[0].error.reason, CS_R_PLACEMENT_REFUSED);
	cs_ask_free(ask);
	assert_null(endpoint("n1", "a"));
	assert_null(cs_dir_placement(directory, 256, "n1"));
	claimed("n1", "a", "k8s:app=a", 1);
	struct cs_changes changes = {0};
	struct cs_error e;
	/* Wrong: nothing changes. */
	write_file(placement, "placements: wrong\n");
	assert_true(cs_core_reload_placement(core, &changes, &e) < 0);
	assert_int_equal(changes.n, 0);
	assert_int_equal(claimed("n1", "a2", "k8s:app=a", 5), 256);
	/* Withdrawn. */
	write_file(placement, "placements:\n- labels: [k8s:app=a]\n  nodes: [n2]\n");
	assert_int_equal(cs_core_reload_placement(core, &changes, &e), 0);
	assert_int_equal(cs_changes_apply_take(&changes, directory, &e), 0);
	assert_int_equal(cs_dir_count(directory, KIND(ENDPOINT)), 0);
	assert_null(cs_dir_placement(directory, 256, "n1"));
	claimed("n2", "a", "k8s:app=a", 1);
	close_core();
	/* ... while we were not there. */
	write_file(placement, "placements: []\n");
	open_core();
	assert_int_equal(cs_dir_count(directory, KIND(ENDPOINT)), 0);
	assert_int_equal(cs_dir_count(directory, KIND(PLACEMENT)), 0);
	close_core();
}

#define POLICY(ingress)                                                                                                \
	"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: p\nspec:\n  endpointSelector:\n"      \
	"    matchLabels: {app: a}\n  ingress:\n" ingress

static size_t reload_policy(int expected)
{
	struct cs_changes changes = {0};
	struct cs_error e = {0};
	int r = cs_core_reload_policy(core, &changes, &e);
	if ((r < 0) != (expected < 0))
		fail_msg("%d: %s", r, e.text);
	size_t n = changes.n;
	assert_int_equal(cs_changes_apply_take(&changes, directory, &e), 0);
	return n;
}

static void test_policy(void **state)
{
	(void)state;
	write_file(policy, POLICY("  - fromEndpoints:\n    - matchLabels: {app: b}\n  - fromCIDR: [192.0.2.0/24]\n"));
	open_core();
	assert_int_equal(cs_dir_count(directory, KIND(PREFIX)), 1);
	assert_int_equal(cs_dir_count(directory, KIND(POLICY_ROW)), 0); /* nobody is placed anywhere */
	claimed("n1", "a", "k8s:app=a", 1);
	size_t rows = cs_dir_count(directory, KIND(POLICY_ROW));
	assert_true(rows >= 1); /* of the prefix */
	/* A peer that comes later, placed elsewhere, makes a row for a: in the same revision. */
	uint64_t before = cs_dir_revision(directory);
	claimed("n2", "b", "k8s:app=b", 2);
	assert_int_equal(cs_dir_revision(directory), before + 1);
	assert_int_equal(cs_dir_count(directory, KIND(POLICY_ROW)), rows + 1);
	/* The same files: no revision. */
	assert_int_equal(reload_policy(0), 0);
	assert_int_equal(cs_dir_revision(directory), before + 1);
	/* Wrong: nothing changes. */
	write_file(policy, POLICY("  - fromEndpoint: []\n"));
	reload_policy(-1);
	assert_int_equal(cs_dir_revision(directory), before + 1);
	assert_int_equal(claimed("n1", "c", "k8s:app=a;k8s:v=2", 3), 258);
	assert_true(cs_dir_count(directory, KIND(POLICY_ROW)) > rows + 1); /* compiled with what is in force */
	/* Gone. */
	unlink(policy);
	reload_policy(0);
	assert_int_equal(cs_dir_count(directory, KIND(POLICY)), 0);
	assert_int_equal(cs_dir_count(directory, KIND(PREFIX)), 0);
	assert_int_equal(cs_dir_count(directory, KIND(POLICY_ROW)), 0);
	assert_int_equal(cs_dir_count(directory, KIND(POLICY_DEFAULT)), 3);
	close_core();
}

static void claim_many(unsigned from, unsigned n)
{
	struct cs_ask *asks[256];
	struct cs_changes changes = {0};
	struct cs_error e;
	for (unsigned i = 0; i < n; i++) {
		char id[32], labels[96];
		unsigned k = from + i;
		snprintf(id, sizeof(id), "m%u", k);
		snprintf(labels, sizeof(labels), "k8s:app=%s;k8s:n=%u", k % 7 == 0 ? "b" : k % 50 == 1 ? "a" : "x", k);
		asks[i] = new_claims(CS_ASK_CLAIM, k % 2 ? "n1" : "n2", 1);
		fill(&asks[i]->claims[0], id, labels, 0);
		asks[i]->claims[0].addrs[0] = (struct cs_ip){.len = 4, .bytes = {10, 9, (uint8_t)(k >> 8), (uint8_t)k}};
	}
	assert_int_equal(cs_core_ask(core, asks, n, &changes, &e), 0);
	assert_int_equal(cs_changes_apply_take(&changes, directory, &e), 0);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(asks[i]->claims[0].result, 0);
		cs_ask_free(asks[i]);
	}
}

struct comparing {
	const struct cs_directory *other;
	size_t n;
};

static void compare(void *data, const cs_record *record)
{
	struct comparing *c = data;
	const cs_record *same = cs_dir_get(c->other, record);
	assert_non_null(same);
	assert_true(cs_record_equal(record, same));
	c->n++;
}

/* Added one by one to what is compiled, or compiled all at once: the same directory. */
static void test_many_identities(void **state)
{
	(void)state;
	struct cs_changes changes = {0};
	struct cs_error e;
	write_file(policy,
		POLICY("  - fromEndpoints:\n    - matchLabels: {app: b}\n    authentication: {mode: required}\n"));
	open_core();
	for (unsigned i = 0; i < CS_COMPILE_ANEW_MAX; i += 200)
		claim_many(i, 200);
	for (unsigned i = 0; i < 90; i += 30)
		claim_many(CS_COMPILE_ANEW_MAX + 1 + i, 30);
	size_t rows = cs_dir_count(directory, KIND(POLICY_ROW)), locals = 19;
	assert_true(rows > locals * 100);
	uint64_t before = cs_dir_revision(directory);
	claimed("n2", "late", "k8s:app=b;k8s:late=1", 77);
	assert_int_equal(cs_dir_revision(directory), before + 1);
	assert_int_equal(cs_dir_count(directory, KIND(POLICY_ROW)), rows + locals);
	claimed("n2", "later", "k8s:app=z;k8s:late=1", 78); /* of whom no rule speaks */
	assert_int_equal(cs_dir_count(directory, KIND(POLICY_ROW)), rows + locals);
	/* Findings are the leader's to ask for. */
	assert_int_equal(cs_core_refresh_findings(core, &changes, &e), 0);
	assert_int_equal(cs_changes_apply_take(&changes, directory, &e), 0);
	assert_int_equal(cs_dir_revision(directory), before + 3);
	assert_int_equal(cs_core_refresh_findings(core, &changes, &e), 0);
	assert_int_equal(changes.revision, 0);
	struct comparing c = {.other = directory};
	cs_core_close(core);
	struct cs_directory *first = directory;
	open_core();
	assert_int_equal(cs_dir_revision(directory), cs_dir_revision(first));
	for (int kind = 1; kind <= KIND(REVOCATION); kind++)
		cs_dir_each(directory, (Countersign__V1__Kind)kind, compare, &(struct comparing){.other = first});
	c.other = directory;
	for (int kind = 1; kind <= KIND(REVOCATION); kind++)
		cs_dir_each(first, (Countersign__V1__Kind)kind, compare, &c);
	assert_true(c.n > 2500);
	cs_dir_free(first);
	close_core();
}

static struct cs_ask *node_ask(enum cs_ask_kind kind, bool gone)
{
	struct cs_ask *ask = cs_ask_new(kind, "n1", 0);
	ask->addrs[0] = (struct cs_ip){.len = 4, .bytes = {10, 0, 9, 1}};
	ask->naddrs = 1;
	ask->port = 4250;
	ask->path = cs_xstrdup("unknown");
	ask->gone = gone;
	return run(ask);
}

static void test_gone(void **state)
{
	(void)state;
	open_core();
	cs_ask_free(node_ask(CS_ASK_GONE, true)); /* it was never there */
	assert_null(cs_dir_node(directory, "n1"));
	cs_ask_free(node_ask(CS_ASK_HELLO, false));
	claimed("n1", "a", "k8s:app=a", 1);
	claimed("n2", "b", "k8s:app=b", 2);
	cs_ask_free(node_ask(CS_ASK_GONE, true));
	assert_true(cs_dir_node(directory, "n1")->gone);
	assert_int_equal(cs_dir_node(directory, "n1")->n_addresses, 1);
	uint64_t before = cs_dir_revision(directory);
	cs_ask_free(node_ask(CS_ASK_GONE, true));
	assert_int_equal(cs_dir_revision(directory), before);
	close_core();
	open_core();
	assert_true(cs_dir_node(directory, "n1")->gone);
	cs_ask_free(node_ask(CS_ASK_HELLO, false)); /* back */
	assert_false(cs_dir_node(directory, "n1")->gone);
	struct cs_ask *ask = node_ask(CS_ASK_FORGET, false);
	assert_int_equal(ask->nreleased, 1);
	cs_ask_free(ask);
	assert_null(cs_dir_node(directory, "n1"));
	assert_null(endpoint("n1", "a"));
	assert_non_null(endpoint("n2", "b"));
	assert_null(cs_dir_placement(directory, 256, "n1"));
	close_core();
}

static struct cs_ask *collect(bool dry_run, int64_t grace_ms)
{
	struct cs_ask *ask = cs_ask_new(CS_ASK_COLLECT, "", 0);
	ask->dry_run = dry_run;
	ask->grace_ms = grace_ms;
	ask->collect_max = 10;
	return run(ask);
}

static void test_collect(void **state)
{
	(void)state;
	open_core();
	claimed("n1", "a", "k8s:app=a", 1);
	claimed("n1", "b", "k8s:app=b", 2);
	release("n1", "b");
	uint64_t before = cs_dir_revision(directory);
	struct cs_ask *ask = collect(true, 0);
	assert_int_equal(ask->ncollected, 1);
	assert_int_equal(ask->collected[0].what, CS_COLLECT_MARK);
	assert_int_equal(ask->collected[0].identity, 257);
	cs_ask_free(ask);
	assert_int_equal(cs_dir_revision(directory), before);
	ask = collect(false, 0);
	assert_int_equal(ask->marked, 1);
	assert_int_equal(ask->deleted, 0);
	cs_ask_free(ask);
	assert_non_null(cs_dir_identity(directory, 257));
	ask = collect(true, 3600000);
	assert_int_equal(ask->collected[0].what, CS_COLLECT_WAIT);
	assert_true(ask->collected[0].left_ms > 3500000);
	cs_ask_free(ask);
	ask = collect(false, 0);
	assert_int_equal(ask->deleted, 1);
	cs_ask_free(ask);
	assert_null(cs_dir_identity(directory, 257));
	assert_non_null(cs_dir_identity(directory, 256));
	close_core();
}

static void test_hello(void **state)
{
	(void)state;
	open_core();
	struct cs_ask *ask = cs_ask_new(CS_ASK_HELLO, "n1", 0);
	ask->addrs[0] = (struct cs_ip){.len = 4, .bytes = {10, 0, 0, 1}};
	ask->naddrs = 1;
	ask->port = 4250;
	ask->path = cs_xstrdup("wireguard");
	run(ask);
	assert_int_equal(ask->result, 0);
	assert_string_equal(cs_dir_node(directory, "n1")->path, "wireguard");
	/* Another node with that address. */
	free(ask->node);
	ask->node = cs_xstrdup("n2");
	run(ask);
	assert_int_equal(ask->error.reason, CS_R_NODE_ADDRESS_TAKEN);
	assert_null(cs_dir_node(directory, "n2"));
	cs_ask_free(ask);
	close_core();
}

/* --- revocations --- */

static int64_t now_unix_ms;

static int64_t test_unix_ms(void *data)
{
	(void)data;
	return now_unix_ms;
}

static size_t revocations(void)
{
	return cs_dir_count(directory, COUNTERSIGN__V1__KIND__KIND_REVOCATION);
}

static struct cs_ask *revoke_id(uint32_t identity, const char *why, int64_t until_unix_s)
{
	Countersign__V1__Revocation m = COUNTERSIGN__V1__REVOCATION__INIT;
	struct cs_ask *ask = cs_ask_new(CS_ASK_REVOKE, "", 0);
	uint8_t bytes[512];
	m.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY;
	m.identity = identity;
	m.why = (char *)why;
	m.until_unix_s = until_unix_s;
	ask->revocation =
		countersign__v1__revocation__unpack(NULL, countersign__v1__revocation__pack(&m, bytes), bytes);
	ask->uid = 0;
	return run(ask);
}

static void expire(void)
{
	struct cs_changes changes = {0};
	struct cs_error e;
	assert_int_equal(cs_core_expire(core, &changes, &e), 0);
	assert_int_equal(cs_changes_apply_take(&changes, directory, &e), 0);
}

static void test_revocations(void **state)
{
	(void)state;
	struct cs_clock clock = cs_clock_system;
	clock.unix_ms = test_unix_ms;
	now_unix_ms = 1000000000;
	config.clock = &clock;
	config.svid_max_life_ms = 60000;
	open_core();
	uint32_t id = claimed("n1", "a", "k8s:app=a", 1);
	struct cs_ask *ask = revoke_id(id, "because", 0);
	assert_int_equal(ask->result, 0);
	assert_int_equal(ask->revocation->from_unix_s, 1000000);
	assert_int_equal(ask->revocation->until_unix_s, 1000060);
	assert_string_equal(ask->revocation->who, "root (uid 0)");
	cs_ask_free(ask);
	/* What is refused is in no directory. */
	ask = revoke_id(id, "because", 1000059);
	assert_int_equal(ask->result, -EINVAL);
	cs_ask_free(ask);
	ask = revoke_id(id + 1, "because", 0);
	assert_int_equal(ask->result, -ENOENT);
	cs_ask_free(ask);
	assert_int_equal(revocations(), 1);
	/* It outlives the process, and goes when its time is over: not a second earlier. */
	close_core();
	open_core();
	now_unix_ms = 1000059999;
	expire();
	assert_int_equal(revocations(), 1);
	now_unix_ms = 1000060000;
	uint64_t before = cs_dir_revision(directory);
	expire();
	assert_int_equal(revocations(), 0);
	assert_true(cs_dir_revision(directory) > before);
	close_core();
	open_core();
	assert_int_equal(revocations(), 0);
	close_core();
}

/* What is left out of the identity is left out of placement too: a placement must not rest on what no identity has. */
static void test_filtered_labels(void **state)
{
	(void)state;
	config.authority = CS_AUTHORITY_STATIC;
	write_file(placement, "placements:\n"
			      "- {labels: [\"k8s:app=a\"], nodes: [n1]}\n"
			      "- {labels: [\"k8s:pod-template-hash=1\"], nodes: [n2]}\n");
	struct cs_changes changes = {0};
	struct cs_error e = {0};
	assert_int_equal(cs_core_open(&config, &core, &changes, &e), -EINVAL);
	core = NULL;
	assert_non_null(strstr(e.text, "placements[1]: k8s:pod-template-hash is in no identity"));
	write_file(placement, "placements:\n- {labels: [\"k8s:app=a\"], nodes: [n1]}\n");
	open_core();
	uint32_t id = claimed("n1", "a", "k8s:app=a;k8s:pod-template-hash=1", 1);
	assert_int_equal(claimed("n1", "b", "k8s:app=a;k8s:pod-template-hash=2", 2), id);
	struct cs_ask *ask = claim("n2", "c", "k8s:app=a;k8s:pod-template-hash=1", 3);
	assert_int_equal(ask->claims[0].error.reason, CS_R_PLACEMENT_REFUSED);
	cs_ask_free(ask);
	ask = claim("n1", "d", "k8s:pod-template-hash=1", 4);
	assert_int_equal(ask->claims[0].error.reason, CS_R_LABELS_INVALID);
	assert_null(endpoint("n1", "d"));
	cs_ask_free(ask);
	close_core();
}

static void test_fixed_identities(void **state)
{
	(void)state;
	char *fixed[] = {(char *)"128=payments"};
	const struct cs_numbers_config own = {
		.cluster_id = 2, .clusters_max = 255, .trust_domain = "example.org", .fixed = {fixed, 1}};
	struct cs_error e;
	cs_numbers_fini(&numbers);
	assert_int_equal(cs_numbers_init(&numbers, &own, &e), 0);
	open_core();
	assert_int_equal(claimed("n1", "a", "k8s:app=a;k8s:io.cilium.fixed-identity=payments", 1), 128);
	assert_int_equal(claimed("n1", "b", "k8s:app=b;k8s:io.cilium.fixed-identity=payments", 2), 128);
	assert_int_equal(claimed("n1", "c", "k8s:app=c", 3), 2 << 16);
	struct cs_ask *ask = claim("n1", "d", "k8s:app=d;k8s:io.cilium.fixed-identity=orders", 4);
	assert_int_equal(ask->claims[0].error.reason, CS_R_LABELS_INVALID);
	assert_non_null(strstr(ask->claims[0].error.text, "'orders'"));
	cs_ask_free(ask);
	close_core();
}

/* The range of a number belongs to a trust domain, and a store that says otherwise is not served. */
static void test_trust_domain_of_the_range(void **state)
{
	(void)state;
	const struct cs_numbers_config other = {.clusters_max = 255, .trust_domain = "other.example"};
	struct cs_changes changes = {0};
	struct cs_error e = {0};
	open_core();
	claimed("n1", "a", "k8s:app=a", 1);
	close_core();
	cs_numbers_fini(&numbers);
	assert_int_equal(cs_numbers_init(&numbers, &other, &e), 0);
	assert_int_equal(cs_core_open(&config, &core, &changes, &e), -EACCES);
	assert_int_equal(e.reason, CS_R_TRUST_DOMAIN_MISMATCH);
	assert_non_null(strstr(e.text, "the store says that 256 is spiffe://example.org/identity/256"));
}

int main(void)
{
	if (!mkdtemp(dir))
		return 1;
	snprintf(store, sizeof(store), "%s/store.db", dir);
	snprintf(placement, sizeof(placement), "%s/placement", dir);
	snprintf(policies, sizeof(policies), "%s", dir);
	snprintf(policy, sizeof(policy), "%s/p.yaml", policies);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_claims, setup),
		cmocka_unit_test_setup(test_reconcile, setup),
		cmocka_unit_test_setup(test_static_placement, setup),
		cmocka_unit_test_setup(test_policy, setup),
		cmocka_unit_test_setup(test_many_identities, setup),
		cmocka_unit_test_setup(test_gone, setup),
		cmocka_unit_test_setup(test_collect, setup),
		cmocka_unit_test_setup(test_hello, setup),
		cmocka_unit_test_setup(test_revocations, setup),
		cmocka_unit_test_setup(test_filtered_labels, setup),
		cmocka_unit_test_setup(test_fixed_identities, setup),
		cmocka_unit_test_setup(test_trust_domain_of_the_range, setup),
	};
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	remove_store();
	cs_numbers_fini(&numbers);
	cs_label_filter_free(filter);
	rmdir(dir);
	return r;
}
