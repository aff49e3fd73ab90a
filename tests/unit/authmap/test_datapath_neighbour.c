/* What passes by a rule of its own, and how little that is: ARP, neighbour discovery, MLD, IGMP, DHCP, groups. */
#include "fixture.h"

#include <netinet/in.h>

/* Everything denied: whatever passes, passes by its own rule. */

#define ICMP6 .proto = IPPROTO_ICMPV6
enum { RS = 133, RA = 134, NS = 135, NA = 136, REDIRECT = 137 };

static void test_arp(void **state)
{
	struct world *w = *state;
	struct frame f = build_arp(OWN4, HOST4, 42);
	expect_frame(w, "own sender", CS_FROM, &f, PASSES);
	f = build_arp("0.0.0.0", OWN4, 42);
	expect_frame(w, "probe", CS_FROM, &f, PASSES);
	f = build_arp(LOCAL4, HOST4, 42);
	expect_frame(w, "borrowed sender", CS_FROM, &f, CS_R_SOURCE_NOT_OWNED);
	f = build_arp(HOST4, OWN4, 42);
	expect_frame(w, "the node's sender, from the endpoint", CS_FROM, &f, CS_R_SOURCE_NOT_OWNED);
	expect_frame(w, "the node's, to the endpoint", CS_TO, &f, PASSES);
	f = build_arp(OWN4, HOST4, 60);
	expect_frame(w, "padded to 60", CS_FROM, &f, PASSES);
	expect_frame(w, "padded to 60", CS_TO, &f, PASSES);
	f = build_arp(OWN4, HOST4, 61);
	expect_frame(w, "61 bytes carry something", CS_FROM, &f, CS_R_NEIGHBOUR_DISCOVERY);
	expect_frame(w, "61 bytes carry something", CS_TO, &f, CS_R_NEIGHBOUR_DISCOVERY);
	f = build_arp(OWN4, HOST4, 30);
	expect_frame(w, "truncated", CS_FROM, &f, CS_R_UNREADABLE_HEADER);
	f = build_arp(OWN4, HOST4, 42);
	f.bytes[14 + 4] = 8;
	expect_frame(w, "of another hardware", CS_FROM, &f, CS_R_NEIGHBOUR_DISCOVERY);
}

static void test_neighbour_discovery_from(void **state)
{
	struct world *w = *state;
	EXPECT(w, {"solicitation", CS_FROM, {OWN6, "ff02::1:ff00:1", ICMP6, 255, .type = NS, .target = HOST6}, PASSES},
		{"duplicate address detection", CS_FROM,
			{"::", "ff02::1:ff00:10", ICMP6, 255, .type = NS, .target = OWN6}, PASSES},
		{"from link-local", CS_FROM, {LINKLOCAL6, "ff02::1:ff00:1", ICMP6, 255, .type = NS, .target = HOST6},
			PASSES},
		{"advertisement to the node", CS_FROM, {OWN6, HOST6, ICMP6, 255, .type = NA, .target = OWN6}, PASSES},
		{"to an endpoint of this node", CS_FROM, {OWN6, LOCAL6, ICMP6, 255, .type = NA, .target = OWN6},
			PASSES},
		{"of a link-local target", CS_FROM,
			{LINKLOCAL6, "fe80::2", ICMP6, 255, .type = NA, .target = LINKLOCAL6}, PASSES},
		{"router solicitation", CS_FROM, {LINKLOCAL6, "ff02::2", ICMP6, 255, .type = RS}, PASSES});
	EXPECT(w,
		{"borrowed source", CS_FROM, {LOCAL6, "ff02::1:ff00:1", ICMP6, 255, .type = NS, .target = HOST6},
			CS_R_SOURCE_NOT_OWNED},
		{"borrowed target", CS_FROM, {OWN6, "ff02::1", ICMP6, 255, .type = NA, .target = LOCAL6},
			CS_R_SOURCE_NOT_OWNED},
		{"the node's target", CS_FROM, {LINKLOCAL6, "ff02::1", ICMP6, 255, .type = NA, .target = HOST6},
			CS_R_SOURCE_NOT_OWNED},
		{"advertisement from ::", CS_FROM, {"::", "ff02::1", ICMP6, 255, .type = NA, .target = OWN6},
			CS_R_SOURCE_NOT_OWNED},
		{"hop limit 64", CS_FROM, {OWN6, "ff02::1:ff00:1", ICMP6, 64, .type = NS, .target = HOST6},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"hop limit 254", CS_FROM, {OWN6, HOST6, ICMP6, 254, .type = NS, .target = HOST6},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"to a routed address", CS_FROM, {OWN6, REMOTE6, ICMP6, 255, .type = NS, .target = REMOTE6},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"to the world", CS_FROM, {OWN6, OUTSIDE6, ICMP6, 255, .type = NA, .target = OWN6},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"to a wider group", CS_FROM, {OWN6, "ff05::1", ICMP6, 255, .type = NS, .target = HOST6},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"behind an extension header", CS_FROM,
			{OWN6, "ff02::1:ff00:1", ICMP6, 255, .type = NS, .target = HOST6, .extensions = 1},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"in a fragment", CS_FROM,
			{OWN6, "ff02::1:ff00:1", ICMP6, 255, .type = NS, .target = HOST6, .fragment = FRAGMENT_ATOMIC},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"too long", CS_FROM, {OWN6, "ff02::1:ff00:1", ICMP6, 255, .type = NS, .target = HOST6, .body = 193},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"as long as may be", CS_FROM,
			{OWN6, "ff02::1:ff00:1", ICMP6, 255, .type = NS, .target = HOST6, .body = 192}, PASSES},
		{"a tail behind the packet", CS_FROM,
			{OWN6, "ff02::1:ff00:1", ICMP6, 255, .type = NS, .target = HOST6, .trail = 200},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"router advertisement", CS_FROM, {LINKLOCAL6, "ff02::1", ICMP6, 255, .type = RA},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"redirect", CS_FROM, {LINKLOCAL6, HOST6, ICMP6, 255, .type = REDIRECT}, CS_R_NEIGHBOUR_DISCOVERY});
}

