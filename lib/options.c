#include "options.h"

#include <errno.h>
#include <string.h>
#include "settings.h"

#define NAMES 64

static const struct cs_option *find(const struct cs_options_reader *r, const char *name, size_t len, char letter)
{
	for (size_t t = 0; t < 3; t++)
		for (size_t i = 0; i < r->n[t]; i++) {
			const struct cs_option *o = &r->tables[t][i];
			if (letter ? o->letter == letter : strlen(o->name) == len && strncmp(o->name, name, len) == 0)
				return o;
		}
	return NULL;
}

static int unknown(const struct cs_options_reader *r, const char *word, struct cs_error *e)
{
	const char *names[NAMES + 1] = {0};
	char name[64];
	size_t n = 0;
	for (size_t t = 0; t < 3; t++)
		for (size_t i = 0; i < r->n[t] && n < NAMES; i++)
			names[n++] = r->tables[t][i].name;
	snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "="), word);
	const char *near = word[1] == '-' ? cs_nearest(name + 2, names) : NULL;
	if (near)
		return cs_error_set(e, -EINVAL, "unknown option %s; did you mean --%s?", name, near);
	return cs_error_set(e, -EINVAL, "unknown option %s; see --help", name);
}

int cs_options_next(
	struct cs_options_reader *r, const struct cs_option **ret_option, const char **ret_value, struct cs_error *e)
{
	if (r->at >= r->argc)
		return CS_OPTIONS_END;
	const char *word = r->argv[r->at++], *value = NULL;
	if (r->only_words || word[0] != '-' || !word[1]) {
		*ret_value = word;
		return CS_OPTIONS_WORD;
	}
	if (strcmp(word, "--") == 0) {
		r->only_words = true;
		return cs_options_next(r, ret_option, ret_value, e);
	}
	bool is_long = word[1] == '-';
	const char *name = is_long ? word + 2 : word + 1;
	size_t len = is_long ? strcspn(name, "=") : 1;
	const struct cs_option *option = find(r, name, len, is_long ? '\0' : word[1]);
	if (!option || (!is_long && word[2] && !option->arg))
		return unknown(r, word, e);
	if (is_long && name[len] == '=')
		value = name + len + 1;
	else if (!is_long && word[2])
		value = word + 2;
	if (!option->arg && value)
		return cs_error_set(e, -EINVAL, "--%s takes no value", option->name);
	if (option->arg && !value && r->at == r->argc)
		return cs_error_set(e, -EINVAL, "--%s needs a value: --%s %s", option->name, option->name, option->arg);
	if (option->arg && !value)
		value = r->argv[r->at++];
	*ret_option = option;
	*ret_value = value ? value : "";
	return CS_OPTIONS_OPTION;
}

void cs_options_help(const struct cs_option *options, size_t n, FILE *out)
{
	for (size_t i = 0; i < n; i++) {
		const struct cs_option *o = &options[i];
		char left[64], letter[8] = "";
		if (o->letter)
			snprintf(letter, sizeof(letter), "-%c, ", o->letter);
		snprintf(left, sizeof(left), "%s--%s%s%s%s", letter, o->name, o->arg ? " " : "", o->arg ? o->arg : "",
			o->rest ? "..." : "");
		fprintf(out, "  %-26s %s%s%s.\n", left, o->help, o->required ? "; required" : "",
			o->many ? "; may be repeated" : "");
	}
}
