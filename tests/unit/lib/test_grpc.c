/* Server and client of gRPC against each other, over a Unix socket, in one loop. What a gRPC that is not ours makes of
 * either is tested in tests/integration/test_grpc.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "echo.pb-c.h"
#include "grpc.h"

#define SERVICE (&countersign__test__echo__descriptor)

struct fixture {
	struct cs_loop loop;
	struct cs_roles roles;
	struct cs_grpc_server *server;
	struct cs_grpc_channel *channel;
	char dir[64], path[96], target[128];
	/* server's side */
	unsigned cancels, drains, connects, disconnects, refusals;
	enum cs_reason refused;
	struct cs_grpc_call *open;
	struct stream *stream;
	/* client's side */
	unsigned messages, done;
	uint64_t bytes;
	struct cs_grpc_status status;
	char text[256];
	struct cs_grpc_client_call *call;
	unsigned pause_at, cancel_at;
	struct cs_timer timer;
	bool has_timer, bounce;
};

/* ---- the server's handlers ---- */

struct stream {
	struct fixture *f;
	struct cs_grpc_call *call;
	uint32_t at, count, size;
	size_t most; /* bytes that were queued */
	uint8_t *payload;
};

static void stream_free(struct stream *s)
{
	s->f->stream = NULL;
	free(s->payload);
	free(s);
}

static void say(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data);

static void stream_push(struct cs_grpc_call *call, void *data)
{
	struct stream *s = data;
	if (s->at > 0)
		s->f->drains++;
	while (s->at < s->count) {
		Countersign__Test__EchoReply reply = COUNTERSIGN__TEST__ECHO_REPLY__INIT;
		reply.number = s->at++;
		reply.payload.len = s->size;
		reply.payload.data = s->payload;
		int r = cs_grpc_send(call, &reply.base);
		assert_true(r >= 0);
		if (cs_grpc_call_queued(call) > s->most)
			s->most = cs_grpc_call_queued(call);
		if (r == CS_GRPC_FULL)
			return;
	}
	assert_true(s->most <= CS_GRPC_QUEUE_HIGH + s->size + 64);
	cs_grpc_finish(call, CS_GRPC_OK, "%s", "");
	stream_free(s);
}

static void stream_cancelled(struct cs_grpc_call *call, void *data)
{
	struct stream *s = data;
	(void)call;
	s->f->cancels++;
	stream_free(s);
}

static void stream(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	const Countersign__Test__EchoRequest *request = (const Countersign__Test__EchoRequest *)in;
	struct stream *s = calloc(1, sizeof(*s));
	assert_non_null(s);
	s->f = data;
	s->f->stream = s;
	s->count = request->count;
	s->size = request->size;
	s->payload = calloc(1, s->size + 1);
	cs_grpc_call_watch(call, stream_cancelled, stream_push, s);
	stream_push(call, s);
}

static void say_cancelled(struct cs_grpc_call *call, void *data)
{
	struct fixture *f = data;
	assert_ptr_equal(call, f->open);
	f->open = NULL;
	f->cancels++;
}

static void say(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	struct fixture *f = data;
	const Countersign__Test__EchoRequest *request = (const Countersign__Test__EchoRequest *)in;
	Countersign__Test__EchoReply reply = COUNTERSIGN__TEST__ECHO_REPLY__INIT;
	if (request->never) {
		f->open = call;
		cs_grpc_call_watch(call, say_cancelled, NULL, f);
		return;
	}
	if (request->code == 99)
		return; /* forgets to answer */
	if (request->code) {
		cs_grpc_finish_reason(call, (enum cs_grpc_code)request->code, CS_R_LABELS_INVALID, "%s", request->text);
		return;
	}
	reply.text = request->text;
	reply.peer = (char *)(uintptr_t)cs_grpc_conn_peer(cs_grpc_call_conn(call));
	reply.payload.len = request->size;
	reply.payload.data = calloc(1, request->size + 1);
	cs_grpc_reply(call, &reply.base);
	free(reply.payload.data);
}

static const struct cs_grpc_method methods[] = {
	{.name = "Say", .roles = CS_ROLE_VIEWER, .fn = say},
	{.name = "Stream", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = stream},
	{.name = "Operate", .roles = CS_ROLE_OPERATOR, .fn = say},
};
static struct cs_grpc_service service = {.descriptor = SERVICE, .methods = methods, .nmethods = 3};

static void on_connect(struct cs_grpc_conn *conn, void *data)
{
	struct fixture *f = data;
	assert_int_not_equal(cs_grpc_conn_roles(conn), 0);
	cs_grpc_conn_set_data(conn, f);
	f->connects++;
	if (f->bounce)
		cs_grpc_conn_close(conn);
}

