/* The source "local-ca": the built-in CA issues, in a worker thread, and again when half of an SVID's life is over. */
#ifndef CS_SOURCE_LOCAL_CA_H
#define CS_SOURCE_LOCAL_CA_H

#include "ca.h"
#include "loop.h"
#include "source.h"

/* ca is taken over, also on failure. events is copied. */
CS_MUST_USE int cs_source_local_ca_new_take(struct cs_loop *loop, struct cs_ca *ca, int64_t ttl_s,
	const struct cs_source_events *events, struct cs_source **ret, struct cs_error *e);

#endif
