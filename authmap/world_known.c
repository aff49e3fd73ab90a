/* What can be asked about the world. */
#include "world_state.h"

#include <stdio.h>
#include <string.h>

static bool node_out(const struct node *n, struct cs_world_node *ret)
{
	if (!n || !n->listed)
		return false;
	*ret = (struct cs_world_node){.name = n->name,
		.path = n->path[0] ? n->path : "unknown",
		.id = n->self ? 0 : n->id,
		.port = n->port,
		.self = n->self,
		.addrs = n->ips,
		.naddrs = n->naddrs};
	return n->self || n->has_id;
}

bool cs_world_node_by_id(const struct cs_world *w, uint16_t id, struct cs_world_node *ret)
{
	return node_out(cs_world_node_of(w, id), ret);
}

bool cs_world_node_numbered(const struct cs_world *w, uint16_t id)
{
	return id && w->by_id[id];
}

bool cs_world_node_by_name(const struct cs_world *w, const char *name, struct cs_world_node *ret)
{
	return node_out(cs_world_node_find(w, name), ret);
}

bool cs_world_self(const struct cs_world *w, struct cs_world_node *ret)
{
	return node_out(w->self, ret);
}

bool cs_world_node_by_addr(const struct cs_world *w, const struct cs_ip *ip, struct cs_world_node *ret)
{
	struct addr *a;
	HASH_FIND(hh, w->addrs, ip, sizeof(*ip), a);
	for (struct owner *o = a ? a->owners : NULL; o; o = o->next)
		if (o->node && !o->node->self)
			return node_out(o->node, ret);
	return false;
}

static bool identity_out(const struct identity *i, struct cs_world_identity *ret)
{
	if (!i)
		return false;
	*ret = (struct cs_world_identity){.id = i->id, .spiffe_id = i->spiffe_id, .incarnation = i->incarnation};
	return true;
}

static struct identity *identity_find(const struct cs_world *w, uint32_t id)
{
	struct identity *i;
	HASH_FIND(hh, w->identities, &id, sizeof(id), i);
	return i;
}

bool cs_world_identity(const struct cs_world *w, uint32_t id, struct cs_world_identity *ret)
{
	return identity_out(identity_find(w, id), ret);
}

bool cs_world_identity_by_spiffe_id(const struct cs_world *w, const char *spiffe_id, struct cs_world_identity *ret)
{
	struct identity *i;
	HASH_FIND(hh_spiffe, w->by_spiffe_id, spiffe_id, strlen(spiffe_id), i);
	return identity_out(i, ret);
}

bool cs_world_placed(const struct cs_world *w, uint32_t identity, uint16_t node)
{
	struct node *n = cs_world_node_of(w, node);
	return n && n->listed && cs_world_placement_find(w, identity, n);
}

bool cs_world_local(const struct cs_world *w, uint32_t identity)
{
	struct local *l = cs_world_local_find(w, identity);
	return l && l->endpoints;
}

void cs_world_each_local(const struct cs_world *w, void (*fn)(uint32_t identity, void *data), void *data)
{
	struct local *l, *next;
	HASH_ITER (hh, w->locals, l, next)
		if (l->endpoints)
			fn(l->identity, data);
}

struct cs_world_generations cs_world_generations(
	const struct cs_world *w, uint32_t local, uint32_t remote, uint16_t node)
{
	struct identity *a = identity_find(w, local), *b = identity_find(w, remote);
	struct local *l = cs_world_local_find(w, local);
	struct node *n = cs_world_node_of(w, node);
	struct placement *p = n ? cs_world_placement_find(w, remote, n) : NULL;
	return (struct cs_world_generations){.local = a ? a->generation : 0,
		.remote = b ? b->generation : 0,
		.local_endpoints = l ? l->generation : 0,
		.placement = p ? p->generation : 0,
		.node = n ? n->generation : 0,
		.revocations = w->revocations_generation};
}

