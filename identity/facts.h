/* What the cluster role must never forget, as facts, and all of them in memory. One set, changed by one function; the
 * store (store.h) changes it, everybody else reads it. Pure: no clock, disk or socket. */
#ifndef CS_FACTS_H
#define CS_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"
#include "identity_limits.h"
#include "ip.h"
#include "policy_compile.h"

enum cs_fact_kind {
	CS_FACT_IDENTITY, /* a label set has this number */
	CS_FACT_RETIRED,  /* a number that must not be given again before a time */
	CS_FACT_NODE,
	CS_FACT_CLAIM,   /* an endpoint runs on a node; agreed to by the placement authority */
	CS_FACT_ADDRESS, /* an address that was let go and is another identity's only after a time */
	CS_FACT_PREFIX,  /* the number of a CIDR */
	CS_FACT_REVOCATION,
	CS_FACT_DOCUMENTS, /* a set of files (policies, placements): which, by their sums */
	CS_FACT_BLOB,      /* the bytes of such a file */
	CS_FACT_KINDS
};

/* Times named _store_ms are on the store's own axis: it starts at the Unix time of the store's making and counts only
 * what passed on the monotonic clock of those who led. No jump of a wall clock shortens what is measured on it. */
struct cs_store_identity {
	uint32_t id;
	const char *labels; /* canonical text */
	const char *spiffe_id;
	uint64_t incarnation; /* random, given at allocation */
	int64_t created_unix_ms;
	int64_t idle_since_store_ms; /* marked: no claim refers to it since; 0: not marked */
};
struct cs_store_retired {
	uint32_t id;
	const char *labels, *spiffe_id; /* whose it was */
	int64_t until_store_ms;
};
struct cs_store_node {
	const char *name;
	struct cs_ip addrs[CS_NODE_ADDRS_MAX];
	size_t naddrs;
	uint32_t port;
	const char *path;
	bool gone; /* past node.ttl, in its grace */
};
struct cs_store_claim {
	const char *node, *endpoint;
	uint32_t identity;
	struct cs_ip addrs[2 * CS_FAMILY_ADDRS_MAX];
	size_t naddrs;
};
struct cs_store_address {
	struct cs_ip ip;
	uint32_t identity; /* whose it was */
	int64_t until_store_ms;
};
struct cs_store_revocation {
	const char *id;
	const uint8_t *body; /* a packed v1.Revocation */
	size_t n;
};
#define CS_SHA256_BYTES 32
struct cs_store_document {
	const char *name; /* of the file, without its directory */
	uint8_t sha256[CS_SHA256_BYTES];
};
struct cs_store_documents {
	const char *set; /* "policy", "placement" */
	const struct cs_store_document *items;
	size_t n;
};
struct cs_store_blob {
	uint8_t sha256[CS_SHA256_BYTES];
	const uint8_t *bytes;
	size_t n;
};

/* One that is handed out is only as large as its kind: never copy the whole. */
struct cs_fact {
	enum cs_fact_kind kind;
	union {
		struct cs_store_identity identity;
		struct cs_store_retired retired;
		struct cs_store_node node;
		struct cs_store_claim claim;
		struct cs_store_address address;
		struct cs_prefix_identity prefix;
		struct cs_store_revocation revocation;
		struct cs_store_documents documents;
		struct cs_store_blob blob;
	};
};

/* Facts as they change. `before` NULL: it is new, `now` NULL: it is gone; both are borrowed for the call, and what
 * cs_store_facts() says holds `now` already. `revision` ends what belongs together. */
struct cs_fact_sink {
	void (*change)(void *data, const struct cs_fact *before, const struct cs_fact *now);
	void (*revision)(void *data, uint64_t epoch, uint64_t revision);
	void *data;
};

struct cs_facts;

/* Borrowed until the next commit, poll or load. NULL: there is none. */
const struct cs_store_identity *cs_facts_identity(const struct cs_facts *facts, uint32_t id);
const struct cs_store_identity *cs_facts_identity_of(const struct cs_facts *facts, const char *labels);
const struct cs_store_retired *cs_facts_retired(const struct cs_facts *facts, uint32_t id);
const struct cs_store_node *cs_facts_node(const struct cs_facts *facts, const char *name);
const struct cs_store_claim *cs_facts_claim(const struct cs_facts *facts, const char *node, const char *endpoint);
const struct cs_store_revocation *cs_facts_revocation(const struct cs_facts *facts, const char *id);
const struct cs_store_documents *cs_facts_documents(const struct cs_facts *facts, const char *set);
const struct cs_store_blob *cs_facts_blob(const struct cs_facts *facts, const uint8_t sha256[CS_SHA256_BYTES]);
/* Who has this address: an endpoint's claim, or a node itself. */
const struct cs_store_claim *cs_facts_claim_at(const struct cs_facts *facts, const struct cs_ip *ip);
const struct cs_store_node *cs_facts_node_at(const struct cs_facts *facts, const struct cs_ip *ip);
/* How many claims have this identity, and how many this node has. */
size_t cs_facts_references(const struct cs_facts *facts, uint32_t id);
size_t cs_facts_claims_of(const struct cs_facts *facts, const char *node);
size_t cs_facts_count(const struct cs_facts *facts, enum cs_fact_kind kind);
/* All of one kind, in no particular order; fn must not change the store. */
void cs_facts_each(const struct cs_facts *facts, enum cs_fact_kind kind,
	void (*fn)(void *data, const struct cs_fact *fact), void *data);

#endif
