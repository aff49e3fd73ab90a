#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "policy_yaml.h"
#include "yaml_tree.h"

#define HEAD                                                                                                           \
	"apiVersion: cilium.io/v2\n"                                                                                   \
	"kind: CiliumNetworkPolicy\n"                                                                                  \
	"metadata:\n"                                                                                                  \
	"  name: p\n"                                                                                                  \
	"  namespace: prod\n"
#define SPEC HEAD "spec:\n  endpointSelector: {}\n"

static int parse(const char *text, struct cs_cnp_set *set, struct cs_error *e)
{
	return cs_policy_yaml_parse("t.yaml", text, strlen(text), set, e);
}

/* Everything that is read, in one policy. */
static const char whole[] = "# a comment first\n"
			    "apiVersion: cilium.io/v2\n"
			    "kind: CiliumNetworkPolicy\n"
			    "metadata:\n"
			    "  name: web.v1\n"
			    "  namespace: prod\n"
			    "  labels: {team: a}\n"
			    "  annotations: {note: [anything, 1]}\n"
			    "spec:\n"
			    "  description: what a person wrote\n"
			    "  endpointSelector:\n"
			    "    matchLabels: {app: web, 'k8s:tier': \"1\"}\n"
			    "  ingress:\n"
			    "  - fromEndpoints:\n"
			    "    - matchLabels: {any:app: frontend}\n"
			    "    - matchExpressions:\n"
			    "      - {key: app, operator: In, values: [b, a, b]}\n"
			    "      - {key: 'container:x', operator: NotIn, values: [\"\"]}\n"
			    "      - {key: debug, operator: DoesNotExist}\n"
			    "      - {key: k8s:io.kubernetes.pod.namespace, operator: Exists}\n"
			    "    authentication: {mode: required}\n"
			    "    toPorts:\n"
			    "    - ports:\n"
			    "      - {port: '80', protocol: TCP}\n"
			    "      - {port: 8000, endPort: 8010}\n"
			    "      rules: {http: [{method: GET}]}\n"
			    "  - fromEntities: [cluster, world]\n"
			    "    authentication: {mode: disabled}\n"
			    "  ingressDeny:\n"
			    "  - fromCIDRSet:\n"
			    "    - cidr: 10.0.0.0/8\n"
			    "      except: [10.1.0.0/16, 10.2.3.4]\n"
			    "  egress:\n"
			    "  - toCIDR: ['2001:db8::/32', 192.0.2.1]\n"
			    "  - toEntities: [host, remote-node]\n"
			    "  - toEndpoints: [{}]\n"
			    "    authentication: {mode: test-always-fail}\n"
			    "  egressDeny: []\n"
			    "---\n"
			    "---\n"
			    "apiVersion: cilium.io/v2\n"
			    "kind: CiliumNetworkPolicy\n"
			    "metadata: {name: second}\n"
			    "specs:\n"
			    "- {endpointSelector: {}, ingress: [{}]}\n"
			    "- {endpointSelector: {}, egress: [{}, {toPorts: [{ports: [{port: \"53\"}]}]}]}\n";

static void check_text(const struct cs_selector *s, const char *expected)
{
	char text[512];
	cs_selector_format(s, text, sizeof(text));
	assert_string_equal(text, expected);
}

static void check_prefix(const struct cs_prefix *p, const char *expected)
{
	char text[CS_PREFIX_TEXT];
	cs_prefix_format(p, text);
	assert_string_equal(text, expected);
}

