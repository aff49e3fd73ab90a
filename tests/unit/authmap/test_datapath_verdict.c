/* Who owns an address, what policy says of a pair, entries, replies, depends_on, audit. */
#include "fixture.h"

#include <netinet/in.h>
#include <string.h>
#include <bpf/bpf.h>

static void test_ownership(void **state)
{
	struct world *w = *state;
	world_defaults(w, CS_PASS, CS_PASS, CS_PASS, CS_PASS);
	EXPECT(w, {"own", CS_FROM, {OWN4, REMOTE4}, PASSES}, {"own", CS_FROM, {OWN6, REMOTE6}, PASSES},
		{"own", CS_TO, {REMOTE4, OWN4}, PASSES}, {"own", CS_TO, {REMOTE6, OWN6}, PASSES});
	EXPECT(w, {"a neighbour's", CS_FROM, {LOCAL4, REMOTE4}, CS_R_SOURCE_NOT_OWNED},
		{"a neighbour's", CS_FROM, {LOCAL6, REMOTE6}, CS_R_SOURCE_NOT_OWNED},
		{"another node's endpoint's", CS_FROM, {REMOTE4, OTHER4}, CS_R_SOURCE_NOT_OWNED},
		{"the node's", CS_FROM, {HOST4, REMOTE4}, CS_R_SOURCE_NOT_OWNED},
		{"the node's", CS_FROM, {HOST6, REMOTE6}, CS_R_SOURCE_NOT_OWNED},
		{"zero", CS_FROM, {"0.0.0.0", REMOTE4}, CS_R_SOURCE_NOT_OWNED},
		{"zero", CS_FROM, {"::", REMOTE6}, CS_R_SOURCE_NOT_OWNED},
		{"for a neighbour", CS_TO, {REMOTE4, LOCAL4}, CS_R_DESTINATION_NOT_OWNED},
		{"for a neighbour", CS_TO, {REMOTE6, LOCAL6}, CS_R_DESTINATION_NOT_OWNED});
}

/* The last of four addresses counts, an unused place does not. */
static void test_several_addresses(void **state)
{
	struct world *w = *state;
	world_defaults(w, CS_PASS, CS_PASS, CS_PASS, CS_PASS);
	EXPECT(w, {"before", CS_FROM, {"10.0.1.14", REMOTE4}, CS_R_SOURCE_NOT_OWNED},
		{"before", CS_FROM, {"fd00:1::14", REMOTE6}, CS_R_SOURCE_NOT_OWNED});
	memcpy(&w->endpoint.own4_be32[3], "\x0a\x00\x01\x0e", 4);
	memcpy(w->endpoint.own6[3], "\xfd\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x14", 16);
	w->endpoint.n4 = w->endpoint.n6 = 4;
	world_endpoint(w);
	EXPECT(w, {"fourth", CS_FROM, {"10.0.1.14", REMOTE4}, PASSES},
		{"fourth", CS_TO, {REMOTE6, "fd00:1::14"}, PASSES}, {"first", CS_FROM, {OWN4, REMOTE4}, PASSES},
		{"half of one", CS_FROM, {"fd00:1::", REMOTE6}, CS_R_SOURCE_NOT_OWNED});
}

