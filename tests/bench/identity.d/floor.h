/* What the stores cost without anything of ours: a bare SQLite group commit, a bare etcd transaction by our client. */
#ifndef CS_BENCH_FLOOR_H
#define CS_BENCH_FLOOR_H

#include <stddef.h>
#include "etcd.h"
#include "loop.h"

/* Rows per second into one table of keys and values, `group` of them in a transaction: WAL, synchronous FULL. */
double floor_sqlite_rows_per_s(const char *file, size_t rows, size_t group);

/* One transaction that compares one key and puts one, in milliseconds; runs the loop. */
double floor_etcd_ms(struct cs_loop *loop, struct cs_etcd *etcd, unsigned n);

#endif
