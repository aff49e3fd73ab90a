/* Entries in the real maps: written with their basis or not at all, lengthened, judged again, adopted from an earlier life,
 * and derived anew when a clock jumps. Needs root, as all tests of the datapath. */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include "entries.h"
#include "world_text.h"

#define HOUR 3600

#define WORLD                                                                                                          \
	"node n1 self 192.168.0.1; node n2 192.168.0.2; identity 100; identity 101; identity 102;"                     \
	"placement 100 n2; placement 101 n1; placement 102 n1;"                                                        \
	"endpoint n2 web 100 10.0.2.1; endpoint n1 db 101 10.0.1.1 @ veth1 7; endpoint n1 log 102 10.0.1.2 @ veth2 8;" \
	"row 101 100 require require; row 101 102 require require; row 102 101 require require"

struct test {
	struct cs_authd a;
	struct cs_authd_config config;
	struct cs_loop loop;
	struct cs_clock clock;
	int64_t jump_ms; /* of the wall clock */
	uint16_t n2;
	char instance[64];
};

static int64_t unix_ms(void *data)
{
	return cs_clock_system.unix_ms(NULL) + ((struct test *)data)->jump_ms;
}
static int64_t mono_ms(void *data)
{
	(void)data;
	return cs_clock_system.mono_ms(NULL);
}
static int64_t mono_ns(void *data)
{
	(void)data;
	return cs_clock_system.mono_ns(NULL);
}

static void nothing(void *data)
{
	(void)data;
}
static void on_svid(void *data, uint32_t identity)
{
	(void)data;
	(void)identity;
}
static void on_bundle(void *data, const char *trust_domain)
{
	(void)data;
	(void)trust_domain;
}
static void on_miss(void *data, const struct cs_auth_key *key, uint32_t ifindex, enum cs_dir dir, bool held)
{
	(void)data;
	(void)key;
	(void)ifindex;
	(void)dir;
	(void)held;
}

/* One life of authd over the maps of this instance. */
static void live(struct test *t)
{
	struct cs_error e;
	struct cs_world_node n2;
	size_t ops;
	struct cs_svid_callbacks svids = {.on_svid = on_svid, .on_bundle = on_bundle, .on_synced = nothing};
	struct cs_datapath_config config = cs_datapath_defaults();
	struct cs_hold_config hold = {.instance = t->instance, .max_bytes = 1 << 20};
	struct cs_hold_callbacks callbacks = {.on_miss = on_miss};
	config.instance = t->instance;
	config.auth = 4;
	t->config.max_ttl_ms = HOUR * 1000;
	t->clock = (struct cs_clock){.mono_ms = mono_ms, .mono_ns = mono_ns, .unix_ms = unix_ms, .data = t};
	assert_int_equal(cs_loop_init(&t->loop, &t->clock, &e), 0);
	t->a = (struct cs_authd){.loop = &t->loop, .config = &t->config};
	t->a.world = cs_world_new(1);
	t->a.svids = cs_svids_new(&svids);
	t->a.pairs = cs_pairs_new(100);
	t->a.events = cs_events_new(nothing, NULL);
	t->a.dp = cs_datapath_open(&config, &e);
	if (!t->a.dp)
		fail_msg("%s", e.text);
	t->a.hold = cs_hold_new(&t->loop, t->a.dp, &hold, &callbacks, &e);
	if (!t->a.hold)
		fail_msg("%s", e.text);
	t->a.apply = (struct cs_apply){.world = t->a.world, .dp = t->a.dp, .hold = t->a.hold};
	assert_int_equal(cs_apply_adopt(&t->a.apply, &e), 0);
	assert_int_equal(cs_entries_adopt(&t->a, &e), 0);
	cs_world_link(t->a.world, 7, "veth1");
	cs_world_link(t->a.world, 8, "veth2");
	world_replace(t->a.world, WORLD);
	const struct cs_op *op = cs_world_plan(t->a.world, &ops);
	for (size_t i = 0; i < ops; i++)
		cs_world_done(t->a.world, &op[i], NULL);
	assert_true(cs_world_node_by_name(t->a.world, "n2", &n2));
	t->n2 = n2.id;
}

