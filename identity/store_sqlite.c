/* The backend in one file: SQLite (WAL, synchronous=FULL, one process). */
#include "store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <unistd.h>
#include "mem.h"
#include "store_sqlite.h"

enum statement { Q_BEGIN, Q_COMMIT, Q_ROLLBACK, Q_ALL, Q_PUT, Q_DELETE, Q_COUNT };

static const char *const sql[Q_COUNT] = {
	[Q_BEGIN] = "BEGIN IMMEDIATE",
	[Q_COMMIT] = "COMMIT",
	[Q_ROLLBACK] = "ROLLBACK",
	[Q_ALL] = "SELECT key, value FROM fact",
	[Q_PUT] =
		"INSERT INTO fact (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
	[Q_DELETE] = "DELETE FROM fact WHERE key = ?1",
};

struct sqlite_backend {
	struct cs_backend backend;
	sqlite3 *db;
	sqlite3_stmt *q[Q_COUNT];
	int lock;
	char *path;
};

/* --- SQLite's errors as ours --- */

int cs_sqlite_error(sqlite3 *db, const char *path, const char *what, struct cs_error *e)
{
	int code = sqlite3_errcode(db) & 0xff;
	int sys = sqlite3_system_errno(db);
	if (code == SQLITE_FULL ||
		((code == SQLITE_IOERR || code == SQLITE_CANTOPEN) && (sys == ENOSPC || sys == EDQUOT)))
		return cs_error_set(e, -ENOSPC,
			"cannot %s: the disk under %s is full; nothing of this request was stored; make room and try "
			"again",
			what, path);
	if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
		return cs_error_set(e, -EIO,
			"cannot %s in %s: %s; restore a backup of it (docs/operations.md), because an empty one in its "
			"place "
			"would give its numbers to others",
			what, path, sqlite3_errmsg(db));
	if (code == SQLITE_BUSY)
		return cs_error_set(
			e, -EBUSY, "cannot %s in %s: another program has it open; only one may", what, path);
	return cs_error_set(e, code == SQLITE_NOMEM ? -ENOMEM : -EIO, "cannot %s in %s: %s%s%s", what, path,
		sqlite3_errmsg(db), sys ? ": " : "", sys ? strerror(sys) : "");
}

static int db_error(const struct sqlite_backend *b, const char *what, struct cs_error *e)
{
	return cs_sqlite_error(b->db, b->path, what, e);
}

static int run(struct sqlite_backend *b, enum statement which, const char *what, struct cs_error *e)
{
	int r = sqlite3_step(b->q[which]) == SQLITE_DONE ? 0 : db_error(b, what, e);
	sqlite3_reset(b->q[which]);
	return r;
}

/* --- opening --- */

static int take_lock(struct sqlite_backend *b, struct cs_error *e)
{
	char path[4096];
	if (snprintf(path, sizeof(path), "%s.lock", b->path) >= (int)sizeof(path))
		return cs_error_set(e, -ENAMETOOLONG, "the path of the store is too long");
	b->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (b->lock < 0)
		return cs_error_errno(e, -errno, "cannot open the lock file %s", path);
	if (flock(b->lock, LOCK_EX | LOCK_NB) < 0)
		return cs_error_set(e, -EBUSY, "another process has the store open; only one may");
	return 0;
}

static int read_int(struct sqlite_backend *b, const char *text, int *ret, struct cs_error *e)
{
	sqlite3_stmt *q = NULL;
	int r = sqlite3_prepare_v2(b->db, text, -1, &q, NULL) == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW
			? 0
			: db_error(b, "read the schema", e);
	*ret = r == 0 ? sqlite3_column_int(q, 0) : 0;
	sqlite3_finalize(q);
	return r;
}

