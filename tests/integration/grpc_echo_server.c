/* A server of ours for tests/integration/test_grpc.py; says what happens in lines on stdout:
 *
 *	ready PORT | connect PEER | disconnect PEER | refused REASON METHOD | cancel PATH | drain QUEUED | closed
 *
 * grpc_echo_server (--unix PATH [--viewer WHO] [--operator WHO] | --tcp ADDRESS --tls DIR) [--limit NAME=VALUE]...
 * SIGTERM ends it with --grace MS (0). */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "echo.pb-c.h"
#include "grpc_echo.h"

struct server {
	struct cs_loop loop;
	struct cs_roles roles;
	struct cs_grpc_server *server;
	struct cs_grpc_server_options options;
	struct echo_tls tls;
	const char *unix_path, *tcp, *tls_dir;
	int64_t grace_ms;
};

/* ---- a call that takes time ---- */

struct slow {
	struct cs_timer timer;
	struct cs_grpc_call *call;
	Countersign__Test__EchoRequest *request; /* a copy */
	struct server *server;
	uint32_t at;
	uint8_t *payload;
};

static void slow_closed(struct cs_timer *timer)
{
	struct slow *s = timer->data;
	countersign__test__echo_request__free_unpacked(s->request, NULL);
	free(s->payload);
	free(s);
}

static void slow_end(struct slow *s)
{
	cs_timer_close(&s->timer, slow_closed);
}

static void slow_cancelled(struct cs_grpc_call *call, void *data)
{
	printf("cancel %s\n", cs_grpc_call_path(call));
	slow_end(data);
}

static void answer(struct cs_grpc_call *call, const Countersign__Test__EchoRequest *request)
{
	if (request->code) {
		cs_grpc_finish_reason(call, (enum cs_grpc_code)request->code, CS_R_LABELS_INVALID, "%s", request->text);
		return;
	}
	Countersign__Test__EchoReply reply = COUNTERSIGN__TEST__ECHO_REPLY__INIT;
	reply.text = request->text;
	reply.peer = (char *)(uintptr_t)cs_grpc_conn_peer(cs_grpc_call_conn(call));
	reply.payload = request->payload;
	uint8_t *payload = NULL;
	if (request->size) {
		payload = calloc(1, request->size);
		reply.payload = (ProtobufCBinaryData){.len = request->size, .data = payload};
	}
	cs_grpc_reply(call, &reply.base);
	free(payload);
}

static void say_later(struct cs_timer *timer)
{
	struct slow *s = timer->data;
	answer(s->call, s->request);
	slow_end(s);
}

static void stream_push(struct cs_grpc_call *call, void *data)
{
	struct slow *s = data;
	while (s->at < s->request->count) {
		Countersign__Test__EchoReply reply = COUNTERSIGN__TEST__ECHO_REPLY__INIT;
		reply.number = s->at++;
		reply.payload = (ProtobufCBinaryData){.len = s->request->size, .data = s->payload};
		int r = cs_grpc_send(call, &reply.base);
		if (r < 0) {
			cs_grpc_finish(call, CS_GRPC_INTERNAL, "send: %d", r);
			slow_end(s);
			return;
		}
		if (r == CS_GRPC_FULL)
			return;
		if (s->request->delay_ms) {
			cs_timer_start(&s->timer, s->request->delay_ms, 0);
			return;
		}
	}
	if (s->request->never)
		return;
	cs_grpc_finish(call, (enum cs_grpc_code)s->request->code, "%s", s->request->code ? s->request->text : "");
	slow_end(s);
}

static void stream_drained(struct cs_grpc_call *call, void *data)
{
	struct slow *s = data;
	if (!cs_timer_active(&s->timer))
		stream_push(call, s);
}

static void stream_tick(struct cs_timer *timer)
{
	struct slow *s = timer->data;
	stream_push(s->call, s);
}

static struct slow *slow_new(struct cs_grpc_call *call, const ProtobufCMessage *in, struct server *server,
	void (*fn)(struct cs_timer *timer))
{
	struct slow *s = calloc(1, sizeof(*s));
	size_t n = protobuf_c_message_get_packed_size(in);
	uint8_t *bytes = malloc(n + 1);
	if (!s || !bytes)
		abort();
	protobuf_c_message_pack(in, bytes);
	s->request = countersign__test__echo_request__unpack(NULL, n, bytes);
	free(bytes);
	s->call = call;
	s->server = server;
	s->payload = calloc(1, s->request->size + 1);
	cs_timer_init(&s->timer, &server->loop, fn, s);
	return s;
}

