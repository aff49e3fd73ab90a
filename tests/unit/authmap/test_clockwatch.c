/* authmap/clockwatch: which jumps are seen, how large they are, and what is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>
#include <time.h>

#include "clockwatch.h"

#define START                                                                                                          \
	(struct cs_clocks)                                                                                             \
	{                                                                                                              \
		.mono_ms = 1000, .unix_ms = 1800000000000, .boot_ms = 5000                                             \
	}

static struct cs_clocks later(struct cs_clocks c, int64_t mono_ms, int64_t unix_ms, int64_t boot_ms)
{
	return (struct cs_clocks){c.mono_ms + mono_ms, c.unix_ms + unix_ms, c.boot_ms + boot_ms};
}

static void test_steps(void **state)
{
	(void)state;
	static const struct {
		const char *what;
		int64_t mono_ms, unix_ms, boot_ms;
		bool jump;
		int64_t by_ms;
	} cases[] = {
		{"a second", 1000, 1000, 1000, false, 0},
		{"the loop was busy for an hour", 3600000, 3600000, 3600000, false, 0},
		{"slewed as fast as may be, for ten minutes", 600000, 600300, 600000, false, 0},
		{"just below", 1000, 1000 + CS_CLOCK_JUMP_MS - 1, 1000, false, 0},
		{"just below, back", 1000, 1000 - CS_CLOCK_JUMP_MS + 1, 1000, false, 0},
		{"the date is set on", 1000, 1000 + CS_CLOCK_JUMP_MS, 1000, true, CS_CLOCK_JUMP_MS},
		{"the date is set back", 1000, 1000 - 86400000, 1000, true, -86400000},
		{"the machine slept", 1000, 61000, 61000, true, 60000},
		{"it slept, and the date is not put right yet", 1000, 1000, 61000, true, 60000},
		{"it slept, and the date was set back", 1000, -3600000, 61000, true, -3601000},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_clockwatch watch = {0};
		int64_t by_ms = 0;
		print_message("%s\n", cases[i].what);
		assert_false(cs_clockwatch_check(&watch, START, &by_ms));
		assert_int_equal(cs_clockwatch_check(&watch,
					 later(START, cases[i].mono_ms, cases[i].unix_ms, cases[i].boot_ms), &by_ms),
			cases[i].jump);
		assert_int_equal(by_ms, cases[i].by_ms);
	}
}

/* The first call compares with nothing, whatever the clocks say. */
static void test_first(void **state)
{
	(void)state;
	struct cs_clockwatch watch = {0};
	int64_t by_ms = 7;
	assert_false(cs_clockwatch_check(&watch, START, &by_ms));
	assert_int_equal(by_ms, 7);
}

/* A jump is told once; after it the distances are what they are now. */
static void test_once(void **state)
{
	(void)state;
	struct cs_clockwatch watch = {0};
	struct cs_clocks now = START;
	assert_false(cs_clockwatch_check(&watch, now, NULL));
	now = later(now, 1000, 7201000, 1000);
	assert_true(cs_clockwatch_check(&watch, now, NULL));
	now = later(now, 1000, 1000, 1000);
	assert_false(cs_clockwatch_check(&watch, now, NULL));
	now = later(now, 1000, 1000 - 7200000, 1000);
	assert_true(cs_clockwatch_check(&watch, now, NULL));
}

static void test_now(void **state)
{
	(void)state;
	struct timespec mono, wall;
	clock_gettime(CLOCK_MONOTONIC, &mono);
	clock_gettime(CLOCK_REALTIME, &wall);
	struct cs_clocks now = cs_clocks_now();
	assert_in_range(now.mono_ms - mono.tv_sec * 1000, 0, 60000);
	assert_in_range(now.unix_ms - wall.tv_sec * 1000, 0, 60000);
	assert_true(now.boot_ms >= now.mono_ms - 1); /* read a moment apart */
	struct cs_clockwatch watch = {0};
	cs_clockwatch_check(&watch, now, NULL);
	assert_false(cs_clockwatch_check(&watch, cs_clocks_now(), NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps), cmocka_unit_test(test_first),
		cmocka_unit_test(test_once), cmocka_unit_test(test_now)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
