#include "cluster.h"

#include <errno.h>
#include <libgen.h>
#include <malloc.h>
#include "log.h"
#include "mem.h"
#include "store.h"

#define SETTLE_MS  200         /* after the last change of a file: an editor writes in several steps */
#define TICK_MS    1000        /* etcd: how often the store is looked after when it tells nothing */
#define TRIM_BYTES (64u << 20) /* free, and not given back to the system */
#define RESCAN_MS  30000 /* for changes that inotify did not tell (a directory that was replaced, a network disk) */

/* What one run of the worker does; the worker's while it runs. */
struct job {
	struct cs_ask **asks;
	size_t n;
	bool poll, lead, policy, placement, expire, shut;
	struct cs_changes changes;
	int policy_result, placement_result, store_result, expire_result, poll_result, lead_result, shared_result;
	struct cs_error policy_error, placement_error, store_error, expire_error, poll_error, lead_error, shared_error;
	int64_t took_ms;
	struct cs_store_state before, state;
	struct cs_store_usage usage;
};

struct cs_cluster {
	struct cs_cluster_options options;
	struct cs_core *core; /* the worker's while `running` */
	struct cs_directory *dir;
	struct cs_ask **queue;
	size_t nqueue, capqueue;
	bool running, want_poll, want_lead, want_policy, want_placement, want_expire, closing, shut;
	bool leads, heard; /* takes asks; the store has a leader, or had one a moment ago */
	uint64_t led_term; /* of the store's terms, that in which the configuration was written */
	int64_t leads_since_mono_ms;
	struct cs_store_state state;
	int64_t state_mono_ms;       /* when it was that */
	struct cs_error store_error; /* code 0: the store answers */
	struct cs_store_usage usage;
	struct job job;
	uv_work_t work;
	uv_async_t async; /* the store has something to tell */
	uv_fs_event_t watch_policy, watch_placement;
	struct cs_timer settle, rescan, tick;
	int open_handles;
	void (*closed)(void *data);
	void *closed_data;
	struct cs_check *check_store, *check_policy, *check_placement, *check_numbers, *check_leader, *check_settings;
	char policy_said[1024], placement_said[1024]; /* the last error that was logged */
	struct cs_metric *commits, *commit_seconds, *reloads, *waiting, *identities, *leading, *leader_info, *silent,
		*terms;
};

static void start_job(struct cs_cluster *c);

static bool replicated(const struct cs_cluster *c)
{
	return c->options.core.etcd != NULL;
}

/* --- the worker --- */

static void run_lead(struct cs_cluster *c, struct job *job)
{
	job->placement = job->policy = true;
	job->lead_result =
		cs_core_lead(c->core, &job->changes, &job->placement_error, &job->policy_error, &job->lead_error);
	job->placement_result = job->placement_error.code;
	job->policy_result = job->policy_error.code;
}

static void run_job(uv_work_t *work)
{
	struct cs_cluster *c = work->data;
	struct job *job = &c->job;
	int64_t start_ms = cs_clock_system.mono_ms(NULL);
	if (job->shut) {
		cs_core_resign(c->core);
		cs_core_close(c->core);
		c->core = NULL;
		return;
	}
	cs_core_state(c->core, &job->before);
	if (job->poll)
		job->poll_result = cs_core_poll(c->core, &job->changes, &job->poll_error);
	if (job->lead)
		run_lead(c, job);
	else if (job->placement)
		job->placement_result = cs_core_reload_placement(c->core, &job->changes, &job->placement_error);
	if (job->policy && !job->lead)
		job->policy_result = cs_core_reload_policy(c->core, &job->changes, &job->policy_error);
	if (job->expire)
		job->expire_result = cs_core_expire(c->core, &job->changes, &job->expire_error);
	if (job->expire && job->expire_result == 0)
		job->expire_result = cs_core_refresh_findings(c->core, &job->changes, &job->expire_error);
	if (job->n > 0)
		job->store_result = cs_core_ask(c->core, job->asks, job->n, &job->changes, &job->store_error);
	if (job->expire && mallinfo2().fordblks > TRIM_BYTES)
		malloc_trim(0); /* what a crowd of claims needed for a moment */
	job->shared_result = cs_core_check_shared(c->core, &job->shared_error);
	cs_core_state(c->core, &job->state);
	cs_core_usage(c->core, &job->usage);
	job->took_ms = cs_clock_system.mono_ms(NULL) - start_ms;
}

