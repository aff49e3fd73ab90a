/* The built-in CA, for ONE machine: its root key lies in a file of that machine, so whoever is root there can make any
 * SVID of the trust domain. Several adapters of the machine may share the directory.
 *
 * What it issues has SPIRE's profile (X509-SVID 3, 4; RFC 5280): P-256, one URI SAN, keyUsage digitalSignature,
 * keyEncipherment and keyAgreement, extendedKeyUsage serverAuth and clientAuth, no CA. Nothing but the clock that the
 * caller passes decides about validity. Safe from several threads as long as nobody frees it. */
#ifndef CS_CA_H
#define CS_CA_H

#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>
#include "error.h"

#define CS_CA_ROOT_TTL_S (3650LL * 86400) /* the root; it is not rotated */
#define CS_CA_NODE_TTL_S (365LL * 86400)  /* --issue-node: nobody renews these but a person */
#define CS_CA_BACKDATE_S 10               /* notBefore = now - this, for clocks that differ a little */

struct cs_ca;

/* Opens DIR/ca.pem (key and certificate, 0600), and makes it if it is not there: once, under a lock, durable before
 * this returns. DIR is made with 0700, its parents with 0755; a directory or a file that belongs to another
 * user than root or this one, or that others can reach, is refused, and so is the CA of another trust domain.
 * *ret_made (may be NULL): whether it was made just now. It blocks (disk): not on a loop. */
CS_MUST_USE int cs_ca_open(const char *dir, const char *trust_domain, int64_t now_unix_s, struct cs_ca **ret,
	bool *ret_made, struct cs_error *e);
void cs_ca_free(struct cs_ca *ca); /* NULL is fine */

/* All of these live as long as the CA. */
const X509 *cs_ca_root_borrow(const struct cs_ca *ca);
const char *cs_ca_trust_domain_borrow(const struct cs_ca *ca);
int64_t cs_ca_not_after_unix_s(const struct cs_ca *ca);

struct cs_issued {
	EVP_PKEY *key; /* new for each certificate; in OpenSSL's secure heap, if the process has one */
	X509 *leaf;    /* signed by the root: the chain is this one certificate */
	int64_t not_before_unix_s, not_after_unix_s;
};

/* A new key and its SVID. spiffe_id: of the CA's trust domain, with a path. It ends with the root at the latest. */
CS_MUST_USE int cs_ca_issue(const struct cs_ca *ca, const char *spiffe_id, int64_t ttl_s, int64_t now_unix_s,
	struct cs_issued *ret, struct cs_error *e);
void cs_issued_fini(struct cs_issued *issued); /* half-built is fine */

/* Writes DIR/svid.pem (chain), DIR/svid.key (0600) and DIR/bundle.pem (the root), each by rename and durable. DIR is
 * made with 0755 if it is not there. Blocks. */
CS_MUST_USE int cs_issued_write(
	const struct cs_issued *issued, const struct cs_ca *ca, const char *dir, struct cs_error *e);

#endif
