#include "store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>
#include <countersign/maps.h>
#include "mem.h"
#include "spiffe_id.h"

static const char *const sql[Q_COUNT] = {
	[Q_BEGIN] = "BEGIN IMMEDIATE",
	[Q_COMMIT] = "COMMIT",
	[Q_ROLLBACK] = "ROLLBACK",
	[Q_REVISION] = "SELECT epoch, revision, trust_domain FROM meta",
	[Q_SET_REVISION] = "UPDATE meta SET revision = ?1",
	[Q_IDENTITY_FIND] = "SELECT id, spiffe_id, incarnation FROM identity WHERE labels = ?1",
	[Q_IDENTITY_NEXT] = "SELECT max(id) + 1 FROM identity",
	[Q_SPIFFE_FIND] = "SELECT id FROM identity WHERE spiffe_id = ?1",
	[Q_IDENTITY_ADD] = "INSERT INTO identity (id, labels, spiffe_id, incarnation) VALUES (?1, ?2, ?3, ?4)",
	[Q_CLAIM_FIND] = "SELECT identity FROM claim WHERE node = ?1 AND endpoint = ?2",
	[Q_CLAIM_COUNT] = "SELECT count(*) FROM claim WHERE node = ?1",
	[Q_CLAIM_PUT] = "INSERT INTO claim (node, endpoint, identity) VALUES (?1, ?2, ?3) "
			"ON CONFLICT (node, endpoint) DO UPDATE SET identity = excluded.identity",
	[Q_CLAIM_DEL] = "DELETE FROM claim WHERE node = ?1 AND endpoint = ?2",
	[Q_CLAIM_OF_NODE] = "SELECT endpoint FROM claim WHERE node = ?1",
	[Q_ADDRESS_FIND] = "SELECT node, endpoint FROM claim_address WHERE ip = ?1",
	[Q_ADDRESS_OF_CLAIM] = "SELECT ip FROM claim_address WHERE node = ?1 AND endpoint = ?2 ORDER BY position",
	[Q_ADDRESS_ADD] = "INSERT INTO claim_address (ip, node, endpoint, position) VALUES (?1, ?2, ?3, ?4)",
	[Q_ADDRESS_DEL] = "DELETE FROM claim_address WHERE node = ?1 AND endpoint = ?2",
	[Q_QUARANTINE_FIND] = "SELECT identity, node, endpoint, until_unix_ms FROM quarantine WHERE ip = ?1",
	[Q_QUARANTINE_ADD] = "INSERT INTO quarantine (ip, identity, node, endpoint, until_unix_ms) "
			     "SELECT a.ip, c.identity, a.node, a.endpoint, ?3 FROM claim_address a JOIN claim c "
			     "USING (node, endpoint) WHERE a.node = ?1 AND a.endpoint = ?2 "
			     "ON CONFLICT (ip) DO UPDATE SET identity = excluded.identity, node = excluded.node, "
			     "endpoint = excluded.endpoint, until_unix_ms = excluded.until_unix_ms",
	[Q_QUARANTINE_DEL] = "DELETE FROM quarantine WHERE ip = ?1",
	[Q_QUARANTINE_OVER] = "DELETE FROM quarantine WHERE until_unix_ms <= ?1",
	[Q_NODE_FIND] = "SELECT port, path FROM node WHERE name = ?1",
	[Q_NODE_PUT] = "INSERT INTO node (name, port, path) VALUES (?1, ?2, ?3) "
		       "ON CONFLICT (name) DO UPDATE SET port = excluded.port, path = excluded.path",
	[Q_NODE_ADDRESS_FIND] = "SELECT node FROM node_address WHERE ip = ?1",
	[Q_NODE_ADDRESS_OF] = "SELECT ip FROM node_address WHERE node = ?1 ORDER BY position",
	[Q_NODE_ADDRESS_ADD] = "INSERT INTO node_address (ip, node, position) VALUES (?1, ?2, ?3)",
	[Q_NODE_ADDRESS_DEL] = "DELETE FROM node_address WHERE node = ?1",
	[Q_PREFIX_FIND] = "SELECT number FROM prefix WHERE ip = ?1 AND bits = ?2",
	[Q_PREFIX_ADD] = "INSERT INTO prefix (number, ip, bits) VALUES (?1, ?2, ?3)",
	[Q_ALL_IDENTITIES] = "SELECT id, labels, spiffe_id, incarnation FROM identity ORDER BY id",
	[Q_ALL_NODES] = "SELECT name, port, path FROM node ORDER BY name",
	[Q_ALL_CLAIMS] = "SELECT node, endpoint, identity FROM claim ORDER BY node, endpoint",
	[Q_ALL_PREFIXES] = "SELECT number, ip, bits FROM prefix ORDER BY number",
};

