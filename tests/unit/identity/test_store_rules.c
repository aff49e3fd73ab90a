/* What every store keeps to, whatever it rests on. SQLite by default; with COUNTERSIGN_TEST_ETCD=HOST:PORT[,...] the same
 * on etcd (tests/integration/test_store.py runs it so). */
#include <countersign/maps.h>
#include <countersign/v1/directory.pb-c.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
#include "mem.h"
#include "store_fixture.h"

#define HOUR_MS 3600000

/* --- numbers and claims --- */

static void test_reopen(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	struct told l;
	store_list(s, &l);
	uint64_t epoch = l.epoch;
	assert_true(epoch != 0);
	assert_string_equal(l.text, "= 1\n");
	struct cs_store_op node = {.kind = CS_STORE_NODE,
		.node = {.name = "n1", .addrs = {ip4(1)}, .naddrs = 1, .port = 4250, .path = "unknown"}};
	assert_int_equal(commit_op(s, &node, NULL), 0);
	assert_true(node.changed);
	assert_int_equal(claim_now(s, "n1", "a", "k8s:app=a;", 100), 256);
	assert_int_equal(claim_now(s, "n1", "b", "k8s:app=b;", 101), 257);
	assert_int_equal(claim_now(s, "n2", "a", "k8s:app=a;", 102), 256);
	struct cs_store_op prefix = {.kind = CS_STORE_PREFIX,
		.prefix = {.prefix = {.family = 4, .bits = 8, .addr = {10}}, .id = CS_ID_LOCAL_SCOPE | 1}};
	uint64_t revision;
	assert_int_equal(commit_op(s, &prefix, &revision), 0);
	assert_int_equal(revision, 6);
	cs_store_close(s);

	s = store_open();
	store_list(s, &l);
	uint64_t incarnations = l.incarnations;
	assert_true(l.epoch == epoch);
	assert_int_equal(l.revision, 6);
	assert_int_equal(l.identities, 2);
	static const char *const facts[] = {"+ identity 256 k8s:app=a; spiffe://example.org/identity/256\n",
		"+ identity 257 k8s:app=b; spiffe://example.org/identity/257\n", "+ node n1 1 4250 unknown\n",
		"+ claim n1 a 256 10.0.0.100\n", "+ claim n1 b 257 10.0.0.101\n", "+ claim n2 a 256 10.0.0.102\n",
		"+ prefix 16777217 /8 v4\n"};
	for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++)
		if (!strstr(l.text, facts[i]))
			fail_msg("'%s' is not in '%s'", facts[i], l.text);
	cs_store_close(s);
	s = store_open();
	store_list(s, &l);
	assert_true(l.incarnations == incarnations);
	cs_store_close(s);
}

static void test_what_is_there_is_no_revision(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	struct cs_store_op op = claim_op("n1", "a", "k8s:app=a;", 1);
	uint64_t revision;
	assert_int_equal(commit_op(s, &op, &revision), 0);
	assert_true(op.changed && op.created);
	assert_string_equal(op.spiffe_id, "spiffe://example.org/identity/256");
	assert_true(op.created_unix_ms == store_unix_ms);
	assert_int_equal(revision, 2);
	assert_int_equal(commit_op(s, &op, &revision), 0);
	assert_false(op.changed || op.created);
	assert_int_equal(op.identity, 256);
	assert_string_equal(op.spiffe_id, "spiffe://example.org/identity/256");
	assert_int_equal(revision, 2);
	op.claim.addrs[0] = ip4(2);
	assert_int_equal(commit_op(s, &op, &revision), 0);
	assert_true(op.changed);
	assert_int_equal(revision, 3);
	cs_store_op_fini(&op);
	/* The old address is free again. */
	claim_now(s, "n2", "b", "k8s:app=b;", 1);
	struct cs_store_op only_revision = {.kind = CS_STORE_REVISION};
	assert_int_equal(commit_op(s, &only_revision, &revision), 0);
	assert_int_equal(revision, 5);
	cs_store_close(s);
}

static void test_refusals_leave_the_others(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	struct cs_store_op first = claim_op("n1", "b", "k8s:app=b;", 2), taken = claim_op("n2", "x", "k8s:app=x;", 1),
			   third = claim_op("n1", "c", "k8s:app=c;", 3);
	struct cs_store_op *ops[] = {&first, &taken, &third};
	struct cs_error e;
	uint64_t revision;
	assert_int_equal(cs_store_commit(s, ops, 3, NULL, &revision, &e), 0);
	assert_int_equal(first.result, 0);
	assert_int_equal(third.result, 0);
	assert_int_equal(taken.error.reason, CS_R_ADDRESS_TAKEN);
	assert_string_equal(taken.error.text, "10.0.0.1 belongs to endpoint 'a' on node n1");
	assert_null(cs_facts_identity_of(cs_store_facts(s), "k8s:app=x;")); /* a refused claim makes no identity */
	assert_int_equal(third.identity, 258);
	for (int i = 0; i < 3; i++)
		cs_store_op_fini(ops[i]);
	struct cs_store_op node = {.kind = CS_STORE_NODE,
		.node = {.name = "n1", .addrs = {ip4(1)}, .naddrs = 1, .port = 4250, .path = "unknown"}};
	assert_int_equal(commit_op(s, &node, NULL), 0);
	assert_int_equal(node.error.reason, CS_R_NODE_ADDRESS_TAKEN); /* by an endpoint */
	node.node.addrs[0] = ip4(9);
	assert_int_equal(commit_op(s, &node, NULL), 0);
	assert_int_equal(node.result, 0);
	struct cs_store_op forged = claim_op("n2", "x", "k8s:app=x;", 9);
	assert_int_equal(commit_op(s, &forged, NULL), 0);
	assert_int_equal(forged.error.reason, CS_R_ADDRESS_TAKEN); /* of a node */
	assert_string_equal(forged.error.text, "10.0.0.9 is an address of node n1 itself");
	cs_store_op_fini(&forged);
	node.node.name = "n2";
	assert_int_equal(commit_op(s, &node, NULL), 0);
	assert_int_equal(node.error.reason, CS_R_NODE_ADDRESS_TAKEN);
	cs_store_close(s);
}

