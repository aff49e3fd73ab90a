/* Certificates of nodes by the thousand, in memory. */
#ifndef BENCH_CERTIFICATES_H
#define BENCH_CERTIFICATES_H

#include <openssl/ssl.h>

struct issuer {
	X509 *cert;
	EVP_PKEY *key;
};
/* PEM files. Ends the program when they cannot be used. */
void issuer_load(struct issuer *issuer, const char *cert, const char *key);
/* A client context with a certificate of spiffe://DOMAIN/countersign/node/NAME; it believes every server, for it is not the
 * server that is measured here for who it is. */
SSL_CTX *node_context(const struct issuer *issuer, const char *domain, const char *name);

#endif
