/* A miss: who asks, what is held, and every bound on it. */
#include "fixture.h"

#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <bpf/bpf.h>

static struct cs_held records[128];
static uint8_t frames[128][CS_HELD_MAX];

/* Every pair has to authenticate. */
static int open_required(void **state)
{
	world_open(state);
	world_defaults(*state, CS_REQUIRE, CS_DENY, CS_REQUIRE, CS_DENY);
	return 0;
}

static size_t held(struct world *w)
{
	return take_held(w, "cs_held", records, frames, 128);
}

static size_t signals(struct world *w)
{
	return take_held(w, "cs_signal", records, NULL, 128);
}

static int run(struct world *w, enum cs_dir dir, const struct spec *spec)
{
	struct frame f = build(spec);
	return run_frame(w, dir, &f, spec).verdict;
}

static struct cs_pending pending(struct world *w, uint32_t remote, uint16_t node)
{
	struct cs_auth_key key = world_key(remote, node);
	struct cs_pending row = {0};
	assert_int_equal(cs_datapath_pending_get(w->dp, &key, &row), 1);
	return row;
}

static bool has_pending(struct world *w, uint32_t remote, uint16_t node)
{
	struct cs_auth_key key = world_key(remote, node);
	struct cs_pending row;
	return cs_datapath_pending_get(w->dp, &key, &row) == 1;
}

static struct cs_budget budget(struct world *w, enum cs_dir dir)
{
	struct cs_budget_key key = {.kind = CS_BUDGET_INTERFACE, .id = IFINDEX << 1 | dir};
	struct cs_budget row;
	assert_int_equal(bpf_map_lookup_elem(cs_datapath_map_fd(w->dp, "cs_budget"), &key, &row), 0);
	return row;
}

static void set_budget(struct world *w, enum cs_dir dir, const struct cs_budget *row)
{
	struct cs_budget_key key = {.kind = CS_BUDGET_INTERFACE, .id = IFINDEX << 1 | dir};
	assert_int_equal(bpf_map_update_elem(cs_datapath_map_fd(w->dp, "cs_budget"), &key, row, BPF_EXIST), 0);
}

static void test_record(void **state)
{
	struct world *w = *state;
	struct cs_auth_key key = world_key(LOCAL, 0);
	const struct spec spec = {LOCAL6, OWN6, IPPROTO_TCP, .mark = 7};
	assert_int_equal(run(w, CS_TO, &spec), 2 /* TC_ACT_SHOT */);
	assert_int_equal(held(w), 1);
	struct frame f = build(&spec);
	assert_memory_equal(&records[0].key, &key, sizeof(key));
	assert_int_equal(records[0].ifindex, IFINDEX);
	assert_int_equal(records[0].dir, CS_TO);
	assert_int_equal(records[0].why, 0);
	assert_int_equal(records[0].mark, 7);
	assert_int_equal(records[0].len, f.len);
	assert_int_equal(records[0].caplen, f.len);
	assert_memory_equal(frames[0], f.bytes, f.len);
	assert_int_equal(signals(w), 0); /* the record itself asks */
	assert_int_equal(pending(w, LOCAL, 0).state, CS_ASKING);
	assert_int_equal(pending(w, LOCAL, 0).packets, 1);
	assert_int_equal(pending(w, LOCAL, 0).bytes, f.len);
	assert_int_equal(budget(w, CS_TO).packets, 1);
	assert_int_equal(budget(w, CS_TO).bytes, f.len);
	assert_int_equal(budget(w, CS_TO).pairs, CS_NEW_PAIRS_PER_S - 1);
	assert_int_equal(budget(w, CS_FROM).packets, 0);
	assert_int_equal(budget(w, CS_FROM).pairs, CS_NEW_PAIRS_PER_S);
	/* The next of the pair spends no new pair. */
	EXPECT(w, {"second", CS_TO, spec, HELD});
	assert_int_equal(budget(w, CS_TO).pairs, CS_NEW_PAIRS_PER_S - 1);
	assert_int_equal(pending(w, LOCAL, 0).packets, 2);
}

