#include "directory_service.h"

#include <utlist.h>
#include "identity_limits.h"
#include "log.h"
#include "mem.h"

struct follower {
	struct cs_directory_service *service;
	struct cs_grpc_call *call;
	struct cs_cursor *cursor;
	bool full;                /* the call's queue is full: on_drain tells when not */
	int64_t progress_mono_ms; /* when it last took something */
	struct follower *prev, *next;
};

struct cs_directory_service {
	struct cs_directory_service_options options;
	struct cs_grpc_method methods[1];
	struct cs_grpc_service grpc;
	struct follower *followers;
	size_t nfollowers;
	struct cs_dir_watch watch;
	struct cs_timer heartbeat;
	bool closed;
	struct cs_metric *followers_gauge, *cut_off;
};

static void forget(struct follower *f)
{
	struct cs_directory_service *s = f->service;
	DL_DELETE(s->followers, f);
	cs_metric_set(s->followers_gauge, (double)--s->nfollowers, s->options.label);
	cs_cursor_free(f->cursor);
	free(f);
}

static void cut_off(struct follower *f, const char *why)
{
	struct cs_grpc_call *call = f->call;
	cs_metric_add(f->service->cut_off, 1, f->service->options.label);
	cs_warn("a follower of the directory is cut off", cs_str("peer", cs_grpc_conn_peer(cs_grpc_call_conn(call))),
		cs_str("error", why));
	forget(f);
	cs_grpc_finish_reason(call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY, "%s", why);
}

static uint32_t silent_ms(const struct cs_directory_service *s)
{
	return s->options.silent_ms ? s->options.silent_ms(s->options.silent_data) : 0;
}

/* 0, or the follower is gone. */
static int send_batch(struct follower *f, struct cs_batch *batch)
{
	batch->msg.silent_ms = silent_ms(f->service);
	int r = cs_grpc_send(f->call, &batch->msg.base);
	if (r < 0) {
		cut_off(f, "a batch found no room in the stream: follow anew");
		return -1;
	}
	f->full = r == CS_GRPC_FULL;
	return 0;
}

static void pump(struct follower *f)
{
	struct cs_batch batch;
	struct cs_error e;
	int r = 0;
	while (!f->full && (r = cs_cursor_next(f->cursor, CS_BATCH_BYTES_MAX, &batch, &e)) == 1) {
		if (send_batch(f, &batch) < 0)
			return;
		if (batch.last) {
			struct cs_grpc_call *call = f->call;
			forget(f);
			cs_grpc_finish(call, CS_GRPC_OK, "%s", "");
			return;
		}
	}
	if (r < 0)
		cut_off(f, e.text);
}

static void on_publish(struct cs_dir_watch *watch)
{
	struct cs_directory_service *s = watch->data;
	struct follower *f, *tmp;
	DL_FOREACH_SAFE (s->followers, f, tmp)
		pump(f);
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	forget(data);
}

static void on_drain(struct cs_grpc_call *call, void *data)
{
	(void)call;
	struct follower *f = data;
	f->full = false;
	f->progress_mono_ms = cs_loop_mono_ms(f->service->options.loop);
	pump(f);
}

static void beat(struct follower *f)
{
	struct cs_batch batch;
	if (cs_cursor_heartbeat(f->cursor, &batch) == 1)
		(void)send_batch(f, &batch);
}

static void on_heartbeat(struct cs_timer *timer)
{
	struct cs_directory_service *s = timer->data;
	int64_t now = cs_loop_mono_ms(s->options.loop);
	struct follower *f, *tmp;
	DL_FOREACH_SAFE (s->followers, f, tmp) {
		if (!f->full)
			beat(f);
		else if (now - f->progress_mono_ms > CS_FOLLOWER_STALL_MS)
			cut_off(f, "too slow: nothing was taken for a minute; follow anew");
	}
}

