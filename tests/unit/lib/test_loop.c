/* lib/loop: timers, the injected clock, signals, and an end that leaves nothing open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop.h"

struct ticker {
	struct cs_timer timer;
	int fired, closed, until;
};

static void ticked(struct cs_timer *timer)
{
	struct ticker *t = timer->data;
	if (++t->fired >= t->until)
		cs_timer_stop(timer);
}

static void gone(struct cs_timer *timer)
{
	struct ticker *t = timer->data;
	t->closed++;
}

static void test_timers(void **state)
{
	(void)state;
	struct cs_loop loop;
	struct ticker once = {.until = 99}, often = {.until = 3}, stopped = {.until = 99};
	assert_int_equal(cs_loop_init(&loop, NULL, NULL), 0);
	cs_timer_init(&once.timer, &loop, ticked, &once);
	cs_timer_init(&often.timer, &loop, ticked, &often);
	cs_timer_init(&stopped.timer, &loop, ticked, &stopped);
	cs_timer_start(&once.timer, -5, 0); /* the past is now */
	cs_timer_start(&often.timer, 1, 1);
	cs_timer_start(&stopped.timer, 1, 1);
	assert_true(cs_timer_active(&stopped.timer));
	cs_timer_stop(&stopped.timer);
	assert_false(cs_timer_active(&stopped.timer));
	cs_loop_run(&loop);
	assert_int_equal(once.fired, 1);
	assert_int_equal(often.fired, 3);
	assert_int_equal(stopped.fired, 0);
	cs_timer_close(&once.timer, gone);
	cs_timer_close(&often.timer, gone);
	cs_timer_close(&stopped.timer, NULL);
	assert_int_equal(once.closed, 0); /* not before the loop has run */
	cs_loop_run(&loop);
	assert_int_equal(once.closed, 1);
	assert_int_equal(often.closed, 1);
	cs_loop_fini(&loop);
}

static int64_t now_ms;

static int64_t fake_ms(void *data)
{
	return now_ms + *(int64_t *)data;
}

static void test_clock(void **state)
{
	(void)state;
	int64_t base = 1000;
	const struct cs_clock clock = {.mono_ms = fake_ms, .mono_ns = fake_ms, .unix_ms = fake_ms, .data = &base};
	struct cs_loop loop;
	assert_int_equal(cs_loop_init(&loop, &clock, NULL), 0);
	now_ms = 5;
	assert_int_equal(cs_loop_mono_ms(&loop), 1005);
	now_ms = 3600000;
	assert_int_equal(cs_loop_unix_ms(&loop), 3601000);
	cs_loop_fini(&loop);
	const struct cs_clock *sys = &cs_clock_system;
	int64_t a = sys->mono_ns(sys->data), b = sys->mono_ns(sys->data);
	assert_true(b >= a && sys->mono_ms(sys->data) >= b / 1000000);
	assert_true(sys->unix_ms(sys->data) > INT64_C(1600000000000));
}

struct owner {
	struct ticker ticker;
	int stops;
};

static void close_all(struct cs_loop *loop, void *data)
{
	(void)loop;
	struct owner *o = data;
	o->stops++;
	cs_timer_close(&o->ticker.timer, gone);
}

static void raise_term(struct cs_timer *timer)
{
	(void)timer;
	kill(getpid(), SIGTERM);
}

static void test_sigterm(void **state)
{
	(void)state;
	struct cs_loop loop;
	struct owner o = {0};
	assert_int_equal(cs_loop_init(&loop, NULL, NULL), 0);
	assert_int_equal(cs_loop_signals(&loop, NULL), 0);
	cs_loop_on_stop(&loop, close_all, &o);
	cs_timer_init(&o.ticker.timer, &loop, raise_term, &o.ticker);
	cs_timer_start(&o.ticker.timer, 0, 60000);
	cs_loop_run(&loop);
	assert_int_equal(o.stops, 1);
	assert_int_equal(o.ticker.closed, 1);
	cs_loop_stop(&loop); /* again is nothing */
	assert_int_equal(o.stops, 1);
	cs_loop_fini(&loop);
}

/* The exit status of fn in a child. */
static int in_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		fclose(stderr);
		signal(SIGABRT, SIG_DFL);
		fn();
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void leak_a_handle(void)
{
	struct cs_loop loop;
	static struct ticker t;
	if (cs_loop_init(&loop, NULL, NULL) < 0)
		_exit(1);
	cs_timer_init(&t.timer, &loop, ticked, &t);
	cs_loop_fini(&loop);
}

static void raise_twice(struct cs_timer *timer)
{
	(void)timer;
	raise(SIGTERM);
}

static void stop_never(struct cs_loop *loop, void *data)
{
	(void)loop;
	(void)data;
}

static void two_signals(void)
{
	struct cs_loop loop;
	static struct ticker t;
	if (cs_loop_init(&loop, NULL, NULL) < 0 || cs_loop_signals(&loop, NULL) < 0)
		_exit(1);
	cs_loop_on_stop(&loop, stop_never, NULL);
	cs_timer_init(&t.timer, &loop, raise_twice, &t);
	cs_timer_start(&t.timer, 0, 10);
	cs_loop_run(&loop);
}

static void test_misuse(void **state)
{
	(void)state;
	int status = in_child(leak_a_handle);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	status = in_child(two_signals); /* whoever does not close in time is ended by the second signal */
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 130);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_timers), cmocka_unit_test(test_clock),
		cmocka_unit_test(test_sigterm), cmocka_unit_test(test_misuse)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
