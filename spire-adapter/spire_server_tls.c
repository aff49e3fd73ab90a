#include "spire_server_tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <stdlib.h>
#include "tls.h"
#include "x509.h"

#define CACHE_MAX 16 /* servers' chains that are remembered */

struct cs_spire_server_tls {
	const struct cs_clock *clock;
	char trust_domain[CS_TRUST_DOMAIN_MAX + 1];
	struct cs_spiffe_id server;
	SSL_CTX *ctx; /* NULL: there is no SVID */
	int64_t not_after_unix_s;
	struct cs_error why; /* there is none */
	struct cs_bundles *bundles;
	uint64_t generation;
	struct cs_verifier *verifier;
	struct cs_grpc_tls hooks;
};

static int64_t now_unix_s(const struct cs_spire_server_tls *tls)
{
	return tls->clock->unix_ms(tls->clock->data) / 1000;
}

static int judge(struct cs_spire_server_tls *tls, const STACK_OF(X509) * x509, struct cs_error *e)
{
	struct cs_tls_chain chain;
	struct cs_peer *peer = NULL;
	int r = cs_tls_chain_get(x509, &chain, e);
	if (r < 0)
		return r;
	const struct cs_verify what = {.chain = chain.cert,
		.n = chain.n,
		.bundles = tls->bundles,
		.now_unix_s = now_unix_s(tls),
		.expect = &tls->server};
	r = cs_verify(tls->verifier, &what, &peer, e);
	cs_peer_unref(peer);
	return r;
}

/* libssl's question in the middle of the handshake. The reason goes where lib looks for it (grpc.h). */
static int on_verify(X509_STORE_CTX *store, void *data)
{
	struct cs_error e;
	if (judge(data, X509_STORE_CTX_get0_untrusted(store), &e) == 0)
		return 1;
	X509_STORE_CTX_set_error(store, cs_tls_x509_error(e.reason));
	ERR_raise_data(ERR_LIB_USER, 1, "%s: %s", cs_reason_name(e.reason), e.text);
	return 0;
}

static SSL_CTX *hook_context(void *data, struct cs_error *e)
{
	struct cs_spire_server_tls *tls = data;
	if (tls->ctx && tls->not_after_unix_s > now_unix_s(tls))
		return tls->ctx;
	if (tls->ctx)
		cs_error_reason(e, -EKEYEXPIRED, CS_R_SVID_EXPIRED,
			"the own SVID has expired, and SPIRE's agent gave no other");
	else
		*e = tls->why;
	return NULL;
}

static int hook_peer(const STACK_OF(X509) * chain, char name[CS_GRPC_PEER_NAME], void *data, struct cs_error *e)
{
	struct cs_spire_server_tls *tls = data;
	int r = judge(tls, chain, e);
	if (r == 0 && (size_t)snprintf(name, CS_GRPC_PEER_NAME, "%s", tls->server.text) >= CS_GRPC_PEER_NAME)
		r = cs_error_reason(e, -EACCES, CS_R_SPIFFE_ID_MISMATCH, "the server's SPIFFE ID is too long");
	return r;
}

/* ---- the own side ---- */

static int use_certificate(SSL_CTX *ctx, struct cs_der der, bool leaf)
{
	const unsigned char *p = der.data;
	X509 *x509 = d2i_X509(NULL, &p, (long)der.len);
	int ok = x509 && (leaf ? SSL_CTX_use_certificate(ctx, x509) : (int)SSL_CTX_add1_chain_cert(ctx, x509));
	X509_free(x509);
	return ok;
}

static int context_of(
	struct cs_spire_server_tls *tls, const struct cs_spire_own *own, SSL_CTX **ret, struct cs_error *e)
{
	char why[256];
	SSL_CTX *ctx = NULL;
	int r = cs_tls_base_ctx(NULL, false, &ctx, e);
	if (r < 0)
		return r;
	bool ok = true;
	for (size_t i = 0; i < own->chain.n && ok; i++)
		ok = use_certificate(ctx, own->chain.cert[i], i == 0);
	if (!ok || SSL_CTX_use_PrivateKey(ctx, own->key) != 1) {
		SSL_CTX_free(ctx);
		return cs_error_set(e, -EINVAL, "the own SVID cannot be used: %s", cs_openssl_why(why, sizeof(why)));
	}
	SSL_CTX_set_cert_verify_callback(ctx, on_verify, tls);
	*ret = ctx;
	return 0;
}

int cs_spire_server_tls_set(struct cs_spire_server_tls *tls, const struct cs_spire_own *own, struct cs_error *e)
{
	struct cs_bundle *bundle = NULL;
	SSL_CTX *ctx = NULL;
	int r = context_of(tls, own, &ctx, e);
	if (r == 0)
		r = cs_bundle_new(NULL, tls->trust_domain, ++tls->generation, own->bundle, own->nbundle, &bundle, e);
	if (r == 0)
		r = cs_bundles_put(tls->bundles, bundle, e);
	cs_bundle_unref(bundle);
	if (r < 0) {
		SSL_CTX_free(ctx);
		return r;
	}
	SSL_CTX_free(tls->ctx); /* connections have references of their own */
	tls->ctx = ctx;
	tls->not_after_unix_s = own->chain.not_after_unix_s;
	return 0;
}

void cs_spire_server_tls_clear(struct cs_spire_server_tls *tls, const struct cs_error *why)
{
	SSL_CTX_free(tls->ctx);
	tls->ctx = NULL;
	tls->not_after_unix_s = 0;
	tls->why = *why;
}

const struct cs_grpc_tls *cs_spire_server_tls_grpc(const struct cs_spire_server_tls *tls)
{
	return &tls->hooks;
}

int64_t cs_spire_server_tls_not_after_unix_s(const struct cs_spire_server_tls *tls)
{
	return tls->not_after_unix_s;
}

int cs_spire_server_tls_new(
	const char *trust_domain, const struct cs_clock *clock, struct cs_spire_server_tls **ret, struct cs_error *e)
{
	struct cs_spire_server_tls *tls = calloc(1, sizeof(*tls));
	if (!tls)
		return cs_error_set(e, -ENOMEM, "out of memory");
	tls->clock = clock;
	tls->hooks = (struct cs_grpc_tls){.context = hook_context, .peer = hook_peer, .data = tls};
	snprintf(tls->trust_domain, sizeof(tls->trust_domain), "%s", trust_domain);
	cs_error_reason(&tls->why, -EAGAIN, CS_R_NO_LOCAL_SVID, "SPIRE's agent has not given the own SVID yet");
	tls->bundles = cs_bundles_new();
	int r = tls->bundles ? 0 : cs_error_set(e, -ENOMEM, "out of memory");
	if (r == 0)
		r = cs_spiffe_id_make(&tls->server, trust_domain, CS_SPIRE_SERVER_PATH, e);
	if (r == 0)
		r = cs_verifier_new(NULL, CACHE_MAX, &tls->verifier, e);
	if (r < 0) {
		cs_spire_server_tls_free(tls);
		return r;
	}
	*ret = tls;
	return 0;
}

void cs_spire_server_tls_free(struct cs_spire_server_tls *tls)
{
	if (!tls)
		return;
	SSL_CTX_free(tls->ctx);
	cs_verifier_free(tls->verifier);
	cs_bundles_free(tls->bundles);
	free(tls);
}
