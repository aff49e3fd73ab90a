/* Inside of the etcd backend of the store: store_etcd.c (life, the thread, requests), store_etcd_read.c, store_etcd_write.c,
 * store_etcd_lead.c.
 *
 * Keys: PREFIX"facts/"KEY a fact; PREFIX"head" is written with every revision of facts, so that its revision is what a
 * write must find unchanged; PREFIX"leader" is the leader's, and hangs on its lease.
 *
 * Two threads. The loop's owns the client, the watch and the lease. The caller's (one at a time) posts an ask and waits for it;
 * while it waits, what belongs to the caller may be touched by the loop's thread. What both touch at other times is under
 * `lock`. */
#ifndef CS_STORE_ETCD_PRIVATE_H
#define CS_STORE_ETCD_PRIVATE_H

#include <stdatomic.h>
#include "mem.h"
#include "store_backend.h"
#include "store_etcd.h"

#define KEY_FACTS   "facts/"
#define KEY_HEAD    "head"
#define KEY_LEADER  "leader"
#define HEAD_BYTES  16          /* random: never the same twice */
#define WRITES_MAX  120         /* etcd's default is 128 operations of a transaction; one is the head's */
#define BYTES_MAX   1300000     /* etcd's default is 1.5 MiB of a request */
#define QUEUE_MAX   (64u << 20) /* bytes of revisions that nobody has polled; beyond, everything is read anew */
#define PAGE        2000        /* keys of one read; fewer where values are large */
#define STALE_READS 5           /* a read that is overtaken by compaction begins again, so many times */
#define LEADER_MAX  255
#define RESIGN_MS   1000

struct ask;
struct revision { /* as it was watched */
	struct revision *next;
	int64_t etcd, head; /* its number; head's, if it wrote that, else 0 */
	size_t n, bytes;
	struct row {
		char *key;
		uint8_t *value; /* NULL: deleted */
		size_t n;
	} * rows;
};

struct cs_etcd_backend {
	struct cs_backend base;
	char *prefix, *head_key, *leader_key;
	uint8_t prefix_end[CS_STORE_ETCD_PREFIX_MAX];
	size_t nprefix, nprefix_end;
	int64_t lease_s, timeout_ms;
	void (*notify)(void *data);
	void *notify_data;
	/* the thread */
	uv_thread_t thread;
	struct cs_loop loop;
	uv_async_t async;
	uv_mutex_t lock;
	uv_cond_t cond;
	struct ask *asks;
	bool stop;
	atomic_llong heard_ms;
	/* the loop's */
	struct cs_etcd *etcd;
	struct cs_etcd_watch *watch;
	/* leading: the loop's */
	bool wanted, granting, claiming, stopping;
	int64_t leader_at; /* the revision of what is known of the leader key; older news are not */
	char advertise[LEADER_MAX + 1];
	int64_t lease;
	struct cs_etcd_keep *keep;
	struct cs_timer lead_timer;
	bool led; /* as it was last told */
	/* under lock */
	struct revision *first, **last;
	size_t queued;
	int64_t told; /* the watch was heard of up to this revision */
	bool lost_place;
	int64_t mine;     /* the leader key's create revision, if it is ours */
	int64_t until_ms; /* the lease lives until then at least */
	uint64_t term;
	char leader[LEADER_MAX + 1];
	char hindered[256]; /* why the last try to lead was none */
	/* the caller's */
	uint64_t cluster_id;
	int64_t known; /* etcd's revision up to which the caller has the facts */
	int64_t head;  /* the head's revision there */
	int64_t want;  /* the caller has heard of this one, and must be told up to it */
	bool unsure;   /* the last write may have happened, or may still */
};

/* What the caller's thread wants of the loop's. fn starts it; cs_store_etcd_answer ends it, once. */
struct ask {
	struct ask *next;
	struct cs_etcd_backend *b;
	void (*fn)(struct ask *ask);
	bool done;
	struct cs_etcd_result result;
};
/* From the caller's thread; waits for the answer. */
void cs_store_etcd_run(struct cs_etcd_backend *b, struct ask *ask, void (*fn)(struct ask *ask));
/* On the loop. */
void cs_store_etcd_answer(struct ask *ask, const struct cs_etcd_result *result);
/* The call could not even be made. */
void cs_store_etcd_refuse(struct ask *ask, const struct cs_error *e);
void cs_store_etcd_heard(struct cs_etcd_backend *b);
void cs_store_etcd_notify(struct cs_etcd_backend *b);
/* A result that is no answer, as the store's error: it names etcd, and has the reason STORE_UNAVAILABLE. */
int cs_store_etcd_error(const struct cs_etcd_result *result, const char *what, struct cs_error *e);
struct cs_etcd_bytes cs_store_etcd_text(const char *s);

/* store_etcd_read.c */
int cs_store_etcd_load(struct cs_backend *base, const struct cs_backend_reader *reader, struct cs_error *e);
int cs_store_etcd_poll(struct cs_backend *base, const struct cs_backend_reader *reader, struct cs_error *e);
/* With the lock: forget what is queued up to this revision. */
void cs_store_etcd_forget(struct cs_etcd_backend *b, int64_t until);

/* store_etcd_write.c */
int cs_store_etcd_write(struct cs_backend *base, const struct cs_store_write *writes, size_t n, struct cs_error *e);
/* After an unsure write: it happened, and poll will tell, or it never will. */
CS_MUST_USE int cs_store_etcd_make_sure(struct cs_etcd_backend *b, struct cs_error *e);

/* store_etcd_lead.c */
void cs_store_etcd_lead_init(struct cs_etcd_backend *b);
int cs_store_etcd_campaign(struct cs_backend *base, const char *advertise, struct cs_error *e);
void cs_store_etcd_resign(struct cs_backend *base);
void cs_store_etcd_state(struct cs_backend *base, struct cs_store_state *ret);
/* On the loop: what the leader key was at that revision; create 0: nobody leads. */
void cs_store_etcd_leader_is(
	struct cs_etcd_backend *b, int64_t at, int64_t create, int64_t lease, struct cs_etcd_bytes value);

#endif
