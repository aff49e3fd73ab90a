/* The certificates of the built-in CA, in memory: SPIRE's profile, built field by field. */
#ifndef CS_CA_PROFILE_H
#define CS_CA_PROFILE_H

#include <openssl/x509.h>
#include <stdint.h>
#include "error.h"

/* A new P-256 key; NULL if OpenSSL has no randomness or no (locked) memory. */
EVP_PKEY *cs_ca_new_key(void);

struct cs_ca_validity {
	int64_t from_unix_s, until_unix_s;
};

/* Both return a new certificate, or NULL with *e filled. The root is signed by its own key. */
X509 *cs_ca_new_root(EVP_PKEY *key, const char *trust_domain, struct cs_ca_validity validity, struct cs_error *e);
X509 *cs_ca_new_leaf(EVP_PKEY *key, const char *spiffe_id, struct cs_ca_validity validity, EVP_PKEY *ca_key,
	X509 *ca_cert, struct cs_error *e);

#endif
