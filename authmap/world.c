#include "world_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

void *cs_world_alloc(size_t size)
{
	void *p = calloc(1, size);
	if (!p)
		abort(); /* as uthash does; the datapath stays closed without us */
	return p;
}

char *cs_world_dup(const char *s)
{
	char *p = strdup(s);
	if (!p)
		abort();
	return p;
}

/* ---- touched pairs, chains of what a plan looks at ---- */

void cs_world_touch(struct cs_world *w, uint32_t identity)
{
	struct touched *t;
	HASH_FIND(hh, w->touched, &identity, sizeof(identity), t);
	if (t || w->touched_all)
		return;
	t = cs_world_alloc(sizeof(*t));
	t->identity = identity;
	HASH_ADD(hh, w->touched, identity, sizeof(identity), t);
}

static void untouch(struct cs_world *w)
{
	struct touched *t, *next;
	HASH_ITER (hh, w->touched, t, next) {
		HASH_DEL(w->touched, t);
		free(t);
	}
	w->touched_all = false;
}

void cs_world_touch_all(struct cs_world *w)
{
	untouch(w);
	w->touched_all = true;
}

bool cs_world_touched(const struct cs_world *w, uint32_t local, uint32_t remote)
{
	struct touched *t;
	if (w->touched_all)
		return true;
	HASH_FIND(hh, w->touched, &local, sizeof(local), t);
	if (!t)
		HASH_FIND(hh, w->touched, &remote, sizeof(remote), t);
	return t;
}

void cs_world_dirty_all_addrs(struct cs_world *w)
{
	struct addr *a, *next;
	HASH_ITER (hh, w->addrs, a, next)
		CS_WORLD_DIRTY(w->dirty_addrs, a);
}

void cs_world_dirty_all_prefixes(struct cs_world *w)
{
	struct prefix *p, *next;
	HASH_ITER (hh, w->prefixes, p, next)
		CS_WORLD_DIRTY(w->dirty_prefixes, p);
}

void cs_world_dirty_identity_ifaces(struct cs_world *w, uint32_t identity)
{
	for (struct endpoint *ep = w->locals_list; ep; ep = ep->local_next)
		if (ep->identity == identity && ep->iface)
			CS_WORLD_DIRTY(w->dirty_ifaces, ep->iface);
}

/* ---- addresses and who claims them ---- */

struct addr *cs_world_addr(struct cs_world *w, const struct cs_ip *ip)
{
	struct addr *a;
	HASH_FIND(hh, w->addrs, ip, sizeof(*ip), a);
	if (!a) {
		a = cs_world_alloc(sizeof(*a));
		a->key = *ip;
		HASH_ADD(hh, w->addrs, key, sizeof(a->key), a);
	}
	CS_WORLD_DIRTY(w->dirty_addrs, a);
	return a;
}

static struct owner *claim(struct cs_world *w, const struct cs_ip *ip, struct endpoint *ep, struct node *n)
{
	struct owner *o = cs_world_alloc(sizeof(*o));
	*o = (struct owner){.addr = cs_world_addr(w, ip), .endpoint = ep, .node = n};
	DL_APPEND(o->addr->owners, o);
	return o;
}

static void unclaim(struct cs_world *w, struct owner **owners, size_t *n)
{
	for (size_t i = 0; i < *n; i++) {
		CS_WORLD_DIRTY(w->dirty_addrs, owners[i]->addr);
		DL_DELETE(owners[i]->addr->owners, owners[i]);
		free(owners[i]);
	}
	*n = 0;
}

