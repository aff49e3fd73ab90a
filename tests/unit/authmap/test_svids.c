#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <openssl/sha.h>
#include "svids.h"

static uint8_t one[] = "first certificate", two[] = "second";
static unsigned svid_calls, bundle_calls, synced_calls;
static uint32_t last_identity;

static void on_svid(void *data, uint32_t identity)
{
	(void)data;
	svid_calls++;
	last_identity = identity;
}
static void on_bundle(void *data, const char *trust_domain)
{
	(void)data;
	bundle_calls++;
	assert_string_equal(trust_domain, "example.org");
}
static void on_synced(void *data)
{
	(void)data;
	synced_calls++;
}

static struct cs_svids *start(void)
{
	struct cs_svid_callbacks callbacks = {.on_svid = on_svid, .on_bundle = on_bundle, .on_synced = on_synced};
	svid_calls = bundle_calls = synced_calls = 0;
	struct cs_svids *s = cs_svids_new(&callbacks);
	cs_svids_begin(s);
	return s;
}

/* One message, one thing in it. */
static Countersign__V1__Svid svid;
static Countersign__V1__Bundle bundle;
static ProtobufCBinaryData certs[2] = {{.len = sizeof(one), .data = one}, {.len = sizeof(two), .data = two}}, tainted;
static char id[] = "spiffe://example.org/identity/100", domain[] = "example.org";

static void good_svid(uint32_t identity, uint64_t generation)
{
	svid = (Countersign__V1__Svid)COUNTERSIGN__V1__SVID__INIT;
	svid.identity = identity;
	svid.generation = generation;
	svid.spiffe_id = id;
	svid.n_chain = generation ? 2 : 0;
	svid.chain = certs;
	svid.not_after_unix_s = 500;
}

static void good_bundle(uint64_t generation)
{
	bundle = (Countersign__V1__Bundle)COUNTERSIGN__V1__BUNDLE__INIT;
	bundle.trust_domain = domain;
	bundle.generation = generation;
	bundle.n_authorities = generation ? 1 : 0;
	bundle.authorities = certs;
}

static int send(struct cs_svids *s, bool with_svid, bool with_bundle, bool synced)
{
	Countersign__V1__SvidBatch b = COUNTERSIGN__V1__SVID_BATCH__INIT;
	Countersign__V1__Svid *svids[] = {&svid};
	Countersign__V1__Bundle *bundles[] = {&bundle};
	struct cs_error e;
	b.n_svids = with_svid;
	b.svids = svids;
	b.n_bundles = with_bundle;
	b.bundles = bundles;
	b.synced = synced;
	return cs_svids_batch(s, &b, &e);
}

static void test_what_is_known(void **state)
{
	(void)state;
	struct cs_svids *s = start();
	struct cs_svid v;
	struct cs_trust t;
	assert_false(cs_svids_find(s, 100, &v));
	good_svid(100, 7);
	good_bundle(9);
	assert_int_equal(send(s, true, true, false), 0);
	assert_false(cs_svids_ready(s));
	assert_int_equal(send(s, false, false, true), 0);
	assert_true(cs_svids_ready(s));
	assert_int_equal(synced_calls, 1);
	assert_true(cs_svids_find(s, 100, &v));
	assert_int_equal(v.generation, 7);
	assert_string_equal(v.spiffe_id, id);
	/* as the handshaker reads it: length, bytes, length, bytes */
	uint32_t len;
	memcpy(&len, v.list, sizeof(len));
	assert_int_equal(len, sizeof(one));
	assert_memory_equal(v.list + 4, one, sizeof(one));
	assert_int_equal(v.list_len, 8 + sizeof(one) + sizeof(two));
	assert_true(cs_svids_bundle(s, domain, strlen(domain), &t));
	assert_int_equal(t.generation, 9);
	assert_false(cs_svids_bundle(s, domain, 3, &t));
	cs_svids_free(s);
}