/* Both size classes, the largest, and one byte more. */
static void test_sizes(void **state)
{
	struct world *w = *state;
	static const size_t sizes[] = {256, 257, 2048};
	for (size_t i = 0; i < 3; i++) {
		struct spec spec = {OWN4, REMOTE4, .body = sizes[i] - 14 - 20 - 8};
		struct frame f = build(&spec);
		assert_int_equal(f.len, sizes[i]);
		assert_int_equal(run(w, CS_FROM, &spec), 2);
		assert_int_equal(held(w), 1);
		assert_int_equal(records[0].caplen, sizes[i]);
		assert_memory_equal(frames[0], f.bytes, f.len);
	}
	EXPECT(w, {"too long, asked for already", CS_FROM, {OWN4, REMOTE4, .body = 2049 - 42}, CS_R_UNHOLDABLE});
	assert_int_equal(signals(w), 0);
	EXPECT(w, {"too long, the first of its pair", CS_FROM, {OWN4, LOCAL4, .body = 2049 - 42}, CS_R_UNHOLDABLE});
	assert_int_equal(signals(w), 1);
	assert_int_equal(records[0].why, CS_R_UNHOLDABLE);
	assert_int_equal(records[0].key.remote, LOCAL);
	assert_int_equal(records[0].caplen, 0);
	assert_int_equal(pending(w, LOCAL, 0).packets, 0);
	EXPECT(w, {"SCTP: its checksum cannot be said", CS_FROM, {OWN4, OTHER4, IPPROTO_SCTP}, CS_R_UNHOLDABLE});
	assert_int_equal(signals(w), 1);
	assert_int_equal(budget(w, CS_FROM).packets, 3); /* what was not held gave its room back */
}

static void test_hold_off(void **state)
{
	struct world *w = *state;
	world_flags(w, CS_NODE_HOST_PASSES);
	EXPECT(w, {"first", CS_TO, {REMOTE4, OWN4}, CS_R_UNAUTHENTICATED},
		{"second", CS_TO, {REMOTE4, OWN4}, CS_R_UNAUTHENTICATED});
	assert_int_equal(signals(w), 1);
	assert_int_equal(records[0].why, CS_R_UNAUTHENTICATED);
	assert_int_equal(records[0].dir, CS_TO);
}

static void test_daemon_down(void **state)
{
	struct world *w = *state;
	const struct spec spec = {OWN4, REMOTE4};
	EXPECT(w, {"alive", CS_FROM, spec, HELD});
	cs_datapath_set_alive(w->dp, cs_datapath_now_ns() - 4900000000ULL);
	EXPECT(w, {"4.9 s ago", CS_FROM, spec, HELD});
	cs_datapath_set_alive(w->dp, cs_datapath_now_ns() - CS_ALIVE_NS);
	EXPECT(w, {"5 s ago", CS_FROM, spec, CS_R_DAEMON_DOWN},
		{"another pair", CS_TO, {LOCAL4, OWN4}, CS_R_DAEMON_DOWN});
	assert_false(has_pending(w, LOCAL, 0));
	cs_datapath_set_alive(w->dp, 0);
	EXPECT(w, {"never", CS_FROM, spec, CS_R_DAEMON_DOWN});
	world_auth(w, REMOTE, 1, 60000, 0);
	EXPECT(w, {"an entry lives on", CS_FROM, spec, PASSES});
	assert_int_equal(signals(w), 0);
}

static void test_without_budget(void **state)
{
	struct world *w = *state;
	struct cs_budget_key key = {.kind = CS_BUDGET_INTERFACE, .id = IFINDEX << 1 | CS_FROM};
	assert_int_equal(bpf_map_delete_elem(cs_datapath_map_fd(w->dp, "cs_budget"), &key), 0);
	EXPECT(w, {"no row, no hold", CS_FROM, {OWN4, REMOTE4}, CS_R_HOLD_BUDGET},
		{"the other hook has its own", CS_TO, {REMOTE4, OWN4}, HELD});
	assert_int_equal(signals(w), 0);
}

