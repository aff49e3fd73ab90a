#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <countersign/maps.h>
#include <countersign/identities.h>
#include "numbers.h"

static struct cs_numbers made(int64_t cluster, int64_t clusters)
{
	char *domains[] = {(char *)"7=seven.example", (char *)"255=last.example"};
	char *fixed[] = {(char *)"128=payments", (char *)"255=last"};
	const struct cs_numbers_config config = {.cluster_id = cluster,
		.clusters_max = clusters,
		.trust_domain = "example.org",
		.domains = {domains, 2},
		.fixed = {fixed, 2}};
	struct cs_numbers n;
	struct cs_error e;
	assert_int_equal(cs_numbers_init(&n, &config, &e), 0);
	return n;
}

static void test_ranges(void **state)
{
	static const struct {
		int64_t cluster, clusters;
		uint32_t min, max;
	} rows[] = {
		{0, 255, 256, 65535},
		{1, 255, 65536, 131071},
		{254, 255, 254u << 16, (255u << 16) - 1},
		{0, 511, 256, 32767},
		{1, 511, 32768, 65535},
		{511, 511, 511u << 15, (1u << 24) - 1},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct cs_numbers n = made(rows[i].cluster, rows[i].clusters);
		assert_int_equal(n.min, rows[i].min);
		assert_int_equal(n.max, rows[i].max);
		assert_true(cs_number_is_own(&n, n.min) && cs_number_is_own(&n, n.max));
		assert_false(cs_number_is_own(&n, n.min - 1) || cs_number_is_own(&n, n.max + 1));
		assert_int_equal(cs_number_cluster(&n, n.min), rows[i].cluster);
		assert_int_equal(cs_number_cluster(&n, n.max), rows[i].cluster);
		assert_true(cs_number_authenticates(n.min) && cs_number_authenticates(n.max));
		cs_numbers_fini(&n);
	}
}

static void test_kinds(void **state)
{
	static const struct {
		uint32_t id;
		enum cs_number_kind kind;
		bool authenticates;
	} rows[] = {
		{0, CS_NUMBER_RESERVED, false},
		{CS_ID_WORLD, CS_NUMBER_RESERVED, false},
		{99, CS_NUMBER_RESERVED, false},
		{100, CS_NUMBER_WELL_KNOWN, true},
		{127, CS_NUMBER_WELL_KNOWN, true},
		{128, CS_NUMBER_FIXED, true},
		{255, CS_NUMBER_FIXED, true},
		{256, CS_NUMBER_LABELS, true},
		{(1u << 24) - 1, CS_NUMBER_LABELS, true}, /* cluster 255, which made() has */
		{1u << 24, CS_NUMBER_CIDR, false},
		{(1u << 24) | 0xffffff, CS_NUMBER_CIDR, false},
		{2u << 24, CS_NUMBER_NODE, false},
		{(2u << 24) | 0xffffff, CS_NUMBER_NODE, false},
		{3u << 24, CS_NUMBER_NONE, false},
		{UINT32_MAX, CS_NUMBER_NONE, false},
	};
	struct cs_numbers n = made(0, 255);
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(cs_number_kind(rows[i].id), rows[i].kind);
		assert_int_equal(cs_number_authenticates(rows[i].id), rows[i].authenticates);
		assert_int_equal(cs_number_trust_domain(&n, rows[i].id) != NULL, rows[i].authenticates);
	}
	cs_numbers_fini(&n);
}

static void test_names(void **state)
{
	struct cs_numbers n = made(0, 255);
	(void)state;
	assert_string_equal(cs_id_name(1), "host");
	assert_string_equal(cs_id_name(102), "kube-dns");
	assert_string_equal(cs_id_name(115), "cilium-etcd-operator2");
	assert_null(cs_id_name(12));
	assert_null(cs_id_name(116));
	assert_int_equal(cs_number_fixed(&n, "payments"), 128);
	assert_int_equal(cs_number_fixed(&n, "last"), 255);
	assert_int_equal(cs_number_fixed(&n, "host"), 0);
	assert_int_equal(cs_number_fixed(&n, ""), 0);
	cs_numbers_fini(&n);
}

static void check_domain(const struct cs_numbers *n, uint32_t id, const char *domain, const char *word)
{
	struct cs_error e = {0};
	int r = cs_number_check_domain(n, id, domain, &e);
	assert_int_equal(r, word ? -EACCES : 0);
	if (!word)
		return;
	assert_int_equal(e.reason, CS_R_TRUST_DOMAIN_MISMATCH);
	assert_non_null(strstr(e.text, word));
}

