/* The store: no identity lost, none doubled, whatever happens to the process or the disk. */
#include "store_private.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <countersign/maps.h>
#include <sqlite3.h>
#include "mem.h"

#define TEMPLATE "spiffe://example.org/identity/{id}"

static char dir[] = "/tmp/countersign-store-XXXXXX", path[128];

static int64_t now_unix_ms = 1800000000000, quarantine_ms;

static int64_t clock_now(void *data)
{
	(void)data;
	return now_unix_ms;
}
static const struct cs_clock test_clock = {.mono_ms = clock_now, .mono_ns = clock_now, .unix_ms = clock_now};

static void remove_files(void)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", ".lock"};
	for (size_t i = 0; i < 4; i++) {
		char name[160];
		snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		unlink(name);
	}
}

static int setup(void **state)
{
	(void)state;
	remove_files();
	return 0;
}

static struct cs_store *open_store(void)
{
	struct cs_store_config config = {.path = path,
		.trust_domain = "example.org",
		.spiffe_id_template = TEMPLATE,
		.address_quarantine_ms = quarantine_ms,
		.clock = &test_clock};
	struct cs_store *s = NULL;
	struct cs_error e = {0};
	if (cs_store_open(&config, &s, &e) < 0)
		fail_msg("%s", e.text);
	return s;
}

static struct cs_ip ip4(uint32_t n)
{
	struct cs_ip ip = {.len = 4, .bytes = {10, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}};
	return ip;
}

static struct cs_store_op claim(const char *node, const char *endpoint, const char *labels, uint32_t ip)
{
	struct cs_store_op op = {.kind = CS_STORE_CLAIM,
		.claim = {.node = node, .endpoint = endpoint, .addrs = {ip4(ip)}, .naddrs = 1},
		.labels = labels};
	return op;
}

static int commit(struct cs_store *s, struct cs_store_op *op, uint64_t *revision)
{
	struct cs_error e;
	uint64_t ignored;
	struct cs_store_op *ops[] = {op};
	return cs_store_commit(s, ops, 1, NULL, revision ? revision : &ignored, &e);
}

static uint32_t claim_now(struct cs_store *s, const char *node, const char *endpoint, const char *labels, uint32_t ip)
{
	struct cs_store_op op = claim(node, endpoint, labels, ip);
	assert_int_equal(commit(s, &op, NULL), 0);
	assert_int_equal(op.result, 0);
	cs_store_op_fini(&op);
	return op.identity;
}

struct loaded {
	unsigned identities, nodes, claims, prefixes;
	uint64_t incarnations, epoch, revision;
	char text[4096];
};
static void on_change(void *data, const struct cs_fact *before, const struct cs_fact *now)
{
	struct loaded *l = data;
	size_t n = strlen(l->text), left = sizeof(l->text) - n;
	char ip[CS_IP_TEXT];
	assert_null(before);
	switch (now->kind) {
	case CS_FACT_IDENTITY:
		l->identities++;
		l->incarnations ^= now->identity.incarnation;
		assert_true(now->identity.incarnation != 0);
		snprintf(l->text + n, left, "%u %s %s\n", now->identity.id, now->identity.labels,
			now->identity.spiffe_id);
		break;
	case CS_FACT_NODE:
		l->nodes++;
		snprintf(l->text + n, left, "node %s %zu %u %s\n", now->node.name, now->node.naddrs, now->node.port,
			now->node.path);
		break;
	case CS_FACT_CLAIM:
		l->claims++;
		snprintf(l->text + n, left, "claim %s %s %u %s\n", now->claim.node, now->claim.endpoint,
			now->claim.identity, now->claim.naddrs ? cs_ip_text(&now->claim.addrs[0], ip) : "-");
		break;
	case CS_FACT_PREFIX:
		l->prefixes++;
		snprintf(l->text + n, left, "prefix %u /%u v%u\n", now->prefix.id, now->prefix.prefix.bits,
			now->prefix.prefix.family);
		break;
	default:
		break;
	}
}

static void on_revision(void *data, uint64_t epoch, uint64_t revision)
{
	struct loaded *l = data;
	l->epoch = epoch;
	l->revision = revision;
}

static uint64_t load(struct cs_store *s, struct loaded *l, uint64_t *epoch)
{
	*l = (struct loaded){0};
	struct cs_fact_sink sink = {.change = on_change, .revision = on_revision, .data = l};
	struct cs_error e;
	assert_int_equal(cs_store_load(s, &sink, &e), 0);
	*epoch = l->epoch;
	return l->revision;
}

