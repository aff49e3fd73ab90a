/* The inside of the core, for core*.c only. */
#ifndef CS_CORE_PRIVATE_H
#define CS_CORE_PRIVATE_H

#include <uthash.h>
#include "core.h"
#include "policy_compile.h"
#include "store.h"

/* The claim that places the identity to which an endpoint is about to move is a claim like any other, without addresses,
 * under a name that no endpoint can have (cs_endpoint_id_check): it holds the placement, and is no endpoint. */
#define NEXT_SUFFIX " next"

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
	size_t nrows, caprows;
	struct local *sprev, *snext; /* of those that are stale */
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
	struct cs_authority *authority; /* of this replica, for what it decides when it leads */
	/* What follows from the facts. */
	const char *authority_name; /* in Placement records */
	struct placed *placed;
	struct local *locals, *stale_locals;
	struct cs_cnp_set *policies; /* NULL: never any that could be read */
	uint64_t policy_set;         /* counts: which one that is */
	struct cs_compiled *compiled;
	struct cs_error compile_error; /* code 0: none */
	struct dependency *depends;
	size_t ndepends;
	bool findings_stale; /* identities came since they were looked for */
	/* The revision that is being told. */
	struct cs_changes *changes;
	uint32_t *fresh; /* identities that are new in it */
	size_t nfresh, capfresh;
	bool identity_gone, policy_changed, placement_changed, depends_changed, findings_changed;
};

int64_t cs_core_now_unix_ms(const struct cs_core *core);
void cs_changes_add_take(struct cs_changes *changes, cs_record *record);

const struct cs_facts *cs_core_facts(const struct cs_core *core);
/* Its labels, parsed; of a store that was written to by hand perhaps none, which no selector matches. */
void cs_core_labels_of(const struct cs_store_identity *identity, struct cs_labels *ret);

/* core_facts.c: facts to records. */
extern const struct cs_fact_sink cs_core_sink; /* data is the core */
void cs_core_facts_fini(struct cs_core *core);

/* core_asks.c */
CS_MUST_USE int cs_core_withdraw(
	struct cs_core *core, const struct cs_store_op *documents, struct cs_changes *changes, struct cs_error *e);

/* core_documents.c: configuration to facts, by the one that leads; and what is in the facts. */
#define CS_SET_POLICY    "policy"
#define CS_SET_PLACEMENT "placement"
#define CS_SET_DEPENDS   "depends_on"
#define CS_SET_SETTINGS  "settings"
#define CS_SET_FINDINGS  "findings" /* when the leader last had them looked for */
CS_MUST_USE int cs_core_load_authority(const struct cs_core *core, struct cs_authority **ret, struct cs_error *e);
CS_MUST_USE int cs_core_policies_of(const struct cs_core *core, struct cs_cnp_set *set, struct cs_error *e);
CS_MUST_USE int cs_core_depends_of(struct cs_core *core, struct cs_error *e);
CS_MUST_USE int cs_core_write_depends(struct cs_core *core, struct cs_changes *changes, struct cs_error *e);
CS_MUST_USE int cs_core_write_shared(struct cs_core *core, struct cs_changes *changes, struct cs_error *e);
/* The configuration is not wrong: before the store is read, and after. */
CS_MUST_USE int cs_core_check_depends(struct cs_core *core, struct cs_error *e);
CS_MUST_USE int cs_core_check_policy(struct cs_core *core, struct cs_error *e);

/* core_policy.c */
struct cs_compiled *cs_core_compile(const struct cs_core *core, const struct cs_cnp_set *policies, struct cs_error *e);
/* What the revision that is being told means for policy. */
void cs_core_settle_policy(struct cs_core *core);
void cs_core_policy_fini(struct cs_core *core);
void cs_core_depends_fini(struct cs_core *core);
CS_MUST_USE int cs_core_depends_parse(struct cs_core *core, const char *text, struct cs_error *e);
void cs_core_local_free(struct cs_core *core, struct local *local);
void cs_core_local_stale(struct cs_core *core, struct local *local);

/* core_numbers.c: trust-domain-mismatch where an identity of the store is of another trust domain than its number. */
CS_MUST_USE int cs_core_check_numbers(struct cs_core *core, struct cs_error *e);

/* core_revocation.c */
/* Checks ask->revocation, fills the rest of it in, and packs it into ask->body. */
CS_MUST_USE int cs_core_revocation_fill(struct cs_core *core, struct cs_ask *ask);
cs_record *cs_core_revocation_record(const struct cs_store_revocation *revocation, bool deleted);
/* Ids of those whose time is over; heap. */
char **cs_core_revocations_over(struct cs_core *core, size_t *ret_n);

/* core_records.c: the records as messages; heap. */
cs_record *cs_core_node_record(const struct cs_store_node *node, bool deleted);
cs_record *cs_core_identity_record(const struct cs_store_identity *identity, bool deleted);
cs_record *cs_core_endpoint_record(const struct cs_store_claim *claim, bool deleted);
cs_record *cs_core_placement_record(uint32_t identity, const char *node, const char *authority, bool deleted);
cs_record *cs_core_prefix_record(const struct cs_prefix_identity *prefix, bool deleted);
cs_record *cs_core_policy_record(const struct cs_cnp *policy, const struct cs_finding *findings, size_t n);
cs_record *cs_core_policy_gone_record(const char *name);
cs_record *cs_core_depends_gone_record(const char *name);
cs_record *cs_core_row_record(const struct cs_policy_row *row);
cs_record *cs_core_default_record(const struct cs_policy_default *def);
cs_record *cs_core_depends_record(
	const char *name, const uint32_t *identities, size_t n, const struct cs_prefix *prefixes, size_t nprefixes);

#endif
