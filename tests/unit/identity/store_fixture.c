#include "store_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
#include "store_etcd.h"

char store_dir[] = "/tmp/countersign-store-XXXXXX", store_path[64];
int64_t store_unix_ms, store_mono_ms;
struct cs_store_config store_config;

static int64_t clock_unix(void *data)
{
	(void)data;
	return store_unix_ms;
}
static int64_t clock_mono(void *data)
{
	(void)data;
	return store_mono_ms;
}
static const struct cs_clock test_clock = {.mono_ms = clock_mono, .mono_ns = clock_mono, .unix_ms = clock_unix};

void store_pass_ms(int64_t ms)
{
	store_unix_ms += ms;
	store_mono_ms += ms;
}

/* COUNTERSIGN_TEST_ETCD: the endpoints; each test begins with a prefix of its own. */
static const char *endpoints[CS_ETCD_ENDPOINTS_MAX];
static char endpoints_text[1024], prefix[64];
static struct cs_etcd_config etcd_config = {.client.endpoints = endpoints, .prefix = prefix, .lease_ms = 2000};

bool store_is_etcd(void)
{
	return etcd_config.client.nendpoints > 0;
}

static void read_endpoints(void)
{
	const char *text = getenv("COUNTERSIGN_TEST_ETCD");
	char *rest;
	if (!text || !text[0])
		return;
	snprintf(endpoints_text, sizeof(endpoints_text), "%s", text);
	for (char *one = strtok_r(endpoints_text, ",", &rest); one; one = strtok_r(NULL, ",", &rest))
		endpoints[etcd_config.client.nendpoints++] = one;
}

static void new_prefix(void)
{
	static unsigned n;
	snprintf(prefix, sizeof(prefix), "/test/%d-%u/", (int)getpid(), n++);
}

void store_remove_files(void)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
	for (size_t i = 0; i < 4; i++) {
		char name[96];
		snprintf(name, sizeof(name), "%s%s", store_path, suffixes[i]);
		unlink(name);
	}
}

int store_group_setup(void **state)
{
	(void)state;
	if (!mkdtemp(store_dir))
		return -1;
	snprintf(store_path, sizeof(store_path), "%s/store.db", store_dir);
	read_endpoints();
	return 0;
}

int store_group_teardown(void **state)
{
	(void)state;
	store_remove_files();
	return rmdir(store_dir);
}

int store_setup(void **state)
{
	(void)state;
	store_remove_files();
	store_unix_ms = 1800000000000;
	store_mono_ms = 5000;
	store_config = (struct cs_store_config){.path = store_path,
		.trust_domain = "example.org",
		.spiffe_id_template = STORE_TEMPLATE,
		.clock = &test_clock};
	new_prefix();
	if (store_is_etcd())
		store_config.etcd = &etcd_config;
	return 0;
}

struct cs_store *store_open(void)
{
	struct cs_store *s = NULL;
	struct cs_error e = {0};
	if (cs_store_open(&store_config, &s, &e) < 0)
		fail_msg("%s", e.text);
	if (cs_store_lead_now(s, "test", &e) < 0)
		fail_msg("%s", e.text);
	return s;
}

int store_open_error(struct cs_error *e)
{
	struct cs_store *s = NULL;
	int r = cs_store_open(&store_config, &s, e);
	if (r == 0) {
		r = cs_store_lead_now(s, "test", e);
		cs_store_close(s);
	}
	return r;
}

struct cs_ip ip4(uint32_t n)
{
	return (struct cs_ip){.len = 4, .bytes = {10, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}};
}

struct cs_store_op claim_op(const char *node, const char *endpoint, const char *labels, uint32_t ip)
{
	return (struct cs_store_op){.kind = CS_STORE_CLAIM,
		.claim = {.node = node, .endpoint = endpoint, .addrs = {ip4(ip)}, .naddrs = 1},
		.labels = labels};
}

int commit_op(struct cs_store *s, struct cs_store_op *op, uint64_t *revision)
{
	struct cs_error e = {0};
	uint64_t ignored;
	struct cs_store_op *ops[] = {op};
	int r = cs_store_commit(s, ops, 1, NULL, revision ? revision : &ignored, &e);
	if (r < 0)
		print_message("commit: %s\n", e.text);
	return r;
}

uint32_t claim_now(struct cs_store *s, const char *node, const char *endpoint, const char *labels, uint32_t ip)
{
	struct cs_store_op op = claim_op(node, endpoint, labels, ip);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	if (op.result < 0)
		fail_msg("%s", op.error.text);
	cs_store_op_fini(&op);
	return op.identity;
}

enum cs_reason try_claim(struct cs_store *s, const char *node, const char *endpoint, const char *labels, uint32_t ip)
{
	struct cs_store_op op = claim_op(node, endpoint, labels, ip);
	assert_int_equal(commit_op(s, &op, NULL), 0);
	cs_store_op_fini(&op);
	return op.result < 0 ? op.error.reason : CS_R_NONE;
}

void release_now(struct cs_store *s, const char *node, const char *endpoint)
{
	struct cs_store_op op = {.kind = CS_STORE_RELEASE, .claim = {.node = node, .endpoint = endpoint}};
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.nreleased, 1);
	cs_store_op_fini(&op);
}

