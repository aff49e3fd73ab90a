/* ICMP errors are judged by the packet that they quote. The router that sends them is of the world, which is denied. */
#include "fixture.h"

#include <netinet/in.h>

/* REMOTE has to authenticate, the world is denied. */
static int open_required(void **state)
{
	world_open(state);
	world_defaults(*state, CS_REQUIRE, CS_DENY, CS_REQUIRE, CS_DENY);
	return 0;
}

static const struct spec sent4 = {OWN4, REMOTE4, IPPROTO_TCP, .sport = 40000, .dport = 443};
static const struct spec sent6 = {OWN6, REMOTE6, IPPROTO_TCP, .sport = 40000, .dport = 443};

#define ERROR4(type_, code_, quote_)                                                                                   \
	{                                                                                                              \
		OUTSIDE4, OWN4, IPPROTO_ICMP, .type = type_, .code = code_, .quote = quote_, .ingress = 7              \
	}
#define ERROR6(type_, quote_)                                                                                          \
	{                                                                                                              \
		OUTSIDE6, OWN6, IPPROTO_ICMPV6, .type = type_, .quote = quote_, .ingress = 7                           \
	}

static void test_errors_of_an_authenticated_pair(void **state)
{
	struct world *w = *state;
	const struct expect cases[] = {{"too big", CS_TO, ERROR4(3, 4, &sent4), PASSES},
		{"time exceeded", CS_TO, ERROR4(11, 0, &sent4), PASSES},
		{"parameter problem", CS_TO, ERROR4(12, 0, &sent4), PASSES},
		{"unreachable", CS_TO, ERROR6(1, &sent6), PASSES}, {"too big", CS_TO, ERROR6(2, &sent6), PASSES},
		{"time exceeded", CS_TO, ERROR6(3, &sent6), PASSES},
		{"parameter problem", CS_TO, ERROR6(4, &sent6), PASSES}};
	for (int i = 0; i < 7; i++) {
		struct expect refused = cases[i];
		refused.outcome = CS_R_UNAUTHENTICATED; /* never held: no record, no question */
		expect_all(w, &refused, 1);
	}
	assert_int_equal(world_rows(w, CS_MAP_PENDING), 0);
	world_auth(w, REMOTE, 1, 60000, 0);
	expect_all(w, cases, 7);
	world_auth(w, REMOTE, 1, -1, 0);
	EXPECT(w, {"expired", CS_TO, ERROR4(3, 4, &sent4), CS_R_UNAUTHENTICATED});
}

static void test_what_is_no_error(void **state)
{
	struct world *w = *state;
	world_auth(w, REMOTE, 1, 60000, 0);
	EXPECT(w, {"source quench", CS_TO, ERROR4(4, 0, &sent4), CS_R_POLICY_DENY},
		{"redirect", CS_TO, ERROR4(5, 1, &sent4), CS_R_POLICY_DENY},
		{"echo that quotes", CS_TO, ERROR4(8, 0, &sent4), CS_R_POLICY_DENY},
		{"IPv6 type 5", CS_TO, ERROR6(5, &sent6), CS_R_POLICY_DENY},
		{"IPv6 echo that quotes", CS_TO, ERROR6(128, &sent6), CS_R_POLICY_DENY},
		{"UDP of the same bytes", CS_TO, {OUTSIDE4, OWN4, IPPROTO_UDP, .type = 3, .quote = &sent4},
			CS_R_POLICY_DENY},
		{"ICMPv6 in IPv4", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMPV6, .type = 2, .quote = &sent4},
			CS_R_POLICY_DENY},
		{"in a fragment", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 3, .quote = &sent4, .fragment = MORE4},
			CS_R_POLICY_DENY},
		{"from the endpoint", CS_FROM, {OWN4, OUTSIDE4, IPPROTO_ICMP, .type = 3, .quote = &sent4},
			CS_R_POLICY_DENY});
}

