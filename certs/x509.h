/* Inside certs/: DER to OpenSSL's X509, and SHA-256. */
#ifndef CS_X509_H
#define CS_X509_H

#include <openssl/types.h>
#include "profile.h"

/* facts: what our walker read in der. That OpenSSL reads another key there is CS_R_VERIFIERS_DISAGREE. */
CS_MUST_USE int cs_x509_new(
	OSSL_LIB_CTX *ctx, struct cs_der der, const struct cs_cert_facts *facts, X509 **ret, struct cs_error *e);
/* Over n spans, one after the other. */
CS_MUST_USE int cs_sha256(
	OSSL_LIB_CTX *ctx, const struct cs_der *span, size_t n, uint8_t ret[static 32], struct cs_error *e);
/* Text of OpenSSL's oldest queued error; empties the queue. */
const char *cs_openssl_why(char *text, size_t size);

#endif