/* The node's own address: made here, or rewritten on the way. */
static void test_host(void **state)
{
	struct world *w = *state;
	EXPECT(w, {"probe", CS_TO, {HOST4, OWN4}, PASSES}, {"probe", CS_TO, {HOST6, OWN6}, PASSES},
		{"came in", CS_TO, {HOST4, OWN4, .ingress = 7}, CS_R_PEER_BEHIND_NAT},
		{"came in", CS_TO, {HOST6, OWN6, .ingress = 7}, CS_R_PEER_BEHIND_NAT},
		{"tagged as if it had been held", CS_TO, {HOST4, OWN4, .mark = CS_MARK_REINJECTED},
			CS_R_PEER_BEHIND_NAT},
		{"to the node", CS_FROM, {OWN4, HOST4}, CS_R_POLICY_DENY});
	/* Rewritten is the world, so what lets the world in lets it in. */
	world_defaults(w, CS_DENY, CS_DENY, CS_DENY, CS_PASS);
	EXPECT(w, {"came in, the world is allowed", CS_TO, {HOST4, OWN4, .ingress = 7}, PASSES},
		{"from another node", CS_TO, {NODE4, OWN4, .ingress = 7}, PASSES});
	world_policy(w, CS_ID_WORLD, CS_DENY, CS_REQUIRE);
	EXPECT(w, {"came in, the world must authenticate", CS_TO, {HOST4, OWN4, .ingress = 7}, CS_R_PEER_BEHIND_NAT},
		{"another of the world", CS_TO, {OUTSIDE4, OWN4, .ingress = 7}, CS_R_PEER_CANNOT_AUTHENTICATE});
	/* Configured: policy judges the host like anybody. */
	world_flags(w, CS_NODE_HOLD);
	world_policy(w, CS_ID_HOST, CS_DENY, CS_DENY);
	EXPECT(w, {"configured", CS_TO, {HOST4, OWN4}, CS_R_POLICY_DENY});
	world_policy(w, CS_ID_HOST, CS_DENY, CS_PASS);
	EXPECT(w, {"configured and allowed", CS_TO, {HOST4, OWN4}, PASSES});
}

/* An answer to the host's probe passes a denied direction, and only that. */
static void test_host_replies(void **state)
{
	struct world *w = *state;
	w->endpoint.flags |= CS_EP_FLOWS;
	world_endpoint(w);
	const struct spec answer = {OWN4, HOST4, IPPROTO_TCP, .sport = 8080, .dport = 40000};
	EXPECT(w, {"unasked", CS_FROM, answer, CS_R_POLICY_DENY},
		{"probe", CS_TO, {HOST4, OWN4, IPPROTO_TCP, .sport = 40000, .dport = 8080}, PASSES},
		{"answer", CS_FROM, answer, PASSES},
		{"another port", CS_FROM, {OWN4, HOST4, IPPROTO_TCP, .sport = 8080, .dport = 40001}, CS_R_POLICY_DENY});
}

/* Every verdict for every class, by default and by row. */
static void test_policy_classes(void **state)
{
	static const struct {
		const char *name, *ip4, *ip6;
		uint32_t identity;
		int class;
	} peers[] = {{"endpoint", REMOTE4, REMOTE6, REMOTE, CS_PEER_ENDPOINT},
		{"endpoint of this node", LOCAL4, LOCAL6, LOCAL, CS_PEER_ENDPOINT},
		{"node", NODE4, NODE6, CS_ID_REMOTE_NODE, CS_PEER_OTHER},
		{"CIDR", CIDR4, CIDR6, CIDR_ID, CS_PEER_OTHER},
		{"world", OUTSIDE4, OUTSIDE6, CS_ID_WORLD, CS_PEER_OTHER}};
	static const int verdicts[] = {CS_DENY, CS_REQUIRE, CS_PASS, CS_PASS | CS_AUDIT, 7};
	struct world *w = *state;
	world_flags(w, CS_NODE_HOST_PASSES); /* hold: off, so that a miss is a drop */
	for (size_t p = 0; p < sizeof(peers) / sizeof(peers[0]); p++)
		for (size_t v = 0; v < 5; v++)
			for (int by_row = 0; by_row < 2; by_row++) {
				int asks = peers[p].class == CS_PEER_ENDPOINT ? CS_R_UNAUTHENTICATED
									      : CS_R_PEER_CANNOT_AUTHENTICATE;
				int outcome = verdicts[v] == CS_REQUIRE                    ? asks
					      : (verdicts[v] & CS_VERDICT_MASK) == CS_PASS ? PASSES
											   : CS_R_POLICY_DENY;
				/* The other class, and with a row the default too, say the opposite. */
				int opposite = outcome == PASSES ? CS_DENY : CS_PASS;
				int fallback = by_row ? opposite : verdicts[v];
				bool other = peers[p].class == CS_PEER_OTHER;
				world_defaults(w, other ? opposite : fallback, other ? fallback : opposite,
					other ? opposite : fallback, other ? fallback : opposite);
				struct cs_policy_key key = {.local = OWN, .remote = peers[p].identity};
				assert_int_equal(cs_datapath_policy_del(w->dp, &key, NULL), 0);
				if (by_row)
					world_policy(w, peers[p].identity, verdicts[v], verdicts[v]);
				EXPECT(w, {peers[p].name, CS_FROM, {OWN4, peers[p].ip4}, outcome},
					{peers[p].name, CS_FROM, {OWN6, peers[p].ip6}, outcome},
					{peers[p].name, CS_TO, {peers[p].ip4, OWN4}, outcome},
					{peers[p].name, CS_TO, {peers[p].ip6, OWN6}, outcome});
			}
}

