#include "store_private.h"

#include <errno.h>
#include <sys/random.h>
#include "mem.h"
#include "spiffe_template.h"
#include "store_etcd.h"

/* Somebody else wrote in between: decide anew, but not for ever. */
#define ATTEMPTS_MAX 8

int cs_store_random(uint64_t *ret, struct cs_error *e)
{
	*ret = 0;
	while (*ret == 0)
		if (getrandom(ret, sizeof(*ret), 0) != sizeof(*ret))
			return cs_error_errno(e, -errno, "cannot get random bytes");
	return 0;
}

/* --- time --- */

static void hear_time(struct cs_store *s, int64_t store_ms)
{
	int64_t now_ms = cs_store_now_ms(s);
	/* A leader's time may be behind what we counted on from the one before: it only ever goes on. */
	s->heard_store_ms = store_ms > now_ms ? store_ms : now_ms;
	s->heard_mono_ms = s->clock->mono_ms(s->clock->data);
}

int64_t cs_store_now_ms(const struct cs_store *s)
{
	int64_t since_ms = s->clock->mono_ms(s->clock->data) - s->heard_mono_ms;
	return s->heard_store_ms + (since_ms > 0 ? since_ms : 0);
}

/* --- reading --- */

struct reading {
	struct cs_store *store;
	const struct cs_fact_sink *sink;
	bool whole;
	bool any;            /* a row since the last revision */
	struct cs_meta meta; /* of the revision that is read; epoch 0: not seen yet */
	struct cs_error error;
};

static void on_whole(void *data)
{
	struct reading *r = data;
	r->whole = true;
	r->store->facts->round++;
}

static bool same(const struct cs_fact_entry *entry, const void *value, size_t n)
{
	size_t m;
	uint8_t *mine = cs_fact_encode(&entry->fact, &m);
	bool is = m == n && memcmp(mine, value, n) == 0;
	free(mine);
	return is;
}

static void read_deleted(struct reading *r, const char *key)
{
	struct cs_store *s = r->store;
	struct cs_fact_entry *entry = cs_facts_find_key(s->facts, key);
	if (entry)
		cs_store_remove(s, entry);
}

static void read_meta(struct reading *r, const void *value, size_t n)
{
	cs_meta_fini(&r->meta);
	if (!value)
		cs_error_set(&r->error, -EPROTO, "the key 'meta' was deleted from the store");
	else if (cs_meta_decode(value, n, &r->meta, &r->error) < 0)
		r->meta = (struct cs_meta){0};
}

static void on_row(void *data, const char *key, const void *value, size_t n)
{
	struct reading *r = data;
	struct cs_store *s = r->store;
	struct cs_fact fact;
	struct cs_fact_hold *hold = NULL;
	if (r->error.code)
		return;
	r->any = true;
	if (strcmp(key, CS_STORE_KEY_META) == 0) {
		read_meta(r, value, n);
		return;
	}
	if (!value) {
		read_deleted(r, key);
		return;
	}
	if (cs_fact_decode(key, value, n, &fact, &hold, &r->error) < 0)
		return;
	struct cs_fact_entry *entry = cs_facts_find(s->facts, &fact);
	if (entry && same(entry, value, n))
		entry->round = s->facts->round;
	else
		cs_store_put(s, &fact);
	cs_fact_hold_free(hold);
}

static int check_meta(const struct cs_store *s, const struct cs_meta *meta, struct cs_error *e)
{
	if (meta->copying)
		return cs_error_set(
			e, -EPROTO, "a copy into this store was begun and did not end; empty the store and copy again");
	if (strcmp(meta->trust_domain, s->config.trust_domain) != 0)
		return cs_error_reason(e, -EINVAL, CS_R_TRUST_DOMAIN_MISMATCH,
			"the store belongs to the trust domain %s, not to %s", meta->trust_domain,
			s->config.trust_domain);
	if (meta->cluster_id != s->config.cluster_id)
		return cs_error_set(e, -EINVAL, "the store belongs to the cluster id %u, not to %u", meta->cluster_id,
			s->config.cluster_id);
	return 0;
}

