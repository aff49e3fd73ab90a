#include "reporter.h"

#include <countersign/maps.h>
#include <countersign/v1/endpoints.pb-c.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>
#include "grpc.h"
#include "instance.h"
#include "log.h"

struct mark {
	uint32_t identity;
	bool sent; /* in the call that is under way */
	UT_hash_handle hh;
};

struct cs_reporter {
	struct cs_loop *loop;
	struct cs_svids *svids;
	struct cs_check *check;
	struct cs_grpc_channel *channel;
	struct cs_timer timer;
	struct mark *marks;
	bool calling, closing;
};

static void unmark(struct cs_reporter *r, struct mark *m)
{
	HASH_DEL(r->marks, m);
	free(m);
}

/* OK: what was sent and not marked again meanwhile is done. Else all of it stays, and waits for the next try. */
static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct cs_reporter *r = data;
	struct mark *m, *next;
	(void)reply;
	r->calling = false;
	HASH_ITER (hh, r->marks, m, next) {
		if (m->sent && status->code == CS_GRPC_OK)
			unmark(r, m);
		else
			m->sent = false;
	}
	if (r->closing)
		return;
	if (status->code == CS_GRPC_OK) {
		cs_check_ok(r->check);
	} else {
		cs_warn("SVIDs could not be reported", cs_str("status", cs_grpc_code_name(status->code)),
			cs_str("message", status->message));
		cs_check_fail(r->check, status->reason, "identityd did not take a report: %s %s",
			cs_grpc_code_name(status->code), status->message);
	}
	if (r->marks)
		cs_timer_start(&r->timer, status->code == CS_GRPC_OK ? 0 : CS_REPORT_RETRY_MS, 0);
}

struct report {
	Countersign__V1__Report report;
	Countersign__V1__Condition condition;
};

static void fill(struct report *out, const Countersign__V1__Svid *svid)
{
	out->report = (Countersign__V1__Report)COUNTERSIGN__V1__REPORT__INIT;
	out->condition = (Countersign__V1__Condition)COUNTERSIGN__V1__CONDITION__INIT;
	out->report.identity = svid->identity;
	out->report.condition = &out->condition;
	out->condition.step = COUNTERSIGN__V1__STEP__STEP_SVID_READY;
	out->condition.met = svid->generation != 0;
	out->condition.reason = svid->reason;
	out->condition.since_unix_ms = svid->since_unix_ms;
}

static void report(struct cs_timer *timer)
{
	struct cs_reporter *r = timer->data;
	struct report reports[CS_REPORT_ITEMS];
	Countersign__V1__Report *list[CS_REPORT_ITEMS];
	Countersign__V1__ReportRequest request = COUNTERSIGN__V1__REPORT_REQUEST__INIT;
	struct mark *m, *next;
	struct cs_error e;
	if (r->calling)
		return;
	HASH_ITER (hh, r->marks, m, next) {
		const Countersign__V1__Svid *svid = cs_svids_get(r->svids, m->identity);
		if (!svid) { /* not local any more: nobody asks */
			unmark(r, m);
			continue;
		}
		if (request.n_reports == CS_REPORT_ITEMS)
			break;
		fill(&reports[request.n_reports], svid);
		list[request.n_reports] = &reports[request.n_reports].report;
		request.n_reports++;
		m->sent = true;
	}
	if (request.n_reports == 0)
		return;
	request.reports = list;
	const struct cs_grpc_call_options options = {.timeout_ms = CS_REPORT_TIMEOUT_MS, .wait = true};
	if (cs_grpc_unary(r->channel, &countersign__v1__endpoints__descriptor, "Report", &request.base, &options,
		    on_reply, r, NULL, &e) < 0) {
		cs_warn("SVIDs could not be reported", cs_err(&e));
		cs_check_error(r->check, &e);
		cs_timer_start(&r->timer, CS_REPORT_RETRY_MS, 0);
		return;
	}
	r->calling = true;
}

void cs_reporter_mark(struct cs_reporter *r, uint32_t identity)
{
	struct mark *m;
	if (r->closing)
		return;
	HASH_FIND(hh, r->marks, &identity, sizeof(identity), m);
	if (!m) {
		m = calloc(1, sizeof(*m));
		if (!m)
			return;
		m->identity = identity;
		HASH_ADD(hh, r->marks, identity, sizeof(m->identity), m);
	}
	m->sent = false;
	if (!cs_timer_active(&r->timer))
		cs_timer_start(&r->timer, 0, 0);
}

void cs_reporter_mark_all(struct cs_reporter *r)
{
	struct cs_svids_item item;
	for (uint64_t at = 0; cs_svids_next(r->svids, at, &item); at = item.change)
		if (item.svid && item.svid->identity != CS_ID_HOST && cs_svids_get(r->svids, item.svid->identity))
			cs_reporter_mark(r, item.svid->identity);
}

int cs_reporter_new(struct cs_loop *loop, const char *socket, struct cs_svids *svids, struct cs_check *check,
	struct cs_reporter **ret, struct cs_error *e)
{
	char target[CS_PATH + 8];
	struct cs_reporter *r = calloc(1, sizeof(*r));
	if (!r)
		return cs_error_set(e, -ENOMEM, "out of memory");
	snprintf(target, sizeof(target), "unix:%s", socket);
	*r = (struct cs_reporter){.loop = loop, .svids = svids, .check = check};
	const struct cs_grpc_channel_options options = {.target = target};
	int code = cs_grpc_channel_new(loop, &options, &r->channel, e);
	if (code < 0) {
		free(r);
		return code;
	}
	cs_timer_init(&r->timer, loop, report, r);
	*ret = r;
	return 0;
}

void cs_reporter_close(struct cs_reporter *r)
{
	if (!r || r->closing)
		return;
	r->closing = true;
	cs_timer_close(&r->timer, NULL);
	cs_grpc_channel_close(r->channel, NULL, NULL);
}

void cs_reporter_free(struct cs_reporter *r)
{
	struct mark *m, *next;
	if (!r)
		return;
	HASH_ITER (hh, r->marks, m, next)
		unmark(r, m);
	free(r);
}
