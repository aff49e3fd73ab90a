#include "svids_service.h"

#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

struct follower {
	struct cs_grpc_call *call;
	struct cs_svids_service *service;
	uint64_t at; /* number of the last change that was sent */
	bool once, synced, full;
	int64_t full_since_mono_ms;
	struct follower *prev, *next;
};

struct cs_svids_service {
	struct cs_loop *loop;
	struct cs_svids *svids;
	struct cs_grpc_service grpc;
	struct cs_timer soon, heartbeat;
	struct follower *followers;
	size_t nfollowers;
	bool closing;
};

static void forget(struct follower *f)
{
	DL_DELETE(f->service->followers, f);
	f->service->nfollowers--;
	free(f);
}

/* What everybody has been told already need not be kept. */
static void collect(struct cs_svids_service *s)
{
	uint64_t told = UINT64_MAX;
	const struct follower *f;
	DL_FOREACH (s->followers, f)
		if (f->at < told)
			told = f->at;
	cs_svids_told(s->svids, told);
}

/* Fills batch with what comes after *at; the arrays are the caller's, of CS_SVIDS_BATCH_ITEMS each. */
static void fill(struct cs_svids *svids, uint64_t *at, Countersign__V1__SvidBatch *batch)
{
	struct cs_svids_item item;
	size_t bytes = 0;
	while (batch->n_svids + batch->n_bundles < CS_SVIDS_BATCH_ITEMS && bytes < CS_SVIDS_BATCH_BYTES &&
		cs_svids_next(svids, *at, &item)) {
		*at = item.change;
		if (item.svid) {
			batch->svids[batch->n_svids++] = (Countersign__V1__Svid *)item.svid;
			bytes += countersign__v1__svid__get_packed_size(item.svid);
		} else {
			batch->bundles[batch->n_bundles++] = (Countersign__V1__Bundle *)item.bundle;
			bytes += countersign__v1__bundle__get_packed_size(item.bundle);
		}
	}
}

/* False: the follower is gone. */
static bool send_batch(struct follower *f, const Countersign__V1__SvidBatch *batch)
{
	int r = cs_grpc_send(f->call, &batch->base);
	if (r < 0) {
		cs_grpc_finish_reason(f->call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
			"no room to queue a batch (%s); follow again for the full state",
			r == -ENOBUFS ? "queue" : "memory");
		forget(f);
		return false;
	}
	f->full = r == CS_GRPC_FULL;
	if (f->full)
		f->full_since_mono_ms = cs_loop_mono_ms(f->service->loop);
	return true;
}

static void pump(struct follower *f)
{
	struct cs_svids *svids = f->service->svids;
	struct cs_svids_item item;
	while (!f->full) {
		Countersign__V1__Svid *list[CS_SVIDS_BATCH_ITEMS];
		Countersign__V1__Bundle *bundles[CS_SVIDS_BATCH_ITEMS];
		Countersign__V1__SvidBatch batch = COUNTERSIGN__V1__SVID_BATCH__INIT;
		batch.svids = list;
		batch.bundles = bundles;
		fill(svids, &f->at, &batch);
		batch.synced = !f->synced && cs_svids_known(svids) && !cs_svids_next(svids, f->at, &item);
		if (batch.n_svids + batch.n_bundles == 0 && !batch.synced)
			return;
		f->synced |= batch.synced;
		if (!send_batch(f, &batch))
			return;
		if (f->synced && f->once) {
			cs_grpc_finish(f->call, CS_GRPC_OK, "%s", "");
			forget(f);
			return;
		}
	}
}

static void pump_all(struct cs_timer *timer)
{
	struct cs_svids_service *s = timer->data;
	struct follower *f, *next;
	DL_FOREACH_SAFE (s->followers, f, next)
		pump(f);
	collect(s);
}

static void on_heartbeat(struct cs_timer *timer)
{
	struct cs_svids_service *s = timer->data;
	int64_t now_mono_ms = cs_loop_mono_ms(s->loop);
	const Countersign__V1__SvidBatch empty = COUNTERSIGN__V1__SVID_BATCH__INIT;
	struct follower *f, *next;
	DL_FOREACH_SAFE (s->followers, f, next) {
		if (!f->full) {
			send_batch(f, &empty);
		} else if (now_mono_ms - f->full_since_mono_ms >= CS_SVIDS_SLOW_MS) {
			cs_grpc_finish_reason(f->call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
				"nothing was read for %d s; follow again for the full state", CS_SVIDS_SLOW_MS / 1000);
			forget(f);
		}
	}
	collect(s);
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	forget(data);
}

static void on_drain(struct cs_grpc_call *call, void *data)
{
	struct follower *f = data;
	(void)call;
	f->full = false;
	pump(f);
}

static void follow(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	struct cs_svids_service *s = data;
	const Countersign__V1__FollowSvidsRequest *request = (const Countersign__V1__FollowSvidsRequest *)in;
	struct follower *f = NULL;
	if (s->closing) {
		cs_grpc_finish(call, CS_GRPC_UNAVAILABLE, "the adapter is stopping");
		return;
	}
	if (s->nfollowers >= CS_SVIDS_FOLLOWERS_MAX || !(f = calloc(1, sizeof(*f)))) {
		cs_grpc_finish_reason(call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
			"there are %zu followers, and at most %d may be", s->nfollowers, CS_SVIDS_FOLLOWERS_MAX);
		return;
	}
	*f = (struct follower){.call = call, .service = s, .once = request->once};
	DL_APPEND(s->followers, f);
	s->nfollowers++;
	cs_grpc_call_watch(call, on_cancel, on_drain, f);
	pump(f);
}

static const struct cs_grpc_method methods[] = {
	{.name = "Follow", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = follow},
};

struct cs_svids_service *cs_svids_service_new(struct cs_loop *loop, struct cs_svids *svids)
{
	struct cs_svids_service *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->loop = loop;
	s->svids = svids;
	s->grpc = (struct cs_grpc_service){
		&countersign__v1__svids__descriptor, methods, sizeof(methods) / sizeof(methods[0]), s};
	cs_timer_init(&s->soon, loop, pump_all, s);
	cs_timer_init(&s->heartbeat, loop, on_heartbeat, s);
	cs_timer_start(&s->heartbeat, CS_SVIDS_HEARTBEAT_MS, CS_SVIDS_HEARTBEAT_MS);
	return s;
}

const struct cs_grpc_service *cs_svids_service_grpc(const struct cs_svids_service *s)
{
	return &s->grpc;
}

void cs_svids_service_changed(struct cs_svids_service *s)
{
	if (!s->closing && !cs_timer_active(&s->soon))
		cs_timer_start(&s->soon, 0, 0);
}

size_t cs_svids_service_followers(const struct cs_svids_service *s)
{
	return s->nfollowers;
}

void cs_svids_service_close(struct cs_svids_service *s)
{
	if (!s || s->closing)
		return;
	s->closing = true;
	cs_timer_close(&s->soon, NULL);
	cs_timer_close(&s->heartbeat, NULL);
	struct follower *f, *next;
	DL_FOREACH_SAFE (s->followers, f, next) {
		cs_grpc_finish(f->call, CS_GRPC_UNAVAILABLE, "the adapter is stopping");
		forget(f);
	}
}

void cs_svids_service_free(struct cs_svids_service *s)
{
	free(s);
}
