/* A watch that goes on for ever: whole revisions, each once. */
#include "etcd_private.h"

#include <errno.h>
#include "mem.h"

struct cs_etcd_watch {
	struct etcd_stream stream;
	struct cs_etcd_bytes key, end; /* ours */
	int64_t next;                  /* the first revision that was not told yet */
	uint64_t cluster_id;
	struct cs_etcd_watch_events events;
	void *data;
	struct check *check; /* one that runs */
	/* Of the revision that is being put together */
	struct cs_etcd_event *held;
	size_t nheld, room, held_bytes;
};

static void drop_held(struct cs_etcd_watch *w)
{
	for (size_t i = 0; i < w->nheld; i++)
		free((void *)(uintptr_t)w->held[i].kv.key.data); /* the value lies behind it */
	w->nheld = w->held_bytes = 0;
}

static void hold(struct cs_etcd_watch *w, const Mvccpb__Event *event)
{
	const Mvccpb__KeyValue *kv = event->kv;
	if (w->nheld == w->room) {
		w->room = w->room ? 2 * w->room : 16;
		w->held = cs_xrealloc(w->held, w->room, sizeof(*w->held));
	}
	uint8_t *bytes = cs_xcalloc(1, kv->key.len + kv->value.len);
	if (kv->key.len)
		memcpy(bytes, kv->key.data, kv->key.len);
	if (kv->value.len)
		memcpy(bytes + kv->key.len, kv->value.data, kv->value.len);
	w->held[w->nheld++] = (struct cs_etcd_event){.kv = {.key = {bytes, kv->key.len},
							     .value = {bytes + kv->key.len, kv->value.len},
							     .create_revision = kv->create_revision,
							     .mod_revision = kv->mod_revision,
							     .lease = kv->lease},
		.deleted = event->type == MVCCPB__EVENT__EVENT_TYPE__DELETE};
	w->held_bytes += kv->key.len + kv->value.len;
}

/* The revision is whole. */
static void tell(struct cs_etcd_watch *w)
{
	if (w->nheld == 0)
		return;
	w->next = w->held[0].kv.mod_revision + 1;
	w->events.revision(w->next - 1, w->held, w->nheld, w->data);
	drop_held(w);
}

/* The watch is over; says why, once. */
static void end(
	struct cs_etcd_watch *w, void (*say)(const struct cs_error *why, void *data), const struct cs_error *why)
{
	void *data = w->data;
	cs_etcd_stream_close(&w->stream);
	say(why, data);
}

/* ---- did the store go back? ---- */

struct check {
	struct cs_etcd_watch *watch; /* NULL: it is over */
};

static void on_checked(
	const struct cs_etcd_result *result, const struct cs_etcd_kv *kvs, size_t n, bool more, void *data)
{
	(void)kvs;
	(void)n;
	(void)more;
	struct check *check = data;
	struct cs_etcd_watch *w = check->watch;
	free(check);
	if (!w)
		return;
	w->check = NULL;
	if (result->outcome != CS_ETCD_DONE || result->revision >= w->next - 1)
		return;
	struct cs_error e;
	cs_error_set(&e, -ESTALE, "etcd is at revision %lld, and was at %lld: it was set back",
		(long long)result->revision, (long long)w->next - 1);
	end(w, w->events.compacted, &e);
}

/* A member that does not know the revision that we have either lags behind, or all of them were set back: a read that is
 * not allowed to be old tells. */
static void check_place(struct cs_etcd_watch *w)
{
	const struct cs_etcd_range range = {.key = w->key, .limit = 1, .keys_only = true};
	struct cs_error e;
	if (w->check)
		return;
	w->check = cs_xcalloc(1, sizeof(*w->check));
	w->check->watch = w;
	if (cs_etcd_range(w->stream.etcd, &range, CS_ETCD_SILENT_MS, on_checked, w->check, &e) == 0)
		return;
	free(w->check); /* the next silence asks again */
	w->check = NULL;
}

/* ---- what etcd says ---- */

static void take_events(struct cs_etcd_watch *w, const Etcdserverpb__WatchResponse *r)
{
	for (size_t i = 0; i < r->n_events && !w->stream.over; i++) {
		const Mvccpb__Event *event = r->events[i];
		if (!event->kv || event->kv->mod_revision < w->next)
			continue;
		if (event->kv->mod_revision == INT64_MAX ||
			(w->nheld > 0 && event->kv->mod_revision < w->held[0].kv.mod_revision)) {
			drop_held(w); /* no etcd says that; ask another one, from the last whole revision on */
			cs_etcd_stream_replace(&w->stream);
			return;
		}
		if (w->nheld > 0 && event->kv->mod_revision > w->held[0].kv.mod_revision)
			tell(w);
		if (w->stream.over)
			return;
		hold(w, event);
		if (w->held_bytes > CS_ETCD_REVISION_MAX) {
			struct cs_error e;
			cs_error_set(&e, -EMSGSIZE, "etcd: revision %lld has more than %u bytes",
				(long long)event->kv->mod_revision, CS_ETCD_REVISION_MAX);
			end(w, w->events.failed, &e);
		}
	}
	if (!r->fragment && !w->stream.over)
		tell(w);
}