static void every_field_is_read(void **state)
{
	(void)state;
	struct cs_cnp_set set = {0};
	struct cs_error e = {0};
	if (parse(whole, &set, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(set.n, 2);
	const struct cs_cnp *p = cs_cnp_set_get(&set, "prod/web.v1");
	assert_non_null(p);
	assert_string_equal(p->file, "t.yaml");
	assert_int_equal(p->line, 2);
	assert_int_equal(p->nspecs, 1);
	const struct cs_spec *s = &p->specs[0];
	check_text(&s->subject, "app=web, k8s:io.kubernetes.pod.namespace=prod, k8s:tier=1");
	assert_true(s->selects[CS_INGRESS] && s->selects[CS_EGRESS]);
	assert_int_equal(s->nrules, 6);

	const struct cs_rule *r = &s->rules[0];
	assert_string_equal(r->name, "ingress[0]");
	assert_int_equal(r->line, 14);
	assert_int_equal(r->auth, CS_AUTH_REQUIRED);
	assert_int_equal(r->entities, 0);
	assert_int_equal(r->nselectors, 2);
	check_text(&r->selectors[0], "app=frontend, k8s:io.kubernetes.pod.namespace=prod");
	check_text(&r->selectors[1], "app in (a, b), !debug, k8s:io.kubernetes.pod.namespace, container:x not in ()");
	assert_string_equal(r->ports, "80/TCP, 8000-8010/ANY (http)");

	r = &s->rules[1];
	assert_string_equal(r->name, "ingress[1]");
	assert_int_equal(r->auth, CS_AUTH_DISABLED);
	assert_int_equal(r->entities, CS_ENTITY_ALL);
	assert_null(r->ports);

	r = &s->rules[2];
	assert_string_equal(r->name, "ingressDeny[0]");
	assert_true(r->deny);
	assert_int_equal(r->ncidrs, 1);
	check_prefix(&r->cidrs[0].prefix, "10.0.0.0/8");
	assert_int_equal(r->cidrs[0].nexcept, 2);
	check_prefix(&r->cidrs[0].except[1], "10.2.3.4/32");

	r = &s->rules[3];
	assert_string_equal(r->name, "egress[0]");
	assert_int_equal(r->dir, CS_EGRESS);
	assert_int_equal(r->ncidrs, 2);
	check_prefix(&r->cidrs[0].prefix, "2001:db8::/32");
	check_prefix(&r->cidrs[1].prefix, "192.0.2.1/32");
	assert_int_equal(s->rules[4].entities, CS_ENTITY_HOST | CS_ENTITY_REMOTE_NODE);
	r = &s->rules[5];
	assert_int_equal(r->auth, CS_AUTH_ALWAYS_FAIL);
	check_text(&r->selectors[0], "k8s:io.kubernetes.pod.namespace=prod");

	p = cs_cnp_set_get(&set, "default/second");
	assert_non_null(p);
	assert_int_equal(p->nspecs, 2);
	assert_true(p->specs[0].selects[CS_INGRESS]);
	assert_false(p->specs[0].selects[CS_EGRESS]);
	r = &p->specs[0].rules[0]; /* {}: means nobody */
	assert_string_equal(r->name, "specs[0].ingress[0]");
	assert_int_equal(r->entities | r->nselectors | r->ncidrs, 0);
	r = &p->specs[1].rules[1]; /* ports of nobody in particular: everybody's */
	assert_string_equal(r->name, "specs[1].egress[1]");
	assert_int_equal(r->entities, CS_ENTITY_ALL);
	assert_string_equal(r->ports, "53/ANY");
	cs_cnp_set_fini(&set);
}

/* What follows SPEC (its first line is 8), and what the error must contain; NULL: no error. */
static const struct {
	const char *text, *error;
} after_spec[] = {
	{"  ingress: []\n", NULL},
	{"  ingressDeny: []\n", NULL},
	{"", "t.yaml:6: neither ingress"},
	{"  ingress:\n", "t.yaml:8: 'ingress' must be a list, not nothing; write []"},
	{"  ingress: {}\n", "t.yaml:8: 'ingress' must be a list, not a mapping"},
	{"  ingress:\n  -\n", "must be a mapping, not nothing; write {}"},
	{"  ingres: []\n", "t.yaml:8: unknown field 'ingres'; is 'ingress' meant?"},
	{"  ingress: []\n  ingress: []\n", "t.yaml:9: 'ingress' is given twice, first in line 8"},
	{"  ingress: []\n  foo: 1\n", "t.yaml:9: unknown field 'foo'; known here are description, endpointSelector"},
	{"  ingress: []\n  enableDefaultDeny: {}\n", "t.yaml:9: field 'enableDefaultDeny' is one of Cilium's"},
	{"  egress:\n  - toFQDNs: []\n", "t.yaml:9: field 'toFQDNs' is one of Cilium's"},
	{"  ingress:\n  - toEndpoints: []\n", "t.yaml:9: unknown field 'toEndpoints'; is 'fromEndpoints' meant?"},
	{"  egress:\n  - fromCIDR: []\n", "t.yaml:9: unknown field 'fromCIDR'; is 'toCIDR' meant?"},
	{"  ingressDeny:\n  - authentication: {mode: required}\n", "t.yaml:9: unknown field 'authentication'"},
	{"  ingress:\n  - authentication: {}\n", "t.yaml:9: field 'mode' is missing"},
	{"  ingress:\n  - authentication: {mode: require}\n", "t.yaml:9: authentication mode 'require' is not known"},
	{"  ingress:\n  - authentication: {mode: yes}\n", "'mode' must be text, not true or false"},
	{"  ingress:\n  - fromEntities: [kube-apiserver]\n", "t.yaml:9: entity 'kube-apiserver' is not known"},
	{"  ingress:\n  - fromEntities: all\n", "'fromEntities' must be a list, not text"},
	{"  ingress:\n  - fromEntities: []\n", NULL},
	{"  ingress:\n  - fromEntities: [all]\n    fromEndpoints: [{}]\n",
		"'fromEndpoints' and 'fromEntities' in one rule; write two"},
	{"  ingress:\n  - fromCIDR: [1.2.3.4]\n    fromCIDRSet: [{cidr: 1.2.3.4}]\n", "in one rule; write two"},
	{"  ingress:\n  - fromCIDR: [1.2.3.4]\n    fromCIDRSet: []\n", NULL},
	{"  ingress:\n  - fromCIDR: [10.0.0.1/8]\n",
		"t.yaml:9: '10.0.0.1/8' has bits set after its length; is 10.0.0.0/8"},
	{"  ingress:\n  - fromCIDR: [10.0.0.0/33]\n", "must be 0 to 32"},
	{"  ingress:\n  - fromCIDR: ['2001:db8::/129']\n", "must be 0 to 128"},
	{"  ingress:\n  - fromCIDR: [10.0.0.0/]\n", "must be 0 to 32"},
	{"  ingress:\n  - fromCIDR: [10.0.0.0/08]\n", "must be 0 to 32"},
	{"  ingress:\n  - fromCIDR: [10.0.0/8]\n", "is not a CIDR like"},
	{"  ingress:\n  - fromCIDR: ['::ffff:10.0.0.0/104']\n", "write it as IPv4"},
	{"  ingress:\n  - fromCIDR: [0.0.0.0/0, '::/0']\n", NULL},
	{"  ingress:\n  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]\n",
		"except '11.0.0.0/16' is not inside 10.0.0.0/8"},
	{"  ingress:\n  - fromCIDRSet: [{cidr: 10.0.0.0/8, except: [0.0.0.0/0]}]\n", "is not inside"},
	{"  ingress:\n  - fromCIDRSet: [{except: []}]\n", "field 'cidr' is missing"},
	{"  ingress:\n  - fromCIDRSet: [{cidrGroupRef: x}]\n", "one of Cilium's"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {a: 1}}]\n",
		"'a' must be text, not a number; put it into quotes"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {a: }}]\n", "'a' must be text, not nothing; write \"\""},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {a: ''}}]\n", NULL},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {a: 'x;y'}}]\n", "printable ASCII without ';'"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {'a b': x}}]\n", "label key has character 0x20"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {'docker:a': x}}]\n", "label source 'docker'"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {'reserved:host': ''}}]\n", "use fromEntities"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {'reserved:kube-dns': ''}}]\n", "use fromEntities"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {'reserved:all': ''}}]\n", "use fromEntities"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: {'cidr:10.0.0.0/8': ''}}]\n", "use fromCIDR"},
	{"  ingress:\n  - fromEndpoints: [{matchLabels: []}]\n", "'matchLabels' must be a mapping"},
	{"  ingress:\n  - fromEndpoints: [{matchExpression: []}]\n", "is 'matchExpressions' meant?"},
	{"  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: a, operator: In}]}]\n", "operator In needs values"},
	{"  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: a, operator: NotIn, values: []}]}]\n",
		"needs values"},
	{"  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: a, operator: Exists, values: [x]}]}]\n",
		"operator Exists takes no values"},
	{"  ingress:\n  - fromEndpoints: [{matchExpressions: [{key: a, operator: exists}]}]\n",
		"operator 'exists' is not known"},
	{"  ingress:\n  - fromEndpoints: [{matchExpressions: [{operator: Exists}]}]\n", "field 'key' is missing"},
	{"  ingress:\n  - toPorts: [{}]\n", "field 'ports' is missing"},
	{"  ingress:\n  - toPorts: [{ports: []}]\n", "'ports' is empty"},
	{"  ingress:\n  - toPorts: [{ports: [{port: '65536'}]}]\n", "is more than 65535"},
	{"  ingress:\n  - toPorts: [{ports: [{port: -1}]}]\n", "must be a number from 0 to 65535"},
	{"  ingress:\n  - toPorts: [{ports: [{port: http, protocol: TCP}]}]\n", NULL},
	{"  ingress:\n  - toPorts: [{ports: [{port: http, endPort: 3}]}]\n", "endPort 3 needs a port"},
	{"  ingress:\n  - toPorts: [{ports: [{port: '9', endPort: 3}]}]\n", "not above it"},
	{"  ingress:\n  - toPorts: [{ports: [{port: '9', protocol: TCPP}]}]\n", "protocol 'TCPP' is not known"},
	{"  ingress:\n  - toPorts: [{ports: [{port: '9'}], rules: {htp: []}}]\n", "is 'http' meant?"},
	{"  ingress:\n  - toPorts: [{ports: [{port: '9'}], serverNames: []}]\n", "one of Cilium's"},
	{"  ingress: &a []\n", "t.yaml:8: YAML anchors"},
	{"  ingress: *a\n", "YAML aliases"},
	{"  ingress: !!seq []\n", "YAML tags"},
	{"  ingress: [\n", "not YAML"},
	{"  ingress: \"a\\0b\"\n", "NUL byte"},
	{"  ? [a]\n  : b\n", "a key must be text"},
	{"  ingress: [[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]\n", "nested deeper than 24"},
};

