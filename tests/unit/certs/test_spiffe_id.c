/* SPIFFE-ID.md 2: what parses, what does not, and that nothing is normalised. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <stdlib.h>
#include <cmocka.h>
#include "spiffe_id.h"

static void accepts(void **state)
{
	(void)state;
	static const struct {
		const char *text, *domain, *path;
	} cases[] = {
		{"spiffe://example.org", "example.org", ""}, {"spiffe://example.org/a", "example.org", "/a"},
		{"spiffe://example.org/identity/4711", "example.org", "/identity/4711"},
		{"spiffe://a/b/c/d", "a", "/b/c/d"}, {"spiffe://_-.9/A-Z_a.z-0...9", "_-.9", "/A-Z_a.z-0...9"},
		{"spiffe://192.0.2.1/x", "192.0.2.1", "/x"}, {"spiffe://example.org/...", "example.org", "/..."},
		{"spiffe://example.org/.a/..b", "example.org", "/.a/..b"},
		{"spiffe://../x", "..", "/x"}, /* the grammar of a trust domain knows no dot segments */
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_spiffe_id id, again;
		struct cs_error e = {0};
		char domain[CS_TRUST_DOMAIN_MAX + 1];
		if (cs_spiffe_id_parse(&id, cases[i].text, strlen(cases[i].text), &e) < 0)
			fail_msg("%s: %s", cases[i].text, e.text);
		cs_spiffe_id_domain(&id, domain);
		assert_string_equal(id.text, cases[i].text);
		assert_string_equal(domain, cases[i].domain);
		assert_string_equal(cs_spiffe_id_path(&id), cases[i].path);
		assert_int_equal(cs_spiffe_id_make(&again, cases[i].domain, cases[i].path, &e), 0);
		assert_true(cs_spiffe_id_equal(&id, &again));
	}
}

static void refuses(void **state)
{
	(void)state;
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"", "does not start"},
		{"spiffe:/", "does not start"},
		{"SPIFFE://example.org/a", "does not start"},
		{"https://example.org/a", "does not start"},
		{"spiffe://", "trust domain is empty"},
		{"spiffe:///a", "trust domain is empty"},
		{"spiffe://Example.org/a", "'E' at byte 1"},
		{"spiffe://user@example.org/a", "'@' at byte 5"},
		{"spiffe://example.org:443/a", "':' at byte 12"},
		{"spiffe://exa%6dple.org/a", "'%' at byte 4"},
		{"spiffe://ex\xc3\xa4mple.org/a", "0xc3 at byte 3"},
		{"spiffe://example.org?x", "'?' at byte 12"},
		{"spiffe://[::1]/a", "'['"},
		{"spiffe://example.org/", "empty segment"},
		{"spiffe://example.org/a/", "empty segment"},
		{"spiffe://example.org//a", "empty segment"},
		{"spiffe://example.org/a//b", "empty segment"},
		{"spiffe://example.org/.", "segment '.'"},
		{"spiffe://example.org/..", "segment '..'"},
		{"spiffe://example.org/a/../b", "segment '..'"},
		{"spiffe://example.org/a/./b", "segment '.'"},
		{"spiffe://example.org/a?b", "'?' at byte 3"},
		{"spiffe://example.org/a#b", "'#' at byte 3"},
		{"spiffe://example.org/a%2fb", "'%' at byte 3"},
		{"spiffe://example.org/a b", "' ' at byte 3"},
		{"spiffe://example.org/a:b", "':' at byte 3"},
		{"spiffe://example.org/a\n", "0x0a at byte 3"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_spiffe_id id = {.len = 42};
		struct cs_error e = {0};
		if (cs_spiffe_id_parse(&id, cases[i].text, strlen(cases[i].text), &e) == 0)
			fail_msg("parsed: %s", cases[i].text);
		if (!strstr(e.text, cases[i].says))
			fail_msg("%s: '%s' does not say '%s'", cases[i].text, e.text, cases[i].says);
		assert_int_equal(id.len, 42);
	}
}

