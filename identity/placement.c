#include "placement.h"

#include <errno.h>
#include "identity_limits.h"
#include "mem.h"
#include "yaml_tree.h"

struct listed_node {
	char *name;
	struct cs_ip addrs[CS_NODE_ADDRS_MAX];
	size_t naddrs;
};
struct entry {
	struct cs_labels labels;
	char **nodes;
	size_t nnodes;
};
struct cs_authority {
	enum cs_authority_kind kind;
	struct listed_node *nodes;
	size_t nnodes;
	struct entry *entries;
	size_t nentries;
};

struct cs_authority *cs_authority_self(void)
{
	struct cs_authority *a = cs_xcalloc(1, sizeof(*a));
	a->kind = CS_AUTHORITY_SELF;
	return a;
}

void cs_authority_free(struct cs_authority *a)
{
	if (!a)
		return;
	for (size_t i = 0; i < a->nnodes; i++)
		free(a->nodes[i].name);
	free(a->nodes);
	for (size_t i = 0; i < a->nentries; i++) {
		cs_labels_fini(&a->entries[i].labels);
		for (size_t k = 0; k < a->entries[i].nnodes; k++)
			free(a->entries[i].nodes[k]);
		free(a->entries[i].nodes);
	}
	free(a->entries);
	free(a);
}

const char *cs_authority_name(const struct cs_authority *a)
{
	return a->kind == CS_AUTHORITY_STATIC ? "static" : "self";
}

/* --- the file --- */

struct parse {
	const char *file;
	struct cs_authority *a;
	struct cs_error *e;
};

static int wrong(const struct parse *p, const struct cs_yaml *at, const char *what, const char *right)
{
	return cs_error_set(p->e, -EINVAL, "%s:%u: %s: %s", p->file, at->line, what, right);
}

static int only_keys(const struct parse *p, const struct cs_yaml *map, const char *what, const char *a, const char *b)
{
	if (map->kind != CS_YAML_MAP)
		return wrong(p, map, what, "must be a mapping");
	for (const struct cs_yaml *kid = map->kids; kid; kid = kid->next)
		if (strcmp(kid->key, a) != 0 && strcmp(kid->key, b) != 0)
			return cs_error_set(p->e, -EINVAL, "%s:%u: unknown key '%s': %s has %s%s%s", p->file, kid->line,
				kid->key, what, a, *b ? " and " : "", b);
	return 0;
}

static int list_of_text(
	const struct parse *p, const struct cs_yaml *node, const struct cs_yaml *parent, const char *what)
{
	if (!node || node->kind != CS_YAML_LIST || node->nkids == 0)
		return wrong(p, node ? node : parent, what, "must be a list with at least one element");
	for (const struct cs_yaml *kid = node->kids; kid; kid = kid->next)
		if (kid->kind != CS_YAML_SCALAR || !kid->text[0])
			return wrong(p, kid, what, "each element must be text");
	return 0;
}

static int parse_node(const struct parse *p, const struct cs_yaml *node)
{
	const struct cs_yaml *list = NULL;
	int r = only_keys(p, node, "a node", "addresses", "");
	if (r == 0) {
		list = cs_yaml_get(node, "addresses");
		r = list_of_text(p, list, node, "addresses");
	}
	if (r < 0)
		return r;
	if (strlen(node->key) > CS_NODE_NAME_BYTES || list->nkids > CS_NODE_ADDRS_MAX)
		return wrong(p, node, node->key, "a node has a name of at most 253 bytes and at most 8 addresses");
	struct listed_node *n = &p->a->nodes[p->a->nnodes++];
	n->name = cs_xstrdup(node->key);
	for (const struct cs_yaml *kid = list->kids; kid; kid = kid->next)
		if (cs_ip_parse(kid->text, &n->addrs[n->naddrs++], p->e) < 0)
			return cs_error_prefix(p->e, "%s:%u", p->file, kid->line);
	return 0;
}

static int parse_entry(const struct parse *p, const struct cs_yaml *node)
{
	int r = only_keys(p, node, "a placement", "labels", "nodes");
	const struct cs_yaml *labels = r == 0 ? cs_yaml_get(node, "labels") : NULL, *nodes = NULL;
	if (r == 0)
		r = list_of_text(p, labels, node, "labels");
	if (r == 0) {
		nodes = cs_yaml_get(node, "nodes");
		r = list_of_text(p, nodes, node, "nodes");
	}
	if (r < 0)
		return r;
	struct entry *entry = &p->a->entries[p->a->nentries++];
	for (const struct cs_yaml *kid = labels->kids; kid; kid = kid->next)
		if (cs_labels_add_text(&entry->labels, kid->text, strlen(kid->text), p->e) < 0)
			return cs_error_prefix(p->e, "%s:%u", p->file, kid->line);
	entry->nodes = cs_xcalloc(nodes->nkids, sizeof(char *));
	for (const struct cs_yaml *kid = nodes->kids; kid; kid = kid->next)
		entry->nodes[entry->nnodes++] = cs_xstrdup(kid->text);
	return 0;
}