/* Whole documents. */
static const struct {
	const char *text, *error;
} documents[] = {
	{"", NULL},
	{"# nothing\n", NULL},
	{"---\n---\n...\n", NULL},
	{"a\n", "t.yaml:1: this must be a mapping, not text"},
	{"- a\n", "must be a mapping, not a list"},
	{"kind: CiliumNetworkPolicy\n", "field 'apiVersion' is missing"},
	{"apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\n",
		"t.yaml:2: kind is 'CiliumClusterwideNetworkPolicy'; only 'CiliumNetworkPolicy' is read"},
	{"apiVersion: cilium.io/v2alpha1\nkind: CiliumNetworkPolicy\n", "only 'cilium.io/v2' is read"},
	{"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nspec: {}\n", "field 'metadata' is missing"},
	{"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {}\nspec: {}\n", "field 'name' is missing"},
	{"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: A}\n", "is not a name of Kubernetes"},
	{"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: a.b}\n",
		"is not a name of Kubernetes"},
	{"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: 5}\n", "put it into quotes"},
	{HEAD, "neither `spec` nor `specs`"},
	{HEAD "specs: []\n", "neither `spec` nor `specs`"},
	{HEAD "status: {}\n", "field 'status' is one of Cilium's"},
	{HEAD "spec:\n", "'spec' must be a mapping, not nothing"},
	{HEAD "spec: {ingress: []}\n", "field 'endpointSelector' is missing"},
	{HEAD "spec: {endpointSelector: , ingress: []}\n", "'endpointSelector' must be a mapping, not nothing"},
	{HEAD "spec: {endpointSelector: {}, nodeSelector: {}, ingress: []}\n", "one of Cilium's"},
	{HEAD "spec: {endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: dev}}, ingress: []}\n",
		"asks for namespace 'dev', but it always applies in the policy's own, 'prod'"},
	{HEAD "spec: {endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: prod}}, ingress: []}\n", NULL},
	{HEAD "spec: {endpointSelector: {}, ingress: []}\n---\n" HEAD "spec: {endpointSelector: {}, ingress: []}\n",
		"t.yaml:8: policy 'prod/p' is already in t.yaml:1; rename one"},
	{"\xff\xfe\xff", "not YAML"},
};

