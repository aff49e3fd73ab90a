/* The link of a node role to cluster roles elsewhere, by mTLS. It is connected to every replica, follows the directory of
 * one, and asks the one that leads. A replica that is lost or silent is left for another, from the position where the
 * directory is. */
#ifndef CS_NODE_REMOTE_H
#define CS_NODE_REMOTE_H

#include "grpc.h"
#include "node.h"

struct cs_link_remote_options { /* borrowed until closed */
	struct cs_loop *loop;
	const struct cs_strings *servers; /* HOST:PORT, 1 to CS_REPLICAS_MAX */
	const struct cs_grpc_tls *tls;
	struct cs_node *node;
	struct cs_metrics *metrics;
};
CS_MUST_USE int cs_link_remote_new(
	const struct cs_link_remote_options *options, struct cs_link **ret, struct cs_error *e);
/* Open calls end; then `closed`. Freed. */
void cs_link_remote_close(struct cs_link *link, void (*closed)(void *data), void *data);

#endif
