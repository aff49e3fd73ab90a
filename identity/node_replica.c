#include "node_replica.h"

#include <errno.h>
#include <countersign/v1/cluster.pb-c.h>
#include <countersign/v1/directory.pb-c.h>
#include "log.h"
#include "mem.h"
#include "node_asks.h"

#define HELLO_MS      5000
#define BEAT_MS       3000                           /* for the answer to a heartbeat */
#define SILENCE_MS    (3 * CS_CLUSTER_BEAT_MS + 500) /* a stream that says nothing for so long is dead */
#define MESSAGE_MAX   (16u << 20)
#define HELLO_WAIT_MS 5000 /* after a Hello that was refused */
#define PUBLISHED_MS  (2 * CS_PUBLISHED_MS)
#define HURRY_MS      1000 /* between heartbeats while nobody is known to lead */
/* Before a directory that ended is asked for again, here: nodes come in no crowd. */
#define AGAIN_MS        500
#define AGAIN_JITTER_MS 1000
#define UNKNOWN_MS      200 /* ... that does not know this node yet */

/* A call of Directory.Follow; outlives being followed. */
struct stream {
	struct cs_replica *replica; /* NULL: what comes of it counts no more */
	struct cs_grpc_client_call *call;
};

struct cs_replica {
	struct cs_replica_options options;
	struct cs_grpc_channel *channel;
	struct stream *stream;
	bool up, registered, leads, closed;
	bool saying_hello, beating, beat_again;
	unsigned life, hello_life, beat_life; /* counts losses: an answer from before is none */
	uint64_t epoch;
	uint32_t silent_ms;
	int64_t beat_ms; /* how often it wants to hear from us */
	struct cs_error trouble;
	int64_t leads_since_mono_ms;
	int64_t asked_mono_ms; /* when it was last asked */
	int64_t heard_mono_ms; /* the last batch; at first: when the stream was asked for */
	int64_t again_mono_ms; /* the directory may be followed here from then on */
	int64_t reset_mono_ms; /* not before; 0: no reset is due */
	void (*on_closed)(void *data);
	void *closed_data;
};

static int64_t now(const struct cs_replica *r)
{
	return cs_loop_mono_ms(r->options.loop);
}

const char *cs_replica_server(const struct cs_replica *r)
{
	return r->options.server;
}

bool cs_replica_up(const struct cs_replica *r)
{
	return r->up;
}

bool cs_replica_leads(const struct cs_replica *r)
{
	return r->up && r->registered && r->leads;
}

uint32_t cs_replica_silent_ms(const struct cs_replica *r)
{
	return r->silent_ms;
}

const struct cs_error *cs_replica_trouble(const struct cs_replica *r)
{
	return &r->trouble;
}

uint64_t cs_replica_epoch(const struct cs_replica *r)
{
	return r->epoch;
}

static void changed(struct cs_replica *r, const struct cs_error *why)
{
	if (!r->closed)
		r->options.events->changed(r, why, r->options.events->data);
}

void cs_replica_unfollow(struct cs_replica *r)
{
	struct stream *stream = r->stream;
	r->stream = NULL;
	if (!stream)
		return;
	stream->replica = NULL;
	cs_grpc_client_cancel(stream->call);
}

static void lost(struct cs_replica *r, const struct cs_error *why)
{
	bool followed = r->stream != NULL;
	r->up = r->registered = r->leads = r->saying_hello = r->beating = false;
	r->silent_ms = 0;
	r->trouble.code = 0;
	r->trouble.reason = CS_R_NONE;
	r->life++;
	cs_replica_unfollow(r);
	if (followed && !r->closed)
		r->options.events->ended(r, why, r->options.events->data);
	changed(r, why);
}

/* The connection is of no use: another one, after a while if this node was refused. */
static void give_up(struct cs_replica *r, const struct cs_error *why, int64_t after_ms)
{
	if (r->closed)
		return;
	if (r->reset_mono_ms == 0)
		r->reset_mono_ms = now(r) + after_ms;
	lost(r, why);
}

