/* What a store rests on: keys and values, whole revisions at a time. Between store.c and its backends only.
 *
 * Keys are text without NUL, "<kind>/..." and the one key "meta", which every revision writes: its value changes each
 * time. A backend looks into neither. One caller at a time; calls may block for as long as a request takes. */
#ifndef CS_STORE_BACKEND_H
#define CS_STORE_BACKEND_H

#include "store.h"

#define CS_STORE_KEY_META "meta"
#define CS_STORE_KEY_MAX  512

struct cs_store_write { /* borrowed; a key is in a revision once */
	const char *key;
	const void *value; /* NULL: delete */
	size_t n;
};

/* Rows as they are read: `row` for each, `revision` after those of one revision that belong together (also after a
 * full read). A full read begins with `whole`: what follows is everything. A revision that was not ended (an error came in
 * between) did not happen: it is told again. */
struct cs_backend_reader {
	void (*whole)(void *data);
	void (*row)(void *data, const char *key, const void *value, size_t n); /* value NULL: deleted */
	void (*revision)(void *data);
	void *data;
};

struct cs_backend;

struct cs_backend_ops {
	/* Of one revision; the sizes of keys and values count for bytes_max. */
	size_t writes_max, bytes_max;
	/* Everything, at one revision; `whole` first. Before anything else, and again when what is known is in doubt. A store
	 * that is empty: no row, but a revision. */
	int (*load)(struct cs_backend *b, const struct cs_backend_reader *reader, struct cs_error *e);
	/* What others wrote since the last load, poll or write; never what write() wrote here. May be a full read. */
	int (*poll)(struct cs_backend *b, const struct cs_backend_reader *reader, struct cs_error *e);
	/* All or nothing, durable on return, and only if nothing else was written since the last load, poll or write, and
	 * (etcd) we lead. -EPERM: we do not. -EAGAIN: something else was written; poll, and decide anew. -ETIMEDOUT,
	 * -EHOSTUNREACH: no answer; the next write or poll first finds out whether it happened after all (and if it did, poll
	 * tells it as if others had written it; write gives -EAGAIN). */
	int (*write)(struct cs_backend *b, const struct cs_store_write *writes, size_t n, struct cs_error *e);
	/* NULL: always leads. */
	int (*campaign)(struct cs_backend *b, const char *advertise, struct cs_error *e);
	void (*resign)(struct cs_backend *b);
	/* leads, term, silent_ms, leader */
	void (*state)(struct cs_backend *b, struct cs_store_state *ret);
	void (*close)(struct cs_backend *b);
};
struct cs_backend { /* the first member of a backend's own struct */
	const struct cs_backend_ops *ops;
};

CS_MUST_USE int cs_backend_sqlite_open(
	const struct cs_store_config *config, struct cs_backend **ret, struct cs_error *e);
CS_MUST_USE int cs_backend_etcd_open(const struct cs_store_config *config, struct cs_backend **ret, struct cs_error *e);

#endif
