/* Label selectors: matchLabels and matchExpressions of Kubernetes, with Cilium's sources before the keys. */
#include "policy_read.h"

#include <stdlib.h>
#include <string.h>
#include <countersign/identities.h>

static const char *const selector_fields[] = {"matchLabels", "matchExpressions", NULL};
static const char *const expression_fields[] = {"key", "operator", "values", NULL};

/* A peer selector that asks for namespaces by their labels looks beyond its own, as in Cilium. */
#define NAMESPACE_LABELS "io.cilium.k8s.namespace.labels."

static const struct {
	const char *name;
	enum cs_selector_op op;
} operators[] = {
	{"In", CS_SEL_IN},
	{"NotIn", CS_SEL_NOT_IN},
	{"Exists", CS_SEL_EXISTS},
	{"DoesNotExist", CS_SEL_NOT_EXISTS},
};
#define NOPERATORS (sizeof(operators) / sizeof(operators[0]))

/* Peers that are no endpoints: `reserved:host`. Another name may be a user-reserved identity's (identity.fixed). */
static bool is_entity(const char *name)
{
	static const char *const entities[] = {"all", "cluster", "none"};
	for (size_t i = 0; i < sizeof(entities) / sizeof(entities[0]); i++)
		if (strcmp(entities[i], name) == 0)
			return true;
	for (uint32_t id = 0; id < CS_ID_FIXED_FIRST; id++)
		if (cs_id_name(id) && strcmp(cs_id_name(id), name) == 0)
			return true;
	return *name == '\0';
}

/* "k8s:app", "any:app" or "app" into source and key. */
static int read_key(struct cs_reader *r, const struct cs_yaml *at, const char *text, struct cs_requirement *ret)
{
	const char *colon = strchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : 0;
	if (colon && !(n == 3 && memcmp(text, "any", 3) == 0)) {
		ret->source = cs_label_source(text, n);
		if (!ret->source)
			return cs_read_fail(r, at,
				"label source '%.*s' of '%.64s' is not known; known are k8s, container, "
				"unspec and any",
				n > 32 ? 32 : (int)n, text, text);
		bool reserved = strcmp(ret->source, "reserved") == 0;
		if ((reserved && is_entity(colon + 1)) || strcmp(ret->source, "cidr") == 0)
			return cs_read_fail(r, at, "'%.64s' is no label of an endpoint; use %s", text,
				reserved ? "fromEntities or toEntities" : "fromCIDR or toCIDR");
	}
	ret->key = strdup(colon ? colon + 1 : text);
	return ret->key ? 0 : cs_read_nomem(r);
}

/* Keys and values that no label can have would select nothing, silently. */
static int check_label(struct cs_reader *r, const struct cs_yaml *at, const char *key, const char *value)
{
	struct cs_labels one = {0};
	struct cs_error why;
	int rc = cs_labels_add(&one, "", key, value, &why);
	cs_labels_fini(&one);
	return rc < 0 ? cs_read_fail(r, at, "%.256s", why.text) : 0;
}

