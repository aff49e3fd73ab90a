/* Each check of a verdict has a case that it refuses; the same verdict without that fault is accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <openssl/sha.h>
#include "verdict.h"
#include "world_text.h"

#define NOW 1000

#define WORLD                                                                                                          \
	"node n1 self 192.168.0.1; node n2 192.168.0.2; node n3 192.168.0.3;"                                          \
	"identity 100; identity 101; identity 102; identity 103;"                                                      \
	"placement 100 n2; placement 101 n1; placement 102 n1;"                                                        \
	"endpoint n2 web 100 10.0.2.1; endpoint n1 db 101 10.0.1.1 @ veth1 7; endpoint n1 log 102 10.0.1.2 @ veth2 8;" \
	"row 101 100 require require; row 101 102 require require; row 102 101 pass pass"

struct test {
	struct cs_world *w;
	struct cs_svids *s;
	struct cs_facts facts;
	struct cs_ask ask;
	struct cs_hs_verdict v;
	struct cs_pairs *pairs;
	struct cs_allowed allowed;
	uint16_t n2, n3;
};

static void nothing(void *data)
{
	(void)data;
}
static void on_svid(void *data, uint32_t identity)
{
	(void)data;
	(void)identity;
}
static void on_bundle(void *data, const char *trust_domain)
{
	(void)data;
	(void)trust_domain;
}

static uint8_t root_der[] = "root";

static const char *svid_reason; /* why there is none: NULL says nothing */

static void svid(struct test *t, uint32_t identity, uint64_t generation, bool withdrawn, const char *id)
{
	char spiffe_id[64];
	uint8_t der[] = "leaf";
	ProtobufCBinaryData chain = {.len = sizeof(der), .data = der};
	Countersign__V1__Svid m = COUNTERSIGN__V1__SVID__INIT, *list[] = {&m};
	Countersign__V1__SvidBatch batch = COUNTERSIGN__V1__SVID_BATCH__INIT;
	struct cs_error e;
	snprintf(spiffe_id, sizeof(spiffe_id), "spiffe://example.org/identity/%u", identity);
	m.identity = identity;
	m.spiffe_id = id ? (char *)id : spiffe_id;
	m.generation = generation;
	m.withdrawn = withdrawn;
	m.n_chain = generation ? 1 : 0;
	m.chain = &chain;
	m.not_after_unix_s = 5000;
	Countersign__V1__Reason reason = COUNTERSIGN__V1__REASON__INIT;
	reason.name = (char *)svid_reason;
	if (svid_reason)
		m.reason = &reason;
	batch.n_svids = 1;
	batch.svids = list;
	assert_int_equal(cs_svids_batch(t->s, &batch, &e), 0);
}

static void bundle(struct test *t, uint64_t generation, int tainted)
{
	uint8_t kid[32];
	char domain[] = "example.org";
	ProtobufCBinaryData root = {.len = sizeof(root_der), .data = root_der}, kids = {.len = 32, .data = kid};
	Countersign__V1__Bundle m = COUNTERSIGN__V1__BUNDLE__INIT, *list[] = {&m};
	Countersign__V1__SvidBatch batch = COUNTERSIGN__V1__SVID_BATCH__INIT;
	struct cs_error e;
	memset(kid, tainted, sizeof(kid));
	m.trust_domain = domain;
	m.generation = generation;
	m.n_authorities = generation ? 1 : 0;
	m.authorities = &root;
	m.n_tainted_kids = tainted ? 1 : 0;
	m.tainted_kids = &kids;
	batch.n_bundles = 1;
	batch.bundles = list;
	assert_int_equal(cs_svids_batch(t->s, &batch, &e), 0);
}

static void leaf(struct cs_leaf *l, int base)
{
	fill_leaf(l, base, base + 1, base + 2);
}

