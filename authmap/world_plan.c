/* From the rows that were there to those that should be: what to do, in which order, and how it went. */
#include "world_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool changes_hands(const struct cs_endpoint *a, const struct cs_endpoint *b)
{
	return a->identity != b->identity || a->n4 != b->n4 || a->n6 != b->n6 ||
	       memcmp(a->own4_be32, b->own4_be32, sizeof(a->own4_be32)) != 0 ||
	       memcmp(a->own6, b->own6, sizeof(a->own6)) != 0;
}

/* ---- the plan ---- */

static struct cs_op *op(struct cs_world *w, enum cs_op_kind kind)
{
	if (w->nops == w->ops_room) {
		w->ops_room = w->ops_room ? 2 * w->ops_room : 64;
		w->ops = realloc(w->ops, w->ops_room * sizeof(*w->ops));
		if (!w->ops)
			abort();
	}
	w->ops[w->nops] = (struct cs_op){.kind = kind};
	return &w->ops[w->nops++];
}

#define TAKE_DIRTY(type, head, item, next)                                                                             \
	for (struct type *item = (head), *next = ((head) = NULL, item ? item->dirty_next : NULL); item;                \
		item = next, next = item ? item->dirty_next : NULL)

static void plan_nodes(struct cs_world *w)
{
	for (struct node *n = w->dirty_nodes; n; n = n->dirty_next)
		cs_world_node_number(w, n);
	TAKE_DIRTY(node, w->dirty_nodes, n, next)
	{
		n->dirty = false;
		bool wanted = (n->listed || n->refs) && n->has_id;
		if (wanted && (n->changed || !n->written))
			op(w, CS_OP_NODE_PUT)->node = n->id;
		else if (!n->listed && !n->refs && n->written)
			op(w, CS_OP_NODE_DEL)->node = n->id;
		else
			cs_world_node_drop(w, n);
	}
}

static void plan_ifaces(struct cs_world *w)
{
	TAKE_DIRTY(iface, w->dirty_ifaces, f, next)
	{
		struct cs_endpoint wanted;
		f->dirty = false;
		if (cs_world_iface_endpoint(f) && f->attach == DETACHED)
			op(w, CS_OP_ATTACH)->ifindex = f->ifindex;
		bool want = cs_world_iface_row(w, f, &wanted);
		if (f->has_shadow && (!want || changes_hands(&f->shadow, &wanted)))
			op(w, CS_OP_ENDPOINT_DEL)->ifindex = f->ifindex;
		if (want && (!f->has_shadow || memcmp(&wanted, &f->shadow, sizeof(wanted)) != 0))
			op(w, CS_OP_ENDPOINT_PUT)->ifindex = f->ifindex;
		if (!f->has_shadow && !f->endpoints && !f->name[0]) {
			HASH_DEL(w->ifaces, f);
			free(f);
		}
	}
}

static void dirty_all_ifaces(struct cs_world *w)
{
	struct iface *f, *next;
	HASH_ITER (hh, w->ifaces, f, next)
		if (f->endpoints)
			CS_WORLD_DIRTY(w->dirty_ifaces, f);
}

static void addr_drop(struct cs_world *w, struct addr *a)
{
	if (a->owners || a->host || a->has_shadow || a->dirty)
		return;
	if (a->no_room && --w->no_room_addrs == 0)
		dirty_all_ifaces(w);
	HASH_DEL(w->addrs, a);
	free(a);
}

/* Another peer's, or no longer one that passes before policy: the row goes before anything else is written. */
static bool loses(const struct cs_addr *was, const struct cs_addr *wanted)
{
	return was->identity != wanted->identity || was->node != wanted->node ||
	       (was->flags & ~wanted->flags & CS_ADDR_DEPENDS);
}

static void plan_addrs(struct cs_world *w)
{
	TAKE_DIRTY(addr, w->dirty_addrs, a, next)
	{
		struct cs_addr wanted;
		a->dirty = false;
		bool want = cs_world_addr_row(w, &a->key, &wanted);
		if (a->has_shadow && (!want || loses(&a->shadow, &wanted)))
			op(w, CS_OP_ADDR_DEL)->addr = a->key;
		if (want && (!a->has_shadow || memcmp(&wanted, &a->shadow, sizeof(wanted)) != 0))
			op(w, CS_OP_ADDR_PUT)->addr = a->key;
		addr_drop(w, a);
	}
}

static void prefix_drop(struct cs_world *w, struct prefix *p)
{
	if (p->identity || p->depends || p->has_shadow || p->dirty)
		return;
	if (p->no_room && --w->no_room_addrs == 0)
		dirty_all_ifaces(w);
	HASH_DEL(w->prefixes, p);
	free(p);
}

