/* The service Cluster of the cluster role. The node is whom the certificate names. */
#ifndef CS_CLUSTER_SERVICE_H
#define CS_CLUSTER_SERVICE_H

#include "cluster.h"
#include "grpc.h"

struct cs_cluster_service;

struct cs_cluster_service *cs_cluster_service_new(
	struct cs_cluster *cluster, const char *trust_domain, struct cs_metrics *metrics);
/* For cs_grpc_server_add; lives as long as this. */
const struct cs_grpc_service *cs_cluster_service_grpc(const struct cs_cluster_service *service);
/* For the server's options: which connections said Hello. data is the service. */
void cs_cluster_service_connected(struct cs_grpc_conn *conn, void *data);
void cs_cluster_service_disconnected(struct cs_grpc_conn *conn, void *data);
/* Whether Hello was taken on its connection. If not the call is finished: a node that was refused hears nothing. */
bool cs_cluster_service_greeted(struct cs_grpc_call *call);
/* After the server and the cluster are closed. */
void cs_cluster_service_free(struct cs_cluster_service *service);

#endif
