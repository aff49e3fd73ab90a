/* Nodes of a large cluster, played towards a real cluster role over mTLS:
 *
 *	bench_scale load TARGET CA.pem CA.key NODES ENDPOINTS LABEL_SETS
 *		NODES say Hello; as many as it takes claim ENDPOINTS, 1,000 each
 *	bench_scale run TARGET CA.pem CA.key STREAMS SECONDS RATE ENDPOINTS_SOCK INTERFACE...
 *		STREAMS nodes follow the directory, while endpoints on the interfaces are registered anew, with another
 *		address each time, RATE times a second, at a real node role
 *
 * Prints JSON. `run` prints "begin" and "end" around what is measured. */
#include <arpa/inet.h>
#include <countersign/v1/cluster.pb-c.h>
#include <countersign/v1/endpoints.pb-c.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "certificates.h"
#include "grpc.h"
#include "loop.h"
#include "mem.h"
#include "../measure.h"

#define DOMAIN_NAME   "example.org"
#define CLAIMS_OF_ONE 1000
#define AT_A_TIME     64 /* connections that are being made */
#define MESSAGE_MAX   (64u << 20)
#define SETTLE_MS     2000
#define LATENCIES_MAX 20000000
#define OWN_NODE      "bench"

struct node {
	struct bench *b;
	struct cs_grpc_tls tls;
	SSL_CTX *ctx;
	struct cs_grpc_channel *channel;
	struct cs_grpc_client_call *stream;
	uint32_t number;
	bool greeted, synced;
};

struct bench {
	struct cs_loop loop;
	const char *target;
	struct issuer issuer;
	struct node *nodes;
	uint32_t n, opened, greeted, done;
	uint32_t endpoints, sets;
	bool follow; /* then stay; else go when all is said */
	uint64_t epoch, revision;
	/* run */
	struct cs_grpc_channel *agent;
	char **interfaces;
	uint32_t ninterfaces, changes, changes_max, interval_us;
	int64_t *sent_ns; /* by change */
	uint32_t *latencies_us;
	size_t nlatencies;
	uint64_t batches, records;
	struct cs_timer tick, wait;
	int64_t begin_ns;
	uint64_t begin_bytes, end_bytes;
	bool measuring;
};

static void need_status(const struct cs_grpc_status *status, const char *what)
{
	if (status->code == CS_GRPC_OK)
		return;
	fprintf(stderr, "bench: %s: %s: %s\n", what, cs_grpc_code_name(status->code), status->message);
	exit(1);
}

static int64_t now_ns(const struct bench *b)
{
	return b->loop.clock->mono_ns(NULL);
}

