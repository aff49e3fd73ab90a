#include "late_alert.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <string.h>

static int hex_digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

/* "SERVER_TRAFFIC_SECRET_0 <client random> <secret>", both in hex */
void cs_traffic_secret_from_keylog(const char *line, struct cs_traffic_secret *secret)
{
	static const char label[] = "SERVER_TRAFFIC_SECRET_0 ";
	if (strncmp(line, label, sizeof(label) - 1) != 0)
		return;
	const char *hex = strrchr(line, ' ') + 1;
	size_t n = strlen(hex) / 2;
	if (n != 32 && n != 48)
		return;
	for (size_t i = 0; i < n; i++)
		secret->bytes[i] = (uint8_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
	secret->len = n;
}

/* HKDF-Expand-Label(secret, label, "", len) (RFC 8446 7.1) */
static int expand(OSSL_LIB_CTX *ctx, const char *digest, const struct cs_traffic_secret *secret, const char *label,
	uint8_t *out, size_t len)
{
	EVP_KDF *kdf = EVP_KDF_fetch(ctx, "TLS13-KDF", NULL);
	EVP_KDF_CTX *k = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
	OSSL_PARAM params[] = {OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)digest, 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret->bytes, secret->len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, (void *)"tls13 ", 6),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, (void *)label, strlen(label)), OSSL_PARAM_END};
	int ok = k && EVP_KDF_derive(k, out, len, params) == 1;
	EVP_KDF_CTX_free(k);
	EVP_KDF_free(kdf);
	return ok ? 0 : -1;
}

int cs_late_alert(OSSL_LIB_CTX *ctx, const SSL_CIPHER *cipher, const struct cs_traffic_secret *secret, uint8_t alert,
	uint8_t record[CS_LATE_ALERT_RECORD])
{
	uint16_t suite = cipher ? SSL_CIPHER_get_protocol_id(cipher) : 0;
	int aes256 = suite == 0x1302; /* TLS_AES_256_GCM_SHA384 */
	if ((!aes256 && suite != 0x1301) || secret->len != (aes256 ? 48u : 32u))
		return -1;
	const char *digest = aes256 ? "SHA2-384" : "SHA2-256";
	uint8_t key[32], iv[12];
	const uint8_t header[5] = {23, 3, 3, 0, CS_LATE_ALERT_RECORD - 5};
	const uint8_t inner[3] = {2 /* fatal */, alert, 21 /* content type: alert */};
	EVP_CIPHER *gcm = EVP_CIPHER_fetch(ctx, aes256 ? "AES-256-GCM" : "AES-128-GCM", NULL);
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int n, ok = gcm && c && expand(ctx, digest, secret, "key", key, aes256 ? 32 : 16) == 0 &&
		    expand(ctx, digest, secret, "iv", iv, sizeof(iv)) == 0 &&
		    EVP_EncryptInit_ex2(c, gcm, key, iv, NULL) &&
		    EVP_EncryptUpdate(c, NULL, &n, header, sizeof(header)) &&
		    EVP_EncryptUpdate(c, record + 5, &n, inner, sizeof(inner)) &&
		    EVP_EncryptFinal_ex(c, record + 8, &n) &&
		    EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, 16, record + 8);
	memcpy(record, header, sizeof(header));
	EVP_CIPHER_CTX_free(c);
	EVP_CIPHER_free(gcm);
	OPENSSL_cleanse(key, sizeof(key));
	return ok ? 0 : -1;
}
