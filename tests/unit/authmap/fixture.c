#include "fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

/* The world */

static int family_of(const char *ip)
{
	return strchr(ip, ':') ? 6 : 4;
}

static void parse_ip(const char *ip, uint8_t out[16])
{
	memset(out, 0, 16);
	assert_int_equal(inet_pton(family_of(ip) == 6 ? AF_INET6 : AF_INET, ip, out), 1);
}

void world_addr(struct world *w, const char *ip, uint32_t identity, uint16_t node, uint16_t flags)
{
	uint8_t bytes[16];
	struct cs_error e = {0};
	struct cs_addr addr = {.identity = identity, .node = node, .flags = flags};
	parse_ip(ip, bytes);
	if (cs_datapath_addr_put(w->dp, family_of(ip), bytes, &addr, &e) < 0)
		fail_msg("%s", e.text);
}

void world_endpoint(struct world *w)
{
	struct cs_error e = {0};
	if (cs_datapath_endpoint_put(w->dp, IFINDEX, &w->endpoint, &e) < 0)
		fail_msg("%s", e.text);
}

void world_defaults(struct world *w, int from_endpoint, int from_other, int to_endpoint, int to_other)
{
	w->endpoint.verdict[CS_FROM][CS_PEER_ENDPOINT] = (uint8_t)from_endpoint;
	w->endpoint.verdict[CS_FROM][CS_PEER_OTHER] = (uint8_t)from_other;
	w->endpoint.verdict[CS_TO][CS_PEER_ENDPOINT] = (uint8_t)to_endpoint;
	w->endpoint.verdict[CS_TO][CS_PEER_OTHER] = (uint8_t)to_other;
	world_endpoint(w);
}

void world_policy(struct world *w, uint32_t remote, int from, int to)
{
	struct cs_policy_key key = {.local = OWN, .remote = remote};
	struct cs_policy row = {.verdict = {[CS_FROM] = (uint8_t)from, [CS_TO] = (uint8_t)to}};
	assert_int_equal(cs_datapath_policy_put(w->dp, &key, &row, NULL), 0);
}

struct cs_auth_key world_key(uint32_t remote, uint16_t node)
{
	return (struct cs_auth_key){.local = OWN, .remote = remote, .node = node, .type = CS_AUTH_SPIRE};
}

void world_auth(struct world *w, uint32_t remote, uint16_t node, int64_t ms, uint64_t flags)
{
	struct cs_auth_key key = world_key(remote, node);
	uint64_t until = (uint64_t)((int64_t)cs_datapath_now_ns() + ms * 1000000);
	assert_int_equal(cs_datapath_auth_put(w->dp, &key, until | flags, NULL), 0);
}

void world_pending(struct world *w, uint32_t remote, uint16_t node, uint32_t state, int64_t ms)
{
	struct cs_auth_key key = world_key(remote, node);
	struct cs_pending row = {
		.state = state, .until_ns = (uint64_t)((int64_t)cs_datapath_now_ns() + ms * 1000000), .refusals = 1};
	assert_int_equal(cs_datapath_pending_put(w->dp, &key, &row, NULL), 0);
}

void world_flags(struct world *w, uint32_t node_flags)
{
	cs_datapath_set_flags(w->dp, node_flags);
}

static bool count_row(const void *key, const void *value, void *data)
{
	(void)key;
	(void)value;
	(void)data;
	return true;
}

uint32_t world_rows(struct world *w, enum cs_map map)
{
	int n = cs_datapath_each(w->dp, map, count_row, NULL, NULL);
	assert_true(n >= 0);
	return (uint32_t)n;
}

static void fill_world(struct world *w)
{
	static const struct {
		const char *ip4, *ip6;
		uint32_t identity;
		uint16_t node;
	} rows[] = {{OWN4, OWN6, OWN, 0}, {REMOTE4, REMOTE6, REMOTE, 1}, {LOCAL4, LOCAL6, LOCAL, 0},
		{OTHER4, OTHER6, OTHER, 2}, {HOST4, HOST6, CS_ID_HOST, 0}, {NODE4, NODE6, CS_ID_REMOTE_NODE, 1}};
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		world_addr(w, rows[i].ip4, rows[i].identity, rows[i].node, 0);
		world_addr(w, rows[i].ip6, rows[i].identity, rows[i].node, 0);
	}
	const struct cs_addr cidr = {.identity = CIDR_ID};
	uint8_t ip[16];
	parse_ip("198.51.100.0", ip);
	assert_int_equal(cs_datapath_prefix_put(w->dp, 4, ip, 24, &cidr, NULL), 0);
	parse_ip("2001:db8:64::", ip);
	assert_int_equal(cs_datapath_prefix_put(w->dp, 6, ip, 48, &cidr, NULL), 0);
	w->endpoint = (struct cs_endpoint){.identity = OWN, .n4 = 1, .n6 = 1};
	parse_ip(OWN4, ip);
	memcpy(&w->endpoint.own4_be32[0], ip, 4);
	parse_ip(OWN6, w->endpoint.own6[0]);
	world_endpoint(w);
	cs_datapath_set_alive(w->dp, cs_datapath_now_ns());
	world_flags(w, CS_NODE_HOLD | CS_NODE_HOST_PASSES);
}

