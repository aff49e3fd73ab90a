/* The service Auth over its socket, with thousands of pairs and events: slow readers, limits, flushes in turns. What it
 * says of real pairs, tests/integration/test_auth_service.py shows. */
#include "fixture.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <countersign/handshaker.h>
#include <countersign/v1/auth.pb-c.h>
#include "grpc.h"
#include "log.h"
#include "service_auth.h"

#define PAIRS   20000 /* more than queue and windows hold */
#define WAIT_MS 20000

struct fixture {
	struct world *w;
	struct cs_daemon daemon;
	struct cs_authd a;
	struct cs_authd_config config;
	struct cs_roles roles;
	struct cs_timer deadline;
	struct cs_grpc_channel *channel;
	char dir[64];
};

static void on_svid(void *data, uint32_t identity)
{
	(void)data;
	(void)identity;
}

static void on_bundle(void *data, const char *trust_domain)
{
	(void)data;
	(void)trust_domain;
}

static void on_synced(void *data)
{
	(void)data;
}

static void on_miss(void *data, const struct cs_auth_key *key, uint32_t ifindex, enum cs_dir dir, bool held)
{
	(void)data;
	(void)key;
	(void)ifindex;
	(void)dir;
	(void)held;
}

static void too_late(struct cs_timer *timer)
{
	(void)timer;
	fail_msg("not in %d ms", WAIT_MS);
}

static void open_parts(struct fixture *f)
{
	static const struct cs_daemon_spec spec = {.name = "authd"};
	struct cs_svid_callbacks svids = {on_svid, on_bundle, on_synced, f};
	struct cs_hold_config hold = {.instance = f->w->instance, .max_bytes = 1 << 20};
	struct cs_hold_callbacks callbacks = {.on_miss = on_miss, .on_drop = cs_auth_service_drop, .data = &f->a};
	struct cs_authd *a = &f->a;
	struct cs_error e;
	f->daemon.spec = &spec;
	f->daemon.roles = &f->roles;
	a->daemon = &f->daemon;
	a->loop = &f->daemon.loop;
	a->config = &f->config;
	a->dp = f->w->dp;
	a->world = cs_world_new(1);
	a->svids = cs_svids_new(&svids);
	a->pairs = cs_pairs_new(PAIRS + 100);
	a->events = cs_events_new(cs_auth_service_event, a);
	a->hold = cs_hold_new(a->loop, a->dp, &hold, &callbacks, &e);
	if (!a->hold || !(a->service = cs_auth_service_new(a, &e)))
		fail_msg("%s", e.text);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char path[128];
	struct cs_error e;
	world_open((void **)&f->w);
	strcpy(f->dir, "/tmp/cs-auth-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(path, sizeof(path), "%s/authd", f->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	strcpy(f->daemon.instance, f->dir);
	assert_int_equal(cs_loop_init(&f->daemon.loop, NULL, &e), 0);
	f->daemon.metrics = cs_metrics_new("authd");
	f->daemon.status = cs_status_new(&f->daemon.loop, "authd", f->daemon.metrics);
	cs_roles_init(&f->roles);
	cs_timer_init(&f->deadline, &f->daemon.loop, too_late, NULL);
	open_parts(f);
	snprintf(path, sizeof(path), "unix:%s/authd/auth.sock", f->dir);
	const struct cs_grpc_channel_options options = {.target = path};
	if (cs_grpc_channel_new(f->a.loop, &options, &f->channel, &e) < 0)
		fail_msg("%s", e.text);
	*state = f;
	return 0;
}

static int rm(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	cs_grpc_channel_close(f->channel, NULL, NULL);
	cs_auth_service_close(f->a.service);
	f->a.service = NULL;
	cs_hold_close(f->a.hold);
	cs_timer_close(&f->deadline, NULL);
	cs_status_close(f->daemon.status);
	cs_loop_run(&f->daemon.loop);
	cs_loop_fini(&f->daemon.loop);
	cs_status_free(f->daemon.status);
	cs_metrics_free(f->daemon.metrics);
	cs_events_free(f->a.events);
	cs_pairs_free(f->a.pairs);
	cs_svids_free(f->a.svids);
	cs_world_free(f->a.world);
	world_close((void **)&f->w);
	nftw(f->dir, rm, 8, FTW_DEPTH);
	free(f);
	return 0;
}

static void run_until(struct fixture *f, const bool *done)
{
	cs_timer_start(&f->deadline, WAIT_MS, 0);
	while (!*done)
		uv_run(&f->a.loop->uv, UV_RUN_ONCE);
	cs_timer_stop(&f->deadline);
}

/* Lets what can happen now happen. */
static void settle(struct fixture *f)
{
	for (int i = 0; i < 200; i++)
		uv_run(&f->a.loop->uv, UV_RUN_NOWAIT);
}

static void add_live(struct fixture *f, uint32_t local, uint32_t remote)
{
	struct cs_auth_key key = {.local = local, .remote = remote, .type = CS_AUTH_SPIRE};
	struct cs_instant now = cs_authd_now(&f->a);
	const struct cs_basis basis = {.not_after_unix_s = (uint64_t)now.unix_ms / 1000 + 3600, .role = CS_HS_DIALLER};
	struct cs_pair *pair = cs_pairs_get(f->a.pairs, &key);
	assert_non_null(pair);
	cs_pair_set_live(f->a.pairs, pair, &basis, now.coarse_ns + 1000000000000ULL, &now);
}

/* ---- a call and what came of it ---- */

struct call {
	struct cs_grpc_client_call *call;
	bool done, pause_first;
	struct cs_grpc_status status;
	unsigned messages;
	bool seen[PAIRS + 1]; /* List: by remote */
	uint64_t seq, holes;  /* Events */
	uint32_t flushed;
	char state[16];
};

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct call *c = data;
	c->status = *status;
	c->done = true;
	c->call = NULL;
}

