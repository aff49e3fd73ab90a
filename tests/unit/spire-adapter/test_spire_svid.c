/* What SPIRE sends, taken apart: DER one after the other, chains, keys. Certificates come from our own CA. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ca.h"
#include "spire_key.h"
#include "spire_svid.h"

#define NOW 1700000000
#define ID  "spiffe://example.org/identity/100"

struct fixture {
	char base[48], dir[64];
	struct cs_ca *ca;
	struct cs_issued one, two;
	uint8_t *leaf, *root, *pkcs8;
	size_t leaf_len, root_len, pkcs8_len;
};

static size_t key_der(EVP_PKEY *key, uint8_t **ret)
{
	PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(key);
	int n = i2d_PKCS8_PRIV_KEY_INFO(info, ret);
	PKCS8_PRIV_KEY_INFO_free(info);
	assert_true(n > 0);
	return (size_t)n;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cs_error e;
	strcpy(f->base, "/tmp/cs-test-spire-svid-XXXXXX");
	assert_non_null(mkdtemp(f->base));
	snprintf(f->dir, sizeof(f->dir), "%s/ca", f->base);
	assert_int_equal(cs_ca_open(f->dir, "example.org", NOW, &f->ca, NULL, &e), 0);
	assert_int_equal(cs_ca_issue(f->ca, ID, 3600, NOW, &f->one, &e), 0);
	assert_int_equal(cs_ca_issue(f->ca, ID, 3600, NOW, &f->two, &e), 0);
	f->leaf_len = (size_t)i2d_X509(f->one.leaf, &f->leaf);
	f->root_len = (size_t)i2d_X509((X509 *)cs_ca_root_borrow(f->ca), &f->root);
	f->pkcs8_len = key_der(f->one.key, &f->pkcs8);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char file[80];
	OPENSSL_free(f->leaf);
	OPENSSL_free(f->root);
	OPENSSL_free(f->pkcs8);
	cs_issued_fini(&f->one);
	cs_issued_fini(&f->two);
	cs_ca_free(f->ca);
	for (int i = 0; i < 2; i++) {
		snprintf(file, sizeof(file), "%s/%s", f->dir, i == 0 ? "ca.pem" : "lock");
		unlink(file);
	}
	rmdir(f->dir);
	rmdir(f->base);
	free(f);
	return 0;
}

static void splits(void **state)
{
	struct fixture *f = *state;
	struct cs_der out[2];
	struct cs_error e;
	size_t n = 9, len = f->leaf_len + f->root_len;
	uint8_t *blob = malloc(len);
	memcpy(blob, f->leaf, f->leaf_len);
	memcpy(blob + f->leaf_len, f->root, f->root_len);
	assert_int_equal(cs_spire_split((struct cs_der){blob, len}, out, 2, &n, &e), 0);
	assert_int_equal(n, 2);
	assert_true(cs_der_equal(out[0], (struct cs_der){f->leaf, f->leaf_len}));
	assert_true(cs_der_equal(out[1], (struct cs_der){f->root, f->root_len}));
	assert_int_equal(cs_spire_split((struct cs_der){blob, 0}, out, 2, &n, &e), 0);
	assert_int_equal(n, 0);
	assert_true(cs_spire_split((struct cs_der){blob, len}, out, 1, &n, &e) < 0);
	assert_int_equal(e.reason, CS_R_TOO_MANY);
	for (size_t cut = 1; cut < len; cut++) /* only at the seam do both halves make sense */
		assert_int_equal(cs_spire_split((struct cs_der){blob, cut}, out, 2, &n, &e) == 0, cut == f->leaf_len);
	blob[f->leaf_len] = CS_DER_SET;
	assert_true(cs_spire_split((struct cs_der){blob, len}, out, 2, &n, &e) < 0);
	assert_int_equal(e.reason, CS_R_CERTIFICATE_MALFORMED);
	free(blob);
}

static void reads_a_chain_and_its_key(void **state)
{
	struct fixture *f = *state;
	struct cs_spire_chain chain = {.cert = {{f->leaf, f->leaf_len}, {f->root, f->root_len}}, .n = 2};
	struct cs_error e;
	EVP_PKEY *key;
	assert_int_equal(cs_spire_chain_read(&chain, &e), 0);
	assert_string_equal(chain.id.text, ID);
	assert_int_equal(chain.not_after_unix_s, f->one.not_after_unix_s);
	assert_int_equal(chain.not_before_unix_s, NOW - CS_CA_BACKDATE_S);
	const struct cs_der right = {f->pkcs8, f->pkcs8_len};
	assert_int_equal(cs_spire_key_read(right, chain.spki, &key, &e), 0);
	assert_int_equal(EVP_PKEY_eq(key, f->one.key), 1);
	EVP_PKEY_free(key);
}

