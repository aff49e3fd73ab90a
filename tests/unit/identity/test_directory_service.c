/* The service Directory with a real client of our gRPC: heartbeats, how often changes are sent, who is said to have what,
 * and what becomes of one who is too slow. */
#include "directory_service.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
#include "identity_limits.h"
#include "mem.h"

static char dir[] = "/tmp/countersign-dirsvc-XXXXXX", sock[96], target[104];

/* A clock that the test jumps; timers of the loop are not moved by it. */
static int64_t ahead_ms;
static int64_t jumped_mono_ms(void *data)
{
	(void)data;
	return cs_clock_system.mono_ms(NULL) + ahead_ms;
}
static int64_t jumped_mono_ns(void *data)
{
	return jumped_mono_ms(data) * 1000000;
}
static int64_t unix_ms(void *data)
{
	return cs_clock_system.unix_ms(data);
}
static const struct cs_clock clock_ = {.mono_ms = jumped_mono_ms, .mono_ns = jumped_mono_ns, .unix_ms = unix_ms};

struct world {
	struct cs_loop loop;
	struct cs_metrics *metrics;
	struct cs_roles roles;
	struct cs_directory *dir;
	struct cs_directory_service *service;
	struct cs_grpc_server *server;
	struct cs_grpc_channel *channel;
	struct cs_grpc_client_call *call;
	uint64_t revision;
	uint32_t silent_ms, heard_silent_ms;
	unsigned messages, beats, synced, changes, asked, connected;
	uint64_t asked_revision;
	const struct cs_grpc_conn *conn; /* of the client, on the server's side */
	bool done;
	struct cs_grpc_status status;
};

static uint32_t silent_ms(void *data)
{
	return ((struct world *)data)->silent_ms;
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)call;
	struct world *w = data;
	const Countersign__V1__DirectoryBatch *batch = (const Countersign__V1__DirectoryBatch *)message;
	w->messages++;
	w->beats += batch->n_records == 0 && !batch->complete;
	w->synced += batch->synced;
	w->changes += batch->complete;
	w->asked += batch->ack;
	if (batch->ack)
		w->asked_revision = batch->position->revision;
	w->heard_silent_ms = batch->silent_ms;
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct world *w = data;
	w->status = *status;
	w->done = true;
	w->call = NULL;
}

/* A record of 10 KiB, and a revision. */
static void publish(struct world *w, uint32_t identity)
{
	static char big[10240];
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Identity m = COUNTERSIGN__V1__IDENTITY__INIT;
	memset(big, 'a' + (int)(w->revision % 26), sizeof(big) - 1);
	m.id = identity;
	m.spiffe_id = big;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_IDENTITY;
	r.identity = &m;
	assert_true(cs_dir_put_take(w->dir, cs_record_copy(&r, false), NULL) == 1);
	cs_dir_publish(w->dir, ++w->revision, false);
}

static void on_connect(struct cs_grpc_conn *conn, void *data)
{
	struct world *w = data;
	w->conn = conn;
	w->connected++;
}

static void follow_anew(struct world *w, uint64_t resume)
{
	struct cs_error e;
	Countersign__V1__FollowRequest in = COUNTERSIGN__V1__FOLLOW_REQUEST__INIT;
	Countersign__V1__Position position = COUNTERSIGN__V1__POSITION__INIT;
	position.epoch = 1;
	position.revision = resume;
	if (resume != 0)
		in.resume = &position;
	w->done = false;
	assert_int_equal(cs_grpc_stream(w->channel, &countersign__v1__directory__descriptor, "Follow", &in.base, NULL,
				 on_message, on_done, w, &w->call, &e),
		0);
}

static void open_world_with(struct world *w, size_t changes, int64_t coalesce_ms, bool (*complete)(void *))
{
	struct cs_error e;
	struct cs_dir_limits limits = {.records = 1000, .changes = changes};
	*w = (struct world){.silent_ms = 7};
	assert_int_equal(cs_loop_init(&w->loop, &clock_, &e), 0);
	w->metrics = cs_metrics_new("test");
	w->dir = cs_dir_new(1, &limits);
	char uid[32];
	snprintf(uid, sizeof(uid), "uid:%u", (unsigned)getuid());
	assert_int_equal(cs_roles_allow(&w->roles, CS_ROLE_VIEWER, uid, &e), 0);
	struct cs_directory_service_options options = {.loop = &w->loop,
		.dir = w->dir,
		.silent_ms = silent_ms,
		.data = w,
		.node = "n1",
		.complete = complete,
		.roles = CS_ROLE_VIEWER,
		.coalesce_ms = coalesce_ms,
		.heartbeat_ms = 500,
		.acks = true,
		.label = "node",
		.metrics = w->metrics};
	w->service = cs_directory_service_new(&options);
	struct cs_grpc_server_options server = {.on_connect = on_connect, .data = w};
	assert_int_equal(cs_grpc_server_new(&w->loop, &server, &w->server, &e), 0);
	assert_int_equal(cs_grpc_server_add(w->server, cs_directory_service_grpc(w->service), &e), 0);
	assert_int_equal(cs_grpc_server_listen_unix(w->server, sock, 0600, (gid_t)-1, &w->roles, &e), 0);
	struct cs_grpc_channel_options channel = {.target = target};
	assert_int_equal(cs_grpc_channel_new(&w->loop, &channel, &w->channel, &e), 0);
	follow_anew(w, 0);
}

