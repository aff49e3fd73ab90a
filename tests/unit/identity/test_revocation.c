#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include "revocation.h"

#define NOW  1000000
#define LIFE 86400

static uint8_t bytes[65];

static Countersign__V1__Revocation by_identity(uint32_t id)
{
	Countersign__V1__Revocation r = COUNTERSIGN__V1__REVOCATION__INIT;
	r.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY;
	r.identity = id;
	r.why = (char *)"key leaked";
	return r;
}

static void good(Countersign__V1__Revocation *r, const char *subject)
{
	struct cs_error e = {0};
	char text[320];
	if (cs_revocation_check(r, NOW, LIFE, &e) < 0)
		fail_msg("%s", e.text);
	cs_revocation_subject(r, text);
	assert_string_equal(text, subject);
}

static void bad(Countersign__V1__Revocation *r, const char *word)
{
	struct cs_error e = {0};
	assert_int_equal(cs_revocation_check(r, NOW, LIFE, &e), -EINVAL);
	if (!strstr(e.text, word))
		fail_msg("%s", e.text);
}

static void test_subjects(void **state)
{
	(void)state;
	Countersign__V1__Revocation r = by_identity(300);
	Countersign__V1__Placement placement = COUNTERSIGN__V1__PLACEMENT__INIT;
	Countersign__V1__SerialOf serial = COUNTERSIGN__V1__SERIAL_OF__INIT;
	good(&r, "identity 300");
	r = by_identity(2);
	bad(&r, "identity 2 (world) can never authenticate");
	r = by_identity(1u << 24 | 7);
	bad(&r, "(CIDR) can never authenticate");

	r.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE;
	r.node = (char *)"n7";
	good(&r, "node n7");
	r.node = (char *)"";
	bad(&r, "no name");

	r.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT;
	r.placement = &placement;
	placement.identity = 300;
	placement.node = (char *)"n7";
	good(&r, "identity 300 on node n7");
	placement.identity = 6;
	bad(&r, "remote-node");
	placement.identity = 300;
	placement.node = (char *)"";
	bad(&r, "no name");

	r.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256;
	bytes[31] = 0xab;
	r.leaf_sha256 = (ProtobufCBinaryData){.data = bytes, .len = 32};
	good(&r, "leaf 00000000000000000000000000000000000000000000000000000000000000ab");
	r.leaf_sha256.len = 31;
	bad(&r, "32 bytes, not 31");

	r.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY;
	r.authority = (ProtobufCBinaryData){.data = bytes, .len = 2};
	good(&r, "authority 0000");
	r.authority.len = 65;
	bad(&r, "1 to 64 bytes, not of 65");
	r.authority.len = 0;
	bad(&r, "not of 0");

	r.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL;
	r.serial = &serial;
	serial.serial = (ProtobufCBinaryData){.data = bytes, .len = 1};
	bad(&r, "subject key id"); /* a serial number alone names nothing */
	serial.authority = (ProtobufCBinaryData){.data = bytes, .len = 1};
	good(&r, "serial 00 of authority 00");
	serial.serial.len = 21;
	bad(&r, "1 to 20 bytes, not 21");

	r.subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT__NOT_SET;
	bad(&r, "names one of");
}

static void test_time(void **state)
{
	(void)state;
	Countersign__V1__Revocation r = by_identity(300);
	good(&r, "identity 300");
	assert_int_equal(r.from_unix_s, NOW);
	assert_int_equal(r.until_unix_s, NOW + LIFE);
	r.until_unix_s = NOW + LIFE + 1;
	good(&r, "identity 300");
	assert_int_equal(r.until_unix_s, NOW + LIFE + 1);
	r.until_unix_s = NOW + LIFE - 1;
	bad(&r, "would end in 86399 s");
	r.until_unix_s = -1;
	bad(&r, "would end in 0 s");
	r.until_unix_s = NOW + CS_REVOCATION_LIFE_MAX_S + 1;
	bad(&r, "at most 10 years");
	r.until_unix_s = INT64_MAX;
	bad(&r, "at most 10 years");
}

static void test_why(void **state)
{
	char text[CS_REVOCATION_WHY_MAX + 2];
	(void)state;
	Countersign__V1__Revocation r = by_identity(300);
	r.why = (char *)"";
	bad(&r, "say why");
	r.why = (char *)"a\nb";
	bad(&r, "control characters");
	memset(text, 'x', sizeof(text));
	text[CS_REVOCATION_WHY_MAX + 1] = '\0';
	r.why = text;
	bad(&r, "say why");
	text[CS_REVOCATION_WHY_MAX] = '\0';
	good(&r, "identity 300");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_subjects),
		cmocka_unit_test(test_time),
		cmocka_unit_test(test_why),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
