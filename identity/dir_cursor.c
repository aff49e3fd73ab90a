/* What a follower gets next: the full state first, or the changes since where it was, then the changes. */
#include "dir_private.h"

#include <errno.h>
#include "identity_limits.h"
#include "mem.h"

#define KEPT_MAX 256 /* room for records that a cursor keeps: there are thousands of cursors */

struct cs_cursor {
	struct cs_directory *dir;
	struct cs_follow follow;
	char node[CS_NODE_NAME_BYTES + 1];
	bool started, full; /* full: what is being sent is the full state */
	bool believe;       /* what the directory has counts, although the follower had more */
	uint64_t epoch;     /* of what the follower has */
	uint64_t at;        /* the follower has everything up to here */
	uint64_t to;        /* ... and will, when pending is sent */
	struct cs_rec **pending;
	size_t npending, cap, next;
	ProtobufCMessageUnknownField *fields; /* the records of the last batch */
	cs_record **lent;                     /* ... unpacked, if anybody asked */
	size_t fieldscap, nlent;
};

struct cs_cursor *cs_cursor_new(struct cs_directory *dir, const struct cs_follow *follow)
{
	struct cs_cursor *c = cs_xcalloc(1, sizeof(*c));
	c->dir = dir;
	c->follow = *follow;
	snprintf(c->node, sizeof(c->node), "%s", follow->node ? follow->node : "");
	c->follow.node = c->node;
	c->follow.resume &= !follow->once;
	if (c->follow.resume && follow->epoch == dir->epoch)
		c->at = follow->revision;
	return c;
}

static void drop_pending(struct cs_cursor *c)
{
	for (size_t i = 0; i < c->npending; i++)
		cs_rec_unref(c->pending[i]);
	c->npending = c->next = 0;
	if (c->cap > KEPT_MAX) {
		free(c->pending);
		c->pending = NULL;
		c->cap = 0;
	}
	if (c->fieldscap > KEPT_MAX) {
		free(c->fields);
		c->fields = NULL;
		c->fieldscap = 0;
	}
}

static void drop_lent(struct cs_cursor *c)
{
	for (size_t i = 0; i < c->nlent; i++)
		cs_record_free(c->lent[i]);
	free(c->lent);
	c->lent = NULL;
	c->nlent = 0;
}

void cs_cursor_free(struct cs_cursor *c)
{
	if (!c)
		return;
	drop_pending(c);
	drop_lent(c);
	free(c->pending);
	free(c->fields);
	free(c);
}

static bool wants(const struct cs_cursor *c, Countersign__V1__Kind kind)
{
	return c->follow.kinds == 0 || (c->follow.kinds & (1u << kind)) != 0;
}

static void add_take(struct cs_cursor *c, struct cs_rec *rec)
{
	if (c->npending == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 64;
		c->pending = cs_xrealloc(c->pending, c->cap, sizeof(struct cs_rec *));
	}
	c->pending[c->npending++] = rec;
}

static bool policy_of(const struct cs_rec *rec, uint32_t *local)
{
	*local = rec->identity;
	return rec->kind == COUNTERSIGN__V1__KIND__KIND_POLICY_ROW ||
	       rec->kind == COUNTERSIGN__V1__KIND__KIND_POLICY_DEFAULT;
}

static void collect_policy_of(struct cs_cursor *c, uint32_t identity)
{
	struct cs_local *local;
	HASH_FIND(hh, c->dir->locals, &identity, sizeof(identity), local);
	for (struct cs_rule_entry *rule = local ? local->rules : NULL; rule; rule = rule->next)
		if (wants(c, rule->entry->rec->kind))
			add_take(c, cs_rec_ref(rule->entry->rec));
}