static void plan_prefixes(struct cs_world *w)
{
	TAKE_DIRTY(prefix, w->dirty_prefixes, p, next)
	{
		struct cs_addr wanted;
		p->dirty = false;
		bool want = cs_world_prefix_row(w, &p->key, &wanted);
		if (p->has_shadow && (!want || loses(&p->shadow, &wanted)))
			op(w, CS_OP_PREFIX_DEL)->prefix = p->key;
		if (want && (!p->has_shadow || memcmp(&wanted, &p->shadow, sizeof(wanted)) != 0))
			op(w, CS_OP_PREFIX_PUT)->prefix = p->key;
		prefix_drop(w, p);
	}
}

static void row_drop(struct cs_world *w, struct row *row)
{
	if (row->present || row->has_shadow || row->dirty)
		return;
	struct local *l = cs_world_local_of(w, row->key.local);
	if (row->no_room) {
		w->no_room_rows--;
		if (--l->no_room_rows == 0)
			cs_world_dirty_identity_ifaces(w, l->identity);
	}
	l->rows--;
	HASH_DEL(w->rows, row);
	free(row);
	cs_world_local_drop(w, l);
}

static void plan_rows(struct cs_world *w)
{
	TAKE_DIRTY(row, w->dirty_rows, row, next)
	{
		struct cs_policy wanted;
		row->dirty = false;
		bool want = cs_world_policy_row(w, &row->key, &wanted);
		/* One that could not be changed goes, now that the defaults are closed, and is written anew next time. */
		if (row->has_shadow && (!want || row->no_room))
			op(w, CS_OP_POLICY_DEL)->policy = row->key;
		else if (want && (!row->has_shadow || memcmp(&wanted, &row->shadow, sizeof(wanted)) != 0))
			op(w, CS_OP_POLICY_PUT)->policy = row->key;
		row_drop(w, row);
	}
}

static int by_kind(const void *a, const void *b)
{
	return (int)((const struct cs_op *)a)->kind - (int)((const struct cs_op *)b)->kind;
}

const struct cs_op *cs_world_plan(struct cs_world *w, size_t *ret_n)
{
	w->nops = 0;
	if (w->ready && !w->replacing) {
		plan_nodes(w); /* first: the others need ids */
		plan_rows(w);
		plan_addrs(w);
		plan_prefixes(w);
		plan_ifaces(w); /* last: rows_drop may have opened some */
		if (w->touched_all || w->touched) {
			op(w, CS_OP_ENTRIES_BEFORE);
			op(w, CS_OP_ENTRIES_AFTER);
		}
		if (w->nops)
			qsort(w->ops, w->nops, sizeof(*w->ops), by_kind);
	}
	*ret_n = w->nops;
	return w->ops;
}

/* ---- how it went ---- */

static bool done_endpoint(struct cs_world *w, const struct cs_op *o, const struct cs_error *error)
{
	struct iface *f = cs_world_iface_find(w, o->ifindex);
	if (!f)
		return false;
	if (o->kind == CS_OP_ATTACH) {
		f->attach = error ? ATTACH_FAILED : ATTACHED;
		f->attach_reason = error ? error->reason : CS_R_NONE;
		snprintf(f->attach_text, sizeof(f->attach_text), "%.150s", error ? error->text : "");
		if (error && f->has_shadow)
			CS_WORLD_DIRTY(w->dirty_ifaces, f);
		return error && f->has_shadow;
	}
	f->row_reason = CS_R_NONE;
	if (error) { /* whatever the row is now: write it again */
		f->has_shadow = f->has_shadow || o->kind == CS_OP_ENDPOINT_DEL;
		memset(&f->shadow, 0, sizeof(f->shadow));
		f->row_reason = error->reason ? error->reason : CS_R_MAP_WRITE_FAILED;
		CS_WORLD_DIRTY(w->dirty_ifaces, f);
		return false;
	}
	f->has_shadow = o->kind == CS_OP_ENDPOINT_PUT && cs_world_endpoint_row(w, f->ifindex, &f->shadow);
	if (!f->has_shadow && !f->endpoints)
		CS_WORLD_DIRTY(w->dirty_ifaces, f);
	return false;
}

/* Something found no room, or found it at last. */
static bool no_room(bool *flag, bool failed, size_t *count)
{
	bool was = *count > 0;
	if (*flag != failed)
		*count += failed ? 1 : (size_t)-1;
	*flag = failed;
	return was != (*count > 0);
}

static bool done_addr(struct cs_world *w, const struct cs_op *o, bool failed)
{
	struct addr *a;
	HASH_FIND(hh, w->addrs, &o->addr, sizeof(o->addr), a);
	if (!a)
		return false;
	bool flips = false;
	if (o->kind == CS_OP_ADDR_PUT) {
		flips = no_room(&a->no_room, failed, &w->no_room_addrs);
		if (!failed)
			a->has_shadow = cs_world_addr_row(w, &a->key, &a->shadow);
	} else if (!failed) {
		a->has_shadow = false;
	}
	if (failed)
		CS_WORLD_DIRTY(w->dirty_addrs, a);
	addr_drop(w, a);
	if (flips)
		dirty_all_ifaces(w);
	return flips;
}

