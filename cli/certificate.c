#include "certificate.h"

#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>
#include "doc.h"

/* What OpenSSL printed; control characters are the view's affair. */
static json_t *text_take(BIO *bio)
{
	char *data = NULL;
	long n = BIO_get_mem_data(bio, &data);
	json_t *text = json_stringn_nocheck(data ? data : "", n > 0 ? (size_t)n : 0);
	BIO_free(bio);
	return text;
}

static json_t *name_doc(const X509_NAME *name)
{
	BIO *bio = BIO_new(BIO_s_mem());
	X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_UTF8_CONVERT); /* ASCII, the rest escaped */
	return text_take(bio);
}

static json_t *octets_doc(const ASN1_OCTET_STRING *octets)
{
	const ProtobufCBinaryData bytes = {octets ? (size_t)octets->length : 0, octets ? octets->data : NULL};
	return cs_doc_hex(&bytes);
}

static json_t *time_doc(const ASN1_TIME *when)
{
	struct tm tm;
	return ASN1_TIME_to_tm(when, &tm) ? json_integer(timegm(&tm)) : json_null();
}

static json_t *uris_doc(const X509 *cert)
{
	json_t *uris = json_array();
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		if (name->type != GEN_URI)
			continue;
		char text[2049];
		int n = name->d.uniformResourceIdentifier->length;
		if (n >= (int)sizeof(text))
			n = (int)sizeof(text) - 1;
		memcpy(text, name->d.uniformResourceIdentifier->data, (size_t)n);
		text[n] = '\0';
		cs_doc_append(uris, cs_doc_text(text));
	}
	GENERAL_NAMES_free(names);
	return uris;
}

static json_t *key_doc(X509 *cert)
{
	const EVP_PKEY *key = X509_get0_pubkey(cert);
	char group[64] = "", text[128];
	if (!key)
		return cs_doc_text("unknown");
	if (EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1)
		return cs_doc_text(strcmp(group, "prime256v1") == 0  ? "P-256"
				   : strcmp(group, "secp384r1") == 0 ? "P-384"
								     : group);
	snprintf(text, sizeof(text), "%s-%d", EVP_PKEY_get0_type_name(key), EVP_PKEY_get_bits(key));
	return cs_doc_text(text);
}

static json_t *serial_doc(const X509 *cert)
{
	BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
	char *hex = number ? BN_bn2hex(number) : NULL;
	json_t *text = cs_doc_text(hex);
	OPENSSL_free(hex);
	BN_free(number);
	return text;
}

static json_t *pem_doc(const ProtobufCBinaryData *der)
{
	BIO *bio = BIO_new(BIO_s_mem());
	PEM_write_bio(bio, PEM_STRING_X509, "", der->data, (long)der->len);
	return text_take(bio);
}

json_t *cs_certificate_doc(const ProtobufCBinaryData *der)
{
	uint8_t sha256[SHA256_DIGEST_LENGTH];
	const unsigned char *p = der->data;
	const ProtobufCBinaryData digest = {sizeof(sha256), sha256};
	SHA256(der->data, der->len, sha256);
	json_t *doc = cs_doc_pack("{s:o}", "sha256", cs_doc_hex(&digest));
	X509 *cert = d2i_X509(NULL, &p, (long)der->len);
	if (!cert || p != der->data + der->len) {
		X509_free(cert);
		cs_doc_set(doc, "malformed", json_true());
		return doc;
	}
	cs_doc_set(doc, "subject", name_doc(X509_get_subject_name(cert)));
	cs_doc_set(doc, "issuer", name_doc(X509_get_issuer_name(cert)));
	cs_doc_set(doc, "serial", serial_doc(cert));
	cs_doc_set(doc, "uris", uris_doc(cert));
	cs_doc_set(doc, "not_before_unix_s", time_doc(X509_get0_notBefore(cert)));
	cs_doc_set(doc, "not_after_unix_s", time_doc(X509_get0_notAfter(cert)));
	cs_doc_set(doc, "key", key_doc(cert));
	cs_doc_set(doc, "subject_key_id", octets_doc(X509_get0_subject_key_id(cert)));
	cs_doc_set(doc, "authority_key_id", octets_doc(X509_get0_authority_key_id(cert)));
	cs_doc_set(doc, "pem", pem_doc(der));
	X509_free(cert);
	return doc;
}