/* What must never be doubled is unique in the schema too, not only by the code above it. */
static const char schema[] =
	"CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, revision INTEGER NOT NULL,"
	" trust_domain TEXT NOT NULL) STRICT;"
	"CREATE TABLE identity (id INTEGER PRIMARY KEY CHECK (id BETWEEN 256 AND 65535), labels TEXT NOT NULL UNIQUE,"
	" spiffe_id TEXT NOT NULL UNIQUE, incarnation INTEGER NOT NULL) STRICT;"
	"CREATE TABLE node (name TEXT PRIMARY KEY, port INTEGER NOT NULL, path TEXT NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE TABLE node_address (ip BLOB PRIMARY KEY, node TEXT NOT NULL REFERENCES node (name),"
	" position INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE INDEX node_address_node ON node_address (node);"
	"CREATE TABLE claim (node TEXT NOT NULL, endpoint TEXT NOT NULL, identity INTEGER NOT NULL REFERENCES identity "
	"(id),"
	" PRIMARY KEY (node, endpoint)) STRICT, WITHOUT ROWID;"
	"CREATE TABLE claim_address (ip BLOB PRIMARY KEY, node TEXT NOT NULL, endpoint TEXT NOT NULL,"
	" position INTEGER NOT NULL, FOREIGN KEY (node, endpoint) REFERENCES claim (node, endpoint)) STRICT, WITHOUT "
	"ROWID;"
	"CREATE INDEX claim_address_claim ON claim_address (node, endpoint);"
	"CREATE TABLE quarantine (ip BLOB PRIMARY KEY, identity INTEGER NOT NULL, node TEXT NOT NULL, endpoint TEXT "
	"NOT NULL,"
	" until_unix_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE INDEX quarantine_until ON quarantine (until_unix_ms);"
	"CREATE TABLE prefix (number INTEGER PRIMARY KEY CHECK (number BETWEEN 1 AND 16777215), ip BLOB NOT NULL,"
	" bits INTEGER NOT NULL, UNIQUE (ip, bits)) STRICT;";

/* --- SQLite's errors as ours --- */

int cs_db_error(struct cs_store *s, const char *what, struct cs_error *e)
{
	int code = sqlite3_errcode(s->db) & 0xff;
	int sys = sqlite3_system_errno(s->db);
	if (code == SQLITE_FULL ||
		((code == SQLITE_IOERR || code == SQLITE_CANTOPEN) && (sys == ENOSPC || sys == EDQUOT)))
		return cs_error_set(e, -ENOSPC,
			"cannot %s: the disk under %s is full; nothing of this request was stored; make room and try "
			"again",
			what, s->path);
	return cs_error_set(e, code == SQLITE_NOMEM ? -ENOMEM : -EIO, "cannot %s in %s: %s%s%s", what, s->path,
		sqlite3_errmsg(s->db), sys ? ": " : "", sys ? strerror(sys) : "");
}

sqlite3_stmt *cs_db_query(struct cs_store *s, enum statement which)
{
	sqlite3_reset(s->q[which]);
	sqlite3_clear_bindings(s->q[which]);
	return s->q[which];
}

