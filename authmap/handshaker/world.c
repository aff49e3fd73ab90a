#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "remote_key.h"
#include "slim_provider.h"
#include "tls.h"

int cs_hs_world_init(struct cs_hs_world *world, struct cs_error *e)
{
	*world = (struct cs_hs_world){0};
	cs_sign_channel_init(&world->signer);
	int r = cs_slim_context(&world->ctx, e);
	if (r == 0)
		r = cs_remote_provider_load(world->ctx, e);
	if (r == 0)
		r = cs_verifier_new(world->ctx, CS_HS_VERIFY_CACHE, &world->verifier, e);
	if (r == 0 && !(world->bundles = cs_bundles_new()))
		r = cs_error_set(e, -ENOMEM, "no memory");
	if (r == 0)
		r = cs_tls_base_ctx(world->ctx, false, &world->client, e);
	if (r == 0)
		r = cs_tls_base_ctx(world->ctx, true, &world->server, e);
	return r;
}

void cs_hs_svid_unref(struct cs_hs_svid_state *svid)
{
	if (!svid || --svid->refs > 0)
		return;
	EVP_PKEY_free(svid->key);
	X509_free(svid->leaf);
	sk_X509_pop_free(svid->intermediates, X509_free);
	free(svid->bytes);
	free(svid);
}

void cs_hs_world_fini(struct cs_hs_world *world)
{
	struct cs_hs_svid_state *s, *next;
	HASH_ITER (hh, world->svids, s, next) {
		HASH_DEL(world->svids, s);
		cs_hs_svid_unref(s);
	}
	SSL_CTX_free(world->client);
	SSL_CTX_free(world->server);
	cs_bundles_free(world->bundles);
	cs_verifier_free(world->verifier);
	cs_sign_channel_fini(&world->signer);
}

static X509 *parse(OSSL_LIB_CTX *ctx, struct cs_der der)
{
	X509 *x = X509_new_ex(ctx, NULL);
	const uint8_t *p = der.data;
	if (x && !d2i_X509(&x, &p, (long)der.len))
		x = NULL; /* d2i frees it on failure */
	return x;
}

static int load_chain(struct cs_hs_world *world, struct cs_hs_svid_state *s, size_t len, struct cs_error *e)
{
	struct cs_der all[CS_HS_CERTS_MAX];
	int r = cs_hs_list_parse(s->bytes, len, all, &s->n, e);
	if (r < 0)
		return r;
	if (s->n == 0 || s->n > CS_CHAIN_MAX || len > CS_CHAIN_BYTES_MAX + sizeof(uint32_t) * CS_CHAIN_MAX)
		return cs_error_reason(
			e, -EINVAL, CS_R_CHAIN_TOO_LARGE, "identity %u: its own chain is too large", s->identity);
	memcpy(s->chain, all, s->n * sizeof(all[0]));
	s->leaf = parse(world->ctx, s->chain[0]);
	s->intermediates = sk_X509_new_null();
	if (!s->leaf || !s->intermediates)
		return cs_error_reason(
			e, -EINVAL, CS_R_CERTIFICATE_MALFORMED, "identity %u: its SVID does not parse", s->identity);
	for (size_t i = 1; i < s->n; i++) {
		X509 *x = parse(world->ctx, s->chain[i]);
		if (!x || !sk_X509_push(s->intermediates, x)) {
			X509_free(x);
			return cs_error_reason(e, -EINVAL, CS_R_CERTIFICATE_MALFORMED,
				"identity %u: its chain does not parse", s->identity);
		}
	}
	return cs_remote_key_new(world->ctx, &world->signer, s->identity, s->generation, s->leaf, &s->key, e);
}

static struct cs_hs_svid_state *find(const struct cs_hs_world *world, uint32_t identity)
{
	struct cs_hs_svid_state *s;
	HASH_FIND(hh, world->svids, &identity, sizeof(identity), s);
	return s;
}

static void replace(struct cs_hs_world *world, uint32_t identity, struct cs_hs_svid_state *with)
{
	struct cs_hs_svid_state *old = find(world, identity);
	if (old) {
		HASH_DEL(world->svids, old);
		cs_hs_svid_unref(old);
	}
	if (with)
		HASH_ADD(hh, world->svids, identity, sizeof(identity), with);
}

