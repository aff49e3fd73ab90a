/* The DER walker: one form and no other. Expected values by hand from X.690, RFC 5280 and RFC 3629. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "der.h"

#define BYTES(text) ((struct cs_der){(const uint8_t *)(text), sizeof(text) - 1})

static void elements(void **state)
{
	(void)state;
	static const struct {
		struct cs_der bytes;
		bool ok;
		size_t body, left;
	} cases[] = {
		{BYTES("\x04\x00"), true, 0, 0},
		{BYTES("\x04\x02"
		       "abc"),
			true, 2, 1},
		{BYTES(""), false, 0, 0}, {BYTES("\x04"), false, 0, 0},
		{BYTES("\x04\x02"
		       "a"),
			false, 0, 0},
		{BYTES("\x30\x80\x00\x00"), false, 0, 0},         /* indefinite */
		{BYTES("\x04\x81\x01x"), false, 0, 0},            /* fits in one byte */
		{BYTES("\x04\x82\x00\x80"), false, 0, 0},         /* leading zero */
		{BYTES("\x04\x84\xff\xff\xff\xff"), false, 0, 0}, /* beyond the end */
		{BYTES("\x04\x85\x01\x00\x00\x00\x00"), false, 0, 0}, {BYTES("\x04\xff"), false, 0, 0},
		{BYTES("\x1f\x01\x00"), false, 0, 0}, /* a tag of two bytes */
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_der cursor = cases[i].bytes;
		struct cs_der_element element;
		assert_int_equal(cs_der_next(&cursor, &element), cases[i].ok);
		if (cases[i].ok) {
			assert_int_equal(element.body.len, cases[i].body);
			assert_int_equal(cursor.len, cases[i].left);
		}
	}
	/* 128 bytes need the long form, 127 must not have it. */
	uint8_t bytes[131] = {0x04, 0x81, 0x80};
	struct cs_der cursor = {bytes, 131}, body;
	assert_true(cs_der_take(&cursor, CS_DER_OCTET_STRING, &body));
	assert_int_equal(body.len, 128);
	bytes[2] = 127;
	cursor = (struct cs_der){bytes, 130};
	assert_false(cs_der_take(&cursor, CS_DER_OCTET_STRING, &body));
	cursor = BYTES("\x04\x00");
	assert_false(cs_der_take(&cursor, CS_DER_INTEGER, &body));
}

static void optional(void **state)
{
	(void)state;
	struct cs_der cursor = BYTES("\x01\x01\xff\x02\x01\x05"), body;
	bool present;
	assert_true(cs_der_take_optional(&cursor, CS_DER_INTEGER, &body, &present));
	assert_false(present);
	assert_int_equal(cursor.len, 6);
	assert_true(cs_der_take_optional(&cursor, CS_DER_BOOLEAN, &body, &present));
	assert_true(present);
	assert_true(cs_der_take_optional(&cursor, CS_DER_INTEGER, &body, &present));
	assert_true(present);
	assert_true(cs_der_take_optional(&cursor, CS_DER_INTEGER, &body, &present)); /* the end */
	assert_false(present);
	cursor = BYTES("\x02\x05\x01");
	assert_false(cs_der_take_optional(&cursor, CS_DER_INTEGER, &body, &present));
}

static void numbers(void **state)
{
	(void)state;
	struct cs_der n;
	bool b;
	assert_true(cs_der_unsigned(BYTES("\x00"), &n) && n.len == 0);
	assert_true(cs_der_unsigned(BYTES("\x7f"), &n) && n.len == 1);
	assert_true(cs_der_unsigned(BYTES("\x00\x80"), &n) && n.len == 1 && n.data[0] == 0x80);
	assert_false(cs_der_unsigned(BYTES(""), &n));
	assert_false(cs_der_unsigned(BYTES("\x80"), &n));
	assert_false(cs_der_unsigned(BYTES("\x00\x7f"), &n));
	assert_false(cs_der_unsigned(BYTES("\x00\x00"), &n));
	assert_true(cs_der_boolean(BYTES("\xff"), &b) && b);
	assert_true(cs_der_boolean(BYTES("\x00"), &b) && !b);
	assert_false(cs_der_boolean(BYTES("\x01"), &b));
	assert_false(cs_der_boolean(BYTES(""), &b));
	assert_false(cs_der_boolean(BYTES("\xff\xff"), &b));
}

