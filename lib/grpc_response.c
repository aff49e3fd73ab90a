/* Answers as nghttp2 reports them: headers become the status, bytes become messages. */
#include "grpc_client.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

static struct cs_grpc_client_call *call_of(nghttp2_session *session, int32_t stream)
{
	return nghttp2_session_get_stream_user_data(session, stream);
}

/* ---- headers ---- */

static void take_reason(struct cs_grpc_client_call *call, const uint8_t *value, size_t n)
{
	char name[64];
	if (n >= sizeof(name))
		return;
	memcpy(name, value, n);
	name[n] = '\0';
	int reason = cs_reason_parse(name);
	call->status.reason = reason > 0 ? (enum cs_reason)reason : CS_R_NONE;
}

static void take_header(
	struct cs_grpc_client_call *call, const uint8_t *name, size_t n, const uint8_t *value, size_t nvalue)
{
	if (cs_grpc_name_is(name, n, ":status")) {
		call->http_status = 0;
		for (size_t i = 0; i < nvalue && i < 3; i++) /* nghttp2 lets three digits pass and nothing else */
			call->http_status = call->http_status * 10 + (value[i] - '0');
	} else if (cs_grpc_name_is(name, n, "content-type")) {
		call->content_type_ok = cs_grpc_content_type_ok(value, nvalue);
	} else if (cs_grpc_name_is(name, n, "grpc-encoding")) {
		call->encoded = nvalue != 8 || memcmp(value, "identity", 8) != 0;
	} else if (cs_grpc_name_is(name, n, "grpc-status")) {
		call->has_status = true;
		call->status.code = cs_grpc_status_parse(value, nvalue);
	} else if (cs_grpc_name_is(name, n, "grpc-message")) {
		cs_grpc_percent_decode(value, nvalue, call->status.message, sizeof(call->status.message));
	} else if (cs_grpc_name_is(name, n, "countersign-reason")) {
		take_reason(call, value, nvalue);
	}
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t n,
	const uint8_t *value, size_t nvalue, uint8_t flags, void *data)
{
	(void)flags;
	struct client_conn *conn = data;
	struct cs_grpc_client_call *call = call_of(session, frame->hd.stream_id);
	if (!call)
		return 0;
	call->headers_bytes += n + nvalue + 32;
	size_t max = conn->channel->options.limits.headers_max;
	if (call->headers_bytes > max * CS_GRPC_HEADERS_ABUSE)
		return nghttp2_session_terminate_session(session, NGHTTP2_ENHANCE_YOUR_CALM);
	if (call->headers_bytes <= max)
		take_header(call, name, n, value, nvalue);
	return 0;
}

static void headers_complete(struct cs_grpc_client_call *call)
{
	const struct cs_grpc_limits *limits = &call->channel->options.limits;
	if (call->headers_bytes > limits->headers_max) {
		cs_grpc_client_end(call, CS_GRPC_RESOURCE_EXHAUSTED, "the server's headers are larger than %u bytes",
			(unsigned)limits->headers_max);
		return;
	}
	if (call->headers_done) /* trailers */
		return;
	if (call->http_status / 100 == 1) /* informational; the real ones follow */
		return;
	call->headers_done = true;
	if (call->has_status) /* trailers only: grpc-status is the last word whatever HTTP says */
		return;
	if (call->http_status != 200)
		cs_grpc_client_end(call, cs_grpc_code_of_http(call->http_status),
			"the server answered with HTTP status %d", call->http_status);
	else if (!call->content_type_ok)
		cs_grpc_client_end(call, CS_GRPC_UNKNOWN, "the server's answer is not gRPC");
}

/* ---- messages ---- */

static void take_message(struct cs_grpc_client_call *call)
{
	ProtobufCMessage *message;
	int r = cs_grpc_unpack(
		call->type, call->in.body, call->in.size, call->channel->options.limits.unpack_max, &message);
	if (r < 0) {
		cs_grpc_client_end(call, r == -EMSGSIZE ? CS_GRPC_RESOURCE_EXHAUSTED : CS_GRPC_INTERNAL,
			"the server's message is %s %s",
			r == -EMSGSIZE ? "too large when unpacked to a" : "not a valid", call->type->name);
		return;
	}
	if (!call->unary) {
		call->on_message(call, message, call->data);
		cs_grpc_unpack_free(message);
	} else if (call->reply) {
		cs_grpc_unpack_free(message);
		cs_grpc_client_end(call, CS_GRPC_INTERNAL, "the server sent more than one reply");
	} else {
		call->reply = message;
	}
}

static void refuse_bytes(struct cs_grpc_client_call *call, int error)
{
	switch (error) {
	case -EMSGSIZE:
		cs_grpc_client_end(call, CS_GRPC_RESOURCE_EXHAUSTED,
			"the server's message has %u bytes, more than the %u that are taken", (unsigned)call->in.size,
			(unsigned)call->in.message_max);
		break;
	case -EOPNOTSUPP:
		cs_grpc_client_end(
			call, CS_GRPC_INTERNAL, "the server's message is compressed, which was not agreed on");
		break;
	case -ENOMEM:
		cs_grpc_client_end(call, CS_GRPC_RESOURCE_EXHAUSTED, "no memory for the server's message");
		break;
	default:
		cs_grpc_client_end(call, CS_GRPC_INTERNAL, "the server's answer is not in gRPC's framing");
	}
}

