/* A table of cases: for each rule of the compiler what it does, and its negative twin. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "policy_fixture.h"

static const struct {
	const char *name;
	uint32_t id;
	const char *labels;
} people[] = {
	{"web", 300, "k8s:app=web"},
	{"frontend", 301, "k8s:app=frontend;k8s:tier=1"},
	{"db", 302, "k8s:app=db"},
	{"other", 303, "k8s:app=web;k8s:io.kubernetes.pod.namespace=other"},
	{"plain", 304, "container:app=web"},
	{"host", CS_ID_HOST, NULL},
	{"world", CS_ID_WORLD, NULL},
	{"remote-node", CS_ID_REMOTE_NODE, NULL},
};
#define NPEOPLE (sizeof(people) / sizeof(people[0]))

/* Shorthand for the cases. */
#define WEB  "default/p {endpointSelector: {matchLabels: {k8s:app: web}}, "
#define FE   "{matchLabels: {app: frontend}}"
#define DB   "{matchLabels: {app: db}}"
#define REQ  ", authentication: {mode: required}"
#define P2   "default/q {endpointSelector: {matchLabels: {k8s:app: web}}, "
#define MAXE 12
#define V(local, remote, verdict)                                                                                      \
	{                                                                                                              \
		local, remote, verdict, NULL, NULL                                                                     \
	}

