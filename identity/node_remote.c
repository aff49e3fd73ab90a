/* The life of one connection: Hello, then the claims and Directory.Follow, with a heartbeat. Whatever goes wrong ends the
 * connection, and the next one begins from the start. */
#include "node_remote.h"

#include <errno.h>
#include <countersign/v1/cluster.pb-c.h>
#include <countersign/v1/directory.pb-c.h>
#include "log.h"
#include "mem.h"

#define CALL_MS       10000
#define SILENCE_MS    (3 * CS_HEARTBEAT_MS + 1000) /* a stream that says nothing for so long is dead */
#define TICK_MS       1000
#define MESSAGE_MAX   (16u << 20)
#define HELLO_WAIT_MS 5000 /* after a Hello that was refused */

struct remote {
	struct cs_link link;
	struct cs_link_remote_options options;
	struct cs_grpc_channel *channel;
	struct cs_grpc_client_call *stream;
	bool up, closed;
	int64_t heard_mono_ms;  /* the last batch; at first: the start */
	int64_t follow_mono_ms; /* since when the stream is asked for */
	uint32_t heard_silent_ms;
	int64_t beat_mono_ms; /* the last heartbeat that was sent */
	struct cs_timer tick;
	int64_t reset_mono_ms; /* not before; 0: no reset is due */
	bool timer_closed, channel_closed;
	void (*on_closed)(void *data);
	void *closed_data;
};

static int64_t now(const struct remote *r)
{
	return cs_loop_mono_ms(r->options.loop);
}

static int64_t silent_ms(struct cs_link *link)
{
	const struct remote *r = (const struct remote *)link;
	return now(r) - r->heard_mono_ms + r->heard_silent_ms;
}

static void down(struct remote *r, const struct cs_error *why)
{
	r->up = false;
	if (!r->closed)
		cs_node_link_down(r->options.node, why);
}

/* The connection is of no use: another one, after a while if it was refused. */
static void give_up(struct remote *r, const struct cs_error *why, int64_t after_ms)
{
	down(r, why);
	if (!r->closed && r->reset_mono_ms == 0)
		r->reset_mono_ms = now(r) + after_ms;
}

/* --- the directory --- */

static void on_batch(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)call;
	struct remote *r = data;
	const Countersign__V1__DirectoryBatch *batch = (const Countersign__V1__DirectoryBatch *)message;
	r->heard_mono_ms = now(r);
	r->heard_silent_ms = batch->silent_ms;
	if (!r->closed)
		cs_node_link_batch(r->options.node, batch);
}

static void on_stream_end(const struct cs_grpc_status *status, void *data)
{
	struct remote *r = data;
	struct cs_error e;
	r->stream = NULL;
	if (r->closed)
		return;
	if (cs_grpc_status_error(status, &e) == 0)
		cs_error_set(&e, -EPIPE, "the cluster role ended the directory");
	cs_error_prefix(&e, "directory");
	give_up(r, &e, 0);
}

static void start_following(struct remote *r)
{
	Countersign__V1__FollowRequest in = COUNTERSIGN__V1__FOLLOW_REQUEST__INIT;
	Countersign__V1__Position position = COUNTERSIGN__V1__POSITION__INIT;
	struct cs_error e;
	if (cs_node_position(r->options.node, &position.epoch, &position.revision))
		in.resume = &position;
	in.policy_for_node = (char *)cs_node_name(r->options.node);
	if (cs_grpc_stream(r->channel, &countersign__v1__directory__descriptor, "Follow", &in.base, NULL, on_batch,
		    on_stream_end, r, &r->stream, &e) < 0)
		give_up(r, &e, CS_CLAIM_RETRY_MIN_MS);
}

/* --- Hello --- */

static Countersign__V1__Address **address_list(
	const struct cs_ip *addrs, size_t n, Countersign__V1__Address *space, Countersign__V1__Address **refs)
{
	for (size_t i = 0; i < n; i++) {
		cs_ip_to_pb(&addrs[i], &space[i]);
		refs[i] = &space[i];
	}
	return refs;
}

static void on_hello(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	(void)message;
	struct remote *r = data;
	struct cs_error e;
	if (r->closed)
		return;
	if (cs_grpc_status_error(status, &e) < 0) {
		cs_error_prefix(&e, "the cluster role did not take this node");
		give_up(r, &e, HELLO_WAIT_MS);
		return;
	}
	r->up = true;
	r->beat_mono_ms = r->follow_mono_ms = now(r);
	start_following(r);
	cs_node_link_up(r->options.node);
}