static void test_reopen(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	struct loaded l;
	uint64_t epoch, again;
	assert_int_equal(load(s, &l, &epoch), 1);
	assert_true(epoch != 0);
	assert_string_equal(l.text, "");
	struct cs_store_op node = {.kind = CS_STORE_NODE,
		.node = {.name = "n1", .addrs = {ip4(1)}, .naddrs = 1, .port = 4250, .path = "unknown"}};
	assert_int_equal(commit(s, &node, NULL), 0);
	assert_true(node.changed);
	assert_int_equal(claim_now(s, "n1", "a", "k8s:app=a;", 100), 256);
	assert_int_equal(claim_now(s, "n1", "b", "k8s:app=b;", 101), 257);
	assert_int_equal(claim_now(s, "n2", "a", "k8s:app=a;", 102), 256);
	struct cs_store_op prefix = {.kind = CS_STORE_PREFIX,
		.prefix = {.prefix = {.family = 4, .bits = 8, .addr = {10}}, .id = CS_ID_LOCAL_SCOPE | 1}};
	uint64_t revision;
	assert_int_equal(commit(s, &prefix, &revision), 0);
	assert_int_equal(revision, 6);
	cs_store_close(s);

	s = open_store();
	assert_int_equal(load(s, &l, &again), 6);
	uint64_t incarnations = l.incarnations;
	assert_true(epoch == again);
	assert_string_equal(l.text, "256 k8s:app=a; spiffe://example.org/identity/256\n"
				    "257 k8s:app=b; spiffe://example.org/identity/257\n"
				    "node n1 1 4250 unknown\n"
				    "claim n1 a 256 10.0.0.100\nclaim n1 b 257 10.0.0.101\nclaim n2 a 256 10.0.0.102\n"
				    "prefix 16777217 /8 v4\n");
	cs_store_close(s);
	s = open_store();
	load(s, &l, &again);
	assert_true(l.incarnations == incarnations);
	cs_store_close(s);
}

static void test_what_is_there_is_no_revision(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	struct cs_store_op op = claim("n1", "a", "k8s:app=a;", 1);
	uint64_t revision;
	assert_int_equal(commit(s, &op, &revision), 0);
	assert_true(op.changed && op.created);
	assert_string_equal(op.spiffe_id, "spiffe://example.org/identity/256");
	assert_int_equal(revision, 2);
	assert_int_equal(commit(s, &op, &revision), 0);
	assert_false(op.changed || op.created);
	assert_int_equal(op.identity, 256);
	assert_string_equal(op.spiffe_id, "spiffe://example.org/identity/256");
	assert_int_equal(revision, 2);
	op.claim.addrs[0] = ip4(2);
	assert_int_equal(commit(s, &op, &revision), 0);
	assert_true(op.changed);
	assert_int_equal(revision, 3);
	cs_store_op_fini(&op);
	/* The old address is free again. */
	claim_now(s, "n2", "b", "k8s:app=b;", 1);
	struct cs_store_op only_revision = {.kind = CS_STORE_REVISION};
	assert_int_equal(commit(s, &only_revision, &revision), 0);
	assert_int_equal(revision, 5);
	cs_store_close(s);
}

static void test_refusals_leave_the_others(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	struct cs_store_op first = claim("n1", "b", "k8s:app=b;", 2), taken = claim("n2", "x", "k8s:app=x;", 1),
			   third = claim("n1", "c", "k8s:app=c;", 3);
	struct cs_store_op *ops[] = {&first, &taken, &third};
	struct cs_error e;
	uint64_t revision;
	assert_int_equal(cs_store_commit(s, ops, 3, NULL, &revision, &e), 0);
	assert_int_equal(first.result, 0);
	assert_int_equal(third.result, 0);
	assert_int_equal(taken.error.reason, CS_R_ADDRESS_TAKEN);
	assert_string_equal(taken.error.text, "10.0.0.1 belongs to endpoint 'a' on node n1");
	uint32_t id;
	assert_int_equal(cs_store_find(s, "k8s:app=x;", &id, &e), 0);
	assert_int_equal(id, 0); /* a refused claim makes no identity */
	assert_int_equal(third.identity, 258);
	for (int i = 0; i < 3; i++)
		cs_store_op_fini(ops[i]);
	struct cs_store_op node = {.kind = CS_STORE_NODE,
		.node = {.name = "n1", .addrs = {ip4(1)}, .naddrs = 1, .port = 4250, .path = "unknown"}};
	assert_int_equal(commit(s, &node, NULL), 0);
	assert_int_equal(node.error.reason, CS_R_NODE_ADDRESS_TAKEN); /* by an endpoint */
	node.node.addrs[0] = ip4(9);
	assert_int_equal(commit(s, &node, NULL), 0);
	assert_int_equal(node.result, 0);
	struct cs_store_op forged = claim("n2", "x", "k8s:app=x;", 9);
	assert_int_equal(commit(s, &forged, NULL), 0);
	assert_int_equal(forged.error.reason, CS_R_ADDRESS_TAKEN); /* of a node */
	assert_string_equal(forged.error.text, "10.0.0.9 is an address of node n1 itself");
	cs_store_op_fini(&forged);
	node.node.name = "n2";
	assert_int_equal(commit(s, &node, NULL), 0);
	assert_int_equal(node.error.reason, CS_R_NODE_ADDRESS_TAKEN);
	cs_store_close(s);
}

