#include "entries.h"

#include <errno.h>
#include <string.h>
#include "authenticate.h"
#include "log.h"

#define ROTATION_SPREAD_MS 10000

/* ---- events ---- */

void cs_entries_event(struct cs_authd *a, const struct cs_pair *pair, enum cs_event_kind kind, enum cs_reason reason)
{
	struct cs_instant now = cs_authd_now(a);
	struct cs_world_node node;
	struct cs_event v = {.at_unix_ms = now.unix_ms, .kind = kind, .key = pair->key, .reason = reason};
	if (cs_world_node_by_id(a->world, pair->key.node, &node))
		strncpy(v.node, node.name, sizeof(v.node) - 1);
	if (pair->live || kind == CS_EVENT_DELETED || kind == CS_EVENT_EXPIRED) {
		v.role = pair->basis.role;
		v.not_after_unix_s = (int64_t)pair->basis.not_after_unix_s;
	}
	cs_events_add(a->events, &v);
}

/* ---- writing ---- */

/* Does this verdict reach further than what is there? Or as far by other certificates: where the one that ends first was not
 * renewed, the entry must rest on the other's new one all the same, or it falls with the authority of the old one. */
static bool lengthens(const struct cs_pair *pair, const struct cs_basis *basis, const struct cs_instant *now)
{
	const struct cs_basis *old = &pair->basis;
	if (!pair->live || pair->adopted || (pair->value & CS_AUTH_EXPIRY) <= now->coarse_ns)
		return true;
	if (basis->not_after_unix_s != old->not_after_unix_s)
		return basis->not_after_unix_s > old->not_after_unix_s;
	return memcmp(&basis->local, &old->local, sizeof(old->local)) != 0 ||
	       memcmp(&basis->remote, &old->remote, sizeof(old->remote)) != 0;
}

static int write_one(struct cs_authd *a, const struct cs_allowed_entry *entry, struct cs_error *e)
{
	struct cs_instant now = cs_authd_now(a);
	struct cs_pair *pair = cs_pairs_find(a->pairs, &entry->key);
	bool first = !pair->live;
	uint64_t value =
		cs_pair_value((int64_t)entry->basis.not_after_unix_s, a->config->max_ttl_ms, entry->reply_flags, &now);
	if (!value)
		return cs_error_reason(e, -ESTALE, CS_R_SVID_EXPIRED, "a certificate ends now");
	int r = cs_hold_release(a->hold, &entry->key, value, e);
	if (r < 0)
		return r;
	if (first)
		cs_world_node_hold(a->world, entry->key.node);
	cs_pair_set_live(a->pairs, pair, &entry->basis, value, &now);
	cs_entries_event(a, pair, CS_EVENT_AUTHENTICATED, CS_R_NONE);
	return 0;
}

/* A pair on one node needs both of its entries before the first packet is sent again. */
static int write_partner_first(struct cs_authd *a, const struct cs_allowed_entry *entry, struct cs_error *e)
{
	struct cs_instant now = cs_authd_now(a);
	uint64_t value =
		cs_pair_value((int64_t)entry->basis.not_after_unix_s, a->config->max_ttl_ms, entry->reply_flags, &now);
	return value ? cs_datapath_auth_put(a->dp, &entry->key, value, e) : 0;
}

/* Not all could be written: what did not become an entry leaves nothing. */
static void take_back(struct cs_authd *a, const struct cs_allowed_entry *const *todo, size_t n)
{
	struct cs_error e;
	for (size_t i = 0; i < n; i++) {
		const struct cs_pair *pair = cs_pairs_find(a->pairs, &todo[i]->key);
		if (pair && pair->live)
			continue;
		if (cs_datapath_auth_del(a->dp, &todo[i]->key, &e) < 0 ||
			cs_datapath_basis_del(a->dp, &todo[i]->key, &e) < 0)
			cs_fail("an entry could not be taken back", cs_err(&e));
	}
}

