#include "profile.h"

#include <errno.h>
#include <string.h>

#define EXTENSIONS_MAX 32 /* of one certificate: comparing each with each stays cheap */

enum key_usage {
	DIGITAL_SIGNATURE = 1 << 0,
	KEY_CERT_SIGN = 1 << 5,
	CRL_SIGN = 1 << 6,
};

/* What the extensions of one certificate said. */
struct seen {
	bool leaf; /* which of the two profiles applies */
	bool san_critical, usage, extended, name_constraints;
	bool ca, basic_critical, usage_critical, path_len_present;
	bool server_auth, client_auth;
	uint16_t usage_bits;
	unsigned uris;
	struct cs_der uri;
};

typedef bool (*extension_fn)(struct cs_der value, bool critical, struct seen *seen, struct cs_cert_facts *facts);

static int malformed(struct cs_error *e, const char *what)
{
	return cs_error_reason(e, -EBADMSG, CS_R_CERTIFICATE_MALFORMED, "the certificate is malformed: %s", what);
}

static const char *kind(const struct seen *seen)
{
	return seen->leaf ? "leaf" : "authority";
}

/* sentence: "<clause>: what is wrong". */
static int broken(struct cs_error *e, const struct seen *seen, const char *sentence)
{
	return cs_error_reason(e, -EPROTO, CS_R_SVID_PROFILE, "the %s breaks the profile: %s", kind(seen), sentence);
}

/* ---- extensions, one by one ------------------------------------------------------------------------------------ */

/* RFC 5280 4.2.1.9: SEQUENCE { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER OPTIONAL } */
static bool basic_constraints(struct cs_der value, bool critical, struct seen *seen, struct cs_cert_facts *facts)
{
	(void)facts;
	struct cs_der body, flag, number;
	bool present;
	if (!cs_der_take(&value, CS_DER_SEQUENCE, &body) || value.len > 0 ||
		!cs_der_take_optional(&body, CS_DER_BOOLEAN, &flag, &present))
		return false;
	if (present && (!cs_der_boolean(flag, &seen->ca) || !seen->ca)) /* X.690 11.5: a default is not encoded */
		return false;
	if (!cs_der_take_optional(&body, CS_DER_INTEGER, &number, &seen->path_len_present) || body.len > 0)
		return false;
	if (seen->path_len_present && (!cs_der_unsigned(number, &number) || number.len > 1))
		return false;
	seen->basic_critical = critical;
	return true;
}

/* RFC 5280 4.2.1.3 */
static bool key_usage(struct cs_der value, bool critical, struct seen *seen, struct cs_cert_facts *facts)
{
	(void)facts;
	struct cs_der bits;
	seen->usage = true;
	seen->usage_critical = critical;
	return cs_der_take(&value, CS_DER_BIT_STRING, &bits) && value.len == 0 &&
	       cs_der_named_bits(bits, &seen->usage_bits);
}

/* RFC 5280 4.2.1.12: SEQUENCE SIZE (1..MAX) OF OBJECT IDENTIFIER */
static bool extended_key_usage(struct cs_der value, bool critical, struct seen *seen, struct cs_cert_facts *facts)
{
	(void)critical, (void)facts;
	static const uint8_t id_kp[] = {0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03};
	struct cs_der body, oid;
	if (!cs_der_take(&value, CS_DER_SEQUENCE, &body) || value.len > 0 || body.len == 0)
		return false;
	while (body.len > 0) {
		if (!cs_der_take(&body, CS_DER_OID, &oid) || !cs_der_oid(oid))
			return false;
		if (oid.len == sizeof(id_kp) + 1 && memcmp(oid.data, id_kp, sizeof(id_kp)) == 0) {
			seen->server_auth |= oid.data[sizeof(id_kp)] == 1;
			seen->client_auth |= oid.data[sizeof(id_kp)] == 2;
		}
	}
	seen->extended = true;
	return true;
}