static void test_pair_budget(void **state)
{
	struct world *w = *state;
	const struct spec spec = {OWN4, REMOTE4};
	for (int i = 0; i < CS_HOLD_PAIR_PACKETS; i++)
		EXPECT(w, {"within", CS_FROM, spec, HELD});
	EXPECT(w, {"the 17th", CS_FROM, spec, CS_R_HOLD_BUDGET}, {"another pair", CS_FROM, {OWN4, LOCAL4}, HELD});
	assert_int_equal(pending(w, REMOTE, 1).packets, CS_HOLD_PAIR_PACKETS);
	/* authd takes back what left its hands; never below nothing. */
	struct cs_settle settle = {
		.key = world_key(REMOTE, 1), .ifindex = IFINDEX, .dir = CS_FROM, .packets = 1, .bytes = 50};
	assert_int_equal(cs_datapath_settle(w->dp, &settle, NULL), 0);
	assert_int_equal(pending(w, REMOTE, 1).packets, CS_HOLD_PAIR_PACKETS - 1);
	assert_int_equal(budget(w, CS_FROM).packets, CS_HOLD_PAIR_PACKETS);
	EXPECT(w, {"room again", CS_FROM, spec, HELD}, {"and none", CS_FROM, spec, CS_R_HOLD_BUDGET});
	settle.packets = 1000;
	settle.bytes = 1u << 30;
	assert_int_equal(cs_datapath_settle(w->dp, &settle, NULL), 0);
	assert_int_equal(pending(w, REMOTE, 1).packets, 0);
	assert_int_equal(pending(w, REMOTE, 1).bytes, 0);
	assert_int_equal(budget(w, CS_FROM).packets, 0);
	assert_int_equal(budget(w, CS_FROM).bytes, 0);
	settle.ifindex = 999;
	settle.key.remote = 999;
	assert_int_equal(cs_datapath_settle(w->dp, &settle, NULL), 0); /* rows that are gone */
}

static void test_pair_bytes(void **state)
{
	struct world *w = *state;
	struct cs_auth_key key = world_key(REMOTE, 1);
	struct cs_pending row = {
		.state = CS_ASKING, .until_ns = cs_datapath_now_ns() + 1000000000, .bytes = CS_HOLD_PAIR_BYTES - 100};
	assert_int_equal(cs_datapath_pending_put(w->dp, &key, &row, NULL), 0);
	EXPECT(w, {"101 bytes", CS_FROM, {OWN4, REMOTE4, .body = 101 - 42}, CS_R_HOLD_BUDGET},
		{"100 bytes", CS_FROM, {OWN4, REMOTE4, .body = 100 - 42}, HELD});
	assert_int_equal(pending(w, REMOTE, 1).bytes, CS_HOLD_PAIR_BYTES);
}

static void test_interface_budget(void **state)
{
	struct world *w = *state;
	struct cs_budget row = budget(w, CS_FROM);
	row.packets = CS_HOLD_INTERFACE_PACKETS;
	set_budget(w, CS_FROM, &row);
	EXPECT(w, {"full", CS_FROM, {OWN4, REMOTE4}, CS_R_HOLD_BUDGET},
		{"what it needs to be reached is not spent", CS_TO, {REMOTE4, OWN4}, HELD});
	assert_int_equal(signals(w), 1); /* not held, but asked for */
	assert_int_equal(records[0].why, CS_R_HOLD_BUDGET);
	row = budget(w, CS_FROM);
	assert_int_equal(row.packets, CS_HOLD_INTERFACE_PACKETS);
	assert_int_equal(pending(w, REMOTE, 1).packets, 1); /* the one that was held at CS_TO */
	assert_int_equal(pending(w, REMOTE, 1).bytes, 50);
	row.packets = CS_HOLD_INTERFACE_PACKETS - 1;
	row.bytes = CS_HOLD_INTERFACE_BYTES - 100;
	set_budget(w, CS_FROM, &row);
	EXPECT(w, {"101 bytes", CS_FROM, {OWN4, REMOTE4, .body = 101 - 42}, CS_R_HOLD_BUDGET},
		{"100 bytes", CS_FROM, {OWN4, REMOTE4, .body = 100 - 42}, HELD},
		{"packets", CS_FROM, {OWN4, REMOTE4}, CS_R_HOLD_BUDGET});
	assert_int_equal(budget(w, CS_FROM).bytes, CS_HOLD_INTERFACE_BYTES);
	assert_int_equal(budget(w, CS_FROM).packets, CS_HOLD_INTERFACE_PACKETS);
}

