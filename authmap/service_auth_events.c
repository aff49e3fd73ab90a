/* Auth.Events: each reader takes from the ring at its own pace. */
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include "service_auth_private.h"

struct reader {
	struct cs_auth_service *service;
	struct cs_grpc_call *call;
	uint64_t at; /* seq of the next event to look at */
	bool datapath, full;
	struct reader *prev, *next;
};

static void forget(struct reader *r)
{
	DL_DELETE(r->service->readers, r);
	r->service->nreaders--;
	free(r);
}

static void fill_dropped(const struct cs_event *v, Countersign__V1__AuthEvent *m, Countersign__V1__Address *address)
{
	m->interface = (char *)v->interface;
	m->packets = v->packets;
	m->would = v->would;
	m->hook = (char *)(v->dir == CS_FROM ? "from" : "to");
	m->policy = (char *)v->policy;
	countersign__v1__address__init(address);
	address->ip = (ProtobufCBinaryData){.len = v->family == 4 ? 4 : 16, .data = (uint8_t *)v->addr};
	m->address = v->family ? address : NULL;
}

/* False: the reader is gone. */
static bool send_event(struct reader *r, const struct cs_event *v)
{
	Countersign__V1__AuthEvent m = COUNTERSIGN__V1__AUTH_EVENT__INIT;
	Countersign__V1__Address address;
	struct cs_auth_message entry;
	cs_auth_message_fill(r->service->a, &v->key, NULL, &entry);
	entry.pair.node = (char *)v->node; /* as it was */
	entry.msg.state = (char *)(v->kind == CS_EVENT_AUTHENTICATED ? "live"
				   : v->kind == CS_EVENT_REFUSED     ? "refused"
								     : "");
	entry.msg.role = (char *)cs_auth_role_name(v->role);
	entry.msg.not_after_unix_s = v->not_after_unix_s;
	entry.msg.until_unix_ms = v->until_unix_ms;
	entry.reason.name = (char *)cs_reason_name(v->reason);
	entry.reason.detail = (char *)cs_reason_sentence(v->reason);
	entry.msg.reason = v->reason == CS_R_NONE ? NULL : &entry.reason;
	m.seq = r->datapath ? v->seq : v->pair_seq;
	m.at_unix_ms = v->at_unix_ms;
	m.kind = (char *)cs_event_kind_name(v->kind);
	m.entry = &entry.msg;
	if (v->kind == CS_EVENT_DROPPED)
		fill_dropped(v, &m, &address);
	int sent = cs_grpc_send(r->call, &m.base);
	if (sent < 0) {
		cs_grpc_finish_reason(r->call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
			"an event found no room in the stream: call again");
		forget(r);
		return false;
	}
	r->full = sent == CS_GRPC_FULL;
	return true;
}

static void pump(struct reader *r)
{
	const struct cs_event *v;
	while (!r->full && (v = cs_events_read(r->service->a->events, &r->at)))
		if ((r->datapath || v->kind != CS_EVENT_DROPPED) && !send_event(r, v))
			return;
}

void cs_auth_readers_pump(struct cs_auth_service *s)
{
	struct reader *r, *next;
	DL_FOREACH_SAFE (s->readers, r, next)
		pump(r);
}

void cs_auth_readers_end(struct cs_auth_service *s)
{
	struct reader *r, *next;
	DL_FOREACH_SAFE (s->readers, r, next) {
		cs_grpc_finish(r->call, CS_GRPC_UNAVAILABLE, "authd is ending");
		forget(r);
	}
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	forget(data);
}

static void on_drain(struct cs_grpc_call *call, void *data)
{
	struct reader *r = data;
	(void)call;
	r->full = false;
	cs_auth_soon(r->service);
}

/* The first message says that the call is heard, and after which seq it begins. */
static void greet(struct reader *r)
{
	const struct cs_authd *a = r->service->a;
	const struct cs_event hello = {.seq = r->at - 1,
		.pair_seq = cs_events_pair_seq(a->events),
		.at_unix_ms = cs_loop_unix_ms(a->loop),
		.kind = CS_EVENT_STATE};
	if (send_event(r, &hello))
		pump(r);
}

void cs_auth_events(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__EventsRequest *in = (const void *)message;
	struct cs_auth_service *s = data;
	if (s->nreaders >= CS_AUTH_READERS_MAX) {
		cs_grpc_finish_reason(call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY,
			"%zu calls read the events, and no more may", s->nreaders);
		return;
	}
	struct reader *r = calloc(1, sizeof(*r));
	if (!r)
		abort();
	r->service = s;
	r->call = call;
	r->datapath = in->datapath;
	r->at = cs_events_next_seq(s->a->events);
	DL_APPEND(s->readers, r);
	s->nreaders++;
	cs_grpc_call_watch(call, on_cancel, on_drain, r);
	greet(r);
}

/* ---- drops ---- */

static bool policy_decided(enum cs_reason reason)
{
	return reason == CS_R_POLICY_DENY || reason == CS_R_PEER_CANNOT_AUTHENTICATE || reason == CS_R_UNAUTHENTICATED;
}

void cs_auth_service_drop(void *authd, const struct cs_drop *d)
{
	struct cs_authd *a = authd;
	struct cs_instant now = cs_authd_now(a);
	struct cs_world_node node;
	struct cs_world_endpoint ep;
	struct cs_event v = {.at_unix_ms = now.unix_ms - (int64_t)(now.coarse_ns - d->ts_ns) / 1000000,
		.kind = CS_EVENT_DROPPED,
		.key = {.local = d->key.local, .remote = d->key.remote, .node = d->node},
		.reason = (enum cs_reason)d->key.reason,
		.would = d->key.would,
		.dir = d->key.dir,
		.family = d->family};
	if (!a->service)
		return; /* starting or ending */
	v.packets = cs_drops_since(a->service->drops, d);
	memcpy(v.addr, d->addr, sizeof(v.addr));
	if (cs_world_node_by_id(a->world, d->node, &node))
		snprintf(v.node, sizeof(v.node), "%s", node.name);
	if (cs_world_endpoint_at(a->world, d->key.ifindex, &ep))
		snprintf(v.interface, sizeof(v.interface), "%s", ep.interface);
	else if (!if_indextoname(d->key.ifindex, v.interface))
		snprintf(v.interface, sizeof(v.interface), "%u", d->key.ifindex);
	if (policy_decided(v.reason)) {
		struct cs_world_decision decision =
			cs_world_decision(a->world, d->key.local, d->key.remote, (enum cs_dir)d->key.dir);
		cs_auth_policy_text(&decision, v.policy, sizeof(v.policy));
	}
	cs_events_add(a->events, &v);
}
