/* Is this chain a valid X.509-SVID of a trust domain that we know? Starts at "no"; says yes only if our walker, OpenSSL
 * and mbedTLS all do. An SVID has to be good for both sides of a connection, so that there is no "purpose" to pass.
 *
 * A yes is a struct cs_peer, which nobody else can make. It does not say that the peer holds the key: that is TLS's
 * CertificateVerify, to be checked with cs_peer_key() or by libssl itself. */
#ifndef CS_VERIFY_H
#define CS_VERIFY_H

#include "bundle.h"

#define CS_VERIFY_CACHE_MAX 4096 /* chains remembered by one verifier, about 4 KiB each */

/* One per thread and OSSL_LIB_CTX; remembers the chains that it has verified. */
struct cs_verifier;
/* ctx is borrowed for the verifier's life; NULL is the default context. A context of fewer algorithms than algorithm.h
 * lists refuses the chains that use what it lacks. cache: how many chains to remember at most,
 * 0 for none, up to CS_VERIFY_CACHE_MAX. */
CS_MUST_USE int cs_verifier_new(OSSL_LIB_CTX *ctx, size_t cache, struct cs_verifier **ret, struct cs_error *e);
void cs_verifier_free(struct cs_verifier *verifier); /* NULL is fine */

struct cs_verify {
	const struct cs_der
		*chain; /* leaf first, then intermediates in any order; a root is allowed and not believed */
	size_t n;
	const struct cs_bundles *bundles;
	int64_t now_unix_s;
	const struct cs_spiffe_id *expect; /* NULL: any identity of a known trust domain */
};

/* 0 and a peer that the caller owns (cs_peer_unref), or negative and a reason: NO_CERTIFICATE, CHAIN_TOO_LARGE,
 * CERTIFICATE_MALFORMED, SVID_PROFILE, ALGORITHM_REFUSED, NO_BUNDLE, UNTRUSTED, SVID_EXPIRED, TRUST_DOMAIN_MISMATCH,
 * SPIFFE_ID_MISMATCH, VERIFIERS_DISAGREE. *ret is NULL on failure. */
struct cs_peer;
CS_MUST_USE int cs_verify(
	struct cs_verifier *verifier, const struct cs_verify *what, struct cs_peer **ret, struct cs_error *e);

struct cs_verify_stats {
	uint64_t hits, misses, refused;
	size_t cached;
};
struct cs_verify_stats cs_verifier_stats(const struct cs_verifier *verifier);

/* A validated peer: immutable, reference counted. What the getters return is lent until the last unref. */
struct cs_peer *cs_peer_ref(struct cs_peer *peer);
void cs_peer_unref(struct cs_peer *peer); /* NULL is fine */
const struct cs_spiffe_id *cs_peer_id(const struct cs_peer *peer);
const uint8_t *cs_peer_leaf_sha256(const struct cs_peer *peer);   /* [32] */
const uint8_t *cs_peer_serial(const struct cs_peer *peer);        /* [20], big endian, right-aligned */
const uint8_t *cs_peer_authority_kid(const struct cs_peer *peer); /* [32], zero-filled: who signed the leaf */
const uint8_t *cs_peer_root_sha256(const struct cs_peer *peer);   /* [32] */
int64_t cs_peer_not_before_unix_s(const struct cs_peer *peer);    /* latest of the chain, root included */
int64_t cs_peer_not_after_unix_s(const struct cs_peer *peer);     /* earliest of the chain, root included */
uint64_t cs_peer_bundle_generation(const struct cs_peer *peer);
EVP_PKEY *cs_peer_key(const struct cs_peer *peer); /* the leaf's public key, in the verifier's OSSL_LIB_CTX */

#endif
