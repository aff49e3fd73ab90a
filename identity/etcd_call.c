/* One question to etcd and its answer: where to ask, when to ask again, and what is known when nobody answers. */
#include "etcd_private.h"

#include <errno.h>
#include <utlist.h>
#include "grpc_wire.h"
#include "mem.h"

static void on_timer(struct cs_timer *timer);

static int64_t now(const struct etcd_call *call)
{
	return cs_loop_mono_ms(call->etcd->loop);
}

/* ---- what etcd's words mean ---- */

bool cs_etcd_token_refused(const char *text)
{
	return strstr(text, "invalid auth token") || strstr(text, "revision of auth store is old") ||
	       strstr(text, "user name is empty");
}

struct etcd_verdict cs_etcd_judge(const struct cs_grpc_status *status)
{
	/* Too large a request is refused unread, in two places; too large an answer is noticed on this side, afterwards. */
	bool unread = strncmp(status->message, "etcdserver: ", 12) == 0 ||
		      strncmp(status->message, "grpc: received message larger", 29) == 0;
	if (cs_etcd_token_refused(status->message))
		return (struct etcd_verdict){.code = -EACCES, .sure = true, .token = true};
	switch (status->code) {
	case CS_GRPC_UNAUTHENTICATED:
		return (struct etcd_verdict){.code = -EACCES, .sure = true, .token = true};
	case CS_GRPC_PERMISSION_DENIED:
		return (struct etcd_verdict){.code = -EACCES, .sure = true};
	case CS_GRPC_OUT_OF_RANGE:
		return (struct etcd_verdict){
			.code = strstr(status->message, "compacted") ? -ESTALE : -EPROTO, .sure = true};
	case CS_GRPC_NOT_FOUND:
		return (struct etcd_verdict){.code = -ENOENT, .sure = true};
	case CS_GRPC_INVALID_ARGUMENT:
		if (strstr(status->message, "too large") || strstr(status->message, "too many operations"))
			return (struct etcd_verdict){.code = -EMSGSIZE, .sure = true};
		return (struct etcd_verdict){
			.code = strstr(status->message, "authentication failed") ? -EACCES : -EPROTO, .sure = true};
	case CS_GRPC_FAILED_PRECONDITION:
		return (struct etcd_verdict){
			.code = strstr(status->message, "authentication is not enabled") ? -EACCES : -EPROTO,
			.sure = true};
	case CS_GRPC_UNIMPLEMENTED:
		return (struct etcd_verdict){.code = -EPROTO, .sure = true};
	case CS_GRPC_RESOURCE_EXHAUSTED:
		if (strstr(status->message, "space exceeded"))
			return (struct etcd_verdict){.code = -ENOSPC, .sure = true};
		if (strstr(status->message, "too many requests"))
			return (struct etcd_verdict){.code = -ETIMEDOUT, .sure = true, .later = true};
		return (struct etcd_verdict){.code = -EMSGSIZE, .sure = unread};
	case CS_GRPC_DEADLINE_EXCEEDED:
		return (struct etcd_verdict){.code = -ETIMEDOUT, .elsewhere = true};
	default:
		return (struct etcd_verdict){.code = status->untouched ? -EHOSTUNREACH : -ETIMEDOUT, .elsewhere = true};
	}
}

/* ---- the end of a call ---- */

static void on_timer_closed(struct cs_timer *timer)
{
	struct etcd_call *call = timer->data;
	struct cs_etcd *etcd = call->etcd;
	free(call);
	cs_etcd_handle_closed(etcd);
}

static void finish(struct etcd_call *call, const struct cs_etcd_result *result, const ProtobufCMessage *reply)
{
	call->state = CALL_OVER;
	DL_DELETE(call->etcd->calls, call);
	call->etcd->ncalls--;
	call->finish(call, result, reply);
	cs_grpc_unpack_free(call->request);
	cs_timer_close(&call->timer, on_timer_closed);
}

static void fail(struct etcd_call *call, enum cs_etcd_outcome outcome)
{
	struct cs_etcd_result result = {.outcome = outcome, .error = call->why};
	finish(call, &result, NULL);
}

static void wait_for_ms(struct etcd_call *call, int64_t ms)
{
	int64_t left_ms = call->deadline_ms - now(call);
	call->state = CALL_WAITS;
	cs_timer_start(&call->timer, ms < left_ms ? ms : left_ms, 0);
}

static const Etcdserverpb__ResponseHeader *header_of(const ProtobufCMessage *reply)
{
	/* Every answer of etcd's has its header as the first field. */
	const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(reply->descriptor, 1);
	if (!field || field->descriptor != &etcdserverpb__response_header__descriptor)
		return NULL;
	return *(Etcdserverpb__ResponseHeader *const *)((const char *)reply + field->offset);
}

static void retry_with_token(struct etcd_call *call)
{
	cs_etcd_token_drop(call->etcd, call->token_number);
	call->token_tries++;
	wait_for_ms(call, 0);
}