/* A new stream that does not name something: nothing new begins with it, and nothing is withdrawn. */
static void test_absence_is_not_withdrawal(void **state)
{
	(void)state;
	struct cs_svids *s = start();
	struct cs_svid v;
	struct cs_trust t;
	struct cs_leaf leaf = {.sha256 = {1}};
	SHA256(one, sizeof(one), leaf.root_sha256);
	good_svid(100, 7);
	good_bundle(9);
	assert_int_equal(send(s, true, true, true), 0);
	cs_svids_begin(s);
	assert_true(cs_svids_find(s, 100, &v));
	assert_int_equal(v.generation, 7); /* until it has said everything */
	svid_calls = bundle_calls = 0;
	assert_int_equal(send(s, false, false, true), 0);
	assert_int_equal(svid_calls, 1);
	assert_int_equal(bundle_calls, 1);
	assert_true(cs_svids_find(s, 100, &v));
	assert_int_equal(v.generation, 0);
	assert_int_equal(v.reason, CS_R_NO_LOCAL_SVID);
	assert_false(v.withdrawn);
	assert_true(cs_svids_bundle(s, domain, strlen(domain), &t));
	assert_int_equal(t.generation, 0);
	assert_true(cs_svids_root_stands(s, domain, strlen(domain), &leaf));
	/* It comes back. */
	good_bundle(10);
	assert_int_equal(send(s, false, true, false), 0);
	assert_true(cs_svids_bundle(s, domain, strlen(domain), &t));
	assert_int_equal(t.generation, 10);
	/* And the twin: said to be withdrawn. */
	good_svid(100, 0);
	svid.withdrawn = true;
	good_bundle(0);
	assert_int_equal(send(s, true, true, false), 0);
	assert_true(cs_svids_find(s, 100, &v));
	assert_true(v.withdrawn);
	assert_false(cs_svids_root_stands(s, domain, strlen(domain), &leaf));
	cs_svids_free(s);
}

static void test_roots(void **state)
{
	(void)state;
	struct cs_svids *s = start();
	struct cs_leaf leaf = {.authority_kid = {3, 3}}, other;
	uint8_t kid[] = {3, 3};
	SHA256(one, sizeof(one), leaf.root_sha256);
	other = leaf;
	SHA256(two, sizeof(two), other.root_sha256);
	assert_true(cs_svids_root_stands(s, domain, strlen(domain), &leaf)); /* nothing is known */
	good_bundle(9);
	assert_int_equal(send(s, false, true, true), 0);
	assert_true(cs_svids_root_stands(s, domain, strlen(domain), &leaf));
	assert_false(cs_svids_root_stands(s, domain, strlen(domain), &other));
	good_bundle(10);
	tainted = (ProtobufCBinaryData){.len = sizeof(kid), .data = kid};
	bundle.n_tainted_kids = 1;
	bundle.tainted_kids = &tainted;
	assert_int_equal(send(s, false, true, true), 0);
	assert_false(cs_svids_root_stands(s, domain, strlen(domain), &leaf));
	cs_svids_free(s);
}

#define WRONG(what)                                                                                                    \
	do {                                                                                                           \
		good_svid(100, 8);                                                                                     \
		good_bundle(9);                                                                                        \
		what;                                                                                                  \
		assert_int_equal(send(s, true, true, false), -EBADMSG);                                                \
		assert_true(cs_svids_find(s, 100, &v) && v.generation == 7); /* nothing of it was taken */             \
	} while (0)

static void test_what_no_adapter_sends(void **state)
{
	(void)state;
	struct cs_svids *s = start();
	struct cs_svid v;
	char empty[] = "", huge[3000];
	ProtobufCBinaryData none = {.len = 0}, kid = {.len = 33, .data = one};
	memset(huge, 'x', sizeof(huge));
	huge[sizeof(huge) - 1] = '\0';
	good_svid(100, 7);
	good_bundle(9);
	assert_int_equal(send(s, true, true, false), 0);
	WRONG(svid.identity = 0);
	WRONG(svid.spiffe_id = empty);
	WRONG(svid.spiffe_id = huge);
	WRONG(svid.n_chain = 0);
	WRONG(svid.generation = 0);
	WRONG(svid.withdrawn = true);
	WRONG(svid.chain = &none; svid.n_chain = 1);
	WRONG(bundle.trust_domain = empty);
	WRONG(bundle.trust_domain = huge);
	WRONG(bundle.generation = 0);
	WRONG(bundle.n_tainted_kids = 1; bundle.tainted_kids = &none);
	WRONG(bundle.n_tainted_kids = 1; bundle.tainted_kids = &kid);
	cs_svids_free(s);
}

static void test_limit(void **state)
{
	(void)state;
	struct cs_svids *s = start();
	for (uint32_t i = 1; i <= CS_SVIDS_MAX; i++) {
		good_svid(i, 0);
		assert_int_equal(send(s, true, false, false), 0);
	}
	good_svid(CS_SVIDS_MAX + 1, 0);
	assert_int_equal(send(s, true, false, false), -ENOSPC);
	cs_svids_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_known),
		cmocka_unit_test(test_absence_is_not_withdrawal),
		cmocka_unit_test(test_roots),
		cmocka_unit_test(test_what_no_adapter_sends),
		cmocka_unit_test(test_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
