/* What the cluster role knows and decides: the store, the placement authority and the policies, and what follows from
 * them for the directory. Everything blocks (disk, compiling), so it runs in a worker; one thread at a time, no loop,
 * no socket. The answers are changes for the directory: what the store has not taken is in none of them. */
#ifndef CS_CORE_H
#define CS_CORE_H

#include "dir.h"
#include "labels_filter.h"
#include "loop.h"
#include "identity_limits.h"
#include "numbers.h"
#include "placement.h"
#include <sys/types.h>
#include "settings.h"

struct cs_core;
struct cs_store_usage; /* store.h */
struct cs_store_state;
struct cs_etcd_config; /* store_etcd.h */

struct cs_core_config { /* borrowed while the core lives */
	const char *store_path, *trust_domain, *spiffe_id_template;
	const struct cs_etcd_config *etcd; /* NULL: SQLite at store_path */
	const char *advertise;             /* etcd: who this replica is, for people */
	void (*notify)(void *data);        /* from any thread: cs_core_poll has something to tell */
	void *notify_data;
	int64_t quarantine_ms, id_quarantine_ms;
	int64_t svid_max_life_ms; /* no SVID lives longer */
	const struct cs_numbers *numbers;
	const struct cs_label_filter *label_filter;
	const struct cs_clock *clock; /* NULL: the system's */
	enum cs_authority_kind authority;
	const char *placement_file; /* static */
	const char *policy_dir;     /* "": no policy */
	/* depends_on: NAME=LABEL[;LABEL...] or NAME=PREFIX. Several of one name add up. */
	struct cs_strings depends_on;
	/* etcd: the settings that numbers and their rest follow from, KEY=VALUE a line and each key once. The leader's are in
	 * the store, for the other replicas to compare theirs with. NULL: none. */
	const char *shared;
};

/* Records for the directory in their order; `deleted` ones go. One revision. */
struct cs_changes {
	cs_record **records;
	size_t n, cap;
	uint64_t epoch, revision; /* 0: nothing changed */
};
void cs_changes_fini(struct cs_changes *changes);
/* Puts them into the directory, which takes the records over, and publishes: in another epoch for everybody anew. An
 * error: the directory is full. */
CS_MUST_USE int cs_changes_apply_take(struct cs_changes *changes, struct cs_directory *dir, struct cs_error *e);

/* Opens the store. ret_changes is the whole state, if there is any yet. A policy or placement file that does not parse is
 * an error. SQLite leads from here on: see cs_core_lead. */
CS_MUST_USE int cs_core_open(
	const struct cs_core_config *config, struct cs_core **ret, struct cs_changes *ret_changes, struct cs_error *e);
void cs_core_close(struct cs_core *core);

/* What other replicas wrote since. */
CS_MUST_USE int cs_core_poll(struct cs_core *core, struct cs_changes *changes, struct cs_error *e);
void cs_core_state(const struct cs_core *core, struct cs_store_state *ret);
/* Leadership was won: this replica's configuration counts from now on, and it takes asks afterwards. An error of a file
 * (*ret_placement, *ret_policy) leaves what is in the store in force; other errors: it does not lead yet. */
CS_MUST_USE int cs_core_lead(struct cs_core *core, struct cs_changes *changes, struct cs_error *ret_placement,
	struct cs_error *ret_policy, struct cs_error *e);
/* Another one may lead, at once. */
void cs_core_resign(struct cs_core *core);

/* The leader's `shared` is this replica's. An error names the first setting that is not. */
CS_MUST_USE int cs_core_check_shared(const struct cs_core *core, struct cs_error *e);

/* For who leads: read the file or the directory anew. An error leaves everything as it was; the same content changes nothing. */
CS_MUST_USE int cs_core_reload_placement(struct cs_core *core, struct cs_changes *changes, struct cs_error *e);
CS_MUST_USE int cs_core_reload_policy(struct cs_core *core, struct cs_changes *changes, struct cs_error *e);