/* RFC 5280 4.2.1.6: SEQUENCE { type-id OBJECT IDENTIFIER, value [0] EXPLICIT ANY } */
static bool other_name(struct cs_der body)
{
	struct cs_der oid, value;
	struct cs_der_element any;
	return cs_der_take(&body, CS_DER_OID, &oid) && cs_der_oid(oid) &&
	       cs_der_take(&body, CS_DER_CONTEXT_CONSTRUCTED(0), &value) && body.len == 0 &&
	       cs_der_next(&value, &any) && value.len == 0;
}

/* RFC 5280 4.2.1.6: SEQUENCE SIZE (1..MAX) OF GeneralName; a URI is [6] IA5String. Other kinds are only walked over. */
static bool subject_alt_name(struct cs_der value, bool critical, struct seen *seen, struct cs_cert_facts *facts)
{
	(void)facts;
	struct cs_der body;
	struct cs_der_element name;
	if (!cs_der_take(&value, CS_DER_SEQUENCE, &body) || value.len > 0 || body.len == 0)
		return false;
	while (body.len > 0) {
		if (!cs_der_next(&body, &name))
			return false;
		switch (name.tag) {
		case CS_DER_CONTEXT(6): /* URI */
			if (seen->uris++ == 0)
				seen->uri = name.body;
			break;
		case CS_DER_CONTEXT_CONSTRUCTED(0):
			if (!other_name(name.body))
				return false;
			break;
		case CS_DER_CONTEXT(1):             /* e-mail address */
		case CS_DER_CONTEXT(2):             /* DNS name */
		case CS_DER_CONTEXT_CONSTRUCTED(3): /* X.400 address */
		case CS_DER_CONTEXT_CONSTRUCTED(4): /* directory name */
		case CS_DER_CONTEXT_CONSTRUCTED(5): /* EDI party name */
		case CS_DER_CONTEXT(7):             /* IP address */
		case CS_DER_CONTEXT(8):             /* registered ID */
			break;
		default:
			return false;
		}
	}
	seen->san_critical = critical;
	return true;
}

static bool key_id(struct cs_der value, struct cs_key_id *ret)
{
	if (value.len == 0 || value.len > CS_KID_MAX)
		return false;
	ret->len = (uint8_t)value.len;
	memcpy(ret->bytes, value.data, value.len);
	return true;
}

/* RFC 5280 4.2.1.2: OCTET STRING, not critical */
static bool subject_key_id(struct cs_der value, bool critical, struct seen *seen, struct cs_cert_facts *facts)
{
	(void)seen;
	struct cs_der id;
	return !critical && cs_der_take(&value, CS_DER_OCTET_STRING, &id) && value.len == 0 &&
	       key_id(id, &facts->subject_key_id);
}

/* RFC 5280 4.2.1.1: SEQUENCE { [0] key id, [1] issuer, [2] serial }, all optional, the last two together; not critical */
static bool authority_key_id(struct cs_der value, bool critical, struct seen *seen, struct cs_cert_facts *facts)
{
	(void)seen;
	struct cs_der body, id, issuer, serial;
	bool has_id, has_issuer, has_serial;
	if (critical || !cs_der_take(&value, CS_DER_SEQUENCE, &body) || value.len > 0 ||
		!cs_der_take_optional(&body, CS_DER_CONTEXT(0), &id, &has_id) ||
		!cs_der_take_optional(&body, CS_DER_CONTEXT_CONSTRUCTED(1), &issuer, &has_issuer) ||
		!cs_der_take_optional(&body, CS_DER_CONTEXT(2), &serial, &has_serial) || body.len > 0)
		return false;
	return has_issuer == has_serial && (!has_id || key_id(id, &facts->authority_key_id));
}

/* RFC 5280 4.2.1.10. Libraries differ in what they enforce, so that one in the path refuses the path. */
static bool name_constraints(struct cs_der value, bool critical, struct seen *seen, struct cs_cert_facts *facts)
{
	(void)value, (void)critical, (void)facts;
	seen->name_constraints = true;
	return true;
}