static void open_world(struct world *w, size_t changes)
{
	open_world_with(w, changes, 0, NULL);
}

/* Turns the loop until a counter is there; the loop's own timers bound it. */
static void until(struct world *w, const unsigned *counter, unsigned at_least)
{
	int64_t end = cs_clock_system.mono_ms(NULL) + 30000;
	while (*counter < at_least && cs_clock_system.mono_ms(NULL) < end)
		uv_run(&w->loop.uv, UV_RUN_ONCE);
	assert_true(*counter >= at_least);
}

static void until_done(struct world *w)
{
	int64_t end = cs_clock_system.mono_ms(NULL) + 30000;
	while (!w->done && cs_clock_system.mono_ms(NULL) < end)
		uv_run(&w->loop.uv, UV_RUN_ONCE);
	assert_true(w->done);
}

static void close_world(struct world *w)
{
	cs_directory_service_close(w->service);
	until_done(w); /* its streams are told */
	cs_grpc_server_close(w->server, 0, NULL, NULL);
	cs_grpc_channel_close(w->channel, NULL, NULL);
	cs_loop_run(&w->loop);
	cs_loop_fini(&w->loop);
	cs_directory_service_free(w->service);
	cs_dir_free(w->dir);
	cs_metrics_free(w->metrics);
}

/* Whatever is ready now. */
static void turn(struct world *w)
{
	for (int i = 0; i < 50; i++)
		uv_run(&w->loop.uv, UV_RUN_NOWAIT);
}

static void test_heartbeat_before_and_after(void **state)
{
	(void)state;
	struct world w;
	open_world(&w, 100);
	until(&w, &w.beats, 1); /* nothing is published: it is heard, and that is all */
	assert_int_equal(w.messages, 1);
	assert_int_equal(w.heard_silent_ms, 7);
	publish(&w, 256);
	until(&w, &w.synced, 1);
	w.silent_ms = 8000;
	unsigned beats = w.beats;
	until(&w, &w.beats, beats + 1);
	assert_int_equal(w.heard_silent_ms, 8000);
	close_world(&w);
	assert_int_equal(w.status.code, CS_GRPC_UNAVAILABLE);
}

static void test_too_slow_for_the_changes(void **state)
{
	(void)state;
	struct world w;
	open_world(&w, 16);
	publish(&w, 256);
	until(&w, &w.synced, 1);
	cs_grpc_client_pause(w.call);
	/* More than windows, queue and socket hold, one revision each; then more than are kept. */
	for (uint32_t i = 0; i < 1000; i++) {
		publish(&w, 300 + i % 100);
		if (i % 10 == 0)
			turn(&w);
	}
	assert_false(w.done);
	cs_grpc_client_resume(w.call);
	until_done(&w);
	assert_int_equal(w.status.code, CS_GRPC_RESOURCE_EXHAUSTED);
	assert_int_equal(w.status.reason, CS_R_TOO_MANY);
	assert_non_null(strstr(w.status.message, "follow anew"));
	close_world(&w);
}

static void test_takes_nothing_for_a_minute(void **state)
{
	(void)state;
	struct world w;
	open_world(&w, 100000);
	publish(&w, 256);
	until(&w, &w.synced, 1);
	cs_grpc_client_pause(w.call);
	for (uint32_t i = 0; i < 400; i++) {
		publish(&w, 300 + i % 100);
		turn(&w);
	}
	ahead_ms += CS_FOLLOWER_STALL_MS + 1000;
	int64_t end = cs_clock_system.mono_ms(NULL) + 1500; /* the next heartbeat looks */
	while (cs_clock_system.mono_ms(NULL) < end)
		uv_run(&w.loop.uv, UV_RUN_ONCE);
	cs_grpc_client_resume(w.call);
	until_done(&w);
	assert_int_equal(w.status.code, CS_GRPC_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(w.status.message, "for a minute"));
	close_world(&w);
}

