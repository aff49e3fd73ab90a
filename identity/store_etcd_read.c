/* Reading the store in etcd: everything at one revision, and then what changes. */
#include "store_etcd_private.h"

#include <errno.h>

/* ---- what was watched and not yet polled ---- */

static void free_revision(struct revision *r)
{
	for (size_t i = 0; i < r->n; i++) {
		free(r->rows[i].key);
		free(r->rows[i].value);
	}
	free(r->rows);
	free(r);
}

void cs_store_etcd_forget(struct cs_etcd_backend *b, int64_t until)
{
	while (b->first && b->first->etcd <= until) {
		struct revision *r = b->first;
		b->first = r->next;
		b->queued -= r->bytes;
		free_revision(r);
	}
	if (!b->first)
		b->last = &b->first;
}

/* The part of a fact's key that the store knows; NULL: not a fact's. */
static char *fact_key(const struct cs_etcd_backend *b, struct cs_etcd_bytes key)
{
	size_t skip = b->nprefix + strlen(KEY_FACTS);
	const char *text = key.data;
	if (key.len <= skip || key.len - skip > CS_STORE_KEY_MAX || memcmp(text, b->prefix, b->nprefix) != 0 ||
		memcmp(text + b->nprefix, KEY_FACTS, strlen(KEY_FACTS)) != 0 || memchr(text, '\0', key.len))
		return NULL;
	char *copy = cs_xcalloc(1, key.len - skip + 1);
	memcpy(copy, text + skip, key.len - skip);
	return copy;
}

static bool is_key(struct cs_etcd_bytes key, const char *text)
{
	return key.len == strlen(text) && memcmp(key.data, text, key.len) == 0;
}

static void take_event(struct cs_etcd_backend *b, struct revision *r, const struct cs_etcd_event *event)
{
	const struct cs_etcd_kv *kv = &event->kv;
	if (is_key(kv->key, b->head_key))
		r->head = kv->mod_revision;
	else if (is_key(kv->key, b->leader_key))
		cs_store_etcd_leader_is(
			b, kv->mod_revision, event->deleted ? 0 : kv->create_revision, kv->lease, kv->value);
	char *key = fact_key(b, kv->key);
	if (!key)
		return;
	/* One byte more, so that an empty value is not a deletion. */
	uint8_t *value = event->deleted ? NULL : cs_xcalloc(1, kv->value.len + 1);
	if (value && kv->value.len > 0)
		memcpy(value, kv->value.data, kv->value.len);
	r->rows[r->n++] = (struct row){.key = key, .value = value, .n = value ? kv->value.len : 0};
	r->bytes += sizeof(struct row) + kv->key.len + kv->value.len;
}

static void lose_place(struct cs_etcd_backend *b)
{
	cs_store_etcd_forget(b, INT64_MAX);
	b->lost_place = true;
	uv_cond_broadcast(&b->cond);
}

static void on_revision(int64_t revision, const struct cs_etcd_event *events, size_t n, void *data)
{
	struct cs_etcd_backend *b = data;
	struct revision *r = cs_xcalloc(1, sizeof(*r));
	r->etcd = revision;
	r->bytes = sizeof(*r);
	r->rows = cs_xcalloc(n, sizeof(*r->rows));
	for (size_t i = 0; i < n; i++)
		take_event(b, r, &events[i]);
	bool facts = r->n > 0;
	uv_mutex_lock(&b->lock);
	b->told = revision;
	if (b->lost_place) {
		free_revision(r);
	} else {
		*b->last = r;
		b->last = &r->next;
		b->queued += r->bytes;
		if (b->queued > QUEUE_MAX)
			lose_place(b);
	}
	uv_cond_broadcast(&b->cond);
	uv_mutex_unlock(&b->lock);
	if (facts)
		cs_store_etcd_notify(b);
}

