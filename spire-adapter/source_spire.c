#include "source_spire.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <uthash.h>
#include "delegated_identity.pb-c.h"
#include "grpc.h"
#include "instance.h"
#include "log.h"
#include "spire_bundles.h"
#include "spire_files.h"
#include "spire_key.h"
#include "spire_subs.h"
#include "spire_svid.h"
#include "spire_workload.h"

/* A message has one SVID of some 2 KiB; one that is full of others shall fail, loudly. */
#define MESSAGE_MAX (1u << 20)
#define CALLS_MAX   16384 /* one per identity; keys.h has fewer */

#define SELECTOR_TYPE "countersign"
#define SERVER_PATH   "/countersign/identityd"
/* It stands for identityd's cluster role among the subscriptions; no identity has this number (maps.h). */
#define SERVER UINT32_MAX

typedef Spire__Api__Agent__Delegatedidentity__V1__SubscribeToX509SVIDsRequest svids_request;
typedef Spire__Api__Agent__Delegatedidentity__V1__SubscribeToX509SVIDsResponse svids_response;
typedef Spire__Api__Agent__Delegatedidentity__V1__X509SVIDWithKey svid_with_key;
typedef Spire__Api__Agent__Delegatedidentity__V1__Selector selector;

/* A call of SubscribeToX509SVIDs. */
struct stream {
	struct spire *source; /* NULL: nobody listens any more */
	uint32_t identity;
	struct cs_grpc_client_call *call;
	uint64_t connection;
	uint8_t federates_sha256[SHA256_DIGEST_LENGTH];
	bool federates_known;
	bool bad_said; /* its SVID cannot be used: once, however often it comes */
	UT_hash_handle hh;
};

struct spire {
	struct cs_source base;
	struct cs_loop *loop;
	struct cs_source_events events;
	uint32_t own_identity;
	struct cs_check *check;
	struct cs_metric *subscriptions, *connections;
	struct cs_grpc_channel *admin;
	struct cs_spire_subs *subs;
	struct stream *streams; /* those that somebody listens to, by identity */
	struct cs_spire_bundles *bundles;
	struct cs_spire_workload *workload;
	struct cs_timer timer;
	bool closing;
	/* While a message of the Workload API is read */
	struct {
		uint32_t identity;
		struct cs_spire_files *files;
		struct cs_spire_seen seen;
		bool named;
		bool bad_said; /* as in struct stream */
	} own[2];
};

#define OWN(s) (sizeof((s)->own) / sizeof((s)->own[0]))

static int64_t now_mono_ms(const struct spire *s)
{
	return cs_loop_mono_ms(s->loop);
}

/* Never from within start or stop: from the loop. */
static void run_soon(struct spire *s)
{
	if (!s->closing)
		cs_timer_start(&s->timer, 0, 0);
}

static void on_timer(struct cs_timer *timer)
{
	struct spire *s = timer->data;
	int64_t now = now_mono_ms(s), next = cs_spire_subs_run(s->subs, now);
	if (next != INT64_MAX && !s->closing)
		cs_timer_start(&s->timer, next > now ? next - now : 1, 0);
}

/* ---- one message of one subscription ---- */

static bool is_of(const svid_with_key *svid, const char *spiffe_id)
{
	const Spire__Api__Agent__Delegatedidentity__V1__SPIFFEID *id = svid->x509_svid ? svid->x509_svid->id : NULL;
	size_t n = id ? strlen(id->trust_domain) : 0;
	return id && strncmp(spiffe_id, CS_SPIFFE_SCHEME, strlen(CS_SPIFFE_SCHEME)) == 0 &&
	       strncmp(spiffe_id + strlen(CS_SPIFFE_SCHEME), id->trust_domain, n) == 0 &&
	       strcmp(spiffe_id + strlen(CS_SPIFFE_SCHEME) + n, id->path) == 0;
}

static int read_chain(const svid_with_key *svid, const char *spiffe_id, struct cs_spire_chain *ret, struct cs_error *e)
{
	*ret = (struct cs_spire_chain){0};
	if (svid->x509_svid->n_cert_chain > CS_CHAIN_MAX)
		return cs_error_reason(e, -EINVAL, CS_R_CHAIN_TOO_LARGE, "a chain of %zu certificates; 1 to %d may be",
			svid->x509_svid->n_cert_chain, CS_CHAIN_MAX);
	for (; ret->n < svid->x509_svid->n_cert_chain; ret->n++)
		ret->cert[ret->n] = (struct cs_der){
			svid->x509_svid->cert_chain[ret->n].data, svid->x509_svid->cert_chain[ret->n].len};
	int r = cs_spire_chain_read(ret, e);
	if (r == 0 && strcmp(ret->id.text, spiffe_id) != 0)
		r = cs_error_reason(e, -EINVAL, CS_R_SPIFFE_ID_MISMATCH, "the certificate is %.300s's", ret->id.text);
	return r;
}

