/* Where the cluster role's facts (facts.h) are kept: in SQLite (one process), or in etcd (several replicas, of which one
 * leads and writes). The rules are the same in both and are written once, over the facts in memory; a backend
 * (store_backend.h) keeps bytes, whole revisions at a time.
 *
 * Everything blocks: only cs_store_open and cs_store_load may run on the loop's thread, before the loop runs; the rest
 * is called by the cluster role's worker (cluster.c), one caller at a time. */
#ifndef CS_STORE_H
#define CS_STORE_H

#include "facts.h"
#include "loop.h"
#include "spiffe_template.h"

struct cs_store;
struct cs_etcd_config; /* store_etcd.h */

struct cs_store_config {                   /* copied */
	const char *path;                  /* SQLite: the file; PATH-wal lies beside it */
	const struct cs_etcd_config *etcd; /* not NULL: etcd, and path is not looked at */
	const char *trust_domain;          /* a store belongs to one */
	const char *spiffe_id_template;    /* with {id}; checked by cs_spiffe_template_check */
	uint32_t cluster_id;               /* a store belongs to one */
	uint32_t id_min, id_max;           /* numbers that may be given; 0, 0: CS_IDENTITY_MIN, CS_IDENTITY_MAX */
	/* For how long an address that was let go is not given to another identity's endpoint. Longer than those who hear
	 * nothing go on believing what they knew (directory.max_stale of authd). 0: not at all. */
	int64_t address_quarantine_ms;
	/* For how long a number whose identity was deleted is not given again. Longer than the longest SVID and the longest
	 * auth entry of its old owner live (cs_store_quarantine_check). */
	int64_t id_quarantine_ms;
	const struct cs_clock *clock; /* NULL: the system's */
	/* Something is there for cs_store_poll: facts of others, leadership won or lost. From any thread; may be NULL. */
	void (*notify)(void *data);
	void *notify_data;
};

/* Makes the store if there is none. Refuses one of another trust domain or cluster id or of a newer schema, and (SQLite)
 * one that another process has open. */
CS_MUST_USE int cs_store_open(const struct cs_store_config *config, struct cs_store **ret, struct cs_error *e);
void cs_store_close(struct cs_store *store);

/* A number must rest for longer than what was issued to its old owner can live. */
CS_MUST_USE int cs_store_quarantine_check(
	int64_t id_quarantine_ms, int64_t svid_max_life_ms, int64_t auth_max_ttl_ms, struct cs_error *e);

/* --- facts --- */

/* All facts, as if they were new; then one revision(). Once, after cs_store_open. */
CS_MUST_USE int cs_store_load(struct cs_store *store, const struct cs_fact_sink *sink, struct cs_error *e);
/* What others changed since; blocks no longer than a request to the store. A store that lost its place (etcd compacted
 * it, a backup was restored) is read anew inside, and the sink hears only of what differs. 0, or an error after which
 * everything is as before. */
CS_MUST_USE int cs_store_poll(struct cs_store *store, const struct cs_fact_sink *sink, struct cs_error *e);
const struct cs_facts *cs_store_facts(const struct cs_store *store);

struct cs_store_state {
	uint64_t epoch, revision; /* epoch: random, made with the store and again when a backup is restored */
	bool leads;               /* SQLite: always */
	uint64_t term;            /* grows with each leadership that was won here */
	int64_t silent_ms;        /* how long nothing was heard of the store; SQLite: 0 */
	char leader[256];         /* what the leader advertises; "": nobody leads, or it is not known */
	char hindered[256];       /* why this one, which wants to, could not try to lead; "": it could */
};
void cs_store_state(const struct cs_store *store, struct cs_store_state *ret);
/* Now, on the axis of the _store_ms times. */
int64_t cs_store_now_ms(const struct cs_store *store);

/* Want to lead; `advertise` is what others hear of the leader. Does not wait: notify, then cs_store_state tells. */
CS_MUST_USE int cs_store_campaign(struct cs_store *store, const char *advertise, struct cs_error *e);
/* No longer; lets another one lead at once. */
void cs_store_resign(struct cs_store *store);

/* --- changes --- */

enum cs_store_kind {
	CS_STORE_NODE,        /* node: insert or replace */
	CS_STORE_NODE_FORGET, /* node.name: it and its claims */
	CS_STORE_CLAIM,       /* claim, labels: find or allocate the identity, insert or replace the claim */
	CS_STORE_RELEASE,     /* claim.node, claim.endpoint */
	CS_STORE_KEEP,        /* claim.node, keep: release all other claims of this node */
	CS_STORE_PREFIX,      /* prefix: its number for ever */
	CS_STORE_REVOKE,      /* revocation: insert or replace */
	CS_STORE_UNREVOKE,    /* revocation.id; -ENOENT */
	CS_STORE_DOCUMENTS,   /* documents: replaces the whole set of this name at once */
	CS_STORE_GC, /* gc: marks identities that nobody refers to, deletes those that are marked for long enough */
	CS_STORE_REVISION /* only a new revision, for what is not in the store */
};