static int check_revision(struct reading *r, struct cs_error *e)
{
	struct cs_store *s = r->store;
	if (r->meta.epoch == 0)
		return s->meta.epoch == 0 && !r->any
			       ? 0
			       : cs_error_set(e, -EPROTO,
					 "the store has lost its key 'meta': it was emptied or damaged; what is known "
					 "stays in force");
	int code = check_meta(s, &r->meta, e);
	if (code < 0)
		return code;
	if (r->meta.epoch == s->meta.epoch && r->meta.revision < s->meta.revision)
		return cs_error_set(e, -EPROTO,
			"the store went back from revision %llu to %llu: a backup was restored without a new epoch "
			"(countersign store new-epoch)",
			(unsigned long long)s->meta.revision, (unsigned long long)r->meta.revision);
	return r->whole ? cs_facts_check(s->facts, e) : 0;
}

static void on_revision(void *data)
{
	struct reading *r = data;
	struct cs_store *s = r->store;
	if (r->error.code)
		return;
	for (int kind = 0; r->whole && kind < CS_FACT_KINDS; kind++) {
		struct cs_fact_entry *entry, *tmp;
		HASH_ITER (hh, s->facts->kinds[kind], entry, tmp)
			if (entry->round != s->facts->round)
				cs_store_remove(s, entry);
	}
	if (check_revision(r, &r->error) < 0)
		return;
	bool news = r->meta.epoch != s->meta.epoch || r->meta.revision != s->meta.revision || s->changes;
	if (r->meta.epoch != 0) {
		cs_meta_fini(&s->meta);
		s->meta = r->meta;
		r->meta = (struct cs_meta){0};
		hear_time(s, s->meta.store_ms);
	}
	if (news)
		cs_store_tell(s, r->sink);
	r->whole = r->any = false;
}

static int read_backend(struct cs_store *s, bool whole, const struct cs_fact_sink *sink, struct cs_error *e)
{
	struct reading r = {.store = s, .sink = sink};
	struct cs_backend_reader reader = {.whole = on_whole, .row = on_row, .revision = on_revision, .data = &r};
	int code =
		whole ? s->backend->ops->load(s->backend, &reader, e) : s->backend->ops->poll(s->backend, &reader, e);
	if (r.error.code && e)
		*e = r.error;
	if (r.error.code)
		code = r.error.code;
	cs_store_undo(s); /* of a revision that did not end */
	cs_meta_fini(&r.meta);
	s->lost = r.error.code != 0 || (s->lost && code < 0);
	return code;
}

/* --- writing --- */

static struct cs_meta next_meta(struct cs_store *s)
{
	return (struct cs_meta){.epoch = s->meta.epoch,
		.revision = s->meta.revision + 1,
		.store_ms = cs_store_now_ms(s),
		.trust_domain = (char *)s->config.trust_domain,
		.template = (char *)s->config.spiffe_id_template,
		.cluster_id = s->config.cluster_id,
		.copying = s->meta.copying,
		.next_id = s->meta.next_id};
}

static int write_all(struct cs_store *s, const struct cs_meta *meta, struct cs_error *e)
{
	size_t n = 0;
	struct cs_store_write *writes = cs_xcalloc(HASH_COUNT(s->changes) + 1, sizeof(*writes));
	writes[n].key = CS_STORE_KEY_META;
	writes[n].value = cs_meta_encode(meta, &writes[n].n);
	n++;
	for (struct cs_store_change *change = s->changes; change; change = change->hh.next, n++) {
		writes[n].key = change->key;
		if (change->now)
			writes[n].value = cs_fact_encode(&change->now->fact, &writes[n].n);
	}
	int r = s->backend->ops->write(s->backend, writes, n, e);
	for (size_t i = 0; i < n; i++)
		free((void *)writes[i].value);
	free(writes);
	return r;
}

/* Writes the revision in the making, or undoes it. */
static int write_revision(struct cs_store *s, struct cs_meta meta, const struct cs_fact_sink *sink, struct cs_error *e)
{
	int r = cs_store_random(&meta.tag, e);
	if (r == 0)
		r = write_all(s, &meta, e);
	if (r < 0) {
		cs_store_undo(s);
		return r;
	}
	meta.trust_domain = cs_xstrdup(meta.trust_domain);
	meta.template = cs_xstrdup(meta.template);
	cs_meta_fini(&s->meta);
	s->meta = meta;
	hear_time(s, meta.store_ms);
	cs_store_tell(s, sink);
	return 0;
}

