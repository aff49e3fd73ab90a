/* cli/doc and cli/endpoint: fields of the protos as texts, and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "doc.h"
#include "endpoint.h"

static void same(json_t *value, const char *json)
{
	char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
	assert_string_equal(text, json);
	free(text);
	json_decref(value);
}

static void test_texts(void **state)
{
	(void)state;
	uint8_t four[] = {10, 0, 0, 1}, sixteen[16] = {0xfd, [15] = 5}, odd[] = {1, 2, 3};
	Countersign__V1__Address a = COUNTERSIGN__V1__ADDRESS__INIT;
	ProtobufCBinaryData bytes = {.len = 3, .data = odd}, big = {.len = 100, .data = calloc(100, 1)};
	same(cs_doc_text("a\xc3\xa9"), "\"a\xc3\xa9\"");
	same(cs_doc_text("a\xff\xc3"), "\"a??\"");
	same(cs_doc_text(NULL), "\"\"");
	same(cs_doc_hex(&bytes), "\"010203\"");
	json_t *hex = cs_doc_hex(&big);
	assert_int_equal(json_string_length(hex), 128);
	json_decref(hex);
	free(big.data);
	same(cs_doc_mark(UINT64_MAX), "\"0xffffffffffffffff\"");
	a.ip.data = four;
	a.ip.len = 4;
	same(cs_doc_address(&a), "\"10.0.0.1\"");
	a.ip.data = sixteen;
	a.ip.len = 16;
	same(cs_doc_address(&a), "\"fd00::5\"");
	a.ip.data = odd;
	a.ip.len = 3;
	same(cs_doc_address(&a), "\"(3 bytes)\"");
	same(cs_doc_address(NULL), "\"(0 bytes)\"");
	same(cs_doc_verdict(COUNTERSIGN__V1__VERDICT__VERDICT_REQUIRE), "\"require\"");
	same(cs_doc_verdict((Countersign__V1__Verdict)-1), "\"unknown\"");
	same(cs_doc_verdict((Countersign__V1__Verdict)3), "\"unknown\"");
}

static void test_reasons(void **state)
{
	(void)state;
	Countersign__V1__Reason r = COUNTERSIGN__V1__REASON__INIT;
	same(cs_doc_reason(NULL), "null");
	same(cs_doc_reason(&r), "null");
	r.name = (char *)"untrusted";
	same(cs_doc_reason(&r), "{\"name\":\"untrusted\",\"detail\":\"\"}");
	r.name = (char *)"";
	r.detail = (char *)"odd";
	same(cs_doc_reason(&r), "{\"name\":\"\",\"detail\":\"odd\"}");
}

static void test_sort(void **state)
{
	(void)state;
	json_t *list = json_loads(
		"[{\"k\":2,\"i\":0},{\"k\":1,\"i\":1},{\"k\":2,\"i\":2},{\"k\":-1,\"i\":3},{\"k\":1,\"i\":4}]", 0,
		NULL);
	cs_doc_sort(list, "k"); /* what is equal stays in its order */
	same(list, "[{\"k\":-1,\"i\":3},{\"k\":1,\"i\":1},{\"k\":1,\"i\":4},{\"k\":2,\"i\":0},{\"k\":2,\"i\":2}]");
	list = json_loads("[{\"k\":\"b\"},{\"k\":\"a\"},{}]", 0, NULL);
	cs_doc_sort(list, "k");
	assert_int_equal(json_array_size(list), 3);
	json_decref(list);
	list = json_array();
	cs_doc_sort(list, "k");
	same(list, "[]");
}

static void test_labels(void **state)
{
	(void)state;
	Countersign__V1__Label label, *list = &label;
	struct cs_error e;
	char good[] = "k8s:io.kubernetes.pod.namespace=a=b:c", empty[] = "k8s:app=";
	assert_int_equal(cs_label_parse(good, &label, &e), 0);
	assert_string_equal(label.source, "k8s");
	assert_string_equal(label.key, "io.kubernetes.pod.namespace");
	assert_string_equal(label.value, "a=b:c");
	same(cs_doc_labels(&list, 1), "[\"k8s:io.kubernetes.pod.namespace=a=b:c\"]");
	assert_int_equal(cs_label_parse(empty, &label, &e), 0);
	assert_string_equal(label.value, "");
	const char *const bad[] = {"", ":", "a", "a=b", "a:b", ":a=b", "a:=b"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *copy = strdup(bad[i]);
		assert_true(cs_label_parse(copy, &label, &e) < 0);
		free(copy);
	}
}

static void test_steps(void **state)
{
	(void)state;
	for (int i = 1; i <= 5; i++) {
		const char *name = cs_step_name((Countersign__V1__Step)i);
		assert_int_equal(cs_step_parse(name, strlen(name)), i);
		assert_non_null(strstr(cs_step_names, name));
	}
	assert_string_equal(cs_step_name((Countersign__V1__Step)0), "unknown");
	assert_string_equal(cs_step_name((Countersign__V1__Step)99), "unknown");
	assert_int_equal(cs_step_parse("enforce", 7), 0);
	assert_int_equal(cs_step_parse("", 0), 0);
}

static void test_addresses(void **state)
{
	(void)state;
	uint8_t bytes[16];
	size_t len;
	struct cs_error e;
	assert_int_equal(cs_address_parse("10.0.0.1", bytes, &len, &e), 0);
	assert_int_equal(len, 4);
	assert_int_equal(cs_address_parse("::1", bytes, &len, &e), 0);
	assert_int_equal(len, 16);
	const char *const bad[] = {"", "10.0.0", "10.0.0.1/24", "fe80::1%eth0", "localhost", "010.0.0.1", " 10.0.0.1"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_true(cs_address_parse(bad[i], bytes, &len, &e) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_texts), cmocka_unit_test(test_reasons),
		cmocka_unit_test(test_sort), cmocka_unit_test(test_labels), cmocka_unit_test(test_steps),
		cmocka_unit_test(test_addresses)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