static void on_entry(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__AuthEntry *entry = (const void *)message;
	struct call *c = data;
	assert_false(c->seen[entry->pair->remote]); /* each once */
	c->seen[entry->pair->remote] = true;
	snprintf(c->state, sizeof(c->state), "%s", entry->state);
	if (c->messages++ == 0 && c->pause_first)
		cs_grpc_client_pause(call);
}

static void on_event(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__AuthEvent *event = (const void *)message;
	struct call *c = data;
	if (c->messages)
		c->holes += event->seq - c->seq - 1;
	assert_true(!c->messages || event->seq > c->seq);
	c->seq = event->seq;
	if (c->messages++ == 0 && c->pause_first)
		cs_grpc_client_pause(call);
}

static void start(struct fixture *f, struct call *c, const char *method, const ProtobufCMessage *in)
{
	struct cs_error e;
	const struct cs_grpc_call_options options = {.wait = true};
	if (cs_grpc_stream(f->channel, &countersign__v1__auth__descriptor, method, in, &options,
		    strcmp(method, "List") == 0 ? on_entry : on_event, on_done, c, &c->call, &e) < 0)
		fail_msg("%s", e.text);
}

static void list(struct fixture *f, struct call *c, bool pending)
{
	Countersign__V1__AuthListRequest in = COUNTERSIGN__V1__AUTH_LIST_REQUEST__INIT;
	in.pending = pending;
	start(f, c, "List", &in.base);
}

static void read_events(struct fixture *f, struct call *c)
{
	Countersign__V1__EventsRequest in = COUNTERSIGN__V1__EVENTS_REQUEST__INIT;
	in.datapath = true;
	start(f, c, "Events", &in.base);
}

static void on_flushed(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct call *c = data;
	if (reply)
		c->flushed = ((const Countersign__V1__AuthFlushReply *)(const void *)reply)->flushed;
	on_done(status, data);
}

static void flush(struct fixture *f, struct call *c, uint32_t local)
{
	Countersign__V1__AuthFlushRequest in = COUNTERSIGN__V1__AUTH_FLUSH_REQUEST__INIT;
	Countersign__V1__AuthPair match = COUNTERSIGN__V1__AUTH_PAIR__INIT;
	struct cs_error e;
	match.local = local;
	in.match = &match;
	assert_int_equal(cs_grpc_unary(f->channel, &countersign__v1__auth__descriptor, "Flush", &in.base, NULL,
				 on_flushed, c, &c->call, &e),
		0);
}

static void cancel(struct fixture *f, struct call *c)
{
	cs_grpc_client_cancel(c->call);
	run_until(f, &c->done);
	settle(f);
}

/* ---- the tests ---- */

