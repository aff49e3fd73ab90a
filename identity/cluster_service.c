#include "cluster_service.h"

#include <errno.h>
#include <countersign/v1/cluster.pb-c.h>
#include "endpoint.h"
#include "log.h"
#include "mem.h"

struct cs_cluster_service {
	struct cs_cluster_service_options options;
	struct cs_directory_service *directory;
	struct cs_grpc_service grpc;
	struct cs_metric *connections;
};

/* Where a connection is; outlives it while an ask is under way. ELSEWHERE: another replica has to take the node's Hello. */
enum greeting { SAID_NOTHING, SAYING_HELLO, SAID_HELLO, SAID_ELSEWHERE };
struct node_conn {
	unsigned refs;
	enum greeting greeting;
};

/* A call that waits for the cluster. */
struct pending {
	struct cs_cluster_service *service;
	struct cs_grpc_call *call; /* NULL: it is gone */
	struct node_conn *conn;
};

static void conn_unref(struct node_conn *conn)
{
	if (--conn->refs == 0)
		free(conn);
}

static int64_t now(const struct cs_cluster_service *s)
{
	return cs_loop_mono_ms(s->options.loop);
}

void cs_cluster_service_connected(struct cs_grpc_conn *conn, void *data)
{
	struct cs_cluster_service *s = data;
	struct node_conn *state = cs_xcalloc(1, sizeof(*state));
	state->refs = 1;
	cs_grpc_conn_set_data(conn, state);
	cs_peers_connected(s->options.peers, conn, now(s));
	cs_metric_set(s->connections, (double)cs_peers_connections(s->options.peers));
	cs_info("a node is connected", cs_str("node", cs_grpc_conn_peer(conn)));
}

void cs_cluster_service_disconnected(struct cs_grpc_conn *conn, void *data)
{
	struct cs_cluster_service *s = data;
	cs_peers_disconnected(s->options.peers, conn);
	cs_metric_set(s->connections, (double)cs_peers_connections(s->options.peers));
	cs_info("a node is disconnected", cs_str("node", cs_grpc_conn_peer(conn)));
	conn_unref(cs_grpc_conn_data(conn));
	cs_grpc_conn_set_data(conn, NULL);
}

static bool is_unavailable(const struct cs_error *e)
{
	return e->reason == CS_R_NOT_LEADER || e->reason == CS_R_STORE_UNAVAILABLE || e->code == -ESHUTDOWN;
}

static void refuse(struct cs_grpc_call *call, const struct cs_error *e)
{
	enum cs_grpc_code code = is_unavailable(e)                           ? CS_GRPC_UNAVAILABLE
				 : e->code == -EINVAL                        ? CS_GRPC_INVALID_ARGUMENT
				 : e->code == -EACCES                        ? CS_GRPC_PERMISSION_DENIED
				 : e->code == -EADDRINUSE                    ? CS_GRPC_ALREADY_EXISTS
				 : e->code == -ENOSPC || e->code == -ENOBUFS ? CS_GRPC_RESOURCE_EXHAUSTED
				 : e->code == -EPERM                         ? CS_GRPC_FAILED_PRECONDITION
									     : CS_GRPC_INTERNAL;
	cs_grpc_finish_error(call, code, e);
}

static void on_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	((struct pending *)data)->call = NULL; /* what was asked is done all the same */
}

/* --- answers --- */

/* Does the directory have it as a node, with addresses? Then some leader has taken it. */
static bool is_known(const struct cs_cluster_service *s, const char *node)
{
	const struct cs_directory *dir = cs_cluster_directory(s->options.cluster);
	const Countersign__V1__Node *record = cs_dir_node(dir, node);
	return record && record->n_addresses > 0;
}

static void reply_hello(struct pending *p, struct cs_ask *ask)
{
	const struct cs_cluster_service *s = p->service;
	Countersign__V1__HelloReply reply = COUNTERSIGN__V1__HELLO_REPLY__INIT;
	/* Who cannot register it may serve it: whom another replica took, and whom the store knew before it went away. */
	bool elsewhere = ask->result < 0 && is_unavailable(&ask->error) && ask->error.code != -ESHUTDOWN;
	p->conn->greeting = elsewhere ? SAID_ELSEWHERE : ask->result < 0 ? SAID_NOTHING : SAID_HELLO;
	if (!p->call)
		return;
	if (ask->result < 0 && !elsewhere) {
		cs_warn("a node's Hello is refused", cs_str("node", ask->node), cs_err(&ask->error),
			cs_why(ask->error.reason));
		refuse(p->call, &ask->error);
		return;
	}
	reply.epoch = cs_dir_epoch(cs_cluster_directory(s->options.cluster));
	reply.trust_domain = (char *)s->options.trust_domain;
	reply.cluster_id = s->options.cluster_id;
	reply.node_ttl_ms = (uint32_t)s->options.node_ttl_ms;
	reply.leader = cs_cluster_leads(s->options.cluster) && !elsewhere;
	reply.leader_name = (char *)cs_cluster_leader(s->options.cluster);
	cs_grpc_reply(p->call, &reply.base);
}

