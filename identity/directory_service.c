#include "directory_service_private.h"

#include "identity_limits.h"
#include "log.h"
#include "mem.h"

static int64_t now(const struct cs_directory_service *s)
{
	return cs_loop_mono_ms(s->options.loop);
}

static void leave_full(struct follower *f)
{
	struct cs_directory_service *s = f->service;
	for (size_t i = 0; i < s->nfull; i++)
		if (s->full[i] == f)
			s->full[i] = s->full[--s->nfull];
	cs_metric_set(s->full_gauge, (double)s->nfull, s->options.label);
	f->in_full = false;
}

static void forget(struct follower *f)
{
	struct cs_directory_service *s = f->service;
	leave_full(f);
	cs_follower_acks_fini(f);
	DL_DELETE(s->followers, f);
	cs_metric_set(s->followers_gauge, (double)--s->nfollowers, s->options.label);
	cs_cursor_free(f->cursor);
	free(f);
}

static void cut_off(struct follower *f, enum cs_grpc_code code, const char *why)
{
	struct cs_grpc_call *call = f->call;
	cs_metric_add(f->service->cut_off, 1, f->service->options.label);
	cs_warn("a follower of the directory is cut off", cs_str("peer", cs_grpc_conn_peer(f->conn)),
		cs_str("error", why));
	forget(f);
	cs_grpc_finish_reason(
		call, code, code == CS_GRPC_RESOURCE_EXHAUSTED ? CS_R_TOO_MANY : CS_R_DIRECTORY_STALE, "%s", why);
}

static uint32_t silent_ms(const struct cs_directory_service *s)
{
	return s->options.silent_ms ? s->options.silent_ms(s->options.data) : 0;
}

/* 0, or the follower is gone. */
static int send_batch(struct follower *f, struct cs_batch *batch, bool whole)
{
	batch->msg.silent_ms = silent_ms(f->service);
	batch->msg.ack = whole && cs_follower_asks(f, batch->position.revision);
	int r = cs_grpc_send(f->call, &batch->msg.base);
	if (r < 0) {
		cut_off(f, CS_GRPC_RESOURCE_EXHAUSTED, "a batch found no room in the stream: follow anew");
		return -1;
	}
	f->full = r == CS_GRPC_FULL;
	return 0;
}

void cs_follower_beat(struct follower *f)
{
	struct cs_batch batch;
	if (cs_cursor_heartbeat(f->cursor, &batch) == 1)
		(void)send_batch(f, &batch, true);
}

static bool has_its_share(const struct follower *f)
{
	const struct cs_directory_service *s = f->service;
	size_t n = 0;
	for (size_t i = 0; i < s->nfull; i++)
		n += strcmp(cs_grpc_conn_peer(s->full[i]->conn), cs_grpc_conn_peer(f->conn)) == 0;
	return n >= CS_FULL_STATES_OF_ONE;
}

/* A full state may begin only when there is room among those on their way. */
static bool may_go_on(struct follower *f)
{
	struct cs_directory_service *s = f->service;
	if (!cs_cursor_begins_full(f->cursor))
		return true;
	leave_full(f); /* one that begins anew before it ended */
	if (s->nfull >= CS_FULL_STATES_MAX || has_its_share(f)) {
		f->waits = true;
		return false;
	}
	f->in_full = true;
	f->since_mono_ms = now(s);
	s->full[s->nfull++] = f;
	cs_metric_set(s->full_gauge, (double)s->nfull, s->options.label);
	return true;
}

