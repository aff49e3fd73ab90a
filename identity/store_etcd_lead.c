/* Who leads: whoever made the leader key, for as long as the lease that it hangs on lives. */
#include "store_etcd_private.h"

#include <errno.h>

#define AGAIN_MS 1000 /* after a failure */

static void step(struct cs_etcd_backend *b);

static int64_t now(const struct cs_etcd_backend *b)
{
	return cs_loop_mono_ms(&b->loop);
}

/* Tells if leading has begun or ended. */
static void tell(struct cs_etcd_backend *b)
{
	uv_mutex_lock(&b->lock);
	bool leads = b->mine != 0 && now(b) < b->until_ms;
	int64_t left_ms = b->until_ms - now(b);
	if (leads && !b->led)
		b->term++;
	uv_mutex_unlock(&b->lock);
	bool changed = leads != b->led;
	b->led = leads;
	if (!b->stopping) /* a lease that nobody answers for ends by itself; a key may be free although nobody said so */
		cs_timer_start(&b->lead_timer, leads ? left_ms : b->leader[0] ? b->lease_s * 1000 : AGAIN_MS, 0);
	if (changed)
		cs_store_etcd_notify(b);
}

void cs_store_etcd_leader_is(
	struct cs_etcd_backend *b, int64_t at, int64_t create, int64_t lease, struct cs_etcd_bytes value)
{
	if (b->stopping || at < b->leader_at)
		return;
	b->leader_at = at;
	uv_mutex_lock(&b->lock);
	char was[LEADER_MAX + 1];
	memcpy(was, b->leader, sizeof(was));
	size_t n = create && value.len < LEADER_MAX ? value.len : create ? LEADER_MAX : 0;
	if (n > 0)
		memcpy(b->leader, value.data, n);
	b->leader[n] = '\0';
	b->mine = create && b->lease && lease == b->lease ? create : 0;
	bool changed = strcmp(was, b->leader) != 0;
	uv_mutex_unlock(&b->lock);
	bool led = b->led;
	tell(b);
	if (changed && led == b->led)
		cs_store_etcd_notify(b);
	if (!create)
		step(b);
}

/* Keeps what etcd has against it, and tells when that is another thing; NULL: nothing. */
static void set_hindered(struct cs_etcd_backend *b, const struct cs_error *e)
{
	char text[sizeof(b->hindered)];
	cs_text_cut(text, sizeof(text), e ? e->text : "");
	uv_mutex_lock(&b->lock);
	bool changed = strcmp(text, b->hindered) != 0;
	memcpy(b->hindered, text, sizeof(text));
	uv_mutex_unlock(&b->lock);
	if (changed)
		cs_store_etcd_notify(b);
}

/* ---- the lease ---- */

static void on_alive(int64_t until_mono_ms, void *data)
{
	struct cs_etcd_backend *b = data;
	cs_store_etcd_heard(b);
	uv_mutex_lock(&b->lock);
	b->until_ms = until_mono_ms;
	uv_mutex_unlock(&b->lock);
	tell(b);
}

static void drop_lease(struct cs_etcd_backend *b)
{
	b->keep = NULL;
	b->lease = 0;
	uv_mutex_lock(&b->lock);
	b->mine = b->until_ms = 0;
	uv_mutex_unlock(&b->lock);
	tell(b);
}

static void on_lost(void *data)
{
	struct cs_etcd_backend *b = data;
	drop_lease(b);
	step(b);
}

static void on_grant(const struct cs_etcd_result *result, int64_t lease, int64_t ttl_s, void *data)
{
	static const struct cs_etcd_keep_events events = {.alive = on_alive, .lost = on_lost};
	struct cs_etcd_backend *b = data;
	struct cs_error e;
	b->granting = false;
	if (result->outcome != CS_ETCD_DONE)
		set_hindered(b, &result->error);
	if (result->outcome != CS_ETCD_DONE || !b->wanted) /* a lease that nobody keeps ends */
		return;
	if (cs_etcd_keep(b->etcd, lease, ttl_s, &events, b, &b->keep, &e) < 0)
		return;
	b->lease = lease;
	step(b);
}

/* ---- the key ---- */

static void on_claim(
	const struct cs_etcd_result *result, bool succeeded, const struct cs_etcd_kv *kvs, size_t n, void *data)
{
	struct cs_etcd_backend *b = data;
	b->claiming = false;
	set_hindered(b, result->outcome == CS_ETCD_DONE ? NULL : &result->error);
	if (result->outcome != CS_ETCD_DONE)
		return; /* the timer tries again, and finds our own key if it was made after all */
	if (succeeded)
		cs_store_etcd_leader_is(
			b, result->revision, result->revision, b->lease, cs_store_etcd_text(b->advertise));
	else if (n > 0)
		cs_store_etcd_leader_is(b, result->revision, kvs[0].create_revision, kvs[0].lease, kvs[0].value);
}

