/* Requests as nghttp2 reports them: headers are judged, bytes become the message, and the handler gets it. */
#include "grpc_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct cs_grpc_call *call_of(nghttp2_session *session, int32_t stream)
{
	return nghttp2_session_get_stream_user_data(session, stream);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
	struct cs_grpc_conn *conn = data;
	struct cs_grpc_server *server = conn->server;
	int32_t stream = frame->hd.stream_id;
	if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	struct cs_grpc_call *call = NULL;
	if (server->ncalls >= server->options.limits.calls_max)
		cs_grpc_server_refused(conn, "", CS_R_TOO_MANY, "as many calls run as may be");
	else if (!server->closing)
		call = calloc(1, sizeof(*call));
	if (!call)
		return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream, NGHTTP2_REFUSED_STREAM);
	call->conn = conn;
	call->stream = stream;
	call->deadline_ms = INT64_MAX;
	call->timeout_ms = -1;
	call->request_deadline_ms = cs_loop_mono_ms(server->loop) + server->options.limits.request_ms;
	cs_grpc_deframer_init(&call->in, server->options.limits.message_max);
	DL_APPEND(conn->calls, call);
	conn->ncalls++;
	server->ncalls++;
	if (conn->settings_seen)
		conn->deadline_ms = INT64_MAX;
	cs_grpc_server_deadline(server, call->request_deadline_ms);
	return nghttp2_session_set_stream_user_data(session, stream, call);
}

void cs_grpc_call_free(struct cs_grpc_call *call)
{
	struct cs_grpc_conn *conn = call->conn;
	cs_grpc_call_cancel(call);
	DL_DELETE(conn->calls, call);
	conn->server->ncalls--;
	if (--conn->ncalls == 0 && conn->settings_seen && !conn->server->closing) {
		conn->deadline_ms = cs_loop_mono_ms(conn->server->loop) + conn->server->options.limits.idle_ms;
		cs_grpc_server_deadline(conn->server, conn->deadline_ms);
	}
	cs_grpc_deframer_fini(&call->in);
	cs_grpc_queue_fini(&call->out);
	free(call);
}

static void take_header(struct cs_grpc_call *call, const uint8_t *name, size_t n, const uint8_t *value, size_t nvalue)
{
	if (cs_grpc_name_is(name, n, ":path")) {
		call->path_bad = nvalue > CS_GRPC_PATH_MAX || memchr(value, '\0', nvalue);
		call->npath = call->path_bad ? 0 : nvalue;
		memcpy(call->path, value, call->npath);
		call->path[call->npath] = '\0';
	} else if (cs_grpc_name_is(name, n, ":method")) {
		call->is_post = nvalue == 4 && memcmp(value, "POST", 4) == 0;
	} else if (cs_grpc_name_is(name, n, "content-type")) {
		call->content_type_ok = cs_grpc_content_type_ok(value, nvalue);
	} else if (cs_grpc_name_is(name, n, "grpc-encoding")) {
		call->encoded = nvalue != 8 || memcmp(value, "identity", 8) != 0;
	} else if (cs_grpc_name_is(name, n, "grpc-timeout")) {
		call->timeout_bad = cs_grpc_timeout_parse(value, nvalue, &call->timeout_ms) < 0;
	}
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t n,
	const uint8_t *value, size_t nvalue, uint8_t flags, void *data)
{
	(void)flags;
	struct cs_grpc_conn *conn = data;
	struct cs_grpc_call *call = call_of(session, frame->hd.stream_id);
	if (!call)
		return 0;
	call->headers_bytes += n + nvalue + 32;
	size_t max = conn->server->options.limits.headers_max;
	if (call->headers_bytes > max * CS_GRPC_HEADERS_ABUSE)
		return nghttp2_session_terminate_session(session, NGHTTP2_ENHANCE_YOUR_CALM);
	if (!call->headers_done && call->headers_bytes <= max)
		take_header(call, name, n, value, nvalue);
	return 0;
}