void cs_db_bind_text(sqlite3_stmt *q, int i, const char *text)
{
	sqlite3_bind_text(q, i, text, -1, SQLITE_STATIC);
}

void cs_db_bind_addr(sqlite3_stmt *q, int i, const struct cs_ip *addr)
{
	sqlite3_bind_blob(q, i, addr->bytes, addr->len, SQLITE_STATIC);
}

/* A statement without rows. */
int cs_db_run(struct cs_store *s, sqlite3_stmt *q, const char *what, struct cs_error *e)
{
	int r = sqlite3_step(q) == SQLITE_DONE ? 0 : cs_db_error(s, what, e);
	sqlite3_reset(q);
	return r;
}

/* 1: there is a row, 0: none. The caller resets the statement after reading the row (cs_db_query() does it as well). */
int cs_db_row(struct cs_store *s, sqlite3_stmt *q, const char *what, struct cs_error *e)
{
	int r = sqlite3_step(q);
	if (r == SQLITE_ROW)
		return 1;
	return r == SQLITE_DONE ? 0 : cs_db_error(s, what, e);
}

const char *cs_db_text(sqlite3_stmt *q, int i)
{
	const char *text = (const char *)sqlite3_column_text(q, i);
	return text ? text : "";
}

void cs_db_addr(sqlite3_stmt *q, int i, struct cs_ip *ret)
{
	int n = sqlite3_column_bytes(q, i);
	*ret = (struct cs_ip){0};
	if (n == 4 || n == 16) {
		ret->len = (uint8_t)n;
		memcpy(ret->bytes, sqlite3_column_blob(q, i), (size_t)n);
	}
}

/* --- opening --- */

static int take_lock(struct cs_store *s, struct cs_error *e)
{
	char path[4096];
	if (snprintf(path, sizeof(path), "%s.lock", s->path) >= (int)sizeof(path))
		return cs_error_set(e, -ENAMETOOLONG, "the path of the store is too long");
	s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock < 0)
		return cs_error_errno(e, -errno, "cannot open the lock file %s", path);
	if (flock(s->lock, LOCK_EX | LOCK_NB) < 0)
		return cs_error_set(e, -EBUSY, "another process has the store %s open; only one may", s->path);
	return 0;
}

int cs_store_random(int64_t *ret, struct cs_error *e)
{
	uint64_t n = 0;
	while ((n & INT64_MAX) == 0)
		if (getrandom(&n, sizeof(n), 0) != sizeof(n))
			return cs_error_errno(e, -errno, "cannot get random bytes");
	*ret = (int64_t)(n & INT64_MAX);
	return 0;
}

static int make_schema(struct cs_store *s, struct cs_error *e)
{
	int64_t epoch;
	if (cs_store_random(&epoch, e) < 0)
		return e->code;
	char *text = sqlite3_mprintf("BEGIN IMMEDIATE; %s INSERT INTO meta VALUES (1, %lld, 1, %Q);"
				     "PRAGMA application_id = 1129531215; PRAGMA user_version = %d; COMMIT",
		schema, (long long)epoch, s->trust_domain, CS_STORE_SCHEMA);
	int r = sqlite3_exec(s->db, text, NULL, NULL, NULL) == SQLITE_OK ? 0 : cs_db_error(s, "make the tables", e);
	sqlite3_free(text);
	return r;
}

static int pragma_int(struct cs_store *s, const char *text, int *ret, struct cs_error *e)
{
	sqlite3_stmt *q = NULL;
	int r = sqlite3_prepare_v2(s->db, text, -1, &q, NULL) == SQLITE_OK ? cs_db_row(s, q, "read the schema", e)
									   : cs_db_error(s, "read the schema", e);
	*ret = r == 1 ? sqlite3_column_int(q, 0) : 0;
	sqlite3_finalize(q);
	return r < 0 ? r : 0;
}

