#include "report.h"

#include <countersign/v1/endpoints.pb-c.h>
#include <stdio.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include "grpc.h"
#include "log.h"

/* What was said of an endpoint, or is being said. */
struct said {
	char *id;
	uint64_t incarnation;
	bool enforced;
	enum cs_reason reason;
	char detail[192];
	int64_t since_unix_ms;
	bool told, sending, seen;
	UT_hash_handle hh;
};
struct outgoing {
	Countersign__V1__Report report;
	Countersign__V1__Condition condition;
	Countersign__V1__Reason reason;
};

struct cs_report {
	struct cs_loop *loop;
	const struct cs_world *world;
	struct cs_grpc_channel *channel;
	struct cs_timer soon;
	struct said *said;
	bool calling, closing;
	unsigned open;
	struct outgoing out[CS_REPORT_BATCH];
};

static void said_free(struct cs_report *r, struct said *s)
{
	HASH_DEL(r->said, s);
	free(s->id);
	free(s);
}

static void note(const struct cs_world_endpoint *ep, void *data)
{
	struct cs_report *r = data;
	struct said *s;
	HASH_FIND(hh, r->said, ep->id, strlen(ep->id), s);
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s || !(s->id = strdup(ep->id)))
			abort();
		HASH_ADD_KEYPTR(hh, r->said, s->id, strlen(s->id), s);
	}
	s->seen = true;
	if (s->since_unix_ms && s->incarnation == ep->incarnation && s->enforced == ep->enforced &&
		s->reason == ep->reason && strcmp(s->detail, ep->detail) == 0)
		return;
	if (!s->since_unix_ms || s->enforced != ep->enforced)
		s->since_unix_ms = cs_loop_unix_ms(r->loop);
	s->incarnation = ep->incarnation;
	s->enforced = ep->enforced;
	s->reason = ep->reason;
	memcpy(s->detail, ep->detail, sizeof(s->detail));
	s->told = s->sending = false;
	cs_info("endpoint", cs_str("id", ep->id), cs_str("interface", ep->interface), cs_u64("identity", ep->identity),
		cs_bool("enforced", ep->enforced), cs_why(ep->reason), cs_str("detail", ep->detail));
}

static void on_told(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct cs_report *r = data;
	struct said *s, *next;
	(void)reply;
	r->calling = false;
	HASH_ITER (hh, r->said, s, next) {
		if (s->sending)
			s->told = status->code == CS_GRPC_OK;
		s->sending = false;
	}
	if (r->closing)
		return;
	if (status->code != CS_GRPC_OK)
		cs_warn("identityd did not take the report of what is enforced",
			cs_str("status", cs_grpc_code_name(status->code)), cs_str("detail", status->message));
	cs_timer_start(&r->soon, status->code == CS_GRPC_OK ? 0 : CS_REPORT_AGAIN_MS, 0);
}

static void fill(struct outgoing *o, struct said *s)
{
	*o = (struct outgoing){.report = COUNTERSIGN__V1__REPORT__INIT,
		.condition = COUNTERSIGN__V1__CONDITION__INIT,
		.reason = COUNTERSIGN__V1__REASON__INIT};
	o->report.endpoint = s->id;
	o->report.incarnation = s->incarnation;
	o->report.condition = &o->condition;
	o->condition.step = COUNTERSIGN__V1__STEP__STEP_ENFORCED;
	o->condition.met = s->enforced;
	o->condition.since_unix_ms = s->since_unix_ms;
	if (s->reason != CS_R_NONE) {
		o->reason.name = (char *)cs_reason_name(s->reason);
		o->reason.detail = s->detail;
		o->condition.reason = &o->reason;
	}
}

static void send_some(struct cs_report *r)
{
	Countersign__V1__Report *reports[CS_REPORT_BATCH];
	Countersign__V1__ReportRequest request = COUNTERSIGN__V1__REPORT_REQUEST__INIT;
	struct cs_grpc_call_options options = {.timeout_ms = 5000, .wait = true};
	struct said *s, *next;
	struct cs_error e;
	request.reports = reports;
	HASH_ITER (hh, r->said, s, next) {
		if (s->told || request.n_reports == CS_REPORT_BATCH)
			continue;
		fill(&r->out[request.n_reports], s);
		reports[request.n_reports] = &r->out[request.n_reports].report;
		request.n_reports++;
		s->sending = true;
	}
	if (!request.n_reports)
		return;
	if (cs_grpc_unary(r->channel, &countersign__v1__endpoints__descriptor, "Report", &request.base, &options,
		    on_told, r, NULL, &e) < 0) {
		cs_warn("identityd cannot be told what is enforced", cs_err(&e));
		cs_timer_start(&r->soon, CS_REPORT_AGAIN_MS, 0);
		return;
	}
	r->calling = true;
}

static void on_soon(struct cs_timer *t)
{
	struct cs_report *r = t->data;
	struct said *s, *next;
	if (r->calling || r->closing)
		return; /* on_told comes back here */
	HASH_ITER (hh, r->said, s, next)
		s->seen = false;
	cs_world_each_endpoint(r->world, note, r);
	HASH_ITER (hh, r->said, s, next)
		if (!s->seen)
			said_free(r, s);
	send_some(r);
}

void cs_report_changed(struct cs_report *r)
{
	if (!r->closing && !r->calling)
		cs_timer_start(&r->soon, 0, 0);
}

void cs_report_all(struct cs_report *r)
{
	struct said *s, *next;
	HASH_ITER (hh, r->said, s, next)
		s->told = s->sending = false;
	cs_report_changed(r);
}

static void freed(struct cs_report *r)
{
	struct said *s, *next;
	if (--r->open)
		return;
	HASH_ITER (hh, r->said, s, next)
		said_free(r, s);
	free(r);
}

static void on_timer_closed(struct cs_timer *t)
{
	freed(t->data);
}

static void on_channel_closed(void *data)
{
	freed(data);
}

int cs_report_new(struct cs_loop *loop, const char *socket, const struct cs_world *world, struct cs_report **ret,
	struct cs_error *e)
{
	char target[300];
	struct cs_report *r = calloc(1, sizeof(*r));
	if (!r)
		return cs_error_set(e, -ENOMEM, "no memory");
	snprintf(target, sizeof(target), "unix:%s", socket);
	struct cs_grpc_channel_options options = {.target = target};
	*r = (struct cs_report){.loop = loop, .world = world, .open = 2};
	int error = cs_grpc_channel_new(loop, &options, &r->channel, e);
	if (error < 0) {
		free(r);
		return error;
	}
	cs_timer_init(&r->soon, loop, on_soon, r);
	*ret = r;
	return 0;
}

void cs_report_close(struct cs_report *r)
{
	if (!r)
		return;
	r->closing = true;
	cs_timer_close(&r->soon, on_timer_closed);
	cs_grpc_channel_close(r->channel, on_channel_closed, r);
}