struct world *world_new(const struct cs_datapath_config *config)
{
	static int serial;
	struct world *w = calloc(1, sizeof(*w));
	struct cs_error e = {0};
	struct cs_datapath_config c = *config;
	assert_non_null(w);
	snprintf(w->instance, sizeof(w->instance), "unit-%d-%d", (int)getpid(), serial++);
	c.instance = w->instance;
	w->dp = cs_datapath_open(&c, &e);
	if (!w->dp)
		fail_msg("%s", e.text);
	fill_world(w);
	return w;
}

void world_free(struct world *w)
{
	struct cs_error e = {0};
	if (cs_datapath_unpin(w->dp, &e) < 0)
		fail_msg("%s", e.text);
	cs_datapath_free(w->dp);
	free(w);
}

int own_network(void **state)
{
	(void)state;
	return unshare(CLONE_NEWNET);
}

int remove_leftovers(void **state)
{
	char command[128];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf /sys/fs/bpf/countersign/unit*-%d-*", (int)getpid());
	return system(command);
}

int world_open(void **state)
{
	struct cs_datapath_config c = cs_datapath_defaults();
	/* Small maps: a test run makes a dozen of them. */
	c.array_ifindex = 15;
	c.addresses = c.policy = c.pending = c.auth = c.seen = 256;
	c.flows = 16384;
	c.prefixes = c.nodes = c.endpoints = 64;
	*state = world_new(&c);
	return 0;
}

int world_close(void **state)
{
	world_free(*state);
	return 0;
}

/* Frames */

static void put16(uint8_t *at, uint16_t v)
{
	at[0] = (uint8_t)(v >> 8);
	at[1] = (uint8_t)v;
}

