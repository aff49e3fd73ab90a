#include "local_identities.h"

#include <countersign/maps.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define KEY_MAX 1024 /* "node/id"; identityd's own bounds are tighter */

/* What the records say: identities of the cluster, endpoints of this node. */
struct known {
	uint32_t identity;
	char *spiffe_id;
	UT_hash_handle hh;
};
struct endpoint {
	char *key;
	uint32_t identity, next; /* next: what it is about to be; 0: nothing else */
	UT_hash_handle hh;
};
struct view {
	struct known *identities;
	struct endpoint *endpoints;
};

/* An identity that endpoints of the current view name, and what was said about it. */
struct use {
	uint32_t identity;
	size_t endpoints;
	char *announced; /* SPIFFE ID of the added event; NULL: not announced */
	bool dirty, touched;
	UT_hash_handle hh;
};

struct cs_local_identities {
	struct cs_local_events events;
	struct view current, coming;
	bool gathering; /* records go to `coming` */
	struct use *uses;
	bool dirty;
};

static void view_free(struct view *view)
{
	struct known *k, *nextk;
	struct endpoint *ep, *nextep;
	HASH_ITER (hh, view->identities, k, nextk) {
		HASH_DEL(view->identities, k);
		free(k->spiffe_id);
		free(k);
	}
	HASH_ITER (hh, view->endpoints, ep, nextep) {
		HASH_DEL(view->endpoints, ep);
		free(ep->key);
		free(ep);
	}
}

static struct known *find_known(const struct view *view, uint32_t identity)
{
	struct known *k;
	HASH_FIND(hh, view->identities, &identity, sizeof(identity), k);
	return k;
}

static struct use *find_use(struct cs_local_identities *l, uint32_t identity)
{
	struct use *u;
	HASH_FIND(hh, l->uses, &identity, sizeof(identity), u);
	return u;
}

static void mark(struct cs_local_identities *l, struct use *u)
{
	if (u)
		u->dirty = l->dirty = true;
}

static int out_of_memory(struct cs_error *e)
{
	return cs_error_set(e, -ENOMEM, "out of memory");
}

/* One endpoint more of the current view names it. */
static int use(struct cs_local_identities *l, uint32_t identity, struct cs_error *e)
{
	if (identity < CS_ID_FIRST_AUTH || identity >= CS_ID_LOCAL_SCOPE) /* cannot authenticate */
		return 0;
	struct use *u = find_use(l, identity);
	if (!u) {
		u = calloc(1, sizeof(*u));
		if (!u)
			return out_of_memory(e);
		u->identity = identity;
		HASH_ADD(hh, l->uses, identity, sizeof(u->identity), u);
	}
	u->endpoints++;
	u->touched = true;
	mark(l, u);
	return 0;
}

static void unuse(struct cs_local_identities *l, uint32_t identity)
{
	struct use *u = find_use(l, identity);
	if (u)
		u->endpoints--;
	mark(l, u);
}

/* ---- records ---- */

static int put_identity(struct view *view, const Countersign__V1__Identity *in, struct cs_error *e)
{
	struct known *k = find_known(view, in->id);
	if (k && strcmp(k->spiffe_id, in->spiffe_id) == 0)
		return 0;
	char *spiffe_id = strdup(in->spiffe_id);
	if (!spiffe_id)
		return out_of_memory(e);
	if (k) {
		free(k->spiffe_id);
		k->spiffe_id = spiffe_id;
		return 0;
	}
	if (HASH_COUNT(view->identities) >= CS_LOCAL_IDENTITIES_MAX) {
		free(spiffe_id);
		return cs_error_reason(e, -ENOSPC, CS_R_TOO_MANY, "the directory has more than %d identities",
			CS_LOCAL_IDENTITIES_MAX);
	}
	k = malloc(sizeof(*k));
	if (!k) {
		free(spiffe_id);
		return out_of_memory(e);
	}
	*k = (struct known){.identity = in->id, .spiffe_id = spiffe_id};
	HASH_ADD(hh, view->identities, identity, sizeof(k->identity), k);
	return 0;
}

static void delete_identity(struct view *view, uint32_t identity)
{
	struct known *k = find_known(view, identity);
	if (!k)
		return;
	HASH_DEL(view->identities, k);
	free(k->spiffe_id);
	free(k);
}

static int on_identity(
	struct cs_local_identities *l, struct view *view, const Countersign__V1__Record *record, struct cs_error *e)
{
	int r = 0;
	if (record->deleted)
		delete_identity(view, record->identity->id);
	else
		r = put_identity(view, record->identity, e);
	if (view == &l->current)
		mark(l, find_use(l, record->identity->id));
	return r;
}

static int put_endpoint(
	struct view *view, const char *key, uint32_t identity, uint32_t next, struct endpoint *ep, struct cs_error *e)
{
	if (ep) {
		ep->identity = identity;
		ep->next = next;
		return 0;
	}
	if (HASH_COUNT(view->endpoints) >= CS_LOCAL_ENDPOINTS_MAX)
		return cs_error_reason(
			e, -ENOSPC, CS_R_TOO_MANY, "this node has more than %d endpoints", CS_LOCAL_ENDPOINTS_MAX);
	ep = malloc(sizeof(*ep));
	char *copy = strdup(key);
	if (!ep || !copy) {
		free(ep);
		free(copy);
		return out_of_memory(e);
	}
	*ep = (struct endpoint){.key = copy, .identity = identity, .next = next};
	HASH_ADD_KEYPTR(hh, view->endpoints, ep->key, strlen(ep->key), ep);
	return 0;
}