struct expect {
	const char *local, *remote;
	const char *verdict;   /* at FROM and TO: D R P */
	const char *from, *to; /* "policy rule" that decided; NULL: not looked at; "": none */
};
static const struct {
	const char *what, *policies;
	struct expect e[MAXE];
	const char *findings; /* all of them: "rule kind;..." */
} cases[] = {
	{"nobody selects: everything passes", "",
		{{"web", "frontend", "PP", "", ""}, {"web", "world", "PP", "", ""}, {"web", "host", "PP", "", ""},
			{"web", "remote-node", "PP", "", ""}, {"web", "web", "PP", "", ""}},
		""},
	{"a policy that selects somebody else", "default/p {endpointSelector: {matchLabels: {app: db}}, ingress: []}",
		{{"web", "frontend", "PP", "", ""}, V("db", "web", "PD")}, ""},
	{"selected at ingress: others are denied there, and only there", WEB "ingress: [{fromEndpoints: [" FE "]}]}",
		{{"web", "frontend", "PP", "", "default/p ingress[0]"}, {"web", "db", "PD", "", "default/p ingress"},
			{"web", "world", "PD", "", "default/p ingress"}, V("web", "host", "PD"),
			V("web", "remote-node", "PD"), {"frontend", "web", "PP", "", ""}},
		""},
	{"selected at egress", WEB "egress: [{toEndpoints: [" FE "]}]}",
		{{"web", "frontend", "PP", "default/p egress[0]", ""}, V("web", "db", "DP"), V("web", "world", "DP")},
		""},
	{"both directions", WEB "ingress: [{fromEndpoints: [" FE "]}], egress: [{toEndpoints: [" DB "]}]}",
		{V("web", "frontend", "DP"), V("web", "db", "PD"), V("web", "plain", "DD"), V("web", "world", "DD")},
		""},
	{"an empty list selects and allows nothing", WEB "ingress: []}",
		{V("web", "frontend", "PD"), V("web", "world", "PD"), V("web", "host", "PD")}, ""},
	{"an empty rule means nobody", WEB "ingress: [{}]}", {V("web", "frontend", "PD"), V("web", "world", "PD")}, ""},
	{"an empty deny list selects too", WEB "egressDeny: []}", {V("web", "frontend", "DP")}, ""},
	{"an empty deny rule denies nobody", WEB "ingress: [{fromEntities: [all]}], ingressDeny: [{}]}",
		{V("web", "frontend", "PP"), V("web", "world", "PP")}, ""},
	{"an empty peer list means nobody", WEB "ingress: [{fromEndpoints: []}]}", {V("web", "frontend", "PD")}, ""},
	{"an empty peer list with ports means nobody",
		WEB "ingress: [{fromEndpoints: [], toPorts: [{ports: [{port: 80}]}]}]}", {V("web", "frontend", "PD")},
		"ingress[0] wider-than-written;"},
	{"an empty selector: endpoints of the namespace, never host or world", WEB "ingress: [{fromEndpoints: [{}]}]}",
		{V("web", "frontend", "PP"), V("web", "plain", "PP"), V("web", "web", "PP"), V("web", "other", "PD"),
			V("web", "world", "PD"), V("web", "host", "PD"), V("web", "remote-node", "PD")},
		""},
	{"endpointSelector never leaves its namespace", "other/p {endpointSelector: {}, ingress: []}",
		{V("other", "web", "PD"), V("web", "other", "PP")}, ""},
	{"all namespaces",
		WEB "ingress: [{fromEndpoints: [{matchExpressions: [{key: k8s:io.kubernetes.pod.namespace, operator: "
		    "Exists}]}]}]}",
		{V("web", "other", "PP"), V("web", "frontend", "PP"), V("web", "world", "PD"), V("web", "host", "PD")},
		""},
	{"one other namespace",
		WEB "ingress: [{fromEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: other}}]}]}",
		{V("web", "other", "PP"), V("web", "frontend", "PD")}, ""},
	{"sources count", "default/p {endpointSelector: {matchLabels: {container:app: web}}, ingress: []}",
		{V("plain", "web", "PD"), V("web", "plain", "PP")}, ""},
	{"no source is any source", "default/p {endpointSelector: {matchLabels: {app: web}}, ingress: []}",
		{V("plain", "db", "PD"), V("web", "db", "PD"), V("other", "db", "PP")}, ""},
	{"several selectors are or, requirements are and",
		WEB "ingress: [{fromEndpoints: [" DB ", {matchLabels: {app: frontend, tier: '2'}}]}]}",
		{V("web", "db", "PP"), V("web", "frontend", "PD")}, ""},

	/* entities */
	{"all", WEB "ingress: [{fromEntities: [all]}]}",
		{V("web", "frontend", "PP"), V("web", "other", "PP"), V("web", "world", "PP"), V("web", "host", "PP"),
			V("web", "remote-node", "PP")},
		""},
	{"cluster is not world", WEB "ingress: [{fromEntities: [cluster]}]}",
		{V("web", "frontend", "PP"), V("web", "other", "PP"), V("web", "world", "PD"), V("web", "host", "PP"),
			V("web", "remote-node", "PP")},
		""},
	{"world is not cluster", WEB "ingress: [{fromEntities: [world]}]}",
		{V("web", "frontend", "PD"), V("web", "world", "PP"), V("web", "host", "PD"),
			V("web", "remote-node", "PD")},
		""},
	{"host", WEB "ingress: [{fromEntities: [host]}]}",
		{V("web", "host", "PP"), V("web", "remote-node", "PD"), V("web", "world", "PD"), V("web", "db", "PD")},
		""},
	{"remote-node", WEB "egress: [{toEntities: [remote-node]}]}",
		{V("web", "host", "DP"), V("web", "remote-node", "PP"), V("web", "world", "DP")}, ""},

	/* CIDRs */
	{"a CIDR is nobody else", WEB "egress: [{toCIDR: [10.0.0.0/8]}]}",
		{{"web", "10.0.0.0/8", "PP", "default/p egress[0]", ""}, V("web", "world", "DP"), V("web", "db", "DP"),
			V("web", "host", "DP")},
		""},
	{"world includes every CIDR",
		WEB "egress: [{toEntities: [world]}]}\n"
		    "default/q {endpointSelector: {matchLabels: {app: db}}, egress: [{toCIDR: [10.0.0.0/8]}]}",
		{{"web", "10.0.0.0/8", "PP", "default/p egress[0]", ""}, V("web", "world", "PP"),
			V("db", "world", "DP"), V("db", "10.0.0.0/8", "PP")},
		""},
	{"cluster includes no CIDR",
		WEB "egress: [{toEntities: [cluster]}]}\n"
		    "default/q {endpointSelector: {matchLabels: {app: db}}, egress: [{toCIDR: [10.0.0.0/8]}]}",
		{V("web", "10.0.0.0/8", "DP")}, ""},
	{"a CIDR includes what lies inside it, not what lies around it",
		WEB
		"egress: [{toCIDR: [10.1.0.0/16]}]}\n"
		"default/q {endpointSelector: {matchLabels: {app: db}}, egress: [{toCIDR: [10.0.0.0/8, 10.1.2.0/24, "
		"10.2.0.0/16]}]}",
		{V("web", "10.1.0.0/16", "PP"), V("web", "10.1.2.0/24", "PP"), V("web", "10.0.0.0/8", "DP"),
			V("web", "10.2.0.0/16", "DP"), V("db", "10.1.0.0/16", "PP")},
		""},
	{"except", WEB "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]}",
		{V("web", "10.0.0.0/8", "PP"), V("web", "10.1.0.0/16", "DP")}, ""},
	{"what lies inside an except is excepted too",
		WEB "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]}\n"
		    "default/q {endpointSelector: {matchLabels: {app: db}}, egress: [{toCIDR: [10.1.2.0/24]}]}",
		{V("web", "10.1.2.0/24", "DP"), V("db", "10.1.2.0/24", "PP"), V("db", "10.1.0.0/16", "DP")}, ""},
	{"what one rule excepts another may allow",
		WEB "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}, {toCIDR: [10.1.0.0/16]}]}",
		{{"web", "10.1.0.0/16", "PP", "default/p egress[1]", ""}}, ""},
	{"a deny with an except spares it",
		WEB "egress: [{toEntities: [world]}], egressDeny: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: "
		    "[10.1.0.0/16]}]}]}",
		{{"web", "10.0.0.0/8", "DP", "default/p egressDeny[0]", ""}, V("web", "10.1.0.0/16", "PP"),
			V("web", "world", "PP")},
		""},
	{"0.0.0.0/0 is of IPv4 and a CIDR like any other",
		WEB "egress: [{toCIDR: [0.0.0.0/0]}]}\n"
		    "default/q {endpointSelector: {matchLabels: {app: db}}, egress: [{toCIDR: ['2001:db8::/32', "
		    "192.0.2.1]}]}",
		{V("web", "0.0.0.0/0", "PP"), V("web", "192.0.2.1/32", "PP"), V("web", "2001:db8::/32", "DP"),
			V("web", "world", "DP")},
		""},

	/* deny > require > pass */
	{"deny beats pass, whatever the order",
		WEB "ingress: [{fromEndpoints: [" FE "]}], ingressDeny: [{fromEndpoints: [" FE "]}]}",
		{{"web", "frontend", "PD", "", "default/p ingressDeny[0]"},
			{"web", "db", "PD", "", "default/p ingress"}},
		""},
	{"deny of another policy beats pass",
		WEB "ingress: [{fromEndpoints: [" FE "]}]}\n" P2 "ingressDeny: [{fromEndpoints: [" FE "]}]}",
		{{"web", "frontend", "PD", "", "default/q ingressDeny[0]"}}, ""},
	{"deny beats require",
		WEB "ingress: [{fromEndpoints: [" FE ", " DB "]" REQ "}], ingressDeny: [{fromEndpoints: [" FE "]}]}",
		{{"web", "frontend", "PD", "", "default/p ingressDeny[0]"}, V("web", "db", "RR")},
		"ingress[0] asks-more-than-written;"},
	{"require beats pass, whatever the order",
		WEB "ingress: [{fromEndpoints: [" FE "]}, {fromEndpoints: [" FE "]" REQ "}]}",
		{{"web", "frontend", "RR", "default/p ingress[1]", "default/p ingress[1]"}},
		"ingress[1] asks-more-than-written;"},
	{"require beats an explicit disabled",
		WEB "ingress: [{fromEndpoints: [" FE
		    "], authentication: {mode: disabled}}, {fromEntities: [cluster]" REQ "}]}",
		{V("web", "frontend", "RR")}, "ingress[1] asks-more-than-written;ingress[1] never-authenticates;"},
	{"disabled alone passes", WEB "ingress: [{fromEndpoints: [" FE "], authentication: {mode: disabled}}]}",
		{V("web", "frontend", "PP")}, ""},
	{"test-always-fail denies",
		WEB "ingress: [{fromEndpoints: [" FE "]}, {fromEndpoints: [" FE "], authentication: {mode: "
		    "test-always-fail}}]}",
		{{"web", "frontend", "PD", "", "default/p ingress[1]"}}, "ingress[1] never-authenticates;"},
	{"deny of an entity beats the pass of an endpoint",
		WEB "ingress: [{fromEndpoints: [" FE "]}], ingressDeny: [{fromEntities: [cluster]}]}",
		{{"web", "frontend", "PD", "", "default/p ingressDeny[0]"}, V("web", "db", "PD"),
			V("web", "host", "PD")},
		""},
	{"deny of an endpoint beats the pass of an entity",
		WEB "ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [" FE "]}]}",
		{V("web", "frontend", "PD"), V("web", "db", "PP"), V("web", "world", "PP"), V("web", "host", "PP")},
		""},
	{"deny of a CIDR beats the pass of the world, and the reverse",
		WEB "ingress: [{fromEntities: [world]}], ingressDeny: [{fromCIDR: [10.0.0.0/8]}]}\n"
		    "default/q {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromCIDR: [10.0.0.0/8]}], "
		    "ingressDeny: [{fromEntities: [world]}]}",
		{V("web", "10.0.0.0/8", "PD"), V("web", "world", "PP"), V("db", "10.0.0.0/8", "PD"),
			V("db", "world", "PD")},
		""},
	{"a deny at egress says nothing about ingress", WEB "egressDeny: [{toEndpoints: [" FE "]}]}",
		{V("web", "frontend", "DP"), {"web", "db", "DP", "default/p egress", ""}}, ""},

	/* the join */
	{"require + pass becomes require both ways", WEB "ingress: [{fromEndpoints: [" FE "]" REQ "}]}",
		{{"web", "frontend", "RR", "default/p ingress[0]", "default/p ingress[0]"}, V("web", "db", "PD"),
			V("web", "world", "PD"), V("frontend", "web", "PP")},
		"ingress[0] asks-more-than-written;"},
	{"require + an explicit pass too",
		WEB "ingress: [{fromEndpoints: [" FE "]" REQ "}], egress: [{toEndpoints: [" FE "]}]}",
		{{"web", "frontend", "RR", "default/p ingress[0]", "default/p ingress[0]"}},
		"ingress[0] asks-more-than-written;"},
	{"from egress too", WEB "egress: [{toEndpoints: [" FE "]" REQ "}]}",
		{{"web", "frontend", "RR", "default/p egress[0]", "default/p egress[0]"}, V("web", "db", "DP")},
		"egress[0] asks-more-than-written;egress[0] not-enforceable-through-services;"},
	{"require + deny stays", WEB "ingress: [{fromEndpoints: [" FE "]" REQ "}], egress: []}",
		{{"web", "frontend", "DR", "default/p egress", "default/p ingress[0]"}}, ""},
	{"require + a deny rule stays",
		WEB "ingress: [{fromEndpoints: [" FE "]" REQ "}], egressDeny: [{toEndpoints: [" FE "]}]}",
		{{"web", "frontend", "DR", "default/p egressDeny[0]", "default/p ingress[0]"}}, ""},
	{"require both ways asks for nothing more",
		WEB "ingress: [{fromEndpoints: [" FE "]" REQ "}], egress: [{toEndpoints: [" FE "]" REQ "}]}",
		{{"web", "frontend", "RR", "default/p egress[0]", "default/p ingress[0]"}},
		"egress[0] not-enforceable-through-services;"},
	{"the default is joined as well", WEB "ingress: [{fromEntities: [cluster]" REQ "}]}",
		{V("web", "frontend", "RR"), V("web", "other", "RR"), V("web", "host", "PR"),
			V("web", "remote-node", "PR"), V("web", "world", "PD")},
		"ingress[0] asks-more-than-written;ingress[0] never-authenticates;"},
	{"others are never joined", WEB "ingress: [{fromEntities: [world]" REQ "}], egress: [{toEntities: [all]}]}",
		{V("web", "world", "PR"), V("web", "db", "PD"), V("web", "host", "PD")},
		"ingress[0] never-authenticates;"},
	{"a CIDR cannot authenticate", WEB "egress: [{toCIDR: [10.0.0.0/8]" REQ "}]}",
		{V("web", "10.0.0.0/8", "RP"), V("web", "world", "DP")}, "egress[0] never-authenticates;"},
	{"an empty selector with required asks nothing of others", WEB "ingress: [{fromEndpoints: [{}]" REQ "}]}",
		{V("web", "frontend", "RR"), V("web", "host", "PD"), V("web", "world", "PD")},
		"ingress[0] asks-more-than-written;"},

	/* ports */
	{"ports widen to the pair",
		WEB "ingress: [{fromEndpoints: [" FE "], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]}",
		{V("web", "frontend", "PP"), V("web", "db", "PD")}, "ingress[0] wider-than-written;"},
	{"ports that name every port do not widen",
		WEB "ingress: [{fromEndpoints: [" FE "], toPorts: [{ports: [{port: '0'}]}]}]}",
		{V("web", "frontend", "PP")}, ""},
	{"ports of nobody are everybody's", WEB "ingress: [{toPorts: [{ports: [{port: '80'}]}]}]}",
		{V("web", "db", "PP"), V("web", "world", "PP"), V("web", "host", "PP")},
		"ingress[0] wider-than-written;"},
	{"denied ports deny the pair",
		WEB "ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [" FE
		    "], toPorts: [{ports: [{port: '22'}]}]}]}",
		{V("web", "frontend", "PD"), V("web", "db", "PP")}, "ingressDeny[0] wider-than-written;"},

	/* Services */
	{"egress required, and ingress of the peer too: enforceable",
		WEB "egress: [{toEndpoints: [" DB "]" REQ "}]}\n"
		    "default/q {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEndpoints: [{}]" REQ "}]}",
		{V("web", "db", "RR"), V("db", "web", "RR")},
		"egress[0] asks-more-than-written;ingress[0] asks-more-than-written;"},
	{"egress required, and the peer requires it of somebody else",
		WEB "egress: [{toEndpoints: [" DB "]" REQ "}]}\n"
		    "default/q {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEndpoints: [" FE "]" REQ
		    "}, {fromEndpoints: [{}]}]}",
		{V("web", "db", "RR"), V("db", "web", "PP")},
		"egress[0] asks-more-than-written;egress[0] not-enforceable-through-services;ingress[0] "
		"asks-more-than-written;"},
	{"egress required of all, and one peer does not",
		WEB "egress: [{toEntities: [cluster]" REQ "}]}\n"
		    "default/q {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEndpoints: [{}]" REQ "}]}",
		{V("web", "db", "RR"), V("web", "other", "RR")},
		"egress[0] asks-more-than-written;egress[0] never-authenticates;egress[0] "
		"not-enforceable-through-services;ingress[0] asks-more-than-written;"},

	/* several policies and specs */
	{"specs of one policy add up",
		"default/p [{endpointSelector: {matchLabels: {k8s:app: web}}, ingress: [{fromEndpoints: [" FE
		"]}]}, {endpointSelector: {matchLabels: {k8s:app: web}}, ingress: [{fromEndpoints: [" DB "]}]}]",
		{{"web", "frontend", "PP", "", "default/p specs[0].ingress[0]"},
			{"web", "db", "PP", "", "default/p specs[1].ingress[0]"}, V("web", "plain", "PD")},
		""},
	{"policies add up", WEB "ingress: [{fromEndpoints: [" FE "]}]}\n" P2 "ingress: [{fromEndpoints: [" DB "]}]}",
		{{"web", "frontend", "PP", "", "default/p ingress[0]"}, {"web", "db", "PP", "", "default/q ingress[0]"},
			{"web", "world", "PD", "", "default/p ingress"}},
		""},
	{"of equals the first decides",
		P2 "ingress: [{fromEndpoints: [" FE "]}]}\n" WEB "ingress: [{fromEndpoints: [" FE "]}]}",
		{{"web", "frontend", "PP", "", "default/p ingress[0]"}}, ""},
	{"DNS to the world under a policy that only authenticates endpoints",
		WEB "ingress: [{fromEndpoints: [{}]" REQ "}], egress: [{toEndpoints: [{}]" REQ
		    "}, {toEntities: [world], "
		    "toPorts: [{ports: [{port: '53', protocol: UDP}]}]}]}",
		{V("web", "db", "RR"), V("web", "world", "PD"), V("web", "host", "DD"), V("web", "other", "DD")},
		"egress[0] not-enforceable-through-services;egress[1] wider-than-written;"},
};

