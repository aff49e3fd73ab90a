#include "svids.h"

#include <countersign/handshaker.h>
#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct svid {
	uint32_t identity;
	struct cs_svid now;
	char *spiffe_id;
	uint8_t *list;
	bool marked;
	UT_hash_handle hh;
};
struct bundle {
	char *trust_domain;
	uint64_t generation;
	uint8_t *list;
	size_t list_len, nroots, ntainted;
	uint8_t (*roots)[32];
	uint8_t (*tainted)[32];
	bool marked, absent;
	UT_hash_handle hh;
};
struct cs_svids {
	struct cs_svid_callbacks callbacks;
	struct svid *svids;
	struct bundle *bundles;
	bool ready, synced;
};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

struct cs_svids *cs_svids_new(const struct cs_svid_callbacks *callbacks)
{
	struct cs_svids *s = must(calloc(1, sizeof(*s)));
	s->callbacks = *callbacks;
	return s;
}

static void bundle_clear(struct bundle *b)
{
	free(b->list);
	free(b->roots);
	free(b->tainted);
	b->list = NULL;
	b->roots = b->tainted = NULL;
	b->list_len = b->nroots = b->ntainted = 0;
}

void cs_svids_free(struct cs_svids *s)
{
	struct svid *v, *next_v;
	struct bundle *b, *next_b;
	if (!s)
		return;
	HASH_ITER (hh, s->svids, v, next_v) {
		HASH_DEL(s->svids, v);
		free(v->spiffe_id);
		free(v->list);
		free(v);
	}
	HASH_ITER (hh, s->bundles, b, next_b) {
		HASH_DEL(s->bundles, b);
		bundle_clear(b);
		free(b->trust_domain);
		free(b);
	}
	free(s);
}

void cs_svids_begin(struct cs_svids *s)
{
	struct svid *v, *next_v;
	struct bundle *b, *next_b;
	HASH_ITER (hh, s->svids, v, next_v)
		v->marked = false;
	HASH_ITER (hh, s->bundles, b, next_b)
		b->marked = false;
	s->synced = false;
}

/* ---- form ---- */

static int bad(struct cs_error *e, const char *what)
{
	return cs_error_set(e, -EBADMSG, "spire-adapter: %s", what);
}

static int check_list(const ProtobufCBinaryData *certs, size_t n, struct cs_error *e)
{
	size_t total = 0;
	for (size_t i = 0; i < n; i++) {
		if (certs[i].len == 0 || certs[i].len > CS_HS_LIST_MAX)
			return bad(e, "a certificate of impossible length");
		total += sizeof(uint32_t) + certs[i].len;
		if (total > CS_HS_LIST_MAX)
			return bad(e, "more than 1 MiB of certificates in one chain or bundle");
	}
	return 0;
}

static int check_svid(const Countersign__V1__Svid *v, struct cs_error *e)
{
	if (!v->identity)
		return bad(e, "an SVID of identity 0");
	if (strlen(v->spiffe_id) >= CS_SPIFFE_ID || (v->generation && !v->spiffe_id[0]))
		return bad(e, "an SVID without a SPIFFE ID, or with one of more than 2,048 bytes");
	if (!v->generation != !v->n_chain || (v->withdrawn && v->generation))
		return bad(e, "an SVID whose generation does not fit its chain");
	return check_list(v->chain, v->n_chain, e);
}

static int check_bundle(const Countersign__V1__Bundle *b, struct cs_error *e)
{
	if (!b->trust_domain[0] || strlen(b->trust_domain) >= CS_DOMAIN)
		return bad(e, "a bundle without a trust domain");
	if (!b->generation && b->n_authorities)
		return bad(e, "a withdrawn bundle with authorities");
	for (size_t i = 0; i < b->n_tainted_kids; i++)
		if (b->tainted_kids[i].len == 0 || b->tainted_kids[i].len > 32)
			return bad(e, "a tainted authority without a key id of 1 to 32 bytes");
	return check_list(b->authorities, b->n_authorities, e);
}

/* ---- taking it in ---- */

static uint8_t *list_of(const ProtobufCBinaryData *certs, size_t n, size_t *ret_len)
{
	size_t total = 0;
	for (size_t i = 0; i < n; i++)
		total += sizeof(uint32_t) + certs[i].len;
	uint8_t *list = must(malloc(total + 1)), *p = list;
	for (size_t i = 0; i < n; i++) {
		uint32_t len = (uint32_t)certs[i].len;
		memcpy(p, &len, sizeof(len));
		memcpy(p + sizeof(len), certs[i].data, len);
		p += sizeof(len) + len;
	}
	*ret_len = total;
	return list;
}

static void take_svid(struct cs_svids *s, const Countersign__V1__Svid *m)
{
	struct svid *v;
	HASH_FIND(hh, s->svids, &m->identity, sizeof(m->identity), v);
	if (!v) {
		v = must(calloc(1, sizeof(*v)));
		v->identity = m->identity;
		v->now.reason = CS_R_NO_LOCAL_SVID;
		HASH_ADD(hh, s->svids, identity, sizeof(v->identity), v);
	}
	v->marked = true;
	free(v->spiffe_id);
	free(v->list);
	int reason = m->reason ? cs_reason_parse(m->reason->name) : CS_R_NONE;
	v->spiffe_id = must(strdup(m->spiffe_id));
	size_t len;
	v->list = list_of(m->chain, m->n_chain, &len);
	v->now = (struct cs_svid){.identity = m->identity,
		.generation = m->generation,
		.withdrawn = m->withdrawn,
		.not_after_unix_s = m->not_after_unix_s,
		.spiffe_id = v->spiffe_id,
		.reason = m->generation ? CS_R_NONE
			  : reason > 0  ? (enum cs_reason)reason
					: CS_R_NO_LOCAL_SVID,
		.list = v->list,
		.list_len = len};
	s->callbacks.on_svid(s->callbacks.data, m->identity);
}