static void die(struct test *t)
{
	cs_hold_close(t->a.hold);
	cs_loop_run(&t->loop);
	cs_loop_fini(&t->loop);
	cs_datapath_free(t->a.dp);
	cs_events_free(t->a.events);
	cs_pairs_free(t->a.pairs);
	cs_svids_free(t->a.svids);
	cs_world_free(t->a.world);
}

static int start(void **state)
{
	struct test *t = calloc(1, sizeof(*t));
	snprintf(t->instance, sizeof(t->instance), "entries-%d", (int)getpid());
	live(t);
	*state = t;
	return 0;
}

static int end(void **state)
{
	struct test *t = *state;
	struct cs_error e;
	assert_int_equal(cs_datapath_unpin(t->a.dp, &e), 0);
	die(t);
	free(t);
	return 0;
}

/* ---- what is in the maps ---- */

static struct cs_auth_key key(uint32_t local, uint32_t remote, uint16_t node)
{
	return (struct cs_auth_key){.local = local, .remote = remote, .node = node, .type = CS_AUTH_SPIRE};
}

static int64_t now_s(struct test *t)
{
	return cs_loop_unix_ms(&t->loop) / 1000;
}

static struct cs_allowed_entry entry(struct test *t, struct cs_auth_key k, int64_t lives_s)
{
	return (struct cs_allowed_entry){.key = k,
		.basis = {.not_after_unix_s = (uint64_t)(now_s(t) + lives_s),
			.written_unix_s = (uint64_t)now_s(t),
			.local_incarnation = 1,
			.remote_incarnation = 1,
			.role = CS_HS_DIALLER},
		.asks = true};
}

static int write_entry(struct test *t, struct cs_auth_key k, int64_t lives_s)
{
	struct cs_allowed allowed = {.n = 1};
	struct cs_error e;
	allowed.entry[0] = entry(t, k, lives_s);
	return cs_entries_write(&t->a, &allowed, &e);
}

/* Seconds that the entry has left; -1: none. */
static int64_t left_s(struct test *t, struct cs_auth_key k)
{
	uint64_t value;
	if (cs_datapath_auth_get(t->a.dp, &k, &value) != 1)
		return -1;
	return ((int64_t)(value & CS_AUTH_EXPIRY) - (int64_t)cs_datapath_now_ns()) / 1000000000;
}

static bool has_basis(struct test *t, struct cs_auth_key k, struct cs_basis *ret)
{
	struct cs_basis basis;
	return cs_datapath_basis_get(t->a.dp, &k, ret ? ret : &basis) == 1;
}

static bool count(const void *k, const void *v, void *data)
{
	(void)k;
	(void)v;
	++*(int *)data;
	return true;
}

static int rows(struct test *t, enum cs_map map)
{
	struct cs_error e;
	int n = 0;
	assert_true(cs_datapath_each(t->a.dp, map, count, &n, &e) >= 0);
	return n;
}

static struct cs_pair *pair(struct test *t, struct cs_auth_key k)
{
	return cs_pairs_find(t->a.pairs, &k);
}

static const struct cs_event *last_event(struct test *t)
{
	uint64_t seq = cs_events_next_seq(t->a.events) - 1;
	return cs_events_read(t->a.events, &seq);
}

/* ---- writing ---- */

static void test_write_and_delete(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2);
	assert_int_equal(write_entry(t, k, 600), 0);
	assert_in_range(left_s(t, k), 595, 600);
	assert_true(has_basis(t, k, NULL));
	assert_true(pair(t, k)->live);
	assert_int_equal(last_event(t)->kind, CS_EVENT_AUTHENTICATED);
	cs_entries_delete(&t->a, pair(t, k), CS_EVENT_DELETED, CS_R_REVOKED);
	assert_int_equal(left_s(t, k), -1);
	assert_false(has_basis(t, k, NULL));
	assert_false(pair(t, k)->live);
	assert_int_equal(last_event(t)->reason, CS_R_REVOKED);
	assert_string_equal(last_event(t)->node, "n2");
}