static void fill_reply(const struct cs_claim *claim, uint64_t revision, Countersign__V1__ClaimReply *ret,
	Countersign__V1__Reason *reason)
{
	countersign__v1__claim_reply__init(ret);
	countersign__v1__reason__init(reason);
	ret->identity = claim->identity;
	ret->revision = revision;
	ret->retry_after_ms = (uint32_t)claim->retry_after_ms;
	if (claim->result == 0)
		return;
	reason->name = (char *)cs_reason_name(claim->error.reason);
	reason->detail = (char *)claim->error.text;
	ret->refused = reason;
}

static void note_refusals(const struct cs_ask *ask)
{
	for (size_t i = 0; i < ask->nclaims; i++)
		if (ask->claims[i].result < 0)
			cs_warn("claim refused", cs_str("node", ask->node), cs_str("endpoint", ask->claims[i].id),
				cs_err(&ask->claims[i].error), cs_why(ask->claims[i].error.reason));
}

static void reply_claims(struct pending *p, const struct cs_ask *ask)
{
	Countersign__V1__ClaimReply *replies = cs_xcalloc(ask->nclaims, sizeof(*replies));
	Countersign__V1__ClaimReply **refs = cs_xcalloc(ask->nclaims, sizeof(*refs));
	Countersign__V1__Reason *reasons = cs_xcalloc(ask->nclaims, sizeof(*reasons));
	Countersign__V1__ReconcileClaimsReply all = COUNTERSIGN__V1__RECONCILE_CLAIMS_REPLY__INIT;
	for (size_t i = 0; i < ask->nclaims; i++) {
		fill_reply(&ask->claims[i], ask->revision, &replies[i], &reasons[i]);
		refs[i] = &replies[i];
	}
	all.replies = refs;
	all.n_replies = ask->nclaims;
	cs_grpc_reply(p->call, ask->kind == CS_ASK_CLAIM ? &replies[0].base : &all.base);
	free(reasons);
	free(refs);
	free(replies);
}

static void on_done(struct cs_ask *ask, void *data)
{
	struct pending *p = data;
	cs_peers_answered(p->service->options.peers, ask->node, ask->nclaims);
	Countersign__V1__ReleaseReply released = COUNTERSIGN__V1__RELEASE_REPLY__INIT;
	if (ask->kind == CS_ASK_HELLO)
		reply_hello(p, ask);
	else if (p->call && ask->result < 0)
		refuse(p->call, &ask->error);
	else if (p->call && ask->kind == CS_ASK_RELEASE) {
		released.revision = ask->revision;
		cs_grpc_reply(p->call, &released.base);
	} else if (p->call) {
		note_refusals(ask);
		reply_claims(p, ask);
	}
	conn_unref(p->conn);
	free(p);
	cs_ask_free(ask);
}

/* --- questions --- */

static void ask_take(struct cs_cluster_service *s, struct cs_grpc_call *call, struct cs_ask *ask)
{
	struct pending *p = cs_xcalloc(1, sizeof(*p));
	struct cs_error e;
	*p = (struct pending){.service = s, .call = call, .conn = cs_grpc_conn_data(cs_grpc_call_conn(call))};
	p->conn->refs++;
	ask->done = on_done;
	ask->data = p;
	cs_peers_heard(s->options.peers, ask->node, now(s));
	cs_grpc_call_watch(call, on_cancel, NULL, p);
	if (cs_peers_ask(s->options.peers, ask->node, ask->nclaims, &e) < 0 ||
		cs_cluster_ask_take(s->options.cluster, ask, &e) < 0) {
		ask->result = e.code;
		ask->error = e;
		on_done(ask, p);
	}
}

static bool is_path(const char *path)
{
	for (size_t i = 0; cs_node_paths[i]; i++)
		if (strcmp(path, cs_node_paths[i]) == 0)
			return true;
	return false;
}

static int read_hello(const Countersign__V1__HelloRequest *in, struct cs_ask *ask, struct cs_error *e)
{
	int r = cs_ips_from_pb(in->addresses, in->n_addresses, CS_NODE_ADDRS_MAX, ask->addrs, &ask->naddrs, e);
	if (r == 0 && (in->port == 0 || in->port > 65535))
		r = cs_error_set(e, -EINVAL, "%u is no port", in->port);
	if (r == 0 && !is_path(in->path))
		r = cs_error_set(
			e, -EINVAL, "the path is trusted, wireguard, ipsec, vxlan or unknown, not '%.32s'", in->path);
	ask->port = in->port;
	ask->path = cs_xstrdup(in->path);
	return r;
}

