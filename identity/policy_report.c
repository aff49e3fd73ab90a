#include "policy_report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <jansson.h>

#define TEXT       2048 /* one selector; longer ones end in an ellipsis */
#define WIDTH_NAME 22

static const char *const dir_names[] = {[CS_INGRESS] = "ingress", [CS_EGRESS] = "egress"};

static bool is_own_namespace(const struct cs_requirement *q, const char *ns, size_t n)
{
	return q->op == CS_SEL_IN && q->nvalues == 1 && strcmp(q->key, CS_LABEL_NAMESPACE) == 0 &&
	       strlen(q->values[0]) == n && strncmp(q->values[0], ns, n) == 0;
}

/* The selector in words, with the policy's own namespace said once, at the end. */
static void selector_words(const struct cs_cnp *p, const struct cs_selector *s, char out[TEXT])
{
	struct cs_requirement *kept = calloc(s->n + 1, sizeof(*kept));
	struct cs_selector shown = {.reqs = kept};
	const char *slash = strchr(p->name, '/');
	size_t n = (size_t)(slash - p->name);
	bool own = false;
	for (size_t i = 0; kept && i < s->n; i++) {
		if (is_own_namespace(&s->reqs[i], p->name, n))
			own = true;
		else
			kept[shown.n++] = s->reqs[i];
	}
	char text[TEXT - 128];
	if (shown.n)
		cs_selector_format(&shown, text, sizeof(text));
	else
		strcpy(text, "every endpoint");
	snprintf(out, TEXT, "%s%s%.*s", text, own ? " in namespace " : "", own ? (int)n : 0, p->name);
	free(kept);
}

static void cidr_words(const struct cs_cidr *cidr, char out[TEXT])
{
	char prefix[CS_PREFIX_TEXT];
	cs_prefix_format(&cidr->prefix, prefix);
	size_t used = (size_t)snprintf(out, TEXT, "%s", prefix);
	for (size_t i = 0; i < cidr->nexcept && used < TEXT; i++) {
		cs_prefix_format(&cidr->except[i], prefix);
		used += (size_t)snprintf(out + used, TEXT - used, "%s%s", i ? ", " : " except ", prefix);
	}
}

static const char *entities_words(unsigned entities)
{
	static const char *const names[] = {"", "endpoints", "host", "host, endpoints", "remote-node",
		"remote-node, endpoints", "host, remote-node", "cluster", "world", "world, endpoints", "world, host",
		"world, host, endpoints", "world, remote-node", "world, remote-node, endpoints",
		"world, host, remote-node", "all"};
	return names[entities & CS_ENTITY_ALL];
}

/* Calls put for each peer of the rule, in words. */
static void each_peer(const struct cs_cnp *p, const struct cs_rule *r, void (*put)(void *, const char *), void *arg)
{
	char text[TEXT];
	if (r->entities)
		put(arg, entities_words(r->entities));
	for (size_t i = 0; i < r->nselectors; i++) {
		selector_words(p, &r->selectors[i], text);
		put(arg, text);
	}
	for (size_t i = 0; i < r->ncidrs; i++) {
		cidr_words(&r->cidrs[i], text);
		put(arg, text);
	}
}

static const char *verdict_word(const struct cs_rule *r)
{
	if (r->deny)
		return "deny";
	switch (r->auth) {
	case CS_AUTH_REQUIRED:
		return "require";
	case CS_AUTH_ALWAYS_FAIL:
		return "fail";
	default:
		return "pass";
	}
}

/* ---- for people ---- */

struct peer_line {
	FILE *out;
	const struct cs_rule *rule;
	size_t n;
};

static void put_peer_line(void *arg, const char *text)
{
	struct peer_line *l = arg;
	const char *way = l->rule->dir == CS_INGRESS ? "from" : "to";
	if (l->n++ == 0)
		fprintf(l->out, "    %-*s %-8s %-4s %s\n", WIDTH_NAME, l->rule->name, verdict_word(l->rule), way, text);
	else
		fprintf(l->out, "    %-*s %-8s %-4s %s\n", WIDTH_NAME, "", "", "or", text);
}

/* Long sentences continue under their beginning. */
static void put_finding(FILE *out, const struct cs_finding *f)
{
	const size_t width = 104;
	char line[1024];
	snprintf(line, sizeof(line), "%s: %s", cs_finding_kind_name(f->kind), f->text);
	const char *text = line, *bullet = "!";
	while (strlen(text) > width) {
		size_t cut = width;
		while (cut > 0 && text[cut] != ' ')
			cut--;
		if (cut == 0)
			break;
		fprintf(out, "      %s %.*s\n", bullet, (int)cut, text);
		text += cut + 1;
		bullet = " ";
	}
	fprintf(out, "      %s %s\n", bullet, text);
}

static void put_rule(const struct cs_policy_report *report, const struct cs_cnp *p, const struct cs_rule *r, FILE *out)
{
	struct peer_line line = {.out = out, .rule = r};
	each_peer(p, r, put_peer_line, &line);
	if (line.n == 0)
		put_peer_line(&line, "nobody: it names no peer");
	if (r->ports)
		fprintf(out, "    %-*s %-8s %-4s %s\n", WIDTH_NAME, "", "", "on", r->ports);
	size_t n;
	const struct cs_finding *f = cs_compiled_findings(report->compiled, &n);
	for (size_t i = 0; i < n; i++)
		if (f[i].rule == r)
			put_finding(out, &f[i]);
}

