/* What the monitor told this handshaker: the SVIDs of local identities (chains; the keys are the signer's), the
 * bundles, the signer. */
#ifndef CS_HS_WORLD_H
#define CS_HS_WORLD_H

#include <openssl/ssl.h>
#include <uthash.h>
#include "message.h"
#include "sign_channel.h"
#include "spiffe_id.h"
#include "verify.h"

#define CS_HS_SVIDS_MAX    4096 /* local identities */
#define CS_HS_VERIFY_CACHE 1024 /* chains */

/* One generation of one identity's SVID: immutable, reference counted, so that a handshake ends with what it began. */
struct cs_hs_svid_state {
	uint32_t identity;
	uint64_t generation; /* 0: lives here, no SVID now; then nothing below is set but id */
	struct cs_spiffe_id id;
	uint8_t *bytes; /* the list as it came; chain borrows from it */
	struct cs_der chain[CS_CHAIN_MAX];
	size_t n;
	X509 *leaf;
	STACK_OF(X509) * intermediates;
	EVP_PKEY *key; /* remote (remote_key.h) */
	bool warm;     /* our own chain was checked against the bundles as they are: the verifier remembers it */
	unsigned refs;
	UT_hash_handle hh;
};

struct cs_hs_world {
	OSSL_LIB_CTX *ctx;
	struct cs_sign_channel signer;
	struct cs_verifier *verifier;
	struct cs_bundles *bundles;
	struct cs_hs_svid_state *svids; /* hash by identity */
	SSL_CTX *client, *server;
};

/* Makes the slim library context; once per process. */
CS_MUST_USE int cs_hs_world_init(struct cs_hs_world *world, struct cs_error *e);
void cs_hs_world_fini(struct cs_hs_world *world);

/* list: content of the memfd, NULL without one. A chain that does not verify by form is an error: that identity then
 * has no SVID here. */
CS_MUST_USE int cs_hs_world_svid(
	struct cs_hs_world *world, const struct cs_hs_svid *m, const uint8_t *list, size_t len, struct cs_error *e);
CS_MUST_USE int cs_hs_world_bundle(
	struct cs_hs_world *world, const struct cs_hs_bundle *m, const uint8_t *list, size_t len, struct cs_error *e);

/* The SVID of an identity, with a reference for the caller. Reasons: NO_LOCAL_ENDPOINT, NO_LOCAL_SVID. */
CS_MUST_USE int cs_hs_world_use(
	struct cs_hs_world *world, uint32_t identity, struct cs_hs_svid_state **ret, struct cs_error *e);
void cs_hs_svid_unref(struct cs_hs_svid_state *svid); /* NULL is fine */

/* Checks one of our own chains that was not checked yet, so that no packet waits for that (1.4 ms). False: none is left. */
bool cs_hs_world_warm(struct cs_hs_world *world);

/* Our own chain against our own bundle: what the verdict says of the local side. Cached by the verifier. */
CS_MUST_USE int cs_hs_world_self(
	struct cs_hs_world *world, const struct cs_hs_svid_state *svid, struct cs_peer **ret, struct cs_error *e);

#endif
