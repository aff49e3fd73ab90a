#include "spire_bundles.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include "delegated_identity.pb-c.h"
#include "log.h"
#include "spire_svid.h"

#define SOON_MS 100 /* several identities change federation in one sync */

typedef Spire__Api__Agent__Delegatedidentity__V1__SubscribeToX509BundlesResponse response;

struct domain {
	char *name;
	uint8_t sha256[SHA256_DIGEST_LENGTH]; /* of what was said */
	bool said;
	bool named; /* by the message that is being read */
	UT_hash_handle hh;
};

/* A call. The newest one is `next` until its first message, and then `current`. */
struct stream {
	struct cs_spire_bundles *bundles; /* NULL: nobody listens any more */
	struct cs_grpc_client_call *call;
	uint64_t connection;
};

struct cs_spire_bundles {
	struct cs_loop *loop;
	struct cs_grpc_channel *channel;
	struct cs_spire_bundles_events events;
	char own[CS_TRUST_DOMAIN_MAX + 1];
	struct cs_spire_bundles_times times;
	int64_t wait_ms, repeated_mono_ms;
	struct stream *current, *next;
	struct domain *domains;
	struct cs_timer timer; /* a call is due */
	bool soon, closing;
};

static void domain_free(struct cs_spire_bundles *b, struct domain *d)
{
	HASH_DEL(b->domains, d);
	free(d->name);
	free(d);
}