static void refuses_other_keys(void **state)
{
	struct fixture *f = *state;
	struct cs_spire_chain chain = {.cert = {{f->leaf, f->leaf_len}}, .n = 1};
	struct cs_error e;
	EVP_PKEY *key;
	uint8_t *other = NULL, *more = calloc(1, f->pkcs8_len + 1);
	assert_int_equal(cs_spire_chain_read(&chain, &e), 0);
	size_t n = key_der(f->two.key, &other);
	memcpy(more, f->pkcs8, f->pkcs8_len);
	const struct cs_der wrong[] = {{other, n}, {NULL, 0}, {f->pkcs8, f->pkcs8_len - 1}, {more, f->pkcs8_len + 1},
		{f->leaf, f->leaf_len}, {f->pkcs8, CS_SPIRE_KEY_MAX + 1}};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_true(cs_spire_key_read(wrong[i], chain.spki, &key, &e) < 0);
	OPENSSL_free(other);
	free(more);
}

/* A key of any type against its own SubjectPublicKeyInfo and another's. */
static void reads_keys_of_all_types(void **state)
{
	(void)state;
	static const char *const types[][2] = {{"EC", "P-256"}, {"EC", "P-384"}, {"RSA", NULL}};
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		EVP_PKEY *key[2], *got;
		uint8_t *pkcs8 = NULL, *spki[2] = {NULL, NULL};
		int spki_len[2];
		struct cs_error e;
		for (int k = 0; k < 2; k++) {
			key[k] = types[i][1] ? EVP_PKEY_Q_keygen(NULL, NULL, "EC", types[i][1])
					     : EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)2048);
			assert_non_null(key[k]);
			spki_len[k] = i2d_PUBKEY(key[k], &spki[k]);
		}
		size_t n = key_der(key[0], &pkcs8);
		const struct cs_der in = {pkcs8, n}, right = {spki[0], (size_t)spki_len[0]},
				    wrong = {spki[1], (size_t)spki_len[1]};
		assert_int_equal(cs_spire_key_read(in, right, &got, &e), 0);
		assert_int_equal(EVP_PKEY_eq(got, key[0]), 1);
		EVP_PKEY_free(got);
		assert_true(cs_spire_key_read(in, wrong, &got, &e) < 0);
		for (size_t cut = 0; cut < in.len; cut += 7)
			assert_true(cs_spire_key_read((struct cs_der){pkcs8, cut}, right, &got, &e) < 0);
		OPENSSL_free(pkcs8);
		for (int k = 0; k < 2; k++) {
			OPENSSL_free(spki[k]);
			EVP_PKEY_free(key[k]);
		}
	}
}

static void refuses_other_chains(void **state)
{
	struct fixture *f = *state;
	struct cs_error e;
	struct cs_spire_chain none = {.n = 0}, root_first = {.cert = {{f->root, f->root_len}}, .n = 1},
			      two_leaves = {.cert = {{f->leaf, f->leaf_len}, {f->leaf, f->leaf_len}}, .n = 2},
			      cut = {.cert = {{f->leaf, f->leaf_len - 1}}, .n = 1};
	assert_true(cs_spire_chain_read(&none, &e) < 0);
	assert_int_equal(e.reason, CS_R_CHAIN_TOO_LARGE);
	assert_true(cs_spire_chain_read(&root_first, &e) < 0);
	assert_true(cs_spire_chain_read(&two_leaves, &e) < 0);
	assert_true(cs_spire_chain_read(&cut, &e) < 0);
	assert_int_equal(e.reason, CS_R_CERTIFICATE_MALFORMED);
}

static void names_of_trust_domains(void **state)
{
	(void)state;
	assert_string_equal(cs_spire_trust_domain("spiffe://example.org"), "example.org");
	assert_string_equal(cs_spire_trust_domain("example.org"), "example.org");
	static const char *const wrong[] = {"", "spiffe://", "spiffe://example.org/", "spiffe://Example.org", "a b",
		"spiffe://spiffe://a", "https://example.org"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_null(cs_spire_trust_domain(wrong[i]));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(splits),
		TEST(reads_a_chain_and_its_key),
		TEST(refuses_other_keys),
		TEST(refuses_other_chains),
		cmocka_unit_test(reads_keys_of_all_types),
		cmocka_unit_test(names_of_trust_domains),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
