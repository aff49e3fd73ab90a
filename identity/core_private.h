/* The inside of the core, for core.c and core_policy.c only. */
#ifndef CS_CORE_PRIVATE_H
#define CS_CORE_PRIVATE_H

#include <uthash.h>
#include "core.h"
#include "policy_compile.h"
#include "store.h"

struct known_identity {
	uint32_t id;
	char *text; /* canonical labels */
	struct cs_labels labels;
	char *spiffe_id;
	uint64_t incarnation;
	int64_t created_unix_ms;
	UT_hash_handle hh; /* by id */
	UT_hash_handle hh_text;
};

struct known_claim {
	char *key; /* "node/endpoint" */
	char *node, *endpoint;
	uint32_t identity;
	struct cs_ip addrs[2 * CS_FAMILY_ADDRS_MAX];
	size_t naddrs;
	UT_hash_handle hh;
};
/* The claim that places the identity to which an endpoint is about to move is a claim like any other, without addresses,
 * under a name that no endpoint can have (cs_endpoint_id_check): it holds the placement, and is no endpoint. */
#define NEXT_SUFFIX " next"

struct known_node {
	char *name;
	struct cs_ip addrs[CS_NODE_ADDRS_MAX];
	size_t naddrs;
	uint32_t port;
	char *path;
	UT_hash_handle hh;
};

/* (identity, node): how many claims say so. */
struct placed {
	char *key; /* "identity/node" */
	unsigned claims;
	UT_hash_handle hh;
};

/* An identity that is placed somewhere, and the policy records that were published for it, sorted by remote (the
 * default first). */
struct local {
	uint32_t identity;
	unsigned placements;
	bool stale;          /* its rows must be made anew */
	bool selected;       /* by some policy of the set ... */
	uint64_t policy_set; /* ... that it was looked at with */
	cs_record **rows;
	size_t nrows;
	UT_hash_handle hh;
};

struct dependency {
	char *name;
	struct cs_labels *selectors;
	size_t nselectors;
	struct cs_prefix *prefixes;
	size_t nprefixes;
};

struct cs_core {
	const struct cs_core_config *config;
	struct cs_store *store;
	struct cs_authority *authority;
	struct known_identity *identities, *by_text;
	struct known_claim *claims;
	struct known_node *nodes;
	struct placed *placed;
	struct local *locals;
	/* policy */
	struct cs_cnp_set *policies;
	uint64_t policy_set; /* counts: which one that is */
	struct cs_compiled *compiled;
	struct cs_error compile_error;       /* code 0: none */
	struct cs_prefix_identity *prefixes; /* every number that was ever given */
	size_t nprefixes;
	struct dependency *depends;
	size_t ndepends;
};

int64_t cs_core_now_unix_ms(const struct cs_core *core);
void cs_changes_add_take(struct cs_changes *changes, cs_record *record);

/* core_known.c */
struct known_identity *cs_core_learn_identity(struct cs_core *core, const struct cs_store_identity *identity);
struct known_identity *cs_core_identity(struct cs_core *core, uint32_t id);
struct known_claim *cs_core_claim(struct cs_core *core, const char *node, const char *endpoint);
bool cs_core_claim_is_next(const char *endpoint);
void cs_core_learn_claim(struct cs_core *core, const struct cs_store_claim *claim, struct cs_changes *changes);
void cs_core_forget_claim(struct cs_core *core, const char *node, const char *endpoint, struct cs_changes *changes);
void cs_core_learn_node(struct cs_core *core, const struct cs_store_node *node, struct cs_changes *changes);

/* core_policy.c */
CS_MUST_USE int cs_core_depends_parse(struct cs_core *core, struct cs_error *e);
void cs_core_policy_fini(struct cs_core *core);
/* New identities: compile anew. Also adds DependsOn records. */
void cs_core_recompile(struct cs_core *core, struct cs_changes *changes);
/* Rows of those locals whose rows are stale. */
void cs_core_refresh_rows(struct cs_core *core, struct cs_changes *changes);
void cs_core_local_free(struct cs_core *core, struct local *local, struct cs_changes *changes);
CS_MUST_USE int cs_core_read_file(const char *path, size_t max, char **ret, size_t *ret_n, struct cs_error *e);

/* core_revocation.c */
/* Checks ask->revocation, fills the rest of it in, and packs it into ask->body. */
CS_MUST_USE int cs_core_revocation_fill(struct cs_core *core, struct cs_ask *ask);
cs_record *cs_core_revocation_record(const struct cs_store_revocation *revocation, bool deleted);
/* Ids of those whose time is over; heap. */
char **cs_core_revocations_over(struct cs_core *core, size_t *ret_n);

/* core_records.c: the records as messages; heap. */
cs_record *cs_core_node_record(const struct known_node *node);
cs_record *cs_core_identity_record(const struct known_identity *identity);
cs_record *cs_core_endpoint_record(const struct known_claim *claim, bool deleted);
cs_record *cs_core_placement_record(uint32_t identity, const char *node, const char *authority, bool deleted);
cs_record *cs_core_prefix_record(const struct cs_prefix_identity *prefix, bool deleted);
cs_record *cs_core_policy_record(const struct cs_cnp *policy, const struct cs_finding *findings, size_t n);
cs_record *cs_core_policy_gone_record(const char *name);
cs_record *cs_core_row_record(const struct cs_policy_row *row);
cs_record *cs_core_default_record(const struct cs_policy_default *def);
cs_record *cs_core_depends_record(
	const char *name, const uint32_t *identities, size_t n, const struct cs_prefix *prefixes, size_t nprefixes);

#endif
