/* Trust bundles. One bundle is the authorities of one trust domain; bundles are never pooled: a chain is checked
 * against the bundle of its leaf's trust domain and against nothing else (X509-SVID 5.1). */
#ifndef CS_BUNDLE_H
#define CS_BUNDLE_H

#include <openssl/types.h>
#include "profile.h"

#define CS_BUNDLE_MAX           64          /* authorities of one trust domain */
#define CS_BUNDLE_AUTHORITY_MAX (16 * 1024) /* DER bytes of one */
#define CS_BUNDLES_MAX          256         /* trust domains */

/* Immutable, reference counted. Not for two threads at once (OSSL_LIB_CTX belongs to one anyway). */
struct cs_bundle;

/* A bundle of n DER certificates (copied). An authority that does not parse, breaks the profile or uses a refused
 * algorithm is left out, so that one odd root cannot keep the others, or an old bundle, in use; see cs_bundle_refused.
 * None at all is a bundle too: it trusts nobody. Who gets an error here must forget the older bundle of the domain. */
CS_MUST_USE int cs_bundle_new(OSSL_LIB_CTX *ctx, const char *trust_domain, uint64_t generation,
	const struct cs_der *certs, size_t n, struct cs_bundle **ret, struct cs_error *e);
struct cs_bundle *cs_bundle_ref(struct cs_bundle *bundle);
void cs_bundle_unref(struct cs_bundle *bundle); /* NULL is fine */

const char *cs_bundle_domain(const struct cs_bundle *bundle);
uint64_t cs_bundle_generation(const struct cs_bundle *bundle);
/* Authorities in use. */
size_t cs_bundle_count(const struct cs_bundle *bundle);
/* How many were left out; *ret_why (if not NULL) gets the first one's error if there is one. */
size_t cs_bundle_refused(const struct cs_bundle *bundle, struct cs_error *ret_why);

/* One authority, i < cs_bundle_count(). All of it is borrowed from the bundle. */
struct cs_authority {
	struct cs_der der; /* as it came */
	const struct cs_cert_facts *facts;
	const uint8_t *sha256; /* [32] */
	X509 *x509;
};
struct cs_authority cs_bundle_authority(const struct cs_bundle *bundle, size_t i);

/* The current bundle of each trust domain. */
struct cs_bundles;
struct cs_bundles *cs_bundles_new(void); /* NULL: no memory */
void cs_bundles_free(struct cs_bundles *bundles);
/* Takes a reference of its own; replaces the domain's bundle. -ENOSPC beyond CS_BUNDLES_MAX. */
CS_MUST_USE int cs_bundles_put(struct cs_bundles *bundles, struct cs_bundle *bundle, struct cs_error *e);
void cs_bundles_remove(struct cs_bundles *bundles, const char *trust_domain);
/* Borrowed; NULL if there is none. */
struct cs_bundle *cs_bundles_get(const struct cs_bundles *bundles, const char *trust_domain);

#endif