/* A row of an address without an identity is closed, whatever the defaults say. */
static void test_unknown_identity(void **state)
{
	struct world *w = *state;
	world_defaults(w, CS_PASS, CS_PASS, CS_PASS, CS_PASS);
	EXPECT(w, {"known", CS_TO, {OTHER4, OWN4}, PASSES});
	world_addr(w, OTHER4, CS_ID_UNKNOWN, 0, 0);
	EXPECT(w, {"unknown", CS_TO, {OTHER4, OWN4}, CS_R_POLICY_DENY});
}

/* An exact address wins over a prefix, the longer prefix over the shorter. */
static void test_prefixes(void **state)
{
	struct world *w = *state;
	world_policy(w, CIDR_ID, CS_PASS, CS_PASS);
	world_policy(w, CIDR_ID + 1, CS_DENY, CS_DENY);
	const struct cs_addr narrower = {.identity = CIDR_ID + 1};
	EXPECT(w, {"in the prefix", CS_FROM, {OWN4, CIDR4}, PASSES}, {"in the prefix", CS_TO, {CIDR6, OWN6}, PASSES},
		{"outside", CS_FROM, {OWN4, OUTSIDE4}, CS_R_POLICY_DENY});
	assert_int_equal(cs_datapath_prefix_put(w->dp, 4, "\xc6\x33\x64\x00", 29, &narrower, NULL), 0);
	EXPECT(w, {"in the longer", CS_FROM, {OWN4, CIDR4}, CS_R_POLICY_DENY},
		{"beside the longer", CS_FROM, {OWN4, "198.51.100.8"}, PASSES});
	assert_int_equal(cs_datapath_prefix_del(w->dp, 4, "\xc6\x33\x64\x00", 29, NULL), 0);
	EXPECT(w, {"it is gone", CS_FROM, {OWN4, CIDR4}, PASSES});
	world_addr(w, CIDR4, REMOTE, 1, 0);
	EXPECT(w, {"an endpoint in the prefix", CS_FROM, {OWN4, CIDR4}, CS_R_POLICY_DENY});
}

