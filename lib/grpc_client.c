/* Calls of a channel: waiting for a connection, running on a stream, done. */
#include "grpc_client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/crypto.h>

static struct cs_grpc_client_call **list_of(struct cs_grpc_channel *channel, enum call_place place)
{
	return place == CALL_WAITING ? &channel->waiting : place == CALL_RUNNING ? &channel->running : &channel->done;
}

static void move(struct cs_grpc_client_call *call, enum call_place place)
{
	struct cs_grpc_client_call **from = list_of(call->channel, call->place), **to = list_of(call->channel, place);
	DL_DELETE(*from, call);
	DL_APPEND(*to, call);
	call->place = place;
	cs_grpc_channel_wake(call->channel);
}

/* ---- a new call ---- */

static void free_call(struct cs_grpc_client_call *call)
{
	cs_grpc_deframer_fini(&call->in);
	cs_grpc_queue_fini(&call->out);
	cs_grpc_unpack_free(call->reply);
	free(call->request);
	for (size_t i = 0; i < call->nfields; i++) {
		char *value = (char *)(uintptr_t)call->fields[i].value;
		OPENSSL_cleanse(value, strlen(value));
		free(value);
		free((char *)(uintptr_t)call->fields[i].name);
	}
	free(call->held);
	free(call);
}

static int check_call(const struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service,
	const char *method, const struct cs_grpc_call_options *options, const ProtobufCMethodDescriptor **ret_method,
	struct cs_error *e)
{
	if (channel->closing)
		return cs_error_set(e, -ESHUTDOWN, "the channel to %s is closed", channel->name);
	if (options && options->nfields > CS_GRPC_FIELDS_MAX)
		return cs_error_set(e, -EINVAL, "a call has at most %d fields of metadata more", CS_GRPC_FIELDS_MAX);
	*ret_method = protobuf_c_service_descriptor_get_method_by_name(service, method);
	if (!*ret_method || 2 + strlen(service->name) + strlen(method) > CS_GRPC_PATH_MAX)
		return cs_error_set(e, -EINVAL, "service %s has no method %s", service->name, method);
	if (channel->ncalls >= channel->options.limits.calls_max)
		return cs_error_reason(e, -ENOBUFS, CS_R_TOO_MANY, "%u calls to %s wait or run, as many as may be",
			(unsigned)channel->options.limits.calls_max, channel->name);
	return 0;
}

static int take_fields(struct cs_grpc_client_call *call, const struct cs_grpc_call_options *options, struct cs_error *e)
{
	for (size_t i = 0; i < options->nfields; i++) {
		char *name = strdup(options->fields[i].name), *value = strdup(options->fields[i].value);
		if (!name || !value) {
			free(name);
			free(value);
			return cs_error_set(e, -ENOMEM, "no memory for a call");
		}
		call->fields[call->nfields++] = (struct cs_grpc_field){.name = name, .value = value};
	}
	return 0;
}

int cs_grpc_client_start(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service, const char *method,
	const struct cs_grpc_call_options *options, struct cs_grpc_client_call **ret_call, struct cs_error *e)
{
	const ProtobufCMethodDescriptor *descriptor = NULL;
	int r = check_call(channel, service, method, options, &descriptor, e);
	if (r < 0)
		return r;
	struct cs_grpc_client_call *call = calloc(1, sizeof(*call));
	if (!call)
		return cs_error_set(e, -ENOMEM, "no memory for a call");
	r = options ? take_fields(call, options, e) : 0;
	if (r < 0) {
		free_call(call);
		return r;
	}
	call->channel = channel;
	call->type = descriptor->output;
	call->deadline_ms = INT64_MAX;
	snprintf(call->path, sizeof(call->path), "/%s/%s", service->name, method);
	cs_grpc_deframer_init(&call->in, channel->options.limits.message_max);
	if (options) {
		call->wait = options->wait;
		if (options->timeout_ms > 0)
			call->deadline_ms = cs_loop_mono_ms(channel->loop) + options->timeout_ms;
	}
	call->place = CALL_WAITING;
	call->first = channel->in_ready;
	DL_APPEND(channel->waiting, call);
	channel->ncalls++;
	cs_grpc_channel_deadline(channel, call->deadline_ms);
	cs_grpc_channel_wake(channel);
	*ret_call = call;
	return 0;
}

/* With its one request. */
static int start(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service, const char *method,
	const ProtobufCMessage *in, const struct cs_grpc_call_options *options, struct cs_grpc_client_call **ret_call,
	struct cs_error *e)
{
	struct cs_grpc_packet *request;
	int r = cs_grpc_pack(in, channel->options.limits.message_max, &request, e);
	if (r < 0)
		return r;
	r = cs_grpc_client_start(channel, service, method, options, ret_call, e);
	if (r < 0)
		free(request);
	else
		(*ret_call)->request = request;
	return r;
}