/* Bytes that this process has read; from sockets, nearly all of them. */
static uint64_t bytes_read(void)
{
	char line[128];
	uint64_t n = 0;
	FILE *f = fopen("/proc/self/io", "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "rchar: %" SCNu64, &n) == 1)
			break;
	if (f)
		fclose(f);
	return n;
}

/* --- a node --- */

static SSL_CTX *hook_context(void *data, struct cs_error *e)
{
	(void)e;
	return ((struct node *)data)->ctx;
}

static int hook_peer(const STACK_OF(X509) * chain, char name[CS_GRPC_PEER_NAME], void *data, struct cs_error *e)
{
	(void)chain;
	(void)data;
	(void)e;
	snprintf(name, CS_GRPC_PEER_NAME, "cluster");
	return 0;
}

static void address_of(uint32_t number, uint8_t first, uint8_t bytes[4], Countersign__V1__Address *ret)
{
	bytes[0] = first;
	bytes[1] = (uint8_t)(number >> 16);
	bytes[2] = (uint8_t)(number >> 8);
	bytes[3] = (uint8_t)number;
	countersign__v1__address__init(ret);
	ret->ip = (ProtobufCBinaryData){.len = 4, .data = bytes};
}

static void open_some(struct bench *b);
static void node_done(struct node *n);

/* --- claims --- */

static void on_claimed(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__ReconcileClaimsReply *reply = (const Countersign__V1__ReconcileClaimsReply *)message;
	need_status(status, "ReconcileClaims");
	for (size_t i = 0; i < reply->n_replies; i++)
		if (reply->replies[i]->refused && reply->replies[i]->refused->name[0]) {
			fprintf(stderr, "bench: a claim is refused: %s\n", reply->replies[i]->refused->detail);
			exit(1);
		}
	node_done(data);
}

struct claim {
	Countersign__V1__ClaimRequest request;
	Countersign__V1__Label labels[2], *label_refs[2];
	Countersign__V1__Address address, *address_ref;
	char id[32], app[32], ns[32];
	uint8_t bytes[4];
};

static void fill_claim(struct claim *c, uint32_t number, uint32_t set)
{
	static char source[] = "k8s", app[] = "app", ns[] = "io.kubernetes.pod.namespace";
	countersign__v1__claim_request__init(&c->request);
	snprintf(c->id, sizeof(c->id), "pod-%u", number);
	snprintf(c->app, sizeof(c->app), "app-%u", set % 650);
	snprintf(c->ns, sizeof(c->ns), "team-%u", set / 650);
	for (int i = 0; i < 2; i++) {
		countersign__v1__label__init(&c->labels[i]);
		c->labels[i].source = source;
		c->labels[i].key = i ? ns : app;
		c->labels[i].value = i ? c->ns : c->app;
		c->label_refs[i] = &c->labels[i];
	}
	address_of(number, 11, c->bytes, &c->address);
	c->address_ref = &c->address;
	c->request.id = c->id;
	c->request.labels = c->label_refs;
	c->request.n_labels = 2;
	c->request.addresses = &c->address_ref;
	c->request.n_addresses = 1;
}

/* True if it has some. */
static bool claim_all(struct node *n)
{
	struct bench *b = n->b;
	uint32_t first = n->number * CLAIMS_OF_ONE;
	if (first >= b->endpoints)
		return false;
	uint32_t count = b->endpoints - first < CLAIMS_OF_ONE ? b->endpoints - first : CLAIMS_OF_ONE;
	struct claim *claims = cs_xcalloc(count, sizeof(*claims));
	Countersign__V1__ClaimRequest **refs = cs_xcalloc(count, sizeof(*refs));
	Countersign__V1__ReconcileClaimsRequest all = COUNTERSIGN__V1__RECONCILE_CLAIMS_REQUEST__INIT;
	struct cs_error e;
	for (uint32_t i = 0; i < count; i++) {
		fill_claim(&claims[i], first + i, (first + i) % b->sets);
		refs[i] = &claims[i].request;
	}
	all.claims = refs;
	all.n_claims = count;
	bench_need(cs_grpc_unary(n->channel, &countersign__v1__cluster__descriptor, "ReconcileClaims", &all.base, NULL,
			   on_claimed, n, NULL, &e),
		&e);
	free(refs);
	free(claims);
	return true;
}

/* --- the directory --- */

static void note_endpoint(struct bench *b, const Countersign__V1__Endpoint *m)
{
	if (strcmp(m->node, OWN_NODE) != 0 || m->n_addresses != 1 || m->addresses[0]->ip.len != 4)
		return;
	const uint8_t *ip = m->addresses[0]->ip.data;
	uint32_t change = (uint32_t)ip[1] << 16 | (uint32_t)ip[2] << 8 | ip[3];
	if (change >= b->changes_max || b->sent_ns[change] == 0 || b->nlatencies == LATENCIES_MAX)
		return;
	b->latencies_us[b->nlatencies++] = (uint32_t)((now_ns(b) - b->sent_ns[change]) / 1000);
}

static void on_batch(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)call;
	struct node *n = data;
	struct bench *b = n->b;
	const Countersign__V1__DirectoryBatch *batch = (const Countersign__V1__DirectoryBatch *)message;
	if (!n->synced) { /* the first word: it is heard */
		n->synced = true;
		if (n->number > 0 || batch->synced)
			node_done(n);
		else
			n->synced = false; /* the first one looks where the directory is */
	}
	if (n->number == 0 && batch->synced) {
		b->epoch = batch->position->epoch;
		b->revision = batch->position->revision;
	}
	if (!b->measuring)
		return;
	b->batches += batch->complete;
	b->records += batch->n_records;
	for (size_t i = 0; i < batch->n_records; i++)
		if (batch->records[i]->record_case == COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT)
			note_endpoint(b, batch->records[i]->endpoint);
}

static void on_stream_end(const struct cs_grpc_status *status, void *data)
{
	struct node *n = data;
	n->stream = NULL;
	if (status->code != CS_GRPC_CANCELLED)
		need_status(status, "Directory.Follow");
}

/* The first one learns the position, from a list of nodes; the others go on from there, as after a failover: a full state
 * for each of them is another matter, and much more. */