static void on_disconnect(struct cs_grpc_conn *conn, void *data)
{
	struct fixture *f = data;
	assert_ptr_equal(cs_grpc_conn_data(conn), f);
	f->disconnects++;
}

static void on_refused(const struct cs_grpc_refusal *refusal, void *data)
{
	struct fixture *f = data;
	f->refusals++;
	f->refused = refusal->reason;
}

/* ---- set up ---- */

static void serve(struct fixture *f, const struct cs_grpc_limits *limits)
{
	struct cs_error e = {0};
	struct cs_grpc_server_options options = {.on_connect = on_connect,
		.on_disconnect = on_disconnect,
		.data = f,
		.on_refused = on_refused,
		.refused_data = f};
	if (limits)
		options.limits = *limits;
	service.data = f;
	assert_int_equal(cs_grpc_server_new(&f->loop, &options, &f->server, &e), 0);
	assert_int_equal(cs_grpc_server_add(f->server, &service, &e), 0);
	if (cs_grpc_server_listen_unix(f->server, f->path, 0600, (gid_t)-1, &f->roles, &e) < 0)
		fail_msg("%s", e.text);
}

static void connect_channel(struct fixture *f, const struct cs_grpc_limits *limits)
{
	struct cs_error e = {0};
	struct cs_grpc_channel_options options = {.target = f->target};
	if (limits)
		options.limits = *limits;
	assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &f->channel, &e), 0);
}

static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cs_error e;
	assert_non_null(f);
	strcpy(f->dir, "/tmp/cs-grpc-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s.sock", f->dir);
	snprintf(f->target, sizeof(f->target), "unix:%s", f->path);
	cs_roles_init(&f->roles);
	char me[32];
	snprintf(me, sizeof(me), "uid:%u", (unsigned)geteuid());
	assert_int_equal(cs_roles_allow(&f->roles, CS_ROLE_VIEWER, me, &e), 0);
	assert_int_equal(cs_loop_init(&f->loop, NULL, &e), 0);
	return f;
}

/* Asserts that nothing is left in the loop. */
static void fixture_free(struct fixture *f)
{
	cs_loop_run(&f->loop);
	cs_loop_fini(&f->loop);
	assert_int_equal(f->connects, f->disconnects);
	assert_int_not_equal(access(f->path, F_OK), 0);
	rmdir(f->dir);
	free(f);
}

static void finish(struct fixture *f)
{
	if (f->channel)
		cs_grpc_channel_close(f->channel, NULL, NULL);
	f->channel = NULL;
	if (f->server)
		cs_grpc_server_close(f->server, 0, NULL, NULL);
	f->server = NULL;
	if (f->has_timer)
		cs_timer_close(&f->timer, NULL);
	f->has_timer = false;
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct fixture *f = data;
	f->done++;
	f->status = *status;
	f->call = NULL;
	finish(f);
}

static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct fixture *f = data;
	assert_true((reply != NULL) == (status->code == CS_GRPC_OK));
	if (reply)
		snprintf(f->text, sizeof(f->text), "%s", ((const Countersign__Test__EchoReply *)reply)->text);
	on_done(status, data);
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct fixture *f = data;
	const Countersign__Test__EchoReply *reply = (const Countersign__Test__EchoReply *)message;
	assert_int_equal(reply->number, f->messages);
	f->messages++;
	f->bytes += reply->payload.len;
	if (f->messages == f->pause_at)
		cs_grpc_client_pause(call);
	if (f->messages == f->cancel_at)
		cs_grpc_client_cancel(call);
}

static void unary(
	struct fixture *f, const char *method, const Countersign__Test__EchoRequest *request, int64_t timeout_ms)
{
	struct cs_error e = {0};
	const struct cs_grpc_call_options options = {.timeout_ms = timeout_ms};
	if (cs_grpc_unary(f->channel, SERVICE, method, &request->base, &options, on_reply, f, &f->call, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(f->done, 0);
}

static void follow(struct fixture *f, const Countersign__Test__EchoRequest *request, int64_t timeout_ms)
{
	struct cs_error e = {0};
	const struct cs_grpc_call_options options = {.timeout_ms = timeout_ms};
	if (cs_grpc_stream(
		    f->channel, SERVICE, "Stream", &request->base, &options, on_message, on_done, f, &f->call, &e) < 0)
		fail_msg("%s", e.text);
}

#define REQUEST(name, ...)                                                                                             \
	Countersign__Test__EchoRequest name = COUNTERSIGN__TEST__ECHO_REQUEST__INIT;                                   \
	__VA_ARGS__

static void unary_call(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	REQUEST(request, request.text = (char *)(uintptr_t) "hello");
	unary(f, "Say", &request, 5000);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_OK);
	assert_string_equal(f->text, "hello");
	assert_int_equal(f->done, 1);
	fixture_free(f);
}

static void status_travels(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	REQUEST(request, request.code = CS_GRPC_NOT_FOUND;
		request.text = (char *)(uintptr_t) "no \xc3\xbcmlaut, 100 %, \xe2\x82\xac");
	unary(f, "Say", &request, 5000);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_NOT_FOUND);
	assert_int_equal(f->status.reason, CS_R_LABELS_INVALID);
	assert_string_equal(f->status.message, request.text);
	fixture_free(f);
}

