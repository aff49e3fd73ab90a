#include "store_etcd_private.h"

#include <errno.h>

/* ---- asking the loop ---- */

void cs_store_etcd_run(struct cs_etcd_backend *b, struct ask *ask, void (*fn)(struct ask *ask))
{
	ask->b = b;
	ask->fn = fn;
	ask->done = false;
	uv_mutex_lock(&b->lock);
	ask->next = b->asks;
	b->asks = ask;
	uv_async_send(&b->async);
	while (!ask->done)
		uv_cond_wait(&b->cond, &b->lock);
	uv_mutex_unlock(&b->lock);
}

void cs_store_etcd_answer(struct ask *ask, const struct cs_etcd_result *result)
{
	struct cs_etcd_backend *b = ask->b;
	if (result) {
		ask->result = *result;
		if (result->outcome == CS_ETCD_DONE)
			cs_store_etcd_heard(b);
	}
	uv_mutex_lock(&b->lock);
	ask->done = true;
	uv_cond_broadcast(&b->cond);
	uv_mutex_unlock(&b->lock);
}

void cs_store_etcd_refuse(struct ask *ask, const struct cs_error *e)
{
	const struct cs_etcd_result result = {.outcome = CS_ETCD_NOT_DONE, .error = *e};
	cs_store_etcd_answer(ask, &result);
}

static void stop(struct cs_etcd_backend *b);

static void on_async(uv_async_t *async)
{
	struct cs_etcd_backend *b = async->data;
	uv_mutex_lock(&b->lock);
	struct ask *asks = b->asks;
	bool ends = b->stop;
	b->asks = NULL;
	uv_mutex_unlock(&b->lock);
	while (asks) {
		struct ask *ask = asks;
		asks = ask->next; /* it may be gone after its answer */
		ask->fn(ask);
	}
	if (ends)
		stop(b);
}

void cs_store_etcd_heard(struct cs_etcd_backend *b)
{
	atomic_store(&b->heard_ms, cs_loop_mono_ms(&b->loop));
}

void cs_store_etcd_notify(struct cs_etcd_backend *b)
{
	if (b->notify)
		b->notify(b->notify_data);
}

int cs_store_etcd_error(const struct cs_etcd_result *result, const char *what, struct cs_error *e)
{
	return cs_error_reason(e, result->error.code, CS_R_STORE_UNAVAILABLE, "%s%s: %s", what,
		result->outcome == CS_ETCD_PERHAPS ? " (it may have happened all the same)" : "", result->error.text);
}

struct cs_etcd_bytes cs_store_etcd_text(const char *s)
{
	return (struct cs_etcd_bytes){s, strlen(s)};
}

/* ---- the end ---- */

static void on_revoked(const struct cs_etcd_result *result, void *data)
{
	(void)result;
	struct cs_etcd_backend *b = data;
	cs_etcd_close(b->etcd, NULL, NULL);
}

static void stop(struct cs_etcd_backend *b)
{
	struct cs_error e;
	cs_etcd_watch_free(b->watch);
	cs_etcd_keep_free(b->keep);
	b->stopping = true;
	cs_timer_close(&b->lead_timer, NULL);
	uv_close((uv_handle_t *)&b->async, NULL);
	/* Somebody else may lead at once. */
	if (!b->lease || cs_etcd_revoke(b->etcd, b->lease, RESIGN_MS, on_revoked, b, &e) < 0)
		cs_etcd_close(b->etcd, NULL, NULL);
}

static void free_memory(struct cs_etcd_backend *b)
{
	cs_store_etcd_forget(b, INT64_MAX);
	uv_mutex_destroy(&b->lock);
	uv_cond_destroy(&b->cond);
	free(b->prefix);
	free(b->head_key);
	free(b->leader_key);
	free(b);
}

static void free_backend(struct cs_etcd_backend *b)
{
	cs_loop_fini(&b->loop);
	free_memory(b);
}

