/* The service Cluster of the cluster role. The node is whom the certificate names. */
#ifndef CS_CLUSTER_SERVICE_H
#define CS_CLUSTER_SERVICE_H

#include "cluster.h"
#include "cluster_peers.h"
#include "directory_service.h"
#include "grpc.h"

struct cs_cluster_service;

struct cs_cluster_service_options { /* borrowed until freed */
	struct cs_loop *loop;
	struct cs_cluster *cluster;
	struct cs_peers *peers; /* who was heard when */
	const char *trust_domain;
	uint32_t cluster_id;
	int64_t node_ttl_ms;
	struct cs_metrics *metrics;
};
struct cs_cluster_service *cs_cluster_service_new(const struct cs_cluster_service_options *options);
/* Before it serves: whose followers Published waits for. */
void cs_cluster_service_follow(struct cs_cluster_service *service, struct cs_directory_service *directory);
/* For cs_grpc_server_add; lives as long as this. */
const struct cs_grpc_service *cs_cluster_service_grpc(const struct cs_cluster_service *service);
/* For the server's options: which connections said Hello. data is the service. */
void cs_cluster_service_connected(struct cs_grpc_conn *conn, void *data);
void cs_cluster_service_disconnected(struct cs_grpc_conn *conn, void *data);
/* Whether Hello was taken on its connection, here or by another replica as this one's directory shows. If not the call is
 * finished: a node that was refused hears nothing. */
bool cs_cluster_service_may_follow(struct cs_grpc_call *call, void *service);
/* After the server and the cluster are closed. */
void cs_cluster_service_free(struct cs_cluster_service *service);

#endif