static void test_list_of_many(void **state)
{
	struct fixture *f = *state;
	struct call *c = calloc(1, sizeof(*c));
	for (uint32_t i = 1; i <= PAIRS; i++)
		add_live(f, 1000, i);
	list(f, c, false);
	run_until(f, &c->done);
	assert_int_equal(c->status.code, CS_GRPC_OK);
	assert_int_equal(c->messages, PAIRS); /* and on_entry saw each once */
	free(c);
}

/* It waits, and what is gone meanwhile is not told any more. */
static void test_slow_lister(void **state)
{
	struct fixture *f = *state;
	struct call *c = calloc(1, sizeof(*c));
	for (uint32_t i = 1; i <= PAIRS; i++)
		add_live(f, 1000, i);
	c->pause_first = true;
	list(f, c, false);
	settle(f);
	assert_int_equal(c->messages, 1);
	assert_false(c->done);
	for (uint32_t i = 1; i <= PAIRS; i++) {
		const struct cs_auth_key key = {.local = 1000, .remote = i, .type = CS_AUTH_SPIRE};
		cs_pair_set_dead(f->a.pairs, cs_pairs_find(f->a.pairs, &key));
	}
	cs_grpc_client_resume(c->call);
	run_until(f, &c->done);
	assert_int_equal(c->status.code, CS_GRPC_OK);
	assert_in_range(c->messages, 1, PAIRS - 1);
	free(c);
}

static void test_pending_only_for_who_asks(void **state)
{
	struct fixture *f = *state;
	struct call *c = calloc(1, sizeof(*c)), *d = calloc(1, sizeof(*d));
	const struct cs_auth_key key = {.local = 1000, .remote = 7, .type = CS_AUTH_SPIRE};
	struct cs_instant now = cs_authd_now(&f->a);
	add_live(f, 1000, 1);
	cs_pair_set_refused(cs_pairs_get(f->a.pairs, &key), CS_R_UNTRUSTED, 1000, &now);
	list(f, c, false);
	run_until(f, &c->done);
	assert_int_equal(c->messages, 1);
	assert_true(c->seen[1]);
	list(f, d, true);
	run_until(f, &d->done);
	assert_int_equal(d->messages, 2);
	assert_true(d->seen[7]);
	free(c);
	free(d);
}

/* Lists that nobody reads fill their places; when they go, the places are free. */
static void test_walks_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct call *c = calloc(CS_AUTH_WALKS_MAX + 2, sizeof(*c));
	for (uint32_t i = 1; i <= PAIRS; i++)
		add_live(f, 1000, i);
	for (int i = 0; i < CS_AUTH_WALKS_MAX; i++) {
		c[i].pause_first = true;
		list(f, &c[i], false);
	}
	settle(f);
	list(f, &c[CS_AUTH_WALKS_MAX], false);
	run_until(f, &c[CS_AUTH_WALKS_MAX].done);
	assert_int_equal(c[CS_AUTH_WALKS_MAX].status.code, CS_GRPC_RESOURCE_EXHAUSTED);
	assert_int_equal(c[CS_AUTH_WALKS_MAX].status.reason, CS_R_TOO_MANY);
	for (int i = 0; i < CS_AUTH_WALKS_MAX; i++)
		cs_grpc_client_cancel(c[i].call);
	for (int i = 0; i < CS_AUTH_WALKS_MAX; i++)
		run_until(f, &c[i].done);
	settle(f);
	list(f, &c[CS_AUTH_WALKS_MAX + 1], false);
	run_until(f, &c[CS_AUTH_WALKS_MAX + 1].done);
	assert_int_equal(c[CS_AUTH_WALKS_MAX + 1].status.code, CS_GRPC_OK);
	free(c);
}

static void test_flush_of_many(void **state)
{
	struct fixture *f = *state;
	struct call *c = calloc(1, sizeof(*c)), *d = calloc(1, sizeof(*d));
	for (uint32_t i = 1; i <= 1000; i++)
		add_live(f, 1000, i);
	add_live(f, 1001, 1);
	read_events(f, d);
	settle(f);
	flush(f, c, 1000);
	run_until(f, &c->done);
	assert_int_equal(c->status.code, CS_GRPC_OK);
	assert_int_equal(c->flushed, 1000);
	assert_int_equal(cs_pairs_live(f->a.pairs), 1); /* another identity's */
	settle(f);
	assert_int_equal(d->messages, 1 + 1000); /* the greeting, and each is told */
	assert_int_equal(d->holes, 0);
	cancel(f, d);
	assert_int_equal(cs_auth_service_readers(f->a.service), 0);
	free(c);
	free(d);
}