static void cancelled(struct cs_etcd_watch *w, const Etcdserverpb__WatchResponse *r)
{
	struct cs_error e;
	if (r->compact_revision > 0) {
		cs_error_set(&e, -ESTALE, "etcd keeps nothing before revision %lld, and the watch was at %lld",
			(long long)r->compact_revision, (long long)w->next);
		end(w, w->events.compacted, &e);
		return;
	}
	/* etcd 3.4 says "permission denied" of a token that it does not know as well. */
	bool denied = strstr(r->cancel_reason, "permission denied") || cs_etcd_token_refused(r->cancel_reason);
	if (!denied) {
		cs_etcd_stream_replace(&w->stream);
		return;
	}
	if (cs_etcd_stream_new_token(&w->stream))
		return;
	cs_error_set(&e, -EACCES, "etcd at %s does not let us watch: %s",
		w->stream.etcd->endpoints[w->stream.endpoint].url, r->cancel_reason);
	end(w, w->events.failed, &e);
}

static void watch_message(struct etcd_stream *s, const ProtobufCMessage *message)
{
	struct cs_etcd_watch *w = (struct cs_etcd_watch *)s;
	const Etcdserverpb__WatchResponse *r = (const Etcdserverpb__WatchResponse *)message;
	struct cs_error e;
	if (r->header && w->cluster_id && r->header->cluster_id != w->cluster_id) {
		cs_error_set(&e, -ESTALE, "etcd at %s is another store now: it was restored, or made anew",
			s->etcd->endpoints[s->endpoint].url);
		end(w, w->events.compacted, &e);
		return;
	}
	if (r->header)
		w->cluster_id = r->header->cluster_id;
	if (r->canceled) {
		cancelled(w, r);
		return;
	}
	cs_etcd_stream_works(s);
	if (r->n_events > 0) {
		take_events(w, r);
	} else if (!r->created && r->watch_id >= 0 && r->header && w->nheld == 0 && r->header->revision >= w->next &&
		   r->header->revision < INT64_MAX) {
		/* etcd's own notice of progress: there was nothing until then. An answer to our question (watch_id -1) is only
		 * a sign of life: before 3.4.25 and 3.5.8 it can overtake events. */
		w->next = r->header->revision + 1;
	}
	if (r->header && r->header->revision < w->next - 1 && r->n_events == 0 && !s->over)
		check_place(w);
	if (w->events.alive && !s->over)
		w->events.alive(w->data);
}

static void watch_opened(struct etcd_stream *s)
{
	struct cs_etcd_watch *w = (struct cs_etcd_watch *)s;
	Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	drop_held(w); /* half a revision comes again, whole */
	create.key = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)w->key.data, .len = w->key.len};
	create.range_end = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)w->end.data, .len = w->end.len};
	create.start_revision = w->next;
	create.progress_notify = create.fragment = true;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
	request.create_request = &create;
	cs_etcd_stream_send(s, &request.base);
}

static void watch_probe(struct etcd_stream *s)
{
	Etcdserverpb__WatchProgressRequest progress = ETCDSERVERPB__WATCH_PROGRESS_REQUEST__INIT;
	Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
	request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST;
	request.progress_request = &progress;
	cs_etcd_stream_send(s, &request.base);
}

static void watch_refused(struct etcd_stream *s, const struct cs_error *why)
{
	struct cs_etcd_watch *w = (struct cs_etcd_watch *)s;
	end(w, why->code == -ESTALE ? w->events.compacted : w->events.failed, why);
}

static void watch_gone(struct etcd_stream *s)
{
	struct cs_etcd_watch *w = (struct cs_etcd_watch *)s;
	if (w->check)
		w->check->watch = NULL;
	drop_held(w);
	free(w->held);
	free((void *)(uintptr_t)w->key.data);
	free((void *)(uintptr_t)w->end.data);
	free(w);
}

int cs_etcd_watch(struct cs_etcd *etcd, struct cs_etcd_bytes key, struct cs_etcd_bytes end, int64_t from,
	uint64_t cluster_id, const struct cs_etcd_watch_events *events, void *data, struct cs_etcd_watch **ret,
	struct cs_error *e)
{
	static const struct etcd_stream_ops ops = {.service = &etcdserverpb__watch__descriptor,
		.method = "Watch",
		.opened = watch_opened,
		.message = watch_message,
		.probe = watch_probe,
		.refused = watch_refused,
		.gone = watch_gone};
	struct cs_etcd_watch *w = cs_xcalloc(1, sizeof(*w));
	w->key = (struct cs_etcd_bytes){cs_xmemdup(key.data, key.len), key.len};
	w->end = (struct cs_etcd_bytes){cs_xmemdup(end.data, end.len), end.len};
	w->next = from;
	w->cluster_id = cluster_id;
	w->events = *events;
	w->data = data;
	int r = cs_etcd_stream_init(&w->stream, etcd, &ops, CS_ETCD_PROBE_MS, CS_ETCD_SILENT_MS, e);
	if (r < 0)
		watch_gone(&w->stream);
	else
		*ret = w;
	return r;
}

void cs_etcd_watch_free(struct cs_etcd_watch *watch)
{
	if (watch)
		cs_etcd_stream_close(&watch->stream);
}
