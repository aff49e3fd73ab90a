#include "bootstrap_findings.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "mem.h"

static struct cs_findings_more *kind_of(struct cs_findings *f, const char *kind)
{
	for (size_t i = 0; i < f->nkinds; i++)
		if (strcmp(f->kinds[i].kind, kind) == 0)
			return &f->kinds[i];
	f->kinds = cs_xrealloc(f->kinds, f->nkinds + 1, sizeof(*f->kinds));
	f->kinds[f->nkinds] = (struct cs_findings_more){.kind = kind};
	return &f->kinds[f->nkinds++];
}

void cs_findings_add(
	struct cs_findings *f, const char *kind, const char *subject, const char *remedy, const char *fmt, ...)
{
	char text[1024];
	struct cs_error clean_text, clean_subject;
	va_list ap;
	if (++kind_of(f, kind)->n > CS_FINDINGS_OF_A_KIND)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cs_error_set(&clean_text, 0, "%s", text);
	cs_error_set(&clean_subject, 0, "%s", subject);
	f->items = cs_xrealloc(f->items, f->n + 1, sizeof(*f->items));
	f->items[f->n++] = (struct cs_findings_item){.kind = kind,
		.subject = cs_xstrdup(clean_subject.text),
		.text = cs_xstrdup(clean_text.text),
		.remedy = cs_xstrdup(remedy)};
}

void cs_findings_unchecked(struct cs_findings *f, const char *text)
{
	f->unchecked = cs_xrealloc(f->unchecked, f->nunchecked + 1, sizeof(*f->unchecked));
	f->unchecked[f->nunchecked++] = cs_xstrdup(text);
}

static json_t *json_findings(const struct cs_findings *f)
{
	json_t *document = json_object(), *findings = json_array(), *counts = json_object(), *unchecked = json_array();
	for (size_t i = 0; i < f->n; i++)
		json_array_append_new(
			findings, json_pack("{s:s, s:s, s:s, s:s}", "kind", f->items[i].kind, "subject",
					  f->items[i].subject, "text", f->items[i].text, "remedy", f->items[i].remedy));
	for (size_t i = 0; i < f->nkinds; i++)
		json_object_set_new(counts, f->kinds[i].kind, json_integer((json_int_t)f->kinds[i].n));
	for (size_t i = 0; i < f->nunchecked; i++)
		json_array_append_new(unchecked, json_string(f->unchecked[i]));
	json_object_set_new(document, "findings", findings);
	json_object_set_new(document, "counts", counts);
	json_object_set_new(document, "not_checked", unchecked);
	return document;
}

static void table(const struct cs_findings *f)
{
	for (size_t i = 0; i < f->n; i++)
		printf("%s: %s\n    %s\n    -> %s\n", f->items[i].kind, f->items[i].subject, f->items[i].text,
			f->items[i].remedy);
	for (size_t i = 0; i < f->nkinds; i++)
		if (f->kinds[i].n > CS_FINDINGS_OF_A_KIND)
			printf("%s: %zu more\n", f->kinds[i].kind, f->kinds[i].n - CS_FINDINGS_OF_A_KIND);
	for (size_t i = 0; i < f->nunchecked; i++)
		printf("not checked: %s\n", f->unchecked[i]);
	printf("%s\n", f->n ? "This installation is not as Countersign needs it." : "Nothing is wrong.");
}

void cs_findings_report(const struct cs_findings *f, bool json)
{
	if (!json) {
		table(f);
		return;
	}
	json_t *document = json_findings(f);
	json_dumpf(document, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(document);
}

void cs_findings_fini(struct cs_findings *f)
{
	for (size_t i = 0; i < f->n; i++) {
		free(f->items[i].subject);
		free(f->items[i].text);
		free(f->items[i].remedy);
	}
	for (size_t i = 0; i < f->nunchecked; i++)
		free(f->unchecked[i]);
	free(f->items);
	free(f->kinds);
	free(f->unchecked);
}
