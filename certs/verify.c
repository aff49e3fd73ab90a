#include "verify.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uthash.h>
#include "verifiers.h"
#include "x509.h"

struct cs_peer {
	unsigned refs;
	struct cs_spiffe_id id;
	char domain[CS_TRUST_DOMAIN_MAX + 1];
	uint8_t leaf_sha256[32], root_sha256[32];
	uint8_t authority_kid[CS_KID_MAX];
	uint8_t serial[CS_SERIAL_MAX];
	int64_t not_before_unix_s, not_after_unix_s;
	uint64_t bundle_generation;
	EVP_PKEY *key;
};

/* A chain that was verified. It holds the very bundle that it was verified by, and is good for no other. */
struct remembered {
	uint8_t chain_sha256[32]; /* key */
	struct cs_bundle *bundle;
	struct cs_peer *peer;
	UT_hash_handle hh; /* in the order of use: the first one was not used for longest */
};

struct cs_verifier {
	OSSL_LIB_CTX *ctx;
	size_t cache_max;
	struct remembered *cache;
	struct cs_verify_stats stats;
};

/* One chain that is being looked at; certificate 0 is the leaf. */
struct candidate {
	size_t n;
	struct cs_der der[CS_CHAIN_MAX];
	struct cs_cert_facts facts[CS_CHAIN_MAX];
	X509 *x509[CS_CHAIN_MAX];
	struct cs_spiffe_id id;
	char domain[CS_TRUST_DOMAIN_MAX + 1];
	struct cs_bundle *bundle; /* borrowed */
	/* the path that OpenSSL found: indices, leaf first; then the anchor */
	size_t path[CS_CHAIN_MAX], path_n;
	struct cs_authority anchor;
};

/* ---- the cache ------------------------------------------------------------------------------------------------- */

static void forget(struct cs_verifier *v, struct remembered *entry)
{
	HASH_DEL(v->cache, entry);
	cs_bundle_unref(entry->bundle);
	cs_peer_unref(entry->peer);
	free(entry);
}

/* Lengths are hashed too, so that no other cutting of the same bytes has the same hash. */
static int hash_chain(OSSL_LIB_CTX *ctx, const struct cs_verify *what, uint8_t ret[static 32], struct cs_error *e)
{
	uint64_t len[CS_CHAIN_MAX];
	struct cs_der span[2 * CS_CHAIN_MAX];
	for (size_t i = 0; i < what->n; i++) {
		len[i] = what->chain[i].len;
		span[2 * i] = (struct cs_der){(const uint8_t *)&len[i], sizeof(len[i])};
		span[2 * i + 1] = what->chain[i];
	}
	return cs_sha256(ctx, span, 2 * what->n, ret, e);
}

/* The peer of a chain that was verified by the bundle that is its trust domain's now; borrowed, or NULL. */
static struct cs_peer *recall(struct cs_verifier *v, const uint8_t hash[static 32], const struct cs_bundles *bundles)
{
	struct remembered *entry;
	HASH_FIND(hh, v->cache, hash, 32, entry);
	if (!entry)
		return NULL;
	if (cs_bundles_get(bundles, entry->peer->domain) != entry->bundle) {
		forget(v, entry);
		return NULL;
	}
	HASH_DEL(v->cache, entry); /* to the end: used last */
	HASH_ADD(hh, v->cache, chain_sha256, 32, entry);
	return entry->peer;
}

static void remember(
	struct cs_verifier *v, const uint8_t hash[static 32], struct cs_bundle *bundle, struct cs_peer *peer)
{
	if (v->cache_max == 0)
		return;
	if (HASH_COUNT(v->cache) >= v->cache_max)
		forget(v, v->cache);
	struct remembered *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return; /* it will be verified again */
	memcpy(entry->chain_sha256, hash, 32);
	entry->bundle = cs_bundle_ref(bundle);
	entry->peer = cs_peer_ref(peer);
	HASH_ADD(hh, v->cache, chain_sha256, 32, entry);
}

/* ---- verification ---------------------------------------------------------------------------------------------- */

