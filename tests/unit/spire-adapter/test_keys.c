/* The key store: generations, how long old ones sign, bounds, locked memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <openssl/ec.h>
#include <openssl/crypto.h>
#include <openssl/rsa.h>
#include <sys/prctl.h>
#include "keys.h"

#define T0 1000000

static EVP_PKEY *p256(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	assert_non_null(key);
	return key;
}

static void put(struct cs_keys *keys, uint32_t identity, uint64_t generation, int64_t now_mono_ms)
{
	struct cs_error e;
	assert_int_equal(cs_keys_put_take(keys, identity, generation, p256(), now_mono_ms, &e), 0);
}

static void finds_by_identity_and_generation(void **state)
{
	(void)state;
	struct cs_keys *keys = cs_keys_new();
	put(keys, 70001, 5, T0);
	put(keys, 70002, 6, T0);
	assert_non_null(cs_keys_find(keys, 70001, 5, T0));
	assert_non_null(cs_keys_find(keys, 70002, 6, T0));
	assert_null(cs_keys_find(keys, 70001, 6, T0));
	assert_null(cs_keys_find(keys, 70003, 5, T0));
	assert_null(cs_keys_find(keys, 70001, 0, T0));
	assert_int_equal(cs_keys_count(keys), 2);
	cs_keys_free(keys);
}

static void an_old_generation_signs_for_a_while(void **state)
{
	(void)state;
	struct cs_keys *keys = cs_keys_new();
	put(keys, 1, 1, T0);
	put(keys, 1, 2, T0 + 50000);
	assert_non_null(cs_keys_find(keys, 1, 1, T0 + 50000 + CS_SIGN_GRACE_MS - 1));
	assert_null(cs_keys_find(keys, 1, 1, T0 + 50000 + CS_SIGN_GRACE_MS));
	assert_non_null(cs_keys_find(keys, 1, 2, INT64_MAX - 1));
	cs_keys_sweep(keys, T0 + 50000 + CS_SIGN_GRACE_MS - 1);
	assert_int_equal(cs_keys_count(keys), 2);
	cs_keys_sweep(keys, T0 + 50000 + CS_SIGN_GRACE_MS);
	assert_int_equal(cs_keys_count(keys), 1);
	assert_non_null(cs_keys_find(keys, 1, 2, T0));
	cs_keys_free(keys);
}

static void old_generations_are_bounded(void **state)
{
	(void)state;
	struct cs_keys *keys = cs_keys_new();
	for (uint64_t g = 1; g <= 2 + CS_KEYS_OLD_MAX; g++)
		put(keys, 1, g, T0);
	assert_int_equal(cs_keys_count(keys), 1 + CS_KEYS_OLD_MAX);
	assert_null(cs_keys_find(keys, 1, 1, T0));
	assert_non_null(cs_keys_find(keys, 1, 2, T0));
	cs_keys_free(keys);
}

static void a_dropped_identity_signs_no_more(void **state)
{
	(void)state;
	struct cs_keys *keys = cs_keys_new();
	put(keys, 1, 1, T0);
	put(keys, 1, 2, T0);
	put(keys, 2, 3, T0);
	cs_keys_drop(keys, 1);
	cs_keys_drop(keys, 99);
	assert_null(cs_keys_find(keys, 1, 1, T0));
	assert_null(cs_keys_find(keys, 1, 2, T0));
	assert_non_null(cs_keys_find(keys, 2, 3, T0));
	assert_int_equal(cs_keys_count(keys), 1);
	cs_keys_free(keys);
}

static void identities_are_bounded(void **state)
{
	(void)state;
	struct cs_keys *keys = cs_keys_new();
	struct cs_error e;
	EVP_PKEY *key = p256();
	for (uint32_t i = 1; i <= CS_KEYS_IDENTITIES_MAX; i++) {
		EVP_PKEY_up_ref(key);
		assert_int_equal(cs_keys_put_take(keys, i, i, key, T0, &e), 0);
	}
	EVP_PKEY_up_ref(key);
	assert_int_equal(cs_keys_put_take(keys, CS_KEYS_IDENTITIES_MAX + 1, 1, key, T0, &e), -ENOSPC);
	assert_int_equal(e.reason, CS_R_TOO_MANY);
	EVP_PKEY_up_ref(key); /* a rotation still fits */
	assert_int_equal(cs_keys_put_take(keys, 7, 1 << 20, key, T0, &e), 0);
	EVP_PKEY_free(key);
	cs_keys_free(keys);
}

