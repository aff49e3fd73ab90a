/* The handshaker's end of sign.sock (include/countersign/sign.h): one signature at a time, blocking for at most
 * CS_SIGN_TIMEOUT_MS. Blocking is right here: the signer needs 30 us, and a handshaker has nothing better to do with
 * its core meanwhile. A signer that times out once is left alone for CS_SIGN_REST_MS, so that one that hangs cannot
 * stretch every handshake in flight. */
#ifndef CS_SIGN_CHANNEL_H
#define CS_SIGN_CHANNEL_H

#include <stddef.h>
#include <stdint.h>
#include "error.h"

#define CS_SIGN_TIMEOUT_MS 250
#define CS_SIGN_REST_MS    1000

struct cs_sign_channel {
	int fd; /* -1: none */
	uint64_t seq;
	int64_t rest_until_mono_ms;
	int error;             /* of the last signature; negative errno, for the log */
	enum cs_reason reason; /* of the last refusal by the signer */
};

void cs_sign_channel_init(struct cs_sign_channel *channel);
/* Takes over fd, a connected SEQPACKET socket, and closes the earlier one. */
void cs_sign_channel_take(struct cs_sign_channel *channel, int fd);
void cs_sign_channel_fini(struct cs_sign_channel *channel);

/* Signs the content of `kind` (enum cs_sign_kind) over a transcript hash of 32 or 48 bytes with the key of
 * (identity, generation). On entry *len is the room in sig, on return the length. */
CS_MUST_USE int cs_sign(struct cs_sign_channel *channel, uint32_t identity, uint64_t generation, uint16_t scheme,
	uint8_t kind, const uint8_t *hash, size_t hash_len, uint8_t *sig, size_t *len, struct cs_error *e);

#endif
