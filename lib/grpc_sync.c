/* One call with a loop of its own. */
#include "grpc.h"

#include <errno.h>
#include <string.h>

struct run {
	struct cs_grpc_channel *channel;
	void (*on_message)(const ProtobufCMessage *message, void *data);
	void *data;
	struct cs_grpc_status *status;
};

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)call;
	struct run *run = data;
	run->on_message(message, run->data);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct run *run = data;
	*run->status = *status;
	cs_grpc_channel_close(run->channel, NULL, NULL);
}

int cs_grpc_call_sync(const struct cs_grpc_channel_options *options, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *in, int64_t timeout_ms,
	void (*fn)(const ProtobufCMessage *message, void *data), void *data, struct cs_grpc_status *ret_status,
	struct cs_error *e)
{
	struct cs_loop loop;
	struct run run = {.on_message = fn, .data = data, .status = ret_status};
	*ret_status = (struct cs_grpc_status){.code = CS_GRPC_INTERNAL};
	int r = cs_loop_init(&loop, NULL, e);
	if (r < 0)
		return r;
	r = cs_grpc_channel_new(&loop, options, &run.channel, e);
	if (r == 0) {
		/* A unary call is a stream of one message; what that one must be is the caller's to know. */
		const struct cs_grpc_call_options call = {.timeout_ms = timeout_ms};
		r = cs_grpc_stream(run.channel, service, method, in, &call, on_message, on_done, &run, NULL, e);
		if (r < 0)
			cs_grpc_channel_close(run.channel, NULL, NULL);
		cs_loop_run(&loop);
	}
	cs_loop_fini(&loop);
	return r < 0 ? r : cs_grpc_status_error(ret_status, e);
}