static void claim(struct cs_etcd_backend *b)
{
	const struct cs_etcd_bytes key = cs_store_etcd_text(b->leader_key);
	const struct cs_etcd_compare nobody = {.key = key, .what = CS_ETCD_CREATE_REVISION, .is = 0};
	const struct cs_etcd_op put = {
		.kind = CS_ETCD_PUT, .key = key, .value = cs_store_etcd_text(b->advertise), .lease = b->lease};
	const struct cs_etcd_op get = {.kind = CS_ETCD_GET, .key = key};
	const struct cs_etcd_txn txn = {
		.compares = &nobody, .then = &put, .otherwise = &get, .ncompares = 1, .nthen = 1, .notherwise = 1};
	struct cs_error e;
	b->claiming = cs_etcd_txn(b->etcd, &txn, b->timeout_ms, on_claim, b, &e) == 0;
}

/* The next thing to do for who wants to lead. */
static void step(struct cs_etcd_backend *b)
{
	struct cs_error e;
	if (!b->wanted || b->stopping || b->granting || b->claiming)
		return;
	uv_mutex_lock(&b->lock);
	bool mine = b->mine != 0;
	uv_mutex_unlock(&b->lock);
	if (!b->lease)
		b->granting = cs_etcd_grant(b->etcd, b->lease_s, b->timeout_ms, on_grant, b, &e) == 0;
	else if (!mine)
		claim(b);
	if (!cs_timer_active(&b->lead_timer))
		cs_timer_start(&b->lead_timer, AGAIN_MS, 0);
}

static void on_timer(struct cs_timer *timer)
{
	struct cs_etcd_backend *b = timer->data;
	tell(b);
	step(b);
	if (!b->wanted)
		cs_timer_stop(timer);
}

void cs_store_etcd_lead_init(struct cs_etcd_backend *b)
{
	cs_timer_init(&b->lead_timer, &b->loop, on_timer, b);
}

/* ---- what the caller wants ---- */

struct want {
	struct ask ask; /* first */
	const char *advertise;
};

static void ask_campaign(struct ask *ask)
{
	struct cs_etcd_backend *b = ask->b;
	snprintf(b->advertise, sizeof(b->advertise), "%s", ((struct want *)ask)->advertise);
	b->wanted = true;
	step(b);
	cs_store_etcd_answer(ask, NULL);
}

int cs_store_etcd_campaign(struct cs_backend *base, const char *advertise, struct cs_error *e)
{
	struct cs_etcd_backend *b = (struct cs_etcd_backend *)base;
	if (!*advertise || strlen(advertise) > LEADER_MAX)
		return cs_error_set(
			e, -EINVAL, "'%s' is not what a leader is called by: 1 to %d bytes", advertise, LEADER_MAX);
	struct want want = {.advertise = advertise};
	cs_store_etcd_run(b, &want.ask, ask_campaign);
	return 0;
}

static void on_revoked(const struct cs_etcd_result *result, void *data)
{
	(void)result; /* if etcd does not answer, the lease ends by itself */
	cs_store_etcd_answer(data, NULL);
}

static void ask_resign(struct ask *ask)
{
	struct cs_etcd_backend *b = ask->b;
	struct cs_error e;
	int64_t lease = b->lease;
	b->wanted = false;
	cs_etcd_keep_free(b->keep);
	drop_lease(b);
	if (!lease || cs_etcd_revoke(b->etcd, lease, RESIGN_MS, on_revoked, ask, &e) < 0)
		cs_store_etcd_answer(ask, NULL);
}

void cs_store_etcd_resign(struct cs_backend *base)
{
	struct ask ask = {0};
	cs_store_etcd_run((struct cs_etcd_backend *)base, &ask, ask_resign);
}

void cs_store_etcd_state(struct cs_backend *base, struct cs_store_state *ret)
{
	struct cs_etcd_backend *b = (struct cs_etcd_backend *)base;
	uv_mutex_lock(&b->lock);
	ret->leads = b->mine != 0 && now(b) < b->until_ms;
	ret->term = b->term;
	memcpy(ret->leader, b->leader, sizeof(b->leader));
	memcpy(ret->hindered, b->hindered, sizeof(b->hindered));
	uv_mutex_unlock(&b->lock);
	ret->silent_ms = now(b) - atomic_load(&b->heard_ms);
}