static void collect_full(struct cs_cursor *c)
{
	struct cs_directory *dir = c->dir;
	uint32_t ignored;
	for (int kind = 1; kind < CS_KINDS; kind++) {
		struct cs_entry *entry = wants(c, (Countersign__V1__Kind)kind) ? dir->kinds[kind] : NULL;
		if (!entry || policy_of(entry->rec, &ignored))
			continue;
		for (; entry; entry = entry->knext)
			add_take(c, cs_rec_ref(entry->rec));
	}
	const struct cs_host *host = cs_dir_host(dir, c->node);
	for (const struct cs_placed *p = host ? host->placed : NULL; p; p = p->hh.next)
		collect_policy_of(c, p->identity);
}

/* Text keys that were met; the strings are borrowed. */
struct met {
	const char *key;
	UT_hash_handle hh;
};

static bool meet(struct met **set, const char *key)
{
	struct met *m;
	HASH_FIND(hh, *set, key, strlen(key), m);
	if (m)
		return false;
	m = cs_xcalloc(1, sizeof(*m));
	m->key = key;
	HASH_ADD_KEYPTR(hh, *set, m->key, strlen(m->key), m);
	return true;
}

static void forget(struct met **set)
{
	struct met *m, *tmp;
	HASH_ITER (hh, *set, m, tmp) {
		HASH_DEL(*set, m);
		free(m);
	}
}

/* An identity came to or left this follower's node: its policy comes or goes with it, although it did not change. */
static void collect_moved(struct cs_cursor *c, uint32_t identity, struct met **met)
{
	bool here = cs_host_has(cs_dir_host(c->dir, c->node), identity);
	struct cs_local *local;
	HASH_FIND(hh, c->dir->locals, &identity, sizeof(identity), local);
	for (struct cs_rule_entry *rule = local ? local->rules : NULL; rule; rule = rule->next) {
		struct cs_entry *entry = rule->entry;
		if (!wants(c, entry->rec->kind))
			continue;
		/* A deleted record of that key may be in the changes too: the state of now is what counts. */
		meet(met, entry->rec->key);
		if (here)
			add_take(c, cs_rec_ref(entry->rec));
		else
			add_take(c, cs_rec_gone(entry->rec));
	}
}

static void collect_changes(struct cs_cursor *c)
{
	struct cs_directory *dir = c->dir;
	struct met *met = NULL, *moved = NULL;
	const struct cs_host *host = cs_dir_host(dir, c->node);
	size_t first = dir->nchanges;
	while (first > 0 && cs_dir_change(dir, first - 1)->revision > c->at)
		first--;
	for (size_t i = first; i < dir->nchanges; i++) {
		struct cs_rec *rec = cs_dir_change(dir, i)->rec;
		if (rec->kind == COUNTERSIGN__V1__KIND__KIND_PLACEMENT &&
			strcmp(cs_rec_placement_node(rec), c->node) == 0 && meet(&moved, rec->key))
			collect_moved(c, rec->identity, &met);
	}
	for (size_t i = dir->nchanges; i > first; i--) {
		struct cs_rec *rec = cs_dir_change(dir, i - 1)->rec;
		uint32_t local;
		if (!wants(c, rec->kind))
			continue;
		/* A row that goes is said even if its identity was never here: harmless, and else one could be missed. */
		if (policy_of(rec, &local) && !rec->deleted && !cs_host_has(host, local))
			continue;
		if (meet(&met, rec->key))
			add_take(c, cs_rec_ref(rec));
	}
	forget(&met);
	forget(&moved);
}

bool cs_cursor_begins_full(const struct cs_cursor *c)
{
	const struct cs_directory *dir = c->dir;
	if (c->next < c->npending || !dir->published)
		return false;
	if (c->started)
		return c->epoch != dir->epoch;
	return !c->follow.resume || c->follow.epoch != dir->epoch || c->follow.revision < dir->floor ||
	       (c->follow.revision > dir->revision && c->believe);
}

bool cs_cursor_will_miss(const struct cs_cursor *c)
{
	const struct cs_directory *dir = c->dir;
	if (dir->nchanges <= dir->limits.changes)
		return false;
	return c->at < cs_dir_change(dir, dir->nchanges - dir->limits.changes - 1)->revision;
}

