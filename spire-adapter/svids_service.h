/* The gRPC service Svids: every follower gets the full state, `synced`, and then what changes. */
#ifndef CS_SVIDS_SERVICE_H
#define CS_SVIDS_SERVICE_H

#include "grpc.h"
#include "svids.h"

#define CS_SVIDS_FOLLOWERS_MAX 64
#define CS_SVIDS_BATCH_ITEMS   64
#define CS_SVIDS_BATCH_BYTES   (256 * 1024) /* packed; one item more may follow */
#define CS_SVIDS_HEARTBEAT_MS  5000
#define CS_SVIDS_SLOW_MS       30000 /* a follower that takes nothing for so long is cut off: RESOURCE_EXHAUSTED */

struct cs_svids_service;

/* svids is borrowed until the service is freed. NULL: no memory. */
struct cs_svids_service *cs_svids_service_new(struct cs_loop *loop, struct cs_svids *svids);
/* For cs_grpc_server_add. */
const struct cs_grpc_service *cs_svids_service_grpc(const struct cs_svids_service *service);
/* The state changed: tell everybody, soon. */
void cs_svids_service_changed(struct cs_svids_service *service);
size_t cs_svids_service_followers(const struct cs_svids_service *service);
/* Ends every call; the loop ends later. NULL is fine. */
void cs_svids_service_close(struct cs_svids_service *service);
/* After the loop has ended. NULL is fine. */
void cs_svids_service_free(struct cs_svids_service *service);

#endif