static void stream_with_back_pressure(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_grpc_limits limits = {.window = 65535, .conn_window = 65535};
	serve(f, NULL);
	connect_channel(f, &limits);
	REQUEST(request, request.count = 160; request.size = 65536);
	follow(f, &request, 60000);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_OK);
	assert_int_equal(f->messages, 160);
	assert_int_equal(f->bytes, 160 * 65536);
	fixture_free(f);
}

static enum cs_grpc_code outcome(const char *method, Countersign__Test__EchoRequest *request, int64_t timeout_ms)
{
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	unary(f, method, request, timeout_ms);
	cs_loop_run(&f->loop);
	enum cs_grpc_code code = f->status.code;
	assert_int_equal(f->done, 1);
	fixture_free(f);
	return code;
}

static void handler_forgets(void **state)
{
	(void)state;
	REQUEST(request, request.code = 99);
	assert_int_equal(outcome("Say", &request, 0), CS_GRPC_INTERNAL);
}

static void ok_without_reply(void **state)
{
	(void)state;
	/* a stream of no messages is fine, a unary call without its reply is not; Operate needs another role */
	REQUEST(request);
	assert_int_equal(outcome("Unlisted", &request, 0), CS_GRPC_UNIMPLEMENTED);
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	follow(f, &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_OK);
	assert_int_equal(f->messages, 0);
	fixture_free(f);
}

static void role_refused(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	f->roles.n = 0; /* root's own set would have it */
	struct cs_error e;
	char me[32];
	snprintf(me, sizeof(me), "gid:%u", (unsigned)getegid());
	assert_int_equal(cs_roles_allow(&f->roles, CS_ROLE_AGENT, me, &e), 0);
	serve(f, NULL);
	connect_channel(f, NULL);
	REQUEST(request);
	unary(f, "Operate", &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_PERMISSION_DENIED);
	assert_int_equal(f->status.reason, CS_R_ROLE_REFUSED);
	assert_int_equal(f->refusals, 1);
	assert_int_equal(f->refused, CS_R_ROLE_REFUSED);
	fixture_free(f);
}

static void no_role_no_connection(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	f->roles.n = 0;
	serve(f, NULL);
	connect_channel(f, NULL);
	REQUEST(request);
	unary(f, "Say", &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_UNAVAILABLE);
	assert_non_null(strstr(f->status.message, "no role"));
	assert_int_equal(f->refused, CS_R_ROLE_REFUSED);
	assert_int_equal(f->connects, 0);
	fixture_free(f);
}

static void deadline(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	REQUEST(request, request.never = 1);
	unary(f, "Say", &request, 50);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_DEADLINE_EXCEEDED);
	assert_int_equal(f->cancels, 1);
	assert_null(f->open);
	fixture_free(f);
}

static void client_cancels_stream(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	f->cancel_at = 3;
	REQUEST(request, request.count = 100000; request.size = 10000);
	follow(f, &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_CANCELLED);
	assert_int_equal(f->messages, 3);
	assert_int_equal(f->cancels, 1);
	assert_null(f->stream);
	fixture_free(f);
}

static void resume_later(struct cs_timer *timer)
{
	struct fixture *f = timer->data;
	/* While it was paused the server could queue no more than window and high-water mark together. */
	assert_int_equal(f->messages, 5);
	assert_non_null(f->stream);
	assert_true(f->stream->at < 100);
	cs_grpc_client_resume(f->call);
}

static void slow_reader_holds_the_window(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	f->pause_at = 5;
	cs_timer_init(&f->timer, &f->loop, resume_later, f);
	f->has_timer = true;
	cs_timer_start(&f->timer, 100, 0);
	REQUEST(request, request.count = 500; request.size = 10000);
	follow(f, &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_OK);
	assert_int_equal(f->messages, 500);
	fixture_free(f);
}

