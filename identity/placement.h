/* The placement authority: who says that an identity may run on a node. A node only claims.
 *
 *	self	claims are believed
 *	static	a file:
 *
 *	nodes:				# optional; a node that is not listed may have any address
 *	  node1:
 *	    addresses: [10.0.0.1, "fd00::1"]
 *	placements:			# an identity is placed on a node if one entry says so
 *	  - labels: [k8s:app=web, k8s:io.kubernetes.pod.namespace=shop]	# all of them
 *	    nodes: [node1, node2]	# "*": any node
 */
#ifndef CS_PLACEMENT_H
#define CS_PLACEMENT_H

#include "ip.h"
#include "labels_filter.h"

struct cs_authority;

enum cs_authority_kind { CS_AUTHORITY_SELF, CS_AUTHORITY_STATIC };

/* For `self`. */
struct cs_authority *cs_authority_self(void);
/* For `static`: bytes in, authority or an error with file and line out. */
CS_MUST_USE int cs_authority_parse(
	const char *file, const void *bytes, size_t n, struct cs_authority **ret, struct cs_error *e);
/* An entry with a label that the filter leaves out of identities would place nothing, silently: -EINVAL. */
CS_MUST_USE int cs_authority_check(
	const struct cs_authority *a, const struct cs_label_filter *filter, struct cs_error *e);
void cs_authority_free(struct cs_authority *a);

/* "self", "static": the name in Placement records. */
const char *cs_authority_name(const struct cs_authority *a);
/* 0, or -EACCES with placement-refused, naming the node. */
CS_MUST_USE int cs_authority_places(
	const struct cs_authority *a, const struct cs_labels *labels, const char *node, struct cs_error *e);
/* May the node have these addresses? 0, or -EACCES with placement-refused. */
CS_MUST_USE int cs_authority_addresses(
	const struct cs_authority *a, const char *node, const struct cs_ip *addrs, size_t n, struct cs_error *e);

/* Does the set have all the wanted labels, with source and value? */
bool cs_labels_cover(const struct cs_labels *wanted, const struct cs_labels *labels);

#endif
