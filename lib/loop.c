#include "loop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int64_t sys_ns(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int64_t sys_mono_ns(void *data)
{
	(void)data;
	return sys_ns(CLOCK_MONOTONIC);
}

static int64_t sys_mono_ms(void *data)
{
	return sys_mono_ns(data) / 1000000;
}

static int64_t sys_unix_ms(void *data)
{
	(void)data;
	return sys_ns(CLOCK_REALTIME) / 1000000;
}

const struct cs_clock cs_clock_system = {.mono_ms = sys_mono_ms, .mono_ns = sys_mono_ns, .unix_ms = sys_unix_ms};

int64_t cs_loop_mono_ms(const struct cs_loop *loop)
{
	return loop->clock->mono_ms(loop->clock->data);
}

int64_t cs_loop_unix_ms(const struct cs_loop *loop)
{
	return loop->clock->unix_ms(loop->clock->data);
}

int cs_loop_init(struct cs_loop *loop, const struct cs_clock *clock, struct cs_error *e)
{
	*loop = (struct cs_loop){.clock = clock ? clock : &cs_clock_system};
	signal(SIGPIPE, SIG_IGN);
	int r = uv_loop_init(&loop->uv);
	if (r < 0)
		return cs_error_set(e, r, "cannot start the event loop: %s", uv_strerror(r));
	loop->uv.data = loop;
	return 0;
}

void cs_loop_on_stop(struct cs_loop *loop, void (*fn)(struct cs_loop *, void *), void *data)
{
	loop->on_stop = fn;
	loop->on_stop_data = data;
}

static void on_signal(uv_signal_t *handle, int signum)
{
	(void)signum;
	struct cs_loop *loop = handle->loop->data;
	if (loop->stopping)
		_exit(130);
	cs_loop_stop(loop);
}

int cs_loop_signals(struct cs_loop *loop, struct cs_error *e)
{
	uv_signal_t *handles[] = {&loop->sigterm, &loop->sigint};
	const int numbers[] = {SIGTERM, SIGINT};
	for (int i = 0; i < 2; i++) {
		int r = uv_signal_init(&loop->uv, handles[i]);
		if (r == 0)
			r = uv_signal_start(handles[i], on_signal, numbers[i]);
		if (r < 0)
			return cs_error_set(e, r, "cannot catch signals: %s", uv_strerror(r));
		/* Signals alone keep no daemon alive; unref so that the loop ends when the rest is closed. */
		uv_unref((uv_handle_t *)handles[i]);
	}
	return 0;
}

void cs_loop_stop(struct cs_loop *loop)
{
	if (loop->stopping)
		return;
	loop->stopping = true;
	if (loop->on_stop)
		loop->on_stop(loop, loop->on_stop_data);
}

void cs_loop_run(struct cs_loop *loop)
{
	uv_run(&loop->uv, UV_RUN_DEFAULT);
}

void cs_loop_fini(struct cs_loop *loop)
{
	uv_signal_t *handles[] = {&loop->sigterm, &loop->sigint};
	for (int i = 0; i < 2; i++)
		if (handles[i]->loop && !uv_is_closing((uv_handle_t *)handles[i]))
			uv_close((uv_handle_t *)handles[i], NULL);
	uv_run(&loop->uv, UV_RUN_DEFAULT);
	if (uv_loop_close(&loop->uv) != 0) {
		fprintf(stderr, "handles were left open at shutdown:\n");
		uv_print_all_handles(&loop->uv, stderr);
		abort();
	}
}

static void timer_fired(uv_timer_t *uv)
{
	struct cs_timer *timer = uv->data;
	timer->fn(timer);
}

static void timer_closed(uv_handle_t *uv)
{
	struct cs_timer *timer = uv->data;
	if (timer->closed)
		timer->closed(timer);
}

void cs_timer_init(struct cs_timer *timer, struct cs_loop *loop, void (*fn)(struct cs_timer *), void *data)
{
	*timer = (struct cs_timer){.loop = loop, .fn = fn, .data = data};
	uv_timer_init(&loop->uv, &timer->uv);
	timer->uv.data = timer;
}

void cs_timer_start(struct cs_timer *timer, int64_t after_ms, int64_t repeat_ms)
{
	uv_update_time(timer->uv.loop);
	uv_timer_start(&timer->uv, timer_fired, after_ms > 0 ? (uint64_t)after_ms : 0,
		repeat_ms > 0 ? (uint64_t)repeat_ms : 0);
}

void cs_timer_stop(struct cs_timer *timer)
{
	uv_timer_stop(&timer->uv);
}

bool cs_timer_active(const struct cs_timer *timer)
{
	return uv_is_active((const uv_handle_t *)&timer->uv);
}

void cs_timer_close(struct cs_timer *timer, void (*closed)(struct cs_timer *))
{
	timer->closed = closed;
	uv_close((uv_handle_t *)&timer->uv, timer_closed);
}