/* The stream ends while its reader sleeps: the status waits behind the messages. */
static void paused_until_after_the_end(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	f->pause_at = 5;
	cs_timer_init(&f->timer, &f->loop, resume_later, f);
	f->has_timer = true;
	REQUEST(request, request.count = 20; request.size = 100);
	follow(f, &request, 0);
	for (int i = 0; i < 50; i++)
		uv_run(&f->loop.uv, UV_RUN_NOWAIT);
	assert_int_equal(f->messages, 5);
	assert_int_equal(f->done, 0);
	assert_null(f->stream);
	assert_int_equal(cs_grpc_server_calls(f->server), 0);
	cs_grpc_client_resume(f->call);
	cs_loop_run(&f->loop);
	assert_int_equal(f->messages, 20);
	assert_int_equal(f->status.code, CS_GRPC_OK);
	fixture_free(f);
}

/* A reader that sleeps through its deadline gets that as its status, though the server had said OK. */
static void paused_past_the_deadline(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	f->pause_at = 5;
	REQUEST(request, request.count = 20; request.size = 100);
	follow(f, &request, 100);
	cs_loop_run(&f->loop);
	assert_int_equal(f->messages, 5);
	assert_int_equal(f->status.code, CS_GRPC_DEADLINE_EXCEEDED);
	fixture_free(f);
}

static void too_large(void **state)
{
	(void)state;
	struct cs_grpc_limits small = {.message_max = 1000};
	uint8_t payload[2000] = {0};
	REQUEST(big, big.payload = (ProtobufCBinaryData){.len = sizeof(payload), .data = payload});
	REQUEST(asks, asks.size = 2000; asks.text = (char *)(uintptr_t) "x");

	struct fixture *f = fixture_new(); /* the request, at the server */
	serve(f, &small);
	connect_channel(f, NULL);
	unary(f, "Say", &big, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_RESOURCE_EXHAUSTED);
	fixture_free(f);

	f = fixture_new(); /* the reply, at the server that makes it */
	serve(f, &small);
	connect_channel(f, NULL);
	unary(f, "Say", &asks, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_RESOURCE_EXHAUSTED);
	fixture_free(f);

	f = fixture_new(); /* the reply, at the client that gets it */
	serve(f, NULL);
	connect_channel(f, &small);
	unary(f, "Say", &asks, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(f->status.message, "more than the 1000"));
	fixture_free(f);

	f = fixture_new(); /* the request, at the client that would send it */
	connect_channel(f, &small);
	struct cs_error e;
	assert_int_equal(cs_grpc_unary(f->channel, SERVICE, "Say", &big.base, NULL, on_reply, f, NULL, &e), -EMSGSIZE);
	finish(f);
	fixture_free(f);
}

/* 2 bytes of an empty nested message become an object of 100: the limit on unpacked memory bites. */
static void amplified(void **state)
{
	(void)state;
	struct cs_grpc_limits limits = {.unpack_max = 100000};
	Countersign__Test__EchoRequest empty = COUNTERSIGN__TEST__ECHO_REQUEST__INIT, *nested[2000];
	for (size_t i = 0; i < 2000; i++)
		nested[i] = &empty;
	REQUEST(request, request.nested = nested; request.n_nested = 2000);
	struct fixture *f = fixture_new();
	serve(f, &limits);
	connect_channel(f, NULL);
	unary(f, "Say", &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_RESOURCE_EXHAUSTED);
	fixture_free(f);
}

static void nobody_there(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	connect_channel(f, NULL);
	REQUEST(request);
	unary(f, "Say", &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_UNAVAILABLE);
	assert_non_null(strstr(f->status.message, f->target));
	fixture_free(f);
}

static void serve_later(struct cs_timer *timer)
{
	serve(timer->data, NULL);
}

static void waits_for_the_server(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_error e = {0};
	const struct cs_grpc_call_options options = {.timeout_ms = 10000, .wait = true};
	connect_channel(f, NULL);
	cs_timer_init(&f->timer, &f->loop, serve_later, f);
	f->has_timer = true;
	cs_timer_start(&f->timer, 150, 0);
	REQUEST(request, request.text = (char *)(uintptr_t) "late");
	assert_int_equal(cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, &options, on_reply, f, NULL, &e), 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_OK);
	assert_string_equal(f->text, "late");
	fixture_free(f);
}

static void close_server(struct cs_timer *timer)
{
	struct fixture *f = timer->data;
	cs_grpc_server_close(f->server, 20, NULL, NULL);
	f->server = NULL;
}

/* A call that outlives the grace is told so, and the handler hears of it. */
static void server_closes(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	cs_timer_init(&f->timer, &f->loop, close_server, f);
	f->has_timer = true;
	cs_timer_start(&f->timer, 50, 0);
	REQUEST(request, request.never = 1);
	unary(f, "Say", &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_UNAVAILABLE);
	assert_int_equal(f->cancels, 1);
	assert_string_equal(f->status.message, "the server is shutting down");
	fixture_free(f);
}

