#include "floor.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../measure.h"

static void run_sql(sqlite3 *db, const char *sql)
{
	char *error = NULL;
	if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK) {
		fprintf(stderr, "bench: %s: %s\n", sql, error);
		exit(1);
	}
}

double floor_sqlite_rows_per_s(const char *file, size_t rows, size_t group)
{
	sqlite3 *db;
	sqlite3_stmt *put;
	char key[64], value[200];
	if (sqlite3_open(file, &db) != SQLITE_OK)
		exit(1);
	run_sql(db, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
		    "CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID");
	if (sqlite3_prepare_v2(db, "INSERT OR REPLACE INTO kv VALUES (?1, ?2)", -1, &put, NULL) != SQLITE_OK)
		exit(1);
	memset(value, 'x', sizeof(value));
	double start = bench_ms();
	for (size_t i = 0; i < rows; i++) {
		if (i % group == 0)
			run_sql(db, "BEGIN IMMEDIATE");
		snprintf(key, sizeof(key), "identity/%zu", i);
		sqlite3_bind_text(put, 1, key, -1, SQLITE_STATIC);
		sqlite3_bind_blob(put, 2, value, sizeof(value), SQLITE_STATIC);
		if (sqlite3_step(put) != SQLITE_DONE)
			exit(1);
		sqlite3_reset(put);
		if ((i + 1) % group == 0)
			run_sql(db, "COMMIT");
	}
	double took = bench_ms() - start;
	sqlite3_finalize(put);
	sqlite3_close(db);
	return (double)rows * 1e3 / took;
}

static void on_txn(
	const struct cs_etcd_result *result, bool succeeded, const struct cs_etcd_kv *kvs, size_t n, void *data)
{
	(void)kvs;
	(void)n;
	if (result->outcome != CS_ETCD_DONE || !succeeded) {
		fprintf(stderr, "bench: a bare transaction failed: %s\n", result->error.text);
		exit(1);
	}
	*(bool *)data = true;
}

double floor_etcd_ms(struct cs_loop *loop, struct cs_etcd *etcd, unsigned n)
{
	char key[32], value[200];
	bool done = false;
	struct cs_error e;
	snprintf(key, sizeof(key), "/floor/%u", n);
	memset(value, 'x', sizeof(value));
	struct cs_etcd_compare absent = {.key = {key, strlen(key)}, .what = CS_ETCD_MOD_REVISION, .is = 0};
	struct cs_etcd_op put = {.kind = CS_ETCD_PUT, .key = {key, strlen(key)}, .value = {value, sizeof(value)}};
	struct cs_etcd_txn txn = {.compares = &absent, .ncompares = 1, .then = &put, .nthen = 1};
	double start = bench_ms();
	if (cs_etcd_txn(etcd, &txn, 5000, on_txn, &done, &e) < 0) {
		fprintf(stderr, "bench: %s\n", e.text);
		exit(1);
	}
	while (!done)
		uv_run(&loop->uv, UV_RUN_ONCE);
	return bench_ms() - start;
}
