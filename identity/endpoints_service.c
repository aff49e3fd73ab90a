#include "endpoints_service.h"

#include <errno.h>
#include <utlist.h>
#include "log.h"
#include "mem.h"

#define WAIT_MAX_MS    120000 /* for callers without a deadline */
#define WAIT_MARGIN_MS 100    /* before the caller's deadline, so that the answer still says what was not met */
#define REPORTS_MAX    16384  /* in one call */

/* A RegisterEndpoint that waits: for the disk first, then for the conditions. */
struct waiter {
	struct cs_endpoints_service *service;
	struct cs_grpc_call *call; /* NULL: the caller is gone */
	char *id;
	Countersign__V1__Step steps[CS_STEPS];
	size_t nsteps;
	bool on_disk; /* watches the conditions from here on */
	int64_t until_mono_ms;
	struct cs_timer timer;
	bool listed;
	struct waiter *prev, *next;
};

struct cs_endpoints_service {
	struct cs_loop *loop;
	struct cs_node *node;
	struct cs_grpc_service grpc;
	struct waiter *waiters;
	bool closed;
};

/* --- errors --- */

static enum cs_grpc_code code_of(int code)
{
	switch (code) {
	case -EINVAL:
		return CS_GRPC_INVALID_ARGUMENT;
	case -EEXIST:
		return CS_GRPC_ALREADY_EXISTS;
	case -ENOENT:
		return CS_GRPC_NOT_FOUND;
	case -ENODEV:
	case -EOPNOTSUPP:
		return CS_GRPC_FAILED_PRECONDITION;
	case -ENOSPC:
	case -ENOBUFS:
		return CS_GRPC_RESOURCE_EXHAUSTED;
	case -ESHUTDOWN:
		return CS_GRPC_UNAVAILABLE;
	default:
		return CS_GRPC_INTERNAL;
	}
}

static void refuse(struct cs_grpc_call *call, const struct cs_error *e)
{
	cs_grpc_finish_error(call, code_of(e->code), e);
}

/* --- waiting --- */

static void waiter_freed(struct cs_timer *timer)
{
	struct waiter *w = timer->data;
	free(w->id);
	free(w);
}

static void waiter_end(struct waiter *w)
{
	if (w->listed)
		DL_DELETE(w->service->waiters, w);
	w->listed = false;
	cs_timer_close(&w->timer, waiter_freed);
}

/* The call, which the caller finishes; the waiter is gone. */
static struct cs_grpc_call *waiter_take_call(struct waiter *w)
{
	struct cs_grpc_call *call = w->call;
	waiter_end(w);
	return call;
}

static void reply_status(struct cs_grpc_call *call, const struct cs_node_endpoint *ep, const char *node)
{
	Countersign__V1__EndpointStatus *status = cs_endpoint_status(ep, node);
	cs_grpc_reply(call, &status->base);
	countersign__v1__endpoint_status__free_unpacked(status, NULL);
}

/* It cannot be met in the time that the caller has: he may want another address instead. */
static bool quarantined_beyond(const struct waiter *w, const struct cs_node_endpoint *ep)
{
	return ep->claim == CS_CLAIM_REFUSED && ep->refused == CS_R_ADDRESS_IN_QUARANTINE &&
	       ep->refused_until_mono_ms > w->until_mono_ms;
}

/* Nobody can say how long the cluster's store is away: who has a deadline of its own tries again, and the claim is made all
 * the same as soon as it can be. */
static bool store_is_away(const struct waiter *w, const struct cs_node_endpoint *ep)
{
	const struct cs_condition *c = &ep->conditions[cs_endpoint_unmet(ep, w->steps, w->nsteps)];
	return !c->met && c->reason == CS_R_STORE_UNAVAILABLE;
}

static void finish_unmet(struct waiter *w, const struct cs_node_endpoint *ep, enum cs_grpc_code code, const char *then)
{
	Countersign__V1__Step step = cs_endpoint_unmet(ep, w->steps, w->nsteps);
	const struct cs_condition *c = &ep->conditions[step];
	cs_grpc_finish_reason(waiter_take_call(w), code, c->reason,
		"endpoint '%s' is registered, but not %s: %s%s%s; it stays registered, and %s", ep->spec.id,
		cs_step_name(step), cs_reason_name(c->reason), c->detail[0] ? ": " : "", c->detail, then);
}

static void look(struct waiter *w, const struct cs_node_endpoint *ep)
{
	if (store_is_away(w, ep))
		finish_unmet(w, ep, CS_GRPC_UNAVAILABLE, "is claimed when the store answers");
	else if (cs_endpoint_unmet(ep, w->steps, w->nsteps) != 0 && quarantined_beyond(w, ep))
		cs_grpc_finish_reason(waiter_take_call(w), CS_GRPC_FAILED_PRECONDITION, CS_R_ADDRESS_IN_QUARANTINE,
			"%s, which is longer than this call waits; the endpoint stays registered, and closed",
			ep->refused_text);
	else if (cs_endpoint_unmet(ep, w->steps, w->nsteps) == 0)
		reply_status(waiter_take_call(w), ep, cs_node_name(w->service->node));
}