static int make_schema(struct sqlite_backend *b, struct cs_error *e)
{
	char *text = sqlite3_mprintf("BEGIN IMMEDIATE; " CS_SQLITE_TABLE
				     "; PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT",
		CS_SQLITE_APPLICATION, CS_STORE_SCHEMA);
	int r = sqlite3_exec(b->db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(b, "make the table", e);
	sqlite3_free(text);
	return r;
}

static int check_schema(struct sqlite_backend *b, const struct cs_store_config *config, struct cs_error *e)
{
	int version, tables, application;
	int r = read_int(b, "PRAGMA user_version", &version, e);
	if (r == 0)
		r = read_int(b, "PRAGMA application_id", &application, e);
	if (r == 0)
		r = read_int(b, "SELECT count(*) FROM sqlite_master", &tables, e);
	if (r < 0)
		return r;
	if (version == 0 && tables == 0)
		return make_schema(b, e);
	if (version == 1 && application == CS_SQLITE_APPLICATION)
		return cs_sqlite_carry_over(b->db, config, e);
	if (application != CS_SQLITE_APPLICATION)
		return cs_error_set(e, -EPROTO, "it is another program's database; nothing was changed");
	if (version != CS_STORE_SCHEMA)
		return cs_error_set(e, -EPROTO,
			"it has schema %d, this program knows %d: use the version that made it; nothing was changed",
			version, CS_STORE_SCHEMA);
	return 0;
}

static int open_db(struct sqlite_backend *b, const struct cs_store_config *config, struct cs_error *e)
{
	if (sqlite3_open_v2(b->path, &b->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW, NULL) !=
		SQLITE_OK)
		return db_error(b, "open the store", e);
	sqlite3_extended_result_codes(b->db, 1);
	/* Exclusive: no shared memory file, and nobody else reads half of it. */
	if (sqlite3_exec(b->db,
		    "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
		    "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON",
		    NULL, NULL, NULL) != SQLITE_OK)
		return db_error(b, "set up the store", e);
	int r = check_schema(b, config, e);
	for (int i = 0; i < Q_COUNT && r == 0; i++)
		if (sqlite3_prepare_v3(b->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &b->q[i], NULL) != SQLITE_OK)
			r = db_error(b, "prepare a statement", e);
	return r;
}

/* --- the backend --- */

static int sqlite_load(struct cs_backend *backend, const struct cs_backend_reader *reader, struct cs_error *e)
{
	struct sqlite_backend *b = (struct sqlite_backend *)backend;
	sqlite3_stmt *q = b->q[Q_ALL];
	int step;
	reader->whole(reader->data);
	while ((step = sqlite3_step(q)) == SQLITE_ROW) {
		const char *key = (const char *)sqlite3_column_text(q, 0);
		const void *value = sqlite3_column_blob(q, 1);
		reader->row(reader->data, key, value ? value : "", (size_t)sqlite3_column_bytes(q, 1));
	}
	int r = step == SQLITE_DONE ? 0 : db_error(b, "read the facts", e);
	sqlite3_reset(q);
	sqlite3_db_release_memory(b->db); /* from here on it is only written to */
	if (r == 0)
		reader->revision(reader->data);
	return r;
}

/* Nobody else writes. */
static int sqlite_poll(struct cs_backend *backend, const struct cs_backend_reader *reader, struct cs_error *e)
{
	(void)backend;
	(void)reader;
	(void)e;
	return 0;
}

static int write_one(struct sqlite_backend *b, const struct cs_store_write *write, struct cs_error *e)
{
	enum statement which = write->value ? Q_PUT : Q_DELETE;
	sqlite3_bind_text(b->q[which], 1, write->key, -1, SQLITE_STATIC);
	if (write->value)
		sqlite3_bind_blob(b->q[which], 2, write->value, (int)write->n, SQLITE_STATIC);
	int r = run(b, which, "store a fact", e);
	sqlite3_clear_bindings(b->q[which]);
	return r;
}

static int sqlite_write(struct cs_backend *backend, const struct cs_store_write *writes, size_t n, struct cs_error *e)
{
	struct sqlite_backend *b = (struct sqlite_backend *)backend;
	int r = run(b, Q_BEGIN, "begin", e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n && r == 0; i++)
		r = write_one(b, &writes[i], e);
	if (r == 0)
		r = run(b, Q_COMMIT, "commit", e);
	if (r < 0) {
		sqlite3_step(b->q[Q_ROLLBACK]); /* fails where a failed commit rolled back by itself */
		sqlite3_reset(b->q[Q_ROLLBACK]);
	}
	return r;
}

static void sqlite_state(struct cs_backend *backend, struct cs_store_state *ret)
{
	(void)backend;
	ret->leads = true;
}

static void sqlite_close(struct cs_backend *backend)
{
	struct sqlite_backend *b = (struct sqlite_backend *)backend;
	for (int i = 0; i < Q_COUNT; i++)
		sqlite3_finalize(b->q[i]);
	sqlite3_close(b->db);
	if (b->lock >= 0)
		close(b->lock);
	free(b->path);
	free(b);
}

int cs_backend_sqlite_open(const struct cs_store_config *config, struct cs_backend **ret, struct cs_error *e)
{
	static const struct cs_backend_ops ops = {.writes_max = 65536,
		.bytes_max = 64u << 20,
		.load = sqlite_load,
		.poll = sqlite_poll,
		.write = sqlite_write,
		.state = sqlite_state,
		.close = sqlite_close};
	struct sqlite_backend *b = cs_xcalloc(1, sizeof(*b));
	b->backend.ops = &ops;
	b->lock = -1;
	b->path = cs_xstrdup(config->path);
	int r = take_lock(b, e);
	if (r == 0)
		r = open_db(b, config, e);
	if (r < 0)
		sqlite_close(&b->backend);
	else
		*ret = &b->backend;
	return r;
}
