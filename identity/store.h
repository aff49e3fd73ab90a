/* What the cluster role must never forget, in SQLite (WAL, synchronous=FULL, one process): identities, nodes, claims,
 * the numbers of prefixes, epoch and revision. Policy and placements are not here: they follow from files and claims.
 *
 * Everything blocks: only cs_store_open and cs_store_load may run on the loop's thread, before the loop runs; commits are made
 * by the cluster role's worker (cluster.c). One caller at a time. */
#ifndef CS_STORE_H
#define CS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ip.h"
#include "error.h"
#include "identity_limits.h"
#include "policy_compile.h"

#define CS_STORE_SCHEMA 1

struct cs_store;

struct cs_store_config {
	const char *path;               /* the file; PATH-wal lies beside it */
	const char *trust_domain;       /* a store belongs to one */
	const char *spiffe_id_template; /* with {id}; checked by cs_spiffe_template_check */
	/* For how long an address that was let go is not given to another identity's endpoint. Longer than those who hear
	 * nothing go on believing what they knew (directory.max_stale of authd). 0: not at all. */
	int64_t quarantine_ms;
};

/* Makes the store if there is none. Refuses one of another trust domain or of a newer schema, and one that another
 * process has open. */
CS_MUST_USE int cs_store_open(const struct cs_store_config *config, struct cs_store **ret, struct cs_error *e);
void cs_store_close(struct cs_store *store);

/* spiffe://<trust domain>/... with {id} exactly once, and a valid SPIFFE ID for every id. */
CS_MUST_USE int cs_spiffe_template_check(const char *template, const char *trust_domain, struct cs_error *e);

struct cs_store_node {
	const char *name;
	struct cs_ip addrs[CS_NODE_ADDRS_MAX];
	size_t naddrs;
	uint32_t port;
	const char *path;
};
struct cs_store_claim {
	const char *node, *endpoint;
	uint32_t identity;
	struct cs_ip addrs[2 * CS_FAMILY_ADDRS_MAX];
	size_t naddrs;
};
struct cs_store_identity {
	uint32_t id;
	const char *labels; /* canonical text */
	const char *spiffe_id;
	uint64_t incarnation; /* random, given at allocation */
};
/* Everything that is in the store; what is passed is borrowed for the call. Identities come before claims. */
struct cs_store_visitor {
	void (*identity)(void *data, const struct cs_store_identity *identity);
	void (*node)(void *data, const struct cs_store_node *node);
	void (*claim)(void *data, const struct cs_store_claim *claim);
	void (*prefix)(void *data, const struct cs_prefix_identity *prefix);
	void *data;
};
CS_MUST_USE int cs_store_load(struct cs_store *store, const struct cs_store_visitor *v, uint64_t *ret_epoch,
	uint64_t *ret_revision, struct cs_error *e);

enum cs_store_kind {
	CS_STORE_NODE,    /* node: insert or replace */
	CS_STORE_CLAIM,   /* claim, labels: find or allocate the identity, insert or replace the claim */
	CS_STORE_RELEASE, /* claim.node, claim.endpoint */
	CS_STORE_KEEP,    /* claim.node, keep: release all other claims of this node */
	CS_STORE_PREFIX,  /* prefix: its number for ever */
	CS_STORE_REVISION /* only a new revision, for what is not in the store (policy) */
};
/* What is asked is borrowed from the caller and must live until the answer; what is answered belongs to the op. */
struct cs_store_op {
	enum cs_store_kind kind;
	struct cs_store_node node;
	struct cs_store_claim claim;
	const char *labels; /* canonical text */
	const char *const *keep;
	size_t nkeep;
	struct cs_prefix_identity prefix;

	/* The answer. result < 0: refused for itself (error says why), the others of the batch count all the same. */
	int result;
	struct cs_error error;
	bool changed;
	uint32_t identity; /* CLAIM */
	uint64_t incarnation;
	bool created;    /* ... just now */
	char *spiffe_id; /* CLAIM */
	char **released; /* KEEP, RELEASE: endpoints that are gone */
	size_t nreleased;
};
void cs_store_op_fini(struct cs_store_op *op); /* the answer only */

/* One transaction, durable on return, one revision if anything changed. An error (-ENOSPC: the disk is full) means that
 * none of the batch happened. *ret_revision: the current revision. */
CS_MUST_USE int cs_store_commit(struct cs_store *store, struct cs_store_op *const *ops, size_t n, int64_t now_unix_ms,
	uint64_t *ret_revision, struct cs_error *e);

/* The identity of a label set, or 0. */
CS_MUST_USE int cs_store_find(struct cs_store *store, const char *labels, uint32_t *ret, struct cs_error *e);

#endif
