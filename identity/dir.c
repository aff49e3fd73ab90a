#include "dir_private.h"

#include <errno.h>
#include "identity_limits.h"
#include "mem.h"

/* --- shared records --- */

static size_t varint_pack(uint32_t value, uint8_t out[5])
{
	size_t n = 0;
	for (; value >= 0x80; value >>= 7)
		out[n++] = (uint8_t)(value | 0x80);
	out[n++] = (uint8_t)value;
	return n;
}

static uint32_t identity_of(const cs_record *record)
{
	switch (cs_record_kind(record)) {
	case COUNTERSIGN__V1__KIND__KIND_PLACEMENT:
		return record->placement->identity;
	case COUNTERSIGN__V1__KIND__KIND_POLICY_ROW:
		return record->policy_row->local;
	case COUNTERSIGN__V1__KIND__KIND_POLICY_DEFAULT:
		return record->policy_default->local;
	default:
		return 0;
	}
}

struct cs_rec *cs_rec_new(const cs_record *record, const char *key)
{
	size_t n = countersign__v1__record__get_packed_size(record), nkey = strlen(key);
	uint8_t length[5];
	size_t nlength = varint_pack((uint32_t)n, length);
	struct cs_rec *rec = cs_xcalloc(1, offsetof(struct cs_rec, key) + nkey + 1 + nlength + n);
	rec->refs = 1;
	rec->kind = (uint8_t)cs_record_kind(record);
	rec->deleted = record->deleted;
	rec->identity = identity_of(record);
	rec->nkey = (uint16_t)nkey;
	rec->nframed = (uint32_t)(nlength + n);
	memcpy(rec->key, key, nkey + 1);
	memcpy(rec->key + nkey + 1, length, nlength);
	countersign__v1__record__pack(record, (uint8_t *)rec->key + nkey + 1 + nlength);
	return rec;
}

cs_record *cs_rec_unpack(const struct cs_rec *rec)
{
	const uint8_t *at = cs_rec_framed(rec), *end = at + rec->nframed;
	while (*at++ & 0x80) /* the length */
		;
	return cs_record_unpack(at, (size_t)(end - at));
}

struct cs_rec *cs_rec_gone(const struct cs_rec *rec)
{
	cs_record *record = cs_rec_unpack(rec), *gone = cs_record_copy(record, true);
	struct cs_rec *ret = cs_rec_new(gone, rec->key);
	cs_record_free(gone);
	cs_record_free(record);
	return ret;
}

/* "placement/256/n1" */
const char *cs_rec_placement_node(const struct cs_rec *rec)
{
	return strchr(strchr(rec->key, '/') + 1, '/') + 1;
}

/* Kept with the record: few are looked into, and those often. */
static const cs_record *look(struct cs_rec *rec)
{
	if (!rec->msg)
		rec->msg = cs_rec_unpack(rec);
	return rec->msg;
}

static bool same(const struct cs_rec *a, const struct cs_rec *b)
{
	return a->nframed == b->nframed && memcmp(cs_rec_framed(a), cs_rec_framed(b), a->nframed) == 0;
}

struct cs_rec *cs_rec_ref(struct cs_rec *rec)
{
	rec->refs++;
	return rec;
}

void cs_rec_unref(struct cs_rec *rec)
{
	if (!rec || --rec->refs > 0)
		return;
	cs_record_free(rec->msg);
	free(rec);
}

/* --- the changes --- */

const struct cs_change *cs_dir_change(const struct cs_directory *dir, size_t i)
{
	return &dir->changes[(dir->head + i) % dir->cap];
}

static void drop_oldest(struct cs_directory *dir)
{
	struct cs_change *oldest = &dir->changes[dir->head];
	dir->floor = oldest->revision;
	cs_rec_unref(oldest->rec);
	dir->head = (dir->head + 1) % dir->cap;
	dir->nchanges--;
}

