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
	bool has_timer;
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
	struct cs_grpc_server_options options = {
		.on_connect = on_connect, .on_disconnect = on_disconnect, .on_refused = on_refused, .data = f};
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unary_call),
		cmocka_unit_test(status_travels),
		cmocka_unit_test(stream_with_back_pressure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
