/* The daemon as a whole: directory -> local identities -> source -> keys and Svids -> reports. */
#ifndef CS_ADAPTER_H
#define CS_ADAPTER_H

#include "daemon.h"
#include "source.h"

struct cs_adapter;

/* Opens a source; the adapter's events go to it. */
typedef int cs_source_open(
	struct cs_daemon *d, const struct cs_source_events *events, struct cs_source **ret, struct cs_error *e);

/* Serves DIR/spire-adapter/{svids,sign}.sock and follows identityd. node_spiffe_id: of the node's own SVID. *ret is set
 * also on failure, once there is something to close. */
CS_MUST_USE int cs_adapter_start(struct cs_daemon *d, cs_source_open *open_source, const char *node_spiffe_id,
	struct cs_adapter **ret, struct cs_error *e);
/* Closes everything; the loop ends later. NULL is fine, and so is a half-started one. */
void cs_adapter_stop(struct cs_adapter *adapter);
/* After the loop has ended. NULL is fine. */
void cs_adapter_free(struct cs_adapter *adapter);

#endif