static void note_leads(struct cs_replica *r, bool leads)
{
	if (leads && !r->leads)
		r->leads_since_mono_ms = now(r);
	r->leads = leads;
}

int64_t cs_replica_leads_since_mono_ms(const struct cs_replica *r)
{
	return r->leads_since_mono_ms;
}

/* --- Hello --- */

static void on_hello(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	struct cs_replica *r = data;
	const Countersign__V1__HelloReply *reply = (const Countersign__V1__HelloReply *)message;
	struct cs_error e;
	if (r->closed || r->life != r->hello_life)
		return;
	r->saying_hello = false;
	if (cs_grpc_status_error(status, &e) < 0) {
		cs_error_prefix(&e, "%s did not take this node", r->options.server);
		give_up(r, &e, HELLO_WAIT_MS);
		return;
	}
	r->up = true;
	r->registered |= reply->leader;
	note_leads(r, reply->leader);
	r->epoch = reply->epoch;
	r->beat_ms = CS_NODE_HEARTBEAT_MS;
	if (reply->node_ttl_ms > 0 && reply->node_ttl_ms / 4 < CS_NODE_HEARTBEAT_MS)
		r->beat_ms = reply->node_ttl_ms / 4;
	r->asked_mono_ms = now(r);
	changed(r, NULL);
}

static Countersign__V1__Address **address_list(
	const struct cs_ip *addrs, size_t n, Countersign__V1__Address *space, Countersign__V1__Address **refs)
{
	for (size_t i = 0; i < n; i++) {
		cs_ip_to_pb(&addrs[i], &space[i]);
		refs[i] = &space[i];
	}
	return refs;
}

static void say_hello(struct cs_replica *r)
{
	struct cs_ask *ask = cs_node_hello(r->options.node);
	Countersign__V1__HelloRequest in = COUNTERSIGN__V1__HELLO_REQUEST__INIT;
	Countersign__V1__Address addrs[CS_NODE_ADDRS_MAX], *refs[CS_NODE_ADDRS_MAX];
	struct cs_grpc_call_options options = {.timeout_ms = HELLO_MS};
	struct cs_error e;
	in.addresses = address_list(ask->addrs, ask->naddrs, addrs, refs);
	in.n_addresses = ask->naddrs;
	in.port = ask->port;
	in.path = ask->path;
	in.version = (char *)CS_VERSION;
	r->saying_hello = true;
	r->hello_life = r->life;
	if (cs_grpc_unary(r->channel, &countersign__v1__cluster__descriptor, "Hello", &in.base, &options, on_hello, r,
		    NULL, &e) < 0) {
		r->saying_hello = false;
		give_up(r, &e, HELLO_WAIT_MS);
	}
	cs_ask_free(ask);
}

static void on_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	(void)channel;
	struct cs_replica *r = data;
	if (r->closed)
		return;
	if (state == CS_GRPC_READY) {
		r->reset_mono_ms = 0;
		say_hello(r);
	} else if (error) {
		lost(r, error);
	}
}

/* --- heartbeats --- */

static void beat(struct cs_replica *r);

/* True: it says another thing than before. */
static bool note_trouble(struct cs_replica *r, const Countersign__V1__HeartbeatReply *reply)
{
	struct cs_error e = {0};
	const Countersign__V1__Reason *why = reply->trouble;
	int reason = why && why->name[0] ? cs_reason_parse(why->name) : -1;
	r->silent_ms = reply->silent_ms;
	if (why && why->name[0])
		cs_error_reason(&e, -EAGAIN, reason < 0 ? CS_R_NONE : (enum cs_reason)reason, "%s", why->detail);
	bool other = e.reason != r->trouble.reason;
	r->trouble = e;
	return other;
}

