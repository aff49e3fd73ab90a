#include "x509.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdio.h>

const char *cs_openssl_why(char *text, size_t size)
{
	unsigned long code = ERR_get_error();
	if (code)
		ERR_error_string_n(code, text, size);
	else
		snprintf(text, size, "OpenSSL does not say why");
	ERR_clear_error();
	return text;
}

int cs_no_password(char *buf, int size, int writing, void *data)
{
	(void)buf, (void)size, (void)writing, (void)data;
	return -1;
}

/* The very bytes of the key that our walker looked at. */
static bool same_key(const X509 *x509, const struct cs_cert_facts *facts)
{
	const ASN1_BIT_STRING *bits = X509_get0_pubkey_bitstr(x509);
	return bits && cs_der_equal((struct cs_der){bits->data, (size_t)bits->length}, facts->key.bit_string);
}

int cs_x509_new(OSSL_LIB_CTX *ctx, struct cs_der der, const struct cs_cert_facts *facts, X509 **ret, struct cs_error *e)
{
	char why[256];
	const unsigned char *p = der.data;
	X509 *x509 = X509_new_ex(ctx, NULL);
	if (!x509)
		return cs_error_set(e, -ENOMEM, "no memory for a certificate");
	if (!d2i_X509(&x509, &p, (long)der.len)) /* frees x509 */
		return cs_error_reason(e, -EBADMSG, CS_R_CERTIFICATE_MALFORMED, "the certificate is malformed: %s",
			cs_openssl_why(why, sizeof(why)));
	int r = 0;
	if (p != der.data + der.len || !same_key(x509, facts))
		r = cs_error_reason(
			e, -EBADMSG, CS_R_VERIFIERS_DISAGREE, "OpenSSL reads another certificate than our own parser");
	else if (!X509_get0_pubkey(x509))
		r = cs_error_reason(e, -EBADMSG, CS_R_CERTIFICATE_MALFORMED, "the public key of the certificate: %s",
			cs_openssl_why(why, sizeof(why)));
	if (r < 0)
		X509_free(x509);
	else
		*ret = x509;
	return r;
}

int cs_sha256(OSSL_LIB_CTX *ctx, const struct cs_der *span, size_t n, uint8_t ret[static 32], struct cs_error *e)
{
	EVP_MD *md = EVP_MD_fetch(ctx, "SHA256", NULL);
	EVP_MD_CTX *hash = EVP_MD_CTX_new();
	bool ok = md && hash && EVP_DigestInit_ex(hash, md, NULL);
	for (size_t i = 0; i < n && ok; i++)
		ok = EVP_DigestUpdate(hash, span[i].data, span[i].len);
	ok = ok && EVP_DigestFinal_ex(hash, ret, NULL);
	EVP_MD_CTX_free(hash);
	EVP_MD_free(md);
	if (ok)
		return 0;
	ERR_clear_error();
	return cs_error_set(e, -ENOMEM, "SHA-256 failed");
}
