#include "spire_workload.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "instance.h"
#include "spire_key.h"
#include "workload.pb-c.h"

struct cs_spire_workload {
	struct cs_loop *loop;
	struct cs_spire_workload_events events;
	struct cs_grpc_channel *channel;
	struct cs_grpc_client_call *call;
	struct cs_timer timer; /* a call is due, or its first message is overdue */
	uint64_t connection;   /* of the call */
	int64_t wait_ms;       /* before the next call */
	int64_t watchdog_ms;
	bool in_trouble, closing;
	bool again; /* asked for by what reads the message */
	bool over;  /* the call was cancelled here, for another one */
};

static void trouble(struct cs_spire_workload *w, const struct cs_error *why)
{
	if (!w->in_trouble)
		w->events.trouble(w->events.data, why);
	w->in_trouble = true;
}

static int read_own(const X509SVID *in, struct cs_spire_own *own, struct cs_error *e)
{
	int r;
	*own = (struct cs_spire_own){0};
	if ((r = cs_spire_split((struct cs_der){in->x509_svid.data, in->x509_svid.len}, own->chain.cert, CS_CHAIN_MAX,
		     &own->chain.n, e)) < 0 ||
		(r = cs_spire_chain_read(&own->chain, e)) < 0 ||
		(r = cs_spire_key_read((struct cs_der){in->x509_svid_key.data, in->x509_svid_key.len}, own->chain.spki,
			 &own->key, e)) < 0)
		return r;
	if (strcmp(own->chain.id.text, in->spiffe_id) != 0)
		r = cs_error_reason(
			e, -EINVAL, CS_R_SPIFFE_ID_MISMATCH, "the certificate is %.300s's", own->chain.id.text);
	if (r == 0)
		r = cs_spire_split((struct cs_der){in->bundle.data, in->bundle.len}, own->bundle, CS_SPIRE_OWN_BUNDLE,
			&own->nbundle, e);
	if (r == 0 && own->nbundle == 0)
		r = cs_error_reason(e, -EINVAL, CS_R_NO_BUNDLE, "its trust domain has no authority");
	if (r < 0)
		EVP_PKEY_free(own->key);
	return r;
}

static void later(struct cs_spire_workload *w)
{
	w->wait_ms += CS_SPIRE_OWN_RETRY_MS;
	if (w->wait_ms > CS_SPIRE_OWN_SLOWEST_MS)
		w->wait_ms = CS_SPIRE_OWN_SLOWEST_MS;
	cs_timer_start(&w->timer, w->wait_ms, 0);
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_spire_workload *w = data;
	const X509SVIDResponse *in = (const X509SVIDResponse *)message;
	struct cs_error e;
	(void)call;
	if (w->closing)
		return;
	w->in_trouble = false;
	w->again = false;
	cs_timer_stop(&w->timer);
	w->events.begin(w->events.data);
	for (size_t i = 0; i < in->n_svids; i++) {
		X509SVID *svid = in->svids[i];
		struct cs_spire_own own;
		int r = i < CS_SPIRE_OWN_MAX
				? read_own(svid, &own, &e)
				: cs_error_reason(&e, -E2BIG, CS_R_TOO_MANY,
					  "more than %d SVIDs are issued to this process", CS_SPIRE_OWN_MAX);
		OPENSSL_cleanse(svid->x509_svid_key.data, svid->x509_svid_key.len);
		if (r < 0) {
			w->events.bad(w->events.data, svid->spiffe_id, &e);
			continue;
		}
		w->events.svid(w->events.data, &own);
		EVP_PKEY_free(own.key);
	}
	w->events.end(w->events.data);
	if (w->again)
		later(w);
	else
		w->wait_ms = 0;
}

