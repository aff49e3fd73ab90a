/* Trust bundles from SPIRE's Delegated Identity API.
 *
 * The agent never takes a trust domain out of an open stream (it was seen to send it, with its old roots, for as long as
 * the stream lived), so the stream is opened anew periodically and when federation changed, and the first message of a
 * stream is the whole truth. The old stream runs until then.
 *
 * A message that repeats all of the one before says that the own domain's bundle changed in something that it does not
 * carry. A tainted authority is one of these things (the others are keys of JWTs), so the own bundle is said again, with a
 * new generation: what was verified against the old one is verified again. */
#ifndef CS_SPIRE_BUNDLES_H
#define CS_SPIRE_BUNDLES_H

#include "grpc.h"
#include "source.h"

#define CS_SPIRE_BUNDLES_MAX        256  /* trust domains */
#define CS_SPIRE_AUTHORITIES        64   /* of one */
#define CS_SPIRE_REPEAT_MS          1000 /* repeats within that time are one */
#define CS_SPIRE_BUNDLES_RETRY_MS   1000
#define CS_SPIRE_BUNDLES_SLOWEST_MS 30000

struct cs_spire_bundles_events {
	/* As in cs_source_events. */
	void (*bundle)(void *data, const char *trust_domain, const struct cs_der *authorities, size_t n);
	void (*answered)(void *data);
	/* Nothing for a call that ended with its connection. */
	void (*refused)(void *data, const struct cs_grpc_status *status);
	void *data;
};

struct cs_spire_bundles;

struct cs_spire_bundles_times {
	int64_t reopen_ms;   /* a stream's age */
	int64_t watchdog_ms; /* how long a first message may take; then it is asked for again */
};
/* channel is borrowed until close. */
CS_MUST_USE int cs_spire_bundles_new(struct cs_loop *loop, struct cs_grpc_channel *channel,
	const char *own_trust_domain, const struct cs_spire_bundles_times *times,
	const struct cs_spire_bundles_events *events, struct cs_spire_bundles **ret, struct cs_error *e);
/* The channel is ready. */
void cs_spire_bundles_connected(struct cs_spire_bundles *b);
/* Federation changed: the stream is opened anew, soon. */
void cs_spire_bundles_reopen(struct cs_spire_bundles *b);
/* Nothing is called any more; the loop ends later. NULL is fine. */
void cs_spire_bundles_close(struct cs_spire_bundles *b);
void cs_spire_bundles_free(struct cs_spire_bundles *b);

#endif
