/* The X.509-SVID profile: each rule with a certificate that keeps it and one that breaks it and nothing else. Every
 * certificate is signed by root-p256, and goes through the whole of cs_verify too. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <dirent.h>
#include <openssl/x509v3.h>
#include <cmocka.h>
#include "certs_files.h"
#include "verify.h"

struct rule {
	const char *file;
	enum cs_reason reason;
	const char *says;
};

static const struct rule leaves[] = {
	{"leaf-ok-spire", 0, ""},
	{"leaf-ok-minimal", 0, ""},
	{"leaf-ok-empty-subject", 0, ""},
	{"leaf-ok-other-names", 0, ""},
	{"leaf-ok-longest-id", 0, ""},
	{"leaf-ok-more-eku", 0, ""},
	{"leaf-ok-serial-20", 0, ""},
	{"leaf-ok-serial-1", 0, ""},
	{"leaf-ok-serial-high-bit", 0, ""},
	{"leaf-ok-until-9999", 0, ""},
	{"leaf-ok-unknown-extension", 0, ""},
	{"leaf-ok-sha512", 0, ""},
	{"leaf-ok-no-ski", 0, ""},
	{"leaf-ok-negative-in-name", 0, ""},
	{"leaf-bad-ca", CS_R_SVID_PROFILE, "X509-SVID 4.1"},
	{"leaf-bad-path-len", CS_R_SVID_PROFILE, "RFC 5280 4.2.1.9"},
	{"leaf-bad-no-ku", CS_R_SVID_PROFILE, "X509-SVID 4.3: it has no key usage"},
	{"leaf-bad-ku-not-critical", CS_R_SVID_PROFILE, "X509-SVID 4.3: its key usage is not critical"},
	{"leaf-bad-no-digital-signature", CS_R_SVID_PROFILE, "lacks digitalSignature"},
	{"leaf-bad-key-cert-sign", CS_R_SVID_PROFILE, "has keyCertSign"},
	{"leaf-bad-crl-sign", CS_R_SVID_PROFILE, "has cRLSign"},
	{"leaf-bad-eku-server-only", CS_R_SVID_PROFILE, "X509-SVID 4.4"},
	{"leaf-bad-eku-client-only", CS_R_SVID_PROFILE, "X509-SVID 4.4"},
	{"leaf-bad-eku-any-only", CS_R_SVID_PROFILE, "X509-SVID 4.4"},
	{"leaf-bad-no-san", CS_R_SVID_PROFILE, "X509-SVID 2: it has no URI"},
	{"leaf-bad-no-uri", CS_R_SVID_PROFILE, "X509-SVID 2: it has no URI"},
	{"leaf-bad-two-uris", CS_R_SVID_PROFILE, "X509-SVID 2: it has more than one URI"},
	{"leaf-bad-spiffe-and-https", CS_R_SVID_PROFILE, "X509-SVID 2: it has more than one URI"},
	{"leaf-bad-same-uri-twice", CS_R_SVID_PROFILE, "X509-SVID 2: it has more than one URI"},
	{"leaf-bad-https-uri", CS_R_SVID_PROFILE, "X509-SVID 5.2: its URI is no SPIFFE ID"},
	{"leaf-bad-no-path", CS_R_SVID_PROFILE, "X509-SVID 5.2: its SPIFFE ID has no path"},
	{"leaf-bad-slash-path", CS_R_SVID_PROFILE, "empty segment"},
	{"leaf-bad-upper-case-domain", CS_R_SVID_PROFILE, "'T' at byte 1"},
	{"leaf-bad-dot-segment", CS_R_SVID_PROFILE, "segment '..'"},
	{"leaf-bad-percent", CS_R_SVID_PROFILE, "'%'"},
	{"leaf-bad-query", CS_R_SVID_PROFILE, "'?'"},
	{"leaf-bad-port", CS_R_SVID_PROFILE, "':'"},
	{"leaf-bad-too-long-id", CS_R_SVID_PROFILE, "2049 bytes"},
	{"leaf-bad-nul-in-uri", CS_R_SVID_PROFILE, "0x00"},
	{"leaf-bad-empty-uri", CS_R_SVID_PROFILE, "X509-SVID 5.2"},
	{"leaf-bad-empty-subject", CS_R_SVID_PROFILE, "X509-SVID 3.1"},
	{"leaf-bad-name-constraints", CS_R_SVID_PROFILE, "X509-SVID 4.2"},
	{"leaf-bad-twice-san", CS_R_SVID_PROFILE, "the extension 2.5.29.17 twice"},
	{"leaf-bad-twice-unknown", CS_R_SVID_PROFILE, "the extension 1.3.6.1.4.1.55555.1 twice"},
	{"leaf-bad-unknown-critical", CS_R_SVID_PROFILE, "critical extension 1.3.6.1.4.1.55555.1"},
	{"leaf-bad-critical-policies", CS_R_SVID_PROFILE, "critical extension 2.5.29.32"},
	{"leaf-bad-version-1", CS_R_SVID_PROFILE, "version 3"},
	{"leaf-bad-version-2", CS_R_SVID_PROFILE, "version 3"},
	{"leaf-bad-version-4", CS_R_SVID_PROFILE, "version 3"},
	{"leaf-bad-no-extensions", CS_R_SVID_PROFILE, "X509-SVID 4.3: it has no key usage"},
	{"leaf-bad-serial-zero", CS_R_SVID_PROFILE, "serial number is zero"},
	{"leaf-bad-serial-negative", CS_R_SVID_PROFILE, "serial number is negative"},
	{"leaf-bad-serial-21", CS_R_SVID_PROFILE, "more than 20 octets"},
	{"leaf-bad-serial-padded", CS_R_CERTIFICATE_MALFORMED, "serial number"},
	{"leaf-bad-serial-empty", CS_R_CERTIFICATE_MALFORMED, "serial number"},
	{"leaf-bad-inner-outer", CS_R_SVID_PROFILE, "RFC 5280 4.1.1.2"},
	{"leaf-bad-empty-issuer", CS_R_SVID_PROFILE, "RFC 5280 4.1.2.4"},
	{"leaf-bad-no-aki", CS_R_SVID_PROFILE, "RFC 5280 4.2.1.1"},
	{"leaf-bad-aki-without-id", CS_R_SVID_PROFILE, "RFC 5280 4.2.1.1"},
	{"leaf-bad-aki-critical", CS_R_CERTIFICATE_MALFORMED, "authority key identifier"},
	{"leaf-bad-ski-critical", CS_R_CERTIFICATE_MALFORMED, "subject key identifier"},
	{"leaf-bad-unique-id", CS_R_CERTIFICATE_MALFORMED, "what follows the public key"},
	{"leaf-bad-trailing-byte", CS_R_CERTIFICATE_MALFORMED, "bytes after it"},
	{"leaf-bad-trailing-certificate", CS_R_CERTIFICATE_MALFORMED, "bytes after it"},
	{"leaf-bad-truncated", CS_R_CERTIFICATE_MALFORMED, "DER"},
	{"leaf-bad-empty", CS_R_CERTIFICATE_MALFORMED, "DER"},
	{"leaf-bad-not-der", CS_R_CERTIFICATE_MALFORMED, "DER"},
	{"leaf-bad-trailing-in-tbs", CS_R_CERTIFICATE_MALFORMED, "public key"},
	{"leaf-bad-trailing-in-outer", CS_R_CERTIFICATE_MALFORMED, "not a certificate"},
	{"leaf-bad-trailing-in-extension", CS_R_CERTIFICATE_MALFORMED, "an extension"},
	{"leaf-bad-trailing-in-san", CS_R_CERTIFICATE_MALFORMED, "subject alternative name"},
	{"leaf-bad-critical-false", CS_R_CERTIFICATE_MALFORMED, "an extension"},
	{"leaf-bad-critical-one", CS_R_CERTIFICATE_MALFORMED, "an extension"},
	{"leaf-bad-ca-false-encoded", CS_R_CERTIFICATE_MALFORMED, "basic constraints"},
	{"leaf-bad-empty-extensions", CS_R_CERTIFICATE_MALFORMED, "extensions"},
	{"leaf-bad-empty-san", CS_R_CERTIFICATE_MALFORMED, "subject alternative name"},
	{"leaf-bad-odd-name", CS_R_CERTIFICATE_MALFORMED, "subject alternative name"},
	{"leaf-bad-other-name", CS_R_CERTIFICATE_MALFORMED, "subject alternative name"},
	{"leaf-bad-odd-subject", CS_R_CERTIFICATE_MALFORMED, "subject"},
	{"leaf-bad-latin1-subject", CS_R_CERTIFICATE_MALFORMED, "subject"},
	{"leaf-bad-empty-rdn", CS_R_CERTIFICATE_MALFORMED, "subject"},
	{"leaf-bad-empty-eku", CS_R_CERTIFICATE_MALFORMED, "extended key usage"},
	{"leaf-bad-ku-trailing-zeros", CS_R_CERTIFICATE_MALFORMED, "key usage"},
	{"leaf-bad-ku-empty", CS_R_CERTIFICATE_MALFORMED, "key usage"},
	{"leaf-bad-long-length", CS_R_CERTIFICATE_MALFORMED, "DER"},
	{"leaf-bad-indefinite", CS_R_CERTIFICATE_MALFORMED, "DER"},
	{"leaf-bad-time-offset", CS_R_CERTIFICATE_MALFORMED, "validity"},
	{"leaf-bad-time-no-seconds", CS_R_CERTIFICATE_MALFORMED, "validity"},
	{"leaf-bad-time-month-13", CS_R_CERTIFICATE_MALFORMED, "validity"},
	{"leaf-bad-time-feb-30", CS_R_CERTIFICATE_MALFORMED, "validity"},
	{"leaf-bad-time-general-2027", CS_R_CERTIFICATE_MALFORMED, "validity"},
	{"leaf-bad-time-fraction", CS_R_CERTIFICATE_MALFORMED, "validity"},
	{"leaf-bad-many-extensions", CS_R_CERTIFICATE_MALFORMED, "more than 32 extensions"},
	{"leaf-bad-sha1", CS_R_ALGORITHM_REFUSED, "1.2.840.10045.4.1 "},
	{"leaf-bad-sha224", CS_R_ALGORITHM_REFUSED, "1.2.840.10045.4.3.1 "},
	{"leaf-bad-p521-key", CS_R_ALGORITHM_REFUSED, "1.3.132.0.35"},
	{"leaf-bad-secp256k1-key", CS_R_ALGORITHM_REFUSED, "1.3.132.0.10"},
	{"leaf-bad-ed25519-key", CS_R_ALGORITHM_REFUSED, "1.3.101.112"},
	{"leaf-bad-rsa1024-key", CS_R_ALGORITHM_REFUSED, "1024 bits"},
	{"leaf-bad-rsa2047-key", CS_R_ALGORITHM_REFUSED, "2047 bits"},
	{"leaf-bad-rsa4097-key", CS_R_ALGORITHM_REFUSED, "4097 bits"},
	{"leaf-bad-rsa8192-key", CS_R_ALGORITHM_REFUSED, "8192 bits"},
	{"leaf-bad-rsa-e3-key", CS_R_ALGORITHM_REFUSED, "exponent"},
	{"leaf-bad-rsa-even-e-key", CS_R_ALGORITHM_REFUSED, "exponent"},
	{"leaf-bad-rsa-huge-e-key", CS_R_ALGORITHM_REFUSED, "exponent"},
	{"leaf-bad-rsa-even-key", CS_R_ALGORITHM_REFUSED, "odd"},
	{"leaf-bad-compressed-point", CS_R_ALGORITHM_REFUSED, "uncompressed"},
	{"leaf-bad-curve-and-more", CS_R_CERTIFICATE_MALFORMED, "public key"},
	{"leaf-bad-explicit-curve", CS_R_ALGORITHM_REFUSED, "spelled out"},
};

static const struct rule authorities[] = {
	{"authority-ok-intermediate", 0, ""},
	{"authority-ok-digital-signature", 0, ""},
	{"authority-ok-no-crl-sign", 0, ""},
	{"authority-ok-eku", 0, ""},
	{"authority-ok-no-uri", 0, ""},
	{"authority-ok-odd-uri", 0, ""},
	{"authority-bad-not-ca", CS_R_SVID_PROFILE, "X509-SVID 4.1"},
	{"authority-bad-no-bc", CS_R_SVID_PROFILE, "X509-SVID 4.1"},
	{"authority-bad-bc-not-critical", CS_R_SVID_PROFILE, "RFC 5280 4.2.1.9"},
	{"authority-bad-path-len-huge", CS_R_CERTIFICATE_MALFORMED, "basic constraints"},
	{"authority-bad-path-len-negative", CS_R_CERTIFICATE_MALFORMED, "basic constraints"},
	{"authority-bad-no-ku", CS_R_SVID_PROFILE, "X509-SVID 4.3"},
	{"authority-bad-ku-not-critical", CS_R_SVID_PROFILE, "X509-SVID 4.3"},
	{"authority-bad-no-cert-sign", CS_R_SVID_PROFILE, "lacks keyCertSign"},
	{"authority-bad-eku-server-only", CS_R_SVID_PROFILE, "X509-SVID 4.4"},
	{"authority-bad-name-constraints", CS_R_SVID_PROFILE, "X509-SVID 4.2"},
	{"authority-bad-name-constraints-critical", CS_R_SVID_PROFILE, "X509-SVID 4.2"},
	{"authority-bad-policy-constraints", CS_R_SVID_PROFILE, "critical extension 2.5.29.36"},
	{"authority-bad-empty-subject", CS_R_SVID_PROFILE, "RFC 5280 4.1.2.6"},
	{"authority-bad-no-ski", CS_R_SVID_PROFILE, "RFC 5280 4.2.1.2"},
	{"authority-bad-long-ski", CS_R_CERTIFICATE_MALFORMED, "subject key identifier"},
	{"authority-bad-no-aki", CS_R_SVID_PROFILE, "RFC 5280 4.2.1.1"},
	{"authority-bad-sha1", CS_R_ALGORITHM_REFUSED, "1.2.840.10045.4.1 "},
	{"authority-bad-twice", CS_R_SVID_PROFILE, "the extension 2.5.29.19 twice"},
	{"authority-bad-trailing", CS_R_CERTIFICATE_MALFORMED, "bytes after it"},
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void expect(const struct rule *rule, int r, const struct cs_error *e)
{
	if (rule->reason == CS_R_NONE) {
		if (r != 0)
			fail_msg("%s: refused: %s", rule->file, e->text);
		return;
	}
	if (r == 0)
		fail_msg("%s: accepted", rule->file);
	if (e->reason != rule->reason || !strstr(e->text, rule->says))
		fail_msg("%s: %s: '%s' is not %s '%s'", rule->file, cs_reason_name(e->reason), e->text,
			cs_reason_name(rule->reason), rule->says);
}

static void walker(void **state)
{
	(void)state;
	struct cs_cert_facts facts;
	struct cs_spiffe_id id;
	for (size_t i = 0; i < COUNT(leaves); i++) {
		struct cs_error e = {0};
		int r = cs_profile_leaf(certs_file(leaves[i].file), &facts, &id, &e);
		expect(&leaves[i], r, &e);
	}
	for (size_t i = 0; i < COUNT(authorities); i++) {
		struct cs_error e = {0};
		int r = cs_profile_authority(certs_file(authorities[i].file), &facts, &e);
		expect(&authorities[i], r, &e);
	}
}

static struct cs_bundles *bundles_of(const char *root)
{
	struct cs_bundles *bundles = cs_bundles_new();
	struct cs_bundle *bundle;
	struct cs_error e;
	struct cs_der der = certs_file(root);
	if (cs_bundle_new(NULL, "test.example", 1, &der, 1, &bundle, &e) < 0 || cs_bundles_put(bundles, bundle, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(cs_bundle_count(bundle), 1);
	cs_bundle_unref(bundle);
	return bundles;
}

static int verify(struct cs_verifier *v, struct cs_bundles *b, const struct cs_der *chain, size_t n, struct cs_error *e)
{
	struct cs_peer *peer;
	struct cs_verify what = {.chain = chain, .n = n, .bundles = b, .now_unix_s = NOW};
	int r = cs_verify(v, &what, &peer, e);
	assert_int_equal(r == 0, peer != NULL);
	cs_peer_unref(peer);
	return r;
}

/* The same through all three verifiers: what is bad stays bad and has the same reason, what is good is good for all. */
static void whole(void **state)
{
	(void)state;
	struct cs_bundles *bundles = bundles_of("root-p256");
	struct cs_verifier *v;
	assert_int_equal(cs_verifier_new(NULL, 0, &v, NULL), 0);
	for (size_t i = 0; i < COUNT(leaves); i++) {
		struct cs_error e = {0};
		struct cs_der chain = certs_file(leaves[i].file);
		int r = verify(v, bundles, &chain, 1, &e);
		expect(&leaves[i], r, &e);
	}
	/* As an intermediate that nobody needs: it is refused nevertheless. */
	for (size_t i = 0; i < COUNT(authorities); i++) {
		struct cs_error e = {0};
		struct cs_der chain[] = {certs_file("leaf-ok-spire"), certs_file(authorities[i].file)};
		int r = verify(v, bundles, chain, 2, &e);
		expect(&authorities[i], r, &e);
	}
	cs_verifier_free(v);
	cs_bundles_free(bundles);
}