/* What could not be read again is not stored. */
static void test_malformed(void **state)
{
	(void)state;
	static char long_name[CS_NODE_NAME_BYTES + 2], long_id[CS_ENDPOINT_ID_MAX + 2], long_labels[5000];
	memset(long_name, 'n', sizeof(long_name) - 1);
	memset(long_id, 'e', sizeof(long_id) - 1);
	memset(long_labels, 'l', sizeof(long_labels) - 1);
	const struct cs_store_op bad[] = {claim_op("", "a", "k8s:a=b;", 1), claim_op(long_name, "a", "k8s:a=b;", 1),
		claim_op("n/1", "a", "k8s:a=b;", 1), claim_op("n1", "", "k8s:a=b;", 1),
		claim_op("n1", long_id, "k8s:a=b;", 1), claim_op("n1", "a", "", 1), claim_op("n1", "a", long_labels, 1),
		{.kind = CS_STORE_NODE, .node = {.name = "n/1", .path = "unknown"}}};
	struct cs_store *s = store_open();
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct cs_store_op op = bad[i];
		assert_int_equal(commit_op(s, &op, NULL), 0);
		assert_int_equal(op.error.reason, CS_R_LABELS_INVALID);
	}
	long_name[CS_NODE_NAME_BYTES] = long_id[CS_ENDPOINT_ID_MAX] = '\0';
	claim_now(s, long_name, long_id, "k8s:a=b;", 1);
	cs_store_close(s);
	s = store_open();
	assert_non_null(cs_facts_claim(cs_store_facts(s), long_name, long_id));
	cs_store_close(s);
}

static void test_release_and_keep(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	const struct cs_facts *facts = cs_store_facts(s);
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	claim_now(s, "n1", "b", "k8s:app=b;", 2);
	claim_now(s, "n1", "c", "k8s:app=c;", 3);
	claim_now(s, "n2", "d", "k8s:app=a;", 4);
	assert_int_equal(cs_facts_references(facts, 256), 2);
	struct cs_store_op op = {.kind = CS_STORE_RELEASE, .claim = {.node = "n1", .endpoint = "b"}};
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.nreleased, 1);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.nreleased, 0);
	assert_false(op.changed);
	const char *keep[] = {"c", "not there", "c"};
	struct cs_store_op rest = {.kind = CS_STORE_KEEP, .claim = {.node = "n1"}, .keep = keep, .nkeep = 3};
	assert_int_equal(commit_op(s, &rest, NULL), 0);
	assert_int_equal(rest.nreleased, 1);
	assert_string_equal(rest.released[0], "a");
	cs_store_op_fini(&rest);
	assert_int_equal(cs_facts_count(facts, CS_FACT_CLAIM), 2);    /* n1/c, n2/d */
	assert_int_equal(cs_facts_count(facts, CS_FACT_IDENTITY), 3); /* identities stay */
	assert_int_equal(cs_facts_references(facts, 256), 1);
	assert_int_equal(cs_facts_claims_of(facts, "n1"), 1);
	assert_int_equal(claim_now(s, "n3", "x", "k8s:app=b;", 1), 257);
	cs_store_close(s);
}

/* A node that is gone, comes back, and is forgotten. */
static void test_nodes(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	struct cs_store_op node = {.kind = CS_STORE_NODE,
		.node = {.name = "n1", .addrs = {ip4(1)}, .naddrs = 1, .port = 4250, .path = "unknown"}};
	assert_int_equal(commit_op(s, &node, NULL), 0);
	assert_int_equal(commit_op(s, &node, NULL), 0);
	assert_false(node.changed);
	node.node.gone = true;
	assert_int_equal(commit_op(s, &node, NULL), 0);
	assert_true(node.changed && cs_facts_node(cs_store_facts(s), "n1")->gone);
	static char names[300][8];
	for (uint32_t i = 0; i < 300; i++) {
		snprintf(names[i], sizeof(names[i]), "e%u", i);
		claim_now(s, "n1", names[i], "k8s:app=a;", 100 + i);
	}
	claim_now(s, "n2", "other", "k8s:app=a;", 2);
	struct cs_store_op forget = {.kind = CS_STORE_NODE_FORGET, .node = {.name = "n1"}};
	assert_int_equal(commit_op(s, &forget, NULL), 0);
	assert_int_equal(forget.nreleased, 300);
	assert_true(forget.changed);
	cs_store_op_fini(&forget);
	assert_null(cs_facts_node(cs_store_facts(s), "n1"));
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 1);
	assert_int_equal(commit_op(s, &forget, NULL), 0);
	assert_false(forget.changed);
	/* Its addresses are free. */
	claim_now(s, "n2", "x", "k8s:app=a;", 1);
	cs_store_close(s);
}

static void test_node_bound(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	struct cs_error e;
	struct cs_store_op *ops = cs_xcalloc(CS_NODE_ENDPOINTS_MAX + 1, sizeof(*ops));
	struct cs_store_op **refs = cs_xcalloc(CS_NODE_ENDPOINTS_MAX + 1, sizeof(*refs));
	char(*ids)[16] = cs_xcalloc(CS_NODE_ENDPOINTS_MAX + 1, sizeof(*ids));
	for (int i = 0; i <= CS_NODE_ENDPOINTS_MAX; i++) {
		snprintf(ids[i], sizeof(ids[i]), "e%d", i);
		ops[i] = (struct cs_store_op){
			.kind = CS_STORE_CLAIM, .claim = {.node = "n", .endpoint = ids[i]}, .labels = "k8s:a=b;"};
		refs[i] = &ops[i];
	}
	ops[CS_NODE_ENDPOINTS_MAX].labels = "k8s:other=1;";
	uint64_t revision;
	assert_int_equal(cs_store_commit(s, refs, CS_NODE_ENDPOINTS_MAX + 1, NULL, &revision, &e), 0);
	assert_int_equal(ops[CS_NODE_ENDPOINTS_MAX - 1].result, 0);
	assert_int_equal(ops[CS_NODE_ENDPOINTS_MAX].error.reason, CS_R_TOO_MANY);
	assert_null(cs_facts_identity_of(cs_store_facts(s), "k8s:other=1;"));
	for (int i = 0; i <= CS_NODE_ENDPOINTS_MAX; i++)
		cs_store_op_fini(&ops[i]);
	free(ids);
	free(refs);
	free(ops);
	cs_store_close(s);
}

static void test_fixed_numbers(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	struct cs_store_op op = claim_op("n1", "a", "reserved:db=;", 1);
	op.fixed = 130;
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.result, 0);
	assert_int_equal(op.identity, 130);
	cs_store_op_fini(&op);
	/* The number is taken; these labels have another; nobody gets it by chance. */
	struct cs_store_op taken = claim_op("n1", "b", "reserved:other=;", 2);
	taken.fixed = 130;
	assert_int_equal(commit_op(s, &taken, NULL), 0);
	assert_int_equal(taken.error.reason, CS_R_LABELS_INVALID);
	assert_int_equal(claim_now(s, "n1", "c", "k8s:app=c;", 3), 256);
	struct cs_store_op moved = claim_op("n1", "d", "k8s:app=c;", 4);
	moved.fixed = 131;
	assert_int_equal(commit_op(s, &moved, NULL), 0);
	assert_int_equal(moved.error.reason, CS_R_LABELS_INVALID);
	cs_store_op_fini(&moved);
	/* It is not collected: the configuration gave it. */
	release_now(s, "n1", "a");
	assert_int_equal(gc_now(s, 0, 100).marked, 0);
	cs_store_close(s);
}