static uint32_t id_of(const struct fixture *f, const char *name)
{
	for (size_t i = 0; i < NPEOPLE; i++)
		if (strcmp(people[i].name, name) == 0)
			return people[i].id;
	uint32_t id = fixture_prefix(f, name);
	if (!id)
		fail_msg("nobody is called %s", name);
	return id;
}

static void add_people(struct fixture *f)
{
	for (size_t i = 0; i < NPEOPLE; i++)
		if (people[i].labels)
			fixture_identity(f, people[i].id, people[i].labels);
}

static void check_rule(const char *what, const char *where, const struct cs_decision *d, const char *expected)
{
	char got[256] = "";
	if (d->policy)
		snprintf(got, sizeof(got), "%s %s", d->policy->name, cs_decision_rule(d));
	if (expected && strcmp(got, expected) != 0)
		fail_msg("%s: at %s '%s' decided, not '%s'", what, where, got, expected);
}

static void check_case(const struct fixture *f, const char *what, const struct expect *e)
{
	uint32_t local = id_of(f, e->local), remote = id_of(f, e->remote);
	const struct cs_decision *from = fixture_verdict(f, local, remote, CS_FROM),
				 *to = fixture_verdict(f, local, remote, CS_TO);
	char got[3] = {"DRP"[from->verdict], "DRP"[to->verdict], 0};
	if (strcmp(got, e->verdict) != 0)
		fail_msg("%s: %s with %s is %s, not %s", what, e->local, e->remote, got, e->verdict);
	check_rule(what, "from", from, e->from);
	check_rule(what, "to", to, e->to);
}

