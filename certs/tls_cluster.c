/* Mutual TLS of identityd's cluster service: who is a node, who is identityd. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "tls.h"
#include "x509.h"

#define SERVER_PATH "/countersign/identityd"
#define NODE_PATH   "/countersign/node/"
#define CACHE_MAX   1024 /* nodes whose chains are remembered */

struct cs_tls {
	pthread_mutex_t lock; /* of bundles and verifier: a server verifies in worker threads */
	enum cs_tls_role role;
	SSL_CTX *ctx;
	struct cs_bundles *bundles; /* one: of the own trust domain */
	struct cs_verifier *verifier;
	const struct cs_clock *clock;
	int64_t not_after_unix_s;
	char own_name[CS_GRPC_PEER_NAME];
	struct cs_grpc_tls hooks;
};

/* The name behind an ID: of a node (one segment), or of identityd. */
static int name_of(const struct cs_spiffe_id *id, enum cs_tls_role role, char *ret, size_t size, struct cs_error *e)
{
	const char *path = cs_spiffe_id_path(id), *name = path + strlen(NODE_PATH);
	if (role == CS_TLS_SERVER) {
		if (strcmp(path, SERVER_PATH) != 0)
			return cs_error_reason(e, -EACCES, CS_R_SPIFFE_ID_MISMATCH,
				"%.400s is not identityd, whose SPIFFE ID ends in %s", id->text, SERVER_PATH);
		name = id->text;
	} else {
		if (strncmp(path, NODE_PATH, strlen(NODE_PATH)) != 0 || strchr(name, '/'))
			return cs_error_reason(e, -EACCES, CS_R_SPIFFE_ID_MISMATCH,
				"%.400s is not a node, whose SPIFFE ID ends in %sNAME", id->text, NODE_PATH);
		if (strlen(name) > CS_NODE_NAME_MAX)
			return cs_error_reason(e, -EACCES, CS_R_SPIFFE_ID_MISMATCH,
				"the name of the node has %zu bytes; the most is %d", strlen(name), CS_NODE_NAME_MAX);
	}
	if ((size_t)snprintf(ret, size, "%s", name) >= size)
		return cs_error_reason(
			e, -EACCES, CS_R_SPIFFE_ID_MISMATCH, "the SPIFFE ID has more than %zu bytes", size);
	return 0;
}

/* Of the peer's chain, or of the own one: who is that, in this role? */
static int judge(struct cs_tls *tls, const STACK_OF(X509) * x509, enum cs_tls_role role, char *ret_name, size_t size,
	int64_t *ret_not_after_unix_s, struct cs_error *e)
{
	struct cs_tls_chain chain;
	struct cs_peer *peer = NULL;
	int r = cs_tls_chain_get(x509, &chain, e);
	if (r < 0)
		return r;
	pthread_mutex_lock(&tls->lock);
	const struct cs_verify what = {.chain = chain.cert,
		.n = chain.n,
		.bundles = tls->bundles,
		.now_unix_s = tls->clock->unix_ms(tls->clock->data) / 1000};
	r = cs_verify(tls->verifier, &what, &peer, e);
	if (r == 0)
		r = name_of(cs_peer_id(peer), role, ret_name, size, e);
	if (r == 0)
		*ret_not_after_unix_s = cs_peer_not_after_unix_s(peer);
	cs_peer_unref(peer);
	pthread_mutex_unlock(&tls->lock);
	return r;
}

static enum cs_tls_role other(enum cs_tls_role role)
{
	return role == CS_TLS_SERVER ? CS_TLS_CLIENT : CS_TLS_SERVER;
}

/* libssl's question in the middle of the handshake. The reason goes where lib looks for it (grpc.h). */
static int on_verify(X509_STORE_CTX *store, void *data)
{
	struct cs_tls *tls = data;
	struct cs_error e;
	char name[CS_GRPC_PEER_NAME];
	int64_t not_after_unix_s;
	if (judge(tls, X509_STORE_CTX_get0_untrusted(store), other(tls->role), name, sizeof(name), &not_after_unix_s,
		    &e) == 0)
		return 1;
	X509_STORE_CTX_set_error(store, cs_tls_x509_error(e.reason));
	ERR_raise_data(ERR_LIB_USER, 1, "%s: %s", cs_reason_name(e.reason), e.text);
	return 0;
}

