/* cli/merge: the texts of several daemons as one, and what is not that format refused whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "merge.h"

#define HEAD(name) "# HELP " name " x\n# TYPE " name " gauge\n"

static char *written(const struct cs_merge *m)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	cs_merge_write(m, out);
	fclose(out);
	return text;
}

static int add(struct cs_merge *m, const char *text)
{
	struct cs_error e = {0};
	int r = cs_merge_add(m, text, strlen(text), &e);
	assert_true(r == 0 || e.text[0]);
	return r;
}

static void test_merged(void **state)
{
	(void)state;
	struct cs_merge *m = cs_merge_new();
	assert_int_equal(add(m, ""), 0);
	assert_int_equal(add(m, HEAD("a") "a{d=\"1\"} 1\n" HEAD("b") "b_bucket{le=\"1\"} 2\nb_count 3\n"), 0);
	assert_int_equal(add(m, HEAD("c") HEAD("a") "a{d=\"2\"} 4\n"), 0);
	char *text = written(m);
	assert_string_equal(
		text, HEAD("a") "a{d=\"1\"} 1\na{d=\"2\"} 4\n" HEAD("b") "b_bucket{le=\"1\"} 2\nb_count 3\n" HEAD("c"));
	free(text);
	assert_int_equal(add(m, HEAD("c") HEAD("d") HEAD("c")), 0); /* a family without samples, again and again */
	cs_merge_free(m);
	cs_merge_free(NULL);
}

static void test_refused(void **state)
{
	(void)state;
	const char *const bad[] = {"a 1\n", "garbage", HEAD("a") "a 1", HEAD("a") "b 1\n", HEAD("a") "\n", "# EOF\n",
		"#\n", "# HELP \n", "# TYPE a gauge", HEAD("a") "a 1\n#", "# HELP a x\n# OTHER a x\na 1\n"};
	struct cs_merge *m = cs_merge_new();
	assert_int_equal(add(m, HEAD("a") "a 1\n"), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[256];
		snprintf(text, sizeof(text), "%s%s", HEAD("z") "z 1\n", bad[i]);
		if (add(m, bad[i]) == 0 || add(m, text) == 0)
			fail_msg("'%s' was taken", bad[i]);
	}
	char *all = written(m); /* and nothing of it is there */
	assert_string_equal(all, HEAD("a") "a 1\n");
	free(all);
	cs_merge_free(m);
}

static void test_bounded(void **state)
{
	(void)state;
	struct cs_merge *m = cs_merge_new();
	char text[256];
	for (int i = 0; i < CS_MERGE_FAMILIES; i++) {
		snprintf(text, sizeof(text), "# HELP m%d x\n# TYPE m%d gauge\nm%d 1\n", i, i, i);
		assert_int_equal(add(m, text), 0);
	}
	assert_int_equal(add(m, text), 0); /* known */
	assert_true(add(m, HEAD("one_more") "one_more 1\n") < 0);
	char name[CS_MERGE_NAME + 1];
	memset(name, 'n', CS_MERGE_NAME);
	name[CS_MERGE_NAME] = '\0';
	snprintf(text, sizeof(text), "# HELP %s x\n", name);
	assert_true(add(m, text) < 0);
	cs_merge_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_merged), cmocka_unit_test(test_refused), cmocka_unit_test(test_bounded)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