static void check_error(const char *text, const char *error)
{
	struct cs_cnp_set set = {0};
	struct cs_error e = {0};
	int r = parse(text, &set, &e);
	if (!error) {
		if (r < 0)
			fail_msg("%s\nrefused: %s", text, e.text);
	} else {
		if (r >= 0)
			fail_msg("%s\nwas taken, expected: %s", text, error);
		if (!strstr(e.text, error) || strncmp(e.text, "t.yaml", 6) != 0)
			fail_msg("%s\nsays: %s\nexpected: %s", text, e.text, error);
		assert_int_equal(set.n, 0);
	}
	cs_cnp_set_fini(&set);
}

static void errors_name_file_line_and_way_out(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(after_spec) / sizeof(after_spec[0]); i++) {
		char text[2048];
		snprintf(text, sizeof(text), SPEC "%s", after_spec[i].text);
		check_error(text, after_spec[i].error);
	}
	for (size_t i = 0; i < sizeof(documents) / sizeof(documents[0]); i++)
		check_error(documents[i].text, documents[i].error);
}

/* text is `before`, then n times `each`, then `after`. */
static char *repeat(const char *before, const char *each, size_t n, const char *after)
{
	size_t one = strlen(each);
	char *text = malloc(strlen(before) + n * one + strlen(after) + 1), *p = stpcpy(text, before);
	for (size_t i = 0; i < n; i++, p += one)
		memcpy(p, each, one);
	strcpy(p, after);
	return text;
}