static struct test *start(enum cs_hs_role role)
{
	struct test *t = calloc(1, sizeof(*t));
	struct cs_svid_callbacks callbacks = {.on_svid = on_svid, .on_bundle = on_bundle, .on_synced = nothing};
	struct cs_world_node n;
	size_t ops;
	t->w = cs_world_new(1);
	t->pairs = cs_pairs_new(2 * CS_ACCEPTED_MAX);
	t->s = cs_svids_new(&callbacks);
	cs_world_link(t->w, 7, "veth1");
	cs_world_link(t->w, 8, "veth2");
	world_replace(t->w, WORLD);
	cs_world_plan(t->w, &ops);
	svid(t, 101, 11, false, NULL);
	svid(t, 102, 12, false, NULL);
	bundle(t, 21, 0);
	assert_true(cs_world_node_by_name(t->w, "n2", &n));
	t->n2 = n.id;
	assert_true(cs_world_node_by_name(t->w, "n3", &n));
	t->n3 = n.id;
	uint32_t remote = role == CS_HS_LOOPBACK ? 102 : 100;
	t->facts = (struct cs_facts){.world = t->w, .svids = t->s, .pairs = t->pairs, .now_unix_s = NOW};
	t->ask = (struct cs_ask){.role = role,
		.local = role == CS_HS_ACCEPTOR ? 0 : 101,
		.remote = role == CS_HS_ACCEPTOR ? 0 : remote,
		.node = role == CS_HS_LOOPBACK ? 0 : t->n2};
	t->ask.generations = cs_world_generations(t->w, 101, remote, t->ask.node);
	t->v = (struct cs_hs_verdict){.h = {.type = CS_HS_VERDICT, .request = 1},
		.role = role,
		.local = 101,
		.local_svid_generation = 11,
		.remote_svid_generation = role == CS_HS_LOOPBACK ? 12 : 0,
		.local_bundle_generation = 21,
		.remote_bundle_generation = 21,
		.not_after_unix_s = 2000};
	leaf(&t->v.local_leaf, 1);
	leaf(&t->v.remote_leaf, 11);
	snprintf(t->v.remote_spiffe_id, sizeof(t->v.remote_spiffe_id), "spiffe://example.org/identity/%u", remote);
	return t;
}

static void end(struct test *t)
{
	cs_world_free(t->w);
	cs_svids_free(t->s);
	cs_pairs_free(t->pairs);
	free(t);
}

static enum cs_reason check(struct test *t)
{
	return cs_verdict_check(&t->facts, &t->ask, &t->v, &t->allowed);
}

/* ---- faults ---- */