static uint32_t sum16(const uint8_t *p, size_t n, uint32_t sum)
{
	for (size_t i = 0; i + 1 < n; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	if (n % 2)
		sum += (uint32_t)p[n - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The transport's bytes, checksum as spec asks. */
static size_t build_transport(const struct spec *s, int family, const uint8_t *addresses, uint8_t *at)
{
	uint8_t proto = s->proto ? s->proto : IPPROTO_UDP;
	size_t header = 0, body = s->body ? s->body : 8, offset = 0;
	if (proto == IPPROTO_UDP || proto == IPPROTO_TCP || proto == IPPROTO_SCTP) {
		put16(at, s->sport ? s->sport : 1000);
		put16(at + 2, s->dport ? s->dport : 2000);
		header = proto == IPPROTO_TCP ? 20 : proto == IPPROTO_UDP ? 8 : 12;
		offset = proto == IPPROTO_TCP ? 16 : proto == IPPROTO_UDP ? 6 : 0;
		if (proto == IPPROTO_TCP) {
			at[12] = 5 << 4;
			at[13] = 2;
		}
		if (proto == IPPROTO_UDP)
			put16(at + 4, (uint16_t)(header + body));
	} else if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
		at[0] = s->type;
		at[1] = s->code;
		put16(at + 4, s->id);
		header = 8;
		if (s->target) {
			parse_ip(s->target, at + 8);
			header = 24;
		}
		if (s->quote) {
			struct frame quote = build(s->quote);
			size_t ip =
				family == 4 ? 20 : 40 + (size_t)s->quote->extensions * 8 + (s->quote->fragment ? 8 : 0);
			size_t n = ip + (s->quote_bytes ? s->quote_bytes : 8);
			memcpy(at + 8, quote.bytes + ETH_HLEN, n);
			body = s->body > n ? s->body : n;
		}
	}
	size_t len = header + body;
	if (offset) {
		uint8_t pseudo[4] = {0, proto, 0, 0};
		put16(pseudo + 2, (uint16_t)len);
		uint32_t sum = sum16(addresses, family == 4 ? 8 : 32, 0);
		sum = sum16(pseudo, 4, sum);
		if (s->own_checksum == 0)
			put16(at + offset, (uint16_t)sum);
		else if (s->own_checksum == 1)
			put16(at + offset, (uint16_t)~sum16(at, len, sum));
		else
			put16(at + offset, 0x1234);
	}
	return len;
}

static size_t build_ip4(const struct spec *s, uint8_t *at)
{
	uint8_t src[16], dst[16];
	parse_ip(s->src, src);
	parse_ip(s->dst, dst);
	at[0] = 0x45;
	put16(at + 6, s->fragment);
	at[8] = s->hop ? s->hop : 64;
	at[9] = s->proto ? s->proto : IPPROTO_UDP;
	memcpy(at + 12, src, 4);
	memcpy(at + 16, dst, 4);
	size_t len = 20 + build_transport(s, 4, at + 12, at + 20);
	put16(at + 2, (uint16_t)len);
	put16(at + 10, (uint16_t)~sum16(at, 20, 0));
	return len;
}

static size_t build_ip6(const struct spec *s, uint8_t *at)
{
	uint8_t proto = s->proto ? s->proto : IPPROTO_UDP;
	at[0] = 0x60;
	at[7] = s->hop ? s->hop : 64;
	parse_ip(s->src, at + 8);
	parse_ip(s->dst, at + 24);
	size_t n = 40;
	uint8_t *next = at + 6;
	for (int i = 0; i < s->extensions; i++) {
		*next = IPPROTO_DSTOPTS;
		next = at + n;
		at[n + 2] = 1; /* PadN of 4 */
		at[n + 3] = 4;
		n += 8;
	}
	if (s->fragment) {
		*next = IPPROTO_FRAGMENT;
		next = at + n;
		put16(at + n + 2, s->fragment & 0x7fff);
		n += 8;
	}
	*next = proto;
	n += build_transport(s, 6, at + 8, at + n);
	put16(at + 4, (uint16_t)(n - 40));
	return n;
}

struct frame build(const struct spec *s)
{
	struct frame f = {0};
	int family = family_of(s->src);
	memcpy(f.bytes, "\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01", 12);
	size_t n = 12;
	for (int i = 0; i < s->tags; i++, n += 4)
		put16(f.bytes + n, 0x8100);
	put16(f.bytes + n, s->ethertype ? s->ethertype : family == 4 ? ETH_P_IP : ETH_P_IPV6);
	n += 2;
	n += family == 4 ? build_ip4(s, f.bytes + n) : build_ip6(s, f.bytes + n);
	f.len = s->cut ? s->cut : n + s->trail;
	assert_true(f.len <= sizeof(f.bytes));
	return f;
}

struct frame build_arp(const char *sender, const char *target, size_t len)
{
	struct frame f = {.len = len};
	uint8_t ip[16];
	memcpy(f.bytes, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06", 14);
	memcpy(f.bytes + 14, "\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x01", 14);
	parse_ip(sender, ip);
	memcpy(f.bytes + 28, ip, 4);
	parse_ip(target, ip);
	memcpy(f.bytes + 38, ip, 4);
	return f;
}

/* Running */

struct run run_frame(struct world *w, enum cs_dir dir, const struct frame *frame, const struct spec *spec)
{
	uint8_t out[4096];
	struct __sk_buff in = {.ifindex = IFINDEX}, after = {0};
	if (spec) {
		in.ingress_ifindex = spec->ingress;
		in.mark = spec->mark;
		in.gso_size = spec->gso_size;
		in.gso_segs = spec->gso_size ? 2 : 0;
	}
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame->bytes, .data_size_in = (uint32_t)frame->len,
		.data_out = out, .data_size_out = sizeof(out), .ctx_in = &in, .ctx_size_in = sizeof(in),
		.ctx_out = &after, .ctx_size_out = sizeof(after), .repeat = 1);
	int r = bpf_prog_test_run_opts(
		cs_datapath_prog_fd(w->dp, dir == CS_FROM ? CS_PROG_FROM : CS_PROG_TO, 0), &opts);
	if (r < 0)
		fail_msg("BPF_PROG_TEST_RUN: %s", strerror(-r));
	return (struct run){.verdict = (int)opts.retval, .mark = after.mark};
}

struct counts {
	uint64_t dropped[CS_REASON_MAX], would[CS_REASON_MAX];
};

static struct counts read_counts(struct world *w, enum cs_dir dir)
{
	struct counts c;
	struct cs_count row;
	for (int i = 0; i < CS_REASON_MAX; i++) {
		assert_int_equal(cs_datapath_count(w->dp, (enum cs_reason)i, false, dir, &row), 0);
		c.dropped[i] = row.packets;
		assert_int_equal(cs_datapath_count(w->dp, (enum cs_reason)i, true, dir, &row), 0);
		c.would[i] = row.packets;
	}
	return c;
}

static void check_counts(const char *name, const struct counts *before, const struct counts *after, int outcome)
{
	for (int i = 0; i < CS_REASON_MAX; i++) {
		uint64_t dropped = after->dropped[i] - before->dropped[i], would = after->would[i] - before->would[i];
		bool is_drop = outcome > 0 && outcome < HELD && i == outcome;
		bool is_would = outcome > WOULD && i == outcome - WOULD;
		if (dropped != (is_drop ? 1 : 0))
			fail_msg("%s: %s was counted %d times", name, cs_reason_name((enum cs_reason)i), (int)dropped);
		if (would != (is_would ? 1 : 0))
			fail_msg("%s: would-be %s was counted %d times", name, cs_reason_name((enum cs_reason)i),
				(int)would);
	}
}

static void expect_run(struct world *w, const char *name, enum cs_dir dir, const struct frame *frame,
	const struct spec *spec, int outcome)
{
	struct cs_held held[4];
	(void)take_held(w, "cs_held", held, NULL, 4);
	struct counts before = read_counts(w, dir);
	struct run r = run_frame(w, dir, frame, spec);
	struct counts after = read_counts(w, dir);
	bool passes = outcome == PASSES || outcome > WOULD;
	bool held_expected = outcome == HELD;
	bool clsact = cs_datapath_attach_mode(w->dp) == CS_ATTACH_CLSACT;
	int verdict = passes ? TC_ACT_UNSPEC : held_expected && clsact ? TC_ACT_STOLEN : TC_ACT_SHOT;
	size_t n = take_held(w, "cs_held", held, NULL, 4);
	if (r.verdict != verdict || n != (held_expected ? 1 : 0)) {
		for (int i = 0; i < CS_REASON_MAX; i++)
			if (after.dropped[i] != before.dropped[i])
				fail_msg("%s: verdict %d, counted %s", name, r.verdict,
					cs_reason_name((enum cs_reason)i));
		fail_msg("%s: verdict %d instead of %d, %zu held, nothing dropped", name, r.verdict, verdict, n);
	}
	check_counts(name, &before, &after, outcome);
}

void expect_frame(struct world *w, const char *name, enum cs_dir dir, const struct frame *frame, int outcome)
{
	expect_run(w, name, dir, frame, NULL, outcome);
}

void expect_all(struct world *w, const struct expect *cases, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct frame f = build(&cases[i].spec);
		expect_run(w, cases[i].name, cases[i].dir, &f, &cases[i].spec, cases[i].outcome);
	}
}

/* Rings */

struct taken {
	void *out;
	uint8_t (*frames)[CS_HELD_MAX];
	size_t size, n, max;
};

static int take_record(void *ctx, void *data, size_t size)
{
	struct taken *t = ctx;
	assert_true(size >= t->size);
	if (t->n < t->max) {
		memcpy((uint8_t *)t->out + t->n * t->size, data, t->size);
		if (t->frames)
			memcpy(t->frames[t->n], (uint8_t *)data + t->size,
				size - t->size < CS_HELD_MAX ? size - t->size : CS_HELD_MAX);
	}
	t->n++;
	return 0;
}

static size_t take(struct world *w, const char *ring, struct taken t)
{
	struct ring_buffer *rb = ring_buffer__new(cs_datapath_map_fd(w->dp, ring), take_record, &t, NULL);
	assert_non_null(rb);
	assert_true(ring_buffer__consume(rb) >= 0);
	ring_buffer__free(rb);
	return t.n;
}

size_t take_held(struct world *w, const char *ring, struct cs_held *ret, uint8_t (*frames)[CS_HELD_MAX], size_t max)
{
	return take(w, ring, (struct taken){.out = ret, .frames = frames, .size = sizeof(*ret), .max = max});
}

size_t take_drops(struct world *w, struct cs_drop *ret, size_t max)
{
	return take(w, "cs_drop", (struct taken){.out = ret, .size = sizeof(*ret), .max = max});
}