static void test_entries(void **state)
{
	struct world *w = *state;
	const struct spec from = {OWN4, REMOTE4}, to = {REMOTE6, OWN6};
	world_flags(w, CS_NODE_HOST_PASSES);
	world_defaults(w, CS_REQUIRE, CS_DENY, CS_REQUIRE, CS_DENY);
	EXPECT(w, {"absent", CS_FROM, from, CS_R_UNAUTHENTICATED}, {"absent", CS_TO, to, CS_R_UNAUTHENTICATED});
	world_auth(w, REMOTE, 1, 60000, 0);
	w->endpoint.flags |= CS_EP_FLOWS;
	world_endpoint(w);
	EXPECT(w, {"alive", CS_FROM, from, PASSES}, {"alive", CS_TO, to, PASSES},
		{"another pair", CS_FROM, {OWN4, LOCAL4}, CS_R_UNAUTHENTICATED});
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 0); /* both ways by the entry: nobody needs a flow */
	world_auth(w, REMOTE, 1, -1, 0);
	EXPECT(w, {"expired", CS_FROM, from, CS_R_UNAUTHENTICATED}, {"expired", CS_TO, to, CS_R_UNAUTHENTICATED});
	world_auth(w, REMOTE, 1, -1, CS_AUTH_FLUSHING);
	EXPECT(w, {"expired, flushing", CS_FROM, from, CS_R_UNAUTHENTICATED});
	world_auth(w, REMOTE, 1, -1, CS_AUTH_REPLY_FROM | CS_AUTH_REPLY_TO);
	EXPECT(w, {"expired, reply only", CS_FROM, from, CS_R_UNAUTHENTICATED});
	struct cs_auth_key key = world_key(REMOTE, 1);
	assert_int_equal(cs_datapath_auth_put(w->dp, &key, 0, NULL), 0);
	EXPECT(w, {"zeroed", CS_FROM, from, CS_R_UNAUTHENTICATED});
	assert_int_equal(cs_datapath_auth_del(w->dp, &key, NULL), 0);
	EXPECT(w, {"deleted", CS_FROM, from, CS_R_UNAUTHENTICATED});
	/* Each part of the key counts. */
	world_auth(w, REMOTE, 2, 60000, 0);
	EXPECT(w, {"of another node", CS_FROM, from, CS_R_UNAUTHENTICATED});
	key.type = 2;
	assert_int_equal(cs_datapath_auth_put(w->dp, &key, CS_AUTH_EXPIRY, NULL), 0);
	EXPECT(w, {"of another type", CS_FROM, from, CS_R_UNAUTHENTICATED});
	key = (struct cs_auth_key){.local = REMOTE, .remote = OWN, .node = 1, .type = CS_AUTH_SPIRE};
	assert_int_equal(cs_datapath_auth_put(w->dp, &key, CS_AUTH_EXPIRY, NULL), 0);
	EXPECT(w, {"the other way round", CS_FROM, from, CS_R_UNAUTHENTICATED});
}

/* Nobody without an SVID passes by an entry, even if there is one. */
static void test_entries_are_for_endpoints(void **state)
{
	struct world *w = *state;
	world_defaults(w, CS_REQUIRE, CS_REQUIRE, CS_REQUIRE, CS_REQUIRE);
	world_auth(w, CS_ID_WORLD, 0, 60000, 0);
	world_auth(w, CIDR_ID, 0, 60000, 0);
	world_auth(w, CS_ID_REMOTE_NODE, 1, 60000, 0);
	world_auth(w, LOCAL, 0, 60000, 0);
	EXPECT(w, {"world", CS_TO, {OUTSIDE4, OWN4}, CS_R_PEER_CANNOT_AUTHENTICATE},
		{"CIDR", CS_TO, {CIDR4, OWN4}, CS_R_PEER_CANNOT_AUTHENTICATE},
		{"node", CS_TO, {NODE4, OWN4}, CS_R_PEER_CANNOT_AUTHENTICATE},
		{"endpoint", CS_TO, {LOCAL4, OWN4}, PASSES});
}

