/* A signing request of whatever bytes: the answer is a signature over exactly what sign.h says, or a reason. */
#include <openssl/ec.h>
#include <stdlib.h>
#include <string.h>
#include "signer.h"

#define IDENTITY   70001
#define GENERATION 9

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
	if (!ok)
		abort();
}

/* What was signed, checked from the other side. */
static void check_signature(EVP_PKEY *key, const struct cs_sign_request *q, const struct cs_sign_answer *a)
{
	static const char *const contexts[] = {
		"TLS 1.3, client CertificateVerify", "TLS 1.3, server CertificateVerify", "Exported Authenticator"};
	uint8_t content[64 + 64 + 48];
	require(q->identity == IDENTITY && q->generation == GENERATION && q->scheme == 0x0403);
	require(q->kind >= 1 && q->kind <= 3 && (q->hash_len == 32 || q->hash_len == 48));
	size_t n = strlen(contexts[q->kind - 1]) + 1;
	memset(content, ' ', 64);
	memcpy(content + 64, contexts[q->kind - 1], n);
	memcpy(content + 64 + n, q->hash, q->hash_len);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	require(EVP_DigestVerifyInit_ex(ctx, NULL, "SHA256", NULL, NULL, key, NULL) == 1);
	require(EVP_DigestVerify(ctx, a->signature, a->len, content, 64 + n + q->hash_len) == 1);
	EVP_MD_CTX_free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cs_keys *keys;
	static EVP_PKEY *key;
	struct cs_sign_bucket bucket;
	struct cs_sign_work work;
	struct cs_sign_request q;
	if (!keys) {
		keys = cs_keys_new();
		key = EVP_EC_gen("P-256");
		EVP_PKEY_up_ref(key);
		require(cs_keys_put_take(keys, IDENTITY, GENERATION, key, 0, NULL) == 0);
	}
	cs_sign_bucket_init(&bucket, 0);
	int r = cs_signer_handle(keys, &bucket, data, size, 0, 0, &work);
	if (size != sizeof(q)) {
		require(r < 0);
		return 0;
	}
	memcpy(&q, data, sizeof(q));
	require((r < 0) == (q.kind < 1 || q.kind > 3 || (q.hash_len != 32 && q.hash_len != 48) ||
				   (q.hash_len == 32 && memcmp(q.hash + 32, (uint8_t[16]){0}, 16) != 0)));
	if (r < 0)
		return 0;
	require(!work.key && work.answer.seq == q.seq);
	require((work.answer.reason == CS_R_NONE) == (work.answer.len > 0));
	if (work.answer.len > 0)
		check_signature(key, &q, &work.answer);
	return 0;
}
