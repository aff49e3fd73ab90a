/* A table of settings for people: --help, and docs/reference/. */
#include "settings_row.h"

#include <string.h>

static const char *shown_default(const struct cs_setting *row)
{
	return row->def[0] ? row->def : row->type == CS_SETTING_LIST ? "[]" : "\"\"";
}

const char *cs_full_stop(const char *sentence)
{
	size_t n = strlen(sentence);
	return n > 0 && sentence[n - 1] == '.' ? "" : ".";
}

void cs_settings_help(const struct cs_settings *s, FILE *out)
{
	char expects[256];
	for (size_t i = 0; i < s->n; i++) {
		const struct cs_setting *row = &s->rows[i];
		cs_setting_expects(row, expects);
		fprintf(out, "  %s\n      %s.\n      %s; default: %s\n", row->name, row->help, expects,
			shown_default(row));
	}
}

/* A cell of a Markdown table. */
static void cell(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '|')
			fputc('\\', out);
		fputc(*text, out);
	}
}

void cs_settings_reference(const struct cs_settings *s, const char *program, const char *summary, FILE *out)
{
	char expects[256];
	fprintf(out, "# Settings of %s\n\n%s%s\n\n", program, summary, cs_full_stop(summary));
	fprintf(out, "Made by `%s --print-reference` from the table that the program itself uses; do not edit.\n\n",
		program);
	fprintf(out,
		"Settings are read from the YAML file of `--config FILE`, where each dot of a name is a level of\n"
		"indentation, and then from `--set NAME=VALUE`, which may be repeated. `%s --check-config` reads\n"
		"them, reports the first error with file and line, and ends. A list after `--set` is written "
		"`a,b,c`.\n\n",
		program);
	fprintf(out, "| Setting | Value | Default | Meaning |\n| --- | --- | --- | --- |\n");
	for (size_t i = 0; i < s->n; i++) {
		const struct cs_setting *row = &s->rows[i];
		cs_setting_expects(row, expects);
		fprintf(out, "| `%s` | ", row->name);
		cell(out, expects);
		fprintf(out, " | `%s` | ", shown_default(row));
		cell(out, row->help);
		fprintf(out, " |\n");
	}
}
