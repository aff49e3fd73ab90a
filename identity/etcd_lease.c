/* Leases: got, given back, kept alive. */
#include "etcd_private.h"

#include <errno.h>
#include "mem.h"

static void finish_grant(struct etcd_call *call, const struct cs_etcd_result *result, const ProtobufCMessage *reply)
{
	cs_etcd_on_grant *done = (cs_etcd_on_grant *)call->done;
	const Etcdserverpb__LeaseGrantResponse *grant = (const Etcdserverpb__LeaseGrantResponse *)reply;
	if (!grant) {
		done(result, 0, 0, call->data);
		return;
	}
	if (!*grant->error) {
		done(result, grant->id, grant->ttl, call->data);
		return;
	}
	struct cs_etcd_result refused = {.outcome = CS_ETCD_NOT_DONE};
	cs_error_set(&refused.error, -EPROTO, "etcd grants no lease: %s", grant->error);
	done(&refused, 0, 0, call->data);
}

int cs_etcd_grant(
	struct cs_etcd *etcd, int64_t ttl_s, int64_t timeout_ms, cs_etcd_on_grant *done, void *data, struct cs_error *e)
{
	Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
	request.ttl = ttl_s;
	const struct etcd_call_spec spec = {.service = &etcdserverpb__lease__descriptor,
		.method = "LeaseGrant",
		.request = &request.base,
		.timeout_ms = timeout_ms,
		.finish = finish_grant,
		.done = (void (*)(void))done,
		.data = data};
	return cs_etcd_call_new(etcd, &spec, e);
}

static void finish_revoke(struct etcd_call *call, const struct cs_etcd_result *result, const ProtobufCMessage *reply)
{
	(void)reply;
	cs_etcd_on_revoke *done = (cs_etcd_on_revoke *)call->done;
	if (done)
		done(result, call->data);
}

int cs_etcd_revoke(struct cs_etcd *etcd, int64_t lease, int64_t timeout_ms, cs_etcd_on_revoke *done, void *data,
	struct cs_error *e)
{
	Etcdserverpb__LeaseRevokeRequest request = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
	request.id = lease;
	const struct etcd_call_spec spec = {.service = &etcdserverpb__lease__descriptor,
		.method = "LeaseRevoke",
		.request = &request.base,
		.reads = true, /* revoking twice is revoking */
		.timeout_ms = timeout_ms,
		.finish = finish_revoke,
		.done = (void (*)(void))done,
		.data = data};
	return cs_etcd_call_new(etcd, &spec, e);
}

/* ---- keeping one ---- */

struct cs_etcd_keep {
	struct etcd_stream stream;
	int64_t lease;
	int64_t asked_ms; /* the question that is not answered yet; 0: none */
	struct cs_etcd_keep_events events;
	void *data;
};

static void ask(struct etcd_stream *s)
{
	struct cs_etcd_keep *keep = (struct cs_etcd_keep *)s;
	if (keep->asked_ms)
		return; /* an answer must be that of one question, or its time would be unknown */
	Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
	request.id = keep->lease;
	keep->asked_ms = cs_loop_mono_ms(s->etcd->loop);
	cs_etcd_stream_send(s, &request.base);
}

static void keep_opened(struct etcd_stream *s)
{
	((struct cs_etcd_keep *)s)->asked_ms = 0;
	ask(s);
}

static void keep_over(struct cs_etcd_keep *keep)
{
	void (*lost)(void *) = keep->events.lost;
	void *data = keep->data;
	cs_etcd_stream_close(&keep->stream);
	lost(data);
}

static void keep_message(struct etcd_stream *s, const ProtobufCMessage *message)
{
	struct cs_etcd_keep *keep = (struct cs_etcd_keep *)s;
	const Etcdserverpb__LeaseKeepAliveResponse *answer = (const Etcdserverpb__LeaseKeepAliveResponse *)message;
	if (answer->id != keep->lease || !keep->asked_ms)
		return;
	int64_t asked_ms = keep->asked_ms;
	keep->asked_ms = 0;
	if (answer->ttl <= 0)
		keep_over(keep);
	else {
		cs_etcd_stream_works(s);
		keep->events.alive(asked_ms + answer->ttl * 1000, keep->data);
	}
}

static void keep_refused(struct etcd_stream *s, const struct cs_error *why)
{
	(void)why;
	keep_over((struct cs_etcd_keep *)s);
}

static void keep_gone(struct etcd_stream *s)
{
	free(s);
}

int cs_etcd_keep(struct cs_etcd *etcd, int64_t lease, int64_t ttl_s, const struct cs_etcd_keep_events *events,
	void *data, struct cs_etcd_keep **ret, struct cs_error *e)
{
	static const struct etcd_stream_ops ops = {.service = &etcdserverpb__lease__descriptor,
		.method = "LeaseKeepAlive",
		.opened = keep_opened,
		.message = keep_message,
		.probe = ask,
		.refused = keep_refused,
		.gone = keep_gone};
	int64_t ttl_ms = ttl_s * 1000, silent_ms = ttl_ms / 2;
	struct cs_etcd_keep *keep = cs_xcalloc(1, sizeof(*keep));
	keep->lease = lease;
	keep->events = *events;
	keep->data = data;
	int r = cs_etcd_stream_init(&keep->stream, etcd, &ops, ttl_ms / 3,
		silent_ms < CS_ETCD_SILENT_MS ? silent_ms : CS_ETCD_SILENT_MS, e);
	if (r < 0)
		free(keep);
	else
		*ret = keep;
	return r;
}

void cs_etcd_keep_free(struct cs_etcd_keep *keep)
{
	if (keep)
		cs_etcd_stream_close(&keep->stream);
}
