#include "policy_read.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MAX 64 /* longer words are compared by their beginning: this is only for a hint */

int cs_read_fail(struct cs_reader *r, const struct cs_yaml *at, const char *fmt, ...)
{
	char text[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return cs_error_set(r->e, -EINVAL, "%s:%u: %s", r->file, at->line, text);
}

int cs_read_nomem(struct cs_reader *r)
{
	return cs_error_set(r->e, -ENOMEM, "%s: out of memory", r->file);
}

/* Levenshtein's: how many characters must be changed, added or removed. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[WORD_MAX + 1];
	size_t na = strnlen(a, WORD_MAX), nb = strnlen(b, WORD_MAX);
	for (size_t j = 0; j <= nb; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= na; i++) {
		unsigned diagonal = row[0];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= nb; j++) {
			unsigned change = diagonal + (a[i - 1] != b[j - 1]), least = row[j] + 1;
			diagonal = row[j];
			if (row[j - 1] + 1 < least)
				least = row[j - 1] + 1;
			row[j] = change < least ? change : least;
		}
	}
	return row[nb];
}

static const char *nearest(const char *word, const char *const *names)
{
	const char *best = NULL;
	unsigned least = (unsigned)strnlen(word, WORD_MAX) / 3 + 2;
	for (; *names; names++) {
		unsigned d = distance(word, *names);
		if (d < least) {
			least = d;
			best = *names;
		}
	}
	return best;
}

/* What Cilium has and this project does not read: no typing error, so no hint at a name that looks alike. */
static bool is_ciliums(const char *field)
{
	static const char *const names[] = {"enableDefaultDeny", "nodeSelector", "labels", "status", "toFQDNs",
		"toServices", "icmps", "fromNodes", "toNodes", "fromGroups", "toGroups", "fromRequires", "toRequires",
		"cidrGroupRef", "cidrGroupSelector", "terminatingTLS", "originatingTLS", "serverNames", "listener"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(field, names[i]) == 0)
			return true;
	return false;
}

static int unknown_field(struct cs_reader *r, const struct cs_yaml *kid, const char *const *names)
{
	if (is_ciliums(kid->key))
		return cs_read_fail(r, kid, "field '%s' is one of Cilium's that is not supported here", kid->key);
	const char *hint = nearest(kid->key, names);
	if (hint)
		return cs_read_fail(r, kid, "unknown field '%.64s'; is '%s' meant?", kid->key, hint);
	char known[256] = "";
	for (size_t used = 0; *names && used < sizeof(known) - 1; names++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "", *names);
	return cs_read_fail(r, kid, "unknown field '%.64s'; known here are %s", kid->key, known);
}

int cs_read_fields(struct cs_reader *r, const struct cs_yaml *map, const char *const *names)
{
	for (const struct cs_yaml *kid = map->kids; kid; kid = kid->next) {
		const char *const *name = names;
		while (*name && strcmp(*name, kid->key) != 0)
			name++;
		if (!*name)
			return unknown_field(r, kid, names);
	}
	return 0;
}

int cs_read_kind(struct cs_reader *r, const struct cs_yaml *node, enum cs_yaml_kind kind)
{
	static const char *const wanted[] = {
		[CS_YAML_SCALAR] = "text", [CS_YAML_LIST] = "a list", [CS_YAML_MAP] = "a mapping"};
	if (node->kind == kind && (kind != CS_YAML_SCALAR || cs_yaml_is_text(node)))
		return 0;
	const char *way_out = "";
	if (kind == CS_YAML_SCALAR && node->kind == CS_YAML_SCALAR)
		way_out = cs_yaml_is_null(node) ? "; write \"\" for the empty text" : "; put it into quotes";
	else if (cs_yaml_is_null(node))
		way_out = kind == CS_YAML_LIST ? "; write [] for the empty list" : "; write {} for the empty mapping";
	return cs_read_fail(r, node, "%s%.64s%s must be %s, not %s%s", node->key ? "'" : "",
		node->key ? node->key : "this", node->key ? "'" : "", wanted[kind], cs_yaml_kind_name(node), way_out);
}

int cs_read_may(struct cs_reader *r, const struct cs_yaml *map, const char *field, enum cs_yaml_kind kind,
	const struct cs_yaml **ret)
{
	*ret = cs_yaml_get(map, field);
	return *ret ? cs_read_kind(r, *ret, kind) : 0;
}

int cs_read_need(struct cs_reader *r, const struct cs_yaml *map, const char *field, enum cs_yaml_kind kind,
	const struct cs_yaml **ret)
{
	int rc = cs_read_may(r, map, field, kind, ret);
	return rc < 0 || *ret ? rc : cs_read_fail(r, map, "field '%s' is missing", field);
}