/* Keeps the claims if they are the same, so that order and rows stay. True: they are others now. */
static bool claim_all(struct cs_world *w, struct endpoint *ep, struct node *n,
	Countersign__V1__Address *const *addresses, size_t count, struct cs_ip *ips, struct owner **owners,
	size_t *nowners)
{
	struct cs_ip wanted[CS_WORLD_ENDPOINT_ADDRS];
	for (size_t i = 0; i < count; i++)
		cs_ip_from_bytes(&wanted[i], addresses[i]->ip.data, addresses[i]->ip.len);
	if (count == *nowners && memcmp(wanted, ips, count * sizeof(*ips)) == 0) {
		for (size_t i = 0; i < count; i++)
			CS_WORLD_DIRTY(w->dirty_addrs, owners[i]->addr);
		return false;
	}
	unclaim(w, owners, nowners);
	memcpy(ips, wanted, count * sizeof(*ips));
	for (; *nowners < count; (*nowners)++)
		owners[*nowners] = claim(w, &ips[*nowners], ep, n);
	return true;
}

void cs_world_host_addr(struct cs_world *w, const struct cs_ip *ip, bool present)
{
	cs_world_addr(w, ip)->host = present;
}

/* ---- nodes ---- */

struct node *cs_world_node_find(const struct cs_world *w, const char *name)
{
	struct node *n;
	HASH_FIND(hh, w->nodes, name, strlen(name), n);
	return n;
}

struct node *cs_world_node_named(struct cs_world *w, const char *name)
{
	struct node *n = cs_world_node_find(w, name);
	if (!n) {
		n = cs_world_alloc(sizeof(*n));
		n->name = cs_world_dup(name);
		HASH_ADD_KEYPTR(hh, w->nodes, n->name, strlen(n->name), n);
		CS_WORLD_DIRTY(w->dirty_nodes, n);
	}
	return n;
}

void cs_world_node_drop(struct cs_world *w, struct node *n)
{
	if (n->listed || n->refs)
		return;
	if (n->written || n->dirty) { /* the next plan removes the row, and then it */
		CS_WORLD_DIRTY(w->dirty_nodes, n);
		return;
	}
	if (n->has_id)
		w->by_id[n->id] = NULL;
	HASH_DEL(w->nodes, n);
	free(n->name);
	free(n);
}

void cs_world_node_number(struct cs_world *w, struct node *n)
{
	if (n->self || n->has_id || (!n->listed && !n->refs))
		return;
	/* With 65,535 nodes the next one gets no id, and its addresses no row. */
	for (unsigned tries = 0; tries < 65535 && !n->has_id; tries++) {
		w->next_id = w->next_id == 65535 ? 1 : (uint16_t)(w->next_id + 1);
		if (w->by_id[w->next_id])
			continue;
		n->id = w->next_id;
		n->has_id = n->changed = true;
		w->by_id[n->id] = n;
	}
}

static void node_self(struct cs_world *w, struct node *n, bool self)
{
	if (n->self == self)
		return;
	if (self && w->self)
		w->self->self = false;
	n->self = self;
	w->self = self ? n : NULL;
	CS_WORLD_DIRTY(w->dirty_nodes, n);
	cs_world_dirty_all_addrs(w);
	cs_world_touch_all(w);
}

static void node_unlist(struct cs_world *w, struct node *n)
{
	node_self(w, n, false);
	n->listed = false;
	unclaim(w, n->addrs, &n->naddrs);
	cs_world_touch_all(w);
	cs_world_node_drop(w, n);
}

static void node_record(struct cs_world *w, bool deleted, const Countersign__V1__Node *r)
{
	struct node *n = deleted ? cs_world_node_find(w, r->name) : cs_world_node_named(w, r->name);
	if (deleted) {
		if (n && n->listed)
			node_unlist(w, n);
		return;
	}
	bool was_listed = n->listed;
	n->listed = true;
	n->mark = w->mark;
	n->port = (uint16_t)r->port;
	snprintf(n->path, sizeof(n->path), "%s", r->path);
	bool moved = claim_all(w, NULL, n, r->addresses, r->n_addresses, n->ips, n->addrs, &n->naddrs);
	n->changed |= moved;
	if (moved || !was_listed)
		n->generation = ++w->generation;
	node_self(w, n, r->self);
	CS_WORLD_DIRTY(w->dirty_nodes, n);
}