/* db -> frontend after only frontend -> db was authenticated: the entry of the pair denies what the rule denies. */
static void test_reply_only(void **state)
{
	struct world *w = *state;
	w->endpoint.flags |= CS_EP_FLOWS;
	world_endpoint(w);
	world_policy(w, REMOTE, CS_DENY, CS_REQUIRE); /* the endpoint is db, REMOTE the frontend */
	world_auth(w, REMOTE, 1, 60000, CS_AUTH_REPLY_FROM);
	const struct spec answer = {OWN4, REMOTE4, IPPROTO_TCP, .sport = 5432, .dport = 40000};
	EXPECT(w, {"of its own", CS_FROM, answer, CS_R_POLICY_DENY},
		{"asked", CS_TO, {REMOTE4, OWN4, IPPROTO_TCP, .sport = 40000, .dport = 5432}, PASSES},
		{"answer", CS_FROM, answer, PASSES},
		{"another port", CS_FROM, {OWN4, REMOTE4, IPPROTO_TCP, .sport = 5433, .dport = 40000},
			CS_R_POLICY_DENY},
		{"another protocol", CS_FROM, {OWN4, REMOTE4, .sport = 5432, .dport = 40000}, CS_R_POLICY_DENY},
		{"a later fragment", CS_FROM, {OWN4, REMOTE4, IPPROTO_TCP, .fragment = 185}, CS_R_FRAGMENT});
	/* The entry is gone: a reply is no reason to pass unauthenticated, but one to ask. */
	struct cs_auth_key key = world_key(REMOTE, 1);
	assert_int_equal(cs_datapath_auth_del(w->dp, &key, NULL), 0);
	world_flags(w, 0);
	EXPECT(w, {"answer, entry gone", CS_FROM, answer, CS_R_UNAUTHENTICATED},
		{"of its own, entry gone", CS_FROM, {OWN4, REMOTE4, IPPROTO_TCP, .sport = 1}, CS_R_POLICY_DENY});
	/* Policy now denies both ways: at once. */
	world_policy(w, REMOTE, CS_DENY, CS_DENY);
	EXPECT(w, {"answer, policy changed", CS_FROM, answer, CS_R_POLICY_DENY});
	world_policy(w, REMOTE, CS_DENY, CS_PASS);
	EXPECT(w, {"answer, policy allows to", CS_FROM, answer, PASSES});
}

static void test_flows(void **state)
{
	struct world *w = *state;
	const struct spec query = {OWN4, OUTSIDE4, .sport = 40000, .dport = 53};
	const struct spec answer = {OUTSIDE4, OWN4, .sport = 53, .dport = 40000};
	world_defaults(w, CS_DENY, CS_PASS, CS_DENY, CS_DENY);
	EXPECT(w, {"query", CS_FROM, query, PASSES}, {"no flows here", CS_TO, answer, CS_R_POLICY_DENY});
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 0);
	w->endpoint.flags |= CS_EP_FLOWS;
	world_endpoint(w);
	EXPECT(w, {"unasked", CS_TO, answer, CS_R_POLICY_DENY}, {"query", CS_FROM, query, PASSES},
		{"answer", CS_TO, answer, PASSES},
		{"of another", CS_TO, {CIDR4, OWN4, .sport = 53, .dport = 40000}, CS_R_POLICY_DENY},
		{"to another port", CS_TO, {OUTSIDE4, OWN4, .sport = 53, .dport = 40001}, CS_R_POLICY_DENY},
		{"the first fragment", CS_TO, {OUTSIDE4, OWN4, .sport = 53, .dport = 40000, .fragment = MORE4}, PASSES},
		{"a later fragment", CS_TO, {OUTSIDE4, OWN4, .fragment = 185}, CS_R_FRAGMENT});
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 1); /* what passed by a flow wrote none */
	EXPECT(w, {"IPv6 query", CS_FROM, {OWN6, OUTSIDE6, IPPROTO_TCP, .sport = 40000, .dport = 443}, PASSES},
		{"IPv6 answer", CS_TO, {OUTSIDE6, OWN6, IPPROTO_TCP, .sport = 443, .dport = 40000}, PASSES},
		{"IPv6, a later fragment of the same bytes", CS_TO,
			{OUTSIDE6, OWN6, IPPROTO_TCP, .sport = 443, .dport = 40000, .fragment = 1480 | 1},
			CS_R_FRAGMENT},
		{"IPv6, unasked", CS_TO, {OUTSIDE6, OWN6, IPPROTO_TCP, .sport = 443, .dport = 40001},
			CS_R_POLICY_DENY});
	world_defaults(w, CS_DENY, CS_DENY, CS_DENY, CS_DENY);
	EXPECT(w, {"answer, policy changed", CS_TO, answer, CS_R_POLICY_DENY});
}

