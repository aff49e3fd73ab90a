/* Subscriptions to SPIRE: what a real agent was seen to do, one by one, with a clock of the test's. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "spire_subs.h"

#define QUIET_MS    2000
#define WATCHDOG_MS 30000
#define MANY        1000
#define FIRST       100 /* identities are FIRST to FIRST + MANY */

struct fixture {
	struct cs_spire_subs *subs;
	int64_t now_ms;
	bool open[FIRST + MANY];
	unsigned nopen, opens, cancels, nones, withdrawn, agents, stuck;
	uint32_t last;
	bool agent_ok;
	struct cs_error why, agent_why;
	int fail_open;
};

static int on_open(void *data, uint32_t identity, struct cs_error *e)
{
	struct fixture *f = data;
	if (f->fail_open)
		return cs_error_set(e, f->fail_open, "no room");
	assert_false(f->open[identity]);
	f->open[identity] = true;
	f->last = identity;
	f->nopen++;
	f->opens++;
	return 0;
}

static void on_cancel(void *data, uint32_t identity)
{
	struct fixture *f = data;
	assert_true(f->open[identity]);
	f->open[identity] = false;
	f->nopen--;
	f->cancels++;
}

static void on_none(void *data, uint32_t identity, bool withdrawn, const struct cs_error *why)
{
	struct fixture *f = data;
	f->nones++;
	f->withdrawn += withdrawn;
	f->last = identity;
	f->why = *why;
}

static void on_agent(void *data, const struct cs_error *why)
{
	struct fixture *f = data;
	f->agents++;
	f->agent_ok = !why;
	if (why)
		f->agent_why = *why;
}

static void on_stuck(void *data)
{
	struct fixture *f = data;
	f->stuck++;
}

static double on_random(void *data)
{
	(void)data;
	return 0.5; /* no jitter */
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct cs_spire_subs_io io = {on_open, on_cancel, on_none, on_agent, on_stuck, on_random, f};
	const struct cs_spire_subs_times times = {QUIET_MS, WATCHDOG_MS};
	f->now_ms = 1000000;
	f->subs = cs_spire_subs_new(&io, &times);
	cs_spire_subs_connected(f->subs);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cs_spire_subs_free(f->subs);
	free(f);
	return 0;
}

static int64_t run(struct fixture *f)
{
	return cs_spire_subs_run(f->subs, f->now_ms);
}

/* As a loop would: every timer that falls due on the way is run at its time. */
static void pass(struct fixture *f, int64_t ms)
{
	int64_t end_ms = f->now_ms + ms, next_ms;
	while ((next_ms = run(f)) <= end_ms)
		f->now_ms = next_ms > f->now_ms ? next_ms : f->now_ms + 1;
	f->now_ms = end_ms;
	run(f);
}

static void start(struct fixture *f, uint32_t identity)
{
	char text[64];
	struct cs_error e;
	snprintf(text, sizeof(text), "spiffe://example.org/identity/%u", identity);
	assert_int_equal(cs_spire_subs_start(f->subs, identity, text, false, &e), 0);
	run(f);
}

static bool seen(struct fixture *f, uint32_t identity, enum cs_spire_seen_what what, int leaf)
{
	struct cs_spire_seen seen = {.what = what, .leaf_sha256 = {(uint8_t)leaf}};
	cs_error_set(&seen.why, -ENOENT, "this was seen: %d", what);
	bool is_new = cs_spire_subs_seen(f->subs, identity, &seen, f->now_ms);
	run(f);
	return is_new;
}

static bool svid(struct fixture *f, uint32_t identity, int leaf)
{
	return seen(f, identity, CS_SPIRE_SEEN_SVID, leaf);
}

static bool nothing(struct fixture *f, uint32_t identity)
{
	return seen(f, identity, CS_SPIRE_SEEN_NOTHING, 0);
}

static void ended(struct fixture *f, uint32_t identity, enum cs_spire_end how, const char *text)
{
	struct cs_error e;
	cs_error_set(&e, -EACCES, "%s", text);
	assert_true(f->open[identity]);
	f->open[identity] = false;
	f->nopen--;
	cs_spire_subs_ended(f->subs, identity, how, &e, f->now_ms);
	run(f);
}