static void test_release_and_keep(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	struct loaded l;
	uint64_t epoch;
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	claim_now(s, "n1", "b", "k8s:app=b;", 2);
	claim_now(s, "n1", "c", "k8s:app=c;", 3);
	claim_now(s, "n2", "d", "k8s:app=a;", 4);
	struct cs_store_op op = {.kind = CS_STORE_RELEASE, .claim = {.node = "n1", .endpoint = "b"}};
	assert_int_equal(commit(s, &op, NULL), 0);
	assert_int_equal(op.nreleased, 1);
	assert_int_equal(commit(s, &op, NULL), 0);
	assert_int_equal(op.nreleased, 0);
	assert_false(op.changed);
	const char *keep[] = {"c", "not there"};
	struct cs_store_op rest = {.kind = CS_STORE_KEEP, .claim = {.node = "n1"}, .keep = keep, .nkeep = 2};
	assert_int_equal(commit(s, &rest, NULL), 0);
	assert_int_equal(rest.nreleased, 1);
	assert_string_equal(rest.released[0], "a");
	cs_store_op_fini(&rest);
	load(s, &l, &epoch);
	assert_int_equal(l.claims, 2);     /* n1/c, n2/d */
	assert_int_equal(l.identities, 3); /* identities stay */
	assert_int_equal(claim_now(s, "n3", "x", "k8s:app=b;", 1), 257);
	cs_store_close(s);
}

static enum cs_reason try_claim(
	struct cs_store *s, const char *node, const char *endpoint, const char *labels, uint32_t ip)
{
	struct cs_store_op op = claim(node, endpoint, labels, ip);
	assert_int_equal(commit(s, &op, NULL), 0);
	cs_store_op_fini(&op);
	return op.result < 0 ? op.error.reason : CS_R_NONE;
}

static void test_quarantine(void **state)
{
	(void)state;
	quarantine_ms = 75000;
	struct cs_store *s = open_store();
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	struct cs_store_op op = {.kind = CS_STORE_RELEASE, .claim = {.node = "n1", .endpoint = "a"}};
	assert_int_equal(commit(s, &op, NULL), 0);
	cs_store_op_fini(&op);
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 1), CS_R_ADDRESS_IN_QUARANTINE);
	cs_store_close(s); /* it outlives the process */
	s = open_store();
	now_unix_ms += 74999;
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 1), CS_R_ADDRESS_IN_QUARANTINE);
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 2), CS_R_NONE);
	/* The same identity may have it at once. */
	assert_int_equal(try_claim(s, "n2", "c", "k8s:app=a;", 1), CS_R_NONE);
	op.claim.node = "n2";
	op.claim.endpoint = "c";
	assert_int_equal(commit(s, &op, NULL), 0);
	cs_store_op_fini(&op);
	now_unix_ms += 75000;
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=b;", 1), CS_R_NONE);
	/* Other labels for the same endpoint: the address stays with the workload. */
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=c;", 1), CS_R_NONE);
	/* An address that the endpoint gave up is not another's. */
	assert_int_equal(try_claim(s, "n1", "b", "k8s:app=c;", 5), CS_R_NONE);
	assert_int_equal(try_claim(s, "n1", "d", "k8s:app=d;", 1), CS_R_ADDRESS_IN_QUARANTINE);
	/* A clock that was set back by far does not lock it up. */
	now_unix_ms -= 1000000;
	assert_int_equal(try_claim(s, "n1", "d", "k8s:app=d;", 1), CS_R_NONE);
	cs_store_close(s);
	quarantine_ms = 0;
}

