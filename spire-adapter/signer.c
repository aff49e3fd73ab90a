#include "signer.h"

#include <errno.h>
#include <string.h>

void cs_sign_bucket_init(struct cs_sign_bucket *bucket, int64_t now_mono_ms)
{
	*bucket = (struct cs_sign_bucket){.millitokens = CS_SIGN_BURST * 1000LL, .at_mono_ms = now_mono_ms};
}

static bool take_token(struct cs_sign_bucket *bucket, int64_t now_mono_ms)
{
	int64_t elapsed_ms = now_mono_ms - bucket->at_mono_ms;
	if (elapsed_ms > 0) {
		bucket->at_mono_ms = now_mono_ms;
		if (elapsed_ms > CS_SIGN_BURST * 1000LL / CS_SIGN_RATE_PER_S) /* full in any case */
			bucket->millitokens = CS_SIGN_BURST * 1000LL;
		else
			bucket->millitokens += elapsed_ms * CS_SIGN_RATE_PER_S;
		if (bucket->millitokens > CS_SIGN_BURST * 1000LL)
			bucket->millitokens = CS_SIGN_BURST * 1000LL;
	}
	if (bucket->millitokens < 1000)
		return false;
	bucket->millitokens -= 1000;
	return true;
}

const char *cs_sign_result_name(enum cs_sign_result result)
{
	static const char *const names[CS_SIGN_RESULTS] = {
		"signed", "malformed", "too-many", "no-local-svid", "algorithm-refused", "failed"};
	return result < CS_SIGN_RESULTS ? names[result] : "unknown";
}

static enum cs_reason reason_of(enum cs_sign_result result)
{
	switch (result) {
	case CS_SIGN_SIGNED:
		return CS_R_NONE;
	case CS_SIGN_TOO_FAST:
		return CS_R_TOO_MANY;
	case CS_SIGN_NO_KEY:
		return CS_R_NO_LOCAL_SVID;
	case CS_SIGN_BAD_SCHEME:
		return CS_R_ALGORITHM_REFUSED;
	default:
		return CS_R_SIGNER_UNAVAILABLE;
	}
}

static void finish(struct cs_sign_work *work, enum cs_sign_result result)
{
	work->result = result;
	work->answer.reason = reason_of(result);
}

/* RFC 8446 4.4.3, RFC 9261 5.2.2. NULL: no such kind. */
static const char *context_of(uint8_t kind)
{
	switch (kind) {
	case CS_SIGN_TLS13_CLIENT:
		return "TLS 1.3, client CertificateVerify";
	case CS_SIGN_TLS13_SERVER:
		return "TLS 1.3, server CertificateVerify";
	case CS_SIGN_AUTHENTICATOR:
		return "Exported Authenticator";
	default:
		return NULL;
	}
}

/* SHA-256 or SHA-384: all that our cipher suites have. What the hash does not use must be zero. */
static bool well_formed(const struct cs_sign_request *q)
{
	static const uint8_t zero[sizeof(q->hash)];
	return context_of(q->kind) && (q->hash_len == 32 || q->hash_len == 48) &&
	       memcmp(q->hash + q->hash_len, zero, sizeof(q->hash) - q->hash_len) == 0;
}

static void build_content(struct cs_sign_work *work, const struct cs_sign_request *q)
{
	const char *context = context_of(q->kind);
	size_t n = strlen(context) + 1; /* the zero byte is part of the content */
	memset(work->content, 0x20, 64);
	memcpy(work->content + 64, context, n);
	memcpy(work->content + 64 + n, q->hash, q->hash_len);
	work->content_len = 64 + n + q->hash_len;
}

static void set_signature(struct cs_sign_work *work, int len)
{
	if (len <= 0) {
		memset(work->answer.signature, 0, sizeof(work->answer.signature));
		finish(work, CS_SIGN_FAILED);
		return;
	}
	work->answer.len = (uint32_t)len;
	finish(work, CS_SIGN_SIGNED);
}

int cs_signer_handle(const struct cs_keys *keys, struct cs_sign_bucket *bucket, const void *message, size_t len,
	unsigned unanswered, int64_t now_mono_ms, struct cs_sign_work *ret)
{
	struct cs_sign_request q;
	const struct cs_key *key;
	if (len != sizeof(q))
		return -EBADMSG;
	memcpy(&q, message, sizeof(q)); /* alignment */
	if (!well_formed(&q))
		return -EBADMSG;
	*ret = (struct cs_sign_work){.scheme = q.scheme, .answer = {.seq = q.seq}};
	if (!take_token(bucket, now_mono_ms) || unanswered >= CS_SIGN_UNANSWERED) {
		finish(ret, CS_SIGN_TOO_FAST);
	} else if (!(key = cs_keys_find(keys, q.identity, q.generation, now_mono_ms))) {
		finish(ret, CS_SIGN_NO_KEY);
	} else if (!cs_key_fits(key, q.scheme)) {
		finish(ret, CS_SIGN_BAD_SCHEME);
	} else {
		build_content(ret, &q);
		if (cs_key_is_fast(key))
			set_signature(ret, cs_key_sign(key, ret->content, ret->content_len, ret->answer.signature));
		else
			ret->key = cs_key_ref(key);
	}
	return 0;
}

void cs_sign_work_do(struct cs_sign_work *work)
{
	EVP_PKEY *key = work->key;
	set_signature(
		work, cs_sign_content(key, work->scheme, work->content, work->content_len, work->answer.signature));
	EVP_PKEY_free(key);
	work->key = NULL;
}