/* No case that make_certs.py makes is forgotten here. */
static void complete(void **state)
{
	(void)state;
	DIR *dir = opendir(CERTS_DIR);
	assert_non_null(dir);
	for (struct dirent *d; (d = readdir(dir));) {
		char name[256];
		bool leaf = strncmp(d->d_name, "leaf-", 5) == 0;
		const struct rule *rules = leaf ? leaves : authorities;
		size_t n = leaf ? COUNT(leaves) : COUNT(authorities), i = 0;
		if (!leaf && strncmp(d->d_name, "authority-", 10) != 0)
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(d->d_name, "."), d->d_name);
		while (i < n && strcmp(rules[i].file, name) != 0)
			i++;
		if (i == n)
			fail_msg("%s has no row", d->d_name);
	}
	closedir(dir);
}

/* What the walker reads is what OpenSSL reads. */
static void facts_are_right(void **state)
{
	(void)state;
	struct cs_cert_facts f;
	struct cs_spiffe_id id;
	struct cs_error e;
	for (size_t i = 0; i < COUNT(leaves) && leaves[i].reason == CS_R_NONE; i++) {
		struct cs_der der = certs_file(leaves[i].file);
		const unsigned char *p = der.data;
		X509 *x = d2i_X509(NULL, &p, (long)der.len);
		assert_non_null(x);
		assert_int_equal(cs_profile_leaf(der, &f, &id, &e), 0);
		uint8_t serial[CS_SERIAL_MAX] = {0};
		BIGNUM *bn = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
		assert_int_equal(BN_bn2binpad(bn, serial, sizeof(serial)), sizeof(serial));
		BN_free(bn);
		assert_memory_equal(serial, f.serial, sizeof(serial));
		ASN1_TIME *from = ASN1_TIME_set(NULL, f.not_before_unix_s),
			  *to = ASN1_TIME_set(NULL, f.not_after_unix_s);
		assert_int_equal(ASN1_TIME_compare(from, X509_get0_notBefore(x)), 0);
		assert_int_equal(ASN1_TIME_compare(to, X509_get0_notAfter(x)), 0);
		ASN1_TIME_free(from);
		ASN1_TIME_free(to);
		const ASN1_OCTET_STRING *ski = X509_get0_subject_key_id(x), *aki = X509_get0_authority_key_id(x);
		assert_int_equal(f.subject_key_id.len, ski ? ski->length : 0);
		if (ski)
			assert_memory_equal(f.subject_key_id.bytes, ski->data, (size_t)ski->length);
		assert_int_equal(f.authority_key_id.len, aki->length);
		assert_memory_equal(f.authority_key_id.bytes, aki->data, (size_t)aki->length);
		unsigned char *spki = NULL;
		int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &spki);
		assert_int_equal(f.spki.len, len);
		assert_memory_equal(f.spki.data, spki, (size_t)len);
		OPENSSL_free(spki);
		assert_int_equal(f.key.algorithm, CS_KEY_P256);
		assert_int_equal(f.key.bits, 256);
		X509_free(x);
	}
	assert_int_equal(cs_profile_leaf(certs_file("leaf-ok-spire"), &f, &id, &e), 0);
	assert_string_equal(id.text, "spiffe://test.example/web");
	assert_int_equal(f.not_before_unix_s, NOW - 10);
	assert_int_equal(f.not_after_unix_s, NOW + 3600);
	assert_int_equal(f.signature, CS_SIG_ECDSA_SHA256);
	assert_int_equal(cs_profile_leaf(certs_file("leaf-ok-until-9999"), &f, &id, &e), 0);
	assert_int_equal(f.not_after_unix_s, 253402300799);
}

/* Every prefix of a certificate, and every byte of one turned round, ends in an answer. (The address sanitizer looks.) */
static void every_prefix(void **state)
{
	(void)state;
	struct cs_cert_facts f;
	struct cs_spiffe_id id;
	struct cs_der der = certs_file("leaf-ok-other-names");
	uint8_t copy[4096];
	assert_true(der.len <= sizeof(copy));
	for (size_t len = 0; len < der.len; len++)
		assert_true(cs_profile_leaf((struct cs_der){der.data, len}, &f, &id, NULL) < 0);
	for (size_t i = 0; i < der.len; i++) {
		memcpy(copy, der.data, der.len);
		copy[i] = (uint8_t)~copy[i];
		(void)!cs_profile_leaf((struct cs_der){copy, der.len}, &f, &id, NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(walker),
		cmocka_unit_test(whole),
		cmocka_unit_test(complete),
		cmocka_unit_test(facts_are_right),
		cmocka_unit_test(every_prefix),
	};
	return cmocka_run_group_tests(tests, NULL, certs_files_free);
}