static int check_limits(const struct cs_verify *what, struct cs_error *e)
{
	size_t bytes = 0;
	if (what->n == 0)
		return cs_error_reason(e, -EACCES, CS_R_NO_CERTIFICATE, "the peer sent no certificate");
	if (what->n > CS_CHAIN_MAX)
		return cs_error_reason(e, -EACCES, CS_R_CHAIN_TOO_LARGE,
			"the chain has %zu certificates; the most is %d", what->n, CS_CHAIN_MAX);
	for (size_t i = 0; i < what->n; i++) {
		if (what->chain[i].len > CS_CHAIN_BYTES_MAX)
			return cs_error_reason(e, -EACCES, CS_R_CHAIN_TOO_LARGE,
				"a certificate has %zu bytes; the most for a chain is %d", what->chain[i].len,
				CS_CHAIN_BYTES_MAX);
		bytes += what->chain[i].len;
	}
	if (bytes > CS_CHAIN_BYTES_MAX)
		return cs_error_reason(e, -EACCES, CS_R_CHAIN_TOO_LARGE, "the chain has %zu bytes; the most is %d",
			bytes, CS_CHAIN_BYTES_MAX);
	return 0;
}

/* Our own parser, and the profile: the first certificate as a leaf, all others as authorities. */
static int walk(struct candidate *c, const struct cs_verify *what, struct cs_error *e)
{
	c->n = what->n;
	for (size_t i = 0; i < c->n; i++) {
		c->der[i] = what->chain[i];
		int r = i == 0 ? cs_profile_leaf(c->der[0], &c->facts[0], &c->id, e)
			       : cs_profile_authority(c->der[i], &c->facts[i], e);
		if (r < 0) {
			cs_error_prefix(e, "certificate %zu of the chain", i + 1);
			return r;
		}
	}
	cs_spiffe_id_domain(&c->id, c->domain);
	return 0;
}

/* X509-SVID 5.1, 5.2: the bundle is that of the leaf's trust domain, and no other. */
static int choose_bundle(struct candidate *c, const struct cs_verify *what, struct cs_error *e)
{
	char expected[CS_TRUST_DOMAIN_MAX + 1];
	if (what->expect) {
		cs_spiffe_id_domain(what->expect, expected);
		if (strcmp(expected, c->domain) != 0)
			return cs_error_reason(e, -EACCES, CS_R_TRUST_DOMAIN_MISMATCH,
				"the certificate is of trust domain %s; %s is expected", c->domain, expected);
	}
	c->bundle = cs_bundles_get(what->bundles, c->domain);
	if (!c->bundle)
		return cs_error_reason(
			e, -EACCES, CS_R_NO_BUNDLE, "there is no trust bundle for trust domain %s", c->domain);
	return 0;
}

/* RFC 5280 4.1.2.5: both ends are within. OpenSSL takes the last second as over, and so do we. */
static int check_time(int64_t now_unix_s, int64_t not_before_unix_s, int64_t not_after_unix_s, struct cs_error *e)
{
	if (now_unix_s >= not_before_unix_s && now_unix_s < not_after_unix_s)
		return 0;
	bool expired = now_unix_s >= not_after_unix_s;
	time_t edge = (time_t)(expired ? not_after_unix_s : not_before_unix_s);
	struct tm tm;
	char text[32] = "";
	if (gmtime_r(&edge, &tm))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return cs_error_reason(e, -EACCES, CS_R_SVID_EXPIRED,
		expired ? "the certificate, or an authority of its path, expired at %s"
			: "the certificate, or an authority of its path, is not valid before %s",
		text);
}

/* OpenSSL, with one authority of the bundle after the other: authorities may share a name, and a key identifier too. */
static int find_path(struct candidate *c, OSSL_LIB_CTX *ctx, int64_t now_unix_s, struct cs_error *e)
{
	struct cs_error first;
	int r = cs_error_reason(&first, -EACCES, CS_R_UNTRUSTED, "the trust bundle of %s has no authority", c->domain);
	for (size_t i = 0; i < cs_bundle_count(c->bundle); i++) {
		struct cs_error why;
		struct cs_authority anchor = cs_bundle_authority(c->bundle, i);
		int one = cs_openssl_verify(ctx, c->x509, c->n, anchor.x509, now_unix_s, c->path, &c->path_n, &why);
		if (one == 0) {
			c->anchor = anchor;
			return 0;
		}
		/* What is remembered is the refusal that got furthest: "no path" only if there was nothing else. */
		if (i == 0 || (first.reason == CS_R_UNTRUSTED && why.reason != CS_R_UNTRUSTED)) {
			first = why;
			r = one;
		}
	}
	if (e)
		*e = first;
	cs_error_prefix(e, "no authority vouches for %s", c->id.text);
	return r;
}

