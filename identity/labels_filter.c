#include "labels_filter.h"

#include <ctype.h>
#include <errno.h>
#include <regex.h>
#include <string.h>
#include "mem.h"

/* Most rules are plain prefixes, and each label of each claim meets each rule: those need no automaton. */
enum rule_kind {
	RULE_PREFIX,   /* literal */
	RULE_THE_REST, /* literal.* */
	RULE_REGEX
};
struct rule {
	const char *source; /* NULL: any */
	bool ignore;
	enum rule_kind kind;
	char *literal;
	size_t len;
	regex_t regex;
};
struct cs_label_filter {
	struct rule *rules;
	size_t n;
	bool only_included; /* an include rule was configured */
};

const char *const cs_label_filter_defaults[] = {
	"reserved:.*",
	"io\\.kubernetes\\.pod\\.namespace",
	"io\\.cilium\\.k8s\\.namespace\\.labels",
	"app\\.kubernetes\\.io",
	"io\\.cilium\\.k8s\\.policy\\.cluster",
	"!io\\.kubernetes",
	"!kubernetes\\.io",
	"!statefulset\\.kubernetes\\.io/pod-name",
	"!apps\\.kubernetes\\.io/pod-index",
	"!batch\\.kubernetes\\.io/job-completion-index",
	"!.*beta\\.kubernetes\\.io",
	"!k8s\\.io",
	"!pod-template-generation",
	"!pod-template-hash",
	"!controller-revision-hash",
	"!annotation.*",
	"!etcd_node",
	NULL,
};

/* --- rules --- */

/* What both Go's expressions (in which people have written such rules) and POSIX's mean alike. */
static int check_pattern(const char *pattern, struct cs_error *e)
{
	for (const char *p = pattern; *p; p++) {
		if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
			return cs_error_set(e, -EINVAL,
				"character 0x%02x; printable ASCII without space may stand in it", (unsigned char)*p);
		if (p[0] == '(' && p[1] == '?')
			return cs_error_set(
				e, -EINVAL, "(? is not known here: the expressions are POSIX extended ones");
		if (p[0] != '\\')
			continue;
		if (isalnum((unsigned char)p[1]) || !p[1])
			return cs_error_set(e, -EINVAL,
				"\\%c is not known here: write a class like [0-9] or [[:alnum:]]; a backslash takes "
				"the "
				"meaning of the next character away",
				p[1] ? p[1] : ' ');
		p++;
	}
	return 0;
}

/* The literal text of a pattern that is one, with or without `.*` at its end; else false. */
static bool read_literal(const char *pattern, struct rule *rule)
{
	rule->literal = cs_xcalloc(1, strlen(pattern) + 1);
	for (const char *p = pattern; *p; p++) {
		if (strcmp(p, ".*") == 0) {
			rule->kind = RULE_THE_REST;
			return true;
		}
		if (*p == '\\')
			p++;
		else if (strchr(".[]()*+?{}|^$", *p))
			return false;
		else if (p[1] && strchr("*+?{", p[1]))
			return false;
		rule->literal[rule->len++] = *p;
	}
	rule->kind = RULE_PREFIX;
	return true;
}

static int parse_pattern(const char *pattern, struct rule *rule, struct cs_error *e)
{
	int r = check_pattern(pattern, e);
	if (r < 0)
		return r;
	if (!*pattern)
		return cs_error_set(e, -EINVAL, "the pattern is empty");
	if (read_literal(pattern, rule))
		return 0;
	free(rule->literal);
	rule->literal = NULL;
	rule->kind = RULE_REGEX;
	int code = regcomp(&rule->regex, pattern, REG_EXTENDED);
	char text[128];
	if (code == 0)
		return 0;
	regerror(code, &rule->regex, text, sizeof(text));
	rule->kind = RULE_PREFIX; /* nothing to free */
	return cs_error_set(e, -EINVAL, "%s", text);
}

static void rule_fini(struct rule *rule)
{
	free(rule->literal);
	if (rule->kind == RULE_REGEX)
		regfree(&rule->regex);
}

