/* lib/metrics: what is counted, what is bounded, and that Prometheus' own parser reads the text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "metrics.h"

static void test_values(void **state)
{
	(void)state;
	struct cs_metrics *m = cs_metrics_new("authd");
	struct cs_metric *c = cs_counter(m, "countersign_a_total", "A", "result,reason", 8);
	struct cs_metric *g = cs_gauge(m, "countersign_b", "B", NULL, 0);
	struct cs_metric *h =
		cs_histogram(m, "countersign_c_seconds", "C", NULL, 0, cs_metric_seconds, cs_metric_nseconds);
	cs_metric_add(c, 1, "refused", "untrusted");
	cs_metric_add(c, 2.5, "refused", "untrusted");
	cs_metric_add(c, 1, "accepted", NULL);
	cs_metric_set(g, 7);
	cs_metric_add(g, -9);
	cs_metric_observe(h, 0.3);
	cs_metric_observe(h, 100);
	assert_true(cs_metric_value(c, "refused", "untrusted") == 3.5);
	assert_true(cs_metric_value(c, "accepted", "") == 1);
	assert_true(cs_metric_value(c, "accepted", "none") == 0);
	/* "ab","c" and "a","bc" are two */
	cs_metric_add(c, 1, "ab", "c");
	assert_true(cs_metric_value(c, "a", "bc") == 0);
	assert_true(cs_metric_value(g) == -2);
	assert_true(cs_metric_value(h) == 2);
	cs_metric_clear(c);
	assert_true(cs_metric_value(c, "refused", "untrusted") == 0);
	cs_metrics_free(m);
	cs_metrics_free(NULL);
}

static void test_bounded(void **state)
{
	(void)state;
	struct cs_metrics *m = cs_metrics_new("authd");
	struct cs_metric *c = cs_counter(m, "countersign_a_total", "A", "peer", 3);
	for (int i = 0; i < 1000; i++) {
		char name[16];
		snprintf(name, sizeof(name), "peer%d", i);
		cs_metric_add(c, 1, name);
	}
	cs_metric_add(c, 1, "peer1"); /* those that were first are still counted apart */
	assert_true(cs_metric_value(c, "peer1") == 2);
	assert_true(cs_metric_value(c, "peer3") == 0);
	assert_true(cs_metric_value(c, "other") == 997);
	size_t len, lines = 0;
	char *text = cs_metrics_render(m, &len);
	for (const char *p = text; (p = strstr(p, "countersign_a_total{")); p++)
		lines++;
	assert_int_equal(lines, 4);
	assert_non_null(strstr(
		text, "countersign_metrics_overflow_total{daemon=\"authd\",metric=\"countersign_a_total\"} 997\n"));
	free(text);
	cs_metrics_free(m);
}

static int renders;

static void collect(void *data)
{
	renders++;
	cs_metric_set((struct cs_metric *)data, 1000 + renders);
}

static void test_collect(void **state)
{
	(void)state;
	struct cs_metrics *m = cs_metrics_new("authd");
	struct cs_metric *c = cs_counter(m, "countersign_kernel_total", "Mirrors a kernel map", NULL, 0);
	size_t len;
	cs_metrics_on_render(m, collect, c);
	for (int i = 1; i <= 2; i++) {
		char want[64], *text = cs_metrics_render(m, &len);
		snprintf(want, sizeof(want), "countersign_kernel_total{daemon=\"authd\"} %d\n", 1000 + i);
		assert_non_null(strstr(text, want));
		assert_int_equal(strlen(text), len);
		free(text);
	}
	cs_metrics_free(m);
}

/* text as Prometheus' client library sees it. */
static json_t *third_party(const char *text, size_t len)
{
	char path[] = "/tmp/cs-metrics-XXXXXX", command[512];
	int fd = mkstemp(path);
	json_error_t error;
	assert_int_equal(write(fd, text, len), (ssize_t)len);
	close(fd);
	snprintf(command, sizeof(command), "ASAN_OPTIONS= LD_PRELOAD= /usr/bin/python3 %s/check_exposition.py %s",
		CS_TEST_DIR, path);
	FILE *out = popen(command, "r");
	json_t *seen = json_loadf(out, 0, &error);
	int status = pclose(out);
	unlink(path);
	if (status != 0 || !seen)
		fail_msg("the parser refused: %s\n%s", error.text, text);
	return seen;
}

static double sample(const json_t *families, const char *family, const char *name, const char *label, const char *value)
{
	size_t i;
	json_t *s;
	json_array_foreach(json_object_get(json_object_get(families, family), "samples"), i, s)
	{
		const char *has = json_string_value(json_object_get(json_array_get(s, 1), label));
		if (strcmp(json_string_value(json_array_get(s, 0)), name) == 0 && has && strcmp(has, value) == 0)
			return json_number_value(json_array_get(s, 2));
	}
	fail_msg("no %s with %s=%s", name, label, value);
	return 0;
}