int cs_store_write(struct cs_store *s, struct cs_error *e)
{
	return write_revision(s, next_meta(s), NULL, e);
}

static int make_store(struct cs_store *s, const struct cs_fact_sink *sink, struct cs_error *e)
{
	struct cs_meta meta = next_meta(s);
	meta.store_ms = s->clock->unix_ms(s->clock->data);
	int r = cs_store_random(&meta.epoch, e);
	return r < 0 ? r : write_revision(s, meta, sink, e);
}

static bool leads(const struct cs_store *s)
{
	struct cs_store_state state = {0};
	s->backend->ops->state(s->backend, &state);
	return state.leads;
}

int cs_store_poll(struct cs_store *s, const struct cs_fact_sink *sink, struct cs_error *e)
{
	int r = read_backend(s, s->lost, sink, e);
	if (r == 0 && s->meta.epoch == 0 && leads(s))
		r = make_store(s, sink, e);
	return r == -EAGAIN ? 0 : r; /* another one made it: the next poll tells */
}

/* --- commits --- */

static void forget_answer(struct cs_store_op *op)
{
	cs_store_op_fini(op);
	op->result = 0;
	op->error = (struct cs_error){0};
	op->changed = op->created = false;
	op->identity = 0;
	op->retry_after_ms = 0;
	op->incarnation = 0;
	op->created_unix_ms = 0;
	op->gc.marked = op->gc.deleted = 0;
	op->gc.more = false;
}

static void forget_answers(struct cs_store_op *const *ops, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		forget_answer(ops[i]);
}

/* An operation that was begun in an earlier revision: its answer up to there. */
struct carried {
	bool is;
	size_t nreleased;
	struct cs_store_gc gc;
};

static void back_to_carried(struct cs_store_op *op, const struct carried *c)
{
	while (op->nreleased > c->nreleased)
		free(op->released[--op->nreleased]);
	op->gc = c->gc;
}

/* As many operations as a revision has room for. *part: the last one is not done, and *ret_next is still that one. */
static int fill(struct cs_store *s, struct cs_store_op *const *ops, size_t from, size_t n, bool carried,
	size_t *ret_next, bool *part, struct cs_error *e)
{
	int r = 0;
	size_t i = from;
	while (i < n && r == 0 && cs_store_has_room(s, CS_STORE_OP_WRITES_MAX, CS_STORE_OP_BYTES_MAX)) {
		if (i > from || !carried)
			forget_answer(ops[i]);
		r = cs_store_apply(s, ops[i], e);
		i += r == 0;
	}
	*part = r == 1;
	*ret_next = i;
	return r < 0 ? r : 0;
}

/* One revision of the batch, from ops[*at] on. */
static int commit_some(struct cs_store *s, struct cs_store_op *const *ops, size_t n, size_t *at, struct carried *c,
	const struct cs_fact_sink *sink, struct cs_error *e)
{
	uint32_t next_id = s->meta.next_id;
	size_t next;
	bool part;
	int r = fill(s, ops, *at, n, c->is, &next, &part, e);
	if (r < 0)
		cs_store_undo(s);
	else if (s->changes || s->forced)
		r = write_revision(s, next_meta(s), sink, e);
	if (r < 0) {
		s->meta.next_id = next_id;
		if (c->is)
			back_to_carried(ops[*at], c);
		forget_answers(ops, *at + c->is, next + (next < n));
		return r;
	}
	*at = next;
	c->is = part;
	if (part) {
		c->nreleased = ops[next]->nreleased;
		c->gc = ops[next]->gc;
	}
	return 0;
}