static void report_reload(
	struct cs_check *check, int result, const struct cs_error *e, char said[1024], const char *what)
{
	if (result == 0) {
		if (said[0])
			cs_info("a file that was refused is taken now", cs_str("what", what));
		said[0] = '\0';
		cs_check_ok(check);
		return;
	}
	cs_check_error(check, e);
	if (strcmp(said, e->text) == 0)
		return;
	snprintf(said, 1024, "%s", e->text);
	cs_fail("refused; the last good state stays in force", cs_str("what", what), cs_err(e));
}

static void report(struct cs_cluster *c, const struct job *job)
{
	const struct cs_error *compile = cs_core_compile_error(c->core);
	if (replicated(c) && job->shared_result < 0)
		cs_check_error(c->check_settings, &job->shared_error);
	else if (replicated(c))
		cs_check_ok(c->check_settings);
	if (job->placement)
		report_reload(c->check_placement, job->placement_result, &job->placement_error, c->placement_said,
			"placement");
	if (job->policy || compile) {
		report_reload(c->check_policy,
			job->policy_result < 0 ? job->policy_result
			: compile              ? compile->code
					       : 0,
			job->policy_result < 0 || !compile ? &job->policy_error : compile, c->policy_said, "policy");
		cs_metric_add(c->reloads, 1, job->policy_result < 0 ? "refused" : "ok");
	}
	if (job->expire_result < 0) /* tried again in a while */
		cs_debug("revocations that are over, and old findings, stay for now", cs_err(&job->expire_error));
	if (job->n > 0) {
		cs_metric_add(c->commits, 1, job->store_result < 0 ? "failed" : "ok");
		cs_metric_observe(c->commit_seconds, (double)job->took_ms / 1000);
	}
	if (job->store_result < 0)
		cs_fail("the store took nothing", cs_u64("requests", job->n), cs_err(&job->store_error));
}

/* --- the store, and who leads --- */

static void note_store(struct cs_cluster *c, const struct job *job)
{
	const struct cs_error *e = job->store_result < 0  ? &job->store_error
				   : job->poll_result < 0 ? &job->poll_error
				   : job->lead_result < 0 ? &job->lead_error
							  : NULL;
	bool was = c->store_error.code != 0;
	if (e && e->reason == CS_R_NOT_LEADER)
		e = NULL; /* it answers; somebody else leads */
	if (e) {
		c->store_error = *e;
	} else if (job->state.silent_ms > CS_STORE_SILENT_MS) {
		cs_error_reason(&c->store_error, -ETIMEDOUT, CS_R_STORE_UNAVAILABLE,
			"the store has not been heard for %lld s; what is known is served on",
			(long long)job->state.silent_ms / 1000);
	} else {
		c->store_error.code = 0;
		cs_check_ok(c->check_store);
		if (was)
			cs_info("the store answers again");
		return;
	}
	cs_check_error(c->check_store, &c->store_error);
	if (!was)
		cs_fail("the store does not answer", cs_err(&c->store_error));
}

static void set_leads(struct cs_cluster *c, bool leads)
{
	if (leads == c->leads)
		return;
	c->leads = leads;
	c->leads_since_mono_ms = cs_loop_mono_ms(c->options.loop);
	if (leads)
		cs_metric_add(c->terms, 1);
	if (replicated(c) && leads)
		cs_info("this replica leads now", cs_u64("term", c->led_term));
	else if (replicated(c))
		cs_warn("this replica leads no longer", cs_str("leader", c->state.leader));
	if (c->options.on_leads)
		c->options.on_leads(c->options.data, leads);
}

