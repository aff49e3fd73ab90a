/* What the second that forgets pairs does to one whose packet has just come: the real programs, rings and queues. */
#include "fixture.h"

#include <stdlib.h>
#include "entries.h"
#include "events.h"

#define WAIT_MS 20000

struct test {
	struct world *w;
	struct cs_authd a;
	struct cs_authd_config config;
	struct cs_loop loop;
	unsigned misses;
};

static void nothing(void *data)
{
	(void)data;
}

static void on_miss(void *data, const struct cs_auth_key *key, uint32_t ifindex, enum cs_dir dir, bool held)
{
	(void)key;
	(void)ifindex;
	(void)dir;
	assert_true(held);
	((struct test *)data)->misses++;
}

static int set_up(void **state)
{
	struct test *t = calloc(1, sizeof(*t));
	struct cs_error e;
	world_open((void **)&t->w);
	world_defaults(t->w, CS_REQUIRE, CS_DENY, CS_REQUIRE, CS_DENY);
	assert_int_equal(cs_loop_init(&t->loop, NULL, &e), 0);
	struct cs_hold_config hold = {.instance = t->w->instance, .max_bytes = 1 << 20};
	struct cs_hold_callbacks callbacks = {.on_miss = on_miss, .data = t};
	t->config.max_ttl_ms = 3600000;
	t->a = (struct cs_authd){.loop = &t->loop, .config = &t->config, .dp = t->w->dp};
	t->a.world = cs_world_new(1);
	t->a.pairs = cs_pairs_new(100);
	t->a.events = cs_events_new(nothing, NULL);
	t->a.hold = cs_hold_new(&t->loop, t->w->dp, &hold, &callbacks, &e);
	if (!t->a.hold)
		fail_msg("%s", e.text);
	*state = t;
	return 0;
}

static int tear_down(void **state)
{
	struct test *t = *state;
	cs_hold_close(t->a.hold);
	cs_loop_run(&t->loop);
	cs_loop_fini(&t->loop);
	cs_events_free(t->a.events);
	cs_pairs_free(t->a.pairs);
	cs_world_free(t->a.world);
	world_close((void **)&t->w);
	free(t);
	return 0;
}

static void test_a_pair_whose_packet_has_just_come_stays(void **state)
{
	struct test *t = *state;
	struct cs_auth_key key = world_key(REMOTE, 1);
	struct frame f = build(&(struct spec){OWN4, REMOTE4});
	assert_non_null(cs_pairs_get(t->a.pairs, &key)); /* its entry is over, and nobody asks for it */
	(void)run_frame(t->w, CS_FROM, &f, NULL);
	int64_t end = cs_clock_system.mono_ms(NULL) + WAIT_MS;
	while (cs_hold_packets(t->a.hold, &key) == 0 && cs_clock_system.mono_ms(NULL) < end)
		uv_run(&t->loop.uv, UV_RUN_NOWAIT);
	assert_int_equal(cs_hold_packets(t->a.hold, &key), 1);
	/* The second is over before the loop comes to say that there is a question. */
	cs_entries_tick(&t->a);
	assert_non_null(cs_pairs_find(t->a.pairs, &key));
	assert_int_equal(cs_hold_packets(t->a.hold, &key), 1);
	assert_int_equal(cs_hold_stats(t->a.hold)->dropped[CS_R_HELD_TOO_LONG], 0);
	while (t->misses == 0 && cs_clock_system.mono_ms(NULL) < end)
		uv_run(&t->loop.uv, UV_RUN_ONCE);
	assert_int_equal(t->misses, 1);
	/* With nothing that waits it goes. */
	cs_hold_forget(t->a.hold, &key, CS_R_NONE);
	cs_entries_tick(&t->a);
	assert_null(cs_pairs_find(t->a.pairs, &key));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_pair_whose_packet_has_just_come_stays, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, own_network, remove_leftovers);
}