struct node *cs_world_node_of(const struct cs_world *w, uint16_t id)
{
	return id ? w->by_id[id] : w->self;
}

void cs_world_node_hold(struct cs_world *w, uint16_t id)
{
	if (id && w->by_id[id])
		w->by_id[id]->refs++;
}

void cs_world_node_release(struct cs_world *w, uint16_t id)
{
	struct node *n = id ? w->by_id[id] : NULL;
	if (n && --n->refs == 0)
		cs_world_node_drop(w, n);
}

/* ---- identities ---- */

static void identity_remove(struct cs_world *w, struct identity *i)
{
	cs_world_touch(w, i->id);
	HASH_DELETE(hh_spiffe, w->by_spiffe_id, i);
	HASH_DEL(w->identities, i);
	free(i->spiffe_id);
	free(i);
}

static void identity_record(struct cs_world *w, bool deleted, const Countersign__V1__Identity *r)
{
	struct identity *i;
	HASH_FIND(hh, w->identities, &r->id, sizeof(r->id), i);
	if (i && !deleted && i->incarnation == r->incarnation && strcmp(i->spiffe_id, r->spiffe_id) == 0) {
		i->mark = w->mark;
		return;
	}
	if (i)
		identity_remove(w, i);
	if (deleted)
		return;
	i = cs_world_alloc(sizeof(*i));
	*i = (struct identity){.id = r->id,
		.spiffe_id = cs_world_dup(r->spiffe_id),
		.incarnation = r->incarnation,
		.generation = ++w->generation,
		.mark = w->mark};
	HASH_ADD(hh, w->identities, id, sizeof(i->id), i);
	HASH_ADD_KEYPTR(hh_spiffe, w->by_spiffe_id, i->spiffe_id, strlen(i->spiffe_id), i);
	cs_world_touch(w, i->id);
}

/* ---- placements ---- */

static void placement_remove(struct cs_world *w, struct placement *p)
{
	struct node *n = p->key.node;
	cs_world_touch(w, p->key.identity);
	HASH_DEL(w->placements, p);
	free(p);
	n->refs--;
	cs_world_node_drop(w, n);
}

struct placement *cs_world_placement_find(const struct cs_world *w, uint32_t identity, struct node *n)
{
	struct placement *p;
	struct placement_key key = {.node = n, .identity = identity};
	HASH_FIND(hh, w->placements, &key, sizeof(key), p);
	return p;
}

static void placement_record(struct cs_world *w, bool deleted, const Countersign__V1__Placement *r)
{
	struct node *n = deleted ? cs_world_node_find(w, r->node) : cs_world_node_named(w, r->node);
	struct placement *p = n ? cs_world_placement_find(w, r->identity, n) : NULL;
	if (deleted) {
		if (p)
			placement_remove(w, p);
		return;
	}
	if (!p) {
		p = cs_world_alloc(sizeof(*p));
		p->key = (struct placement_key){.node = n, .identity = r->identity};
		p->generation = ++w->generation;
		n->refs++;
		HASH_ADD(hh, w->placements, key, sizeof(p->key), p);
		cs_world_touch(w, r->identity);
	}
	p->mark = w->mark;
}

/* ---- endpoints ---- */

struct iface *cs_world_iface(struct cs_world *w, uint32_t ifindex)
{
	struct iface *f;
	HASH_FIND(hh, w->ifaces, &ifindex, sizeof(ifindex), f);
	if (!f) {
		f = cs_world_alloc(sizeof(*f));
		f->ifindex = ifindex;
		HASH_ADD(hh, w->ifaces, ifindex, sizeof(f->ifindex), f);
	}
	if (f->attach == ATTACH_FAILED) /* something changed: worth another attempt */
		f->attach = DETACHED;
	CS_WORLD_DIRTY(w->dirty_ifaces, f);
	return f;
}