/* Everything that the follower has room for. It may be gone afterwards. */
static void pump(struct follower *f)
{
	struct cs_directory_service *s = f->service;
	struct cs_batch batch;
	struct cs_error e;
	int r = 0;
	f->waits = false;
	while (!f->full && may_go_on(f) && (r = cs_cursor_next(f->cursor, CS_BATCH_BYTES_MAX, &batch, &e)) == 1) {
		f->sent_mono_ms = now(s);
		cs_metric_add(s->batches, 1, s->options.label);
		if (send_batch(f, &batch, batch.msg.complete) < 0)
			return;
		if (batch.msg.complete)
			leave_full(f);
		if (batch.last) {
			struct cs_grpc_call *call = f->call;
			forget(f);
			cs_grpc_finish(call, CS_GRPC_OK, "%s", "");
			return;
		}
	}
	if (r < 0)
		cut_off(f, CS_GRPC_RESOURCE_EXHAUSTED, e.text);
}

/* When its turn is: changes come at once after a quiet while, and then at most once in coalesce_ms. */
static int64_t due_mono_ms(const struct follower *f)
{
	return f->sent_mono_ms + f->service->options.coalesce_ms;
}

/* Those who wait and whose turn it is; a full state that ended makes room for another. */
static void flush(struct cs_directory_service *s)
{
	int64_t next = INT64_MAX, at = now(s);
	struct follower *f, *tmp;
	DL_FOREACH_SAFE (s->followers, f, tmp) {
		if (!f->waits || f->full)
			continue;
		bool full = cs_cursor_begins_full(f->cursor);
		if (full ? s->nfull < CS_FULL_STATES_MAX : due_mono_ms(f) <= at)
			pump(f);
		else if (!full && due_mono_ms(f) < next)
			next = due_mono_ms(f);
	}
	if (next != INT64_MAX)
		cs_timer_start(&s->flush, next - at, 0);
}

static void on_flush(struct cs_timer *timer)
{
	flush(timer->data);
}

static void on_publish(struct cs_dir_watch *watch)
{
	struct cs_directory_service *s = watch->data;
	struct follower *f, *tmp;
	DL_FOREACH_SAFE (s->followers, f, tmp) {
		f->waits = true;
		if (!f->full && (s->options.coalesce_ms == 0 || cs_cursor_will_miss(f->cursor)))
			pump(f);
	}
	flush(s);
	cs_published_look(s);
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	struct follower *f = data;
	struct cs_directory_service *s = f->service;
	forget(f);
	flush(s);
}

static void on_drain(struct cs_grpc_call *call, void *data)
{
	(void)call;
	struct follower *f = data;
	struct cs_directory_service *s = f->service;
	size_t nfull = s->nfull;
	f->full = false;
	f->progress_mono_ms = now(s);
	pump(f);
	if (s->nfull < nfull) /* somebody else's turn */
		flush(s);
}

static void look_after(struct follower *f)
{
	struct cs_directory_service *s = f->service;
	bool complete = !s->options.complete || s->options.complete(s->options.data);
	int64_t at = now(s);
	if (f->full && at - f->progress_mono_ms > CS_FOLLOWER_STALL_MS)
		cut_off(f, CS_GRPC_RESOURCE_EXHAUSTED, "too slow: nothing was taken for a minute; follow anew");
	else if (f->in_full && at - f->since_mono_ms > CS_FULL_STATE_MS)
		cut_off(f, CS_GRPC_RESOURCE_EXHAUSTED,
			"too slow: the full state was not taken in a minute; follow anew");
	else if (cs_cursor_ahead(f->cursor) && at - f->since_mono_ms >= CS_AHEAD_MS && !complete)
		cut_off(f, CS_GRPC_UNAVAILABLE, "this replica knows less than you do; follow another one");
	else if (!f->full)
		cs_follower_beat(f);
}

