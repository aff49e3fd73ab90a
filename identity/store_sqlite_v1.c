/* Schema 1 had a table for each kind of fact. What is in them is carried over, in one transaction, when such a file is
 * opened; afterwards an older program refuses it. */
#include "store_private.h"

#include <countersign/maps.h>
#include <errno.h>
#include "mem.h"
#include "store_sqlite.h"

struct carrying {
	sqlite3 *db;
	const struct cs_store_config *config;
	sqlite3_stmt *put;
	int64_t now_ms;
	struct cs_error *e;
};

static int fail(const struct carrying *c)
{
	return cs_sqlite_error(c->db, c->config->path, "carry the store over from schema 1", c->e);
}

static int put(struct carrying *c, const char *key, uint8_t *value_take, size_t n)
{
	sqlite3_bind_text(c->put, 1, key, -1, SQLITE_STATIC);
	sqlite3_bind_blob(c->put, 2, value_take, (int)n, SQLITE_STATIC);
	int r = sqlite3_step(c->put) == SQLITE_DONE ? 0 : fail(c);
	sqlite3_reset(c->put);
	sqlite3_clear_bindings(c->put);
	free(value_take);
	return r;
}

static int put_fact(struct carrying *c, const struct cs_fact *fact)
{
	char key[CS_FACT_KEY_MAX];
	size_t n;
	uint8_t *value = cs_fact_encode(fact, &n);
	return put(c, cs_fact_key(fact, key), value, n);
}

static const char *text(sqlite3_stmt *q, int i)
{
	const char *t = (const char *)sqlite3_column_text(q, i);
	return t ? t : "";
}

static struct cs_ip address(sqlite3_stmt *q, int i)
{
	struct cs_ip ip = {0};
	int n = sqlite3_column_bytes(q, i);
	if (n == 4 || n == 16) {
		ip.len = (uint8_t)n;
		memcpy(ip.bytes, sqlite3_column_blob(q, i), (size_t)n);
	}
	return ip;
}

/* `each` for every row. */
static int rows(struct carrying *c, const char *sql, int (*each)(struct carrying *c, sqlite3_stmt *q))
{
	sqlite3_stmt *q = NULL;
	int r = sqlite3_prepare_v2(c->db, sql, -1, &q, NULL) == SQLITE_OK ? 0 : fail(c), step = SQLITE_DONE;
	while (r == 0 && (step = sqlite3_step(q)) == SQLITE_ROW)
		r = each(c, q);
	if (r == 0 && step != SQLITE_DONE)
		r = fail(c);
	sqlite3_finalize(q);
	return r;
}

/* All addresses of one owner, by a query with one or two texts. */
static int addresses(
	struct carrying *c, const char *sql, const char *a, const char *b, struct cs_ip *ret, size_t max, size_t *ret_n)
{
	sqlite3_stmt *q = NULL;
	if (sqlite3_prepare_v2(c->db, sql, -1, &q, NULL) != SQLITE_OK)
		return fail(c);
	sqlite3_bind_text(q, 1, a, -1, SQLITE_STATIC);
	if (b)
		sqlite3_bind_text(q, 2, b, -1, SQLITE_STATIC);
	*ret_n = 0;
	int step = SQLITE_DONE;
	while (*ret_n < max && (step = sqlite3_step(q)) == SQLITE_ROW)
		ret[(*ret_n)++] = address(q, 0);
	int r = step == SQLITE_DONE || step == SQLITE_ROW ? 0 : fail(c);
	sqlite3_finalize(q);
	return r;
}

static int carry_identity(struct carrying *c, sqlite3_stmt *q)
{
	struct cs_fact fact = {.kind = CS_FACT_IDENTITY,
		.identity = {.id = (uint32_t)sqlite3_column_int64(q, 0),
			.labels = text(q, 1),
			.spiffe_id = text(q, 2),
			.incarnation = (uint64_t)sqlite3_column_int64(q, 3)}};
	return put_fact(c, &fact);
}

static int carry_node(struct carrying *c, sqlite3_stmt *q)
{
	struct cs_fact fact = {.kind = CS_FACT_NODE,
		.node = {.name = text(q, 0), .port = (uint32_t)sqlite3_column_int64(q, 1), .path = text(q, 2)}};
	int r = addresses(c, "SELECT ip FROM node_address WHERE node = ?1 ORDER BY position", fact.node.name, NULL,
		fact.node.addrs, CS_NODE_ADDRS_MAX, &fact.node.naddrs);
	return r < 0 ? r : put_fact(c, &fact);
}