static int check_libraries(struct candidate *c, OSSL_LIB_CTX *ctx, int64_t now_unix_s, struct cs_error *e)
{
	struct cs_der path[CS_PATH_MAX];
	int r = 0;
	for (size_t i = 0; i < c->n && r == 0; i++)
		r = cs_x509_new(ctx, c->der[i], &c->facts[i], &c->x509[i], e);
	if (r == 0)
		r = find_path(c, ctx, now_unix_s, e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < c->path_n; i++)
		path[i] = c->der[c->path[i]];
	path[c->path_n] = c->anchor.der;
	return cs_mbedtls_verify(path, c->path_n + 1, c->facts[0].spki, now_unix_s, e);
}

/* Only for a candidate that passed everything. */
static struct cs_peer *peer_new(const struct candidate *c, OSSL_LIB_CTX *ctx, struct cs_error *e)
{
	struct cs_peer *p = calloc(1, sizeof(*p));
	EVP_PKEY *key = X509_get0_pubkey(c->x509[0]);
	if (!p || cs_sha256(ctx, &c->der[0], 1, p->leaf_sha256, e) < 0 || !EVP_PKEY_up_ref(key)) {
		free(p);
		cs_error_set(e, -ENOMEM, "no memory for a validated peer");
		return NULL;
	}
	const struct cs_cert_facts *issuer = c->path_n > 1 ? &c->facts[c->path[1]] : c->anchor.facts;
	p->refs = 1;
	p->key = key;
	p->id = c->id;
	p->bundle_generation = cs_bundle_generation(c->bundle);
	memcpy(p->domain, c->domain, sizeof(p->domain));
	memcpy(p->serial, c->facts[0].serial, sizeof(p->serial));
	memcpy(p->authority_kid, issuer->subject_key_id.bytes, issuer->subject_key_id.len);
	memcpy(p->root_sha256, c->anchor.sha256, sizeof(p->root_sha256));
	p->not_before_unix_s = c->anchor.facts->not_before_unix_s;
	p->not_after_unix_s = c->anchor.facts->not_after_unix_s;
	for (size_t i = 0; i < c->path_n; i++) {
		const struct cs_cert_facts *f = &c->facts[c->path[i]];
		if (f->not_before_unix_s > p->not_before_unix_s)
			p->not_before_unix_s = f->not_before_unix_s;
		if (f->not_after_unix_s < p->not_after_unix_s)
			p->not_after_unix_s = f->not_after_unix_s;
	}
	return p;
}

/* A chain that is not in the cache. */
static int verify(struct cs_verifier *v, const struct cs_verify *what, const uint8_t hash[static 32],
	struct cs_peer **ret, struct cs_error *e)
{
	struct cs_peer *peer = NULL;
	struct candidate *c = calloc(1, sizeof(*c));
	int r = c ? 0 : cs_error_set(e, -ENOMEM, "no memory to verify a chain");
	if (r == 0)
		r = walk(c, what, e);
	if (r == 0)
		r = choose_bundle(c, what, e);
	if (r == 0) /* costs nothing, and the libraries do */
		r = check_time(what->now_unix_s, c->facts[0].not_before_unix_s, c->facts[0].not_after_unix_s, e);
	if (r == 0)
		r = check_libraries(c, v->ctx, what->now_unix_s, e);
	if (r == 0 && !(peer = peer_new(c, v->ctx, e)))
		r = -ENOMEM;
	if (r == 0) {
		remember(v, hash, c->bundle, peer);
		*ret = peer;
	}
	for (size_t i = 0; c && i < c->n; i++)
		X509_free(c->x509[i]);
	free(c);
	return r;
}

