/* cli/lint: which labels make identities multiply, and when the range is full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "doc.h"
#include "lint.h"

#define DAY 86400000ll
#define NOW (1000 * DAY)

static json_t *identities;

static int setup(void **state)
{
	(void)state;
	identities = json_array();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	json_decref(identities);
	return 0;
}

static void identity(int64_t created, int endpoints, const char *a, const char *b)
{
	json_t *labels = json_array();
	cs_doc_append(labels, json_string(a));
	if (b)
		cs_doc_append(labels, json_string(b));
	cs_doc_append(identities, cs_doc_pack("{s:o, s:I, s:i}", "labels", labels, "created_unix_ms",
					  (json_int_t)created, "endpoints", endpoints));
}

static const json_t *label(const json_t *doc, const char *key)
{
	const json_t *l;
	size_t i;
	json_array_foreach(json_object_get(doc, "labels"), i,
		l) if (strcmp(json_string_value(json_object_get(l, "key")), key) == 0) return l;
	fail_msg("%s is not there", key);
	return NULL;
}

static long long at(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static void test_generated(void **state)
{
	static const struct {
		const char *value;
		bool generated;
	} rows[] = {
		{"0", true},
		{"17", true},
		{"7d4b9c8f65", true},
		{"web-20251125", true},
		{"job-1764105600", true},
		{"123e4567-e89b-12d3-a456-426614174000", true},
		{"", false},
		{"web", false},
		{"web-1", false},
		{"v1.2.3", false},
		{"decade", false},
		{"feedface", false}, /* a word, as far as one can tell */
		{"cafe12", true},
		{"eu-west-1", false},
		{"payments2", false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (cs_lint_generated(rows[i].value) != rows[i].generated)
			fail_msg("%s", rows[i].value);
}

/* 20 applications of names, of which one has a job number: 30 identities more. */
static void test_what_multiplies(void **state)
{
	char app[32], job[32];
	(void)state;
	for (int i = 0; i < 20; i++) {
		snprintf(app, sizeof(app), "k8s:app=app-%c", 'a' + i);
		identity(NOW - 100 * DAY, 3, app, NULL);
	}
	for (int i = 0; i < 30; i++) {
		snprintf(job, sizeof(job), "k8s:job.id=%d", 1000 + i);
		identity(NOW - 100 * DAY, 0, "k8s:app=app-a", job);
	}
	struct cs_lint_range range = {.known = true, .first = 256, .last = 65535, .in_use = 50};
	json_t *doc = cs_lint_doc(identities, &range, NOW);
	assert_int_equal(at(doc, "identities"), 50);
	assert_int_equal(at(doc, "unused"), 30);
	const json_t *l = label(doc, "k8s:job.id");
	assert_true(json_is_true(json_object_get(l, "multiplies")));
	assert_int_equal(at(l, "values"), 30);
	assert_int_equal(at(l, "identities"), 30);
	assert_int_equal(at(l, "without"), 20); /* each of them would be app-a's, which is there */
	l = label(doc, "k8s:app");
	assert_false(json_is_true(json_object_get(l, "multiplies")));
	assert_int_equal(at(l, "values"), 20);
	assert_int_equal(at(l, "without"), 31); /* the empty set, and one per job */
	const json_t *first = json_array_get(json_object_get(doc, "labels"), 0);
	assert_string_equal(json_string_value(json_object_get(first, "key")), "k8s:job.id");
	const json_t *warnings = json_object_get(doc, "warnings");
	assert_int_equal(json_array_size(warnings), 1);
	assert_non_null(strstr(json_string_value(json_array_get(warnings, 0)), "['k8s:!job\\.id']"));
	/* Nothing was made in the last days. */
	assert_true(json_real_value(json_object_get(doc, "per_day")) == 0);
	assert_true(json_is_null(json_object_get(doc, "full_in_days")));
	json_decref(doc);
}

static void test_few_are_no_matter(void **state)
{
	char job[32];
	(void)state;
	for (int i = 0; i < CS_LINT_MANY; i++) { /* one less than ten are saved */
		snprintf(job, sizeof(job), "k8s:job=%d", i);
		identity(NOW, 0, "k8s:app=a", job);
	}
	struct cs_lint_range range = {0};
	json_t *doc = cs_lint_doc(identities, &range, NOW);
	assert_int_equal(at(label(doc, "k8s:job"), "without"), 1);
	assert_false(json_is_true(json_object_get(label(doc, "k8s:job"), "multiplies")));
	assert_int_equal(json_array_size(json_object_get(doc, "warnings")), 0);
	assert_true(json_is_null(json_object_get(doc, "range")));
	assert_true(json_is_null(json_object_get(doc, "per_day"))); /* too young to tell */
	json_decref(doc);
}

static void check_rate(const struct cs_lint_range *range, double per_day, double days, const char *warning)
{
	json_t *doc = cs_lint_doc(identities, range, NOW);
	assert_true(json_real_value(json_object_get(doc, "per_day")) > per_day - 0.01 &&
		    json_real_value(json_object_get(doc, "per_day")) < per_day + 0.01);
	assert_true(json_real_value(json_object_get(doc, "full_in_days")) > days - 0.01 &&
		    json_real_value(json_object_get(doc, "full_in_days")) < days + 0.01);
	const char *said = json_string_value(json_array_get(json_object_get(doc, "warnings"), 0));
	if (warning ? !said || !strstr(said, warning) : said != NULL)
		fail_msg("%s", said ? said : "nothing");
	json_decref(doc);
}

static void test_rate(void **state)
{
	char app[32];
	(void)state;
	identity(NOW - 100 * DAY, 1, "k8s:app=old", NULL);
	for (int i = 0; i < 14; i++) {
		snprintf(app, sizeof(app), "k8s:app=new-%c", 'a' + i);
		identity(NOW - i * DAY / 2, 1, app, NULL);
	}
	struct cs_lint_range range = {.known = true, .first = 256, .last = 355, .in_use = 15, .resting = 5};
	check_rate(&range, 2, 40, NULL);
	range.last = 315;
	check_rate(&range, 2, 20, "full in 20.0 days");
	range.last = 275;
	check_rate(&range, 2, 0, "the range is full");
}

/* A store of a day knows a day's rate, not a seventh of it. */
static void test_young_store(void **state)
{
	char app[32];
	(void)state;
	for (int i = 0; i < 24; i++) {
		snprintf(app, sizeof(app), "k8s:app=new-%c", 'a' + i);
		identity(NOW - DAY + i, 1, app, NULL);
	}
	struct cs_lint_range range = {.known = true, .first = 256, .last = 256 + 24 + 2400 - 1, .in_use = 24};
	check_rate(&range, 24, 100, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_generated),
		cmocka_unit_test_setup_teardown(test_what_multiplies, setup, teardown),
		cmocka_unit_test_setup_teardown(test_few_are_no_matter, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_young_store, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