static void close_channel(struct cs_timer *timer)
{
	struct fixture *f = timer->data;
	cs_grpc_channel_close(f->channel, NULL, NULL);
	f->channel = NULL;
}

static void channel_closes(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	cs_timer_init(&f->timer, &f->loop, close_channel, f);
	f->has_timer = true;
	cs_timer_start(&f->timer, 50, 0);
	REQUEST(request, request.never = 1);
	unary(f, "Say", &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_CANCELLED);
	assert_int_equal(f->cancels, 1);
	fixture_free(f);
}

/* ---- many calls, reconnects ---- */

#define MANY 300

struct many {
	struct fixture *f;
	unsigned left, ok, failed;
};

static void many_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct many *m = data;
	if (status->code == CS_GRPC_OK && reply)
		m->ok++;
	else
		m->failed++;
	if (--m->left == 0)
		finish(m->f);
}

/* More calls than streams: the rest waits its turn. */
static void many_calls(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct many m = {.f = f, .left = MANY};
	struct cs_grpc_limits limits = {.streams_max = 10, .calls_max = MANY};
	struct cs_error e;
	serve(f, &limits);
	connect_channel(f, &limits);
	REQUEST(request, request.text = (char *)(uintptr_t) "x"; request.size = 5000);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(
			cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, NULL, many_reply, &m, NULL, &e), 0);
	assert_int_equal(
		cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, NULL, many_reply, &m, NULL, &e), -ENOBUFS);
	cs_loop_run(&f->loop);
	assert_int_equal(m.ok, MANY);
	assert_int_equal(f->connects, 1);
	fixture_free(f);
}

struct again {
	struct fixture *f;
	unsigned ready, calls;
	struct cs_grpc_server *old;
};

static void again_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct again *a = data;
	(void)reply;
	assert_int_equal(status->code, CS_GRPC_OK);
	if (++a->calls == 5) {
		finish(a->f);
		return;
	}
	struct cs_error e;
	REQUEST(request, request.text = (char *)(uintptr_t) "again");
	const struct cs_grpc_call_options options = {.timeout_ms = 10000, .wait = true};
	cs_grpc_server_close(a->f->server, 100, NULL, NULL);
	serve(a->f, NULL);
	assert_int_equal(
		cs_grpc_unary(a->f->channel, SERVICE, "Say", &request.base, &options, again_reply, a, NULL, &e), 0);
}

static void again_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct again *a = data;
	(void)error;
	if (state == CS_GRPC_READY)
		assert_int_equal(cs_grpc_channel_connection(channel), ++a->ready);
}

/* The server is replaced after every call; the channel follows. */
static void reconnects(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct again a = {.f = f};
	struct cs_error e;
	serve(f, NULL);
	const struct cs_grpc_channel_options options = {
		.target = f->target, .backoff_min_ms = 5, .on_state = again_state, .data = &a};
	assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &f->channel, &e), 0);
	REQUEST(request, request.text = (char *)(uintptr_t) "first");
	assert_int_equal(cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, NULL, again_reply, &a, NULL, &e), 0);
	cs_loop_run(&f->loop);
	assert_int_equal(a.calls, 5);
	assert_int_equal(a.ready, 5);
	fixture_free(f);
}

static void hurry_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct again *a = data;
	(void)error;
	if (state == CS_GRPC_CONNECTING && a->ready == 1)
		cs_grpc_channel_reset(channel);
	if (state == CS_GRPC_READY && ++a->ready == 1) {
		cs_grpc_server_close(a->f->server, 0, NULL, NULL);
		serve(a->f, NULL);
	} else if (state == CS_GRPC_READY) {
		finish(a->f);
	}
}

/* A channel that lost its connection waits before the next one; a reset ends the wait. */
static void reset_while_it_waits(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct again a = {.f = f};
	struct cs_error e;
	serve(f, NULL);
	const struct cs_grpc_channel_options options = {.target = f->target,
		.keep = true,
		.limits = {.handshake_ms = 60000}, /* no other timer looks earlier */
		.backoff_min_ms = 60000,
		.backoff_max_ms = 60000,
		.on_state = hurry_state,
		.data = &a};
	int64_t start_ms = cs_loop_mono_ms(&f->loop);
	assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &f->channel, &e), 0);
	cs_loop_run(&f->loop);
	assert_int_equal(a.ready, 2);
	assert_true(cs_loop_mono_ms(&f->loop) - start_ms < 30000);
	fixture_free(f);
}