static void check_findings(const struct fixture *f, const char *what, const char *expected)
{
	char got[1024] = "";
	size_t n;
	const struct cs_finding *findings = cs_compiled_findings(f->compiled, &n);
	for (size_t i = 0; i < n; i++) {
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s %s;", findings[i].rule->name,
			cs_finding_kind_name(findings[i].kind));
		assert_true(strlen(findings[i].text) > 20);
	}
	if (strcmp(got, expected) != 0)
		fail_msg("%s: findings are '%s', not '%s'", what, got, expected);
}

static void every_rule(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture f = {0};
		add_people(&f);
		fixture_policies(&f, cases[i].policies);
		fixture_compile(&f);
		for (size_t j = 0; j < MAXE && cases[i].e[j].local; j++)
			check_case(&f, cases[i].what, &cases[i].e[j]);
		check_findings(&f, cases[i].what, cases[i].findings);
		fixture_free(&f);
	}
}

/* Rows only for peers that a rule names, and where the peers of a class differ. */
static void rows_are_few(void **state)
{
	(void)state;
	static const struct {
		const char *policies;
		size_t rows; /* of web */
	} counts[] = {
		{"", 0},
		{WEB "ingress: []}", 0},
		{WEB "ingress: [{fromEndpoints: [" FE "]}]}", 1},
		{WEB "ingress: [{fromEntities: [all]}]}", 2},   /* host, remote-node: named */
		{WEB "ingress: [{fromEntities: [world]}]}", 2}, /* host, remote-node: not the world's verdict */
		{WEB "ingress: [{fromCIDR: [10.0.0.0/8]}]}", 1},
		{WEB "ingress: [{fromEndpoints: [{matchExpressions: [{key: k8s:io.kubernetes.pod.namespace, operator: "
		     "Exists}]}]}]}",
			0},
		{WEB "ingress: [{fromEndpoints: [{}]}]}", 4},
	};
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct fixture f = {0};
		add_people(&f);
		fixture_policies(&f, counts[i].policies);
		fixture_compile(&f);
		size_t n = 0;
		for (size_t j = 0; j < f.rows.nrows; j++)
			n += f.rows.rows[j].local == 300;
		if (n != counts[i].rows || f.rows.nrows != n)
			fail_msg("%s: %zu rows, not %zu", counts[i].policies, n, counts[i].rows);
		assert_int_equal(f.rows.ndefaults, f.nidentities);
		fixture_free(&f);
	}
}

