/* Calls whose requests are a stream: what this side says, while answers come as for any other call. */
#include "grpc_client.h"

#include <errno.h>
#include <stdlib.h>

int cs_grpc_open(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service, const char *method,
	const struct cs_grpc_call_options *options, const struct cs_grpc_stream_events *events, void *data,
	struct cs_grpc_client_call **ret_call, struct cs_error *e)
{
	int r = cs_grpc_client_start(channel, service, method, options, ret_call, e);
	if (r < 0)
		return r;
	struct cs_grpc_client_call *call = *ret_call;
	call->open = true;
	call->on_message = events->on_message;
	call->on_drain = events->on_drain;
	call->on_done = events->on_done;
	call->data = data;
	return 0;
}

/* Something new for nghttp2, if it has asked before and there was nothing. */
static void push(struct cs_grpc_client_call *call)
{
	if (!call->deferred || !call->conn)
		return;
	call->deferred = false;
	if (nghttp2_session_resume_data(call->conn->h.session, call->stream) < 0)
		cs_grpc_client_end(call, CS_GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
	else
		cs_http2_wake(&call->conn->h);
}

int cs_grpc_client_send(struct cs_grpc_client_call *call, const ProtobufCMessage *message)
{
	const struct cs_grpc_limits *limits = &call->channel->options.limits;
	struct cs_grpc_packet *packet;
	if (!call->open || call->half_closed || call->ended || call->place == CALL_DONE)
		return -EPIPE;
	int r = cs_grpc_pack(message, limits->message_max, &packet, NULL);
	if (r < 0)
		return r;
	if (call->out.bytes + packet->size > limits->queue_max) {
		free(packet);
		return -ENOBUFS;
	}
	cs_grpc_queue_take(&call->out, packet);
	bool full = call->out.bytes >= limits->queue_high;
	call->full = call->full || full;
	push(call);
	return full ? CS_GRPC_FULL : 0;
}

size_t cs_grpc_client_queued(const struct cs_grpc_client_call *call)
{
	return call->out.bytes;
}

void cs_grpc_client_half_close(struct cs_grpc_client_call *call)
{
	if (!call->open || call->half_closed || call->place == CALL_DONE)
		return;
	call->half_closed = true;
	push(call);
}

ssize_t cs_grpc_open_read(struct cs_grpc_client_call *call, uint8_t *out, size_t room, uint32_t *flags)
{
	size_t n = cs_grpc_queue_read(&call->out, out, room);
	if (call->full && call->out.bytes <= call->channel->options.limits.queue_high / 2) {
		call->full = false;
		call->drain_due = true;
		cs_grpc_channel_wake(call->channel);
	}
	if (call->out.bytes > 0)
		return (ssize_t)n;
	if (call->half_closed) {
		call->request_done = true;
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		return (ssize_t)n;
	}
	if (n > 0)
		return (ssize_t)n;
	call->deferred = true;
	return NGHTTP2_ERR_DEFERRED;
}