static struct domain *get(struct cs_spire_bundles *b, const char *name, struct cs_error *e)
{
	struct domain *d;
	HASH_FIND_STR(b->domains, name, d);
	if (d)
		return d;
	if (HASH_COUNT(b->domains) >= CS_SPIRE_BUNDLES_MAX) {
		cs_error_reason(e, -ENOSPC, CS_R_TOO_MANY, "SPIRE has bundles of more than %d trust domains",
			CS_SPIRE_BUNDLES_MAX);
		return NULL;
	}
	d = calloc(1, sizeof(*d));
	if (!d || !(d->name = strdup(name))) {
		free(d);
		cs_error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	HASH_ADD_KEYPTR(hh, b->domains, d->name, strlen(d->name), d);
	return d;
}

/* True: it is another than before. What cannot be read is said to be no bundle at all: the old one may be what was taken
 * away. */
static bool take(struct cs_spire_bundles *b, const char *key, struct cs_der blob, struct cs_error *e)
{
	struct cs_der certs[CS_SPIRE_AUTHORITIES];
	uint8_t sha256[SHA256_DIGEST_LENGTH];
	size_t n = 0;
	e->code = 0;
	const char *name = cs_spire_trust_domain(key);
	if (!name) {
		cs_error_set(e, -EINVAL, "'%.300s' is no trust domain", key);
		return false;
	}
	struct domain *d = get(b, name, e);
	if (!d)
		return false;
	d->named = true;
	SHA256(blob.data, blob.len, sha256);
	if (d->said && memcmp(sha256, d->sha256, sizeof(sha256)) == 0)
		return false;
	memcpy(d->sha256, sha256, sizeof(sha256));
	d->said = true;
	if (cs_spire_split(blob, certs, CS_SPIRE_AUTHORITIES, &n, e) < 0)
		n = 0;
	b->events.bundle(b->events.data, d->name, certs, n);
	return true;
}

/* Trust domains that the first message of a stream does not name are gone. */
static void forget_unnamed(struct cs_spire_bundles *b)
{
	struct domain *d, *next;
	HASH_ITER (hh, b->domains, d, next) {
		if (d->named)
			continue;
		b->events.bundle(b->events.data, d->name, NULL, 0);
		domain_free(b, d);
	}
}

static void say_own_again(struct cs_spire_bundles *b, const response *in)
{
	struct cs_der certs[CS_SPIRE_AUTHORITIES];
	struct cs_error e;
	size_t n;
	int64_t now_mono_ms = cs_loop_mono_ms(b->loop);
	if (now_mono_ms - b->repeated_mono_ms < CS_SPIRE_REPEAT_MS)
		return;
	b->repeated_mono_ms = now_mono_ms;
	for (size_t i = 0; i < in->n_ca_certificates; i++) {
		const ProtobufCBinaryData *blob = &in->ca_certificates[i]->authorities;
		const char *name = cs_spire_trust_domain(in->ca_certificates[i]->trust_domain);
		if (name && strcmp(name, b->own) == 0 &&
			cs_spire_split((struct cs_der){blob->data, blob->len}, certs, CS_SPIRE_AUTHORITIES, &n, &e) ==
				0)
			b->events.bundle(b->events.data, b->own, certs, n);
	}
}

static void let_go(struct stream *stream)
{
	if (!stream)
		return;
	stream->bundles = NULL;
	cs_grpc_client_cancel(stream->call);
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct stream *stream = data;
	struct cs_spire_bundles *b = stream->bundles;
	const response *in = (const response *)message;
	struct cs_error e;
	struct domain *d, *next;
	bool changed = false;
	(void)call;
	if (!b)
		return;
	bool first = stream == b->next;
	if (first) {
		let_go(b->current);
		b->current = stream;
		b->next = NULL;
		b->wait_ms = 0;
		cs_timer_start(&b->timer, b->times.reopen_ms, 0);
	}
	b->events.answered(b->events.data);
	HASH_ITER (hh, b->domains, d, next)
		d->named = false;
	for (size_t i = 0; i < in->n_ca_certificates; i++) {
		const ProtobufCBinaryData *blob = &in->ca_certificates[i]->authorities;
		changed |= take(b, in->ca_certificates[i]->trust_domain, (struct cs_der){blob->data, blob->len}, &e);
		if (e.code < 0)
			cs_warn("a bundle of SPIRE cannot be used",
				cs_str("trust_domain", in->ca_certificates[i]->trust_domain), cs_err(&e));
	}
	if (first)
		forget_unnamed(b);
	else if (!changed)
		say_own_again(b, in);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct stream *stream = data;
	struct cs_spire_bundles *b = stream->bundles;
	if (b) {
		if (stream == b->next)
			b->next = NULL;
		else
			b->current = NULL;
		/* With its connection: a new one is on its way, and `connected` will be called. */
		bool lost = cs_grpc_channel_state(b->channel) != CS_GRPC_READY ||
			    cs_grpc_channel_connection(b->channel) != stream->connection;
		if (!lost)
			b->wait_ms += CS_SPIRE_BUNDLES_RETRY_MS;
		if (b->wait_ms > CS_SPIRE_BUNDLES_SLOWEST_MS)
			b->wait_ms = CS_SPIRE_BUNDLES_SLOWEST_MS;
		cs_timer_start(&b->timer, lost ? 0 : b->wait_ms, 0);
		if (!lost)
			b->events.refused(b->events.data, status);
	}
	free(stream);
}

static void open_stream(struct cs_spire_bundles *b)
{
	Spire__Api__Agent__Delegatedidentity__V1__SubscribeToX509BundlesRequest request =
		SPIRE__API__AGENT__DELEGATEDIDENTITY__V1__SUBSCRIBE_TO_X509_BUNDLES_REQUEST__INIT;
	struct cs_error e;
	let_go(b->next); /* it has said nothing: once more */
	b->next = NULL;
	struct stream *stream = calloc(1, sizeof(*stream));
	if (stream) {
		stream->bundles = b;
		stream->connection = cs_grpc_channel_connection(b->channel);
	}
	b->soon = false;
	/* For one that is never answered; an answer sets it to reopen_ms. */
	cs_timer_start(&b->timer, b->times.watchdog_ms, 0);
	if (!stream ||
		cs_grpc_stream(b->channel, &spire__api__agent__delegatedidentity__v1__delegated_identity__descriptor,
			"SubscribeToX509Bundles", &request.base, NULL, on_message, on_done, stream, &stream->call,
			&e) < 0) {
		free(stream);
		return;
	}
	b->next = stream;
}

static void on_timer(struct cs_timer *timer)
{
	struct cs_spire_bundles *b = timer->data;
	if (cs_grpc_channel_state(b->channel) == CS_GRPC_READY)
		open_stream(b);
}

void cs_spire_bundles_connected(struct cs_spire_bundles *b)
{
	cs_timer_start(&b->timer, b->wait_ms, 0);
}

void cs_spire_bundles_reopen(struct cs_spire_bundles *b)
{
	if (b->soon || b->closing)
		return;
	b->soon = true;
	cs_timer_start(&b->timer, SOON_MS, 0);
}

int cs_spire_bundles_new(struct cs_loop *loop, struct cs_grpc_channel *channel, const char *own_trust_domain,
	const struct cs_spire_bundles_times *times, const struct cs_spire_bundles_events *events,
	struct cs_spire_bundles **ret, struct cs_error *e)
{
	struct cs_spire_bundles *b = calloc(1, sizeof(*b));
	if (!b)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*b = (struct cs_spire_bundles){.loop = loop, .channel = channel, .events = *events, .times = *times};
	snprintf(b->own, sizeof(b->own), "%s", own_trust_domain);
	cs_timer_init(&b->timer, loop, on_timer, b);
	*ret = b;
	return 0;
}

void cs_spire_bundles_close(struct cs_spire_bundles *b)
{
	if (!b || b->closing)
		return;
	b->closing = true;
	let_go(b->current);
	let_go(b->next);
	b->current = b->next = NULL;
	cs_timer_close(&b->timer, NULL);
}

void cs_spire_bundles_free(struct cs_spire_bundles *b)
{
	struct domain *d, *next;
	if (!b)
		return;
	HASH_ITER (hh, b->domains, d, next)
		domain_free(b, d);
	free(b);
}