static void bits(void **state)
{
	(void)state;
	struct cs_der octets;
	uint16_t named;
	assert_true(cs_der_octet_bits(BYTES("\x00xy"), &octets) && octets.len == 2);
	assert_false(cs_der_octet_bits(BYTES("\x01\xfe"), &octets));
	assert_false(cs_der_octet_bits(BYTES(""), &octets));
	assert_true(cs_der_named_bits(BYTES("\x07\x80"), &named) && named == 1 << 0);
	assert_true(cs_der_named_bits(BYTES("\x01\x06"), &named) && named == (1 << 5 | 1 << 6));
	assert_true(cs_der_named_bits(BYTES("\x00\x01"), &named) && named == 1 << 7);
	assert_true(cs_der_named_bits(BYTES("\x07\x00\x80"), &named) && named == 1 << 8);
	assert_true(cs_der_named_bits(BYTES("\x00"), &named) && named == 0);
	assert_false(cs_der_named_bits(BYTES("\x01"), &named));
	assert_false(cs_der_named_bits(BYTES("\x00\x80"), &named));     /* trailing zero bits */
	assert_false(cs_der_named_bits(BYTES("\x05\xa8"), &named));     /* an unused bit is set */
	assert_false(cs_der_named_bits(BYTES("\x00\x80\x00"), &named)); /* a trailing zero byte */
	assert_false(cs_der_named_bits(BYTES("\x08\x80"), &named));
	assert_false(cs_der_named_bits(BYTES("\x00\x01\x01\x01"), &named));
	assert_false(cs_der_named_bits(BYTES(""), &named));
}

static bool at(uint8_t tag, const char *text, int64_t *ret)
{
	struct cs_der_element element = {.tag = tag, .body = {(const uint8_t *)text, strlen(text)}};
	return cs_der_time_unix_s(&element, ret);
}

static void times(void **state)
{
	(void)state;
	int64_t t;
	assert_true(at(CS_DER_UTC_TIME, "700101000000Z", &t) && t == 0);
	assert_true(at(CS_DER_UTC_TIME, "691231235959Z", &t) && t == -1);
	assert_true(at(CS_DER_UTC_TIME, "270115080000Z", &t) && t == 1800000000);
	assert_true(at(CS_DER_UTC_TIME, "000229120000Z", &t) && t == 951825600);
	assert_true(at(CS_DER_UTC_TIME, "491231235959Z", &t) && t == 2524607999);
	assert_true(at(CS_DER_UTC_TIME, "500101000000Z", &t) && t == -631152000); /* 1950 */
	assert_true(at(CS_DER_GENERALIZED_TIME, "20500101000000Z", &t) && t == 2524608000);
	assert_true(at(CS_DER_GENERALIZED_TIME, "99991231235959Z", &t) && t == 253402300799);
	static const char *const utc[] = {"", "Z", "7001010000Z", "700101000000", "700101000000z", "700101000000+0000",
		"70010100000 Z", "700001000000Z", "701301000000Z", "700100000000Z", "700132000000Z", "700431000000Z",
		"700101240000Z", "700101006000Z", "700101000060Z", "010229000000Z", "7O0101000000Z", "-10101000000Z"};
	for (size_t i = 0; i < sizeof(utc) / sizeof(utc[0]); i++)
		if (at(CS_DER_UTC_TIME, utc[i], &t))
			fail_msg("accepted: %s", utc[i]);
	static const char *const generalized[] = {"20491231235959Z", "21000229000000Z", "20500101000000.0Z",
		"20500101000000", "205001010000Z", "2050010100000 Z"};
	for (size_t i = 0; i < sizeof(generalized) / sizeof(generalized[0]); i++)
		if (at(CS_DER_GENERALIZED_TIME, generalized[i], &t))
			fail_msg("accepted: %s", generalized[i]);
	assert_false(at(CS_DER_INTEGER, "700101000000Z", &t));
}