static int check_schema(struct cs_store *s, struct cs_error *e)
{
	int version, tables;
	int r = pragma_int(s, "PRAGMA user_version", &version, e);
	if (r == 0)
		r = pragma_int(s, "SELECT count(*) FROM sqlite_master", &tables, e);
	if (r < 0)
		return r;
	if (version == 0 && tables == 0)
		return make_schema(s, e);
	if (version != CS_STORE_SCHEMA)
		return cs_error_set(e, -EPROTO,
			"%s has schema %d, this program knows %d: it is another program's or a newer version's; "
			"nothing was "
			"changed",
			s->path, version, CS_STORE_SCHEMA);
	return 0;
}

static int prepare(struct cs_store *s, struct cs_error *e)
{
	for (int i = 0; i < Q_COUNT; i++)
		if (sqlite3_prepare_v3(s->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->q[i], NULL) != SQLITE_OK)
			return cs_db_error(s, "prepare a statement", e);
	sqlite3_stmt *q = cs_db_query(s, Q_REVISION);
	int r = cs_db_row(s, q, "read the epoch", e);
	if (r < 0)
		return r;
	if (r == 0)
		return cs_error_set(e, -EPROTO, "%s has no epoch: it is damaged", s->path);
	s->epoch = (uint64_t)sqlite3_column_int64(q, 0);
	s->revision = (uint64_t)sqlite3_column_int64(q, 1);
	r = 0;
	if (strcmp(cs_db_text(q, 2), s->trust_domain) != 0)
		r = cs_error_reason(e, -EINVAL, CS_R_TRUST_DOMAIN_MISMATCH,
			"the store %s belongs to the trust domain %s, not to %s", s->path, cs_db_text(q, 2),
			s->trust_domain);
	sqlite3_reset(q);
	return r;
}

static int open_db(struct cs_store *s, struct cs_error *e)
{
	if (sqlite3_open_v2(s->path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW, NULL) !=
		SQLITE_OK)
		return cs_db_error(s, "open the store", e);
	sqlite3_extended_result_codes(s->db, 1);
	/* Exclusive: no shared memory file, and nobody else reads half of it. */
	if (sqlite3_exec(s->db,
		    "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
		    "PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON",
		    NULL, NULL, NULL) != SQLITE_OK)
		return cs_db_error(s, "set up the store", e);
	int r = check_schema(s, e);
	return r < 0 ? r : prepare(s, e);
}

