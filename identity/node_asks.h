/* What the node role asks of the cluster role, as calls of the service Cluster. */
#ifndef CS_NODE_ASKS_H
#define CS_NODE_ASKS_H

#include "core.h"
#include "grpc.h"

#define CS_NODE_ASK_MS 5000 /* then it is no answer, and asked again */

/* Claims and releases. Takes the ask, whose done() comes from the loop; an error, and it stays the caller's. */
CS_MUST_USE int cs_node_ask_send_take(struct cs_grpc_channel *channel, struct cs_ask *ask, struct cs_error *e);

#endif
