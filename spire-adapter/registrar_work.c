#include "registrar_work.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include "log.h"
#include "mem.h"

struct batch {
	struct cs_reg_work *work;
	enum cs_reg_op op;
	struct cs_reg_slot *slots[CS_REG_BATCH];
	size_t n;
	struct batch *prev, *next;
};

struct cs_reg_work {
	struct cs_reg_work_options options;
	struct cs_timer timer;
	struct batch *batches; /* under way */
	size_t nbatches;
	bool held, idle, closing;
	/* lists */
	bool listing, list_now, list_again;
	int64_t list_began_mono_ms, next_list_mono_ms;
	unsigned list_failures;
	struct cs_error list_error; /* of this list, by ourselves */
	bool list_bad;
	/* agents */
	bool listing_agents;
	int64_t next_agents_mono_ms;
	/* the last call failed as a whole */
	bool list_failed, write_failed;
	struct cs_error failure;
	int64_t pause_mono_ms; /* no write before */
	unsigned write_failures;
	struct cs_metric *writes, *lists, *list_seconds, *first_seconds;
};

static const char *const op_names[CS_REG_OPS] = {"create", "update", "delete"};

static int64_t now_mono_ms(const struct cs_reg_work *w)
{
	return cs_loop_mono_ms(w->options.loop);
}

/* One line for what has failed, not one per call. which: list_failed or write_failed; one may go well and the other not. */
static void set_failure(struct cs_reg_work *w, bool *which, const struct cs_error *why)
{
	bool before = w->list_failed || w->write_failed;
	*which = why != NULL;
	if (why && (!before || strcmp(w->failure.text, why->text) != 0))
		cs_warn("SPIRE's server does not do what it is asked", cs_err(why));
	else if (before && !w->list_failed && !w->write_failed)
		cs_info("SPIRE's server does what it is asked again");
	if (why)
		w->failure = *why;
}

/* Others that are under way together failed for the same reason: that is one failure. */
static void pause_writes(struct cs_reg_work *w)
{
	int64_t now = now_mono_ms(w), wait_ms = CS_REG_PAUSE_MIN_MS;
	if (now < w->pause_mono_ms)
		return;
	for (unsigned i = 0; i < w->write_failures && wait_ms < CS_REG_PAUSE_MAX_MS; i++)
		wait_ms *= 2;
	w->write_failures++;
	w->pause_mono_ms = now + (wait_ms < CS_REG_PAUSE_MAX_MS ? wait_ms : CS_REG_PAUSE_MAX_MS);
}

/* ---- lists ---- */

static void on_list_page(void *data, void *const *items, size_t n)
{
	struct cs_reg_work *w = data;
	for (size_t i = 0; i < n && !w->list_bad; i++)
		if (cs_reg_plan_list_add(w->options.plan, items[i], now_mono_ms(w), &w->list_error) < 0)
			w->list_bad = true;
}

static void list_ended(struct cs_reg_work *w, const struct cs_error *why)
{
	int64_t now = now_mono_ms(w), wait_ms = w->options.list_ms;
	struct cs_reg_plan *plan = w->options.plan;
	w->listing = false;
	cs_reg_plan_list_end(plan, !why, now);
	cs_metric_add(w->lists, 1, why ? "failed" : "done");
	set_failure(w, &w->list_failed, why);
	if (why) {
		wait_ms = (int64_t)CS_REG_LIST_RETRY_MS << (w->list_failures < 6 ? w->list_failures : 6);
		w->list_failures++;
		if (wait_ms > CS_REG_LIST_SLOWEST_MS)
			wait_ms = CS_REG_LIST_SLOWEST_MS;
	} else {
		w->list_failures = 0;
		cs_metric_observe(w->list_seconds, (double)(now - w->list_began_mono_ms) / 1000);
		w->held = w->held && cs_reg_plan_foreign(plan) > 0;
		if (w->held)
			wait_ms = CS_REG_FOREIGN_MS;
		else if (w->list_again && CS_REG_AGAIN_MS < wait_ms)
			wait_ms = CS_REG_AGAIN_MS;
		w->list_again = false;
	}
	w->next_list_mono_ms = now + wait_ms;
	w->options.events.listed(w->options.events.data, why);
	cs_reg_work_kick(w);
}

