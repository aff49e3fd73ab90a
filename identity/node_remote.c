#include "node_remote.h"

#include <errno.h>
#include "log.h"
#include "mem.h"
#include "node_replica.h"

#define TICK_MS 500
/* After a replica was lost, all who followed it look for another one: not all at the same moment. */
#define FAILOVER_JITTER_MS 500
/* The claims of all nodes, made anew at a new leader, are spread over this time. */
#define RECONCILE_JITTER_MS 2000
#define STALE_MS            10000 /* a directory may be that much older before another one is followed */
#define UNHEARD_MS          10000 /* so long nobody is followed before it is told */

struct remote {
	struct cs_link link;
	struct cs_link_remote_options options;
	struct cs_replica_events events;
	struct cs_replica *replicas[CS_REPLICAS_MAX];
	size_t nreplicas, first, open; /* first: where this node begins to look, so that nodes spread over them */
	struct cs_replica *followed, *leader;
	int64_t follow_mono_ms; /* when to look for one to follow */
	int64_t heard_mono_ms;  /* the last batch; at first: the start */
	uint32_t heard_silent_ms;
	bool followed_once, led_once, unheard_said, closed;
	struct cs_error why; /* the last loss */
	struct cs_timer tick, follow;
	size_t open_timers;
	struct cs_metric *failovers;
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

/* --- whom to follow --- */

/* One that is there and may be asked; the leader last, because it has the most to do. */
static struct cs_replica *choose(const struct remote *r)
{
	struct cs_replica *leads = NULL;
	for (size_t i = 0; i < r->nreplicas; i++) {
		struct cs_replica *one = r->replicas[(r->first + i) % r->nreplicas];
		if (!cs_replica_up(one) || cs_replica_may_follow_mono_ms(one) > now(r))
			continue;
		if (!cs_replica_leads(one))
			return one;
		leads = one;
	}
	return leads;
}

static void look_for_one(struct remote *r)
{
	if (r->closed || r->followed || now(r) < r->follow_mono_ms)
		return;
	struct cs_replica *one = choose(r);
	if (!one)
		return; /* looked for again when something changes, and each second */
	r->followed = one;
	cs_node_link_following(r->options.node);
	cs_replica_follow(one);
	if (r->followed == one && r->followed_once)
		cs_info("the directory is followed at another replica", cs_str("replica", cs_replica_server(one)));
	cs_metric_add(r->failovers, r->followed_once);
	r->followed_once = true;
}

static void on_follow(struct cs_timer *timer)
{
	look_for_one(timer->data);
}

static void look_later(struct remote *r, int64_t after_ms)
{
	r->follow_mono_ms = now(r) + after_ms;
	cs_timer_start(&r->follow, after_ms, 0);
}

static void on_ended(struct cs_replica *replica, const struct cs_error *why, void *data)
{
	struct remote *r = data;
	if (r->followed != replica)
		return;
	r->followed = NULL;
	r->why = *why;
	if (why->code == -EAGAIN) /* it has not heard of this node yet: a matter of moments */
		cs_debug("the directory cannot be followed yet", cs_err(why));
	else
		cs_warn("the directory is followed no more; another replica is looked for", cs_err(why));
	look_later(r, (int64_t)(cs_node_random() % FAILOVER_JITTER_MS));
}

static void on_batch(struct cs_replica *replica, const Countersign__V1__DirectoryBatch *batch, void *data)
{
	struct remote *r = data;
	if (r->followed != replica)
		return;
	r->heard_mono_ms = now(r);
	r->heard_silent_ms = batch->silent_ms;
	if (r->unheard_said && r->leader)
		cs_node_link_silent(r->options.node, NULL);
	r->unheard_said = false;
	cs_node_link_batch(r->options.node, batch);
}

/* --- who leads --- */

static void look_for_leader(struct remote *r)
{
	struct cs_replica *leader = NULL;
	for (size_t i = 0; i < r->nreplicas; i++) {
		struct cs_replica *one = r->replicas[i];
		/* Two say so: one of them, who won it earlier, has been asleep since. */
		if (cs_replica_leads(one) &&
			(!leader || cs_replica_leads_since_mono_ms(one) > cs_replica_leads_since_mono_ms(leader)))
			leader = one;
	}
	if (leader == r->leader)
		return;
	r->leader = leader;
	if (!leader) {
		cs_node_link_down(r->options.node, &r->why);
		return;
	}
	bool spread = r->led_once && r->nreplicas > 1;
	r->led_once = true;
	cs_info("claims go to this replica", cs_str("replica", cs_replica_server(leader)));
	cs_node_link_up(r->options.node, spread ? 1 + (int64_t)(cs_node_random() % RECONCILE_JITTER_MS) : 0);
}

/* The store's trouble explains more than that nobody leads. */
static void why_nobody(struct remote *r)
{
	cs_error_reason(&r->why, -EAGAIN, CS_R_NOT_LEADER, "no replica of the cluster role says that it leads");
	for (size_t i = 0; i < r->nreplicas; i++)
		if (cs_replica_trouble(r->replicas[i])->reason == CS_R_STORE_UNAVAILABLE)
			r->why = *cs_replica_trouble(r->replicas[i]);
}

static void on_changed(struct cs_replica *replica, const struct cs_error *why, void *data)
{
	struct remote *r = data;
	if (why)
		r->why = *why;
	else if (!cs_replica_leads(replica) && !r->leader)
		why_nobody(r);
	bool was_down = !r->leader;
	look_for_leader(r);
	if (was_down && !r->leader)
		cs_node_link_down(r->options.node, &r->why); /* what the last attempt said */
	look_for_one(r);
}

/* --- the link --- */

static int ask_take(struct cs_link *link, struct cs_ask *ask, struct cs_error *e)
{
	struct remote *r = (struct remote *)link;
	if (!r->leader || r->closed)
		return cs_error_set(e, -EAGAIN, "the cluster role is not connected");
	return cs_replica_ask_take(r->leader, ask, e);
}

/* One question to all replicas that are there. Who follows one that is not will hear it from another. */
struct asking {
	cs_node_published *done;
	void *data;
	size_t left, answers, have, stale;
	struct cs_error e;
};

static void on_published(void *data, uint32_t have, uint32_t stale, const struct cs_error *e)
{
	struct asking *a = data;
	a->have += have;
	a->stale += stale;
	a->answers += !e;
	if (e)
		a->e = *e;
	if (--a->left > 0)
		return;
	a->done(a->data, a->have, a->stale, a->answers > 0 ? NULL : &a->e);
	free(a);
}

static void published(struct cs_link *link, uint64_t revision, cs_node_published *done, void *data)
{
	struct remote *r = (struct remote *)link;
	struct asking *a = cs_xcalloc(1, sizeof(*a));
	*a = (struct asking){.done = done, .data = data, .left = 1};
	cs_error_set(&a->e, -EAGAIN, "the cluster role is not connected");
	for (size_t i = 0; i < r->nreplicas; i++) {
		struct cs_error e;
		bool same = r->leader && cs_replica_epoch(r->replicas[i]) == cs_replica_epoch(r->leader);
		if (!cs_replica_up(r->replicas[i]) || !same)
			continue;
		a->left++;
		if (cs_replica_ask_published(r->replicas[i], revision, on_published, a, &e) < 0)
			on_published(a, 0, 0, &e);
	}
	struct cs_error none = a->e;
	on_published(a, 0, 0, &none);
}

/* --- time --- */

/* The one that is followed may be cut off from its store while another one is not. */
static void look_for_fresher(struct remote *r)
{
	struct cs_replica *old = r->followed;
	if (!old || r->heard_silent_ms < STALE_MS)
		return;
	for (size_t i = 0; i < r->nreplicas; i++) {
		struct cs_replica *one = r->replicas[i];
		if (one == old || !cs_replica_up(one) || cs_replica_may_follow_mono_ms(one) > now(r) ||
			cs_replica_silent_ms(one) + STALE_MS > r->heard_silent_ms)
			continue;
		cs_warn("the replica that is followed has not heard of its store for a while; another one has",
			cs_str("replica", cs_replica_server(old)), cs_u64("silent_ms", r->heard_silent_ms));
		cs_replica_unfollow(old);
		r->followed = NULL;
		r->first = i;
		r->follow_mono_ms = now(r);
		return;
	}
}

static void on_tick(struct cs_timer *timer)
{
	struct remote *r = timer->data;
	struct cs_error e;
	for (size_t i = 0; i < r->nreplicas; i++)
		cs_replica_tick(r->replicas[i], !r->leader);
	look_for_fresher(r);
	look_for_one(r);
	if (r->leader && !r->unheard_said && now(r) - r->heard_mono_ms > UNHEARD_MS) {
		r->unheard_said = true;
		e = r->why;
		cs_error_prefix(&e, "no directory is heard");
		cs_node_link_silent(r->options.node, &e);
	}
}

/* --- life --- */

static int open_replicas(struct remote *r, struct cs_error *e)
{
	const struct cs_strings *servers = r->options.servers;
	for (size_t i = 0; i < servers->n; i++) {
		const struct cs_replica_options options = {.loop = r->options.loop,
			.server = servers->items[i],
			.tls = r->options.tls,
			.node = r->options.node,
			.events = &r->events};
		int result = cs_replica_new(&options, &r->replicas[i], e);
		if (result < 0)
			return result;
		r->open = ++r->nreplicas;
	}
	return 0;
}

int cs_link_remote_new(const struct cs_link_remote_options *options, struct cs_link **ret, struct cs_error *e)
{
	struct remote *r = cs_xcalloc(1, sizeof(*r));
	r->link = (struct cs_link){.ask_take = ask_take, .silent_ms = silent_ms, .published = published};
	r->options = *options;
	r->events = (struct cs_replica_events){.changed = on_changed, .batch = on_batch, .ended = on_ended, .data = r};
	r->heard_mono_ms = now(r);
	r->first = cs_node_random() % options->servers->n;
	r->failovers = cs_counter(options->metrics, "countersign_node_failovers_total",
		"How often another replica's directory was followed, or the same one's anew", NULL, 1);
	cs_error_set(&r->why, -EAGAIN, "no replica of the cluster role has answered yet");
	cs_timer_init(&r->tick, options->loop, on_tick, r);
	cs_timer_start(&r->tick, TICK_MS, TICK_MS);
	cs_timer_init(&r->follow, options->loop, on_follow, r);
	r->open_timers = 2;
	cs_node_set_link(options->node, &r->link);
	int result = open_replicas(r, e);
	if (result < 0) {
		cs_link_remote_close(&r->link, NULL, NULL);
		return result;
	}
	*ret = &r->link;
	return 0;
}

static void maybe_free(struct remote *r)
{
	if (r->open > 0 || r->open_timers > 0)
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
	r->open_timers--;
	maybe_free(r);
}

static void replica_closed(void *data)
{
	struct remote *r = data;
	r->open--;
	maybe_free(r);
}

void cs_link_remote_close(struct cs_link *link, void (*closed)(void *), void *data)
{
	struct remote *r = (struct remote *)link;
	r->closed = true;
	r->followed = r->leader = NULL;
	r->on_closed = closed;
	r->closed_data = data;
	cs_node_set_link(r->options.node, NULL);
	cs_timer_close(&r->tick, timer_closed);
	cs_timer_close(&r->follow, timer_closed);
	for (size_t i = 0; i < r->nreplicas; i++)
		cs_replica_close(r->replicas[i], replica_closed, r);
}