static void test_never_beyond_max_ttl(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2);
	assert_int_equal(write_entry(t, k, 100 * HOUR), 0);
	assert_in_range(left_s(t, k), HOUR - 5, HOUR);
}

static void test_a_later_one_only_lengthens(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2);
	struct cs_basis basis;
	assert_int_equal(write_entry(t, k, 600), 0);
	uint64_t first = pair(t, k)->basis.not_after_unix_s;
	assert_int_equal(write_entry(t, k, 300), 0);
	assert_in_range(left_s(t, k), 595, 600);
	assert_true(has_basis(t, k, &basis));
	assert_int_equal(basis.not_after_unix_s, first);
	pair(t, k)->value = 1; /* over, and nobody has looked yet: the same certificates bring it back */
	assert_int_equal(write_entry(t, k, 600), 0);
	assert_true((pair(t, k)->value & CS_AUTH_EXPIRY) > cs_datapath_now_ns());
	assert_int_equal(write_entry(t, k, 900), 0);
	assert_in_range(left_s(t, k), 895, 900);
	assert_true(has_basis(t, k, &basis));
	assert_true(basis.not_after_unix_s > first);
}

/* One side was renewed, the other one's certificate still ends first. */
static void test_as_far_by_other_certificates(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2);
	struct cs_allowed allowed = {.n = 1};
	struct cs_basis basis;
	struct cs_error e;
	allowed.entry[0] = entry(t, k, 600);
	assert_int_equal(cs_entries_write(&t->a, &allowed, &e), 0);
	uint64_t events = cs_events_next_seq(t->a.events);
	assert_int_equal(cs_entries_write(&t->a, &allowed, &e), 0);
	assert_int_equal(cs_events_next_seq(t->a.events), events); /* the same: nothing to say */
	allowed.entry[0].basis.remote.sha256[0] ^= 1;
	assert_int_equal(cs_entries_write(&t->a, &allowed, &e), 0);
	assert_true(has_basis(t, k, &basis));
	assert_memory_equal(&basis.remote, &allowed.entry[0].basis.remote, sizeof(basis.remote));
	assert_memory_equal(&pair(t, k)->basis.remote, &basis.remote, sizeof(basis.remote));
	/* The twin: those that end sooner replace nothing. */
	allowed.entry[0].basis.remote.sha256[0] ^= 1;
	allowed.entry[0].basis.not_after_unix_s--;
	assert_int_equal(cs_entries_write(&t->a, &allowed, &e), 0);
	assert_memory_equal(&pair(t, k)->basis.remote, &basis.remote, sizeof(basis.remote));
}

static void say_svid(struct test *t, uint64_t generation, int64_t not_after_unix_s)
{
	char spiffe_id[] = "spiffe://example.org/identity/101";
	uint8_t der[] = "leaf";
	ProtobufCBinaryData chain = {.len = sizeof(der), .data = der};
	Countersign__V1__Svid m = COUNTERSIGN__V1__SVID__INIT, *list[] = {&m};
	Countersign__V1__SvidBatch batch = COUNTERSIGN__V1__SVID_BATCH__INIT;
	struct cs_error e;
	m.identity = 101;
	m.spiffe_id = spiffe_id;
	m.generation = generation;
	m.n_chain = 1;
	m.chain = &chain;
	m.not_after_unix_s = not_after_unix_s;
	batch.n_svids = 1;
	batch.svids = list;
	assert_int_equal(cs_svids_batch(t->a.svids, &batch, &e), 0);
	cs_entries_svid(&t->a, 101);
}

/* The new certificate may end in the same second as the old one, as where both end with their authority: the entry must come
 * to rest on it all the same. */
static void test_a_rotation_authenticates_anew(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2);
	assert_int_equal(write_entry(t, k, HOUR), 0);
	int64_t end_s = (int64_t)pair(t, k)->basis.not_after_unix_s, renew_ms = pair(t, k)->renew_mono_ms;
	say_svid(t, 1, end_s - 1); /* the twin: nothing to gain */
	assert_int_equal(pair(t, k)->renew_mono_ms, renew_ms);
	say_svid(t, 2, end_s);
	assert_true(pair(t, k)->renew_mono_ms < renew_ms);
}

