#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include "verifiers.h"

/* What OpenSSL calls it, as one of our reasons. */
static enum cs_reason reason_of(int error)
{
	switch (error) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		return CS_R_SVID_EXPIRED;
	case X509_V_ERR_CA_MD_TOO_WEAK:
	case X509_V_ERR_CA_KEY_TOO_SMALL:
	case X509_V_ERR_EE_KEY_TOO_SMALL:
	case X509_V_ERR_EC_KEY_EXPLICIT_PARAMS:
		return CS_R_ALGORITHM_REFUSED;
	case X509_V_ERR_INVALID_CA:
	case X509_V_ERR_INVALID_PURPOSE:
	case X509_V_ERR_INVALID_EXTENSION:
	case X509_V_ERR_PATH_LENGTH_EXCEEDED:
	case X509_V_ERR_KEYUSAGE_NO_CERTSIGN:
	case X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION:
		return CS_R_SVID_PROFILE;
	default:
		return CS_R_UNTRUSTED;
	}
}

static bool configure(X509_STORE_CTX *store, int64_t now_unix_s)
{
	X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(store);
	/* The anchor need not be self-signed (RFC 5280 6.1.1 d): what is in the bundle is trusted, nothing else. */
	X509_VERIFY_PARAM_set_time(param, now_unix_s);
	X509_VERIFY_PARAM_set_depth(param, CS_CHAIN_MAX - 1); /* authorities between leaf and anchor */
	X509_VERIFY_PARAM_set_auth_level(param, 2);           /* 112 bits: no SHA-1, no RSA below 2048 */
	return X509_VERIFY_PARAM_set_flags(
		       param, X509_V_FLAG_X509_STRICT | X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST) &&
	       X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_SSL_CLIENT);
}

/* Which of the peer's certificates are in the path that was built. */
static bool path_of(X509_STORE_CTX *store, X509 *const *cert, size_t n, X509 *anchor, size_t *ret_path, size_t *ret_n)
{
	STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(store);
	int length = sk_X509_num(chain);
	if (length < 2 || length > CS_CHAIN_MAX + 1 || sk_X509_value(chain, length - 1) != anchor ||
		sk_X509_value(chain, 0) != cert[0])
		return false;
	for (int i = 0; i < length - 1; i++) {
		size_t k = 0;
		while (k < n && cert[k] != sk_X509_value(chain, i))
			k++;
		if (k == n)
			return false;
		ret_path[i] = k;
	}
	*ret_n = (size_t)length - 1;
	return true;
}

static int judge(X509_STORE_CTX *store, struct cs_error *e)
{
	X509 *leaf = X509_STORE_CTX_get0_cert(store);
	int ok = X509_verify_cert(store), error = X509_STORE_CTX_get_error(store);
	if (ok < 0 || error == X509_V_ERR_OUT_OF_MEM)
		return cs_error_set(e, -ENOMEM, "OpenSSL could not verify: %s", X509_verify_cert_error_string(error));
	if (ok == 0)
		return cs_error_reason(e, -EACCES, reason_of(error), "certificate %d: %s",
			X509_STORE_CTX_get_error_depth(store) + 1, X509_verify_cert_error_string(error));
	if (error != X509_V_OK)
		return cs_error_reason(
			e, -EACCES, CS_R_UNTRUSTED, "OpenSSL says yes and %s", X509_verify_cert_error_string(error));
	if (X509_check_purpose(leaf, X509_PURPOSE_SSL_SERVER, 0) != 1)
		return cs_error_reason(e, -EACCES, CS_R_SVID_PROFILE, "the leaf is not good for a server");
	return 0;
}

int cs_openssl_verify(OSSL_LIB_CTX *ctx, X509 *const *cert, size_t n, X509 *anchor, int64_t now_unix_s,
	size_t ret_path[static CS_CHAIN_MAX], size_t *ret_n, struct cs_error *e)
{
	int r = cs_error_set(e, -ENOMEM, "no memory to verify a chain");
	X509_STORE_CTX *store = X509_STORE_CTX_new_ex(ctx, NULL);
	STACK_OF(X509) *anchors = sk_X509_new_null(), *others = sk_X509_new_null();
	if (!store || !anchors || !others || !sk_X509_push(anchors, anchor))
		goto out;
	for (size_t i = 1; i < n; i++)
		if (!sk_X509_push(others, cert[i]))
			goto out;
	if (!X509_STORE_CTX_init(store, NULL, cert[0], others) || !configure(store, now_unix_s))
		goto out;
	X509_STORE_CTX_set0_trusted_stack(store, anchors);
	r = judge(store, e);
	if (r == 0 && !path_of(store, cert, n, anchor, ret_path, ret_n))
		r = cs_error_reason(e, -EACCES, CS_R_UNTRUSTED, "OpenSSL's path does not end at the authority");
out:
	X509_STORE_CTX_free(store);
	sk_X509_free(anchors);
	sk_X509_free(others);
	ERR_clear_error();
	return r;
}