/* A NUL byte ends nothing: it is a byte like others, and not allowed. */
static void refuses_nul(void **state)
{
	(void)state;
	struct cs_spiffe_id id;
	struct cs_error e;
	static const char in_path[] = "spiffe://example.org/a\0b", in_domain[] = "spiffe://exam\0ple.org/a";
	assert_true(cs_spiffe_id_parse(&id, in_path, sizeof(in_path) - 1, &e) < 0);
	assert_non_null(strstr(e.text, "0x00"));
	assert_true(cs_spiffe_id_parse(&id, in_domain, sizeof(in_domain) - 1, &e) < 0);
	assert_true(cs_spiffe_id_parse(&id, in_path, strlen(in_path) + 1, &e) < 0);
}

static void limits(void **state)
{
	(void)state;
	struct cs_spiffe_id id;
	struct cs_error e;
	char text[CS_SPIFFE_ID_MAX + 2] = "spiffe://d/";
	size_t used = strlen(text);
	memset(text + used, 'x', sizeof(text) - used);
	assert_int_equal(cs_spiffe_id_parse(&id, text, CS_SPIFFE_ID_MAX, &e), 0);
	assert_int_equal(id.len, CS_SPIFFE_ID_MAX);
	assert_true(cs_spiffe_id_parse(&id, text, CS_SPIFFE_ID_MAX + 1, &e) < 0);
	assert_non_null(strstr(e.text, "2049 bytes"));

	char domain[CS_TRUST_DOMAIN_MAX + 2];
	memset(domain, 'd', sizeof(domain));
	domain[CS_TRUST_DOMAIN_MAX] = '\0';
	assert_int_equal(cs_spiffe_id_make(&id, domain, "/x", &e), 0);
	assert_int_equal(cs_trust_domain_check(domain, CS_TRUST_DOMAIN_MAX, &e), 0);
	domain[CS_TRUST_DOMAIN_MAX] = 'd';
	assert_true(cs_trust_domain_check(domain, CS_TRUST_DOMAIN_MAX + 1, &e) < 0);

	char path[CS_SPIFFE_ID_MAX + 64];
	memset(path, 'p', sizeof(path));
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	assert_true(cs_spiffe_id_make(&id, "d", path, &e) < 0);
	path[CS_SPIFFE_ID_MAX - strlen("spiffe://d")] = '\0';
	assert_int_equal(cs_spiffe_id_make(&id, "d", path, &e), 0);
	assert_true(cs_spiffe_id_make(&id, "d", "no-slash", &e) < 0);
}

static void every_byte(void **state)
{
	(void)state;
	for (int b = 0; b < 256; b++) {
		char text[] = "spiffe://aXb/aXb";
		struct cs_spiffe_id id;
		text[10] = (char)b;
		text[14] = 'x';
		bool lower = (b >= 'a' && b <= 'z') || (b >= '0' && b <= '9') || strchr(".-_", b ? b : '!');
		assert_int_equal(cs_spiffe_id_parse(&id, text, 16, NULL) == 0, lower || b == '/');
		text[10] = 'x';
		text[14] = (char)b;
		bool any = lower || (b >= 'A' && b <= 'Z');
		assert_int_equal(cs_spiffe_id_parse(&id, text, 16, NULL) == 0, any || b == '/');
	}
}

static void equality(void **state)
{
	(void)state;
	struct cs_spiffe_id a, b;
	assert_int_equal(cs_spiffe_id_make(&a, "example.org", "/a", NULL), 0);
	assert_int_equal(cs_spiffe_id_make(&b, "example.org", "/A", NULL), 0);
	assert_false(cs_spiffe_id_equal(&a, &b)); /* SPIFFE-ID 2.4: paths are case-sensitive */
	assert_int_equal(cs_spiffe_id_make(&b, "example.org", "/ab", NULL), 0);
	assert_false(cs_spiffe_id_equal(&a, &b));
	assert_int_equal(cs_spiffe_id_make(&b, "example.org", "/a", NULL), 0);
	assert_true(cs_spiffe_id_equal(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts),
		cmocka_unit_test(refuses),
		cmocka_unit_test(refuses_nul),
		cmocka_unit_test(limits),
		cmocka_unit_test(every_byte),
		cmocka_unit_test(equality),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