static void test_spiffe_ids_are_unique(void **state)
{
	(void)state;
	store_config.spiffe_id_template = "spiffe://example.org/identity/2{id}";
	struct cs_store *s = store_open();
	claim_now(s, "n1", "a", "k8s:a=1;", 1); /* .../2256 */
	cs_store_close(s);
	store_config.spiffe_id_template = STORE_TEMPLATE;
	store_config.id_min = 2256;
	store_config.id_max = 2300;
	s = store_open();
	struct cs_store_op op = claim_op("n1", "b", "k8s:b=1;", 2);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.error.reason, CS_R_SPIFFE_ID_TAKEN);
	assert_false(op.changed);
	cs_store_op_fini(&op);
	/* With the earlier template it is another one. */
	cs_store_close(s);
	store_config.spiffe_id_template = "spiffe://example.org/identity/2{id}";
	s = store_open();
	assert_int_equal(claim_now(s, "n1", "b", "k8s:b=1;", 2), 2256);
	cs_store_close(s);
}

/* Nor does a SPIFFE ID come back, by another template, before the rest of the number that had it is over. */
static void test_spiffe_ids_rest(void **state)
{
	(void)state;
	store_config.id_quarantine_ms = HOUR_MS;
	store_config.spiffe_id_template = "spiffe://example.org/identity/2{id}";
	struct cs_store *s = store_open();
	claim_now(s, "n1", "a", "k8s:a=1;", 1); /* .../2256 */
	release_now(s, "n1", "a");
	gc_now(s, 0, 10);
	assert_int_equal(gc_now(s, 0, 10).deleted, 1);
	cs_store_close(s);
	store_config.spiffe_id_template = STORE_TEMPLATE;
	store_config.id_min = store_config.id_max = 2256;
	s = store_open();
	assert_int_equal(try_claim(s, "n1", "b", "k8s:b=1;", 2), CS_R_SPIFFE_ID_TAKEN);
	store_pass_ms(HOUR_MS - 1);
	assert_int_equal(try_claim(s, "n1", "b", "k8s:b=1;", 2), CS_R_SPIFFE_ID_TAKEN);
	store_pass_ms(1);
	assert_int_equal(claim_now(s, "n1", "b", "k8s:b=1;", 2), 2256);
	cs_store_close(s);
	s = store_open();
	gc_now(s, 0, 10);
	cs_store_close(s);
}

static void test_exhausted(void **state)
{
	(void)state;
	store_config.id_min = 65536 + 256; /* another cluster's range */
	store_config.id_max = 65536 + 265;
	store_config.id_quarantine_ms = HOUR_MS;
	struct cs_store *s = store_open();
	for (uint32_t i = 0; i < 10; i++) {
		char labels[96], endpoint[8];
		snprintf(labels, sizeof(labels), "k8s:io.kubernetes.pod.namespace=%s;k8s:pod=%u;",
			i < 7 ? "shop" : "web", i);
		snprintf(endpoint, sizeof(endpoint), "e%u", i);
		assert_int_equal(claim_now(s, "n1", endpoint, labels, i), 65536 + 256 + i);
	}
	release_now(s, "n1", "e9");
	assert_int_equal(gc_now(s, 0, 100).marked, 1);
	assert_int_equal(gc_now(s, 0, 100).deleted, 1);
	struct cs_store_op op = claim_op("n1", "late", "k8s:late=1;", 99);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.error.reason, CS_R_IDENTITIES_EXHAUSTED);
	static const char *const said[] = {"all 10 identities from 65792 to 65801", "9 are in use", "shop 7, web 2",
		"pod 9", "1 rest", "id.quarantine"};
	for (size_t i = 0; i < sizeof(said) / sizeof(said[0]); i++)
		if (!strstr(op.error.text, said[i]))
			fail_msg("'%s' is not in '%s'", said[i], op.error.text);
	struct cs_store_usage usage;
	cs_store_usage(s, &usage);
	assert_int_equal(usage.size, 10);
	assert_int_equal(usage.in_use, 9);
	assert_int_equal(usage.resting, 1);
	/* Who has one keeps it; and a number that has rested is given again. */
	claim_now(s, "n2", "again", "k8s:io.kubernetes.pod.namespace=shop;k8s:pod=0;", 100);
	store_pass_ms(HOUR_MS);
	assert_int_equal(claim_now(s, "n1", "late", "k8s:late=1;", 99), 65801);
	cs_store_close(s);
}

/* --- addresses that were let go --- */

static void test_address_quarantine(void **state)
{
	(void)state;
	store_config.address_quarantine_ms = 75000;
	struct cs_store *s = store_open();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	release_now(s, "n1", "a");
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 1), CS_R_ADDRESS_IN_QUARANTINE);
	cs_store_close(s); /* it outlives the process */
	s = store_open();
	store_pass_ms(74999);
	struct cs_store_op early = claim_op("n1", "b", "k8s:app=b;", 1);
	assert_int_equal(commit_op(s, &early, NULL), 0);
	assert_int_equal(early.error.reason, CS_R_ADDRESS_IN_QUARANTINE);
	assert_string_equal(early.error.text,
		"10.0.0.1 was identity 256's until a moment ago; it can be another's in 1 s (address.quarantine)");
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 2), CS_R_NONE);
	/* A name is no identity: also one of that name, with other labels, waits. */
	assert_int_equal(try_claim(s, "n1", "a", "k8s:app=b;", 1), CS_R_ADDRESS_IN_QUARANTINE);
	/* The same identity may have it at once. */
	assert_int_equal(try_claim(s, "n2", "c", "k8s:app=a;", 1), CS_R_NONE);
	release_now(s, "n2", "c");
	store_pass_ms(75000);
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 1), CS_R_NONE);
	/* Other labels for the same endpoint: the address stays with the workload. */
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=c;", 1), CS_R_NONE);
	/* An address that the endpoint gave up is not another's. */
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=c;", 5), CS_R_NONE);
	assert_int_equal(try_claim(s, "n1", "d", "k8s:app=d;", 1), CS_R_ADDRESS_IN_QUARANTINE);
	/* A wall clock that jumps, whichever way, neither shortens it nor locks it up. */
	store_unix_ms += 1000000000;
	assert_int_equal(try_claim(s, "n1", "d", "k8s:app=d;", 1), CS_R_ADDRESS_IN_QUARANTINE);
	store_unix_ms -= 3000000000;
	store_pass_ms(74000);
	assert_int_equal(try_claim(s, "n1", "d", "k8s:app=d;", 1), CS_R_ADDRESS_IN_QUARANTINE);
	store_pass_ms(1000);
	assert_int_equal(try_claim(s, "n1", "d", "k8s:app=d;", 1), CS_R_NONE);
	cs_store_close(s);
}

