/* A stream that is always there: one that breaks or falls silent is replaced by one at another endpoint. */
#include "etcd_private.h"

#include <errno.h>
#include <utlist.h>
#include "mem.h"

/* One gRPC call under a stream. It outlives the stream until its last callback. */
struct etcd_leg {
	struct etcd_stream *stream; /* NULL: nobody listens any more */
	struct cs_grpc_client_call *call;
};

static int64_t now(const struct etcd_stream *s)
{
	return cs_loop_mono_ms(s->etcd->loop);
}

static void drop_leg(struct etcd_stream *s)
{
	if (!s->leg)
		return;
	s->leg->stream = NULL;
	cs_grpc_client_cancel(s->leg->call);
	s->leg = NULL;
}

static void open_later(struct etcd_stream *s)
{
	cs_timer_start(&s->timer, cs_etcd_backoff_ms(s->etcd, s->tries), 0);
	s->tries++;
}

static void watch_silence(struct etcd_stream *s)
{
	int64_t probe_ms = s->probed_ms + s->probe_every_ms, silent_ms = s->heard_ms + s->silent_max_ms;
	int64_t left_ms = (probe_ms < silent_ms ? probe_ms : silent_ms) - now(s);
	cs_timer_start(&s->timer, left_ms > 0 ? left_ms : 0, 0);
}

void cs_etcd_stream_replace(struct etcd_stream *s)
{
	drop_leg(s);
	cs_etcd_turn(s->etcd, s->endpoint);
	open_later(s);
}

bool cs_etcd_stream_new_token(struct etcd_stream *s)
{
	if (!s->etcd->user || s->token_tries >= 2)
		return false;
	s->token_tries++;
	cs_etcd_token_drop(s->etcd, s->token_number);
	drop_leg(s);
	cs_timer_start(&s->timer, 0, 0);
	return true;
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)call;
	struct etcd_leg *leg = data;
	struct etcd_stream *s = leg->stream;
	if (!s)
		return;
	s->heard_ms = now(s);
	s->ops->message(s, message);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct etcd_leg *leg = data;
	struct etcd_stream *s = leg->stream;
	free(leg);
	if (!s)
		return;
	s->leg = NULL;
	struct etcd_verdict verdict = cs_etcd_judge(status);
	struct cs_error e;
	if (verdict.token && cs_etcd_stream_new_token(s))
		return;
	if (status->code == CS_GRPC_OK || verdict.elsewhere || verdict.later) {
		cs_etcd_stream_replace(s);
		return;
	}
	cs_error_set(&e, verdict.code, "etcd at %s: %s: %s", s->etcd->endpoints[s->endpoint].url,
		cs_grpc_code_name(status->code), status->message);
	cs_timer_stop(&s->timer);
	s->ops->refused(s, &e);
}

static void open_now(struct etcd_stream *s)
{
	static const struct cs_grpc_stream_events events = {.on_message = on_message, .on_done = on_done};
	struct cs_etcd *etcd = s->etcd;
	struct cs_grpc_field fields[CS_GRPC_FIELDS_MAX];
	struct cs_grpc_call_options options = {.fields = fields};
	struct cs_error e;
	if (!cs_etcd_token_ready(etcd)) {
		open_later(s);
		return;
	}
	struct etcd_leg *leg = cs_xcalloc(1, sizeof(*leg));
	options.nfields = cs_etcd_fields(etcd, true, fields);
	s->endpoint = etcd->current;
	s->token_number = etcd->token_number;
	if (cs_grpc_open(etcd->endpoints[s->endpoint].channel, s->ops->service, s->ops->method, &options, &events, leg,
		    &leg->call, &e) < 0) {
		free(leg);
		open_later(s);
		return;
	}
	leg->stream = s;
	s->leg = leg;
	s->heard_ms = s->probed_ms = now(s);
	s->ops->opened(s);
	if (s->leg)
		watch_silence(s);
}

static void on_timer(struct cs_timer *timer)
{
	struct etcd_stream *s = timer->data;
	if (!s->leg) {
		open_now(s);
		return;
	}
	if (now(s) - s->heard_ms >= s->silent_max_ms) {
		cs_etcd_stream_replace(s);
		return;
	}
	if (now(s) - s->probed_ms >= s->probe_every_ms) {
		s->probed_ms = now(s);
		s->ops->probe(s);
	}
	if (s->leg)
		watch_silence(s);
}

void cs_etcd_stream_works(struct etcd_stream *s)
{
	s->tries = s->token_tries = 0;
}

void cs_etcd_stream_send(struct etcd_stream *s, const ProtobufCMessage *message)
{
	/* What is sent is small and seldom: a queue that is full is a stream that does not move. */
	if (s->leg && cs_grpc_client_send(s->leg->call, message) < 0)
		cs_etcd_stream_replace(s);
}

int cs_etcd_stream_init(struct etcd_stream *s, struct cs_etcd *etcd, const struct etcd_stream_ops *ops,
	int64_t probe_every_ms, int64_t silent_max_ms, struct cs_error *e)
{
	if (etcd->closing)
		return cs_error_set(e, -ESHUTDOWN, "the client of etcd was closed");
	s->etcd = etcd;
	s->ops = ops;
	s->probe_every_ms = probe_every_ms;
	s->silent_max_ms = silent_max_ms;
	cs_timer_init(&s->timer, etcd->loop, on_timer, s);
	etcd->handles++;
	DL_APPEND(etcd->streams, s);
	cs_timer_start(&s->timer, 0, 0);
	return 0;
}

static void on_timer_closed(struct cs_timer *timer)
{
	struct etcd_stream *s = timer->data;
	struct cs_etcd *etcd = s->etcd;
	s->ops->gone(s);
	cs_etcd_handle_closed(etcd);
}

void cs_etcd_stream_close(struct etcd_stream *s)
{
	if (s->over)
		return;
	s->over = true;
	drop_leg(s);
	DL_DELETE(s->etcd->streams, s);
	cs_timer_close(&s->timer, on_timer_closed);
}
