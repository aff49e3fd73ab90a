/* A store for tests: SQLite in a directory of its own, or (COUNTERSIGN_TEST_ETCD) etcd. One clock for all, which moves only when a test moves it. */
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include "store.h"

#define STORE_TEMPLATE "spiffe://example.org/identity/{id}"

extern int64_t store_unix_ms, store_mono_ms; /* the clock */
extern struct cs_store_config store_config;  /* for the next open; setup resets it */
extern char store_dir[], store_path[];

/* Time passes: both clocks. */
void store_pass_ms(int64_t ms);

bool store_is_etcd(void);
int store_group_setup(void **state);
int store_group_teardown(void **state);
/* A new, empty store, and the configuration as it was; the store is not open. */
int store_setup(void **state);
void store_remove_files(void);

/* Open, and (etcd) leading. */
struct cs_store *store_open(void);
/* Of another trust domain and so on: the error. */
int store_open_error(struct cs_error *e);

struct cs_ip ip4(uint32_t n);
struct cs_store_op claim_op(const char *node, const char *endpoint, const char *labels, uint32_t ip);
/* One operation; what commit returns. Answer in op. */
int commit_op(struct cs_store *s, struct cs_store_op *op, uint64_t *revision);
/* Must be taken; the identity. */
uint32_t claim_now(struct cs_store *s, const char *node, const char *endpoint, const char *labels, uint32_t ip);
/* CS_R_NONE: taken. */
enum cs_reason try_claim(struct cs_store *s, const char *node, const char *endpoint, const char *labels, uint32_t ip);
void release_now(struct cs_store *s, const char *node, const char *endpoint);
struct cs_store_gc gc_now(struct cs_store *s, int64_t grace_ms, size_t max);

/* How many a garbage collection would mark, leave marked and delete, how many rest; left of the last of those that wait. */
struct planned {
	unsigned mark, marked, remove, resting;
	int64_t left_ms;
};
struct planned plan_now(struct cs_store *s, int64_t grace_ms);

/* What a sink was told, as text: "+ identity 256 k8s:app=a;", "- claim n1 a", "~ ..." and "= <revision>". */
struct told {
	char text[65536];
	unsigned identities, nodes, claims, prefixes; /* puts of new ones */
	uint64_t epoch, revision, incarnations;
};
struct cs_fact_sink told_sink(struct told *told);
/* Everything that is in the store. */
void store_list(struct cs_store *s, struct told *told);

#endif