static void test_neighbour_discovery_to(void **state)
{
	struct world *w = *state;
	EXPECT(w, {"router advertisement", CS_TO, {LINKLOCAL6, "ff02::1", ICMP6, 255, .type = RA}, PASSES},
		{"solicitation", CS_TO, {HOST6, "ff02::1:ff00:10", ICMP6, 255, .type = NS, .target = OWN6}, PASSES},
		{"probe", CS_TO, {HOST6, OWN6, ICMP6, 255, .type = NS, .target = OWN6}, PASSES},
		{"advertisement", CS_TO, {LINKLOCAL6, OWN6, ICMP6, 255, .type = NA, .target = HOST6}, PASSES},
		{"redirect", CS_TO, {LINKLOCAL6, OWN6, ICMP6, 255, .type = REDIRECT}, PASSES},
		{"router solicitation", CS_TO, {LINKLOCAL6, "ff02::2", ICMP6, 255, .type = RS},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"hop limit 254", CS_TO, {REMOTE6, OWN6, ICMP6, 254, .type = NS, .target = OWN6},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"for another", CS_TO, {HOST6, LOCAL6, ICMP6, 255, .type = NS, .target = LOCAL6},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"too long", CS_TO, {LINKLOCAL6, "ff02::1", ICMP6, 255, .type = RA, .body = 209},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"as long as may be", CS_TO, {LINKLOCAL6, "ff02::1", ICMP6, 255, .type = RA, .body = 208}, PASSES});
}

/* Neighbour discovery that may not pass does not become ICMPv6 that may: not even where everything is allowed. */
static void test_no_second_chance(void **state)
{
	struct world *w = *state;
	world_defaults(w, CS_PASS, CS_PASS, CS_PASS, CS_PASS);
	world_auth(w, REMOTE, 1, 60000, 0);
	EXPECT(w,
		{"hop limit 64", CS_FROM, {OWN6, REMOTE6, ICMP6, 64, .type = NS, .target = REMOTE6},
			CS_R_NEIGHBOUR_DISCOVERY},
		{"hop limit 64", CS_TO, {REMOTE6, OWN6, ICMP6, 64, .type = REDIRECT}, CS_R_NEIGHBOUR_DISCOVERY},
		{"redirect", CS_FROM, {OWN6, REMOTE6, ICMP6, 255, .type = REDIRECT}, CS_R_NEIGHBOUR_DISCOVERY},
		{"echo, to compare", CS_FROM, {OWN6, REMOTE6, ICMP6, .type = 128}, PASSES});
}