static void keys_of_other_kinds_are_refused(void **state)
{
	(void)state;
	struct cs_keys *keys = cs_keys_new();
	EVP_PKEY *bad[] = {EVP_EC_gen("P-521"), EVP_EC_gen("secp256k1"), EVP_RSA_gen(1024),
		EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), EVP_PKEY_Q_keygen(NULL, NULL, "X25519")};
	EVP_PKEY *good[] = {EVP_EC_gen("P-256"), EVP_EC_gen("P-384"), EVP_RSA_gen(2048)};
	struct cs_error e;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_non_null(bad[i]);
		assert_int_equal(cs_keys_put_take(keys, 1, 1, bad[i], T0, &e), -EINVAL);
		assert_int_equal(e.reason, CS_R_ALGORITHM_REFUSED);
	}
	assert_int_equal(cs_keys_count(keys), 0);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(cs_keys_put_take(keys, i, 1, good[i], T0, &e), 0);
		assert_int_equal(cs_key_is_fast(cs_keys_find(keys, i, 1, T0)), i == 0);
	}
	cs_keys_free(keys);
}

static void schemes_fit_their_keys_only(void **state)
{
	(void)state;
	struct cs_keys *keys = cs_keys_new();
	struct cs_error e;
	EVP_PKEY *kinds[] = {EVP_EC_gen("P-256"), EVP_EC_gen("P-384"), EVP_RSA_gen(2048)};
	const struct {
		uint16_t scheme;
		int kind;
	} table[] = {{0x0403, 0}, {0x0503, 1}, {0x0804, 2}, {0x0805, 2}, {0x0806, 2},
		/* PKCS #1 v1.5, SHA-1, P-521, Ed25519, pss_pss, none */
		{0x0401, -1}, {0x0501, -1}, {0x0201, -1}, {0x0203, -1}, {0x0603, -1}, {0x0807, -1}, {0x0809, -1},
		{0, -1}};
	for (uint32_t k = 0; k < 3; k++) {
		assert_int_equal(cs_keys_put_take(keys, k, 1, kinds[k], T0, &e), 0);
		for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
			assert_int_equal(
				cs_key_fits(cs_keys_find(keys, k, 1, T0), table[i].scheme), (int)k == table[i].kind);
	}
	uint8_t out[CS_SIGNATURE_MAX];
	assert_int_equal(cs_sign_content(kinds[0], 0x0503, "x", 1, out), -EINVAL);
	assert_true(cs_sign_content(kinds[0], 0x0403, "x", 1, out) > 0);
	cs_keys_free(keys);
}

/* Whatever else changes, the scalar itself is where it cannot be swapped out or dumped. */
static void keys_are_in_locked_memory(void **state)
{
	(void)state;
	struct cs_error e;
	size_t before = CRYPTO_secure_used();
	assert_int_equal(cs_keys_lock_memory(&e), 0);
	assert_int_equal(prctl(PR_GET_DUMPABLE), 0);
	struct cs_keys *keys = cs_keys_new();
	put(keys, 1, 1, T0);
	assert_true(CRYPTO_secure_used() >= before + 32);
	cs_keys_free(keys);
	assert_int_equal(CRYPTO_secure_used(), before);
}

int main(void)
{
	struct cs_error e;
	if (cs_keys_lock_memory(&e) < 0)
		return 1;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_by_identity_and_generation),
		cmocka_unit_test(an_old_generation_signs_for_a_while),
		cmocka_unit_test(old_generations_are_bounded),
		cmocka_unit_test(a_dropped_identity_signs_no_more),
		cmocka_unit_test(identities_are_bounded),
		cmocka_unit_test(keys_of_other_kinds_are_refused),
		cmocka_unit_test(schemes_fit_their_keys_only),
		cmocka_unit_test(keys_are_in_locked_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
