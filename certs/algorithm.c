#include "algorithm.h"

#include <errno.h>
#include <string.h>

#define OID(...)                                                                                                       \
	{                                                                                                              \
		(const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})                                 \
	}

static const struct cs_der oid_ec_public_key = OID(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01);
static const struct cs_der oid_rsa_encryption = OID(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01);
static const struct cs_der oid_rsassa_pss = OID(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a);
static const struct cs_der oid_mgf1 = OID(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08);

static const struct curve {
	struct cs_der oid;
	enum cs_key_algorithm algorithm;
	unsigned bits;
} curves[] = {
	{OID(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07), CS_KEY_P256, 256},
	{OID(0x2b, 0x81, 0x04, 0x00, 0x22), CS_KEY_P384, 384},
};

static const struct signature {
	struct cs_der oid;
	bool null; /* the parameters: NULL, or absent (RFC 4055 5, RFC 5758 3.2) */
	enum cs_signature_algorithm algorithm;
} signatures[] = {
	{OID(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02), false, CS_SIG_ECDSA_SHA256},
	{OID(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03), false, CS_SIG_ECDSA_SHA384},
	{OID(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04), false, CS_SIG_ECDSA_SHA512},
	{OID(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b), true, CS_SIG_RSA_SHA256},
	{OID(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c), true, CS_SIG_RSA_SHA384},
	{OID(0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d), true, CS_SIG_RSA_SHA512},
};