static void grow_ring(struct cs_directory *dir)
{
	size_t cap = dir->cap ? dir->cap * 2 : 256;
	struct cs_change *changes = cs_xcalloc(cap, sizeof(*changes));
	for (size_t i = 0; i < dir->nchanges; i++)
		changes[i] = *cs_dir_change(dir, i);
	free(dir->changes);
	dir->changes = changes;
	dir->cap = cap;
	dir->head = 0;
}

/* The revision that is being made gets its number at publication. */
static void log_change(struct cs_directory *dir, struct cs_rec *rec)
{
	dir->changed = true;
	if (!dir->published) {
		cs_rec_unref(rec);
		return;
	}
	if (dir->nchanges == dir->cap)
		grow_ring(dir);
	dir->changes[(dir->head + dir->nchanges++) % dir->cap] = (struct cs_change){.revision = 0, .rec = rec};
}

/* --- the state --- */

struct cs_directory *cs_dir_new(uint64_t epoch, const struct cs_dir_limits *limits)
{
	struct cs_directory *dir = cs_xcalloc(1, sizeof(*dir));
	dir->epoch = epoch;
	dir->limits =
		limits ? *limits : (struct cs_dir_limits){.records = CS_DIR_RECORDS_MAX, .changes = CS_DIR_CHANGES_MAX};
	return dir;
}

static bool is_policy(Countersign__V1__Kind kind)
{
	return kind == COUNTERSIGN__V1__KIND__KIND_POLICY_ROW || kind == COUNTERSIGN__V1__KIND__KIND_POLICY_DEFAULT;
}

static void link_local(struct cs_directory *dir, struct cs_entry *entry)
{
	if (!is_policy(entry->rec->kind))
		return;
	uint32_t id = entry->rec->identity;
	struct cs_local *local;
	HASH_FIND(hh, dir->locals, &id, sizeof(id), local);
	if (!local) {
		local = cs_xcalloc(1, sizeof(*local));
		local->identity = id;
		HASH_ADD(hh, dir->locals, identity, sizeof(id), local);
	}
	entry->rule = cs_xcalloc(1, sizeof(*entry->rule));
	*entry->rule = (struct cs_rule_entry){.entry = entry, .local = local};
	DL_APPEND(local->rules, entry->rule);
}

const struct cs_host *cs_dir_host(const struct cs_directory *dir, const char *node)
{
	struct cs_host *host;
	HASH_FIND_STR(dir->hosts, node, host);
	return host;
}

bool cs_host_has(const struct cs_host *host, uint32_t identity)
{
	struct cs_placed *placed = NULL;
	if (host)
		HASH_FIND(hh, host->placed, &identity, sizeof(identity), placed);
	return placed != NULL;
}

static void link_placement(struct cs_directory *dir, const struct cs_rec *rec)
{
	const char *node = cs_rec_placement_node(rec);
	struct cs_host *host;
	HASH_FIND_STR(dir->hosts, node, host);
	if (!host) {
		host = cs_xcalloc(1, sizeof(*host));
		host->node = cs_xstrdup(node);
		HASH_ADD_KEYPTR(hh, dir->hosts, host->node, strlen(host->node), host);
	}
	struct cs_placed *placed = cs_xcalloc(1, sizeof(*placed));
	placed->identity = rec->identity;
	HASH_ADD(hh, host->placed, identity, sizeof(placed->identity), placed);
}

static void unlink_placement(struct cs_directory *dir, const struct cs_rec *rec)
{
	struct cs_host *host;
	struct cs_placed *placed;
	HASH_FIND_STR(dir->hosts, cs_rec_placement_node(rec), host);
	HASH_FIND(hh, host->placed, &rec->identity, sizeof(rec->identity), placed);
	HASH_DEL(host->placed, placed);
	free(placed);
	if (host->placed)
		return;
	HASH_DEL(dir->hosts, host);
	free(host->node);
	free(host);
}