static void close_backend(struct cs_backend *base)
{
	struct cs_etcd_backend *b = (struct cs_etcd_backend *)base;
	uv_mutex_lock(&b->lock);
	b->stop = true;
	uv_async_send(&b->async);
	uv_mutex_unlock(&b->lock);
	uv_thread_join(&b->thread);
	free_backend(b);
}

/* ---- the beginning ---- */

static const struct cs_backend_ops ops = {.writes_max = WRITES_MAX,
	.bytes_max = BYTES_MAX,
	.load = cs_store_etcd_load,
	.poll = cs_store_etcd_poll,
	.write = cs_store_etcd_write,
	.campaign = cs_store_etcd_campaign,
	.resign = cs_store_etcd_resign,
	.state = cs_store_etcd_state,
	.close = close_backend};

static void thread_main(void *data)
{
	struct cs_etcd_backend *b = data;
	cs_loop_run(&b->loop);
}

static int check_config(const struct cs_etcd_config *c, const char *prefix, struct cs_error *e)
{
	size_t n = strlen(prefix);
	if (n == 0 || n > CS_STORE_ETCD_PREFIX_MAX || prefix[n - 1] != '/')
		return cs_error_set(e, -EINVAL, "'%s' is no prefix of keys in etcd: 1 to %d bytes that end in '/'",
			prefix, CS_STORE_ETCD_PREFIX_MAX);
	if (c->lease_ms < 0 || c->lease_ms % 1000 != 0)
		return cs_error_set(
			e, -EINVAL, "a leader's lease in etcd has whole seconds, not %lld ms", (long long)c->lease_ms);
	return 0;
}

static char *join(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	char *text = cs_xcalloc(1, n + m + 1);
	memcpy(text, a, n);
	memcpy(text + n, b, m);
	return text;
}

static struct cs_etcd_backend *make(const struct cs_store_config *config, const char *prefix)
{
	const struct cs_etcd_config *c = config->etcd;
	struct cs_etcd_backend *b = cs_xcalloc(1, sizeof(*b));
	b->base.ops = &ops;
	b->prefix = cs_xstrdup(prefix);
	b->nprefix = strlen(prefix);
	b->nprefix_end = cs_etcd_prefix_end(cs_store_etcd_text(prefix), b->prefix_end);
	b->head_key = join(prefix, KEY_HEAD);
	b->leader_key = join(prefix, KEY_LEADER);
	b->lease_s = (c->lease_ms ? c->lease_ms : CS_STORE_ETCD_LEASE_MS) / 1000;
	b->timeout_ms = c->timeout_ms ? c->timeout_ms : CS_STORE_ETCD_TIMEOUT_MS;
	b->notify = config->notify;
	b->notify_data = config->notify_data;
	b->last = &b->first;
	uv_mutex_init(&b->lock);
	uv_cond_init(&b->cond);
	return b;
}

int cs_backend_etcd_open(const struct cs_store_config *config, struct cs_backend **ret, struct cs_error *e)
{
	const struct cs_etcd_config *c = config->etcd;
	const char *prefix = c->prefix ? c->prefix : CS_STORE_ETCD_PREFIX;
	int r = check_config(c, prefix, e);
	if (r < 0)
		return r;
	struct cs_etcd_backend *b = make(config, prefix);
	/* etcd's leases go by its clocks and the machine's monotonic one; a clock that a test injects is for the rules. */
	r = cs_loop_init(&b->loop, NULL, e);
	if (r < 0) {
		free_memory(b);
		return r;
	}
	atomic_store(&b->heard_ms, cs_loop_mono_ms(&b->loop));
	r = cs_etcd_new(&b->loop, &c->client, &b->etcd, e);
	if (r < 0) {
		free_backend(b);
		return r;
	}
	b->async.data = b;
	uv_async_init(&b->loop.uv, &b->async, on_async);
	cs_store_etcd_lead_init(b);
	r = uv_thread_create(&b->thread, thread_main, b);
	if (r < 0) {
		cs_error_set(e, r, "cannot start a thread for etcd: %s", uv_strerror(r));
		stop(b);
		free_backend(b);
		return r;
	}
	*ret = &b->base;
	return 0;
}
