/* What etcd's words mean, and what is made of them: no etcd needed. (tests/integration/test_etcd.py has the real ones.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "etcd_private.h"
#include "etcd_settings.h"

static void test_prefix_end(void **state)
{
	(void)state;
	const struct {
		const char *prefix, *end;
	} cases[] = {{"/a/", "/a0"}, {"a", "b"}, {"a\xff", "b"}, {"a\xff\xff", "b"}, {"\xff\xff", ""}, {"", ""}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t end[16];
		const struct cs_etcd_bytes prefix = {cases[i].prefix, strlen(cases[i].prefix)};
		size_t n = cs_etcd_prefix_end(prefix, end);
		assert_int_equal(n, strlen(cases[i].end));
		assert_memory_equal(end, cases[i].end, n);
	}
}

/* Texts as etcd 3.4 to 3.7 and grpc-go say them. */
static void test_verdicts(void **state)
{
	(void)state;
	const struct {
		enum cs_grpc_code code;
		const char *text;
		bool untouched;
		struct etcd_verdict want;
	} cases[] = {
		{CS_GRPC_UNAUTHENTICATED, "etcdserver: invalid auth token", 0, {-EACCES, .sure = 1, .token = 1}},
		{CS_GRPC_INVALID_ARGUMENT, "etcdserver: revision of auth store is old", 0, {-EACCES, 1, .token = 1}},
		{CS_GRPC_INVALID_ARGUMENT, "etcdserver: user name is empty", 0, {-EACCES, 1, .token = 1}},
		{CS_GRPC_INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password", 0,
			{-EACCES, .sure = 1}},
		{CS_GRPC_PERMISSION_DENIED, "etcdserver: permission denied", 0, {-EACCES, .sure = 1}},
		{CS_GRPC_FAILED_PRECONDITION, "etcdserver: authentication is not enabled", 0, {-EACCES, .sure = 1}},
		{CS_GRPC_OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", 0,
			{-ESTALE, .sure = 1}},
		{CS_GRPC_OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", 0,
			{-EPROTO, .sure = 1}},
		{CS_GRPC_NOT_FOUND, "etcdserver: requested lease not found", 0, {-ENOENT, .sure = 1}},
		{CS_GRPC_INVALID_ARGUMENT, "etcdserver: request is too large", 0, {-EMSGSIZE, .sure = 1}},
		{CS_GRPC_INVALID_ARGUMENT, "etcdserver: too many operations in txn request", 0, {-EMSGSIZE, .sure = 1}},
		{CS_GRPC_INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", 0, {-EPROTO, .sure = 1}},
		{CS_GRPC_RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", 0, {-ENOSPC, .sure = 1}},
		{CS_GRPC_RESOURCE_EXHAUSTED, "etcdserver: too many requests", 0, {-ETIMEDOUT, 1, .later = 1}},
		{CS_GRPC_RESOURCE_EXHAUSTED, "grpc: received message larger than max (3 vs. 2)", 0,
			{-EMSGSIZE, .sure = 1}},
		/* Our own word about an answer: what was asked has happened. */
		{CS_GRPC_RESOURCE_EXHAUSTED, "the server's message has 3 bytes, more than the 2 that are taken", 0,
			{-EMSGSIZE, .sure = 0}},
		{CS_GRPC_UNIMPLEMENTED, "unknown service", 0, {-EPROTO, .sure = 1}},
		{CS_GRPC_UNAVAILABLE, "etcdserver: no leader", 0, {-ETIMEDOUT, 0, .elsewhere = 1}},
		{CS_GRPC_UNAVAILABLE, "etcdserver: leader changed", 0, {-ETIMEDOUT, 0, .elsewhere = 1}},
		{CS_GRPC_UNAVAILABLE, "cannot connect", 1, {-EHOSTUNREACH, 0, .elsewhere = 1}},
		{CS_GRPC_DEADLINE_EXCEEDED, "no answer in time", 0, {-ETIMEDOUT, 0, .elsewhere = 1}},
		{CS_GRPC_INTERNAL, "the server reset the call", 0, {-ETIMEDOUT, 0, .elsewhere = 1}},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_grpc_status status = {.code = cases[i].code, .untouched = cases[i].untouched};
		snprintf(status.message, sizeof(status.message), "%s", cases[i].text);
		struct etcd_verdict got = cs_etcd_judge(&status), want = cases[i].want;
		if (got.code != want.code || got.sure != want.sure || got.elsewhere != want.elsewhere ||
			got.token != want.token || got.later != want.later)
			fail_msg("%s: code %d, sure %d, elsewhere %d, token %d, later %d", cases[i].text, got.code,
				got.sure, got.elsewhere, got.token, got.later);
	}
}

static void test_backoff_begins_when_all_were_asked(void **state)
{
	(void)state;
	const struct cs_etcd etcd = {.nendpoints = 3};
	for (unsigned n = 0; n < 3; n++)
		assert_int_equal(cs_etcd_backoff_ms(&etcd, n), 0);
	for (unsigned n = 3; n < 100; n++)
		assert_in_range(cs_etcd_backoff_ms(&etcd, n), 25, CS_ETCD_RETRY_MAX_MS * 3 / 2);
}

struct config {
	struct cs_etcd_settings etcd;
};
static const struct cs_setting rows[] = {CS_ETCD_SETTINGS(struct config, etcd)};
static const struct cs_settings table = {rows, sizeof(rows) / sizeof(rows[0])};

static int set(struct config *config, const char *assignment)
{
	struct cs_error e;
	return cs_settings_set(&table, config, assignment, &e);
}

static void test_settings(void **state)
{
	(void)state;
	struct config config = {0};
	struct cs_etcd_config got;
	struct cs_error e;
	char password[CS_ETCD_PASSWORD_MAX], file[] = "/tmp/cs-etcd-XXXXXX", assignment[128];
	assert_int_equal(cs_settings_defaults(&table, &config, &e), 0);
	assert_false(cs_etcd_settings_used(&config.etcd));
	assert_int_equal(set(&config, "etcd.endpoints=https://a:2379,https://b:2379"), 0);
	assert_true(cs_etcd_settings_used(&config.etcd));
	assert_int_equal(cs_etcd_settings_config(&config.etcd, &got, password, &e), 0);
	assert_int_equal(got.client.nendpoints, 2);
	assert_null(got.client.user);
	assert_null(got.client.password);
	assert_string_equal(got.prefix, CS_STORE_ETCD_PREFIX);

	assert_int_equal(set(&config, "etcd.user=u"), 0);
	assert_int_equal(cs_etcd_settings_config(&config.etcd, &got, password, &e), -EINVAL);
	int fd = mkstemp(file);
	assert_int_equal(write(fd, "secret\n", 7), 7);
	snprintf(assignment, sizeof(assignment), "etcd.password_file=%s", file);
	assert_int_equal(set(&config, assignment), 0);
	assert_int_equal(cs_etcd_settings_config(&config.etcd, &got, password, &e), 0);
	assert_string_equal(got.client.user, "u");
	assert_string_equal(got.client.password, "secret");
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(cs_etcd_settings_config(&config.etcd, &got, password, &e), -EINVAL); /* empty */
	assert_int_equal(ftruncate(fd, CS_ETCD_PASSWORD_MAX), 0);
	assert_int_equal(cs_etcd_settings_config(&config.etcd, &got, password, &e), -E2BIG);
	unlink(file);
	close(fd);
	assert_int_equal(cs_etcd_settings_config(&config.etcd, &got, password, &e), -ENOENT);
	cs_settings_free(&table, &config);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prefix_end),
		cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_backoff_begins_when_all_were_asked),
		cmocka_unit_test(test_settings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