static void on_over(const struct cs_error *why, void *data)
{
	(void)why; /* reading anew says what is wrong, if it still is */
	struct cs_etcd_backend *b = data;
	b->watch = NULL;
	b->leader_at = 0; /* another store counts anew */
	uv_mutex_lock(&b->lock);
	lose_place(b);
	uv_mutex_unlock(&b->lock);
	cs_store_etcd_notify(b);
}

static void on_alive(void *data)
{
	cs_store_etcd_heard(data);
}

/* ---- everything ---- */

struct page {
	struct ask ask; /* first */
	const struct cs_backend_reader *reader;
	uint8_t *from; /* the key to begin with */
	size_t nfrom;
	int64_t limit, revision, head;
	bool more, has_leader;
};

static void take_kv(struct page *p, const struct cs_etcd_result *result, const struct cs_etcd_kv *kv)
{
	struct cs_etcd_backend *b = p->ask.b;
	if (is_key(kv->key, b->head_key))
		p->head = kv->mod_revision;
	else if (is_key(kv->key, b->leader_key)) {
		p->has_leader = true;
		cs_store_etcd_leader_is(
			b, p->revision ? p->revision : result->revision, kv->create_revision, kv->lease, kv->value);
	}
	char *key = fact_key(b, kv->key);
	if (key)
		p->reader->row(p->reader->data, key, kv->value.len ? kv->value.data : "", kv->value.len);
	free(key);
}

/* The reader is the caller's, who waits. */
static void on_page(const struct cs_etcd_result *result, const struct cs_etcd_kv *kvs, size_t n, bool more, void *data)
{
	struct page *p = data;
	for (size_t i = 0; i < n; i++)
		take_kv(p, result, &kvs[i]);
	p->more = more && n > 0;
	if (result->outcome == CS_ETCD_DONE && !p->more && !p->has_leader)
		cs_store_etcd_leader_is(
			p->ask.b, p->revision ? p->revision : result->revision, 0, 0, (struct cs_etcd_bytes){0});
	if (p->more) { /* the next key after the last one */
		free(p->from);
		p->nfrom = kvs[n - 1].key.len + 1;
		p->from = cs_xcalloc(1, p->nfrom);
		memcpy(p->from, kvs[n - 1].key.data, p->nfrom - 1);
	}
	cs_store_etcd_answer(&p->ask, result);
}

static void ask_page(struct ask *ask)
{
	struct page *p = (struct page *)ask;
	struct cs_etcd_backend *b = ask->b;
	const struct cs_etcd_range range = {.key = {p->from, p->nfrom},
		.end = {b->prefix_end, b->nprefix_end},
		.limit = p->limit,
		.revision = p->revision};
	struct cs_error e;
	if (cs_etcd_range(b->etcd, &range, b->timeout_ms, on_page, p, &e) < 0)
		cs_store_etcd_refuse(ask, &e);
}

/* All pages at one revision. -ESTALE: it was compacted meanwhile. */
static int read_pages(struct cs_etcd_backend *b, struct page *p, struct cs_error *e)
{
	p->from = cs_xmemdup(b->prefix, b->nprefix);
	p->nfrom = b->nprefix;
	p->limit = PAGE;
	p->revision = p->head = 0;
	p->has_leader = false;
	p->reader->whole(p->reader->data);
	do {
		cs_store_etcd_run(b, &p->ask, ask_page);
		const struct cs_etcd_result *result = &p->ask.result;
		if (result->outcome != CS_ETCD_DONE && result->error.code == -EMSGSIZE && p->limit > 1) {
			p->limit = p->limit / 8 > 0 ? p->limit / 8 : 1; /* large values: fewer at a time */
			p->more = true;
			continue;
		}
		if (result->outcome != CS_ETCD_DONE)
			return cs_store_etcd_error(result, "cannot read the store", e);
		if (p->revision == 0) {
			p->revision = result->revision;
			b->cluster_id = result->cluster_id;
		}
	} while (p->more);
	return 0;
}