static void say_stale(struct test *t)
{
	t->facts.stale = true;
}
static void say_unknown_id(struct test *t)
{
	strcpy(t->v.remote_spiffe_id, "spiffe://example.org/identity/0100");
}
static void say_other_id(struct test *t)
{
	strcpy(t->v.remote_spiffe_id, "spiffe://example.org/identity/103");
}
static void say_other_role(struct test *t)
{
	t->v.role = t->v.role == CS_HS_DIALLER ? CS_HS_ACCEPTOR : CS_HS_DIALLER;
}
static void say_other_local(struct test *t)
{
	t->v.local = 102;
}
static void say_no_endpoint(struct test *t)
{
	world_say(t->w, "-endpoint n1 db");
}
static void say_not_local(struct test *t)
{
	t->v.local = 103;
}
static void say_not_placed(struct test *t)
{
	world_say(t->w, "-placement 100 n2");
}
static void say_other_node(struct test *t)
{
	t->ask.node = t->n3;
}
static void say_node_gone(struct test *t)
{
	world_say(t->w, "-node n2");
}
static void say_node_moved(struct test *t)
{
	world_say(t->w, "node n2 192.168.0.9");
}
static void say_node_came_again(struct test *t)
{
	world_say(t->w, "-node n2; node n2 192.168.0.2");
}
static void say_own_node(struct test *t)
{
	t->ask.node = 0;
}
static void say_replaced_placement(struct test *t)
{
	world_say(t->w, "-placement 100 n2; placement 100 n2");
}
static void say_reincarnated(struct test *t)
{
	world_say(t->w, "identity 100 2");
}
static void say_new_svid(struct test *t)
{
	svid(t, 101, 12, false, NULL);
}
static void say_no_svid(struct test *t)
{
	svid(t, 101, 0, false, NULL);
}
static void say_svid_of_other(struct test *t)
{
	svid(t, 101, 11, false, "spiffe://example.org/identity/999");
}
static void say_new_bundle(struct test *t)
{
	bundle(t, 22, 0);
}
static void say_no_bundle(struct test *t)
{
	bundle(t, 0, 0);
}
static void say_new_remote_svid(struct test *t)
{
	svid(t, 102, 13, false, NULL);
}
static void say_revoked_leaf(struct test *t)
{
	world_say(t->w, "revoke r leaf 11");
	t->ask.generations = cs_world_generations(t->w, 101, 100, t->ask.node);
}
static void say_revoked_own_leaf(struct test *t)
{
	world_say(t->w, "revoke r leaf 1");
	t->ask.generations = cs_world_generations(t->w, 101, 100, t->ask.node);
}
static void say_revoked_node(struct test *t)
{
	world_say(t->w, "revoke r node n2");
	t->ask.generations = cs_world_generations(t->w, 101, 100, t->ask.node);
}
static void say_new_revocation(struct test *t)
{
	world_say(t->w, "revoke r identity 5"); /* of somebody else, but it came during the handshake */
}
static void say_expired(struct test *t)
{
	t->v.not_after_unix_s = NOW;
}
static void say_policy_passes(struct test *t)
{
	world_say(t->w, "row 101 100 pass pass; row 101 102 pass pass");
}
static void say_too_many(struct test *t)
{
	struct cs_basis basis = {.not_after_unix_s = 2000, .role = CS_HS_ACCEPTOR};
	struct cs_instant now = {.coarse_ns = 1, .unix_ms = NOW * 1000};
	for (uint32_t i = 0; i < CS_ACCEPTED_MAX; i++) {
		struct cs_auth_key key = {.local = 5000 + i, .remote = 100, .node = t->n2, .type = CS_AUTH_SPIRE};
		cs_pair_set_live(t->pairs, cs_pairs_get(t->pairs, &key), &basis, 2, &now);
	}
}

#define D (1 << CS_HS_DIALLER)
#define A (1 << CS_HS_ACCEPTOR)
#define L (1 << CS_HS_LOOPBACK)

static const struct {
	const char *name;
	void (*fault)(struct test *t);
	int roles;
	enum cs_reason reason;
} cases[] = {
	{"the directory is silent", say_stale, D | A | L, CS_R_DIRECTORY_STALE},
	{"a SPIFFE ID that only looks like one", say_unknown_id, D | A | L, CS_R_SPIFFE_ID_UNKNOWN},
	{"another identity than was dialled", say_other_id, D | L, CS_R_SPIFFE_ID_MISMATCH},
	{"an identity that is not placed there", say_other_id, A, CS_R_PEER_NOT_PLACED},
	{"another role than was asked", say_other_role, D | A | L, CS_R_STALE_VERDICT},
	{"another local identity than was asked", say_other_local, D | L, CS_R_STALE_VERDICT},
	{"the endpoint is gone", say_no_endpoint, D | A | L, CS_R_NO_LOCAL_ENDPOINT},
	{"a local identity without an endpoint here", say_not_local, A, CS_R_NO_LOCAL_ENDPOINT},
	{"the placement is gone", say_not_placed, D | A, CS_R_PEER_NOT_PLACED},
	{"the connection came from another node", say_other_node, D | A, CS_R_PEER_NOT_PLACED},
	{"the node is gone", say_node_gone, D | A, CS_R_PEER_NODE_UNKNOWN},
	{"the address is not that node's any more", say_node_moved, D | A, CS_R_STALE_VERDICT},
	{"the node is another one", say_node_came_again, D | A, CS_R_STALE_VERDICT},
	{"an accept from nowhere", say_own_node, A, CS_R_PEER_NODE_UNKNOWN},
	{"the placement is a new one", say_replaced_placement, D, CS_R_STALE_VERDICT},
	{"the number is another identity's now", say_reincarnated, D, CS_R_STALE_VERDICT},
	{"our SVID was replaced", say_new_svid, D | A | L, CS_R_STALE_VERDICT},
	{"we have no SVID any more", say_no_svid, D | A | L, CS_R_NO_LOCAL_SVID},
	{"our SVID has another SPIFFE ID than the directory", say_svid_of_other, D | A | L, CS_R_SPIFFE_ID_MISMATCH},
	{"the bundle was replaced", say_new_bundle, D | A | L, CS_R_STALE_VERDICT},
	{"the bundle is gone", say_no_bundle, D | A | L, CS_R_NO_BUNDLE},
	{"the other half's SVID was replaced", say_new_remote_svid, L, CS_R_STALE_VERDICT},
	{"the peer's leaf is revoked", say_revoked_leaf, D | A, CS_R_REVOKED},
	{"our leaf is revoked", say_revoked_own_leaf, D | A, CS_R_REVOKED},
	{"the node is revoked", say_revoked_node, D | A, CS_R_REVOKED},
	{"a revocation came meanwhile", say_new_revocation, D | L, CS_R_STALE_VERDICT},
	{"a certificate ends now", say_expired, D | A | L, CS_R_SVID_EXPIRED},
	{"policy does not ask any more", say_policy_passes, D | L, CS_R_POLICY_NO_LONGER_ASKS},
	{"the node has as many entries as it may", say_too_many, A, CS_R_TOO_MANY},
};