static void limits(void **state)
{
	(void)state;
	static const struct {
		const char *before, *each, *after, *error;
		size_t n; /* one more than is allowed */
	} cases[] = {
		{SPEC "  ingress: [", "{},", "{}]\n", "more than 1024 rules", CS_POLICY_RULES_MAX},
		{SPEC "  ingress: [{fromCIDR: [", "1.1.1.1,", "1.1.1.1]}]\n", "more than 4096 elements",
			CS_YAML_LIST_MAX},
		{SPEC "  ingress: []\n  description: ", "x", "\n", "text of 4097 bytes", CS_YAML_SCALAR_MAX + 1},
		{"", "---\n~\n", "", "more than 1024 documents", CS_YAML_DOCUMENTS_MAX + 1},
		{"[", "[x],", "[x]]", "more than 4096 elements", CS_YAML_LIST_MAX},
		{"",
			"---\n[a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,"
			"a,"
			"a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a]\n",
			"", "more than 65536 values", 1000},
		{"# ", "x", "\n", "bytes, more than 1048576", CS_YAML_FILE_MAX - 2},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *text = repeat(cases[i].before, cases[i].each, cases[i].n, cases[i].after);
		check_error(text, cases[i].error);
		free(text);
	}
	/* Negative twin: exactly the limit. */
	char *text = repeat(SPEC "  ingress: [", "{},", CS_POLICY_RULES_MAX - 1, "{}]\n");
	check_error(text, NULL);
	free(text);
	text = repeat("# ", "x", CS_YAML_FILE_MAX - 3, "\n");
	check_error(text, NULL);
	free(text);
}

