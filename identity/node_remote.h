/* The link of a node role to a cluster role elsewhere: the services Cluster and Directory by mTLS. */
#ifndef CS_NODE_REMOTE_H
#define CS_NODE_REMOTE_H

#include "grpc.h"
#include "node.h"

struct cs_link_remote_options { /* borrowed until closed */
	struct cs_loop *loop;
	const char *server; /* HOST:PORT */
	const struct cs_grpc_tls *tls;
	struct cs_node *node;
};
CS_MUST_USE int cs_link_remote_new(
	const struct cs_link_remote_options *options, struct cs_link **ret, struct cs_error *e);
/* Open calls end; then `closed`. Freed. */
void cs_link_remote_close(struct cs_link *link, void (*closed)(void *data), void *data);

#endif