static void test_every_check(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (int role = CS_HS_DIALLER; role <= CS_HS_LOOPBACK; role++) {
			if (!(cases[i].roles & (1 << role)))
				continue;
			struct test *t = start((enum cs_hs_role)role);
			assert_int_equal(check(t), CS_R_NONE); /* the twin */
			cases[i].fault(t);
			enum cs_reason got = check(t);
			if (got != cases[i].reason)
				fail_msg("%s (role %d): %s, not %s", cases[i].name, role, cs_reason_name(got),
					cs_reason_name(cases[i].reason));
			end(t);
		}
	}
}

static void test_what_is_allowed(void **state)
{
	(void)state;
	struct test *t = start(CS_HS_DIALLER);
	assert_int_equal(check(t), CS_R_NONE);
	assert_int_equal(t->allowed.n, 1);
	assert_int_equal(t->allowed.entry[0].basis.not_after_unix_s, 2000);
	t->v.not_after_unix_s = INT64_MAX; /* a handshaker that lies: our own SVID ends at 5000 */
	assert_int_equal(check(t), CS_R_NONE);
	assert_int_equal(t->allowed.entry[0].basis.not_after_unix_s, 5000);
	t->v.not_after_unix_s = 2000;
	assert_int_equal(check(t), CS_R_NONE);
	const struct cs_allowed_entry *e = &t->allowed.entry[0];
	struct cs_auth_key key = {.local = 101, .remote = 100, .node = t->n2, .type = CS_AUTH_SPIRE};
	assert_memory_equal(&e->key, &key, sizeof(key));
	assert_true(e->asks);
	assert_int_equal(e->reply_flags, 0);
	assert_int_equal(e->basis.not_after_unix_s, 2000);
	assert_int_equal(e->basis.written_unix_s, NOW);
	assert_int_equal(e->basis.role, CS_HS_DIALLER);
	assert_int_equal(e->basis.local_incarnation, 1);
	assert_memory_equal(&e->basis.local, &t->v.local_leaf, sizeof(struct cs_leaf));
	assert_memory_equal(&e->basis.remote, &t->v.remote_leaf, sizeof(struct cs_leaf));
	world_say(t->w, "row 101 100 deny require");
	assert_int_equal(check(t), CS_R_NONE);
	assert_true(e->reply_flags == CS_AUTH_REPLY_FROM);
	end(t);
}