static void mark_chain(const struct spire *s, const struct cs_spire_chain *chain, struct cs_spire_seen *seen)
{
	if (chain->not_after_unix_s < cs_loop_unix_ms(s->loop) / 1000) {
		seen->what = CS_SPIRE_SEEN_EXPIRED;
		cs_error_reason(&seen->why, -EKEYEXPIRED, CS_R_SVID_EXPIRED,
			"SPIRE's agent has only one that has expired; it may be cut off from the server");
		return;
	}
	if (chain->not_before_unix_s > cs_loop_unix_ms(s->loop) / 1000) {
		seen->what = CS_SPIRE_SEEN_EARLY;
		cs_error_reason(&seen->why, -EKEYREJECTED, CS_R_SVID_EXPIRED,
			"SPIRE's is not valid before %lld s from now; do the clocks differ? It is asked again",
			(long long)(chain->not_before_unix_s - cs_loop_unix_ms(s->loop) / 1000));
		return;
	}
	seen->what = CS_SPIRE_SEEN_SVID;
	memcpy(seen->leaf_sha256, chain->leaf_sha256, sizeof(seen->leaf_sha256));
}

/* Of several entries with this SPIFFE ID the one whose SVID lasts longest. */
static const svid_with_key *choose(const struct spire *s, const svids_response *in, const char *spiffe_id,
	struct cs_spire_chain *ret, struct cs_spire_seen *seen)
{
	const svid_with_key *best = NULL;
	struct cs_spire_chain chain;
	*seen = (struct cs_spire_seen){.what = CS_SPIRE_SEEN_NOTHING};
	cs_error_reason(&seen->why, -ENOENT, CS_R_NO_LOCAL_SVID,
		"no registration entry of SPIRE for it reaches this node's agent");
	for (size_t i = 0; i < in->n_x509_svids; i++) {
		const svid_with_key *svid = in->x509_svids[i];
		struct cs_error e;
		if (!is_of(svid, spiffe_id)) {
			if (seen->what == CS_SPIRE_SEEN_NOTHING && svid->x509_svid && svid->x509_svid->id) {
				seen->what = CS_SPIRE_SEEN_OTHERS;
				cs_error_reason(&seen->why, -EINVAL, CS_R_SPIFFE_ID_MISMATCH,
					"SPIRE's entry with its selectors is for spiffe://%.200s%.300s",
					svid->x509_svid->id->trust_domain, svid->x509_svid->id->path);
			}
		} else if (read_chain(svid, spiffe_id, &chain, &e) < 0) {
			if (!best) {
				seen->what = CS_SPIRE_SEEN_BAD;
				seen->why = e;
			}
		} else if (!best || chain.not_after_unix_s > ret->not_after_unix_s) {
			best = svid;
			*ret = chain;
			mark_chain(s, ret, seen);
		}
	}
	return best;
}

/* A new SVID. key is taken over. */
static void deliver(struct spire *s, uint32_t identity, const struct cs_spire_chain *chain, EVP_PKEY *key)
{
	const struct cs_source_svid svid = {.identity = identity,
		.key = key,
		.chain = chain->cert,
		.nchain = chain->n,
		.not_before_unix_s = chain->not_before_unix_s,
		.not_after_unix_s = chain->not_after_unix_s};
	s->events.svid(s->events.data, &svid);
}

static void take_set(struct stream *stream, const char *spiffe_id, const svids_response *in)
{
	struct spire *s = stream->source;
	uint32_t identity = stream->identity;
	struct cs_spire_chain chain;
	struct cs_spire_seen seen;
	EVP_PKEY *key = NULL;
	const svid_with_key *svid = choose(s, in, spiffe_id, &chain, &seen);
	if (seen.what == CS_SPIRE_SEEN_SVID && !cs_spire_subs_knows(s->subs, identity, chain.leaf_sha256) &&
		cs_spire_key_read((struct cs_der){svid->x509_svid_key.data, svid->x509_svid_key.len}, chain.spki, &key,
			&seen.why) < 0)
		seen.what = CS_SPIRE_SEEN_BAD;
	if (seen.what == CS_SPIRE_SEEN_BAD && !stream->bad_said)
		cs_warn("an SVID of SPIRE cannot be used", cs_str("spiffe_id", spiffe_id), cs_err(&seen.why));
	stream->bad_said = seen.what == CS_SPIRE_SEEN_BAD;
	if (cs_spire_subs_seen(s->subs, identity, &seen, now_mono_ms(s)))
		deliver(s, identity, &chain, key);
	else
		EVP_PKEY_free(key);
}

