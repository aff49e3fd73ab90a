/* authmap/events and drops: readers at their own pace, holes where one was too slow, and packets since the record before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <fcntl.h>
#include <unistd.h>

#include "drops.h"
#include "events.h"
#include "log.h"

static void count(void *data)
{
	(*(unsigned *)data)++;
}

static void add(struct cs_events *e, enum cs_event_kind kind, uint32_t local)
{
	const struct cs_event v = {.seq = 77, .pair_seq = 77, .kind = kind, .key = {.local = local}};
	cs_events_add(e, &v);
}

static void test_in_order(void **state)
{
	(void)state;
	unsigned told = 0;
	struct cs_events *e = cs_events_new(count, &told);
	uint64_t at = cs_events_next_seq(e);
	assert_null(cs_events_read(e, &at));
	add(e, CS_EVENT_AUTHENTICATED, 1);
	add(e, CS_EVENT_REFUSED, 2);
	assert_int_equal(told, 2);
	uint64_t late = cs_events_next_seq(e); /* who comes now has missed nothing that it asked for */
	assert_null(cs_events_read(e, &late));
	const struct cs_event *v = cs_events_read(e, &at);
	assert_int_equal(v->key.local, 1);
	uint64_t first = v->seq;
	v = cs_events_read(e, &at);
	assert_int_equal(v->key.local, 2);
	assert_int_equal(v->seq, first + 1);
	assert_null(cs_events_read(e, &at));
	add(e, CS_EVENT_DELETED, 3);
	assert_int_equal(cs_events_read(e, &at)->key.local, 3);
	assert_int_equal(cs_events_read(e, &late)->key.local, 3);
	cs_events_free(e);
}

/* As many as are kept are all there; one more, and the oldest is gone: the numbers show the hole. */
static void test_hole(void **state)
{
	(void)state;
	unsigned told = 0;
	struct cs_events *e = cs_events_new(count, &told);
	uint64_t start = cs_events_next_seq(e), at = start;
	for (uint32_t i = 0; i < CS_EVENTS_KEPT; i++)
		add(e, CS_EVENT_AUTHENTICATED, i);
	assert_int_equal(cs_events_read(e, &at)->seq, start);
	assert_int_equal(cs_events_read(e, &at)->seq, start + 1);
	at = start;
	add(e, CS_EVENT_AUTHENTICATED, CS_EVENTS_KEPT);
	assert_int_equal(cs_events_read(e, &at)->seq, start + 1);
	for (uint32_t i = 0; i < 3 * CS_EVENTS_KEPT; i++)
		add(e, CS_EVENT_AUTHENTICATED, i);
	unsigned n = 0;
	uint64_t before = 0;
	for (const struct cs_event *v; (v = cs_events_read(e, &at)); n++) {
		assert_true(!before || v->seq == before + 1);
		before = v->seq;
	}
	assert_int_equal(n, CS_EVENTS_KEPT);
	assert_int_equal(before + 1, cs_events_next_seq(e));
	cs_events_free(e);
}

/* Who leaves out drops numbers by pair_seq: no hole because of them. */
static void test_without_drops(void **state)
{
	(void)state;
	unsigned told = 0;
	struct cs_events *e = cs_events_new(count, &told);
	uint64_t at = cs_events_next_seq(e), seen = 0;
	assert_int_equal(cs_events_pair_seq(e), 0);
	for (uint32_t i = 0; i < 100; i++)
		add(e, i % 3 ? CS_EVENT_DROPPED : CS_EVENT_AUTHENTICATED, i);
	for (const struct cs_event *v; (v = cs_events_read(e, &at));)
		if (v->kind != CS_EVENT_DROPPED)
			assert_int_equal(v->pair_seq, ++seen);
	assert_int_equal(seen, 34);
	assert_int_equal(cs_events_pair_seq(e), 34);
	cs_events_free(e);
}

static void test_names(void **state)
{
	(void)state;
	static const char *const names[] = {"authenticated", "refused", "expired", "deleted", "dropped", "state"};
	for (int kind = CS_EVENT_AUTHENTICATED; kind <= CS_EVENT_STATE; kind++)
		assert_string_equal(cs_event_kind_name((enum cs_event_kind)kind), names[kind]);
}

/* ---- drops ---- */

static struct cs_drop record(uint32_t remote, uint64_t packets)
{
	return (struct cs_drop){.packets = packets, .key = {.local = 1, .remote = remote, .reason = CS_R_POLICY_DENY}};
}

static void test_since(void **state)
{
	(void)state;
	struct cs_drops *drops = cs_drops_new();
	struct cs_drop a = record(7, 1), b = record(8, 5);
	assert_int_equal(cs_drops_since(drops, &a), 1);
	assert_int_equal(cs_drops_since(drops, &b), 5); /* another key */
	a.packets = 40;
	assert_int_equal(cs_drops_since(drops, &a), 39);
	a.packets = 40;
	assert_int_equal(cs_drops_since(drops, &a), 0);
	a.packets = 3; /* the datapath had forgotten it, and counts anew */
	assert_int_equal(cs_drops_since(drops, &a), 3);
	a.key.would = 1;
	assert_int_equal(cs_drops_since(drops, &a), 3);
	cs_drops_free(drops);
	cs_drops_free(NULL);
}

/* The one whose record is the oldest goes first. */
static void test_bounded(void **state)
{
	(void)state;
	struct cs_drops *drops = cs_drops_new();
	struct cs_drop a = record(0, 10), b = record(1, 10);
	cs_drops_since(drops, &b);
	cs_drops_since(drops, &a);
	for (uint32_t i = 2; i < CS_DROPS_MAX; i++) {
		struct cs_drop other = record(i, 1);
		cs_drops_since(drops, &other);
	}
	b.packets = 11;
	assert_int_equal(cs_drops_since(drops, &b), 1); /* all of them fit */
	struct cs_drop more = record(CS_DROPS_MAX, 1);
	cs_drops_since(drops, &more);
	a.packets = 11;
	assert_int_equal(cs_drops_since(drops, &a), 11); /* forgotten */
	b.packets = 12;
	assert_int_equal(cs_drops_since(drops, &b), 1); /* its record was newer */
	cs_drops_free(drops);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_in_order), cmocka_unit_test(test_hole),
		cmocka_unit_test(test_without_drops), cmocka_unit_test(test_names), cmocka_unit_test(test_since),
		cmocka_unit_test(test_bounded)};
	cs_log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC)); /* each event is a line */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
