/* The inside of world.h, shared by world*.c only. Every table is a uthash; what a plan has to look at is chained by
 * `dirty_next`. An object lives while the directory, another object or a row in the maps needs it. */
#ifndef CS_WORLD_STATE_H
#define CS_WORLD_STATE_H

#include <net/if.h>
#include <uthash.h>
#include <utlist.h>
#include "world.h"

struct node {
	char *name;
	bool listed, self;     /* listed: the directory has a record of it */
	bool written, changed; /* cs_node */
	bool dirty;
	bool has_id;
	uint16_t id, port;
	uint64_t generation; /* of these addresses being this node's */
	char path[16];
	size_t naddrs;
	struct owner *addrs[CS_NODE_ADDRS];
	struct cs_ip ips[CS_NODE_ADDRS];
	unsigned refs; /* endpoints, placements, entries */
	uint32_t mark;
	struct node *dirty_next;
	UT_hash_handle hh;
};

struct identity {
	uint32_t id;
	char *spiffe_id;
	uint64_t incarnation, generation;
	uint32_t mark;
	UT_hash_handle hh, hh_spiffe;
};

struct placement_key {
	struct node *node;
	uint32_t identity, pad;
};
struct placement {
	struct placement_key key;
	uint64_t generation;
	uint32_t mark;
	UT_hash_handle hh;
};

struct endpoint {
	char *key; /* node NUL id NUL */
	size_t key_len;
	const char *id;
	struct node *node;
	uint32_t identity;
	size_t naddrs;
	struct owner *addrs[CS_WORLD_ENDPOINT_ADDRS];
	struct cs_ip ips[CS_WORLD_ENDPOINT_ADDRS];
	bool local, dhcp, audit;
	char interface[IFNAMSIZ];
	uint64_t incarnation;
	struct iface *iface; /* local only */
	struct endpoint *iface_prev, *iface_next, *local_prev, *local_next;
	uint32_t mark;
	UT_hash_handle hh;
};

/* One claim on an address: an endpoint's or a node's. */
struct owner {
	struct addr *addr;
	struct endpoint *endpoint;
	struct node *node;
	struct owner *prev, *next;
};
struct addr {
	struct cs_ip key;
	struct owner *owners;
	bool host;
	bool has_shadow, dirty, no_room;
	struct cs_addr shadow;
	struct addr *dirty_next;
	UT_hash_handle hh;
};
struct prefix {
	struct cs_ip_prefix key;
	uint32_t identity;
	uint32_t mark;
	unsigned depends; /* depends_on records with exactly this prefix */
	bool has_shadow, dirty, no_room;
	struct cs_addr shadow;
	struct prefix *dirty_next;
	UT_hash_handle hh;
};
struct depends {
	char *name;
	size_t nidentities, nprefixes;
	uint32_t *identities;
	struct cs_ip_prefix *prefixes;
	uint32_t mark;
	UT_hash_handle hh;
};
struct depends_identity {
	uint32_t id;
	unsigned count;
	UT_hash_handle hh;
};

struct decision {
	uint8_t verdict;
	bool audit;
	char *policy, *rule; /* NULL: "" */
};
struct row {
	struct cs_policy_key key;
	bool present;
	struct decision d[2];
	uint32_t mark;
	bool has_shadow, dirty, no_room;
	struct cs_policy shadow;
	struct row *dirty_next;
	UT_hash_handle hh;
};
/* An identity as the local side of policy. */
struct local {
	uint32_t identity;
	bool has_default;
	struct decision def[2][2]; /* [enum cs_dir][enum cs_peer_class] */
	uint32_t mark;
	unsigned rows, deny_rows, no_room_rows, endpoints;
	uint64_t generation; /* of having an endpoint here */
	UT_hash_handle hh;
};

struct iface {
	uint32_t ifindex;
	char name[IFNAMSIZ]; /* "": no such interface */
	struct endpoint *endpoints;
	enum { DETACHED, ATTACHED, ATTACH_FAILED } attach;
	enum cs_reason attach_reason, shadowed, row_reason;
	char attach_text[160], shadowed_by[64];
	bool has_shadow, dirty;
	struct cs_endpoint shadow;
	struct iface *dirty_next;
	UT_hash_handle hh;
};

struct revoked_key {
	struct node *node;
	uint32_t kind; /* Countersign__V1__Revocation__SubjectCase */
	uint32_t identity;
	uint8_t bytes[56]; /* leaf; authority; serial, then authority from [24] */
};
struct revocation {
	char *id;
	struct revoked_key key;
	int64_t from_unix_s, until_unix_s;
	uint32_t mark;
	struct revocation *same_prev, *same_next; /* of the same subject */
	UT_hash_handle hh;
};
struct revoked {
	struct revoked_key key;
	struct revocation *list;
	UT_hash_handle hh;
};
struct touched {
	uint32_t identity;
	UT_hash_handle hh;
};

