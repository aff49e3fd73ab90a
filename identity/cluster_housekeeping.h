/* What the one that leads does without being asked: nodes that are heard no more lose their endpoints, and identities that
 * nobody uses go. Both slowly, and never on what happened before it led. */
#ifndef CS_CLUSTER_HOUSEKEEPING_H
#define CS_CLUSTER_HOUSEKEEPING_H

#include "cluster.h"
#include "cluster_peers.h"

struct cs_housekeeping;

struct cs_housekeeping_options { /* borrowed until freed */
	struct cs_loop *loop;
	struct cs_cluster *cluster;
	struct cs_peers *peers;
	const char *own_node;  /* of this process, which is always heard; NULL: none */
	int64_t node_ttl_ms;   /* not heard for so long: gone ... */
	int64_t node_grace_ms; /* ... and so much longer: forgotten */
	int64_t gc_grace_ms;   /* an identity without endpoints is kept for so long */
	struct cs_metrics *metrics;
};
struct cs_housekeeping *cs_housekeeping_new(const struct cs_housekeeping_options *options);
void cs_housekeeping_close(struct cs_housekeeping *h); /* before the cluster; NULL is fine */
void cs_housekeeping_free(struct cs_housekeeping *h);  /* after the loop has ended */

#endif