static void refused_open(const char *trust_domain, const char *template, int code, const char *text)
{
	struct cs_store_config config = {.path = path, .trust_domain = trust_domain, .spiffe_id_template = template};
	struct cs_store *s = NULL;
	struct cs_error e = {0};
	assert_int_equal(cs_store_open(&config, &s, &e), code);
	assert_null(s);
	if (!strstr(e.text, text))
		fail_msg("'%s' is not in '%s'", text, e.text);
}

static void test_refused_stores(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	refused_open("example.org", TEMPLATE, -EBUSY, "another process has the store");
	cs_store_close(s);
	refused_open(
		"other.org", "spiffe://other.org/identity/{id}", -EINVAL, "belongs to the trust domain example.org");
	refused_open("example.org", "spiffe://example.org/identity/1", -EINVAL, "exactly once");
	refused_open("example.org", "spiffe://example.org/{id}/{id}", -EINVAL, "exactly once");
	refused_open("example.org", "spiffe://other.org/{id}", -EINVAL, "another trust domain");
	refused_open("example.org", "spiffe://example.org//{id}", -EINVAL, "makes no SPIFFE ID");
	sqlite3 *db;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 2", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	refused_open("example.org", TEMPLATE, -EPROTO, "schema 2");
	int fd = open(path, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, "this is not a database at all, and long enough to be looked at\n", 63), 63);
	close(fd);
	refused_open("example.org", TEMPLATE, -EIO, "not a database");
}

static void test_spiffe_ids_are_unique(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	claim_now(s, "n1", "a", "k8s:a=1;", 1);
	cs_store_close(s);
	/* As an earlier template might have left it. */
	sqlite3 *db;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "UPDATE identity SET spiffe_id = 'spiffe://example.org/identity/257'", NULL,
				 NULL, NULL),
		SQLITE_OK);
	sqlite3_close(db);
	s = open_store();
	struct cs_store_op op = claim("n1", "b", "k8s:b=1;", 2);
	assert_int_equal(commit(s, &op, NULL), 0);
	assert_int_equal(op.error.reason, CS_R_SPIFFE_ID_TAKEN);
	assert_false(op.changed);
	cs_store_op_fini(&op);
	cs_store_close(s);
}

static void test_exhausted(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	struct cs_store_op last = {0};
	uint32_t made = 0;
	while (last.result == 0) {
		enum { N = 256 };
		struct cs_store_op ops[N] = {0}, *refs[N];
		static char labels[N][32], nodes[N][32];
		for (uint32_t i = 0; i < N; i++) {
			snprintf(labels[i], sizeof(labels[i]), "k8s:n=%u;", made + i);
			snprintf(nodes[i], sizeof(nodes[i]), "n%u", (made + i) / 1000);
			ops[i] = (struct cs_store_op){.kind = CS_STORE_CLAIM,
				.claim = {.node = nodes[i], .endpoint = labels[i]},
				.labels = labels[i]};
			refs[i] = &ops[i];
		}
		struct cs_error e;
		uint64_t revision;
		assert_int_equal(cs_store_commit(s, refs, N, NULL, &revision, &e), 0);
		for (uint32_t i = 0; i < N; i++) {
			made += ops[i].result == 0;
			if (ops[i].result < 0)
				last = ops[i];
			cs_store_op_fini(&ops[i]);
		}
	}
	assert_int_equal(made, CS_IDENTITY_MAX - CS_IDENTITY_MIN + 1);
	assert_int_equal(last.error.reason, CS_R_IDENTITIES_EXHAUSTED);
	/* Who has one keeps it. */
	assert_int_equal(claim_now(s, "n99", "again", "k8s:n=0;", 1), 256);
	cs_store_close(s);
}