static void test_no_address_quarantine(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	release_now(s, "n1", "a");
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 1), CS_R_NONE);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_ADDRESS), 0);
	cs_store_close(s);
}

/* --- numbers that nobody refers to --- */

static void test_gc_has_two_phases(void **state)
{
	(void)state;
	store_config.id_quarantine_ms = 26 * HOUR_MS;
	struct cs_store *s = store_open();
	const struct cs_facts *facts = cs_store_facts(s);
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	claim_now(s, "n1", "b", "k8s:app=b;", 2);
	claim_now(s, "n1", "c", "k8s:app=c;", 3);
	assert_int_equal(gc_now(s, HOUR_MS, 100).marked, 0); /* all are referred to */
	release_now(s, "n1", "a");
	release_now(s, "n1", "b");
	struct cs_store_gc gc = gc_now(s, HOUR_MS, 100);
	assert_int_equal(gc.marked, 2);
	assert_int_equal(gc.deleted, 0);
	store_pass_ms(HOUR_MS - 1);
	assert_int_equal(gc_now(s, HOUR_MS, 100).deleted, 0);
	/* Somebody came back: the mark goes, and the number is kept. */
	assert_int_equal(claim_now(s, "n2", "b", "k8s:app=b;", 2), 257);
	assert_true(cs_facts_identity(facts, 257)->idle_since_store_ms == 0);
	store_pass_ms(1);
	gc = gc_now(s, HOUR_MS, 100);
	assert_int_equal(gc.marked, 0);
	assert_int_equal(gc.deleted, 1);
	assert_null(cs_facts_identity(facts, 256));
	assert_non_null(cs_facts_identity(facts, 257));
	assert_non_null(cs_facts_retired(facts, 256));
	/* The same labels get another number. */
	assert_int_equal(claim_now(s, "n1", "a", "k8s:app=a;", 1), 259);
	cs_store_close(s);
}

static void test_gc_is_limited(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	for (uint32_t i = 0; i < 10; i++) {
		char labels[32];
		snprintf(labels, sizeof(labels), "k8s:n=%u;", i);
		claim_now(s, "n1", labels, labels, i);
		release_now(s, "n1", labels);
	}
	struct cs_store_gc gc = gc_now(s, 0, 4);
	assert_int_equal(gc.marked, 4);
	assert_true(gc.more);
	gc = gc_now(s, 0, 4);
	assert_int_equal(gc.marked, 4);
	assert_int_equal(gc.deleted, 4);
	gc = gc_now(s, 0, 100);
	assert_int_equal(gc.marked, 2);
	assert_int_equal(gc.deleted, 4);
	assert_false(gc.more);
	assert_int_equal(gc_now(s, 0, 100).deleted, 2);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_IDENTITY), 0);
	cs_store_close(s);
}

/* The plan says what the next run does, and does nothing itself. */
static void test_gc_plan(void **state)
{
	(void)state;
	store_config.id_quarantine_ms = 26 * HOUR_MS;
	struct cs_store *s = store_open();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	struct planned p = plan_now(s, HOUR_MS);
	assert_int_equal(p.mark + p.marked + p.remove + p.resting, 0);
	release_now(s, "n1", "a");
	for (int i = 0; i < 2; i++)
		assert_int_equal(plan_now(s, HOUR_MS).mark, 1);
	gc_now(s, HOUR_MS, 10);
	store_pass_ms(1000);
	p = plan_now(s, HOUR_MS);
	assert_int_equal(p.marked, 1);
	assert_true(p.left_ms == HOUR_MS - 1000);
	store_pass_ms(HOUR_MS);
	assert_int_equal(plan_now(s, HOUR_MS).remove, 1);
	gc_now(s, HOUR_MS, 10);
	p = plan_now(s, HOUR_MS);
	assert_int_equal(p.remove, 0);
	assert_int_equal(p.resting, 1);
	assert_true(p.left_ms == 26 * HOUR_MS);
	cs_store_close(s);
}

/* A range of one number: it comes back when its rest is over, and not a moment earlier, whatever the clocks say. */
static void test_a_number_rests(void **state)
{
	(void)state;
	store_config.id_quarantine_ms = 26 * HOUR_MS;
	store_config.id_min = store_config.id_max = 300;
	struct cs_store *s = store_open();
	uint64_t first = 0;
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	first = cs_facts_identity(cs_store_facts(s), 300)->incarnation;
	release_now(s, "n1", "a");
	gc_now(s, 0, 10);
	assert_int_equal(gc_now(s, 0, 10).deleted, 1);
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 2), CS_R_IDENTITIES_EXHAUSTED);
	store_unix_ms += 1000 * (int64_t)HOUR_MS;
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 2), CS_R_IDENTITIES_EXHAUSTED);
	store_unix_ms -= 5000 * (int64_t)HOUR_MS;
	store_pass_ms(25 * HOUR_MS);
	gc_now(s, 0, 10); /* writes the time down */
	cs_store_close(s);
	store_unix_ms += 9000 * (int64_t)HOUR_MS;
	store_mono_ms = 1; /* the machine was started anew */
	s = store_open();
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 2), CS_R_IDENTITIES_EXHAUSTED);
	store_pass_ms(HOUR_MS - 1);
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 2), CS_R_IDENTITIES_EXHAUSTED);
	store_pass_ms(1);
	assert_int_equal(claim_now(s, "n1", "b", "k8s:app=b;", 2), 300);
	assert_true(cs_facts_identity(cs_store_facts(s), 300)->incarnation != first);
	assert_null(cs_facts_retired(cs_store_facts(s), 300));
	cs_store_close(s);
}

/* Numbers that nobody had come before those that somebody had. */
static void test_numbers_go_round(void **state)
{
	(void)state;
	store_config.id_min = 1000;
	store_config.id_max = 1003;
	struct cs_store *s = store_open();
	for (uint32_t i = 0; i < 9; i++) {
		char labels[32];
		snprintf(labels, sizeof(labels), "k8s:n=%u;", i);
		assert_int_equal(claim_now(s, "n1", "a", labels, 1), 1000 + i % 4);
		gc_now(s, 0, 10);
		gc_now(s, 0, 10);
		cs_store_close(s);
		s = store_open();
	}
	cs_store_close(s);
}

/* --- revocations and documents --- */

