/* The revision in the making: what it changes, once per key, so that it can be undone, written and told. */
#include "store_private.h"

#include "mem.h"

static void record(struct cs_store *s, struct cs_fact_entry *before, struct cs_fact_entry *now)
{
	char key[CS_FACT_KEY_MAX];
	struct cs_store_change *change;
	cs_fact_key(before ? &before->fact : &now->fact, key);
	s->changed_bytes += now ? cs_fact_entry_size(now) : 0;
	HASH_FIND_STR(s->changes, key, change);
	if (!change) {
		size_t n = strlen(key);
		change = cs_xcalloc(1, sizeof(*change) + n + 1);
		memcpy(change->key, key, n + 1);
		change->before = before;
		change->now = now;
		HASH_ADD_KEYPTR(hh, s->changes, change->key, n, change);
		return;
	}
	cs_fact_entry_free(change->now); /* it was there within this revision only */
	change->now = now;
	if (!change->before && !now) {
		HASH_DEL(s->changes, change);
		free(change);
	}
}

void cs_store_put(struct cs_store *s, const struct cs_fact *fact)
{
	struct cs_fact_entry *now = cs_fact_entry_new(fact), *before = cs_facts_find(s->facts, fact);
	if (before)
		cs_facts_unlink(s->facts, before);
	cs_facts_link(s->facts, now);
	if (s->opening && !before)
		return; /* nobody hears of it, and nothing could be undone to */
	record(s, before, now);
}

void cs_store_remove(struct cs_store *s, struct cs_fact_entry *entry)
{
	cs_facts_unlink(s->facts, entry);
	record(s, entry, NULL);
}

bool cs_store_has_room(const struct cs_store *s, size_t writes, size_t bytes)
{
	const struct cs_backend_ops *limits = s->backend->ops;
	size_t n = HASH_COUNT(s->changes);
	return n == 0 || (n + writes < limits->writes_max && s->changed_bytes + bytes < limits->bytes_max);
}

static void forget(struct cs_store *s)
{
	struct cs_store_change *change, *tmp;
	HASH_ITER (hh, s->changes, change, tmp) {
		HASH_DEL(s->changes, change);
		free(change);
	}
	s->changed_bytes = 0;
	s->forced = false;
}

void cs_store_undo(struct cs_store *s)
{
	struct cs_store_change *change;
	/* First all that is new goes: what was before may need its place. */
	for (change = s->changes; change; change = change->hh.next) {
		if (!change->now)
			continue;
		cs_facts_unlink(s->facts, change->now);
		cs_fact_entry_free(change->now);
	}
	for (change = s->changes; change; change = change->hh.next)
		if (change->before)
			cs_facts_link(s->facts, change->before);
	forget(s);
}

enum turn { PUTS, CLAIMS_GONE, CLAIMS, GONE, TURNS };

static enum turn turn_of(const struct cs_store_change *change)
{
	enum cs_fact_kind kind = change->before ? change->before->fact.kind : change->now->fact.kind;
	if (kind == CS_FACT_CLAIM)
		return change->now ? CLAIMS : CLAIMS_GONE;
	return change->now ? PUTS : GONE;
}

/* A claim comes after what it names and goes before it. */
void cs_store_tell(struct cs_store *s, const struct cs_fact_sink *sink)
{
	struct cs_store_change *change;
	for (int turn = 0; sink && turn < TURNS; turn++)
		for (change = s->changes; change; change = change->hh.next)
			if (turn_of(change) == (enum turn)turn)
				sink->change(sink->data, change->before ? &change->before->fact : NULL,
					change->now ? &change->now->fact : NULL);
	for (change = s->changes; change; change = change->hh.next)
		cs_fact_entry_free(change->before);
	forget(s);
	if (sink)
		sink->revision(sink->data, s->meta.epoch, s->meta.revision);
}