static void address_of(uint32_t n, char ip[32])
{
	snprintf(ip, 32, "10.200.%u.%u", n / 256, n % 256);
}

/* 50 new pairs at once, then 50 a second. Without one, neither row nor signal. */
static void test_new_pairs(void **state)
{
	struct world *w = *state;
	char ip[32];
	for (uint32_t i = 0; i <= CS_NEW_PAIRS_PER_S; i++) {
		address_of(i, ip);
		world_addr(w, ip, 5000 + i, 1, 0);
	}
	struct cs_budget row = budget(w, CS_FROM);
	row.refill_ns = cs_datapath_now_ns() + 3600000000000ULL; /* no refill meanwhile */
	set_budget(w, CS_FROM, &row);
	for (uint32_t i = 0; i < CS_NEW_PAIRS_PER_S; i++) {
		address_of(i, ip);
		EXPECT(w, {"within", CS_FROM, {OWN4, ip}, HELD});
	}
	address_of(CS_NEW_PAIRS_PER_S, ip);
	EXPECT(w, {"the 51st", CS_FROM, {OWN4, ip}, CS_R_PENDING_FULL},
		{"an old one", CS_FROM, {OWN4, "10.200.0.0"}, HELD}, {"to the endpoint", CS_TO, {ip, OWN4}, HELD});
	assert_int_equal(signals(w), 0);
	assert_int_equal(budget(w, CS_FROM).pairs, 0);
	world_addr(w, "10.200.1.0", 6000, 1, 0);
	world_addr(w, "10.200.1.1", 6001, 1, 0);
	row = budget(w, CS_FROM);
	row.packets = 0;
	row.refill_ns = cs_datapath_now_ns() - 45000000; /* two intervals and a quarter, more on a slow machine */
	set_budget(w, CS_FROM, &row);
	EXPECT(w, {"one", CS_FROM, {OWN4, "10.200.1.0"}, HELD});
	uint64_t most = (cs_datapath_now_ns() - row.refill_ns) / 20000000, grown = budget(w, CS_FROM).pairs + 1;
	assert_in_range(grown, 2, most);
	assert_int_equal(budget(w, CS_FROM).refill_ns, row.refill_ns + grown * 20000000);
	/* However long nothing happened, no more than the bucket holds. */
	row = budget(w, CS_FROM);
	row.refill_ns = 0;
	set_budget(w, CS_FROM, &row);
	EXPECT(w, {"after an hour", CS_FROM, {OWN4, "10.200.1.1"}, HELD});
	assert_int_equal(budget(w, CS_FROM).pairs, CS_NEW_PAIRS_PER_S - 1);
}

static void test_pending_map_is_full(void **state)
{
	struct world *w = *state;
	for (uint32_t i = 0; i < 256; i++) {
		struct cs_auth_key key = world_key(10000 + i, 1);
		struct cs_pending row = {.state = CS_REFUSED, .until_ns = cs_datapath_now_ns() + 1000000000};
		assert_int_equal(cs_datapath_pending_put(w->dp, &key, &row, NULL), 0);
	}
	EXPECT(w, {"no row", CS_FROM, {OWN4, REMOTE4}, CS_R_PENDING_FULL});
	struct cs_auth_key key = world_key(10000, 1);
	assert_int_equal(cs_datapath_pending_del(w->dp, &key, NULL), 0);
	EXPECT(w, {"one row", CS_FROM, {OWN4, REMOTE4}, HELD});
}

