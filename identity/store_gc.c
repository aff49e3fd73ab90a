/* Identities that nobody refers to: marked, and deleted when they are marked for long enough. What was deleted rests
 * (its number is not given again) until whatever was issued to it has ended. */
#include "store_private.h"

#include <countersign/v1/directory.pb-c.h>
#include "mem.h"

/* The store's time goes on only with revisions; while something rests, it is written down at least so often. */
#define TIME_WRITTEN_MS 60000

/* --- identities that a revocation names stay: their number must not become another's while it is refused --- */

struct revoked {
	uint32_t *ids;
	size_t n;
};

static void note_revoked(void *data, const struct cs_fact *fact)
{
	struct revoked *revoked = data;
	Countersign__V1__Revocation *m =
		countersign__v1__revocation__unpack(NULL, fact->revocation.n, fact->revocation.body);
	if (!m)
		return;
	uint32_t id = m->subject_case == COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY    ? m->identity
		      : m->subject_case == COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT ? m->placement->identity
											  : 0;
	countersign__v1__revocation__free_unpacked(m, NULL);
	if (id == 0)
		return;
	revoked->ids = cs_xrealloc(revoked->ids, revoked->n + 1, sizeof(*revoked->ids));
	revoked->ids[revoked->n++] = id;
}

static int by_id(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static struct revoked revoked_of(const struct cs_facts *facts)
{
	struct revoked revoked = {0};
	cs_facts_each(facts, CS_FACT_REVOCATION, note_revoked, &revoked);
	if (revoked.n > 0)
		qsort(revoked.ids, revoked.n, sizeof(*revoked.ids), by_id);
	return revoked;
}

/* --- what is to be done with one --- */

enum todo { NOTHING, MARK, WAIT, DELETE };

static enum todo todo_with(const struct cs_store *s, const struct cs_store_identity *identity, int64_t grace_ms,
	const struct revoked *revoked, int64_t *left_ms)
{
	/* Outside the range are those with a fixed number, which the configuration gave them. */
	if (identity->id < s->config.id_min || identity->id > s->config.id_max ||
		cs_facts_references(s->facts, identity->id) > 0)
		return NOTHING;
	if (identity->idle_since_store_ms == 0)
		return MARK;
	*left_ms = identity->idle_since_store_ms + grace_ms - cs_store_now_ms(s);
	if (*left_ms > 0)
		return WAIT;
	*left_ms = 0;
	if (revoked->n > 0 && bsearch(&identity->id, revoked->ids, revoked->n, sizeof(*revoked->ids), by_id))
		return WAIT;
	return DELETE;
}

static void mark(struct cs_store *s, const struct cs_store_identity *identity)
{
	struct cs_fact fact = {.kind = CS_FACT_IDENTITY, .identity = *identity};
	fact.identity.idle_since_store_ms = cs_store_now_ms(s);
	cs_store_put(s, &fact);
}

static void retire(struct cs_store *s, struct cs_fact_entry *entry)
{
	const struct cs_store_identity *identity = &entry->fact.identity;
	struct cs_fact fact = {.kind = CS_FACT_RETIRED,
		.retired = {.id = identity->id,
			.labels = identity->labels,
			.spiffe_id = identity->spiffe_id,
			.until_store_ms = cs_store_now_ms(s) + s->config.id_quarantine_ms}};
	if (s->config.id_quarantine_ms > 0)
		cs_store_put(s, &fact);
	cs_store_remove(s, entry);
}

/* --- a run --- */

static bool has_room(struct cs_store *s, struct cs_store_op *op, size_t done, bool *full)
{
	*full = !cs_store_has_room(s, CS_STORE_OP_WRITES_MAX, CS_STORE_OP_BYTES_MAX);
	op->gc.more |= done >= op->gc.max;
	return !*full && done < op->gc.max;
}

/* Does what is to be done with those that are `what`. True: the revision is full. */
static bool collect(struct cs_store *s, struct cs_store_op *op, enum todo what, const struct revoked *revoked)
{
	struct cs_fact_entry *entry, *tmp;
	bool full = false;
	int64_t left_ms;
	HASH_ITER (hh, s->facts->kinds[CS_FACT_IDENTITY], entry, tmp) {
		if (todo_with(s, &entry->fact.identity, op->gc.grace_ms, revoked, &left_ms) != what)
			continue;
		size_t *done = what == MARK ? &op->gc.marked : &op->gc.deleted;
		if (!has_room(s, op, *done, &full))
			return full;
		if (what == MARK)
			mark(s, &entry->fact.identity);
		else
			retire(s, entry);
		++*done;
	}
	return false;
}

/* What rested for long enough is forgotten; true: the revision is full. */
static bool forget_rested(struct cs_store *s, struct cs_store_op *op)
{
	static const enum cs_fact_kind kinds[] = {CS_FACT_RETIRED, CS_FACT_ADDRESS};
	int64_t now_ms = cs_store_now_ms(s);
	for (size_t i = 0; i < 2; i++) {
		struct cs_fact_entry *entry, *tmp;
		HASH_ITER (hh, s->facts->kinds[kinds[i]], entry, tmp) {
			int64_t until_ms = kinds[i] == CS_FACT_RETIRED ? entry->fact.retired.until_store_ms
								       : entry->fact.address.until_store_ms;
			if (until_ms > now_ms)
				continue;
			if (!cs_store_has_room(s, CS_STORE_OP_WRITES_MAX, CS_STORE_OP_BYTES_MAX))
				return true;
			cs_store_remove(s, entry);
			op->changed = true;
		}
	}
	return false;
}

int cs_store_apply_gc(struct cs_store *s, struct cs_store_op *op)
{
	struct revoked revoked = revoked_of(s->facts);
	/* In this order: what is marked now is not deleted at once. */
	bool full = forget_rested(s, op) || collect(s, op, DELETE, &revoked) || collect(s, op, MARK, &revoked);
	free(revoked.ids);
	op->changed |= op->gc.marked > 0 || op->gc.deleted > 0;
	bool rests = cs_facts_count(s->facts, CS_FACT_RETIRED) > 0 || cs_facts_count(s->facts, CS_FACT_ADDRESS) > 0;
	if (rests && cs_store_now_ms(s) - s->meta.store_ms >= TIME_WRITTEN_MS)
		s->forced = true;
	return full;
}

/* --- what a run would do --- */

void cs_store_gc_plan(const struct cs_store *s, int64_t grace_ms, const struct cs_store_gc_plan *plan)
{
	struct revoked revoked = revoked_of(s->facts);
	for (struct cs_fact_entry *entry = s->facts->kinds[CS_FACT_IDENTITY]; entry; entry = entry->hh.next) {
		const struct cs_store_identity *identity = &entry->fact.identity;
		int64_t left_ms = 0;
		switch (todo_with(s, identity, grace_ms, &revoked, &left_ms)) {
		case MARK:
			plan->mark(plan->data, identity);
			break;
		case WAIT:
			plan->marked(plan->data, identity, left_ms);
			break;
		case DELETE:
			plan->remove(plan->data, identity);
			break;
		case NOTHING:
			break;
		}
	}
	free(revoked.ids);
	for (struct cs_fact_entry *entry = s->facts->kinds[CS_FACT_RETIRED]; entry; entry = entry->hh.next) {
		int64_t left_ms = entry->fact.retired.until_store_ms - cs_store_now_ms(s);
		if (left_ms > 0)
			plan->resting(plan->data, &entry->fact.retired, left_ms);
	}
}