static void disconnect(struct fixture *f)
{
	struct cs_error e;
	cs_error_set(&e, -ECONNREFUSED, "the agent is away");
	cs_spire_subs_disconnected(f->subs, &e);
	for (uint32_t i = FIRST; i < FIRST + MANY; i++)
		if (f->open[i])
			ended(f, i, CS_SPIRE_END_LOST, "lost");
	run(f);
}

/* ---- a set that changes ---- */

static void test_first_and_renewed(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	assert_true(f->open[100]);
	assert_true(svid(f, 100, 1));
	assert_true(f->agent_ok);
	assert_true(svid(f, 100, 2));
	pass(f, 10 * WATCHDOG_MS); /* an open stream has no watchdog */
	assert_int_equal(f->nones, 0);
	assert_true(f->open[100]);
}

static void test_identical_repeats_are_no_event(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	assert_true(svid(f, 100, 1));
	for (int i = 0; i < 100; i++)
		assert_false(svid(f, 100, 1));
	start(f, 101);
	for (int i = 0; i < 100; i++)
		assert_false(nothing(f, 101));
	assert_int_equal(f->nones, 1); /* 101's first */
}

/* "A new identity is always preceded by a repeat of the old set." */
static void test_new_entry_comes_after_an_empty_set(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	nothing(f, 100);
	assert_int_equal(f->nones, 1);
	assert_int_equal(f->withdrawn, 0);
	f->now_ms += 1000;
	nothing(f, 100);
	f->now_ms += 5;
	assert_true(svid(f, 100, 1));
	pass(f, 10 * QUIET_MS);
	assert_int_equal(f->nones, 1);
}

/* A re-made entry (3 ms) and a tainted authority (155 ms to a second) leave a gap. */
static void test_a_gap_is_no_withdrawal(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	svid(f, 100, 1);
	nothing(f, 100);
	pass(f, 3);
	assert_true(svid(f, 100, 2));
	nothing(f, 100);
	pass(f, QUIET_MS - 1);
	assert_false(svid(f, 100, 2)); /* the same again */
	pass(f, 10 * QUIET_MS);
	assert_int_equal(f->nones, 0);
}

static void test_withdrawn_after_the_quiet_time(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	svid(f, 100, 1);
	nothing(f, 100);
	pass(f, QUIET_MS - 1);
	assert_int_equal(f->nones, 0);
	pass(f, 1);
	assert_int_equal(f->nones, 1);
	assert_int_equal(f->withdrawn, 1);
	assert_true(svid(f, 100, 1)); /* back, and be it the same one: it was wiped */
}

/* Repeats without it do not put the withdrawal off. */
static void test_the_quiet_time_is_bounded(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	svid(f, 100, 1);
	for (int i = 0; i < 10; i++) {
		nothing(f, 100);
		pass(f, QUIET_MS / 10);
	}
	assert_int_equal(f->withdrawn, 1);
}

static void test_another_spiffe_id_is_not_ours(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	assert_false(seen(f, 100, CS_SPIRE_SEEN_OTHERS, 0));
	assert_int_equal(f->nones, 1);
	svid(f, 100, 1);
	seen(f, 100, CS_SPIRE_SEEN_OTHERS, 0);
	pass(f, QUIET_MS);
	assert_int_equal(f->withdrawn, 1);
}

static void test_an_expired_svid_is_no_svid_and_no_withdrawal(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	assert_false(seen(f, 100, CS_SPIRE_SEEN_EXPIRED, 1));
	assert_int_equal(f->nones, 1);
	assert_true(svid(f, 100, 2));
	assert_false(seen(f, 100, CS_SPIRE_SEEN_EXPIRED, 2));
	pass(f, 10 * QUIET_MS);
	assert_int_equal(f->nones, 1);
	assert_true(svid(f, 100, 3));
}

static void test_an_unusable_svid_leaves_the_old_one(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	svid(f, 100, 1);
	assert_false(seen(f, 100, CS_SPIRE_SEEN_BAD, 2));
	pass(f, 10 * QUIET_MS);
	assert_int_equal(f->nones, 0);
	start(f, 101);
	seen(f, 101, CS_SPIRE_SEEN_BAD, 2);
	assert_int_equal(f->nones, 1);
}

