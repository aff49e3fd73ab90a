/* A client of etcd's v3 API on a loop: bytes in, bytes out, no identities. One of several endpoints is used at a time; one
 * that does not answer, or that has lost its cluster (every call asks for a leader), is left for the next.
 *
 * Rules, as in grpc.h: no function calls back before it returns; one that takes a callback and returns an error never calls
 * it, otherwise the callback comes exactly once, from the loop. What a callback is given is borrowed until it returns; what
 * is passed in is copied. Any function may be called from a callback. Revisions are etcd's. */
#ifndef CS_ETCD_H
#define CS_ETCD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"
#include "loop.h"

#define CS_ETCD_ENDPOINTS_MAX 16
#define CS_ETCD_CALLS_MAX     256         /* that wait or run */
#define CS_ETCD_MESSAGE_MAX   (16u << 20) /* of an answer; etcd itself takes requests of 1.5 MiB by default */
#define CS_ETCD_UNPACK_MAX    (64u << 20) /* what one may become in memory */
#define CS_ETCD_REVISION_MAX  (16u << 20) /* events of one revision, as a watch puts them together */
#define CS_ETCD_CONNECT_MS    2000        /* one endpoint, until it is left for the next */
#define CS_ETCD_ATTEMPT_MS    2000        /* a read waits so long for one endpoint */
#define CS_ETCD_RETRY_MAX_MS  1000        /* between rounds over all endpoints */
#define CS_ETCD_PROBE_MS      2000        /* a watch that is silent asks for a sign of life ... */
#define CS_ETCD_SILENT_MS     5000        /* ... and without one it moves to another endpoint */

struct cs_etcd;

struct cs_etcd_bytes {
	const void *data;
	size_t len;
};

struct cs_etcd_options {
	/* "https://HOST:PORT"; "http://HOST:PORT" only for loopback addresses, because it proves and hides nothing. */
	const char *const *endpoints;
	size_t nendpoints;
	/* PEM files, read anew for every connection, so that they may rotate. cert_file and key_file: both or neither. */
	const char *ca_file, *cert_file, *key_file;
	const char *server_name;     /* what the members' certificates must be for; NULL: each endpoint's own host */
	const char *user, *password; /* both or neither; neither over http:// to anything but loopback */
};
/* -EINVAL says what is wrong. Connects with the first call. */
CS_MUST_USE int cs_etcd_new(
	struct cs_loop *loop, const struct cs_etcd_options *options, struct cs_etcd **ret, struct cs_error *e);
/* Ends calls (-ESHUTDOWN), watches and keeps (without a word: their handles are void now), then frees and calls closed. */
void cs_etcd_close(struct cs_etcd *etcd, void (*closed)(void *data), void *data);
/* The endpoint in use, as it was given. */
const char *cs_etcd_endpoint(const struct cs_etcd *etcd);

/* ---- calls ---- */

enum cs_etcd_outcome {
	CS_ETCD_DONE,
	CS_ETCD_NOT_DONE, /* surely: nothing happened, and nothing will */
	CS_ETCD_PERHAPS   /* no answer: it happened, or it did not, or it still will */
};

/* error, unless DONE:
 *   -ETIMEDOUT, -EHOSTUNREACH  no answer in time, nobody to ask; a reader may ask again
 *   -EACCES      user, password, certificate or rights
 *   -ESTALE      that revision was compacted
 *   -ENOENT      no such lease
 *   -EMSGSIZE    too large a request or answer, too many operations
 *   -ENOSPC      etcd's own quota is used up (its alarm NOSPACE)
 *   -ESHUTDOWN   cs_etcd_close
 *   -EPROTO      anything else that etcd says */
struct cs_etcd_result {
	enum cs_etcd_outcome outcome;
	struct cs_error error;
	int64_t revision;    /* DONE: of the store, when it answered; of a TXN that wrote: what it wrote has this one */
	uint64_t cluster_id; /* another one: another store, or one that was restored */
};

struct cs_etcd_kv {
	struct cs_etcd_bytes key, value;
	int64_t create_revision, mod_revision, lease;
};

struct cs_etcd_range {
	struct cs_etcd_bytes key, end; /* from key to before end; end of no bytes: only the key */
	int64_t limit, revision;       /* 0: all, now */
	bool keys_only;
};
typedef void cs_etcd_on_range(
	const struct cs_etcd_result *result, const struct cs_etcd_kv *kvs, size_t n, bool more, void *data);
/* Keys in order. Linearizable: nothing older than what was done when it was asked. Tried again elsewhere until timeout_ms. */
CS_MUST_USE int cs_etcd_range(struct cs_etcd *etcd, const struct cs_etcd_range *range, int64_t timeout_ms,
	cs_etcd_on_range *done, void *data, struct cs_error *e);
