/* The life of a server and of its connections, and their deadlines. */
#include "grpc_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_timer(struct cs_timer *timer);

int cs_grpc_server_new(struct cs_loop *loop, const struct cs_grpc_server_options *options,
	struct cs_grpc_server **ret_server, struct cs_error *e)
{
	struct cs_grpc_server *server = calloc(1, sizeof(*server));
	if (!server)
		return cs_error_set(e, -ENOMEM, "no memory for a server");
	server->loop = loop;
	if (options)
		server->options = *options;
	cs_grpc_limits_fill(&server->options.limits);
	server->next_ms = server->kill_ms = INT64_MAX;
	cs_timer_init(&server->timer, loop, on_timer, server);
	*ret_server = server;
	return 0;
}

static int check_service(const struct cs_grpc_service *service, struct cs_error *e)
{
	const char *name = service->descriptor->name;
	for (size_t i = 0; i < service->nmethods; i++) {
		const struct cs_grpc_method *m = &service->methods[i];
		if (!protobuf_c_service_descriptor_get_method_by_name(service->descriptor, m->name))
			return cs_error_set(e, -EINVAL, "service %s has no method %s in its .proto", name, m->name);
		if (!m->roles || !m->fn)
			return cs_error_set(
				e, -EINVAL, "method %s of service %s has no roles or no handler", m->name, name);
	}
	return 0;
}

int cs_grpc_server_add(struct cs_grpc_server *server, const struct cs_grpc_service *service, struct cs_error *e)
{
	for (size_t i = 0; i < server->nservices; i++)
		if (strcmp(server->services[i]->descriptor->name, service->descriptor->name) == 0)
			return cs_error_set(e, -EINVAL, "service %s is served twice", service->descriptor->name);
	if (server->nservices == CS_GRPC_SERVICES_MAX)
		return cs_error_set(e, -EINVAL, "more than %d services on one server", CS_GRPC_SERVICES_MAX);
	int r = check_service(service, e);
	if (r == 0)
		server->services[server->nservices++] = service;
	return r;
}

uint16_t cs_grpc_server_port(const struct cs_grpc_server *server)
{
	return server->port;
}

size_t cs_grpc_server_calls(const struct cs_grpc_server *server)
{
	return server->ncalls;
}

/* ---- connections ---- */

void cs_grpc_server_refused(struct cs_grpc_conn *conn, const char *method, enum cs_reason reason, const char *text)
{
	const struct cs_grpc_server_options *options = &conn->server->options;
	const struct cs_grpc_refusal refusal = {.peer = conn->peer, .method = method, .reason = reason, .text = text};
	if (options->on_refused)
		options->on_refused(&refusal, options->refused_data);
}

static int conn_up(struct cs_http2 *h, struct cs_error *e)
{
	struct cs_grpc_conn *conn = (struct cs_grpc_conn *)h;
	int r = 0;
	if (h->tls) {
		conn->roles = CS_ROLE_PEER;
		memcpy(conn->peer, h->peer, sizeof(conn->peer));
		r = cs_grpc_conn_name_room(conn, e);
		cs_grpc_conn_place(conn, r < 0 ? CS_GRPC_NOWHERE : CS_GRPC_NAMED);
	}
	if (r == 0)
		r = cs_grpc_request_session(conn, e);
	if (r < 0)
		return r;
	conn->announced = true;
	if (conn->server->options.on_connect)
		conn->server->options.on_connect(conn, conn->server->options.data);
	return 0;
}

void cs_grpc_conn_place(struct cs_grpc_conn *conn, enum cs_grpc_place place)
{
	struct cs_grpc_server *server = conn->server;
	if (conn->is_pending) {
		DL_DELETE2(server->pending, conn, pprev, pnext);
		server->npending--;
	}
	server->nnamed -= conn->is_named;
	conn->is_pending = place == CS_GRPC_PENDING;
	conn->is_named = place == CS_GRPC_NAMED;
	if (conn->is_pending) {
		DL_APPEND2(server->pending, conn, pprev, pnext);
		server->npending++;
	}
	server->nnamed += conn->is_named;
}

static void conn_after_io(struct cs_http2 *h)
{
	struct cs_grpc_conn *conn = (struct cs_grpc_conn *)h;
	if (!conn->drain_due)
		return;
	conn->drain_due = false;
	struct cs_grpc_call *call;
	DL_FOREACH (conn->calls, call) { /* nothing frees a call before the next nghttp2 callback */
		if (!call->drain_due)
			continue;
		call->drain_due = false;
		if (call->running && !call->finished && call->on_drain)
			call->on_drain(call, call->data);
	}
}

