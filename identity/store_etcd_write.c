/* Writing the store in etcd: one transaction a revision, which proves that we lead and know what is there. */
#include "store_etcd_private.h"

#include <errno.h>
#include <sys/random.h>

struct txn {
	struct ask ask; /* first */
	struct cs_etcd_compare compares[2];
	struct cs_etcd_op *then, otherwise[2];
	size_t nthen;
	uint8_t marker[HEAD_BYTES];
	/* the answer */
	bool succeeded;
	int64_t head; /* its revision, if it did not */
	bool leads;
};

static void on_txn(
	const struct cs_etcd_result *result, bool succeeded, const struct cs_etcd_kv *kvs, size_t n, void *data)
{
	struct txn *t = data;
	struct cs_etcd_backend *b = t->ask.b;
	bool leader = false;
	t->succeeded = succeeded;
	for (size_t i = 0; i < n; i++) {
		const struct cs_etcd_kv *kv = &kvs[i];
		if (kv->key.len == strlen(b->head_key) && memcmp(kv->key.data, b->head_key, kv->key.len) == 0) {
			t->head = kv->mod_revision;
		} else {
			leader = true;
			cs_store_etcd_leader_is(b, result->revision, kv->create_revision, kv->lease, kv->value);
			t->leads = kv->create_revision == t->compares[0].is;
		}
	}
	if (result->outcome == CS_ETCD_DONE && !succeeded && !leader)
		cs_store_etcd_leader_is(b, result->revision, 0, 0, (struct cs_etcd_bytes){0});
	cs_store_etcd_answer(&t->ask, result);
}

static void ask_txn(struct ask *ask)
{
	struct txn *t = (struct txn *)ask;
	struct cs_etcd_backend *b = ask->b;
	const struct cs_etcd_txn txn = {.compares = t->compares,
		.then = t->then,
		.otherwise = t->otherwise,
		.ncompares = 2,
		.nthen = t->nthen,
		.notherwise = 2};
	struct cs_error e;
	if (cs_etcd_txn(b->etcd, &txn, b->timeout_ms, on_txn, t, &e) < 0)
		cs_store_etcd_refuse(ask, &e);
}

static int not_leader(struct cs_etcd_backend *b, struct cs_error *e)
{
	char leader[LEADER_MAX + 1];
	uv_mutex_lock(&b->lock);
	memcpy(leader, b->leader, sizeof(leader));
	uv_mutex_unlock(&b->lock);
	return cs_error_reason(e, -EPERM, CS_R_NOT_LEADER, "this replica does not lead; %s%s",
		leader[0] ? leader : "nobody", leader[0] ? " does" : " does yet");
}

/* then has room for one more: the head. The conditions of all that is ever written. */
static int run_txn(struct cs_etcd_backend *b, struct txn *t, struct cs_error *e)
{
	uv_mutex_lock(&b->lock);
	int64_t mine = b->mine;
	uv_mutex_unlock(&b->lock);
	if (mine == 0)
		return not_leader(b, e);
	if (getrandom(t->marker, sizeof(t->marker), 0) != sizeof(t->marker))
		return cs_error_errno(e, -errno, "cannot get random bytes");
	const struct cs_etcd_bytes head = cs_store_etcd_text(b->head_key), leader = cs_store_etcd_text(b->leader_key);
	t->compares[0] = (struct cs_etcd_compare){.key = leader, .what = CS_ETCD_CREATE_REVISION, .is = mine};
	t->compares[1] = (struct cs_etcd_compare){.key = head, .what = CS_ETCD_MOD_REVISION, .is = b->head};
	t->then[t->nthen++] =
		(struct cs_etcd_op){.kind = CS_ETCD_PUT, .key = head, .value = {t->marker, sizeof(t->marker)}};
	t->otherwise[0] = (struct cs_etcd_op){.kind = CS_ETCD_GET, .key = head};
	t->otherwise[1] = (struct cs_etcd_op){.kind = CS_ETCD_GET, .key = leader};
	cs_store_etcd_run(b, &t->ask, ask_txn);
	return 0;
}

