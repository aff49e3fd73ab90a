/* The world as the directory, netlink and the attached programs say it is, and the rows that the BPF maps should have
 * because of it. Pure: no sockets, no maps, no clock.
 *
 * A revision is fed in (cs_world_record), then cs_world_plan() gives the operations that lead from the rows that were
 * there to those that should be, in an order in which every pair has at each instant its old verdict, its new one, or none.
 * Who executes them says how each went (cs_world_done); what found no room is tried again with the next plan, and
 * meanwhile the closed thing holds.
 *
 * Memory: aborts when there is none, as uthash does; the programs in the kernel go on without us. */
#ifndef CS_WORLD_H
#define CS_WORLD_H

#include <countersign/maps.h>
#include <countersign/v1/directory.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "address.h"
#include "error.h"

#define CS_WORLD_ENDPOINT_ADDRS (2 * CS_OWN)

struct cs_world;

/* seed: where generations start; random in each life. */
struct cs_world *cs_world_new(uint64_t seed);
void cs_world_free(struct cs_world *w);

/* ---- what is fed in ---- */

/* Form only: -EBADMSG for what no directory should send (the batch is then refused as a whole). */
CS_MUST_USE int cs_world_record_check(const Countersign__V1__Record *record, struct cs_error *e);
/* One checked record. */
void cs_world_record(struct cs_world *w, const Countersign__V1__Record *record);
/* Records between these two are the full state: what else was known of the directory goes at the end. */
void cs_world_replace_begin(struct cs_world *w);
void cs_world_replace_end(struct cs_world *w);
/* A full state was taken in; before that there is no plan and nothing is known. */
bool cs_world_ready(const struct cs_world *w);

/* This node's own addresses and interfaces (name NULL: gone). */
void cs_world_host_addr(struct cs_world *w, const struct cs_ip *ip, bool present);
void cs_world_link(struct cs_world *w, uint32_t ifindex, const char *name);
/* Is the check first at this interface? CS_R_NONE, or CS_R_SHADOWED and by whom. */
void cs_world_shadowed(struct cs_world *w, uint32_t ifindex, enum cs_reason reason, const char *who);

/* What an earlier life left in the pinned maps; before the first plan, which then only changes what is different. */
void cs_world_adopt_node(struct cs_world *w, uint16_t id, const struct cs_node *row);
void cs_world_adopt_endpoint(struct cs_world *w, uint32_t ifindex, const struct cs_endpoint *row);
void cs_world_adopt_addr(struct cs_world *w, const struct cs_ip *ip, const struct cs_addr *row);
void cs_world_adopt_prefix(struct cs_world *w, const struct cs_ip_prefix *prefix, const struct cs_addr *row);
void cs_world_adopt_policy(struct cs_world *w, const struct cs_policy_key *key, const struct cs_policy *row);

/* Somebody else's rows name a node id too (entries): its name stays until they let go. */
void cs_world_node_hold(struct cs_world *w, uint16_t id);
void cs_world_node_release(struct cs_world *w, uint16_t id);

/* ---- what is to be done ---- */

/* In the order of execution. */
enum cs_op_kind {
	CS_OP_NODE_PUT,
	CS_OP_ATTACH,       /* the programs, at an interface that has an endpoint now; closes it */
	CS_OP_ENDPOINT_DEL, /* gone, or about to change hands or addresses */
	CS_OP_ADDR_DEL,
	CS_OP_PREFIX_DEL,
	CS_OP_ENTRIES_BEFORE, /* entries that do not stand any more; reply flags that they gain */
	CS_OP_POLICY_PUT,
	CS_OP_ENDPOINT_PUT,
	CS_OP_POLICY_DEL,
	CS_OP_ENTRIES_AFTER, /* reply flags that entries lose */
	CS_OP_PREFIX_PUT,
	CS_OP_ADDR_PUT,
	CS_OP_NODE_DEL,
};
struct cs_op {
	enum cs_op_kind kind;
	union {
		uint16_t node;
		uint32_t ifindex;
		struct cs_ip addr;
		struct cs_ip_prefix prefix;
		struct cs_policy_key policy;
	};
};
/* The operations for all that changed since the plan before; borrowed until the next call. *ret_n 0: nothing to do. */
const struct cs_op *cs_world_plan(struct cs_world *w, size_t *ret_n);
/* Rows for the operations that put something, asked for when it is executed; false: not any more (skip it). */
bool cs_world_node_row(const struct cs_world *w, uint16_t id, struct cs_node *ret);
bool cs_world_endpoint_row(const struct cs_world *w, uint32_t ifindex, struct cs_endpoint *ret);
bool cs_world_addr_row(const struct cs_world *w, const struct cs_ip *ip, struct cs_addr *ret);
bool cs_world_prefix_row(const struct cs_world *w, const struct cs_ip_prefix *prefix, struct cs_addr *ret);
bool cs_world_policy_row(const struct cs_world *w, const struct cs_policy_key *key, struct cs_policy *ret);
/* How an operation went. error NULL: done. Otherwise its reason and text are kept: the row is missing, everything that
 * would be judged wrongly without it is closed, and the next plan tries again. True: plan again now, something has to be
 * closed or can be opened. */
