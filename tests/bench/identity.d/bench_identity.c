/* The allocator of identityd's cluster role (its queue, worker, rules, store and directory; no gRPC) under clients that each
 * ask one claim after the other, beside the bare cost of the store in the same run. Started by tests/bench/identity.py.
 *
 *	bench_identity sqlite DIR		allocations on SQLite
 *	bench_identity etcd URL			allocations on etcd
 *	bench_identity fill FILE N		a store with N identities
 *	bench_identity fill-used FILE N		... and an endpoint of each
 *
 * One line of JSON on standard output. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cluster.h"
#include "floor.h"
#include "fsyncs.h"
#include "mem.h"
#include "store_etcd.h"
#include "../measure.h"

#define CLIENTS_MAX   64
#define HITS          200000
#define NEW_1         2000
#define NEW_64        30000
#define FLOOR_ROWS    200000
#define ROUNDS        40
#define EACH          25
#define QUARANTINE_MS 75000

struct bench {
	struct cs_loop loop;
	struct cs_metrics *metrics;
	struct cs_status *status;
	struct cs_numbers numbers;
	struct cs_label_filter *filter;
	struct cs_cluster *cluster;
	bool closed;
};

/* ---- the cluster role ---- */

static void open_bench(struct bench *b, const char *file, const struct cs_etcd_config *etcd, int64_t quarantine_ms)
{
	const struct cs_numbers_config numbers = {.clusters_max = 255, .trust_domain = "example.org"};
	struct cs_error e;
	bench_need(cs_loop_init(&b->loop, NULL, &e), &e);
	b->metrics = cs_metrics_new("bench");
	b->status = cs_status_new(&b->loop, "bench", b->metrics);
	bench_need(cs_numbers_init(&b->numbers, &numbers, &e), &e);
	bench_need(cs_label_filter_new(true, NULL, &b->filter, &e), &e);
	struct cs_cluster_options options = {.loop = &b->loop,
		.name = "bench",
		.core = {.store_path = file,
			.etcd = etcd,
			.trust_domain = "example.org",
			.spiffe_id_template = "spiffe://example.org/identity/{id}",
			.advertise = "bench",
			.quarantine_ms = quarantine_ms,
			.id_quarantine_ms = 93600000,
			.svid_max_life_ms = 86400000,
			.numbers = &b->numbers,
			.label_filter = b->filter,
			.placement_file = "",
			.policy_dir = ""},
		.metrics = b->metrics,
		.status = b->status};
	bench_need(cs_cluster_new(&options, &b->cluster, &e), &e);
	while (!cs_cluster_leads(b->cluster))
		uv_run(&b->loop.uv, UV_RUN_ONCE);
}

static void on_closed(void *data)
{
	((struct bench *)data)->closed = true;
}

static void close_bench(struct bench *b)
{
	cs_cluster_close(b->cluster, on_closed, b);
	while (!b->closed)
		uv_run(&b->loop.uv, UV_RUN_ONCE);
	cs_cluster_free(b->cluster);
	cs_label_filter_free(b->filter);
	cs_numbers_fini(&b->numbers);
}

/* ---- clients ---- */

enum what { NEW, HIT };

struct run {
	struct bench *bench;
	enum what what;
	unsigned first; /* number of the first label set */
	size_t total, asked, done;
	unsigned turn[CLIENTS_MAX];
};

static void on_done(struct cs_ask *ask, void *data);

/* A client has one endpoint, whose labels change each time: to a set that nobody had (NEW), or between two that all have
 * had (HIT). Both are a durable change. */