static int parse_rule(const char *text, struct rule *ret, struct cs_error *e)
{
	struct rule rule = {0};
	const char *colon = strchr(text, ':'), *pattern = colon ? colon + 1 : text;
	if (strlen(text) > CS_LABEL_RULE_MAX)
		return cs_error_set(e, -EINVAL, "'%.40s...' has more than %d characters", text, CS_LABEL_RULE_MAX);
	if (colon && !(rule.source = cs_label_source(text, (size_t)(colon - text))))
		return cs_error_set(e, -EINVAL,
			"'%s': '%.*s' is no source of labels; known are k8s, container and unspec", text,
			(int)(colon - text), text);
	if (*pattern == '!') {
		rule.ignore = true;
		pattern++;
	}
	int r = parse_pattern(pattern, &rule, e);
	if (r < 0) {
		rule_fini(&rule);
		return cs_error_prefix(e, "'%s'", text);
	}
	*ret = rule;
	return 0;
}

static int add_rule(struct cs_label_filter *f, const char *text, struct cs_error *e)
{
	f->rules = cs_xrealloc(f->rules, f->n + 1, sizeof(*f->rules));
	int r = parse_rule(text, &f->rules[f->n], e);
	if (r == 0)
		f->n++;
	return r;
}

int cs_label_filter_new(bool defaults, const struct cs_strings *rules, struct cs_label_filter **ret, struct cs_error *e)
{
	struct cs_label_filter *f = cs_xcalloc(1, sizeof(*f));
	int r = 0;
	for (size_t i = 0; defaults && cs_label_filter_defaults[i] && r == 0; i++)
		r = add_rule(f, cs_label_filter_defaults[i], e);
	for (size_t i = 0; rules && i < rules->n && r == 0; i++) {
		r = add_rule(f, rules->items[i], e);
		if (r == 0)
			f->only_included |= !f->rules[f->n - 1].ignore;
	}
	if (r < 0)
		cs_label_filter_free(f);
	else
		*ret = f;
	return r;
}

void cs_label_filter_free(struct cs_label_filter *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->n; i++)
		rule_fini(&f->rules[i]);
	free(f->rules);
	free(f);
}

/* --- labels --- */

/* How much of the key it matches; 0: nothing. */
static size_t matched(const struct rule *rule, const struct cs_label *l)
{
	if (rule->source && strcmp(rule->source, l->source) != 0)
		return 0;
	if (rule->kind == RULE_REGEX) {
		regmatch_t m;
		return regexec(&rule->regex, l->key, 1, &m, 0) == 0 && m.rm_so == 0 ? (size_t)m.rm_eo : 0;
	}
	if (strncmp(l->key, rule->literal, rule->len) != 0)
		return 0;
	return rule->kind == RULE_PREFIX ? rule->len : strlen(l->key);
}

bool cs_label_filter_takes(const struct cs_label_filter *f, const struct cs_label *l)
{
	size_t included = 0, ignored = 0;
	for (size_t i = 0; i < f->n; i++) {
		size_t n = matched(&f->rules[i], l);
		if (!f->rules[i].ignore && n > included)
			included = n;
		if (f->rules[i].ignore && n > 0 && (ignored == 0 || n < ignored))
			ignored = n;
	}
	return (!f->only_included && ignored == 0) || included > ignored;
}

bool cs_identity_labels_of(const struct cs_labels *identity, const struct cs_labels *labels)
{
	const struct cs_label *fixed = cs_labels_get(labels, CS_LABEL_FIXED);
	if (fixed)
		return identity->n == 1 && strcmp(identity->items[0].source, "reserved") == 0 &&
		       strcmp(identity->items[0].key, fixed->value) == 0;
	for (size_t i = 0; i < identity->n; i++) {
		const struct cs_label *l = cs_labels_get(labels, identity->items[i].key);
		if (!l || strcmp(l->source, identity->items[i].source) != 0 ||
			strcmp(l->value, identity->items[i].value) != 0)
			return false;
	}
	return identity->n > 0;
}