/* For who leads, now and then: what policies say about themselves is looked for anew if identities came since. */
CS_MUST_USE int cs_core_refresh_findings(struct cs_core *core, struct cs_changes *changes, struct cs_error *e);

/* What may protect the path to a node; the default first, NULL at the end. */
extern const char *const cs_node_paths[];

enum cs_ask_kind {
	CS_ASK_HELLO,
	CS_ASK_CLAIM,
	CS_ASK_RELEASE,
	CS_ASK_RECONCILE,
	CS_ASK_REVOKE,
	CS_ASK_UNREVOKE,
	CS_ASK_GONE,   /* the node was not heard for node.ttl; or it is heard again */
	CS_ASK_FORGET, /* ... and not in its grace either: it and its endpoints go */
	CS_ASK_COLLECT /* identities that nobody uses */
};

/* What a garbage collection does with an identity, or would do. */
struct cs_collected {
	enum { CS_COLLECT_MARK, CS_COLLECT_WAIT, CS_COLLECT_DELETE, CS_COLLECT_RESTS } what;
	uint32_t identity;
	char *labels;
	int64_t left_ms; /* WAIT, RESTS */
};

struct cs_claim {
	char *id;
	struct cs_labels labels;
	struct cs_ip addrs[2 * CS_FAMILY_ADDRS_MAX];
	size_t naddrs;
	bool prepare; /* only place the identity of these labels: the endpoint moves to it later */
	/* The answer. */
	int result; /* < 0: refused, why is in error */
	struct cs_error error;
	uint32_t identity;      /* 0: none */
	int64_t retry_after_ms; /* refused for so long; 0: not known */
};
void cs_claim_fini(struct cs_claim *claim);

/* What a node asks for. Heap, all fields owned. */
struct cs_ask {
	enum cs_ask_kind kind;
	char *node;
	struct cs_ip addrs[CS_NODE_ADDRS_MAX]; /* HELLO */
	size_t naddrs;
	uint32_t port;
	char *path;
	struct cs_claim *claims; /* CLAIM, RELEASE (id only): one; RECONCILE: all */
	size_t nclaims;
	Countersign__V1__Revocation *revocation; /* REVOKE: subject, why, until; then all of it. UNREVOKE: its id */
	uid_t uid;                               /* REVOKE: who asks */
	uint8_t *body;                           /* REVOKE: it, packed; the core's */
	size_t nbody;
	bool gone;          /* GONE */
	bool dry_run;       /* COLLECT: only say what would be done */
	int64_t grace_ms;   /* COLLECT: for how long an identity is marked before it goes */
	size_t collect_max; /* COLLECT: marks and deletions at a time */
	/* The answer. */
	int result;
	struct cs_error error;
	uint64_t revision;
	size_t nreleased;               /* FORGET */
	size_t marked, deleted;         /* COLLECT */
	struct cs_collected *collected; /* COLLECT, dry run */
	size_t ncollected;
	void (*done)(struct cs_ask *ask, void *data); /* frees it, or keeps it */
	void *data;
};
struct cs_ask *cs_ask_new(enum cs_ask_kind kind, const char *node, size_t nclaims);
void cs_ask_free(struct cs_ask *ask);

/* One transaction for all; fills in the answers. changes may be empty. Returns < 0 (and the same in every ask) when the
 * store took nothing. */
CS_MUST_USE int cs_core_ask(
	struct cs_core *core, struct cs_ask *const *asks, size_t n, struct cs_changes *changes, struct cs_error *e);

/* Takes revocations away whose time is over, if this is the one that writes. */
CS_MUST_USE int cs_core_expire(struct cs_core *core, struct cs_changes *changes, struct cs_error *e);

/* What the last (re)compilation said, if it failed: identities without policy rows let nothing through. */
const struct cs_error *cs_core_compile_error(const struct cs_core *core);
void cs_core_usage(const struct cs_core *core, struct cs_store_usage *ret);

#endif