static void test_node_bound(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	struct cs_error e;
	struct cs_store_op *ops = cs_xcalloc(CS_NODE_ENDPOINTS_MAX + 1, sizeof(*ops));
	struct cs_store_op **refs = cs_xcalloc(CS_NODE_ENDPOINTS_MAX + 1, sizeof(*refs));
	char(*ids)[16] = cs_xcalloc(CS_NODE_ENDPOINTS_MAX + 1, sizeof(*ids));
	for (int i = 0; i <= CS_NODE_ENDPOINTS_MAX; i++) {
		snprintf(ids[i], sizeof(ids[i]), "e%d", i);
		ops[i] = (struct cs_store_op){
			.kind = CS_STORE_CLAIM, .claim = {.node = "n", .endpoint = ids[i]}, .labels = "k8s:a=b;"};
		refs[i] = &ops[i];
	}
	ops[CS_NODE_ENDPOINTS_MAX].labels = "k8s:other=1;";
	uint64_t revision;
	assert_int_equal(cs_store_commit(s, refs, CS_NODE_ENDPOINTS_MAX + 1, NULL, &revision, &e), 0);
	assert_int_equal(ops[CS_NODE_ENDPOINTS_MAX - 1].result, 0);
	assert_int_equal(ops[CS_NODE_ENDPOINTS_MAX].error.reason, CS_R_TOO_MANY);
	uint32_t id;
	assert_int_equal(cs_store_find(s, "k8s:other=1;", &id, &e), 0);
	assert_int_equal(id, 0);
	for (int i = 0; i <= CS_NODE_ENDPOINTS_MAX; i++)
		cs_store_op_fini(&ops[i]);
	free(ids);
	free(refs);
	free(ops);
	cs_store_close(s);
}

/* Claims and releases at random against a model: one identity per label set for ever, one owner per address. */
static void test_random(void **state)
{
	(void)state;
	struct cs_store *s = open_store();
	enum { LABELS = 12, IPS = 10, ENDPOINTS = 8, NODES = 3 };
	uint32_t id_of[LABELS] = {0}, rng = 88172645u;
	int owner[IPS]; /* node * ENDPOINTS + endpoint */
	memset(owner, 0xff, sizeof(owner));
	for (int round = 0; round < 4000; round++) {
		rng = rng * 1664525u + 1013904223u;
		uint32_t r = rng >> 4;
		int node = (int)(r % NODES), endpoint = (int)(r / 4 % ENDPOINTS), ip = (int)(r / 64 % IPS),
		    l = (int)(r / 1024 % LABELS);
		int who = node * ENDPOINTS + endpoint;
		char nodes[8], endpoints[8], labels[24];
		snprintf(nodes, sizeof(nodes), "n%d", node);
		snprintf(endpoints, sizeof(endpoints), "e%d", endpoint);
		snprintf(labels, sizeof(labels), "k8s:app=%d;", l);
		if (r / 65536 % 3 == 0) {
			struct cs_store_op op = {
				.kind = CS_STORE_RELEASE, .claim = {.node = nodes, .endpoint = endpoints}};
			assert_int_equal(commit(s, &op, NULL), 0);
			cs_store_op_fini(&op);
			for (int i = 0; i < IPS; i++)
				owner[i] = owner[i] == who ? -1 : owner[i];
		} else {
			struct cs_store_op op = claim(nodes, endpoints, labels, (uint32_t)ip);
			assert_int_equal(commit(s, &op, NULL), 0);
			if (owner[ip] >= 0 && owner[ip] != who) {
				assert_int_equal(op.error.reason, CS_R_ADDRESS_TAKEN);
			} else {
				assert_int_equal(op.result, 0);
				assert_true(id_of[l] == 0 || id_of[l] == op.identity);
				id_of[l] = op.identity;
				for (int i = 0; i < IPS; i++)
					owner[i] = owner[i] == who ? -1 : owner[i];
				owner[ip] = who;
			}
			cs_store_op_fini(&op);
		}
		if (round % 500 == 0) {
			cs_store_close(s);
			s = open_store();
		}
	}
	for (int a = 0; a < LABELS; a++)
		for (int b = 0; b < a; b++)
			assert_true(id_of[a] != id_of[b]);
	cs_store_close(s);
}