/* An acceptor whose policy does not ask says yes and writes nothing. */
static void test_acceptor_without_policy(void **state)
{
	(void)state;
	struct test *t = start(CS_HS_ACCEPTOR);
	say_too_many(t);
	say_policy_passes(t);
	assert_int_equal(check(t), CS_R_NONE);
	assert_int_equal(t->allowed.n, 1);
	assert_false(t->allowed.entry[0].asks);
	end(t);
}

/* At the limit, what is there may still be lengthened. */
static void test_renewal_at_the_limit(void **state)
{
	(void)state;
	struct test *t = start(CS_HS_ACCEPTOR);
	struct cs_instant now = {.coarse_ns = 1, .unix_ms = NOW * 1000};
	say_too_many(t);
	assert_int_equal(check(t), CS_R_TOO_MANY);
	struct cs_allowed_entry e = t->allowed.entry[0];
	cs_pair_set_live(t->pairs, cs_pairs_get(t->pairs, &e.key), &e.basis, 2, &now);
	assert_int_equal(check(t), CS_R_NONE);
	end(t);
}

/* One verdict, two entries with the leaves swapped, each only if policy asks in its direction. */
static void test_loopback(void **state)
{
	(void)state;
	struct test *t = start(CS_HS_LOOPBACK);
	assert_int_equal(check(t), CS_R_NONE);
	assert_int_equal(t->allowed.n, 2);
	const struct cs_allowed_entry *a = &t->allowed.entry[0], *b = &t->allowed.entry[1];
	assert_int_equal(a->key.local, 101);
	assert_int_equal(b->key.local, 102);
	assert_int_equal(a->key.node + b->key.node, 0);
	assert_memory_equal(&a->basis.local, &b->basis.remote, sizeof(struct cs_leaf));
	assert_memory_equal(&a->basis.remote, &b->basis.local, sizeof(struct cs_leaf));
	assert_true(a->asks);
	assert_false(b->asks);
	world_say(t->w, "row 101 102 pass pass; row 102 101 require require");
	assert_int_equal(check(t), CS_R_NONE);
	assert_false(a->asks);
	assert_true(b->asks);
	end(t);
}

/* ---- does an entry still stand? ---- */

static void say_withdrawn(struct test *t)
{
	svid(t, 101, 0, true, NULL);
}
static void say_tainted(struct test *t)
{
	bundle(t, 22, 13);
}
static void say_adapter_without_svid(struct test *t)
{
	svid(t, 101, 0, false, NULL);
	svid(t, 102, 0, false, NULL);
}
static void say_unplaced_endpoint(struct test *t)
{
	world_say(t->w, "endpoint n1 db 0 10.0.1.1 @ veth1 7");
}

static void test_entry_stands(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		void (*change)(struct test *t);
		enum cs_reason reason;
	} changes[] = {
		{"nothing", NULL, CS_R_NONE},
		{"a silent directory", say_stale, CS_R_NONE},
		{"a rotation", say_new_svid, CS_R_NONE},
		{"an adapter that has no SVID now", say_adapter_without_svid, CS_R_NONE},
		{"a new bundle with the same root", say_new_bundle, CS_R_NONE},
		{"a placement that came back", say_replaced_placement, CS_R_NONE},
		{"the SVID is withdrawn", say_withdrawn, CS_R_NO_LOCAL_SVID},
		{"the bundle is withdrawn", say_no_bundle, CS_R_UNTRUSTED},
		{"the authority is tainted", say_tainted, CS_R_UNTRUSTED},
		{"the endpoint is gone", say_no_endpoint, CS_R_NO_LOCAL_ENDPOINT},
		{"the endpoint is not placed any more", say_unplaced_endpoint, CS_R_NO_LOCAL_ENDPOINT},
		{"the placement is gone", say_not_placed, CS_R_PEER_NOT_PLACED},
		{"the node is gone", say_node_gone, CS_R_PEER_NODE_UNKNOWN},
		{"the number is another identity's", say_reincarnated, CS_R_SPIFFE_ID_MISMATCH},
		{"policy passes", say_policy_passes, CS_R_POLICY_NO_LONGER_ASKS},
		{"the leaf is revoked", say_revoked_leaf, CS_R_REVOKED},
		{"our leaf is revoked", say_revoked_own_leaf, CS_R_REVOKED},
	};
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		struct test *t = start(CS_HS_DIALLER);
		/* What a real verdict has: the root's hash. */
		uint8_t root[32];
		SHA256(root_der, sizeof(root_der), root);
		memcpy(t->v.local_leaf.root_sha256, root, 32);
		memcpy(t->v.remote_leaf.root_sha256, root, 32);
		assert_int_equal(check(t), CS_R_NONE);
		struct cs_allowed_entry e = t->allowed.entry[0];
		if (changes[i].change)
			changes[i].change(t);
		enum cs_reason got = cs_entry_check(&t->facts, &e.key, &e.basis);
		if (got != changes[i].reason)
			fail_msg("%s: %s, not %s", changes[i].name, cs_reason_name(got),
				cs_reason_name(changes[i].reason));
		t->facts.now_unix_s = 2000;
		assert_int_not_equal(cs_entry_check(&t->facts, &e.key, &e.basis), CS_R_NONE); /* expired */
		end(t);
	}
}