struct cs_store_gc gc_now(struct cs_store *s, int64_t grace_ms, size_t max)
{
	struct cs_store_op op = {.kind = CS_STORE_GC, .gc = {.grace_ms = grace_ms, .max = max}};
	assert_int_equal(commit_op(s, &op, NULL), 0);
	assert_int_equal(op.result, 0);
	return op.gc;
}

/* --- what would be collected --- */

static void plan_mark(void *data, const struct cs_store_identity *identity)
{
	(void)identity;
	((struct planned *)data)->mark++;
}
static void plan_marked(void *data, const struct cs_store_identity *identity, int64_t left_ms)
{
	(void)identity;
	((struct planned *)data)->marked++;
	((struct planned *)data)->left_ms = left_ms;
}
static void plan_remove(void *data, const struct cs_store_identity *identity)
{
	(void)identity;
	((struct planned *)data)->remove++;
}
static void plan_resting(void *data, const struct cs_store_retired *retired, int64_t left_ms)
{
	(void)retired;
	((struct planned *)data)->resting++;
	((struct planned *)data)->left_ms = left_ms;
}

struct planned plan_now(struct cs_store *s, int64_t grace_ms)
{
	struct planned planned = {0};
	struct cs_store_gc_plan plan = {.mark = plan_mark,
		.marked = plan_marked,
		.remove = plan_remove,
		.resting = plan_resting,
		.data = &planned};
	cs_store_gc_plan(s, grace_ms, &plan);
	return planned;
}

/* --- what was told --- */

static void say(struct told *told, const char *fmt, ...) CS_PRINTF(2, 3);
static void say(struct told *told, const char *fmt, ...)
{
	size_t n = strlen(told->text);
	va_list args;
	va_start(args, fmt);
	vsnprintf(told->text + n, sizeof(told->text) - n, fmt, args);
	va_end(args);
}

static void say_fact(struct told *told, const struct cs_fact *f)
{
	char ip[CS_IP_TEXT];
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		say(told, "identity %u %s %s%s", f->identity.id, f->identity.labels, f->identity.spiffe_id,
			f->identity.idle_since_store_ms ? " idle" : "");
		break;
	case CS_FACT_RETIRED:
		say(told, "retired %u", f->retired.id);
		break;
	case CS_FACT_NODE:
		say(told, "node %s %zu %u %s%s", f->node.name, f->node.naddrs, f->node.port, f->node.path,
			f->node.gone ? " gone" : "");
		break;
	case CS_FACT_CLAIM:
		say(told, "claim %s %s %u %s", f->claim.node, f->claim.endpoint, f->claim.identity,
			f->claim.naddrs ? cs_ip_text(&f->claim.addrs[0], ip) : "-");
		break;
	case CS_FACT_ADDRESS:
		say(told, "address %s %u", cs_ip_text(&f->address.ip, ip), f->address.identity);
		break;
	case CS_FACT_PREFIX:
		say(told, "prefix %u /%u v%u", f->prefix.id, f->prefix.prefix.bits, f->prefix.prefix.family);
		break;
	case CS_FACT_REVOCATION:
		say(told, "revocation %s %.*s", f->revocation.id, (int)f->revocation.n,
			(const char *)f->revocation.body);
		break;
	case CS_FACT_DOCUMENTS:
		say(told, "documents %s %zu", f->documents.set, f->documents.n);
		break;
	case CS_FACT_BLOB:
		say(told, "blob %zu", f->blob.n);
		break;
	case CS_FACT_KINDS:
		fail();
	}
	say(told, "\n");
}

static void on_change(void *data, const struct cs_fact *before, const struct cs_fact *now)
{
	struct told *told = data;
	assert_true(before || now);
	assert_true(!before || !now || before->kind == now->kind);
	say(told, "%s", before && now ? "~ " : now ? "+ " : "- ");
	say_fact(told, now ? now : before);
	if (before || !now)
		return;
	told->identities += now->kind == CS_FACT_IDENTITY;
	told->nodes += now->kind == CS_FACT_NODE;
	told->claims += now->kind == CS_FACT_CLAIM;
	told->prefixes += now->kind == CS_FACT_PREFIX;
	if (now->kind == CS_FACT_IDENTITY) {
		assert_true(now->identity.incarnation != 0);
		told->incarnations ^= now->identity.incarnation;
	}
}

static void on_revision(void *data, uint64_t epoch, uint64_t revision)
{
	struct told *told = data;
	if (told->epoch == epoch)
		assert_true(revision > told->revision); /* never back, never twice */
	told->epoch = epoch;
	told->revision = revision;
	say(told, "= %llu\n", (unsigned long long)revision);
}

struct cs_fact_sink told_sink(struct told *told)
{
	return (struct cs_fact_sink){.change = on_change, .revision = on_revision, .data = told};
}

void store_list(struct cs_store *s, struct told *told)
{
	*told = (struct told){0};
	struct cs_fact_sink sink = told_sink(told);
	struct cs_error e;
	assert_int_equal(cs_store_load(s, &sink, &e), 0);
}
