#include "bundle.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include "x509.h"

struct authority {
	uint8_t *bytes; /* owned; the facts point into it */
	struct cs_der der;
	struct cs_cert_facts facts;
	X509 *x509;
	uint8_t sha256[32];
};

struct cs_bundle {
	unsigned refs;
	uint64_t generation;
	size_t n, refused;
	struct cs_error why; /* of the first that was left out */
	char domain[CS_TRUST_DOMAIN_MAX + 1];
	struct authority authority[CS_BUNDLE_MAX];
};

static void authority_fini(struct authority *a)
{
	X509_free(a->x509);
	free(a->bytes);
	memset(a, 0, sizeof(*a));
}

/* One authority, or why it cannot be one. */
static int authority_init(struct authority *a, OSSL_LIB_CTX *ctx, struct cs_der der, struct cs_error *e)
{
	if (der.len > CS_BUNDLE_AUTHORITY_MAX)
		return cs_error_reason(e, -E2BIG, CS_R_CERTIFICATE_MALFORMED, "it has %zu bytes; the most is %d",
			der.len, CS_BUNDLE_AUTHORITY_MAX);
	a->bytes = malloc(der.len + 1); /* never of size 0 */
	if (!a->bytes)
		return cs_error_set(e, -ENOMEM, "no memory for a trust bundle");
	if (der.len > 0)
		memcpy(a->bytes, der.data, der.len);
	a->der = (struct cs_der){a->bytes, der.len};
	int r = cs_profile_authority(a->der, &a->facts, e);
	if (r == 0)
		r = cs_x509_new(ctx, a->der, &a->facts, &a->x509, e);
	if (r == 0)
		r = cs_sha256(ctx, &a->der, 1, a->sha256, e);
	return r;
}

/* Puts the next authority behind the others. It is left out if it is there already, or cannot be one. */
static int add(struct cs_bundle *b, OSSL_LIB_CTX *ctx, struct cs_der der, size_t number, struct cs_error *e)
{
	struct authority *a = &b->authority[b->n];
	struct cs_error why;
	int r = authority_init(a, ctx, der, &why);
	if (r == -ENOMEM) {
		authority_fini(a);
		return cs_error_set(e, r, "%s", why.text);
	}
	if (r < 0) {
		cs_error_prefix(&why, "authority %zu of trust domain %s", number, b->domain);
		if (b->refused++ == 0)
			b->why = why;
		authority_fini(a);
		return 0;
	}
	for (size_t i = 0; i < b->n; i++)
		if (memcmp(b->authority[i].sha256, a->sha256, sizeof(a->sha256)) == 0) {
			authority_fini(a);
			return 0;
		}
	b->n++;
	return 0;
}

int cs_bundle_new(OSSL_LIB_CTX *ctx, const char *trust_domain, uint64_t generation, const struct cs_der *certs,
	size_t n, struct cs_bundle **ret, struct cs_error *e)
{
	int r = cs_trust_domain_check(trust_domain, strlen(trust_domain), e);
	if (r < 0)
		return r;
	if (n > CS_BUNDLE_MAX)
		return cs_error_reason(e, -E2BIG, CS_R_TOO_MANY,
			"the bundle of trust domain %s has %zu authorities; the most is %d", trust_domain, n,
			CS_BUNDLE_MAX);
	struct cs_bundle *b = calloc(1, sizeof(*b));
	if (!b)
		return cs_error_set(e, -ENOMEM, "no memory for a trust bundle");
	b->refs = 1;
	b->generation = generation;
	strcpy(b->domain, trust_domain); /* its length was checked */
	for (size_t i = 0; i < n && r == 0; i++)
		r = add(b, ctx, certs[i], i + 1, e);
	if (r < 0) {
		cs_bundle_unref(b);
		return r;
	}
	*ret = b;
	return 0;
}

struct cs_bundle *cs_bundle_ref(struct cs_bundle *bundle)
{
	bundle->refs++;
	return bundle;
}

void cs_bundle_unref(struct cs_bundle *bundle)
{
	if (!bundle || --bundle->refs > 0)
		return;
	for (size_t i = 0; i < bundle->n; i++)
		authority_fini(&bundle->authority[i]);
	free(bundle);
}

const char *cs_bundle_domain(const struct cs_bundle *bundle)
{
	return bundle->domain;
}

uint64_t cs_bundle_generation(const struct cs_bundle *bundle)
{
	return bundle->generation;
}

size_t cs_bundle_count(const struct cs_bundle *bundle)
{
	return bundle->n;
}

size_t cs_bundle_refused(const struct cs_bundle *bundle, struct cs_error *ret_why)
{
	if (ret_why && bundle->refused > 0)
		*ret_why = bundle->why;
	return bundle->refused;
}

struct cs_authority cs_bundle_authority(const struct cs_bundle *bundle, size_t i)
{
	const struct authority *a = &bundle->authority[i];
	return (struct cs_authority){a->der, &a->facts, a->sha256, a->x509};
}

/* ---- the bundles of all trust domains -------------------------------------------------------------------------- */

struct entry {
	struct cs_bundle *bundle; /* its domain is the key */
	UT_hash_handle hh;
};

struct cs_bundles {
	struct entry *entries;
};

struct cs_bundles *cs_bundles_new(void)
{
	return calloc(1, sizeof(struct cs_bundles));
}

static struct entry *find(const struct cs_bundles *bundles, const char *trust_domain)
{
	struct entry *entry;
	HASH_FIND_STR(bundles->entries, trust_domain, entry);
	return entry;
}

static void forget(struct cs_bundles *bundles, struct entry *entry)
{
	HASH_DEL(bundles->entries, entry);
	cs_bundle_unref(entry->bundle);
	free(entry);
}

void cs_bundles_free(struct cs_bundles *bundles)
{
	struct entry *entry, *next;
	if (!bundles)
		return;
	HASH_ITER (hh, bundles->entries, entry, next)
		forget(bundles, entry);
	free(bundles);
}

int cs_bundles_put(struct cs_bundles *bundles, struct cs_bundle *bundle, struct cs_error *e)
{
	cs_bundles_remove(bundles, bundle->domain); /* whatever happens now: the old one is over */
	if (HASH_COUNT(bundles->entries) >= CS_BUNDLES_MAX)
		return cs_error_reason(e, -ENOSPC, CS_R_TOO_MANY,
			"no room for the bundle of trust domain %s: there are those of %d already", bundle->domain,
			CS_BUNDLES_MAX);
	struct entry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return cs_error_set(e, -ENOMEM, "no memory for a trust bundle");
	entry->bundle = cs_bundle_ref(bundle);
	HASH_ADD_KEYPTR(hh, bundles->entries, bundle->domain, strlen(bundle->domain), entry);
	return 0;
}

void cs_bundles_remove(struct cs_bundles *bundles, const char *trust_domain)
{
	struct entry *entry = find(bundles, trust_domain);
	if (entry)
		forget(bundles, entry);
}

struct cs_bundle *cs_bundles_get(const struct cs_bundles *bundles, const char *trust_domain)
{
	struct entry *entry = find(bundles, trust_domain);
	return entry ? entry->bundle : NULL;
}
