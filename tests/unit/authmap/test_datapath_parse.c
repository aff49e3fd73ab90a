/* What can be read and what cannot: ethertypes, tags, truncation, fragments, extension headers. */
#include "fixture.h"

#include <linux/if_ether.h>
#include <netinet/in.h>

/* With everything allowed, so that only the form of a packet can stop it. */
static int open_allowed(void **state)
{
	world_open(state);
	world_defaults(*state, CS_PASS, CS_PASS, CS_PASS, CS_PASS);
	return 0;
}

#define FROM4 .src = OWN4, .dst = REMOTE4
#define FROM6 .src = OWN6, .dst = REMOTE6
#define TO4   .src = REMOTE4, .dst = OWN4
#define TO6   .src = REMOTE6, .dst = OWN6

static void test_no_endpoint(void **state)
{
	struct world *w = *state;
	EXPECT(w, {"registered", CS_FROM, {FROM4}, PASSES}, {"registered", CS_TO, {TO6}, PASSES});
	assert_int_equal(cs_datapath_endpoint_del(w->dp, IFINDEX, NULL), 0);
	EXPECT(w, {"unregistered", CS_FROM, {FROM4}, CS_R_NO_ENDPOINT},
		{"unregistered", CS_TO, {TO6}, CS_R_NO_ENDPOINT});
	struct frame arp = build_arp(OWN4, HOST4, 42);
	expect_frame(w, "ARP, unregistered", CS_FROM, &arp, CS_R_NO_ENDPOINT);
}

static void test_ethertypes(void **state)
{
	struct world *w = *state;
	EXPECT(w, {"IPv4", CS_FROM, {FROM4}, PASSES}, {"IPv6", CS_FROM, {FROM6}, PASSES},
		{"one tag", CS_FROM, {FROM4, .tags = 1}, CS_R_ETHERTYPE},
		{"two tags", CS_FROM, {FROM4, .tags = 2}, CS_R_ETHERTYPE},
		{"three tags", CS_TO, {TO6, .tags = 3}, CS_R_ETHERTYPE},
		{"802.1ad", CS_FROM, {FROM4, .ethertype = ETH_P_8021AD}, CS_R_ETHERTYPE},
		{"MPLS", CS_FROM, {FROM4, .ethertype = ETH_P_MPLS_UC}, CS_R_ETHERTYPE},
		{"PPPoE", CS_TO, {TO4, .ethertype = ETH_P_PPP_SES}, CS_R_ETHERTYPE},
		{"802.3 with a length", CS_FROM, {FROM4, .ethertype = 60}, CS_R_ETHERTYPE},
		{"EAPOL", CS_FROM, {FROM4, .ethertype = ETH_P_PAE}, CS_R_ETHERTYPE});
}

static void test_truncated(void **state)
{
	struct world *w = *state;
	/* Frames that end inside the IP header are none for a test run; test_datapath_ways.py sends real ones. */
	EXPECT(w, {"IPv4 says more than came", CS_FROM, {FROM4, .cut = 40}, CS_R_UNREADABLE_HEADER},
		{"IPv6 says more than came", CS_FROM, {FROM6, .cut = 60}, CS_R_UNREADABLE_HEADER},
		{"padding behind the packet", CS_FROM, {FROM4, .trail = 18}, PASSES});
	struct frame f = build(&(struct spec){FROM4});
	f.bytes[14] = 0x44;
	expect_frame(w, "IPv4 header of 16 bytes", CS_FROM, &f, CS_R_UNREADABLE_HEADER);
	f.bytes[14] = 0x65;
	expect_frame(w, "version 6 in IPv4", CS_FROM, &f, CS_R_UNREADABLE_HEADER);
	f.bytes[14] = 0x4f;
	expect_frame(w, "IPv4 header beyond the packet", CS_FROM, &f, CS_R_UNREADABLE_HEADER);
	f = build(&(struct spec){FROM4});
	f.bytes[16] = f.bytes[17] = 0;
	expect_frame(w, "IPv4 of no length", CS_FROM, &f, CS_R_UNREADABLE_HEADER);
	f = build(&(struct spec){FROM6});
	f.bytes[14] = 0x40;
	expect_frame(w, "version 4 in IPv6", CS_FROM, &f, CS_R_UNREADABLE_HEADER);
}