static void say_hello(struct remote *r)
{
	struct cs_ask *ask = cs_node_hello(r->options.node);
	Countersign__V1__HelloRequest in = COUNTERSIGN__V1__HELLO_REQUEST__INIT;
	Countersign__V1__Address addrs[CS_NODE_ADDRS_MAX], *refs[CS_NODE_ADDRS_MAX];
	struct cs_grpc_call_options options = {.timeout_ms = CALL_MS};
	struct cs_error e;
	in.addresses = address_list(ask->addrs, ask->naddrs, addrs, refs);
	in.n_addresses = ask->naddrs;
	in.port = ask->port;
	in.path = ask->path;
	in.version = (char *)CS_VERSION;
	if (cs_grpc_unary(r->channel, &countersign__v1__cluster__descriptor, "Hello", &in.base, &options, on_hello, r,
		    NULL, &e) < 0)
		give_up(r, &e, HELLO_WAIT_MS);
	cs_ask_free(ask);
}

static void on_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	(void)channel;
	struct remote *r = data;
	if (r->closed)
		return;
	if (state == CS_GRPC_READY) {
		r->reset_mono_ms = 0;
		say_hello(r);
	} else if (state == CS_GRPC_BACKOFF && error) {
		down(r, error);
	}
}

/* --- asks --- */

struct pending {
	struct remote *remote;
	struct cs_ask *ask;
};

static void read_reply(struct cs_claim *claim, const Countersign__V1__ClaimReply *reply)
{
	claim->identity = reply->identity;
	claim->result = 0;
	if (!reply->refused || !reply->refused->name[0])
		return;
	int reason = cs_reason_parse(reply->refused->name);
	claim->result = cs_error_reason(
		&claim->error, -EACCES, reason < 0 ? CS_R_NONE : (enum cs_reason)reason, "%s", reply->refused->detail);
}

static void read_answer(struct cs_ask *ask, const ProtobufCMessage *message)
{
	if (ask->kind == CS_ASK_CLAIM) {
		const Countersign__V1__ClaimReply *reply = (const Countersign__V1__ClaimReply *)message;
		read_reply(&ask->claims[0], reply);
		ask->revision = reply->revision;
	} else if (ask->kind == CS_ASK_RECONCILE) {
		const Countersign__V1__ReconcileClaimsReply *reply =
			(const Countersign__V1__ReconcileClaimsReply *)message;
		if (reply->n_replies != ask->nclaims)
			ask->result = cs_error_set(&ask->error, -EPROTO, "the cluster role answered %zu of %zu claims",
				reply->n_replies, ask->nclaims);
		for (size_t i = 0; i < ask->nclaims && ask->result == 0; i++)
			read_reply(&ask->claims[i], reply->replies[i]);
	}
}

static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	struct pending *p = data;
	struct cs_ask *ask = p->ask;
	ask->result = cs_grpc_status_error(status, &ask->error);
	if (ask->result == 0)
		read_answer(ask, message);
	free(p);
	ask->done(ask, ask->data);
}

static void fill_claim(const struct cs_claim *claim, Countersign__V1__ClaimRequest *ret)
{
	countersign__v1__claim_request__init(ret);
	ret->id = claim->id;
	ret->labels = cs_xcalloc(claim->labels.n, sizeof(*ret->labels));
	ret->n_labels = claim->labels.n;
	for (size_t i = 0; i < claim->labels.n; i++) {
		Countersign__V1__Label *label = cs_xcalloc(1, sizeof(*label));
		countersign__v1__label__init(label);
		label->source = (char *)claim->labels.items[i].source;
		label->key = claim->labels.items[i].key;
		label->value = claim->labels.items[i].value;
		ret->labels[i] = label;
	}
	ret->addresses = cs_xcalloc(claim->naddrs, sizeof(*ret->addresses));
	ret->n_addresses = claim->naddrs;
	for (size_t i = 0; i < claim->naddrs; i++) {
		ret->addresses[i] = cs_xcalloc(1, sizeof(**ret->addresses));
		cs_ip_to_pb(&claim->addrs[i], ret->addresses[i]);
	}
}

static void free_claim(Countersign__V1__ClaimRequest *claim)
{
	for (size_t i = 0; i < claim->n_labels; i++)
		free(claim->labels[i]);
	for (size_t i = 0; i < claim->n_addresses; i++)
		free(claim->addresses[i]);
	free(claim->labels);
	free(claim->addresses);
}

static int send_claims(struct remote *r, struct pending *p, struct cs_error *e)
{
	const struct cs_grpc_call_options options = {.timeout_ms = CALL_MS};
	const struct cs_ask *ask = p->ask;
	Countersign__V1__ClaimRequest *claims = cs_xcalloc(ask->nclaims, sizeof(*claims));
	Countersign__V1__ClaimRequest **refs = cs_xcalloc(ask->nclaims, sizeof(*refs));
	Countersign__V1__ReconcileClaimsRequest all = COUNTERSIGN__V1__RECONCILE_CLAIMS_REQUEST__INIT;
	for (size_t i = 0; i < ask->nclaims; i++) {
		fill_claim(&ask->claims[i], &claims[i]);
		refs[i] = &claims[i];
	}
	all.claims = refs;
	all.n_claims = ask->nclaims;
	bool one = ask->kind == CS_ASK_CLAIM;
	int result = cs_grpc_unary(r->channel, &countersign__v1__cluster__descriptor, one ? "Claim" : "ReconcileClaims",
		one ? &claims[0].base : &all.base, &options, on_reply, p, NULL, e);
	for (size_t i = 0; i < ask->nclaims; i++)
		free_claim(&claims[i]);
	free(claims);
	free(refs);
	return result;
}

