/* The nodes that are, or were a moment ago, connected to this replica: when each was heard, and its connections, of which
 * a node may have a few. Pure but for the connections that it closes. */
#ifndef CS_CLUSTER_PEERS_H
#define CS_CLUSTER_PEERS_H

#include "grpc.h"

struct cs_peers;

struct cs_peers *cs_peers_new(void);
void cs_peers_free(struct cs_peers *peers);

/* A node has come: beyond CS_NODE_CONNECTIONS_MAX its oldest connection is closed, because the newest is the one that it
 * uses. */
void cs_peers_connected(struct cs_peers *peers, struct cs_grpc_conn *conn, int64_t now_mono_ms);
void cs_peers_disconnected(struct cs_peers *peers, struct cs_grpc_conn *conn);
size_t cs_peers_connections(const struct cs_peers *peers);
/* It said something. */
void cs_peers_heard(struct cs_peers *peers, const char *node, int64_t now_mono_ms);
/* When it was heard last; INT64_MIN: never. */
int64_t cs_peers_heard_mono_ms(const struct cs_peers *peers, const char *node);
/* It asks for something that waits for the store; -ENOBUFS: more than CS_NODE_WAITING_MAX claims wait, so it has to be
 * refused. Counted either way, until it is answered: also what the node has given up, and whatever connection it came by. */
int cs_peers_ask(struct cs_peers *peers, const char *node, size_t nclaims, struct cs_error *e);
void cs_peers_answered(struct cs_peers *peers, const char *node, size_t nclaims);
/* Closes all its connections; it comes again and says Hello. What was heard of it is forgotten. */
void cs_peers_turn_out(struct cs_peers *peers, const char *node);
/* Forgets whom nobody asks about any more: not connected, and not heard since. */
void cs_peers_forget(struct cs_peers *peers, int64_t before_mono_ms);

#endif
