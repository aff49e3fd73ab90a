#include "slim_provider.h"

#include <errno.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/provider.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define OPERATIONS     32 /* OSSL_OP_* are small numbers */
#define ALGORITHMS_MAX 32 /* that pass the filter, per operation */

static OSSL_PROVIDER *base;
static OSSL_ALGORITHM tables[OPERATIONS][ALGORITHMS_MAX + 1];

/* What is kept, per operation; an operation that is not here has nothing. A missing algorithm shows as an unrelated
 * alert ("internal error"), so the handshaker's tests cover each key type and suite. */
static const struct {
	int operation;
	const char *names[8];
} kept[] = {
	{OSSL_OP_DIGEST, {"SHA1", "SHA2-256", "SHA2-384", "SHA2-512"}},
	{OSSL_OP_MAC, {"HMAC"}},
	{OSSL_OP_KDF, {"HKDF", "TLS13-KDF"}},
	{OSSL_OP_CIPHER, {"AES-128-GCM", "AES-256-GCM", "AES-256-CTR"}},
	{OSSL_OP_KEYMGMT, {"EC", "X25519", "RSA", "RSA-PSS"}},
	{OSSL_OP_KEYEXCH, {"ECDH", "X25519"}},
	{OSSL_OP_SIGNATURE, {"ECDSA", "RSA"}},
	{OSSL_OP_DECODER, {"EC", "RSA", "RSA-PSS"}},
};

/* "RSA:rsaEncryption:1.2.840.113549.1.1.1" has the names between its colons. */
static bool has_name(const char *names, const char *wanted)
{
	size_t n = strlen(wanted);
	for (const char *p = names; p; p = strchr(p, ':')) {
		p += *p == ':';
		if (strncasecmp(p, wanted, n) == 0 && (p[n] == ':' || p[n] == '\0'))
			return true;
	}
	return false;
}

static bool is_kept(const OSSL_ALGORITHM *a, int operation, size_t row)
{
	if (operation == OSSL_OP_DECODER && (!strstr(a->property_definition, "input=der") ||
						    !strstr(a->property_definition, "structure=SubjectPublicKeyInfo")))
		return false;
	for (size_t i = 0; i < 8 && kept[row].names[i]; i++)
		if (has_name(a->algorithm_names, kept[row].names[i]))
			return true;
	return false;
}

static const OSSL_ALGORITHM *query(void *provctx, int operation, int *no_cache)
{
	(void)provctx;
	*no_cache = 0;
	if (operation < 0 || operation >= OPERATIONS)
		return NULL;
	if (tables[operation][0].algorithm_names)
		return tables[operation];
	int ignored;
	const OSSL_ALGORITHM *all = OSSL_PROVIDER_query_operation(base, operation, &ignored);
	if (!all)
		return NULL;
	if (operation == OSSL_OP_RAND)
		return all;
	for (size_t row = 0; row < sizeof(kept) / sizeof(kept[0]); row++) {
		if (kept[row].operation != operation)
			continue;
		size_t n = 0;
		for (; all->algorithm_names && n < ALGORITHMS_MAX; all++)
			if (is_kept(all, operation, row))
				tables[operation][n++] = *all;
		return tables[operation];
	}
	return NULL;
}

static int get_capabilities(void *provctx, const char *capability, OSSL_CALLBACK *cb, void *arg)
{
	(void)provctx;
	return OSSL_PROVIDER_get_capabilities(base, capability, cb, arg);
}

static const OSSL_DISPATCH functions[] = {
	{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query},
	{OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))get_capabilities},
	{0, NULL},
};

static int slim_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **provctx)
{
	(void)handle;
	(void)in;
	*out = functions;
	*provctx = OSSL_PROVIDER_get0_provider_ctx(base);
	return 1;
}

int cs_slim_context(OSSL_LIB_CTX **ret_ctx, struct cs_error *e)
{
	OSSL_LIB_CTX *ctx = OSSL_LIB_CTX_new();
	if (!base)
		base = OSSL_PROVIDER_load(OSSL_LIB_CTX_new(), "default");
	if (!base || !ctx || !OSSL_PROVIDER_add_builtin(ctx, "countersign-slim", slim_init) ||
		!OSSL_PROVIDER_load(ctx, "countersign-slim"))
		return cs_error_set(e, -ENOMEM, "OpenSSL's default provider cannot be loaded");
	*ret_ctx = ctx;
	return 0;
}
