/* The link of a node role to the cluster role in the same process (--role all). */
#ifndef CS_NODE_LOCAL_H
#define CS_NODE_LOCAL_H

#include "cluster.h"
#include "directory_service.h"
#include "node.h"

struct cs_link *cs_link_local_new(struct cs_loop *loop, struct cs_cluster *cluster, struct cs_node *node);
/* Whose followers are waited for; without it there are none. */
void cs_link_local_published(struct cs_link *link, struct cs_directory_service *directory);
/* Freed when the loop has closed it. Before the node and the cluster are closed. */
void cs_link_local_close(struct cs_link *link);

#endif
