/* One rule of a CiliumNetworkPolicy: whom it means, and whether they must authenticate. */
#include "policy_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names of the fields by direction. */
static const struct peer_fields {
	const char *endpoints, *entities, *cidr, *cidr_set;
} peer_fields[] = {
	[CS_INGRESS] = {"fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet"},
	[CS_EGRESS] = {"toEndpoints", "toEntities", "toCIDR", "toCIDRSet"},
};
static const char *const cidr_set_fields[] = {"cidr", "except", NULL};
static const char *const authentication_fields[] = {"mode", NULL};

static const struct {
	const char *name;
	unsigned entity;
} entities[] = {
	{"all", CS_ENTITY_ALL},
	{"cluster", CS_ENTITY_CLUSTER},
	{"host", CS_ENTITY_HOST},
	{"remote-node", CS_ENTITY_REMOTE_NODE},
	{"world", CS_ENTITY_WORLD},
};

static int read_endpoints(struct cs_reader *r, const struct cs_yaml *list, struct cs_rule *rule)
{
	rule->selectors = calloc(list->nkids + 1, sizeof(*rule->selectors));
	if (!rule->selectors)
		return cs_read_nomem(r);
	for (const struct cs_yaml *kid = list->kids; kid; kid = kid->next) {
		int rc = cs_read_selector(r, kid, false, &rule->selectors[rule->nselectors++]);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_entities(struct cs_reader *r, const struct cs_yaml *list, struct cs_rule *rule)
{
	for (const struct cs_yaml *kid = list->kids; kid; kid = kid->next) {
		int rc = cs_read_kind(r, kid, CS_YAML_SCALAR);
		if (rc < 0)
			return rc;
		size_t i = 0, n = sizeof(entities) / sizeof(entities[0]);
		while (i < n && strcmp(kid->text, entities[i].name) != 0)
			i++;
		if (i == n)
			return cs_read_fail(r, kid,
				"entity '%.64s' is not known; known are all, cluster, host, "
				"remote-node and world",
				kid->text);
		rule->entities |= entities[i].entity;
	}
	return 0;
}

static int read_prefix(struct cs_reader *r, const struct cs_yaml *node, struct cs_prefix *ret)
{
	struct cs_error why;
	int rc = cs_read_kind(r, node, CS_YAML_SCALAR);
	if (rc < 0)
		return rc;
	return cs_prefix_parse(node->text, ret, &why) < 0 ? cs_read_fail(r, node, "%.256s", why.text) : 0;
}

static int read_except(struct cs_reader *r, const struct cs_yaml *list, struct cs_cidr *ret)
{
	ret->except = calloc(list->nkids + 1, sizeof(*ret->except));
	if (!ret->except)
		return cs_read_nomem(r);
	for (const struct cs_yaml *kid = list->kids; kid; kid = kid->next) {
		struct cs_prefix *p = &ret->except[ret->nexcept];
		int rc = read_prefix(r, kid, p);
		if (rc < 0)
			return rc;
		char outer[CS_PREFIX_TEXT];
		cs_prefix_format(&ret->prefix, outer);
		if (!cs_prefix_contains(&ret->prefix, p))
			return cs_read_fail(r, kid, "except '%.48s' is not inside %s", kid->text, outer);
		ret->nexcept++;
	}
	return 0;
}

static int read_cidr_set(struct cs_reader *r, const struct cs_yaml *map, struct cs_cidr *ret)
{
	const struct cs_yaml *cidr = NULL, *except = NULL;
	int rc = cs_read_kind(r, map, CS_YAML_MAP);
	if (rc == 0)
		rc = cs_read_fields(r, map, cidr_set_fields);
	if (rc == 0)
		rc = cs_read_need(r, map, "cidr", CS_YAML_SCALAR, &cidr);
	if (rc == 0)
		rc = cs_read_may(r, map, "except", CS_YAML_LIST, &except);
	if (rc == 0)
		rc = read_prefix(r, cidr, &ret->prefix);
	return rc == 0 && except ? read_except(r, except, ret) : rc;
}

static int read_cidrs(struct cs_reader *r, const struct cs_yaml *list, bool sets, struct cs_rule *rule)
{
	rule->cidrs = calloc(list->nkids + 1, sizeof(*rule->cidrs));
	if (!rule->cidrs)
		return cs_read_nomem(r);
	for (const struct cs_yaml *kid = list->kids; kid; kid = kid->next) {
		struct cs_cidr *cidr = &rule->cidrs[rule->ncidrs++];
		int rc = sets ? read_cidr_set(r, kid, cidr) : read_prefix(r, kid, &cidr->prefix);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_authentication(struct cs_reader *r, const struct cs_yaml *map, struct cs_rule *rule)
{
	const struct cs_yaml *mode = NULL;
	int rc = cs_read_fields(r, map, authentication_fields);
	if (rc == 0)
		rc = cs_read_need(r, map, "mode", CS_YAML_SCALAR, &mode);
	if (rc < 0)
		return rc;
	if (strcmp(mode->text, "required") == 0)
		rule->auth = CS_AUTH_REQUIRED;
	else if (strcmp(mode->text, "disabled") == 0)
		rule->auth = CS_AUTH_DISABLED;
	else if (strcmp(mode->text, "test-always-fail") == 0)
		rule->auth = CS_AUTH_ALWAYS_FAIL;
	else
		return cs_read_fail(r, mode,
			"authentication mode '%.64s' is not known; known are required, disabled "
			"and test-always-fail",
			mode->text);
	return 0;
}

/* Whom the rule means. *named: some list is there, even an empty one. */
static int read_peers(struct cs_reader *r, const struct cs_yaml *map, struct cs_rule *rule, bool *named)
{
	const struct peer_fields *f = &peer_fields[rule->dir];
	const char *const names[] = {f->endpoints, f->entities, f->cidr, f->cidr_set};
	const char *full = NULL;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const struct cs_yaml *list = NULL;
		int rc = cs_read_may(r, map, names[i], CS_YAML_LIST, &list);
		if (rc < 0)
			return rc;
		if (!list)
			continue;
		*named = true;
		if (list->nkids == 0)
			continue;
		if (full) /* Cilium refuses it too: "and" or "or" would be anybody's guess */
			return cs_read_fail(r, list, "'%s' and '%s' in one rule; write two rules", full, names[i]);
		full = names[i];
		if (i == 0)
			rc = read_endpoints(r, list, rule);
		else if (i == 1)
			rc = read_entities(r, list, rule);
		else
			rc = read_cidrs(r, list, i == 3, rule);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int cs_read_rule(struct cs_reader *r, const struct cs_yaml *map, struct cs_rule *rule)
{
	const struct peer_fields *f = &peer_fields[rule->dir];
	const char *const fields[] = {
		f->endpoints, f->entities, f->cidr, f->cidr_set, "toPorts", rule->deny ? NULL : "authentication", NULL};
	const struct cs_yaml *ports = NULL, *auth = NULL;
	bool named = false;
	int rc = cs_read_kind(r, map, CS_YAML_MAP);
	if (rc == 0)
		rc = cs_read_fields(r, map, fields);
	if (rc == 0)
		rc = read_peers(r, map, rule, &named);
	if (rc == 0)
		rc = cs_read_may(r, map, "toPorts", CS_YAML_LIST, &ports);
	if (rc == 0 && ports)
		rc = cs_read_ports(r, ports, &rule->ports);
	if (rc == 0 && !rule->deny)
		rc = cs_read_may(r, map, "authentication", CS_YAML_MAP, &auth);
	if (rc == 0 && auth)
		rc = read_authentication(r, auth, rule);
	/* Cilium: ports without peers are ports of everybody; nothing at all means nobody. */
	if (rc == 0 && !named && ports && ports->nkids > 0)
		rule->entities = CS_ENTITY_ALL;
	return rc;
}
