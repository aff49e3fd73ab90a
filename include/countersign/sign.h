/* sign.sock (spire-adapter): SOCK_SEQPACKET, 0600, SO_PEERCRED = authd's uid. The monitor connects and
 * hands one connection to each handshaker. One request, one answer, in order; at most 8 unanswered.
 * The adapter builds 64 x 0x20 || context string of kind || 0x00 || hash (RFC 8446 4.4.3, RFC 9261 5.2.2)
 * and signs that with the key of (identity, generation). A generation that was replaced signs for CS_SIGN_GRACE_MS
 * more, longer than any handshake's deadline; after a restart of the adapter the old ones are gone. Reasons of a
 * refusal: no-local-svid (identity or generation not held), algorithm-refused (the scheme does not fit the key),
 * too-many, signer-unavailable. A request of another size, or with unused bytes that are not zero, ends the
 * connection. An answer is always a whole struct; what the signature does not use is zero. */
#ifndef COUNTERSIGN_SIGN_H
#define COUNTERSIGN_SIGN_H
#include <stdint.h>

#define CS_SIGN_GRACE_MS   10000
#define CS_SIGN_UNANSWERED 8

enum cs_sign_kind { CS_SIGN_TLS13_CLIENT = 1, CS_SIGN_TLS13_SERVER = 2, CS_SIGN_AUTHENTICATOR = 3 };
struct cs_sign_request {
	uint64_t seq;
	uint64_t generation;
	uint32_t identity; /* 1 (host): the node's own SVID */
	uint16_t scheme;   /* TLS SignatureScheme; must fit the key */
	uint8_t kind;
	uint8_t hash_len; /* 32 or 48: transcript hash of the cipher suite */
	uint8_t hash[48];
};
struct cs_sign_answer {
	uint64_t seq;
	uint32_t reason; /* enum cs_reason; none: signed */
	uint32_t len;
	uint8_t signature[512];
};
_Static_assert(sizeof(struct cs_sign_request) == 72, "request");
_Static_assert(sizeof(struct cs_sign_answer) == 528, "answer");
#endif
