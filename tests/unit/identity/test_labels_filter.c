#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "labels_filter.h"

#define RULES_MAX 4

struct row {
	bool defaults;
	const char *rules[RULES_MAX]; /* the configuration's */
	const char *label;
	bool takes;
};

static struct cs_label_filter *make(bool defaults, const char *const *rules)
{
	struct cs_strings list = {.items = (char **)rules};
	struct cs_label_filter *f;
	struct cs_error e = {0};
	while (list.n < RULES_MAX && rules[list.n])
		list.n++;
	if (cs_label_filter_new(defaults, &list, &f, &e) < 0)
		fail_msg("%s", e.text);
	return f;
}

/* What Cilium's own documentation of the filter says of each. */
static const struct row rows[] = {
	/* without configuration: everything but what only makes identities multiply */
	{true, {0}, "k8s:app=web", true},
	{true, {0}, "container:app=web", true},
	{true, {0}, "k8s:io.cilium.k8s.policy.serviceaccount=web", true},
	{true, {0}, "k8s:io.cilium.k8s.policy.cluster=c1", true},
	{true, {0}, "k8s:io.kubernetes.pod.namespace=shop", true},
	{true, {0}, "k8s:io.kubernetes.pod.name=web-1", false},
	{true, {0}, "k8s:io.cilium.k8s.namespace.labels.team=a", true},
	{true, {0}, "k8s:app.kubernetes.io/name=web", true},
	{true, {0}, "k8s:kubernetes.io/os=linux", false},
	{true, {0}, "k8s:k8s.io/x=1", false},
	{true, {0}, "k8s:beta.kubernetes.io/arch=amd64", false},
	{true, {0}, "k8s:failure-domain.beta.kubernetes.io/zone=a", false},
	{true, {0}, "k8s:statefulset.kubernetes.io/pod-name=db-0", false},
	{true, {0}, "k8s:apps.kubernetes.io/pod-index=0", false},
	{true, {0}, "k8s:batch.kubernetes.io/job-completion-index=3", false},
	{true, {0}, "k8s:pod-template-hash=7d4b", false},
	{true, {0}, "k8s:pod-template-generation=1", false},
	{true, {0}, "k8s:controller-revision-hash=1", false},
	{true, {0}, "k8s:annotation.x=1", false},
	{true, {0}, "k8s:etcd_node=1", false},
	{true, {0}, "k8s:my.kubernetes.io/x=1", true}, /* a rule matches from the first character on */
	{true, {0}, "k8s:xpod-template-hash=7d4b", true},
	{true, {0}, "k8s:applet=1", true},
	/* one include rule of the configuration: only what is included */
	{true, {"k8s:role"}, "k8s:role=db", true},
	{true, {"k8s:role"}, "k8s:role-x=db", true}, /* a prefix */
	{true, {"k8s:role"}, "container:role=db", false},
	{true, {"k8s:role"}, "k8s:app=web", false},
	{true, {"k8s:role"}, "k8s:io.kubernetes.pod.namespace=shop", true},
	{true, {"k8s:role"}, "k8s:app.kubernetes.io/name=web", true},
	{true, {"role$"}, "k8s:role-x=db", false},
	{true, {"role$"}, "k8s:role=db", true},
	/* ignore rules of the configuration: what they name, and nothing else */
	{true, {"!role"}, "k8s:role=db", false},
	{true, {"!role"}, "k8s:app=web", true},
	{true, {"k8s:!role"}, "container:role=db", true},
	{true, {"k8s:!role"}, "k8s:role=db", false},
	{true, {"!app\\.kubernetes"}, "k8s:app.kubernetes.io/name=web", true},          /* 17 > 14 */
	{true, {"!app\\.kubernetes\\.io/v"}, "k8s:app.kubernetes.io/version=1", false}, /* 17 < 20 */
	/* longest include against shortest ignore */
	{false, {"a", "!ab"}, "k8s:ab=1", false},
	{false, {"abc", "!ab"}, "k8s:abc=1", true},
	{false, {"abc", "!ab"}, "k8s:abd=1", false},
	{false, {"ab", "!ab"}, "k8s:ab=1", false},
	{false, {"a", "abc", "!ab", "!abcd"}, "k8s:abcd=1", true},
	{false, {"!a.*", "abc"}, "k8s:abc=1", false}, /* .* matches all of it */
	{false, {"[a-c]+$", "!ab"}, "k8s:abcab=1", true},
	{false, {"(x|y)z"}, "k8s:yz=1", true},
	{false, {"(x|y)z"}, "k8s:ayz=1", false},
	{false, {"a\\.b"}, "k8s:axb=1", false},
	{false, {"a.b"}, "k8s:axb=1", true},
	{false, {"ab*"}, "k8s:a=1", true},
	/* without defaults and rules: everything */
	{false, {0}, "k8s:pod-template-hash=7d4b", true},
	{false, {"!.*"}, "k8s:app=web", false},
};

