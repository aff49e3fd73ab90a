#include "remote_key.h"

#include <countersign/sign.h>
#include <errno.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>
#include <string.h>
#include <strings.h>

#define PROPERTY "countersign.key=remote"
/* A name that nobody else has: under "ECDSA" libcrypto would fetch the base provider's and export the key to it. */
#define SIGNATURE_NAME "CS-REMOTE"
#define FAIL(...)      (ERR_raise_data(CS_REMOTE_KEY_ERR_LIB, 1, __VA_ARGS__), 0)

/* TLS SignatureScheme (RFC 8446 4.2.3) */
enum {
	ECDSA_P256_SHA256 = 0x0403,
	ECDSA_P384_SHA384 = 0x0503,
	RSA_PSS_SHA256 = 0x0804,
	RSA_PSS_SHA384 = 0x0805,
	RSA_PSS_SHA512 = 0x0806
};

/* ---- KEYMGMT ---- */

struct key {
	struct cs_sign_channel *channel;
	uint32_t identity;
	uint64_t generation;
	int rsa, bits, security, max_size;
	char group[32];
	OSSL_PARAM *public; /* as the base provider exported it */
};

static void *key_new(void *provctx)
{
	(void)provctx;
	return OPENSSL_zalloc(sizeof(struct key));
}

static void key_free(void *v)
{
	struct key *k = v;
	if (k)
		OSSL_PARAM_free(k->public);
	OPENSSL_free(k);
}

static int key_has(const void *v, int selection)
{
	(void)selection;
	return v && ((const struct key *)v)->public;
}

static int import_rsa(struct key *k, const OSSL_PARAM *n)
{
	BIGNUM *b = NULL;
	if (!OSSL_PARAM_get_BN(n, &b))
		return 0;
	k->rsa = 1;
	k->bits = BN_num_bits(b);
	k->max_size = BN_num_bytes(b);
	k->security = k->bits >= 3072 ? 128 : 112;
	BN_free(b);
	return k->bits >= 2048 && k->bits <= 4096;
}

static int import_ec(struct key *k, const OSSL_PARAM *group)
{
	char *name = k->group;
	if (!OSSL_PARAM_get_utf8_string(group, &name, sizeof(k->group)))
		return 0;
	k->bits = strcmp(name, "prime256v1") == 0 ? 256 : strcmp(name, "secp384r1") == 0 ? 384 : 0;
	k->max_size = k->bits == 256 ? 72 : 104;
	k->security = k->bits / 2;
	return k->bits != 0;
}

/* Without a channel and a reference it refuses: a certificate's own key must never end up here. */
static int key_import(void *v, int selection, const OSSL_PARAM p[])
{
	struct key *k = v;
	(void)selection;
	const OSSL_PARAM *channel = OSSL_PARAM_locate_const(p, "cs-channel");
	const OSSL_PARAM *identity = OSSL_PARAM_locate_const(p, "cs-identity");
	const OSSL_PARAM *generation = OSSL_PARAM_locate_const(p, "cs-generation");
	const OSSL_PARAM *group = OSSL_PARAM_locate_const(p, OSSL_PKEY_PARAM_GROUP_NAME);
	const OSSL_PARAM *n = OSSL_PARAM_locate_const(p, OSSL_PKEY_PARAM_RSA_N);
	if (!channel || !identity || !generation ||
		!OSSL_PARAM_get_octet_ptr(channel, (const void **)&k->channel, NULL) ||
		!OSSL_PARAM_get_uint32(identity, &k->identity) || !OSSL_PARAM_get_uint64(generation, &k->generation))
		return FAIL("remote key without a reference");
	if (!(n ? import_rsa(k, n) : group ? import_ec(k, group) : 0))
		return FAIL("remote key of a kind that is not accepted");
	return (k->public = OSSL_PARAM_dup(p)) != NULL;
}

/* libcrypto compares with the certificate's key by exporting ours to the base provider, so there is no match. */
static int key_export(void *v, int selection, OSSL_CALLBACK *cb, void *arg)
{
	(void)selection;
	return cb(((struct key *)v)->public, arg);
}

static const OSSL_PARAM *key_types(int selection)
{
	static const OSSL_PARAM types[] = {OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
		OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, NULL, 0),
		OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, NULL, 0), OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, NULL, 0),
		OSSL_PARAM_END};
	(void)selection;
	return types;
}

static int key_get_params(void *v, OSSL_PARAM p[])
{
	struct key *k = v;
	OSSL_PARAM *q;
	return (!(q = OSSL_PARAM_locate(p, OSSL_PKEY_PARAM_BITS)) || OSSL_PARAM_set_int(q, k->bits)) &&
	       (!(q = OSSL_PARAM_locate(p, OSSL_PKEY_PARAM_SECURITY_BITS)) || OSSL_PARAM_set_int(q, k->security)) &&
	       (!(q = OSSL_PARAM_locate(p, OSSL_PKEY_PARAM_MAX_SIZE)) || OSSL_PARAM_set_int(q, k->max_size)) &&
	       (!(q = OSSL_PARAM_locate(p, OSSL_PKEY_PARAM_GROUP_NAME)) || OSSL_PARAM_set_utf8_string(q, k->group));
}

