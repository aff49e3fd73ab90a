/* The BPF object of a node: opened, probed, loaded and pinned under <bpffs>/countersign/<instance>/v<CS_ABI>/, and its
 * maps (<countersign/maps.h>) behind typed functions. Nothing here touches an interface: attach.h does.
 *
 * Pinned maps that an earlier life left are taken over, entries and all; where these settings ask for another size, they
 * are copied into maps of that size. The programs are loaded anew in each life.
 *
 * Not thread-safe: the loop thread only. All errors of writes: -ENOSPC with CS_R_MAP_FULL, else CS_R_MAP_WRITE_FAILED.
 * Deleting what is not there is fine and returns 0. */
#ifndef CS_DATAPATH_H
#define CS_DATAPATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <countersign/maps.h>
#include "error.h"

/* datapath.attach and datapath.csum. The values are those of the settings' names in this order. */
enum cs_attach_mode { CS_ATTACH_AUTO, CS_ATTACH_TCX, CS_ATTACH_CLSACT };
enum cs_csum_mode { CS_CSUM_AUTO, CS_CSUM_KFUNC, CS_CSUM_PSEUDO };

#define CS_DATAPATH_PATH 256

struct cs_datapath_config {
	const char *bpffs;    /* a mounted bpffs, "/sys/fs/bpf" */
	const char *instance; /* its name: cs_instance_name() */
	enum cs_attach_mode attach;
	enum cs_csum_mode csum;
	/* While no interface index is larger, cs_endpoint is an ARRAY up to here (96 bytes each, 8 ns faster), else a HASH of
	 * `endpoints` rows. 0: always a HASH. */
	uint32_t array_ifindex;
	/* Rows */
	uint32_t endpoints, addresses, prefixes, policy, auth, pending, flows, seen, nodes;
	/* Bytes, powers of two and multiples of a page */
	uint32_t held_bytes, signal_bytes, drop_bytes;
};
/* The defaults of all settings (attach and csum auto, strings as above with instance "default"). */
struct cs_datapath_config cs_datapath_defaults(void);

struct cs_datapath;

/* Is everything there that opening needs? One sentence names the first thing that is not: no bpffs, a bpf(2) command
 * or map type that the kernel (or a filter on this process) refuses, no BTF. Attaches nothing, leaves nothing. */
CS_MUST_USE int cs_datapath_probe(const struct cs_datapath_config *config, struct cs_error *e);
/* Probes, then loads and pins. NULL: see e. Strings of config are copied. */
struct cs_datapath *cs_datapath_open(const struct cs_datapath_config *config, struct cs_error *e);
/* Closes descriptors. What is pinned or attached stays: the check outlives its daemon. NULL is fine. */
void cs_datapath_free(struct cs_datapath *dp);
/* For --detach, after cs_attach_remove_all(): unpins the maps and removes the directory. */
CS_MUST_USE int cs_datapath_unpin(struct cs_datapath *dp, struct cs_error *e);

/* What the kernel made of `auto`; how the status names it: cs_attach_mode_name, cs_csum_mode_name. */
enum cs_attach_mode cs_datapath_attach_mode(const struct cs_datapath *dp);
enum cs_csum_mode cs_datapath_csum_mode(const struct cs_datapath *dp);
const char *cs_attach_mode_name(enum cs_attach_mode mode); /* "auto", "tcx", "clsact" */
const char *cs_csum_mode_name(enum cs_csum_mode mode);     /* "auto", "kfunc", "pseudo-header" */
/* <bpffs>/countersign/<instance>/v<CS_ABI>; borrowed */
const char *cs_datapath_dir(const struct cs_datapath *dp);

/* Endpoints. Put with the budget rows of both hooks (unless they exist: what is held stays counted). An existing row
 * whose identity or addresses change is zeroed first, so that no packet meets half of each. */
CS_MUST_USE int cs_datapath_endpoint_put(
	struct cs_datapath *dp, uint32_t ifindex, const struct cs_endpoint *endpoint, struct cs_error *e);
/* 1: found, 0: none. */
CS_MUST_USE int cs_datapath_endpoint_get(struct cs_datapath *dp, uint32_t ifindex, struct cs_endpoint *ret);
/* Takes the row, its budgets and its flows away: everything is dropped from here on. */
CS_MUST_USE int cs_datapath_endpoint_del(struct cs_datapath *dp, uint32_t ifindex, struct cs_error *e);

/* Exact addresses; family 4 or 6, ip as on the wire. Deleting also forgets the flows of the address. */
CS_MUST_USE int cs_datapath_addr_put(
	struct cs_datapath *dp, int family, const void *ip, const struct cs_addr *addr, struct cs_error *e);
CS_MUST_USE int cs_datapath_addr_del(struct cs_datapath *dp, int family, const void *ip, struct cs_error *e);
CS_MUST_USE int cs_datapath_prefix_put(struct cs_datapath *dp, int family, const void *ip, uint32_t bits,
	const struct cs_addr *addr, struct cs_error *e);