static void local_count(struct cs_world *w, uint32_t identity, int by)
{
	if (!identity)
		return;
	struct local *l = cs_world_local_of(w, identity);
	unsigned before = l->endpoints;
	l->endpoints += (unsigned)by;
	if (!before != !l->endpoints) {
		l->generation = ++w->generation;
		cs_world_touch(w, identity);
	}
	cs_world_local_drop(w, l);
}

/* Out of the lists of local endpoints. */
static void endpoint_unlocal(struct cs_world *w, struct endpoint *ep)
{
	if (!ep->local)
		return;
	ep->local = false;
	w->nlocal--;
	DL_DELETE2(w->locals_list, ep, local_prev, local_next);
	DL_DELETE2(ep->iface->endpoints, ep, iface_prev, iface_next);
	CS_WORLD_DIRTY(w->dirty_ifaces, ep->iface);
	ep->iface = NULL;
	local_count(w, ep->identity, -1);
}

static void endpoint_remove(struct cs_world *w, struct endpoint *ep)
{
	endpoint_unlocal(w, ep);
	unclaim(w, ep->addrs, &ep->naddrs);
	HASH_DEL(w->endpoints, ep);
	ep->node->refs--;
	cs_world_node_drop(w, ep->node);
	free(ep->key);
	free(ep);
}

static struct endpoint *endpoint_find(const struct cs_world *w, const char *node, const char *id, bool make)
{
	struct endpoint *ep;
	size_t node_len = strlen(node) + 1, len = node_len + strlen(id) + 1;
	char *key = cs_world_alloc(len);
	memcpy(key, node, node_len);
	memcpy(key + node_len, id, len - node_len);
	HASH_FIND(hh, w->endpoints, key, len, ep);
	if (ep || !make) {
		free(key);
		return ep;
	}
	ep = cs_world_alloc(sizeof(*ep));
	*ep = (struct endpoint){.key = key, .key_len = len, .id = key + node_len};
	return ep;
}

static void endpoint_local(struct cs_world *w, struct endpoint *ep, const Countersign__V1__LocalEndpoint *r)
{
	if (!r) {
		endpoint_unlocal(w, ep);
		return;
	}
	if (ep->local && ep->iface->ifindex != r->ifindex)
		endpoint_unlocal(w, ep);
	if (!ep->local) {
		ep->local = true;
		w->nlocal++;
		ep->iface = cs_world_iface(w, r->ifindex);
		DL_APPEND2(w->locals_list, ep, local_prev, local_next);
		DL_APPEND2(ep->iface->endpoints, ep, iface_prev, iface_next);
		local_count(w, ep->identity, 1);
	}
	snprintf(ep->interface, sizeof(ep->interface), "%s", r->interface);
	ep->dhcp = r->dhcp;
	ep->audit = r->audit;
	ep->incarnation = r->incarnation;
	cs_world_iface(w, r->ifindex);
}

static void endpoint_record(struct cs_world *w, bool deleted, const Countersign__V1__Endpoint *r)
{
	struct endpoint *ep = endpoint_find(w, r->node, r->id, !deleted);
	if (deleted) {
		if (ep)
			endpoint_remove(w, ep);
		return;
	}
	if (!ep->node) {
		ep->node = cs_world_node_named(w, r->node);
		ep->node->refs++;
		HASH_ADD_KEYPTR(hh, w->endpoints, ep->key, ep->key_len, ep);
	}
	ep->mark = w->mark;
	if (ep->local && ep->identity != r->identity) {
		local_count(w, ep->identity, -1);
		local_count(w, r->identity, 1);
	}
	ep->identity = r->identity;
	claim_all(w, ep, NULL, r->addresses, r->n_addresses, ep->ips, ep->addrs, &ep->naddrs);
	endpoint_local(w, ep, r->local);
}

void cs_world_link(struct cs_world *w, uint32_t ifindex, const char *name)
{
	struct iface *f = cs_world_iface(w, ifindex);
	snprintf(f->name, sizeof(f->name), "%s", name ? name : "");
	if (!name) { /* programs went with it; the same index may come again */
		f->attach = DETACHED;
		f->shadowed = CS_R_NONE;
	}
}

