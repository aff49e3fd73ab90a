/* Auth.Authenticate: an operator asks for a pair, and waits for the answer. */
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include "authenticate.h"
#include "service_auth_private.h"

struct asker {
	struct cs_auth_service *service;
	struct cs_grpc_call *call;
	struct cs_auth_key key;
	uint64_t at; /* seq of the next event to look at */
	int64_t until_mono_ms;
	struct asker *prev, *next;
};

static void forget(struct asker *w)
{
	DL_DELETE(w->service->askers, w);
	w->service->naskers--;
	free(w);
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	forget(data);
}

static void refuse(struct cs_grpc_call *call, enum cs_reason reason)
{
	cs_grpc_finish_reason(call, CS_GRPC_FAILED_PRECONDITION, reason, "%s", cs_reason_sentence(reason));
}

/* How it ended for this key: true and the reason. */
static bool is_over(struct asker *w, enum cs_reason *ret)
{
	const struct cs_authd *a = w->service->a;
	const struct cs_pair *pair = cs_pairs_find(a->pairs, &w->key);
	const struct cs_event *v;
	while ((v = cs_events_read(a->events, &w->at))) {
		if (memcmp(&v->key, &w->key, sizeof(w->key)) != 0)
			continue;
		*ret = v->reason;
		if (v->kind == CS_EVENT_AUTHENTICATED || v->kind == CS_EVENT_REFUSED)
			return true;
	}
	if (pair && (pair->attempt || pair->waiting))
		return false;
	/* Over without an event: refused again for the reason it was refused for before, or there was nothing to add. */
	*ret = !pair                        ? CS_R_POLICY_NO_LONGER_ASKS
	       : pair->live                 ? CS_R_NONE
	       : pair->refused != CS_R_NONE ? pair->refused
					    : CS_R_STALE_VERDICT;
	return true;
}

static void look(struct asker *w)
{
	const struct cs_authd *a = w->service->a;
	struct cs_grpc_call *call = w->call;
	struct cs_auth_key key = w->key;
	enum cs_reason reason = CS_R_NONE;
	bool over = is_over(w, &reason);
	if (!over && cs_loop_mono_ms(a->loop) < w->until_mono_ms)
		return;
	forget(w);
	const struct cs_pair *pair = cs_pairs_find(a->pairs, &key);
	if (!over) {
		cs_grpc_finish_reason(call, CS_GRPC_DEADLINE_EXCEEDED, CS_R_PEER_TIMEOUT,
			"no answer in %d s; the attempt goes on", CS_AUTH_ASK_MS / 1000);
	} else if (reason == CS_R_NONE && pair && pair->live) {
		struct cs_auth_message message;
		cs_auth_message_fill(a, &key, pair, &message);
		cs_grpc_reply(call, &message.msg.base);
	} else {
		refuse(call, reason == CS_R_NONE ? CS_R_STALE_VERDICT : reason);
	}
}

void cs_auth_askers_pump(struct cs_auth_service *s)
{
	struct asker *w, *next;
	DL_FOREACH_SAFE (s->askers, w, next)
		look(w);
}

void cs_auth_askers_end(struct cs_auth_service *s)
{
	struct asker *w, *next;
	DL_FOREACH_SAFE (s->askers, w, next) {
		cs_grpc_finish(w->call, CS_GRPC_UNAVAILABLE, "authd is ending");
		forget(w);
	}
}

void cs_auth_authenticate(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__AuthPair *pair =
		((const Countersign__V1__AuthenticateRequest *)(const void *)message)->pair;
	struct cs_auth_service *s = data;
	struct cs_auth_key key = {.type = CS_AUTH_SPIRE};
	if (!pair || !pair->local || !pair->remote || !pair->node[0]) {
		cs_grpc_finish(call, CS_GRPC_INVALID_ARGUMENT, "pair: local, remote and node, please");
		return;
	}
	if (!cs_auth_node_id(s, call, pair->node, &key.node))
		return;
	if (s->naskers >= CS_AUTH_ASKERS_MAX) {
		cs_grpc_finish_reason(call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
			"%zu calls wait for a pair already, and no more may", s->naskers);
		return;
	}
	key.local = pair->local;
	key.remote = pair->remote;
	uint64_t at = cs_events_next_seq(s->a->events);
	enum cs_reason why = cs_authenticate_now(s->a, &key);
	if (why != CS_R_NONE) {
		refuse(call, why);
		return;
	}
	struct asker *w = calloc(1, sizeof(*w));
	if (!w)
		abort();
	*w = (struct asker){.service = s,
		.call = call,
		.key = key,
		.at = at,
		.until_mono_ms = cs_loop_mono_ms(s->a->loop) + CS_AUTH_ASK_MS};
	DL_APPEND(s->askers, w);
	s->naskers++;
	cs_grpc_call_watch(call, on_cancel, NULL, w);
	cs_auth_soon(s);
}