static const OSSL_PARAM *key_gettable(void *provctx)
{
	static const OSSL_PARAM gettable[] = {OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL),
		OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL), OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL),
		OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0), OSSL_PARAM_END};
	(void)provctx;
	return gettable;
}

static const char *key_operation(int operation)
{
	return operation == OSSL_OP_SIGNATURE ? SIGNATURE_NAME : NULL;
}

typedef void (*function)(void);
static const OSSL_DISPATCH key_functions[] = {{OSSL_FUNC_KEYMGMT_NEW, (function)key_new},
	{OSSL_FUNC_KEYMGMT_FREE, (function)key_free}, {OSSL_FUNC_KEYMGMT_HAS, (function)key_has},
	{OSSL_FUNC_KEYMGMT_IMPORT, (function)key_import}, {OSSL_FUNC_KEYMGMT_IMPORT_TYPES, (function)key_types},
	{OSSL_FUNC_KEYMGMT_EXPORT, (function)key_export}, {OSSL_FUNC_KEYMGMT_EXPORT_TYPES, (function)key_types},
	{OSSL_FUNC_KEYMGMT_GET_PARAMS, (function)key_get_params},
	{OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, (function)key_gettable},
	{OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, (function)key_operation}, {0, NULL}};

/* ---- SIGNATURE ---- */

struct signature {
	const struct key *key;
	int digest_bits;
	int pss, salt_is_digest;
};

static void *sig_new(void *provctx, const char *propq)
{
	(void)provctx;
	(void)propq;
	return OPENSSL_zalloc(sizeof(struct signature));
}

static void sig_free(void *v)
{
	OPENSSL_free(v);
}

static int is_value(const OSSL_PARAM *p, const char *name, int number)
{
	int n;
	return p->data_type == OSSL_PARAM_UTF8_STRING ? strcmp(p->data, name) == 0
						      : OSSL_PARAM_get_int(p, &n) && n == number;
}

static int sig_set_params(void *v, const OSSL_PARAM p[])
{
	struct signature *s = v;
	const OSSL_PARAM *pad = OSSL_PARAM_locate_const(p, OSSL_SIGNATURE_PARAM_PAD_MODE);
	const OSSL_PARAM *salt = OSSL_PARAM_locate_const(p, OSSL_SIGNATURE_PARAM_PSS_SALTLEN);
	if (pad)
		s->pss = is_value(pad, OSSL_PKEY_RSA_PAD_MODE_PSS, RSA_PKCS1_PSS_PADDING);
	if (salt)
		s->salt_is_digest = is_value(salt, OSSL_PKEY_RSA_PSS_SALT_LEN_DIGEST, RSA_PSS_SALTLEN_DIGEST);
	return 1;
}

static const OSSL_PARAM *sig_settable(void *v, void *provctx)
{
	static const OSSL_PARAM settable[] = {OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, NULL, 0),
		OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, NULL, 0), OSSL_PARAM_END};
	(void)v;
	(void)provctx;
	return settable;
}

/* libssl calls it twice per signature: once only to see whether the digest is supported. */
static int sig_init(void *v, const char *digest, void *key, const OSSL_PARAM p[])
{
	static const struct {
		const char *name;
		int bits;
	} known[] = {{"SHA2-256", 256}, {"SHA256", 256}, {"SHA2-384", 384}, {"SHA384", 384}, {"SHA2-512", 512},
		{"SHA512", 512}};
	struct signature *s = v;
	s->key = key;
	s->digest_bits = 0;
	for (size_t i = 0; digest && i < sizeof(known) / sizeof(known[0]); i++)
		if (strcasecmp(digest, known[i].name) == 0)
			s->digest_bits = known[i].bits;
	if (!s->digest_bits)
		return FAIL("remote key: digest %s", digest ? digest : "none");
	return p ? sig_set_params(s, p) : 1;
}

static uint16_t scheme_of(const struct signature *s)
{
	if (!s->key->rsa)
		return s->digest_bits != s->key->bits ? 0
		       : s->digest_bits == 256        ? ECDSA_P256_SHA256
						      : ECDSA_P384_SHA384;
	if (!s->pss || !s->salt_is_digest)
		return 0;
	return s->digest_bits == 256 ? RSA_PSS_SHA256 : s->digest_bits == 384 ? RSA_PSS_SHA384 : RSA_PSS_SHA512;
}

/* The kind whose content tbs is (RFC 8446 4.4.3), or 0. Rebuilt and compared, so that there is no parser. */
static uint8_t kind_of(const uint8_t *tbs, size_t len, const uint8_t **hash, size_t *hash_len)
{
	static const char *const contexts[] = {
		[CS_SIGN_TLS13_CLIENT] = "TLS 1.3, client CertificateVerify",
		[CS_SIGN_TLS13_SERVER] = "TLS 1.3, server CertificateVerify",
	};
	uint8_t expect[64 + 34];
	for (uint8_t kind = CS_SIGN_TLS13_CLIENT; kind <= CS_SIGN_TLS13_SERVER; kind++) {
		size_t n = 64 + strlen(contexts[kind]) + 1;
		memset(expect, ' ', 64);
		memcpy(expect + 64, contexts[kind], n - 64);
		if ((len == n + 32 || len == n + 48) && memcmp(tbs, expect, n) == 0) {
			*hash = tbs + n;
			*hash_len = len - n;
			return kind;
		}
	}
	return 0;
}