/* It holds: this is the newest there is. */
static void advance(struct cs_etcd_backend *b, const struct txn *t)
{
	b->known = b->head = t->ask.result.revision;
	uv_mutex_lock(&b->lock);
	cs_store_etcd_forget(b, b->known);
	uv_mutex_unlock(&b->lock);
}

/* Somebody moved it: the watch will tell. Back, though, goes only a store that was set back. */
static void heard_of_head(struct cs_etcd_backend *b, const struct txn *t)
{
	if (t->head > b->want)
		b->want = t->head;
	if (t->head >= b->head)
		return;
	uv_mutex_lock(&b->lock);
	b->lost_place = true;
	uv_mutex_unlock(&b->lock);
}

/* Somebody else wrote, or leads. */
static int beaten(struct cs_etcd_backend *b, const struct txn *t, struct cs_error *e)
{
	heard_of_head(b, t);
	if (!t->leads)
		return not_leader(b, e);
	return cs_error_set(e, -EAGAIN, "another replica has written to the store meanwhile");
}

/* A transaction whose end nobody knows holds only while the head is what it was. Moving the head settles it: if that works,
 * it has not happened and never will; if not, whatever moved the head is told by the watch. */
int cs_store_etcd_make_sure(struct cs_etcd_backend *b, struct cs_error *e)
{
	if (!b->unsure)
		return 0;
	struct cs_etcd_op then[1];
	struct txn t = {.then = then};
	int r = run_txn(b, &t, e);
	if (r ==
		-EPERM) { /* it asked for the same leadership, which does not come again: only what happened can be there */
		b->unsure = false;
		return 0;
	}
	if (r < 0)
		return r;
	if (t.ask.result.outcome != CS_ETCD_DONE)
		return cs_store_etcd_error(&t.ask.result, "cannot find out whether the last write happened", e);
	b->unsure = false;
	if (t.succeeded)
		advance(b, &t);
	else
		heard_of_head(b, &t);
	return 0;
}

static struct cs_etcd_op *make_ops(
	const struct cs_etcd_backend *b, const struct cs_store_write *writes, size_t n, char **ret_keys)
{
	struct cs_etcd_op *ops = cs_xcalloc(n + 1, sizeof(*ops));
	size_t prefix = b->nprefix + strlen(KEY_FACTS), bytes = 0;
	for (size_t i = 0; i < n; i++)
		bytes += prefix + strlen(writes[i].key);
	char *key = *ret_keys = cs_xcalloc(1, bytes);
	for (size_t i = 0; i < n; i++) {
		size_t nkey = strlen(writes[i].key);
		memcpy(key, b->prefix, b->nprefix);
		memcpy(key + b->nprefix, KEY_FACTS, strlen(KEY_FACTS));
		memcpy(key + prefix, writes[i].key, nkey);
		ops[i] = (struct cs_etcd_op){.kind = writes[i].value ? CS_ETCD_PUT : CS_ETCD_DELETE,
			.key = {key, prefix + nkey},
			.value = {writes[i].value, writes[i].value ? writes[i].n : 0}};
		key += prefix + nkey;
	}
	return ops;
}

int cs_store_etcd_write(struct cs_backend *base, const struct cs_store_write *writes, size_t n, struct cs_error *e)
{
	struct cs_etcd_backend *b = (struct cs_etcd_backend *)base;
	int r = cs_store_etcd_make_sure(b, e);
	if (r < 0)
		return r;
	char *keys;
	struct txn t = {.then = make_ops(b, writes, n, &keys), .nthen = n};
	r = run_txn(b, &t, e);
	if (r == 0) {
		const struct cs_etcd_result *result = &t.ask.result;
		b->unsure = result->outcome == CS_ETCD_PERHAPS;
		if (result->outcome != CS_ETCD_DONE)
			r = cs_store_etcd_error(result, "cannot write to the store", e);
		else if (t.succeeded)
			advance(b, &t);
		else
			r = beaten(b, &t, e);
	}
	free(t.then);
	free(keys);
	return r;
}