static const struct {
	uint8_t oid[3];
	extension_fn read;
	const char *malformed;
} extensions[] = {
	{{0x55, 0x1d, 14}, subject_key_id, "subject key identifier"},
	{{0x55, 0x1d, 15}, key_usage, "key usage"},
	{{0x55, 0x1d, 17}, subject_alt_name, "subject alternative name"},
	{{0x55, 0x1d, 19}, basic_constraints, "basic constraints"},
	{{0x55, 0x1d, 30}, name_constraints, "name constraints"},
	{{0x55, 0x1d, 35}, authority_key_id, "authority key identifier"},
	{{0x55, 0x1d, 37}, extended_key_usage, "extended key usage"},
};

static int read_extension(struct cs_der oid, bool critical, struct cs_der value, struct seen *seen,
	struct cs_cert_facts *facts, struct cs_error *e)
{
	for (size_t i = 0; i < sizeof(extensions) / sizeof(extensions[0]); i++) {
		if (oid.len != 3 || memcmp(oid.data, extensions[i].oid, 3) != 0)
			continue;
		if (!extensions[i].read(value, critical, seen, facts))
			return malformed(e, extensions[i].malformed);
		return 0;
	}
	/* RFC 5280 4.2: a critical extension that is not understood refuses the certificate. */
	char text[CS_DER_OID_TEXT];
	if (critical)
		return cs_error_reason(e, -EPROTO, CS_R_SVID_PROFILE,
			"the %s breaks the profile: RFC 5280 4.2: its critical extension %s is not understood",
			kind(seen), cs_der_oid_text(oid, text));
	return 0;
}

