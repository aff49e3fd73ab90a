/* What the node role asks of the cluster role: claims, releases, and all of them after a reconnect or a refusal. */
#include "node_private.h"

#include "log.h"
#include "mem.h"

static void arm_retry(struct cs_node *node, int64_t ms)
{
	if (!node->closing && !cs_timer_active(&node->retry))
		cs_timer_start(&node->retry, ms, 0);
}

/* Which incarnations an ask was about: an answer to an earlier one is no answer. */
struct asked {
	struct cs_node *node;
	uint64_t *incarnations;
};

static struct asked *asked_new(struct cs_node *node, size_t n)
{
	struct asked *asked = cs_xcalloc(1, sizeof(*asked));
	asked->node = node;
	asked->incarnations = cs_xcalloc(n, sizeof(uint64_t));
	return asked;
}

static void asked_free(struct asked *asked)
{
	free(asked->incarnations);
	free(asked);
}

static void fill_claim(struct cs_claim *claim, const struct cs_node_endpoint *ep)
{
	struct cs_error e;
	claim->id = cs_xstrdup(ep->spec.id);
	if (cs_labels_copy(&ep->spec.labels, &claim->labels, &e) < 0)
		abort(); /* out of memory */
	memcpy(claim->addrs, ep->spec.addrs, sizeof(claim->addrs));
	claim->naddrs = ep->spec.naddrs;
	claim->prepare = ep->move.preparing;
}

static void refused(struct cs_node *node, struct cs_node_endpoint *ep, const struct cs_claim *claim)
{
	if (ep->claim != CS_CLAIM_REFUSED || ep->refused != claim->error.reason)
		cs_warn("claim refused", cs_str("endpoint", ep->spec.id), cs_err(&claim->error),
			cs_why(claim->error.reason));
	cs_metric_add(node->refused, 1, cs_reason_name(claim->error.reason));
	ep->claim = CS_CLAIM_REFUSED;
	ep->refused = claim->error.reason;
	cs_text_cut(ep->refused_text, sizeof(ep->refused_text), claim->error.text);
	ep->retry_after_ms = ep->retry_after_ms == 0 ? CS_CLAIM_RETRY_MIN_MS : ep->retry_after_ms * 2;
	if (ep->retry_after_ms > CS_CLAIM_RETRY_MAX_MS)
		ep->retry_after_ms = CS_CLAIM_RETRY_MAX_MS;
	ep->refused_until_mono_ms = cs_loop_mono_ms(node->options.loop) + claim->retry_after_ms;
	node->reconcile_due = true;
	/* A quarantine says when it is over; nothing is to be had before, and the caller need not wait for longer. */
	bool soon = claim->retry_after_ms > 0 && claim->retry_after_ms < ep->retry_after_ms;
	arm_retry(node, soon ? claim->retry_after_ms : ep->retry_after_ms);
}

/* It leads, and is heard, and yet cannot write: until its lease is over. */
static void note_store(struct cs_node *node, const struct cs_ask *ask)
{
	if (ask->result == 0)
		node->store_away[0] = '\0';
	else if (ask->error.reason == CS_R_STORE_UNAVAILABLE)
		cs_text_cut(node->store_away, sizeof(node->store_away), ask->error.text);
}

static void answered(struct cs_node *node, struct cs_ask *ask, const struct asked *asked)
{
	note_store(node, ask);
	for (size_t i = 0; i < ask->nclaims; i++) {
		const struct cs_claim *claim = &ask->claims[i];
		struct cs_node_endpoint *ep = cs_node_endpoint(node, claim->id);
		if (!ep || ep->incarnation != asked->incarnations[i])
			continue;
		if (ask->result < 0) {
			ep->claim = CS_CLAIM_DUE;
			if (!ep->conditions[COUNTERSIGN__V1__STEP__STEP_PLACED].met)
				cs_node_refresh(node, ep); /* why not may be known now */
			continue;
		}
		if (claim->prepare && claim->result == 0) {
			if (ep->move.preparing)
				cs_node_move_prepared(node, ep, claim->identity);
			cs_node_refresh(node, ep);
			continue;
		}
		ep->identity = claim->identity;
		if (claim->result < 0) {
			ep->move = (struct cs_move){0};
			refused(node, ep, claim);
		} else {
			ep->claim = CS_CLAIM_TAKEN;
			ep->retry_after_ms = 0;
			ep->taken_revision = ask->revision;
		}
		cs_node_refresh(node, ep);
		cs_node_maybe_published(node, ep);
	}
	if (ask->result < 0) {
		node->reconcile_due = true;
		arm_retry(node, CS_CLAIM_RETRY_MIN_MS);
	}
	if (ask->result < 0 && node->up)
		cs_warn("the cluster role did not take a request; it is sent again", cs_err(&ask->error));
}

static void on_answer(struct cs_ask *ask, void *data)
{
	struct asked *asked = data;
	struct cs_node *node = asked->node;
	if (ask->kind == CS_ASK_RECONCILE)
		node->reconciling = false;
	if (!node->closing) {
		answered(node, ask, asked);
		cs_node_moves_look(node);
		cs_node_publish(node);
	}
	asked_free(asked);
	cs_ask_free(ask);
}

static void send_take(struct cs_node *node, struct cs_ask *ask, struct asked *asked)
{
	ask->done = on_answer;
	ask->data = asked;
	int r = node->link->ask_take(node->link, ask, &ask->error);
	if (r < 0) {
		ask->result = r;
		on_answer(ask, asked);
	}
}

void cs_node_claim(struct cs_node *node, struct cs_node_endpoint *ep)
{
	ep->claim = CS_CLAIM_DUE;
	if (!node->up)
		return; /* all are claimed when it is there */
	struct cs_ask *ask = cs_ask_new(CS_ASK_CLAIM, node->options.name, 1);
	struct asked *asked = asked_new(node, 1);
	fill_claim(&ask->claims[0], ep);
	asked->incarnations[0] = ep->incarnation;
	ep->claim = CS_CLAIM_SENT;
	send_take(node, ask, asked);
}

void cs_node_release(struct cs_node *node, const char *id)
{
	if (!node->up)
		return;
	struct cs_ask *ask = cs_ask_new(CS_ASK_RELEASE, node->options.name, 1);
	ask->claims[0].id = cs_xstrdup(id);
	send_take(node, ask, asked_new(node, 1));
}

void cs_node_reconcile_claims(struct cs_node *node)
{
	if (!node->up || node->reconciling)
		return;
	struct cs_ask *ask = cs_ask_new(CS_ASK_RECONCILE, node->options.name, HASH_COUNT(node->endpoints));
	struct asked *asked = asked_new(node, ask->nclaims);
	struct cs_node_endpoint *ep, *tmp;
	size_t i = 0;
	HASH_ITER (hh, node->endpoints, ep, tmp) {
		fill_claim(&ask->claims[i], ep);
		asked->incarnations[i++] = ep->incarnation;
		if (ep->claim == CS_CLAIM_DUE)
			ep->claim = CS_CLAIM_SENT;
	}
	node->reconciling = true;
	node->reconcile_due = false;
	send_take(node, ask, asked);
}

void cs_node_reconcile_later(struct cs_node *node, int64_t after_ms)
{
	node->reconcile_due = true;
	arm_retry(node, after_ms);
}

static void on_retry(struct cs_timer *timer)
{
	struct cs_node *node = timer->data;
	if (node->reconcile_due)
		cs_node_reconcile_claims(node);
}

void cs_node_claims_init(struct cs_node *node)
{
	cs_timer_init(&node->retry, node->options.loop, on_retry, node);
}
