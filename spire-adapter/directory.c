#include "directory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "grpc.h"
#include "instance.h"
#include "log.h"

struct cs_directory {
	struct cs_loop *loop;
	struct cs_directory_events events;
	struct cs_check *check;
	struct cs_grpc_channel *channel;
	struct cs_grpc_client_call *call; /* NULL: none */
	struct cs_timer timer;            /* with a call: silence; without: when to try again */
	bool broken;                      /* this call's records are of no use any more */
	bool closing;
	int64_t heard_mono_ms; /* the last batch, and what it said of the cluster role; INT64_MAX: there was none */
	int64_t silent_ms;
};

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_directory *d = data;
	const Countersign__V1__DirectoryBatch *batch = (const Countersign__V1__DirectoryBatch *)message;
	struct cs_error e;
	if (d->broken)
		return;
	cs_timer_start(&d->timer, CS_DIRECTORY_SILENT_MS, 0);
	d->heard_mono_ms = cs_loop_mono_ms(d->loop);
	d->silent_ms = batch->silent_ms;
	if (d->events.batch(d->events.data, batch, &e) < 0) {
		cs_warn("the directory cannot be used", cs_err(&e), cs_why(e.reason));
		cs_check_error(d->check, &e);
		d->broken = true;
		cs_grpc_client_cancel(call);
		return;
	}
	if (batch->synced)
		cs_check_ok(d->check);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct cs_directory *d = data;
	d->call = NULL;
	if (d->closing)
		return;
	if (!d->broken) {
		cs_warn("the directory is away; what is known stays", cs_str("status", cs_grpc_code_name(status->code)),
			cs_str("message", status->message));
		cs_check_fail(d->check, CS_R_DIRECTORY_STALE, "identityd's directory is away: %s %s",
			cs_grpc_code_name(status->code), status->message);
	}
	cs_timer_start(&d->timer, d->broken ? CS_DIRECTORY_BROKEN_MS : CS_DIRECTORY_RETRY_MS, 0);
}

static void follow(struct cs_directory *d)
{
	Countersign__V1__FollowRequest request = COUNTERSIGN__V1__FOLLOW_REQUEST__INIT;
	struct cs_error e;
	request.kinds = (Countersign__V1__Kind *)d->events.kinds;
	request.n_kinds = d->events.nkinds;
	d->broken = false;
	cs_timer_stop(&d->timer);
	d->events.begin(d->events.data);
	if (cs_grpc_stream(d->channel, &countersign__v1__directory__descriptor, "Follow", &request.base, NULL,
		    on_message, on_done, d, &d->call, &e) < 0) {
		cs_warn("the directory cannot be followed", cs_err(&e));
		cs_check_error(d->check, &e);
		cs_timer_start(&d->timer, CS_DIRECTORY_RETRY_MS, 0);
	}
}

static void on_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct cs_directory *d = data;
	(void)channel;
	if (d->closing)
		return;
	if (state == CS_GRPC_READY && !d->call)
		follow(d);
	else if (state == CS_GRPC_BACKOFF && error)
		cs_check_fail(d->check, CS_R_DIRECTORY_STALE, "identityd's directory is away: %s", error->text);
}

static void on_timer(struct cs_timer *timer)
{
	struct cs_directory *d = timer->data;
	if (d->call) {
		cs_warn("the directory is silent; connecting anew");
		cs_grpc_channel_reset(d->channel);
	} else if (cs_grpc_channel_state(d->channel) == CS_GRPC_READY) {
		follow(d);
	} /* else READY will come */
}

int64_t cs_directory_silent_ms(const struct cs_directory *d)
{
	if (!d->call || d->broken || d->heard_mono_ms == INT64_MAX)
		return INT64_MAX;
	return cs_loop_mono_ms(d->loop) - d->heard_mono_ms + d->silent_ms;
}

int cs_directory_new(struct cs_loop *loop, const char *socket, const struct cs_directory_events *events,
	struct cs_check *check, struct cs_directory **ret, struct cs_error *e)
{
	char target[CS_PATH + 8];
	struct cs_directory *d = calloc(1, sizeof(*d));
	if (!d)
		return cs_error_set(e, -ENOMEM, "out of memory");
	snprintf(target, sizeof(target), "unix:%s", socket);
	*d = (struct cs_directory){.loop = loop, .events = *events, .check = check, .heard_mono_ms = INT64_MAX};
	const struct cs_grpc_channel_options options = {
		.target = target, .keep = true, .on_state = on_state, .data = d};
	int r = cs_grpc_channel_new(loop, &options, &d->channel, e);
	if (r < 0) {
		free(d);
		return r;
	}
	cs_timer_init(&d->timer, loop, on_timer, d);
	cs_check_fail(check, CS_R_DIRECTORY_STALE, "identityd has not been heard yet on %s", socket);
	*ret = d;
	return 0;
}

void cs_directory_close(struct cs_directory *d)
{
	if (!d || d->closing)
		return;
	d->closing = true;
	cs_timer_close(&d->timer, NULL);
	cs_grpc_channel_close(d->channel, NULL, NULL);
}

void cs_directory_free(struct cs_directory *d)
{
	free(d);
}