static void hello(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const char *name = cs_grpc_conn_peer(cs_grpc_call_conn(call));
	struct node_conn *conn = cs_grpc_conn_data(cs_grpc_call_conn(call));
	struct cs_error e;
	bool again = conn->greeting == SAID_ELSEWHERE; /* then this replica did not lead */
	int r = conn->greeting == SAID_NOTHING || again
			? 0
			: cs_error_set(&e, -EPERM, "Hello was said on this connection already");
	if (r == 0 && strlen(name) > CS_NODE_NAME_BYTES)
		r = cs_error_set(&e, -EINVAL, "the name of a node has at most %d bytes", CS_NODE_NAME_BYTES);
	if (r < 0) {
		refuse(call, &e);
		return;
	}
	struct cs_ask *ask = cs_ask_new(CS_ASK_HELLO, name, 0);
	if (read_hello((const Countersign__V1__HelloRequest *)message, ask, &e) < 0) {
		refuse(call, &e);
		cs_ask_free(ask);
		return;
	}
	conn->greeting = again ? SAID_ELSEWHERE : SAYING_HELLO;
	ask_take(data, call, ask);
}

static bool greeted(struct cs_grpc_call *call)
{
	const struct node_conn *conn = cs_grpc_conn_data(cs_grpc_call_conn(call));
	if (conn->greeting == SAID_HELLO)
		return true;
	cs_grpc_finish(call, CS_GRPC_FAILED_PRECONDITION, "Hello comes before anything else");
	return false;
}

bool cs_cluster_service_may_follow(struct cs_grpc_call *call, void *service)
{
	const struct node_conn *conn = cs_grpc_conn_data(cs_grpc_call_conn(call));
	if (conn->greeting != SAID_ELSEWHERE)
		return greeted(call);
	if (is_known(service, cs_grpc_conn_peer(cs_grpc_call_conn(call))))
		return true;
	cs_grpc_finish(call, CS_GRPC_FAILED_PRECONDITION,
		"this replica does not know the node yet: the leader takes its Hello first");
	return false;
}

/* For asks: the leader answers them all, and whoever does not lead says so. */
static bool may_ask(struct cs_grpc_call *call)
{
	const struct node_conn *conn = cs_grpc_conn_data(cs_grpc_call_conn(call));
	return conn->greeting == SAID_ELSEWHERE || greeted(call);
}

static int read_claim(const Countersign__V1__ClaimRequest *in, struct cs_claim *claim, struct cs_error *e)
{
	int r = cs_endpoint_id_check(in->id, e);
	if (r == 0)
		r = cs_endpoint_addresses(in->addresses, in->n_addresses, claim->addrs, &claim->naddrs, e);
	if (r == 0)
		r = cs_labels_from_proto(in->labels, in->n_labels, &claim->labels, e);
	if (r == 0)
		r = cs_labels_check_claim(&claim->labels, e);
	claim->id = cs_xstrdup(in->id);
	claim->prepare = in->prepare;
	return r;
}

static void read_claims_and_ask(struct cs_cluster_service *s, struct cs_grpc_call *call, enum cs_ask_kind kind,
	Countersign__V1__ClaimRequest *const *claims, size_t n)
{
	struct cs_error e = {0};
	if (!may_ask(call))
		return;
	if (n > CS_NODE_ENDPOINTS_MAX) {
		cs_grpc_finish_reason(call, CS_GRPC_RESOURCE_EXHAUSTED, CS_R_TOO_MANY, "at most %d claims of a node",
			CS_NODE_ENDPOINTS_MAX);
		return;
	}
	struct cs_ask *ask = cs_ask_new(kind, cs_grpc_conn_peer(cs_grpc_call_conn(call)), n);
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++)
		r = read_claim(claims[i], &ask->claims[i], &e);
	if (r < 0) {
		refuse(call, &e);
		cs_ask_free(ask);
		return;
	}
	ask_take(s, call, ask);
}

static void claim(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	Countersign__V1__ClaimRequest *in = (Countersign__V1__ClaimRequest *)message;
	read_claims_and_ask(data, call, CS_ASK_CLAIM, &in, 1);
}

static void reconcile(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__ReconcileClaimsRequest *in = (const Countersign__V1__ReconcileClaimsRequest *)message;
	read_claims_and_ask(data, call, CS_ASK_RECONCILE, in->claims, in->n_claims);
}

