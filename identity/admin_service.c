#include "admin_service.h"

#include <errno.h>
#include <countersign/v1/admin.pb-c.h>
#include "log.h"
#include "mem.h"
#include "store.h"
#include "revocation.h"

struct cs_admin_service {
	struct cs_cluster *cluster;
	const struct cs_strings *elsewhere;
	int64_t gc_grace_ms;
	struct cs_grpc_service grpc;
};

/* A call that waits for the store. */
struct pending {
	struct cs_grpc_call *call; /* NULL: it is gone */
};

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	((struct pending *)data)->call = NULL; /* what was asked is done all the same */
}

static void refuse(struct cs_grpc_call *call, const struct cs_error *e)
{
	enum cs_grpc_code code =
		e->code == -EINVAL                          ? CS_GRPC_INVALID_ARGUMENT
		: e->code == -ENOENT                        ? CS_GRPC_NOT_FOUND
		: e->code == -ENOSPC || e->code == -ENOBUFS ? CS_GRPC_RESOURCE_EXHAUSTED
		: e->reason == CS_R_NOT_LEADER || e->reason == CS_R_STORE_UNAVAILABLE || e->code == -ESHUTDOWN
			? CS_GRPC_UNAVAILABLE
			: CS_GRPC_INTERNAL;
	cs_grpc_finish_error(call, code, e);
}

/* False, and the call is finished: this is not where the cluster role runs. */
static bool is_cluster(const struct cs_admin_service *s, struct cs_grpc_call *call)
{
	if (s->cluster)
		return true;
	char where[512] = "";
	for (size_t i = 0, n = 0; i < s->elsewhere->n && n < sizeof(where); i++)
		n += (size_t)snprintf(where + n, sizeof(where) - n, "%s%s", i ? ", " : "", s->elsewhere->items[i]);
	cs_grpc_finish(call, CS_GRPC_FAILED_PRECONDITION,
		"this identityd has the role node; ask where the cluster role runs: %s (cluster.server)", where);
	return false;
}

static void note(const struct cs_ask *ask)
{
	char subject[320];
	cs_revocation_subject(ask->revocation, subject);
	if (ask->kind == CS_ASK_REVOKE)
		cs_warn("revoked", cs_str("revocation", ask->revocation->id), cs_str("subject", subject),
			cs_str("why", ask->revocation->why), cs_str("who", ask->revocation->who),
			cs_i64("until_unix_s", ask->revocation->until_unix_s));
	else
		cs_warn("a revocation is removed before its time", cs_str("revocation", ask->revocation->id),
			cs_u64("uid", ask->uid));
}

static void on_done(struct cs_ask *ask, void *data)
{
	struct pending *p = data;
	Countersign__V1__RemoveRevocationReply removed = COUNTERSIGN__V1__REMOVE_REVOCATION_REPLY__INIT;
	if (ask->result == 0)
		note(ask);
	if (p->call && ask->result < 0)
		refuse(p->call, &ask->error);
	else if (p->call)
		cs_grpc_reply(p->call, ask->kind == CS_ASK_REVOKE ? &ask->revocation->base : &removed.base);
	free(p);
	cs_ask_free(ask);
}

/* The ask is its own; `done` answers the call. */
static void ask_store(struct cs_admin_service *s, struct cs_grpc_call *call, struct cs_ask *ask,
	void (*done)(struct cs_ask *ask, void *data))
{
	struct pending *p = cs_xcalloc(1, sizeof(*p));
	struct cs_error e;
	p->call = call;
	ask->done = done;
	ask->data = p;
	cs_grpc_call_watch(call, on_cancel, NULL, p);
	if (cs_cluster_ask_take(s->cluster, ask, &e) < 0) {
		ask->result = e.code;
		ask->error = e;
		done(ask, p);
	}
}

/* Takes the revocation over. */
static void ask_take(struct cs_admin_service *s, struct cs_grpc_call *call, enum cs_ask_kind kind,
	Countersign__V1__Revocation *revocation)
{
	struct cs_ask *ask = cs_ask_new(kind, "", 0);
	ask->revocation = revocation;
	ask->uid = cs_grpc_conn_uid(cs_grpc_call_conn(call));
	ask_store(s, call, ask, on_done);
}

static Countersign__V1__Revocation *copy(const Countersign__V1__Revocation *in)
{
	size_t n = countersign__v1__revocation__get_packed_size(in);
	uint8_t *bytes = cs_xcalloc(1, n);
	countersign__v1__revocation__pack(in, bytes);
	Countersign__V1__Revocation *out = cs_mem_check(countersign__v1__revocation__unpack(NULL, n, bytes));
	free(bytes);
	return out;
}

static void add_revocation(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__AddRevocationRequest *in = (const Countersign__V1__AddRevocationRequest *)message;
	if (!is_cluster(data, call))
		return;
	if (!in->revocation) {
		cs_grpc_finish(call, CS_GRPC_INVALID_ARGUMENT, "the revocation is missing");
		return;
	}
	if (in->revocation->id[0] || in->revocation->who[0] || in->revocation->from_unix_s) {
		cs_grpc_finish(call, CS_GRPC_INVALID_ARGUMENT, "id, from and who are not the caller's to say");
		return;
	}
	ask_take(data, call, CS_ASK_REVOKE, copy(in->revocation));
}