static void test_backoff(void **state)
{
	struct world *w = *state;
	const struct spec spec = {OWN4, REMOTE4};
	world_pending(w, REMOTE, 1, CS_REFUSED, 1000);
	EXPECT(w, {"refused", CS_FROM, spec, CS_R_BACKOFF}, {"at both hooks", CS_TO, {REMOTE4, OWN4}, CS_R_BACKOFF},
		{"another pair", CS_FROM, {OWN4, LOCAL4}, HELD});
	assert_int_equal(signals(w), 0);
	world_pending(w, REMOTE, 1, CS_REFUSED, -1);
	EXPECT(w, {"its time is over", CS_FROM, spec, HELD});
	struct cs_pending row = pending(w, REMOTE, 1);
	assert_int_equal(row.state, CS_ASKING);
	assert_int_equal(row.refusals, 1); /* kept, so that the next backoff is longer */
	assert_true(row.until_ns > cs_datapath_now_ns() + CS_ASKING_NS - 1000000000);
	/* A refused pair costs a new pair like any other when it asks again. */
	world_pending(w, REMOTE, 1, CS_REFUSED, -1);
	struct cs_budget spent = budget(w, CS_FROM);
	spent.pairs = 0;
	spent.refill_ns = cs_datapath_now_ns();
	set_budget(w, CS_FROM, &spent);
	EXPECT(w, {"no new pair left", CS_FROM, spec, CS_R_PENDING_FULL});
	assert_int_equal(pending(w, REMOTE, 1).state, CS_REFUSED);
}

/* Nobody answered for 6 s: ask again. */
static void test_overdue(void **state)
{
	struct world *w = *state;
	world_flags(w, CS_NODE_HOST_PASSES); /* hold: off, where only a signal asks */
	const struct spec spec = {OWN4, REMOTE4};
	world_pending(w, REMOTE, 1, CS_ASKING, 1000);
	EXPECT(w, {"asked already", CS_FROM, spec, CS_R_UNAUTHENTICATED});
	assert_int_equal(signals(w), 0);
	world_pending(w, REMOTE, 1, CS_ASKING, -1);
	EXPECT(w, {"overdue", CS_FROM, spec, CS_R_UNAUTHENTICATED},
		{"asked again", CS_FROM, spec, CS_R_UNAUTHENTICATED});
	assert_int_equal(signals(w), 1);
	world_pending(w, REMOTE, 1, CS_FLUSHING, -1); /* of an authd that died, and the entry went */
	EXPECT(w, {"flushing, overdue", CS_FROM, spec, CS_R_UNAUTHENTICATED});
	assert_int_equal(signals(w), 1);
	assert_int_equal(pending(w, REMOTE, 1).state, CS_ASKING);
}

/* What was held comes first: for 250 ms at most, and only while the row says so. */
static void test_flushing(void **state)
{
	struct world *w = *state;
	const struct spec fresh = {OWN4, REMOTE4}, returned = {OWN4, REMOTE4, .mark = CS_MARK_REINJECTED};
	world_pending(w, REMOTE, 1, CS_FLUSHING, 250);
	world_auth(w, REMOTE, 1, 60000, CS_AUTH_FLUSHING);
	EXPECT(w, {"a later packet waits", CS_FROM, fresh, HELD}, {"a held one passes", CS_FROM, returned, PASSES},
		{"a later one at the other hook", CS_TO, {REMOTE6, OWN6}, HELD});
	world_pending(w, REMOTE, 1, CS_FLUSHING, -1);
	EXPECT(w, {"its time is over", CS_FROM, fresh, PASSES});
	struct cs_auth_key key = world_key(REMOTE, 1);
	assert_int_equal(cs_datapath_pending_del(w->dp, &key, NULL), 0);
	EXPECT(w, {"no row", CS_FROM, fresh, PASSES});
	world_pending(w, REMOTE, 1, CS_ASKING, 1000);
	EXPECT(w, {"another state", CS_FROM, fresh, PASSES});
	world_auth(w, REMOTE, 1, -1, CS_AUTH_FLUSHING);
	EXPECT(w, {"expired", CS_FROM, returned, CS_R_REINJECTED_MISS});
}