/* RFC 5280 4.1: Extensions ::= SEQUENCE SIZE (1..MAX) OF SEQUENCE { OID, BOOLEAN DEFAULT FALSE, OCTET STRING } */
static int read_extensions(struct cs_der list, struct seen *seen, struct cs_cert_facts *facts, struct cs_error *e)
{
	struct cs_der all, one, oid[EXTENSIONS_MAX], flag, value;
	char text[CS_DER_OID_TEXT];
	size_t n = 0;
	if (!cs_der_take(&list, CS_DER_SEQUENCE, &all) || list.len > 0 || all.len == 0)
		return malformed(e, "extensions");
	while (all.len > 0) {
		bool present, critical = false;
		if (n == EXTENSIONS_MAX)
			return malformed(e, "more than 32 extensions");
		if (!cs_der_take(&all, CS_DER_SEQUENCE, &one) || !cs_der_take(&one, CS_DER_OID, &oid[n]) ||
			!cs_der_oid(oid[n]) || !cs_der_take_optional(&one, CS_DER_BOOLEAN, &flag, &present) ||
			(present && (!cs_der_boolean(flag, &critical) || !critical)) ||
			!cs_der_take(&one, CS_DER_OCTET_STRING, &value) || one.len > 0)
			return malformed(e, "an extension");
		/* RFC 5280 4.2: not more than one instance of an extension. */
		for (size_t i = 0; i < n; i++)
			if (cs_der_equal(oid[i], oid[n]))
				return cs_error_reason(e, -EPROTO, CS_R_SVID_PROFILE,
					"the %s breaks the profile: RFC 5280 4.2: it has the extension %s twice",
					kind(seen), cs_der_oid_text(oid[n], text));
		int r = read_extension(oid[n++], critical, value, seen, facts, e);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- the certificate around them ------------------------------------------------------------------------------- */

/* RFC 5280 4.1.2.4: SEQUENCE OF SET SIZE (1..MAX) OF SEQUENCE { OID, string }. Takes it whole. Of the kinds of strings
 * only those that new certificates may have. */
static bool take_name(struct cs_der *cursor, struct cs_der *ret)
{
	struct cs_der_element name, value;
	struct cs_der sets, set, pair, oid;
	if (!cs_der_next(cursor, &name) || name.tag != CS_DER_SEQUENCE)
		return false;
	for (sets = name.body; sets.len > 0;) {
		if (!cs_der_take(&sets, CS_DER_SET, &set) || set.len == 0)
			return false;
		while (set.len > 0)
			if (!cs_der_take(&set, CS_DER_SEQUENCE, &pair) || !cs_der_take(&pair, CS_DER_OID, &oid) ||
				!cs_der_oid(oid) || !cs_der_next(&pair, &value) || !cs_der_string(&value) ||
				pair.len > 0)
				return false;
	}
	*ret = name.whole;
	return true;
}

static bool empty_name(struct cs_der name)
{
	return name.len == 2;
}

static bool take_validity(struct cs_der *cursor, struct cs_cert_facts *facts)
{
	struct cs_der body;
	struct cs_der_element from, to;
	return cs_der_take(cursor, CS_DER_SEQUENCE, &body) && cs_der_next(&body, &from) && cs_der_next(&body, &to) &&
	       body.len == 0 && cs_der_time_unix_s(&from, &facts->not_before_unix_s) &&
	       cs_der_time_unix_s(&to, &facts->not_after_unix_s);
}

static int read_serial(struct cs_der number, const struct seen *seen, struct cs_cert_facts *facts, struct cs_error *e)
{
	/* RFC 5280 4.1.2.2: a positive integer of at most 20 octets. */
	if (number.len > CS_SERIAL_MAX)
		return broken(e, seen, "RFC 5280 4.1.2.2: its serial number has more than 20 octets");
	if (number.len > 0 && (number.data[0] & 0x80))
		return broken(e, seen, "RFC 5280 4.1.2.2: its serial number is negative");
	if (!cs_der_unsigned(number, &number))
		return malformed(e, "serial number");
	if (number.len == 0)
		return broken(e, seen, "RFC 5280 4.1.2.2: its serial number is zero");
	memset(facts->serial, 0, sizeof(facts->serial));
	memcpy(facts->serial + CS_SERIAL_MAX - number.len, number.data, number.len);
	return 0;
}

/* RFC 5280 4.1: Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, BIT STRING } and not a byte more. */
static int read_outer(struct cs_der der, struct cs_der *ret_tbs, struct cs_cert_facts *facts,
	struct cs_der *ret_algorithm, struct cs_error *e)
{
	struct cs_der body, signature;
	struct cs_der_element tbs, algorithm;
	if (!cs_der_take(&der, CS_DER_SEQUENCE, &body))
		return malformed(e, "not a DER sequence");
	if (der.len > 0)
		return malformed(e, "there are bytes after it");
	if (!cs_der_next(&body, &tbs) || tbs.tag != CS_DER_SEQUENCE || !cs_der_next(&body, &algorithm) ||
		algorithm.tag != CS_DER_SEQUENCE || !cs_der_take(&body, CS_DER_BIT_STRING, &signature) ||
		body.len > 0 || !cs_der_octet_bits(signature, &signature))
		return malformed(e, "not a certificate");
	facts->tbs = tbs.whole;
	*ret_tbs = tbs.body;
	*ret_algorithm = algorithm.whole;
	return cs_algorithm_signature(algorithm.body, &facts->signature, e);
}

static int read_certificate(struct cs_der der, struct seen *seen, struct cs_cert_facts *facts, struct cs_error *e)
{
	struct cs_der tbs, outer, version, number, serial, list;
	struct cs_der_element inner, spki;
	bool present;
	int r = read_outer(der, &tbs, facts, &outer, e);
	if (r < 0)
		return r;
	/* RFC 5280 4.1.2.1: version 3, since there are extensions. */
	if (!cs_der_take_optional(&tbs, CS_DER_CONTEXT_CONSTRUCTED(0), &version, &present))
		return malformed(e, "version");
	if (!present || !cs_der_take(&version, CS_DER_INTEGER, &number) || version.len > 0 || number.len != 1 ||
		number.data[0] != 2)
		return broken(e, seen, "RFC 5280 4.1.2.1: it is not of version 3");
	if (!cs_der_take(&tbs, CS_DER_INTEGER, &serial))
		return malformed(e, "serial number");
	if ((r = read_serial(serial, seen, facts, e)) < 0)
		return r;
	/* RFC 5280 4.1.1.2: the signature algorithm inside is the one outside. */
	if (!cs_der_next(&tbs, &inner))
		return malformed(e, "signature algorithm");
	if (!cs_der_equal(inner.whole, outer))
		return broken(e, seen, "RFC 5280 4.1.1.2: it names two different signature algorithms");
	if (!take_name(&tbs, &facts->issuer))
		return malformed(e, "issuer");
	if (!take_validity(&tbs, facts))
		return malformed(e, "validity");
	if (!take_name(&tbs, &facts->subject))
		return malformed(e, "subject");
	if (!cs_der_next(&tbs, &spki))
		return malformed(e, "public key");
	facts->spki = spki.whole;
	if ((r = cs_algorithm_key(spki.whole, &facts->key, e)) < 0)
		return r;
	/* RFC 5280 4.1.2.8: no unique identifiers. What is left is the extensions. */
	if (!cs_der_take_optional(&tbs, CS_DER_CONTEXT_CONSTRUCTED(3), &list, &present) || tbs.len > 0)
		return malformed(e, "what follows the public key");
	return present ? read_extensions(list, seen, facts, e) : 0;
}

/* ---- the rules ------------------------------------------------------------------------------------------------- */

/* Rules for both kinds. */
static int check_common(const struct seen *seen, const struct cs_cert_facts *facts, struct cs_error *e)
{
	/* RFC 5280 4.1.2.4: the issuer has a name. */
	if (empty_name(facts->issuer))
		return broken(e, seen, "RFC 5280 4.1.2.4: its issuer is empty");
	/* X509-SVID 4.3: key usage is there, and critical. */
	if (!seen->usage)
		return broken(e, seen, "X509-SVID 4.3: it has no key usage");
	if (!seen->usage_critical)
		return broken(e, seen, "X509-SVID 4.3: its key usage is not critical");
	/* X509-SVID 4.4: an extended key usage has both serverAuth and clientAuth. (Of an authority OpenSSL asks the same.) */
	if (seen->extended && !(seen->server_auth && seen->client_auth))
		return broken(e, seen, "X509-SVID 4.4: its extended key usage lacks serverAuth or clientAuth");
	/* X509-SVID 4.2: name constraints are for authorities; we enforce none, and so accept none. */
	if (seen->name_constraints)
		return broken(e, seen, "X509-SVID 4.2: it has name constraints, which are not supported");
	/* RFC 5280 4.2.1.9: a path length is for authorities. */
	if (seen->path_len_present && !seen->ca)
		return broken(e, seen, "RFC 5280 4.2.1.9: it has a path length and is no authority");
	return 0;
}

static int check_leaf(
	const struct seen *seen, const struct cs_cert_facts *facts, struct cs_spiffe_id *ret_id, struct cs_error *e)
{
	/* X509-SVID 4.1: the cA flag of a leaf is false. */
	if (seen->ca)
		return broken(e, seen, "X509-SVID 4.1: it is an authority (CA:TRUE)");
	/* X509-SVID 4.3: a leaf has digitalSignature, and neither keyCertSign nor cRLSign. */
	if (!(seen->usage_bits & DIGITAL_SIGNATURE))
		return broken(e, seen, "X509-SVID 4.3: its key usage lacks digitalSignature");
	if (seen->usage_bits & KEY_CERT_SIGN)
		return broken(e, seen, "X509-SVID 4.3: its key usage has keyCertSign");
	if (seen->usage_bits & CRL_SIGN)
		return broken(e, seen, "X509-SVID 4.3: its key usage has cRLSign");
	/* RFC 5280 4.2.1.1: what is not self-signed names the key that signed it. */
	if (facts->authority_key_id.len == 0)
		return broken(e, seen, "RFC 5280 4.2.1.1: it has no authority key identifier");
	/* X509-SVID 2: exactly one URI. */
	if (seen->uris != 1)
		return broken(
			e, seen, seen->uris ? "X509-SVID 2: it has more than one URI" : "X509-SVID 2: it has no URI");
	/* X509-SVID 3.1: without a subject the alternative name is critical. */
	if (empty_name(facts->subject) && !seen->san_critical)
		return broken(e, seen, "X509-SVID 3.1: its subject is empty and its alternative name not critical");
	/* X509-SVID 5.2: the scheme is spiffe, and the ID is one. */
	struct cs_error why;
	if (cs_spiffe_id_parse(ret_id, seen->uri.data, seen->uri.len, &why) < 0)
		return cs_error_reason(e, -EPROTO, CS_R_SVID_PROFILE,
			"the leaf breaks the profile: X509-SVID 5.2: its URI is no SPIFFE ID: %s", why.text);
	/* X509-SVID 3.1, 5.2: the path is not the root. */
	if (cs_spiffe_id_path(ret_id)[0] == '\0')
		return broken(e, seen, "X509-SVID 5.2: its SPIFFE ID has no path");
	return 0;
}

static int check_authority(const struct seen *seen, const struct cs_cert_facts *facts, struct cs_error *e)
{
	/* X509-SVID 4.1: the cA flag of a signing certificate is true; RFC 5280 4.2.1.9: and critical. */
	if (!seen->ca)
		return broken(e, seen, "X509-SVID 4.1: it is no authority (not CA:TRUE)");
	if (!seen->basic_critical)
		return broken(e, seen, "RFC 5280 4.2.1.9: its basic constraints are not critical");
	/* X509-SVID 4.3: a signing certificate has keyCertSign. */
	if (!(seen->usage_bits & KEY_CERT_SIGN))
		return broken(e, seen, "X509-SVID 4.3: its key usage lacks keyCertSign");
	/* RFC 5280 4.1.2.6: an authority has a name. */
	if (empty_name(facts->subject))
		return broken(e, seen, "RFC 5280 4.1.2.6: its subject is empty");
	/* RFC 5280 4.2.1.2: an authority names its key. */
	if (facts->subject_key_id.len == 0)
		return broken(e, seen, "RFC 5280 4.2.1.2: it has no subject key identifier");
	/* RFC 5280 4.2.1.1: so does it the key that signed it, unless that is its own. */
	if (facts->authority_key_id.len == 0 && !cs_der_equal(facts->issuer, facts->subject))
		return broken(e, seen, "RFC 5280 4.2.1.1: it has no authority key identifier");
	/* Its URI, if any, is not looked at: the SPIFFE specifications' own sample has one that does not parse. */
	return 0;
}

/* ret_id NULL: an authority. */
static int check(struct cs_der der, struct cs_cert_facts *ret, struct cs_spiffe_id *ret_id, struct cs_error *e)
{
	struct seen seen = {.leaf = ret_id != NULL};
	ret->subject_key_id.len = ret->authority_key_id.len = 0;
	int r = read_certificate(der, &seen, ret, e);
	if (r == 0)
		r = check_common(&seen, ret, e);
	if (r == 0)
		r = ret_id ? check_leaf(&seen, ret, ret_id, e) : check_authority(&seen, ret, e);
	return r;
}

int cs_profile_leaf(struct cs_der der, struct cs_cert_facts *ret, struct cs_spiffe_id *ret_id, struct cs_error *e)
{
	return check(der, ret, ret_id, e);
}

int cs_profile_authority(struct cs_der der, struct cs_cert_facts *ret, struct cs_error *e)
{
	return check(der, ret, NULL, e);
}