static void on_change(void *data, const struct cs_node_endpoint *ep, bool gone)
{
	struct cs_endpoints_service *s = data;
	struct waiter *w, *tmp;
	DL_FOREACH_SAFE (s->waiters, w, tmp) {
		if (!w->on_disk || strcmp(w->id, ep->spec.id) != 0)
			continue;
		if (gone)
			cs_grpc_finish_reason(waiter_take_call(w), CS_GRPC_ABORTED, CS_R_NOT_REGISTERED,
				"endpoint '%s' was unregistered or registered anew by another call", ep->spec.id);
		else
			look(w, ep);
	}
}

static void on_deadline(struct cs_timer *timer)
{
	struct waiter *w = timer->data;
	struct cs_node_endpoint *ep = w->on_disk ? cs_node_endpoint(w->service->node, w->id) : NULL;
	if (!ep) {
		cs_grpc_finish(waiter_take_call(w), CS_GRPC_DEADLINE_EXCEEDED,
			"the registration is not on disk yet; whether it will be is not known");
		return;
	}
	finish_unmet(w, ep, CS_GRPC_DEADLINE_EXCEEDED, "closed");
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	struct waiter *w = data;
	if (w->on_disk)
		waiter_end(w);
	else
		w->call = NULL; /* the disk still has it */
}

static void on_written(void *data, const struct cs_error *e)
{
	struct waiter *w = data;
	if (!w->call) {
		waiter_end(w);
		return;
	}
	if (e) {
		refuse(waiter_take_call(w), e);
		return;
	}
	w->on_disk = true;
	for (size_t i = 0; i < w->nsteps; i++)
		if (w->steps[i] == COUNTERSIGN__V1__STEP__STEP_PUBLISHED)
			cs_node_want_published(w->service->node, w->id);
	struct cs_node_endpoint *ep = cs_node_endpoint(w->service->node, w->id);
	if (!w->listed)
		return; /* it was published at once, and so answered */
	if (ep)
		look(w, ep);
	else /* unregistered in the same batch of the disk */
		cs_grpc_finish_reason(
			waiter_take_call(w), CS_GRPC_ABORTED, CS_R_NOT_REGISTERED, "unregistered by another call");
}

static int64_t wait_ms(const struct cs_endpoints_service *s, const struct cs_grpc_call *call)
{
	int64_t deadline = cs_grpc_call_deadline_mono_ms(call);
	if (deadline == INT64_MAX)
		return WAIT_MAX_MS;
	int64_t left = deadline - cs_loop_mono_ms(s->loop);
	int64_t margin = left / 4 < WAIT_MARGIN_MS ? left / 4 : WAIT_MARGIN_MS;
	return left - margin > 0 ? left - margin : 0;
}

static int read_steps(const Countersign__V1__RegisterRequest *in, struct waiter *w, struct cs_error *e)
{
	if (in->n_wait_for == 0)
		w->steps[w->nsteps++] = COUNTERSIGN__V1__STEP__STEP_ENFORCED;
	for (size_t i = 0; i < in->n_wait_for; i++) {
		Countersign__V1__Step step = in->wait_for[i];
		if (step <= COUNTERSIGN__V1__STEP__STEP_UNSPECIFIED || step > COUNTERSIGN__V1__STEP__STEP_PUBLISHED)
			return cs_error_set(e, -EINVAL, "wait_for: there is no step %d", (int)step);
		bool there = false;
		for (size_t k = 0; k < w->nsteps; k++)
			there |= w->steps[k] == step;
		if (!there)
			w->steps[w->nsteps++] = step;
	}
	return 0;
}

static void register_endpoint(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_endpoints_service *s = data;
	const Countersign__V1__RegisterRequest *in = (const Countersign__V1__RegisterRequest *)message;
	struct cs_endpoint_spec spec;
	struct waiter steps = {0};
	struct cs_error e;
	bool same;
	int r = in->spec ? cs_endpoint_spec_check(in->spec, &spec, &e)
			 : cs_error_set(&e, -EINVAL, "the spec is missing");
	if (r == 0) {
		r = read_steps(in, &steps, &e);
		if (r < 0)
			cs_endpoint_spec_fini(&spec);
	}
	if (r < 0) {
		refuse(call, &e);
		return;
	}
	struct waiter *w = cs_xmemdup(&steps, sizeof(steps));
	w->service = s;
	w->call = call;
	w->id = cs_xstrdup(spec.id);
	w->listed = true;
	DL_APPEND(s->waiters, w);
	cs_timer_init(&w->timer, s->loop, on_deadline, w);
	cs_grpc_call_watch(call, on_cancel, NULL, w);
	r = cs_node_register_take(s->node, &spec, &same, on_written, w, &e);
	if (r < 0) {
		refuse(waiter_take_call(w), &e);
		return;
	}
	w->until_mono_ms = cs_loop_mono_ms(s->loop) + wait_ms(s, call);
	cs_timer_start(&w->timer, wait_ms(s, call), 0);
	if (same)
		on_written(w, NULL);
}

