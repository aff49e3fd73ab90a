/* A message of a handshaker that is right, and one fault at a time. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "hs_message.h"

static union cs_hs_report m, out;
static struct cs_error e;

static void verdict(void)
{
	memset(&m, 0, sizeof(m));
	m.verdict = (struct cs_hs_verdict){.h = {.type = CS_HS_VERDICT, .request = 5},
		.role = CS_HS_ACCEPTOR,
		.local = 100,
		.local_svid_generation = 1,
		.local_bundle_generation = 2,
		.remote_bundle_generation = 3,
		.not_after_unix_s = 1000,
		.remote_spiffe_id = "spiffe://example.org/identity/101"};
}

static void done(void)
{
	memset(&m, 0, sizeof(m));
	m.done = (struct cs_hs_done){
		.h = {.type = CS_HS_DONE, .request = 5}, .reason = CS_R_UNTRUSTED, .detail = "no authority"};
}

static int parse(size_t len)
{
	return cs_hs_report_parse(&m, len, false, &out, &e);
}

static void test_right(void **state)
{
	(void)state;
	verdict();
	assert_int_equal(parse(sizeof(m.verdict)), 0);
	assert_memory_equal(&out.verdict, &m.verdict, sizeof(m.verdict));
	m.verdict.role = CS_HS_LOOPBACK;
	m.verdict.remote_svid_generation = 4;
	assert_int_equal(parse(sizeof(m.verdict)), 0);
	done();
	assert_int_equal(parse(sizeof(m.done)), 0);
	assert_string_equal(out.done.detail, "no authority");
	memset(&m, 0, sizeof(m));
	m.head.type = CS_HS_READY;
	assert_int_equal(parse(sizeof(m.head)), 0);
}

static void test_sizes_and_descriptors(void **state)
{
	(void)state;
	verdict();
	assert_int_equal(parse(sizeof(m.verdict) - 1), -EBADMSG);
	assert_int_equal(parse(sizeof(m.done)), -EBADMSG);
	assert_int_equal(parse(0), -EBADMSG);
	assert_int_equal(parse(sizeof(m) + 1), -EBADMSG);
	assert_int_equal(cs_hs_report_parse(&m, sizeof(m.verdict), true, &out, &e), -EBADMSG);
	done();
	assert_int_equal(parse(sizeof(m.verdict)), -EBADMSG);
	memset(&m, 0, sizeof(m));
	for (uint32_t type = 0; type < 64; type++) {
		m.head.type = type;
		assert_int_equal(parse(sizeof(m.head)), type == CS_HS_READY ? 0 : -EBADMSG);
	}
	m.head.type = CS_HS_READY;
	m.head.request = 1;
	assert_int_equal(parse(sizeof(m.head)), -EBADMSG);
}

#define WRONG(what)                                                                                                    \
	do {                                                                                                           \
		verdict();                                                                                             \
		what;                                                                                                  \
		assert_int_equal(parse(sizeof(m.verdict)), -EBADMSG);                                                  \
	} while (0)

static void test_wrong_verdicts(void **state)
{
	(void)state;
	WRONG(m.verdict.h.request = 0);
	WRONG(m.verdict.h.pad = 1);
	WRONG(m.verdict.role = 0);
	WRONG(m.verdict.role = 4);
	WRONG(m.verdict.local = 0);
	WRONG(m.verdict.local_svid_generation = 0);
	WRONG(m.verdict.local_bundle_generation = 0);
	WRONG(m.verdict.remote_bundle_generation = 0);
	WRONG(m.verdict.remote_svid_generation = 1); /* only of a pair on one node */
	WRONG(m.verdict.role = CS_HS_LOOPBACK);      /* without the other half's */
	WRONG(m.verdict.not_after_unix_s = 0);
	WRONG(m.verdict.not_after_unix_s = -1);
	WRONG(m.verdict.remote_spiffe_id[0] = 0);
	WRONG(m.verdict.remote_spiffe_id[200] = 'x'); /* behind its end */
	WRONG(m.verdict.remote_spiffe_id[3] = '\n');
	WRONG(memset(m.verdict.remote_spiffe_id, 'x', sizeof(m.verdict.remote_spiffe_id)));
	WRONG(m.verdict.pad2[6] = 1);
	WRONG(m.verdict.local_leaf.pad[0] = 1);
	WRONG(m.verdict.remote_leaf.pad[3] = 1);
}

static void test_wrong_ends(void **state)
{
	(void)state;
	done();
	m.done.reason = CS_REASON_MAX;
	assert_int_equal(parse(sizeof(m.done)), -EBADMSG);
	done();
	m.done.alert = 256;
	assert_int_equal(parse(sizeof(m.done)), -EBADMSG);
	done();
	m.done.pad = 1;
	assert_int_equal(parse(sizeof(m.done)), -EBADMSG);
	done();
	m.done.detail[0] = 0x1b; /* nothing that a terminal would obey */
	assert_int_equal(parse(sizeof(m.done)), -EBADMSG);
	done();
	memset(m.done.detail, 'x', sizeof(m.done.detail));
	assert_int_equal(parse(sizeof(m.done)), -EBADMSG);
	done();
	m.done.h.request = 0;
	assert_int_equal(parse(sizeof(m.done)), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_right),
		cmocka_unit_test(test_sizes_and_descriptors),
		cmocka_unit_test(test_wrong_verdicts),
		cmocka_unit_test(test_wrong_ends),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