static void note_state(struct cs_cluster *c, const struct job *job)
{
	c->state = job->state;
	c->state_mono_ms = cs_loop_mono_ms(c->options.loop);
	if (job->lead && job->lead_result == 0)
		c->led_term = job->before.term;
	/* Only in the term in which its configuration was written: in between it may have slept through another's. */
	bool leads = c->state.leads && (!replicated(c) || c->led_term == c->state.term);
	/* What failed a moment ago is tried again with the next look at the store, not at once. */
	c->want_lead = c->state.leads && !leads && !(job->lead && job->lead_result < 0);
	set_leads(c, leads);
	cs_metric_set(c->leading, leads);
	cs_metric_clear(c->leader_info);
	if (cs_cluster_leader(c)[0])
		cs_metric_set(c->leader_info, 1, cs_cluster_leader(c));
	cs_metric_set(c->silent, (double)c->state.silent_ms / 1000);
	if (!c->check_leader)
		return;
	if (c->store_error.code != 0 && !c->state.leads)
		cs_check_fail(c->check_leader, CS_R_STORE_UNAVAILABLE, "the store does not say who leads");
	else if (c->state.leader[0] || c->state.leads)
		cs_check_ok(c->check_leader);
	else
		cs_check_fail(c->check_leader, CS_R_NOT_LEADER, "no replica of the cluster role leads%s%s",
			c->state.hindered[0] ? "; this one cannot: " : "", c->state.hindered);
}

void cs_cluster_why_not(const struct cs_cluster *c, struct cs_error *e)
{
	if (c->store_error.code != 0) {
		*e = c->store_error;
		e->code = -EREMOTE;
		e->reason = CS_R_STORE_UNAVAILABLE;
	} else if (c->state.leader[0] && !c->state.leads) {
		cs_error_reason(e, -EREMOTE, CS_R_NOT_LEADER, "%s leads, not this replica", c->state.leader);
	} else {
		cs_error_reason(e, -EREMOTE, CS_R_NOT_LEADER, "no replica of the cluster role leads now%s%s",
			c->state.hindered[0] ? "; this one cannot: " : "", c->state.hindered);
	}
}

static void refuse_queue(struct cs_cluster *c)
{
	struct cs_ask **queue = c->queue;
	size_t n = c->nqueue;
	if (n == 0)
		return;
	c->queue = NULL;
	c->nqueue = c->capqueue = 0;
	for (size_t i = 0; i < n; i++) {
		cs_cluster_why_not(c, &queue[i]->error);
		queue[i]->result = queue[i]->error.code;
		queue[i]->done(queue[i], queue[i]->data);
	}
	free(queue);
}

/* Long before new label sets are refused, so that there is time to look for what multiplies them. */
static void note_usage(struct cs_cluster *c, const struct cs_store_usage *usage)
{
	size_t taken = usage->in_use + usage->resting;
	struct cs_error e;
	c->usage = *usage;
	cs_metric_set(c->identities, (double)usage->in_use, "in_use");
	cs_metric_set(c->identities, (double)usage->resting, "resting");
	cs_metric_set(c->identities, (double)(usage->size > taken ? usage->size - taken : 0), "free");
	if (taken < usage->size / 10 * 9) {
		cs_check_ok(c->check_numbers);
		return;
	}
	cs_error_reason(&e, -ENOSPC, CS_R_IDENTITIES_EXHAUSTED,
		"%zu of %zu identities are in use and %zu rest; see countersign identity lint", usage->in_use,
		usage->size, usage->resting);
	cs_check_error(c->check_numbers, &e);
}