static int send_release(struct remote *r, struct pending *p, struct cs_error *e)
{
	const struct cs_grpc_call_options options = {.timeout_ms = CALL_MS};
	Countersign__V1__ReleaseRequest in = COUNTERSIGN__V1__RELEASE_REQUEST__INIT;
	in.id = p->ask->claims[0].id;
	return cs_grpc_unary(
		r->channel, &countersign__v1__cluster__descriptor, "Release", &in.base, &options, on_reply, p, NULL, e);
}

static int ask_take(struct cs_link *link, struct cs_ask *ask, struct cs_error *e)
{
	struct remote *r = (struct remote *)link;
	if (!r->up || r->closed)
		return cs_error_set(e, -EAGAIN, "the cluster role is not connected");
	struct pending *p = cs_xcalloc(1, sizeof(*p));
	*p = (struct pending){.remote = r, .ask = ask};
	int result = ask->kind == CS_ASK_RELEASE ? send_release(r, p, e) : send_claims(r, p, e);
	if (result < 0)
		free(p);
	return result;
}

/* --- time --- */

static void on_beat(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	(void)message;
	struct remote *r = data;
	struct cs_error e;
	if (r->closed || cs_grpc_status_error(status, &e) == 0)
		return;
	cs_error_prefix(&e, "heartbeat");
	give_up(r, &e, 0);
}

static void send_beat(struct remote *r)
{
	Countersign__V1__HeartbeatRequest in = COUNTERSIGN__V1__HEARTBEAT_REQUEST__INIT;
	const struct cs_grpc_call_options options = {.timeout_ms = CALL_MS};
	struct cs_error e;
	r->beat_mono_ms = now(r);
	if (cs_grpc_unary(r->channel, &countersign__v1__cluster__descriptor, "Heartbeat", &in.base, &options, on_beat,
		    r, NULL, &e) < 0)
		give_up(r, &e, 0);
}

static void on_tick(struct cs_timer *timer)
{
	struct remote *r = timer->data;
	struct cs_error e;
	/* An answer to Hello is no word of the directory: silent_ms, by which authd judges, does not begin anew with it. */
	int64_t since = r->heard_mono_ms > r->follow_mono_ms ? r->heard_mono_ms : r->follow_mono_ms;
	if (r->up && now(r) - since > SILENCE_MS) {
		cs_error_set(
			&e, -ETIMEDOUT, "the cluster role's directory has said nothing for %d s", SILENCE_MS / 1000);
		give_up(r, &e, 0);
	}
	if (r->up && now(r) - r->beat_mono_ms >= CS_NODE_HEARTBEAT_MS)
		send_beat(r);
	if (r->reset_mono_ms != 0 && now(r) >= r->reset_mono_ms) {
		r->reset_mono_ms = 0;
		cs_grpc_channel_reset(r->channel);
	}
}

/* --- life --- */

int cs_link_remote_new(const struct cs_link_remote_options *options, struct cs_link **ret, struct cs_error *e)
{
	struct remote *r = cs_xcalloc(1, sizeof(*r));
	struct cs_grpc_channel_options channel = {.target = options->server,
		.tls = options->tls,
		.limits = {.message_max = MESSAGE_MAX, .unpack_max = 8 * MESSAGE_MAX},
		.keep = true,
		.on_state = on_state,
		.data = r};
	r->link = (struct cs_link){.ask_take = ask_take, .silent_ms = silent_ms};
	r->options = *options;
	r->heard_mono_ms = now(r);
	int result = cs_grpc_channel_new(options->loop, &channel, &r->channel, e);
	if (result < 0) {
		free(r);
		return result;
	}
	cs_timer_init(&r->tick, options->loop, on_tick, r);
	cs_timer_start(&r->tick, TICK_MS, TICK_MS);
	cs_node_set_link(options->node, &r->link);
	*ret = &r->link;
	return 0;
}

static void maybe_free(struct remote *r)
{
	if (!r->timer_closed || !r->channel_closed)
		return;
	void (*closed)(void *) = r->on_closed;
	void *data = r->closed_data;
	free(r);
	if (closed)
		closed(data);
}

static void timer_closed(struct cs_timer *timer)
{
	struct remote *r = timer->data;
	r->timer_closed = true;
	maybe_free(r);
}

static void channel_closed(void *data)
{
	struct remote *r = data;
	r->channel_closed = true;
	maybe_free(r);
}

void cs_link_remote_close(struct cs_link *link, void (*closed)(void *), void *data)
{
	struct remote *r = (struct remote *)link;
	r->closed = true;
	r->up = false;
	r->on_closed = closed;
	r->closed_data = data;
	cs_node_set_link(r->options.node, NULL);
	cs_timer_close(&r->tick, timer_closed);
	cs_grpc_channel_close(r->channel, channel_closed, r);
}
