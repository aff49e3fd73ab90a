/* How numeric identities are laid out, with the names of those that are not given to label sets. Cilium's numbers, so
 * that what reads Cilium's maps, flows and logs can read ours.
 *
 *	0 - 99			reserved; those that are in use have a name here
 *	100 - 127		well-known: Cilium's own components; never given to a label set here
 *	128 - 255		user-reserved: given to names by configuration (identity.fixed)
 *	256 - 2^shift - 1	label sets of cluster 0
 *	c << shift ...		label sets of cluster c, up to ((c + 1) << shift) - 1; shift is 16 (255 clusters) or 15 (511)
 *	1 << 24 | n		a prefix (CIDR) that a policy names
 *	2 << 24 | n		a remote node, local to one node
 *
 * From CS_ID_LOCAL_SCOPE (maps.h) on nothing can ever authenticate, nor below CS_ID_FIRST_AUTH. */
#ifndef COUNTERSIGN_IDENTITIES_H
#define COUNTERSIGN_IDENTITIES_H

#include <stddef.h>
#include <stdint.h>

#define CS_ID_WELL_KNOWN_FIRST 100
#define CS_ID_FIXED_FIRST      128
#define CS_ID_FIXED_LAST       255
#define CS_ID_LABELS_FIRST     256 /* of cluster 0 */
#define CS_ID_SCOPE_SHIFT      24
#define CS_ID_SCOPE_CIDR       (UINT32_C(1) << CS_ID_SCOPE_SHIFT)
#define CS_ID_SCOPE_NODE       (UINT32_C(2) << CS_ID_SCOPE_SHIFT)
#define CS_ID_SCOPE_END        (UINT32_C(3) << CS_ID_SCOPE_SHIFT) /* from here on there is nothing */

/* X(number, name) */
#define CS_NAMED_IDENTITIES(X)                                                                                         \
	X(0, "unknown")                                                                                                \
	X(1, "host")                                                                                                   \
	X(2, "world")                                                                                                  \
	X(3, "unmanaged")                                                                                              \
	X(4, "health")                                                                                                 \
	X(5, "init")                                                                                                   \
	X(6, "remote-node")                                                                                            \
	X(7, "kube-apiserver")                                                                                         \
	X(8, "ingress")                                                                                                \
	X(9, "world-ipv4")                                                                                             \
	X(10, "world-ipv6")                                                                                            \
	X(11, "encrypted-overlay")                                                                                     \
	X(100, "etcd-operator")                                                                                        \
	X(101, "cilium-kvstore")                                                                                       \
	X(102, "kube-dns")                                                                                             \
	X(103, "eks-kube-dns")                                                                                         \
	X(104, "core-dns")                                                                                             \
	X(105, "cilium-operator")                                                                                      \
	X(106, "eks-core-dns")                                                                                         \
	X(107, "cilium-etcd-operator")                                                                                 \
	X(108, "etcd-operator2")                                                                                       \
	X(109, "cilium-kvstore2")                                                                                      \
	X(110, "kube-dns2")                                                                                            \
	X(111, "eks-kube-dns2")                                                                                        \
	X(112, "core-dns2")                                                                                            \
	X(113, "cilium-operator2")                                                                                     \
	X(114, "eks-core-dns2")                                                                                        \
	X(115, "cilium-etcd-operator2")

/* "world", "kube-dns", ..., or NULL. Names of user-reserved ones are configuration, not here. */
static inline const char *cs_id_name(uint32_t id)
{
	switch (id) {
#define CS_X(number, name)                                                                                             \
	case number:                                                                                                   \
		return name;
		CS_NAMED_IDENTITIES(CS_X)
#undef CS_X
	default:
		return NULL;
	}
}

#endif
