#include "svids.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

/* A published item owns one block for each variable part of its message. */
struct item {
	uint64_t change; /* 0: in no list yet */
	bool gone;
	struct item *prev, *next;
	bool is_bundle;
	union {
		Countersign__V1__Svid svid;
		Countersign__V1__Bundle bundle;
	};
	Countersign__V1__Reason reason;
	uint8_t leaf_sha256[SHA256_DIGEST_LENGTH];
	char *name; /* SPIFFE ID or trust domain */
	ProtobufCBinaryData *certs;
	size_t ncerts;
	int64_t expected_unix_ms; /* 0: it has had an SVID since */
	char *why;
	UT_hash_handle hh; /* SVIDs by identity, bundles by name */
};

struct cs_svids {
	const char *source;
	uint64_t generation, change;
	struct item *svids, *bundles; /* hashes */
	struct item *changed;         /* list, by change */
	struct item *hint;            /* the item that was asked for last, or NULL: the next one is beside it */
	size_t ready, count, ntombstones;
	bool known;
};

static struct item *find(const struct cs_svids *s, uint32_t identity)
{
	struct item *item;
	HASH_FIND(hh, s->svids, &identity, sizeof(identity), item);
	return item;
}

static void free_certs(struct item *item)
{
	for (size_t i = 0; i < item->ncerts; i++)
		free(item->certs[i].data);
	free(item->certs);
	item->certs = NULL;
	item->ncerts = 0;
}

static int set_certs(struct item *item, const struct cs_der *certs, size_t n)
{
	ProtobufCBinaryData *copy = calloc(n, sizeof(*copy));
	bool ok = copy != NULL;
	for (size_t i = 0; ok && i < n; i++) {
		copy[i].data = malloc(certs[i].len);
		copy[i].len = certs[i].len;
		if ((ok = copy[i].data != NULL))
			memcpy(copy[i].data, certs[i].data, certs[i].len);
	}
	if (!ok) {
		for (size_t i = 0; copy && i < n; i++)
			free(copy[i].data);
		free(copy);
		return -ENOMEM;
	}
	free_certs(item);
	item->certs = copy;
	item->ncerts = n;
	return 0;
}

static void item_free(struct item *item)
{
	free_certs(item);
	free(item->name);
	free(item->why);
	free(item);
}

static struct item *item_new(const char *name)
{
	struct item *item = calloc(1, sizeof(*item));
	if (!item || !(item->name = strdup(name))) {
		free(item);
		return NULL;
	}
	return item;
}

static void publish(struct cs_svids *s, struct item *item)
{
	if (item->change)
		DL_DELETE(s->changed, item);
	item->change = ++s->change;
	DL_APPEND(s->changed, item);
}

static void set_reason(struct item *item, enum cs_reason reason, const char *detail)
{
	free(item->why);
	item->why = detail && *detail ? strdup(detail) : NULL; /* without memory the name alone has to do */
	item->reason = (Countersign__V1__Reason)COUNTERSIGN__V1__REASON__INIT;
	item->reason.name = (char *)cs_reason_name(reason);
	item->reason.detail = item->why ? item->why : (char *)protobuf_c_empty_string;
	item->svid.reason = &item->reason;
}

struct cs_svids *cs_svids_new(const char *source, uint64_t first_generation)
{
	struct cs_svids *s = calloc(1, sizeof(*s));
	if (s) {
		s->source = source;
		s->generation = first_generation ? first_generation : 1;
	}
	return s;
}

void cs_svids_free(struct cs_svids *s)
{
	struct item *item, *next;
	if (!s)
		return;
	HASH_ITER (hh, s->svids, item, next) {
		HASH_DEL(s->svids, item);
		item_free(item);
	}
	HASH_ITER (hh, s->bundles, item, next) {
		HASH_DEL(s->bundles, item);
		item_free(item);
	}
	free(s);
}

/* ---- SVIDs ---- */

static void init_svid(struct cs_svids *s, struct item *item, uint32_t identity)
{
	item->svid = (Countersign__V1__Svid)COUNTERSIGN__V1__SVID__INIT;
	item->svid.identity = identity;
	item->svid.spiffe_id = item->name;
	item->svid.source = (char *)s->source;
}