static int carry_claim(struct carrying *c, sqlite3_stmt *q)
{
	struct cs_fact fact = {.kind = CS_FACT_CLAIM,
		.claim = {
			.node = text(q, 0), .endpoint = text(q, 1), .identity = (uint32_t)sqlite3_column_int64(q, 2)}};
	int r = addresses(c, "SELECT ip FROM claim_address WHERE node = ?1 AND endpoint = ?2 ORDER BY position",
		fact.claim.node, fact.claim.endpoint, fact.claim.addrs, 2 * CS_FAMILY_ADDRS_MAX, &fact.claim.naddrs);
	return r < 0 ? r : put_fact(c, &fact);
}

static int carry_prefix(struct carrying *c, sqlite3_stmt *q)
{
	struct cs_ip ip = address(q, 1);
	struct cs_fact fact = {.kind = CS_FACT_PREFIX,
		.prefix = {.id = CS_ID_LOCAL_SCOPE | (uint32_t)sqlite3_column_int64(q, 0),
			.prefix = {.family = ip.len == 4 ? 4 : 6, .bits = (uint8_t)sqlite3_column_int(q, 2)}}};
	memcpy(fact.prefix.prefix.addr, ip.bytes, ip.len);
	return put_fact(c, &fact);
}

/* It was measured on the wall clock; the whole of it begins anew, on the store's time. */
static int carry_quarantine(struct carrying *c, sqlite3_stmt *q)
{
	struct cs_fact fact = {.kind = CS_FACT_ADDRESS,
		.address = {.ip = address(q, 0),
			.identity = (uint32_t)sqlite3_column_int64(q, 1),
			.until_store_ms = c->now_ms + c->config->address_quarantine_ms}};
	return put_fact(c, &fact);
}

static int carry_meta(struct carrying *c, sqlite3_stmt *q)
{
	struct cs_meta meta = {.epoch = (uint64_t)sqlite3_column_int64(q, 0),
		.revision = (uint64_t)sqlite3_column_int64(q, 1) + 1,
		.store_ms = c->now_ms,
		.trust_domain = (char *)text(q, 2),
		.template = (char *)c->config->spiffe_id_template,
		.cluster_id = 0, /* there was no other */
		.tag = 1,
		.next_id = (uint32_t)sqlite3_column_int64(q, 3)};
	size_t n;
	uint8_t *value = cs_meta_encode(&meta, &n);
	return put(c, CS_STORE_KEY_META, value, n);
}

static int carry_all(struct carrying *c)
{
	static const struct {
		const char *sql;
		int (*each)(struct carrying *c, sqlite3_stmt *q);
	} tables[] = {
		{"SELECT epoch, revision, trust_domain, (SELECT max(id) + 1 FROM identity) FROM meta", carry_meta},
		{"SELECT id, labels, spiffe_id, incarnation FROM identity", carry_identity},
		{"SELECT name, port, path FROM node", carry_node},
		{"SELECT node, endpoint, identity FROM claim", carry_claim},
		{"SELECT number, ip, bits FROM prefix", carry_prefix},
		{"SELECT ip, identity FROM quarantine", carry_quarantine},
	};
	int r = sqlite3_prepare_v2(c->db, "INSERT INTO fact (key, value) VALUES (?1, ?2)", -1, &c->put, NULL) ==
				SQLITE_OK
			? 0
			: fail(c);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]) && r == 0; i++)
		r = rows(c, tables[i].sql, tables[i].each);
	sqlite3_finalize(c->put);
	return r;
}

int cs_sqlite_carry_over(sqlite3 *db, const struct cs_store_config *config, struct cs_error *e)
{
	const struct cs_clock *clock = config->clock;
	struct carrying c = {.db = db, .config = config, .now_ms = clock->unix_ms(clock->data), .e = e};
	char *end =
		sqlite3_mprintf("DROP TABLE claim_address; DROP TABLE claim; DROP TABLE node_address; DROP TABLE node;"
				"DROP TABLE quarantine; DROP TABLE prefix; DROP TABLE identity; DROP TABLE meta;"
				"PRAGMA user_version = %d; COMMIT",
			CS_STORE_SCHEMA);
	int r = sqlite3_exec(db, "BEGIN IMMEDIATE; " CS_SQLITE_TABLE, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(&c);
	if (r == 0)
		r = carry_all(&c);
	if (r == 0 && sqlite3_exec(db, end, NULL, NULL, NULL) != SQLITE_OK)
		r = fail(&c);
	if (r < 0)
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	sqlite3_free(end);
	return r;
}