static void revoke_identity(struct cs_store *s, const char *id, uint32_t identity)
{
	Countersign__V1__Revocation m = COUNTERSIGN__V1__REVOCATION__INIT;
	uint8_t body[64];
	m.id = (char *)id;
	m.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY;
	m.identity = identity;
	struct cs_store_op op = {.kind = CS_STORE_REVOKE,
		.revocation = {.id = id, .body = body, .n = countersign__v1__revocation__pack(&m, body)}};
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.result, 0);
	assert_true(op.changed);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_false(op.changed);
}

static void test_revocations(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	claim_now(s, "n1", "b", "k8s:app=b;", 2);
	revoke_identity(s, "r1", 256);
	release_now(s, "n1", "a");
	release_now(s, "n1", "b");
	/* A number that is refused must not become another's. */
	assert_int_equal(gc_now(s, 0, 10).marked, 2);
	assert_int_equal(gc_now(s, 0, 10).deleted, 1);
	assert_non_null(cs_facts_identity(cs_store_facts(s), 256));
	cs_store_close(s);
	s = store_open();
	assert_non_null(cs_facts_revocation(cs_store_facts(s), "r1"));
	struct cs_store_op gone = {.kind = CS_STORE_UNREVOKE, .revocation = {.id = "r1"}};
	assert_int_equal(commit_op(s, &gone, NULL), 0);
	assert_true(gone.changed);
	assert_int_equal(commit_op(s, &gone, NULL), 0);
	assert_int_equal(gone.result, -ENOENT);
	assert_null(cs_facts_revocation(cs_store_facts(s), "r1"));
	assert_int_equal(gc_now(s, 0, 10).deleted, 1);
	cs_store_close(s);
}

static struct cs_store_op documents_op(const struct cs_store_file *files, size_t n)
{
	return (struct cs_store_op){.kind = CS_STORE_DOCUMENTS, .documents = {.set = "policy", .files = files, .n = n}};
}

/* The set as "name=bytes;..." */
static void documents_text(struct cs_store *s, char out[256])
{
	const struct cs_store_documents *d = cs_facts_documents(cs_store_facts(s), "policy");
	size_t n = 0;
	out[0] = '\0';
	for (size_t i = 0; d && i < d->n; i++) {
		const struct cs_store_blob *blob = cs_facts_blob(cs_store_facts(s), d->items[i].sha256);
		assert_non_null(blob);
		n += (size_t)snprintf(
			out + n, 256 - n, "%s=%.*s;", d->items[i].name, (int)blob->n, (const char *)blob->bytes);
	}
}

static void test_documents(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	struct cs_store_file files[] = {{"a.yaml", "one", 3}, {"b.yaml", "two", 3}, {"c.yaml", "one", 3}};
	struct cs_store_op op = documents_op(files, 3);
	char text[256];
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_true(op.changed);
	documents_text(s, text);
	assert_string_equal(text, "a.yaml=one;b.yaml=two;c.yaml=one;");
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_BLOB), 2);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_false(op.changed);
	cs_store_close(s);
	s = store_open();
	files[1] = (struct cs_store_file){"b.yaml", "three", 5};
	op = documents_op(files, 2);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	documents_text(s, text);
	assert_string_equal(text, "a.yaml=one;b.yaml=three;");
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_BLOB), 2); /* "two" is nobody's */
	op = documents_op(NULL, 0);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	documents_text(s, text);
	assert_string_equal(text, "");
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_BLOB), 0);
	cs_store_close(s);
}

/* More than one revision may hold: the set is told once, when all of its bytes are there. */
static void test_large_documents(void **state)
{
	(void)state;
	enum { N = 5 };
	struct cs_store *s = store_open();
	struct cs_store_file files[N];
	char names[N][8];
	for (int i = 0; i < N; i++) {
		char *bytes = cs_xcalloc(1, CS_STORE_FILE_MAX + 1);
		memset(bytes, 'a' + i, CS_STORE_FILE_MAX + 1);
		snprintf(names[i], sizeof(names[i]), "%d.yaml", i);
		files[i] = (struct cs_store_file){names[i], bytes, CS_STORE_FILE_MAX};
	}
	struct cs_store_op op = documents_op(files, N), *ops[] = {&op};
	struct told *told = cs_xcalloc(1, sizeof(*told));
	struct cs_fact_sink sink = told_sink(told);
	struct cs_error e;
	uint64_t revision;
	assert_int_equal(cs_store_commit(s, ops, 1, &sink, &revision, &e), 0);
	assert_int_equal(op.result, 0);
	const char *set = strstr(told->text, "+ documents policy 5\n");
	assert_non_null(set);
	assert_null(strstr(set + strlen("+ documents"), "documents"));
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_BLOB), N);
	/* One byte more is refused, and leaves the set alone. */
	files[0].n++;
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.result, -EFBIG);
	assert_int_equal(cs_facts_documents(cs_store_facts(s), "policy")->n, N);
	cs_store_close(s);
	s = store_open();
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_BLOB), N);
	cs_store_close(s);
	for (int i = 0; i < N; i++)
		free((void *)files[i].bytes);
	free(told);
}

/* --- what is told --- */

static void tell(struct cs_store *s, struct cs_store_op *op, struct told *told)
{
	struct cs_fact_sink sink = told_sink(told);
	struct cs_error e;
	uint64_t revision;
	told->text[0] = '\0';
	assert_int_equal(cs_store_commit(s, &op, 1, &sink, &revision, &e), 0);
	assert_int_equal(op->result, 0);
	cs_store_op_fini(op);
}

static void test_changes_are_told(void **state)
{
	(void)state;
	store_config.id_quarantine_ms = HOUR_MS;
	struct cs_store *s = store_open();
	static struct told told;
	told = (struct told){0};
	struct cs_store_op op = claim_op("n1", "a", "k8s:app=a;", 1);
	tell(s, &op, &told);
	assert_string_equal(told.text, "+ identity 256 k8s:app=a; spiffe://example.org/identity/256\n"
				       "+ claim n1 a 256 10.0.0.1\n= 2\n");
	tell(s, &op, &told);
	assert_string_equal(told.text, ""); /* it is there */
	op.labels = "k8s:app=b;";
	tell(s, &op, &told);
	assert_string_equal(told.text, "+ identity 257 k8s:app=b; spiffe://example.org/identity/257\n"
				       "~ claim n1 a 257 10.0.0.1\n= 3\n");
	struct cs_store_op gc = {.kind = CS_STORE_GC, .gc = {.max = 10}};
	tell(s, &gc, &told);
	assert_string_equal(told.text, "~ identity 256 k8s:app=a; spiffe://example.org/identity/256 idle\n= 4\n");
	tell(s, &gc, &told);
	assert_string_equal(told.text, "+ retired 256\n"
				       "- identity 256 k8s:app=a; spiffe://example.org/identity/256 idle\n= 5\n");
	struct cs_store_op release = {.kind = CS_STORE_RELEASE, .claim = {.node = "n1", .endpoint = "a"}};
	tell(s, &release, &told);
	assert_string_equal(told.text, "- claim n1 a 257 10.0.0.1\n= 6\n");
	cs_store_close(s);
}