static void test_extension_headers(void **state)
{
	struct world *w = *state;
	EXPECT(w, {"one", CS_FROM, {FROM6, .extensions = 1}, PASSES},
		{"eight", CS_FROM, {FROM6, .extensions = 8}, PASSES}, {"eight", CS_TO, {TO6, .extensions = 8}, PASSES},
		{"nine", CS_FROM, {FROM6, .extensions = 9}, CS_R_UNREADABLE_HEADER},
		{"nine", CS_TO, {TO6, .extensions = 9}, CS_R_UNREADABLE_HEADER});
	/* Also for a pair that is authenticated: what cannot be read cannot be judged. */
	world_defaults(w, CS_DENY, CS_DENY, CS_DENY, CS_DENY);
	world_auth(w, REMOTE, 1, 60000, 0);
	EXPECT(w, {"authenticated, eight", CS_TO, {TO6, .extensions = 8}, PASSES},
		{"authenticated, nine", CS_TO, {TO6, .extensions = 9}, CS_R_UNREADABLE_HEADER},
		{"authenticated, two tags", CS_TO, {TO6, .tags = 2}, CS_R_ETHERTYPE});
	struct frame f = build(&(struct spec){TO6, .extensions = 1});
	f.bytes[14 + 41] = 255;
	expect_frame(w, "extension header beyond the frame, nothing behind it", CS_TO, &f, PASSES);
	f.bytes[14 + 40] = IPPROTO_DSTOPTS;
	expect_frame(w, "extension header beyond the frame, another behind it", CS_TO, &f, CS_R_UNREADABLE_HEADER);
}

/* Other transports are IP like any other: the pair decides. */
static void test_other_protocols(void **state)
{
	struct world *w = *state;
	static const uint8_t protos[] = {IPPROTO_SCTP, IPPROTO_GRE, IPPROTO_ESP, IPPROTO_IPIP, IPPROTO_IPV6, 253};
	world_defaults(w, CS_DENY, CS_DENY, CS_DENY, CS_DENY);
	for (size_t i = 0; i < sizeof(protos); i++)
		EXPECT(w, {"refused", CS_FROM, {FROM4, .proto = protos[i]}, CS_R_POLICY_DENY},
			{"refused", CS_TO, {TO6, .proto = protos[i]}, CS_R_POLICY_DENY});
	world_auth(w, REMOTE, 1, 60000, 0);
	for (size_t i = 0; i < sizeof(protos); i++)
		EXPECT(w, {"authenticated", CS_FROM, {FROM4, .proto = protos[i]}, PASSES},
			{"authenticated", CS_TO, {TO6, .proto = protos[i]}, PASSES});
}

/* Later fragments are judged on the pair alone. */
static void test_fragments(void **state)
{
	struct world *w = *state;
	const struct expect cases[] = {{"first", CS_FROM, {FROM4, .fragment = MORE4}, PASSES},
		{"later", CS_FROM, {FROM4, .fragment = 185}, PASSES}, {"first", CS_TO, {TO6, .fragment = 1}, PASSES},
		{"later", CS_TO, {TO6, .fragment = 1480 | 1}, PASSES},
		{"atomic", CS_TO, {TO6, .fragment = FRAGMENT_ATOMIC}, PASSES}};
	expect_all(w, cases, 5);
	world_defaults(w, CS_DENY, CS_DENY, CS_DENY, CS_DENY);
	for (size_t i = 0; i < 5; i++) {
		struct expect refused = cases[i];
		refused.outcome = CS_R_POLICY_DENY;
		expect_all(w, &refused, 1);
	}
	world_auth(w, REMOTE, 1, 60000, 0);
	expect_all(w, cases, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_no_endpoint, open_allowed, world_close),
		cmocka_unit_test_setup_teardown(test_ethertypes, open_allowed, world_close),
		cmocka_unit_test_setup_teardown(test_truncated, open_allowed, world_close),
		cmocka_unit_test_setup_teardown(test_extension_headers, open_allowed, world_close),
		cmocka_unit_test_setup_teardown(test_other_protocols, open_allowed, world_close),
		cmocka_unit_test_setup_teardown(test_fragments, open_allowed, world_close),
	};
	return cmocka_run_group_tests(tests, own_network, remove_leftovers);
}