int cs_entries_write(struct cs_authd *a, const struct cs_allowed *allowed, struct cs_error *e)
{
	const struct cs_allowed_entry *todo[2];
	struct cs_instant now = cs_authd_now(a);
	size_t n = 0;
	int r = 0;
	for (size_t i = 0; i < allowed->n; i++) {
		const struct cs_allowed_entry *entry = &allowed->entry[i];
		struct cs_pair *pair = entry->asks ? cs_pairs_get(a->pairs, &entry->key) : NULL;
		if (entry->asks && !pair)
			return cs_error_reason(e, -ENOSPC, CS_R_TOO_MANY, "as many pairs as maps.entries allows");
		if (pair && lengthens(pair, &entry->basis, &now))
			todo[n++] = entry;
		else if (pair)
			cs_pair_renewed(pair, &now);
	}
	for (size_t i = 0; i < n && r == 0; i++)
		r = cs_datapath_basis_put(a->dp, &todo[i]->key, &todo[i]->basis, e);
	if (n == 2 && r == 0)
		r = write_partner_first(a, todo[1], e);
	for (size_t i = 0; i < n && r == 0; i++)
		r = write_one(a, todo[i], e);
	if (r < 0)
		take_back(a, todo, n);
	return r;
}

void cs_entries_delete(struct cs_authd *a, struct cs_pair *pair, enum cs_event_kind kind, enum cs_reason reason)
{
	struct cs_error e;
	if (!pair->live)
		return;
	int r = cs_datapath_auth_del(a->dp, &pair->key, &e);
	if (r == 0)
		r = cs_datapath_basis_del(a->dp, &pair->key, &e);
	cs_hold_forget(a->hold, &pair->key, reason);
	if (r < 0) { /* it is over all the same, and every second is another attempt */
		cs_warn("an entry could not be deleted", cs_err(&e));
		pair->value = 0;
		pair->basis.not_after_unix_s = 0;
		return;
	}
	cs_pair_set_dead(a->pairs, pair);
	cs_entries_event(a, pair, kind, reason);
	cs_world_node_release(a->world, pair->key.node);
}

/* ---- what changed ---- */

static void set_flags(struct cs_authd *a, struct cs_pair *pair, uint64_t flags)
{
	struct cs_error e;
	uint64_t value = (pair->value & CS_AUTH_EXPIRY) | flags;
	if (value == pair->value)
		return;
	if (cs_hold_release(a->hold, &pair->key, value, &e) == 0) {
		pair->value = value;
		return;
	}
	cs_fail("an entry could not be changed and is deleted", cs_err(&e));
	cs_entries_delete(a, pair, CS_EVENT_DELETED, CS_R_MAP_WRITE_FAILED);
}

static bool is_void(enum cs_reason why)
{
	return why == CS_R_POLICY_NO_LONGER_ASKS || why == CS_R_NO_LOCAL_ENDPOINT || why == CS_R_SPIFFE_ID_UNKNOWN ||
	       why == CS_R_PEER_NOT_PLACED || why == CS_R_PEER_NODE_UNKNOWN || why == CS_R_REVOKED;
}

/* A pair without an entry: is the question void, or a refusal out of date? */
static void look_at_question(struct cs_authd *a, const struct cs_facts *f, struct cs_pair *pair)
{
	enum cs_reason why = cs_dial_check(f, &pair->key);
	if ((pair->attempt || pair->waiting) && is_void(why)) {
		cs_authenticate_cancel(a, pair);
		cs_hold_forget(a->hold, &pair->key, why);
	} else if (pair->refused && (is_void(why) || why == CS_R_NONE)) {
		cs_hold_forget(a->hold, &pair->key, why == CS_R_NONE ? pair->refused : why);
		pair->refused_until_mono_ms = 0; /* the next packet asks */
	}
}

struct looking {
	struct cs_authd *a;
	struct cs_facts facts;
	bool all, before;
};