static void on_listed(void *data, const struct cs_spire_failure *failure)
{
	struct cs_reg_work *w = data;
	list_ended(w, failure ? &failure->error : w->list_bad ? &w->list_error : NULL);
}

static void begin_list(struct cs_reg_work *w)
{
	const struct cs_spire_list_events events = {.page = on_list_page, .done = on_listed, .data = w};
	struct cs_error e;
	w->listing = true;
	w->list_now = w->list_bad = false;
	w->list_began_mono_ms = now_mono_ms(w);
	cs_reg_plan_list_begin(w->options.plan);
	if (cs_spire_server_list(w->options.server, CS_SPIRE_ENTRIES, &events, &e) < 0)
		list_ended(w, &e);
}

static void on_agents_page(void *data, void *const *items, size_t n)
{
	struct cs_reg_work *w = data;
	for (size_t i = 0; i < n; i++)
		cs_reg_plan_agents_add(w->options.plan, items[i]);
}

static void on_agents(void *data, const struct cs_spire_failure *failure)
{
	struct cs_reg_work *w = data;
	w->listing_agents = false;
	w->next_agents_mono_ms = now_mono_ms(w) + CS_REG_AGENTS_MS;
	cs_reg_plan_agents_end(w->options.plan, !failure, now_mono_ms(w));
	set_failure(w, &w->list_failed, failure ? &failure->error : NULL);
	cs_reg_work_kick(w);
}

static void begin_agents(struct cs_reg_work *w)
{
	const struct cs_spire_list_events events = {.page = on_agents_page, .done = on_agents, .data = w};
	struct cs_error e;
	w->listing_agents = true;
	cs_reg_plan_agents_begin(w->options.plan);
	if (cs_spire_server_list(w->options.server, CS_SPIRE_AGENTS, &events, &e) == 0)
		return;
	const struct cs_spire_failure failure = {.error = e};
	on_agents(w, &failure);
}

/* ---- answers ---- */

/* quiet: it has been said. */
static void record(const struct cs_reg_work *w, enum cs_reg_op op, const struct cs_reg_change *c,
	const struct cs_error *why, bool quiet)
{
	cs_metric_add(w->writes, 1, op_names[op], why ? "failed" : "done");
	if (why && quiet)
		return;
	if (why)
		cs_warn("a registration entry could not be written; it is tried again", cs_str("what", op_names[op]),
			cs_u64("identity", c->identity), cs_str("node", c->node), cs_str("spiffe_id", c->spiffe_id),
			cs_err(why));
	else
		cs_audit("registration entry", cs_str("what", op_names[op]), cs_u64("identity", c->identity),
			cs_str("node", c->node), cs_str("spiffe_id", c->spiffe_id), cs_str("entry", c->entry_id));
}

static void answer_item(struct cs_reg_work *w, struct batch *b, size_t i, const struct cs_spire_failure *failure,
	const struct cs_spire_item *item)
{
	struct cs_reg_plan *plan = w->options.plan;
	struct cs_reg_slot *slot = b->slots[i];
	struct cs_reg_change now_is = {.node = "", .spiffe_id = "", .parent_id = "", .entry_id = ""};
	struct cs_error e;
	int64_t now = now_mono_ms(w), waited_ms = b->op == CS_REG_CREATE ? cs_reg_slot_waited_ms(slot, now) : -1;
	int r = -EIO;
	char before[sizeof(e.text)] = "";
	cs_reg_slot_change(plan, slot, &now_is);
	if (now_is.failed)
		snprintf(before, sizeof(before), "%s", now_is.failed->text);
	if (item && item->entry && item->code == CS_GRPC_OK)
		now_is.entry_id = item->entry->id;
	struct cs_reg_change *change = cs_reg_change_copy(&now_is);
	if (failure) {
		e = failure->error;
		cs_reg_plan_failed(plan, slot, failure->perhaps_done, &e, now);
	} else {
		const struct cs_reg_answer answer = {
			.code = (int)item->code, .message = item->message, .entry = item->entry};
		r = cs_reg_plan_answered(plan, slot, b->op, &answer, now, &e);
	}
	record(w, b->op, change, r < 0 ? &e : NULL, failure || (r < 0 && strcmp(before, e.text) == 0));
	if (r == 0 && waited_ms >= 0)
		cs_metric_observe(w->first_seconds, (double)waited_ms / 1000);
	w->options.events.answered(w->options.events.data, change, r < 0 ? &e : NULL);
	free(change);
}

