/* The inside of the store, for its own files only. */
#ifndef CS_STORE_PRIVATE_H
#define CS_STORE_PRIVATE_H

#include "facts_private.h"
#include "store_backend.h"

/* 1 was tables of SQLite; since 2 there are keys and values (proto/store.proto). */
#define CS_STORE_SCHEMA 2

struct cs_meta {
	uint64_t epoch, revision;
	int64_t store_ms;
	char *trust_domain, *template;
	uint32_t cluster_id;
	bool copying;
	uint64_t tag;
	uint32_t next_id;
};
uint8_t *cs_meta_encode(const struct cs_meta *meta, size_t *ret_n); /* heap */
CS_MUST_USE int cs_meta_decode(const void *value, size_t n, struct cs_meta *ret, struct cs_error *e);
void cs_meta_fini(struct cs_meta *meta);

/* A key that the revision in the making changes: what it had before, what it has now. */
struct cs_store_change {
	UT_hash_handle hh;
	struct cs_fact_entry *before, *now;
	char key[];
};

struct cs_store {
	struct cs_store_config config; /* its strings are ours */
	const struct cs_clock *clock;
	struct cs_backend *backend;
	int64_t lead_wait_ms; /* after which one that leads no more would have lost its lease */
	struct cs_facts *facts;
	struct cs_meta meta; /* epoch 0: the store is not made yet */
	/* The store's time: what it was when we heard of it, and when that was. */
	int64_t heard_store_ms, heard_mono_ms;
	/* The revision in the making. */
	struct cs_store_change *changes;
	size_t changed_bytes;
	bool opening;    /* the first read: all facts are new, and there is nobody to tell */
	bool forced;     /* a revision even without a change */
	bool lost;       /* what was read did not hold together: read everything again */
	char *exhausted; /* who holds the range; told again until ... */
	int64_t exhausted_until_mono_ms;
};

/* The most that one operation changes before it looks for room again: a claim with all its addresses, old and new, and
 * an identity. */
#define CS_STORE_OP_WRITES_MAX 24
#define CS_STORE_OP_BYTES_MAX  32768

/* On a backend of one's own, which is taken over: for tests that want faults. */
CS_MUST_USE int cs_store_open_on(const struct cs_store_config *config, struct cs_backend *backend_take,
	struct cs_store **ret, struct cs_error *e);

CS_MUST_USE int cs_store_random(uint64_t *ret, struct cs_error *e); /* not 0 */

/* store_changes.c: the revision in the making. */
void cs_store_put(struct cs_store *s, const struct cs_fact *fact);
void cs_store_remove(struct cs_store *s, struct cs_fact_entry *entry);
/* May so many more keys and bytes be changed in this revision? */
bool cs_store_has_room(const struct cs_store *s, size_t writes, size_t bytes);
void cs_store_undo(struct cs_store *s);
/* It happened: the sink hears of it, and what was before is forgotten. */
void cs_store_tell(struct cs_store *s, const struct cs_fact_sink *sink);

/* store.c: it is written, whoever leads. */
CS_MUST_USE int cs_store_write(struct cs_store *s, struct cs_error *e);

/* store_ops.c: one operation. 0: done, or refused in op->result; 1: there was no room for all of it, once more in the
 * next revision; < 0: give the whole batch up. */
int cs_store_apply(struct cs_store *s, struct cs_store_op *op, struct cs_error *e);
int cs_store_refuse(struct cs_store_op *op, int code, enum cs_reason reason, const char *fmt, ...) CS_PRINTF(4, 5);

/* store_numbers.c */
/* A number that is free, or 0. */
uint32_t cs_store_free_id(struct cs_store *s);
/* Borrowed until the next call. */
const char *cs_store_exhausted(struct cs_store *s);

/* store_gc.c */
int cs_store_apply_gc(struct cs_store *s, struct cs_store_op *op);

/* store_documents.c */
int cs_store_apply_documents(struct cs_store *s, struct cs_store_op *op, struct cs_error *e);

#endif
