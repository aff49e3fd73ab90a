/* Auth.List and Auth.Flush: a walk over the keys that there were when the call came, some at a time. */
#include <stdlib.h>
#include <utlist.h>
#include "entries.h"
#include "service_auth_private.h"

#define FLUSH_TURN 256 /* entries in one turn of the loop */

struct walk {
	struct cs_auth_service *service;
	struct cs_grpc_call *call;
	/* What is asked for; 0: any */
	uint32_t local, remote;
	uint16_t node;
	bool any_node, pending, flush;
	struct cs_auth_key *keys;
	size_t n, at, room;
	uint32_t flushed;
	bool full; /* the call's queue */
	struct walk *prev, *next;
};

static bool wanted(const struct walk *w, const struct cs_pair *pair)
{
	return (pair->live || (w->pending && cs_auth_pair_is_pending(pair))) &&
	       (!w->local || w->local == pair->key.local) && (!w->remote || w->remote == pair->key.remote) &&
	       (w->any_node || w->node == pair->key.node);
}

static bool collect(struct cs_pair *pair, void *data)
{
	struct walk *w = data;
	if (wanted(w, pair) && w->n < w->room)
		w->keys[w->n++] = pair->key;
	return true;
}

static void forget(struct walk *w)
{
	DL_DELETE(w->service->walks, w);
	w->service->nwalks--;
	free(w->keys);
	free(w);
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	forget(data);
}

static void on_drain(struct cs_grpc_call *call, void *data)
{
	struct walk *w = data;
	(void)call;
	w->full = false;
	cs_auth_soon(w->service);
}

static void go_on_listing(struct walk *w)
{
	const struct cs_authd *a = w->service->a;
	while (!w->full && w->at < w->n) {
		const struct cs_auth_key *key = &w->keys[w->at++];
		const struct cs_pair *pair = cs_pairs_find(a->pairs, key);
		struct cs_auth_message message;
		if (!pair || !wanted(w, pair))
			continue; /* gone meanwhile */
		cs_auth_message_fill(a, key, pair, &message);
		int r = cs_grpc_send(w->call, &message.msg.base);
		if (r < 0) {
			cs_grpc_finish_reason(w->call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
				"an entry found no room in the stream: list again");
			forget(w);
			return;
		}
		w->full = r == CS_GRPC_FULL;
	}
	if (w->at < w->n)
		return;
	cs_grpc_finish(w->call, CS_GRPC_OK, "%s", "");
	forget(w);
}

static void go_on_flushing(struct walk *w)
{
	struct cs_authd *a = w->service->a;
	for (int i = 0; i < FLUSH_TURN && w->at < w->n; i++) {
		struct cs_pair *pair = cs_pairs_find(a->pairs, &w->keys[w->at++]);
		if (pair && pair->live) {
			cs_entries_delete(a, pair, CS_EVENT_DELETED, CS_R_NONE);
			w->flushed++;
		} else if (pair && pair->refused && !pair->attempt && !pair->waiting) {
			cs_hold_forget(a->hold, &pair->key, pair->refused);
			pair->refused_until_mono_ms = 0; /* the next packet asks, whatever the last answer was */
		}
	}
	if (w->at < w->n) {
		cs_auth_soon(w->service);
		return;
	}
	Countersign__V1__AuthFlushReply reply = COUNTERSIGN__V1__AUTH_FLUSH_REPLY__INIT;
	reply.flushed = w->flushed;
	cs_grpc_reply(w->call, &reply.base);
	forget(w);
}

void cs_auth_walks_pump(struct cs_auth_service *s)
{
	struct walk *w, *next;
	DL_FOREACH_SAFE (s->walks, w, next) {
		if (w->flush)
			go_on_flushing(w);
		else
			go_on_listing(w);
	}
}

void cs_auth_walks_end(struct cs_auth_service *s)
{
	struct walk *w, *next;
	DL_FOREACH_SAFE (s->walks, w, next) {
		cs_grpc_finish(w->call, CS_GRPC_UNAVAILABLE, "authd is ending");
		forget(w);
	}
}

static void begin(struct cs_auth_service *s, struct cs_grpc_call *call, const Countersign__V1__AuthPair *match,
	bool pending, bool flush)
{
	struct walk like = {.service = s, .call = call, .any_node = true, .pending = pending, .flush = flush};
	if (match) {
		like.local = match->local;
		like.remote = match->remote;
		like.any_node = !match->node[0];
		if (!like.any_node && !cs_auth_node_id(s, call, match->node, &like.node))
			return;
	}
	if (s->nwalks >= CS_AUTH_WALKS_MAX) {
		cs_grpc_finish_reason(call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
			"%zu calls of List and Flush are under way, and no more may be", s->nwalks);
		return;
	}
	struct walk *w = malloc(sizeof(*w));
	like.room = cs_pairs_count(s->a->pairs);
	like.keys = calloc(like.room + 1, sizeof(*like.keys));
	if (!w || !like.keys)
		abort();
	*w = like;
	cs_pairs_each(s->a->pairs, collect, w);
	DL_APPEND(s->walks, w);
	s->nwalks++;
	cs_grpc_call_watch(call, on_cancel, on_drain, w);
	cs_auth_soon(s);
}

void cs_auth_list(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__AuthListRequest *in = (const void *)message;
	begin(data, call, in->match, in->pending, false);
}

void cs_auth_flush(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__AuthFlushRequest *in = (const void *)message;
	begin(data, call, in->match, true, true);
}
