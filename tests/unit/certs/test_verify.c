/* Verification of whole chains: paths, times, trust domains, the cache. (The profile's rules: test_profile.c.) */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <openssl/x509v3.h>
#include <cmocka.h>
#include "certs_files.h"
#include "verifiers.h"
#include "verify.h"

#define HOUR       3600
#define NAMES(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct cs_bundle *bundle_of(OSSL_LIB_CTX *ctx, const char *domain, uint64_t generation, const char *const *roots)
{
	struct cs_der der[CS_BUNDLE_MAX];
	struct cs_bundle *bundle;
	struct cs_error e;
	size_t n = 0;
	for (; roots[n]; n++)
		der[n] = certs_file(roots[n]);
	if (cs_bundle_new(ctx, domain, generation, der, n, &bundle, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(cs_bundle_refused(bundle, &e), 0);
	return bundle;
}

static void put(struct cs_bundles *bundles, const char *domain, uint64_t generation, const char *const *roots)
{
	struct cs_bundle *bundle = bundle_of(NULL, domain, generation, roots);
	assert_int_equal(cs_bundles_put(bundles, bundle, NULL), 0);
	cs_bundle_unref(bundle);
}

/* What a test works with. */
static struct cs_bundles *bundles;
static struct cs_verifier *verifier;

static int begin(void **state)
{
	(void)state;
	bundles = cs_bundles_new();
	return cs_verifier_new(NULL, 8, &verifier, NULL);
}

static int end(void **state)
{
	(void)state;
	cs_verifier_free(verifier);
	cs_bundles_free(bundles);
	return 0;
}

static int verify_as(
	const char *expect, int64_t now, const char *const *names, struct cs_peer **ret, struct cs_error *e)
{
	struct cs_der chain[16];
	struct cs_spiffe_id id;
	struct cs_verify what = {.chain = chain, .bundles = bundles, .now_unix_s = now};
	for (; names[what.n]; what.n++)
		chain[what.n] = certs_file(names[what.n]);
	if (expect) {
		assert_int_equal(cs_spiffe_id_parse(&id, expect, strlen(expect), NULL), 0);
		what.expect = &id;
	}
	*ret = (struct cs_peer *)&what; /* must not be left as it was */
	int r = cs_verify(verifier, &what, ret, e);
	assert_int_equal(r == 0, *ret != NULL);
	return r;
}

/* reason NONE: it must be accepted. */
static void check(enum cs_reason reason, const char *expect, int64_t now, const char *const *names)
{
	struct cs_peer *peer;
	struct cs_error e = {0};
	int r = verify_as(expect, now, names, &peer, &e);
	if (r == 0 && reason != CS_R_NONE)
		fail_msg("%s: accepted", names[0]);
	if (r < 0 && e.reason != reason)
		fail_msg("%s: %s: %s", names[0], cs_reason_name(e.reason), e.text);
	cs_peer_unref(peer);
}
#define accepts(...)         check(CS_R_NONE, NULL, NOW, NAMES(__VA_ARGS__))
#define refuses(reason, ...) check(reason, NULL, NOW, NAMES(__VA_ARGS__))

static void matrix(void **state)
{
	(void)state;
	static const char *const cas[] = {"p256", "p384", "rsa2048", "rsa4096"};
	static const char *const keys[] = {"p256", "p384", "rsa2048"};
	static const int bits[] = {256, 384, 2048};
	for (size_t root = 0; root < 4; root++) {
		char name[64];
		snprintf(name, sizeof(name), "matrix-root-%s", cas[root]);
		put(bundles, "test.example", root, NAMES(name));
		for (size_t ca = 0; ca < 4; ca++)
			for (size_t key = 0; key < 3; key++) {
				snprintf(name, sizeof(name), "matrix-%s-%s", cas[ca], keys[key]);
				if (ca != root) {
					refuses(CS_R_UNTRUSTED, name);
					continue;
				}
				struct cs_peer *peer;
				struct cs_error e;
				if (verify_as("spiffe://test.example/web", NOW, NAMES(name), &peer, &e) < 0)
					fail_msg("%s: %s", name, e.text);
				assert_int_equal(EVP_PKEY_get_bits(cs_peer_key(peer)), bits[key]);
				cs_peer_unref(peer);
			}
	}
}

static void signature_algorithms(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("matrix-root-rsa2048"));
	accepts("rsa-sha384");
	accepts("rsa-sha512");
	accepts("rsa-pss-256");
	accepts("rsa-pss-384");
	accepts("rsa-pss-512");
	refuses(CS_R_ALGORITHM_REFUSED, "rsa-sha1");
	refuses(CS_R_ALGORITHM_REFUSED, "rsa-pss-sha1");
	refuses(CS_R_ALGORITHM_REFUSED, "rsa-pss-long-salt");
	refuses(CS_R_ALGORITHM_REFUSED, "rsa-pss-two-hashes");
	refuses(CS_R_ALGORITHM_REFUSED, "rsa-pss-trailer");
	refuses(CS_R_CERTIFICATE_MALFORMED, "rsa-no-null");
}

static void paths(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("root-p256"));
	accepts("leaf-ok-spire");
	accepts("leaf-ok-spire", "root-p256");
	accepts("below-i1", "i1");
	accepts("below-i2", "i2", "i1");
	accepts("below-i2", "i1", "i2"); /* in any order */
	accepts("below-i3", "i3", "i2", "i1");
	accepts("below-i2", "i2", "i1", "i3"); /* one too many */
	refuses(CS_R_UNTRUSTED, "below-i1");
	refuses(CS_R_UNTRUSTED, "below-i2", "i2");
	refuses(CS_R_UNTRUSTED, "below-i2", "i1");
	refuses(CS_R_CHAIN_TOO_LARGE, "below-i4", "i4", "i3", "i2", "i1");
	refuses(CS_R_SVID_PROFILE, "below-beyond", "beyond-path-len-0", "path-len-0");
	accepts("below-path-len-0", "path-len-0");
	refuses(CS_R_UNTRUSTED, "bad-signature");
	refuses(CS_R_UNTRUSTED, "below-impostor");
	refuses(CS_R_UNTRUSTED, "below-impostor", "impostor"); /* a root that the peer brings is not believed */
	refuses(CS_R_VERIFIERS_DISAGREE, "odd-policies");
}