static bool done_prefix(struct cs_world *w, const struct cs_op *o, bool failed)
{
	struct prefix *p;
	HASH_FIND(hh, w->prefixes, &o->prefix, sizeof(o->prefix), p);
	if (!p)
		return false;
	bool flips = false;
	if (o->kind == CS_OP_PREFIX_PUT) {
		flips = no_room(&p->no_room, failed, &w->no_room_addrs);
		if (!failed)
			p->has_shadow = cs_world_prefix_row(w, &p->key, &p->shadow);
	} else if (!failed) {
		p->has_shadow = false;
	}
	if (failed)
		CS_WORLD_DIRTY(w->dirty_prefixes, p);
	prefix_drop(w, p);
	if (flips)
		dirty_all_ifaces(w);
	return flips;
}

static bool done_policy(struct cs_world *w, const struct cs_op *o, bool failed)
{
	struct row *row = cs_world_row_find(w, o->policy.local, o->policy.remote);
	if (!row)
		return false;
	bool flips = false;
	if (o->kind == CS_OP_POLICY_PUT) {
		struct local *l = cs_world_local_of(w, row->key.local);
		if (row->no_room != failed)
			w->no_room_rows += failed ? 1 : (size_t)-1;
		size_t count = l->no_room_rows;
		flips = no_room(&row->no_room, failed, &count);
		l->no_room_rows = (unsigned)count;
		if (!failed)
			row->has_shadow = cs_world_policy_row(w, &row->key, &row->shadow);
		if (flips) {
			cs_world_dirty_identity_ifaces(w, l->identity);
			cs_world_touch(w, l->identity);
		}
		flips |= failed && row->has_shadow; /* it says what it said before */
	} else if (!failed) {
		row->has_shadow = false;
	}
	if (failed || row->no_room)
		CS_WORLD_DIRTY(w->dirty_rows, row);
	row_drop(w, row);
	return flips;
}

static void done_node(struct cs_world *w, const struct cs_op *o, bool failed)
{
	struct node *n = w->by_id[o->node];
	if (!n)
		return;
	if (failed) {
		CS_WORLD_DIRTY(w->dirty_nodes, n);
		return;
	}
	n->written = o->kind == CS_OP_NODE_PUT;
	n->changed = false;
	cs_world_node_drop(w, n);
}

static void entries_done(struct cs_world *w)
{
	struct touched *t, *next;
	HASH_ITER (hh, w->touched, t, next) {
		HASH_DEL(w->touched, t);
		free(t);
	}
	w->touched_all = false;
}

bool cs_world_done(struct cs_world *w, const struct cs_op *o, const struct cs_error *error)
{
	switch (o->kind) {
	case CS_OP_NODE_PUT:
	case CS_OP_NODE_DEL:
		done_node(w, o, error);
		return false;
	case CS_OP_ATTACH:
	case CS_OP_ENDPOINT_DEL:
	case CS_OP_ENDPOINT_PUT:
		return done_endpoint(w, o, error);
	case CS_OP_ADDR_DEL:
	case CS_OP_ADDR_PUT:
		return done_addr(w, o, error);
	case CS_OP_PREFIX_DEL:
	case CS_OP_PREFIX_PUT:
		return done_prefix(w, o, error);
	case CS_OP_POLICY_PUT:
	case CS_OP_POLICY_DEL:
		return done_policy(w, o, error);
	case CS_OP_ENTRIES_BEFORE:
		return w->dirty_nodes; /* an entry that went was the last to name one */
	case CS_OP_ENTRIES_AFTER:
		entries_done(w);
		return false;
	}
	return false;
}

/* ---- what an earlier life left ---- */

void cs_world_adopt_node(struct cs_world *w, uint16_t id, const struct cs_node *row)
{
	char name[CS_NODE_NAME];
	memcpy(name, row->name, sizeof(name));
	name[sizeof(name) - 1] = '\0';
	if (!id || w->by_id[id] || !name[0] || cs_world_node_find(w, name))
		return;
	struct node *n = cs_world_node_named(w, name);
	n->id = id;
	n->has_id = n->written = n->changed = true;
	w->by_id[id] = n;
}

void cs_world_adopt_endpoint(struct cs_world *w, uint32_t ifindex, const struct cs_endpoint *row)
{
	struct iface *f = cs_world_iface(w, ifindex);
	f->has_shadow = true;
	f->shadow = *row;
}

void cs_world_adopt_addr(struct cs_world *w, const struct cs_ip *ip, const struct cs_addr *row)
{
	struct addr *a = cs_world_addr(w, ip);
	a->has_shadow = true;
	a->shadow = *row;
}

void cs_world_adopt_prefix(struct cs_world *w, const struct cs_ip_prefix *prefix, const struct cs_addr *row)
{
	struct prefix *p = cs_world_prefix(w, prefix);
	p->has_shadow = true;
	p->shadow = *row;
}

void cs_world_adopt_policy(struct cs_world *w, const struct cs_policy_key *key, const struct cs_policy *row)
{
	struct row *r = cs_world_row(w, key);
	r->has_shadow = true;
	r->shadow = *row;
}