/* No message will say that its time has come. */
static void test_an_svid_of_a_later_time_is_asked_for_again(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	for (int i = 0; i < 5; i++) {
		f->open[100] = true; /* as it is while the message is read */
		assert_false(seen(f, 100, CS_SPIRE_SEEN_EARLY, 1));
		assert_false(f->open[100]);
		pass(f, CS_SPIRE_RETRY_MIN_MS << i);
		assert_true(f->open[100]);
	}
	assert_int_equal(f->nones, 1);
	assert_true(f->agent_ok);
	assert_true(svid(f, 100, 1));
	seen(f, 100, CS_SPIRE_SEEN_EARLY, 2); /* the one that is there stays */
	pass(f, 10 * QUIET_MS);
	assert_int_equal(f->nones, 1);
	assert_false(svid(f, 100, 1));
}

static void test_calls_that_end_after_a_message_are_no_storm(void **state)
{
	struct fixture *f = *state;
	static const enum cs_spire_end ends[] = {CS_SPIRE_END_OTHER, CS_SPIRE_END_REFUSED};
	for (uint32_t i = 0; i < 2; i++) {
		start(f, 100 + i);
		for (int tries = 0; tries < 6; tries++) {
			svid(f, 100 + i, 1);
			unsigned opens = f->opens;
			ended(f, 100 + i, ends[i], "that was all");
			pass(f, (CS_SPIRE_RETRY_MIN_MS << (tries < 5 ? tries : 4)) - 1);
			assert_int_equal(f->opens, opens);
			pass(f, CS_SPIRE_RETRY_MAX_MS);
			assert_int_equal(f->opens, opens + 1);
		}
		svid(f, 100 + i, 1); /* one that lasted begins anew */
		pass(f, CS_SPIRE_RETRY_MAX_MS + 1);
		ended(f, 100 + i, CS_SPIRE_END_OTHER, "at last");
		pass(f, CS_SPIRE_RETRY_MIN_MS);
		assert_true(f->open[100 + i]);
		svid(f, 100 + i, 1);
	}
	assert_int_equal(f->nones, 0);
}

/* ---- many ---- */

static void test_never_more_than_a_few_wait(void **state)
{
	struct fixture *f = *state;
	for (uint32_t i = 0; i < MANY; i++)
		start(f, FIRST + i);
	assert_int_equal(f->nopen, CS_SPIRE_WAITING_MAX);
	for (uint32_t i = 0; i < MANY; i++) {
		assert_int_equal(cs_spire_subs_count(f->subs).waiting,
			MANY - i < CS_SPIRE_WAITING_MAX ? MANY - i : CS_SPIRE_WAITING_MAX);
		assert_true(f->open[FIRST + i]); /* in order */
		svid(f, FIRST + i, 1);
	}
	struct cs_spire_subs_count count = cs_spire_subs_count(f->subs);
	assert_int_equal(count.open, MANY);
	assert_int_equal(count.queued + count.waiting, 0);
}

static void test_stopped_while_it_waits_makes_room(void **state)
{
	struct fixture *f = *state;
	for (uint32_t i = 0; i <= CS_SPIRE_WAITING_MAX; i++)
		start(f, FIRST + i);
	assert_false(f->open[FIRST + CS_SPIRE_WAITING_MAX]);
	cs_spire_subs_stop(f->subs, FIRST);
	run(f);
	assert_int_equal(f->cancels, 1);
	assert_true(f->open[FIRST + CS_SPIRE_WAITING_MAX]);
	assert_false(svid(f, FIRST, 1)); /* whoever still speaks of it is not listened to */
}

/* ---- the watchdog ---- */

static void test_an_entry_that_cannot_be_signed_gives_its_place_up(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	start(f, 101);
	svid(f, 101, 1);
	pass(f, WATCHDOG_MS / 2);
	svid(f, 101, 2);
	pass(f, WATCHDOG_MS / 2);
	assert_int_equal(f->cancels, 1);
	assert_int_equal(f->nones, 1);
	assert_true(f->agent_ok); /* others are answered */
	pass(f, CS_SPIRE_RETRY_MIN_MS);
	assert_true(f->open[100]); /* again */
	pass(f, 20 * WATCHDOG_MS);
	assert_int_equal(f->nones, 1); /* said once */
	pass(f, CS_SPIRE_RETRY_MAX_MS);
	assert_true(f->open[100]);
	assert_true(svid(f, 100, 1));
}