/* The end of the path may be any authority of the bundle, self-signed or not (RFC 5280 6.1.1 d). */
static void anchor_not_self_signed(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("i1"));
	accepts("below-i1");
	accepts("below-i2", "i2");
	refuses(CS_R_UNTRUSTED, "leaf-ok-spire");
	refuses(CS_R_UNTRUSTED, "leaf-ok-spire", "root-p256");
}

/* Only the first certificate is the leaf; a leaf signs nothing. */
static void leaf_counts_once(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("root-p256"));
	refuses(CS_R_SVID_PROFILE, "leaf-ok-spire", "test-db");
	refuses(CS_R_SVID_PROFILE, "i1", "leaf-ok-spire");
	refuses(CS_R_SVID_PROFILE, "root-p256");
	refuses(CS_R_SVID_PROFILE, "below-leaf", "signing-leaf");
	refuses(CS_R_UNTRUSTED, "below-leaf");
}

static void times(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("root-p256", "root-expired"));
	refuses(CS_R_SVID_EXPIRED, "expired");
	check(CS_R_NONE, NULL, NOW - 2, NAMES("expired"));
	refuses(CS_R_SVID_EXPIRED, "not-yet");
	check(CS_R_NONE, NULL, NOW + 1, NAMES("not-yet"));
	refuses(CS_R_SVID_EXPIRED, "ends-now");
	check(CS_R_NONE, NULL, NOW - 1, NAMES("ends-now"));
	accepts("starts-now");
	check(CS_R_SVID_EXPIRED, NULL, NOW - 1, NAMES("starts-now"));
	refuses(CS_R_SVID_EXPIRED, "below-over", "over");
	refuses(CS_R_SVID_EXPIRED, "below-root-expired");
	check(CS_R_NONE, NULL, NOW - 5, NAMES("below-root-expired"));
	check(CS_R_SVID_EXPIRED, NULL, 0, NAMES("leaf-ok-spire")); /* a clock that was never set */
}