/* Returns how much was taken; less than n if the callback paused or ended the call. */
static size_t parse(struct cs_grpc_client_call *call, const uint8_t *bytes, size_t n)
{
	size_t at = 0;
	while (at < n && !call->paused && call->place != CALL_DONE) {
		size_t used;
		int r = cs_grpc_deframe(&call->in, bytes + at, n - at, &used);
		at += used;
		if (call->conn)
			nghttp2_session_consume_stream(call->conn->h.session, call->stream, used);
		if (r > 0) {
			take_message(call);
			if (call->in.size > 0)
				OPENSSL_cleanse(
					call->in.body, call->in.size); /* until the next one it would lie there */
		} else if (r < 0)
			refuse_bytes(call, r);
	}
	if (call->conn)
		cs_http2_wake(&call->conn->h); /* the window may have opened */
	return at;
}

static void hold(struct cs_grpc_client_call *call, const uint8_t *bytes, size_t n)
{
	if (call->held_read > 0) {
		call->nheld -= call->held_read;
		memmove(call->held, call->held + call->held_read, call->nheld);
		call->held_read = 0;
	}
	if (call->nheld + n > call->held_room) {
		size_t room = call->nheld + n > 2 * call->held_room ? call->nheld + n : 2 * call->held_room;
		uint8_t *held = realloc(call->held, room);
		if (!held) {
			refuse_bytes(call, -ENOMEM);
			return;
		}
		call->held = held;
		call->held_room = room;
	}
	memcpy(call->held + call->nheld, bytes, n);
	call->nheld += n;
}

void cs_grpc_response_resume(struct cs_grpc_client_call *call)
{
	call->held_read += parse(call, call->held + call->held_read, call->nheld - call->held_read);
	if (call->place == CALL_DONE || call->held_read < call->nheld)
		return;
	call->held_read = call->nheld = 0;
	if (call->ended)
		cs_grpc_client_settle(call);
}

/* The window of the connection opens at once, so that one slow reader holds up no other call; that of the stream opens
 * as messages are taken. */
static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes, size_t n, void *data)
{
	(void)flags;
	struct client_conn *conn = data;
	int r = nghttp2_session_consume_connection(session, n);
	struct cs_grpc_client_call *call = call_of(session, stream);
	if (r < 0 || !call)
		return r;
	size_t used = call->nheld > 0 ? 0 : parse(call, bytes, n);
	if (used < n && call->place != CALL_DONE)
		hold(call, bytes + used, n - used);
	cs_http2_wake(&conn->h);
	return 0;
}

/* ---- the end ---- */

static void end_of_response(struct cs_grpc_client_call *call)
{
	if (!call->has_status) {
		call->status.code = CS_GRPC_INTERNAL;
		snprintf(call->status.message, sizeof(call->status.message),
			"the server ended the call without a status");
	}
	/* Its request may still be on the way; the server does not want the rest. */
	cs_grpc_client_detach(call, !call->request_done);
	call->ended = true;
	cs_grpc_client_settle(call);
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
	struct client_conn *conn = data;
	if (frame->hd.type == NGHTTP2_SETTINGS && !(frame->hd.flags & NGHTTP2_FLAG_ACK)) {
		if (!conn->ready)
			cs_grpc_channel_ready(conn);
		cs_grpc_channel_wake(conn->channel); /* more streams may be allowed */
		return 0;
	}
	if (frame->hd.type == NGHTTP2_GOAWAY) {
		cs_grpc_channel_goaway(conn);
		return 0;
	}
	struct cs_grpc_client_call *call = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA
						   ? call_of(session, frame->hd.stream_id)
						   : NULL;
	if (!call)
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS)
		headers_complete(call);
	if (call->place == CALL_RUNNING && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		end_of_response(call);
	return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error, void *data)
{
	(void)data;
	struct cs_grpc_client_call *call = call_of(session, stream);
	if (!call)
		return 0;
	cs_grpc_client_detach(call, false);
	if (error == NGHTTP2_REFUSED_STREAM && !call->headers_done && !call->retried && !call->open) {
		cs_grpc_client_retry(call);
		return 0;
	}
	call->status.code = cs_grpc_code_of_http2_error(error);
	call->status.reason = CS_R_NONE;
	snprintf(call->status.message, sizeof(call->status.message), "the server reset the call: %s",
		nghttp2_http2_strerror(error));
	call->ended = true;
	cs_grpc_client_settle(call);
	return 0;
}

int cs_grpc_response_session(struct client_conn *conn, struct cs_error *e)
{
	nghttp2_session_callbacks *callbacks;
	if (nghttp2_session_callbacks_new(&callbacks) < 0)
		return cs_error_set(e, -ENOMEM, "no memory for a connection");
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
	int r = cs_grpc_session_new(&conn->h, callbacks, &conn->channel->options.limits, 0, conn, e);
	nghttp2_session_callbacks_del(callbacks);
	return r;
}