/* The tag says "do not hold again", and nothing else. */
static void test_reinjected(void **state)
{
	struct world *w = *state;
	const struct spec returned = {OWN4, REMOTE4, .mark = CS_MARK_REINJECTED};
	EXPECT(w, {"no entry", CS_FROM, returned, CS_R_REINJECTED_MISS},
		{"not owned", CS_FROM, {LOCAL4, REMOTE4, .mark = CS_MARK_REINJECTED}, CS_R_SOURCE_NOT_OWNED},
		{"denied", CS_FROM, {OWN4, OUTSIDE4, .mark = CS_MARK_REINJECTED}, CS_R_POLICY_DENY});
	assert_false(has_pending(w, REMOTE, 1));
	world_auth(w, REMOTE, 1, 60000, 0);
	struct frame f = build(&returned);
	struct run r = run_frame(w, CS_FROM, &f, &returned);
	assert_int_equal(r.verdict, -1);
	assert_int_equal(r.mark, 0); /* on one node it meets another hook, which may have to hold it */
	const struct spec marked = {OWN4, REMOTE4, .mark = 42};
	r = run_frame(w, CS_FROM, &f, &marked);
	assert_int_equal(r.verdict, -1);
	assert_int_equal(r.mark, 42); /* anybody else's mark is left alone */
}

/* When neither ring has room the row goes again, so that the next packet asks. */
static void test_rings_are_full(void **state)
{
	(void)state;
	struct cs_datapath_config c = cs_datapath_defaults();
	c.array_ifindex = 15;
	c.addresses = c.policy = c.flows = c.auth = c.seen = c.pending = 256;
	c.held_bytes = c.signal_bytes = c.drop_bytes = 4096;
	struct world *w = world_new(&c);
	world_defaults(w, CS_REQUIRE, CS_DENY, CS_REQUIRE, CS_DENY);
	const struct spec large = {OWN4, REMOTE4, .body = 1000};
	assert_int_equal(run(w, CS_FROM, &large), 2);
	for (int i = 0; i < 2; i++)
		(void)run(w, CS_FROM, &large); /* 2,104 bytes each: the second finds no room */
	assert_int_equal(pending(w, REMOTE, 1).packets, 1);
	assert_int_equal(budget(w, CS_FROM).packets, 1);
	/* Fill the ring of signals with pairs that cannot be held. */
	char ip[32];
	uint32_t n = 0;
	for (; n < 200; n++) {
		struct cs_budget full = budget(w, CS_FROM);
		full.pairs = CS_NEW_PAIRS_PER_S;
		set_budget(w, CS_FROM, &full);
		address_of(n, ip);
		world_addr(w, ip, 5000 + n, 1, 0);
		struct spec spec = {OWN4, ip, .body = 1000};
		(void)run(w, CS_FROM, &spec);
		if (!has_pending(w, 5000 + n, 1))
			break;
	}
	assert_in_range(n, 50, 100); /* 4,096 / (48 + 8) */
	assert_int_equal(signals(w), n);
	struct spec spec = {OWN4, ip, .body = 1000};
	(void)run(w, CS_FROM, &spec);
	assert_true(has_pending(w, 5000 + n, 1));
	assert_int_equal(signals(w), 1);
	world_free(w);
}

/* Offload state */

static const struct cs_held *hold_one(struct world *w, const struct spec *spec)
{
	struct cs_auth_key key = world_key(REMOTE, 1);
	struct cs_settle settle = {.key = key, .ifindex = IFINDEX, .dir = CS_FROM, .packets = 16, .bytes = 65536};
	assert_int_equal(cs_datapath_settle(w->dp, &settle, NULL), 0);
	(void)run(w, CS_FROM, spec);
	assert_int_equal(held(w), 1);
	return &records[0];
}

static void expect_partial(struct world *w, const struct spec *spec, uint16_t start, uint16_t offset)
{
	const struct cs_held *h = hold_one(w, spec);
	assert_int_equal(h->csum, start ? CS_CSUM_PARTIAL : CS_CSUM_LEAVE);
	assert_int_equal(h->csum_start, start);
	assert_int_equal(h->csum_offset, offset);
}