static void test_what_policy_does_not_ask_for_is_not_written(void **state)
{
	struct test *t = *state;
	struct cs_allowed allowed = {.n = 1};
	struct cs_error e;
	allowed.entry[0] = entry(t, key(101, 100, t->n2), 600);
	allowed.entry[0].asks = false;
	assert_int_equal(cs_entries_write(&t->a, &allowed, &e), 0);
	assert_int_equal(left_s(t, allowed.entry[0].key), -1);
	assert_false(has_basis(t, allowed.entry[0].key, NULL));
}

static void test_both_of_a_pair_on_one_node(void **state)
{
	struct test *t = *state;
	struct cs_allowed allowed = {.n = 2};
	struct cs_error e;
	allowed.entry[0] = entry(t, key(101, 102, 0), 600);
	allowed.entry[1] = entry(t, key(102, 101, 0), 600);
	assert_int_equal(cs_entries_write(&t->a, &allowed, &e), 0);
	for (int i = 0; i < 2; i++) {
		assert_in_range(left_s(t, allowed.entry[i].key), 595, 600);
		assert_true(has_basis(t, allowed.entry[i].key, NULL));
	}
}

static void test_what_cannot_be_deleted_is_not_forgotten(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2);
	uint64_t events;
	assert_int_equal(write_entry(t, k, 600), 0);
	assert_int_equal(bpf_map_freeze(cs_datapath_map_fd(t->a.dp, "cs_auth")), 0); /* nobody writes there any more */
	events = cs_events_next_seq(t->a.events);
	cs_entries_delete(&t->a, pair(t, k), CS_EVENT_DELETED, CS_R_REVOKED);
	assert_true(left_s(t, k) > 0);
	assert_true(has_basis(t, k, NULL)); /* as long as the entry is there, so is what it rests on */
	for (int i = 0; i < 2; i++) {       /* neither forgotten nor brought back to life */
		assert_true(pair(t, k)->live);
		assert_int_equal(pair(t, k)->value, 0);
		assert_int_equal(cs_events_next_seq(t->a.events), events);
		cs_entries_tick(&t->a);
		cs_entries_rederive(&t->a);
	}
}

static void test_refusals_are_forgotten_at_last(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2);
	struct cs_pair *p = cs_pairs_get(t->a.pairs, &k);
	struct cs_instant now = cs_authd_now(&t->a);
	cs_pair_set_refused(
		p, CS_R_PEER_TIMEOUT, cs_hold_refuse(t->a.hold, &k, CS_R_PEER_TIMEOUT, CS_BACKOFF_MAX_MS), &now);
	cs_entries_tick(&t->a);
	assert_ptr_equal(pair(t, k), p);
	assert_int_equal(rows(t, CS_MAP_PENDING), 1);
	p->refused_until_mono_ms = now.mono_ms - CS_REFUSED_KEEP_MS;
	cs_entries_tick(&t->a);
	assert_null(pair(t, k));
	assert_int_equal(rows(t, CS_MAP_PENDING), 0);
}

static void test_no_room_leaves_nothing(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2);
	struct cs_error e;
	for (uint32_t i = 0; i < 4; i++) {
		struct cs_auth_key other = key(500 + i, 600, t->n2);
		assert_int_equal(cs_datapath_auth_put(t->a.dp, &other, 1, &e), 0);
	}
	assert_true(write_entry(t, k, 600) < 0);
	assert_int_equal(left_s(t, k), -1);
	assert_false(has_basis(t, k, NULL));
	assert_false(pair(t, k)->live);
}

/* ---- what changed ---- */

