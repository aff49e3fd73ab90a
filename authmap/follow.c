#include "follow.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

/* ---- one server-streaming call that is always wanted ---- */

struct stream {
	struct cs_loop *loop;
	struct cs_grpc_channel *channel;
	struct cs_grpc_client_call *call;
	struct cs_timer again, silence;
	int64_t heard_mono_ms; /* the last message */
	bool closing;
	unsigned open; /* handles and the channel: freed when all are closed */
	const char *who;
	void (*begin)(struct stream *s);
	void (*freed)(struct stream *s);
};

static void stream_closed(struct stream *s)
{
	if (--s->open == 0)
		s->freed(s);
}

static void on_timer_closed(struct cs_timer *t)
{
	stream_closed(t->data);
}

static void on_channel_closed(void *data)
{
	stream_closed(data);
}

static void on_again(struct cs_timer *t)
{
	struct stream *s = t->data;
	if (!s->call && cs_grpc_channel_state(s->channel) == CS_GRPC_READY)
		s->begin(s);
}

static void on_silence(struct cs_timer *t)
{
	struct stream *s = t->data;
	if (!s->call || cs_loop_mono_ms(s->loop) - s->heard_mono_ms < CS_FOLLOW_SILENT_MS)
		return;
	cs_warn("a stream was silent for too long and is called anew", cs_str("of", s->who));
	cs_grpc_channel_reset(s->channel);
}

static void stream_heard(struct stream *s)
{
	s->heard_mono_ms = cs_loop_mono_ms(s->loop);
}

/* The call is over, for whatever reason. */
static void stream_ended(struct stream *s, const struct cs_grpc_status *status)
{
	s->call = NULL;
	if (s->closing)
		return;
	cs_warn("a stream ended", cs_str("of", s->who), cs_str("status", cs_grpc_code_name(status->code)),
		cs_str("detail", status->message));
	cs_timer_start(&s->again, CS_FOLLOW_AGAIN_MS, 0);
}

static int stream_open(struct stream *s, struct cs_loop *loop, const char *socket,
	void (*on_state)(
		struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data),
	struct cs_error *e)
{
	char target[300];
	s->loop = loop;
	snprintf(target, sizeof(target), "unix:%s", socket);
	struct cs_grpc_channel_options options = {.target = target, .keep = true, .on_state = on_state, .data = s};
	int r = cs_grpc_channel_new(loop, &options, &s->channel, e);
	if (r < 0)
		return r;
	cs_timer_init(&s->again, loop, on_again, s);
	cs_timer_init(&s->silence, loop, on_silence, s);
	cs_timer_start(&s->silence, CS_FOLLOW_SILENT_MS, CS_FOLLOW_SILENT_MS / 4);
	s->open = 3;
	return 0;
}

static void stream_close(struct stream *s)
{
	s->closing = true;
	cs_timer_close(&s->again, on_timer_closed);
	cs_timer_close(&s->silence, on_timer_closed);
	cs_grpc_channel_close(s->channel, on_channel_closed, s);
}

static void stream_state(struct stream *s, enum cs_grpc_state state, const struct cs_error *error)
{
	if (state == CS_GRPC_BACKOFF && error)
		cs_warn("cannot connect", cs_str("to", s->who), cs_err(error));
	if (state == CS_GRPC_READY && !s->call)
		s->begin(s);
}

/* ---- Directory ---- */

struct staged {
	Countersign__V1__DirectoryBatch *batch;
	struct staged *next;
};
struct cs_directory {
	struct stream stream; /* first */
	struct cs_world *world;
	struct cs_directory_callbacks callbacks;
	Countersign__V1__Position position; /* of the world, if it is ready */
	bool resumed;                       /* the call that runs was asked to resume */
	uint32_t silent_ms;
	int64_t spoke_mono_ms;
	struct staged *staged, **staged_end;
	size_t staged_bytes;
};

static void unstage(struct cs_directory *d)
{
	while (d->staged) {
		struct staged *s = d->staged;
		d->staged = s->next;
		countersign__v1__directory_batch__free_unpacked(s->batch, NULL);
		free(s);
	}
	d->staged_end = &d->staged;
	d->staged_bytes = 0;
}

