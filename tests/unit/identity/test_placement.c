/* The placement authorities: who says that an identity may run on a node. */
#include "placement.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static const char file[] = "# who runs where\n"
			   "nodes:\n"
			   "  n1:\n"
			   "    addresses: [10.0.0.1, \"fd00::1\"]\n"
			   "placements:\n"
			   "- labels: [k8s:app=web, \"k8s:tier=front\"]\n"
			   "  nodes: [n1, n2]\n"
			   "- labels: [\"container:any=\"]\n"
			   "  nodes: [\"*\"]\n";

static enum cs_reason placed(const struct cs_authority *a, const char *labels, const char *node)
{
	struct cs_labels set = {0};
	struct cs_error e = {0};
	assert_int_equal(cs_labels_parse(labels, strlen(labels), &set, &e), 0);
	int r = cs_authority_places(a, &set, node, &e);
	cs_labels_fini(&set);
	assert_int_equal(r, e.reason == CS_R_NONE ? 0 : -EACCES);
	return r == 0 ? CS_R_NONE : e.reason;
}

static void test_static(void **state)
{
	(void)state;
	struct cs_authority *a;
	struct cs_error e = {0};
	if (cs_authority_parse("p.yaml", file, strlen(file), &a, &e) < 0)
		fail_msg("%s", e.text);
	assert_string_equal(cs_authority_name(a), "static");
	assert_int_equal(placed(a, "k8s:app=web;k8s:tier=front", "n1"), CS_R_NONE);
	assert_int_equal(placed(a, "k8s:app=web;k8s:tier=front;k8s:more=1", "n2"), CS_R_NONE);
	assert_int_equal(placed(a, "k8s:app=web;k8s:tier=front", "n3"), CS_R_PLACEMENT_REFUSED);
	assert_int_equal(placed(a, "k8s:app=web", "n1"), CS_R_PLACEMENT_REFUSED);                      /* not all */
	assert_int_equal(placed(a, "k8s:app=web;k8s:tier=back", "n1"), CS_R_PLACEMENT_REFUSED);        /* value */
	assert_int_equal(placed(a, "container:app=web;k8s:tier=front", "n1"), CS_R_PLACEMENT_REFUSED); /* source */
	assert_int_equal(placed(a, "container:any=", "whoever"), CS_R_NONE);
	struct cs_ip ips[2] = {{0}};
	assert_int_equal(cs_ip_parse("fd00::1", &ips[0], &e), 0);
	assert_int_equal(cs_ip_parse("10.0.0.2", &ips[1], &e), 0);
	assert_int_equal(cs_authority_addresses(a, "n1", ips, 1, &e), 0);
	assert_int_equal(cs_authority_addresses(a, "n1", ips, 2, &e), -EACCES);
	assert_int_equal(e.reason, CS_R_PLACEMENT_REFUSED);
	assert_non_null(strstr(e.text, "10.0.0.2"));
	assert_int_equal(cs_authority_addresses(a, "n2", ips, 2, &e), 0); /* not listed */
	cs_authority_free(a);
}

static void test_self_and_empty(void **state)
{
	(void)state;
	struct cs_authority *a = cs_authority_self();
	assert_string_equal(cs_authority_name(a), "self");
	assert_int_equal(placed(a, "k8s:app=web", "n1"), CS_R_NONE);
	cs_authority_free(a);
	/* An empty file places nothing. */
	struct cs_error e;
	assert_int_equal(cs_authority_parse("p.yaml", "# nothing\n", 10, &a, &e), 0);
	assert_int_equal(placed(a, "k8s:app=web", "n1"), CS_R_PLACEMENT_REFUSED);
	cs_authority_free(a);
}

static void test_wrong_files(void **state)
{
	(void)state;
	static const struct {
		const char *text, *word;
	} cases[] = {
		{"placement: []\n", "p.yaml:1: unknown key 'placement'"},
		{"- a\n", "must be a mapping"},
		{"nodes: [n1]\n", "p.yaml:1: nodes: must be a mapping"},
		{"placements: {}\n", "placements: must be a list"},
		{"nodes:\n  n1:\n    address: [10.0.0.1]\n", "p.yaml:3: unknown key 'address'"},
		{"nodes:\n  n1: {}\n", "addresses: must be a list"},
		{"nodes:\n  n1:\n    addresses: []\n", "at least one"},
		{"nodes:\n  n1:\n    addresses: [10.0.0.300]\n", "p.yaml:3: '10.0.0.300' is not"},
		{"nodes:\n  n1:\n    addresses: "
		 "[1.0.0.1,1.0.0.2,1.0.0.3,1.0.0.4,1.0.0.5,1.0.0.6,1.0.0.7,1.0.0.8,1.0.0.9]\n",
			"at most 8"},
		{"placements:\n- labels: [k8s:a=b]\n", "nodes: must be a list"},
		{"placements:\n- nodes: [n1]\n", "labels: must be a list"},
		{"placements:\n- labels: []\n  nodes: [n1]\n", "labels: must be a list"},
		{"placements:\n- labels: [[a]]\n  nodes: [n1]\n", "must be text"},
		{"placements:\n- labels: [\"k8s:a;b=c\"]\n  nodes: [n1]\n", "p.yaml:2:"},
		{"placements:\n- labels: [k8s:a=b, k8s:a=c]\n  nodes: [n1]\n", "p.yaml:2:"},
		{"nodes: {}\n---\nnodes: {}\n", "one document"},
		{"nodes: {\n", "p.yaml:"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_authority *a = NULL;
		struct cs_error e = {0};
		assert_true(cs_authority_parse("p.yaml", cases[i].text, strlen(cases[i].text), &a, &e) < 0);
		assert_null(a);
		if (!strstr(e.text, cases[i].word))
			fail_msg("'%s' is not in '%s'", cases[i].word, e.text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_static),
		cmocka_unit_test(test_self_and_empty),
		cmocka_unit_test(test_wrong_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