static void only_the_locals_that_were_asked_for(void **state)
{
	(void)state;
	struct fixture f = {0};
	struct cs_rows rows;
	struct cs_error e;
	add_people(&f);
	fixture_policies(&f, "default/p {endpointSelector: {}, ingress: [{fromEndpoints: [" FE "]}]}");
	fixture_compile(&f);
	const uint32_t locals[] = {302, 300, 999, 302, 1};
	assert_int_equal(cs_compiled_rows(f.compiled, locals, 5, &rows, &e), 0);
	assert_int_equal(rows.nrows, 2);
	assert_int_equal(rows.rows[0].local, 300);
	assert_int_equal(rows.rows[1].local, 302);
	assert_int_equal(rows.ndefaults, 2);
	assert_int_equal(rows.defaults[0].local, 300);
	cs_rows_fini(&rows);
	assert_int_equal(cs_compiled_rows(f.compiled, NULL, 0, &rows, &e), 0);
	assert_int_equal(rows.nrows + rows.ndefaults, 0);
	cs_rows_fini(&rows);
	assert_int_equal(cs_compiled_count(f.compiled, &f.policies.items[0]->specs[0]), 4);
	fixture_free(&f);
}

static void an_empty_cluster(void **state)
{
	(void)state;
	struct fixture f = {0};
	fixture_policies(&f, WEB "ingress: [{fromEntities: [all]" REQ "}], egress: [{toEndpoints: [{}]" REQ "}]}");
	fixture_compile(&f);
	assert_int_equal(f.rows.nrows + f.rows.ndefaults, 0);
	/* nobody is there to be joined or to be covered, but what the text alone says is said */
	check_findings(&f, "empty", "ingress[0] never-authenticates;egress[0] not-enforceable-through-services;");
	fixture_free(&f);
}

