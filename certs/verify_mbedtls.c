#include <errno.h>
#include <mbedtls/error.h>
#include <mbedtls/x509_crt.h>
#include <string.h>
#include <time.h>
#include "verifiers.h"

/* The table of algorithm.h in mbedTLS's words. */
static const mbedtls_x509_crt_profile profile = {
	.allowed_mds = MBEDTLS_X509_ID_FLAG(MBEDTLS_MD_SHA256) | MBEDTLS_X509_ID_FLAG(MBEDTLS_MD_SHA384) |
		       MBEDTLS_X509_ID_FLAG(MBEDTLS_MD_SHA512),
	.allowed_pks = MBEDTLS_X509_ID_FLAG(MBEDTLS_PK_ECKEY) | MBEDTLS_X509_ID_FLAG(MBEDTLS_PK_ECDSA) |
		       MBEDTLS_X509_ID_FLAG(MBEDTLS_PK_RSA) | MBEDTLS_X509_ID_FLAG(MBEDTLS_PK_RSASSA_PSS),
	.allowed_curves =
		MBEDTLS_X509_ID_FLAG(MBEDTLS_ECP_DP_SECP256R1) | MBEDTLS_X509_ID_FLAG(MBEDTLS_ECP_DP_SECP384R1),
	.rsa_min_bitlen = CS_RSA_BITS_MIN,
};

static int64_t unix_s(const mbedtls_x509_time *t)
{
	struct tm tm = {.tm_year = t->year - 1900,
		.tm_mon = t->mon - 1,
		.tm_mday = t->day,
		.tm_hour = t->hour,
		.tm_min = t->min,
		.tm_sec = t->sec};
	return timegm(&tm);
}

/* For each certificate of the path: mbedTLS knows no clock but the machine's, so its answer about time is replaced by
 * ours, from the dates that it parsed. */
static int judge_time(void *now_unix_s, mbedtls_x509_crt *crt, int depth, uint32_t *flags)
{
	(void)depth;
	int64_t now = *(int64_t *)now_unix_s;
	*flags &= ~(uint32_t)(MBEDTLS_X509_BADCERT_EXPIRED | MBEDTLS_X509_BADCERT_FUTURE);
	if (now < unix_s(&crt->valid_from))
		*flags |= MBEDTLS_X509_BADCERT_FUTURE;
	if (now > unix_s(&crt->valid_to))
		*flags |= MBEDTLS_X509_BADCERT_EXPIRED;
	return 0;
}

static int no(struct cs_error *e, int code, uint32_t flags)
{
	if (code == MBEDTLS_ERR_X509_ALLOC_FAILED)
		return cs_error_set(e, -ENOMEM, "no memory to verify a chain");
	char why[512] = "";
	if (code == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED)
		mbedtls_x509_crt_verify_info(why, sizeof(why), "", flags);
	else
		mbedtls_strerror(code, why, sizeof(why));
	why[strcspn(why, "\n")] = '\0';
	return cs_error_reason(
		e, -EACCES, CS_R_VERIFIERS_DISAGREE, "OpenSSL accepts the chain and mbedTLS does not: %s", why);
}

int cs_mbedtls_verify(const struct cs_der *path, size_t n, struct cs_der spki, int64_t now_unix_s, struct cs_error *e)
{
	mbedtls_x509_crt chain, anchor;
	uint32_t flags = UINT32_MAX;
	int r = 0, code = 0;
	mbedtls_x509_crt_init(&chain);
	mbedtls_x509_crt_init(&anchor);
	for (size_t i = 0; i + 1 < n && code == 0; i++)
		code = mbedtls_x509_crt_parse_der_nocopy(&chain, path[i].data, path[i].len);
	if (code == 0)
		code = mbedtls_x509_crt_parse_der_nocopy(&anchor, path[n - 1].data, path[n - 1].len);
	if (code == 0)
		code = mbedtls_x509_crt_verify_with_profile(
			&chain, &anchor, NULL, &profile, NULL, &flags, judge_time, &now_unix_s);
	if (code != 0 || flags != 0)
		r = no(e, code ? code : MBEDTLS_ERR_X509_CERT_VERIFY_FAILED, flags);
	else if (!cs_der_equal((struct cs_der){chain.pk_raw.p, chain.pk_raw.len}, spki))
		r = cs_error_reason(e, -EACCES, CS_R_VERIFIERS_DISAGREE,
			"mbedTLS reads another key in the leaf than our own parser");
	mbedtls_x509_crt_free(&anchor);
	mbedtls_x509_crt_free(&chain);
	return r;
}
