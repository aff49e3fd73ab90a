/* From what is known to the rows that the maps should have. */
#include "world_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- policy ---- */

void cs_world_decision_clear(struct decision *d)
{
	free(d->policy);
	free(d->rule);
	*d = (struct decision){.verdict = CS_DENY};
}

static void decision_set(struct decision *d, const Countersign__V1__Decision *r)
{
	cs_world_decision_clear(d);
	if (!r)
		return; /* absent: deny */
	d->verdict = r->verdict == COUNTERSIGN__V1__VERDICT__VERDICT_PASS      ? CS_PASS
		     : r->verdict == COUNTERSIGN__V1__VERDICT__VERDICT_REQUIRE ? CS_REQUIRE
									       : CS_DENY;
	d->audit = r->audit;
	d->policy = r->policy[0] ? cs_world_dup(r->policy) : NULL;
	d->rule = r->rule[0] ? cs_world_dup(r->rule) : NULL;
}

struct local *cs_world_local_find(const struct cs_world *w, uint32_t identity)
{
	struct local *l;
	HASH_FIND(hh, w->locals, &identity, sizeof(identity), l);
	return l;
}

struct local *cs_world_local_of(struct cs_world *w, uint32_t identity)
{
	struct local *l = cs_world_local_find(w, identity);
	if (!l) {
		l = cs_world_alloc(sizeof(*l));
		l->identity = identity;
		HASH_ADD(hh, w->locals, identity, sizeof(l->identity), l);
	}
	return l;
}

void cs_world_local_drop(struct cs_world *w, struct local *l)
{
	if (l->rows || l->has_default || l->endpoints)
		return;
	HASH_DEL(w->locals, l);
	free(l);
}

struct row *cs_world_row_find(const struct cs_world *w, uint32_t local, uint32_t remote)
{
	struct row *row;
	struct cs_policy_key key = {.local = local, .remote = remote};
	HASH_FIND(hh, w->rows, &key, sizeof(key), row);
	return row;
}

struct row *cs_world_row(struct cs_world *w, const struct cs_policy_key *key)
{
	struct row *row = cs_world_row_find(w, key->local, key->remote);
	if (!row) {
		row = cs_world_alloc(sizeof(*row));
		row->key = *key;
		HASH_ADD(hh, w->rows, key, sizeof(row->key), row);
		cs_world_local_of(w, key->local)->rows++;
	}
	CS_WORLD_DIRTY(w->dirty_rows, row);
	return row;
}

static bool row_denies(const struct row *row)
{
	return row->present && (row->d[CS_FROM].verdict == CS_DENY || row->d[CS_TO].verdict == CS_DENY);
}

static void row_unset(struct cs_world *w, struct row *row)
{
	struct local *l = cs_world_local_of(w, row->key.local);
	CS_WORLD_DIRTY(w->dirty_rows, row);
	cs_world_touch(w, row->key.local);
	if (row_denies(row) && --l->deny_rows == 0)
		cs_world_dirty_identity_ifaces(w, l->identity);
	row->present = false;
	cs_world_decision_clear(&row->d[CS_FROM]);
	cs_world_decision_clear(&row->d[CS_TO]);
}

void cs_world_policy_row_set(struct cs_world *w, bool deleted, const Countersign__V1__PolicyRow *r)
{
	struct row *row = cs_world_row_find(w, r->local, r->remote);
	if (row && row->present)
		row_unset(w, row);
	if (deleted)
		return;
	struct local *l = cs_world_local_of(w, r->local);
	row = cs_world_row(w, &(struct cs_policy_key){.local = r->local, .remote = r->remote});
	row->present = true;
	row->mark = w->mark;
	decision_set(&row->d[CS_FROM], r->from);
	decision_set(&row->d[CS_TO], r->to);
	cs_world_touch(w, r->local);
	if (row_denies(row) && l->deny_rows++ == 0)
		cs_world_dirty_identity_ifaces(w, l->identity);
}

static void default_unset(struct cs_world *w, struct local *l)
{
	l->has_default = false;
	for (int dir = 0; dir < 2; dir++)
		for (int class = 0; class < 2; class ++)
			cs_world_decision_clear(&l->def[dir][class]);
	cs_world_touch(w, l->identity);
	cs_world_dirty_identity_ifaces(w, l->identity);
}

void cs_world_policy_default_set(struct cs_world *w, bool deleted, const Countersign__V1__PolicyDefault *r)
{
	struct local *l = cs_world_local_of(w, r->local);
	default_unset(w, l);
	if (deleted) {
		cs_world_local_drop(w, l);
		return;
	}
	l->has_default = true;
	l->mark = w->mark;
	decision_set(&l->def[CS_FROM][CS_PEER_ENDPOINT], r->from_endpoint);
	decision_set(&l->def[CS_FROM][CS_PEER_OTHER], r->from_other);
	decision_set(&l->def[CS_TO][CS_PEER_ENDPOINT], r->to_endpoint);
	decision_set(&l->def[CS_TO][CS_PEER_OTHER], r->to_other);
}