/* What depends on the moment and on who asks, and so on no cache. */
static int check_now(const struct cs_peer *peer, const struct cs_verify *what, struct cs_error *e)
{
	int r = check_time(what->now_unix_s, peer->not_before_unix_s, peer->not_after_unix_s, e);
	if (r < 0 || !what->expect || cs_spiffe_id_equal(what->expect, &peer->id))
		return r;
	char expected[CS_TRUST_DOMAIN_MAX + 1];
	cs_spiffe_id_domain(what->expect, expected);
	if (strcmp(expected, peer->domain) != 0)
		return cs_error_reason(e, -EACCES, CS_R_TRUST_DOMAIN_MISMATCH,
			"the certificate is of trust domain %s; %s is expected", peer->domain, expected);
	return cs_error_reason(e, -EACCES, CS_R_SPIFFE_ID_MISMATCH, "the certificate is %.400s; expected is %.400s",
		peer->id.text, what->expect->text);
}

int cs_verify(struct cs_verifier *v, const struct cs_verify *what, struct cs_peer **ret, struct cs_error *e)
{
	uint8_t hash[32];
	struct cs_peer *peer = NULL;
	*ret = NULL;
	int r = check_limits(what, e);
	if (r == 0)
		r = hash_chain(v->ctx, what, hash, e);
	if (r == 0 && (peer = recall(v, hash, what->bundles))) {
		v->stats.hits++;
		cs_peer_ref(peer);
	} else if (r == 0) {
		v->stats.misses++;
		r = verify(v, what, hash, &peer, e);
	}
	if (r == 0)
		r = check_now(peer, what, e);
	if (r < 0) {
		v->stats.refused++;
		cs_peer_unref(peer);
		return r;
	}
	*ret = peer; /* the one line that grants */
	return 0;
}

/* ---- verifier and peer ----------------------------------------------------------------------------------------- */

int cs_verifier_new(OSSL_LIB_CTX *ctx, size_t cache, struct cs_verifier **ret, struct cs_error *e)
{
	if (cache > CS_VERIFY_CACHE_MAX)
		return cs_error_set(
			e, -EINVAL, "a cache of %zu chains is too large; the most is %d", cache, CS_VERIFY_CACHE_MAX);
	struct cs_verifier *v = calloc(1, sizeof(*v));
	if (!v)
		return cs_error_set(e, -ENOMEM, "no memory for a verifier");
	v->ctx = ctx;
	v->cache_max = cache;
	*ret = v;
	return 0;
}

void cs_verifier_free(struct cs_verifier *verifier)
{
	struct remembered *entry, *next;
	if (!verifier)
		return;
	HASH_ITER (hh, verifier->cache, entry, next)
		forget(verifier, entry);
	free(verifier);
}

struct cs_verify_stats cs_verifier_stats(const struct cs_verifier *verifier)
{
	struct cs_verify_stats stats = verifier->stats;
	stats.cached = HASH_COUNT(verifier->cache);
	return stats;
}

struct cs_peer *cs_peer_ref(struct cs_peer *peer)
{
	peer->refs++;
	return peer;
}

void cs_peer_unref(struct cs_peer *peer)
{
	if (!peer || --peer->refs > 0)
		return;
	EVP_PKEY_free(peer->key);
	free(peer);
}

const struct cs_spiffe_id *cs_peer_id(const struct cs_peer *peer)
{
	return &peer->id;
}

const uint8_t *cs_peer_leaf_sha256(const struct cs_peer *peer)
{
	return peer->leaf_sha256;
}

const uint8_t *cs_peer_serial(const struct cs_peer *peer)
{
	return peer->serial;
}

const uint8_t *cs_peer_authority_kid(const struct cs_peer *peer)
{
	return peer->authority_kid;
}

const uint8_t *cs_peer_root_sha256(const struct cs_peer *peer)
{
	return peer->root_sha256;
}

int64_t cs_peer_not_before_unix_s(const struct cs_peer *peer)
{
	return peer->not_before_unix_s;
}

int64_t cs_peer_not_after_unix_s(const struct cs_peer *peer)
{
	return peer->not_after_unix_s;
}

uint64_t cs_peer_bundle_generation(const struct cs_peer *peer)
{
	return peer->bundle_generation;
}

EVP_PKEY *cs_peer_key(const struct cs_peer *peer)
{
	return peer->key;
}