static void say(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	const Countersign__Test__EchoRequest *request = (const Countersign__Test__EchoRequest *)in;
	if (!request->never && !request->delay_ms) {
		answer(call, request);
		return;
	}
	struct slow *s = slow_new(call, in, data, say_later);
	cs_grpc_call_watch(call, slow_cancelled, NULL, s);
	if (!request->never)
		cs_timer_start(&s->timer, request->delay_ms, 0);
}

static void stream(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	struct slow *s = slow_new(call, in, data, stream_tick);
	cs_grpc_call_watch(call, slow_cancelled, stream_drained, s);
	stream_push(call, s);
}

static const struct cs_grpc_method methods[] = {
	{.name = "Say", .roles = CS_ROLE_VIEWER | CS_ROLE_PEER, .fn = say},
	{.name = "Stream", .roles = CS_ROLE_VIEWER | CS_ROLE_PEER, .streaming = true, .fn = stream},
	{.name = "Operate", .roles = CS_ROLE_OPERATOR, .fn = say},
};

/* ---- connections ---- */

static void on_connect(struct cs_grpc_conn *conn, void *data)
{
	(void)data;
	printf("connect %s\n", cs_grpc_conn_peer(conn));
}

static void on_disconnect(struct cs_grpc_conn *conn, void *data)
{
	(void)data;
	printf("disconnect %s\n", cs_grpc_conn_peer(conn));
}

static void on_refused(const struct cs_grpc_refusal *refusal, void *data)
{
	(void)data;
	printf("refused %s %s: %s\n", cs_reason_name(refusal->reason), refusal->method ? refusal->method : "connection",
		refusal->text);
}

static void on_stop(struct cs_loop *loop, void *data)
{
	(void)loop;
	struct server *s = data;
	cs_grpc_server_close(s->server, s->grace_ms, NULL, NULL);
}

static int options(struct server *s, int argc, char **argv, struct cs_error *e)
{
	static const struct option names[] = {{"unix", 1, 0, 'u'}, {"viewer", 1, 0, 'v'}, {"operator", 1, 0, 'o'},
		{"tcp", 1, 0, 't'}, {"tls", 1, 0, 'c'}, {"limit", 1, 0, 'l'}, {"grace", 1, 0, 'g'}, {0}};
	int r = 0;
	for (int c; r == 0 && (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		if (c == 'u')
			s->unix_path = optarg;
		else if (c == 't')
			s->tcp = optarg;
		else if (c == 'c')
			s->tls_dir = optarg;
		else if (c == 'g')
			s->grace_ms = atoll(optarg);
		else if (c == 'v' || c == 'o')
			r = cs_roles_allow(&s->roles, c == 'v' ? CS_ROLE_VIEWER : CS_ROLE_OPERATOR, optarg, e);
		else if (c != 'l' || echo_limit(&s->options.limits, optarg) < 0)
			r = cs_error_set(e, -1, "wrong option");
	}
	return r;
}

static int start(struct server *s, struct cs_grpc_service *service, struct cs_error *e)
{
	s->options.on_connect = on_connect;
	s->options.on_disconnect = on_disconnect;
	s->options.on_refused = on_refused;
	int r = cs_grpc_server_new(&s->loop, &s->options, &s->server, e);
	if (r == 0)
		r = cs_grpc_server_add(s->server, service, e);
	if (r == 0 && s->unix_path)
		r = cs_grpc_server_listen_unix(s->server, s->unix_path, 0666, (gid_t)-1, &s->roles, e);
	if (r == 0 && s->tcp)
		r = echo_tls_init(&s->tls, s->tls_dir, true, e);
	if (r == 0 && s->tcp)
		r = cs_grpc_server_listen_tcp(s->server, s->tcp, &s->tls.tls, e);
	return r;
}

int main(int argc, char **argv)
{
	struct server s = {0};
	struct cs_error e = {0};
	struct cs_grpc_service service = {
		.descriptor = &countersign__test__echo__descriptor, .methods = methods, .nmethods = 3, .data = &s};
	setvbuf(stdout, NULL, _IOLBF, 0);
	int r = cs_loop_init(&s.loop, NULL, &e);
	if (r == 0)
		r = options(&s, argc, argv, &e);
	if (r == 0)
		r = cs_loop_signals(&s.loop, &e);
	if (r == 0)
		r = start(&s, &service, &e);
	if (r == 0) {
		cs_loop_on_stop(&s.loop, on_stop, &s);
		printf("ready %u\n", (unsigned)cs_grpc_server_port(s.server));
	} else {
		fprintf(stderr, "%s\n", e.text);
		if (s.server)
			cs_grpc_server_close(s.server, 0, NULL, NULL);
	}
	cs_loop_run(&s.loop);
	cs_loop_fini(&s.loop);
	echo_tls_fini(&s.tls);
	printf("closed\n");
	return r < 0;
}