/* A disk that fills up: an error that says so, nothing half done, and it goes on when there is room again. */
static void disk_full_child(void)
{
	/* In a child with a mount namespace of its own. Exit codes tell which step failed. */
	if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) < 0)
		_exit(77);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount("none", dir, "tmpfs", 0, "size=512k") < 0)
		_exit(77);
	struct cs_store *s = open_store();
	char ballast[160];
	snprintf(ballast, sizeof(ballast), "%s/ballast", dir);
	int fd = open(ballast, O_WRONLY | O_CREAT, 0600), last = -1, r = 0;
	char zeros[1024] = {0};
	while (write(fd, zeros, sizeof(zeros)) > 0)
		;
	struct cs_error e = {0};
	for (int i = 0; i < 2000 && r == 0; i++) {
		char labels[32];
		snprintf(labels, sizeof(labels), "k8s:n=%d;", i);
		struct cs_store_op op = claim("n1", labels, labels, (uint32_t)i), *ops[] = {&op};
		uint64_t revision;
		r = cs_store_commit(s, ops, 1, NULL, &revision, &e);
		if (r == 0)
			last = i;
		else if (op.identity != 0 || op.changed)
			_exit(3); /* an answer to something that did not happen */
		cs_store_op_fini(&op);
	}
	if (r != -ENOSPC || !strstr(e.text, "disk under") || !strstr(e.text, "is full"))
		_exit(4);
	if (ftruncate(fd, 0) < 0)
		_exit(5);
	close(fd);
	uint32_t id = claim_now(s, "n1", "after", "k8s:after=1;", 99999);
	if (id != CS_IDENTITY_MIN + (uint32_t)last + 1)
		_exit(6); /* the failed one took a number */
	cs_store_close(s);
	s = open_store();
	struct loaded l;
	uint64_t epoch;
	load(s, &l, &epoch);
	if (l.identities != (unsigned)last + 2 || l.claims != l.identities)
		_exit(7);
	cs_store_close(s);
	exit(0);
}

static void test_disk_full(void **state)
{
	(void)state;
	pid_t pid = fork();
	if (pid == 0)
		disk_full_child();
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("needs a mount namespace\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* Killed in the middle of commits: what was answered is there, and what is there is consistent. */
static void killed_child(int out, uint32_t from)
{
	struct cs_store *s = open_store();
	for (uint32_t i = from;; i++) {
		char labels[32];
		snprintf(labels, sizeof(labels), "k8s:n=%u;", i);
		struct cs_store_op op = claim("n1", labels, labels, i);
		if (commit(s, &op, NULL) < 0 || op.result < 0)
			_exit(1);
		uint32_t answer[2] = {i, op.identity};
		if (write(out, answer, sizeof(answer)) != sizeof(answer))
			_exit(1);
		cs_store_op_fini(&op);
	}
}

static void test_killed(void **state)
{
	(void)state;
	static uint32_t answered[CS_NODE_ENDPOINTS_MAX];
	uint32_t n = 0;
	for (int round = 0; round < 20; round++) {
		int fds[2];
		assert_int_equal(pipe(fds), 0);
		pid_t pid = fork();
		if (pid == 0) {
			close(fds[0]);
			killed_child(fds[1], n);
		}
		close(fds[1]);
		uint32_t answer[2], goal = n + 1 + (uint32_t)round * 3 % 17;
		while (read(fds[0], answer, sizeof(answer)) == sizeof(answer)) {
			answered[answer[0]] = answer[1];
			n = answer[0] + 1;
			if (n >= goal)
				kill(pid, SIGKILL);
		}
		close(fds[0]);
		int status;
		waitpid(pid, &status, 0);
		assert_true(WIFSIGNALED(status));
		struct cs_store *s = open_store();
		for (uint32_t i = 0; i < n; i++) {
			char labels[32];
			uint32_t id;
			struct cs_error e;
			snprintf(labels, sizeof(labels), "k8s:n=%u;", i);
			assert_int_equal(cs_store_find(s, labels, &id, &e), 0);
			assert_int_equal(id, answered[i]);
			for (uint32_t k = 0; k < i; k++)
				assert_true(answered[k] != answered[i]);
		}
		cs_store_close(s);
	}
}

int main(void)
{
	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof(path), "%s/store.db", dir);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_reopen, setup),
		cmocka_unit_test_setup(test_what_is_there_is_no_revision, setup),
		cmocka_unit_test_setup(test_refusals_leave_the_others, setup),
		cmocka_unit_test_setup(test_release_and_keep, setup),
		cmocka_unit_test_setup(test_quarantine, setup),
		cmocka_unit_test_setup(test_refused_stores, setup),
		cmocka_unit_test_setup(test_spiffe_ids_are_unique, setup),
		cmocka_unit_test_setup(test_exhausted, setup),
		cmocka_unit_test_setup(test_node_bound, setup),
		cmocka_unit_test_setup(test_random, setup),
		cmocka_unit_test_setup(test_disk_full, setup),
		cmocka_unit_test_setup(test_killed, setup),
	};
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	remove_files();
	rmdir(dir);
	return r;
}