static void set_none(
	struct cs_svids *s, struct item *item, enum cs_reason reason, const char *detail, int64_t now_unix_ms)
{
	s->ready -= item->svid.generation != 0;
	free_certs(item);
	init_svid(s, item, item->svid.identity);
	set_reason(item, reason, detail);
	item->svid.since_unix_ms = now_unix_ms;
	publish(s, item);
}

/* A tombstone comes back to life, under whatever SPIFFE ID. */
static int revive(struct cs_svids *s, struct item *item, const char *spiffe_id)
{
	char *name = strdup(spiffe_id);
	if (!name)
		return -ENOMEM;
	free(item->name);
	item->name = name;
	item->gone = false;
	s->ntombstones--;
	return 0;
}

int cs_svids_expect(
	struct cs_svids *s, uint32_t identity, const char *spiffe_id, int64_t now_unix_ms, struct cs_error *e)
{
	struct item *item = find(s, identity);
	if (item && !item->gone) {
		if (strcmp(item->name, spiffe_id) == 0)
			return 0;
		return cs_error_set(e, -EEXIST, "identity %u is %s already", identity, item->name);
	}
	if (item) {
		if (revive(s, item, spiffe_id) < 0)
			return cs_error_set(e, -ENOMEM, "out of memory");
	} else {
		item = item_new(spiffe_id);
		if (!item)
			return cs_error_set(e, -ENOMEM, "out of memory");
		item->svid.identity = identity;
		HASH_ADD(hh, s->svids, svid.identity, sizeof(item->svid.identity), item);
	}
	s->count++;
	item->expected_unix_ms = now_unix_ms;
	set_none(s, item, CS_R_NO_LOCAL_SVID, "it was asked for a moment ago", now_unix_ms);
	return 0;
}

uint64_t cs_svids_next_generation(const struct cs_svids *s)
{
	return s->generation;
}

static uint64_t take_generation(struct cs_svids *s)
{
	uint64_t generation = s->generation++;
	if (s->generation == 0)
		s->generation = 1;
	return generation;
}

int cs_svids_put(struct cs_svids *s, const struct cs_source_svid *svid, int64_t now_unix_ms, struct cs_error *e)
{
	struct item *item = find(s, svid->identity);
	if (!item || item->gone)
		return cs_error_set(e, -ENOENT, "identity %u is not local (any more)", svid->identity);
	if (svid->nchain == 0 || svid->nchain > CS_CHAIN_MAX)
		return cs_error_reason(e, -EINVAL, CS_R_CHAIN_TOO_LARGE, "a chain of %zu certificates; 1 to %d may be",
			svid->nchain, CS_CHAIN_MAX);
	if (set_certs(item, svid->chain, svid->nchain) < 0)
		return cs_error_set(e, -ENOMEM, "out of memory");
	s->ready += item->svid.generation == 0;
	init_svid(s, item, svid->identity);
	SHA256(svid->chain[0].data, svid->chain[0].len, item->leaf_sha256);
	item->svid.generation = take_generation(s);
	item->svid.chain = item->certs;
	item->svid.n_chain = item->ncerts;
	item->svid.not_before_unix_s = svid->not_before_unix_s;
	item->svid.not_after_unix_s = svid->not_after_unix_s;
	item->svid.leaf_sha256 = (ProtobufCBinaryData){sizeof(item->leaf_sha256), item->leaf_sha256};
	item->svid.since_unix_ms = now_unix_ms;
	item->expected_unix_ms = 0;
	publish(s, item);
	return 0;
}

void cs_svids_none(
	struct cs_svids *s, uint32_t identity, bool withdrawn, const struct cs_error *why, int64_t now_unix_ms)
{
	struct item *item = find(s, identity);
	if (!item || item->gone)
		return;
	/* A withdrawal is said until there is an SVID again: a follower may see the last of several changes only. */
	bool said = item->svid.withdrawn;
	set_none(s, item, why->reason == CS_R_NONE ? CS_R_NO_LOCAL_SVID : why->reason, why->text, now_unix_ms);
	item->svid.withdrawn = withdrawn || said;
}

void cs_svids_forget(struct cs_svids *s, uint32_t identity, int64_t now_unix_ms)
{
	struct item *item = find(s, identity);
	if (!item || item->gone)
		return;
	set_none(s, item, CS_R_NO_LOCAL_ENDPOINT, "no endpoint of it is left on this node", now_unix_ms);
	item->svid.withdrawn = true;
	item->gone = true;
	s->count--;
	s->ntombstones++;
}

