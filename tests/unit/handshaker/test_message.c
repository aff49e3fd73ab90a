/* Messages of the monitor: each field that can be wrong, and the form that is right. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>
#include "message.h"

static struct cs_hs_dial dial(void)
{
	struct cs_hs_dial m = {
		.h = {.type = CS_HS_DIAL, .request = 1}, .role = CS_HS_DIALLER, .local = 300, .remote = 301};
	strcpy(m.sni, "301.example.org");
	strcpy(m.remote_spiffe_id, "spiffe://example.org/identity/301");
	return m;
}

#define REFUSED(m, fd) assert_true(cs_hs_message_check(&(m), sizeof(m), fd, &e) < 0)
#define TAKEN(m, fd)   assert_int_equal(cs_hs_message_check(&(m), sizeof(m), fd, &e), 0)

static void test_dial(void **state)
{
	(void)state;
	struct cs_error e;
	struct cs_hs_dial m = dial();
	TAKEN(m, true);
	REFUSED(m, false);
	assert_true(cs_hs_message_check(&m, sizeof(m) - 1, true, &e) < 0);
	m.role = CS_HS_LOOPBACK;
	TAKEN(m, false);
	REFUSED(m, true);
	m = dial(), m.pad = 1;
	REFUSED(m, true);
	m = dial(), m.h.pad = 1;
	REFUSED(m, true);
	m = dial(), m.h.request = 0;
	REFUSED(m, true);
	m = dial(), m.pad2[6] = 1;
	REFUSED(m, true);
	m = dial(), m.sni[20] = 'x';
	REFUSED(m, true);
	m = dial(), memset(m.remote_spiffe_id, 'a', sizeof(m.remote_spiffe_id));
	REFUSED(m, true);
	m = dial(), memset(m.remote_spiffe_id, 0, sizeof(m.remote_spiffe_id));
	REFUSED(m, true);
}

static void test_svid(void **state)
{
	(void)state;
	struct cs_error e;
	struct cs_hs_svid m = {.h = {.type = CS_HS_SVID}, .identity = 300, .generation = 7};
	strcpy(m.spiffe_id, "spiffe://example.org/identity/300");
	TAKEN(m, true);
	REFUSED(m, false);
	m.generation = 0;
	TAKEN(m, false);
	REFUSED(m, true);
	m.identity = 0;
	REFUSED(m, false);
	m.identity = 300, m.h.request = 1;
	REFUSED(m, false);
}

static void test_the_rest(void **state)
{
	(void)state;
	struct cs_error e;
	struct cs_hs_bundle b = {.h = {.type = CS_HS_BUNDLE}, .generation = 1, .trust_domain = "example.org"};
	TAKEN(b, true);
	REFUSED(b, false);
	b.trust_domain[0] = '\0';
	REFUSED(b, true);
	struct cs_hs_head h = {.type = CS_HS_SIGNER};
	TAKEN(h, true);
	REFUSED(h, false);
	h = (struct cs_hs_head){.type = CS_HS_CANCEL, .request = 1};
	TAKEN(h, false);
	REFUSED(h, true);
	h.type = CS_HS_READY; /* ours to send */
	REFUSED(h, false);
	struct cs_hs_accept a = {.h = {.type = CS_HS_ACCEPT, .request = 1}};
	TAKEN(a, true);
	REFUSED(a, false);
	struct cs_hs_answer answer = {.h = {.type = CS_HS_ANSWER, .request = 1}, .reason = CS_R_STALE_VERDICT};
	TAKEN(answer, false);
	answer.reason = CS_REASON_MAX;
	REFUSED(answer, false);
	assert_true(cs_hs_message_check(&h, 3, false, &e) < 0);
}

static void test_list(void **state)
{
	(void)state;
	struct cs_error e;
	struct cs_der certs[CS_HS_CERTS_MAX];
	size_t n = 99;
	const uint8_t two[] = {3, 0, 0, 0, 'a', 'b', 'c', 1, 0, 0, 0, 'd'};
	assert_int_equal(cs_hs_list_parse(two, sizeof(two), certs, &n, &e), 0);
	assert_int_equal(n, 2);
	assert_memory_equal(certs[0].data, "abc", 3);
	assert_int_equal(certs[1].len, 1);
	assert_int_equal(cs_hs_list_parse(two, 0, certs, &n, &e), 0);
	assert_int_equal(n, 0);
	for (size_t cut = 1; cut < sizeof(two); cut++)
		if (cut != 7)
			assert_true(cs_hs_list_parse(two, cut, certs, &n, &e) < 0);
	const uint8_t empty[] = {0, 0, 0, 0}, huge[] = {255, 255, 255, 255, 1};
	assert_true(cs_hs_list_parse(empty, sizeof(empty), certs, &n, &e) < 0);
	assert_true(cs_hs_list_parse(huge, sizeof(huge), certs, &n, &e) < 0);
	uint8_t many[(CS_HS_CERTS_MAX + 1) * 5];
	for (size_t i = 0; i <= CS_HS_CERTS_MAX; i++)
		memcpy(many + i * 5, "\1\0\0\0x", 5);
	assert_int_equal(cs_hs_list_parse(many, sizeof(many) - 5, certs, &n, &e), 0);
	assert_true(cs_hs_list_parse(many, sizeof(many), certs, &n, &e) < 0);
}

static void test_sni(void **state)
{
	(void)state;
	static const char *const bad[] = {"", ".", "1", "1.", ".example.org", "01.example.org", "0.example.org",
		"+1.example.org", "-1.example.org", " 1.example.org", "1 .example.org", "0x12.example.org",
		"1_0.example.org", "1.EXAMPLE.org", "4294967296.example.org", "99999999999.example.org",
		"1..example.org/", "1.exa mple"};
	struct cs_error e = {0};
	uint32_t identity;
	const char *domain;
	assert_int_equal(cs_hs_sni_parse("4294967295.example.org", &identity, &domain, &e), 0);
	assert_int_equal(identity, 4294967295u);
	assert_string_equal(domain, "example.org");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_true(cs_hs_sni_parse(bad[i], &identity, &domain, &e) < 0);
		assert_int_equal(e.reason, CS_R_SNI_INVALID);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_dial), cmocka_unit_test(test_svid),
		cmocka_unit_test(test_the_rest), cmocka_unit_test(test_list), cmocka_unit_test(test_sni)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