static void maybe_closed(struct cs_cluster *c)
{
	if (c->shut && !c->running && c->open_handles == 0 && c->closed) {
		void (*closed)(void *) = c->closed;
		c->closed = NULL;
		closed(c->closed_data);
	}
}

static void async_closed(uv_handle_t *handle);

static void job_done(uv_work_t *work, int status)
{
	(void)status; /* never cancelled */
	struct cs_cluster *c = work->data;
	struct job job = c->job;
	struct cs_error e;
	c->running = false;
	if (job.shut) {
		free(job.asks); /* none */
		c->shut = true;
		uv_close((uv_handle_t *)&c->async, async_closed);
		return;
	}
	report(c, &job);
	note_usage(c, &job.usage);
	if (cs_changes_apply_take(&job.changes, c->dir, &e) < 0) {
		cs_check_error(c->check_store, &e);
		cs_fail("the directory has no room", cs_err(&e));
	}
	note_store(c, &job);
	note_state(c, &job);
	for (size_t i = 0; i < job.n; i++)
		job.asks[i]->done(job.asks[i], job.asks[i]->data);
	free(job.asks);
	if (!c->leads)
		refuse_queue(c);
	start_job(c);
	maybe_closed(c);
}

static bool any_work(const struct cs_cluster *c)
{
	return c->nqueue > 0 || c->want_poll || c->want_lead || c->want_policy || c->want_placement || c->want_expire;
}

static void start_job(struct cs_cluster *c)
{
	if (c->running || c->shut || (!any_work(c) && !c->closing))
		return;
	size_t n = c->nqueue < CS_WRITER_BATCH_MAX ? c->nqueue : CS_WRITER_BATCH_MAX;
	c->job = (struct job){.asks = cs_xmemdup(c->queue, n * sizeof(*c->queue)),
		.n = n,
		.poll = c->want_poll,
		.lead = c->want_lead,
		.policy = c->want_policy,
		.placement = c->want_placement,
		.expire = c->want_expire,
		.shut = !any_work(c)};
	if (n > 0)
		memmove(c->queue, c->queue + n, (c->nqueue - n) * sizeof(*c->queue));
	c->nqueue -= n;
	cs_metric_set(c->waiting, (double)c->nqueue);
	c->want_poll = c->want_lead = c->want_policy = c->want_placement = c->want_expire = false;
	c->running = true;
	c->work.data = c;
	uv_queue_work(&c->options.loop->uv, &c->work, run_job, job_done);
}

int cs_cluster_ask_take(struct cs_cluster *c, struct cs_ask *ask, struct cs_error *e)
{
	if (c->closing)
		return cs_error_set(e, -ESHUTDOWN, "identityd is ending");
	if (!c->leads) {
		cs_cluster_why_not(c, e);
		return e->code;
	}
	if (c->nqueue >= CS_WRITER_QUEUE_MAX)
		return cs_error_reason(e, -ENOBUFS, CS_R_TOO_MANY,
			"%zu requests wait for the store already; it may be slow or its disk full", c->nqueue);
	if (c->nqueue == c->capqueue) {
		c->capqueue = c->capqueue ? c->capqueue * 2 : 64;
		c->queue = cs_xrealloc(c->queue, c->capqueue, sizeof(*c->queue));
	}
	c->queue[c->nqueue++] = ask;
	cs_metric_set(c->waiting, (double)c->nqueue);
	start_job(c);
	return 0;
}

/* --- files that change --- */

void cs_cluster_reload(struct cs_cluster *c)
{
	if (c->closing || !c->leads)
		return; /* they are read when it leads */
	c->want_policy = c->options.core.policy_dir[0] != '\0';
	c->want_placement = c->options.core.authority == CS_AUTHORITY_STATIC;
	start_job(c);
}

static void on_settled(struct cs_timer *timer)
{
	cs_cluster_reload(timer->data);
}

static void on_file_event(uv_fs_event_t *handle, const char *filename, int events, int status)
{
	(void)filename;
	(void)events;
	struct cs_cluster *c = handle->data;
	if (status == 0 && !c->closing)
		cs_timer_start(&c->settle, SETTLE_MS, 0);
}

