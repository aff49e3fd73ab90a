/* Inside certs/: what is asked of OpenSSL in more than one place. */
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
/* A pem_password_cb: an encrypted key is none of ours, and nobody is asked for its password on the terminal. */
int cs_no_password(char *buf, int size, int writing, void *data);

#endif