static SSL_CTX *hook_context(void *data, struct cs_error *e)
{
	(void)e;
	return ((struct cs_tls *)data)->ctx;
}

/* The same again, for the name: the chain is remembered, so that this costs a look-up, and time is looked at anew. */
static int hook_peer(const STACK_OF(X509) * chain, char name[CS_GRPC_PEER_NAME], void *data, struct cs_error *e)
{
	struct cs_tls *tls = data;
	int64_t not_after_unix_s;
	return judge(tls, chain, other(tls->role), name, CS_GRPC_PEER_NAME, &not_after_unix_s, e);
}

/* ---- from files ------------------------------------------------------------------------------------------------ */

static int file_error(struct cs_error *e, const char *what, const char *file)
{
	char why[256];
	return cs_error_set(e, -EINVAL, "%s %s: %s", what, file, cs_openssl_why(why, sizeof(why)));
}

/* All certificates of a PEM file. */
static int read_pem(const char *file, STACK_OF(X509) * *ret, struct cs_error *e)
{
	STACK_OF(X509) *all = sk_X509_new_null();
	BIO *bio = BIO_new_file(file, "r");
	X509 *x509;
	int r = 0;
	if (!all || !bio)
		r = file_error(e, "open", file);
	while (r == 0 && (x509 = PEM_read_bio_X509(bio, NULL, cs_no_password, NULL)))
		if (!sk_X509_push(all, x509)) {
			X509_free(x509);
			r = cs_error_set(e, -ENOMEM, "no memory for %s", file);
		}
	/* The end of the file is "no start line"; anything else is a certificate that does not parse. */
	if (r == 0 && (sk_X509_num(all) == 0 || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE))
		r = file_error(e, "certificates of", file);
	ERR_clear_error();
	BIO_free(bio);
	if (r < 0)
		sk_X509_pop_free(all, X509_free);
	else
		*ret = all;
	return r;
}

static int load_bundle(struct cs_tls *tls, const char *file, const char *domain, struct cs_error *e)
{
	struct cs_der der[CS_BUNDLE_MAX + 1]; /* one more: the bundle says what is too many */
	struct cs_bundle *bundle = NULL;
	STACK_OF(X509) *all = NULL;
	size_t n = 0;
	int r = read_pem(file, &all, e);
	if (r < 0)
		return r;
	for (; r == 0 && n < CS_BUNDLE_MAX + 1 && n < (size_t)sk_X509_num(all); n++) {
		unsigned char *bytes = NULL;
		int len = i2d_X509(sk_X509_value(all, (int)n), &bytes);
		der[n] = (struct cs_der){bytes, len > 0 ? (size_t)len : 0};
	}
	r = cs_bundle_new(NULL, domain, 1, der, n, &bundle, e);
	if (r == 0 && cs_bundle_refused(bundle, e) > 0)
		r = -EINVAL;
	if (r == 0)
		r = cs_bundles_put(tls->bundles, bundle, e);
	if (r < 0)
		cs_error_prefix(e, "bundle %s", file);
	cs_bundle_unref(bundle);
	while (n > 0)
		OPENSSL_free((void *)der[--n].data);
	sk_X509_pop_free(all, X509_free);
	return r;
}

/* The trust domain that the own leaf is of. */
static int own_domain(X509 *leaf, char ret[static CS_TRUST_DOMAIN_MAX + 1], struct cs_error *e)
{
	unsigned char *bytes = NULL;
	int len = i2d_X509(leaf, &bytes);
	struct cs_cert_facts facts;
	struct cs_spiffe_id id;
	int r = cs_profile_leaf((struct cs_der){bytes, len > 0 ? (size_t)len : 0}, &facts, &id, e);
	if (r == 0)
		cs_spiffe_id_domain(&id, ret);
	OPENSSL_free(bytes);
	return r;
}

