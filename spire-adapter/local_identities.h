/* Which identities have an endpoint on this node, and their SPIFFE IDs, out of the directory's records. No socket: the
 * client (directory.h) feeds it.
 *
 * A full state is gathered aside and replaces everything at `synced`, never before; until then, and while the directory
 * is away, what was known stays. */
#ifndef CS_LOCAL_IDENTITIES_H
#define CS_LOCAL_IDENTITIES_H

#include <countersign/v1/directory.pb-c.h>
#include <stdbool.h>
#include <stdint.h>
#include "error.h"

#define CS_LOCAL_ENDPOINTS_MAX  8192
#define CS_LOCAL_IDENTITIES_MAX 131072 /* of the whole cluster: an endpoint may name any of them; some 150 bytes each */

struct cs_local_identities;

struct cs_local_events {
	/* An endpoint of it is here, or is about to be of it, and its SPIFFE ID is known: the first one, or the ID is
	 * another now. */
	void (*added)(void *data, uint32_t identity, const char *spiffe_id);
	/* It has one more endpoint, or one that changed: whoever reports about it does so again. */
	void (*touched)(void *data, uint32_t identity);
	/* The last one is gone, or another SPIFFE ID follows. */
	void (*removed)(void *data, uint32_t identity);
	/* A full state is in. */
	void (*synced)(void *data);
	void *data;
};

struct cs_local_identities *cs_local_identities_new(const struct cs_local_events *events); /* copied */
void cs_local_identities_free(struct cs_local_identities *l);

/* A new call: a full state begins. */
void cs_local_identities_begin(struct cs_local_identities *l);
/* Events come from here, when a revision is complete: removed ones first. An error (a limit, memory) leaves what was
 * known: end the call and begin anew. */
CS_MUST_USE int cs_local_identities_batch(
	struct cs_local_identities *l, const Countersign__V1__DirectoryBatch *batch, struct cs_error *e);

#endif