CS_MUST_USE int cs_datapath_prefix_del(
	struct cs_datapath *dp, int family, const void *ip, uint32_t bits, struct cs_error *e);
/* The row that a packet with this address meets: exact, else the longest prefix, else CS_ID_WORLD. */
CS_MUST_USE int cs_datapath_addr_find(struct cs_datapath *dp, int family, const void *ip, struct cs_addr *ret);

CS_MUST_USE int cs_datapath_policy_put(
	struct cs_datapath *dp, const struct cs_policy_key *key, const struct cs_policy *policy, struct cs_error *e);
CS_MUST_USE int cs_datapath_policy_get(struct cs_datapath *dp, const struct cs_policy_key *key, struct cs_policy *ret);
CS_MUST_USE int cs_datapath_policy_del(struct cs_datapath *dp, const struct cs_policy_key *key, struct cs_error *e);

/* Entries. Those of a pair whose packets are held are written by cs_hold_release (hold.h), which keeps the order. */
CS_MUST_USE int cs_datapath_auth_put(
	struct cs_datapath *dp, const struct cs_auth_key *key, uint64_t value, struct cs_error *e);
CS_MUST_USE int cs_datapath_auth_get(struct cs_datapath *dp, const struct cs_auth_key *key, uint64_t *ret);
CS_MUST_USE int cs_datapath_auth_del(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_error *e);
CS_MUST_USE int cs_datapath_basis_put(
	struct cs_datapath *dp, const struct cs_auth_key *key, const struct cs_basis *basis, struct cs_error *e);
CS_MUST_USE int cs_datapath_basis_get(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_basis *ret);
CS_MUST_USE int cs_datapath_basis_del(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_error *e);

CS_MUST_USE int cs_datapath_pending_put(
	struct cs_datapath *dp, const struct cs_auth_key *key, const struct cs_pending *pending, struct cs_error *e);
CS_MUST_USE int cs_datapath_pending_get(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_pending *ret);
CS_MUST_USE int cs_datapath_pending_del(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_error *e);
/* What left authd's hands: cs_settle of maps.h. */
CS_MUST_USE int cs_datapath_settle(struct cs_datapath *dp, const struct cs_settle *settle, struct cs_error *e);

/* At start, for hold.h: no question is open and nothing is held. */
CS_MUST_USE int cs_datapath_forget_asked(struct cs_datapath *dp, struct cs_error *e);

CS_MUST_USE int cs_datapath_node_put(
	struct cs_datapath *dp, uint16_t id, const struct cs_node *node, struct cs_error *e);
CS_MUST_USE int cs_datapath_node_del(struct cs_datapath *dp, uint16_t id, struct cs_error *e);

/* Every row of a map, in no order; fn may delete the row that it was given, and nothing else of that map. It returns
 * false to end the walk. Returns rows seen, or a negative errno. cs_endpoint skips the rows that are none. */
enum cs_map {
	CS_MAP_ENDPOINT,
	CS_MAP_ADDR4,
	CS_MAP_ADDR6,
	CS_MAP_PREFIX4,
	CS_MAP_PREFIX6,
	CS_MAP_POLICY,
	CS_MAP_AUTH,
	CS_MAP_BASIS,
	CS_MAP_PENDING,
	CS_MAP_FLOWS,
	CS_MAP_BUDGET,
	CS_MAP_NODE,
	CS_MAPS,
};
CS_MUST_USE int cs_datapath_each(struct cs_datapath *dp, enum cs_map map,
	bool (*fn)(const void *key, const void *value, void *data), void *data, struct cs_error *e);

/* cs_config: single fields, stored into the shared page. */
void cs_datapath_set_alive(struct cs_datapath *dp, uint64_t now_ns);
void cs_datapath_set_flags(struct cs_datapath *dp, uint32_t node_flags); /* enum cs_node_flags */
struct cs_config cs_datapath_get_config(const struct cs_datapath *dp);

/* What was dropped (would = false) or would have been (true) for a reason at a hook, all CPUs. */
CS_MUST_USE int cs_datapath_count(
	struct cs_datapath *dp, enum cs_reason reason, bool would, enum cs_dir dir, struct cs_count *ret);

/* Now, by the clock of every ns in the maps. */
uint64_t cs_datapath_now_ns(void);

/* For attach.c, hold.c, tests and benchmarks: descriptors, borrowed. The programs come in two instances over the same
 * maps, because one instance cannot be attached twice to a hook. */
enum cs_prog { CS_PROG_FROM, CS_PROG_TO, CS_PROG_INJECT, CS_PROG_SETTLE };
#define CS_INSTANCES 2
int cs_datapath_prog_fd(const struct cs_datapath *dp, enum cs_prog prog, int instance);
int cs_datapath_map_fd(const struct cs_datapath *dp, const char *name); /* "cs_held"; -ENOENT */

#endif