struct cs_world_counts cs_world_counts(const struct cs_world *w)
{
	return (struct cs_world_counts){.nodes = HASH_COUNT(w->nodes),
		.identities = HASH_COUNT(w->identities),
		.endpoints = HASH_COUNT(w->endpoints),
		.local_endpoints = w->nlocal,
		.addresses = HASH_COUNT(w->addrs),
		.prefixes = HASH_COUNT(w->prefixes),
		.policy_rows = HASH_COUNT(w->rows),
		.revocations = HASH_COUNT(w->revocations),
		.no_room = w->no_room_addrs + w->no_room_rows};
}

/* ---- endpoints, as they are reported ---- */

static void say(struct cs_world_endpoint *out, bool enforced, enum cs_reason reason, const char *detail)
{
	out->enforced = enforced;
	out->reason = reason;
	snprintf(out->detail, sizeof(out->detail), "%.190s", detail);
}

static void state_of(const struct cs_world *w, const struct endpoint *ep, struct cs_world_endpoint *out)
{
	const struct iface *f = ep->iface;
	const struct local *l = cs_world_local_find(w, ep->identity);
	const struct endpoint *owner = cs_world_iface_endpoint(f);
	if (!owner || strcmp(f->name, ep->interface) != 0)
		say(out, false, CS_R_INTERFACE_MISSING, ep->interface);
	else if (owner != ep)
		say(out, false, CS_R_INTERFACE_TAKEN, owner->id);
	else if (f->attach == ATTACH_FAILED)
		say(out, false, f->attach_reason ? f->attach_reason : CS_R_DATAPATH_DOWN, f->attach_text);
	else if (f->attach == DETACHED)
		say(out, false, CS_R_DATAPATH_DOWN, "the programs are not attached yet");
	else if (!ep->identity)
		say(out, false, CS_R_NO_ENDPOINT, "not placed here yet: everything is dropped");
	else if (f->row_reason)
		say(out, false, f->row_reason, "its row could not be written: everything is dropped");
	else if (!f->has_shadow)
		say(out, false, CS_R_DATAPATH_DOWN, "its row is not written yet");
	else if (f->shadowed)
		say(out, false, f->shadowed, f->shadowed_by);
	else if ((l && l->no_room_rows) || w->no_room_addrs)
		say(out, true, CS_R_MAP_FULL, "what finds no room in the maps is denied");
	else
		say(out, true, CS_R_NONE, "");
}

static struct cs_world_endpoint endpoint_out(const struct cs_world *w, const struct endpoint *ep)
{
	struct cs_world_endpoint out = {.id = ep->id,
		.interface = ep->interface,
		.ifindex = ep->iface->ifindex,
		.identity = ep->identity,
		.incarnation = ep->incarnation,
		.audit = ep->audit,
		.depends = cs_world_depends_identity(w, ep->identity),
		.addrs = ep->ips,
		.naddrs = ep->naddrs};
	state_of(w, ep, &out);
	return out;
}

void cs_world_each_endpoint(
	const struct cs_world *w, void (*fn)(const struct cs_world_endpoint *endpoint, void *data), void *data)
{
	for (struct endpoint *ep = w->locals_list; ep; ep = ep->local_next) {
		struct cs_world_endpoint out = endpoint_out(w, ep);
		fn(&out, data);
	}
}

bool cs_world_endpoint(const struct cs_world *w, const char *id_or_interface, struct cs_world_endpoint *ret)
{
	const struct endpoint *by_interface = NULL;
	for (struct endpoint *ep = w->locals_list; ep; ep = ep->local_next) {
		if (strcmp(ep->id, id_or_interface) == 0) {
			*ret = endpoint_out(w, ep);
			return true;
		}
		if (!by_interface && strcmp(ep->interface, id_or_interface) == 0)
			by_interface = ep;
	}
	if (by_interface)
		*ret = endpoint_out(w, by_interface);
	return by_interface;
}

bool cs_world_endpoint_at(const struct cs_world *w, uint32_t ifindex, struct cs_world_endpoint *ret)
{
	const struct iface *f = cs_world_iface_find(w, ifindex);
	const struct endpoint *ep = f ? cs_world_iface_endpoint(f) : NULL;
	if (ep)
		*ret = endpoint_out(w, ep);
	return ep;
}