static void delete_endpoint(struct view *view, struct endpoint *ep)
{
	HASH_DEL(view->endpoints, ep);
	free(ep->key);
	free(ep);
}

static int on_endpoint(
	struct cs_local_identities *l, struct view *view, const Countersign__V1__Record *record, struct cs_error *e)
{
	const Countersign__V1__Endpoint *in = record->endpoint;
	struct endpoint *ep;
	char key[KEY_MAX];
	if (snprintf(key, sizeof(key), "%s/%s", in->node, in->id) >= (int)sizeof(key))
		return cs_error_set(e, -EMSGSIZE, "an endpoint of the directory has a name of %zu characters",
			strlen(in->node) + strlen(in->id));
	HASH_FIND_STR(view->endpoints, key, ep);
	bool current = view == &l->current;
	if (ep && current) {
		unuse(l, ep->identity);
		unuse(l, ep->next);
	}
	if (record->deleted || !in->local) { /* gone, or another node's */
		if (ep)
			delete_endpoint(view, ep);
		return 0;
	}
	uint32_t next = in->local->next_identity;
	int r = put_endpoint(view, key, in->identity, next, ep, e);
	if (r == 0 && current)
		r = use(l, in->identity, e);
	return r == 0 && current ? use(l, next, e) : r;
}

static int on_record(
	struct cs_local_identities *l, struct view *view, const Countersign__V1__Record *record, struct cs_error *e)
{
	switch (record->record_case) {
	case COUNTERSIGN__V1__RECORD__RECORD_IDENTITY:
		return on_identity(l, view, record, e);
	case COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT:
		return on_endpoint(l, view, record, e);
	default:
		return 0; /* not asked for, and of no interest */
	}
}

/* ---- consequences ---- */

static const char *wanted(struct cs_local_identities *l, const struct use *u)
{
	const struct known *k = u->endpoints > 0 ? find_known(&l->current, u->identity) : NULL;
	return k ? k->spiffe_id : NULL;
}

static void settle_removed(struct cs_local_identities *l)
{
	struct use *u, *next;
	HASH_ITER (hh, l->uses, u, next) {
		const char *want = u->dirty ? wanted(l, u) : NULL;
		if (u->dirty && u->announced && (!want || strcmp(want, u->announced) != 0)) {
			free(u->announced);
			u->announced = NULL;
			l->events.removed(l->events.data, u->identity);
		}
		if (u->endpoints == 0) {
			HASH_DEL(l->uses, u);
			free(u);
		}
	}
}

static void settle_added(struct cs_local_identities *l)
{
	struct use *u, *next;
	HASH_ITER (hh, l->uses, u, next) {
		const char *want = u->dirty ? wanted(l, u) : NULL;
		bool touched = u->touched;
		u->dirty = u->touched = false;
		if (!want)
			continue;
		if (u->announced) {
			if (touched)
				l->events.touched(l->events.data, u->identity);
		} else if ((u->announced = strdup(want))) {
			l->events.added(l->events.data, u->identity, want);
		} else {
			u->dirty = l->dirty = true; /* with the next revision */
		}
	}
}

static void settle(struct cs_local_identities *l)
{
	if (!l->dirty)
		return;
	l->dirty = false;
	settle_removed(l);
	settle_added(l);
}

/* The gathered state becomes the current one. */
static int swap(struct cs_local_identities *l, struct cs_error *e)
{
	struct use *u, *nextu;
	struct endpoint *ep, *nextep;
	HASH_ITER (hh, l->uses, u, nextu) {
		u->endpoints = 0;
		mark(l, u);
	}
	view_free(&l->current);
	l->current = l->coming;
	l->coming = (struct view){0};
	l->gathering = false;
	HASH_ITER (hh, l->current.endpoints, ep, nextep) {
		int r = use(l, ep->identity, e);
		if (r == 0)
			r = use(l, ep->next, e);
		if (r < 0)
			return r;
	}
	return 0;
}

void cs_local_identities_begin(struct cs_local_identities *l)
{
	view_free(&l->coming);
	l->gathering = true;
}

int cs_local_identities_batch(
	struct cs_local_identities *l, const Countersign__V1__DirectoryBatch *batch, struct cs_error *e)
{
	struct view *view = l->gathering ? &l->coming : &l->current;
	int r = 0;
	for (size_t i = 0; i < batch->n_records && r == 0; i++)
		r = on_record(l, view, batch->records[i], e);
	bool synced = batch->synced && l->gathering;
	if (r == 0 && synced)
		r = swap(l, e);
	if (r < 0)
		return r;
	if (!l->gathering && (synced || batch->complete))
		settle(l);
	if (synced)
		l->events.synced(l->events.data);
	return 0;
}

struct cs_local_identities *cs_local_identities_new(const struct cs_local_events *events)
{
	struct cs_local_identities *l = calloc(1, sizeof(*l));
	if (l)
		l->events = *events;
	return l;
}

void cs_local_identities_free(struct cs_local_identities *l)
{
	struct use *u, *next;
	if (!l)
		return;
	view_free(&l->current);
	view_free(&l->coming);
	HASH_ITER (hh, l->uses, u, next) {
		HASH_DEL(l->uses, u);
		free(u->announced);
		free(u);
	}
	free(l);
}