static void find_method(struct cs_grpc_call *call)
{
	const struct cs_grpc_server *server = call->conn->server;
	size_t nservice;
	const char *method;
	if (call->path_bad || cs_grpc_path_parse(call->path, call->npath, &nservice, &method) < 0) {
		cs_grpc_call_end(call, CS_GRPC_UNIMPLEMENTED, CS_R_NONE, "the path is not /package.Service/Method");
		return;
	}
	for (size_t i = 0; i < server->nservices && !call->method; i++) {
		const struct cs_grpc_service *service = server->services[i];
		const char *name = service->descriptor->name;
		if (strlen(name) != nservice || memcmp(name, call->path + 1, nservice) != 0)
			continue;
		call->service = service;
		for (size_t m = 0; m < service->nmethods && !call->method; m++)
			if (strcmp(service->methods[m].name, method) == 0)
				call->method = &service->methods[m];
	}
	char text[CS_GRPC_PATH_MAX + 64];
	snprintf(text, sizeof(text), "this socket has no %s %s", call->service ? "method" : "service", call->path);
	if (!call->method)
		cs_grpc_call_end(call, CS_GRPC_UNIMPLEMENTED, CS_R_NONE, text);
}

static void check_role(struct cs_grpc_call *call)
{
	const struct cs_grpc_conn *conn = call->conn;
	if (conn->roles & call->method->roles)
		return;
	char has[96], needs[96], text[CS_GRPC_STATUS_TEXT];
	cs_roles_text(conn->roles, has);
	cs_roles_text(call->method->roles, needs);
	snprintf(text, sizeof(text), "%s needs the role %s; you are %s", call->path, needs, has);
	cs_grpc_server_refused(call->conn, call->path, CS_R_ROLE_REFUSED, text);
	cs_grpc_call_end(call, CS_GRPC_PERMISSION_DENIED, CS_R_ROLE_REFUSED, text);
}

/* All headers are here: is this a call that may be made? */
static void judge(struct cs_grpc_call *call)
{
	struct cs_grpc_server *server = call->conn->server;
	call->headers_done = true;
	if (call->headers_bytes > server->options.limits.headers_max) {
		cs_grpc_server_refused(call->conn, call->path, CS_R_TOO_MANY, "the headers are too large");
		cs_grpc_call_end(call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY, "the headers are too large");
		return;
	}
	if (!call->is_post) {
		cs_grpc_call_http(call, "405");
		return;
	}
	if (!call->content_type_ok) {
		cs_grpc_call_http(call, "415");
		return;
	}
	if (call->encoded) {
		cs_grpc_call_end(
			call, CS_GRPC_UNIMPLEMENTED, CS_R_NONE, "compressed messages are not taken: use identity");
		return;
	}
	if (call->timeout_bad) {
		cs_grpc_call_end(call, CS_GRPC_INTERNAL, CS_R_NONE, "grpc-timeout is malformed");
		return;
	}
	if (call->timeout_ms >= 0) {
		call->deadline_ms = cs_loop_mono_ms(server->loop) + call->timeout_ms;
		cs_grpc_server_deadline(server, call->deadline_ms);
	}
	find_method(call);
	if (!call->finished)
		check_role(call);
}

static void dispatch(struct cs_grpc_call *call)
{
	const struct cs_grpc_limits *limits = &call->conn->server->options.limits;
	const ProtobufCServiceDescriptor *service = call->service->descriptor;
	const ProtobufCMethodDescriptor *method =
		protobuf_c_service_descriptor_get_method_by_name(service, call->method->name);
	ProtobufCMessage *in;
	int r = cs_grpc_unpack(method->input, call->in.body, call->in.size, limits->unpack_max, &in);
	cs_grpc_deframer_fini(&call->in);
	if (r < 0) {
		char text[256];
		snprintf(text, sizeof(text), "the request is %s %s",
			r == -EMSGSIZE ? "too large when unpacked to a" : "not a valid", method->input->name);
		cs_grpc_call_end(call, r == -EMSGSIZE ? CS_GRPC_RESOURCE_EXHAUSTED : CS_GRPC_INTERNAL, CS_R_NONE, text);
		return;
	}
	call->running = true;
	call->method->fn(call, in, call->service->data);
	cs_grpc_unpack_free(in);
	if (!call->finished && !call->on_cancel) {
		call->running = false;
		cs_grpc_call_end(call, CS_GRPC_INTERNAL, CS_R_NONE, "the method gave no answer");
	}
}