static void test_flows_of_echo(void **state)
{
	struct world *w = *state;
	w->endpoint.flags |= CS_EP_FLOWS;
	world_defaults(w, CS_DENY, CS_PASS, CS_DENY, CS_DENY);
	EXPECT(w, {"reply, unasked", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 0, .id = 7}, CS_R_POLICY_DENY},
		{"request", CS_FROM, {OWN4, OUTSIDE4, IPPROTO_ICMP, .type = 8, .id = 7}, PASSES},
		{"reply", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 0, .id = 7}, PASSES},
		{"another identifier", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 0, .id = 8}, CS_R_POLICY_DENY},
		{"a request is no reply", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 8, .id = 7}, CS_R_POLICY_DENY},
		{"IPv6 request", CS_FROM, {OWN6, OUTSIDE6, IPPROTO_ICMPV6, .type = 128, .id = 7}, PASSES},
		{"IPv6 reply", CS_TO, {OUTSIDE6, OWN6, IPPROTO_ICMPV6, .type = 129, .id = 7}, PASSES},
		{"IPv6, another type", CS_TO, {OUTSIDE6, OWN6, IPPROTO_ICMPV6, .type = 128, .id = 7},
			CS_R_POLICY_DENY});
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 2);
	/* A reply that passes of its own opens nothing. */
	EXPECT(w, {"reply", CS_FROM, {OWN4, CIDR4, IPPROTO_ICMP, .type = 0, .id = 9}, PASSES});
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 2);
}

static bool age_flow(const void *key, const void *value, void *data)
{
	struct world *w = data;
	uint64_t ns = *(const uint64_t *)value - 200000000000ULL; /* 200 s ago */
	if (((const struct cs_flow_key *)key)->proto == IPPROTO_ICMP)
		ns = *(const uint64_t *)value;

	assert_int_equal(bpf_map_update_elem(cs_datapath_map_fd(w->dp, "cs_flows"), key, &ns, 0), 0);
	return true;
}

/* 3 minutes for UDP, an hour for TCP. */
static void test_flows_end(void **state)
{
	struct world *w = *state;
	w->endpoint.flags |= CS_EP_FLOWS;
	world_defaults(w, CS_DENY, CS_PASS, CS_DENY, CS_DENY);
	const struct spec tcp = {OUTSIDE4, OWN4, IPPROTO_TCP, .sport = 2000, .dport = 1000};
	const struct spec udp = {OUTSIDE4, OWN4, .sport = 2000, .dport = 1000};
	EXPECT(w, {"TCP", CS_FROM, {OWN4, OUTSIDE4, IPPROTO_TCP}, PASSES}, {"UDP", CS_FROM, {OWN4, OUTSIDE4}, PASSES},
		{"TCP", CS_TO, tcp, PASSES}, {"UDP", CS_TO, udp, PASSES});
	assert_int_equal(cs_datapath_each(w->dp, CS_MAP_FLOWS, age_flow, w, NULL), 2);
	EXPECT(w, {"TCP, 200 s later", CS_TO, tcp, PASSES}, {"UDP, 200 s later", CS_TO, udp, CS_R_POLICY_DENY});
	/* It was refreshed by that packet: 200 s more are no end either. */
	for (int i = 0; i < 20; i++) {
		assert_int_equal(cs_datapath_each(w->dp, CS_MAP_FLOWS, age_flow, w, NULL), 2);
		EXPECT(w, {"TCP, kept alive", CS_TO, tcp, PASSES});
	}
	for (int i = 0; i < 18; i++)
		assert_int_equal(cs_datapath_each(w->dp, CS_MAP_FLOWS, age_flow, w, NULL), 2);
	EXPECT(w, {"TCP, 3600 s later", CS_TO, tcp, CS_R_POLICY_DENY});
}