static void follow(struct node *n)
{
	struct bench *b = n->b;
	Countersign__V1__FollowRequest in = COUNTERSIGN__V1__FOLLOW_REQUEST__INIT;
	Countersign__V1__Position position = COUNTERSIGN__V1__POSITION__INIT;
	Countersign__V1__Kind kind = COUNTERSIGN__V1__KIND__KIND_DEPENDS_ON;
	struct cs_error e;
	position.epoch = b->epoch;
	position.revision = b->revision;
	if (n->number == 0) {
		in.kinds = &kind;
		in.n_kinds = 1;
	} else {
		in.resume = &position;
	}
	bench_need(cs_grpc_stream(n->channel, &countersign__v1__directory__descriptor, "Follow", &in.base, NULL,
			   on_batch, on_stream_end, n, &n->stream, &e),
		&e);
}

/* --- Hello --- */

static void on_hello(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	(void)message;
	struct node *n = data;
	need_status(status, "Hello");
	n->greeted = true;
	n->b->greeted++;
	if (n->b->follow)
		follow(n);
	else if (!claim_all(n))
		node_done(n);
}

static void on_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct node *n = data;
	if (state != CS_GRPC_READY || n->greeted) {
		if (n->greeted && n->b->measuring && error)
			fprintf(stderr, "bench: a node lost its connection: %s\n", error->text);
		return;
	}
	Countersign__V1__HelloRequest in = COUNTERSIGN__V1__HELLO_REQUEST__INIT;
	Countersign__V1__Address address, *ref = &address;
	uint8_t bytes[4];
	struct cs_error e;
	address_of(n->number + 1, 10, bytes, &address);
	in.addresses = &ref;
	in.n_addresses = 1;
	in.port = 4250;
	in.path = (char *)(uintptr_t) "unknown";
	bench_need(cs_grpc_unary(channel, &countersign__v1__cluster__descriptor, "Hello", &in.base, NULL, on_hello, n,
			   NULL, &e),
		&e);
}

static void open_node(struct bench *b, uint32_t number)
{
	struct node *n = &b->nodes[number];
	char name[32];
	struct cs_error e;
	snprintf(name, sizeof(name), "node-%u", number);
	*n = (struct node){.b = b, .number = number, .ctx = node_context(&b->issuer, DOMAIN_NAME, name)};
	n->tls = (struct cs_grpc_tls){.context = hook_context, .peer = hook_peer, .data = n};
	const struct cs_grpc_channel_options options = {.target = b->target,
		.tls = &n->tls,
		.limits = {.message_max = MESSAGE_MAX, .unpack_max = 8 * MESSAGE_MAX},
		.keep = true,
		.on_state = on_state,
		.data = n};
	bench_need(cs_grpc_channel_new(&b->loop, &options, &n->channel, &e), &e);
}

static void begin(struct bench *b);

static void node_closed(void *data)
{
	SSL_CTX_free(((struct node *)data)->ctx);
}

static void node_done(struct node *n)
{
	struct bench *b = n->b;
	b->done++;
	if (!b->follow)
		cs_grpc_channel_close(n->channel, node_closed, n);
	open_some(b);
	if (b->follow && b->done == b->n)
		begin(b);
}

static void open_some(struct bench *b)
{
	/* The first one alone: the others want to know what it learns. */
	while (b->opened < b->n && b->opened - b->done < AT_A_TIME && (b->opened == 0 || b->done > 0 || !b->follow))
		open_node(b, b->opened++);
}

/* --- changes --- */

static void on_registered(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	(void)message;
	(void)data;
	need_status(status, "RegisterEndpoint");
}