/* What comes and goes within one revision is not told, and what changes twice is told once. */
static void test_one_revision_is_told_merged(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	static struct told told;
	told = (struct told){0};
	struct cs_fact_sink sink = told_sink(&told);
	struct cs_store_op a = claim_op("n1", "a", "k8s:app=a;", 1), b = claim_op("n1", "a", "k8s:app=a;", 2),
			   c = claim_op("n1", "c", "k8s:app=a;", 3),
			   d = {.kind = CS_STORE_RELEASE, .claim = {.node = "n1", .endpoint = "c"}};
	struct cs_store_op *ops[] = {&a, &b, &c, &d};
	struct cs_error e;
	uint64_t revision;
	assert_int_equal(cs_store_commit(s, ops, 4, &sink, &revision, &e), 0);
	assert_string_equal(told.text, "+ identity 256 k8s:app=a; spiffe://example.org/identity/256\n"
				       "+ claim n1 a 256 10.0.0.2\n= 2\n");
	for (int i = 0; i < 4; i++)
		cs_store_op_fini(ops[i]);
	cs_store_close(s);
	s = store_open();
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 1);
	cs_store_close(s);
}

/* --- whose store it is --- */

static void refused_open(int code, enum cs_reason reason, const char *text)
{
	struct cs_error e = {0};
	assert_int_equal(store_open_error(&e), code);
	assert_int_equal(e.reason, reason);
	if (!strstr(e.text, text))
		fail_msg("'%s' is not in '%s'", text, e.text);
}

static void test_refused_stores(void **state)
{
	(void)state;
	struct cs_store_config good = store_config;
	cs_store_close(store_open());
	store_config.trust_domain = "other.org";
	store_config.spiffe_id_template = "spiffe://other.org/identity/{id}";
	refused_open(-EINVAL, CS_R_TRUST_DOMAIN_MISMATCH, "belongs to the trust domain example.org");
	store_config = good;
	store_config.cluster_id = 3;
	refused_open(-EINVAL, CS_R_NONE, "belongs to the cluster id 0, not to 3");
	static const char *const templates[][2] = {{"spiffe://example.org/identity/1", "exactly once"},
		{"spiffe://example.org/{id}/{id}", "exactly once"},
		{"spiffe://example.org//{id}", "makes no SPIFFE ID"}};
	store_config = good;
	for (size_t i = 0; i < 3; i++) {
		store_config.spiffe_id_template = templates[i][0];
		refused_open(-EINVAL, CS_R_NONE, templates[i][1]);
	}
	store_config.spiffe_id_template = "spiffe://other.org/{id}";
	refused_open(-EINVAL, CS_R_TRUST_DOMAIN_MISMATCH, "another trust domain");
	store_config = good;
	cs_store_close(store_open());
}

static void test_new_epoch(void **state)
{
	(void)state;
	struct cs_store *s = store_open();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	struct cs_store_state before, after;
	struct cs_error e;
	cs_store_state(s, &before);
	assert_true(before.leads);
	assert_int_equal(cs_store_new_epoch(s, &e), 0);
	cs_store_close(s);
	s = store_open();
	cs_store_state(s, &after);
	assert_true(after.epoch != before.epoch && after.epoch != 0);
	assert_true(after.revision > before.revision);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 1);
	cs_store_close(s);
}

/* What was given after the backup is not given to somebody else after the restore. */
static void test_a_restored_store_skips_numbers(void **state)
{
	store_config.id_quarantine_ms = HOUR_MS;
	struct cs_store *s = store_open();
	struct cs_error e;
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	assert_int_equal(cs_store_new_epoch(s, &e), 0);
	cs_store_close(s);
	s = store_open();
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_RETIRED), CS_STORE_RESTORE_SKIP);
	assert_int_equal(claim_now(s, "n1", "b", "k8s:app=b;", 2), 257 + CS_STORE_RESTORE_SKIP);
	cs_store_close(s);
	/* In a small range, half of what is free. */
	store_setup(state);
	store_config.id_quarantine_ms = HOUR_MS;
	store_config.id_min = 1000;
	store_config.id_max = 1010;
	s = store_open();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	assert_int_equal(cs_store_new_epoch(s, &e), 0);
	assert_int_equal(claim_now(s, "n1", "b", "k8s:app=b;", 2), 1006);
	cs_store_close(s);
}

static void test_quarantine_check(void **state)
{
	(void)state;
	struct cs_error e = {0};
	assert_int_equal(cs_store_quarantine_check(26 * HOUR_MS, 24 * HOUR_MS, HOUR_MS, &e), 0);
	assert_int_equal(cs_store_quarantine_check(25 * HOUR_MS, 24 * HOUR_MS, HOUR_MS, &e), -EINVAL);
	assert_non_null(strstr(e.text, "id.quarantine is 90000 s"));
	assert_non_null(strstr(e.text, "86400 s (svid.max_life)"));
}

/* --- from one place to another --- */

static char other_path[96];

/* The same facts, times and numbers; another epoch. */
static void check_copy(struct cs_store *from, struct cs_store *to)
{
	struct cs_store_state a, b;
	cs_store_state(from, &a);
	cs_store_state(to, &b);
	assert_true(a.epoch != b.epoch && b.epoch != 0);
	assert_true(cs_store_now_ms(to) >= cs_store_now_ms(from));
	for (int kind = 0; kind < CS_FACT_KINDS; kind++)
		assert_int_equal(cs_facts_count(cs_store_facts(from), (enum cs_fact_kind)kind),
			cs_facts_count(cs_store_facts(to), (enum cs_fact_kind)kind));
	const struct cs_store_identity *one = cs_facts_identity_of(cs_store_facts(from), "k8s:app=keep;"),
				       *two = cs_facts_identity_of(cs_store_facts(to), "k8s:app=keep;");
	assert_true(one->id == two->id && one->incarnation == two->incarnation);
	assert_string_equal(one->spiffe_id, two->spiffe_id);
}

