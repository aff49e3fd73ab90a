/* What a handler does with its call. */
#include "grpc_server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cs_grpc_conn *cs_grpc_call_conn(const struct cs_grpc_call *call)
{
	return call->conn;
}

const char *cs_grpc_call_path(const struct cs_grpc_call *call)
{
	return call->path;
}

int64_t cs_grpc_call_deadline_mono_ms(const struct cs_grpc_call *call)
{
	return call->deadline_ms;
}

size_t cs_grpc_call_queued(const struct cs_grpc_call *call)
{
	return call->out.bytes;
}

void cs_grpc_call_watch(struct cs_grpc_call *call, void (*on_cancel)(struct cs_grpc_call *, void *),
	void (*on_drain)(struct cs_grpc_call *, void *), void *data)
{
	call->on_cancel = on_cancel;
	call->on_drain = on_drain;
	call->data = data;
}

void cs_grpc_call_cancel(struct cs_grpc_call *call)
{
	if (!call->running || call->finished)
		return;
	call->running = false;
	if (call->on_cancel)
		call->on_cancel(call, call->data);
}

/* grpc-status and, where there is something to say, grpc-message and the reason. Returns the number of fields. */
static size_t status_fields(
	const struct cs_grpc_status *status, nghttp2_nv *nv, char code[4], char message[CS_GRPC_PERCENT_ROOM])
{
	size_t n = 0;
	snprintf(code, 4, "%d", (int)status->code);
	nv[n++] = cs_grpc_nv("grpc-status", code);
	if (status->message[0]) {
		cs_grpc_percent_encode(status->message, message);
		nv[n++] = cs_grpc_nv("grpc-message", message);
	}
	if (status->reason != CS_R_NONE)
		nv[n++] = cs_grpc_nv("countersign-reason", cs_reason_name(status->reason));
	return n;
}

static int submit_trailers(struct cs_grpc_call *call)
{
	nghttp2_nv nv[3];
	char code[4], message[CS_GRPC_PERCENT_ROOM];
	size_t n = status_fields(&call->status, nv, code, message);
	return nghttp2_submit_trailer(call->conn->h.session, call->stream, nv, n);
}

/* nghttp2 wants bytes of the answer. */
static ssize_t read_answer(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room, uint32_t *flags,
	nghttp2_data_source *source, void *data)
{
	(void)session;
	(void)stream;
	struct cs_grpc_conn *conn = data;
	struct cs_grpc_call *call = source->ptr;
	size_t n = cs_grpc_queue_read(&call->out, out, room);
	if (call->full && call->out.bytes <= conn->server->options.limits.queue_high / 2) {
		call->full = false;
		call->drain_due = conn->drain_due = true;
	}
	if (call->out.bytes > 0)
		return (ssize_t)n;
	if (call->finished) {
		*flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
		return submit_trailers(call) < 0 ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : (ssize_t)n;
	}
	if (n > 0)
		return (ssize_t)n;
	call->deferred = true;
	return NGHTTP2_ERR_DEFERRED;
}

/* The stream is beyond help (out of memory): end it. */
static void give_up(struct cs_grpc_call *call)
{
	nghttp2_submit_rst_stream(call->conn->h.session, NGHTTP2_FLAG_NONE, call->stream, NGHTTP2_INTERNAL_ERROR);
}

/* There is something new to send: the first headers, or more data. */
static void push(struct cs_grpc_call *call)
{
	nghttp2_session *session = call->conn->h.session;
	int r = 0;
	if (!call->headers_sent) {
		call->headers_sent = true;
		nghttp2_nv nv[5] = {cs_grpc_nv(":status", "200"), cs_grpc_nv("content-type", "application/grpc")};
		nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_answer};
		if (call->finished && call->out.bytes == 0) { /* trailers only */
			char code[4], message[CS_GRPC_PERCENT_ROOM];
			size_t n = status_fields(&call->status, nv + 2, code, message);
			r = nghttp2_submit_response(session, call->stream, nv, 2 + n, NULL);
		} else {
			r = nghttp2_submit_response(session, call->stream, nv, 2, &provider);
		}
	} else if (call->deferred) {
		call->deferred = false;
		r = nghttp2_session_resume_data(session, call->stream);
	}
	if (r < 0)
		give_up(call);
	cs_http2_wake(&call->conn->h);
}