static void test_a_wedged_agent_is_told_apart(void **state)
{
	struct fixture *f = *state;
	for (uint32_t i = 0; i < 100; i++)
		start(f, FIRST + i);
	pass(f, WATCHDOG_MS);
	assert_int_equal(f->agents, 1);
	assert_false(f->agent_ok);
	assert_non_null(strstr(f->agent_why.text, "restart"));
	assert_true(f->nopen <= CS_SPIRE_PROBES); /* it is not loaded any more */
	assert_true(f->stuck > 0);
	pass(f, 20 * WATCHDOG_MS);
	assert_int_equal(f->agents, 1);
	for (uint32_t i = FIRST; i < FIRST + 100; i++) { /* it comes back, and all are served in the end */
		for (int tries = 0; !f->open[i] && tries < 1000; tries++)
			pass(f, 1000);
		svid(f, i, 1);
	}
	assert_true(f->agent_ok);
	assert_int_equal(cs_spire_subs_count(f->subs).open, 100);
}

/* Open streams of a wedged agent still get what is new: they are worth more than another connection. */
static void test_a_silent_agent_keeps_its_streams(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	svid(f, 100, 1);
	f->now_ms++;
	start(f, 101);
	pass(f, 10 * WATCHDOG_MS);
	assert_false(f->agent_ok);
	assert_int_equal(f->stuck, 0);
	assert_true(f->open[100]);
	assert_true(svid(f, 100, 2));
}

/* ---- the agent goes, comes, refuses ---- */

static void test_reconnect_keeps_what_is_there(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	svid(f, 100, 1);
	disconnect(f);
	pass(f, 10 * WATCHDOG_MS);
	assert_int_equal(f->nones, 0);
	assert_int_equal(f->nopen, 0);
	start(f, 101); /* while it is away */
	assert_int_equal(f->nones, 1);
	assert_non_null(strstr(f->why.text, "away"));
	cs_spire_subs_connected(f->subs);
	run(f);
	assert_true(f->open[100] && f->open[101]);
	assert_false(svid(f, 100, 1));
	assert_true(svid(f, 101, 1));
	assert_int_equal(f->agents, 3); /* answers, away, answers */
}

static void test_gone_meanwhile_is_withdrawn_after_the_reconnect(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	svid(f, 100, 1);
	disconnect(f);
	cs_spire_subs_connected(f->subs);
	run(f);
	nothing(f, 100);
	pass(f, QUIET_MS);
	assert_int_equal(f->withdrawn, 1);
}

static void test_refused_is_about_us(void **state)
{
	struct fixture *f = *state;
	for (uint32_t i = 0; i < 200; i++)
		start(f, FIRST + i);
	svid(f, FIRST, 1);
	for (uint32_t i = 1; i <= CS_SPIRE_WAITING_MAX; i++)
		ended(f, FIRST + i, CS_SPIRE_END_REFUSED, "no identity issued");
	assert_int_equal(f->nones, 199); /* all that have none, those in the queue too, once */
	assert_int_equal(f->agents, 2);
	unsigned opens = f->opens;
	pass(f, CS_SPIRE_RETRY_MIN_MS - 1);
	assert_int_equal(f->opens, opens);
	pass(f, 1);
	assert_int_equal(f->opens, opens + CS_SPIRE_PROBES);
	for (int round = 0; round < 20; round++) { /* a storm of refusals stays few calls */
		for (uint32_t i = FIRST + 1; i < FIRST + 200; i++)
			if (f->open[i])
				ended(f, i, CS_SPIRE_END_REFUSED, "no identity issued");
		pass(f, CS_SPIRE_RETRY_MAX_MS);
	}
	assert_true(f->opens - opens <= 22 * CS_SPIRE_PROBES);
	assert_int_equal(f->nones, 199);
	assert_int_equal(f->agents, 2);
	for (uint32_t i = FIRST + 1; i < FIRST + 200; i++)
		if (f->open[i]) {
			ended(f, i, CS_SPIRE_END_REFUSED, "not a delegate");
			break;
		}
	assert_int_equal(f->nones, 2 * 199); /* another refusal is another state */
	assert_int_equal(f->agents, 3);
	assert_non_null(strstr(f->why.text, "delegate"));
	pass(f, CS_SPIRE_RETRY_MAX_MS * 2);
	assert_true(f->open[FIRST]); /* what runs is left alone */
	for (uint32_t i = FIRST + 1; i < FIRST + 200; i++)
		if (f->open[i]) {
			svid(f, i, 1);
			break;
		}
	assert_true(f->agent_ok);
	assert_int_equal(cs_spire_subs_count(f->subs).waiting, CS_SPIRE_WAITING_MAX);
}

