#include "cluster_peers.h"

#include <errno.h>
#include <uthash.h>
#include <utlist.h>
#include "identity_limits.h"
#include "log.h"
#include "mem.h"

struct link {
	struct cs_grpc_conn *conn;
	bool closing;
	struct link *prev, *next;
};

struct peer {
	char *node;
	int64_t heard_mono_ms;
	size_t waiting;     /* asks and their claims that have no answer yet */
	struct link *links; /* the oldest first */
	UT_hash_handle hh;
};

struct cs_peers {
	struct peer *peers;
	size_t nlinks;
};

struct cs_peers *cs_peers_new(void)
{
	return cs_xcalloc(1, sizeof(struct cs_peers));
}

static struct peer *find(const struct cs_peers *peers, const char *node)
{
	struct peer *peer;
	HASH_FIND_STR(peers->peers, node, peer);
	return peer;
}

static struct peer *find_or_add(struct cs_peers *peers, const char *node)
{
	struct peer *peer = find(peers, node);
	if (peer)
		return peer;
	peer = cs_xcalloc(1, sizeof(*peer));
	peer->node = cs_xstrdup(node);
	peer->heard_mono_ms = INT64_MIN;
	HASH_ADD_KEYPTR(hh, peers->peers, peer->node, strlen(peer->node), peer);
	return peer;
}

static void remove_peer(struct cs_peers *peers, struct peer *peer)
{
	HASH_DEL(peers->peers, peer);
	free(peer->node);
	free(peer);
}

void cs_peers_free(struct cs_peers *peers)
{
	if (!peers)
		return;
	struct peer *peer, *tmp;
	HASH_ITER (hh, peers->peers, peer, tmp) {
		struct link *link, *next;
		DL_FOREACH_SAFE (peer->links, link, next)
			free(link);
		remove_peer(peers, peer);
	}
	free(peers);
}

void cs_peers_connected(struct cs_peers *peers, struct cs_grpc_conn *conn, int64_t now_mono_ms)
{
	struct peer *peer = find_or_add(peers, cs_grpc_conn_peer(conn));
	struct link *link = cs_xcalloc(1, sizeof(*link)), *old;
	size_t open = 1;
	link->conn = conn;
	DL_FOREACH (peer->links, old)
		open += !old->closing;
	DL_FOREACH (peer->links, old) {
		if (open <= CS_NODE_CONNECTIONS_MAX)
			break;
		if (old->closing)
			continue;
		cs_warn("a node has more connections than it may: the oldest is closed", cs_str("node", peer->node),
			cs_i64("limit", CS_NODE_CONNECTIONS_MAX));
		old->closing = true;
		open--;
		cs_grpc_conn_close(old->conn);
	}
	DL_APPEND(peer->links, link);
	peers->nlinks++;
	peer->heard_mono_ms = now_mono_ms;
}

void cs_peers_disconnected(struct cs_peers *peers, struct cs_grpc_conn *conn)
{
	struct peer *peer = find(peers, cs_grpc_conn_peer(conn));
	struct link *link, *tmp;
	DL_FOREACH_SAFE (peer ? peer->links : NULL, link, tmp) {
		if (link->conn != conn)
			continue;
		DL_DELETE(peer->links, link);
		free(link);
		peers->nlinks--;
	}
}

size_t cs_peers_connections(const struct cs_peers *peers)
{
	return peers->nlinks;
}

void cs_peers_heard(struct cs_peers *peers, const char *node, int64_t now_mono_ms)
{
	find_or_add(peers, node)->heard_mono_ms = now_mono_ms;
}

int64_t cs_peers_heard_mono_ms(const struct cs_peers *peers, const char *node)
{
	const struct peer *peer = find(peers, node);
	return peer ? peer->heard_mono_ms : INT64_MIN;
}

int cs_peers_ask(struct cs_peers *peers, const char *node, size_t nclaims, struct cs_error *e)
{
	struct peer *peer = find_or_add(peers, node);
	peer->waiting += 1 + nclaims;
	if (peer->waiting > CS_NODE_WAITING_MAX)
		return cs_error_reason(e, -ENOBUFS, CS_R_TOO_MANY,
			"what node %s has asked for is more than may wait for the store at a time (%d claims): let "
			"it be answered first",
			node, CS_NODE_WAITING_MAX);
	return 0;
}

void cs_peers_answered(struct cs_peers *peers, const char *node, size_t nclaims)
{
	struct peer *peer = find(peers, node);
	if (peer)
		peer->waiting -= 1 + nclaims;
}

void cs_peers_turn_out(struct cs_peers *peers, const char *node)
{
	struct peer *peer = find(peers, node);
	struct link *link;
	if (!peer)
		return;
	peer->heard_mono_ms = INT64_MIN;
	DL_FOREACH (peer->links, link) {
		if (!link->closing)
			cs_grpc_conn_close(link->conn);
		link->closing = true;
	}
}

void cs_peers_forget(struct cs_peers *peers, int64_t before_mono_ms)
{
	struct peer *peer, *tmp;
	HASH_ITER (hh, peers->peers, peer, tmp)
		if (!peer->links && peer->waiting == 0 && peer->heard_mono_ms < before_mono_ms)
			remove_peer(peers, peer);
}