static void wipe(const svids_response *in)
{
	for (size_t i = 0; i < in->n_x509_svids; i++)
		OPENSSL_cleanse(in->x509_svids[i]->x509_svid_key.data, in->x509_svids[i]->x509_svid_key.len);
}

/* The agent's bundle streams do not notice that a trust domain is not federated with any more. */
static void watch_federation(struct stream *stream, const svids_response *in)
{
	uint8_t sha256[SHA256_DIGEST_LENGTH];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
	for (size_t i = 0; ok && i < in->n_federates_with; i++)
		ok = EVP_DigestUpdate(ctx, in->federates_with[i], strlen(in->federates_with[i]) + 1);
	ok = ok && EVP_DigestFinal_ex(ctx, sha256, NULL);
	EVP_MD_CTX_free(ctx);
	if (!ok)
		return; /* it is opened anew periodically anyway */
	if (stream->federates_known && memcmp(sha256, stream->federates_sha256, sizeof(sha256)) != 0)
		cs_spire_bundles_reopen(stream->source->bundles);
	memcpy(stream->federates_sha256, sha256, sizeof(sha256));
	stream->federates_known = true;
}

static void on_set(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct stream *stream = data;
	struct spire *s = stream->source;
	const svids_response *in = (const svids_response *)message;
	(void)call;
	const char *spiffe_id = s ? cs_spire_subs_spiffe_id(s->subs, stream->identity) : NULL;
	if (spiffe_id) {
		watch_federation(stream, in);
		take_set(stream, spiffe_id, in);
		run_soon(s);
	}
	wipe(in);
}

static bool is_lost(const struct spire *s, uint64_t connection)
{
	return cs_grpc_channel_state(s->admin) != CS_GRPC_READY || cs_grpc_channel_connection(s->admin) != connection;
}

/* Whose fault is it? Two answers say "no identity issued": here it is always about this process itself, because "nothing
 * matches" is a message. */
static enum cs_spire_end judge(const struct cs_grpc_status *status, struct cs_error *e)
{
	switch (status->code) {
	case CS_GRPC_PERMISSION_DENIED:
		cs_error_reason(e, -EACCES, CS_R_NO_LOCAL_SVID, "SPIRE's agent refuses this adapter: %.300s; %s",
			status->message,
			strstr(status->message, "delegate")
				? "its SPIFFE ID must be in the agent's authorized_delegates"
				: "no registration entry of this agent matches the adapter's process");
		return CS_SPIRE_END_REFUSED;
	case CS_GRPC_UNAVAILABLE:
	case CS_GRPC_UNIMPLEMENTED:
		cs_error_reason(e, -EAGAIN, CS_R_NO_LOCAL_SVID, "SPIRE's agent does not serve this adapter: %s %.300s",
			cs_grpc_code_name(status->code), status->message);
		return CS_SPIRE_END_REFUSED;
	default:
		cs_error_reason(e, -EIO, CS_R_NO_LOCAL_SVID, "SPIRE's agent: %s %.300s",
			cs_grpc_code_name(status->code), status->message);
		return CS_SPIRE_END_OTHER;
	}
}

static void on_ended(const struct cs_grpc_status *status, void *data)
{
	struct stream *stream = data;
	struct spire *s = stream->source;
	if (s) {
		struct cs_error e;
		enum cs_spire_end how = judge(status, &e);
		if (is_lost(s, stream->connection))
			how = CS_SPIRE_END_LOST;
		HASH_DEL(s->streams, stream);
		cs_spire_subs_ended(s->subs, stream->identity, how, &e, now_mono_ms(s));
		run_soon(s);
	}
	free(stream);
}

/* ---- what the subscriptions ask for ---- */

