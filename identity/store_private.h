/* The inside of the store, for store.c and store_ops.c only. */
#ifndef CS_STORE_PRIVATE_H
#define CS_STORE_PRIVATE_H

#include <sqlite3.h>
#include "store.h"

#define CS_STORE_SCHEMA 1
CS_MUST_USE int cs_store_find(struct cs_store *store, const char *labels, uint32_t *ret, struct cs_error *e);

/* One statement per line of the enum, prepared once. */
enum statement {
	Q_BEGIN,
	Q_COMMIT,
	Q_ROLLBACK,
	Q_REVISION,
	Q_SET_REVISION,
	Q_IDENTITY_FIND,
	Q_IDENTITY_NEXT,
	Q_SPIFFE_FIND,
	Q_IDENTITY_ADD,
	Q_CLAIM_FIND,
	Q_CLAIM_COUNT,
	Q_CLAIM_PUT,
	Q_CLAIM_DEL,
	Q_CLAIM_OF_NODE,
	Q_ADDRESS_FIND,
	Q_ADDRESS_OF_CLAIM,
	Q_ADDRESS_ADD,
	Q_ADDRESS_DEL,
	Q_QUARANTINE_FIND,
	Q_QUARANTINE_ADD,
	Q_QUARANTINE_DEL,
	Q_QUARANTINE_OVER,
	Q_NODE_FIND,
	Q_NODE_PUT,
	Q_NODE_ADDRESS_FIND,
	Q_NODE_ADDRESS_OF,
	Q_NODE_ADDRESS_ADD,
	Q_NODE_ADDRESS_DEL,
	Q_PREFIX_FIND,
	Q_PREFIX_ADD,
	Q_ALL_IDENTITIES,
	Q_ALL_NODES,
	Q_ALL_CLAIMS,
	Q_ALL_PREFIXES,
	Q_COUNT
};

struct cs_store {
	sqlite3 *db;
	sqlite3_stmt *q[Q_COUNT];
	int lock;
	char *path, *trust_domain, *spiffe_id_template;
	uint64_t epoch, revision;
	int64_t quarantine_ms, now_unix_ms;
	const struct cs_clock *clock;
};

int cs_db_error(struct cs_store *s, const char *what, struct cs_error *e);
sqlite3_stmt *cs_db_query(struct cs_store *s, enum statement which);
void cs_db_bind_text(sqlite3_stmt *q, int i, const char *text);
void cs_db_bind_addr(sqlite3_stmt *q, int i, const struct cs_ip *addr);
/* A statement without rows. */
int cs_db_run(struct cs_store *s, sqlite3_stmt *q, const char *what, struct cs_error *e);
/* 1: there is a row, 0: none. The caller resets the statement after reading the row (cs_db_query does it as well). */
int cs_db_row(struct cs_store *s, sqlite3_stmt *q, const char *what, struct cs_error *e);
const char *cs_db_text(sqlite3_stmt *q, int i);
void cs_db_addr(sqlite3_stmt *q, int i, struct cs_ip *ret);
CS_MUST_USE int cs_store_random(int64_t *ret, struct cs_error *e); /* positive */
char *cs_spiffe_template_fill(const char *template, uint32_t id);
/* One operation inside the transaction: 0 (done, or refused in op->result), or < 0: give the whole batch up. */
int cs_store_apply(struct cs_store *s, struct cs_store_op *op, struct cs_error *e);

#endif