/* Known numbers are kept; new ones go up from the highest, and into the gaps when there is nothing above. */
static void prefix_numbers_are_stable(void **state)
{
	(void)state;
	static const struct {
		uint32_t named, gone, first_new, second_new; /* n of CS_ID_LOCAL_SCOPE | n */
	} cases[] = {{7, 3, 8, 9}, {3, 7, 8, 9}, {0xffffff, 1, 2, 3}, {0xfffffe, 2, 0xffffff, 1}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture f = {0};
		struct cs_prefix_identity known[] = {
			{.id = CS_ID_LOCAL_SCOPE + cases[i].named}, {.id = CS_ID_LOCAL_SCOPE + cases[i].gone}};
		struct cs_error e;
		size_t n;
		assert_int_equal(cs_prefix_parse("10.2.0.0/16", &known[0].prefix, &e), 0);
		assert_int_equal(cs_prefix_parse("192.0.2.0/24", &known[1].prefix, &e), 0); /* no longer named */
		fixture_policies(&f, WEB "egress: [{toCIDR: [10.3.0.0/16, 10.1.0.0/16, 10.2.0.0/16]}]}");
		f.in.prefixes = known;
		f.in.nprefixes = 2;
		fixture_compile(&f);
		cs_compiled_prefixes(f.compiled, &n);
		assert_int_equal(n, 3);
		assert_int_equal(fixture_prefix(&f, "10.2.0.0/16"), CS_ID_LOCAL_SCOPE + cases[i].named);
		assert_int_equal(fixture_prefix(&f, "10.1.0.0/16"), CS_ID_LOCAL_SCOPE + cases[i].first_new);
		assert_int_equal(fixture_prefix(&f, "10.3.0.0/16"), CS_ID_LOCAL_SCOPE + cases[i].second_new);
		fixture_free(&f);
	}
}