static void limits(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("root-p256"));
	static uint8_t large[CS_CHAIN_BYTES_MAX + 1];
	struct cs_der chain[] = {{large, sizeof(large)}, {large, 1}, {large, 1}, {large, 1}, {large, 1}};
	struct cs_verify what = {.chain = chain, .n = 0, .bundles = bundles, .now_unix_s = NOW};
	struct cs_peer *peer;
	struct cs_error e;
	assert_true(cs_verify(verifier, &what, &peer, &e) < 0);
	assert_int_equal(e.reason, CS_R_NO_CERTIFICATE);
	what.n = 1;
	assert_true(cs_verify(verifier, &what, &peer, &e) < 0);
	assert_int_equal(e.reason, CS_R_CHAIN_TOO_LARGE);
	chain[0].len--;
	assert_true(cs_verify(verifier, &what, &peer, &e) < 0);
	assert_int_equal(e.reason, CS_R_CERTIFICATE_MALFORMED);
	what.n = 2;
	assert_true(cs_verify(verifier, &what, &peer, &e) < 0);
	assert_int_equal(e.reason, CS_R_CHAIN_TOO_LARGE);
	chain[0].len = SIZE_MAX; /* the sum does not wrap */
	assert_true(cs_verify(verifier, &what, &peer, &e) < 0);
	assert_int_equal(e.reason, CS_R_CHAIN_TOO_LARGE);
	chain[0].len = 1;
	what.n = CS_CHAIN_MAX + 1;
	assert_true(cs_verify(verifier, &what, &peer, &e) < 0);
	assert_int_equal(e.reason, CS_R_CHAIN_TOO_LARGE);
}

static void domains(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("root-p256"));
	refuses(CS_R_NO_BUNDLE, "other-web");
	put(bundles, "other.example", 1, NAMES("root-other"));
	accepts("other-web");
	accepts("leaf-ok-spire");
	/* An authority of one domain says nothing of another, in both directions. */
	refuses(CS_R_UNTRUSTED, "other-signs-test");
	refuses(CS_R_UNTRUSTED, "other-signs-test", "root-other");
	refuses(CS_R_UNTRUSTED, "test-signs-other");
	refuses(CS_R_UNTRUSTED, "test-signs-other", "root-p256");
	/* Empty is a bundle, and trusts nobody. */
	put(bundles, "other.example", 2, (const char *const[]){NULL});
	refuses(CS_R_UNTRUSTED, "other-web");
	cs_bundles_remove(bundles, "other.example");
	refuses(CS_R_NO_BUNDLE, "other-web");
	cs_bundles_remove(bundles, "never.example");
}

static void expectations(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("root-p256"));
	check(CS_R_TRUST_DOMAIN_MISMATCH, "spiffe://test.example/web", NOW,
		NAMES("other-web")); /* bundle or no bundle */
	put(bundles, "other.example", 1, NAMES("root-other"));
	for (int hit = 0; hit < 2; hit++) {
		check(CS_R_NONE, "spiffe://test.example/web", NOW, NAMES("leaf-ok-spire"));
		check(CS_R_SPIFFE_ID_MISMATCH, "spiffe://test.example/db", NOW, NAMES("leaf-ok-spire"));
		check(CS_R_SPIFFE_ID_MISMATCH, "spiffe://test.example/we", NOW, NAMES("leaf-ok-spire"));
		check(CS_R_SPIFFE_ID_MISMATCH, "spiffe://test.example/webb", NOW, NAMES("leaf-ok-spire"));
		check(CS_R_TRUST_DOMAIN_MISMATCH, "spiffe://other.example/web", NOW, NAMES("leaf-ok-spire"));
		check(CS_R_TRUST_DOMAIN_MISMATCH, "spiffe://test.example/web", NOW, NAMES("other-web"));
	}
}

static void names_alike(void **state)
{
	(void)state;
	static const char *const orders[][3] = {{"twin-root-0", "twin-root-1", "twin-root-2"},
		{"twin-root-2", "twin-root-1", "twin-root-0"}, {"twin-root-1", "twin-root-2", "twin-root-0"}};
	for (size_t i = 0; i < 3; i++) {
		put(bundles, "test.example", i, NAMES(orders[i][0], orders[i][1], orders[i][2]));
		accepts("twin-leaf-0");
		accepts("twin-leaf-1");
		accepts("twin-leaf-2");
	}
	put(bundles, "test.example", 9, NAMES("twin-root-0", "twin-root-2"));
	accepts("twin-leaf-0");
	refuses(CS_R_UNTRUSTED, "twin-leaf-1");
	accepts("twin-leaf-2");
	/* The same root, certified anew before it ended. */
	put(bundles, "test.example", 10, NAMES("renewed-old", "renewed-new"));
	accepts("below-renewed");
	accepts("below-renewed", "renewed-old");
	put(bundles, "test.example", 11, NAMES("renewed-old"));
	refuses(CS_R_SVID_EXPIRED, "below-renewed");
	refuses(CS_R_SVID_EXPIRED, "below-renewed", "renewed-new");
}

