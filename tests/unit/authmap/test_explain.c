/* authmap/explain: each answer with its negative twin. The rows are the datapath's; what it does with them,
 * test_datapath_verdict.c shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <arpa/inet.h>

#include "explain.h"

#define NOW    (100 * 1000000000ULL)
#define OWN    1001
#define REMOTE 2001

static struct cs_ip ip(const char *text)
{
	struct cs_ip ip = {.family = strchr(text, ':') ? 6 : 4};
	assert_int_equal(inet_pton(ip.family == 4 ? AF_INET : AF_INET6, text, ip.b), 1);
	return ip;
}

/* An endpoint of both families that requires authentication both ways; authd is alive. */
static struct cs_explain_rows rows(void)
{
	return (struct cs_explain_rows){.endpoint = {.identity = OWN,
						.verdict = {[CS_FROM] = {[CS_PEER_ENDPOINT] = CS_REQUIRE},
							[CS_TO] = {[CS_PEER_ENDPOINT] = CS_REQUIRE}},
						.n4 = 1,
						.n6 = 1},
		.addr = {.identity = REMOTE, .node = 1},
		.config = {.alive_ns = NOW, .node_flags = CS_NODE_HOST_PASSES},
		.now_ns = NOW};
}

static struct cs_explanation explain(const struct cs_explain_rows *r)
{
	struct cs_explanation x;
	const struct cs_ip remote = ip("10.0.0.9");
	cs_explain(r, &remote, &x);
	for (int dir = CS_FROM; dir <= CS_TO; dir++)
		assert_int_equal(x.dir[dir].passes, x.dir[dir].reason == CS_R_NONE);
	return x;
}

#define assert_reasons(x, from, to)                                                                                    \
	do {                                                                                                           \
		assert_int_equal((x).dir[CS_FROM].reason, from);                                                       \
		assert_int_equal((x).dir[CS_TO].reason, to);                                                           \
	} while (0)

static void test_no_endpoint(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	r.endpoint.identity = 0;
	r.endpoint.flags = CS_EP_DEPENDS; /* of a row that is none */
	r.entry = NOW + 1;
	struct cs_explanation x = explain(&r);
	assert_reasons(x, CS_R_NO_ENDPOINT, CS_R_NO_ENDPOINT);
	assert_false(x.depends_on);
	r = rows();
	r.entry = NOW + 1;
	assert_reasons(explain(&r), CS_R_NONE, CS_R_NONE);
}

