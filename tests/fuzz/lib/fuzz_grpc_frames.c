/* HTTP/2 as a hostile peer may speak it, against the server's session and the client's, without sockets. Whatever
 * comes: every call ends exactly once, and nothing is left in the loop. The first byte says which side, and how the
 * rest is cut. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "echo.pb-c.h"
#include "grpc_client.h"
#include "grpc_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int open_calls;

static void cancelled(struct cs_grpc_call *call, void *data)
{
	(void)call;
	(void)data;
	open_calls--;
}

static void say(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	(void)data;
	const Countersign__Test__EchoRequest *request = (const Countersign__Test__EchoRequest *)in;
	if (request->never) {
		open_calls++;
		cs_grpc_call_watch(call, cancelled, NULL, NULL);
		return;
	}
	Countersign__Test__EchoReply reply = COUNTERSIGN__TEST__ECHO_REPLY__INIT;
	reply.payload = request->payload;
	cs_grpc_reply(call, &reply.base);
}

static const struct cs_grpc_method methods[] = {{.name = "Say", .roles = CS_ROLE_VIEWER, .fn = say},
	{.name = "Stream", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = say},
	{.name = "Operate", .roles = CS_ROLE_OPERATOR, .fn = say}};
static const struct cs_grpc_service service = {
	.descriptor = &countersign__test__echo__descriptor, .methods = methods, .nmethods = 3};

/* In pieces, as a socket would; and what the session answers is taken away. */
static void feed(struct cs_http2 *h, const uint8_t *data, size_t size, size_t step)
{
	struct cs_error e;
	for (size_t at = 0; at < size;) {
		size_t n = size - at < step ? size - at : step;
		if (cs_http2_input(h, data + at, n, &e) < 0)
			break;
		at += n;
		const uint8_t *out;
		while (nghttp2_session_mem_send(h->session, &out) > 0)
			;
	}
	cs_error_set(&e, -1, "the input ended");
	cs_http2_fail(h, &e);
}

static void as_server(struct cs_loop *loop, const uint8_t *data, size_t size, size_t step)
{
	struct cs_grpc_server *server;
	struct cs_error e;
	const struct cs_grpc_server_options options = {.limits = {.message_max = 65536, .unpack_max = 1 << 20}};
	assert(cs_grpc_server_new(loop, &options, &server, &e) == 0);
	assert(cs_grpc_server_add(server, &service, &e) == 0);
	struct cs_grpc_conn *conn = cs_grpc_conn_new(server, false);
	assert(conn);
	conn->roles = CS_ROLE_VIEWER;
	assert(cs_http2_up(&conn->h, &e) == 0);
	static const char magic[] = NGHTTP2_CLIENT_MAGIC;
	assert(cs_http2_input(&conn->h, (const uint8_t *)magic, sizeof(magic) - 1, &e) == 0);
	feed(&conn->h, data, size, step);
	cs_grpc_server_close(server, 0, NULL, NULL);
	cs_loop_run(loop);
	assert(open_calls == 0);
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)data;
	const Countersign__Test__EchoReply *reply = (const Countersign__Test__EchoReply *)message;
	if (reply->number == 1)
		cs_grpc_client_pause(call);
	if (reply->number == 2)
		cs_grpc_client_cancel(call);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	(void)status;
	(void)data;
	open_calls--;
}

static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	assert(!reply == (status->code != CS_GRPC_OK));
	on_done(status, data);
}

/* A connection of the channel's that is up without a socket. */
static struct client_conn *connect_channel(struct cs_grpc_channel *channel)
{
	struct cs_error e;
	struct client_conn *conn = cs_grpc_channel_conn(channel, &e);
	assert(conn && cs_http2_up(&conn->h, &e) == 0);
	channel->state = CS_GRPC_CONNECTING;
	return conn;
}

static void as_client(struct cs_loop *loop, const uint8_t *data, size_t size, size_t step)
{
	struct cs_grpc_channel *channel;
	struct cs_error e;
	const struct cs_grpc_channel_options options = {.target = "unix:/nonexistent"};
	assert(cs_grpc_channel_new(loop, &options, &channel, &e) == 0);
	struct client_conn *conn = connect_channel(channel);
	Countersign__Test__EchoRequest request = COUNTERSIGN__TEST__ECHO_REQUEST__INIT;
	const ProtobufCServiceDescriptor *echo = &countersign__test__echo__descriptor;
	static const uint8_t settings[9] = {0, 0, 0, NGHTTP2_SETTINGS};
	open_calls = 2;
	assert(cs_grpc_unary(channel, echo, "Say", &request.base, NULL, on_reply, NULL, NULL, &e) == 0);
	assert(cs_grpc_stream(channel, echo, "Stream", &request.base, NULL, on_message, on_done, NULL, NULL, &e) == 0);
	assert(cs_http2_input(&conn->h, settings, sizeof(settings), &e) == 0);
	cs_grpc_client_submit_all(channel);
	const uint8_t *out;
	while (nghttp2_session_mem_send(conn->h.session, &out) > 0)
		;
	feed(&conn->h, data, size, step);
	cs_grpc_channel_close(channel, NULL, NULL);
	cs_loop_run(loop);
	assert(open_calls == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_loop loop;
	if (size == 0)
		return 0;
	assert(cs_loop_init(&loop, NULL, NULL) == 0);
	size_t step = data[0] >= 128 ? SIZE_MAX : 1 + data[0] / 2;
	(data[0] & 1 ? as_client : as_server)(&loop, data + 1, size - 1, step);
	cs_loop_fini(&loop);
	return 0;
}
