/* lib/log: every line is one line, and valid JSON, whatever is in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>
#include <unistd.h>

#include "log.h"

#define LINE_LIMIT 8192 /* what lib/log.c promises */

static int fd;
static FILE *reader;
static char line[65536];

static int setup(void **state)
{
	(void)state;
	char path[] = "/tmp/cs-log-XXXXXX";
	fd = mkstemp(path);
	reader = fopen(path, "r");
	unlink(path);
	cs_log_set_fd(fd);
	cs_log_init("authd", CS_LOG_INFO, CS_LOG_JSON);
	return fd < 0 || !reader;
}

static int teardown(void **state)
{
	(void)state;
	cs_log_set_fd(2);
	close(fd);
	return fclose(reader);
}

/* The next line without its newline, or NULL. */
static const char *next_line(void)
{
	clearerr(reader);
	if (!fgets(line, sizeof(line), reader))
		return NULL;
	size_t n = strlen(line);
	assert_true(n > 0 && line[n - 1] == '\n');
	assert_true(n <= LINE_LIMIT);
	line[n - 1] = '\0';
	return line;
}

static json_t *next_json(void)
{
	json_error_t error;
	const char *text = next_line();
	assert_non_null(text);
	json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &error);
	if (!object)
		fail_msg("not JSON: %s: %s", error.text, text);
	return object;
}

