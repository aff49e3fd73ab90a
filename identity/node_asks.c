/* Asks of the node role as calls of the service Cluster. */
#include "node_asks.h"

#include <errno.h>
#include <countersign/v1/cluster.pb-c.h>
#include "mem.h"

struct pending {
	struct cs_ask *ask;
};

static void read_reply(struct cs_claim *claim, const Countersign__V1__ClaimReply *reply)
{
	claim->identity = reply->identity;
	claim->retry_after_ms = reply->retry_after_ms;
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
		for (size_t i = 0; i < ask->nclaims && ask->result == 0; i++) {
			read_reply(&ask->claims[i], reply->replies[i]);
			ask->revision = reply->replies[i]->revision;
		}
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
	ret->prepare = claim->prepare;
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

static int send_claims(struct cs_grpc_channel *channel, struct pending *p, struct cs_error *e)
{
	const struct cs_grpc_call_options options = {.timeout_ms = CS_NODE_ASK_MS};
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
	int result = cs_grpc_unary(channel, &countersign__v1__cluster__descriptor, one ? "Claim" : "ReconcileClaims",
		one ? &claims[0].base : &all.base, &options, on_reply, p, NULL, e);
	for (size_t i = 0; i < ask->nclaims; i++)
		free_claim(&claims[i]);
	free(claims);
	free(refs);
	return result;
}

static int send_release(struct cs_grpc_channel *channel, struct pending *p, struct cs_error *e)
{
	const struct cs_grpc_call_options options = {.timeout_ms = CS_NODE_ASK_MS};
	Countersign__V1__ReleaseRequest in = COUNTERSIGN__V1__RELEASE_REQUEST__INIT;
	in.id = p->ask->claims[0].id;
	return cs_grpc_unary(
		channel, &countersign__v1__cluster__descriptor, "Release", &in.base, &options, on_reply, p, NULL, e);
}

int cs_node_ask_send_take(struct cs_grpc_channel *channel, struct cs_ask *ask, struct cs_error *e)
{
	struct pending *p = cs_xcalloc(1, sizeof(*p));
	p->ask = ask;
	int result = ask->kind == CS_ASK_RELEASE ? send_release(channel, p, e) : send_claims(channel, p, e);
	if (result < 0)
		free(p);
	return result;
}
