/* CIDR identities, and what the node depends on. */
#include "world_state.h"

#include <stdlib.h>
#include <string.h>

struct prefix *cs_world_prefix(struct cs_world *w, const struct cs_ip_prefix *key)
{
	struct prefix *p;
	HASH_FIND(hh, w->prefixes, key, sizeof(*key), p);
	if (!p) {
		p = cs_world_alloc(sizeof(*p));
		p->key = *key;
		HASH_ADD(hh, w->prefixes, key, sizeof(p->key), p);
	}
	CS_WORLD_DIRTY(w->dirty_prefixes, p);
	return p;
}

static struct cs_ip_prefix prefix_of(const Countersign__V1__Prefix *r)
{
	struct cs_ip ip;
	struct cs_ip_prefix p;
	cs_ip_from_bytes(&ip, r->ip.data, r->ip.len);
	cs_ip_prefix_make(&p, &ip, r->bits);
	return p;
}

static void prefix_set(struct cs_world *w, struct prefix *p, uint32_t identity)
{
	if (p->identity == identity)
		return;
	p->identity = identity;
	if (w->depends_prefixes) /* theirs is that of the longest CIDR around them */
		cs_world_dirty_all_prefixes(w);
}

void cs_world_prefix_record(struct cs_world *w, bool deleted, const Countersign__V1__PrefixIdentity *r)
{
	struct cs_ip_prefix key = prefix_of(r->prefix);
	struct prefix *p = cs_world_prefix(w, &key);
	p->mark = w->mark;
	prefix_set(w, p, deleted ? 0 : r->identity);
}

static void depends_identity(struct cs_world *w, uint32_t id, int by)
{
	struct depends_identity *d;
	HASH_FIND(hh, w->depends_identities, &id, sizeof(id), d);
	if (!d) {
		d = cs_world_alloc(sizeof(*d));
		d->id = id;
		HASH_ADD(hh, w->depends_identities, id, sizeof(d->id), d);
	}
	d->count += (unsigned)by;
	if (!d->count) {
		HASH_DEL(w->depends_identities, d);
		free(d);
	}
	cs_world_dirty_identity_ifaces(w, id);
}

static void depends_count(struct cs_world *w, const struct depends *d, int by)
{
	for (size_t i = 0; i < d->nidentities; i++)
		depends_identity(w, d->identities[i], by);
	for (size_t i = 0; i < d->nprefixes; i++) {
		cs_world_prefix(w, &d->prefixes[i])->depends += (unsigned)by;
		w->depends_prefixes += (unsigned)by;
	}
	cs_world_dirty_all_addrs(w); /* rare: SPIRE, the store, DNS, the API server */
	cs_world_dirty_all_prefixes(w);
}

void cs_world_depends_remove(struct cs_world *w, struct depends *d)
{
	depends_count(w, d, -1);
	HASH_DEL(w->depends, d);
	free(d->name);
	free(d->identities);
	free(d->prefixes);
	free(d);
}

void cs_world_depends_record(struct cs_world *w, bool deleted, const Countersign__V1__DependsOn *r)
{
	struct depends *d;
	HASH_FIND(hh, w->depends, r->name, strlen(r->name), d);
	if (d)
		cs_world_depends_remove(w, d);
	if (deleted)
		return;
	d = cs_world_alloc(sizeof(*d));
	*d = (struct depends){.name = cs_world_dup(r->name),
		.nidentities = r->n_identities,
		.nprefixes = r->n_prefixes,
		.identities = cs_world_alloc(sizeof(uint32_t) * (r->n_identities + 1)),
		.prefixes = cs_world_alloc(sizeof(struct cs_ip_prefix) * (r->n_prefixes + 1)),
		.mark = w->mark};
	for (size_t i = 0; i < r->n_identities; i++)
		d->identities[i] = r->identities[i];
	for (size_t i = 0; i < r->n_prefixes; i++)
		d->prefixes[i] = prefix_of(r->prefixes[i]);
	HASH_ADD_KEYPTR(hh, w->depends, d->name, strlen(d->name), d);
	depends_count(w, d, 1);
}

bool cs_world_depends_identity(const struct cs_world *w, uint32_t identity)
{
	struct depends_identity *d;
	HASH_FIND(hh, w->depends_identities, &identity, sizeof(identity), d);
	return d;
}

bool cs_world_depends_prefix(const struct cs_world *w, const struct cs_ip *ip, uint32_t bits)
{
	struct depends *d, *next;
	HASH_ITER (hh, w->depends, d, next)
		for (size_t i = 0; i < d->nprefixes; i++)
			if (cs_ip_prefix_holds(&d->prefixes[i], ip, bits))
				return true;
	return false;
}

void cs_world_prefix_unset(struct cs_world *w, struct prefix *p)
{
	CS_WORLD_DIRTY(w->dirty_prefixes, p);
	prefix_set(w, p, 0);
}