static void take_bundle(struct cs_svids *s, const Countersign__V1__Bundle *m)
{
	struct bundle *b;
	HASH_FIND(hh, s->bundles, m->trust_domain, strlen(m->trust_domain), b);
	if (!b) {
		b = must(calloc(1, sizeof(*b)));
		b->trust_domain = must(strdup(m->trust_domain));
		HASH_ADD_KEYPTR(hh, s->bundles, b->trust_domain, strlen(b->trust_domain), b);
	}
	bundle_clear(b);
	b->marked = true;
	b->absent = false;
	b->generation = m->generation;
	b->list = list_of(m->authorities, m->n_authorities, &b->list_len);
	b->nroots = m->n_authorities;
	b->roots = must(calloc(b->nroots + 1, sizeof(*b->roots)));
	for (size_t i = 0; i < b->nroots; i++)
		SHA256(m->authorities[i].data, m->authorities[i].len, b->roots[i]);
	b->ntainted = m->n_tainted_kids;
	b->tainted = must(calloc(b->ntainted + 1, sizeof(*b->tainted)));
	for (size_t i = 0; i < b->ntainted; i++)
		memcpy(b->tainted[i], m->tainted_kids[i].data, m->tainted_kids[i].len);
	s->callbacks.on_bundle(s->callbacks.data, b->trust_domain);
}

/* Absent is not withdrawn: nothing new begins, entries live on. */
static void sweep(struct cs_svids *s)
{
	struct svid *v, *next;
	struct bundle *b, *next_b;
	HASH_ITER (hh, s->bundles, b, next_b) {
		if (b->marked || b->absent)
			continue;
		b->absent = true;
		s->callbacks.on_bundle(s->callbacks.data, b->trust_domain);
	}
	HASH_ITER (hh, s->svids, v, next) {
		if (v->marked || !v->now.generation)
			continue;
		v->now.generation = 0;
		v->now.list_len = 0;
		v->now.reason = CS_R_NO_LOCAL_SVID;
		s->callbacks.on_svid(s->callbacks.data, v->identity);
	}
}

int cs_svids_batch(struct cs_svids *s, const Countersign__V1__SvidBatch *batch, struct cs_error *e)
{
	int r = 0;
	for (size_t i = 0; i < batch->n_svids && r == 0; i++)
		r = check_svid(batch->svids[i], e);
	for (size_t i = 0; i < batch->n_bundles && r == 0; i++)
		r = check_bundle(batch->bundles[i], e);
	if (r == 0 && (HASH_COUNT(s->svids) + batch->n_svids > CS_SVIDS_MAX ||
			      HASH_COUNT(s->bundles) + batch->n_bundles > CS_BUNDLES_MAX))
		r = cs_error_set(
			e, -ENOSPC, "spire-adapter: more than %d SVIDs or %d bundles", CS_SVIDS_MAX, CS_BUNDLES_MAX);
	if (r < 0)
		return r;
	for (size_t i = 0; i < batch->n_bundles; i++)
		take_bundle(s, batch->bundles[i]);
	for (size_t i = 0; i < batch->n_svids; i++)
		take_svid(s, batch->svids[i]);
	if (batch->synced && !s->synced) {
		s->synced = s->ready = true;
		sweep(s);
		s->callbacks.on_synced(s->callbacks.data);
	}
	return 0;
}

/* ---- what is known ---- */

bool cs_svids_ready(const struct cs_svids *s)
{
	return s->ready;
}

bool cs_svids_find(const struct cs_svids *s, uint32_t identity, struct cs_svid *ret)
{
	struct svid *v;
	HASH_FIND(hh, s->svids, &identity, sizeof(identity), v);
	if (v)
		*ret = v->now;
	return v;
}

static struct cs_trust trust_of(const struct bundle *b)
{
	return (struct cs_trust){.trust_domain = b->trust_domain,
		.generation = b->absent ? 0 : b->generation,
		.list = b->list,
		.list_len = b->list_len};
}

static struct bundle *bundle_find(const struct cs_svids *s, const char *trust_domain, size_t len)
{
	struct bundle *b;
	HASH_FIND(hh, s->bundles, trust_domain, len, b);
	return b;
}

bool cs_svids_bundle(const struct cs_svids *s, const char *trust_domain, size_t len, struct cs_trust *ret)
{
	const struct bundle *b = bundle_find(s, trust_domain, len);
	if (b)
		*ret = trust_of(b);
	return b;
}

void cs_svids_each_bundle(const struct cs_svids *s, void (*fn)(const struct cs_trust *bundle, void *data), void *data)
{
	struct bundle *b, *next;
	HASH_ITER (hh, s->bundles, b, next) {
		struct cs_trust t = trust_of(b);
		fn(&t, data);
	}
}

static bool among(uint8_t (*list)[32], size_t n, const uint8_t what[32])
{
	for (size_t i = 0; i < n; i++)
		if (memcmp(list[i], what, 32) == 0)
			return true;
	return false;
}

bool cs_svids_root_stands(const struct cs_svids *s, const char *trust_domain, size_t len, const struct cs_leaf *leaf)
{
	const struct bundle *b = bundle_find(s, trust_domain, len);
	if (!b || b->absent)
		return true;
	return among(b->roots, b->nroots, leaf->root_sha256) && !among(b->tainted, b->ntainted, leaf->authority_kid);
}