void cs_spire_workload_again(struct cs_spire_workload *w)
{
	w->again = true;
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct cs_spire_workload *w = data;
	struct cs_error e;
	w->call = NULL;
	if (w->closing)
		return;
	cs_timer_stop(&w->timer);
	if (w->over) {
		w->over = false;
		later(w);
		return;
	}
	bool ready = cs_grpc_channel_state(w->channel) == CS_GRPC_READY;
	if (!ready || cs_grpc_channel_connection(w->channel) != w->connection) { /* lost with its connection */
		if (ready)
			cs_timer_start(&w->timer, 0, 0);
		return;
	}
	if (status->code == CS_GRPC_PERMISSION_DENIED) { /* an answer: there is nothing for us */
		w->in_trouble = false;
		w->events.begin(w->events.data);
		w->events.end(w->events.data);
	} else {
		cs_error_set(&e, -EIO, "SPIRE's agent (Workload API): %s %.400s", cs_grpc_code_name(status->code),
			status->message);
		trouble(w, &e);
	}
	later(w);
}

static void fetch(struct cs_spire_workload *w)
{
	X509SVIDRequest request = X509_SVIDREQUEST__INIT;
	/* SPIFFE_Workload_Endpoint.md 5: every call has it. */
	static const struct cs_grpc_field field = {"workload.spiffe.io", "true"};
	const struct cs_grpc_call_options options = {.fields = &field, .nfields = 1};
	struct cs_error e;
	if (w->call || cs_timer_active(&w->timer))
		return;
	w->connection = cs_grpc_channel_connection(w->channel);
	if (cs_grpc_stream(w->channel, &spiffe_workload_api__descriptor, "FetchX509SVID", &request.base, &options,
		    on_message, on_done, w, &w->call, &e) < 0) {
		trouble(w, &e);
		cs_timer_start(&w->timer, CS_SPIRE_OWN_SLOWEST_MS, 0);
	} else {
		cs_timer_start(&w->timer, w->watchdog_ms, 0);
	}
}

/* There is no call yet; or it is silent, and then the connection has no other one; or it is to be asked again. */
static void on_timer(struct cs_timer *timer)
{
	struct cs_spire_workload *w = timer->data;
	struct cs_error e;
	if (!w->call) {
		if (cs_grpc_channel_state(w->channel) == CS_GRPC_READY)
			fetch(w);
		return;
	}
	if (!w->again) {
		cs_error_set(&e, -ETIMEDOUT,
			"SPIRE's agent (Workload API) has said nothing for %lld s; it is asked again",
			(long long)w->watchdog_ms / 1000);
		trouble(w, &e);
	}
	if (!w->again)
		cs_grpc_channel_reset(w->channel);
	w->again = false;
	w->over = true;
	cs_grpc_client_cancel(w->call);
}

static void on_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct cs_spire_workload *w = data;
	(void)channel;
	if (w->closing)
		return;
	if (state == CS_GRPC_READY)
		fetch(w);
	else if (state == CS_GRPC_BACKOFF)
		trouble(w, error);
}

int cs_spire_workload_new(struct cs_loop *loop, const char *socket, int64_t watchdog_ms,
	const struct cs_spire_workload_events *events, struct cs_spire_workload **ret, struct cs_error *e)
{
	char target[CS_PATH + 8];
	struct cs_spire_workload *w = calloc(1, sizeof(*w));
	if (!w)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*w = (struct cs_spire_workload){.loop = loop, .events = *events, .watchdog_ms = watchdog_ms};
	snprintf(target, sizeof(target), "unix:%s", socket);
	const struct cs_grpc_channel_options options = {
		.target = target, .keep = true, .on_state = on_state, .data = w};
	int r = cs_grpc_channel_new(loop, &options, &w->channel, e);
	if (r < 0) {
		free(w);
		return r;
	}
	cs_timer_init(&w->timer, loop, on_timer, w);
	*ret = w;
	return 0;
}

uint64_t cs_spire_workload_connections(const struct cs_spire_workload *w)
{
	return cs_grpc_channel_connection(w->channel);
}

void cs_spire_workload_close(struct cs_spire_workload *w)
{
	if (!w || w->closing)
		return;
	w->closing = true;
	cs_timer_close(&w->timer, NULL);
	cs_grpc_channel_close(w->channel, NULL, NULL);
}

void cs_spire_workload_free(struct cs_spire_workload *w)
{
	free(w);
}