static void sha256(struct cs_der der, uint8_t ret[32])
{
	assert_true(EVP_Digest(der.data, der.len, ret, NULL, EVP_sha256(), NULL));
}

static void peer_facts(void **state)
{
	(void)state;
	struct cs_peer *peer;
	struct cs_error e;
	uint8_t hash[32], kid[32] = {0}, serial[20] = {0};
	struct cs_cert_facts issuer;
	put(bundles, "test.example", 0xdeadbeefcafeULL, NAMES("crowd-0", "root-p256"));
	assert_int_equal(verify_as(NULL, NOW, NAMES("below-i2", "i1", "i2"), &peer, &e), 0);
	assert_string_equal(cs_peer_id(peer)->text, "spiffe://test.example/web");
	sha256(certs_file("below-i2"), hash);
	assert_memory_equal(cs_peer_leaf_sha256(peer), hash, 32);
	sha256(certs_file("root-p256"), hash);
	assert_memory_equal(cs_peer_root_sha256(peer), hash, 32);
	assert_int_equal(cs_profile_authority(certs_file("i2"), &issuer, &e), 0);
	memcpy(kid, issuer.subject_key_id.bytes, issuer.subject_key_id.len);
	assert_memory_equal(cs_peer_authority_kid(peer), kid, 32);
	assert_int_equal(cs_peer_bundle_generation(peer), 0xdeadbeefcafeULL);
	assert_int_equal(cs_peer_not_after_unix_s(peer), NOW + HOUR);
	assert_int_equal(cs_peer_not_before_unix_s(peer), NOW - 10);
	struct cs_der der = certs_file("below-i2");
	const unsigned char *p = der.data;
	X509 *x = d2i_X509(NULL, &p, (long)der.len);
	assert_int_equal(EVP_PKEY_eq(X509_get0_pubkey(x), cs_peer_key(peer)), 1);
	BIGNUM *bn = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
	assert_int_equal(BN_bn2binpad(bn, serial, sizeof(serial)), sizeof(serial));
	assert_memory_equal(cs_peer_serial(peer), serial, sizeof(serial));
	BN_free(bn);
	X509_free(x);
	/* A peer outlives its verifier, its bundle and the reference that it came with. */
	struct cs_peer *again = cs_peer_ref(peer);
	cs_peer_unref(peer);
	cs_bundles_remove(bundles, "test.example");
	cs_verifier_free(verifier);
	verifier = NULL;
	assert_string_equal(cs_peer_id(again)->text, "spiffe://test.example/web");
	cs_peer_unref(again);
}

/* An intermediate, or a root, that ends before the leaf ends the peer. */
static void earliest_end(void **state)
{
	(void)state;
	struct cs_peer *peer;
	struct cs_error e;
	put(bundles, "test.example", 1, NAMES("root-p256"));
	assert_int_equal(verify_as(NULL, NOW, NAMES("below-early", "early"), &peer, &e), 0);
	assert_int_equal(cs_peer_not_after_unix_s(peer), NOW + HOUR / 2);
	cs_peer_unref(peer);
	check(CS_R_NONE, NULL, NOW + HOUR / 2 - 1, NAMES("below-early", "early"));
	check(CS_R_SVID_EXPIRED, NULL, NOW + HOUR / 2, NAMES("below-early", "early"));
	assert_int_equal(verify_as(NULL, NOW, NAMES("leaf-ok-until-9999"), &peer, &e), 0);
	assert_int_equal(cs_peer_not_after_unix_s(peer), NOW + 24 * HOUR); /* the root's */
	cs_peer_unref(peer);
}