static bool look(struct cs_pair *pair, void *data)
{
	struct looking *l = data;
	struct cs_authd *a = l->a;
	if (!l->all && !cs_world_touched(a->world, pair->key.local, pair->key.remote))
		return true;
	if (!pair->live) {
		if (l->before)
			look_at_question(a, &l->facts, pair);
		return true;
	}
	uint64_t wanted = cs_world_reply_flags(a->world, pair->key.local, pair->key.remote);
	enum cs_reason why = l->before ? cs_entry_check(&l->facts, &pair->key, &pair->basis) : CS_R_NONE;
	if (why != CS_R_NONE) {
		if (pair->attempt || pair->waiting)
			cs_authenticate_cancel(a, pair);
		cs_entries_delete(a, pair, CS_EVENT_DELETED, why);
	} else {
		set_flags(a, pair, l->before ? wanted | (pair->value & ~CS_AUTH_EXPIRY) : wanted);
	}
	return true;
}

void cs_entries_changed(void *authd, bool before)
{
	struct cs_authd *a = authd;
	struct looking l = {.a = a, .facts = cs_authd_facts(a), .before = before};
	cs_pairs_each(a->pairs, look, &l);
}

void cs_entries_recheck(struct cs_authd *a)
{
	struct looking l = {.a = a, .facts = cs_authd_facts(a), .all = true, .before = true};
	if (cs_world_ready(a->world))
		cs_pairs_each(a->pairs, look, &l);
}

static bool trust(struct cs_pair *pair, void *data)
{
	(void)data;
	pair->adopted = false;
	return true;
}

void cs_entries_trust(struct cs_authd *a)
{
	cs_pairs_each(a->pairs, trust, NULL);
}

struct rotation {
	struct cs_authd *a;
	struct cs_svid svid;
	struct cs_instant now;
};

static bool rotate(struct cs_pair *pair, void *data)
{
	const struct rotation *r = data;
	if (pair->key.local != r->svid.identity)
		return true;
	/* One that ends with the old one too: minted within the same second, or cut to the end of its authority. */
	if (pair->live && (int64_t)pair->basis.not_after_unix_s <= r->svid.not_after_unix_s)
		cs_pair_rotated(pair, ROTATION_SPREAD_MS, &r->now);
	if (!pair->live && (pair->refused == CS_R_NO_LOCAL_SVID || pair->refused == CS_R_SVID_EXPIRED)) {
		cs_hold_forget(r->a->hold, &pair->key, pair->refused);
		pair->refused_until_mono_ms = 0;
	}
	return true;
}

void cs_entries_svid(struct cs_authd *a, uint32_t identity)
{
	struct rotation r = {.a = a, .now = cs_authd_now(a)};
	if (cs_svids_find(a->svids, identity, &r.svid) && r.svid.generation)
		cs_pairs_each(a->pairs, rotate, &r);
}

/* ---- time ---- */

struct ticking {
	struct cs_authd *a;
	struct cs_instant now;
	bool rederive;
};

static bool tick(struct cs_pair *pair, void *data)
{
	struct ticking *t = data;
	struct cs_authd *a = t->a;
	struct cs_error e;
	uint64_t value = 0;
	enum cs_pair_due due = cs_pair_due(pair, a->config->max_ttl_ms, &t->now, &value);
	if (t->rederive && pair->live) {
		value = cs_pair_value((int64_t)pair->basis.not_after_unix_s, a->config->max_ttl_ms,
			pair->value & ~CS_AUTH_EXPIRY, &t->now);
		due = value ? CS_PAIR_LENGTHEN : CS_PAIR_EXPIRED;
		/* Nobody has looked at its basis yet: it may end sooner, and not later. */
		if (pair->adopted && value && (value & CS_AUTH_EXPIRY) > (pair->value & CS_AUTH_EXPIRY))
			due = CS_PAIR_KEEP;
	}
	switch (due) {
	case CS_PAIR_EXPIRED:
		cs_entries_delete(a, pair, CS_EVENT_EXPIRED, CS_R_SVID_EXPIRED);
		break;
	case CS_PAIR_LENGTHEN:
		if (cs_hold_release(a->hold, &pair->key, value, &e) == 0)
			pair->value = value;
		else
			cs_warn("an entry could not be lengthened", cs_err(&e));
		break;
	case CS_PAIR_RENEW:
		cs_authenticate_renew(a, pair);
		break;
	case CS_PAIR_KEEP:
		break;
	}
	struct cs_auth_key key = pair->key;
	/* Its packet has just come, and on_miss is due: as good as asked for. */
	if (!pair->live && cs_hold_waits(a->hold, &key))
		return true;
	if (cs_pairs_drop(a->pairs, pair, t->now.mono_ms)) /* and its refusal, or cs_pending fills up with those */
		cs_hold_forget(a->hold, &key, CS_R_HELD_TOO_LONG);
	return true;
}

