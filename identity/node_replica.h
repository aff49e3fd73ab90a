/* The node role's connection to one replica of the cluster role: Hello, heartbeats, asks, and perhaps the directory.
 * What the replicas are together is node_remote.c's affair. */
#ifndef CS_NODE_REPLICA_H
#define CS_NODE_REPLICA_H

#include "grpc.h"
#include "node.h"

struct cs_replica;

struct cs_replica_events {
	/* Greeted or lost, leads or does no longer; cs_replica_up() and cs_replica_leads() tell. why: of a loss, or NULL. */
	void (*changed)(struct cs_replica *r, const struct cs_error *why, void *data);
	/* Of the directory, while it is followed here. */
	void (*batch)(struct cs_replica *r, const Countersign__V1__DirectoryBatch *batch, void *data);
	/* It is followed no more, and not because it was told to. */
	void (*ended)(struct cs_replica *r, const struct cs_error *why, void *data);
	void *data;
};

struct cs_replica_options { /* borrowed until closed */
	struct cs_loop *loop;
	const char *server; /* HOST:PORT */
	const struct cs_grpc_tls *tls;
	struct cs_node *node;
	const struct cs_replica_events *events;
};
CS_MUST_USE int cs_replica_new(const struct cs_replica_options *options, struct cs_replica **ret, struct cs_error *e);
/* Open calls end, no event comes; then `closed`. Freed. */
void cs_replica_close(struct cs_replica *r, void (*closed)(void *data), void *data);

const char *cs_replica_server(const struct cs_replica *r);
/* It took Hello, or another replica has to; it may be followed. */
bool cs_replica_up(const struct cs_replica *r);
/* It said so a moment ago, and this node is registered there: it takes asks. */
bool cs_replica_leads(const struct cs_replica *r);
int64_t cs_replica_leads_since_mono_ms(const struct cs_replica *r); /* that it said so first */
/* How old its directory may be, as it said last. */
uint32_t cs_replica_silent_ms(const struct cs_replica *r);
/* Why it takes no claims, as it said last; code 0: it did not say. */
const struct cs_error *cs_replica_trouble(const struct cs_replica *r);
uint64_t cs_replica_epoch(const struct cs_replica *r); /* of its store; 0: not up yet */

/* Twice a second. hurry: nobody is known to lead, so all are asked. */
void cs_replica_tick(struct cs_replica *r, bool hurry);

/* Follow the directory from where the node is; not before may_follow_mono_ms. */
void cs_replica_follow(struct cs_replica *r);
void cs_replica_unfollow(struct cs_replica *r);
int64_t cs_replica_may_follow_mono_ms(const struct cs_replica *r);

CS_MUST_USE int cs_replica_ask_take(struct cs_replica *r, struct cs_ask *ask, struct cs_error *e);
/* done: e is NULL, or why nobody knows. */
typedef void cs_replica_published(void *data, uint32_t have, uint32_t stale, const struct cs_error *e);
CS_MUST_USE int cs_replica_ask_published(
	struct cs_replica *r, uint64_t revision, cs_replica_published *done, void *data, struct cs_error *e);

#endif