/* Flows go with their address and with their interface. */
static void test_flows_are_forgotten(void **state)
{
	struct world *w = *state;
	w->endpoint.flags |= CS_EP_FLOWS;
	world_defaults(w, CS_PASS, CS_PASS, CS_DENY, CS_DENY);
	EXPECT(w, {"remote", CS_FROM, {OWN4, REMOTE4}, PASSES}, {"other", CS_FROM, {OWN6, OTHER6}, PASSES});
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 2);
	assert_int_equal(cs_datapath_addr_del(w->dp, 4, "\x0a\x00\x02\x14", NULL), 0);
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 1);
	EXPECT(w, {"other's answer", CS_TO, {OTHER6, OWN6, .sport = 2000, .dport = 1000}, PASSES});
	assert_int_equal(cs_datapath_endpoint_del(w->dp, IFINDEX, NULL), 0);
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 0);
	/* More than one call reads. */
	uint64_t seen = cs_datapath_now_ns();
	for (uint32_t i = 0; i < 6000; i++) {
		struct cs_flow_key key = {.ifindex = 1 + i % 2, .family = 4, .sport_be16 = (uint16_t)i};
		assert_int_equal(bpf_map_update_elem(cs_datapath_map_fd(w->dp, "cs_flows"), &key, &seen, 0), 0);
	}
	assert_int_equal(cs_datapath_endpoint_del(w->dp, 1, NULL), 0);
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 3000);
	assert_int_equal(cs_datapath_endpoint_del(w->dp, 2, NULL), 0);
	assert_int_equal(world_rows(w, CS_MAP_FLOWS), 0);
}

static void test_depends_on(void **state)
{
	struct world *w = *state;
	world_addr(w, OTHER4, OTHER, 2, CS_ADDR_DEPENDS);
	const struct cs_addr prefix = {.identity = CS_ID_WORLD, .flags = CS_ADDR_DEPENDS};
	assert_int_equal(cs_datapath_prefix_put(w->dp, 4, "\xcb\x00\x71\x00", 24, &prefix, NULL), 0);
	EXPECT(w, {"from", CS_FROM, {OWN4, OTHER4}, PASSES}, {"to", CS_TO, {OTHER4, OWN4}, PASSES},
		{"prefix", CS_FROM, {OWN4, OUTSIDE4}, PASSES}, {"prefix", CS_TO, {OUTSIDE4, OWN4}, PASSES},
		{"others stay denied", CS_FROM, {OWN4, REMOTE4}, CS_R_POLICY_DENY},
		{"ownership holds", CS_FROM, {LOCAL4, OTHER4}, CS_R_SOURCE_NOT_OWNED},
		{"ownership holds", CS_TO, {OTHER4, LOCAL4}, CS_R_DESTINATION_NOT_OWNED});
	/* The node's address may be flagged (an API server here): not for who borrows it. */
	world_addr(w, HOST4, CS_ID_HOST, 0, CS_ADDR_DEPENDS);
	EXPECT(w, {"to the node", CS_FROM, {OWN4, HOST4}, PASSES},
		{"borrowed", CS_TO, {HOST4, OWN4, .ingress = 7}, CS_R_PEER_BEHIND_NAT});
	w->endpoint.flags |= CS_EP_DEPENDS;
	world_endpoint(w);
	EXPECT(w, {"the endpoint itself", CS_FROM, {OWN4, REMOTE4}, PASSES},
		{"the endpoint itself", CS_TO, {REMOTE6, OWN6}, PASSES},
		{"ownership holds", CS_FROM, {LOCAL4, REMOTE4}, CS_R_SOURCE_NOT_OWNED});
}