static void add_events(struct fixture *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		const struct cs_event v = {.kind = CS_EVENT_EXPIRED, .key = {.local = 1, .remote = i + 1}};
		cs_events_add(f->a.events, &v);
	}
}

/* A reader that does not read costs its queue and no more; what it missed shows as a hole, and it goes on. */
static void test_slow_reader(void **state)
{
	struct fixture *f = *state;
	struct call *slow = calloc(1, sizeof(*slow)), *fast = calloc(1, sizeof(*fast));
	slow->pause_first = true;
	read_events(f, slow);
	read_events(f, fast);
	settle(f);
	for (int i = 0; i < 20; i++) {
		add_events(f, CS_EVENTS_KEPT / 2);
		settle(f);
	}
	assert_int_equal(fast->messages, 1 + 10 * CS_EVENTS_KEPT);
	assert_int_equal(fast->holes, 0);
	assert_int_equal(slow->messages, 1);
	cs_grpc_client_resume(slow->call);
	settle(f);
	add_events(f, 1);
	settle(f);
	assert_int_equal(slow->seq, fast->seq);
	assert_true(slow->holes > 0);
	assert_int_equal(slow->messages + slow->holes, fast->messages);
	assert_int_equal(cs_auth_service_readers(f->a.service), 2);
	cancel(f, slow);
	cancel(f, fast);
	assert_int_equal(cs_auth_service_readers(f->a.service), 0);
	free(slow);
	free(fast);
}

/* A drop becomes an event with what is known of it; packets are counted since the one before. */
static void test_drop(void **state)
{
	struct fixture *f = *state;
	uint64_t at = cs_events_next_seq(f->a.events);
	struct cs_drop drop = {.ts_ns = cs_datapath_now_ns(),
		.packets = 5,
		.key = {.local = 1000, .remote = 2, .ifindex = 1, .reason = CS_R_POLICY_DENY, .dir = CS_TO, .would = 1},
		.family = 4,
		.addr = {10, 0, 0, 7}};
	cs_auth_service_drop(&f->a, &drop);
	const struct cs_event *v = cs_events_read(f->a.events, &at);
	assert_int_equal(v->kind, CS_EVENT_DROPPED);
	assert_int_equal(v->packets, 5);
	assert_string_equal(v->interface, "lo");
	assert_true(v->would && v->dir == CS_TO && v->family == 4 && v->addr[3] == 7);
	assert_in_range(cs_loop_unix_ms(f->a.loop) - v->at_unix_ms, 0, 1000);
	drop.packets = 12;
	drop.key.ifindex = 1;
	cs_auth_service_drop(&f->a, &drop);
	assert_int_equal(cs_events_read(f->a.events, &at)->packets, 7);
	drop.key.ifindex = 4711; /* gone meanwhile */
	cs_auth_service_drop(&f->a, &drop);
	assert_string_equal(cs_events_read(f->a.events, &at)->interface, "4711");
}

static void test_end(void **state)
{
	struct fixture *f = *state;
	struct call *c = calloc(1, sizeof(*c)), *d = calloc(1, sizeof(*d));
	for (uint32_t i = 1; i <= PAIRS; i++)
		add_live(f, 1000, i);
	c->pause_first = true;
	list(f, c, false);
	read_events(f, d);
	settle(f);
	cs_auth_service_close(f->a.service);
	f->a.service = NULL;
	add_events(f, 1); /* nobody is there to hear */
	run_until(f, &d->done);
	assert_int_equal(d->status.code, CS_GRPC_UNAVAILABLE);
	cs_grpc_client_resume(c->call);
	run_until(f, &c->done);
	assert_int_equal(c->status.code, CS_GRPC_UNAVAILABLE);
	free(c);
	free(d);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_list_of_many), TEST(test_slow_lister),
		TEST(test_pending_only_for_who_asks), TEST(test_walks_are_bounded), TEST(test_flush_of_many),
		TEST(test_slow_reader), TEST(test_drop), TEST(test_end)};
	cs_log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC)); /* each event is a line */
	return cmocka_run_group_tests(tests, own_network, NULL);
}