/* Each day from 1950 through 2149, as the C library counts. */
static void every_day(void **state)
{
	(void)state;
	for (time_t day = -631152000; day < 5680281600; day += 86400) {
		struct tm tm;
		char text[32];
		int64_t t;
		gmtime_r(&day, &tm);
		bool utc = tm.tm_year < 150;
		strftime(text, sizeof(text), utc ? "%y%m%d%H%M%SZ" : "%Y%m%d%H%M%SZ", &tm);
		if (!at(utc ? CS_DER_UTC_TIME : CS_DER_GENERALIZED_TIME, text, &t) || t != day)
			fail_msg("%s", text);
	}
}

static void oids(void **state)
{
	(void)state;
	char text[CS_DER_OID_TEXT];
	assert_true(cs_der_oid(BYTES("\x55\x1d\x11")));
	assert_false(cs_der_oid(BYTES("")));
	assert_false(cs_der_oid(BYTES("\x55\x9d")));     /* no end */
	assert_false(cs_der_oid(BYTES("\x55\x80\x01"))); /* not the fewest bytes */
	assert_string_equal(cs_der_oid_text(BYTES("\x55\x1d\x11"), text), "2.5.29.17");
	assert_string_equal(cs_der_oid_text(BYTES("\x2a\x86\x48\xce\x3d\x02\x01"), text), "1.2.840.10045.2.1");
	assert_string_equal(cs_der_oid_text(BYTES("\x88\x37\x03"), text), "2.999.3");
	assert_string_equal(cs_der_oid_text(BYTES(""), text), "");
	uint8_t many[256];
	memset(many, 0x7f, sizeof(many));
	cs_der_oid_text((struct cs_der){many, sizeof(many)}, text);
	assert_int_equal(strlen(text), CS_DER_OID_TEXT - 1);
	assert_string_equal(text + CS_DER_OID_TEXT - 4, "...");
}

static bool is_string(uint8_t tag, struct cs_der body)
{
	struct cs_der_element element = {.tag = tag, .body = body};
	return cs_der_string(&element);
}

static void strings(void **state)
{
	(void)state;
	assert_true(is_string(CS_DER_UTF8_STRING, BYTES("")));
	assert_true(is_string(CS_DER_UTF8_STRING, BYTES("a\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xef\xbf\xbf")));
	assert_true(is_string(CS_DER_UTF8_STRING, BYTES("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf")));
	assert_true(is_string(CS_DER_PRINTABLE_STRING, BYTES("US")));
	assert_true(is_string(CS_DER_IA5_STRING, BYTES("a@b")));
	static const struct cs_der bad[] = {
		{(const uint8_t *)"\x80", 1},
		{(const uint8_t *)"\xc1\xbf", 2},
		{(const uint8_t *)"\xc2", 1},
		{(const uint8_t *)"\xc2x", 2},
		{(const uint8_t *)"\xe0\x9f\xbf", 3},
		{(const uint8_t *)"\xed\xa0\x80", 3},
		{(const uint8_t *)"\xef\xbf", 2},
		{(const uint8_t *)"\xf0\x8f\xbf\xbf", 4},
		{(const uint8_t *)"\xf4\x90\x80\x80", 4},
		{(const uint8_t *)"\xf5\x80\x80\x80", 4},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (is_string(CS_DER_UTF8_STRING, bad[i]))
			fail_msg("accepted: number %zu", i);
	assert_false(is_string(CS_DER_PRINTABLE_STRING, BYTES("\xc2\x80")));
	assert_false(is_string(CS_DER_OCTET_STRING, BYTES("a")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(elements),
		cmocka_unit_test(optional),
		cmocka_unit_test(numbers),
		cmocka_unit_test(bits),
		cmocka_unit_test(times),
		cmocka_unit_test(every_day),
		cmocka_unit_test(oids),
		cmocka_unit_test(strings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