/* The first after a quiet while at once; then what comes within the time is one batch. */
static void test_coalesced(void **state)
{
	(void)state;
	struct world w;
	open_world_with(&w, 1000, 300, NULL);
	publish(&w, 256);
	until(&w, &w.synced, 1);
	assert_int_equal(w.changes, 1);
	int64_t start = cs_clock_system.mono_ms(NULL);
	ahead_ms += 1000; /* it was quiet */
	publish(&w, 257);
	until(&w, &w.changes, 2);
	assert_true(cs_clock_system.mono_ms(NULL) - start < 250);
	start = cs_clock_system.mono_ms(NULL);
	for (uint32_t i = 0; i < 20; i++) {
		publish(&w, 258 + i);
		turn(&w);
	}
	assert_int_equal(w.changes, 2);
	until(&w, &w.changes, 3);
	assert_true(cs_clock_system.mono_ms(NULL) - start >= 250);
	turn(&w);
	assert_int_equal(w.changes, 3);
	close_world(&w);
}

struct answer {
	unsigned done;
	size_t have, stale;
};

static void on_published(void *data, size_t have, size_t stale)
{
	struct answer *a = data;
	a->done++;
	a->have = have;
	a->stale = stale;
}

static void wait_published(struct world *w, uint64_t revision, struct answer *a, struct cs_published **ret)
{
	struct cs_error e;
	*a = (struct answer){0};
	assert_int_equal(cs_directory_service_published(w->service, revision, on_published, a, ret, &e), 0);
}

static void test_published(void **state)
{
	(void)state;
	struct world w;
	struct answer first, second, third;
	struct cs_published *p;
	open_world_with(&w, 1000, 50, NULL);
	publish(&w, 256);
	until(&w, &w.synced, 1);
	assert_int_equal(w.asked, 0); /* nobody waits: nobody asks */
	/* Before the directory has it, and twice: one question. */
	wait_published(&w, 2, &first, &p);
	wait_published(&w, 2, &second, &p);
	turn(&w);
	assert_int_equal(w.asked, 0);
	publish(&w, 257);
	until(&w, &w.asked, 1);
	assert_int_equal(w.asked_revision, 2);
	assert_int_equal(first.done + second.done, 0);
	cs_directory_service_applied(w.service, w.conn, 2, 2);  /* another epoch */
	cs_directory_service_applied(w.service, w.conn, 1, 1);  /* less */
	cs_directory_service_applied(w.service, w.conn, 1, 99); /* more than it was ever sent */
	assert_int_equal(first.done + second.done, 0);
	cs_directory_service_applied(w.service, w.conn, 1, 2);
	assert_int_equal(first.done + second.done, 2);
	assert_int_equal(first.have, 1);
	assert_int_equal(first.stale, 0);
	turn(&w);
	assert_int_equal(w.asked, 1);
	/* What is known already is answered at once; of what was sent it is asked at once. */
	wait_published(&w, 1, &first, &p);
	assert_int_equal(first.done, 1);
	publish(&w, 258);
	until(&w, &w.changes, 3);
	wait_published(&w, 3, &first, &p);
	wait_published(&w, 3, &third, &p);
	cs_published_cancel(p);
	until(&w, &w.asked, 2);
	cs_directory_service_applied(w.service, w.conn, 1, 3);
	assert_int_equal(first.done, 1);
	assert_int_equal(third.done, 0);
	/* Who is gone is not waited for. */
	publish(&w, 259);
	until(&w, &w.changes, 4);
	wait_published(&w, 4, &first, &p);
	cs_grpc_client_cancel(w.call);
	until(&w, &first.done, 1);
	assert_int_equal(first.have + first.stale, 0);
	close_world(&w);
}

/* Who does not answer holds up one second once, and then nobody before it was heard again. */
static void test_published_with_a_silent_follower(void **state)
{
	(void)state;
	struct world w;
	struct answer a, b;
	struct cs_published *p;
	open_world(&w, 1000);
	publish(&w, 256);
	until(&w, &w.synced, 1);
	int64_t start = cs_clock_system.mono_ms(NULL);
	wait_published(&w, 1, &a, &p);
	wait_published(&w, 1, &b, &p);
	until(&w, &a.done, 1);
	until(&w, &b.done, 1);
	assert_true(cs_clock_system.mono_ms(NULL) - start >= CS_PUBLISHED_MS - 10);
	assert_int_equal(a.stale, 1);
	assert_int_equal(b.stale, 1);
	wait_published(&w, 1, &a, &p);
	assert_int_equal(a.done, 1);
	assert_int_equal(a.stale, 1);
	cs_directory_service_applied(w.service, w.conn, 1, 1);
	wait_published(&w, 1, &a, &p);
	assert_int_equal(a.done, 1);
	assert_int_equal(a.have, 1);
	assert_int_equal(a.stale, 0);
	close_world(&w);
}