/* Keeps a copy: the message is lent. */
static int stage(struct cs_directory *d, const Countersign__V1__DirectoryBatch *batch, struct cs_error *e)
{
	size_t len = countersign__v1__directory_batch__get_packed_size(batch);
	if (d->staged_bytes + len > CS_FOLLOW_STAGED)
		return cs_error_set(e, -EMSGSIZE, "directory: one revision is larger than %u bytes", CS_FOLLOW_STAGED);
	uint8_t *packed = malloc(len + 1);
	struct staged *s = calloc(1, sizeof(*s));
	if (packed && s) {
		countersign__v1__directory_batch__pack(batch, packed);
		s->batch = countersign__v1__directory_batch__unpack(NULL, len, packed);
	}
	free(packed);
	if (!s || !s->batch) {
		free(s);
		return cs_error_set(e, -ENOMEM, "no memory for the directory");
	}
	*d->staged_end = s;
	d->staged_end = &s->next;
	d->staged_bytes += len;
	return 0;
}

static void feed(struct cs_world *w, const Countersign__V1__DirectoryBatch *batch)
{
	for (size_t i = 0; i < batch->n_records; i++)
		cs_world_record(w, batch->records[i]);
}

static void commit(struct cs_directory *d, const Countersign__V1__DirectoryBatch *last)
{
	if (last->synced)
		cs_world_replace_begin(d->world);
	for (struct staged *s = d->staged; s; s = s->next)
		feed(d->world, s->batch);
	feed(d->world, last);
	if (last->synced)
		cs_world_replace_end(d->world);
	d->position.epoch = last->position->epoch;
	d->position.revision = last->position->revision;
	bool full = last->synced;
	unstage(d);
	d->callbacks.on_change(d->callbacks.data, full);
}

static int take(struct cs_directory *d, const Countersign__V1__DirectoryBatch *batch, struct cs_error *e)
{
	for (size_t i = 0; i < batch->n_records; i++) {
		int r = cs_world_record_check(batch->records[i], e);
		if (r < 0)
			return r;
	}
	d->silent_ms = batch->silent_ms;
	d->spoke_mono_ms = cs_loop_mono_ms(d->stream.loop);
	if (!batch->synced && !batch->complete)
		return batch->n_records ? stage(d, batch, e) : 0;
	if (!batch->synced && !batch->n_records && !d->staged)
		return 0; /* heartbeat */
	if (!batch->position)
		return cs_error_set(e, -EBADMSG, "directory: a revision without a position");
	if (!batch->synced && (!cs_world_ready(d->world) || batch->position->epoch != d->position.epoch))
		return cs_error_set(e, -EBADMSG, "directory: changes to a state (epoch %llx) that was never sent",
			(unsigned long long)batch->position->epoch);
	commit(d, batch);
	return 0;
}

static void on_batch(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_directory *d = data;
	struct cs_error e = {0};
	(void)call;
	stream_heard(&d->stream);
	if (take(d, (const Countersign__V1__DirectoryBatch *)message, &e) == 0)
		return;
	cs_fail("the directory sent what cannot be used, and is asked for everything again", cs_err(&e));
	d->position = (Countersign__V1__Position)COUNTERSIGN__V1__POSITION__INIT;
	unstage(d);
	cs_grpc_client_cancel(d->stream.call);
}

static void on_directory_done(const struct cs_grpc_status *status, void *data)
{
	struct cs_directory *d = data;
	unstage(d);
	stream_ended(&d->stream, status);
}

static void directory_begin(struct stream *s)
{
	struct cs_directory *d = (struct cs_directory *)s;
	Countersign__V1__FollowRequest request = COUNTERSIGN__V1__FOLLOW_REQUEST__INIT;
	struct cs_error e;
	if (cs_world_ready(d->world) && d->position.epoch)
		request.resume = &d->position;
	unstage(d);
	stream_heard(s);
	if (cs_grpc_stream(s->channel, &countersign__v1__directory__descriptor, "Follow", &request.base, NULL, on_batch,
		    on_directory_done, d, &s->call, &e) < 0) {
		cs_fail("the directory cannot be followed", cs_err(&e));
		cs_timer_start(&s->again, CS_FOLLOW_AGAIN_MS, 0);
	}
}