/* --- unregister --- */

/* A call that waits for the disk; what it answers does not depend on it. */
struct pending {
	struct cs_endpoints_service *service;
	struct cs_grpc_call *call; /* NULL: the caller is gone */
	char **gone;               /* Reconcile */
	size_t ngone;
};

static void pending_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	((struct pending *)data)->call = NULL;
}

static struct pending *pending_new(struct cs_endpoints_service *s, struct cs_grpc_call *call)
{
	struct pending *p = cs_xcalloc(1, sizeof(*p));
	p->service = s;
	p->call = call;
	cs_grpc_call_watch(call, pending_cancel, NULL, p);
	return p;
}

static void pending_free(struct pending *p)
{
	for (size_t i = 0; i < p->ngone; i++)
		free(p->gone[i]);
	free(p->gone);
	free(p);
}

static void on_unregistered(void *data, const struct cs_error *e)
{
	struct pending *p = data;
	Countersign__V1__UnregisterReply reply = COUNTERSIGN__V1__UNREGISTER_REPLY__INIT;
	if (p->call && e)
		refuse(p->call, e);
	else if (p->call)
		cs_grpc_reply(p->call, &reply.base);
	pending_free(p);
}

static void unregister_endpoint(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_endpoints_service *s = data;
	const Countersign__V1__UnregisterRequest *in = (const Countersign__V1__UnregisterRequest *)message;
	struct pending *p = pending_new(s, call);
	struct cs_error e;
	if (cs_node_unregister(s->node, in->id, on_unregistered, p, &e) < 0) {
		refuse(call, &e);
		pending_free(p);
	}
}

/* --- lists --- */

struct statuses {
	const char *node;
	Countersign__V1__EndpointStatus **list;
	size_t n;
};

static void add_status(struct cs_node_endpoint *ep, void *data)
{
	struct statuses *s = data;
	s->list[s->n++] = cs_endpoint_status(ep, s->node);
}

static struct statuses all_statuses(const struct cs_endpoints_service *s)
{
	struct statuses all = {.node = cs_node_name(s->node),
		.list = cs_xcalloc(cs_node_endpoints(s->node), sizeof(Countersign__V1__EndpointStatus *))};
	cs_node_each(s->node, add_status, &all);
	return all;
}

static void statuses_fini(struct statuses *s)
{
	for (size_t i = 0; i < s->n; i++)
		countersign__v1__endpoint_status__free_unpacked(s->list[i], NULL);
	free(s->list);
}

static void list_endpoints(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	(void)message;
	struct statuses all = all_statuses(data);
	Countersign__V1__ListReply reply = COUNTERSIGN__V1__LIST_REPLY__INIT;
	reply.endpoints = all.list;
	reply.n_endpoints = all.n;
	cs_grpc_reply(call, &reply.base);
	statuses_fini(&all);
}

static void on_reconciled(void *data, const struct cs_error *e)
{
	struct pending *p = data;
	if (p->call && e) {
		refuse(p->call, e);
	} else if (p->call) {
		struct statuses all = all_statuses(p->service);
		Countersign__V1__ReconcileReply reply = COUNTERSIGN__V1__RECONCILE_REPLY__INIT;
		reply.endpoints = all.list;
		reply.n_endpoints = all.n;
		reply.unregistered = p->gone;
		reply.n_unregistered = p->ngone;
		cs_grpc_reply(p->call, &reply.base);
		statuses_fini(&all);
	}
	pending_free(p);
}

static void reconcile(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_endpoints_service *s = data;
	const Countersign__V1__ReconcileRequest *in = (const Countersign__V1__ReconcileRequest *)message;
	struct cs_endpoint_spec *specs = cs_xcalloc(in->n_specs, sizeof(*specs));
	struct cs_error e;
	size_t n = 0;
	int r = 0;
	while (n < in->n_specs && (r = cs_endpoint_spec_check(in->specs[n], &specs[n], &e)) == 0)
		n++;
	if (r < 0) {
		cs_error_prefix(&e, "specs[%zu] ('%.128s')", n, in->specs[n]->id);
		refuse(call, &e);
		for (size_t i = 0; i < n; i++)
			cs_endpoint_spec_fini(&specs[i]);
		free(specs);
		return;
	}
	struct pending *p = pending_new(s, call);
	r = cs_node_reconcile_take(s->node, specs, n, &p->gone, &p->ngone, on_reconciled, p, &e);
	if (r < 0) {
		refuse(call, &e);
		pending_free(p);
	}
	free(specs);
}