int cs_grpc_unary(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service, const char *method,
	const ProtobufCMessage *in, const struct cs_grpc_call_options *options, cs_grpc_on_reply *on_reply, void *data,
	struct cs_grpc_client_call **ret_call, struct cs_error *e)
{
	struct cs_grpc_client_call *call;
	int r = start(channel, service, method, in, options, &call, e);
	if (r < 0)
		return r;
	call->unary = true;
	call->on_reply = on_reply;
	call->data = data;
	if (ret_call)
		*ret_call = call;
	return 0;
}

int cs_grpc_stream(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service, const char *method,
	const ProtobufCMessage *in, const struct cs_grpc_call_options *options, cs_grpc_on_message *on_message,
	cs_grpc_on_done *on_done, void *data, struct cs_grpc_client_call **ret_call, struct cs_error *e)
{
	struct cs_grpc_client_call *call;
	int r = start(channel, service, method, in, options, &call, e);
	if (r < 0)
		return r;
	call->on_message = on_message;
	call->on_done = on_done;
	call->data = data;
	if (ret_call)
		*ret_call = call;
	return 0;
}

/* ---- a stream for it ---- */

static ssize_t read_request(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room, uint32_t *flags,
	nghttp2_data_source *source, void *data)
{
	(void)source;
	(void)data;
	struct cs_grpc_client_call *call = nghttp2_session_get_stream_user_data(session, stream);
	if (call && call->open)
		return cs_grpc_open_read(call, out, room, flags);
	if (!call || !call->request)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	size_t left = call->request->size - call->request_sent, n = left < room ? left : room;
	memcpy(out, call->request->bytes + call->request_sent, n);
	call->request_sent += n;
	if (n == left) {
		call->request_done = true;
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	}
	return (ssize_t)n;
}

static void submit(struct client_conn *conn, struct cs_grpc_client_call *call)
{
	char timeout[16];
	nghttp2_nv nv[9 + CS_GRPC_FIELDS_MAX] = {cs_grpc_nv(":method", "POST"),
		cs_grpc_nv(":scheme", conn->h.tls ? "https" : "http"), cs_grpc_nv(":path", call->path),
		cs_grpc_nv(":authority", call->channel->authority), cs_grpc_nv("te", "trailers"),
		cs_grpc_nv("content-type", "application/grpc"), cs_grpc_nv("grpc-accept-encoding", "identity"),
		cs_grpc_nv("user-agent", "countersign/" CS_VERSION)};
	size_t n = 8;
	if (call->deadline_ms != INT64_MAX) {
		cs_grpc_timeout_format(call->deadline_ms - cs_loop_mono_ms(call->channel->loop), timeout);
		nv[n++] = cs_grpc_nv("grpc-timeout", timeout);
	}
	for (size_t i = 0; i < call->nfields; i++) {
		nv[n] = cs_grpc_nv(call->fields[i].name, call->fields[i].value);
		nv[n++].flags = NGHTTP2_NV_FLAG_NO_INDEX;
	}
	const nghttp2_data_provider provider = {.read_callback = read_request};
	int32_t stream = nghttp2_submit_request(conn->h.session, NULL, nv, n, &provider, call);
	if (stream < 0) {
		cs_grpc_client_end(call, CS_GRPC_UNAVAILABLE, "cannot make the call: %s", nghttp2_strerror(stream));
		return;
	}
	call->conn = conn;
	call->stream = stream;
	call->request_sent = 0;
	call->request_done = false;
	conn->ncalls++;
	move(call, CALL_RUNNING);
	cs_http2_wake(&conn->h);
}

void cs_grpc_client_first(struct cs_grpc_channel *channel)
{
	struct cs_grpc_client_call *call, *next, *first = NULL;
	DL_FOREACH_SAFE (channel->waiting, call, next) {
		if (!call->first)
			continue;
		call->first = false;
		DL_DELETE(channel->waiting, call);
		DL_APPEND(first, call);
	}
	DL_CONCAT(first, channel->waiting);
	channel->waiting = first;
}

