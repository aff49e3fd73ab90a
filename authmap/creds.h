/* What the handshakers are told: which identities live here and their SVIDs, the bundles, and a connection to the signer
 * each. Derived from the world and from spire-adapter's word; only changes are sent. */
#ifndef CS_CREDS_H
#define CS_CREDS_H

#include "handshakers.h"
#include "svids.h"
#include "world.h"

#define CS_SIGNER_AGAIN_MS 1000 /* between two attempts to reach sign.sock */

struct cs_creds;
/* sign_path: sign.sock. Everything is borrowed. */
struct cs_creds *cs_creds_new(struct cs_loop *loop, struct cs_handshakers *handshakers, const struct cs_world *world,
	const struct cs_svids *svids, const char *sign_path);
/* Memory is freed when the loop has closed the timer. NULL is fine. */
void cs_creds_close(struct cs_creds *c);

/* A handshaker is ready: all of it. */
void cs_creds_tell(struct cs_creds *c, unsigned index);
/* Endpoints or identities may have changed. */
void cs_creds_world(struct cs_creds *c);
void cs_creds_svid(struct cs_creds *c, uint32_t identity);
void cs_creds_bundle(struct cs_creds *c, const char *trust_domain);
/* The adapter is there (again), or a handshaker could not reach it: connect anew, all or one. */
void cs_creds_signers(struct cs_creds *c);
void cs_creds_signer(struct cs_creds *c, unsigned index);
/* Handshakers that were given a connection to the signer. */
unsigned cs_creds_signers_count(const struct cs_creds *c);

#endif
