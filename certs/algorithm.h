/* The one table of what is accepted: keys, signatures, sizes. Everything else is CS_R_ALGORITHM_REFUSED. */
#ifndef CS_ALGORITHM_H
#define CS_ALGORITHM_H

#include "der.h"
#include "error.h"

#define CS_CHAIN_MAX       4           /* certificates that a peer may send, leaf included */
#define CS_CHAIN_BYTES_MAX (16 * 1024) /* of DER, all of them together */
#define CS_RSA_BITS_MIN    2048
#define CS_RSA_BITS_MAX    4096 /* a larger key only makes us work */

enum cs_key_algorithm {
	CS_KEY_NONE = 0,
	CS_KEY_P256,
	CS_KEY_P384,
	CS_KEY_RSA,
};
enum cs_signature_algorithm {
	CS_SIG_NONE = 0,
	CS_SIG_ECDSA_SHA256,
	CS_SIG_ECDSA_SHA384,
	CS_SIG_ECDSA_SHA512,
	CS_SIG_RSA_SHA256,
	CS_SIG_RSA_SHA384,
	CS_SIG_RSA_SHA512,
	CS_SIG_PSS_SHA256, /* MGF1 with the same hash, salt as long as the hash */
	CS_SIG_PSS_SHA384,
	CS_SIG_PSS_SHA512,
};

struct cs_key_facts {
	enum cs_key_algorithm algorithm;
	unsigned bits;
	struct cs_der bit_string; /* the key itself, inside the SPKI: point or RSAPublicKey; borrowed */
};

/* spki: a whole SubjectPublicKeyInfo. The reason is CS_R_ALGORITHM_REFUSED or CS_R_CERTIFICATE_MALFORMED. */
CS_MUST_USE int cs_algorithm_key(struct cs_der spki, struct cs_key_facts *ret, struct cs_error *e);
/* content: of an AlgorithmIdentifier, without its own tag and length. */
CS_MUST_USE int cs_algorithm_signature(struct cs_der content, enum cs_signature_algorithm *ret, struct cs_error *e);
/* "P-256", "RSA"; static strings. */
const char *cs_key_algorithm_name(enum cs_key_algorithm algorithm);

#endif