/* ---- is dialling in vain? ---- */

static void test_dial(void **state)
{
	(void)state;
	struct test *t = start(CS_HS_DIALLER);
	struct cs_auth_key key = {.local = 101, .remote = 100, .node = t->n2, .type = CS_AUTH_SPIRE};
	struct cs_auth_key here = {.local = 102, .remote = 101, .type = CS_AUTH_SPIRE};
	struct cs_auth_key world = {.local = 101, .remote = CS_ID_WORLD, .type = CS_AUTH_SPIRE};
	assert_int_equal(cs_dial_check(&t->facts, &key), CS_R_NONE);
	assert_int_equal(cs_dial_check(&t->facts, &here), CS_R_NONE); /* the other half asks */
	assert_int_equal(cs_dial_check(&t->facts, &world), CS_R_SPIFFE_ID_UNKNOWN);
	svid(t, 101, 0, false, NULL);
	assert_int_equal(cs_dial_check(&t->facts, &key), CS_R_NO_LOCAL_SVID);
	assert_int_equal(cs_dial_check(&t->facts, &here), CS_R_NO_LOCAL_SVID);
	svid_reason = "svid-expired";
	svid(t, 101, 0, false, NULL);
	svid_reason = NULL;
	assert_int_equal(cs_dial_check(&t->facts, &key), CS_R_SVID_EXPIRED);
	assert_int_equal(cs_dial_check(&t->facts, &here), CS_R_SVID_EXPIRED);
	svid(t, 101, 11, false, NULL);
	bundle(t, 0, 0);
	assert_int_equal(cs_dial_check(&t->facts, &key), CS_R_NO_BUNDLE);
	bundle(t, 21, 0);
	say_not_placed(t);
	assert_int_equal(cs_dial_check(&t->facts, &key), CS_R_PEER_NOT_PLACED);
	t->facts.stale = true;
	assert_int_equal(cs_dial_check(&t->facts, &key), CS_R_DIRECTORY_STALE);
	end(t);
}

static void test_trust_domain(void **state)
{
	(void)state;
	size_t len;
	assert_memory_equal(cs_trust_domain_of("spiffe://example.org/x", &len), "example.org", 11);
	assert_int_equal(len, 11);
	assert_null(cs_trust_domain_of("spiffe:///x", &len));
	assert_null(cs_trust_domain_of("https://example.org/x", &len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_check),
		cmocka_unit_test(test_what_is_allowed),
		cmocka_unit_test(test_acceptor_without_policy),
		cmocka_unit_test(test_renewal_at_the_limit),
		cmocka_unit_test(test_loopback),
		cmocka_unit_test(test_entry_stands),
		cmocka_unit_test(test_dial),
		cmocka_unit_test(test_trust_domain),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