static void release(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__ReleaseRequest *in = (const Countersign__V1__ReleaseRequest *)message;
	struct cs_error e;
	if (!may_ask(call))
		return;
	if (cs_endpoint_id_check(in->id, &e) < 0) {
		refuse(call, &e);
		return;
	}
	struct cs_ask *ask = cs_ask_new(CS_ASK_RELEASE, cs_grpc_conn_peer(cs_grpc_call_conn(call)), 1);
	ask->claims[0].id = cs_xstrdup(in->id);
	ask_take(data, call, ask);
}

static void heartbeat(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_cluster_service *s = data;
	const Countersign__V1__HeartbeatRequest *in = (const Countersign__V1__HeartbeatRequest *)message;
	const struct cs_grpc_conn *conn = cs_grpc_call_conn(call);
	Countersign__V1__HeartbeatReply reply = COUNTERSIGN__V1__HEARTBEAT_REPLY__INIT;
	if (!may_ask(call))
		return;
	cs_peers_heard(s->options.peers, cs_grpc_conn_peer(conn), now(s));
	if (in->applied && s->directory)
		cs_directory_service_applied(s->directory, conn, in->applied->epoch, in->applied->revision);
	reply.leader = cs_cluster_leads(s->options.cluster);
	reply.leader_name = (char *)cs_cluster_leader(s->options.cluster);
	reply.silent_ms = (uint32_t)cs_cluster_silent_ms(s->options.cluster);
	reply.epoch = cs_dir_epoch(cs_cluster_directory(s->options.cluster));
	Countersign__V1__Reason trouble = COUNTERSIGN__V1__REASON__INIT;
	struct cs_error why;
	if (!reply.leader) {
		cs_cluster_why_not(s->options.cluster, &why);
		trouble.name = (char *)cs_reason_name(why.reason);
		trouble.detail = why.text;
		reply.trouble = &trouble;
	}
	cs_grpc_reply(call, &reply.base);
}

/* --- who has what --- */

struct publishing {
	struct cs_grpc_call *call;
	struct cs_published *published;
};

static void on_published(void *data, size_t have, size_t stale)
{
	struct publishing *p = data;
	Countersign__V1__PublishedReply reply = COUNTERSIGN__V1__PUBLISHED_REPLY__INIT;
	reply.followers = (uint32_t)have;
	reply.stale = (uint32_t)stale;
	cs_grpc_reply(p->call, &reply.base);
	free(p);
}

static void published_cancel(struct cs_grpc_call *call, void *data)
{
	(void)call;
	struct publishing *p = data;
	cs_published_cancel(p->published);
	free(p);
}

static void published(struct cs_grpc_call *call, const ProtobufCMessage *message, void *data)
{
	struct cs_cluster_service *s = data;
	const Countersign__V1__PublishedRequest *in = (const Countersign__V1__PublishedRequest *)message;
	struct cs_error e;
	if (!may_ask(call))
		return;
	if (!in->position || in->position->epoch != cs_dir_epoch(cs_cluster_directory(s->options.cluster))) {
		cs_grpc_finish(call, CS_GRPC_ABORTED, "the position is of another epoch: claim anew");
		return;
	}
	struct publishing *p = cs_xcalloc(1, sizeof(*p));
	p->call = call;
	cs_grpc_call_watch(call, published_cancel, NULL, p);
	if (cs_directory_service_published(s->directory, in->position->revision, on_published, p, &p->published, &e) <
		0) {
		free(p);
		refuse(call, &e);
	}
}

static const struct cs_grpc_method methods[] = {
	{.name = "Hello", .roles = CS_ROLE_PEER, .fn = hello},
	{.name = "Claim", .roles = CS_ROLE_PEER, .fn = claim},
	{.name = "Release", .roles = CS_ROLE_PEER, .fn = release},
	{.name = "ReconcileClaims", .roles = CS_ROLE_PEER, .fn = reconcile},
	{.name = "Heartbeat", .roles = CS_ROLE_PEER, .fn = heartbeat},
	{.name = "Published", .roles = CS_ROLE_PEER, .fn = published},
};

struct cs_cluster_service *cs_cluster_service_new(const struct cs_cluster_service_options *options)
{
	struct cs_cluster_service *s = cs_xcalloc(1, sizeof(*s));
	s->options = *options;
	s->grpc = (struct cs_grpc_service){.descriptor = &countersign__v1__cluster__descriptor,
		.methods = methods,
		.nmethods = sizeof(methods) / sizeof(methods[0]),
		.data = s};
	s->connections = cs_gauge(options->metrics, "countersign_cluster_connections", "Connections of nodes", NULL, 1);
	return s;
}

void cs_cluster_service_follow(struct cs_cluster_service *s, struct cs_directory_service *directory)
{
	s->directory = directory;
}

const struct cs_grpc_service *cs_cluster_service_grpc(const struct cs_cluster_service *s)
{
	return &s->grpc;
}

void cs_cluster_service_free(struct cs_cluster_service *s)
{
	free(s);
}