static void limits_on_connections(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_grpc_limits limits = {.per_user_max = 1};
	struct cs_grpc_channel *second;
	struct cs_error e;
	struct many m = {.f = f, .left = 2};
	serve(f, &limits);
	connect_channel(f, NULL);
	const struct cs_grpc_channel_options options = {.target = f->target};
	assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &second, &e), 0);
	REQUEST(request, request.text = (char *)(uintptr_t) "x");
	assert_int_equal(cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, NULL, many_reply, &m, NULL, &e), 0);
	assert_int_equal(cs_grpc_unary(second, SERVICE, "Say", &request.base, NULL, many_reply, &m, NULL, &e), 0);
	while (m.left)
		uv_run(&f->loop.uv, UV_RUN_ONCE);
	cs_grpc_channel_close(second, NULL, NULL);
	cs_loop_run(&f->loop);
	assert_int_equal(m.ok, 1);
	assert_int_equal(m.failed, 1);
	assert_int_equal(f->refused, CS_R_TOO_MANY);
	fixture_free(f);
}

static void stop_now(struct cs_timer *timer)
{
	finish(timer->data);
}

/* A server that takes everybody in and throws them out again is not hammered. */
static void bounced_connections_back_off(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_error e;
	f->bounce = true;
	serve(f, NULL);
	const struct cs_grpc_channel_options options = {.target = f->target, .keep = true, .backoff_min_ms = 5};
	assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &f->channel, &e), 0);
	cs_timer_init(&f->timer, &f->loop, stop_now, f);
	f->has_timer = true;
	cs_timer_start(&f->timer, 400, 0);
	cs_loop_run(&f->loop);
	assert_in_range(f->connects, 2, 20); /* every 5 ms it would be 80 */
	fixture_free(f);
}

static void idle_connections_end(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_grpc_limits limits = {.idle_ms = 30};
	struct cs_error e;
	serve(f, &limits);
	const struct cs_grpc_channel_options options = {.target = f->target, .keep = true};
	assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &f->channel, &e), 0);
	while (f->connects < 2) /* it is sent away, and comes back because it should stay connected */
		uv_run(&f->loop.uv, UV_RUN_ONCE);
	finish(f);
	fixture_free(f);
}

/* ---- Hello first, on every connection; state of a connection ---- */

struct hello {
	struct fixture *f;
	unsigned hellos, says, left, cancelled;
	bool reset;
	struct cs_grpc_client_call *victim;
};

static void hello_cancelled(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	assert_null(reply);
	assert_int_equal(status->code, CS_GRPC_CANCELLED);
	((struct hello *)data)->cancelled++;
}

static void hello_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct hello *h = data;
	assert_non_null(reply);
	assert_int_equal(status->code, CS_GRPC_OK);
	const char *text = ((const Countersign__Test__EchoReply *)reply)->text;
	if (strcmp(text, "hello") == 0) {
		h->hellos++;
		return;
	}
	assert_true(h->hellos > 0); /* answers come in the order of the calls here */
	h->says++;
	if (--h->left > 0)
		return;
	if (h->reset) {
		finish(h->f);
		return;
	}
	h->reset = true;
	h->hellos = 0;
	h->left = 1;
	cs_grpc_channel_reset(h->f->channel);
	struct cs_error e;
	REQUEST(request, request.text = (char *)(uintptr_t) "say");
	const struct cs_grpc_call_options options = {.wait = true};
	assert_int_equal(
		cs_grpc_unary(h->f->channel, SERVICE, "Say", &request.base, &options, hello_reply, h, NULL, &e), 0);
}

static void hello_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	(void)error;
	struct hello *h = data;
	if (state != CS_GRPC_READY)
		return;
	if (h->victim)
		cs_grpc_client_cancel(h->victim); /* one that waits */
	h->victim = NULL;
	struct cs_error e;
	REQUEST(request, request.text = (char *)(uintptr_t) "hello");
	assert_int_equal(cs_grpc_unary(channel, SERVICE, "Say", &request.base, NULL, hello_reply, data, NULL, &e), 0);
}

static void hello_comes_first(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct hello h = {.f = f, .left = 3};
	struct cs_error e;
	serve(f, NULL);
	const struct cs_grpc_channel_options options = {
		.target = f->target, .on_state = hello_state, .data = &h, .backoff_min_ms = 1};
	assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &f->channel, &e), 0);
	REQUEST(request, request.text = (char *)(uintptr_t) "say");
	for (int i = 0; i < 3; i++)
		assert_int_equal(
			cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, NULL, hello_reply, &h, NULL, &e), 0);
	assert_int_equal(
		cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, NULL, hello_cancelled, &h, &h.victim, &e), 0);
	cs_loop_run(&f->loop);
	assert_int_equal(h.cancelled, 1);
	assert_int_equal(h.says, 4);
	assert_int_equal(h.hellos, 1);
	assert_int_equal(f->connects, 2);
	fixture_free(f);
}

/* ---- the server ends a connection from within a handler ---- */

