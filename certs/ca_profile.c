#include "ca_profile.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "x509.h"

#define SERIAL_BITS 127 /* unpredictable, positive, far below the 20 bytes of RFC 5280 4.1.2.2 */

EVP_PKEY *cs_ca_new_key(void)
{
	return EVP_EC_gen("P-256");
}

static bool set_serial(X509 *x)
{
	BIGNUM *n = BN_new();
	bool ok = n && BN_rand(n, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
		  BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
	BN_free(n);
	return ok;
}

static bool set_validity(X509 *x, struct cs_ca_validity validity)
{
	return ASN1_TIME_set(X509_getm_notBefore(x), (time_t)validity.from_unix_s) &&
	       ASN1_TIME_set(X509_getm_notAfter(x), (time_t)validity.until_unix_s);
}

static bool add_name(X509_NAME *name, const char *field, const char *value)
{
	return X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC, (const unsigned char *)value, -1, -1, 0);
}

/* SPIRE's: roots differ in name by a serialNumber attribute, so that successive roots are told apart. */
static bool set_root_names(X509 *x)
{
	BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
	char *serial = n ? BN_bn2dec(n) : NULL;
	X509_NAME *name = X509_get_subject_name(x);
	bool ok = serial && add_name(name, "C", "US") && add_name(name, "O", "SPIFFE") &&
		  add_name(name, "serialNumber", serial) && X509_set_issuer_name(x, name);
	OPENSSL_free(serial);
	BN_free(n);
	return ok;
}

static bool set_leaf_names(X509 *x, const X509 *ca_cert)
{
	X509_NAME *name = X509_get_subject_name(x);
	return add_name(name, "C", "US") && add_name(name, "O", "SPIRE") &&
	       X509_set_issuer_name(x, X509_get_subject_name(ca_cert));
}

static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	bool ok = ext && X509_add_ext(x, ext, -1);
	X509_EXTENSION_free(ext);
	return ok;
}

/* X509-SVID 2: exactly one URI SAN. Not by X509V3_EXT_conf, whose grammar would read commas. */
static bool add_uri(X509 *x, const char *uri)
{
	GENERAL_NAMES *names = GENERAL_NAMES_new();
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_IA5STRING *value = ASN1_IA5STRING_new();
	bool ok = false;
	if (names && name && value && ASN1_STRING_set(value, uri, -1)) {
		GENERAL_NAME_set0_value(name, GEN_URI, value);
		value = NULL;
		if (sk_GENERAL_NAME_push(names, name)) {
			name = NULL;
			ok = X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, X509V3_ADD_APPEND) == 1;
		}
	}
	ASN1_IA5STRING_free(value);
	GENERAL_NAME_free(name);
	GENERAL_NAMES_free(names);
	return ok;
}

static X509 *finish(X509 *x, bool ok, EVP_PKEY *signer, struct cs_error *e)
{
	char why[256];
	if (ok && X509_sign(x, signer, EVP_sha256()))
		return x;
	cs_error_set(e, -EIO, "OpenSSL could not make a certificate: %s", cs_openssl_why(why, sizeof(why)));
	X509_free(x);
	return NULL;
}

static bool set_common(X509 *x, EVP_PKEY *key, struct cs_ca_validity validity)
{
	return x && X509_set_version(x, X509_VERSION_3) && set_serial(x) && set_validity(x, validity) &&
	       X509_set_pubkey(x, key);
}

X509 *cs_ca_new_root(EVP_PKEY *key, const char *trust_domain, struct cs_ca_validity validity, struct cs_error *e)
{
	char uri[512];
	snprintf(uri, sizeof(uri), "spiffe://%s", trust_domain);
	X509 *x = X509_new();
	bool ok = set_common(x, key, validity) && set_root_names(x) &&
		  add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
		  add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE") &&
		  add_extension(x, x, NID_subject_key_identifier, "hash") && add_uri(x, uri);
	return finish(x, ok, key, e);
}

X509 *cs_ca_new_leaf(EVP_PKEY *key, const char *spiffe_id, struct cs_ca_validity validity, EVP_PKEY *ca_key,
	X509 *ca_cert, struct cs_error *e)
{
	X509 *x = X509_new();
	bool ok = set_common(x, key, validity) && set_leaf_names(x, ca_cert) &&
		  add_extension(x, ca_cert, NID_key_usage, "critical,digitalSignature,keyEncipherment,keyAgreement") &&
		  add_extension(x, ca_cert, NID_ext_key_usage, "serverAuth,clientAuth") &&
		  add_extension(x, ca_cert, NID_basic_constraints, "critical,CA:FALSE") &&
		  add_extension(x, ca_cert, NID_subject_key_identifier, "hash") &&
		  add_extension(x, ca_cert, NID_authority_key_identifier, "keyid:always") && add_uri(x, spiffe_id);
	return finish(x, ok, ca_key, e);
}