static void conn_down(struct cs_http2 *h, const struct cs_error *why)
{
	struct cs_grpc_conn *conn = (struct cs_grpc_conn *)h;
	cs_grpc_conn_place(conn, CS_GRPC_NOWHERE);
	while (conn->calls)
		cs_grpc_call_free(conn->calls);
	if (h->tls && !conn->announced && !conn->turned_away && !conn->server->closing)
		cs_grpc_server_refused(conn, NULL, why->reason, why->text);
	if (conn->announced && conn->server->options.on_disconnect)
		conn->server->options.on_disconnect(conn, conn->server->options.data);
}

static void maybe_closed(struct cs_grpc_server *server);

static void conn_gone(struct cs_http2 *h)
{
	struct cs_grpc_conn *conn = (struct cs_grpc_conn *)h;
	struct cs_grpc_server *server = conn->server;
	DL_DELETE(server->conns, conn);
	server->nconns--;
	free(conn);
	maybe_closed(server);
}

static const struct cs_http2_events conn_events = {
	.up = conn_up, .after_io = conn_after_io, .down = conn_down, .gone = conn_gone};

struct cs_grpc_conn *cs_grpc_conn_new(struct cs_grpc_server *server, bool tcp)
{
	struct cs_grpc_conn *conn = calloc(1, sizeof(*conn));
	if (!conn || cs_http2_init(&conn->h, server->loop, tcp, true, &conn_events, NULL) < 0) {
		free(conn);
		return NULL;
	}
	conn->server = server;
	if (tcp)
		conn->h.handshakes = &server->handshakes;
	conn->h.idle_since_ms = cs_loop_mono_ms(server->loop);
	conn->deadline_ms = INT64_MAX;
	DL_APPEND(server->conns, conn);
	server->nconns++;
	return conn;
}

int cs_grpc_conn_start(struct cs_grpc_conn *conn, const struct cs_grpc_tls *tls, struct cs_error *e)
{
	conn->deadline_ms = cs_loop_mono_ms(conn->server->loop) + conn->server->options.limits.handshake_ms;
	cs_grpc_server_deadline(conn->server, conn->deadline_ms);
	return cs_http2_start(&conn->h, tls, e);
}

void cs_grpc_conn_refuse(struct cs_grpc_conn *conn, const struct cs_error *why)
{
	conn->turned_away = true;
	cs_grpc_server_refused(conn, NULL, why->reason, why->text);
	cs_http2_fail(&conn->h, why);
}

const char *cs_grpc_conn_peer(const struct cs_grpc_conn *conn)
{
	return conn->peer;
}

uid_t cs_grpc_conn_uid(const struct cs_grpc_conn *conn)
{
	return conn->uid;
}

uint32_t cs_grpc_conn_roles(const struct cs_grpc_conn *conn)
{
	return conn->roles;
}

void cs_grpc_conn_set_data(struct cs_grpc_conn *conn, void *data)
{
	conn->data = data;
}

void *cs_grpc_conn_data(const struct cs_grpc_conn *conn)
{
	return conn->data;
}

void cs_grpc_conn_close(struct cs_grpc_conn *conn)
{
	struct cs_error why;
	cs_error_set(&why, -ECONNABORTED, "closed by this side");
	cs_http2_fail(&conn->h, &why);
}

/* ---- deadlines ---- */

void cs_grpc_server_deadline(struct cs_grpc_server *server, int64_t at_ms)
{
	if (at_ms >= server->next_ms || server->timer_closing)
		return;
	server->next_ms = at_ms;
	cs_timer_start(&server->timer, at_ms - cs_loop_mono_ms(server->loop), 0);
}

/* What is over for a call at this time? Returns when to look again. */
static int64_t call_due(struct cs_grpc_call *call, int64_t now_ms)
{
	nghttp2_session *session = call->conn->h.session;
	int64_t due_ms = call->deadline_ms < call->request_deadline_ms ? call->deadline_ms : call->request_deadline_ms;
	if (now_ms < due_ms)
		return due_ms;
	if (call->finished) { /* the client did not take what was left */
		call->deadline_ms = call->request_deadline_ms = INT64_MAX;
		nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, call->stream, NGHTTP2_CANCEL);
		cs_http2_wake(&call->conn->h);
		return INT64_MAX;
	}
	bool theirs = now_ms >= call->deadline_ms;
	call->deadline_ms = INT64_MAX;
	if (!call->headers_done) { /* in the midst of a header block nothing can be answered */
		cs_grpc_conn_close(call->conn);
		return INT64_MAX;
	}
	cs_grpc_call_cancel(call);
	cs_grpc_call_end(call, CS_GRPC_DEADLINE_EXCEEDED, CS_R_NONE,
		theirs ? "the call's deadline passed" : "the request did not arrive in time");
	return call->request_deadline_ms;
}