static void close_conn(struct cs_timer *timer)
{
	struct fixture *f = timer->data;
	assert_non_null(f->open);
	assert_string_equal(cs_grpc_call_path(f->open), "/countersign.test.Echo/Say");
	assert_int_equal(cs_grpc_call_deadline_mono_ms(f->open), INT64_MAX);
	cs_grpc_conn_close(cs_grpc_call_conn(f->open));
	assert_non_null(f->open); /* it comes from the loop, never from inside */
}

static void server_closes_a_connection(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	cs_timer_init(&f->timer, &f->loop, close_conn, f);
	f->has_timer = true;
	cs_timer_start(&f->timer, 50, 0);
	REQUEST(request, request.never = 1);
	unary(f, "Say", &request, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_UNAVAILABLE);
	assert_int_equal(f->cancels, 1);
	assert_int_equal(f->done, 1);
	fixture_free(f);
}

/* ---- closing before anything happened ---- */

static void closes_at_once(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_error e;
	serve(f, NULL);
	connect_channel(f, NULL);
	REQUEST(request);
	assert_int_equal(cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, NULL, on_reply, f, NULL, &e), 0);
	cs_grpc_channel_close(f->channel, NULL, NULL);
	assert_int_equal(cs_grpc_channel_state(f->channel), CS_GRPC_CLOSED);
	assert_int_equal(
		cs_grpc_unary(f->channel, SERVICE, "Say", &request.base, NULL, on_reply, f, NULL, &e), -ESHUTDOWN);
	assert_int_equal(f->done, 0);
	f->channel = NULL;
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_CANCELLED);
	assert_int_equal(f->done, 1);
	fixture_free(f);
}

static void cancels_before_it_is_sent(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	serve(f, NULL);
	connect_channel(f, NULL);
	REQUEST(request, request.never = 1);
	unary(f, "Say", &request, 0);
	cs_grpc_client_cancel(f->call);
	cs_grpc_client_cancel(f->call);
	assert_int_equal(f->done, 0);
	cs_loop_run(&f->loop);
	assert_int_equal(f->status.code, CS_GRPC_CANCELLED);
	assert_int_equal(f->done, 1);
	assert_int_equal(f->cancels, 0);
	fixture_free(f);
}

/* A slow reader of one stream holds up no other call of the connection. */
static void paused_stream_beside_a_call(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_grpc_limits limits = {.window = 65535, .conn_window = 65535};
	struct many m = {.f = f, .left = 1};
	struct cs_error e;
	serve(f, NULL);
	connect_channel(f, &limits);
	f->pause_at = 1;
	REQUEST(big, big.count = 1000; big.size = 10000);
	assert_int_equal(
		cs_grpc_stream(f->channel, SERVICE, "Stream", &big.base, NULL, on_message, on_done, f, &f->call, &e),
		0);
	while (f->messages == 0)
		uv_run(&f->loop.uv, UV_RUN_ONCE);
	for (int i = 0; i < 20; i++)
		uv_run(&f->loop.uv, UV_RUN_NOWAIT);
	REQUEST(small, small.text = (char *)(uintptr_t) "x"; small.size = 200000);
	assert_int_equal(cs_grpc_unary(f->channel, SERVICE, "Say", &small.base, NULL, many_reply, &m, NULL, &e), 0);
	cs_loop_run(&f->loop);
	assert_int_equal(m.ok, 1);
	assert_int_equal(f->messages, 1);
	assert_int_equal(f->status.code, CS_GRPC_CANCELLED);
	fixture_free(f);
}

/* No certificate yet: the connection is refused, and says so. */
static SSL_CTX *no_context(void *data, struct cs_error *e)
{
	(void)data;
	cs_error_set(e, -ENOENT, "no certificate yet");
	return NULL;
}

static SSL_CTX *lax_context(void *data, struct cs_error *e)
{
	(void)e;
	return data;
}

static void tls_without_certificate(void **state)
{
	(void)state;
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	const struct cs_grpc_tls tls[] = {{.context = no_context}, {.context = lax_context, .data = ctx}};
	const char *texts[] = {"no certificate yet", "does not ask for the peer's certificate"};
	for (int i = 0; i < 2; i++) {
		struct fixture *f = fixture_new();
		struct cs_error e;
		assert_int_equal(cs_grpc_server_new(&f->loop, NULL, &f->server, &e), 0);
		assert_int_equal(cs_grpc_server_listen_tcp(f->server, "127.0.0.1:0", &tls[i], &e), 0);
		snprintf(f->target, sizeof(f->target), "127.0.0.1:%u", (unsigned)cs_grpc_server_port(f->server));
		const struct cs_grpc_channel_options options = {.target = f->target, .tls = &tls[i]};
		assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &f->channel, &e), 0);
		REQUEST(request);
		unary(f, "Say", &request, 0);
		cs_loop_run(&f->loop);
		assert_int_equal(f->status.code, CS_GRPC_UNAVAILABLE);
		assert_non_null(strstr(f->status.message, texts[i]));
		fixture_free(f);
	}
	SSL_CTX_free(ctx);
}