static void on_heartbeat(struct cs_timer *timer)
{
	struct cs_directory_service *s = timer->data;
	bool complete = !s->options.complete || s->options.complete(s->options.data);
	struct follower *f, *tmp;
	DL_FOREACH_SAFE (s->followers, f, tmp) {
		if (complete && cs_cursor_ahead(f->cursor) && now(s) - f->since_mono_ms >= CS_AHEAD_MS) {
			cs_cursor_believe(f->cursor);
			f->waits = true;
		}
		look_after(f);
	}
	flush(s);
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

static struct follower *add_follower(
	struct cs_directory_service *s, struct cs_grpc_call *call, const struct cs_follow *follow)
{
	struct follower *f = cs_xcalloc(1, sizeof(*f));
	f->service = s;
	f->call = call;
	f->conn = cs_grpc_call_conn(call);
	f->cursor = cs_cursor_new(s->options.dir, follow);
	f->since_mono_ms = f->progress_mono_ms = now(s);
	f->sent_mono_ms = now(s) - s->options.coalesce_ms;
	DL_APPEND(s->followers, f);
	cs_metric_set(s->followers_gauge, (double)++s->nfollowers, s->options.label);
	cs_grpc_call_watch(call, on_cancel, on_drain, f);
	return f;
}

static void follow(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_directory_service *s = data;
	struct cs_follow follow;
	struct cs_error e;
	if (s->options.may_follow && !s->options.may_follow(call, s->options.follow_data))
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
	struct follower *f = add_follower(s, call, &follow);
	if (s->options.acks && !follow.once)
		cs_follower_acks_init(f);
	if (!follow.once)
		cs_follower_beat(
			f); /* it is heard: a call that resumes where nothing happened since would wait for 5 s */
	/* The heartbeat may have cut it off. */
	if (s->followers && s->followers->prev == f)
		pump(f);
}

static void make_metrics(struct cs_directory_service *s)
{
	const char *label = s->options.label;
	char name[96];
	snprintf(name, sizeof(name), "countersign_%s_followers", label);
	s->followers_gauge = cs_gauge(s->options.metrics, name, "Streams that follow the directory", "role", 2);
	snprintf(name, sizeof(name), "countersign_%s_followers_cut_off_total", label);
	s->cut_off = cs_counter(s->options.metrics, name, "Streams that were too slow", "role", 2);
	snprintf(name, sizeof(name), "countersign_%s_batches_total", label);
	s->batches = cs_counter(s->options.metrics, name, "Batches of changes that were sent to followers", "role", 2);
	snprintf(name, sizeof(name), "countersign_%s_full_states", label);
	s->full_gauge = cs_gauge(s->options.metrics, name, "Full states that are being sent", "role", 2);
	snprintf(name, sizeof(name), "countersign_%s_followers_stale", label);
	s->stale_gauge = cs_gauge(s->options.metrics, name,
		"Followers that did not say in time that they have what an endpoint waits for", "role", 2);
}

struct cs_directory_service *cs_directory_service_new(const struct cs_directory_service_options *options)
{
	struct cs_directory_service *s = cs_xcalloc(1, sizeof(*s));
	s->options = *options;
	s->methods[0] =
		(struct cs_grpc_method){.name = "Follow", .roles = options->roles, .streaming = true, .fn = follow};
	s->grpc = (struct cs_grpc_service){
		.descriptor = &countersign__v1__directory__descriptor, .methods = s->methods, .nmethods = 1, .data = s};
	int64_t beat_ms = options->heartbeat_ms ? options->heartbeat_ms : CS_HEARTBEAT_MS;
	make_metrics(s);
	cs_timer_init(&s->heartbeat, options->loop, on_heartbeat, s);
	cs_timer_start(&s->heartbeat, beat_ms, beat_ms);
	cs_timer_init(&s->flush, options->loop, on_flush, s);
	cs_published_init(s);
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
	cs_timer_close(&s->flush, NULL);
	struct follower *f, *tmp;
	DL_FOREACH_SAFE (s->followers, f, tmp) {
		struct cs_grpc_call *call = f->call;
		forget(f);
		cs_grpc_finish(call, CS_GRPC_UNAVAILABLE, "identityd is ending");
	}
	cs_published_close(s);
}

void cs_directory_service_free(struct cs_directory_service *s)
{
	free(s);
}