static void remove_entry(struct cs_directory *dir, struct cs_entry *entry)
{
	if (entry->rec->kind == COUNTERSIGN__V1__KIND__KIND_PLACEMENT)
		unlink_placement(dir, entry->rec);
	struct cs_local *local = entry->rule ? entry->rule->local : NULL;
	if (local) {
		DL_DELETE(local->rules, entry->rule);
		if (!local->rules) {
			HASH_DEL(dir->locals, local);
			free(local);
		}
	}
	free(entry->rule);
	HASH_DEL(dir->entries, entry);
	DL_DELETE2(dir->kinds[entry->rec->kind], entry, kprev, knext);
	dir->counts[entry->rec->kind]--;
	dir->counts[0]--;
	cs_rec_unref(entry->rec);
	free(entry);
}

void cs_dir_free(struct cs_directory *dir)
{
	if (!dir)
		return;
	struct cs_entry *entry, *tmp;
	HASH_ITER (hh, dir->entries, entry, tmp)
		remove_entry(dir, entry);
	while (dir->nchanges > 0)
		drop_oldest(dir);
	free(dir->changes);
	free(dir);
}

struct cs_entry *cs_dir_entry(const struct cs_directory *dir, const char *key)
{
	struct cs_entry *entry;
	HASH_FIND(hh, dir->entries, key, strlen(key), entry);
	return entry;
}

static void insert_entry(struct cs_directory *dir, struct cs_rec *rec)
{
	struct cs_entry *entry = cs_xcalloc(1, sizeof(*entry));
	entry->rec = rec;
	rec->seen = true;
	HASH_ADD_KEYPTR(hh, dir->entries, rec->key, rec->nkey, entry);
	DL_APPEND2(dir->kinds[rec->kind], entry, kprev, knext);
	dir->counts[rec->kind]++;
	dir->counts[0]++;
	link_local(dir, entry);
	if (rec->kind == COUNTERSIGN__V1__KIND__KIND_PLACEMENT)
		link_placement(dir, rec);
}

int cs_dir_put_take(struct cs_directory *dir, cs_record *record, struct cs_error *e)
{
	char *key = cs_record_key(record);
	if (!key || record->deleted) {
		free(key);
		cs_record_free(record);
		return cs_error_set(e, -EINVAL, "a directory record without a kind or a key");
	}
	struct cs_entry *entry = cs_dir_entry(dir, key);
	struct cs_rec *rec = cs_rec_new(record, key);
	free(key);
	cs_record_free(record);
	if (entry && same(entry->rec, rec)) {
		entry->rec->seen = true;
		cs_rec_unref(rec);
		return 0;
	}
	if (!entry && dir->counts[0] >= dir->limits.records) {
		cs_rec_unref(rec);
		return cs_error_reason(
			e, -ENOSPC, CS_R_TOO_MANY, "the directory is full: it holds %zu records", dir->counts[0]);
	}
	if (entry) /* the hash borrows the key of the record, so the entry is made anew */
		remove_entry(dir, entry);
	insert_entry(dir, rec);
	log_change(dir, cs_rec_ref(rec));
	return 1;
}

static void delete_entry(struct cs_directory *dir, struct cs_entry *entry)
{
	log_change(dir, cs_rec_gone(entry->rec));
	remove_entry(dir, entry);
}

bool cs_dir_del(struct cs_directory *dir, const cs_record *record)
{
	char *key = cs_record_key(record);
	struct cs_entry *entry = key ? cs_dir_entry(dir, key) : NULL;
	free(key);
	if (entry)
		delete_entry(dir, entry);
	return entry != NULL;
}

bool cs_dir_publish(struct cs_directory *dir, uint64_t revision, bool even_unchanged)
{
	if (!dir->changed && dir->published && !even_unchanged)
		return false;
	for (size_t i = dir->nchanges; i > 0; i--) {
		struct cs_change *change = &dir->changes[(dir->head + i - 1) % dir->cap];
		if (change->revision != 0)
			break;
		change->revision = revision;
	}
	if (!dir->published)
		dir->floor = revision;
	dir->published = true;
	dir->changed = false;
	dir->revision = revision;
	struct cs_dir_watch *watch, *tmp;
	DL_FOREACH_SAFE (dir->watchers, watch, tmp)
		watch->fn(watch);
	/* After the watchers: a publication that is larger than what is kept reaches those who keep up all the same. */
	while (dir->nchanges > dir->limits.changes)
		drop_oldest(dir);
	return true;
}