static void bad_addresses(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_error e;
	const struct cs_grpc_tls tls = {.context = no_context};
	assert_int_equal(cs_grpc_server_new(&f->loop, NULL, &f->server, &e), 0);
	const char *bad[] = {"", ":1", "localhost:1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
		"::1:1", "[::1]", "[::1:1", "127.0.0.1:1x"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cs_grpc_server_listen_tcp(f->server, bad[i], &tls, &e), -EINVAL);
	assert_int_equal(cs_grpc_server_listen_tcp(f->server, "[::1]:0", &tls, &e), 0);
	finish(f);
	fixture_free(f);
}

static void bad_services_and_targets(void **state)
{
	(void)state;
	struct fixture *f = fixture_new();
	struct cs_error e;
	const struct cs_grpc_method no_roles[] = {{.name = "Say", .fn = say}},
				    unknown[] = {{.name = "Nope", .roles = 1, .fn = say}};
	struct cs_grpc_service bad = {.descriptor = SERVICE, .methods = no_roles, .nmethods = 1};
	assert_int_equal(cs_grpc_server_new(&f->loop, NULL, &f->server, &e), 0);
	assert_int_equal(cs_grpc_server_add(f->server, &bad, &e), -EINVAL);
	bad.methods = unknown;
	assert_int_equal(cs_grpc_server_add(f->server, &bad, &e), -EINVAL);
	assert_int_equal(cs_grpc_server_add(f->server, &service, &e), 0);
	assert_int_equal(cs_grpc_server_add(f->server, &service, &e), -EINVAL);
	const char *targets[] = {
		"", "unix", "host", "host:", "host:0", "host:70000", ":1", "host:1x", "h:1" /* no TLS */};
	for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
		const struct cs_grpc_channel_options options = {.target = targets[i]};
		assert_int_equal(cs_grpc_channel_new(&f->loop, &options, &f->channel, &e), -EINVAL);
		f->channel = NULL;
	}
	finish(f);
	fixture_free(f);
}

static void callback_of_sync(const ProtobufCMessage *message, void *data)
{
	(void)message;
	(*(int *)data)++;
}

static void sync_without_server(void **state)
{
	(void)state;
	struct cs_error e = {0};
	struct cs_grpc_status status;
	int messages = 0;
	const struct cs_grpc_channel_options options = {.target = "unix:/nonexistent/socket"};
	REQUEST(request);
	assert_int_equal(cs_grpc_call_sync(&options, SERVICE, "Say", &request.base, 1000, callback_of_sync, &messages,
				 &status, &e),
		-ECONNREFUSED);
	assert_non_null(strstr(e.text, "/nonexistent/socket"));
	assert_int_equal(messages, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unary_call),
		cmocka_unit_test(status_travels),
		cmocka_unit_test(stream_with_back_pressure),
		cmocka_unit_test(handler_forgets),
		cmocka_unit_test(ok_without_reply),
		cmocka_unit_test(role_refused),
		cmocka_unit_test(no_role_no_connection),
		cmocka_unit_test(deadline),
		cmocka_unit_test(client_cancels_stream),
		cmocka_unit_test(slow_reader_holds_the_window),
		cmocka_unit_test(paused_until_after_the_end),
		cmocka_unit_test(paused_past_the_deadline),
		cmocka_unit_test(too_large),
		cmocka_unit_test(amplified),
		cmocka_unit_test(nobody_there),
		cmocka_unit_test(waits_for_the_server),
		cmocka_unit_test(server_closes),
		cmocka_unit_test(channel_closes),
		cmocka_unit_test(many_calls),
		cmocka_unit_test(reconnects),
		cmocka_unit_test(reset_while_it_waits),
		cmocka_unit_test(limits_on_connections),
		cmocka_unit_test(bounced_connections_back_off),
		cmocka_unit_test(idle_connections_end),
		cmocka_unit_test(hello_comes_first),
		cmocka_unit_test(server_closes_a_connection),
		cmocka_unit_test(closes_at_once),
		cmocka_unit_test(cancels_before_it_is_sent),
		cmocka_unit_test(paused_stream_beside_a_call),
		cmocka_unit_test(tls_without_certificate),
		cmocka_unit_test(bad_addresses),
		cmocka_unit_test(bad_services_and_targets),
		cmocka_unit_test(sync_without_server),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