const Countersign__V1__Svid *cs_svids_get(const struct cs_svids *s, uint32_t identity)
{
	const struct item *item = find(s, identity);
	return item && !item->gone ? &item->svid : NULL;
}

int64_t cs_svids_waiting_since_unix_ms(const struct cs_svids *s, uint32_t identity)
{
	const struct item *item = find(s, identity);
	return item && !item->gone ? item->expected_unix_ms : 0;
}

uint32_t cs_svids_expired(const struct cs_svids *s, int64_t now_unix_s)
{
	for (const struct item *item = s->changed; item; item = item->next)
		if (!item->is_bundle && item->svid.generation && item->svid.not_after_unix_s <= now_unix_s)
			return item->svid.identity;
	return 0;
}

/* ---- bundles ---- */

static struct item *get_bundle(struct cs_svids *s, const char *trust_domain, struct cs_error *e)
{
	struct item *item;
	HASH_FIND_STR(s->bundles, trust_domain, item);
	if (item)
		return item;
	if (HASH_COUNT(s->bundles) >= CS_SVIDS_BUNDLES_MAX) {
		cs_error_reason(e, -ENOSPC, CS_R_TOO_MANY, "bundles of %d trust domains are kept, and no more may be",
			CS_SVIDS_BUNDLES_MAX);
		return NULL;
	}
	item = item_new(trust_domain);
	if (!item) {
		cs_error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	item->is_bundle = true;
	item->bundle = (Countersign__V1__Bundle)COUNTERSIGN__V1__BUNDLE__INIT;
	item->bundle.trust_domain = item->name;
	HASH_ADD_KEYPTR(hh, s->bundles, item->name, strlen(item->name), item);
	return item;
}

int cs_svids_put_bundle(
	struct cs_svids *s, const char *trust_domain, const struct cs_der *authorities, size_t n, struct cs_error *e)
{
	struct item *item = get_bundle(s, trust_domain, e);
	if (!item)
		return -ENOSPC;
	if (n == 0)
		free_certs(item);
	else if (set_certs(item, authorities, n) < 0)
		return cs_error_set(e, -ENOMEM, "out of memory");
	if (item->gone)
		s->ntombstones--;
	item->gone = n == 0;
	if (item->gone)
		s->ntombstones++;
	item->bundle.generation = n > 0 ? take_generation(s) : 0;
	item->bundle.authorities = item->certs;
	item->bundle.n_authorities = item->ncerts;
	publish(s, item);
	return 0;
}

/* ---- following ---- */

void cs_svids_set_known(struct cs_svids *s)
{
	s->known = true;
}

bool cs_svids_known(const struct cs_svids *s)
{
	return s->known;
}

bool cs_svids_next(struct cs_svids *s, uint64_t after, struct cs_svids_item *ret)
{
	struct item *found = s->changed;
	if (!found || s->change <= after)
		return false;
	if (s->hint && s->hint->change == after) {
		found = s->hint->next;
	} else if (after >= found->change) {
		/* From the end backwards: who follows is near it. In this list the head's prev is the tail. */
		for (found = found->prev; found->prev->change > after;)
			found = found->prev;
	}
	if (!found || found->change <= after)
		return false;
	s->hint = found;
	*ret = (struct cs_svids_item){.change = found->change};
	if (found->is_bundle)
		ret->bundle = &found->bundle;
	else
		ret->svid = &found->svid;
	return true;
}

void cs_svids_told(struct cs_svids *s, uint64_t up_to)
{
	struct item *item, *next;
	if (s->ntombstones == 0)
		return;
	DL_FOREACH_SAFE (s->changed, item, next) {
		if (item->change > up_to)
			break;
		if (!item->gone)
			continue;
		if (s->hint == item)
			s->hint = NULL;
		DL_DELETE(s->changed, item);
		if (item->is_bundle)
			HASH_DEL(s->bundles, item);
		else
			HASH_DEL(s->svids, item);
		item_free(item);
		s->ntombstones--;
	}
}

size_t cs_svids_ready(const struct cs_svids *s)
{
	return s->ready;
}

size_t cs_svids_count(const struct cs_svids *s)
{
	return s->count;
}