static void on_beat(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	struct cs_replica *r = data;
	const Countersign__V1__HeartbeatReply *reply = (const Countersign__V1__HeartbeatReply *)message;
	struct cs_error e;
	if (r->closed || r->life != r->beat_life)
		return;
	r->beating = false;
	if (cs_grpc_status_error(status, &e) < 0) {
		cs_error_prefix(&e, "%s, heartbeat", r->options.server);
		give_up(r, &e, 0);
		return;
	}
	bool other = r->leads != reply->leader;
	note_leads(r, reply->leader);
	r->epoch = reply->epoch;
	bool trouble = note_trouble(r, reply);
	if (r->leads && !r->registered && !r->saying_hello)
		say_hello(r); /* it leads only now: then it has to take this node itself */
	else if (other || trouble)
		changed(r, NULL);
	if (r->beat_again)
		beat(r);
}

/* One at a time; what is asked for meanwhile goes with the next. */
static void beat(struct cs_replica *r)
{
	Countersign__V1__HeartbeatRequest in = COUNTERSIGN__V1__HEARTBEAT_REQUEST__INIT;
	Countersign__V1__Position applied = COUNTERSIGN__V1__POSITION__INIT;
	const struct cs_grpc_call_options options = {.timeout_ms = BEAT_MS};
	struct cs_error e;
	r->beat_again = r->beating;
	if (r->beating || !r->up)
		return;
	if (r->stream && cs_node_position(r->options.node, &applied.epoch, &applied.revision))
		in.applied = &applied;
	r->asked_mono_ms = now(r);
	r->beating = true;
	r->beat_life = r->life;
	if (cs_grpc_unary(r->channel, &countersign__v1__cluster__descriptor, "Heartbeat", &in.base, &options, on_beat,
		    r, NULL, &e) < 0) {
		r->beating = false;
		give_up(r, &e, 0);
	}
}

/* --- the directory --- */

static void on_batch(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)call;
	struct stream *stream = data;
	struct cs_replica *r = stream->replica;
	const Countersign__V1__DirectoryBatch *batch = (const Countersign__V1__DirectoryBatch *)message;
	if (!r || r->closed)
		return;
	r->heard_mono_ms = now(r);
	r->options.events->batch(r, batch, r->options.events->data);
	if (batch->ack && stream->replica)
		beat(r);
}

static void on_stream_end(const struct cs_grpc_status *status, void *data)
{
	struct stream *stream = data;
	struct cs_replica *r = stream->replica;
	struct cs_error e;
	free(stream);
	if (!r)
		return;
	r->stream = NULL;
	if (r->closed)
		return;
	if (cs_grpc_status_error(status, &e) == 0)
		cs_error_set(&e, -EPIPE, "the directory was ended");
	cs_error_prefix(&e, "%s, directory", r->options.server);
	int64_t again_ms = AGAIN_MS + (int64_t)(cs_node_random() % AGAIN_JITTER_MS);
	bool unknown = status->code == CS_GRPC_FAILED_PRECONDITION;
	r->again_mono_ms = now(r) + (unknown ? UNKNOWN_MS : again_ms);
	if (unknown)
		e.code = -EAGAIN;
	r->options.events->ended(r, &e, r->options.events->data);
}

void cs_replica_follow(struct cs_replica *r)
{
	Countersign__V1__FollowRequest in = COUNTERSIGN__V1__FOLLOW_REQUEST__INIT;
	Countersign__V1__Position position = COUNTERSIGN__V1__POSITION__INIT;
	struct stream *stream = cs_xcalloc(1, sizeof(*stream));
	struct cs_error e;
	stream->replica = r;
	if (cs_node_position(r->options.node, &position.epoch, &position.revision))
		in.resume = &position;
	in.policy_for_node = (char *)cs_node_name(r->options.node);
	r->heard_mono_ms = now(r);
	if (cs_grpc_stream(r->channel, &countersign__v1__directory__descriptor, "Follow", &in.base, NULL, on_batch,
		    on_stream_end, stream, &stream->call, &e) < 0) {
		free(stream);
		give_up(r, &e, CS_CLAIM_RETRY_MIN_MS);
		return;
	}
	r->stream = stream;
}