static int sig_sign(void *v, unsigned char *sig, size_t *len, size_t size, const unsigned char *tbs, size_t tbs_len)
{
	struct signature *s = v;
	if (!sig) { /* libssl asks for the size first: that must not reach the signer */
		*len = (size_t)s->key->max_size;
		return 1;
	}
	const uint8_t *hash;
	size_t hash_len, out = size;
	uint8_t kind = kind_of(tbs, tbs_len, &hash, &hash_len);
	uint16_t scheme = scheme_of(s);
	if (!kind || !scheme)
		return FAIL("remote key: not the content of a TLS 1.3 CertificateVerify");
	struct cs_error e;
	if (cs_sign(s->key->channel, s->key->identity, s->key->generation, scheme, kind, hash, hash_len, sig, &out,
		    &e) < 0)
		return FAIL("%s", e.text);
	*len = out;
	return 1;
}

static const OSSL_DISPATCH sig_functions[] = {{OSSL_FUNC_SIGNATURE_NEWCTX, (function)sig_new},
	{OSSL_FUNC_SIGNATURE_FREECTX, (function)sig_free}, {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, (function)sig_init},
	{OSSL_FUNC_SIGNATURE_DIGEST_SIGN, (function)sig_sign},
	{OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, (function)sig_set_params},
	{OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, (function)sig_settable}, {0, NULL}};

/* ---- provider ---- */

static const OSSL_ALGORITHM *query(void *provctx, int operation, int *no_cache)
{
	static const OSSL_ALGORITHM keys[] = {{"EC:id-ecPublicKey:1.2.840.10045.2.1", PROPERTY, key_functions, NULL},
		{"RSA:rsaEncryption:1.2.840.113549.1.1.1", PROPERTY, key_functions, NULL}, {NULL, NULL, NULL, NULL}};
	static const OSSL_ALGORITHM signatures[] = {
		{SIGNATURE_NAME, PROPERTY, sig_functions, NULL}, {NULL, NULL, NULL, NULL}};
	(void)provctx;
	*no_cache = 0;
	return operation == OSSL_OP_KEYMGMT ? keys : operation == OSSL_OP_SIGNATURE ? signatures : NULL;
}

static const OSSL_DISPATCH provider_functions[] = {{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (function)query}, {0, NULL}};

static int provider_init(
	const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **provctx)
{
	(void)in;
	*out = provider_functions;
	*provctx = (void *)handle;
	return 1;
}

/* The preference keeps every fetch that does not ask for a remote key away from this provider; as a preference, not a
 * condition, it still lets libcrypto find the provider's own methods. */
int cs_remote_provider_load(OSSL_LIB_CTX *ctx, struct cs_error *e)
{
	if (!OSSL_PROVIDER_add_builtin(ctx, "countersign-remote", provider_init) ||
		!OSSL_PROVIDER_load(ctx, "countersign-remote") ||
		!EVP_set_default_properties(ctx, "?countersign.key!=remote"))
		return cs_error_set(e, -ENOMEM, "the signing provider cannot be loaded");
	return 0;
}

int cs_remote_key_new(OSSL_LIB_CTX *ctx, struct cs_sign_channel *channel, uint32_t identity, uint64_t generation,
	X509 *leaf, EVP_PKEY **ret_key, struct cs_error *e)
{
	EVP_PKEY *public = X509_get0_pubkey(leaf), *key = NULL;
	OSSL_PARAM *exported = NULL, *all = NULL;
	OSSL_PARAM reference[] = {OSSL_PARAM_construct_octet_ptr("cs-channel", (void **)&channel, 0),
		OSSL_PARAM_construct_uint32("cs-identity", &identity),
		OSSL_PARAM_construct_uint64("cs-generation", &generation), OSSL_PARAM_END};
	EVP_PKEY_CTX *c = NULL;
	int r = 0;
	if (!public || !EVP_PKEY_todata(public, EVP_PKEY_PUBLIC_KEY, &exported) ||
		!(all = OSSL_PARAM_merge(exported, reference)) ||
		!(c = EVP_PKEY_CTX_new_from_name(ctx, EVP_PKEY_is_a(public, "RSA") ? "RSA" : "EC", PROPERTY)) ||
		EVP_PKEY_fromdata_init(c) <= 0 || EVP_PKEY_fromdata(c, &key, EVP_PKEY_PUBLIC_KEY, all) <= 0)
		r = cs_error_reason(
			e, -EINVAL, CS_R_ALGORITHM_REFUSED, "identity %u: a key of this kind cannot be used", identity);
	EVP_PKEY_CTX_free(c);
	OPENSSL_free(all);
	OSSL_PARAM_free(exported);
	if (r == 0)
		*ret_key = key;
	return r;
}