struct cs_world {
	uint64_t generation;
	uint64_t revocations_generation;
	bool ready, replacing;
	uint32_t mark;
	struct node *nodes, **by_id, *self;
	uint16_t next_id;
	struct identity *identities, *by_spiffe_id;
	struct placement *placements;
	struct endpoint *endpoints, *locals_list;
	size_t nlocal;
	struct addr *addrs;
	struct prefix *prefixes;
	struct depends *depends;
	struct depends_identity *depends_identities;
	unsigned depends_prefixes;
	struct row *rows;
	struct local *locals;
	struct iface *ifaces;
	struct revocation *revocations;
	struct revoked *revoked;
	struct touched *touched;
	bool touched_all;
	size_t no_room_addrs, no_room_rows; /* addresses and prefixes; policy */

	struct node *dirty_nodes;
	struct iface *dirty_ifaces;
	struct addr *dirty_addrs;
	struct prefix *dirty_prefixes;
	struct row *dirty_rows;
	struct cs_op *ops;
	size_t nops, ops_room;
};

#define CS_WORLD_DIRTY(head, item)                                                                                     \
	do {                                                                                                           \
		if (!(item)->dirty) {                                                                                  \
			(item)->dirty = true;                                                                          \
			(item)->dirty_next = (head);                                                                   \
			(head) = (item);                                                                               \
		}                                                                                                      \
	} while (0)

/* Memory that is there, or the process ends. */
void *cs_world_alloc(size_t size);
char *cs_world_dup(const char *s);

struct node *cs_world_node_named(struct cs_world *w, const char *name); /* made if it is not there */
struct node *cs_world_node_find(const struct cs_world *w, const char *name);
struct node *cs_world_node_of(const struct cs_world *w, uint16_t id); /* 0: this one; NULL */
struct placement *cs_world_placement_find(const struct cs_world *w, uint32_t identity, struct node *n);
void cs_world_node_drop(struct cs_world *w, struct node *n);   /* frees it if nobody needs it */
void cs_world_node_number(struct cs_world *w, struct node *n); /* gives it an id, if it needs one and has none */
struct local *cs_world_local_of(struct cs_world *w, uint32_t identity);
struct local *cs_world_local_find(const struct cs_world *w, uint32_t identity);
void cs_world_local_drop(struct cs_world *w, struct local *l); /* frees it if nobody needs it */
struct iface *cs_world_iface(struct cs_world *w, uint32_t ifindex);
struct addr *cs_world_addr(struct cs_world *w, const struct cs_ip *ip);
struct prefix *cs_world_prefix(struct cs_world *w, const struct cs_ip_prefix *key);
struct row *cs_world_row(struct cs_world *w, const struct cs_policy_key *key);
bool cs_world_depends_identity(const struct cs_world *w, uint32_t identity);
bool cs_world_depends_prefix(const struct cs_world *w, const struct cs_ip *ip, uint32_t bits);

void cs_world_touch(struct cs_world *w, uint32_t identity);
void cs_world_touch_all(struct cs_world *w);
void cs_world_dirty_all_addrs(struct cs_world *w);
void cs_world_dirty_all_prefixes(struct cs_world *w);
void cs_world_dirty_identity_ifaces(struct cs_world *w, uint32_t identity);

/* world_prefix.c */
void cs_world_prefix_record(struct cs_world *w, bool deleted, const Countersign__V1__PrefixIdentity *r);
void cs_world_prefix_unset(struct cs_world *w, struct prefix *p);
void cs_world_depends_record(struct cs_world *w, bool deleted, const Countersign__V1__DependsOn *r);
void cs_world_depends_remove(struct cs_world *w, struct depends *d);
/* world_revoke.c */
void cs_world_revocation(struct cs_world *w, bool deleted, const Countersign__V1__Revocation *r);
void cs_world_revocations_sweep(struct cs_world *w);
void cs_world_revocations_free(struct cs_world *w);
/* world_rows.c */
void cs_world_decision_clear(struct decision *d);
void cs_world_rows_sweep(struct cs_world *w);
void cs_world_policy_row_set(struct cs_world *w, bool deleted, const Countersign__V1__PolicyRow *r);
void cs_world_policy_default_set(struct cs_world *w, bool deleted, const Countersign__V1__PolicyDefault *d);
void cs_world_rows_free(struct cs_world *w);
struct row *cs_world_row_find(const struct cs_world *w, uint32_t local, uint32_t remote);
struct iface *cs_world_iface_find(const struct cs_world *w, uint32_t ifindex);
/* The endpoint that this interface really has: name and index agree; the first of several. */
struct endpoint *cs_world_iface_endpoint(const struct iface *f);
/* The row that it should have once the programs are attached; false: none. */
bool cs_world_iface_row(const struct cs_world *w, const struct iface *f, struct cs_endpoint *ret);

#endif