/* --- report --- */

static int check_report(const Countersign__V1__Report *in, uint32_t roles, struct cs_error *e)
{
	const Countersign__V1__Condition *c = in->condition;
	if (!c)
		return cs_error_set(e, -EINVAL, "a report has a condition");
	if (c->step != COUNTERSIGN__V1__STEP__STEP_ENFORCED && c->step != COUNTERSIGN__V1__STEP__STEP_SVID_READY)
		return cs_error_set(e, -EINVAL, "only enforced (authd) and svid-ready (spire-adapter) are reported");
	uint32_t needs = c->step == COUNTERSIGN__V1__STEP__STEP_ENFORCED ? CS_ROLE_AUTHD : CS_ROLE_ADAPTER;
	if (!(roles & needs))
		return cs_error_reason(e, -EACCES, CS_R_ROLE_REFUSED, "%s is reported by the role %s only",
			cs_step_name(c->step), cs_role_name(needs));
	if (c->reason && c->reason->name[0] && cs_reason_parse(c->reason->name) < 0)
		return cs_error_set(e, -EINVAL, "there is no reason '%.64s'", c->reason->name);
	if (!in->endpoint[0] && in->identity == 0)
		return cs_error_set(e, -EINVAL, "a report names an endpoint or an identity");
	return 0;
}

static void report(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_endpoints_service *s = data;
	const Countersign__V1__ReportRequest *in = (const Countersign__V1__ReportRequest *)message;
	uint32_t roles = cs_grpc_conn_roles(cs_grpc_call_conn(call));
	struct cs_error e;
	int r = in->n_reports > REPORTS_MAX
			? cs_error_reason(&e, -ENOBUFS, CS_R_TOO_MANY, "at most %d reports in one call", REPORTS_MAX)
			: 0;
	for (size_t i = 0; i < in->n_reports && r == 0; i++)
		r = check_report(in->reports[i], roles, &e);
	if (r < 0) {
		cs_grpc_finish_error(call, r == -EACCES ? CS_GRPC_PERMISSION_DENIED : code_of(r), &e);
		return;
	}
	for (size_t i = 0; i < in->n_reports; i++) {
		const Countersign__V1__Report *one = in->reports[i];
		const Countersign__V1__Reason *why = one->condition->reason;
		int reason = why && why->name[0] ? cs_reason_parse(why->name) : CS_R_NONE;
		cs_node_report(s->node, one->endpoint, one->identity, one->incarnation, one->condition->step,
			one->condition->met, (enum cs_reason)reason, why ? why->detail : "");
	}
	Countersign__V1__ReportReply reply = COUNTERSIGN__V1__REPORT_REPLY__INIT;
	cs_grpc_reply(call, &reply.base);
}

/* --- life --- */

static const struct cs_grpc_method methods[] = {
	{.name = "RegisterEndpoint", .roles = CS_ROLE_AGENT, .fn = register_endpoint},
	{.name = "UnregisterEndpoint", .roles = CS_ROLE_AGENT, .fn = unregister_endpoint},
	{.name = "Reconcile", .roles = CS_ROLE_AGENT, .fn = reconcile},
	{.name = "Report", .roles = CS_ROLE_ADAPTER | CS_ROLE_AUTHD, .fn = report},
	{.name = "List", .roles = CS_ROLE_VIEWER, .fn = list_endpoints},
};

struct cs_endpoints_service *cs_endpoints_service_new(struct cs_loop *loop, struct cs_node *node)
{
	struct cs_endpoints_service *s = cs_xcalloc(1, sizeof(*s));
	s->loop = loop;
	s->node = node;
	s->grpc = (struct cs_grpc_service){.descriptor = &countersign__v1__endpoints__descriptor,
		.methods = methods,
		.nmethods = sizeof(methods) / sizeof(methods[0]),
		.data = s};
	cs_node_on_change(node, on_change, s);
	return s;
}

const struct cs_grpc_service *cs_endpoints_service_grpc(const struct cs_endpoints_service *s)
{
	return &s->grpc;
}

void cs_endpoints_service_close(struct cs_endpoints_service *s)
{
	if (s->closed)
		return;
	s->closed = true;
	cs_node_on_change(s->node, NULL, NULL);
	struct waiter *w, *tmp;
	DL_FOREACH_SAFE (s->waiters, w, tmp) {
		if (!w->on_disk)
			continue; /* the disk answers it */
		cs_grpc_finish(waiter_take_call(w), CS_GRPC_UNAVAILABLE, "identityd is ending");
	}
}

void cs_endpoints_service_free(struct cs_endpoints_service *s)
{
	free(s);
}