static void ask_next(struct run *run, unsigned client)
{
	char text[128];
	struct cs_error e;
	struct cs_ask *ask = cs_ask_new(CS_ASK_CLAIM, "node", 1);
	struct cs_claim *claim = &ask->claims[0];
	unsigned set = run->first + (run->what == NEW ? (unsigned)run->asked : run->turn[client]++ % 2);
	snprintf(text, sizeof(text), "k8s:app=bench-%u;k8s:io.kubernetes.pod.namespace=bench;k8s:tier=front", set);
	bench_need(cs_labels_parse(text, strlen(text), &claim->labels, &e), &e);
	snprintf(text, sizeof(text), "endpoint-%u", client);
	claim->id = cs_xstrdup(text);
	claim->addrs[0] = (struct cs_ip){.len = 4, .bytes = {10, 0, (uint8_t)(client >> 8), (uint8_t)client}};
	claim->naddrs = 1;
	ask->uid = client;
	ask->done = on_done;
	ask->data = run;
	run->asked++;
	bench_need(cs_cluster_ask_take(run->bench->cluster, ask, &e), &e);
}

static void on_done(struct cs_ask *ask, void *data)
{
	struct run *run = data;
	unsigned client = ask->uid;
	bench_need(ask->result, &ask->error);
	bench_need(ask->claims[0].result, &ask->claims[0].error);
	cs_ask_free(ask);
	run->done++;
	if (run->asked < run->total)
		ask_next(run, client);
}

/* Per second. */
static double run_clients(struct bench *b, enum what what, unsigned first, unsigned clients, size_t total)
{
	struct run run = {.bench = b, .what = what, .first = first, .total = total};
	double start = bench_ms();
	for (unsigned i = 0; i < clients; i++)
		ask_next(&run, i);
	while (run.done < total)
		uv_run(&b->loop.uv, UV_RUN_ONCE);
	return (double)total * 1e3 / (bench_ms() - start);
}

static void print(json_t *o)
{
	if (!o || json_dumpf(o, stdout, JSON_COMPACT) < 0)
		exit(1);
	putchar('\n');
	json_decref(o);
}

/* ---- what is measured ---- */

static void sqlite(const char *dir)
{
	struct bench b = {0};
	char file[512], floor[512];
	snprintf(file, sizeof(file), "%s/store.db", dir);
	snprintf(floor, sizeof(floor), "%s/floor.db", dir);
	open_bench(&b, file, NULL, QUARANTINE_MS);
	run_clients(&b, NEW, 0, CLIENTS_MAX, 2); /* the two sets of the hits */
	double new_1 = run_clients(&b, NEW, 1000, 1, NEW_1);
	unsigned long syncs = fsyncs();
	double new_64 = run_clients(&b, NEW, 10000, CLIENTS_MAX, NEW_64);
	double fsyncs_per_new = (double)(fsyncs() - syncs) / NEW_64;
	syncs = fsyncs();
	double hit_1 = run_clients(&b, HIT, 0, 1, NEW_1);
	syncs = fsyncs();
	double hit_64 = run_clients(&b, HIT, 0, CLIENTS_MAX, HITS);
	double fsyncs_per_hit = (double)(fsyncs() - syncs) / HITS;
	close_bench(&b);
	double rows_1 = floor_sqlite_rows_per_s(floor, NEW_1, 1);
	remove(floor);
	double rows_64 = floor_sqlite_rows_per_s(floor, FLOOR_ROWS, CLIENTS_MAX);
	print(json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "new_1", new_1, "new_64", new_64, "fsyncs_per_new",
		fsyncs_per_new, "hit_1", hit_1, "hit_64", hit_64, "fsyncs_per_hit", fsyncs_per_hit, "rows_1", rows_1,
		"rows_64", rows_64));
}

static void on_etcd_closed(void *data)
{
	*(bool *)data = true;
}