int64_t cs_replica_may_follow_mono_ms(const struct cs_replica *r)
{
	return r->again_mono_ms;
}

/* --- asks --- */

int cs_replica_ask_take(struct cs_replica *r, struct cs_ask *ask, struct cs_error *e)
{
	return cs_node_ask_send_take(r->channel, ask, e);
}

struct asking_published {
	cs_replica_published *done;
	void *data;
};

static void on_published(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	struct asking_published *p = data;
	const Countersign__V1__PublishedReply *reply = (const Countersign__V1__PublishedReply *)message;
	struct cs_error e;
	if (cs_grpc_status_error(status, &e) < 0)
		p->done(p->data, 0, 0, &e);
	else
		p->done(p->data, reply->followers, reply->stale, NULL);
	free(p);
}

int cs_replica_ask_published(
	struct cs_replica *r, uint64_t revision, cs_replica_published *done, void *data, struct cs_error *e)
{
	Countersign__V1__PublishedRequest in = COUNTERSIGN__V1__PUBLISHED_REQUEST__INIT;
	Countersign__V1__Position position = COUNTERSIGN__V1__POSITION__INIT;
	const struct cs_grpc_call_options options = {.timeout_ms = PUBLISHED_MS};
	struct asking_published *p = cs_xcalloc(1, sizeof(*p));
	*p = (struct asking_published){.done = done, .data = data};
	position.epoch = r->epoch;
	position.revision = revision;
	in.position = &position;
	int result = cs_grpc_unary(r->channel, &countersign__v1__cluster__descriptor, "Published", &in.base, &options,
		on_published, p, NULL, e);
	if (result < 0)
		free(p);
	return result;
}

/* --- time --- */

void cs_replica_tick(struct cs_replica *r, bool hurry)
{
	struct cs_error e;
	int64_t at = now(r);
	if (r->stream && at - r->heard_mono_ms > SILENCE_MS) {
		cs_error_set(&e, -ETIMEDOUT, "%s: the directory has said nothing for %d s", r->options.server,
			SILENCE_MS / 1000);
		give_up(r, &e, 0);
	}
	if (r->up && at - r->asked_mono_ms >= (hurry && r->beat_ms > HURRY_MS ? HURRY_MS : r->beat_ms))
		beat(r);
	if (r->reset_mono_ms != 0 && at >= r->reset_mono_ms) {
		r->reset_mono_ms = 0;
		cs_grpc_channel_reset(r->channel);
	}
}

/* --- life --- */

int cs_replica_new(const struct cs_replica_options *options, struct cs_replica **ret, struct cs_error *e)
{
	struct cs_replica *r = cs_xcalloc(1, sizeof(*r));
	struct cs_grpc_channel_options channel = {.target = options->server,
		.tls = options->tls,
		.limits = {.message_max = MESSAGE_MAX, .unpack_max = 8 * MESSAGE_MAX},
		.backoff_max_ms = 3000, /* nobody else may lead */
		.keep = true,
		.on_state = on_state,
		.data = r};
	r->options = *options;
	int result = cs_grpc_channel_new(options->loop, &channel, &r->channel, e);
	if (result < 0) {
		free(r);
		return result;
	}
	*ret = r;
	return 0;
}

static void channel_closed(void *data)
{
	struct cs_replica *r = data;
	void (*closed)(void *) = r->on_closed;
	void *closed_data = r->closed_data;
	free(r);
	if (closed)
		closed(closed_data);
}

void cs_replica_close(struct cs_replica *r, void (*closed)(void *), void *data)
{
	r->closed = true;
	r->up = r->registered = r->leads = false;
	r->on_closed = closed;
	r->closed_data = data;
	cs_grpc_channel_close(r->channel, channel_closed, r);
}
