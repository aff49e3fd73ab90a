/* TLS 1.3 by X.509-SVIDs, and nothing of the web's PKI: what all of our TLS has in common, and the mutual TLS of
 * identityd's cluster service. There the server is spiffe://<trust domain>/countersign/identityd and a client
 * spiffe://<trust domain>/countersign/node/<name>, of one trust domain. */
#ifndef CS_TLS_H
#define CS_TLS_H

#include <openssl/ssl.h>
#include "grpc.h"
#include "verify.h"

#define CS_NODE_NAME_MAX 255 /* bytes */

/* TLS 1.3 only, X25519 and P-256, AES-GCM, no tickets, no session cache, no early data; the peer must send a certificate.
 * The caller sets certificate, key and cert_verify_callback. ctx NULL: OpenSSL's default context. */
CS_MUST_USE int cs_tls_base_ctx(OSSL_LIB_CTX *ctx, bool server, SSL_CTX **ret, struct cs_error *e);

/* The chain that libssl got from a peer, as DER. */
struct cs_tls_chain {
	size_t n;
	struct cs_der cert[CS_CHAIN_MAX]; /* in bytes */
	uint8_t bytes[CS_CHAIN_BYTES_MAX];
};
/* Reasons: NO_CERTIFICATE, CHAIN_TOO_LARGE. In a cert_verify_callback the chain is X509_STORE_CTX_get0_untrusted(). */
CS_MUST_USE int cs_tls_chain_get(const STACK_OF(X509) * chain, struct cs_tls_chain *ret, struct cs_error *e);
/* For X509_STORE_CTX_set_error(): chooses the alert that tells the peer as much as it may know. */
int cs_tls_x509_error(enum cs_reason reason);

enum cs_tls_role { CS_TLS_SERVER /* identityd; peers are nodes */, CS_TLS_CLIENT /* a node; the peer is identityd */ };
struct cs_tls_files {
	const char *chain;  /* PEM: own leaf first, then intermediates */
	const char *key;    /* PEM, not encrypted */
	const char *bundle; /* PEM: the authorities of the own trust domain, which is that of the leaf */
};

/* An SSL_CTX and what its verification needs. */
struct cs_tls;
/* clock is borrowed; NULL: the system's. An own certificate that is not for this role, or that its own bundle does not
 * verify now, is an error; so is an authority of the bundle that is not accepted. Blocks (disk). */
CS_MUST_USE int cs_tls_new(enum cs_tls_role role, const struct cs_tls_files *files, const struct cs_clock *clock,
	struct cs_tls **ret, struct cs_error *e);
/* Connections from here on have what fresh has: the files were written anew. fresh (of the same files, by cs_tls_new) is
 * taken over, also on failure; an error if its name is another, and then tls stays as it was. */
CS_MUST_USE int cs_tls_renew_take(struct cs_tls *tls, struct cs_tls *fresh, struct cs_error *e);
void cs_tls_free(struct cs_tls *tls); /* after every connection of it is gone; NULL is fine */
/* For lib's channels and servers; lent, good until cs_tls_free(). A peer is refused during the handshake already; its
 * name is the node's (server) or the SPIFFE ID (client). */
const struct cs_grpc_tls *cs_tls_grpc(const struct cs_tls *tls);
/* When the own certificate (or an authority above it) ends. */
int64_t cs_tls_not_after_unix_s(const struct cs_tls *tls);
/* What peers call this side: the node's name, or identityd's SPIFFE ID. */
const char *cs_tls_own_name(const struct cs_tls *tls);

#endif