void cs_entries_tick(struct cs_authd *a)
{
	struct ticking t = {.a = a, .now = cs_authd_now(a)};
	cs_pairs_each(a->pairs, tick, &t);
}

void cs_entries_rederive(struct cs_authd *a)
{
	struct ticking t = {.a = a, .now = cs_authd_now(a), .rederive = true};
	cs_pairs_each(a->pairs, tick, &t);
}

struct clearing {
	struct cs_authd *a;
	enum cs_reason reason;
};

static bool clear(struct cs_pair *pair, void *data)
{
	const struct clearing *c = data;
	cs_entries_delete(c->a, pair, CS_EVENT_DELETED, c->reason);
	return true;
}

void cs_entries_clear(struct cs_authd *a, enum cs_reason reason)
{
	struct clearing c = {a, reason};
	cs_pairs_each(a->pairs, clear, &c);
}

/* ---- at start ---- */

struct adopting {
	struct cs_authd *a;
	struct cs_instant now;
	struct cs_error *e;
	size_t taken, dropped;
	int result;
};

static bool adopt(const void *k, const void *v, void *data)
{
	struct adopting *ad = data;
	struct cs_authd *a = ad->a;
	struct cs_auth_key key;
	struct cs_basis basis;
	uint64_t value;
	memcpy(&key, k, sizeof(key));
	memcpy(&value, v, sizeof(value));
	struct cs_pair *pair = NULL;
	if (key.type == CS_AUTH_SPIRE && !key.pad && cs_datapath_basis_get(a->dp, &key, &basis) == 1 &&
		(value & CS_AUTH_EXPIRY) > ad->now.coarse_ns &&
		(!key.node || cs_world_node_numbered(a->world, key.node)))
		pair = cs_pairs_get(a->pairs, &key);
	if (!pair) {
		ad->dropped++;
		ad->result = cs_datapath_auth_del(a->dp, &key, ad->e);
		if (ad->result == 0)
			ad->result = cs_datapath_basis_del(a->dp, &key, ad->e);
		return ad->result == 0;
	}
	cs_pair_set_live(a->pairs, pair, &basis, value & ~CS_AUTH_FLUSHING, &ad->now);
	pair->adopted = true;
	cs_world_node_hold(a->world, key.node);
	ad->taken++;
	return true;
}

/* A basis whose entry is gone: authd ended between the two. */
static bool orphan(const void *k, const void *v, void *data)
{
	struct adopting *ad = data;
	struct cs_auth_key key;
	(void)v;
	memcpy(&key, k, sizeof(key));
	const struct cs_pair *pair = cs_pairs_find(ad->a->pairs, &key);
	if (!pair || !pair->live)
		ad->result = cs_datapath_basis_del(ad->a->dp, &key, ad->e);
	return ad->result == 0;
}

int cs_entries_adopt(struct cs_authd *a, struct cs_error *e)
{
	struct adopting ad = {.a = a, .now = cs_authd_now(a), .e = e};
	int r = cs_datapath_each(a->dp, CS_MAP_AUTH, adopt, &ad, e);
	if (r >= 0 && ad.result == 0)
		r = cs_datapath_each(a->dp, CS_MAP_BASIS, orphan, &ad, e);
	if (r < 0 || ad.result < 0)
		return r < 0 ? r : ad.result;
	if (ad.taken || ad.dropped)
		cs_info("entries of an earlier life", cs_u64("kept", ad.taken), cs_u64("dropped", ad.dropped));
	return 0;
}