static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	struct etcd_call *call = data;
	struct cs_etcd *etcd = call->etcd;
	call->running = NULL;
	if (status->code == CS_GRPC_OK) {
		const Etcdserverpb__ResponseHeader *header = header_of(reply);
		struct cs_etcd_result result = {.outcome = CS_ETCD_DONE,
			.revision = header ? header->revision : 0,
			.cluster_id = header ? header->cluster_id : 0};
		finish(call, &result, reply);
		return;
	}
	struct etcd_verdict verdict = cs_etcd_judge(status);
	bool sure = verdict.sure || status->untouched || call->reads;
	if (etcd->closing) {
		cs_error_set(&call->why, -ESHUTDOWN, "the client of etcd was closed");
		fail(call, sure ? CS_ETCD_NOT_DONE : CS_ETCD_PERHAPS);
		return;
	}
	cs_error_set(&call->why, verdict.code, "etcd at %s: %s: %s", etcd->endpoints[call->endpoint].url,
		cs_grpc_code_name(status->code), status->message);
	if (verdict.elsewhere)
		cs_etcd_turn(etcd, call->endpoint);
	if (verdict.token && etcd->user && call->token_tries < 2)
		retry_with_token(call);
	else if (sure && (verdict.elsewhere || verdict.later))
		wait_for_ms(call, cs_etcd_backoff_ms(etcd,
					  verdict.later ? 1 + call->tries + (unsigned)etcd->nendpoints : call->tries));
	else
		fail(call, sure ? CS_ETCD_NOT_DONE : CS_ETCD_PERHAPS);
}

/* ---- a try ---- */

static void run(struct etcd_call *call)
{
	struct cs_etcd *etcd = call->etcd;
	struct cs_grpc_field fields[CS_GRPC_FIELDS_MAX];
	int64_t left_ms = call->deadline_ms - now(call);
	struct cs_grpc_call_options options = {.timeout_ms = left_ms, .fields = fields};
	if (call->reads && left_ms > CS_ETCD_ATTEMPT_MS && etcd->nendpoints > 1)
		options.timeout_ms = CS_ETCD_ATTEMPT_MS;
	options.nfields = cs_etcd_fields(etcd, !call->without_token, fields);
	call->tries++;
	call->token_number = etcd->token_number;
	call->endpoint = etcd->current;
	call->state = CALL_RUNS;
	if (cs_grpc_unary(etcd->endpoints[call->endpoint].channel, call->service, call->method, call->request, &options,
		    on_reply, call, &call->running, &call->why) < 0)
		fail(call, CS_ETCD_NOT_DONE);
}

static void on_timer(struct cs_timer *timer)
{
	struct etcd_call *call = timer->data;
	if (call->etcd->closing) {
		cs_error_set(&call->why, -ESHUTDOWN, "the client of etcd was closed");
		fail(call, CS_ETCD_NOT_DONE);
		return;
	}
	if (now(call) >= call->deadline_ms) {
		if (call->why.code == 0)
			cs_error_set(
				&call->why, -ETIMEDOUT, "etcd at %s: no answer in time", cs_etcd_endpoint(call->etcd));
		fail(call, CS_ETCD_NOT_DONE);
		return;
	}
	if (!call->without_token && !cs_etcd_token_ready(call->etcd)) {
		wait_for_ms(call, INT64_MAX);
		call->state = CALL_WAITS_FOR_TOKEN;
		return;
	}
	run(call);
}

void cs_etcd_calls_have_token(struct cs_etcd *etcd, const struct cs_error *why)
{
	struct etcd_call *call, *next;
	DL_FOREACH_SAFE (etcd->calls, call, next) {
		if (call->state != CALL_WAITS_FOR_TOKEN)
			continue;
		if (why)
			call->why = *why;
		if (why && (why->code == -EACCES || why->code == -EPROTO))
			fail(call, CS_ETCD_NOT_DONE);
		else
			wait_for_ms(call, why ? cs_etcd_backoff_ms(etcd, call->tries++) : 0);
	}
}

/* ---- a new one ---- */

static ProtobufCMessage *copy_of(const ProtobufCMessage *message)
{
	size_t n = protobuf_c_message_get_packed_size(message);
	uint8_t *packed = cs_xcalloc(1, n);
	ProtobufCMessage *copy = NULL;
	protobuf_c_message_pack(message, packed);
	if (cs_grpc_unpack(message->descriptor, packed, n, CS_ETCD_UNPACK_MAX, &copy) < 0)
		copy = NULL;
	free(packed);
	return copy;
}

int cs_etcd_call_new(struct cs_etcd *etcd, const struct etcd_call_spec *spec, struct cs_error *e)
{
	if (etcd->closing)
		return cs_error_set(e, -ESHUTDOWN, "the client of etcd was closed");
	if (etcd->ncalls >= CS_ETCD_CALLS_MAX)
		return cs_error_reason(
			e, -ENOBUFS, CS_R_TOO_MANY, "%d calls to etcd wait, as many as may be", CS_ETCD_CALLS_MAX);
	ProtobufCMessage *request = copy_of(spec->request);
	if (!request)
		return cs_error_set(e, -EMSGSIZE, "a request to etcd of %zu bytes is too large",
			protobuf_c_message_get_packed_size(spec->request));
	struct etcd_call *call = cs_xcalloc(1, sizeof(*call));
	call->etcd = etcd;
	call->service = spec->service;
	call->method = spec->method;
	call->request = request;
	call->reads = spec->reads;
	call->without_token = spec->without_token;
	call->finish = spec->finish;
	call->done = spec->done;
	call->data = spec->data;
	call->deadline_ms = now(call) + spec->timeout_ms;
	cs_timer_init(&call->timer, etcd->loop, on_timer, call);
	etcd->handles++;
	DL_APPEND(etcd->calls, call);
	etcd->ncalls++;
	wait_for_ms(call, 0); /* nothing is called back before this returns */
	return 0;
}

void cs_etcd_calls_shut_down(struct cs_etcd *etcd)
{
	struct etcd_call *call;
	DL_FOREACH (etcd->calls, call) {
		if (call->state != CALL_RUNS)
			wait_for_ms(call, 0);
		else
			cs_grpc_client_cancel(call->running);
	}
}