/* A watch that cannot be had is no error: the rescan finds the change later. */
static void watch(struct cs_cluster *c, uv_fs_event_t *handle, const char *path, bool parent)
{
	char copy[4096];
	snprintf(copy, sizeof(copy), "%s", path);
	uv_fs_event_init(&c->options.loop->uv, handle);
	handle->data = c;
	c->open_handles++;
	int r = path[0] ? uv_fs_event_start(handle, on_file_event, parent ? dirname(copy) : copy, 0) : 0;
	if (r < 0)
		cs_warn("cannot watch for changes; they are found every 30 s only", cs_str("path", path),
			cs_str("error", uv_strerror(r)));
}

static void on_rescan(struct cs_timer *timer)
{
	struct cs_cluster *c = timer->data;
	c->want_expire = c->leads;
	cs_cluster_reload(c);
}

/* From any thread. */
static void on_notify(void *data)
{
	struct cs_cluster *c = data;
	uv_async_send(&c->async);
}

static void want_poll(struct cs_cluster *c)
{
	if (c->closing)
		return;
	c->want_poll = true;
	start_job(c);
}

static void on_async(uv_async_t *async)
{
	want_poll(async->data);
}

/* A lease ends without a word. */
static void on_tick(struct cs_timer *timer)
{
	want_poll(timer->data);
}

/* --- life --- */

static void make_checks(struct cs_cluster *c)
{
	struct cs_metrics *m = c->options.metrics;
	c->check_store = cs_check_new(c->options.status, "store");
	c->check_policy = cs_check_new(c->options.status, "policy");
	c->check_placement = cs_check_new(c->options.status, "placement");
	c->check_numbers = cs_check_new(c->options.status, "identities");
	if (replicated(c)) {
		c->check_leader = cs_check_new(c->options.status, "leader");
		c->check_settings = cs_check_new(c->options.status, "settings");
	}
	c->leading = cs_gauge(m, "countersign_cluster_leads", "Whether this replica leads, and so writes", NULL, 1);
	c->leader_info =
		cs_gauge(m, "countersign_cluster_leader_info", "Who leads, as this replica knows it", "leader", 2);
	c->terms = cs_counter(m, "countersign_cluster_terms_total", "How often this replica began to lead", NULL, 1);
	c->silent = cs_gauge(m, "countersign_store_silent_seconds",
		"For how long nothing was heard of the store, and so how old what this replica knows may be", NULL, 1);
	c->identities = cs_gauge(m, "countersign_identities",
		"Numbers of label sets: in use, resting after their identity was deleted, free", "state", 3);
	c->commits = cs_counter(m, "countersign_store_commits_total", "Transactions of the store", "result", 2);
	c->commit_seconds = cs_histogram(m, "countersign_store_commit_seconds", "How long a transaction took", NULL, 1,
		cs_metric_seconds, cs_metric_nseconds);
	c->waiting = cs_gauge(m, "countersign_store_waiting", "Requests that wait for the store", NULL, 1);
	c->reloads = cs_counter(m, "countersign_policy_reloads_total", "How often the policies were read", "result", 2);
}

static void failed_closed(uv_handle_t *handle)
{
	struct cs_cluster *c = handle->data;
	cs_dir_free(c->dir);
	free(c);
}

static void watch_files(struct cs_cluster *c)
{
	watch(c, &c->watch_policy, c->options.core.policy_dir, false);
	watch(c, &c->watch_placement,
		c->options.core.authority == CS_AUTHORITY_STATIC ? c->options.core.placement_file : "", true);
	cs_timer_init(&c->settle, c->options.loop, on_settled, c);
	cs_timer_init(&c->rescan, c->options.loop, on_rescan, c);
	cs_timer_init(&c->tick, c->options.loop, on_tick, c);
	c->open_handles += 3;
	cs_timer_start(&c->rescan, RESCAN_MS, RESCAN_MS);
	if (replicated(c))
		cs_timer_start(&c->tick, TICK_MS, TICK_MS);
}