static struct world *world_csum(enum cs_csum_mode mode)
{
	struct cs_datapath_config c = cs_datapath_defaults();
	c.array_ifindex = 15;
	c.addresses = c.policy = c.flows = c.auth = c.seen = c.pending = 256;
	c.csum = mode;
	struct world *w = world_new(&c);
	assert_int_equal(cs_datapath_csum_mode(w->dp), mode);
	world_defaults(w, CS_REQUIRE, CS_DENY, CS_REQUIRE, CS_DENY);
	return w;
}

/* Without the kernel's word: a field that holds the pseudo-header's sum is unfinished, all else is left alone. */
static void test_checksum_inferred(void **state)
{
	(void)state;
	struct world *w = world_csum(CS_CSUM_PSEUDO);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, IPPROTO_TCP}, 34, 16);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, .body = 101}, 34, 6);
	expect_partial(w, &(struct spec){OWN6, REMOTE6, IPPROTO_TCP}, 54, 16);
	expect_partial(w, &(struct spec){OWN6, REMOTE6, .extensions = 2}, 70, 6);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, IPPROTO_TCP, .own_checksum = 1}, 0, 0);
	expect_partial(w, &(struct spec){OWN6, REMOTE6, .own_checksum = 1}, 0, 0);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, IPPROTO_TCP, .own_checksum = 2}, 0, 0);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, .fragment = MORE4}, 0, 0);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, .fragment = 185}, 0, 0);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, IPPROTO_ICMP, .type = 8}, 0, 0);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, IPPROTO_GRE}, 0, 0);
	world_free(w);
}

/* With it: a test run's packets are whole, whatever their field says. Real ones: test_datapath_works.py. */
static void test_checksum_known(void **state)
{
	(void)state;
	struct world *w = world_csum(CS_CSUM_KFUNC);
	expect_partial(w, &(struct spec){OWN4, REMOTE4, IPPROTO_TCP}, 0, 0);
	expect_partial(w, &(struct spec){OWN6, REMOTE6}, 0, 0);
	world_free(w);
}

static void test_segmentation(void **state)
{
	(void)state;
	struct world *w = world_csum(CS_CSUM_PSEUDO);
	const struct cs_held *h = hold_one(w, &(struct spec){OWN4, REMOTE4, IPPROTO_TCP, .body = 500, .gso_size = 100});
	assert_int_equal(h->gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(h->gso_size, 100);
	assert_int_equal(h->hdr_len, 14 + 20 + 20);
	h = hold_one(w, &(struct spec){OWN6, REMOTE6, IPPROTO_TCP, .body = 500, .gso_size = 100});
	assert_int_equal(h->gso_type, VIRTIO_NET_HDR_GSO_TCPV6);
	h = hold_one(w, &(struct spec){OWN4, REMOTE4, .body = 500, .gso_size = 100});
	assert_int_equal(h->gso_type, 5 /* VIRTIO_NET_HDR_GSO_UDP_L4 */);
	assert_int_equal(h->hdr_len, 14 + 20 + 8);
	EXPECT(w, {"to be cut, but with a checksum", CS_FROM,
			  {OWN4, REMOTE4, IPPROTO_TCP, .body = 500, .gso_size = 100, .own_checksum = 1},
			  CS_R_UNHOLDABLE});
	world_free(w);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_required, world_close)
int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_record),
		CASE(test_sizes),
		CASE(test_hold_off),
		CASE(test_daemon_down),
		CASE(test_without_budget),
		CASE(test_pair_budget),
		CASE(test_pair_bytes),
		CASE(test_interface_budget),
		CASE(test_new_pairs),
		CASE(test_pending_map_is_full),
		CASE(test_backoff),
		CASE(test_overdue),
		CASE(test_flushing),
		CASE(test_reinjected),
		cmocka_unit_test(test_rings_are_full),
		cmocka_unit_test(test_checksum_inferred),
		cmocka_unit_test(test_checksum_known),
		cmocka_unit_test(test_segmentation),
	};
	return cmocka_run_group_tests(tests, own_network, remove_leftovers);
}
