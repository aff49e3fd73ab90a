/* What the two files of the SQLite backend share. */
#ifndef CS_STORE_SQLITE_H
#define CS_STORE_SQLITE_H

#include <sqlite3.h>
#include "store.h"

#define CS_SQLITE_TABLE       "CREATE TABLE fact (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID"
#define CS_SQLITE_APPLICATION 1129531215 /* "CS_O" */

int cs_sqlite_error(sqlite3 *db, const char *path, const char *what, struct cs_error *e);
/* The tables of schema 1 become facts, in one transaction. */
CS_MUST_USE int cs_sqlite_carry_over(sqlite3 *db, const struct cs_store_config *config, struct cs_error *e);

#endif