static bool read_request(const Countersign__V1__FollowRequest *in, struct cs_follow *ret, struct cs_error *e)
{
	*ret = (struct cs_follow){.once = in->once};
	for (size_t i = 0; i < in->n_kinds; i++) {
		if (in->kinds[i] <= COUNTERSIGN__V1__KIND__KIND_UNSPECIFIED ||
			in->kinds[i] > COUNTERSIGN__V1__KIND__KIND_REVOCATION) {
			cs_error_set(e, -22, "there is no kind %d in this version", (int)in->kinds[i]);
			return false;
		}
		ret->kinds |= 1u << in->kinds[i];
	}
	if (in->resume) {
		ret->resume = true;
		ret->epoch = in->resume->epoch;
		ret->revision = in->resume->revision;
	}
	return true;
}

static void follow(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_directory_service *s = data;
	struct cs_follow follow;
	struct cs_error e;
	if (s->options.may_follow && !s->options.may_follow(call))
		return;
	if (!read_request((const Countersign__V1__FollowRequest *)message, &follow, &e)) {
		cs_grpc_finish_error(call, CS_GRPC_INVALID_ARGUMENT, &e);
		return;
	}
	if (s->nfollowers >= CS_FOLLOWERS_MAX || s->closed) {
		cs_grpc_finish_reason(call, s->closed ? CS_GRPC_UNAVAILABLE : CS_GRPC_RESOURCE_EXHAUSTED,
			s->closed ? CS_R_NONE : CS_R_TOO_MANY, "%zu follow the directory already", s->nfollowers);
		return;
	}
	follow.node = s->options.node ? s->options.node : cs_grpc_conn_peer(cs_grpc_call_conn(call));
	struct follower *f = cs_xcalloc(1, sizeof(*f));
	f->service = s;
	f->call = call;
	f->cursor = cs_cursor_new(s->options.dir, &follow);
	f->progress_mono_ms = cs_loop_mono_ms(s->options.loop);
	DL_APPEND(s->followers, f);
	cs_metric_set(s->followers_gauge, (double)++s->nfollowers, s->options.label);
	cs_grpc_call_watch(call, on_cancel, on_drain, f);
	if (!follow.once)
		beat(f); /* it is heard: a call that resumes where nothing happened since would wait for 5 s */
	/* The heartbeat may have cut it off. */
	if (s->followers && s->followers->prev == f)
		pump(f);
}

struct cs_directory_service *cs_directory_service_new(const struct cs_directory_service_options *options)
{
	struct cs_directory_service *s = cs_xcalloc(1, sizeof(*s));
	s->options = *options;
	s->methods[0] =
		(struct cs_grpc_method){.name = "Follow", .roles = options->roles, .streaming = true, .fn = follow};
	s->grpc = (struct cs_grpc_service){
		.descriptor = &countersign__v1__directory__descriptor, .methods = s->methods, .nmethods = 1, .data = s};
	char name[96];
	snprintf(name, sizeof(name), "countersign_%s_followers", options->label);
	s->followers_gauge = cs_gauge(options->metrics, name, "Streams that follow the directory", "role", 2);
	snprintf(name, sizeof(name), "countersign_%s_followers_cut_off_total", options->label);
	s->cut_off = cs_counter(options->metrics, name, "Streams that were too slow", "role", 2);
	cs_timer_init(&s->heartbeat, options->loop, on_heartbeat, s);
	cs_timer_start(&s->heartbeat, CS_HEARTBEAT_MS, CS_HEARTBEAT_MS);
	s->watch = (struct cs_dir_watch){.fn = on_publish, .data = s};
	cs_dir_watch(options->dir, &s->watch);
	return s;
}

const struct cs_grpc_service *cs_directory_service_grpc(const struct cs_directory_service *s)
{
	return &s->grpc;
}

void cs_directory_service_close(struct cs_directory_service *s)
{
	if (s->closed)
		return;
	s->closed = true;
	cs_dir_unwatch(s->options.dir, &s->watch);
	cs_timer_close(&s->heartbeat, NULL);
	struct follower *f, *tmp;
	DL_FOREACH_SAFE (s->followers, f, tmp) {
		struct cs_grpc_call *call = f->call;
		forget(f);
		cs_grpc_finish(call, CS_GRPC_UNAVAILABLE, "identityd is ending");
	}
}

void cs_directory_service_free(struct cs_directory_service *s)
{
	free(s);
}