static void change_one(struct bench *b)
{
	static char source[] = "k8s", key[] = "app";
	uint32_t k = b->changes++, which = k % b->ninterfaces;
	Countersign__V1__RegisterRequest in = COUNTERSIGN__V1__REGISTER_REQUEST__INIT;
	Countersign__V1__EndpointSpec spec = COUNTERSIGN__V1__ENDPOINT_SPEC__INIT;
	Countersign__V1__Address address, *address_ref = &address;
	Countersign__V1__Label label = COUNTERSIGN__V1__LABEL__INIT, *label_ref = &label;
	Countersign__V1__Step step = COUNTERSIGN__V1__STEP__STEP_REGISTERED;
	struct cs_error e;
	uint8_t bytes[4];
	char id[32], value[32];
	snprintf(id, sizeof(id), "e%u", which);
	snprintf(value, sizeof(value), "bench-%u", which);
	label.source = source;
	label.key = key;
	label.value = value;
	address_of(k, 12, bytes, &address);
	spec.id = id;
	spec.labels = &label_ref;
	spec.n_labels = 1;
	spec.addresses = &address_ref;
	spec.n_addresses = 1;
	spec.interface = b->interfaces[which];
	in.spec = &spec;
	in.wait_for = &step;
	in.n_wait_for = 1;
	b->sent_ns[k] = now_ns(b);
	bench_need(cs_grpc_unary(b->agent, &countersign__v1__endpoints__descriptor, "RegisterEndpoint", &in.base, NULL,
			   on_registered, b, NULL, &e),
		&e);
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void finish(struct cs_timer *timer)
{
	struct bench *b = timer->data;
	qsort(b->latencies_us, b->nlatencies, sizeof(*b->latencies_us), by_value);
	printf("{\"changes\": %u, \"streams\": %u, \"heard\": %zu, \"batches\": %" PRIu64 ", \"records\": %" PRIu64
	       ", \"bytes\": %" PRIu64 ", \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n",
		b->changes, b->n, b->nlatencies, b->batches, b->records, b->end_bytes - b->begin_bytes,
		b->nlatencies ? b->latencies_us[b->nlatencies / 2] / 1000.0 : 0,
		b->nlatencies ? b->latencies_us[b->nlatencies * 99 / 100] / 1000.0 : 0);
	fflush(stdout);
	exit(0); /* thousands of connections go with the process */
}

static void on_tick(struct cs_timer *timer)
{
	struct bench *b = timer->data;
	int64_t due = (now_ns(b) - b->begin_ns) / 1000 / b->interval_us;
	while (b->changes < due && b->changes < b->changes_max)
		change_one(b);
	if (b->changes < b->changes_max || b->wait.data)
		return;
	cs_timer_stop(&b->tick);
	b->wait.data = b;
	b->end_bytes = bytes_read();
	puts("end");
	fflush(stdout);
	cs_timer_start(&b->wait, SETTLE_MS, 0);
}

static void measure(struct cs_timer *timer)
{
	struct bench *b = timer->data;
	puts("begin");
	fflush(stdout);
	b->measuring = true;
	b->begin_bytes = bytes_read();
	b->begin_ns = now_ns(b);
	timer->data = NULL;
	timer->fn = finish;
	cs_timer_start(&b->tick, 1, 1);
}

static void begin(struct bench *b)
{
	cs_timer_start(&b->wait, SETTLE_MS, 0); /* what Hello changed is heard by all */
}

/* --- main --- */

static void run(struct bench *b, int argc, char **argv)
{
	static char target[512];
	struct cs_error e;
	uint32_t rate = (uint32_t)atoi(argv[2]);
	b->follow = true;
	b->n = (uint32_t)atoi(argv[0]);
	b->changes_max = (uint32_t)atoi(argv[1]) * rate;
	b->interval_us = 1000000 / rate;
	snprintf(target, sizeof(target), "unix:%s", argv[3]);
	b->interfaces = argv + 4;
	b->ninterfaces = (uint32_t)argc - 4;
	b->sent_ns = cs_xcalloc(b->changes_max, sizeof(int64_t));
	b->latencies_us = cs_xcalloc(LATENCIES_MAX, sizeof(uint32_t));
	const struct cs_grpc_channel_options options = {.target = target};
	bench_need(cs_grpc_channel_new(&b->loop, &options, &b->agent, &e), &e);
	cs_timer_init(&b->tick, &b->loop, on_tick, b);
	cs_timer_init(&b->wait, &b->loop, measure, b);
}

int main(int argc, char **argv)
{
	static struct bench b;
	struct cs_error e;
	if (argc < 8) {
		fprintf(stderr, "bench: see the head of bench_scale.c\n");
		return 2;
	}
	b.target = argv[2];
	issuer_load(&b.issuer, argv[3], argv[4]);
	bench_need(cs_loop_init(&b.loop, NULL, &e), &e);
	if (strcmp(argv[1], "run") == 0) {
		run(&b, argc - 5, argv + 5);
	} else {
		b.n = (uint32_t)atoi(argv[5]);
		b.endpoints = (uint32_t)atoi(argv[6]);
		b.sets = (uint32_t)atoi(argv[7]);
	}
	b.nodes = cs_xcalloc(b.n, sizeof(*b.nodes));
	int64_t start = now_ns(&b);
	open_some(&b);
	cs_loop_run(&b.loop);
	printf("{\"nodes\": %u, \"ms\": %.0f}\n", b.done, (double)(now_ns(&b) - start) / 1e6);
	return 0;
}
