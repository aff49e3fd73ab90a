/* The client of the SPIFFE Workload API: this process's own SVIDs (SPIFFE_Workload_API.md 4). It follows FetchX509SVID for
 * ever; a connection that is lost comes back by itself. */
#ifndef CS_SPIRE_WORKLOAD_H
#define CS_SPIRE_WORKLOAD_H

#include "grpc.h"
#include "loop.h"
#include <openssl/evp.h>
#include "spire_svid.h"

#define CS_SPIRE_OWN_MAX        64 /* SVIDs in one message; more is refused: some entry matches too much */
#define CS_SPIRE_OWN_BUNDLE     64 /* authorities of one trust domain */
#define CS_SPIRE_OWN_RETRY_MS   1000
#define CS_SPIRE_OWN_SLOWEST_MS 30000 /* linear as go-spiffe's: 1 s, 2 s, ... */
#define CS_SPIRE_OWN_SILENT_MS  30000 /* a usual watchdog_ms */

/* Everything in it is borrowed until the callback returns; the key must be referenced to be kept. */
struct cs_spire_own {
	struct cs_spire_chain chain;
	EVP_PKEY *key;
	struct cs_der bundle[CS_SPIRE_OWN_BUNDLE];
	size_t nbundle;
};

struct cs_spire_workload_events {
	/* One message: begin, svid for each that can be used, end. What it does not name is not issued to us (any more). "No
	 * identity issued" is a message without any. */
	void (*begin)(void *data);
	void (*svid)(void *data, const struct cs_spire_own *own);
	/* One that cannot be used. spiffe_id as it was sent, unchecked. */
	void (*bad)(void *data, const char *spiffe_id, const struct cs_error *why);
	void (*end)(void *data);
	/* Nothing can be said: the agent is away, or does not answer as it should. What was known stays. At changes only. */
	void (*trouble)(void *data, const struct cs_error *why);
	void *data;
};

struct cs_spire_workload;

/* socket: need not exist yet. watchdog_ms: how long a first message may take; then the connection is made anew. events is
 * copied. */
CS_MUST_USE int cs_spire_workload_new(struct cs_loop *loop, const char *socket, int64_t watchdog_ms,
	const struct cs_spire_workload_events *events, struct cs_spire_workload **ret, struct cs_error *e);
/* Within `svid`: what it says is of no use yet. Ask again in a while, for no message will come when it is. */
void cs_spire_workload_again(struct cs_spire_workload *w);
/* How often a connection was made. */
uint64_t cs_spire_workload_connections(const struct cs_spire_workload *w);
/* Nothing is called any more; the loop ends later. NULL is fine. */
void cs_spire_workload_close(struct cs_spire_workload *w);
/* After the loop has ended. NULL is fine. */
void cs_spire_workload_free(struct cs_spire_workload *w);

#endif