static int add_value(struct cs_reader *r, const struct cs_yaml *at, const char *value, struct cs_requirement *q)
{
	int rc = check_label(r, at, q->key, value);
	if (rc < 0)
		return rc;
	q->values[q->nvalues] = strdup(value);
	return q->values[q->nvalues++] ? 0 : cs_read_nomem(r);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int read_values(struct cs_reader *r, const struct cs_yaml *list, struct cs_requirement *q)
{
	q->values = calloc(list->nkids, sizeof(*q->values));
	if (!q->values)
		return cs_read_nomem(r);
	for (const struct cs_yaml *kid = list->kids; kid; kid = kid->next) {
		int rc = cs_read_kind(r, kid, CS_YAML_SCALAR);
		if (rc == 0)
			rc = add_value(r, kid, kid->text, q);
		if (rc < 0)
			return rc;
	}
	qsort(q->values, q->nvalues, sizeof(*q->values), by_text);
	size_t kept = 1;
	for (size_t i = 1; i < q->nvalues; i++)
		if (strcmp(q->values[i], q->values[kept - 1]) == 0)
			free(q->values[i]);
		else
			q->values[kept++] = q->values[i];
	q->nvalues = kept;
	return 0;
}

static int read_operator(struct cs_reader *r, const struct cs_yaml *node, enum cs_selector_op *ret)
{
	for (size_t i = 0; i < NOPERATORS; i++)
		if (strcmp(node->text, operators[i].name) == 0) {
			*ret = operators[i].op;
			return 0;
		}
	return cs_read_fail(
		r, node, "operator '%.64s' is not known; known are In, NotIn, Exists and DoesNotExist", node->text);
}

static int read_expression(struct cs_reader *r, const struct cs_yaml *map, struct cs_requirement *q)
{
	const struct cs_yaml *key = NULL, *op = NULL, *values = NULL;
	int rc = cs_read_kind(r, map, CS_YAML_MAP);
	if (rc == 0)
		rc = cs_read_fields(r, map, expression_fields);
	if (rc == 0)
		rc = cs_read_need(r, map, "key", CS_YAML_SCALAR, &key);
	if (rc == 0)
		rc = cs_read_need(r, map, "operator", CS_YAML_SCALAR, &op);
	if (rc == 0)
		rc = cs_read_may(r, map, "values", CS_YAML_LIST, &values);
	if (rc == 0)
		rc = read_operator(r, op, &q->op);
	if (rc == 0)
		rc = read_key(r, key, key->text, q);
	if (rc == 0)
		rc = check_label(r, key, q->key, "");
	if (rc < 0)
		return rc;
	bool wants = q->op == CS_SEL_IN || q->op == CS_SEL_NOT_IN, has = values && values->nkids > 0;
	if (wants && !has)
		return cs_read_fail(r, map, "operator %s needs values", op->text);
	if (!wants && has)
		return cs_read_fail(r, values, "operator %s takes no values", op->text);
	return has ? read_values(r, values, q) : 0;
}

static int read_match_label(struct cs_reader *r, const struct cs_yaml *node, struct cs_requirement *q)
{
	int rc = cs_read_kind(r, node, CS_YAML_SCALAR);
	if (rc == 0)
		rc = read_key(r, node, node->key, q);
	if (rc < 0)
		return rc;
	q->values = calloc(1, sizeof(*q->values));
	return q->values ? add_value(r, node, node->text, q) : cs_read_nomem(r);
}

static bool is_namespace(const struct cs_requirement *q)
{
	return strcmp(q->key, CS_LABEL_NAMESPACE) == 0 && (!q->source || strcmp(q->source, "k8s") == 0);
}

static bool leaves_namespace(const struct cs_selector *s)
{
	for (size_t i = 0; i < s->n; i++)
		if (is_namespace(&s->reqs[i]) ||
			strncmp(s->reqs[i].key, NAMESPACE_LABELS, strlen(NAMESPACE_LABELS)) == 0)
			return true;
	return false;
}

static int check_subject(struct cs_reader *r, const struct cs_yaml *map, const struct cs_selector *s)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct cs_requirement *q = &s->reqs[i];
		bool own = false;
		for (size_t j = 0; j < q->nvalues; j++)
			own |= strcmp(q->values[j], r->ns) == 0;
		if (is_namespace(q) && q->op == CS_SEL_IN && !own)
			return cs_read_fail(r, map,
				"endpointSelector asks for namespace '%.64s', but it always applies in "
				"the policy's own, '%s'",
				q->values[0], r->ns);
	}
	return 0;
}

static int add_namespace(struct cs_reader *r, struct cs_selector *s)
{
	struct cs_requirement *q = &s->reqs[s->n++];
	q->source = cs_label_source("k8s", strlen("k8s"));
	q->op = CS_SEL_IN;
	q->key = strdup(CS_LABEL_NAMESPACE);
	q->values = calloc(1, sizeof(*q->values));
	if (!q->key || !q->values || !(q->values[0] = strdup(r->ns)))
		return cs_read_nomem(r);
	q->nvalues = 1;
	return 0;
}

static int by_requirement(const void *a, const void *b)
{
	return cs_requirement_cmp(a, b);
}

int cs_read_selector(struct cs_reader *r, const struct cs_yaml *map, bool subject, struct cs_selector *ret)
{
	const struct cs_yaml *labels = NULL, *expressions = NULL;
	int rc = cs_read_kind(r, map, CS_YAML_MAP);
	if (rc == 0)
		rc = cs_read_fields(r, map, selector_fields);
	if (rc == 0)
		rc = cs_read_may(r, map, "matchLabels", CS_YAML_MAP, &labels);
	if (rc == 0)
		rc = cs_read_may(r, map, "matchExpressions", CS_YAML_LIST, &expressions);
	if (rc < 0)
		return rc;
	size_t room = 1 + (labels ? labels->nkids : 0) + (expressions ? expressions->nkids : 0);
	ret->reqs = calloc(room, sizeof(*ret->reqs));
	if (!ret->reqs)
		return cs_read_nomem(r);
	for (const struct cs_yaml *kid = labels ? labels->kids : NULL; rc == 0 && kid; kid = kid->next)
		rc = read_match_label(r, kid, &ret->reqs[ret->n++]);
	for (const struct cs_yaml *kid = expressions ? expressions->kids : NULL; rc == 0 && kid; kid = kid->next)
		rc = read_expression(r, kid, &ret->reqs[ret->n++]);
	if (rc == 0 && subject)
		rc = check_subject(r, map, ret);
	if (rc == 0 && (subject || !leaves_namespace(ret)))
		rc = add_namespace(r, ret);
	if (rc == 0)
		qsort(ret->reqs, ret->n, sizeof(*ret->reqs), by_requirement);
	return rc;
}
