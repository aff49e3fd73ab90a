/* v1.Admin on admin.sock: what an operator decides for the whole cluster. In role node it is there to say where to ask. */
#ifndef CS_ADMIN_SERVICE_H
#define CS_ADMIN_SERVICE_H

#include "cluster.h"
#include "grpc.h"

struct cs_admin_service;

/* cluster NULL: role node, whose cluster role is at `elsewhere` (borrowed). */
struct cs_admin_service *cs_admin_service_new(
	struct cs_cluster *cluster, const struct cs_strings *elsewhere, int64_t gc_grace_ms);
const struct cs_grpc_service *cs_admin_service_grpc(const struct cs_admin_service *service);
void cs_admin_service_free(struct cs_admin_service *service);

#endif