static int64_t conn_due(struct cs_grpc_conn *conn, int64_t now_ms)
{
	struct cs_grpc_call *call;
	int64_t next_ms = INT64_MAX;
	DL_FOREACH (conn->calls, call) {
		int64_t due_ms = call_due(call, now_ms);
		next_ms = due_ms < next_ms ? due_ms : next_ms;
	}
	if (now_ms >= conn->deadline_ms) {
		struct cs_error why;
		cs_error_set(&why, -ETIMEDOUT, "%s", conn->settings_seen ? "idle" : "no HTTP/2 came in time");
		conn->deadline_ms = INT64_MAX;
		if (conn->h.session)
			nghttp2_submit_goaway(conn->h.session, NGHTTP2_FLAG_NONE,
				nghttp2_session_get_last_proc_stream_id(conn->h.session), NGHTTP2_NO_ERROR, NULL, 0);
		cs_http2_fail(&conn->h, &why);
	}
	return conn->deadline_ms < next_ms ? conn->deadline_ms : next_ms;
}

/* The grace is over: end what still runs, and leave its last bytes a moment. */
static void kill_calls(struct cs_grpc_server *server, int64_t now_ms)
{
	struct cs_grpc_conn *conn;
	DL_FOREACH (server->conns, conn) {
		struct cs_grpc_call *call;
		DL_FOREACH (conn->calls, call) {
			cs_grpc_call_cancel(call);
			cs_grpc_call_end(call, CS_GRPC_UNAVAILABLE, CS_R_NONE, "the server is shutting down");
		}
		conn->deadline_ms = now_ms + CS_GRPC_CLOSE_MS;
	}
}

static void on_timer(struct cs_timer *timer)
{
	struct cs_grpc_server *server = timer->data;
	int64_t now_ms = cs_loop_mono_ms(server->loop), next_ms = INT64_MAX;
	server->next_ms = INT64_MAX;
	if (now_ms >= server->kill_ms) {
		server->kill_ms = INT64_MAX;
		kill_calls(server, now_ms);
	}
	struct cs_grpc_conn *conn;
	DL_FOREACH (server->conns, conn) {
		int64_t due_ms = conn_due(conn, now_ms);
		next_ms = due_ms < next_ms ? due_ms : next_ms;
	}
	next_ms = server->kill_ms < next_ms ? server->kill_ms : next_ms;
	cs_grpc_server_deadline(server, next_ms);
}

/* ---- the end ---- */

static void on_timer_closed(struct cs_timer *timer)
{
	struct cs_grpc_server *server = timer->data;
	void (*closed)(void *data) = server->closed;
	void *data = server->closed_data;
	free(server);
	if (closed)
		closed(data);
}

static void maybe_closed(struct cs_grpc_server *server)
{
	if (!server->closing || server->timer_closing || server->nconns > 0 || server->nlisteners > 0)
		return;
	server->timer_closing = true;
	cs_timer_close(&server->timer, on_timer_closed);
}

void cs_grpc_listener_gone(struct cs_grpc_server *server)
{
	server->nlisteners--;
	maybe_closed(server);
}

static void say_goodbye(struct cs_grpc_conn *conn)
{
	struct cs_error why;
	cs_error_set(&why, -ESHUTDOWN, "the server is shutting down");
	if (conn->h.session) {
		nghttp2_submit_goaway(conn->h.session, NGHTTP2_FLAG_NONE,
			nghttp2_session_get_last_proc_stream_id(conn->h.session), NGHTTP2_NO_ERROR, NULL, 0);
		cs_http2_wake(&conn->h);
	}
	if (conn->ncalls == 0)
		cs_http2_fail(&conn->h, &why);
}

void cs_grpc_server_close(struct cs_grpc_server *server, int64_t grace_ms, void (*closed)(void *data), void *data)
{
	int64_t kill_ms = cs_loop_mono_ms(server->loop) + (grace_ms > 0 ? grace_ms : 0);
	if (!server->closing) {
		server->closing = true;
		server->closed = closed;
		server->closed_data = data;
		for (struct listener *l = server->listeners, *next; l; l = next) {
			next = l->next;
			cs_grpc_listener_close(l);
		}
		server->listeners = NULL;
		struct cs_grpc_conn *conn;
		DL_FOREACH (server->conns, conn)
			say_goodbye(conn);
	}
	if (kill_ms < server->kill_ms)
		server->kill_ms = kill_ms;
	cs_grpc_server_deadline(server, server->kill_ms);
	maybe_closed(server);
}
