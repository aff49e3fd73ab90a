#include "spire_key.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/x509.h>

#define POINT_MAX   133 /* bytes of an uncompressed point, up to P-521 */
#define RSA_NUMBERS 8

/* AlgorithmIdentifier of a SubjectPublicKeyInfo. */
static bool algorithm_of_spki(struct cs_der spki, struct cs_der *ret)
{
	struct cs_der body;
	return cs_der_take(&spki, CS_DER_SEQUENCE, &body) && cs_der_take(&body, CS_DER_SEQUENCE, ret);
}

/* What is inside of PKCS #8, which must be of the same algorithm and curve as the certificate. */
static bool unwrap(struct cs_der pkcs8, struct cs_der spki, struct cs_der *ret)
{
	struct cs_der body, version, algorithm, wanted;
	return cs_der_take(&pkcs8, CS_DER_SEQUENCE, &body) && pkcs8.len == 0 &&
	       cs_der_take(&body, CS_DER_INTEGER, &version) && cs_der_take(&body, CS_DER_SEQUENCE, &algorithm) &&
	       cs_der_take(&body, CS_DER_OCTET_STRING, ret) && algorithm_of_spki(spki, &wanted) &&
	       cs_der_equal(algorithm, wanted);
}

/* Numbers that are pushed live in secure memory and stay until the build is over. */
struct build {
	OSSL_PARAM_BLD *params;
	BIGNUM *numbers[RSA_NUMBERS];
	size_t n;
};

static bool push_number(struct build *b, const char *name, struct cs_der bytes)
{
	BIGNUM *number = BN_secure_new();
	if (!number)
		return false;
	b->numbers[b->n++] = number;
	return BN_bin2bn(bytes.data, (int)bytes.len, number) && OSSL_PARAM_BLD_push_BN(b->params, name, number);
}

static EVP_PKEY *finish(struct build *b, const char *type)
{
	EVP_PKEY *key = NULL;
	OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(b->params);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	if (!params || !ctx || EVP_PKEY_fromdata_init(ctx) <= 0 ||
		EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_KEYPAIR, params) <= 0)
		key = NULL;
	EVP_PKEY_CTX_free(ctx);
	OSSL_PARAM_free(params); /* clears secure memory */
	return key;
}

static EVP_PKEY *ec_key(struct build *b, struct cs_der inner, const EVP_PKEY *public)
{
	struct cs_der body, version, scalar;
	char group[32];
	uint8_t point[POINT_MAX];
	size_t n = 0;
	if (!cs_der_take(&inner, CS_DER_SEQUENCE, &body) || !cs_der_take(&body, CS_DER_INTEGER, &version) ||
		!cs_der_take(&body, CS_DER_OCTET_STRING, &scalar) ||
		!EVP_PKEY_get_group_name(public, group, sizeof(group), NULL) ||
		!EVP_PKEY_get_octet_string_param(public, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point), &n) ||
		!OSSL_PARAM_BLD_push_utf8_string(b->params, OSSL_PKEY_PARAM_GROUP_NAME, group, 0) ||
		!OSSL_PARAM_BLD_push_octet_string(b->params, OSSL_PKEY_PARAM_PUB_KEY, point, n) ||
		!push_number(b, OSSL_PKEY_PARAM_PRIV_KEY, scalar))
		return NULL;
	return finish(b, "EC");
}

static EVP_PKEY *rsa_key(struct build *b, struct cs_der inner)
{
	static const char *const names[RSA_NUMBERS] = {OSSL_PKEY_PARAM_RSA_N, OSSL_PKEY_PARAM_RSA_E,
		OSSL_PKEY_PARAM_RSA_D, OSSL_PKEY_PARAM_RSA_FACTOR1, OSSL_PKEY_PARAM_RSA_FACTOR2,
		OSSL_PKEY_PARAM_RSA_EXPONENT1, OSSL_PKEY_PARAM_RSA_EXPONENT2, OSSL_PKEY_PARAM_RSA_COEFFICIENT1};
	struct cs_der body, number;
	if (!cs_der_take(&inner, CS_DER_SEQUENCE, &body) || !cs_der_take(&body, CS_DER_INTEGER, &number))
		return NULL;
	for (size_t i = 0; i < RSA_NUMBERS; i++)
		if (!cs_der_take(&body, CS_DER_INTEGER, &number) || !cs_der_unsigned(number, &number) ||
			!push_number(b, names[i], number))
			return NULL;
	return finish(b, "RSA");
}

/* A public and a private half that were put together here may be of two keys. */
static bool fits(EVP_PKEY *key, const EVP_PKEY *public)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
	bool ok = ctx && EVP_PKEY_pairwise_check(ctx) == 1 && EVP_PKEY_eq(key, public) == 1;
	EVP_PKEY_CTX_free(ctx);
	return ok;
}

int cs_spire_key_read(struct cs_der pkcs8, struct cs_der spki, EVP_PKEY **ret, struct cs_error *e)
{
	struct cs_der inner;
	const unsigned char *p = spki.data;
	if (pkcs8.len == 0 || pkcs8.len > CS_SPIRE_KEY_MAX)
		return cs_error_set(e, -EINVAL, "a key of %zu bytes; 1 to %d may be", pkcs8.len, CS_SPIRE_KEY_MAX);
	if (!unwrap(pkcs8, spki, &inner))
		return cs_error_set(
			e, -EINVAL, "the key is not an unencrypted PKCS #8 key of the certificate's algorithm");
	EVP_PKEY *public = d2i_PUBKEY(NULL, &p, (long)spki.len), *key = NULL;
	struct build b = {.params = OSSL_PARAM_BLD_new()};
	if (b.params && public)
		key = EVP_PKEY_is_a(public, "EC") ? ec_key(&b, inner, public) : rsa_key(&b, inner);
	OSSL_PARAM_BLD_free(b.params);
	while (b.n > 0)
		BN_clear_free(b.numbers[--b.n]);
	bool ok = key && fits(key, public);
	EVP_PKEY_free(public);
	if (!ok) {
		EVP_PKEY_free(key);
		return cs_error_set(e, -EINVAL, "the key is not that of the certificate");
	}
	*ret = key;
	return 0;
}