static void expect_stats(uint64_t hits, uint64_t misses, size_t cached)
{
	struct cs_verify_stats s = cs_verifier_stats(verifier);
	if (s.hits != hits || s.misses != misses || s.cached != cached)
		fail_msg("%lu hits, %lu misses, %zu cached; %lu, %lu, %zu are right", s.hits, s.misses, s.cached, hits,
			misses, cached);
}

static void cache(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("root-p256"));
	accepts("leaf-ok-spire");
	expect_stats(0, 1, 1);
	accepts("leaf-ok-spire");
	expect_stats(1, 1, 1);
	accepts("leaf-ok-spire", "root-p256"); /* another chain */
	expect_stats(1, 2, 2);
	/* Time is looked at on a hit too. */
	check(CS_R_SVID_EXPIRED, NULL, NOW + HOUR, NAMES("leaf-ok-spire"));
	check(CS_R_SVID_EXPIRED, NULL, NOW - 11, NAMES("leaf-ok-spire"));
	expect_stats(3, 2, 2);
	/* What is refused is not remembered. */
	refuses(CS_R_UNTRUSTED, "bad-signature");
	refuses(CS_R_UNTRUSTED, "bad-signature");
	check(CS_R_SVID_EXPIRED, NULL, NOW, NAMES("expired"));
	expect_stats(3, 5, 2);
	/* The bytes of a cached chain, cut elsewhere, are another chain. */
	struct cs_der leaf = certs_file("leaf-ok-spire"), root = certs_file("root-p256");
	uint8_t glued[4096];
	memcpy(glued, leaf.data, leaf.len);
	memcpy(glued + leaf.len, root.data, root.len);
	struct cs_der one = {glued, leaf.len + root.len};
	struct cs_verify what = {.chain = &one, .n = 1, .bundles = bundles, .now_unix_s = NOW};
	struct cs_peer *peer;
	struct cs_error e;
	assert_true(cs_verify(verifier, &what, &peer, &e) < 0);
	assert_int_equal(e.reason, CS_R_CERTIFICATE_MALFORMED);
}

static void cache_and_bundles(void **state)
{
	(void)state;
	put(bundles, "test.example", 1, NAMES("root-p256"));
	accepts("leaf-ok-spire");
	accepts("leaf-ok-spire");
	expect_stats(1, 1, 1);
	/* Another bundle, though with the same root: verified anew. */
	put(bundles, "test.example", 2, NAMES("root-p256"));
	accepts("leaf-ok-spire");
	expect_stats(1, 2, 1);
	/* A bundle without the root; even one that claims an old generation. */
	put(bundles, "test.example", 2, NAMES("crowd-0"));
	refuses(CS_R_UNTRUSTED, "leaf-ok-spire");
	expect_stats(1, 3, 0);
	put(bundles, "test.example", 1, NAMES("root-p256"));
	accepts("leaf-ok-spire");
	cs_bundles_remove(bundles, "test.example");
	refuses(CS_R_NO_BUNDLE, "leaf-ok-spire");
	/* One verifier, two sets: what one set knows is no hit for the other. */
	put(bundles, "test.example", 1, NAMES("root-p256"));
	accepts("leaf-ok-spire");
	struct cs_bundles *mine = bundles;
	bundles = cs_bundles_new();
	refuses(CS_R_NO_BUNDLE, "leaf-ok-spire");
	cs_bundles_free(bundles);
	bundles = mine;
}

static void cache_is_bounded(void **state)
{
	(void)state;
	static const char *const names[] = {"leaf-ok-spire", "leaf-ok-minimal", "leaf-ok-empty-subject",
		"leaf-ok-other-names", "leaf-ok-longest-id", "leaf-ok-more-eku", "leaf-ok-serial-20",
		"leaf-ok-serial-1", "leaf-ok-sha512"};
	put(bundles, "test.example", 1, NAMES("root-p256"));
	for (size_t i = 0; i < 8; i++)
		accepts(names[i]);
	expect_stats(0, 8, 8);
	accepts(names[0]); /* used last now */
	accepts(names[8]); /* turns names[1] out */
	expect_stats(1, 9, 8);
	accepts(names[0]);
	expect_stats(2, 9, 8);
	accepts(names[1]);
	expect_stats(2, 10, 8);
	assert_true(cs_verifier_new(NULL, CS_VERIFY_CACHE_MAX + 1, &(struct cs_verifier *){NULL}, NULL) < 0);
}