void cs_world_rows_sweep(struct cs_world *w)
{
	struct row *row, *next_row;
	struct local *l, *next_local;
	HASH_ITER (hh, w->rows, row, next_row)
		if (row->present && row->mark != w->mark)
			row_unset(w, row);
	HASH_ITER (hh, w->locals, l, next_local) {
		if (l->has_default && l->mark != w->mark) {
			default_unset(w, l);
			cs_world_local_drop(w, l);
		}
	}
}

bool cs_world_can_authenticate(uint32_t identity)
{
	return identity >= CS_ID_FIRST_AUTH && identity < CS_ID_LOCAL_SCOPE;
}

/* NULL: closed. */
static const struct decision *decide(const struct cs_world *w, uint32_t local, uint32_t remote, enum cs_dir dir)
{
	const struct local *l = cs_world_local_find(w, local);
	const struct row *row = cs_world_row_find(w, local, remote);
	if (row && row->present && !row->no_room)
		return &row->d[dir];
	bool endpoint = cs_world_can_authenticate(remote);
	if (!l || !l->has_default || l->no_room_rows || (!endpoint && w->no_room_addrs))
		return NULL;
	return &l->def[dir][endpoint ? CS_PEER_ENDPOINT : CS_PEER_OTHER];
}

struct cs_world_decision cs_world_decision(const struct cs_world *w, uint32_t local, uint32_t remote, enum cs_dir dir)
{
	const struct decision *d = decide(w, local, remote, dir);
	if (!d)
		return (struct cs_world_decision){.verdict = CS_DENY, .policy = "", .rule = ""};
	return (struct cs_world_decision){.verdict = d->verdict,
		.audit = d->audit,
		.policy = d->policy ? d->policy : "",
		.rule = d->rule ? d->rule : ""};
}

bool cs_world_asks(const struct cs_world *w, uint32_t local, uint32_t remote)
{
	return cs_world_can_authenticate(remote) &&
	       (cs_world_decision(w, local, remote, CS_FROM).verdict == CS_REQUIRE ||
		       cs_world_decision(w, local, remote, CS_TO).verdict == CS_REQUIRE);
}

uint64_t cs_world_reply_flags(const struct cs_world *w, uint32_t local, uint32_t remote)
{
	return (cs_world_decision(w, local, remote, CS_TO).verdict == CS_DENY ? CS_AUTH_REPLY_TO : 0) |
	       (cs_world_decision(w, local, remote, CS_FROM).verdict == CS_DENY ? CS_AUTH_REPLY_FROM : 0);
}

/* ---- rows ---- */

bool cs_world_node_row(const struct cs_world *w, uint16_t id, struct cs_node *ret)
{
	const struct node *n = id ? w->by_id[id] : NULL;
	memset(ret, 0, sizeof(*ret));
	if (!n || (!n->listed && !n->refs))
		return false;
	strncpy(ret->name, n->name, sizeof(ret->name) - 1);
	ret->naddr = (uint8_t)n->naddrs;
	for (size_t i = 0; i < n->naddrs; i++)
		cs_ip_to_mapped(&n->ips[i], ret->addr[i]);
	return true;
}

bool cs_world_policy_row(const struct cs_world *w, const struct cs_policy_key *key, struct cs_policy *ret)
{
	const struct row *row = cs_world_row_find(w, key->local, key->remote);
	memset(ret, 0, sizeof(*ret));
	if (!row || !row->present)
		return false;
	for (int dir = 0; dir < 2; dir++)
		ret->verdict[dir] = row->d[dir].verdict | (row->d[dir].audit ? CS_AUDIT : 0);
	return true;
}

/* Which claim on an address counts: this node's own endpoints, then others', then nodes'; of equals the first by name. */
static int better(const struct owner *a, const struct owner *b)
{
	bool a_local = a->endpoint && a->endpoint->local, b_local = b->endpoint && b->endpoint->local;
	if (a_local != b_local)
		return a_local ? 1 : -1;
	if (!a->endpoint != !b->endpoint)
		return a->endpoint ? 1 : -1;
	return a->endpoint ? -strcmp(a->endpoint->id, b->endpoint->id) : 0;
}

static bool owner_counts(const struct owner *o)
{
	const struct node *n = o->endpoint ? o->endpoint->node : o->node;
	if (o->endpoint)
		return o->endpoint->identity && (n->self || n->has_id);
	return !n->self && n->has_id; /* this node's own addresses are netlink's word */
}

bool cs_world_addr_row(const struct cs_world *w, const struct cs_ip *ip, struct cs_addr *ret)
{
	struct addr *a;
	const struct owner *best = NULL;
	memset(ret, 0, sizeof(*ret));
	HASH_FIND(hh, w->addrs, ip, sizeof(*ip), a);
	if (!a)
		return false;
	for (const struct owner *o = a->owners; o; o = o->next)
		if (owner_counts(o) && (!best || better(o, best) > 0))
			best = o;
	if (!a->host && !best)
		return false;
	ret->identity = a->host ? CS_ID_HOST : best->endpoint ? best->endpoint->identity : CS_ID_REMOTE_NODE;
	const struct node *n = a->host ? NULL : best->endpoint ? best->endpoint->node : best->node;
	ret->node = n && !n->self ? n->id : 0;
	if (cs_world_depends_identity(w, ret->identity) || cs_world_depends_prefix(w, ip, ip->family == 4 ? 32 : 128))
		ret->flags |= CS_ADDR_DEPENDS;
	return true;
}

