/* Inside certs/: the two libraries that each check a path on their own. */
#ifndef CS_VERIFIERS_H
#define CS_VERIFIERS_H

#include <openssl/types.h>
#include "profile.h"

#define CS_PATH_MAX (CS_CHAIN_MAX + 1) /* what a peer may send, and the authority of the bundle */

/* Finds and checks the path from cert[0] through some of the others to the anchor, and no further: RFC 5280 6, strictly,
 * good for both sides of TLS, at that time. *ret_path: indices into cert, leaf first; the anchor is not in it.
 * -EACCES with UNTRUSTED when no path leads to this anchor; other reasons when one does and is refused. */
CS_MUST_USE int cs_openssl_verify(OSSL_LIB_CTX *ctx, X509 *const *cert, size_t n, X509 *anchor, int64_t now_unix_s,
	size_t ret_path[static CS_CHAIN_MAX], size_t *ret_n, struct cs_error *e);

/* Checks the path that OpenSSL found: leaf first, anchor last, at least these two. spki: what our walker read in the
 * leaf. Whatever mbedTLS does not like is CS_R_VERIFIERS_DISAGREE. */
CS_MUST_USE int cs_mbedtls_verify(
	const struct cs_der *path, size_t n, struct cs_der spki, int64_t now_unix_s, struct cs_error *e);

#endif
