/* The directory: what is known cluster-wide, as records by key, one revision at a time, and the recent changes, so that
 * who was away for a moment gets only those (v1/directory.proto). Pure: no loop, clock or socket.
 *
 * Changes are made between two publications and seen by nobody before the second. */
#ifndef CS_DIR_H
#define CS_DIR_H

#include <countersign/v1/directory.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"

typedef Countersign__V1__Record cs_record;

struct cs_directory;

struct cs_dir_limits {
	size_t records; /* puts beyond are refused */
	size_t changes; /* kept for resuming; the oldest go first */
};

/* limits NULL: those of identity_limits.h. Nothing is served before the first publication, and that is the oldest revision from
 * which one can resume. */
struct cs_directory *cs_dir_new(uint64_t epoch, const struct cs_dir_limits *limits);
void cs_dir_free(struct cs_directory *dir);

/* Takes the record (of cs_record_copy). 1 if something changed, 0 if that very record
 * was there, -ENOSPC, or -EINVAL for a record without a kind. */
CS_MUST_USE int cs_dir_put_take(struct cs_directory *dir, cs_record *record, struct cs_error *e);
/* Takes away the record with this one's key. True if it was there. */
bool cs_dir_del(struct cs_directory *dir, const cs_record *key);
/* Everything since the last publication becomes `revision`, which is higher than the last (of this epoch). Without a change nothing
 * happens, except for the first publication and where `even_unchanged` says so. True if there is a new revision. */
bool cs_dir_publish(struct cs_directory *dir, uint64_t revision, bool even_unchanged);

/* Another epoch: a restored store. Whatever revision follows, everybody gets the full state. */
void cs_dir_set_epoch(struct cs_directory *dir, uint64_t epoch);

uint64_t cs_dir_epoch(const struct cs_directory *dir);
uint64_t cs_dir_revision(const struct cs_directory *dir);
bool cs_dir_published(const struct cs_directory *dir);
size_t cs_dir_count(const struct cs_directory *dir, Countersign__V1__Kind kind); /* 0 (unspecified): all */
size_t cs_dir_changes(const struct cs_directory *dir);

/* Borrowed until the next change; NULL if there is none. */
const cs_record *cs_dir_get(const struct cs_directory *dir, const cs_record *key);
const Countersign__V1__Identity *cs_dir_identity(const struct cs_directory *dir, uint32_t id);
const Countersign__V1__Node *cs_dir_node(const struct cs_directory *dir, const char *name);
const Countersign__V1__Placement *cs_dir_placement(const struct cs_directory *dir, uint32_t identity, const char *node);
/* All records of a kind; fn must not change the directory. */
void cs_dir_each(const struct cs_directory *dir, Countersign__V1__Kind kind,
	void (*fn)(void *data, const cs_record *record), void *data);
/* Called after each publication. The watcher is the caller's memory; a callback may take away its own watcher only. */
struct cs_dir_watch {
	void (*fn)(struct cs_dir_watch *watch);
	void *data;
	struct cs_dir_watch *prev, *next;
};
void cs_dir_watch(struct cs_directory *dir, struct cs_dir_watch *watch);
void cs_dir_unwatch(struct cs_directory *dir, struct cs_dir_watch *watch);

/* Replacing everything, as after a full state from upstream: put what there is between the two calls; what was not put
 * goes at the end, but for records of which keep() says that they stay (keep may be NULL). */
void cs_dir_replace_begin(struct cs_directory *dir);
void cs_dir_replace_end(struct cs_directory *dir, bool (*keep)(const cs_record *record, void *data), void *data);

/* --- records --- */
/* A deep copy, in one piece of memory; with key_only just the key fields, and `deleted`. Freed by cs_record_free, which
 * takes nothing else. */
cs_record *cs_record_copy(const cs_record *record, bool key_only);
cs_record *cs_record_unpack(const uint8_t *bytes, size_t n); /* of bytes that are a record */
void cs_record_free(cs_record *record);
bool cs_record_equal(const cs_record *a, const cs_record *b);
Countersign__V1__Kind cs_record_kind(const cs_record *record);
/* The key as text: "node/n1", "placement/256/n1"; heap. NULL for a record without a kind or a key field. */
char *cs_record_key(const cs_record *record);

/* --- one follower --- */
/* Where a follower is, and what it gets next. Policy rows and defaults are for identities placed on `node` only. */
struct cs_cursor;
struct cs_follow {
	bool resume;
	uint64_t epoch, revision; /* with resume */
	uint32_t kinds;           /* bit set, 1 << Kind; 0: all */
	const char *node;         /* copied */
	bool once;
};
struct cs_cursor *cs_cursor_new(struct cs_directory *dir, const struct cs_follow *follow);
void cs_cursor_free(struct cs_cursor *cursor);

struct cs_batch {
	Countersign__V1__DirectoryBatch msg; /* silent_ms is the sender's to fill; packs with its records */
	size_t n;                            /* records */
	Countersign__V1__Position position;
	bool last; /* `once` is served */
};
/* 1: a batch of at most max_bytes (or one record), borrowed until the next call with this cursor; 0: nothing new;
 * -EOVERFLOW: the changes that it needs are gone, the follower was too slow. A cursor that resumes gets its deltas
 * merged: what changed twice is there once. */
CS_MUST_USE int cs_cursor_next(struct cs_cursor *cursor, size_t max_bytes, struct cs_batch *ret, struct cs_error *e);
/* The records as messages, in msg.records, borrowed as the batch is: for who looks into them instead of packing. */
void cs_cursor_unpack(struct cs_cursor *cursor, struct cs_batch *batch);
/* Would the next batch begin a full state? It is what costs memory: a list of all records. */
bool cs_cursor_begins_full(const struct cs_cursor *cursor);
/* It resumes from a revision that this directory, of the same epoch, has not reached: another replica was faster. It gets
 * nothing before the directory is there; or, if it is told to believe the directory, its full state. */
bool cs_cursor_ahead(const struct cs_cursor *cursor);
void cs_cursor_believe(struct cs_cursor *cursor);
/* For watchers: after this publication changes will be forgotten that this follower misses if it does not take them now. */
bool cs_cursor_will_miss(const struct cs_cursor *cursor);
/* The revision that the follower will have when it has taken everything that was handed out; 0: none yet. */
uint64_t cs_cursor_at(const struct cs_cursor *cursor);
/* An empty batch at the cursor's position. Only between complete batches: 0 if one is under way. */
CS_MUST_USE int cs_cursor_heartbeat(struct cs_cursor *cursor, struct cs_batch *ret);

#endif
