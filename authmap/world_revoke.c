#include "world_state.h"

#include <stdlib.h>
#include <string.h>

static void put_bytes(uint8_t *out, size_t room, const ProtobufCBinaryData *b)
{
	memcpy(out, b->data, b->len < room ? b->len : room);
}

/* Serials are right-aligned, as in struct cs_leaf. */
static void put_serial(uint8_t out[20], const ProtobufCBinaryData *b)
{
	memcpy(out + 20 - b->len, b->data, b->len);
}

static void key_of(struct cs_world *w, const Countersign__V1__Revocation *r, struct revoked_key *key)
{
	memset(key, 0, sizeof(*key));
	key->kind = (uint32_t)r->subject_case;
	switch (r->subject_case) {
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY:
		key->identity = r->identity;
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE:
		key->node = cs_world_node_named(w, r->node);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT:
		key->node = cs_world_node_named(w, r->placement->node);
		key->identity = r->placement->identity;
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256:
		put_bytes(key->bytes, 32, &r->leaf_sha256);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL:
		put_serial(key->bytes, &r->serial->serial);
		put_bytes(key->bytes + 24, 32, &r->serial->authority);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY:
		put_bytes(key->bytes, 32, &r->authority);
		break;
	default:
		break;
	}
	if (key->node)
		key->node->refs++;
}

static struct revoked *revoked_find(const struct cs_world *w, const struct revoked_key *key)
{
	struct revoked *v;
	HASH_FIND(hh, w->revoked, key, sizeof(*key), v);
	return v;
}

static void revocation_remove(struct cs_world *w, struct revocation *r)
{
	struct revoked *v = revoked_find(w, &r->key);
	DL_DELETE2(v->list, r, same_prev, same_next);
	if (!v->list) {
		HASH_DEL(w->revoked, v);
		free(v);
	}
	if (r->key.node) {
		r->key.node->refs--;
		cs_world_node_drop(w, r->key.node);
	}
	HASH_DEL(w->revocations, r);
	free(r->id);
	free(r);
	w->revocations_generation++;
}

void cs_world_revocation(struct cs_world *w, bool deleted, const Countersign__V1__Revocation *m)
{
	struct revocation *r;
	HASH_FIND(hh, w->revocations, m->id, strlen(m->id), r);
	if (r)
		revocation_remove(w, r);
	if (deleted)
		return;
	r = cs_world_alloc(sizeof(*r));
	r->id = cs_world_dup(m->id);
	r->from_unix_s = m->from_unix_s;
	r->until_unix_s = m->until_unix_s;
	r->mark = w->mark;
	key_of(w, m, &r->key);
	struct revoked *v = revoked_find(w, &r->key);
	if (!v) {
		v = cs_world_alloc(sizeof(*v));
		v->key = r->key;
		HASH_ADD(hh, w->revoked, key, sizeof(v->key), v);
	}
	DL_APPEND2(v->list, r, same_prev, same_next);
	HASH_ADD_KEYPTR(hh, w->revocations, r->id, strlen(r->id), r);
	w->revocations_generation++;
	cs_world_touch_all(w);
}

void cs_world_revocations_sweep(struct cs_world *w)
{
	struct revocation *r, *next;
	HASH_ITER (hh, w->revocations, r, next)
		if (r->mark != w->mark)
			revocation_remove(w, r);
}

void cs_world_revocations_free(struct cs_world *w)
{
	struct revocation *r, *next;
	HASH_ITER (hh, w->revocations, r, next)
		revocation_remove(w, r);
}

/* Is this subject named by one that is in force? until 0: for ever. */
static const char *named(const struct cs_world *w, const struct revoked_key *key, int64_t now)
{
	const struct revoked *v = revoked_find(w, key);
	for (const struct revocation *r = v ? v->list : NULL; r; r = r->same_next)
		if (now >= r->from_unix_s && (!r->until_unix_s || now < r->until_unix_s))
			return r->id;
	return NULL;
}

static const char *leaf_named(const struct cs_world *w, const struct cs_leaf *leaf, int64_t now)
{
	const char *id;
	struct revoked_key key = {.kind = COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256};
	memcpy(key.bytes, leaf->sha256, 32);
	if ((id = named(w, &key, now)))
		return id;
	key = (struct revoked_key){.kind = COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL};
	memcpy(key.bytes, leaf->serial, 20);
	memcpy(key.bytes + 24, leaf->authority_kid, 32);
	if ((id = named(w, &key, now)))
		return id;
	key = (struct revoked_key){.kind = COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY};
	memcpy(key.bytes, leaf->authority_kid, 32);
	return named(w, &key, now);
}

enum cs_reason cs_world_revoked(
	const struct cs_world *w, const struct cs_world_subject *subject, int64_t now_unix_s, const char **ret_id)
{
	struct node *node = subject->node ? w->by_id[subject->node] : w->self;
	const char *id = NULL;
	if (w->revocations) {
		struct revoked_key identity = {
			.kind = COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY, .identity = subject->identity};
		struct revoked_key at = {.kind = COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE, .node = node};
		struct revoked_key placement = {.kind = COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT,
			.node = node,
			.identity = subject->identity};
		if (!(id = named(w, &identity, now_unix_s)) && node && !(id = named(w, &at, now_unix_s)))
			id = named(w, &placement, now_unix_s);
		if (!id && subject->leaf)
			id = leaf_named(w, subject->leaf, now_unix_s);
	}
	if (ret_id)
		*ret_id = id;
	return id ? CS_R_REVOKED : CS_R_NONE;
}

int64_t cs_world_next_revocation_unix_s(const struct cs_world *w, int64_t now_unix_s)
{
	int64_t first = INT64_MAX;
	struct revocation *r, *next;
	HASH_ITER (hh, w->revocations, r, next)
		if (r->from_unix_s > now_unix_s && r->from_unix_s < first)
			first = r->from_unix_s;
	return first;
}