static void test_trust_domains(void **state)
{
	struct cs_numbers n = made(1, 255);
	(void)state;
	check_domain(&n, 65536, "example.org", NULL);
	check_domain(&n, 65536, "seven.example", "cluster 1, whose trust domain is example.org");
	check_domain(&n, 7 << 16, "seven.example", NULL);
	check_domain(&n, (8 << 16) - 1, "seven.example", NULL);
	check_domain(&n, 7 << 16, "example.org", "whose trust domain is seven.example");
	check_domain(&n, 8 << 16, "seven.example", "cluster 8, which is not in cluster.trust_domains");
	check_domain(&n, 256, "example.org", "cluster 0"); /* not this one's */
	check_domain(&n, 128, "example.org", NULL);
	check_domain(&n, 128, "seven.example", "example.org");
	check_domain(&n, CS_ID_WORLD, "example.org", "cannot authenticate");
	check_domain(&n, CS_ID_LOCAL_SCOPE | 1, "example.org", "cannot authenticate");
	cs_numbers_fini(&n);
}

static void test_refused(void **state)
{
	static const struct {
		int64_t cluster, clusters;
		const char *domain, *fixed, *word;
	} rows[] = {
		{0, 256, NULL, NULL, "255 or 511"},
		{-1, 255, NULL, NULL, "cluster.id is 0 to 255"},
		{256, 255, NULL, NULL, "cluster.id is 0 to 255"},
		{512, 511, NULL, NULL, "cluster.id is 0 to 511"},
		{0, 255, "other.example", NULL, "NUMBER=NAME"},
		{0, 255, "0=other.example", NULL, "from 1 to 255"},
		{0, 255, "256=other.example", NULL, "from 1 to 255"},
		{0, 255, "02=other.example", NULL, "NUMBER=NAME"},
		{0, 255, "2=", NULL, "NUMBER=NAME"},
		{0, 255, "2=Other", NULL, "cluster.trust_domains"},
		{2, 255, "2=other.example", NULL, "this cluster itself"},
		{0, 255, NULL, "payments", "NUMBER=NAME"},
		{0, 255, NULL, "127=payments", "from 128 to 255"},
		{0, 255, NULL, "256=payments", "from 128 to 255"},
		{0, 255, NULL, "128=", "NUMBER=NAME"},
		{0, 255, NULL, "128=a b", "no name"},
		{0, 255, NULL, "128=a;b", "no name"},
		{0, 255, NULL, "128=world", "reserved identity 2"},
		{0, 255, NULL, "128=kube-dns", "reserved identity 102"},
		{0, 255, NULL, "4294967424=payments", "NUMBER=NAME"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *domain = (char *)rows[i].domain, *fixed = (char *)rows[i].fixed;
		const struct cs_numbers_config config = {.cluster_id = rows[i].cluster,
			.clusters_max = rows[i].clusters,
			.trust_domain = "example.org",
			.domains = {&domain, domain ? 1 : 0},
			.fixed = {&fixed, fixed ? 1 : 0}};
		struct cs_numbers n;
		struct cs_error e = {0};
		assert_int_equal(cs_numbers_init(&n, &config, &e), -EINVAL);
		if (!strstr(e.text, rows[i].word))
			fail_msg("%zu: %s", i, e.text);
	}
}

static void test_twice(void **state)
{
	char *domains[] = {(char *)"2=a.example", (char *)"2=b.example"};
	char *same_number[] = {(char *)"128=a", (char *)"128=b"}, *same_name[] = {(char *)"128=a", (char *)"129=a"};
	struct cs_numbers_config config = {.clusters_max = 255, .trust_domain = "example.org"};
	struct cs_numbers n;
	struct cs_error e;
	(void)state;
	config.domains = (struct cs_strings){domains, 2};
	assert_int_equal(cs_numbers_init(&n, &config, &e), -EINVAL);
	assert_non_null(strstr(e.text, "a.example already"));
	config.domains.n = 1;
	config.fixed = (struct cs_strings){same_number, 2};
	assert_int_equal(cs_numbers_init(&n, &config, &e), -EINVAL);
	assert_non_null(strstr(e.text, "128 has the name 'a' already"));
	config.fixed = (struct cs_strings){same_name, 2};
	assert_int_equal(cs_numbers_init(&n, &config, &e), -EINVAL);
	assert_non_null(strstr(e.text, "'a' is the name of 128 already"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_kinds),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_trust_domains),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_twice),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