/* The longest CIDR identity that holds these bits. */
static const struct prefix *around(const struct cs_world *w, const struct cs_ip *ip, uint32_t bits)
{
	struct prefix *p, *next, *best = NULL;
	HASH_ITER (hh, w->prefixes, p, next)
		if (p->identity && cs_ip_prefix_holds(&p->key, ip, bits) && (!best || p->key.bits > best->key.bits))
			best = p;
	return best;
}

bool cs_world_prefix_row(const struct cs_world *w, const struct cs_ip_prefix *key, struct cs_addr *ret)
{
	struct prefix *p;
	memset(ret, 0, sizeof(*ret));
	HASH_FIND(hh, w->prefixes, key, sizeof(*key), p);
	if (!p || (!p->identity && !p->depends))
		return false;
	const struct prefix *cidr = p->identity ? p : around(w, &key->ip, key->bits);
	ret->identity = cidr ? cidr->identity : CS_ID_WORLD;
	if (cs_world_depends_prefix(w, &key->ip, key->bits))
		ret->flags |= CS_ADDR_DEPENDS;
	return true;
}

struct iface *cs_world_iface_find(const struct cs_world *w, uint32_t ifindex)
{
	struct iface *f;
	HASH_FIND(hh, w->ifaces, &ifindex, sizeof(ifindex), f);
	return f;
}

/* The endpoint that this interface really has: name and index agree. */
struct endpoint *cs_world_iface_endpoint(const struct iface *f)
{
	for (struct endpoint *ep = f->endpoints; ep; ep = ep->iface_next)
		if (f->name[0] && strcmp(f->name, ep->interface) == 0)
			return ep;
	return NULL;
}

static void row_defaults(const struct cs_world *w, const struct endpoint *ep, struct cs_endpoint *ret)
{
	const struct local *l = cs_world_local_find(w, ep->identity);
	for (int dir = 0; dir < 2; dir++) {
		for (int class = 0; class < 2; class ++) {
			bool closed = !l || !l->has_default || l->no_room_rows ||
				      (class == CS_PEER_OTHER && w->no_room_addrs);
			const struct decision *d = closed ? NULL : &l->def[dir][class];
			ret->verdict[dir][class] = d ? d->verdict | (d->audit ? CS_AUDIT : 0) : CS_DENY;
			if ((ret->verdict[dir][class] & CS_VERDICT_MASK) == CS_DENY)
				ret->flags |= CS_EP_FLOWS;
		}
	}
	if (l && l->deny_rows)
		ret->flags |= CS_EP_FLOWS;
}

bool cs_world_iface_row(const struct cs_world *w, const struct iface *f, struct cs_endpoint *ret)
{
	const struct endpoint *ep = cs_world_iface_endpoint(f);
	memset(ret, 0, sizeof(*ret));
	if (!ep || !ep->identity || f->attach == ATTACH_FAILED)
		return false;
	ret->identity = ep->identity;
	ret->flags = (ep->dhcp ? CS_EP_DHCP : 0) | (ep->audit ? CS_EP_AUDIT : 0) |
		     (cs_world_depends_identity(w, ep->identity) ? CS_EP_DEPENDS : 0);
	row_defaults(w, ep, ret);
	for (size_t i = 0; i < ep->naddrs; i++) {
		const struct cs_ip *ip = &ep->ips[i];
		if (ip->family == 4 && ret->n4 < CS_OWN)
			memcpy(&ret->own4_be32[ret->n4++], ip->b, 4);
		else if (ip->family == 6 && ret->n6 < CS_OWN)
			memcpy(ret->own6[ret->n6++], ip->b, 16);
	}
	return true;
}

bool cs_world_endpoint_row(const struct cs_world *w, uint32_t ifindex, struct cs_endpoint *ret)
{
	const struct iface *f = cs_world_iface_find(w, ifindex);
	return f && f->attach == ATTACHED && cs_world_iface_row(w, f, ret);
}

void cs_world_rows_free(struct cs_world *w)
{
	struct addr *a, *next_a;
	struct prefix *p, *next_p;
	struct row *row, *next_row;
	struct local *l, *next_l;
	struct iface *f, *next_f;
	HASH_ITER (hh, w->addrs, a, next_a) {
		HASH_DEL(w->addrs, a);
		free(a);
	}
	HASH_ITER (hh, w->prefixes, p, next_p) {
		HASH_DEL(w->prefixes, p);
		free(p);
	}
	HASH_ITER (hh, w->rows, row, next_row) {
		HASH_DEL(w->rows, row);
		free(row);
	}
	HASH_ITER (hh, w->locals, l, next_l) {
		HASH_DEL(w->locals, l);
		free(l);
	}
	HASH_ITER (hh, w->ifaces, f, next_f) {
		HASH_DEL(w->ifaces, f);
		free(f);
	}
}