static void bad_input_is_refused(void **state)
{
	(void)state;
	static const struct {
		uint32_t ids[2], prefixes[2];
		const char *same, *error;
	} bad[] = {
		{{99, 300}, {0}, NULL, "identity 99 is not one of a workload"},
		{{CS_ID_LOCAL_SCOPE, 300}, {0}, NULL, "identity 16777216 is not"},
		{{300, 300}, {0}, NULL, "identity 300 is there twice"},
		{{300, 301}, {CS_ID_LOCAL_SCOPE, CS_ID_LOCAL_SCOPE + 1}, NULL, "16777216 is not the number of a CIDR"},
		{{300, 301}, {1 << 25, CS_ID_LOCAL_SCOPE + 1}, NULL, "33554432 is not the number of a CIDR"},
		{{300, 301}, {CS_ID_LOCAL_SCOPE + 1, CS_ID_LOCAL_SCOPE + 1}, NULL, "16777217 is given twice"},
		{{300, 301}, {CS_ID_LOCAL_SCOPE + 1, CS_ID_LOCAL_SCOPE + 2}, "10.0.0.0/8",
			"10.0.0.0/8 has two numbers"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct cs_cnp_set none = {0};
		struct cs_labels empty = {0};
		struct cs_error e = {0};
		struct cs_compile_identity ids[] = {{bad[i].ids[0], &empty}, {bad[i].ids[1], &empty}};
		struct cs_prefix_identity prefixes[2] = {{.id = bad[i].prefixes[0]}, {.id = bad[i].prefixes[1]}};
		assert_int_equal(cs_prefix_parse("10.0.0.0/8", &prefixes[0].prefix, &e), 0);
		assert_int_equal(cs_prefix_parse(bad[i].same ? bad[i].same : "10.0.0.0/9", &prefixes[1].prefix, &e), 0);
		struct cs_compile_input in = {.policies = &none,
			.identities = ids,
			.nidentities = 2,
			.prefixes = prefixes,
			.nprefixes = bad[i].prefixes[0] ? 2 : 0};
		struct cs_compiled *c = cs_policy_compile(&in, &e);
		assert_null(c);
		if (!strstr(e.text, bad[i].error))
			fail_msg("'%s', not '%s'", e.text, bad[i].error);
	}
}

static void depends_on_is_reported(void **state)
{
	(void)state;
	static const struct {
		const char *policies, *prefix;
		uint32_t identity;
		const char *findings;
	} hits[] = {
		{WEB "ingressDeny: [{fromEndpoints: [" DB "]}]}", NULL, 302, "ingressDeny[0] hits-depends-on;"},
		{WEB "ingressDeny: [{fromEndpoints: [" DB "]}]}", NULL, 301, ""},
		{WEB "ingressDeny: [{fromEntities: [cluster]}]}", NULL, 301, "ingressDeny[0] hits-depends-on;"},
		{WEB "ingress: [{fromEndpoints: [" DB "]}]}", NULL, 302, ""}, /* passes anyway */
		{WEB "egress: [{toEndpoints: [" DB "]" REQ "}], ingress: []}", NULL, 302,
			"egress[0] not-enforceable-through-services;egress[0] hits-depends-on;"},
		{WEB "egressDeny: [{toCIDR: [10.0.0.0/8]}]}", "10.1.0.0/16", 0, "egressDeny[0] hits-depends-on;"},
		{WEB "egressDeny: [{toCIDR: [10.1.2.0/24]}]}", "10.1.0.0/16", 0, "egressDeny[0] hits-depends-on;"},
		{WEB "egressDeny: [{toCIDR: [10.2.0.0/16]}]}", "10.1.0.0/16", 0, ""},
		{WEB "egressDeny: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]}", "10.1.0.0/16", 0, ""},
		{WEB "egressDeny: [{toEntities: [world]}]}", "10.1.0.0/16", 0, "egressDeny[0] hits-depends-on;"},
		{WEB "egressDeny: [{toEntities: [host]}]}", "10.1.0.0/16", 0, ""},
	};
	for (size_t i = 0; i < sizeof(hits) / sizeof(hits[0]); i++) {
		struct fixture f = {0};
		struct cs_prefix prefix;
		struct cs_error e;
		add_people(&f);
		fixture_policies(&f, hits[i].policies);
		if (hits[i].prefix) {
			assert_int_equal(cs_prefix_parse(hits[i].prefix, &prefix, &e), 0);
			f.in.depends_prefixes = &prefix;
			f.in.ndepends_prefixes = 1;
		}
		f.in.depends_identities = &hits[i].identity;
		f.in.ndepends_identities = hits[i].identity ? 1 : 0;
		fixture_compile(&f);
		check_findings(&f, hits[i].policies, hits[i].findings);
		fixture_free(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_rule),
		cmocka_unit_test(rows_are_few),
		cmocka_unit_test(only_the_locals_that_were_asked_for),
		cmocka_unit_test(an_empty_cluster),
		cmocka_unit_test(prefix_numbers_are_stable),
		cmocka_unit_test(bad_input_is_refused),
		cmocka_unit_test(depends_on_is_reported),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
