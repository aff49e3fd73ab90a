/* One signing request in, one answer out: what is signed, and every refusal. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <openssl/ec.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <string.h>
#include "signer.h"

#define T0 1000000
#define ID 70001

enum { P256, P384, RSA2048, KINDS };
static const uint32_t ids[KINDS] = {ID, ID + 1, ID + 2};

struct fixture {
	struct cs_keys *keys;
	EVP_PKEY *pkey[KINDS];
	struct cs_sign_bucket bucket;
	struct cs_sign_request q;
	struct cs_sign_work work;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cs_error e;
	f->keys = cs_keys_new();
	f->pkey[P256] = EVP_EC_gen("P-256");
	f->pkey[P384] = EVP_EC_gen("P-384");
	f->pkey[RSA2048] = EVP_RSA_gen(2048);
	for (int i = 0; i < KINDS; i++) {
		EVP_PKEY_up_ref(f->pkey[i]);
		assert_int_equal(cs_keys_put_take(f->keys, ids[i], 9, f->pkey[i], T0, &e), 0);
	}
	cs_sign_bucket_init(&f->bucket, T0);
	f->q = (struct cs_sign_request){.seq = 42,
		.generation = 9,
		.identity = ID,
		.scheme = 0x0403,
		.kind = CS_SIGN_TLS13_CLIENT,
		.hash_len = 32};
	memset(f->q.hash, 0xab, 32);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	for (int i = 0; i < KINDS; i++)
		EVP_PKEY_free(f->pkey[i]);
	cs_keys_free(f->keys);
	free(f);
	return 0;
}

static void ask(struct fixture *f)
{
	assert_int_equal(cs_signer_handle(f->keys, &f->bucket, &f->q, sizeof(f->q), 0, T0, &f->work), 0);
	if (f->work.key)
		cs_sign_work_do(&f->work);
	assert_null(f->work.key);
	assert_int_equal(f->work.answer.seq, f->q.seq);
}

static void refused(struct fixture *f, enum cs_sign_result result, enum cs_reason reason)
{
	static const uint8_t zero[512];
	ask(f);
	assert_int_equal(f->work.result, result);
	assert_int_equal(f->work.answer.reason, reason);
	assert_int_equal(f->work.answer.len, 0);
	assert_memory_equal(f->work.answer.signature, zero, sizeof(zero));
}

/* Ends the connection. */
static void malformed(struct fixture *f)
{
	assert_int_equal(cs_signer_handle(f->keys, &f->bucket, &f->q, sizeof(f->q), 0, T0, &f->work), -EBADMSG);
}

/* Written anew from RFC 8446 4.4.3, so that signer.c does not check itself. */
static size_t expected(const struct cs_sign_request *q, const char *context, uint8_t *out)
{
	size_t n = 0;
	while (n < 64)
		out[n++] = ' ';
	for (const char *p = context; *p; p++)
		out[n++] = (uint8_t)*p;
	out[n++] = 0;
	for (int i = 0; i < q->hash_len; i++)
		out[n++] = q->hash[i];
	return n;
}

static bool verifies(
	EVP_PKEY *key, const char *md, bool pss, const uint8_t *content, size_t n, const struct cs_sign_answer *a)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	EVP_PKEY_CTX *pctx;
	assert_int_equal(EVP_DigestVerifyInit_ex(ctx, &pctx, md, NULL, NULL, key, NULL), 1);
	if (pss) {
		EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING);
		EVP_PKEY_CTX_set_rsa_pss_saltlen(pctx, RSA_PSS_SALTLEN_DIGEST);
	}
	bool ok = EVP_DigestVerify(ctx, a->signature, a->len, content, n) == 1;
	EVP_MD_CTX_free(ctx);
	return ok;
}

