/* The one loop of a daemon (libuv), its clock, timers with units, signals and an orderly end. */
#ifndef CS_LOOP_H
#define CS_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>
#include "error.h"

/* Clocks are injected, so that tests jump them and never the machine's. */
struct cs_clock {
	int64_t (*mono_ms)(void *data);
	int64_t (*mono_ns)(void *data); /* CLOCK_MONOTONIC */
	int64_t (*unix_ms)(void *data);
	void *data;
};
extern const struct cs_clock cs_clock_system;

struct cs_loop {
	uv_loop_t uv;
	const struct cs_clock *clock; /* borrowed */
	void (*on_stop)(struct cs_loop *loop, void *data);
	void *on_stop_data;
	bool stopping;
	uv_signal_t sigterm, sigint;
};

/* Now, by the loop's clock. */
int64_t cs_loop_mono_ms(const struct cs_loop *loop);
int64_t cs_loop_unix_ms(const struct cs_loop *loop);

/* clock NULL: the system's. SIGPIPE is ignored from here on. */
CS_MUST_USE int cs_loop_init(struct cs_loop *loop, const struct cs_clock *clock, struct cs_error *e);
/* on_stop is called once, at SIGTERM, SIGINT or cs_loop_stop(): it closes what the daemon opened. The loop ends when
 * the last handle is closed. A second signal while stopping exits at once with 130. */
void cs_loop_on_stop(struct cs_loop *loop, void (*fn)(struct cs_loop *loop, void *data), void *data);
CS_MUST_USE int cs_loop_signals(struct cs_loop *loop, struct cs_error *e);
void cs_loop_stop(struct cs_loop *loop);
/* Runs until nothing is left. */
void cs_loop_run(struct cs_loop *loop);
/* Asserts that uv_loop_close() == 0: whoever left a handle open is a bug, and aborts here. */
void cs_loop_fini(struct cs_loop *loop);

/* A timer embedded in its owner. After cs_timer_close the memory may be reused only in or after `closed`. */
struct cs_timer {
	uv_timer_t uv;
	struct cs_loop *loop;
	void (*fn)(struct cs_timer *timer);
	void (*closed)(struct cs_timer *timer);
	void *data;
};
void cs_timer_init(struct cs_timer *timer, struct cs_loop *loop, void (*fn)(struct cs_timer *timer), void *data);
/* Again if repeat_ms > 0. Starting a running timer moves it. */
void cs_timer_start(struct cs_timer *timer, int64_t after_ms, int64_t repeat_ms);
void cs_timer_stop(struct cs_timer *timer);
bool cs_timer_active(const struct cs_timer *timer);
/* closed may be NULL. */
void cs_timer_close(struct cs_timer *timer, void (*closed)(struct cs_timer *timer));

#endif
