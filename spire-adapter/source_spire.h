/* The source "spire": SVIDs of local identities by the agent's Delegated Identity API, our own by the Workload API. */
#ifndef CS_SOURCE_SPIRE_H
#define CS_SOURCE_SPIRE_H

#include "loop.h"
#include "metrics.h"
#include "source.h"
#include "status.h"

struct cs_source_spire_options {
	const char *agent_socket, *admin_socket;
	const char *trust_domain;
	/* The identity number that stands for the node, and the SPIFFE ID it then has: by the Workload API. */
	uint32_t own_identity;
	const char *files_dir; /* node/ and identityd/ in it get the SVIDs that identityd uses for its mTLS */
	int64_t quiet_ms, watchdog_ms, bundle_reopen_ms;
	struct cs_check *check;     /* "spire" */
	struct cs_metrics *metrics; /* both borrowed until it is freed */
};

/* options and events are copied, strings too. After an error *ret may be set, and is closed and freed all the same. */
CS_MUST_USE int cs_source_spire_new(struct cs_loop *loop, const struct cs_source_spire_options *options,
	const struct cs_source_events *events, struct cs_source **ret, struct cs_error *e);

#endif
