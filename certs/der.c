#include "der.h"

#include <stdio.h>
#include <string.h>
#include "utf8.h"

/* X.690 10.1: definite lengths in the fewest bytes. Returns the bytes used by the length, 0 if malformed. */
static size_t read_length(const uint8_t *p, size_t left, size_t *ret)
{
	if (left == 0)
		return 0;
	if (p[0] < 0x80) {
		*ret = p[0];
		return 1;
	}
	size_t n = p[0] & 0x7f;
	if (n == 0 || n > 4 || n >= left) /* n = 0 is the indefinite form */
		return 0;
	uint32_t len = 0;
	for (size_t i = 1; i <= n; i++)
		len = len << 8 | p[i];
	if (p[1] == 0 || len < 0x80) /* not the fewest bytes */
		return 0;
	*ret = len;
	return 1 + n;
}

bool cs_der_next(struct cs_der *cursor, struct cs_der_element *ret)
{
	size_t len;
	if (cursor->len < 2 || (cursor->data[0] & 0x1f) == 0x1f) /* a tag of more than one byte: X.509 has none */
		return false;
	size_t used = read_length(cursor->data + 1, cursor->len - 1, &len);
	if (used == 0 || len > cursor->len - 1 - used)
		return false;
	ret->tag = cursor->data[0];
	ret->body = (struct cs_der){cursor->data + 1 + used, len};
	ret->whole = (struct cs_der){cursor->data, 1 + used + len};
	cursor->data += ret->whole.len;
	cursor->len -= ret->whole.len;
	return true;
}

bool cs_der_take(struct cs_der *cursor, uint8_t tag, struct cs_der *ret)
{
	struct cs_der_element element;
	if (!cs_der_next(cursor, &element) || element.tag != tag)
		return false;
	*ret = element.body;
	return true;
}

bool cs_der_take_optional(struct cs_der *cursor, uint8_t tag, struct cs_der *ret, bool *ret_present)
{
	*ret_present = cursor->len > 0 && cursor->data[0] == tag;
	return !*ret_present || cs_der_take(cursor, tag, ret);
}

bool cs_der_equal(struct cs_der a, struct cs_der b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* X.690 11.1: TRUE is 0xff. */
bool cs_der_boolean(struct cs_der body, bool *ret)
{
	if (body.len != 1 || (body.data[0] != 0x00 && body.data[0] != 0xff))
		return false;
	*ret = body.data[0] != 0;
	return true;
}

/* X.690 8.3.2: the first nine bits are not all the same. */
bool cs_der_unsigned(struct cs_der body, struct cs_der *ret)
{
	if (body.len == 0 || (body.data[0] & 0x80))
		return false;
	if (body.data[0] == 0) {
		if (body.len > 1 && !(body.data[1] & 0x80))
			return false;
		body.data++;
		body.len--;
	}
	*ret = body;
	return true;
}

bool cs_der_octet_bits(struct cs_der body, struct cs_der *ret)
{
	if (body.len == 0 || body.data[0] != 0)
		return false;
	*ret = (struct cs_der){body.data + 1, body.len - 1};
	return true;
}

bool cs_der_named_bits(struct cs_der body, uint16_t *ret)
{
	if (body.len < 1 || body.len > 3 || body.data[0] > 7)
		return false;
	unsigned unused = body.data[0];
	uint16_t bits = 0;
	if (body.len == 1) { /* no bit set */
		if (unused != 0)
			return false;
		*ret = 0;
		return true;
	}
	/* The last bit of what is there must be set, the unused ones must not. */
	if ((body.data[body.len - 1] & ((2u << unused) - 1)) != 1u << unused)
		return false;
	for (size_t i = 0; i < (body.len - 1) * 8; i++)
		if (body.data[1 + i / 8] & (0x80 >> i % 8))
			bits |= (uint16_t)(1u << i);
	*ret = bits;
	return true;
}

/* n decimal digits to a number, -1 if there is anything else. */
static int digits(const uint8_t *p, size_t n)
{
	int value = 0;
	for (size_t i = 0; i < n; i++) {
		if (p[i] < '0' || p[i] > '9')
			return -1;
		value = value * 10 + (p[i] - '0');
	}
	return value;
}

/* Days from 1970-01-01 to the first of a month, proleptic Gregorian. */
static int64_t days_before(int year, int month)
{
	static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
	int64_t y = year - 1; /* whole years, and their leap days, before this one */
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return y * 365 + y / 4 - y / 100 + y / 400 - 719162 + before[month - 1] + (leap && month > 2);
}

static bool to_unix_s(int year, const uint8_t *rest, int64_t *ret)
{
	static const int length[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int month = digits(rest, 2), day = digits(rest + 2, 2);
	int hour = digits(rest + 4, 2), minute = digits(rest + 6, 2), second = digits(rest + 8, 2);
	if (year < 0 || month < 1 || month > 12 || hour < 0 || hour > 23 || minute < 0 || minute > 59)
		return false;
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	if (second < 0 || second > 59 || day < 1 || day > length[month - 1] + (month == 2 && leap))
		return false;
	*ret = ((days_before(year, month) + day - 1) * 24 + hour) * 3600 + minute * 60 + second;
	return true;
}

bool cs_der_time_unix_s(const struct cs_der_element *element, int64_t *ret)
{
	const uint8_t *p = element->body.data;
	size_t len = element->body.len;
	if (element->tag == CS_DER_UTC_TIME && len == 13 && p[12] == 'Z') {
		int year = digits(p, 2);
		return year >= 0 && to_unix_s(year + (year < 50 ? 2000 : 1900), p + 2, ret);
	}
	if (element->tag == CS_DER_GENERALIZED_TIME && len == 15 && p[14] == 'Z') {
		int year = digits(p, 4);
		return year >= 2050 && to_unix_s(year, p + 4, ret);
	}
	return false;
}

bool cs_der_string(const struct cs_der_element *element)
{
	struct cs_der rest = element->body;
	bool utf8 = element->tag == CS_DER_UTF8_STRING;
	if (!utf8 && element->tag != CS_DER_PRINTABLE_STRING && element->tag != CS_DER_IA5_STRING)
		return false;
	while (rest.len > 0) {
		size_t n = cs_utf8_length(rest.data, rest.len);
		if (n == 0 || (n > 1 && !utf8))
			return false;
		rest.data += n;
		rest.len -= n;
	}
	return true;
}

bool cs_der_oid(struct cs_der body)
{
	bool start = true;
	for (size_t i = 0; i < body.len; i++) {
		if (start && body.data[i] == 0x80) /* X.690 8.19.2: fewest bytes */
			return false;
		start = !(body.data[i] & 0x80);
	}
	return body.len > 0 && start;
}

const char *cs_der_oid_text(struct cs_der oid, char text[static CS_DER_OID_TEXT])
{
	const size_t size = CS_DER_OID_TEXT;
	size_t used = 0;
	uint64_t arc = 0;
	bool first = true;
	text[0] = '\0';
	for (size_t i = 0; i < oid.len && used < size; i++) {
		arc = arc << 7 | (oid.data[i] & 0x7f);
		if (oid.data[i] & 0x80)
			continue;
		if (first)
			used += (size_t)snprintf(text, size, "%u.%llu", arc < 80 ? (unsigned)arc / 40 : 2,
				(unsigned long long)(arc < 80 ? arc % 40 : arc - 80));
		else
			used += (size_t)snprintf(text + used, size - used, ".%llu", (unsigned long long)arc);
		first = false;
		arc = 0;
	}
	if (used >= size)
		memcpy(text + size - 4, "...", 4);
	return text;
}
