#include "policy_yaml.h"
#include "policy_read.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/evp.h>

static const char *const document_fields[] = {"apiVersion", "kind", "metadata", "spec", "specs", NULL};
static const char *const metadata_fields[] = {"name", "namespace", "labels", "annotations", NULL};
static const char *const spec_fields[] = {
	"description", "endpointSelector", "ingress", "ingressDeny", "egress", "egressDeny", NULL};

/* The four lists of rules of a spec. */
static const struct section {
	const char *name;
	enum cs_policy_dir dir;
	bool deny;
} sections[] = {
	{"ingress", CS_INGRESS, false},
	{"ingressDeny", CS_INGRESS, true},
	{"egress", CS_EGRESS, false},
	{"egressDeny", CS_EGRESS, true},
};
#define NSECTIONS (sizeof(sections) / sizeof(sections[0]))

/* A name of Kubernetes: lower-case letters, digits, '-' and, between other characters, '.'. */
static bool is_dns_name(const char *text, size_t max, const char *inside)
{
	size_t n = strlen(text);
	if (n == 0 || n > max || strchr(inside, text[0]) || strchr(inside, text[n - 1]))
		return false;
	return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-.") == n &&
	       (strchr(inside, '.') || !strchr(text, '.'));
}

static int read_metadata(struct cs_reader *r, const struct cs_yaml *doc)
{
	const struct cs_yaml *meta = NULL, *name = NULL, *ns = NULL;
	int rc = cs_read_need(r, doc, "metadata", CS_YAML_MAP, &meta);
	if (rc == 0)
		rc = cs_read_fields(r, meta, metadata_fields);
	if (rc == 0)
		rc = cs_read_need(r, meta, "name", CS_YAML_SCALAR, &name);
	if (rc == 0)
		rc = cs_read_may(r, meta, "namespace", CS_YAML_SCALAR, &ns);
	if (rc < 0)
		return rc;
	if (!is_dns_name(name->text, 253, "-."))
		return cs_read_fail(
			r, name, "name '%.64s' is not a name of Kubernetes (a-z, 0-9, '-', '.')", name->text);
	if (ns && !is_dns_name(ns->text, 63, "-"))
		return cs_read_fail(r, ns, "namespace '%.64s' is not a name of Kubernetes (a-z, 0-9, '-')", ns->text);
	r->ns = ns ? ns->text : CS_LABEL_NAMESPACE_DEFAULT;
	return asprintf(&r->cnp->name, "%s/%s", r->ns, name->text) < 0 ? cs_read_nomem(r) : 0;
}