static void bundle_contents(void **state)
{
	(void)state;
	struct cs_bundle *b;
	struct cs_error e, why = {0};
	struct cs_der der[] = {certs_file("authority-bad-sha1"), certs_file("root-p256"), certs_file("leaf-ok-spire"),
		certs_file("root-p256"), certs_file("leaf-bad-not-der"), certs_file("root-other")};
	assert_int_equal(cs_bundle_new(NULL, "test.example", 7, der, 6, &b, &e), 0);
	assert_string_equal(cs_bundle_domain(b), "test.example");
	assert_int_equal(cs_bundle_generation(b), 7);
	assert_int_equal(cs_bundle_count(b), 2); /* the second root-p256 is the first */
	assert_int_equal(cs_bundle_refused(b, &why), 3);
	assert_int_equal(why.reason, CS_R_ALGORITHM_REFUSED);
	assert_non_null(strstr(why.text, "authority 1 of trust domain test.example"));
	struct cs_authority second = cs_bundle_authority(b, 1);
	assert_true(cs_der_equal(second.der, der[5]));
	assert_ptr_not_equal(second.der.data, der[5].data);
	uint8_t hash[32];
	sha256(der[5], hash);
	assert_memory_equal(second.sha256, hash, 32);
	assert_non_null(second.x509);
	assert_int_equal(cs_bundles_put(bundles, b, &e), 0);
	cs_bundle_unref(b);
	accepts("leaf-ok-spire");
	assert_true(cs_bundle_new(NULL, "Test.example", 7, der, 1, &b, &e) < 0);
	assert_true(cs_bundle_new(NULL, "", 7, der, 1, &b, &e) < 0);
}

static void bundle_limits(void **state)
{
	(void)state;
	struct cs_bundle *b;
	struct cs_error e;
	struct cs_der der[CS_BUNDLE_MAX + 1];
	char name[64];
	for (size_t i = 0; i <= CS_BUNDLE_MAX; i++) {
		snprintf(name, sizeof(name), "crowd-%zu", i);
		der[i] = certs_file(name);
	}
	assert_int_equal(cs_bundle_new(NULL, "test.example", 1, der, CS_BUNDLE_MAX, &b, &e), 0);
	assert_int_equal(cs_bundle_count(b), CS_BUNDLE_MAX);
	cs_bundle_unref(b);
	assert_true(cs_bundle_new(NULL, "test.example", 1, der, CS_BUNDLE_MAX + 1, &b, &e) < 0);
	assert_int_equal(e.reason, CS_R_TOO_MANY);
	static uint8_t large[CS_BUNDLE_AUTHORITY_MAX + 1];
	assert_int_equal(cs_bundle_new(NULL, "test.example", 1, &(struct cs_der){large, sizeof(large)}, 1, &b, &e), 0);
	assert_int_equal(cs_bundle_count(b), 0);
	assert_int_equal(cs_bundle_refused(b, &e), 1);
	assert_non_null(strstr(e.text, "16385 bytes"));
	cs_bundle_unref(b);
	/* Trust domains: the last one that fits, one more, and one that is there already. */
	for (int i = 0; i <= CS_BUNDLES_MAX; i++) {
		snprintf(name, sizeof(name), "d%d.example", i);
		assert_int_equal(cs_bundle_new(NULL, name, 1, NULL, 0, &b, &e), 0);
		int r = cs_bundles_put(bundles, b, &e);
		assert_int_equal(r, i < CS_BUNDLES_MAX ? 0 : -ENOSPC);
		cs_bundle_unref(b);
	}
	put(bundles, "d0.example", 2, NAMES("root-p256"));
	assert_int_equal(cs_bundle_generation(cs_bundles_get(bundles, "d0.example")), 2);
	assert_null(cs_bundles_get(bundles, "d256.example"));
}