static void on_answer(void *data, const struct cs_spire_failure *failure, const struct cs_spire_item *items, size_t n)
{
	struct batch *b = data;
	struct cs_reg_work *w = b->work;
	DL_DELETE(w->batches, b);
	w->nbatches--;
	set_failure(w, &w->write_failed, failure ? &failure->error : NULL);
	if (failure) {
		pause_writes(w);
	} else {
		w->pause_mono_ms = 0;
		w->write_failures = 0;
	}
	for (size_t i = 0; i < b->n; i++)
		answer_item(w, b, i, failure, n > i ? &items[i] : NULL);
	free(b);
	cs_reg_work_kick(w);
}

/* ---- writing ---- */

/* "<mark>.<32 hex digits>", never to be used again. */
static int new_id(const struct cs_reg_work *w, char out[static CS_REG_ID_MAX + 1], struct cs_error *e)
{
	uint8_t bytes[CS_REG_ID_RANDOM];
	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return cs_error_set(e, -EIO, "no randomness for the ID of an entry");
	int n = snprintf(out, CS_REG_ID_MAX + 1, "%s.", w->options.mark);
	for (size_t i = 0; i < sizeof(bytes); i++)
		n += snprintf(out + n, (size_t)(CS_REG_ID_MAX + 1 - n), "%02x", bytes[i]);
	return 0;
}

static int send_entries(struct batch *b, struct cs_error *e)
{
	struct cs_reg_work *w = b->work;
	Spire__Api__Types__EntryMask mask = cs_reg_mask();
	Spire__Api__Types__Entry *entries[CS_REG_BATCH];
	size_t n = 0;
	int r = 0;
	for (; n < b->n && r == 0; n++) {
		const struct cs_reg_content content = cs_reg_slot_content(w->options.plan, b->slots[n]);
		char id[CS_REG_ID_MAX + 1];
		if (b->op == CS_REG_CREATE && (r = new_id(w, id, e)) < 0)
			break;
		entries[n] = cs_reg_message(&content, b->op == CS_REG_CREATE ? id : cs_reg_slot_entry_id(b->slots[n]));
	}
	if (r == 0 && b->op == CS_REG_CREATE)
		r = cs_spire_server_create(w->options.server, entries, n, on_answer, b, e);
	else if (r == 0)
		r = cs_spire_server_update(w->options.server, entries, n, &mask, on_answer, b, e);
	while (n > 0)
		free(entries[--n]);
	return r;
}

static int send_deletes(struct batch *b, struct cs_error *e)
{
	char *ids[CS_REG_BATCH];
	for (size_t i = 0; i < b->n; i++)
		ids[i] = (char *)cs_reg_slot_entry_id(b->slots[i]);
	return cs_spire_server_delete(b->work->options.server, ids, b->n, on_answer, b, e);
}

/* false: there is nothing to write. */
static bool begin_batch(struct cs_reg_work *w)
{
	/* New entries first: somebody waits for them. */
	static const enum cs_reg_op order[] = {CS_REG_CREATE, CS_REG_UPDATE, CS_REG_DELETE};
	struct batch *b = cs_xcalloc(1, sizeof(*b));
	b->work = w;
	for (size_t i = 0; i < CS_REG_OPS && b->n == 0; i++) {
		b->op = order[i];
		b->n = cs_reg_plan_take(w->options.plan, b->op, b->slots, CS_REG_BATCH);
	}
	if (b->n == 0) {
		free(b);
		return false;
	}
	DL_APPEND(w->batches, b);
	w->nbatches++;
	struct cs_spire_failure failure = {.code = CS_GRPC_UNAVAILABLE};
	int r = b->op == CS_REG_DELETE ? send_deletes(b, &failure.error) : send_entries(b, &failure.error);
	if (r < 0)
		on_answer(b, &failure, NULL, 0);
	return true;
}

/* ---- when ---- */

static bool is_ready(const struct cs_reg_plan *plan)
{
	for (int op = 0; op < CS_REG_OPS; op++)
		if (cs_reg_plan_ready(plan, (enum cs_reg_op)op) > 0)
			return true;
	return false;
}