/* The end of the range of all keys that begin with this one, written to ret (of prefix.len bytes); its length, 0: none. */
size_t cs_etcd_prefix_end(struct cs_etcd_bytes prefix, uint8_t *ret);

/* A condition; a key that is not there has revision 0. */
struct cs_etcd_compare {
	struct cs_etcd_bytes key;
	enum { CS_ETCD_CREATE_REVISION, CS_ETCD_MOD_REVISION } what;
	int64_t is;
};
struct cs_etcd_op {
	enum { CS_ETCD_PUT, CS_ETCD_DELETE, CS_ETCD_GET } kind;
	struct cs_etcd_bytes key;
	struct cs_etcd_bytes value; /* PUT */
	int64_t lease;              /* PUT; 0: none */
};
/* If all compares hold: `then`, else `otherwise`. At most 128 of each, by etcd's default, and no key twice in one. */
struct cs_etcd_txn {
	const struct cs_etcd_compare *compares;
	const struct cs_etcd_op *then, *otherwise;
	size_t ncompares, nthen, notherwise;
};
/* kvs: what the GETs of the branch found, in order. */
typedef void cs_etcd_on_txn(
	const struct cs_etcd_result *result, bool succeeded, const struct cs_etcd_kv *kvs, size_t n, void *data);
/* Tried again only while it surely was not done. */
CS_MUST_USE int cs_etcd_txn(struct cs_etcd *etcd, const struct cs_etcd_txn *txn, int64_t timeout_ms,
	cs_etcd_on_txn *done, void *data, struct cs_error *e);

/* ---- leases ---- */

/* ttl_s: what etcd gave, which may be more. A PERHAPS leaves at worst a lease that nobody keeps. */
typedef void cs_etcd_on_grant(const struct cs_etcd_result *result, int64_t lease, int64_t ttl_s, void *data);
CS_MUST_USE int cs_etcd_grant(struct cs_etcd *etcd, int64_t ttl_s, int64_t timeout_ms, cs_etcd_on_grant *done,
	void *data, struct cs_error *e);
/* With all keys that hang on it. done may be NULL. */
typedef void cs_etcd_on_revoke(const struct cs_etcd_result *result, void *data);
CS_MUST_USE int cs_etcd_revoke(struct cs_etcd *etcd, int64_t lease, int64_t timeout_ms, cs_etcd_on_revoke *done,
	void *data, struct cs_error *e);

/* Keeps a lease alive, three times per TTL, at whatever endpoint answers. */
struct cs_etcd_keep;
struct cs_etcd_keep_events {
	/* It lives at least until then: the TTL counts from when this side asked. */
	void (*alive)(int64_t until_mono_ms, void *data);
	/* It is over, by etcd's word; the last callback. (Without etcd's word only time tells: see `alive`.) */
	void (*lost)(void *data);
};
CS_MUST_USE int cs_etcd_keep(struct cs_etcd *etcd, int64_t lease, int64_t ttl_s,
	const struct cs_etcd_keep_events *events, void *data, struct cs_etcd_keep **ret, struct cs_error *e);
/* Stops; the lease runs out by itself. NULL is fine. No callback comes after it. */
void cs_etcd_keep_free(struct cs_etcd_keep *keep);

/* ---- watching ---- */

struct cs_etcd_event {
	struct cs_etcd_kv kv; /* a deletion: key and mod_revision */
	bool deleted;
};
struct cs_etcd_watch;
struct cs_etcd_watch_events {
	/* Everything that one revision did to the range, whole, in order, none twice and none left out. */
	void (*revision)(int64_t revision, const struct cs_etcd_event *events, size_t n, void *data);
	/* The place is lost: that revision was compacted, or the store is another one, or was set back (restored). The watch is over; read anew
	 * and begin another. */
	void (*compacted)(const struct cs_error *why, void *data);
	/* The watch is not allowed, by etcd's word, or breaks a limit; it is over. */
	void (*failed)(const struct cs_error *why, void *data);
	/* May be NULL. Something was heard of the watch, events or not. */
	void (*alive)(void *data);
};
/* From revision `from` on, for ever: a lost connection or a silent endpoint is replaced, and the watch goes on from the
 * revision after the last whole one. cluster_id: of the store that `from` is of; 0: any. */
CS_MUST_USE int cs_etcd_watch(struct cs_etcd *etcd, struct cs_etcd_bytes key, struct cs_etcd_bytes end, int64_t from,
	uint64_t cluster_id, const struct cs_etcd_watch_events *events, void *data, struct cs_etcd_watch **ret,
	struct cs_error *e);
/* NULL is fine. No callback comes after it. */
void cs_etcd_watch_free(struct cs_etcd_watch *watch);

#endif