void cs_dir_set_epoch(struct cs_directory *dir, uint64_t epoch)
{
	if (epoch == dir->epoch)
		return;
	dir->epoch = epoch;
	while (dir->nchanges > 0)
		drop_oldest(dir);
	dir->published =
		false; /* what is put before the next publication is no change, and that is where the epoch begins */
	dir->revision = 0;
}

/* --- looking --- */

uint64_t cs_dir_epoch(const struct cs_directory *dir)
{
	return dir->epoch;
}

uint64_t cs_dir_revision(const struct cs_directory *dir)
{
	return dir->revision;
}

bool cs_dir_published(const struct cs_directory *dir)
{
	return dir->published;
}

size_t cs_dir_count(const struct cs_directory *dir, Countersign__V1__Kind kind)
{
	return dir->counts[kind];
}

size_t cs_dir_changes(const struct cs_directory *dir)
{
	return dir->nchanges;
}

const cs_record *cs_dir_get(const struct cs_directory *dir, const cs_record *record)
{
	char *key = cs_record_key(record);
	struct cs_entry *entry = key ? cs_dir_entry(dir, key) : NULL;
	free(key);
	return entry ? look(entry->rec) : NULL;
}

const Countersign__V1__Identity *cs_dir_identity(const struct cs_directory *dir, uint32_t id)
{
	char key[32];
	snprintf(key, sizeof(key), "identity/%u", id);
	struct cs_entry *entry = cs_dir_entry(dir, key);
	return entry ? look(entry->rec)->identity : NULL;
}

const Countersign__V1__Node *cs_dir_node(const struct cs_directory *dir, const char *name)
{
	char key[CS_NODE_NAME_BYTES + 8];
	snprintf(key, sizeof(key), "node/%s", name);
	struct cs_entry *entry = cs_dir_entry(dir, key);
	return entry ? look(entry->rec)->node : NULL;
}

const Countersign__V1__Placement *cs_dir_placement(const struct cs_directory *dir, uint32_t identity, const char *node)
{
	char key[CS_NODE_NAME_BYTES + 32];
	snprintf(key, sizeof(key), "placement/%u/%s", identity, node);
	struct cs_entry *entry = cs_dir_entry(dir, key);
	return entry ? look(entry->rec)->placement : NULL;
}

void cs_dir_each(const struct cs_directory *dir, Countersign__V1__Kind kind,
	void (*fn)(void *data, const cs_record *record), void *data)
{
	for (const struct cs_entry *entry = dir->kinds[kind]; entry; entry = entry->knext) {
		cs_record *record = cs_rec_unpack(entry->rec);
		fn(data, record);
		cs_record_free(record);
	}
}

void cs_dir_watch(struct cs_directory *dir, struct cs_dir_watch *watch)
{
	DL_APPEND(dir->watchers, watch);
}

void cs_dir_unwatch(struct cs_directory *dir, struct cs_dir_watch *watch)
{
	DL_DELETE(dir->watchers, watch);
}

/* --- replacing everything --- */

void cs_dir_replace_begin(struct cs_directory *dir)
{
	struct cs_entry *entry, *tmp;
	HASH_ITER (hh, dir->entries, entry, tmp)
		entry->rec->seen = false;
}

void cs_dir_replace_end(struct cs_directory *dir, bool (*keep)(const cs_record *, void *), void *data)
{
	struct cs_entry *entry, *tmp;
	HASH_ITER (hh, dir->entries, entry, tmp) {
		if (entry->rec->seen)
			continue;
		cs_record *record = cs_rec_unpack(entry->rec);
		if (!keep || !keep(record, data))
			delete_entry(dir, entry);
		cs_record_free(record);
	}
}
