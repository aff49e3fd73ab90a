/* Mutual TLS among our own daemons (identityd's cluster service): TLS 1.3 by X.509-SVIDs, and nothing of the web's PKI.
 * The server is spiffe://<trust domain>/countersign/identityd, a client spiffe://<trust domain>/countersign/node/<name>. */
#ifndef CS_TLS_H
#define CS_TLS_H

#include <openssl/ssl.h>
#include "verify.h"

#define CS_NODE_NAME_MAX 255 /* bytes */

/* The chain that libssl got from a peer, as DER. */
struct cs_tls_chain {
	size_t n;
	struct cs_der cert[CS_CHAIN_MAX];
	uint8_t bytes[CS_CHAIN_BYTES_MAX];
};
/* For SSL_CTX_set_cert_verify_callback. Reasons: NO_CERTIFICATE, CHAIN_TOO_LARGE. */
CS_MUST_USE int cs_tls_chain_get(X509_STORE_CTX *store, struct cs_tls_chain *ret, struct cs_error *e);
/* TLS 1.3 only, X25519 and P-256, AES-GCM, no tickets, no session cache, no early data, the peer must send a
 * certificate. The caller sets certificate, key and cert_verify_callback. ctx may be NULL. */
CS_MUST_USE int cs_tls_base_ctx(OSSL_LIB_CTX *ctx, bool server, SSL_CTX **ret, struct cs_error *e);

enum cs_tls_role { CS_TLS_SERVER /* peers are nodes */, CS_TLS_CLIENT /* the peer is identityd */ };
struct cs_tls_files {
	const char *chain;  /* PEM: own leaf first, then intermediates */
	const char *key;    /* PEM, not encrypted */
	const char *bundle; /* PEM: authorities of the own trust domain, which is that of the leaf */
};
/* An SSL_CTX and what its verification needs. */
struct cs_tls;
/* now_unix_ms: the clock (NULL: the system's). An own certificate that its own bundle does not verify, or that is not
 * for this role, is an error. */
CS_MUST_USE int cs_tls_new(enum cs_tls_role role, const struct cs_tls_files *files, int64_t (*now_unix_ms)(void *data),
	void *data, struct cs_tls **ret, struct cs_error *e);
/* After every SSL of it is gone. NULL is fine. */
void cs_tls_free(struct cs_tls *tls);
SSL_CTX *cs_tls_ctx(struct cs_tls *tls); /* lent */
/* Who is at the other end, after the handshake: a node's name (server) or "identityd" (client). -EACCES with a reason
 * if it may not be there. Has the shape of lib's hook: data is not used. */
CS_MUST_USE int cs_tls_peer_name(SSL *ssl, char *ret, size_t size, struct cs_error *e);
/* Why the handshake on this SSL was refused by our verification, if it was: false if not. */
bool cs_tls_refusal(SSL *ssl, struct cs_error *ret);

#endif