void cs_world_shadowed(struct cs_world *w, uint32_t ifindex, enum cs_reason reason, const char *who)
{
	struct iface *f = cs_world_iface(w, ifindex);
	f->shadowed = reason;
	snprintf(f->shadowed_by, sizeof(f->shadowed_by), "%s", who ? who : "");
}

/* ---- records ---- */

void cs_world_record(struct cs_world *w, const Countersign__V1__Record *r)
{
	switch (r->record_case) {
	case COUNTERSIGN__V1__RECORD__RECORD_NODE:
		node_record(w, r->deleted, r->node);
		break;
	case COUNTERSIGN__V1__RECORD__RECORD_IDENTITY:
		identity_record(w, r->deleted, r->identity);
		break;
	case COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT:
		placement_record(w, r->deleted, r->placement);
		break;
	case COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT:
		endpoint_record(w, r->deleted, r->endpoint);
		break;
	case COUNTERSIGN__V1__RECORD__RECORD_PREFIX:
		cs_world_prefix_record(w, r->deleted, r->prefix);
		break;
	case COUNTERSIGN__V1__RECORD__RECORD_POLICY_ROW:
		cs_world_policy_row_set(w, r->deleted, r->policy_row);
		break;
	case COUNTERSIGN__V1__RECORD__RECORD_POLICY_DEFAULT:
		cs_world_policy_default_set(w, r->deleted, r->policy_default);
		break;
	case COUNTERSIGN__V1__RECORD__RECORD_DEPENDS_ON:
		cs_world_depends_record(w, r->deleted, r->depends_on);
		break;
	case COUNTERSIGN__V1__RECORD__RECORD_REVOCATION:
		cs_world_revocation(w, r->deleted, r->revocation);
		break;
	default: /* kinds that only people read (Policy), and those of a later version */
		break;
	}
}

void cs_world_replace_begin(struct cs_world *w)
{
	w->mark++;
	w->replacing = true;
}

#define SWEEP(type, table, gone, remove)                                                                               \
	do {                                                                                                           \
		struct type *it_, *next_;                                                                              \
		HASH_ITER (hh, table, it_, next_)                                                                      \
			if (it_->mark != w->mark && (gone))                                                            \
				remove(w, it_);                                                                        \
	} while (0)

void cs_world_replace_end(struct cs_world *w)
{
	SWEEP(endpoint, w->endpoints, true, endpoint_remove);
	SWEEP(placement, w->placements, true, placement_remove);
	SWEEP(identity, w->identities, true, identity_remove);
	SWEEP(node, w->nodes, it_->listed, node_unlist);
	SWEEP(depends, w->depends, true, cs_world_depends_remove);
	SWEEP(prefix, w->prefixes, it_->identity, cs_world_prefix_unset);
	cs_world_rows_sweep(w);
	cs_world_revocations_sweep(w);
	cs_world_touch_all(w);
	w->replacing = false;
	w->ready = true;
}

bool cs_world_ready(const struct cs_world *w)
{
	return w->ready;
}

/* ---- life ---- */

struct cs_world *cs_world_new(uint64_t seed)
{
	struct cs_world *w = cs_world_alloc(sizeof(*w));
	w->by_id = cs_world_alloc(65536 * sizeof(*w->by_id));
	w->generation = w->revocations_generation = seed;
	return w;
}

void cs_world_free(struct cs_world *w)
{
	if (!w)
		return;
	cs_world_replace_begin(w); /* an empty world: everything goes through its own way out */
	cs_world_replace_end(w);
	cs_world_rows_free(w);
	cs_world_revocations_free(w);
	untouch(w);
	struct node *n, *next;
	HASH_ITER (hh, w->nodes, n, next) {
		HASH_DEL(w->nodes, n);
		free(n->name);
		free(n);
	}
	free(w->by_id);
	free(w->ops);
	free(w);
}