static void etcd(const char *url)
{
	struct bench b = {0};
	static double news[ROUNDS * EACH], txns[ROUNDS * EACH];
	struct cs_etcd_config config = {.client = {.endpoints = &url, .nendpoints = 1}};
	struct cs_etcd *client;
	struct cs_error e;
	bool closed = false;
	open_bench(&b, "", &config, QUARANTINE_MS);
	bench_need(cs_etcd_new(&b.loop, &config.client, &client, &e), &e);
	run_clients(&b, NEW, 0, 2, 2);
	floor_etcd_ms(&b.loop, client, ROUNDS * EACH); /* connects */
	for (unsigned i = 0; i < ROUNDS * EACH; i++) { /* in turns, EACH of a kind */
		unsigned round = i / EACH, at = i % EACH;
		if (at == 0)
			for (unsigned k = 0; k < EACH; k++)
				txns[round * EACH + k] = floor_etcd_ms(&b.loop, client, round * EACH + k);
		news[i] = 1e3 / run_clients(&b, NEW, 1000 + i, 1, 1);
	}
	double new_64 = run_clients(&b, NEW, 10000, CLIENTS_MAX, NEW_64 / 3);
	double hit_64 = run_clients(&b, HIT, 0, CLIENTS_MAX, NEW_64);
	cs_etcd_close(client, on_etcd_closed, &closed);
	while (!closed)
		uv_run(&b.loop.uv, UV_RUN_ONCE);
	close_bench(&b);
	print(json_pack("{s:f, s:f, s:f, s:f}", "new_ms_p50", bench_median(news, ROUNDS * EACH), "txn_ms_p50",
		bench_median(txns, ROUNDS * EACH), "new_64", new_64, "hit_64", hit_64));
}

static struct cs_ask *ask_of(struct run *run, enum cs_ask_kind kind, unsigned i)
{
	char text[128];
	snprintf(text, sizeof(text), "node-%u", i / CS_NODE_ENDPOINTS_MAX);
	struct cs_ask *ask = cs_ask_new(kind, text, 1);
	snprintf(text, sizeof(text), "endpoint-%u", i);
	ask->claims[0].id = cs_xstrdup(text);
	ask->done = on_done;
	ask->data = run;
	return ask;
}

static struct cs_ask *claim_of(struct run *run, unsigned i)
{
	char text[128];
	struct cs_error e;
	struct cs_ask *ask = ask_of(run, CS_ASK_CLAIM, i);
	struct cs_claim *claim = &ask->claims[0];
	snprintf(text, sizeof(text), "k8s:app=app-%u;k8s:io.kubernetes.pod.namespace=ns-%u;k8s:tier=front", i, i % 500);
	bench_need(cs_labels_parse(text, strlen(text), &claim->labels, &e), &e);
	claim->addrs[0] = (struct cs_ip){.len = 4, .bytes = {10, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i}};
	claim->naddrs = 1;
	return ask;
}

static void ask_all(struct bench *b, unsigned n, struct cs_ask *(*make)(struct run *, unsigned))
{
	struct run run = {.bench = b};
	struct cs_error e;
	for (unsigned i = 0; i < n; i++) {
		bench_need(cs_cluster_ask_take(b->cluster, make(&run, i), &e), &e);
		while (i - run.done > 4096)
			uv_run(&b->loop.uv, UV_RUN_ONCE);
	}
	while (run.done < n)
		uv_run(&b->loop.uv, UV_RUN_ONCE);
}

static struct cs_ask *release_of(struct run *run, unsigned i)
{
	return ask_of(run, CS_ASK_RELEASE, i);
}

/* An endpoint of each identity, on as many nodes as that takes; then, unless they are to stay, they go. */
static void fill(const char *file, unsigned n, bool used)
{
	struct bench b = {0};
	open_bench(&b, file, NULL, 0); /* what goes leaves nothing behind */
	ask_all(&b, n, claim_of);
	if (!used)
		ask_all(&b, n, release_of);
	close_bench(&b);
	print(json_pack("{s:i}", "identities", (int)n));
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "sqlite") == 0)
		sqlite(argv[2]);
	else if (argc == 3 && strcmp(argv[1], "etcd") == 0)
		etcd(argv[2]);
	else if (argc == 4 && strncmp(argv[1], "fill", 4) == 0)
		fill(argv[2], (unsigned)atoi(argv[3]), strcmp(argv[1], "fill-used") == 0);
	else {
		fprintf(stderr, "usage: bench_identity sqlite DIR | etcd URL | fill FILE N | fill-used FILE N\n");
		return 2;
	}
	return 0;
}