static void fill_store(struct cs_store *s)
{
	struct cs_store_op node = {.kind = CS_STORE_NODE,
		.node = {.name = "n1", .addrs = {ip4(1)}, .naddrs = 1, .port = 4250, .path = "unknown"}};
	struct cs_store_op prefix = {.kind = CS_STORE_PREFIX,
		.prefix = {.prefix = {.family = 6, .bits = 8, .addr = {0xfd}}, .id = CS_ID_LOCAL_SCOPE | 9}};
	struct cs_store_file files[] = {{"a.yaml", "one", 3}, {"b.yaml", "", 0}};
	struct cs_store_op documents = documents_op(files, 2);
	assert_int_equal(commit_op(s, &node, NULL), 0);
	assert_int_equal(commit_op(s, &prefix, NULL), 0);
	assert_int_equal(commit_op(s, &documents, NULL), 0);
	for (uint32_t i = 0; i < 700; i++) {
		char endpoint[16], labels[32];
		snprintf(endpoint, sizeof(endpoint), "e%u", i);
		snprintf(labels, sizeof(labels), "k8s:n=%u;", i);
		claim_now(s, "n1", endpoint, labels, 100 + i);
	}
	claim_now(s, "n1", "keep", "k8s:app=keep;", 2);
	release_now(s, "n1", "e0");
	revoke_identity(s, "r1", 300);
	gc_now(s, 0, 10);
	assert_int_equal(gc_now(s, 0, 10).deleted, 1);
}

static size_t last_done, last_all;
static void on_progress(void *data, size_t done, size_t all)
{
	(void)data;
	assert_true(done > last_done && done <= all);
	last_done = done;
	last_all = all;
}

static struct cs_store *open_other(void)
{
	struct cs_store_config config = store_config;
	struct cs_store *s = NULL;
	struct cs_error e = {0};
	config.etcd = NULL;
	config.path = other_path;
	if (cs_store_open(&config, &s, &e) < 0)
		fail_msg("%s", e.text);
	return s;
}

static void test_copy(void **state)
{
	(void)state;
	struct cs_error e = {0};
	store_config.id_quarantine_ms = HOUR_MS;
	store_config.address_quarantine_ms = 5000;
	snprintf(other_path, sizeof(other_path), "%s-other", store_path);
	struct cs_store *file = open_other(), *s = store_open();
	fill_store(file);
	last_done = 0;
	assert_int_equal(cs_store_copy(file, s, on_progress, NULL, &e), 0);
	assert_true(last_done == last_all && last_all > 1400);
	check_copy(file, s);
	/* A number that rested goes on resting; and it can be worked with. Numbers go on from where they were, also when one
	 * before has rested for long enough. */
	assert_non_null(cs_facts_retired(cs_store_facts(s), 256));
	store_pass_ms(2 * HOUR_MS);
	assert_true(claim_now(s, "n1", "new", "k8s:app=new;", 5000) > 256 + 700);
	/* Not into one that has something. */
	assert_int_equal(cs_store_copy(file, s, NULL, NULL, &e), -EEXIST);
	assert_non_null(strstr(e.text, "a copy needs an empty one"));
	cs_store_close(file);
	unlink(other_path);
	/* And back. */
	file = open_other();
	assert_int_equal(cs_store_copy(s, file, NULL, NULL, &e), 0);
	check_copy(s, file);
	cs_store_close(file);
	cs_store_close(s);
	s = store_open();
	file = open_other();
	check_copy(s, file);
	cs_store_close(file);
	cs_store_close(s);
	char lock[sizeof(other_path) + 8];
	snprintf(lock, sizeof(lock), "%s.lock", other_path);
	unlink(lock);
	unlink(other_path);
}

/* --- several replicas (etcd) --- */

static void poll_until(struct cs_store *s, struct told *told, uint64_t revision)
{
	struct cs_fact_sink sink = told_sink(told);
	struct cs_error e = {0};
	for (int i = 0; told->revision < revision; i++) {
		if (cs_store_poll(s, &sink, &e) < 0)
			fail_msg("%s", e.text);
		if (told->revision < revision)
			usleep(5000);
		assert_true(i < 2000);
	}
}

static struct cs_store *open_follower(struct told *told)
{
	struct cs_store *s = NULL;
	struct cs_error e = {0};
	if (cs_store_open(&store_config, &s, &e) < 0)
		fail_msg("%s", e.text);
	store_list(s, told);
	told->text[0] = '\0';
	return s;
}

static void not_the_leader(struct cs_store *s)
{
	struct cs_store_op op = claim_op("n1", "deposed", "k8s:deposed=1;", 77), *ops[] = {&op};
	struct cs_error e = {0};
	uint64_t revision;
	assert_int_equal(cs_store_commit(s, ops, 1, NULL, &revision, &e), -EPERM);
	assert_int_equal(e.reason, CS_R_NOT_LEADER);
	assert_false(op.changed || op.identity != 0);
}

/* A follower hears what the leader wrote, in the same words, and writes nothing; then the roles change. */
static void test_followers(void **state)
{
	(void)state;
	static struct told leader_told, follower_told;
	leader_told = (struct told){0};
	struct cs_store *leader = store_open(), *follower = open_follower(&follower_told);
	struct cs_error e = {0};
	not_the_leader(follower);
	struct cs_fact_sink sink = told_sink(&leader_told);
	uint64_t revision = 0;
	static const char *const labels[] = {"k8s:app=a;", "k8s:app=b;", "k8s:app=a;"};
	for (uint32_t i = 0; i < 3; i++) {
		struct cs_store_op op = claim_op("n1", "same", labels[i], 10 + i), *ops[] = {&op};
		assert_int_equal(cs_store_commit(leader, ops, 1, &sink, &revision, &e), 0);
		cs_store_op_fini(&op);
	}
	poll_until(follower, &follower_told, revision);
	assert_string_equal(leader_told.text, follower_told.text);
	struct cs_store_state state_of;
	cs_store_state(follower, &state_of);
	assert_string_equal(state_of.leader, "test");
	assert_false(state_of.leads);

	cs_store_resign(leader);
	assert_int_equal(cs_store_lead_now(follower, "the other", &e), 0);
	not_the_leader(leader);
	assert_int_equal(claim_now(follower, "n2", "x", "k8s:app=c;", 50), 258);
	cs_store_state(follower, &state_of);
	poll_until(leader, &leader_told, state_of.revision);
	assert_non_null(cs_facts_claim(cs_store_facts(leader), "n2", "x"));
	assert_null(cs_facts_identity_of(cs_store_facts(leader), "k8s:deposed=1;"));
	cs_store_close(leader);
	cs_store_close(follower);
}

/* --- at random, against a model --- */

enum { LABELS = 12, IPS = 10, ENDPOINTS = 8, NODES = 3, RANGE = 16 };

struct model {
	uint32_t id_of[LABELS]; /* 0: none lives */
	int owner[IPS];         /* node * ENDPOINTS + endpoint */
	int labels_of[NODES * ENDPOINTS];
	int64_t rests_until_ms[RANGE];
};