static void test_format(void **state)
{
	(void)state;
	static const double bounds[] = {0.1, 1, 2.5};
	struct cs_metrics *m = cs_metrics_new("authd");
	struct cs_metric *c = cs_counter(m, "countersign_a_total", "With \\ and\nnewline", "what", 8);
	struct cs_metric *g = cs_gauge(m, "countersign_b", "B", NULL, 0);
	struct cs_metric *h = cs_histogram(m, "countersign_c_seconds", "C", "role", 4, bounds, 3);
	cs_counter(m, "countersign_never_total", "Nothing happened", "x", 1);
	cs_metric_add(c, 12345678901, "quote\" back\\slash new\nline");
	cs_metric_add(c, 1, "bell\a \xff\xfe utf \xc3\xa9");
	cs_metric_set(g, 0.1);
	cs_metric_observe(h, 0.1, "dialler"); /* a bound belongs to its bucket */
	cs_metric_observe(h, 2, "dialler");
	cs_metric_observe(h, 9, "dialler");
	size_t len;
	char *text = cs_metrics_render(m, &len);
	json_t *seen = third_party(text, len);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(seen, "countersign_a"), "type")), "counter");
	assert_string_equal(json_string_value(json_object_get(json_object_get(seen, "countersign_a"), "help")),
		"With \\ and\nnewline");
	assert_true(sample(seen, "countersign_a", "countersign_a_total", "what", "quote\" back\\slash new\nline") ==
		    12345678901.0);
	assert_true(sample(seen, "countersign_a", "countersign_a_total", "what", "bell? ?? utf ??") == 1);
	assert_true(sample(seen, "countersign_b", "countersign_b", "daemon", "authd") == 0.1);
	const char *family = "countersign_c_seconds";
	assert_string_equal(json_string_value(json_object_get(json_object_get(seen, family), "type")), "histogram");
	assert_true(sample(seen, family, "countersign_c_seconds_bucket", "le", "0.1") == 1);
	assert_true(sample(seen, family, "countersign_c_seconds_bucket", "le", "1") == 1);
	assert_true(sample(seen, family, "countersign_c_seconds_bucket", "le", "2.5") == 2);
	assert_true(sample(seen, family, "countersign_c_seconds_bucket", "le", "+Inf") == 3);
	assert_true(sample(seen, family, "countersign_c_seconds_count", "role", "dialler") == 3);
	assert_true(fabs(sample(seen, family, "countersign_c_seconds_sum", "role", "dialler") - 11.1) < 1e-9);
	assert_non_null(json_object_get(seen, "countersign_never"));
	json_decref(seen);
	free(text);
	cs_metrics_free(m);
}

static struct cs_metrics *mm;
static struct cs_metric *mc;

static void bad_name(void)
{
	cs_gauge(mm, "Countersign_x", "x", NULL, 0);
}
static void foreign_name(void)
{
	cs_gauge(mm, "go_threads", "x", NULL, 0);
}
static void no_total(void)
{
	cs_counter(mm, "countersign_x", "x", NULL, 0);
}
static void twice(void)
{
	cs_counter(mm, "countersign_a_total", "x", NULL, 0);
}
static void unbounded(void)
{
	cs_gauge(mm, "countersign_x", "x", "peer", 0);
}
static void own_daemon(void)
{
	cs_gauge(mm, "countersign_x", "x", "daemon", 1);
}
static void backwards(void)
{
	cs_metric_add(mc, -1, "x");
}
static void too_few(void)
{
	cs_metric_add(mc, 1);
}
static void too_many(void)
{
	cs_metric_add(mc, 1, "x", "y");
}
static void wrong_kind(void)
{
	cs_metric_observe(mc, 1, "x");
}

static void test_misuse(void **state)
{
	(void)state;
	void (*const bugs[])(void) = {bad_name, foreign_name, no_total, twice, unbounded, own_daemon, backwards,
		too_few, too_many, wrong_kind};
	mm = cs_metrics_new("authd");
	mc = cs_counter(mm, "countersign_a_total", "A", "x", 1);
	for (size_t i = 0; i < sizeof(bugs) / sizeof(bugs[0]); i++) {
		int status;
		pid_t pid = fork();
		if (pid == 0) {
			fclose(stderr);
			signal(SIGABRT, SIG_DFL);
			bugs[i]();
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
			fail_msg("misuse %zu went unnoticed", i);
	}
	cs_metrics_free(mm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_values), cmocka_unit_test(test_bounded),
		cmocka_unit_test(test_collect), cmocka_unit_test(test_format), cmocka_unit_test(test_misuse)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