static int on_open(void *data, uint32_t identity, struct cs_error *e)
{
	struct spire *s = data;
	char value[32];
	selector id = SPIRE__API__AGENT__DELEGATEDIDENTITY__V1__SELECTOR__INIT, *list = &id;
	svids_request request = SPIRE__API__AGENT__DELEGATEDIDENTITY__V1__SUBSCRIBE_TO_X509_SVIDS_REQUEST__INIT;
	struct stream *stream = calloc(1, sizeof(*stream));
	if (!stream)
		return cs_error_set(e, -ENOMEM, "out of memory");
	/* Only this identity has it. A selector that others have too would make the agent mint for all of them. */
	snprintf(value, sizeof(value), "id:%u", identity);
	id.type = (char *)SELECTOR_TYPE;
	id.value = value;
	request.selectors = &list;
	request.n_selectors = 1;
	*stream =
		(struct stream){.source = s, .identity = identity, .connection = cs_grpc_channel_connection(s->admin)};
	int r = cs_grpc_stream(s->admin, &spire__api__agent__delegatedidentity__v1__delegated_identity__descriptor,
		"SubscribeToX509SVIDs", &request.base, NULL, on_set, on_ended, stream, &stream->call, e);
	if (r < 0) {
		free(stream);
		return r;
	}
	HASH_ADD(hh, s->streams, identity, sizeof(stream->identity), stream);
	return 0;
}

static void on_cancel(void *data, uint32_t identity)
{
	struct spire *s = data;
	struct stream *stream;
	HASH_FIND(hh, s->streams, &identity, sizeof(identity), stream);
	if (!stream)
		return;
	HASH_DEL(s->streams, stream);
	stream->source = NULL;
	cs_grpc_client_cancel(stream->call);
}

static void on_none(void *data, uint32_t identity, bool withdrawn, const struct cs_error *why)
{
	struct spire *s = data;
	/* Said by a message, not by its absence: what an agent that is away issued stays. */
	for (size_t i = 0; i < OWN(s); i++)
		if (identity == s->own[i].identity && (withdrawn || s->own[i].seen.what == CS_SPIRE_SEEN_NOTHING))
			cs_spire_files_remove(s->own[i].files);
	if (identity != SERVER)
		s->events.none(s->events.data, identity, withdrawn, why);
}

static void on_agent(void *data, const struct cs_error *why)
{
	struct spire *s = data;
	if (why) {
		cs_warn("SPIRE's agent gives no SVIDs; what is there stays until it expires", cs_err(why));
		cs_check_error(s->check, why);
	} else {
		cs_info("SPIRE's agent answers");
		cs_check_ok(s->check);
	}
}

static void on_stuck(void *data)
{
	struct spire *s = data;
	cs_grpc_channel_reset(s->admin);
}

static double on_random(void *data)
{
	uint32_t n;
	(void)data;
	return getrandom(&n, sizeof(n), GRND_NONBLOCK) == sizeof(n) ? (double)n / UINT32_MAX : 0.5;
}

/* ---- bundles ---- */

static void on_bundle(void *data, const char *trust_domain, const struct cs_der *authorities, size_t n)
{
	struct spire *s = data;
	s->events.bundle(s->events.data, trust_domain, authorities, n);
}

static void on_bundles_answered(void *data)
{
	struct spire *s = data;
	cs_spire_subs_answered(s->subs, now_mono_ms(s));
	run_soon(s);
}

static void on_bundles_refused(void *data, const struct cs_grpc_status *status)
{
	struct spire *s = data;
	struct cs_error e;
	judge(status, &e);
	cs_spire_subs_refused(s->subs, &e, now_mono_ms(s));
	run_soon(s);
}

/* ---- the admin socket ---- */

static void on_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	struct spire *s = data;
	(void)channel;
	if (s->closing)
		return;
	if (state == CS_GRPC_READY) {
		cs_spire_subs_connected(s->subs);
		cs_spire_bundles_connected(s->bundles);
	} else if (state == CS_GRPC_BACKOFF) {
		struct cs_error e;
		cs_error_reason(&e, error->code, CS_R_NO_LOCAL_SVID, "SPIRE's agent is away: %.500s", error->text);
		cs_spire_subs_disconnected(s->subs, &e);
	} else { /* a connection that ends may be followed by the next at once */
		cs_spire_subs_disconnected(s->subs, NULL);
	}
	run_soon(s);
}

/* ---- our own SVIDs ---- */