static void on_directory_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct cs_directory *d = data;
	(void)channel;
	stream_state(&d->stream, state, error);
	if (state == CS_GRPC_READY)
		d->callbacks.on_connected(d->callbacks.data);
}

static void directory_freed(struct stream *s)
{
	unstage((struct cs_directory *)s);
	free(s);
}

int cs_directory_new(struct cs_loop *loop, const char *socket, struct cs_world *world,
	const struct cs_directory_callbacks *callbacks, struct cs_directory **ret, struct cs_error *e)
{
	struct cs_directory *d = calloc(1, sizeof(*d));
	if (!d)
		return cs_error_set(e, -ENOMEM, "no memory");
	*d = (struct cs_directory){.stream = {.who = "identityd", .begin = directory_begin, .freed = directory_freed},
		.world = world,
		.callbacks = *callbacks,
		.position = COUNTERSIGN__V1__POSITION__INIT};
	d->staged_end = &d->staged;
	int r = stream_open(&d->stream, loop, socket, on_directory_state, e);
	if (r < 0)
		free(d);
	else
		*ret = d;
	return r;
}

int64_t cs_directory_silent_ms(const struct cs_directory *d)
{
	if (!cs_world_ready(d->world))
		return INT64_MAX;
	return d->silent_ms + cs_loop_mono_ms(d->stream.loop) - d->spoke_mono_ms;
}

void cs_directory_close(struct cs_directory *d)
{
	if (d)
		stream_close(&d->stream);
}

/* ---- Svids ---- */

struct cs_svids_stream {
	struct stream stream; /* first */
	struct cs_svids *svids;
	void (*on_connected)(void *data);
	void *data;
};

static void on_svids(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_svids_stream *s = data;
	struct cs_error e = {0};
	(void)call;
	stream_heard(&s->stream);
	if (cs_svids_batch(s->svids, (const Countersign__V1__SvidBatch *)message, &e) == 0)
		return;
	cs_fail("spire-adapter sent what cannot be used, and is asked for everything again", cs_err(&e));
	cs_grpc_client_cancel(s->stream.call);
}

static void on_svids_done(const struct cs_grpc_status *status, void *data)
{
	struct cs_svids_stream *s = data;
	stream_ended(&s->stream, status);
}

static void svids_begin(struct stream *stream)
{
	struct cs_svids_stream *s = (struct cs_svids_stream *)stream;
	Countersign__V1__FollowSvidsRequest request = COUNTERSIGN__V1__FOLLOW_SVIDS_REQUEST__INIT;
	struct cs_error e;
	cs_svids_begin(s->svids);
	stream_heard(stream);
	if (cs_grpc_stream(stream->channel, &countersign__v1__svids__descriptor, "Follow", &request.base, NULL,
		    on_svids, on_svids_done, s, &stream->call, &e) < 0) {
		cs_fail("spire-adapter cannot be followed", cs_err(&e));
		cs_timer_start(&stream->again, CS_FOLLOW_AGAIN_MS, 0);
	}
}

static void on_svids_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct cs_svids_stream *s = data;
	(void)channel;
	stream_state(&s->stream, state, error);
	if (state == CS_GRPC_READY)
		s->on_connected(s->data);
}

static void svids_freed(struct stream *s)
{
	free(s);
}

int cs_svids_stream_new(struct cs_loop *loop, const char *socket, struct cs_svids *svids,
	void (*on_connected)(void *data), void *data, struct cs_svids_stream **ret, struct cs_error *e)
{
	struct cs_svids_stream *s = calloc(1, sizeof(*s));
	if (!s)
		return cs_error_set(e, -ENOMEM, "no memory");
	*s = (struct cs_svids_stream){.stream = {.who = "spire-adapter", .begin = svids_begin, .freed = svids_freed},
		.svids = svids,
		.on_connected = on_connected,
		.data = data};
	int r = stream_open(&s->stream, loop, socket, on_svids_state, e);
	if (r < 0)
		free(s);
	else
		*ret = s;
	return r;
}

bool cs_svids_stream_connected(const struct cs_svids_stream *s)
{
	return s->stream.call != NULL;
}

void cs_svids_stream_close(struct cs_svids_stream *s)
{
	if (s)
		stream_close(&s->stream);
}