/* Nothing is dropped, everything is counted as what would have been. */
static void test_audit(void **state)
{
	struct world *w = *state;
	const struct expect cases[] = {{"policy", CS_FROM, {OWN4, OUTSIDE4}, CS_R_POLICY_DENY},
		{"ownership", CS_FROM, {LOCAL4, REMOTE4}, CS_R_SOURCE_NOT_OWNED},
		{"form", CS_TO, {REMOTE4, OWN4, .tags = 1}, CS_R_ETHERTYPE},
		{"fragments", CS_TO, {REMOTE6, OWN6, .extensions = 9}, CS_R_UNREADABLE_HEADER},
		{"unauthenticated", CS_TO, {REMOTE4, OWN4}, CS_R_UNAUTHENTICATED}};
	world_policy(w, REMOTE, CS_REQUIRE, CS_REQUIRE);
	for (int node = 0; node < 2; node++) {
		w->endpoint.flags = node ? 0 : CS_EP_AUDIT;
		world_endpoint(w);
		world_flags(w, node ? CS_NODE_HOLD | CS_NODE_AUDIT : CS_NODE_HOLD);
		for (size_t i = 0; i < 5; i++) {
			struct expect would = cases[i];
			would.outcome += WOULD;
			expect_all(w, &would, 1);
		}
	}
	/* A miss asks all the same, once, and holds nothing. */
	struct cs_held asked[4];
	assert_int_equal(take_held(w, "cs_signal", asked, NULL, 4), 1);
	assert_int_equal(asked[0].why, CS_R_UNAUTHENTICATED);
	assert_int_equal(asked[0].key.remote, REMOTE);
	/* Under node audit even an interface without endpoint is only counted. */
	assert_int_equal(cs_datapath_endpoint_del(w->dp, IFINDEX, NULL), 0);
	EXPECT(w, {"no endpoint", CS_FROM, {OWN4, OUTSIDE4}, WOULD + CS_R_NO_ENDPOINT});
	world_flags(w, CS_NODE_HOLD);
	EXPECT(w, {"no endpoint, enforced", CS_FROM, {OWN4, OUTSIDE4}, CS_R_NO_ENDPOINT});
}

/* Once per pair, reason and minute, with the address that matters. */
static void test_records(void **state)
{
	struct world *w = *state;
	struct cs_drop drops[8];
	for (int i = 0; i < 3; i++)
		EXPECT(w, {"policy", CS_TO, {REMOTE4, OWN4}, CS_R_POLICY_DENY},
			{"ownership", CS_FROM, {LOCAL4, REMOTE4}, CS_R_SOURCE_NOT_OWNED});
	assert_int_equal(take_drops(w, drops, 8), 2);
	assert_int_equal(drops[0].key.local, OWN);
	assert_int_equal(drops[0].key.remote, REMOTE);
	assert_int_equal(drops[0].key.reason, CS_R_POLICY_DENY);
	assert_int_equal(drops[0].key.dir, CS_TO);
	assert_int_equal(drops[0].key.would, 0);
	assert_int_equal(drops[0].packets, 1);
	assert_int_equal(drops[0].node, 1);
	assert_int_equal(drops[0].family, 4);
	assert_int_equal(drops[0].proto, IPPROTO_UDP);
	assert_memory_equal(drops[0].addr, "\x0a\x00\x02\x14\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	assert_int_equal(drops[1].key.reason, CS_R_SOURCE_NOT_OWNED);
	assert_int_equal(drops[1].key.remote, 0);
	assert_memory_equal(drops[1].addr, "\x0a\x00\x01\x0b", 4); /* the borrowed one */
	/* Another pair, another hook, another reason: records of their own. */
	EXPECT(w, {"hook", CS_FROM, {OWN4, REMOTE4}, CS_R_POLICY_DENY},
		{"peer", CS_TO, {OTHER6, OWN6}, CS_R_POLICY_DENY},
		{"reason", CS_TO, {REMOTE4, LOCAL4}, CS_R_DESTINATION_NOT_OWNED});
	assert_int_equal(take_drops(w, drops, 8), 3);
	assert_memory_equal(drops[0].addr, "\x0a\x00\x02\x14", 4);
	assert_int_equal(drops[1].family, 6);
	assert_memory_equal(drops[2].addr, "\x0a\x00\x01\x0b", 4);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, world_open, world_close)
int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_ownership),
		CASE(test_several_addresses),
		CASE(test_host),
		CASE(test_host_replies),
		CASE(test_policy_classes),
		CASE(test_unknown_identity),
		CASE(test_prefixes),
		CASE(test_entries),
		CASE(test_entries_are_for_endpoints),
		CASE(test_reply_only),
		CASE(test_flows),
		CASE(test_flows_of_echo),
		CASE(test_flows_end),
		CASE(test_flows_are_forgotten),
		CASE(test_depends_on),
		CASE(test_audit),
		CASE(test_records),
	};
	return cmocka_run_group_tests(tests, own_network, remove_leftovers);
}