static void own_begin(void *data)
{
	struct spire *s = data;
	for (size_t i = 0; i < OWN(s); i++) {
		s->own[i].named = false;
		s->own[i].seen = (struct cs_spire_seen){.what = CS_SPIRE_SEEN_NOTHING};
		cs_error_reason(&s->own[i].seen.why, -ENOENT, CS_R_NO_LOCAL_SVID,
			"no registration entry of SPIRE for it matches this adapter's process");
	}
}

static bool is_own(const struct spire *s, size_t i, const char *spiffe_id)
{
	const char *wanted = cs_spire_subs_spiffe_id(s->subs, s->own[i].identity);
	return !s->own[i].named && wanted && strcmp(spiffe_id, wanted) == 0;
}

static void own_svid(void *data, const struct cs_spire_own *own)
{
	struct spire *s = data;
	for (size_t i = 0; i < OWN(s); i++) {
		if (!is_own(s, i, own->chain.id.text))
			continue;
		s->own[i].named = true;
		s->own[i].bad_said = false;
		mark_chain(s, &own->chain, &s->own[i].seen);
		if (s->own[i].seen.what == CS_SPIRE_SEEN_EARLY)
			cs_spire_workload_again(s->workload);
		if (s->own[i].seen.what == CS_SPIRE_SEEN_SVID)
			cs_spire_files_put(s->own[i].files, own);
		if (!cs_spire_subs_seen(s->subs, s->own[i].identity, &s->own[i].seen, now_mono_ms(s)) ||
			s->own[i].identity == SERVER)
			continue;
		EVP_PKEY_up_ref(own->key);
		deliver(s, s->own[i].identity, &own->chain, own->key);
	}
}

static void own_bad(void *data, const char *spiffe_id, const struct cs_error *why)
{
	struct spire *s = data;
	for (size_t i = 0; i < OWN(s); i++) {
		if (!is_own(s, i, spiffe_id))
			continue;
		if (!s->own[i].bad_said)
			cs_warn("an own SVID of SPIRE cannot be used", cs_str("spiffe_id", spiffe_id), cs_err(why));
		s->own[i].bad_said = true;
		s->own[i].seen.what = CS_SPIRE_SEEN_BAD;
		s->own[i].seen.why = *why;
	}
}

static void own_end(void *data)
{
	struct spire *s = data;
	for (size_t i = 0; i < OWN(s); i++)
		if (!s->own[i].named)
			cs_spire_subs_seen(s->subs, s->own[i].identity, &s->own[i].seen, now_mono_ms(s));
	run_soon(s);
}

static void own_trouble(void *data, const struct cs_error *why)
{
	struct spire *s = data;
	struct cs_spire_seen seen = {.what = CS_SPIRE_SEEN_BAD, .why = *why};
	cs_warn("the Workload API gives no SVIDs; what is there stays until it expires", cs_err(why));
	cs_spire_subs_seen(s->subs, s->own_identity, &seen, now_mono_ms(s));
	run_soon(s);
}

/* ---- the source ---- */

static int spire_start(struct cs_source *base, uint32_t identity, const char *spiffe_id, struct cs_error *e)
{
	struct spire *s = (struct spire *)base;
	int r = cs_spire_subs_start(s->subs, identity, spiffe_id, identity == s->own_identity, e);
	run_soon(s);
	return r;
}

static void spire_stop(struct cs_source *base, uint32_t identity)
{
	struct spire *s = (struct spire *)base;
	cs_spire_subs_stop(s->subs, identity);
	run_soon(s);
}

static void spire_close(struct cs_source *base)
{
	struct spire *s = (struct spire *)base;
	struct stream *stream, *next;
	s->closing = true;
	HASH_ITER (hh, s->streams, stream, next) {
		HASH_DEL(s->streams, stream);
		stream->source = NULL; /* the channel ends its call */
	}
	cs_timer_close(&s->timer, NULL);
	cs_spire_bundles_close(s->bundles);
	cs_spire_workload_close(s->workload);
	for (size_t i = 0; i < OWN(s); i++)
		cs_spire_files_close(s->own[i].files);
	if (s->admin)
		cs_grpc_channel_close(s->admin, NULL, NULL);
}

static void spire_free(struct cs_source *base)
{
	struct spire *s = (struct spire *)base;
	cs_spire_bundles_free(s->bundles);
	cs_spire_workload_free(s->workload);
	for (size_t i = 0; i < OWN(s); i++)
		cs_spire_files_free(s->own[i].files);
	cs_spire_subs_free(s->subs);
	free(s);
}