static struct cs_hs_svid_state *svid_new(const struct cs_hs_svid *m)
{
	struct cs_hs_svid_state *s = calloc(1, sizeof(*s));
	if (s) {
		s->refs = 1;
		s->identity = m->identity;
		s->generation = m->generation;
	}
	return s;
}

int cs_hs_world_svid(
	struct cs_hs_world *world, const struct cs_hs_svid *m, const uint8_t *list, size_t len, struct cs_error *e)
{
	if (!m->spiffe_id[0]) {
		replace(world, m->identity, NULL);
		return 0;
	}
	if (!find(world, m->identity) && HASH_COUNT(world->svids) >= CS_HS_SVIDS_MAX)
		return cs_error_reason(e, -ENOSPC, CS_R_TOO_MANY, "more than %d local identities", CS_HS_SVIDS_MAX);
	struct cs_hs_svid_state *s = svid_new(m);
	if (!s)
		return cs_error_set(e, -ENOMEM, "no memory");
	int r = cs_spiffe_id_parse(&s->id, m->spiffe_id, strlen(m->spiffe_id), e);
	if (r == 0 && list) {
		s->bytes = malloc(len ? len : 1);
		if (s->bytes)
			memcpy(s->bytes, list, len);
		r = s->bytes ? load_chain(world, s, len, e) : cs_error_set(e, -ENOMEM, "no memory");
	}
	if (r < 0) { /* known here, but without an SVID that could be used */
		cs_hs_svid_unref(s);
		struct cs_hs_svid none = {.identity = m->identity};
		s = svid_new(&none);
	}
	replace(world, m->identity, s);
	return r;
}

int cs_hs_world_bundle(
	struct cs_hs_world *world, const struct cs_hs_bundle *m, const uint8_t *list, size_t len, struct cs_error *e)
{
	struct cs_der certs[CS_HS_CERTS_MAX];
	struct cs_bundle *bundle = NULL;
	size_t n = 0;
	if (!list) {
		cs_bundles_remove(world->bundles, m->trust_domain);
		return 0;
	}
	int r = cs_hs_list_parse(list, len, certs, &n, e);
	if (r == 0)
		r = cs_bundle_new(world->ctx, m->trust_domain, m->generation, certs, n, &bundle, e);
	if (r == 0)
		r = cs_bundles_put(world->bundles, bundle, e);
	if (r < 0) /* an older bundle must not go on being believed */
		cs_bundles_remove(world->bundles, m->trust_domain);
	cs_bundle_unref(bundle);
	struct cs_hs_svid_state *s, *next;
	HASH_ITER (hh, world->svids, s, next)
		s->warm = false;
	return r;
}

bool cs_hs_world_warm(struct cs_hs_world *world)
{
	struct cs_hs_svid_state *s, *next;
	HASH_ITER (hh, world->svids, s, next) {
		if (s->warm || s->generation == 0)
			continue;
		struct cs_peer *self = NULL;
		struct cs_error ignored; /* whoever uses it hears of it */
		s->warm = true;
		if (cs_hs_world_self(world, s, &self, &ignored) == 0)
			cs_peer_unref(self);
		return true;
	}
	return false;
}

int cs_hs_world_use(struct cs_hs_world *world, uint32_t identity, struct cs_hs_svid_state **ret, struct cs_error *e)
{
	struct cs_hs_svid_state *s = find(world, identity);
	if (!s)
		return cs_error_reason(e, -ENOENT, CS_R_NO_LOCAL_ENDPOINT, "no endpoint of identity %u here", identity);
	if (s->generation == 0)
		return cs_error_reason(e, -ENOENT, CS_R_NO_LOCAL_SVID, "identity %u has no SVID here", identity);
	s->refs++;
	*ret = s;
	return 0;
}

int cs_hs_world_self(
	struct cs_hs_world *world, const struct cs_hs_svid_state *svid, struct cs_peer **ret, struct cs_error *e)
{
	struct cs_verify v = {.chain = svid->chain,
		.n = svid->n,
		.bundles = world->bundles,
		.now_unix_s = time(NULL),
		.expect = &svid->id};
	int r = cs_verify(world->verifier, &v, ret, e);
	return r < 0 ? cs_error_prefix(e, "own SVID of identity %u", svid->identity) : 0;
}