int cs_grpc_send(struct cs_grpc_call *call, const ProtobufCMessage *message)
{
	const struct cs_grpc_limits *limits = &call->conn->server->options.limits;
	struct cs_grpc_packet *packet;
	if (call->finished || !call->running)
		return -EPIPE;
	int r = cs_grpc_pack(message, limits->message_max, &packet, NULL);
	if (r < 0)
		return r;
	if (call->out.bytes + packet->size > limits->queue_max) {
		free(packet);
		return -ENOBUFS;
	}
	cs_grpc_queue_take(&call->out, packet);
	call->sent_message = true;
	push(call);
	if (call->out.bytes < limits->queue_high)
		return 0;
	call->full = true;
	return CS_GRPC_FULL;
}

void cs_grpc_call_end(struct cs_grpc_call *call, enum cs_grpc_code code, enum cs_reason reason, const char *text)
{
	struct cs_grpc_server *server = call->conn->server;
	if (call->finished)
		return;
	if (code == CS_GRPC_OK && call->method && !call->method->streaming && !call->sent_message) {
		code = CS_GRPC_INTERNAL;
		text = "the method gave no reply";
	}
	call->finished = true;
	call->status.code = code;
	call->status.reason = reason;
	snprintf(call->status.message, sizeof(call->status.message), "%s", text);
	/* From here on only the client's reading can take time. */
	call->request_deadline_ms = cs_loop_mono_ms(server->loop) + CS_GRPC_LINGER_MS;
	cs_grpc_server_deadline(server, call->request_deadline_ms);
	push(call);
}

void cs_grpc_call_http(struct cs_grpc_call *call, const char *http_status)
{
	call->finished = call->headers_sent = true;
	call->request_deadline_ms = cs_loop_mono_ms(call->conn->server->loop) + CS_GRPC_LINGER_MS;
	cs_grpc_server_deadline(call->conn->server, call->request_deadline_ms);
	const nghttp2_nv nv[] = {cs_grpc_nv(":status", http_status)};
	if (nghttp2_submit_response(call->conn->h.session, call->stream, nv, 1, NULL) < 0)
		give_up(call);
	cs_http2_wake(&call->conn->h);
}

void cs_grpc_reply(struct cs_grpc_call *call, const ProtobufCMessage *message)
{
	int r = cs_grpc_send(call, message);
	if (r >= 0)
		cs_grpc_finish(call, CS_GRPC_OK, "%s", "");
	else
		cs_grpc_finish(call, CS_GRPC_RESOURCE_EXHAUSTED,
			"the reply, a %s of %zu bytes, is larger than %u bytes", message->descriptor->name,
			protobuf_c_message_get_packed_size(message),
			(unsigned)call->conn->server->options.limits.message_max);
}

void cs_grpc_finish(struct cs_grpc_call *call, enum cs_grpc_code code, const char *fmt, ...)
{
	char text[CS_GRPC_STATUS_TEXT];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	cs_grpc_call_end(call, code, CS_R_NONE, text);
}

void cs_grpc_finish_reason(
	struct cs_grpc_call *call, enum cs_grpc_code code, enum cs_reason reason, const char *fmt, ...)
{
	char text[CS_GRPC_STATUS_TEXT];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	cs_grpc_call_end(call, code, reason, text);
}

void cs_grpc_finish_error(struct cs_grpc_call *call, enum cs_grpc_code code, const struct cs_error *e)
{
	cs_grpc_call_end(call, code, e->reason, e->text);
}