/* Nobody writes who does not know that it may, and what there is. */
static int may_write(struct cs_store *s, const struct cs_fact_sink *sink, struct cs_error *e)
{
	struct cs_store_state state = {0};
	s->backend->ops->state(s->backend, &state);
	if (!state.leads)
		return cs_error_reason(e, -EPERM, CS_R_NOT_LEADER, "this replica does not lead%s%s",
			state.leader[0] ? "; the leader is " : "", state.leader);
	int r = s->lost || s->meta.epoch == 0 ? cs_store_poll(s, sink, e) : 0;
	if (r == 0 && s->meta.epoch == 0)
		r = cs_error_reason(e, -EPERM, CS_R_NOT_LEADER, "the store is being made by another replica");
	return r;
}

int cs_store_commit(struct cs_store *s, struct cs_store_op *const *ops, size_t n, const struct cs_fact_sink *sink,
	uint64_t *ret_revision, struct cs_error *e)
{
	struct carried carried = {0};
	size_t at = 0;
	int attempts = 0;
	int r = may_write(s, sink, e);
	while (r == 0 && at < n) {
		r = commit_some(s, ops, n, &at, &carried, sink, e);
		if (r == -EAGAIN && ++attempts < ATTEMPTS_MAX)
			r = cs_store_poll(s, sink, e);
	}
	if (r == -EAGAIN)
		r = cs_error_reason(e, -ETIMEDOUT, CS_R_STORE_UNAVAILABLE,
			"the store was changed by somebody else %d times while this was decided", ATTEMPTS_MAX);
	if (r < 0)
		forget_answers(ops, 0, n);
	*ret_revision = s->meta.revision;
	return r;
}

void cs_store_op_fini(struct cs_store_op *op)
{
	free(op->spiffe_id);
	for (size_t i = 0; i < op->nreleased; i++)
		free(op->released[i]);
	free(op->released);
	op->spiffe_id = NULL;
	op->released = NULL;
	op->nreleased = 0;
}

/* --- opening --- */

static void copy_config(struct cs_store *s, const struct cs_store_config *config)
{
	s->config = *config;
	s->config.path = config->path ? cs_xstrdup(config->path) : NULL;
	s->config.trust_domain = cs_xstrdup(config->trust_domain);
	s->config.spiffe_id_template = cs_xstrdup(config->spiffe_id_template);
	if (config->id_max == 0) {
		s->config.id_min = CS_IDENTITY_MIN;
		s->config.id_max = CS_IDENTITY_MAX;
	}
	if (config->etcd)
		s->lead_wait_ms = (config->etcd->lease_ms ? config->etcd->lease_ms : CS_STORE_ETCD_LEASE_MS) + 5000;
	s->clock = s->config.clock = config->clock ? config->clock : &cs_clock_system;
}

static struct cs_store *store_new(const struct cs_store_config *config)
{
	struct cs_store *s = cs_xcalloc(1, sizeof(*s));
	copy_config(s, config);
	s->facts = cs_facts_new(s->config.spiffe_id_template, s->config.id_min, s->config.id_max);
	return s;
}

static int read_first(struct cs_store *s, struct cs_error *e)
{
	s->opening = true;
	int r = read_backend(s, true, NULL, e);
	s->opening = false;
	return r == 0 && s->meta.epoch == 0 && leads(s) ? make_store(s, NULL, e) : r;
}

int cs_store_open_on(
	const struct cs_store_config *config, struct cs_backend *backend, struct cs_store **ret, struct cs_error *e)
{
	struct cs_store *s = store_new(config);
	s->backend = backend;
	int r = read_first(s, e);
	if (r < 0)
		cs_store_close(s);
	else
		*ret = s;
	return r;
}

int cs_store_open(const struct cs_store_config *config, struct cs_store **ret, struct cs_error *e)
{
	struct cs_store *s = store_new(config);
	int r = cs_spiffe_template_check(s->config.spiffe_id_template, s->config.trust_domain, e);
	if (r == 0)
		r = config->etcd ? cs_backend_etcd_open(&s->config, &s->backend, e)
				 : cs_backend_sqlite_open(&s->config, &s->backend, e);
	if (r == 0)
		r = read_first(s, e);
	if (r < 0 && !config->etcd)
		cs_error_prefix(e, "%s", config->path);
	if (r < 0)
		cs_store_close(s);
	else
		*ret = s;
	return r;
}

