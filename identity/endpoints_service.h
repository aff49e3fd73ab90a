/* The service Endpoints of the node role. */
#ifndef CS_ENDPOINTS_SERVICE_H
#define CS_ENDPOINTS_SERVICE_H

#include "grpc.h"
#include "node.h"

struct cs_endpoints_service;

struct cs_endpoints_service *cs_endpoints_service_new(struct cs_loop *loop, struct cs_node *node);
/* For cs_grpc_server_add; lives as long as this. */
const struct cs_grpc_service *cs_endpoints_service_grpc(const struct cs_endpoints_service *service);
/* Ends the calls that wait. */
void cs_endpoints_service_close(struct cs_endpoints_service *service);
void cs_endpoints_service_free(struct cs_endpoints_service *service);

#endif