static void test_group_membership(void **state)
{
	struct world *w = *state;
	EXPECT(w, {"MLDv2 report", CS_FROM, {LINKLOCAL6, "ff02::16", ICMP6, 1, .type = 143, .extensions = 1}, PASSES},
		{"MLD report", CS_FROM, {LINKLOCAL6, "ff02::fb", ICMP6, 1, .type = 131, .extensions = 1}, PASSES},
		{"MLD done", CS_FROM, {LINKLOCAL6, "ff02::2", ICMP6, 1, .type = 132, .extensions = 1}, PASSES},
		{"MLD report from ::", CS_FROM, {"::", "ff02::16", ICMP6, 1, .type = 143, .extensions = 1}, PASSES},
		{"MLD query", CS_TO, {LINKLOCAL6, "ff02::1", ICMP6, 1, .type = 130, .extensions = 1}, PASSES},
		{"IGMP report", CS_FROM, {OWN4, "224.0.0.22", IPPROTO_IGMP, 1}, PASSES},
		{"IGMP report from 0.0.0.0", CS_FROM, {"0.0.0.0", "224.0.0.22", IPPROTO_IGMP, 1}, PASSES},
		{"IGMP query", CS_TO, {HOST4, "224.0.0.1", IPPROTO_IGMP, 1}, PASSES});
	EXPECT(w,
		{"MLD, hop limit 2", CS_FROM, {OWN6, "ff02::16", ICMP6, 2, .type = 143, .extensions = 1},
			CS_R_POLICY_DENY},
		{"MLD to one", CS_FROM, {OWN6, REMOTE6, ICMP6, 1, .type = 143}, CS_R_POLICY_DENY},
		{"MLD, borrowed source", CS_FROM, {LOCAL6, "ff02::16", ICMP6, 1, .type = 143}, CS_R_SOURCE_NOT_OWNED},
		{"MLD in a fragment", CS_FROM, {OWN6, "ff02::16", ICMP6, 1, .type = 143, .fragment = 1},
			CS_R_POLICY_DENY},
		{"IGMP, TTL 2", CS_FROM, {OWN4, "224.0.0.22", IPPROTO_IGMP, 2}, CS_R_POLICY_DENY},
		{"IGMP to one", CS_FROM, {OWN4, REMOTE4, IPPROTO_IGMP, 1}, CS_R_POLICY_DENY},
		{"IGMP, borrowed source", CS_FROM, {LOCAL4, "224.0.0.22", IPPROTO_IGMP, 1}, CS_R_SOURCE_NOT_OWNED},
		{"IGMP in a fragment", CS_FROM, {OWN4, "224.0.0.22", IPPROTO_IGMP, 1, .fragment = MORE4},
			CS_R_POLICY_DENY},
		{"TTL 1, another protocol", CS_FROM, {OWN4, "224.0.0.22", IPPROTO_UDP, 1}, CS_R_POLICY_DENY});
}

static void test_link_local(void **state)
{
	struct world *w = *state;
	world_defaults(w, CS_PASS, CS_PASS, CS_PASS, CS_PASS);
	EXPECT(w, {"TCP from link-local", CS_FROM, {LINKLOCAL6, HOST6, IPPROTO_TCP}, CS_R_LINK_LOCAL},
		{"TCP to link-local", CS_FROM, {OWN6, "fe80::2", IPPROTO_TCP}, CS_R_LINK_LOCAL},
		{"UDP between them", CS_TO, {"fe80::2", LINKLOCAL6}, CS_R_LINK_LOCAL},
		{"echo from link-local", CS_TO, {"fe80::2", OWN6, ICMP6, .type = 128}, CS_R_LINK_LOCAL},
		{"febf:: is link-local too", CS_TO, {"febf::2", OWN6}, CS_R_LINK_LOCAL},
		{"fec0:: is not", CS_TO, {"fec0::2", OWN6}, PASSES},
		{"169.254.0.0/16 is judged like any other", CS_FROM, {OWN4, "169.254.169.254"}, PASSES},
		{"the same, borrowed", CS_FROM, {"169.254.1.1", REMOTE4}, CS_R_SOURCE_NOT_OWNED});
}

/* FROM: R is the world. TO: R is the source. Never held. */
static void test_groups(void **state)
{
	struct world *w = *state;
	world_defaults(w, CS_REQUIRE, CS_DENY, CS_REQUIRE, CS_DENY);
	EXPECT(w, {"to a group", CS_FROM, {OWN4, "239.1.2.3"}, CS_R_POLICY_DENY},
		{"to all", CS_FROM, {OWN4, "255.255.255.255"}, CS_R_POLICY_DENY},
		{"to a group", CS_FROM, {OWN6, "ff05::123"}, CS_R_POLICY_DENY},
		{"borrowed", CS_FROM, {LOCAL4, "239.1.2.3"}, CS_R_SOURCE_NOT_OWNED},
		{"from one who must authenticate", CS_TO, {REMOTE4, "239.1.2.3"}, CS_R_MULTICAST},
		{"from one who must authenticate", CS_TO, {LOCAL6, "ff02::fb"}, CS_R_MULTICAST},
		{"from outside", CS_TO, {OUTSIDE4, "239.1.2.3"}, CS_R_POLICY_DENY},
		{"the host to all", CS_TO, {HOST4, "255.255.255.255"}, PASSES});
	assert_int_equal(world_rows(w, CS_MAP_PENDING), 0);
	world_auth(w, REMOTE, 1, 60000, 0);
	EXPECT(w, {"authenticated", CS_TO, {REMOTE4, "239.1.2.3"}, PASSES},
		{"authenticated", CS_TO, {REMOTE6, "ff05::123"}, PASSES},
		{"not", CS_TO, {LOCAL4, "239.1.2.3"}, CS_R_MULTICAST});
	/* A CIDR that a policy names does not hold them: it would be wider than anybody wrote. */
	const struct cs_addr all = {.identity = CIDR_ID + 1};
	assert_int_equal(cs_datapath_prefix_put(w->dp, 4, "\0\0\0\0", 0, &all, NULL), 0);
	world_policy(w, CIDR_ID + 1, CS_PASS, CS_PASS);
	EXPECT(w, {"to a group", CS_FROM, {OWN4, "239.1.2.3"}, CS_R_POLICY_DENY},
		{"to one", CS_FROM, {OWN4, OUTSIDE4}, PASSES});
	world_defaults(w, CS_DENY, CS_PASS, CS_DENY, CS_DENY);
	EXPECT(w, {"the world is allowed", CS_FROM, {OWN4, "239.1.2.3"}, PASSES},
		{"the world is allowed", CS_FROM, {OWN4, "255.255.255.255"}, PASSES},
		{"the world is allowed", CS_FROM, {OWN6, "ff05::123"}, PASSES},
		{"224.0.0.0/4 ends at 239", CS_FROM, {OWN4, "240.0.0.1"}, PASSES});
}