static void test_takes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct cs_label_filter *f = make(rows[i].defaults, rows[i].rules);
		struct cs_labels labels;
		struct cs_error e = {0};
		assert_int_equal(cs_labels_parse(rows[i].label, strlen(rows[i].label), &labels, &e), 0);
		if (cs_label_filter_takes(f, &labels.items[0]) != rows[i].takes)
			fail_msg("row %zu: %s with %s", i, rows[i].label, rows[i].rules[0] ? rows[i].rules[0] : "");
		cs_labels_fini(&labels);
		cs_label_filter_free(f);
	}
}

static void test_refused(void **state)
{
	static const struct {
		const char *rule, *word;
	} bad[] = {
		{"", "pattern is empty"},
		{"!", "pattern is empty"},
		{"k8s:", "pattern is empty"},
		{"docker:x", "'docker' is no source"},
		{"any:x", "'any' is no source"},
		{"a[", "'a['"},
		{"a(", "'a('"},
		{"*a", "'*a'"},
		{"\\d+", "\\d is not known here"},
		{"(a)\\1", "\\1 is not known here"},
		{"a\\", "backslash"},
		{"(?i)a", "(? is not known"},
		{"a b", "0x20"},
		{"\xc3\xa4", "0xc3"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *rule = (char *)bad[i].rule;
		const struct cs_strings rules = {.items = &rule, .n = 1};
		struct cs_label_filter *f;
		struct cs_error e = {0};
		assert_int_equal(cs_label_filter_new(true, &rules, &f, &e), -EINVAL);
		if (!strstr(e.text, bad[i].word))
			fail_msg("%s: %s", bad[i].rule, e.text);
	}
}

static struct cs_numbers numbers(void)
{
	char *fixed[] = {(char *)"128=payments"};
	const struct cs_numbers_config config = {
		.clusters_max = 255, .trust_domain = "example.org", .fixed = {fixed, 1}};
	struct cs_numbers n;
	struct cs_error e;
	assert_int_equal(cs_numbers_init(&n, &config, &e), 0);
	return n;
}

/* The identity's text, its number, and whether a node recognises it; NULL: refused with labels-invalid. */
static void check_identity(const char *labels, const char *identity, uint32_t fixed)
{
	struct cs_numbers n = numbers();
	struct cs_label_filter *f = make(true, (const char *const[RULES_MAX]){0});
	struct cs_labels in, out;
	struct cs_error e = {0};
	uint32_t number = 1;
	assert_int_equal(cs_labels_parse(labels, strlen(labels), &in, &e), 0);
	int r = cs_identity_labels(f, &n, &in, &out, &number, &e);
	if (!identity) {
		assert_int_equal(r, -EINVAL);
		assert_int_equal(e.reason, CS_R_LABELS_INVALID);
	} else {
		assert_int_equal(r, 0);
		char *text = cs_labels_format(&out);
		assert_string_equal(text, identity);
		assert_int_equal(number, fixed);
		assert_true(cs_identity_labels_of(&out, &in));
		free(text);
		cs_labels_fini(&out);
	}
	cs_labels_fini(&in);
	cs_label_filter_free(f);
	cs_numbers_fini(&n);
}

static void test_identity(void **state)
{
	(void)state;
	check_identity("k8s:app=web;k8s:pod-template-hash=1", "k8s:app=web;", 0);
	check_identity("k8s:pod-template-hash=2;k8s:app=web", "k8s:app=web;", 0);
	check_identity("k8s:pod-template-hash=2", NULL, 0);
	check_identity("k8s:app=web;k8s:io.cilium.fixed-identity=payments", "reserved:payments=;", 128);
	check_identity("k8s:app=web;k8s:io.cilium.fixed-identity=orders", NULL, 0);
	check_identity("k8s:io.cilium.fixed-identity=", NULL, 0);
	check_identity("k8s:io.cilium.fixed-identity=world", NULL, 0); /* reserved, but not user-reserved */
}

static void check_of(const char *identity, const char *labels, bool is)
{
	struct cs_labels a, b;
	struct cs_error e;
	assert_int_equal(cs_labels_parse(identity, strlen(identity), &a, &e), 0);
	assert_int_equal(cs_labels_parse(labels, strlen(labels), &b, &e), 0);
	assert_int_equal(cs_identity_labels_of(&a, &b), is);
	cs_labels_fini(&a);
	cs_labels_fini(&b);
}

static void test_recognised(void **state)
{
	(void)state;
	check_of("k8s:app=web", "k8s:app=web;k8s:x=1", true);
	check_of("k8s:app=web;k8s:x=1", "k8s:app=web", false);
	check_of("k8s:app=web", "k8s:app=db", false);
	check_of("k8s:app=web", "container:app=web", false);
	check_of("", "k8s:app=web", false);
	check_of("reserved:payments", "k8s:io.cilium.fixed-identity=payments", true);
	check_of("reserved:payments", "k8s:io.cilium.fixed-identity=orders", false);
	check_of("k8s:app=web", "k8s:app=web;k8s:io.cilium.fixed-identity=payments", false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_takes),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_recognised),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