/* One label set has one number while it lives, one number one label set, and no number comes back before its time. */
static void model_check(const struct model *m, struct cs_store *s)
{
	for (int l = 0; l < LABELS; l++) {
		char labels[24];
		snprintf(labels, sizeof(labels), "k8s:app=%d;", l);
		const struct cs_store_identity *identity = cs_facts_identity_of(cs_store_facts(s), labels);
		assert_true(identity ? identity->id == m->id_of[l] : m->id_of[l] == 0);
		for (int k = 0; k < l; k++)
			assert_true(m->id_of[k] == 0 || m->id_of[k] != m->id_of[l]);
	}
}

static void model_claim(struct model *m, struct cs_store *s, int who, int l, int ip)
{
	char node[8], endpoint[8], labels[24];
	snprintf(node, sizeof(node), "n%d", who / ENDPOINTS);
	snprintf(endpoint, sizeof(endpoint), "e%d", who % ENDPOINTS);
	snprintf(labels, sizeof(labels), "k8s:app=%d;", l);
	struct cs_store_op op = claim_op(node, endpoint, labels, (uint32_t)ip);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	if (m->owner[ip] >= 0 && m->owner[ip] != who) {
		assert_int_equal(op.error.reason, CS_R_ADDRESS_TAKEN);
		return;
	}
	if (op.result < 0) {
		assert_int_equal(op.error.reason, CS_R_IDENTITIES_EXHAUSTED);
		assert_int_equal(m->id_of[l], 0);
		return;
	}
	assert_true(m->id_of[l] == 0 ? op.created : m->id_of[l] == op.identity && !op.created);
	if (op.created)
		assert_true(store_mono_ms >= m->rests_until_ms[op.identity - 256]);
	m->id_of[l] = op.identity;
	for (int i = 0; i < IPS; i++)
		m->owner[i] = m->owner[i] == who ? -1 : m->owner[i];
	m->owner[ip] = who;
	m->labels_of[who] = l;
	cs_store_op_fini(&op);
}

static void model_release(struct model *m, struct cs_store *s, int who)
{
	char node[8], endpoint[8];
	snprintf(node, sizeof(node), "n%d", who / ENDPOINTS);
	snprintf(endpoint, sizeof(endpoint), "e%d", who % ENDPOINTS);
	struct cs_store_op op = {.kind = CS_STORE_RELEASE, .claim = {.node = node, .endpoint = endpoint}};
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.nreleased, m->labels_of[who] >= 0);
	cs_store_op_fini(&op);
	m->labels_of[who] = -1;
	for (int i = 0; i < IPS; i++)
		m->owner[i] = m->owner[i] == who ? -1 : m->owner[i];
}

static void model_gc(struct model *m, struct cs_store *s)
{
	gc_now(s, 500, 3);
	for (int l = 0; l < LABELS; l++) {
		if (m->id_of[l] == 0 || cs_facts_identity(cs_store_facts(s), m->id_of[l]))
			continue;
		for (int who = 0; who < NODES * ENDPOINTS; who++)
			assert_true(m->labels_of[who] != l); /* nobody referred to it */
		m->rests_until_ms[m->id_of[l] - 256] = store_mono_ms + 2000;
		m->id_of[l] = 0;
	}
}

static void test_random(void **state)
{
	(void)state;
	struct model m = {0};
	uint32_t rng = 88172645u;
	memset(m.owner, 0xff, sizeof(m.owner));
	memset(m.labels_of, 0xff, sizeof(m.labels_of));
	store_config.id_min = 256;
	store_config.id_max = 256 + RANGE - 1;
	store_config.id_quarantine_ms = 2000;
	struct cs_store *s = store_open();
	for (int round = 0; round < 4000; round++) {
		rng = rng * 1664525u + 1013904223u;
		uint32_t r = rng >> 4;
		int who = (int)(r % (NODES * ENDPOINTS)), ip = (int)(r / 64 % IPS), l = (int)(r / 1024 % LABELS);
		store_pass_ms(r / 65536 % 200);
		store_unix_ms += (int64_t)(r / 256 % 7) * 100000 - 300000; /* jumps */
		switch (r / 16384 % 8) {
		case 0:
		case 1:
		case 2:
			model_release(&m, s, who);
			break;
		case 3:
			model_gc(&m, s);
			break;
		default:
			model_claim(&m, s, who, l, ip);
			break;
		}
		model_check(&m, s);
		if (round % 500 == 0) {
			cs_store_close(s);
			s = store_open();
		}
	}
	cs_store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_reopen, store_setup),
		cmocka_unit_test_setup(test_what_is_there_is_no_revision, store_setup),
		cmocka_unit_test_setup(test_refusals_leave_the_others, store_setup),
		cmocka_unit_test_setup(test_malformed, store_setup),
		cmocka_unit_test_setup(test_release_and_keep, store_setup),
		cmocka_unit_test_setup(test_nodes, store_setup), cmocka_unit_test_setup(test_node_bound, store_setup),
		cmocka_unit_test_setup(test_fixed_numbers, store_setup),
		cmocka_unit_test_setup(test_spiffe_ids_are_unique, store_setup),
		cmocka_unit_test_setup(test_spiffe_ids_rest, store_setup),
		cmocka_unit_test_setup(test_exhausted, store_setup),
		cmocka_unit_test_setup(test_address_quarantine, store_setup),
		cmocka_unit_test_setup(test_no_address_quarantine, store_setup),
		cmocka_unit_test_setup(test_gc_has_two_phases, store_setup),
		cmocka_unit_test_setup(test_gc_is_limited, store_setup),
		cmocka_unit_test_setup(test_gc_plan, store_setup),
		cmocka_unit_test_setup(test_a_number_rests, store_setup),
		cmocka_unit_test_setup(test_numbers_go_round, store_setup),
		cmocka_unit_test_setup(test_revocations, store_setup),
		cmocka_unit_test_setup(test_documents, store_setup),
		cmocka_unit_test_setup(test_large_documents, store_setup),
		cmocka_unit_test_setup(test_changes_are_told, store_setup),
		cmocka_unit_test_setup(test_one_revision_is_told_merged, store_setup),
		cmocka_unit_test_setup(test_refused_stores, store_setup),
		cmocka_unit_test_setup(test_new_epoch, store_setup),
		cmocka_unit_test_setup(test_a_restored_store_skips_numbers, store_setup),
		cmocka_unit_test(test_quarantine_check), cmocka_unit_test_setup(test_copy, store_setup),
		cmocka_unit_test_setup(test_random, store_setup),
		cmocka_unit_test_setup(test_followers, store_setup), /* last: only etcd has any */
	};
	size_t n = sizeof(tests) / sizeof(tests[0]) - (getenv("COUNTERSIGN_TEST_ETCD") ? 0 : 1);
	return _cmocka_run_group_tests("store", tests, n, store_group_setup, store_group_teardown);
}