static void remove_revocation(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__RemoveRevocationRequest *in = (const Countersign__V1__RemoveRevocationRequest *)message;
	Countersign__V1__Revocation r = COUNTERSIGN__V1__REVOCATION__INIT;
	if (!is_cluster(data, call))
		return;
	if (!in->id[0]) {
		cs_grpc_finish(call, CS_GRPC_INVALID_ARGUMENT, "the id is missing");
		return;
	}
	r.id = in->id;
	ask_take(data, call, CS_ASK_UNREVOKE, copy(&r));
}

static void usage(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_admin_service *s = data;
	Countersign__V1__UsageReply reply = COUNTERSIGN__V1__USAGE_REPLY__INIT;
	(void)message;
	if (!is_cluster(s, call))
		return;
	const struct cs_store_usage *usage = cs_cluster_usage(s->cluster);
	const struct cs_numbers *numbers = cs_cluster_numbers(s->cluster);
	reply.cluster_id = numbers->cluster_id;
	reply.first = numbers->min;
	reply.last = numbers->max;
	reply.in_use = (uint32_t)usage->in_use;
	reply.resting = (uint32_t)usage->resting;
	cs_grpc_reply(call, &reply.base);
}

/* --- identities that nobody uses --- */

#define ITEMS_MAX   2000 /* of a dry run's answer */
#define COLLECT_MAX 2500 /* at a time, each; who wants more asks again */

static void add_item(
	Countersign__V1__CollectGarbageReply *reply, const struct cs_collected *c, Countersign__V1__Garbage *item)
{
	static const Countersign__V1__Garbage__State states[] = {
		[CS_COLLECT_MARK] = COUNTERSIGN__V1__GARBAGE__STATE__STATE_MARK,
		[CS_COLLECT_WAIT] = COUNTERSIGN__V1__GARBAGE__STATE__STATE_WAIT,
		[CS_COLLECT_DELETE] = COUNTERSIGN__V1__GARBAGE__STATE__STATE_DELETE,
		[CS_COLLECT_RESTS] = COUNTERSIGN__V1__GARBAGE__STATE__STATE_REST};
	uint32_t *counts[] = {[CS_COLLECT_MARK] = &reply->marked,
		[CS_COLLECT_WAIT] = &reply->waiting,
		[CS_COLLECT_DELETE] = &reply->deleted,
		[CS_COLLECT_RESTS] = &reply->resting};
	++*counts[c->what];
	if (reply->n_items == ITEMS_MAX)
		return;
	countersign__v1__garbage__init(item);
	item->state = states[c->what];
	item->identity = c->identity;
	item->labels = c->labels;
	item->left_ms = c->left_ms;
	reply->items[reply->n_items++] = item;
}

static void on_collected(struct cs_ask *ask, void *data)
{
	struct pending *p = data;
	Countersign__V1__CollectGarbageReply reply = COUNTERSIGN__V1__COLLECT_GARBAGE_REPLY__INIT;
	Countersign__V1__Garbage *items = cs_xcalloc(ITEMS_MAX, sizeof(*items));
	reply.items = cs_xcalloc(ITEMS_MAX, sizeof(*reply.items));
	reply.marked = (uint32_t)ask->marked;
	reply.deleted = (uint32_t)ask->deleted;
	for (size_t i = 0; i < ask->ncollected; i++)
		add_item(&reply, &ask->collected[i], &items[reply.n_items < ITEMS_MAX ? reply.n_items : 0]);
	if (p->call && ask->result < 0)
		refuse(p->call, &ask->error);
	else if (p->call)
		cs_grpc_reply(p->call, &reply.base);
	free(reply.items);
	free(items);
	free(p);
	cs_ask_free(ask);
}

static void collect_garbage(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__CollectGarbageRequest *in = (const Countersign__V1__CollectGarbageRequest *)message;
	struct cs_admin_service *s = data;
	if (!is_cluster(s, call))
		return;
	struct cs_ask *ask = cs_ask_new(CS_ASK_COLLECT, "", 0);
	ask->dry_run = in->dry_run;
	ask->grace_ms = s->gc_grace_ms;
	ask->collect_max = COLLECT_MAX;
	ask_store(s, call, ask, on_collected);
}

static const struct cs_grpc_method methods[] = {
	{.name = "AddRevocation", .roles = CS_ROLE_OPERATOR, .fn = add_revocation},
	{.name = "RemoveRevocation", .roles = CS_ROLE_OPERATOR, .fn = remove_revocation},
	{.name = "Usage", .roles = CS_ROLE_VIEWER, .fn = usage},
	{.name = "CollectGarbage", .roles = CS_ROLE_OPERATOR, .fn = collect_garbage},
};

struct cs_admin_service *cs_admin_service_new(
	struct cs_cluster *cluster, const struct cs_strings *elsewhere, int64_t gc_grace_ms)
{
	struct cs_admin_service *s = cs_xcalloc(1, sizeof(*s));
	s->cluster = cluster;
	s->elsewhere = elsewhere;
	s->gc_grace_ms = gc_grace_ms;
	s->grpc = (struct cs_grpc_service){.descriptor = &countersign__v1__admin__descriptor,
		.methods = methods,
		.nmethods = sizeof(methods) / sizeof(methods[0]),
		.data = s};
	return s;
}

const struct cs_grpc_service *cs_admin_service_grpc(const struct cs_admin_service *s)
{
	return &s->grpc;
}

void cs_admin_service_free(struct cs_admin_service *s)
{
	free(s);
}