static void end_of_request(struct cs_grpc_call *call)
{
	if (call->request_done)
		return;
	call->request_done = true;
	if (call->finished)
		return;
	call->request_deadline_ms = INT64_MAX;
	if (!call->has_message || cs_grpc_deframer_partial(&call->in))
		cs_grpc_call_end(
			call, CS_GRPC_INTERNAL, CS_R_NONE, "the request ended before its message was complete");
	else
		dispatch(call);
}

static void refuse_bytes(struct cs_grpc_call *call, int error)
{
	char text[128];
	enum cs_grpc_code code = CS_GRPC_INTERNAL;
	enum cs_reason reason = CS_R_NONE;
	switch (error) {
	case -EMSGSIZE:
		code = CS_GRPC_RESOURCE_EXHAUSTED;
		snprintf(text, sizeof(text), "the request has %u bytes, more than the %u that are taken",
			(unsigned)call->in.size, (unsigned)call->in.message_max);
		reason = CS_R_TOO_MANY;
		cs_grpc_server_refused(call->conn, call->path, reason, text);
		break;
	case -EOPNOTSUPP:
		snprintf(text, sizeof(text), "the message is compressed, and no grpc-encoding was named");
		break;
	case -ENOMEM:
		code = CS_GRPC_RESOURCE_EXHAUSTED;
		snprintf(text, sizeof(text), "no memory for the request");
		break;
	default:
		snprintf(text, sizeof(text), "the request is not in gRPC's framing");
	}
	cs_grpc_call_end(call, code, reason, text);
}

/* What arrives is bounded by message_max, so the window opens again at once. */
static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes, size_t n, void *data)
{
	(void)flags;
	(void)data;
	struct cs_grpc_call *call = call_of(session, stream);
	int r = nghttp2_session_consume(session, stream, n);
	if (r < 0)
		return r;
	while (call && !call->finished && n > 0) {
		if (call->has_message) {
			cs_grpc_call_end(
				call, CS_GRPC_INTERNAL, CS_R_NONE, "this method takes one message, not several");
			break;
		}
		size_t used;
		r = cs_grpc_deframe(&call->in, bytes, n, &used);
		if (r < 0)
			refuse_bytes(call, r);
		else
			call->has_message = r == 1;
		bytes += used;
		n -= used;
	}
	return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
	struct cs_grpc_conn *conn = data;
	if (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK) && !conn->settings_seen) {
		conn->settings_seen = true;
		conn->deadline_ms = cs_loop_mono_ms(conn->server->loop) + conn->server->options.limits.idle_ms;
		return 0;
	}
	if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)
		return 0;
	struct cs_grpc_call *call = call_of(session, frame->hd.stream_id);
	if (!call)
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS && !call->headers_done)
		judge(call);
	if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
		end_of_request(call);
	return 0;
}

/* The answer is out and the client still speaks: ask it to stop (RFC 9113 8.1). */
static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
	(void)data;
	if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	const struct cs_grpc_call *call = call_of(session, frame->hd.stream_id);
	if (!call || call->request_done)
		return 0;
	return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error, void *data)
{
	(void)error;
	(void)data;
	struct cs_grpc_call *call = call_of(session, stream);
	if (call)
		cs_grpc_call_free(call);
	return 0;
}

int cs_grpc_request_session(struct cs_grpc_conn *conn, struct cs_error *e)
{
	nghttp2_session_callbacks *callbacks;
	if (nghttp2_session_callbacks_new(&callbacks) < 0)
		return cs_error_set(e, -ENOMEM, "no memory for a connection");
	nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
	nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
	const struct cs_grpc_limits *limits = &conn->server->options.limits;
	int r = cs_grpc_session_new(&conn->h, callbacks, limits, limits->streams_max, conn, e);
	nghttp2_session_callbacks_del(callbacks);
	return r;
}
