/* lib/error: texts that a person reads, whatever a peer put into them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "error.h"

static void test_set(void **state)
{
	(void)state;
	struct cs_error e;
	assert_int_equal(cs_error_set(&e, -EINVAL, "port %d is %s", 0, "taken"), -EINVAL);
	assert_int_equal(e.code, -EINVAL);
	assert_int_equal(e.reason, CS_R_NONE);
	assert_string_equal(e.text, "port 0 is taken");
	assert_int_equal(cs_error_reason(&e, -EPERM, CS_R_REVOKED, "no"), -EPERM);
	assert_int_equal(e.reason, CS_R_REVOKED);
	assert_int_equal(cs_error_set(&e, -EIO, "%s", ""), -EIO);
	assert_int_equal(e.reason, CS_R_NONE); /* nothing is left of the one before */
}

static void test_null(void **state)
{
	(void)state;
	assert_int_equal(cs_error_set(NULL, -EINVAL, "x"), -EINVAL);
	assert_int_equal(cs_error_reason(NULL, -EINVAL, CS_R_REVOKED, "x"), -EINVAL);
	assert_int_equal(cs_error_errno(NULL, -EINVAL, "x"), -EINVAL);
	assert_true(cs_error_prefix(NULL, "x") < 0); /* never turns an error into success */
}

static void test_errno(void **state)
{
	(void)state;
	struct cs_error e;
	assert_int_equal(cs_error_errno(&e, -EACCES, "open %s", "/x"), -EACCES);
	assert_string_equal(e.text, "open /x: Permission denied");
	cs_error_errno(&e, -99999, "odd");
	assert_string_equal(e.text, "odd: unknown error");
}

static void test_prefix(void **state)
{
	(void)state;
	struct cs_error e;
	cs_error_reason(&e, -EINVAL, CS_R_UNTRUSTED, "line 3: bad");
	assert_int_equal(cs_error_prefix(&e, "file %s", "a.yaml"), -EINVAL);
	assert_string_equal(e.text, "file a.yaml: line 3: bad");
	assert_int_equal(e.reason, CS_R_UNTRUSTED);
}

static void test_long(void **state)
{
	(void)state;
	struct cs_error e;
	char big[3000];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	cs_error_set(&e, -EINVAL, "%s", big);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	assert_string_equal(e.text + sizeof(e.text) - 5, "x...");
	cs_error_prefix(&e, "before");
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	assert_memory_equal(e.text, "before: xxx", 11);
	cs_error_errno(&e, -EACCES, "%s", big); /* the end does not fit, and nothing else breaks */
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	cs_error_prefix(&e, "%s", big);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

static void test_hostile(void **state)
{
	(void)state;
	struct cs_error e;
	cs_error_set(&e, -EINVAL, "peer said '%s'",
		"a\nb\x1b[31m\x7f\xc2\x9b"
		"2Jc\xc3\xa9");
	assert_string_equal(e.text, "peer said 'a?b?[31m???2Jc\xc3\xa9'");
	/* protobuf's strings are UTF-8, or the reader at the other end drops the whole message */
	cs_error_set(&e, -EINVAL, "%s", "a\xff\xc3x\xed\xa0\x80\xc3");
	assert_string_equal(e.text, "a??x????");
	char longest[sizeof(e.text)];
	for (size_t i = 0; i < sizeof(longest); i++)
		longest[i] = i % 2 ? '\xa9' : '\xc3';
	longest[sizeof(longest) - 1] = '\0';
	cs_error_set(&e, -EINVAL, "x%s", longest); /* cut in the midst of a character */
	assert_string_equal(e.text + strlen(e.text) - 4, "?...");
	cs_error_set(&e, -EINVAL, "%s", longest);
	cs_error_prefix(&e, "p");
	assert_string_equal(e.text + strlen(e.text) - 4, "?...");
}

static void test_reasons(void **state)
{
	(void)state;
	const int numbers[] = {
#define CS_X(number, c, name, sentence) number,
		CS_REASONS(CS_X)
#undef CS_X
	};
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		assert_true(numbers[i] >= 0 && numbers[i] < CS_REASON_MAX);
		assert_true(i == 0 || numbers[i] > numbers[i - 1]);
		const char *name = cs_reason_name((enum cs_reason)numbers[i]);
		assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz-"), strlen(name));
		assert_int_equal(cs_reason_parse(name), numbers[i]);
		assert_true(strlen(cs_reason_sentence((enum cs_reason)numbers[i])) > 5);
	}
	assert_string_equal(cs_reason_name((enum cs_reason)9999), "unknown-reason");
	assert_int_equal(cs_reason_parse("no-such-reason"), -1);
	assert_int_equal(cs_reason_parse(""), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_set), cmocka_unit_test(test_null),
		cmocka_unit_test(test_errno), cmocka_unit_test(test_prefix), cmocka_unit_test(test_long),
		cmocka_unit_test(test_hostile), cmocka_unit_test(test_reasons)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
