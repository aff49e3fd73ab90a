/* The service Directory over one directory: streams that follow it. */
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
	void *silent_data;
	/* Node role: its own name, for local users. NULL: cluster role, where peers are nodes by their certificate. */
	const char *node;
	uint32_t roles; /* who may follow */
	/* False, and the call is finished: not yet. NULL: whoever has a role may. */
	bool (*may_follow)(struct cs_grpc_call *call);
	const char *label; /* "node" or "cluster", for metrics */
	struct cs_metrics *metrics;
};
struct cs_directory_service *cs_directory_service_new(const struct cs_directory_service_options *options);
/* For cs_grpc_server_add; lives as long as this. */
const struct cs_grpc_service *cs_directory_service_grpc(const struct cs_directory_service *service);
/* Ends all streams (UNAVAILABLE); before the directory goes. Closes its timer. */
void cs_directory_service_close(struct cs_directory_service *service);
/* After the server is closed and the loop has ended. */
void cs_directory_service_free(struct cs_directory_service *service);

#endif