int cs_store_open(const struct cs_store_config *config, struct cs_store **ret, struct cs_error *e)
{
	struct cs_store *s = cs_xcalloc(1, sizeof(*s));
	s->lock = -1;
	s->path = cs_xstrdup(config->path);
	s->trust_domain = cs_xstrdup(config->trust_domain);
	s->spiffe_id_template = cs_xstrdup(config->spiffe_id_template);
	s->quarantine_ms = config->address_quarantine_ms;
	s->clock = config->clock ? config->clock : &cs_clock_system;
	int r = cs_spiffe_template_check(s->spiffe_id_template, s->trust_domain, e);
	if (r == 0)
		r = take_lock(s, e);
	if (r == 0)
		r = open_db(s, e);
	if (r < 0) {
		cs_store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

void cs_store_close(struct cs_store *s)
{
	if (!s)
		return;
	for (int i = 0; i < Q_COUNT; i++)
		sqlite3_finalize(s->q[i]);
	sqlite3_close(s->db);
	if (s->lock >= 0)
		close(s->lock);
	free(s->path);
	free(s->trust_domain);
	free(s->spiffe_id_template);
	free(s);
}

/* --- SPIFFE IDs from the template --- */

#define ID_MARK "{id}"

char *cs_spiffe_template_fill(const char *template, uint32_t id)
{
	const char *mark = strstr(template, ID_MARK);
	char *out = NULL;
	if (!mark || asprintf(&out, "%.*s%u%s", (int)(mark - template), template, id, mark + strlen(ID_MARK)) < 0)
		return NULL;
	return out;
}

int cs_spiffe_template_check(const char *template, const char *trust_domain, struct cs_error *e)
{
	const char *mark = strstr(template, ID_MARK);
	if (!mark || strstr(mark + 1, ID_MARK))
		return cs_error_set(e, -EINVAL,
			"'%s' must have " ID_MARK " exactly once, or two identities would get the same SPIFFE ID",
			template);
	struct cs_spiffe_id id;
	char *text = cs_mem_check(cs_spiffe_template_fill(template, CS_IDENTITY_MAX)), domain[CS_TRUST_DOMAIN_MAX + 1];
	int r = cs_spiffe_id_parse(&id, text, strlen(text), e);
	free(text);
	if (r < 0)
		return cs_error_prefix(e, "the template '%s' makes no SPIFFE ID", template);
	cs_spiffe_id_domain(&id, domain);
	if (strcmp(domain, trust_domain) != 0)
		return cs_error_reason(e, -EINVAL, CS_R_TRUST_DOMAIN_MISMATCH,
			"the template '%s' names another trust domain than %s", template, trust_domain);
	return 0;
}

/* --- reading --- */

static void tell(const struct cs_fact_sink *sink, const struct cs_fact *fact)
{
	sink->change(sink->data, NULL, fact);
}

static int load_claims(struct cs_store *s, const struct cs_fact_sink *sink, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_ALL_CLAIMS);
	int r;
	while ((r = cs_db_row(s, q, "read the claims", e)) == 1) {
		struct cs_store_claim claim = {.node = cs_db_text(q, 0),
			.endpoint = cs_db_text(q, 1),
			.identity = (uint32_t)sqlite3_column_int64(q, 2)};
		sqlite3_stmt *a = cs_db_query(s, Q_ADDRESS_OF_CLAIM);
		cs_db_bind_text(a, 1, claim.node);
		cs_db_bind_text(a, 2, claim.endpoint);
		int ar = 0;
		while (claim.naddrs < 2 * CS_FAMILY_ADDRS_MAX && (ar = cs_db_row(s, a, "read the addresses", e)) == 1)
			cs_db_addr(a, 0, &claim.addrs[claim.naddrs++]);
		sqlite3_reset(a);
		if (ar < 0)
			return ar;
		tell(sink, &(struct cs_fact){.kind = CS_FACT_CLAIM, .claim = claim});
	}
	return r;
}

static int load_nodes(struct cs_store *s, const struct cs_fact_sink *sink, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_ALL_NODES);
	int r;
	while ((r = cs_db_row(s, q, "read the nodes", e)) == 1) {
		struct cs_store_node node = {.name = cs_db_text(q, 0),
			.port = (uint32_t)sqlite3_column_int64(q, 1),
			.path = cs_db_text(q, 2)};
		sqlite3_stmt *a = cs_db_query(s, Q_NODE_ADDRESS_OF);
		cs_db_bind_text(a, 1, node.name);
		int ar = 0;
		while (node.naddrs < CS_NODE_ADDRS_MAX && (ar = cs_db_row(s, a, "read the addresses of nodes", e)) == 1)
			cs_db_addr(a, 0, &node.addrs[node.naddrs++]);
		sqlite3_reset(a);
		if (ar < 0)
			return ar;
		tell(sink, &(struct cs_fact){.kind = CS_FACT_NODE, .node = node});
	}
	return r;
}

static int load_prefixes(struct cs_store *s, const struct cs_fact_sink *sink, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_ALL_PREFIXES);
	int r;
	while ((r = cs_db_row(s, q, "read the prefixes", e)) == 1) {
		struct cs_ip ip;
		cs_db_addr(q, 1, &ip);
		struct cs_prefix_identity prefix = {.id = CS_ID_LOCAL_SCOPE | (uint32_t)sqlite3_column_int64(q, 0)};
		prefix.prefix.family = ip.len == 4 ? 4 : 6;
		prefix.prefix.bits = (uint8_t)sqlite3_column_int(q, 2);
		memcpy(prefix.prefix.addr, ip.bytes, ip.len);
		tell(sink, &(struct cs_fact){.kind = CS_FACT_PREFIX, .prefix = prefix});
	}
	return r;
}

