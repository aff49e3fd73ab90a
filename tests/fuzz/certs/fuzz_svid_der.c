/* Our walker against OpenSSL and mbedTLS: what it accepts, both parse, and all three read the same in it. */
#include <mbedtls/x509_crt.h>
#include <openssl/x509v3.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool same)
{
	if (!same)
		abort();
}

static bool same_time(const ASN1_TIME *theirs, int64_t ours)
{
	ASN1_TIME *t = ASN1_TIME_set(NULL, ours);
	int r = ASN1_TIME_compare(theirs, t);
	ASN1_TIME_free(t);
	return r == 0;
}

static bool same_key_id(const ASN1_OCTET_STRING *theirs, const struct cs_key_id *ours)
{
	if (!theirs) /* nor if some extension does not decode: OpenSSL's verification refuses that certificate */
		return true;
	return theirs->length == ours->len && memcmp(theirs->data, ours->bytes, ours->len) == 0;
}

/* The one URI among the names, as OpenSSL decodes them. */
static void same_id_in_openssl(X509 *x509, const struct cs_spiffe_id *id)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);
	int uris = 0;
	if (!names) /* a name of another kind that does not decode: OpenSSL's verification refuses it */
		return;
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		int type;
		const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
		if (type != GEN_URI)
			continue;
		uris++;
		must((size_t)ASN1_STRING_length(value) == id->len);
		must(memcmp(ASN1_STRING_get0_data(value), id->text, id->len) == 0);
	}
	GENERAL_NAMES_free(names);
	must(uris == 1);
}

/* False: the key is none (a point that is not on its curve), which only arithmetic can tell. */
static bool compare_openssl(
	const uint8_t *data, size_t size, const struct cs_cert_facts *f, const struct cs_spiffe_id *id)
{
	const unsigned char *p = data;
	uint8_t serial[CS_SERIAL_MAX];
	unsigned char *spki = NULL;
	X509 *x509 = d2i_X509(NULL, &p, (long)size);
	must(x509 && p == data + size && X509_get_version(x509) == 2);
	must(same_time(X509_get0_notBefore(x509), f->not_before_unix_s));
	must(same_time(X509_get0_notAfter(x509), f->not_after_unix_s));
	BIGNUM *bn = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x509), NULL);
	must(BN_bn2binpad(bn, serial, sizeof(serial)) == sizeof(serial) && !BN_is_negative(bn));
	must(memcmp(serial, f->serial, sizeof(serial)) == 0);
	BN_free(bn);
	int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x509), &spki);
	must(len > 0 && (size_t)len == f->spki.len && memcmp(spki, f->spki.data, f->spki.len) == 0);
	OPENSSL_free(spki);
	must(same_key_id(X509_get0_subject_key_id(x509), &f->subject_key_id));
	must(same_key_id(X509_get0_authority_key_id(x509), &f->authority_key_id));
	if (id)
		same_id_in_openssl(x509, id);
	must(X509_get_ext_by_critical(x509, 1, -1) >= 0);
	EVP_PKEY *key = X509_get0_pubkey(x509);
	if (key)
		must(f->key.bits == (unsigned)EVP_PKEY_get_bits(key));
	X509_free(x509);
	return key != NULL;
}

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

/* Two extensions and a kind of name that mbedTLS reads and nobody else here: it may refuse what is in them. */
static bool only_mbedtls_reads(const uint8_t *data, size_t size)
{
	static const uint8_t policies[] = {0x06, 0x03, 0x55, 0x1d, 0x20};
	static const uint8_t ns_cert_type[] = {0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x86, 0xf8, 0x42, 0x01, 0x01};
	static const uint8_t hardware_name[] = {0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x04};
	return memmem(data, size, hardware_name, sizeof(hardware_name)) ||
	       memmem(data, size, policies, sizeof(policies)) || memmem(data, size, ns_cert_type, sizeof(ns_cert_type));
}

static void compare_mbedtls(
	const uint8_t *data, size_t size, const struct cs_cert_facts *f, const struct cs_spiffe_id *id)
{
	mbedtls_x509_crt crt;
	int uris = 0;
	mbedtls_x509_crt_init(&crt);
	if (mbedtls_x509_crt_parse_der_nocopy(&crt, data, size) != 0) {
		must(only_mbedtls_reads(data, size));
		mbedtls_x509_crt_free(&crt);
		return;
	}
	must(unix_s(&crt.valid_from) == f->not_before_unix_s && unix_s(&crt.valid_to) == f->not_after_unix_s);
	must(crt.pk_raw.len == f->spki.len && memcmp(crt.pk_raw.p, f->spki.data, f->spki.len) == 0);
	must(crt.tbs.p == f->tbs.data && crt.tbs.len == f->tbs.len);
	must(crt.ca_istrue == (id == NULL));
	for (mbedtls_x509_sequence *s = &crt.subject_alt_names; id && s; s = s->next) {
		if (s->buf.tag != (MBEDTLS_ASN1_CONTEXT_SPECIFIC | 6))
			continue;
		uris++;
		must(s->buf.len == id->len && memcmp(s->buf.p, id->text, id->len) == 0);
	}
	must(!id || uris == 1);
	mbedtls_x509_crt_free(&crt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_cert_facts facts;
	struct cs_spiffe_id id;
	struct cs_error e;
	bool leaf = cs_profile_leaf((struct cs_der){data, size}, &facts, &id, &e) == 0;
	if (!leaf && cs_profile_authority((struct cs_der){data, size}, &facts, &e) < 0)
		return 0;
	if (compare_openssl(data, size, &facts, leaf ? &id : NULL))
		compare_mbedtls(data, size, &facts, leaf ? &id : NULL);
	return 0;
}