static void test_policy_changes(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2), other = key(101, 102, 0);
	uint64_t value;
	assert_int_equal(write_entry(t, k, 600), 0);
	assert_int_equal(write_entry(t, other, 600), 0);
	/* One direction denied: the entry says so before the row does, and forgets it after. */
	world_say(t->a.world, "row 101 100 require deny");
	cs_entries_changed(&t->a, true);
	assert_int_equal(cs_datapath_auth_get(t->a.dp, &k, &value), 1);
	assert_true(value & CS_AUTH_REPLY_TO);
	world_say(t->a.world, "row 101 100 deny require");
	cs_entries_changed(&t->a, true);
	assert_int_equal(cs_datapath_auth_get(t->a.dp, &k, &value), 1);
	assert_true((value & (CS_AUTH_REPLY_TO | CS_AUTH_REPLY_FROM)) == (CS_AUTH_REPLY_TO | CS_AUTH_REPLY_FROM));
	cs_entries_changed(&t->a, false);
	assert_int_equal(cs_datapath_auth_get(t->a.dp, &k, &value), 1);
	assert_true((value & (CS_AUTH_REPLY_TO | CS_AUTH_REPLY_FROM)) == CS_AUTH_REPLY_FROM);
	/* Nothing asks any more: it goes; the other pair stays. */
	world_say(t->a.world, "row 101 100 deny deny");
	cs_entries_changed(&t->a, true);
	assert_int_equal(left_s(t, k), -1);
	assert_false(has_basis(t, k, NULL));
	assert_int_equal(last_event(t)->reason, CS_R_POLICY_NO_LONGER_ASKS);
	assert_in_range(left_s(t, other), 590, 600);
}

static void test_what_cannot_be_applied_is_tried_again(void **state)
{
	struct test *t = *state;
	struct cs_policy_key k = {.local = 101, .remote = 100};
	struct cs_policy row;
	t->a.apply.entries = cs_entries_changed;
	t->a.apply.data = &t->a;
	world_say(t->a.world, "row 101 100 require deny");
	cs_apply_run(&t->a.apply);
	assert_false(t->a.apply.again);
	assert_int_equal(cs_datapath_policy_get(t->a.dp, &k, &row), 1);
	assert_int_equal(row.verdict[CS_TO], CS_DENY);
	assert_int_equal(bpf_map_freeze(cs_datapath_map_fd(t->a.dp, "cs_policy")), 0);
	world_say(t->a.world, "row 101 100 deny deny");
	for (int i = 0; i < 2; i++) {
		cs_apply_run(&t->a.apply);
		assert_true(t->a.apply.again);
	}
}

static void test_clear(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2), other = key(101, 102, 0);
	assert_int_equal(write_entry(t, k, 600), 0);
	assert_int_equal(write_entry(t, other, 600), 0);
	cs_entries_clear(&t->a, CS_R_DIRECTORY_STALE);
	assert_int_equal(rows(t, CS_MAP_AUTH), 0);
	assert_int_equal(rows(t, CS_MAP_BASIS), 0);
}

/* ---- clocks ---- */

static void test_clock_jumps(void **state)
{
	struct test *t = *state;
	struct cs_auth_key k = key(101, 100, t->n2), lasting = key(101, 102, 0);
	assert_int_equal(write_entry(t, k, 600), 0);
	assert_int_equal(write_entry(t, lasting, 10 * HOUR), 0);
	cs_entries_rederive(&t->a); /* no jump: nothing changes */
	assert_in_range(left_s(t, k), 595, 600);
	t->jump_ms = 300000; /* asleep for 5 minutes, as seen by certificates */
	cs_entries_rederive(&t->a);
	assert_in_range(left_s(t, k), 295, 300);
	assert_in_range(left_s(t, lasting), HOUR - 5, HOUR);
	t->jump_ms = -300000; /* set back: more is left, and never more than auth.max_ttl */
	cs_entries_rederive(&t->a);
	assert_in_range(left_s(t, k), 895, 900);
	assert_in_range(left_s(t, lasting), HOUR - 5, HOUR);
	t->jump_ms = 601000;
	cs_entries_rederive(&t->a);
	assert_int_equal(left_s(t, k), -1);
	assert_false(has_basis(t, k, NULL));
	assert_int_equal(last_event(t)->kind, CS_EVENT_EXPIRED);
	t->jump_ms = 11L * HOUR * 1000;
	cs_entries_tick(&t->a); /* the tick sees the end of a certificate by itself */
	assert_int_equal(left_s(t, lasting), -1);
	t->jump_ms = 0;
}