static void signs_what_tls_asks_for(void **state)
{
	struct fixture *f = *state;
	const struct {
		uint8_t kind;
		const char *context;
	} kinds[] = {{CS_SIGN_TLS13_CLIENT, "TLS 1.3, client CertificateVerify"},
		{CS_SIGN_TLS13_SERVER, "TLS 1.3, server CertificateVerify"},
		{CS_SIGN_AUTHENTICATOR, "Exported Authenticator"}};
	const struct {
		int key;
		uint16_t scheme;
		const char *md;
	} schemes[] = {{P256, 0x0403, "SHA256"}, {P384, 0x0503, "SHA384"}, {RSA2048, 0x0804, "SHA256"},
		{RSA2048, 0x0805, "SHA384"}, {RSA2048, 0x0806, "SHA512"}};
	const uint8_t lengths[] = {32, 48};
	for (int k = 0; k < 3; k++)
		for (int s = 0; s < 5; s++)
			for (int l = 0; l < 2; l++) {
				uint8_t content[256];
				f->q.seq++;
				f->q.kind = kinds[k].kind;
				f->q.scheme = schemes[s].scheme;
				f->q.identity = ids[schemes[s].key];
				f->q.hash_len = lengths[l];
				memset(f->q.hash, 0, sizeof(f->q.hash));
				memset(f->q.hash, 0xc0 + k, lengths[l]);
				ask(f);
				assert_int_equal(f->work.result, CS_SIGN_SIGNED);
				assert_int_equal(f->work.answer.reason, CS_R_NONE);
				size_t n = expected(&f->q, kinds[k].context, content);
				EVP_PKEY *key = f->pkey[schemes[s].key];
				bool pss = schemes[s].key == RSA2048;
				assert_true(verifies(key, schemes[s].md, pss, content, n, &f->work.answer));
				content[n - 1] ^= 1;
				assert_false(verifies(key, schemes[s].md, pss, content, n, &f->work.answer));
			}
}

static void refuses_another_size(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[sizeof(f->q) + 1] = {0};
	memcpy(bytes, &f->q, sizeof(f->q));
	for (size_t n = 0; n <= sizeof(bytes); n++)
		assert_int_equal(cs_signer_handle(f->keys, &f->bucket, bytes, n, 0, T0, &f->work),
			n == sizeof(f->q) ? 0 : -EBADMSG);
}

static void refuses_unknown_kinds(void **state)
{
	struct fixture *f = *state;
	for (int kind = 0; kind < 256; kind++) {
		f->q.kind = (uint8_t)kind;
		if (kind >= 1 && kind <= 3) {
			ask(f);
			assert_int_equal(f->work.result, CS_SIGN_SIGNED);
		} else {
			malformed(f);
		}
	}
}

static void refuses_other_hash_lengths(void **state)
{
	struct fixture *f = *state;
	memset(f->q.hash, 0, sizeof(f->q.hash));
	for (int n = 0; n < 256; n++) {
		f->q.hash_len = (uint8_t)n;
		if (n == 32 || n == 48) {
			ask(f);
			assert_int_equal(f->work.result, CS_SIGN_SIGNED);
		} else {
			malformed(f);
		}
	}
}

static void refuses_bytes_after_the_hash(void **state)
{
	struct fixture *f = *state;
	for (int i = 32; i < 48; i++) {
		f->q.hash[i] = 1;
		malformed(f);
		f->q.hash[i] = 0;
	}
	ask(f);
	assert_int_equal(f->work.result, CS_SIGN_SIGNED);
}

static void refuses_keys_that_are_not_there(void **state)
{
	struct fixture *f = *state;
	struct cs_sign_request good = f->q;
	f->q.identity = 70009;
	refused(f, CS_SIGN_NO_KEY, CS_R_NO_LOCAL_SVID);
	f->q.identity = 0;
	refused(f, CS_SIGN_NO_KEY, CS_R_NO_LOCAL_SVID);
	f->q = good;
	f->q.generation = 10;
	refused(f, CS_SIGN_NO_KEY, CS_R_NO_LOCAL_SVID);
	f->q.generation = 0;
	refused(f, CS_SIGN_NO_KEY, CS_R_NO_LOCAL_SVID);
	f->q = good;
	cs_keys_drop(f->keys, ID);
	refused(f, CS_SIGN_NO_KEY, CS_R_NO_LOCAL_SVID);
}