static const char *str(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static void test_fields(void **state)
{
	(void)state;
	struct cs_error e;
	cs_error_reason(&e, -1, CS_R_UNTRUSTED, "no authority");
	cs_info("it happened", cs_str("s", "text"), cs_str("none", NULL), cs_u64("u", UINT64_MAX / 2), cs_i64("i", -5),
		cs_bool("b", true), cs_err(&e), cs_why(e.reason));
	json_t *o = next_json();
	assert_string_equal(str(o, "level"), "info");
	assert_string_equal(str(o, "daemon"), "authd");
	assert_string_equal(str(o, "msg"), "it happened");
	assert_string_equal(str(o, "s"), "text");
	assert_string_equal(str(o, "none"), "");
	assert_int_equal(json_integer_value(json_object_get(o, "u")), INT64_MAX);
	assert_int_equal(json_integer_value(json_object_get(o, "i")), -5);
	assert_true(json_is_true(json_object_get(o, "b")));
	assert_string_equal(str(o, "error"), "no authority");
	assert_string_equal(str(o, "reason"), "untrusted");
	assert_int_equal(strlen(str(o, "time")), strlen("2026-01-02T03:04:05.678Z"));
	json_decref(o);
	cs_info("without fields");
	json_decref(next_json());
	assert_null(next_line());
}

static void test_levels(void **state)
{
	(void)state;
	cs_debug("quiet");
	assert_null(next_line());
	cs_log_init("authd", CS_LOG_ERROR, CS_LOG_JSON);
	cs_warn("quiet");
	assert_null(next_line());
	cs_fail("loud");
	json_decref(next_json());
}

/* Every one of them is written, whatever the level says. */
static void test_audit(void **state)
{
	(void)state;
	cs_log_init("authd", CS_LOG_ERROR, CS_LOG_JSON);
	for (int i = 0; i < 50; i++)
		cs_audit("pair", cs_i64("i", i));
	for (int i = 0; i < 50; i++) {
		json_t *o = next_json();
		assert_string_equal(str(o, "level"), "audit");
		assert_int_equal(json_integer_value(json_object_get(o, "i")), i);
		assert_null(json_object_get(o, "suppressed"));
		json_decref(o);
	}
	assert_null(next_line());
	cs_log_init("authd", CS_LOG_ERROR, CS_LOG_PLAIN);
	cs_audit("pair");
	assert_string_equal(next_line() + strlen("03:04:05.678"), "  audit: pair");
}

/* No value can end the line, the string or the object. */
static void test_hostile(void **state)
{
	(void)state;
	char all[256];
	for (int i = 0; i < 255; i++)
		all[i] = (char)(i + 1);
	all[255] = '\0';
	cs_info("hostile", cs_str("v", all), cs_str("forged", "\",\"level\":\"error\"}\n{\"a\":\""));
	json_t *o = next_json();
	assert_string_equal(str(o, "level"), "info");
	assert_string_equal(str(o, "forged"), "\",\"level\":\"error\"}\n{\"a\":\"");
	json_decref(o);
	assert_null(next_line());

	cs_log_init("authd", CS_LOG_INFO, CS_LOG_PLAIN);
	cs_info("hostile", cs_str("v", all), cs_str("w", "a\nb\x1b[31m"));
	const char *text = next_line();
	assert_non_null(text);
	for (const char *p = text; *p; p++)
		assert_true((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f);
	assert_null(next_line());
}

static void test_long(void **state)
{
	(void)state;
	static char big[20000], quotes[20000];
	memset(big, 'x', sizeof(big) - 1);
	memset(quotes, '"', sizeof(quotes) - 1);
	cs_info("one", cs_str("big", big), cs_str("after", "is here"));
	json_t *o = next_json();
	assert_string_equal(str(o, "after"), "is here");
	assert_non_null(strstr(str(o, "big"), "xxx..."));
	json_decref(o);
	cs_info("many", cs_str("a", big), cs_str("b", quotes), cs_str("c", "\x01\x02"), cs_str("d", quotes),
		cs_str("e", big), cs_str("f", big), cs_str("g", "small"), cs_u64("h", 1));
	o = next_json();
	assert_true(json_is_true(json_object_get(o, "truncated")));
	assert_non_null(str(o, "a"));
	assert_null(str(o, "f"));
	assert_string_equal(str(o, "g"), "small");
	json_decref(o);
	cs_log_init("authd", CS_LOG_INFO, CS_LOG_PLAIN);
	cs_info("many", cs_str("a", big), cs_str("b", big), cs_str("c", big), cs_str("d", big), cs_str("e", big));
	const char *text = next_line();
	assert_non_null(strstr(text, "  truncated=true"));
}

static void test_plain(void **state)
{
	(void)state;
	cs_log_init("authd", CS_LOG_INFO, CS_LOG_PLAIN);
	cs_warn("look out", cs_str("a", "word"), cs_str("b", "two words"), cs_str("c", ""), cs_u64("n", 7));
	const char *text = next_line();
	assert_string_equal(text + strlen("03:04:05.678"), "  warning: look out  a=word  b=\"two words\"  c=\"\"  n=7");
}

/* A file is no terminal: auto is JSON. */
static void test_auto(void **state)
{
	(void)state;
	cs_log_init("authd", CS_LOG_INFO, CS_LOG_AUTO);
	cs_info("here");
	json_decref(next_json());
}

static void test_rate(void **state)
{
	(void)state;
	struct cs_log_site site = {0}, other = {0};
	for (int i = 0; i < 25; i++)
		cs_log_event(&site, CS_LOG_WARN, "often", NULL, 0);
	cs_log_event(&other, CS_LOG_WARN, "another place", NULL, 0);
	for (int i = 0; i < 10; i++)
		json_decref(next_json());
	json_t *o = next_json();
	assert_string_equal(str(o, "msg"), "another place");
	json_decref(o);
	assert_null(next_line());
	site.window_ms -= 60000; /* a minute later */
	cs_log_event(&site, CS_LOG_WARN, "often", NULL, 0);
	o = next_json();
	assert_int_equal(json_integer_value(json_object_get(o, "suppressed")), 15);
	json_decref(o);
	for (int i = 0; i < 20; i++) /* errors are never left out */
		cs_log_event(&site, CS_LOG_ERROR, "broken", NULL, 0);
	for (int i = 0; i < 20; i++)
		json_decref(next_json());
}

static void *write_lines(void *arg)
{
	for (int i = 0; i < 500; i++)
		cs_fail("from a thread", cs_str("who", arg), cs_i64("i", i));
	return NULL;
}

static void test_threads(void **state)
{
	(void)state;
	pthread_t threads[4];
	char who[] = "thread";
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines, who), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 2000; i++)
		json_decref(next_json());
	assert_null(next_line());
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {T(test_fields), T(test_levels), T(test_audit), T(test_hostile), T(test_long),
		T(test_plain), T(test_auto), T(test_rate), T(test_threads)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
