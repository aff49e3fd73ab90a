/* The service Directory over one directory: streams that follow it, and who of them has what. */
#ifndef CS_DIRECTORY_SERVICE_H
#define CS_DIRECTORY_SERVICE_H

#include "dir.h"
#include "grpc.h"
#include "loop.h"
#include "metrics.h"

struct cs_directory_service;

struct cs_directory_service_options { /* borrowed until freed */
	struct cs_loop *loop;
	struct cs_directory *dir;
	uint32_t (*silent_ms)(void *data); /* NULL: the cluster role itself, 0 */
	/* Is this directory all there is, or does another replica know more? NULL: it is. Who comes with a later revision than
	 * a directory that is complete has had one of a history that is no more. */
	bool (*complete)(void *data);
	void *data; /* for these two */
	/* Node role: its own name, for local users. NULL: cluster role, where peers are nodes by their certificate. */
	const char *node;
	uint32_t roles; /* who may follow */
	/* False, and the call is finished: not yet. NULL: whoever has a role may. */
	bool (*may_follow)(struct cs_grpc_call *call, void *follow_data);
	void *follow_data;
	int64_t coalesce_ms; /* the least time between two batches of changes to one follower; 0: each revision at once */
	int64_t heartbeat_ms; /* at most CS_HEARTBEAT_MS */
	bool acks;            /* followers answer DirectoryBatch.ack by cs_directory_service_applied */
	const char *label;    /* "node" or "cluster", for metrics */
	struct cs_metrics *metrics;
};
struct cs_directory_service *cs_directory_service_new(const struct cs_directory_service_options *options);
/* For cs_grpc_server_add; lives as long as this. */
const struct cs_grpc_service *cs_directory_service_grpc(const struct cs_directory_service *service);
/* Ends all streams (UNAVAILABLE), and answers all who wait; before the directory goes. Closes its timers. */
void cs_directory_service_close(struct cs_directory_service *service);
/* After the server is closed and the loop has ended. */
void cs_directory_service_free(struct cs_directory_service *service);

/* --- who has what (acks) --- */

/* What the follower on this connection says it has applied. */
void cs_directory_service_applied(
	struct cs_directory_service *service, const struct cs_grpc_conn *conn, uint64_t epoch, uint64_t revision);

/* Waits until all who follow now, and are not stale, have the revision: CS_PUBLISHED_MS at most, and those who did not
 * say so by then are stale until they do. Local lists (`once`) do not count. done is called once, perhaps before this
 * returns; stale: how many were not waited for, or not any longer. -ENOBUFS: CS_PUBLISHED_WAITERS_MAX wait already. */
struct cs_published;
typedef void cs_published_done(void *data, size_t have, size_t stale);
CS_MUST_USE int cs_directory_service_published(struct cs_directory_service *service, uint64_t revision,
	cs_published_done *done, void *data, struct cs_published **ret, struct cs_error *e);
/* done will not be called. Not after it was. */
void cs_published_cancel(struct cs_published *published);

#endif