static int parse_file(const struct parse *p, const struct cs_yaml *root)
{
	int r = only_keys(p, root, "a placement file", "nodes", "placements");
	const struct cs_yaml *nodes = r == 0 ? cs_yaml_get(root, "nodes") : NULL;
	const struct cs_yaml *entries = r == 0 ? cs_yaml_get(root, "placements") : NULL;
	if (r == 0 && nodes && nodes->kind != CS_YAML_MAP)
		r = wrong(p, nodes, "nodes", "must be a mapping of names");
	if (r == 0 && entries && entries->kind != CS_YAML_LIST)
		r = wrong(p, entries, "placements", "must be a list");
	if (r < 0)
		return r;
	p->a->nodes = cs_xcalloc(nodes ? nodes->nkids : 0, sizeof(*p->a->nodes));
	p->a->entries = cs_xcalloc(entries ? entries->nkids : 0, sizeof(*p->a->entries));
	for (const struct cs_yaml *kid = nodes ? nodes->kids : NULL; kid && r == 0; kid = kid->next)
		r = parse_node(p, kid);
	for (const struct cs_yaml *kid = entries ? entries->kids : NULL; kid && r == 0; kid = kid->next)
		r = parse_entry(p, kid);
	return r;
}

int cs_authority_parse(const char *file, const void *bytes, size_t n, struct cs_authority **ret, struct cs_error *e)
{
	struct cs_yaml *root = NULL;
	int r = cs_yaml_parse(file, bytes, n, &root, e);
	if (r < 0)
		return r;
	struct cs_authority *a = cs_xcalloc(1, sizeof(*a));
	a->kind = CS_AUTHORITY_STATIC;
	struct parse p = {.file = file, .a = a, .e = e};
	if (root && root->next)
		r = wrong(&p, root->next, "second document", "a placement file is one document");
	else if (root) /* an empty file places nothing anywhere */
		r = parse_file(&p, root);
	cs_yaml_free(root);
	if (r < 0)
		cs_authority_free(a);
	else
		*ret = a;
	return r;
}

int cs_authority_check(const struct cs_authority *a, const struct cs_label_filter *filter, struct cs_error *e)
{
	for (size_t i = 0; i < a->nentries; i++)
		for (size_t k = 0; k < a->entries[i].labels.n; k++) {
			const struct cs_label *l = &a->entries[i].labels.items[k];
			if (strcmp(l->source, "reserved") != 0 && !cs_label_filter_takes(filter, l))
				return cs_error_set(e, -EINVAL,
					"placements[%zu]: %s:%s is in no identity (labels.filter leaves it out): the "
					"entry "
					"would place nothing",
					i, l->source, l->key);
		}
	return 0;
}

/* --- the answers --- */

bool cs_labels_cover(const struct cs_labels *wanted, const struct cs_labels *labels)
{
	for (size_t i = 0; i < wanted->n; i++) {
		const struct cs_label *l = cs_labels_get(labels, wanted->items[i].key);
		if (!l || strcmp(l->source, wanted->items[i].source) != 0 ||
			strcmp(l->value, wanted->items[i].value) != 0)
			return false;
	}
	return true;
}

int cs_authority_places(
	const struct cs_authority *a, const struct cs_labels *labels, const char *node, struct cs_error *e)
{
	if (a->kind == CS_AUTHORITY_SELF)
		return 0;
	for (size_t i = 0; i < a->nentries; i++) {
		const struct entry *entry = &a->entries[i];
		if (!cs_labels_cover(&entry->labels, labels))
			continue;
		for (size_t k = 0; k < entry->nnodes; k++)
			if (strcmp(entry->nodes[k], "*") == 0 || strcmp(entry->nodes[k], node) == 0)
				return 0;
	}
	return cs_error_reason(
		e, -EACCES, CS_R_PLACEMENT_REFUSED, "the placement file places these labels not on node %s", node);
}

int cs_authority_addresses(
	const struct cs_authority *a, const char *node, const struct cs_ip *addrs, size_t n, struct cs_error *e)
{
	const struct listed_node *listed = NULL;
	for (size_t i = 0; i < a->nnodes; i++)
		if (strcmp(a->nodes[i].name, node) == 0)
			listed = &a->nodes[i];
	for (size_t i = 0; listed && i < n; i++) {
		bool found = false;
		for (size_t k = 0; k < listed->naddrs; k++)
			found |= cs_ip_equal(&addrs[i], &listed->addrs[k]);
		char text[CS_IP_TEXT];
		if (!found)
			return cs_error_reason(e, -EACCES, CS_R_PLACEMENT_REFUSED,
				"the placement file lists other addresses for node %s than %s", node,
				cs_ip_text(&addrs[i], text));
	}
	return 0;
}