/* mbedTLS by itself: it says no to what is wrong with a path, whatever OpenSSL thinks. */
static void mbedtls_alone(void **state)
{
	(void)state;
	static const struct {
		const char *leaf, *middle, *anchor;
		int64_t now;
		const char *says; /* NULL: it is fine */
	} cases[] = {
		{"leaf-ok-spire", NULL, "root-p256", NOW, NULL},
		{"below-i1", "i1", "root-p256", NOW, NULL},
		{"matrix-rsa4096-rsa2048", NULL, "matrix-root-rsa4096", NOW, NULL},
		{"rsa-pss-384", NULL, "matrix-root-rsa2048", NOW, NULL},
		{"leaf-ok-spire", NULL, "root-other", NOW, "not correctly signed"},
		{"below-i1", NULL, "root-p256", NOW, "not correctly signed"},
		{"bad-signature", NULL, "root-p256", NOW, "not correctly signed"},
		{"below-impostor", NULL, "root-p256", NOW, "not correctly signed"},
		{"below-leaf", "signing-leaf", "root-p256", NOW, "not correctly signed"},
		{"expired", NULL, "root-p256", NOW, "expired"},
		{"not-yet", NULL, "root-p256", NOW, "future"},
		{"leaf-ok-spire", NULL, "root-p256", NOW + 25 * HOUR, "expired"},
		{"below-over", "over", "root-p256", NOW, "expired"},
		{"ends-now", NULL, "root-p256", NOW, NULL},
		{"below-root-expired", NULL, "root-expired", NOW, "expired"},
		{"leaf-bad-sha1", NULL, "root-p256", NOW, "unacceptable hash"},
		{"leaf-bad-twice-san", NULL, "root-p256", NOW, "X509"},
		{"odd-policies", NULL, "root-p256", NOW, "X509"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_der path[3];
		size_t n = 0;
		struct cs_error e = {0};
		struct cs_cert_facts facts = {0};
		struct cs_spiffe_id id;
		path[n++] = certs_file(cases[i].leaf);
		if (cases[i].middle)
			path[n++] = certs_file(cases[i].middle);
		path[n++] = certs_file(cases[i].anchor);
		if (cs_profile_leaf(path[0], &facts, &id, &e) < 0)
			assert_non_null(cases[i].says);
		int r = cs_mbedtls_verify(path, n, facts.spki, cases[i].now, &e);
		if (r == 0 && cases[i].says)
			fail_msg("%s: accepted", cases[i].leaf);
		if (r < 0 && (!cases[i].says || e.reason != CS_R_VERIFIERS_DISAGREE || !strstr(e.text, cases[i].says)))
			fail_msg("%s: %s", cases[i].leaf, e.text);
	}
	/* Another key than the one that our walker saw. */
	struct cs_der path[] = {certs_file("leaf-ok-spire"), certs_file("root-p256")};
	struct cs_error e;
	assert_true(cs_mbedtls_verify(path, 2, path[1], NOW, &e) < 0);
	assert_int_equal(e.reason, CS_R_VERIFIERS_DISAGREE);
}

static void own_context(void **state)
{
	(void)state;
	OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();
	OSSL_PROVIDER *provider = OSSL_PROVIDER_load(ctx, "default");
	struct cs_bundle *b = bundle_of(ctx, "test.example", 1, NAMES("root-p256"));
	struct cs_verifier *v;
	struct cs_peer *peer;
	struct cs_error e;
	struct cs_der chain[] = {certs_file("below-i1"), certs_file("i1")};
	assert_int_equal(cs_bundles_put(bundles, b, &e), 0);
	cs_bundle_unref(b);
	assert_int_equal(cs_verifier_new(ctx, 1, &v, &e), 0);
	struct cs_verify what = {.chain = chain, .n = 2, .bundles = bundles, .now_unix_s = NOW};
	assert_int_equal(cs_verify(v, &what, &peer, &e), 0);
	cs_peer_unref(peer);
	cs_verifier_free(v);
	cs_bundles_remove(bundles, "test.example");
	OSSL_PROVIDER_unload(provider);
	OSSL_LIB_CTX_free(ctx);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
	const struct CMUnitTest tests[] = {T(matrix), T(signature_algorithms), T(paths), T(anchor_not_self_signed),
		T(leaf_counts_once), T(times), T(limits), T(domains), T(expectations), T(names_alike), T(peer_facts),
		T(earliest_end), T(cache), T(cache_and_bundles), T(cache_is_bounded), T(bundle_contents),
		T(bundle_limits), T(mbedtls_alone), T(own_context)};
	return cmocka_run_group_tests(tests, NULL, certs_files_free);
}