struct cs_store_file {
	const char *name;
	const void *bytes;
	size_t n;
};
struct cs_store_gc {
	int64_t grace_ms; /* how long an identity is marked before it goes */
	size_t max;       /* marks and deletions, each, in this run */
	/* The answer. */
	size_t marked, deleted;
	bool more; /* max was met */
};

/* What is asked is borrowed from the caller, never from cs_store_facts (which may change before it is its turn), and must
 * live until the answer; what is answered belongs to the op. */
struct cs_store_op {
	enum cs_store_kind kind;
	struct cs_store_node node;
	struct cs_store_claim claim;
	const char *labels; /* canonical text */
	uint32_t fixed;     /* CLAIM: the number that the identity has or gets, outside id_min..id_max; 0: any */
	const char *const *keep;
	size_t nkeep;
	struct cs_prefix_identity prefix;
	struct cs_store_revocation revocation;
	struct {
		const char *set;
		const struct cs_store_file *files;
		size_t n;
	} documents;
	struct cs_store_gc gc;

	/* The answer. result < 0: refused for itself (error says why), the others of the batch count all the same. */
	int result;
	struct cs_error error;
	bool changed;
	int64_t retry_after_ms; /* CLAIM: what is left of the quarantine that refused it */
	uint32_t identity;      /* CLAIM */
	uint64_t incarnation;
	int64_t created_unix_ms;
	bool created;    /* ... just now */
	char *spiffe_id; /* CLAIM */
	char **released; /* KEEP, RELEASE, NODE_FORGET: endpoints that are gone */
	size_t nreleased;
};
void cs_store_op_fini(struct cs_store_op *op); /* the answer only */

/* One transaction and, if anything changed, one revision, durable on return and told to the sink (which may be NULL)
 * before it; where a backend cannot take so much at once (etcd), several in the order of the ops. An error means that
 * nothing of what is not yet told happened, as far as anybody can tell, and the ops have no answers:
 *   -EPERM     another one leads
 *   -ETIMEDOUT, -EHOSTUNREACH: the store does not answer; what was asked may come true all the same, ask again
 *   -ENOSPC    the disk is full
 * *ret_revision: the current revision. */
CS_MUST_USE int cs_store_commit(struct cs_store *store, struct cs_store_op *const *ops, size_t n,
	const struct cs_fact_sink *sink, uint64_t *ret_revision, struct cs_error *e);

/* What CS_STORE_GC would do now, without a limit; and what rests. */
struct cs_store_gc_plan {
	void (*mark)(void *data, const struct cs_store_identity *identity);
	void (*marked)(void *data, const struct cs_store_identity *identity, int64_t left_ms);
	void (*remove)(void *data, const struct cs_store_identity *identity);
	void (*resting)(void *data, const struct cs_store_retired *retired, int64_t left_ms);
	void *data;
};
void cs_store_gc_plan(const struct cs_store *store, int64_t grace_ms, const struct cs_store_gc_plan *plan);

/* How much of the range is taken. */
struct cs_store_usage {
	size_t size, in_use, resting; /* numbers in the range; of live identities; in quarantine */
};
void cs_store_usage(const struct cs_store *store, struct cs_store_usage *ret);

/* --- a store to another place --- */

/* Leads, at the latest some seconds after the lease of another one would have ended; or says who leads. */
CS_MUST_USE int cs_store_lead_now(struct cs_store *store, const char *who, struct cs_error *e);
/* After a backup was restored: a new epoch, so that no follower resumes from before; and the numbers that would be given
 * next rest, because they may have been given after the backup. */
CS_MUST_USE int cs_store_new_epoch(struct cs_store *store, struct cs_error *e);
/* Everything from one open store into another, empty one, which gets an epoch of its own, and is compared afterwards.
 * `progress` (may be NULL) hears how many of how many facts are done. Leads both meanwhile, so that
 * nobody writes. -EEXIST: the target is not empty; -EPERM: somebody else leads one of them. */
CS_MUST_USE int cs_store_copy(struct cs_store *from, struct cs_store *to,
	void (*progress)(void *data, size_t done, size_t all), void *data, struct cs_error *e);

#endif