static void a_file_is_taken_whole_or_not_at_all(void **state)
{
	(void)state;
	struct cs_cnp_set set = {0};
	struct cs_error e;
	assert_int_equal(parse(SPEC "  ingress: []\n", &set, &e), 0);
	const char *second = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\n"
			     "spec: {endpointSelector: {}, ingress: []}\n---\n" SPEC "  ingress: []\n";
	assert_int_equal(cs_policy_yaml_parse("u.yaml", second, strlen(second), &set, &e), -EEXIST);
	assert_string_equal(e.text, "u.yaml:6: policy 'prod/p' is already in t.yaml:1; rename one");
	assert_int_equal(set.n, 1);
	cs_cnp_set_fini(&set);
}

static void selectors_match(void **state)
{
	(void)state;
	static const struct {
		const char *selector, *labels;
		int match;
	} cases[] = {
		{"{}", "k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{}", "k8s:io.kubernetes.pod.namespace=dev", 0},
		{"{}", "k8s:app=web", 0}, /* in namespace default */
		{"{}", "container:io.kubernetes.pod.namespace=prod", 0},
		{"{matchLabels: {io.kubernetes.pod.namespace: dev}}", "k8s:io.kubernetes.pod.namespace=dev", 1},
		{"{matchLabels: {io.kubernetes.pod.namespace: default}}", "k8s:app=web", 1},
		{"{matchLabels: {k8s:io.kubernetes.pod.namespace: dev}}", "k8s:io.kubernetes.pod.namespace=prod", 0},
		{"{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: Exists}]}", "k8s:app=web", 1},
		{"{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: DoesNotExist}]}", "k8s:app=web", 0},
		{"{matchLabels: {io.cilium.k8s.namespace.labels.team: a}}",
			"k8s:io.kubernetes.pod.namespace=dev;k8s:io.cilium.k8s.namespace.labels.team=a", 1},
		{"{matchLabels: {app: web}}", "k8s:app=web;k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{matchLabels: {app: web}}", "container:app=web;k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{matchLabels: {any:app: web}}", "container:app=web;k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{matchLabels: {k8s:app: web}}", "container:app=web;k8s:io.kubernetes.pod.namespace=prod", 0},
		{"{matchLabels: {app: web}}", "k8s:app=webb;k8s:io.kubernetes.pod.namespace=prod", 0},
		{"{matchLabels: {app: web, a: b}}", "k8s:app=web;k8s:io.kubernetes.pod.namespace=prod", 0},
		{"{matchExpressions: [{key: app, operator: In, values: [c, a, b]}]}",
			"k8s:app=b;k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{matchExpressions: [{key: app, operator: In, values: [c, a]}]}",
			"k8s:app=b;k8s:io.kubernetes.pod.namespace=prod", 0},
		{"{matchExpressions: [{key: app, operator: NotIn, values: [c, a]}]}",
			"k8s:app=b;k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{matchExpressions: [{key: app, operator: NotIn, values: [b]}]}",
			"k8s:app=b;k8s:io.kubernetes.pod.namespace=prod", 0},
		{"{matchExpressions: [{key: app, operator: NotIn, values: [b]}]}",
			"k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{matchExpressions: [{key: k8s:app, operator: NotIn, values: [b]}]}",
			"container:app=b;k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{matchExpressions: [{key: app, operator: Exists}]}", "app;k8s:io.kubernetes.pod.namespace=prod", 1},
		{"{matchExpressions: [{key: app, operator: DoesNotExist}]}", "app;k8s:io.kubernetes.pod.namespace=prod",
			0},
		{"{matchExpressions: [{key: app, operator: DoesNotExist}]}", "k8s:io.kubernetes.pod.namespace=prod", 1},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[1024];
		struct cs_cnp_set set = {0};
		struct cs_labels labels = {0};
		struct cs_error e = {0};
		snprintf(text, sizeof(text), SPEC "  ingress: [{fromEndpoints: [%s]}]\n", cases[i].selector);
		if (parse(text, &set, &e) < 0 ||
			cs_labels_parse(cases[i].labels, strlen(cases[i].labels), &labels, &e) < 0)
			fail_msg("%s", e.text);
		if (cs_selector_match(&set.items[0]->specs[0].rules[0].selectors[0], &labels) != cases[i].match)
			fail_msg("%s and %s", cases[i].selector, cases[i].labels);
		cs_cnp_set_fini(&set);
		cs_labels_fini(&labels);
	}
}