static void refuses_schemes_of_other_keys(void **state)
{
	struct fixture *f = *state;
	const uint16_t bad[] = {0x0503, 0x0804, 0x0401, 0x0203, 0x0603, 0x0807, 0, 0xffff};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		f->q.scheme = bad[i];
		refused(f, CS_SIGN_BAD_SCHEME, CS_R_ALGORITHM_REFUSED);
	}
	f->q.identity = ids[RSA2048];
	f->q.scheme = 0x0403;
	refused(f, CS_SIGN_BAD_SCHEME, CS_R_ALGORITHM_REFUSED);
}

static void an_old_generation_signs_until_its_time_is_over(void **state)
{
	struct fixture *f = *state;
	struct cs_error e;
	uint8_t content[256];
	assert_int_equal(cs_keys_put_take(f->keys, ID, 10, EVP_EC_gen("P-256"), T0, &e), 0);
	ask(f);
	assert_int_equal(f->work.result, CS_SIGN_SIGNED);
	size_t n = expected(&f->q, "TLS 1.3, client CertificateVerify", content);
	assert_true(verifies(f->pkey[P256], "SHA256", false, content, n, &f->work.answer));
	assert_int_equal(
		cs_signer_handle(f->keys, &f->bucket, &f->q, sizeof(f->q), 0, T0 + CS_SIGN_GRACE_MS, &f->work), 0);
	assert_int_equal(f->work.result, CS_SIGN_NO_KEY);
	f->q.generation = 10;
	ask(f);
	assert_int_equal(f->work.result, CS_SIGN_SIGNED);
	assert_false(verifies(f->pkey[P256], "SHA256", false, content, n, &f->work.answer));
}

static void refuses_the_ninth_at_once(void **state)
{
	struct fixture *f = *state;
	for (unsigned n = 0; n < 20; n++) {
		assert_int_equal(cs_signer_handle(f->keys, &f->bucket, &f->q, sizeof(f->q), n, T0, &f->work), 0);
		assert_int_equal(f->work.result, n < 8 ? CS_SIGN_SIGNED : CS_SIGN_TOO_FAST);
		assert_int_equal(f->work.answer.reason, n < 8 ? CS_R_NONE : CS_R_TOO_MANY);
	}
}

static unsigned signed_of(struct fixture *f, unsigned tries, int64_t now_mono_ms)
{
	unsigned n = 0;
	f->q.identity = 4711; /* what is limited is asking: refused requests count too, and are cheap here */
	for (unsigned i = 0; i < tries; i++) {
		assert_int_equal(
			cs_signer_handle(f->keys, &f->bucket, &f->q, sizeof(f->q), 0, now_mono_ms, &f->work), 0);
		n += f->work.result != CS_SIGN_TOO_FAST;
	}
	return n;
}

static void requests_are_rate_limited(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(signed_of(f, CS_SIGN_BURST + 100, T0), CS_SIGN_BURST);
	assert_int_equal(signed_of(f, 100, T0), 0);
	assert_int_equal(signed_of(f, 100, T0 + 1), CS_SIGN_RATE_PER_S / 1000);
	assert_int_equal(signed_of(f, 100, T0 - 5000), 0); /* a clock that goes back gives nothing */
	assert_int_equal(signed_of(f, 100, T0 + 2), CS_SIGN_RATE_PER_S / 1000);
	assert_int_equal(
		signed_of(f, 2 * CS_SIGN_BURST, T0 + 3600000), CS_SIGN_BURST); /* and is never more than full */
	assert_int_equal(signed_of(f, 2 * CS_SIGN_BURST, INT64_MAX), CS_SIGN_BURST);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(signs_what_tls_asks_for),
		T(refuses_another_size),
		T(refuses_unknown_kinds),
		T(refuses_other_hash_lengths),
		T(refuses_bytes_after_the_hash),
		T(refuses_keys_that_are_not_there),
		T(refuses_schemes_of_other_keys),
		T(an_old_generation_signs_until_its_time_is_over),
		T(refuses_the_ninth_at_once),
		T(requests_are_rate_limited),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