static void test_what_they_may_quote(void **state)
{
	struct world *w = *state;
	const struct spec others = {LOCAL4, REMOTE4, IPPROTO_TCP}, backwards = {REMOTE4, OWN4, IPPROTO_TCP};
	const struct spec unknown = {OWN4, OUTSIDE4, IPPROTO_TCP}, group = {OWN4, "239.1.2.3"};
	const struct spec extended = {OWN6, REMOTE6, IPPROTO_TCP, .extensions = 3};
	const struct spec endless = {OWN6, REMOTE6, IPPROTO_TCP, .extensions = 9};
	const struct spec later = {OWN4, REMOTE4, IPPROTO_TCP, .fragment = 185};
	world_auth(w, REMOTE, 1, 60000, 0);
	EXPECT(w, {"not own", CS_TO, ERROR4(3, 4, &others), CS_R_POLICY_DENY},
		{"the other way round", CS_TO, ERROR4(3, 4, &backwards), CS_R_POLICY_DENY},
		{"to one who is denied", CS_TO, ERROR4(3, 4, &unknown), CS_R_POLICY_DENY},
		{"to a group", CS_TO, ERROR4(3, 4, &group), CS_R_POLICY_DENY},
		{"a later fragment", CS_TO, ERROR4(3, 4, &later), PASSES},
		{"with extension headers", CS_TO, ERROR6(2, &extended), PASSES},
		{"with too many", CS_TO, ERROR6(2, &endless), CS_R_POLICY_DENY},
		{"nothing", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 3, .body = 8}, CS_R_POLICY_DENY});
	/* Ownership of the error itself is as for any packet. */
	EXPECT(w,
		{"for another", CS_TO, {OUTSIDE4, LOCAL4, IPPROTO_ICMP, .type = 3, .quote = &sent4},
			CS_R_DESTINATION_NOT_OWNED},
		{"from the node's address, routed in", CS_TO,
			{HOST4, OWN4, IPPROTO_ICMP, .type = 3, .quote = &sent4, .ingress = 7}, PASSES});
}

static void test_sizes(void **state)
{
	struct world *w = *state;
	world_auth(w, REMOTE, 1, 60000, 0);
	EXPECT(w, {"576", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 3, .quote = &sent4, .body = 576 - 28}, PASSES},
		{"577", CS_TO, {OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 3, .quote = &sent4, .body = 577 - 28},
			CS_R_POLICY_DENY},
		{"1280", CS_TO, {OUTSIDE6, OWN6, IPPROTO_ICMPV6, .type = 2, .quote = &sent6, .body = 1280 - 48},
			PASSES},
		{"1281", CS_TO, {OUTSIDE6, OWN6, IPPROTO_ICMPV6, .type = 2, .quote = &sent6, .body = 1281 - 48},
			CS_R_POLICY_DENY},
		{"a tail behind the packet", CS_TO,
			{OUTSIDE4, OWN4, IPPROTO_ICMP, .type = 3, .quote = &sent4, .body = 500, .trail = 60},
			CS_R_POLICY_DENY});
}

/* A quoted reply passes by the flow that it answers, and does not keep it alive. */
static void test_quoted_replies(void **state)
{
	struct world *w = *state;
	w->endpoint.flags |= CS_EP_FLOWS;
	world_endpoint(w);
	world_policy(w, REMOTE, CS_DENY, CS_REQUIRE);
	world_auth(w, REMOTE, 1, 60000, CS_AUTH_REPLY_FROM);
	const struct spec reply = {OWN4, REMOTE4, IPPROTO_TCP, .sport = 443, .dport = 40000};
	const struct expect error = {"quotes a reply", CS_TO, ERROR4(3, 4, &reply), PASSES};
	struct expect early = error;
	early.outcome = CS_R_POLICY_DENY;
	expect_all(w, &early, 1);
	EXPECT(w, {"asked", CS_TO, {REMOTE4, OWN4, IPPROTO_TCP, .sport = 40000, .dport = 443}, PASSES});
	expect_all(w, &error, 1);
}

/* A sender that may pass passes, whatever it quotes. One that must authenticate is not asked about for an error. */
static void test_the_sender(void **state)
{
	struct world *w = *state;
	const struct spec unknown = {OWN4, OUTSIDE4, IPPROTO_TCP};
	EXPECT(w,
		{"of an unauthenticated endpoint", CS_TO, {LOCAL4, OWN4, IPPROTO_ICMP, .type = 3, .quote = &sent4},
			CS_R_UNAUTHENTICATED},
		{"of the host itself", CS_TO, {HOST4, OWN4, IPPROTO_ICMP, .type = 3, .quote = &unknown}, PASSES});
	assert_int_equal(world_rows(w, CS_MAP_PENDING), 0);
	world_auth(w, LOCAL, 0, 60000, 0);
	EXPECT(w, {"of an authenticated endpoint", CS_TO, {LOCAL4, OWN4, IPPROTO_ICMP, .type = 3, .quote = &unknown},
			  PASSES});
	world_policy(w, CS_ID_WORLD, CS_PASS, CS_DENY);
	EXPECT(w, {"quotes what is allowed", CS_TO, ERROR4(3, 4, &unknown), PASSES});
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_required, world_close)
int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_errors_of_an_authenticated_pair),
		CASE(test_what_is_no_error),
		CASE(test_what_they_may_quote),
		CASE(test_sizes),
		CASE(test_quoted_replies),
		CASE(test_the_sender),
	};
	return cmocka_run_group_tests(tests, own_network, remove_leftovers);
}