static void on_render(void *data)
{
	struct spire *s = data;
	if (s->closing)
		return;
	struct cs_spire_subs_count count = cs_spire_subs_count(s->subs);
	cs_metric_set(s->subscriptions, (double)count.open, "open");
	cs_metric_set(s->subscriptions, (double)count.waiting, "waiting");
	cs_metric_set(s->subscriptions, (double)count.queued, "queued");
	cs_metric_set(s->connections, (double)cs_grpc_channel_connection(s->admin), "delegated-identity");
	cs_metric_set(s->connections, (double)cs_spire_workload_connections(s->workload), "workload");
}

static void add_metrics(struct spire *s, struct cs_metrics *m)
{
	s->subscriptions = cs_gauge(m, "countersign_spire_subscriptions",
		"Subscriptions to SPIRE's agent: open, waiting for their first message, queued for a call", "state", 3);
	s->connections = cs_counter(m, "countersign_spire_connections_total",
		"Connections made to SPIRE's agent; each after the first is a reconnect", "api", 2);
	cs_metrics_on_render(m, on_render, s);
}

static int make_own(struct spire *s, const struct cs_source_spire_options *o, struct cs_error *e)
{
	static const char *const dirs[] = {"node", "identityd"};
	char path[CS_PATH + 32], server_id[CS_SPIFFE_ID_MAX + 1];
	int r = 0;
	for (size_t i = 0; r == 0 && i < OWN(s); i++) {
		s->own[i].identity = i == 0 ? o->own_identity : SERVER;
		s->own[i].seen.what = CS_SPIRE_SEEN_BAD; /* nothing was heard yet */
		snprintf(path, sizeof(path), "%s/%s", o->files_dir, dirs[i]);
		r = cs_spire_files_new(s->loop, path, &s->own[i].files, e);
	}
	snprintf(server_id, sizeof(server_id), CS_SPIFFE_SCHEME "%s" SERVER_PATH, o->trust_domain);
	return r < 0 ? r : cs_spire_subs_start(s->subs, SERVER, server_id, true, e);
}

static int make_clients(struct spire *s, const struct cs_source_spire_options *o, struct cs_error *e)
{
	const struct cs_spire_bundles_events bundles = {on_bundle, on_bundles_answered, on_bundles_refused, s};
	const struct cs_spire_workload_events own = {own_begin, own_svid, own_bad, own_end, own_trouble, s};
	char target[CS_PATH + 8];
	snprintf(target, sizeof(target), "unix:%s", o->admin_socket);
	const struct cs_grpc_channel_options admin = {.target = target,
		.limits = {.message_max = MESSAGE_MAX, .calls_max = CALLS_MAX},
		.keep = true,
		.on_state = on_state,
		.data = s};
	int r = cs_grpc_channel_new(s->loop, &admin, &s->admin, e);
	if (r == 0)
		r = cs_spire_bundles_new(s->loop, s->admin, o->trust_domain,
			&(struct cs_spire_bundles_times){o->bundle_reopen_ms, o->watchdog_ms}, &bundles, &s->bundles,
			e);
	if (r == 0)
		r = cs_spire_workload_new(s->loop, o->agent_socket, o->watchdog_ms, &own, &s->workload, e);
	return r;
}

int cs_source_spire_new(struct cs_loop *loop, const struct cs_source_spire_options *o,
	const struct cs_source_events *events, struct cs_source **ret, struct cs_error *e)
{
	const struct cs_spire_subs_times times = {o->quiet_ms, o->watchdog_ms};
	struct spire *s = calloc(1, sizeof(*s));
	const struct cs_spire_subs_io io = {on_open, on_cancel, on_none, on_agent, on_stuck, on_random, s};
	if (!s)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*s = (struct spire){
		.base = {"spire", spire_start, spire_stop, spire_close, spire_free},
		.loop = loop,
		.events = *events,
		.own_identity = o->own_identity,
		.check = o->check,
	};
	*ret = &s->base;
	cs_timer_init(&s->timer, loop, on_timer, s);
	cs_check_fail(s->check, CS_R_NO_LOCAL_SVID, "SPIRE's agent has not been heard yet on %s", o->admin_socket);
	if (!(s->subs = cs_spire_subs_new(&io, &times)))
		return cs_error_set(e, -ENOMEM, "out of memory");
	int r = make_own(s, o, e);
	if (r == 0)
		r = make_clients(s, o, e);
	if (r == 0)
		add_metrics(s, o->metrics);
	return r;
}
