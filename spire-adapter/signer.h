/* One signing request (include/countersign/sign.h), bytes in, bytes out; no socket and no clock of its own.
 *
 * What can be had here is bounded by what is built here: 64 spaces, one of three context strings, a zero byte and at
 * most 48 bytes of the caller's. A handshaker that was taken over gets CertificateVerify signatures and no others. */
#ifndef CS_SIGNER_H
#define CS_SIGNER_H

#include "keys.h"

#define CS_SIGN_RATE_PER_S 8000 /* signatures of one connection: a core makes 2,700 handshakes/s at the very best */
#define CS_SIGN_BURST      8000
#define CS_SIGN_CONTENT    (64 + 34 + 48)

/* A token bucket, full at first; one per connection. */
struct cs_sign_bucket {
	int64_t millitokens, at_mono_ms;
};
void cs_sign_bucket_init(struct cs_sign_bucket *bucket, int64_t now_mono_ms);

enum cs_sign_result {
	CS_SIGN_SIGNED,
	CS_SIGN_MALFORMED,  /* breaks sign.h, and ends the connection */
	CS_SIGN_TOO_FAST,   /* more than CS_SIGN_RATE_PER_S, or than CS_SIGN_UNANSWERED at once */
	CS_SIGN_NO_KEY,     /* no such identity, or no such generation */
	CS_SIGN_BAD_SCHEME, /* it does not fit the key */
	CS_SIGN_FAILED,     /* OpenSSL, or memory */
	CS_SIGN_RESULTS,
};
const char *cs_sign_result_name(enum cs_sign_result result);

/* One request on its way. While key is set the answer waits for cs_sign_work_do(), which may run in any thread. */
struct cs_sign_work {
	EVP_PKEY *key;
	enum cs_sign_result result;
	uint16_t scheme;
	size_t content_len;
	uint8_t content[CS_SIGN_CONTENT];
	struct cs_sign_answer answer;
};

/* unanswered: requests of this connection that were taken before this one and have no answer yet. 0, or -EBADMSG: this
 * breaks sign.h; end the connection. */
CS_MUST_USE int cs_signer_handle(const struct cs_keys *keys, struct cs_sign_bucket *bucket, const void *message,
	size_t len, unsigned unanswered, int64_t now_mono_ms, struct cs_sign_work *ret);
void cs_sign_work_do(struct cs_sign_work *work);

#endif