static void test_dhcp(void **state)
{
	struct world *w = *state;
	const struct spec discover = {"0.0.0.0", "255.255.255.255", .sport = 68, .dport = 67};
	const struct spec renew = {OWN4, OUTSIDE4, .sport = 68, .dport = 67};
	const struct spec offer = {HOST4, "255.255.255.255", .sport = 67, .dport = 68, .ingress = 7};
	const struct spec ack = {OUTSIDE4, OWN4, .sport = 67, .dport = 68};
	const struct spec solicit = {LINKLOCAL6, "ff02::1:2", .sport = 546, .dport = 547};
	const struct spec reply = {"fe80::2", LINKLOCAL6, .sport = 547, .dport = 546};
	EXPECT(w, {"discover", CS_FROM, discover, CS_R_SOURCE_NOT_OWNED}, {"renew", CS_FROM, renew, CS_R_POLICY_DENY},
		{"offer", CS_TO, offer, CS_R_PEER_BEHIND_NAT}, {"ack", CS_TO, ack, CS_R_POLICY_DENY},
		{"solicit", CS_FROM, solicit, CS_R_LINK_LOCAL}, {"reply", CS_TO, reply, CS_R_LINK_LOCAL});
	w->endpoint.flags |= CS_EP_DHCP;
	world_endpoint(w);
	EXPECT(w, {"discover", CS_FROM, discover, PASSES}, {"renew", CS_FROM, renew, PASSES},
		{"offer", CS_TO, offer, PASSES}, {"ack", CS_TO, ack, PASSES}, {"solicit", CS_FROM, solicit, PASSES},
		{"reply", CS_TO, reply, PASSES},
		{"as a server", CS_FROM, {OWN4, "255.255.255.255", .sport = 67, .dport = 68}, CS_R_POLICY_DENY},
		{"to a server", CS_TO, {OUTSIDE4, OWN4, .sport = 68, .dport = 67}, CS_R_POLICY_DENY},
		{"0.0.0.0 to one", CS_FROM, {"0.0.0.0", REMOTE4, .sport = 68, .dport = 67}, CS_R_SOURCE_NOT_OWNED},
		{"borrowed", CS_FROM, {LOCAL4, "255.255.255.255", .sport = 68, .dport = 67}, CS_R_SOURCE_NOT_OWNED},
		{"for another", CS_TO, {OUTSIDE4, LOCAL4, .sport = 67, .dport = 68}, CS_R_DESTINATION_NOT_OWNED},
		{"in a fragment", CS_FROM, {"0.0.0.0", "255.255.255.255", .sport = 68, .dport = 67, .fragment = MORE4},
			CS_R_SOURCE_NOT_OWNED},
		{"solicit to one", CS_FROM, {LINKLOCAL6, "fe80::2", .sport = 546, .dport = 547}, CS_R_LINK_LOCAL},
		{"reply from afar", CS_TO, {OUTSIDE6, OWN6, .sport = 547, .dport = 546}, CS_R_POLICY_DENY},
		{"TCP with the ports", CS_FROM, {OWN4, OUTSIDE4, IPPROTO_TCP, .sport = 68, .dport = 67},
			CS_R_POLICY_DENY});
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, world_open, world_close)
int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_arp),
		CASE(test_neighbour_discovery_from),
		CASE(test_neighbour_discovery_to),
		CASE(test_no_second_chance),
		CASE(test_group_membership),
		CASE(test_link_local),
		CASE(test_groups),
		CASE(test_dhcp),
	};
	return cmocka_run_group_tests(tests, own_network, remove_leftovers);
}