static void test_policy(void **state)
{
	(void)state;
	static const struct {
		uint8_t from, to;
		uint32_t remote;
		enum cs_reason reason_from, reason_to;
		bool replies_from, replies_to;
	} cases[] = {
		{CS_PASS, CS_PASS, REMOTE, CS_R_NONE, CS_R_NONE, false, false},
		{CS_DENY, CS_DENY, REMOTE, CS_R_POLICY_DENY, CS_R_POLICY_DENY, false, false},
		{CS_DENY, CS_PASS, REMOTE, CS_R_POLICY_DENY, CS_R_NONE, true, false},
		{CS_PASS, CS_DENY, REMOTE, CS_R_NONE, CS_R_POLICY_DENY, false, true},
		{CS_REQUIRE, CS_DENY, REMOTE, CS_R_UNAUTHENTICATED, CS_R_POLICY_DENY, false, true},
		{CS_REQUIRE, CS_REQUIRE, REMOTE, CS_R_UNAUTHENTICATED, CS_R_UNAUTHENTICATED, false, false},
		{CS_REQUIRE, CS_PASS, CS_ID_WORLD, CS_R_PEER_CANNOT_AUTHENTICATE, CS_R_NONE, true, false},
		{CS_REQUIRE, CS_DENY, CS_ID_LOCAL_SCOPE, CS_R_PEER_CANNOT_AUTHENTICATE, CS_R_POLICY_DENY, false, false},
		{CS_PASS, CS_REQUIRE, CS_ID_REMOTE_NODE, CS_R_NONE, CS_R_PEER_CANNOT_AUTHENTICATE, false, true},
		{CS_REQUIRE, CS_PASS, CS_ID_FIRST_AUTH, CS_R_UNAUTHENTICATED, CS_R_NONE, false, false},
		{CS_PASS, CS_PASS, CS_ID_UNKNOWN, CS_R_POLICY_DENY, CS_R_POLICY_DENY, false, false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_explain_rows r = rows();
		r.addr.identity = cases[i].remote;
		r.has_policy = true;
		r.policy = (struct cs_policy){.verdict = {[CS_FROM] = cases[i].from, [CS_TO] = cases[i].to}};
		struct cs_explanation x = explain(&r);
		print_message("case %zu\n", i);
		assert_reasons(x, cases[i].reason_from, cases[i].reason_to);
		assert_int_equal(x.dir[CS_FROM].replies_pass, cases[i].replies_from);
		assert_int_equal(x.dir[CS_TO].replies_pass, cases[i].replies_to);
		if (cases[i].remote != CS_ID_UNKNOWN)
			assert_int_equal(x.dir[CS_FROM].verdict, cases[i].from);
	}
}

/* Without a row the endpoint's default for that class of peer decides. */
static void test_default(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	r.endpoint.verdict[CS_FROM][CS_PEER_ENDPOINT] = CS_PASS;
	r.endpoint.verdict[CS_TO][CS_PEER_OTHER] = CS_PASS;
	assert_reasons(explain(&r), CS_R_NONE, CS_R_UNAUTHENTICATED);
	r.addr.identity = CS_ID_WORLD;
	assert_reasons(explain(&r), CS_R_POLICY_DENY, CS_R_NONE);
	r.has_policy = true; /* a row that denies */
	assert_reasons(explain(&r), CS_R_POLICY_DENY, CS_R_POLICY_DENY);
}

static void test_audit_bit_is_no_verdict(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	r.has_policy = true;
	r.policy.verdict[CS_FROM] = CS_PASS | CS_AUDIT;
	r.policy.verdict[CS_TO] = CS_DENY | CS_AUDIT;
	struct cs_explanation x = explain(&r);
	assert_reasons(x, CS_R_NONE, CS_R_POLICY_DENY);
	assert_int_equal(x.dir[CS_FROM].verdict, CS_PASS);
}

static void test_host(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	r.addr = (struct cs_addr){.identity = CS_ID_HOST};
	assert_reasons(explain(&r), CS_R_POLICY_DENY, CS_R_NONE); /* probes */
	r.config.node_flags = 0;
	assert_reasons(explain(&r), CS_R_POLICY_DENY, CS_R_POLICY_DENY);
}

static void test_entry(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	r.entry = NOW + 1;
	assert_reasons(explain(&r), CS_R_NONE, CS_R_NONE);
	r.entry = NOW; /* over */
	assert_reasons(explain(&r), CS_R_UNAUTHENTICATED, CS_R_UNAUTHENTICATED);
	r.entry = CS_AUTH_FLUSHING | CS_AUTH_REPLY_TO; /* flags without a time are none */
	assert_reasons(explain(&r), CS_R_UNAUTHENTICATED, CS_R_UNAUTHENTICATED);
	r.entry = (NOW + 1) | CS_AUTH_FLUSHING; /* in order, and it passes */
	assert_reasons(explain(&r), CS_R_NONE, CS_R_NONE);
	r.entry = NOW + 1; /* of somebody who cannot have one */
	r.addr.identity = CS_ID_LOCAL_SCOPE;
	assert_reasons(explain(&r), CS_R_POLICY_DENY, CS_R_POLICY_DENY);
}

static void test_reply_only(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	r.entry = (NOW + 1) | CS_AUTH_REPLY_TO;
	struct cs_explanation x = explain(&r);
	assert_reasons(x, CS_R_NONE, CS_R_POLICY_DENY);
	assert_true(x.dir[CS_TO].replies_pass);
	assert_false(x.dir[CS_FROM].replies_pass);
	r.entry = (NOW + 1) | CS_AUTH_REPLY_FROM;
	assert_reasons(explain(&r), CS_R_POLICY_DENY, CS_R_NONE);
}

static void test_unanswered(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	r.pending = (struct cs_pending){.state = CS_ASKING, .until_ns = NOW + 1};
	assert_reasons(explain(&r), CS_R_UNAUTHENTICATED, CS_R_UNAUTHENTICATED);
	r.pending.state = CS_REFUSED;
	assert_reasons(explain(&r), CS_R_BACKOFF, CS_R_BACKOFF);
	r.pending.until_ns = NOW; /* the next packet asks */
	assert_reasons(explain(&r), CS_R_UNAUTHENTICATED, CS_R_UNAUTHENTICATED);
	r.config.alive_ns = NOW - CS_ALIVE_NS;
	assert_reasons(explain(&r), CS_R_DAEMON_DOWN, CS_R_DAEMON_DOWN);
	r.config.alive_ns++;
	assert_reasons(explain(&r), CS_R_UNAUTHENTICATED, CS_R_UNAUTHENTICATED);
	r.config.alive_ns = 0;
	r.entry = NOW + 1; /* nobody has to be asked */
	assert_reasons(explain(&r), CS_R_NONE, CS_R_NONE);
}

static void test_depends_on(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	r.has_policy = true; /* denies */
	r.endpoint.flags = CS_EP_DEPENDS;
	struct cs_explanation x = explain(&r);
	assert_reasons(x, CS_R_NONE, CS_R_NONE);
	assert_true(x.depends_on);
	r.endpoint.flags = 0;
	r.addr.flags = CS_ADDR_DEPENDS;
	assert_true(explain(&r).depends_on);
	assert_reasons(explain(&r), CS_R_NONE, CS_R_NONE);
	r.addr.flags = 0;
	assert_false(explain(&r).depends_on);
	assert_reasons(explain(&r), CS_R_POLICY_DENY, CS_R_POLICY_DENY);
	r.endpoint.flags = CS_EP_DEPENDS; /* whose address it is holds all the same */
	r.endpoint.n4 = 0;
	assert_reasons(explain(&r), CS_R_SOURCE_NOT_OWNED, CS_R_DESTINATION_NOT_OWNED);
}

static void test_audit(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	assert_false(explain(&r).audit);
	r.endpoint.flags = CS_EP_AUDIT;
	struct cs_explanation x = explain(&r);
	assert_true(x.audit);
	assert_reasons(x, CS_R_UNAUTHENTICATED, CS_R_UNAUTHENTICATED); /* what would be */
	r.endpoint.flags = 0;
	r.config.node_flags = CS_NODE_AUDIT;
	assert_true(explain(&r).audit);
}

static void test_addresses(void **state)
{
	(void)state;
	struct cs_explain_rows r = rows();
	struct cs_explanation x;
	struct cs_ip remote = ip("fe80::1");
	r.entry = NOW + 1;
	cs_explain(&r, &remote, &x);
	assert_reasons(x, CS_R_LINK_LOCAL, CS_R_LINK_LOCAL);
	remote = ip("fec0::1"); /* just outside */
	cs_explain(&r, &remote, &x);
	assert_reasons(x, CS_R_NONE, CS_R_NONE);
	r.endpoint.n6 = 0;
	cs_explain(&r, &remote, &x);
	assert_reasons(x, CS_R_SOURCE_NOT_OWNED, CS_R_DESTINATION_NOT_OWNED);
	remote = ip("10.0.0.9");
	cs_explain(&r, &remote, &x);
	assert_reasons(x, CS_R_NONE, CS_R_NONE);
}

static void test_is_host(void **state)
{
	(void)state;
	static const char *const hosts[] = {"10.0.0.1", "223.255.255.255", "240.0.0.1", "fd00::1", "fe80::1", "::1"};
	static const char *const others[] = {
		"224.0.0.1", "239.255.255.255", "0.0.0.0", "255.255.255.255", "ff02::1", "::"};
	for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
		struct cs_ip a = ip(hosts[i]), b = ip(others[i]);
		assert_true(cs_explain_is_host(&a));
		assert_false(cs_explain_is_host(&b));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_endpoint), cmocka_unit_test(test_policy),
		cmocka_unit_test(test_default), cmocka_unit_test(test_audit_bit_is_no_verdict),
		cmocka_unit_test(test_host), cmocka_unit_test(test_entry), cmocka_unit_test(test_reply_only),
		cmocka_unit_test(test_unanswered), cmocka_unit_test(test_depends_on), cmocka_unit_test(test_audit),
		cmocka_unit_test(test_addresses), cmocka_unit_test(test_is_host)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
