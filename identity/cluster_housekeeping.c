#include "cluster_housekeeping.h"

#include "log.h"
#include "mem.h"

#define LOOK_MIN_MS 250
#define LOOK_MAX_MS 5000
/* Identities are collected a few at a time, so that it is never noticed. */
#define COLLECT_MS  60000
#define COLLECT_MAX 500

struct cs_housekeeping {
	struct cs_housekeeping_options options;
	struct cs_timer look, collect;
	bool collecting;
	struct cs_metric *gone, *forgotten, *collected;
};

static int64_t now(const struct cs_housekeeping *h)
{
	return cs_loop_mono_ms(h->options.loop);
}

static void ask(struct cs_housekeeping *h, struct cs_ask *ask, void (*done)(struct cs_ask *ask, void *data))
{
	ask->done = done;
	ask->data = h;
	if (cs_cluster_ask_take(h->options.cluster, ask, &ask->error) < 0) {
		ask->result = ask->error.code;
		done(ask, h);
	}
}

/* --- nodes --- */

static void on_gone(struct cs_ask *ask, void *data)
{
	struct cs_housekeeping *h = data;
	if (ask->result == 0 && ask->gone) {
		cs_metric_add(h->gone, 1);
		cs_audit("a node is not heard any more: its endpoints go unless it comes back",
			cs_str("node", ask->node), cs_i64("ttl_ms", h->options.node_ttl_ms),
			cs_i64("grace_ms", h->options.node_grace_ms));
	} else if (ask->result == 0) {
		cs_audit("a node that was gone is heard again", cs_str("node", ask->node));
	}
	cs_ask_free(ask);
}

static void on_forgotten(struct cs_ask *ask, void *data)
{
	struct cs_housekeeping *h = data;
	if (ask->result == 0) {
		cs_metric_add(h->forgotten, 1);
		cs_audit("a node is gone for good: it and its endpoints are taken out of the directory",
			cs_str("node", ask->node), cs_u64("endpoints", ask->nreleased));
		cs_peers_turn_out(h->options.peers, ask->node); /* if it still hangs on, it has to say Hello anew */
	}
	cs_ask_free(ask);
}

struct looking {
	struct cs_housekeeping *h;
	int64_t now_ms, led_ms; /* how long this replica has led */
	struct cs_ask **asks;   /* made after the walk: what they change is what is walked over */
	size_t n;
};

static void add(struct looking *l, enum cs_ask_kind kind, const char *node, bool gone)
{
	l->asks = cs_xrealloc(l->asks, l->n + 1, sizeof(*l->asks));
	l->asks[l->n] = cs_ask_new(kind, node, 0);
	l->asks[l->n++]->gone = gone;
}

static void look_at(void *data, const cs_record *record)
{
	struct looking *l = data;
	const struct cs_housekeeping_options *o = &l->h->options;
	const Countersign__V1__Node *node = record->node;
	if (o->own_node && strcmp(node->name, o->own_node) == 0)
		return;
	int64_t heard_ms = cs_peers_heard_mono_ms(o->peers, node->name);
	bool ever = heard_ms != INT64_MIN;
	int64_t silent_ms = ever ? l->now_ms - heard_ms : INT64_MAX;
	/* Whom it heard when it did not lead counts; that it did not hear somebody then does not. */
	int64_t missed_ms = silent_ms < l->led_ms ? silent_ms : l->led_ms;
	if (node->gone && silent_ms <= o->node_ttl_ms)
		add(l, CS_ASK_GONE, node->name, false);
	else if (!node->gone && missed_ms > o->node_ttl_ms)
		add(l, CS_ASK_GONE, node->name, true);
	else if (node->gone && missed_ms > o->node_ttl_ms + o->node_grace_ms)
		add(l, CS_ASK_FORGET, node->name, true);
}

static void on_look(struct cs_timer *timer)
{
	struct cs_housekeeping *h = timer->data;
	struct looking l = {.h = h, .now_ms = now(h)};
	if (!cs_cluster_leads(h->options.cluster))
		return;
	l.led_ms = l.now_ms - cs_cluster_leads_since_mono_ms(h->options.cluster);
	cs_dir_each(cs_cluster_directory(h->options.cluster), COUNTERSIGN__V1__KIND__KIND_NODE, look_at, &l);
	for (size_t i = 0; i < l.n; i++)
		ask(h, l.asks[i], l.asks[i]->kind == CS_ASK_GONE ? on_gone : on_forgotten);
	free(l.asks);
	cs_peers_forget(h->options.peers, l.now_ms - 2 * (h->options.node_ttl_ms + h->options.node_grace_ms));
}

/* --- identities --- */

static void on_collected(struct cs_ask *ask, void *data)
{
	struct cs_housekeeping *h = data;
	h->collecting = false;
	cs_metric_add(h->collected, (double)ask->marked, "marked");
	cs_metric_add(h->collected, (double)ask->deleted, "deleted");
	if (ask->deleted > 0)
		cs_info("identities without endpoints are deleted; their numbers rest", cs_u64("count", ask->deleted));
	cs_ask_free(ask);
}

static void on_collect(struct cs_timer *timer)
{
	struct cs_housekeeping *h = timer->data;
	if (!cs_cluster_leads(h->options.cluster) || h->collecting)
		return;
	struct cs_ask *a = cs_ask_new(CS_ASK_COLLECT, "", 0);
	a->grace_ms = h->options.gc_grace_ms;
	a->collect_max = COLLECT_MAX;
	h->collecting = true;
	ask(h, a, on_collected);
}

/* --- life --- */

static int64_t between(int64_t ms, int64_t min, int64_t max)
{
	return ms < min ? min : ms > max ? max : ms;
}

struct cs_housekeeping *cs_housekeeping_new(const struct cs_housekeeping_options *options)
{
	struct cs_housekeeping *h = cs_xcalloc(1, sizeof(*h));
	struct cs_metrics *m = options->metrics;
	h->options = *options;
	h->gone = cs_counter(m, "countersign_nodes_gone_total", "Nodes that were not heard for node.ttl", NULL, 1);
	h->forgotten = cs_counter(
		m, "countersign_nodes_forgotten_total", "Nodes that lost their endpoints after their grace", NULL, 1);
	h->collected = cs_counter(m, "countersign_identities_collected_total",
		"Identities without endpoints: marked first, deleted later", "what", 2);
	int64_t look_ms = between(options->node_ttl_ms / 6, LOOK_MIN_MS, LOOK_MAX_MS);
	int64_t collect_ms = between(options->gc_grace_ms / 4, LOOK_MIN_MS, COLLECT_MS);
	cs_timer_init(&h->look, options->loop, on_look, h);
	cs_timer_start(&h->look, look_ms, look_ms);
	cs_timer_init(&h->collect, options->loop, on_collect, h);
	cs_timer_start(&h->collect, collect_ms, collect_ms);
	return h;
}

void cs_housekeeping_close(struct cs_housekeeping *h)
{
	if (!h)
		return;
	cs_timer_close(&h->look, NULL);
	cs_timer_close(&h->collect, NULL);
}

void cs_housekeeping_free(struct cs_housekeeping *h)
{
	free(h);
}