static void put_spec(const struct cs_policy_report *report, const struct cs_cnp *p, const struct cs_spec *s, FILE *out)
{
	char text[TEXT];
	selector_words(p, &s->subject, text);
	fprintf(out, "  selects %s\n", text);
	for (int dir = 0; dir < 2; dir++) {
		size_t n = 0;
		for (size_t i = 0; i < s->nrules; i++)
			n += (int)s->rules[i].dir == dir;
		if (!s->selects[dir])
			fprintf(out, "  %s: not selected\n", dir_names[dir]);
		else
			fprintf(out, "  %s: denied%s\n", dir_names[dir],
				n ? " where no rule passes it" : ", all of it");
		for (size_t i = 0; i < s->nrules; i++)
			if ((int)s->rules[i].dir == dir)
				put_rule(report, p, &s->rules[i], out);
	}
}

static const char *plural(size_t n)
{
	return n == 1 ? "" : "s";
}

void cs_policy_report_table(const struct cs_policy_report *r, FILE *out)
{
	size_t nrules = 0, nfindings;
	for (size_t i = 0; i < r->policies->n; i++) {
		const struct cs_cnp *p = r->policies->items[i];
		fprintf(out, "%s  (%s:%u)\n", p->name, p->file, p->line);
		for (size_t j = 0; j < p->nspecs; j++) {
			put_spec(r, p, &p->specs[j], out);
			nrules += p->specs[j].nrules;
		}
		fputc('\n', out);
	}
	cs_compiled_findings(r->compiled, &nfindings);
	fprintf(out, "%zu %s, %zu rule%s, %zu remark%s, in %zu file%s.", r->policies->n,
		r->policies->n == 1 ? "policy" : "policies", nrules, plural(nrules), nfindings, plural(nfindings),
		r->nfiles, plural(r->nfiles));
	if (r->nerrors)
		fprintf(out, " %zu file%s refused.", r->nerrors, plural(r->nerrors));
	if (r->strict && r->nwider)
		fprintf(out, " Refused by --strict: %zu rule%s wider than written.", r->nwider, plural(r->nwider));
	fputc('\n', out);
}

/* ---- for machines ---- */

static void put_peer_json(void *arg, const char *text)
{
	json_array_append_new(arg, json_string(text));
}

static json_t *rule_json(const struct cs_policy_report *report, const struct cs_cnp *p, const struct cs_rule *r)
{
	json_t *peers = json_array(), *findings = json_array();
	each_peer(p, r, put_peer_json, peers);
	size_t n;
	const struct cs_finding *f = cs_compiled_findings(report->compiled, &n);
	for (size_t i = 0; i < n; i++)
		if (f[i].rule == r)
			json_array_append_new(findings,
				json_pack("{s:s, s:s}", "kind", cs_finding_kind_name(f[i].kind), "text", f[i].text));
	return json_pack("{s:s, s:i, s:s, s:s, s:o, s:s?, s:o}", "rule", r->name, "line", (int)r->line, "direction",
		dir_names[r->dir], "verdict", verdict_word(r), "peers", peers, "ports", r->ports, "findings", findings);
}

static json_t *spec_json(const struct cs_policy_report *report, const struct cs_cnp *p, const struct cs_spec *s)
{
	char text[TEXT];
	json_t *rules = json_array();
	for (size_t i = 0; i < s->nrules; i++)
		json_array_append_new(rules, rule_json(report, p, &s->rules[i]));
	selector_words(p, &s->subject, text);
	return json_pack("{s:s, s:b, s:b, s:o}", "selects", text, "ingress", s->selects[CS_INGRESS], "egress",
		s->selects[CS_EGRESS], "rules", rules);
}

static json_t *policy_json(const struct cs_policy_report *report, const struct cs_cnp *p)
{
	char sha256[2 * sizeof(p->sha256) + 1];
	json_t *specs = json_array();
	for (size_t i = 0; i < sizeof(p->sha256); i++)
		snprintf(sha256 + 2 * i, 3, "%02x", p->sha256[i]);
	for (size_t i = 0; i < p->nspecs; i++)
		json_array_append_new(specs, spec_json(report, p, &p->specs[i]));
	return json_pack("{s:s, s:s, s:i, s:s, s:o}", "name", p->name, "file", p->file, "line", (int)p->line, "sha256",
		sha256, "specs", specs);
}

int cs_policy_report_json(const struct cs_policy_report *r, FILE *out)
{
	json_t *policies = json_array(), *errors = json_array();
	for (size_t i = 0; i < r->policies->n; i++)
		json_array_append_new(policies, policy_json(r, r->policies->items[i]));
	for (size_t i = 0; i < r->nerrors; i++)
		json_array_append_new(errors, json_string(r->errors[i]));
	json_t *all = json_pack("{s:o, s:o, s:b, s:i}", "policies", policies, "errors", errors, "strict", r->strict,
		"wider_than_written", (int)r->nwider);
	int rc = all && json_dumpf(all, out, JSON_INDENT(2)) == 0 ? 0 : -ENOMEM;
	json_decref(all);
	fputc('\n', out);
	return rc;
}