static const struct pss_hash {
	struct cs_der oid;
	unsigned salt; /* bytes, as many as the hash has */
	enum cs_signature_algorithm algorithm;
} pss_hashes[] = {
	{OID(0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01), 32, CS_SIG_PSS_SHA256},
	{OID(0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02), 48, CS_SIG_PSS_SHA384},
	{OID(0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03), 64, CS_SIG_PSS_SHA512},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int refused(struct cs_error *e, const char *what, struct cs_der oid)
{
	char text[CS_DER_OID_TEXT];
	return cs_error_reason(
		e, -EPROTONOSUPPORT, CS_R_ALGORITHM_REFUSED, "%s %s is not accepted", what, cs_der_oid_text(oid, text));
}

static int malformed(struct cs_error *e, const char *what)
{
	return cs_error_reason(e, -EBADMSG, CS_R_CERTIFICATE_MALFORMED, "%s is malformed", what);
}

/* AlgorithmIdentifier ::= SEQUENCE { OBJECT IDENTIFIER, parameters ANY OPTIONAL }; content is its body. */
static bool identifier(struct cs_der content, struct cs_der *ret_oid, struct cs_der *ret_parameters)
{
	struct cs_der oid;
	struct cs_der_element parameters;
	if (!cs_der_take(&content, CS_DER_OID, &oid) || !cs_der_oid(oid))
		return false;
	struct cs_der rest = content;
	if (rest.len > 0 && (!cs_der_next(&rest, &parameters) || rest.len > 0))
		return false;
	*ret_oid = oid;
	*ret_parameters = content;
	return true;
}

static bool is_null(struct cs_der parameters)
{
	return parameters.len == 2 && parameters.data[0] == CS_DER_NULL && parameters.data[1] == 0;
}

/* RFC 5480 2.1.1, 2.2: a named curve, an uncompressed point. */
static int ec_key(struct cs_der parameters, struct cs_der point, struct cs_key_facts *ret, struct cs_error *e)
{
	struct cs_der name;
	if (!cs_der_take(&parameters, CS_DER_OID, &name))
		return cs_error_reason(e, -EPROTONOSUPPORT, CS_R_ALGORITHM_REFUSED,
			"an elliptic curve that is spelled out is not accepted; only P-256 and P-384 by name are");
	for (size_t i = 0; i < COUNT(curves); i++) {
		if (!cs_der_equal(name, curves[i].oid))
			continue;
		if (point.len != 1 + 2 * (curves[i].bits / 8) || point.data[0] != 0x04)
			return cs_error_reason(e, -EPROTONOSUPPORT, CS_R_ALGORITHM_REFUSED,
				"the point of the %s key is not in uncompressed form",
				cs_key_algorithm_name(curves[i].algorithm));
		*ret = (struct cs_key_facts){curves[i].algorithm, curves[i].bits, point};
		return 0;
	}
	return refused(e, "the elliptic curve", name);
}

static unsigned bit_length(struct cs_der number)
{
	unsigned bits = (unsigned)number.len * 8;
	for (uint8_t top = number.len ? number.data[0] : 0xff; !(top & 0x80); top = (uint8_t)(top << 1))
		bits--;
	return bits;
}

/* RFC 8017 A.1.1: SEQUENCE { modulus INTEGER, publicExponent INTEGER }. */
static int rsa_key(struct cs_der key, struct cs_key_facts *ret, struct cs_error *e)
{
	struct cs_der bytes = key, body, modulus, exponent;
	if (!cs_der_take(&bytes, CS_DER_SEQUENCE, &body) || bytes.len > 0 ||
		!cs_der_take(&body, CS_DER_INTEGER, &modulus) || !cs_der_take(&body, CS_DER_INTEGER, &exponent) ||
		body.len > 0 || !cs_der_unsigned(modulus, &modulus) || !cs_der_unsigned(exponent, &exponent))
		return malformed(e, "the RSA key");
	unsigned bits = modulus.len > 0 ? bit_length(modulus) : 0;
	if (bits < CS_RSA_BITS_MIN || bits > CS_RSA_BITS_MAX)
		return cs_error_reason(e, -EPROTONOSUPPORT, CS_R_ALGORITHM_REFUSED,
			"an RSA key of %u bits is not accepted; %d to %d are", bits, CS_RSA_BITS_MIN, CS_RSA_BITS_MAX);
	/* FIPS 186-5 5.4: odd, above 2^16; and small, because who verifies pays for it. */
	if (exponent.len < 3 || exponent.len > 4 || !(exponent.data[exponent.len - 1] & 1) ||
		!(modulus.data[modulus.len - 1] & 1))
		return cs_error_reason(e, -EPROTONOSUPPORT, CS_R_ALGORITHM_REFUSED,
			"the RSA key is not one: modulus and exponent have to be odd, the exponent between 2^16 and "
			"2^32");
	*ret = (struct cs_key_facts){CS_KEY_RSA, bits, key};
	return 0;
}

int cs_algorithm_key(struct cs_der spki, struct cs_key_facts *ret, struct cs_error *e)
{
	struct cs_der body, algorithm, key, oid, parameters;
	if (!cs_der_take(&spki, CS_DER_SEQUENCE, &body) || spki.len > 0 ||
		!cs_der_take(&body, CS_DER_SEQUENCE, &algorithm) || !cs_der_take(&body, CS_DER_BIT_STRING, &key) ||
		body.len > 0 || !cs_der_octet_bits(key, &key) || !identifier(algorithm, &oid, &parameters))
		return malformed(e, "the public key");
	if (cs_der_equal(oid, oid_ec_public_key))
		return ec_key(parameters, key, ret, e);
	if (!cs_der_equal(oid, oid_rsa_encryption))
		return refused(e, "the key algorithm", oid);
	if (!is_null(parameters)) /* RFC 3279 2.3.1 */
		return malformed(e, "the RSA key");
	return rsa_key(key, ret, e);
}

/* HashAlgorithm: an AlgorithmIdentifier whose parameters are NULL or absent (RFC 4055 2.1). */
static const struct pss_hash *pss_hash(struct cs_der content)
{
	struct cs_der oid, parameters;
	if (!identifier(content, &oid, &parameters) || (parameters.len > 0 && !is_null(parameters)))
		return NULL;
	for (size_t i = 0; i < COUNT(pss_hashes); i++)
		if (cs_der_equal(oid, pss_hashes[i].oid))
			return &pss_hashes[i];
	return NULL;
}

/* RFC 4055 3.1: SEQUENCE { [0] hash, [1] MGF1 with the same hash, [2] salt length }; the trailer field has only its
 * default, which DER leaves out. The defaults of the others (SHA-1, 20) are refused by not being there. */
static bool pss(struct cs_der parameters, enum cs_signature_algorithm *ret)
{
	struct cs_der body, hash_tag, mgf_tag, salt_tag, hash, mgf, oid, mgf_parameters, mgf_hash, salt;
	if (!cs_der_take(&parameters, CS_DER_SEQUENCE, &body) || parameters.len > 0 ||
		!cs_der_take(&body, CS_DER_CONTEXT_CONSTRUCTED(0), &hash_tag) ||
		!cs_der_take(&body, CS_DER_CONTEXT_CONSTRUCTED(1), &mgf_tag) ||
		!cs_der_take(&body, CS_DER_CONTEXT_CONSTRUCTED(2), &salt_tag) || body.len > 0)
		return false;
	if (!cs_der_take(&hash_tag, CS_DER_SEQUENCE, &hash) || hash_tag.len > 0 ||
		!cs_der_take(&mgf_tag, CS_DER_SEQUENCE, &mgf) || mgf_tag.len > 0 ||
		!cs_der_take(&salt_tag, CS_DER_INTEGER, &salt) || salt_tag.len > 0)
		return false;
	if (!identifier(mgf, &oid, &mgf_parameters) || !cs_der_equal(oid, oid_mgf1) ||
		!cs_der_take(&mgf_parameters, CS_DER_SEQUENCE, &mgf_hash))
		return false;
	const struct pss_hash *h = pss_hash(hash);
	if (!h || pss_hash(mgf_hash) != h || salt.len != 1 || salt.data[0] != h->salt)
		return false;
	*ret = h->algorithm;
	return true;
}

int cs_algorithm_signature(struct cs_der content, enum cs_signature_algorithm *ret, struct cs_error *e)
{
	struct cs_der oid, parameters;
	if (!identifier(content, &oid, &parameters))
		return malformed(e, "the signature algorithm");
	if (cs_der_equal(oid, oid_rsassa_pss)) {
		if (!pss(parameters, ret))
			return cs_error_reason(e, -EPROTONOSUPPORT, CS_R_ALGORITHM_REFUSED,
				"RSA-PSS with these parameters is not accepted; SHA-256, SHA-384 or SHA-512 for both "
				"hashes and a salt as long as the hash are");
		return 0;
	}
	for (size_t i = 0; i < COUNT(signatures); i++) {
		if (!cs_der_equal(oid, signatures[i].oid))
			continue;
		if (signatures[i].null ? !is_null(parameters) : parameters.len > 0)
			return malformed(e, "the signature algorithm");
		*ret = signatures[i].algorithm;
		return 0;
	}
	return refused(e, "the signature algorithm", oid);
}

const char *cs_key_algorithm_name(enum cs_key_algorithm algorithm)
{
	static const char *const names[] = {
		[CS_KEY_NONE] = "none", [CS_KEY_P256] = "P-256", [CS_KEY_P384] = "P-384", [CS_KEY_RSA] = "RSA"};
	return names[algorithm];
}