/* ---- the next life ---- */

static void test_the_next_life(void **state)
{
	struct test *t = *state;
	struct cs_error e;
	struct cs_auth_key good = key(101, 100, t->n2), bare = key(101, 102, 0), unknown = key(101, 100, 999),
			   type = key(102, 101, 0);
	type.type = 2;
	assert_int_equal(write_entry(t, good, 600), 0);
	struct cs_node row = {.name = "n2"};
	assert_int_equal(cs_datapath_node_put(t->a.dp, t->n2, &row, &e), 0);
	uint64_t later = cs_datapath_now_ns() + 60000000000ULL;
	struct cs_basis basis = entry(t, good, 600).basis;
	assert_int_equal(cs_datapath_auth_put(t->a.dp, &bare, later, &e), 0); /* without a basis */
	assert_int_equal(cs_datapath_auth_put(t->a.dp, &unknown, later, &e), 0);
	assert_int_equal(cs_datapath_basis_put(t->a.dp, &unknown, &basis, &e), 0); /* of a node without a name */
	assert_int_equal(cs_datapath_auth_put(t->a.dp, &type, later, &e), 0);
	assert_int_equal(cs_datapath_basis_put(t->a.dp, &type, &basis, &e), 0);
	die(t);
	live(t);
	assert_int_equal(rows(t, CS_MAP_AUTH), 1);
	assert_int_equal(rows(t, CS_MAP_BASIS), 1);
	assert_in_range(left_s(t, good), 590, 600);
	assert_true(pair(t, good)->live);
	assert_true(pair(t, good)->adopted);
	t->jump_ms = -300000; /* its basis was not looked at: a clock makes it shorter and not longer */
	cs_entries_rederive(&t->a);
	assert_in_range(left_s(t, good), 590, 600);
	t->jump_ms = 300000;
	cs_entries_rederive(&t->a);
	assert_in_range(left_s(t, good), 290, 300);
	t->jump_ms = 0;

	/* A basis without its entry, and an entry that is over. */
	struct cs_auth_key orphan = key(101, 102, 0), over = key(102, 101, 0);
	assert_int_equal(cs_datapath_basis_put(t->a.dp, &orphan, &basis, &e), 0);
	assert_int_equal(cs_datapath_basis_put(t->a.dp, &over, &basis, &e), 0);
	assert_int_equal(cs_datapath_auth_put(t->a.dp, &over, 1, &e), 0);
	die(t);
	live(t);
	assert_int_equal(rows(t, CS_MAP_AUTH), 1);
	assert_int_equal(rows(t, CS_MAP_BASIS), 1);

	/* Judged by what the directory says now. */
	cs_entries_changed(&t->a, true);
	assert_true(pair(t, good)->live);
	cs_entries_trust(&t->a);
	assert_false(pair(t, good)->adopted);
	world_say(t->a.world, "identity 100 2"); /* the number is another identity's */
	cs_entries_changed(&t->a, true);
	assert_int_equal(rows(t, CS_MAP_AUTH), 0);
	assert_int_equal(last_event(t)->reason, CS_R_SPIFFE_ID_MISMATCH);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, start, end)
	const struct CMUnitTest tests[] = {
		CASE(test_write_and_delete),
		CASE(test_never_beyond_max_ttl),
		CASE(test_a_later_one_only_lengthens),
		CASE(test_as_far_by_other_certificates),
		CASE(test_a_rotation_authenticates_anew),
		CASE(test_what_policy_does_not_ask_for_is_not_written),
		CASE(test_both_of_a_pair_on_one_node),
		CASE(test_what_cannot_be_deleted_is_not_forgotten),
		CASE(test_refusals_are_forgotten_at_last),
		CASE(test_no_room_leaves_nothing),
		CASE(test_policy_changes),
		CASE(test_what_cannot_be_applied_is_tried_again),
		CASE(test_clear),
		CASE(test_clock_jumps),
		CASE(test_the_next_life),
	};
	return cmocka_run_group_tests(tests, own_network, NULL);
}
