/* The X.509-SVID profile (SPIFFE X509-SVID.md, RFC 5280 4), checked by our own walk over the very bytes that came.
 * It says nothing about signatures: that is what two libraries are for (verify.h). */
#ifndef CS_PROFILE_H
#define CS_PROFILE_H

#include "algorithm.h"
#include "spiffe_id.h"

#define CS_SERIAL_MAX 20 /* octets (RFC 5280 4.1.2.2) */
#define CS_KID_MAX    32 /* octets of a key identifier that we can record */

struct cs_key_id {
	uint8_t len; /* 0: the certificate has none */
	uint8_t bytes[CS_KID_MAX];
};

/* What one certificate says. Spans are borrowed from the DER. */
struct cs_cert_facts {
	uint8_t serial[CS_SERIAL_MAX];               /* big endian, right-aligned */
	int64_t not_before_unix_s, not_after_unix_s; /* both inclusive (RFC 5280 4.1.2.5) */
	struct cs_key_id subject_key_id, authority_key_id;
	struct cs_key_facts key;
	enum cs_signature_algorithm signature;
	struct cs_der spki, issuer, subject; /* with tag and length */
	struct cs_der tbs;                   /* what the signature covers, with tag and length */
};

/* Reasons: CERTIFICATE_MALFORMED (not DER, not X.509), ALGORITHM_REFUSED, SVID_PROFILE. What *ret
 * and *ret_id hold on failure means nothing. */
CS_MUST_USE int cs_profile_leaf(
	struct cs_der der, struct cs_cert_facts *ret, struct cs_spiffe_id *ret_id, struct cs_error *e);
/* An intermediate or a root. */
CS_MUST_USE int cs_profile_authority(struct cs_der der, struct cs_cert_facts *ret, struct cs_error *e);

#endif