static void write_all(struct cs_reg_work *w, bool paused)
{
	while (!paused && w->nbatches < CS_REG_CALLS && begin_batch(w))
		w->idle = false;
	if (w->nbatches == 0 && w->write_failed && cs_reg_plan_count(w->options.plan).failing == 0)
		set_failure(w, &w->write_failed, NULL); /* what failed is not wanted any more */
	if (w->idle || w->nbatches > 0 || (!paused && is_ready(w->options.plan)))
		return;
	w->idle = true;
	w->options.events.idle(w->options.events.data);
}

static void wake_at(struct cs_reg_work *w, int64_t at_mono_ms)
{
	int64_t now = now_mono_ms(w);
	if (at_mono_ms != INT64_MAX)
		cs_timer_start(&w->timer, at_mono_ms > now ? at_mono_ms - now : 1, 0);
}

static void run(struct cs_timer *timer)
{
	struct cs_reg_work *w = timer->data;
	struct cs_reg_plan *plan = w->options.plan;
	int64_t now = now_mono_ms(w), next = cs_reg_plan_run(plan, now);
	if (!cs_spire_server_is_ready(w->options.server) || w->options.events.may_write(w->options.events.data))
		return; /* who changes that kicks */
	if (cs_reg_plan_needs_agents(plan) && !w->listing_agents) {
		if (now >= w->next_agents_mono_ms)
			begin_agents(w);
		else if (w->next_agents_mono_ms < next)
			next = w->next_agents_mono_ms;
	}
	bool paused = now < w->pause_mono_ms;
	bool want_list = w->list_now || now >= w->next_list_mono_ms ||
			 (cs_reg_plan_needs_list(plan) && w->list_failures == 0 && !paused);
	if (want_list && !w->listing && w->nbatches == 0) {
		begin_list(w);
		return;
	}
	if (w->next_list_mono_ms < next)
		next = w->next_list_mono_ms;
	if (paused && w->pause_mono_ms < next)
		next = w->pause_mono_ms;
	if (!want_list && !w->listing && !w->held)
		write_all(w, paused);
	wake_at(w, next);
}

void cs_reg_work_kick(struct cs_reg_work *w)
{
	if (!w->closing)
		cs_timer_start(&w->timer, 0, 0);
}

void cs_reg_work_list(struct cs_reg_work *w)
{
	w->list_now = true;
	w->idle = false;
	cs_reg_work_kick(w);
}

void cs_reg_work_list_twice(struct cs_reg_work *w)
{
	w->list_again = true;
	cs_reg_work_list(w);
}

bool cs_reg_work_is_held(const struct cs_reg_work *w)
{
	return w->held;
}

const struct cs_error *cs_reg_work_failure(const struct cs_reg_work *w)
{
	return w->list_failed || w->write_failed ? &w->failure : NULL;
}

/* ---- life ---- */

int cs_reg_work_new(const struct cs_reg_work_options *options, struct cs_reg_work **ret, struct cs_error *e)
{
	struct cs_metrics *m = options->metrics;
	struct cs_reg_work *w = calloc(1, sizeof(*w));
	if (!w)
		return cs_error_set(e, -ENOMEM, "out of memory");
	w->options = *options;
	w->held = true;
	w->writes =
		cs_counter(m, "countersign_registrar_writes_total", "Registration entries written", "what,result", 8);
	w->lists = cs_counter(
		m, "countersign_registrar_lists_total", "Full lists of SPIRE's registration entries", "result", 4);
	w->list_seconds = cs_histogram(m, "countersign_registrar_list_seconds", "Time of a full list", NULL, 1,
		cs_metric_seconds, cs_metric_nseconds);
	w->first_seconds = cs_histogram(m, "countersign_registrar_entry_seconds",
		"From the placement of an identity on a node to its registration entry", NULL, 1, cs_metric_seconds,
		cs_metric_nseconds);
	cs_timer_init(&w->timer, options->loop, run, w);
	*ret = w;
	return 0;
}

void cs_reg_work_close(struct cs_reg_work *w)
{
	if (!w || w->closing)
		return;
	w->closing = true;
	cs_timer_close(&w->timer, NULL);
}

void cs_reg_work_free(struct cs_reg_work *w)
{
	struct batch *b, *next;
	if (!w)
		return;
	DL_FOREACH_SAFE (w->batches, b, next)
		free(b);
	free(w);
}