static void start_watch(struct ask *ask)
{
	static const struct cs_etcd_watch_events events = {
		.revision = on_revision, .compacted = on_over, .failed = on_over, .alive = on_alive};
	struct cs_etcd_backend *b = ask->b;
	struct cs_error e;
	cs_etcd_watch_free(b->watch);
	b->watch = NULL;
	uv_mutex_lock(&b->lock);
	cs_store_etcd_forget(b, INT64_MAX);
	b->lost_place = false;
	b->told = b->known;
	uv_mutex_unlock(&b->lock);
	const struct cs_etcd_bytes end = {b->prefix_end, b->nprefix_end};
	if (cs_etcd_watch(b->etcd, cs_store_etcd_text(b->prefix), end, b->known + 1, b->cluster_id, &events, b,
		    &b->watch, &e) < 0)
		cs_store_etcd_refuse(ask, &e);
	else
		cs_store_etcd_answer(ask, NULL);
}

int cs_store_etcd_load(struct cs_backend *base, const struct cs_backend_reader *reader, struct cs_error *e)
{
	struct cs_etcd_backend *b = (struct cs_etcd_backend *)base;
	struct page p = {.reader = reader};
	int r = -ESTALE;
	for (int i = 0; i < STALE_READS && r == -ESTALE; i++) {
		r = read_pages(b, &p, e);
		free(p.from);
	}
	if (r < 0)
		return r;
	b->known = p.revision;
	b->head = p.head;
	b->want = 0; /* of whatever store that was; this read is of now */
	struct ask ask = {0};
	cs_store_etcd_run(b, &ask, start_watch);
	if (ask.result.error.code < 0)
		return cs_store_etcd_error(&ask.result, "cannot watch the store", e);
	reader->revision(reader->data);
	return 0;
}

/* ---- what changed ---- */

/* Waits until the watch has come as far as we have heard by other ways. */
static int catch_up(struct cs_etcd_backend *b, struct cs_error *e)
{
	int64_t end_ms = cs_loop_mono_ms(&b->loop) + b->timeout_ms, left_ms = b->timeout_ms;
	uv_mutex_lock(&b->lock);
	while (b->told < b->want && !b->lost_place && left_ms > 0) {
		uv_cond_timedwait(&b->cond, &b->lock, (uint64_t)left_ms * 1000000);
		left_ms = end_ms - cs_loop_mono_ms(&b->loop);
	}
	int64_t told = b->told;
	bool there = told >= b->want || b->lost_place;
	uv_mutex_unlock(&b->lock);
	if (there)
		return 0;
	return cs_error_reason(e, -ETIMEDOUT, CS_R_STORE_UNAVAILABLE,
		"etcd does not tell what others wrote: revision %lld is there, and %lld was heard of", (long long)told,
		(long long)b->want);
}

static void tell(const struct revision *r, const struct cs_backend_reader *reader)
{
	for (size_t i = 0; i < r->n; i++)
		reader->row(reader->data, r->rows[i].key, r->rows[i].value, r->rows[i].n);
	if (r->n > 0)
		reader->revision(reader->data);
}

int cs_store_etcd_poll(struct cs_backend *base, const struct cs_backend_reader *reader, struct cs_error *e)
{
	struct cs_etcd_backend *b = (struct cs_etcd_backend *)base;
	int r = cs_store_etcd_make_sure(b, e);
	if (r == 0)
		r = catch_up(b, e);
	if (r < 0)
		return r;
	uv_mutex_lock(&b->lock);
	cs_store_etcd_forget(b, b->known); /* our own */
	struct revision *list = b->first;
	bool lost = b->lost_place;
	b->first = NULL;
	b->last = &b->first;
	b->queued = 0;
	uv_mutex_unlock(&b->lock);
	while (list) {
		struct revision *next = list->next;
		b->known = list->etcd;
		if (list->head)
			b->head = list->head;
		tell(list, reader);
		free_revision(list);
		list = next;
	}
	return lost ? cs_store_etcd_load(base, reader, e) : 0;
}