int cs_cluster_new(const struct cs_cluster_options *options, struct cs_cluster **ret, struct cs_error *e)
{
	struct cs_cluster *c = cs_xcalloc(1, sizeof(*c));
	struct cs_changes changes = {0};
	struct job first = {0};
	c->options = *options;
	c->options.core.notify = on_notify;
	c->options.core.notify_data = c;
	c->options.core.advertise = options->name;
	uv_async_init(&options->loop->uv, &c->async, on_async);
	c->async.data = c;
	int r = cs_core_open(&c->options.core, &c->core, &changes, e);
	if (r == 0) {
		c->dir = cs_dir_new(changes.epoch, NULL);
		r = cs_changes_apply_take(&changes, c->dir, e);
	}
	if (r < 0) {
		cs_core_close(c->core);
		uv_close((uv_handle_t *)&c->async, failed_closed);
		return r;
	}
	make_checks(c);
	cs_core_usage(c->core, &first.usage);
	note_usage(c, &first.usage);
	cs_core_state(c->core, &first.state);
	note_state(c, &first);
	c->open_handles = 1;
	watch_files(c);
	if (options->core.authority == CS_AUTHORITY_SELF)
		cs_info("placement: self-asserted; what a node says of itself is believed");
	start_job(c);
	*ret = c;
	return 0;
}

static void handle_closed(struct cs_cluster *c)
{
	c->open_handles--;
	maybe_closed(c);
}

static void timer_closed(struct cs_timer *timer)
{
	handle_closed(timer->data);
}

static void watch_closed(uv_handle_t *handle)
{
	handle_closed(handle->data);
}

static void async_closed(uv_handle_t *handle)
{
	handle_closed(handle->data);
}

void cs_cluster_close(struct cs_cluster *c, void (*closed)(void *), void *data)
{
	c->closing = true;
	c->closed = closed;
	c->closed_data = data;
	c->want_poll = c->want_lead = c->want_policy = c->want_placement = c->want_expire = false;
	cs_timer_close(&c->settle, timer_closed);
	cs_timer_close(&c->rescan, timer_closed);
	cs_timer_close(&c->tick, timer_closed);
	uv_close((uv_handle_t *)&c->watch_policy, watch_closed);
	uv_close((uv_handle_t *)&c->watch_placement, watch_closed);
	start_job(c); /* the last: the store is closed */
}

void cs_cluster_free(struct cs_cluster *c)
{
	if (!c)
		return;
	cs_core_close(c->core);
	cs_dir_free(c->dir);
	free(c->queue);
	free(c);
}

struct cs_directory *cs_cluster_directory(struct cs_cluster *c)
{
	return c->dir;
}

bool cs_cluster_leads(const struct cs_cluster *c)
{
	return c->leads;
}

const char *cs_cluster_leader(const struct cs_cluster *c)
{
	return replicated(c) ? c->state.leader : c->options.name;
}

int64_t cs_cluster_silent_ms(const struct cs_cluster *c)
{
	int64_t since_ms = cs_loop_mono_ms(c->options.loop) - c->state_mono_ms;
	/* The worker is busy: what it will say is not known. A state of a moment ago is as good as one of now. */
	return replicated(c) ? c->state.silent_ms + (since_ms > 2 * TICK_MS ? since_ms : 0) : 0;
}

int64_t cs_cluster_leads_since_mono_ms(const struct cs_cluster *c)
{
	return c->leads_since_mono_ms;
}

const struct cs_store_usage *cs_cluster_usage(const struct cs_cluster *c)
{
	return &c->usage;
}

const struct cs_numbers *cs_cluster_numbers(const struct cs_cluster *c)
{
	return c->options.core.numbers;
}
