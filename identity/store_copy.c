/* A store to another place. */
#include "store_private.h"

#include <errno.h>
#include <time.h>
#include "mem.h"

#define LEAD_POLL_MS 50

static size_t count_all(const struct cs_store *s)
{
	size_t n = 0;
	for (int kind = 0; kind < CS_FACT_KINDS; kind++)
		n += cs_facts_count(s->facts, (enum cs_fact_kind)kind);
	return n;
}

/* Nobody else may write into the target meanwhile: who leads it is the only one. */
int cs_store_lead_now(struct cs_store *s, const char *who, struct cs_error *e)
{
	struct cs_store_state state;
	int r = cs_store_campaign(s, who, e);
	int64_t until_ms = cs_clock_system.mono_ms(NULL) + s->lead_wait_ms;
	for (;;) {
		if (r == 0)
			r = cs_store_poll(s, NULL, e);
		cs_store_state(s, &state);
		if (r < 0 || (state.leads && state.epoch != 0))
			return r;
		if (cs_clock_system.mono_ms(NULL) >= until_ms)
			return cs_error_reason(e, -EPERM, CS_R_NOT_LEADER,
				"%s%s leads this store: end every countersign-identityd that uses it, and try again",
				state.leader[0] ? "the replica " : "somebody else", state.leader);
		nanosleep(&(struct timespec){.tv_nsec = LEAD_POLL_MS * 1000000L}, NULL);
	}
}

struct progress {
	void (*fn)(void *data, size_t done, size_t all);
	void *data;
	size_t done, all;
};

static int flush(struct cs_store *to, bool copying, struct cs_error *e)
{
	to->meta.copying = copying;
	return cs_store_write(to, e);
}

static int copy_facts(struct cs_store *from, struct cs_store *to, struct progress *p, struct cs_error *e)
{
	for (int kind = 0; kind < CS_FACT_KINDS; kind++)
		for (struct cs_fact_entry *entry = from->facts->kinds[kind]; entry; entry = entry->hh.next) {
			size_t size = cs_fact_entry_size(entry);
			if (!cs_store_has_room(to, 1, size + CS_STORE_OP_BYTES_MAX) && flush(to, true, e) < 0)
				return e->code;
			cs_store_put(to, &entry->fact);
			p->done++;
			if (p->fn && (p->done % 1000 == 0 || p->done == p->all))
				p->fn(p->data, p->done, p->all);
		}
	return flush(to, true, e);
}

/* --- the check: what the target's backend says, byte for byte --- */

struct comparing {
	const struct cs_facts *facts;
	size_t same;
	struct cs_error *e;
	int result;
};

static void compare_row(void *data, const char *key, const void *value, size_t n)
{
	struct comparing *c = data;
	if (strcmp(key, CS_STORE_KEY_META) == 0)
		return;
	const struct cs_fact_entry *entry = cs_facts_find_key(c->facts, key);
	size_t m = 0;
	uint8_t *want = entry ? cs_fact_encode(&entry->fact, &m) : NULL;
	if (want && value && m == n && memcmp(want, value, n) == 0)
		c->same++;
	else if (c->result == 0)
		c->result = cs_error_set(c->e, -EIO, "the copy differs from the original at '%s'; do not use it", key);
	free(want);
}

static void compare_nothing(void *data)
{
	(void)data;
}

static int compare(struct cs_store *from, struct cs_store *to, struct cs_error *e)
{
	struct comparing c = {.facts = from->facts, .e = e};
	struct cs_backend_reader reader = {
		.whole = compare_nothing, .row = compare_row, .revision = compare_nothing, .data = &c};
	int r = to->backend->ops->load(to->backend, &reader, e);
	if (r == 0)
		r = c.result;
	if (r == 0 && c.same != count_all(from))
		r = cs_error_set(e, -EIO, "the copy has %zu of %zu facts; do not use it", c.same, count_all(from));
	return r;
}

static int check_empty(const struct cs_store *to, struct cs_error *e)
{
	size_t n = count_all(to);
	return n == 0 ? 0 : cs_error_set(e, -EEXIST, "the target has %zu facts already; a copy needs an empty one", n);
}

/* Nobody writes into either while it is copied: who leads both is the only one. */
static int lead_both(struct cs_store *from, struct cs_store *to, struct cs_store_state *ret_from, struct cs_error *e)
{
	int r = check_empty(to, e); /* before anybody waits for a lease */
	if (r < 0)
		return r;
	r = cs_store_lead_now(from, "countersign store copy", e);
	if (r < 0)
		return cs_error_prefix(e, "the source");
	from->lost = true; /* all of it again: also what the one before wrote last */
	r = cs_store_poll(from, NULL, e);
	cs_store_state(from, ret_from);
	if (r < 0)
		return r;
	r = cs_store_lead_now(to, "countersign store copy", e);
	return r < 0 ? cs_error_prefix(e, "the target") : check_empty(to, e);
}

/* The lease may have run out meanwhile (this process slept), and another one have written. */
static int still_led(struct cs_store *from, const struct cs_store_state *then, struct cs_error *e)
{
	struct cs_store_state now;
	cs_store_state(from, &now);
	if (now.leads && now.term == then->term)
		return 0;
	return cs_error_reason(e, -EPERM, CS_R_NOT_LEADER,
		"the source was not held all the time, and may have been changed; do not use the copy: empty the "
		"target, and copy again");
}

int cs_store_copy(struct cs_store *from, struct cs_store *to, void (*progress)(void *data, size_t done, size_t all),
	void *data, struct cs_error *e)
{
	struct cs_store_state source;
	int r = lead_both(from, to, &source, e);
	if (r < 0)
		return r;
	struct progress p = {.fn = progress, .data = data, .all = count_all(from)};
	/* What rests goes on resting from where it was. */
	to->heard_store_ms = cs_store_now_ms(from);
	to->heard_mono_ms = to->clock->mono_ms(to->clock->data);
	to->meta.next_id = from->meta.next_id; /* in turn, on which cs_store_new_epoch counts */
	r = flush(to, true, e);
	if (r == 0)
		r = copy_facts(from, to, &p, e);
	if (r == 0)
		r = compare(from, to, e);
	if (r == 0)
		r = still_led(from, &source, e);
	return r < 0 ? r : flush(to, false, e);
}
