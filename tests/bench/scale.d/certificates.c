#include "certificates.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdlib.h>

static void need(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "bench: %s\n", what);
	ERR_print_errors_fp(stderr);
	exit(1);
}

void issuer_load(struct issuer *issuer, const char *cert, const char *key)
{
	BIO *a = BIO_new_file(cert, "r"), *b = BIO_new_file(key, "r");
	need(a && b, "the issuer's files cannot be opened");
	issuer->cert = PEM_read_bio_X509(a, NULL, NULL, NULL);
	issuer->key = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
	need(issuer->cert && issuer->key, "the issuer's files cannot be read");
	BIO_free(a);
	BIO_free(b);
}

static void extend(const struct issuer *issuer, X509 *x, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer->cert, x, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	need(e && X509_add_ext(x, e, -1), value);
	X509_EXTENSION_free(e);
}

static X509 *issue(const struct issuer *issuer, EVP_PKEY *key, const char *uri)
{
	static long serial;
	char san[512];
	X509 *x = X509_new();
	need(x && X509_set_version(x, 2) && ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial) &&
			X509_gmtime_adj(X509_getm_notBefore(x), -60) && X509_gmtime_adj(X509_getm_notAfter(x), 3600) &&
			X509_set_issuer_name(x, X509_get_subject_name(issuer->cert)) && X509_set_pubkey(x, key),
		"a certificate cannot be made");
	snprintf(san, sizeof(san), "critical,URI:%s", uri);
	extend(issuer, x, NID_subject_alt_name, san);
	extend(issuer, x, NID_key_usage, "critical,digitalSignature");
	extend(issuer, x, NID_basic_constraints, "critical,CA:FALSE");
	extend(issuer, x, NID_ext_key_usage, "serverAuth,clientAuth");
	extend(issuer, x, NID_authority_key_identifier, "keyid");
	need(X509_sign(x, issuer->key, EVP_sha256()) > 0, "a certificate cannot be signed");
	return x;
}

static int believe(X509_STORE_CTX *store, void *data)
{
	(void)store;
	(void)data;
	return 1;
}

SSL_CTX *node_context(const struct issuer *issuer, const char *domain, const char *name)
{
	char uri[512];
	snprintf(uri, sizeof(uri), "spiffe://%s/countersign/node/%s", domain, name);
	EVP_PKEY *key = EVP_EC_gen("P-256");
	need(key != NULL, "a key cannot be made");
	X509 *x = issue(issuer, key, uri);
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	need(ctx && SSL_CTX_use_certificate(ctx, x) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1,
		"a context cannot be made");
	SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_cert_verify_callback(ctx, believe, NULL);
	X509_free(x);
	EVP_PKEY_free(key);
	return ctx;
}