bool cs_cursor_ahead(const struct cs_cursor *c)
{
	return !c->started && c->follow.resume && c->follow.epoch == c->dir->epoch &&
	       c->follow.revision > c->dir->revision && !c->believe;
}

void cs_cursor_believe(struct cs_cursor *c)
{
	c->believe = true;
}

uint64_t cs_cursor_at(const struct cs_cursor *c)
{
	return c->at;
}

static int collect(struct cs_cursor *c, struct cs_error *e)
{
	struct cs_directory *dir = c->dir;
	drop_pending(c);
	if (!dir->published || cs_cursor_ahead(c))
		return 0;
	c->full = cs_cursor_begins_full(c);
	c->started = true;
	c->epoch = dir->epoch;
	c->to = dir->revision;
	if (c->full) {
		collect_full(c);
		return 1;
	}
	if (c->at == dir->revision)
		return 0;
	if (c->at < dir->floor)
		return cs_error_reason(e, -EOVERFLOW, CS_R_TOO_MANY,
			"too slow: the changes after revision %llu are no longer kept; follow anew",
			(unsigned long long)c->at);
	collect_changes(c);
	/* Changes of which none is for this follower move its position only. */
	return 1;
}

static void batch_init(struct cs_cursor *c, struct cs_batch *ret, uint64_t revision)
{
	*ret = (struct cs_batch){.last = false};
	countersign__v1__directory_batch__init(&ret->msg);
	countersign__v1__position__init(&ret->position);
	ret->position.epoch = c->started ? c->epoch : c->dir->epoch;
	ret->position.revision = revision;
	ret->msg.position = &ret->position;
}

#define RECORDS 2 /* the number of DirectoryBatch.records */

static size_t packed_size(const struct cs_rec *rec)
{
	return 1 + rec->nframed;
}

void cs_cursor_unpack(struct cs_cursor *c, struct cs_batch *batch)
{
	drop_lent(c);
	c->lent = cs_xcalloc(batch->n, sizeof(*c->lent));
	for (size_t i = 0; i < batch->n; i++)
		c->lent[c->nlent++] = cs_rec_unpack(c->pending[c->next - batch->n + i]);
	batch->msg.records = c->lent;
	batch->msg.n_records = batch->n;
	batch->msg.base.unknown_fields = NULL;
	batch->msg.base.n_unknown_fields = 0;
}

int cs_cursor_next(struct cs_cursor *c, size_t max_bytes, struct cs_batch *ret, struct cs_error *e)
{
	drop_lent(c);
	if (c->started && c->at == c->to && c->follow.once)
		return 0;
	if (c->next == c->npending) {
		int r = collect(c, e);
		if (r <= 0)
			return r;
	}
	batch_init(c, ret, c->to);
	size_t bytes = 64, n = 0, left = c->npending - c->next;
	while (n < left && (n == 0 || bytes + packed_size(c->pending[c->next + n]) <= max_bytes))
		bytes += packed_size(c->pending[c->next + n++]);
	if (n > c->fieldscap) {
		c->fieldscap = n;
		c->fields = cs_xrealloc(c->fields, n, sizeof(*c->fields));
	}
	for (size_t i = 0; i < n; i++) {
		const struct cs_rec *rec = c->pending[c->next + i];
		c->fields[i] = (ProtobufCMessageUnknownField){.tag = RECORDS,
			.wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED,
			.len = rec->nframed,
			.data = (uint8_t *)cs_rec_framed(rec)};
	}
	c->next += n;
	ret->n = n;
	/* Packed already: protobuf-c puts them in as they are. */
	ret->msg.base.unknown_fields = c->fields;
	ret->msg.base.n_unknown_fields = (unsigned)n;
	if (c->next == c->npending) {
		ret->msg.complete = true;
		ret->msg.synced = c->full;
		ret->last = c->follow.once;
		c->at = c->to;
	}
	return 1;
}

int cs_cursor_heartbeat(struct cs_cursor *c, struct cs_batch *ret)
{
	if (c->next < c->npending)
		return 0;
	batch_init(c, ret, c->at);
	return 1;
}