int cs_store_load(struct cs_store *s, const struct cs_fact_sink *sink, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_ALL_IDENTITIES);
	int r;
	while ((r = cs_db_row(s, q, "read the identities", e)) == 1) {
		struct cs_store_identity identity = {.id = (uint32_t)sqlite3_column_int64(q, 0),
			.labels = cs_db_text(q, 1),
			.spiffe_id = cs_db_text(q, 2),
			.incarnation = (uint64_t)sqlite3_column_int64(q, 3)};
		tell(sink, &(struct cs_fact){.kind = CS_FACT_IDENTITY, .identity = identity});
	}
	if (r == 0)
		r = load_nodes(s, sink, e);
	if (r == 0)
		r = load_claims(s, sink, e);
	if (r == 0)
		r = load_prefixes(s, sink, e);
	if (r == 0)
		sink->revision(sink->data, s->epoch, s->revision);
	return r;
}

int cs_store_find(struct cs_store *s, const char *labels, uint32_t *ret, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_IDENTITY_FIND);
	cs_db_bind_text(q, 1, labels);
	int r = cs_db_row(s, q, "look for an identity", e);
	*ret = r == 1 ? (uint32_t)sqlite3_column_int64(q, 0) : 0;
	sqlite3_reset(q);
	return r < 0 ? r : 0;
}

void cs_store_op_fini(struct cs_store_op *op)
{
	free(op->spiffe_id);
	for (size_t i = 0; i < op->nreleased; i++)
		free(op->released[i]);
	free(op->released);
	op->spiffe_id = NULL;
	op->released = NULL;
	op->nreleased = 0;
}

static void forget_answer(struct cs_store_op *op)
{
	cs_store_op_fini(op);
	op->result = 0;
	op->error = (struct cs_error){0};
	op->changed = op->created = false;
	op->identity = 0;
	op->incarnation = 0;
}

static int end_quarantines(struct cs_store *s, struct cs_error *e)
{
	sqlite3_stmt *q = cs_db_query(s, Q_QUARANTINE_OVER);
	sqlite3_bind_int64(q, 1, s->now_unix_ms);
	return cs_db_run(s, q, "end quarantines", e);
}

int cs_store_commit(struct cs_store *s, struct cs_store_op *const *ops, size_t n, const struct cs_fact_sink *sink,
	uint64_t *ret_revision, struct cs_error *e)
{
	(void)sink;
	bool changed = false;
	int r = cs_db_run(s, cs_db_query(s, Q_BEGIN), "begin", e);
	if (r < 0)
		return r;
	s->now_unix_ms = s->clock->unix_ms(s->clock->data);
	for (size_t i = 0; i < n && r == 0; i++) {
		forget_answer(ops[i]);
		r = cs_store_apply(s, ops[i], e);
		changed |= ops[i]->changed;
	}
	if (r == 0 && changed)
		r = end_quarantines(s, e);
	if (r == 0 && changed) {
		sqlite3_stmt *q = cs_db_query(s, Q_SET_REVISION);
		sqlite3_bind_int64(q, 1, (sqlite3_int64)(s->revision + 1));
		r = cs_db_run(s, q, "count the revision", e);
	}
	if (r == 0 && changed)
		r = cs_db_run(s, cs_db_query(s, Q_COMMIT), "commit", e);
	if (r == 0 && changed)
		s->revision++;
	if (r < 0 || !changed)
		sqlite3_step(cs_db_query(s, Q_ROLLBACK)); /* fails where a failed commit rolled back by itself */
	sqlite3_reset(s->q[Q_ROLLBACK]);
	for (size_t i = 0; i < n && r < 0; i++)
		forget_answer(ops[i]);
	*ret_revision = s->revision;
	return r;
}