void cs_store_close(struct cs_store *s)
{
	if (!s)
		return;
	if (s->backend)
		s->backend->ops->close(s->backend);
	cs_store_undo(s);
	cs_facts_free(s->facts);
	cs_meta_fini(&s->meta);
	free(s->exhausted);
	free((void *)s->config.path);
	free((void *)s->config.trust_domain);
	free((void *)s->config.spiffe_id_template);
	free(s);
}

/* --- the rest of the interface --- */

int cs_store_load(struct cs_store *s, const struct cs_fact_sink *sink, struct cs_error *e)
{
	(void)e; /* it was read when it was opened */
	for (int turn = 0; turn < 2; turn++)
		for (int kind = 0; kind < CS_FACT_KINDS; kind++) {
			if ((kind == CS_FACT_CLAIM) != turn)
				continue; /* claims last: they name identities */
			for (struct cs_fact_entry *entry = s->facts->kinds[kind]; entry; entry = entry->hh.next)
				sink->change(sink->data, NULL, &entry->fact);
		}
	if (s->meta.epoch != 0)
		sink->revision(sink->data, s->meta.epoch, s->meta.revision);
	return 0;
}

const struct cs_facts *cs_store_facts(const struct cs_store *s)
{
	return s->facts;
}

void cs_store_state(const struct cs_store *s, struct cs_store_state *ret)
{
	*ret = (struct cs_store_state){0};
	s->backend->ops->state(s->backend, ret);
	ret->epoch = s->meta.epoch;
	ret->revision = s->meta.revision;
}

int cs_store_campaign(struct cs_store *s, const char *advertise, struct cs_error *e)
{
	return s->backend->ops->campaign ? s->backend->ops->campaign(s->backend, advertise, e) : 0;
}

void cs_store_resign(struct cs_store *s)
{
	if (s->backend->ops->resign)
		s->backend->ops->resign(s->backend);
}

/* After the backup that this store was restored from, numbers may have been given that it knows nothing of: the next ones
 * in turn. They rest like those of identities that were deleted. */
static int rest_next_numbers(struct cs_store *s, struct cs_error *e)
{
	struct cs_store_usage usage;
	cs_store_usage(s, &usage);
	size_t left = (usage.size - usage.in_use - usage.resting) / 2;
	int r = 0;
	if (s->config.id_quarantine_ms == 0)
		return 0;
	for (size_t i = 0; i < left && i < CS_STORE_RESTORE_SKIP && r == 0; i++) {
		struct cs_fact fact = {.kind = CS_FACT_RETIRED,
			.retired = {.id = cs_store_free_id(s),
				.labels = "",
				.spiffe_id = "",
				.until_store_ms = cs_store_now_ms(s) + s->config.id_quarantine_ms}};
		if (!cs_store_has_room(s, 1, CS_STORE_OP_BYTES_MAX))
			r = cs_store_write(s, e);
		if (r == 0)
			cs_store_put(s, &fact);
	}
	return r;
}

int cs_store_new_epoch(struct cs_store *s, struct cs_error *e)
{
	int r = may_write(s, NULL, e);
	if (r == 0)
		r = rest_next_numbers(s, e);
	if (r < 0) {
		cs_store_undo(s);
		return r;
	}
	struct cs_meta meta = next_meta(s);
	r = cs_store_random(&meta.epoch, e);
	return r < 0 ? r : write_revision(s, meta, NULL, e);
}

int cs_store_quarantine_check(
	int64_t id_quarantine_ms, int64_t svid_max_life_ms, int64_t auth_max_ttl_ms, struct cs_error *e)
{
	if (id_quarantine_ms > svid_max_life_ms + auth_max_ttl_ms)
		return 0;
	return cs_error_set(e, -EINVAL,
		"id.quarantine is %lld s, but what was issued to the old owner of a number may live for %lld s "
		"(svid.max_life) and %lld s more (auth.max_ttl): make id.quarantine longer than both together",
		(long long)id_quarantine_ms / 1000, (long long)svid_max_life_ms / 1000,
		(long long)auth_max_ttl_ms / 1000);
}