static void ports_that_narrow_nothing(void **state)
{
	(void)state;
	static const struct {
		const char *ports, *text;
	} cases[] = {
		{"[{ports: [{port: '0', protocol: ANY}]}]", NULL},
		{"[{ports: [{port: 0}]}, {ports: [{port: 80}]}]", NULL},
		{"[]", NULL},
		{"[{ports: [{port: 0, protocol: tcp}]}]", "any port/TCP"},
		{"[{ports: [{port: 0}], rules: {dns: []}}]", "any port/ANY (dns)"},
		{"[{ports: [{port: 0}], rules: {}}]", NULL},
		{"[{ports: [{port: dns, protocol: UDP}, {port: 53}]}, {ports: [{port: 0, endPort: 9}]}]",
			"dns/UDP, 53/ANY, 0-9/ANY"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[1024];
		struct cs_cnp_set set = {0};
		struct cs_error e = {0};
		snprintf(text, sizeof(text), SPEC "  ingress: [{toPorts: %s}]\n", cases[i].ports);
		if (parse(text, &set, &e) < 0)
			fail_msg("%s", e.text);
		const char *got = set.items[0]->specs[0].rules[0].ports;
		if (cases[i].text)
			assert_string_equal(got, cases[i].text);
		else
			assert_null(got);
		cs_cnp_set_fini(&set);
	}
}

static void prefixes_nest(void **state)
{
	(void)state;
	static const struct {
		const char *outer, *inner;
		int inside;
	} cases[] = {{"10.0.0.0/8", "10.0.0.0/8", 1}, {"10.0.0.0/8", "10.255.0.0/16", 1},
		{"10.0.0.0/8", "11.0.0.0/8", 0}, {"10.0.0.0/16", "10.0.0.0/8", 0}, {"0.0.0.0/0", "1.2.3.4", 1},
		{"::/0", "1.2.3.4", 0}, {"0.0.0.0/0", "::/0", 0}, {"2001:db8::/33", "2001:db8:8000::/33", 0},
		{"2001:db8::/32", "2001:db8:8000::/33", 1}, {"10.0.0.0/31", "10.0.0.1", 1},
		{"10.0.0.0", "10.0.0.1", 0}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cs_prefix outer, inner;
		struct cs_error e;
		assert_int_equal(cs_prefix_parse(cases[i].outer, &outer, &e), 0);
		assert_int_equal(cs_prefix_parse(cases[i].inner, &inner, &e), 0);
		if (cs_prefix_contains(&outer, &inner) != cases[i].inside)
			fail_msg("%s in %s", cases[i].inner, cases[i].outer);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_field_is_read),
		cmocka_unit_test(errors_name_file_line_and_way_out),
		cmocka_unit_test(limits),
		cmocka_unit_test(a_file_is_taken_whole_or_not_at_all),
		cmocka_unit_test(selectors_match),
		cmocka_unit_test(ports_that_narrow_nothing),
		cmocka_unit_test(prefixes_nest),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