bool cs_world_done(struct cs_world *w, const struct cs_op *op, const struct cs_error *error);

/* Between the two ENTRIES operations: might this pair's entry be touched by what changed? */
bool cs_world_touched(const struct cs_world *w, uint32_t local, uint32_t remote);

/* ---- what is known ---- */

struct cs_world_node {
	const char *name, *path;
	uint16_t id, port;
	bool self;
	const struct cs_ip *addrs; /* preferred first */
	size_t naddrs;
};
bool cs_world_node_by_id(const struct cs_world *w, uint16_t id, struct cs_world_node *ret);
/* Has the id a name, listed or left by an earlier life? */
bool cs_world_node_numbered(const struct cs_world *w, uint16_t id);
bool cs_world_node_by_name(const struct cs_world *w, const char *name, struct cs_world_node *ret);
/* The registered node (never this one) that owns an address. */
bool cs_world_node_by_addr(const struct cs_world *w, const struct cs_ip *ip, struct cs_world_node *ret);
bool cs_world_self(const struct cs_world *w, struct cs_world_node *ret);

struct cs_world_identity {
	uint32_t id;
	const char *spiffe_id;
	uint64_t incarnation;
};
bool cs_world_identity(const struct cs_world *w, uint32_t id, struct cs_world_identity *ret);
bool cs_world_identity_by_spiffe_id(const struct cs_world *w, const char *spiffe_id, struct cs_world_identity *ret);
/* node: id; 0 is this node. */
bool cs_world_placed(const struct cs_world *w, uint32_t identity, uint16_t node);
/* Has it an endpoint here? */
bool cs_world_local(const struct cs_world *w, uint32_t identity);
/* Calls fn for each identity that has an endpoint here. */
void cs_world_each_local(const struct cs_world *w, void (*fn)(uint32_t identity, void *data), void *data);

struct cs_world_decision {
	uint8_t verdict; /* enum cs_verdict, without CS_AUDIT */
	bool audit;
	const char *policy, *rule; /* "" if none decided */
};
/* What the maps say for a pair, as the datapath would read them. Absent: deny. */
struct cs_world_decision cs_world_decision(const struct cs_world *w, uint32_t local, uint32_t remote, enum cs_dir dir);
/* Does policy ask for authentication of this pair, in one direction at least? */
bool cs_world_asks(const struct cs_world *w, uint32_t local, uint32_t remote);
/* CS_AUTH_REPLY_* of an entry of this pair. */
uint64_t cs_world_reply_flags(const struct cs_world *w, uint32_t local, uint32_t remote);
bool cs_world_can_authenticate(uint32_t identity);

/* A pair's authentication rests on these. Equal or not, never earlier or later. */
struct cs_world_generations {
	uint64_t local, remote, local_endpoints, placement, node, revocations;
};
struct cs_world_generations cs_world_generations(
	const struct cs_world *w, uint32_t local, uint32_t remote, uint16_t node);

/* What a revocation may name. leaf NULL: not known yet. */
struct cs_world_subject {
	uint32_t identity;
	uint16_t node;
	const struct cs_leaf *leaf;
};
/* CS_R_REVOKED and which revocation (borrowed), or CS_R_NONE. */
enum cs_reason cs_world_revoked(
	const struct cs_world *w, const struct cs_world_subject *subject, int64_t now_unix_s, const char **ret_id);
/* The next time at which a revocation begins after `now`: entries are to be looked at then. INT64_MAX: none. */
int64_t cs_world_next_revocation_unix_s(const struct cs_world *w, int64_t now_unix_s);

struct cs_world_endpoint {
	const char *id, *interface;
	uint32_t ifindex, identity;
	uint64_t incarnation; /* of the registration */
	bool audit, depends;
	const struct cs_ip *addrs;
	size_t naddrs;
	/* Is every packet judged as this identity's? If not, or if something is degraded: why. */
	bool enforced;
	enum cs_reason reason;
	char detail[192];
};
void cs_world_each_endpoint(
	const struct cs_world *w, void (*fn)(const struct cs_world_endpoint *endpoint, void *data), void *data);
/* By id, or by the interface that it has; false: none of them. */
bool cs_world_endpoint(const struct cs_world *w, const char *id_or_interface, struct cs_world_endpoint *ret);
bool cs_world_endpoint_at(const struct cs_world *w, uint32_t ifindex, struct cs_world_endpoint *ret);

struct cs_world_counts {
	size_t nodes, identities, endpoints, local_endpoints, addresses, prefixes, policy_rows, revocations;
	size_t no_room; /* rows that found none */
};
struct cs_world_counts cs_world_counts(const struct cs_world *w);

#endif