static int load(struct cs_tls *tls, const struct cs_tls_files *files, struct cs_error *e)
{
	char domain[CS_TRUST_DOMAIN_MAX + 1];
	STACK_OF(X509) *chain = NULL;
	int r;
	SSL_CTX_set_default_passwd_cb(tls->ctx, cs_no_password);
	if (SSL_CTX_use_certificate_chain_file(tls->ctx, files->chain) != 1)
		return file_error(e, "certificate chain", files->chain);
	if (SSL_CTX_use_PrivateKey_file(tls->ctx, files->key, SSL_FILETYPE_PEM) != 1)
		return file_error(e, "key", files->key);
	if (SSL_CTX_check_private_key(tls->ctx) != 1)
		return file_error(e, "the certificate is not of the key", files->key);
	if ((r = read_pem(files->chain, &chain, e)) < 0)
		return r;
	r = own_domain(sk_X509_value(chain, 0), domain, e);
	if (r < 0)
		cs_error_prefix(e, "certificate chain %s", files->chain);
	if (r == 0)
		r = load_bundle(tls, files->bundle, domain, e);
	if (r == 0 &&
		(r = judge(tls, chain, tls->role, tls->own_name, sizeof(tls->own_name), &tls->not_after_unix_s, e)) < 0)
		cs_error_prefix(e, "certificate chain %s", files->chain);
	sk_X509_pop_free(chain, X509_free);
	return r;
}

int cs_tls_new(enum cs_tls_role role, const struct cs_tls_files *files, const struct cs_clock *clock,
	struct cs_tls **ret, struct cs_error *e)
{
	struct cs_tls *tls = calloc(1, sizeof(*tls));
	if (!tls)
		return cs_error_set(e, -ENOMEM, "no memory for TLS");
	pthread_mutex_init(&tls->lock, NULL);
	tls->role = role;
	tls->clock = clock ? clock : &cs_clock_system;
	tls->hooks = (struct cs_grpc_tls){.context = hook_context, .peer = hook_peer, .data = tls};
	tls->bundles = cs_bundles_new();
	int r = tls->bundles ? 0 : cs_error_set(e, -ENOMEM, "no memory for TLS");
	if (r == 0)
		r = cs_verifier_new(NULL, CACHE_MAX, &tls->verifier, e);
	if (r == 0)
		r = cs_tls_base_ctx(NULL, role == CS_TLS_SERVER, &tls->ctx, e);
	if (r == 0) {
		SSL_CTX_set_cert_verify_callback(tls->ctx, on_verify, tls);
		r = load(tls, files, e);
	}
	if (r < 0) {
		cs_tls_free(tls);
		return r;
	}
	*ret = tls;
	return 0;
}

int cs_tls_renew_take(struct cs_tls *tls, struct cs_tls *fresh, struct cs_error *e)
{
	if (strcmp(tls->own_name, fresh->own_name) != 0) {
		cs_error_reason(e, -EINVAL, CS_R_SPIFFE_ID_MISMATCH,
			"the certificate is %.400s's now, and was %.400s's; a daemon that shall have another name is "
			"started anew",
			fresh->own_name, tls->own_name);
		cs_tls_free(fresh);
		return -EINVAL;
	}
	/* The outer one stays where callers and connections know it; a context that connections use lives on by itself. */
	pthread_mutex_lock(&tls->lock);
	SSL_CTX *ctx = tls->ctx;
	struct cs_bundles *bundles = tls->bundles;
	struct cs_verifier *verifier = tls->verifier;
	SSL_CTX_set_cert_verify_callback(fresh->ctx, on_verify, tls);
	tls->ctx = fresh->ctx;
	tls->bundles = fresh->bundles;
	tls->verifier = fresh->verifier;
	tls->not_after_unix_s = fresh->not_after_unix_s;
	pthread_mutex_unlock(&tls->lock);
	fresh->ctx = ctx;
	fresh->bundles = bundles;
	fresh->verifier = verifier;
	cs_tls_free(fresh);
	return 0;
}

void cs_tls_free(struct cs_tls *tls)
{
	if (!tls)
		return;
	SSL_CTX_free(tls->ctx);
	cs_verifier_free(tls->verifier);
	cs_bundles_free(tls->bundles);
	pthread_mutex_destroy(&tls->lock);
	free(tls);
}

const struct cs_grpc_tls *cs_tls_grpc(const struct cs_tls *tls)
{
	return &tls->hooks;
}

int64_t cs_tls_not_after_unix_s(const struct cs_tls *tls)
{
	return tls->not_after_unix_s;
}

const char *cs_tls_own_name(const struct cs_tls *tls)
{
	return tls->own_name;
}