static int read_section(struct cs_reader *r, const struct cs_yaml *spec, const struct section *s, const char *prefix,
	struct cs_spec *ret)
{
	const struct cs_yaml *list = NULL;
	int rc = cs_read_may(r, spec, s->name, CS_YAML_LIST, &list);
	if (rc < 0 || !list)
		return rc;
	ret->selects[s->dir] = true;
	if ((r->nrules += list->nkids) > CS_POLICY_RULES_MAX)
		return cs_read_fail(r, list, "more than %d rules in one policy", CS_POLICY_RULES_MAX);
	struct cs_rule *grown = realloc(ret->rules, (ret->nrules + list->nkids + 1) * sizeof(*grown));
	if (!grown)
		return cs_read_nomem(r);
	ret->rules = grown;
	size_t index = 0;
	for (const struct cs_yaml *kid = list->kids; kid; kid = kid->next, index++) {
		struct cs_rule *rule = &ret->rules[ret->nrules++];
		*rule = (struct cs_rule){.line = kid->line, .dir = s->dir, .deny = s->deny};
		if (asprintf(&rule->name, "%s%s[%zu]", prefix, s->name, index) < 0) {
			rule->name = NULL;
			return cs_read_nomem(r);
		}
		rc = cs_read_rule(r, kid, rule);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_spec(struct cs_reader *r, const struct cs_yaml *node, const char *prefix, struct cs_spec *ret)
{
	const struct cs_yaml *subject = NULL, *description = NULL;
	int rc = cs_read_kind(r, node, CS_YAML_MAP);
	if (rc == 0)
		rc = cs_read_fields(r, node, spec_fields);
	if (rc == 0)
		rc = cs_read_may(r, node, "description", CS_YAML_SCALAR, &description);
	if (rc == 0)
		rc = cs_read_need(r, node, "endpointSelector", CS_YAML_MAP, &subject);
	if (rc == 0)
		rc = cs_read_selector(r, subject, true, &ret->subject);
	for (size_t i = 0; rc == 0 && i < NSECTIONS; i++)
		rc = read_section(r, node, &sections[i], prefix, ret);
	if (rc < 0)
		return rc;
	if (!ret->selects[CS_INGRESS] && !ret->selects[CS_EGRESS])
		return cs_read_fail(r, node,
			"neither ingress, ingressDeny, egress nor egressDeny is there, so it would do "
			"nothing; to deny a direction write `ingress: []`");
	return 0;
}

static int read_specs(struct cs_reader *r, const struct cs_yaml *doc)
{
	const struct cs_yaml *spec = NULL, *specs = NULL;
	int rc = cs_read_may(r, doc, "spec", CS_YAML_MAP, &spec);
	if (rc == 0)
		rc = cs_read_may(r, doc, "specs", CS_YAML_LIST, &specs);
	if (rc < 0)
		return rc;
	size_t n = (spec ? 1 : 0) + (specs ? specs->nkids : 0);
	if (n == 0)
		return cs_read_fail(r, doc, "there is neither `spec` nor `specs`, so the policy would do nothing");
	r->cnp->specs = calloc(n, sizeof(struct cs_spec));
	if (!r->cnp->specs)
		return cs_read_nomem(r);
	if (spec)
		rc = read_spec(r, spec, "", &r->cnp->specs[r->cnp->nspecs++]);
	size_t index = 0;
	for (const struct cs_yaml *kid = specs ? specs->kids : NULL; rc == 0 && kid; kid = kid->next, index++) {
		char prefix[32];
		snprintf(prefix, sizeof(prefix), "specs[%zu].", index);
		rc = read_spec(r, kid, prefix, &r->cnp->specs[r->cnp->nspecs++]);
	}
	return rc;
}

static int need_value(struct cs_reader *r, const struct cs_yaml *doc, const char *field, const char *value)
{
	const struct cs_yaml *node = NULL;
	int rc = cs_read_need(r, doc, field, CS_YAML_SCALAR, &node);
	if (rc == 0 && strcmp(node->text, value) != 0)
		rc = cs_read_fail(r, node, "%s is '%.64s'; only '%s' is read", field, node->text, value);
	return rc;
}

static int read_document(struct cs_reader *r, const struct cs_yaml *doc)
{
	int rc = cs_read_kind(r, doc, CS_YAML_MAP);
	if (rc == 0)
		rc = need_value(r, doc, "apiVersion", "cilium.io/v2");
	if (rc == 0)
		rc = need_value(r, doc, "kind", "CiliumNetworkPolicy");
	if (rc == 0)
		rc = cs_read_fields(r, doc, document_fields);
	if (rc == 0)
		rc = read_metadata(r, doc);
	return rc == 0 ? read_specs(r, doc) : rc;
}

static int read_policy(
	const char *file, const struct cs_yaml *doc, const uint8_t *sha256, struct cs_cnp_set *set, struct cs_error *e)
{
	struct cs_cnp *cnp = calloc(1, sizeof(*cnp));
	struct cs_reader r = {.file = file, .e = e, .cnp = cnp};
	if (!cnp || !(cnp->file = strdup(file))) {
		cs_cnp_free(cnp);
		return cs_read_nomem(&r);
	}
	cnp->line = doc->line;
	memcpy(cnp->sha256, sha256, sizeof(cnp->sha256));
	int rc = read_document(&r, doc);
	if (rc < 0) {
		cs_cnp_free(cnp);
		return rc;
	}
	return cs_cnp_set_add_take(set, cnp, e);
}

int cs_policy_yaml_parse(const char *file, const void *bytes, size_t n, struct cs_cnp_set *set, struct cs_error *e)
{
	struct cs_yaml *documents = NULL;
	uint8_t sha256[32];
	if (!EVP_Digest(bytes, n, sha256, NULL, EVP_sha256(), NULL))
		return cs_error_set(e, -ENOMEM, "%s:1: its SHA-256 cannot be computed", file);
	int rc = cs_yaml_parse(file, bytes, n, &documents, e);
	if (rc < 0)
		return rc;
	struct cs_cnp_set found = {0};
	for (const struct cs_yaml *doc = documents; rc == 0 && doc; doc = doc->next)
		rc = read_policy(file, doc, sha256, &found, e);
	if (rc == 0)
		rc = cs_cnp_set_merge(set, &found, e);
	cs_yaml_free(documents);
	cs_cnp_set_fini(&found);
	return rc;
}
