/* A walker over DER (X.690): bounds are checked, only the one definite, minimal form is accepted, nothing is
 * allocated and nothing is copied. It knows what X.509 needs and no more: tags of one byte, lengths below 2^32. */
#ifndef CS_DER_H
#define CS_DER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that somebody else owns; also a cursor over what is left. One DER certificate, where one is asked for. */
struct cs_der {
	const uint8_t *data;
	size_t len;
};

enum cs_der_tag {
	CS_DER_BOOLEAN = 0x01,
	CS_DER_INTEGER = 0x02,
	CS_DER_BIT_STRING = 0x03,
	CS_DER_OCTET_STRING = 0x04,
	CS_DER_NULL = 0x05,
	CS_DER_OID = 0x06,
	CS_DER_UTF8_STRING = 0x0c,
	CS_DER_PRINTABLE_STRING = 0x13,
	CS_DER_IA5_STRING = 0x16,
	CS_DER_UTC_TIME = 0x17,
	CS_DER_GENERALIZED_TIME = 0x18,
	CS_DER_SEQUENCE = 0x30,
	CS_DER_SET = 0x31,
};
#define CS_DER_CONTEXT(n)             (0x80 | (n)) /* [n] IMPLICIT, primitive */
#define CS_DER_CONTEXT_CONSTRUCTED(n) (0xa0 | (n)) /* [n] EXPLICIT, or IMPLICIT of a constructed type */

struct cs_der_element {
	uint8_t tag;
	struct cs_der body;  /* the content */
	struct cs_der whole; /* with tag and length */
};

/* All of these return false and leave *ret as it was if the form is wrong; the cursor is then of no use. */

/* The next element of whatever tag. */
bool cs_der_next(struct cs_der *cursor, struct cs_der_element *ret);
/* The next element, which must have this tag; its content. */
bool cs_der_take(struct cs_der *cursor, uint8_t tag, struct cs_der *ret);
/* If the next element has this tag, take it: *ret_present says so. False only for a malformed element. */
bool cs_der_take_optional(struct cs_der *cursor, uint8_t tag, struct cs_der *ret, bool *ret_present);

bool cs_der_equal(struct cs_der a, struct cs_der b);
/* Contents of primitive types, checked for the DER form of each. */
bool cs_der_boolean(struct cs_der body, bool *ret);
/* Minimal, not negative. *ret without the leading zero byte; empty for the value 0. */
bool cs_der_unsigned(struct cs_der body, struct cs_der *ret);
/* A BIT STRING whose bits are whole bytes. */
bool cs_der_octet_bits(struct cs_der body, struct cs_der *ret);
/* A BIT STRING of named bits (X.690 11.2.2: no trailing zero bits): bit n of the type is bit n of *ret. At most 16. */
bool cs_der_named_bits(struct cs_der body, uint16_t *ret);
/* UTCTime or GeneralizedTime in the form of RFC 5280 4.1.2.5 (seconds, Z, no fraction, UTCTime through 2049). */
bool cs_der_time_unix_s(const struct cs_der_element *element, int64_t *ret);
/* A UTF8String, PrintableString or IA5String whose bytes are UTF-8, or ASCII. */
bool cs_der_string(const struct cs_der_element *element);
/* Does body hold a well-formed OBJECT IDENTIFIER content? */
bool cs_der_oid(struct cs_der body);
/* "1.2.840.10045.2.1", for errors; what does not fit ends in "...". Returns text. */
#define CS_DER_OID_TEXT 64
const char *cs_der_oid_text(struct cs_der body, char text[static CS_DER_OID_TEXT]);

#endif
