#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "labels.h"

static const struct {
	const char *text, *canonical; /* NULL: refused */
} texts[] = {
	{"", ""},
	{"k8s:app=web", "k8s:app=web;"},
	{"k8s:app=web;", "k8s:app=web;"},
	{"app=web", "unspec:app=web;"},
	{"app", "unspec:app=;"},
	{"app=", "unspec:app=;"},
	{"k8s:b=2;k8s:a=1;container:B=3", "container:B=3;k8s:a=1;k8s:b=2;"},
	{"k8s:a=x=y:z", "k8s:a=x=y:z;"},
	{"k8s:io.kubernetes.pod.namespace=prod;k8s:a/b=c d", "k8s:a/b=c d;k8s:io.kubernetes.pod.namespace=prod;"},
	{"reserved:host", "reserved:host=;"},
	{"k8s:a=1;k8s:a=1", NULL},
	{"k8s:a=1;container:a=1", NULL}, /* a key has one source */
	{"any:a=1", NULL},
	{"K8S:a=1", NULL},
	{"docker:a=1", NULL},
	{":a=1", NULL},
	{"k8s:=1", NULL},
	{"=1", NULL},
	{";", NULL},
	{"k8s:a=1;;k8s:b=1", NULL},
	{"k8s:a:b=1", NULL},
	{"k8s:a b=1", NULL},
	{"k8s:a=\n", NULL},
	{"k8s:a=\x7f", NULL},
	{"k8s:a=\xc3\xa4", NULL},
	{"k8s:\x01=1", NULL},
};

static void texts_become_canonical(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct cs_labels l = {0}, again = {0};
		struct cs_error e = {0};
		int r = cs_labels_parse(texts[i].text, strlen(texts[i].text), &l, &e);
		if (!texts[i].canonical) {
			if (r >= 0)
				fail_msg("'%s' was taken", texts[i].text);
			assert_int_equal(e.reason, CS_R_LABELS_INVALID);
			assert_true(strlen(e.text) > 0);
			assert_int_equal(l.n, 0);
			continue;
		}
		if (r < 0)
			fail_msg("'%s': %s", texts[i].text, e.text);
		char *text = cs_labels_format(&l);
		assert_string_equal(text, texts[i].canonical);
		assert_int_equal(cs_labels_parse(text, strlen(text), &again, &e), 0);
		assert_true(cs_labels_equal(&l, &again));
		free(text);
		cs_labels_fini(&l);
		cs_labels_fini(&again);
	}
}

static void a_nul_byte_is_refused(void **state)
{
	(void)state;
	struct cs_labels l = {0};
	struct cs_error e;
	assert_true(cs_labels_parse("k8s:a\0b=1", 9, &l, &e) < 0);
	assert_true(cs_labels_parse("k8s:a=1\0", 8, &l, &e) < 0);
}

static int add_n(struct cs_labels *l, size_t key, size_t value, int number, struct cs_error *e)
{
	char k[1024], v[1024];
	snprintf(k, sizeof(k), "%0*d", (int)key, number);
	memset(v, 'v', value);
	v[value] = '\0';
	return cs_labels_add(l, "k8s", k, v, e);
}

static void limits_hold_to_the_byte(void **state)
{
	(void)state;
	struct cs_labels l = {0};
	struct cs_error e;
	assert_int_equal(add_n(&l, CS_LABEL_KEY_MAX, CS_LABEL_VALUE_MAX, 1, &e), 0);
	assert_int_equal(add_n(&l, CS_LABEL_KEY_MAX + 1, 1, 2, &e), -EINVAL);
	assert_int_equal(add_n(&l, 10, CS_LABEL_VALUE_MAX + 1, 3, &e), -EINVAL);
	assert_int_equal(l.n, 1);
	cs_labels_fini(&l);

	for (int i = 0; i < CS_LABELS_MAX; i++)
		assert_int_equal(add_n(&l, 4, 1, i, &e), 0);
	assert_int_equal(add_n(&l, 4, 1, CS_LABELS_MAX, &e), -EINVAL);
	assert_non_null(strstr(e.text, "64"));
	cs_labels_fini(&l);

	/* 16 labels of "k8s:" + 100 + "=" + 150 + ";" are 4096 bytes exactly. */
	for (int i = 0; i < 16; i++)
		assert_int_equal(add_n(&l, 100, 150, i, &e), 0);
	char *text = cs_labels_format(&l);
	assert_int_equal(strlen(text), CS_LABELS_TEXT_MAX);
	free(text);
	assert_int_equal(add_n(&l, 1, 0, 1, &e), -EINVAL);
	assert_int_equal(e.reason, CS_R_LABELS_INVALID);
	cs_labels_fini(&l);
}

static void claims_exclude_what_the_system_gives(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int ok;
	} claims[] = {{"k8s:app=web", 1}, {"app=web;container:x=y", 1}, {"", 0}, {"reserved:host", 0},
		{"k8s:app=web;reserved:world", 0}, {"cidr:10.0.0.0/8", 0}};
	for (size_t i = 0; i < sizeof(claims) / sizeof(claims[0]); i++) {
		struct cs_labels l = {0};
		struct cs_error e;
		assert_int_equal(cs_labels_parse(claims[i].text, strlen(claims[i].text), &l, &e), 0);
		assert_int_equal(cs_labels_check_claim(&l, &e) == 0, claims[i].ok);
		if (!claims[i].ok)
			assert_int_equal(e.reason, CS_R_LABELS_INVALID);
		cs_labels_fini(&l);
	}
}

static void proto_labels(void **state)
{
	(void)state;
	Countersign__V1__Label a = COUNTERSIGN__V1__LABEL__INIT, b = COUNTERSIGN__V1__LABEL__INIT;
	Countersign__V1__Label *both[] = {&a, &b};
	struct cs_labels l = {0}, copy = {0};
	struct cs_error e;
	char k8s[] = "k8s", tier[] = "tier", db[] = "db", app[] = "app", web[] = "web";
	a.source = k8s, a.key = tier, a.value = db;
	b.key = app, b.value = web; /* source left out */
	assert_int_equal(cs_labels_from_proto(both, 2, &l, &e), 0);
	char *text = cs_labels_format(&l);
	assert_string_equal(text, "unspec:app=web;k8s:tier=db;");
	free(text);
	assert_string_equal(cs_labels_get(&l, "tier")->value, "db");
	assert_null(cs_labels_get(&l, "tie"));
	assert_int_equal(cs_labels_copy(&l, &copy, &e), 0);
	assert_true(cs_labels_equal(&l, &copy));
	cs_labels_fini(&copy);
	assert_int_equal(cs_labels_from_proto(both, 1, &copy, &e), 0);
	assert_false(cs_labels_equal(&l, &copy));
	cs_labels_fini(&copy);
	b.key = tier;
	assert_true(cs_labels_from_proto(both, 2, &copy, &e) < 0);
	cs_labels_fini(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts_become_canonical),
		cmocka_unit_test(a_nul_byte_is_refused),
		cmocka_unit_test(limits_hold_to_the_byte),
		cmocka_unit_test(claims_exclude_what_the_system_gives),
		cmocka_unit_test(proto_labels),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