struct late {
	struct cs_grpc_client_call *call;
	unsigned changes, synced;
	bool done;
};

static void on_late_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct late *l = data;
	const Countersign__V1__DirectoryBatch *batch = (const Countersign__V1__DirectoryBatch *)message;
	l->changes += batch->n_records > 0;
	l->synced += batch->synced;
	if (batch->n_records > 0 && !batch->synced)
		cs_grpc_client_pause(call); /* in the midst of it */
}

static void on_late_done(const struct cs_grpc_status *status, void *data)
{
	(void)status;
	((struct late *)data)->done = true;
}

/* A full state is a list of everything: some are on their way, the others wait for their turn, and all get it. */
static void test_full_states_take_turns(void **state)
{
	(void)state;
	enum { N = CS_FULL_STATES_MAX + 4 };
	struct world w;
	struct late late[N] = {0};
	Countersign__V1__FollowRequest in = COUNTERSIGN__V1__FOLLOW_REQUEST__INIT;
	struct cs_error e;
	open_world(&w, 1000);
	for (uint32_t i = 0; i < 400; i++)
		publish(&w, 300 + i); /* 4 MB: several batches */
	until(&w, &w.synced, 1);
	for (int i = 0; i < N; i++)
		assert_int_equal(cs_grpc_stream(w.channel, &countersign__v1__directory__descriptor, "Follow", &in.base,
					 NULL, on_late_message, on_late_done, &late[i], &late[i].call, &e),
			0);
	for (int i = 0; i < 2000; i++)
		uv_run(&w.loop.uv, UV_RUN_NOWAIT);
	unsigned begun = 0;
	for (int i = 0; i < N; i++)
		begun += late[i].changes > 0;
	assert_in_range(begun, 1, CS_FULL_STATES_MAX);
	for (int turn = 0; turn < 200; turn++)
		for (int i = 0; i < N; i++) {
			cs_grpc_client_resume(late[i].call);
			for (int k = 0; k < 20; k++)
				uv_run(&w.loop.uv, UV_RUN_NOWAIT);
		}
	for (int i = 0; i < N; i++)
		until(&w, &late[i].synced, 1);
	close_world(&w);
	for (int i = 0; i < N; i++)
		assert_true(late[i].done);
}

static bool yes(void *data)
{
	(void)data;
	return true;
}

static bool no(void *data)
{
	(void)data;
	return false;
}

/* It comes with more than there is. A replica that leads has all there is; another one sends it away. */
static void test_ahead(void **state)
{
	(void)state;
	for (int leads = 0; leads < 2; leads++) {
		struct world w;
		open_world_with(&w, 1000, 0, leads ? yes : no);
		publish(&w, 256);
		until(&w, &w.synced, 1);
		cs_grpc_client_cancel(w.call);
		until_done(&w);
		unsigned beats = w.beats;
		follow_anew(&w, 5);
		until(&w, &w.beats, beats + 2);
		assert_int_equal(w.synced, 1);
		ahead_ms += CS_AHEAD_MS;
		if (leads) {
			until(&w, &w.synced, 2);
		} else {
			until_done(&w);
			assert_int_equal(w.status.code, CS_GRPC_UNAVAILABLE);
			assert_non_null(strstr(w.status.message, "follow another"));
		}
		close_world(&w);
	}
}

int main(void)
{
	if (!mkdtemp(dir))
		return 1;
	snprintf(sock, sizeof(sock), "%s/directory.sock", dir);
	snprintf(target, sizeof(target), "unix:%s", sock);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_heartbeat_before_and_after),
		cmocka_unit_test(test_too_slow_for_the_changes),
		cmocka_unit_test(test_takes_nothing_for_a_minute),
		cmocka_unit_test(test_coalesced),
		cmocka_unit_test(test_published),
		cmocka_unit_test(test_published_with_a_silent_follower),
		cmocka_unit_test(test_full_states_take_turns),
		cmocka_unit_test(test_ahead),
	};
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	return r;
}