static void test_a_refusal_of_the_bundles_counts(void **state)
{
	struct fixture *f = *state;
	struct cs_error e;
	cs_error_set(&e, -EACCES, "not a delegate");
	cs_spire_subs_refused(f->subs, &e, f->now_ms);
	start(f, 100);
	assert_int_equal(f->nones, 1);
	assert_int_equal(f->opens, 0);
	cs_spire_subs_answered(f->subs, f->now_ms);
	run(f);
	assert_true(f->agent_ok);
	assert_int_equal(f->opens, 1);
}

static void test_one_call_that_fails_is_retried_alone(void **state)
{
	struct fixture *f = *state;
	start(f, 100);
	start(f, 101);
	svid(f, 101, 1);
	ended(f, 100, CS_SPIRE_END_OTHER, "could not parse provided selectors");
	assert_int_equal(f->nones, 1);
	assert_int_equal(f->agents, 1);
	for (int i = 0; i < 10; i++) {
		pass(f, CS_SPIRE_RETRY_MAX_MS);
		ended(f, 100, CS_SPIRE_END_OTHER, "could not parse provided selectors");
	}
	assert_int_equal(f->nones, 1);
	f->fail_open = -ENOBUFS;
	pass(f, CS_SPIRE_RETRY_MAX_MS);
	f->fail_open = 0;
	pass(f, CS_SPIRE_RETRY_MAX_MS);
	assert_true(f->open[100]);
	assert_true(svid(f, 100, 1));
}

/* The node's own SVID comes by the Workload API; gaps and repeats are the same. */
static void test_an_own_one_has_no_call(void **state)
{
	struct fixture *f = *state;
	struct cs_error e;
	assert_int_equal(cs_spire_subs_start(f->subs, 1, "spiffe://example.org/node", true, &e), 0);
	run(f);
	assert_int_equal(f->opens, 0);
	assert_true(svid(f, 1, 1));
	disconnect(f);
	nothing(f, 1);
	pass(f, QUIET_MS - 1);
	assert_int_equal(f->withdrawn, 0);
	pass(f, 1);
	assert_int_equal(f->withdrawn, 1);
	cs_spire_subs_stop(f->subs, 1);
	assert_int_equal(f->cancels, 0);
	assert_null(cs_spire_subs_spiffe_id(f->subs, 1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_first_and_renewed),
		TEST(test_identical_repeats_are_no_event),
		TEST(test_new_entry_comes_after_an_empty_set),
		TEST(test_a_gap_is_no_withdrawal),
		TEST(test_withdrawn_after_the_quiet_time),
		TEST(test_the_quiet_time_is_bounded),
		TEST(test_another_spiffe_id_is_not_ours),
		TEST(test_an_expired_svid_is_no_svid_and_no_withdrawal),
		TEST(test_an_unusable_svid_leaves_the_old_one),
		TEST(test_an_svid_of_a_later_time_is_asked_for_again),
		TEST(test_a_silent_agent_keeps_its_streams),
		TEST(test_calls_that_end_after_a_message_are_no_storm),
		TEST(test_never_more_than_a_few_wait),
		TEST(test_stopped_while_it_waits_makes_room),
		TEST(test_an_entry_that_cannot_be_signed_gives_its_place_up),
		TEST(test_a_wedged_agent_is_told_apart),
		TEST(test_reconnect_keeps_what_is_there),
		TEST(test_gone_meanwhile_is_withdrawn_after_the_reconnect),
		TEST(test_refused_is_about_us),
		TEST(test_a_refusal_of_the_bundles_counts),
		TEST(test_one_call_that_fails_is_retried_alone),
		TEST(test_an_own_one_has_no_call),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