void cs_grpc_client_submit_all(struct cs_grpc_channel *channel)
{
	struct client_conn *conn = channel->conn;
	while (conn && conn->ready && !conn->h.failed && channel->waiting) {
		if (conn->ncalls >=
			nghttp2_session_get_remote_settings(conn->h.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
			break;
		if (!nghttp2_session_check_request_allowed(conn->h.session)) { /* out of stream numbers */
			cs_grpc_channel_goaway(conn);
			break;
		}
		submit(conn, channel->waiting);
	}
}

void cs_grpc_client_detach(struct cs_grpc_client_call *call, bool reset)
{
	struct client_conn *conn = call->conn;
	if (!conn)
		return;
	nghttp2_session_set_stream_user_data(conn->h.session, call->stream, NULL);
	if (reset) {
		nghttp2_submit_rst_stream(conn->h.session, NGHTTP2_FLAG_NONE, call->stream, NGHTTP2_CANCEL);
		cs_http2_wake(&conn->h);
	}
	call->conn = NULL;
	conn->ncalls--;
	cs_grpc_channel_wake(call->channel);
}

/* ---- the end ---- */

void cs_grpc_client_end(struct cs_grpc_client_call *call, enum cs_grpc_code code, const char *fmt, ...)
{
	if (call->place == CALL_DONE)
		return;
	call->status.code = code;
	call->status.reason = CS_R_NONE;
	call->status.untouched = call->place == CALL_WAITING;
	va_list args;
	va_start(args, fmt);
	vsnprintf(call->status.message, sizeof(call->status.message), fmt, args);
	va_end(args);
	cs_grpc_client_detach(call, true);
	move(call, CALL_DONE);
}

void cs_grpc_client_settle(struct cs_grpc_client_call *call)
{
	if (call->place == CALL_DONE || call->held_read < call->nheld)
		return;
	if (call->status.code == CS_GRPC_OK && cs_grpc_deframer_partial(&call->in))
		cs_grpc_client_end(call, CS_GRPC_INTERNAL, "the server ended the call in the midst of a message");
	else if (call->status.code == CS_GRPC_OK && call->unary && !call->reply)
		cs_grpc_client_end(call, CS_GRPC_INTERNAL, "the server gave no reply");
	else
		move(call, CALL_DONE);
}

void cs_grpc_client_retry(struct cs_grpc_client_call *call)
{
	struct cs_grpc_channel *channel = call->channel;
	call->retried = true;
	DL_DELETE(channel->running, call);
	DL_PREPEND(channel->waiting, call);
	call->place = CALL_WAITING;
	cs_grpc_channel_wake(channel);
}

void cs_grpc_client_pause(struct cs_grpc_client_call *call)
{
	call->paused = true;
	call->resumed = false;
}

void cs_grpc_client_resume(struct cs_grpc_client_call *call)
{
	if (!call->paused)
		return;
	call->paused = false;
	call->resumed = true;
	cs_grpc_channel_wake(call->channel);
}

void cs_grpc_client_cancel(struct cs_grpc_client_call *call)
{
	cs_grpc_client_end(call, CS_GRPC_CANCELLED, "cancelled by this side");
}

void cs_grpc_client_cancel_all(struct cs_grpc_channel *channel)
{
	while (channel->waiting)
		cs_grpc_client_end(channel->waiting, CS_GRPC_CANCELLED, "the channel was closed");
	while (channel->running)
		cs_grpc_client_end(channel->running, CS_GRPC_CANCELLED, "the channel was closed");
}

void cs_grpc_client_conn_lost(struct client_conn *conn, const struct cs_error *why)
{
	struct cs_grpc_client_call *call, *next;
	DL_FOREACH_SAFE (conn->channel->running, call, next) {
		if (call->conn != conn)
			continue;
		cs_grpc_client_detach(call, false);
		call->status.code = CS_GRPC_UNAVAILABLE;
		call->status.reason = why->reason;
		snprintf(call->status.message, sizeof(call->status.message), "%s", why->text);
		call->ended = true;
		cs_grpc_client_settle(call);
	}
}

void cs_grpc_client_fail_waiting(struct cs_grpc_channel *channel, const struct cs_error *why)
{
	struct cs_grpc_client_call *call, *next;
	DL_FOREACH_SAFE (channel->waiting, call, next) {
		if (call->wait)
			continue;
		cs_grpc_client_end(call, CS_GRPC_UNAVAILABLE, "%s", why->text);
		call->status.reason = why->reason;
	}
}

int64_t cs_grpc_client_due(struct cs_grpc_channel *channel, int64_t now_ms)
{
	struct cs_grpc_client_call *call, *next, *lists[] = {channel->waiting, channel->running};
	int64_t next_ms = INT64_MAX;
	for (int i = 0; i < 2; i++) {
		DL_FOREACH_SAFE (lists[i], call, next) {
			if (now_ms >= call->deadline_ms)
				cs_grpc_client_end(call, CS_GRPC_DEADLINE_EXCEEDED, "no answer from %s in time%s%s",
					channel->name, call->place == CALL_RUNNING ? "" : ": not connected; ",
					call->place == CALL_RUNNING ? "" : channel->why.text);
			else if (call->deadline_ms < next_ms)
				next_ms = call->deadline_ms;
		}
	}
	return next_ms;
}

/* ---- callbacks ---- */

static void finish(struct cs_grpc_client_call *call)
{
	struct cs_grpc_channel *channel = call->channel;
	DL_DELETE(channel->done, call);
	channel->ncalls--;
	if (call->unary)
		call->on_reply(&call->status, call->status.code == CS_GRPC_OK ? call->reply : NULL, call->data);
	else
		call->on_done(&call->status, call->data);
	free_call(call);
}

void cs_grpc_client_callbacks(struct cs_grpc_channel *channel)
{
	struct cs_grpc_client_call *call;
	do { /* a callback may change the lists, so each round starts at the head */
		DL_SEARCH_SCALAR(channel->running, call, resumed, true);
		if (call) {
			call->resumed = false;
			cs_grpc_response_resume(call);
		}
	} while (call);
	do {
		DL_SEARCH_SCALAR(channel->running, call, drain_due, true);
		if (call) {
			call->drain_due = false;
			if (call->on_drain && !call->ended)
				call->on_drain(call, call->data);
		}
	} while (call);
	while (channel->done)
		finish(channel->done);
}
