#include "settings_row.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

const struct cs_setting *cs_setting_find(const struct cs_settings *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->rows[i].name, name) == 0)
			return &s->rows[i];
	return NULL;
}

bool cs_setting_is_section(const struct cs_settings *s, const char *section)
{
	size_t n = strlen(section);
	for (size_t i = 0; i < s->n; i++)
		if (strncmp(s->rows[i].name, section, n) == 0 && s->rows[i].name[n] == '.')
			return true;
	return false;
}

static const char *last_part(const char *name)
{
	const char *dot = strrchr(name, '.');
	return dot ? dot + 1 : name;
}

#define WORD 64

/* How many letters must be put in, left out or changed (Levenshtein). */
static size_t distance(const char *a, const char *b)
{
	size_t row[WORD + 1], na = strlen(a), nb = strlen(b);
	if (na > WORD || nb > WORD)
		return WORD;
	for (size_t j = 0; j <= nb; j++)
		row[j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			diagonal = row[j];
			row[j] = best;
		}
	}
	return row[nb];
}

const char *cs_nearest(const char *word, const char *const *names)
{
	const char *best = NULL;
	size_t least = strlen(word) / 3 + 1;
	for (; *names; names++) {
		if (strcmp(last_part(word), last_part(*names)) == 0)
			return *names; /* the right word in the wrong section */
		size_t d = distance(word, *names);
		if (d <= least && d < strlen(*names)) {
			least = d - (d > 0);
			best = *names;
		}
	}
	return best;
}

int cs_setting_unknown(const struct cs_settings *s, const char *name, struct cs_error *e)
{
	const char *names[CS_SETTINGS_MAX + 1] = {0};
	char quoted[80];
	for (size_t i = 0; i < s->n && i < CS_SETTINGS_MAX; i++)
		names[i] = s->rows[i].name;
	cs_setting_quote(name, quoted);
	const char *near = cs_nearest(name, names);
	if (near)
		return cs_error_set(e, -ENOENT, "unknown setting %s; did you mean '%s'?", quoted, near);
	return cs_error_set(e, -ENOENT, "unknown setting %s; --help lists all of them", quoted);
}

/* ---- what a row expects ---- */

void cs_setting_quote(const char *value, char out[80])
{
	size_t n = 0;
	out[n++] = '\'';
	for (; *value && n < 74; value++)
		out[n++] = (unsigned char)*value < 0x20 || (unsigned char)*value >= 0x7f ? '?' : *value;
	if (*value) {
		memcpy(out + n, "...", 3);
		n += 3;
	}
	out[n++] = '\'';
	out[n] = '\0';
}

static void join_choices(const struct cs_setting *row, char out[256])
{
	size_t used = (size_t)snprintf(out, 256, "one of ");
	for (size_t i = 0; row->choices[i] && used < 250; i++)
		used += (size_t)snprintf(out + used, 256 - used, "%s%s", i ? ", " : "", row->choices[i]);
}

void cs_setting_expects(const struct cs_setting *row, char out[256])
{
	char low[32], high[32];
	switch (row->type) {
	case CS_SETTING_BOOL:
		snprintf(out, 256, "true or false");
		break;
	case CS_SETTING_INT:
		snprintf(out, 256, "a whole number from %" PRId64 " to %" PRId64 "%s%s", row->min, row->max,
			row->unit ? " " : "", row->unit ? row->unit : "");
		break;
	case CS_SETTING_DURATION:
		cs_duration_format(row->min, low);
		cs_duration_format(row->max, high);
		snprintf(out, 256, "a duration from %s to %s", low, high);
		break;
	case CS_SETTING_STRING:
		snprintf(out, 256, "text of %" PRId64 " to %" PRId64 " characters", row->min, row->max);
		break;
	case CS_SETTING_PATH:
		snprintf(out, 256, "an absolute path of at most %" PRId64 " characters%s", row->max,
			row->min == 0 ? ", or empty" : "");
		break;
	case CS_SETTING_ENUM:
		join_choices(row, out);
		break;
	case CS_SETTING_LIST:
		snprintf(out, 256, "a list of %" PRId64 " to %" PRId64 " texts", row->min, row->max);
		break;
	}
}

int cs_setting_refuse(const struct cs_setting *row, const char *value, struct cs_error *e)
{
	char quoted[80], expects[256];
	cs_setting_quote(value, quoted);
	cs_setting_expects(row, expects);
	return cs_error_set(e, -EINVAL, "%s: %s is not %s", row->name, quoted, expects);
}

/* ---- texts into fields ---- */

int cs_strings_add(struct cs_strings *list, const char *text, size_t len)
{
	char **items = realloc(list->items, (list->n + 1) * sizeof(*items));
	if (!items)
		return -ENOMEM;
	list->items = items;
	items[list->n] = strndup(text, len);
	if (!items[list->n])
		return -ENOMEM;
	list->n++;
	return 0;
}

void cs_strings_free(struct cs_strings *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->items[i]);
	free(list->items);
	*list = (struct cs_strings){0};
}

static int assign_int(const struct cs_setting *row, int64_t *field, const char *text, struct cs_error *e)
{
	char *end;
	errno = 0;
	long long n = strtoll(text, &end, 10);
	const char *digits = text[0] == '-' ? text + 1 : text;
	bool canonical = digits[0] >= '0' && digits[0] <= '9' && (digits[0] != '0' || !digits[1]);
	if (errno || *end || !canonical || n < row->min || n > row->max)
		return cs_setting_refuse(row, text, e);
	*field = n;
	return 0;
}

static int assign_duration(const struct cs_setting *row, int64_t *field, const char *text, struct cs_error *e)
{
	int64_t ms;
	int r = cs_duration_parse(text, &ms, e);
	if (r < 0)
		return cs_error_prefix(e, "%s", row->name), r;
	if (ms < row->min || ms > row->max)
		return cs_setting_refuse(row, text, e);
	*field = ms;
	return 0;
}

static int assign_string(const struct cs_setting *row, char **field, const char *text, struct cs_error *e)
{
	int64_t len = (int64_t)strlen(text);
	if (len < row->min || len > row->max || (row->type == CS_SETTING_PATH && len > 0 && text[0] != '/'))
		return cs_setting_refuse(row, text, e);
	char *copy = strdup(text);
	if (!copy)
		return cs_error_errno(e, -ENOMEM, "%s", row->name);
	free(*field);
	*field = copy;
	return 0;
}

static int assign_enum(const struct cs_setting *row, int *field, const char *text, struct cs_error *e)
{
	for (int i = 0; row->choices[i]; i++)
		if (strcmp(row->choices[i], text) == 0) {
			*field = i;
			return 0;
		}
	return cs_setting_refuse(row, text, e);
}

int cs_setting_take_list(const struct cs_setting *row, void *config, struct cs_strings *list, struct cs_error *e)
{
	struct cs_strings *field = (void *)((char *)config + row->offset);
	char expects[256];
	if ((int64_t)list->n < row->min || (int64_t)list->n > row->max) {
		cs_setting_expects(row, expects);
		int r = cs_error_set(e, -EINVAL, "%s: %zu entries, not %s", row->name, list->n, expects);
		cs_strings_free(list);
		return r;
	}
	cs_strings_free(field);
	*field = *list;
	*list = (struct cs_strings){0};
	return 0;
}

static int assign_list(const struct cs_setting *row, void *config, const char *text, struct cs_error *e)
{
	struct cs_strings list = {0};
	int r = 0;
	for (const char *p = text; *text && p && r == 0;) {
		size_t len = strcspn(p, ",");
		if (len == 0)
			r = cs_error_set(
				e, -EINVAL, "%s: an entry of the list is empty; write a,b,c without spaces", row->name);
		else if (list.n == CS_SETTINGS_LIST)
			r = cs_error_set(e, -E2BIG, "%s: more than %d entries", row->name, CS_SETTINGS_LIST);
		else if (cs_strings_add(&list, p, len) < 0)
			r = cs_error_errno(e, -ENOMEM, "%s", row->name);
		p = p[len] ? p + len + 1 : NULL;
	}
	if (r == 0)
		return cs_setting_take_list(row, config, &list, e);
	cs_strings_free(&list);
	return r;
}

int cs_setting_assign(const struct cs_setting *row, void *config, const char *text, struct cs_error *e)
{
	void *field = (char *)config + row->offset;
	if (strlen(text) > CS_SETTINGS_TEXT)
		return cs_error_set(e, -E2BIG, "%s: the value has more than %d bytes", row->name, CS_SETTINGS_TEXT);
	switch (row->type) {
	case CS_SETTING_BOOL:
		if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
			return cs_setting_refuse(row, text, e);
		*(bool *)field = text[0] == 't';
		return 0;
	case CS_SETTING_INT:
		return assign_int(row, field, text, e);
	case CS_SETTING_DURATION:
		return assign_duration(row, field, text, e);
	case CS_SETTING_STRING:
	case CS_SETTING_PATH:
		return assign_string(row, field, text, e);
	case CS_SETTING_ENUM:
		return assign_enum(row, field, text, e);
	case CS_SETTING_LIST:
		return assign_list(row, config, text, e);
	}
	return cs_error_set(e, -EINVAL, "%s: the table of settings is wrong", row->name);
}

/* ---- whole tables ---- */

static int depth_of(const char *name)
{
	int depth = 1;
	for (; *name; name++)
		depth += *name == '.';
	return depth;
}

int cs_settings_defaults(const struct cs_settings *s, void *config, struct cs_error *e)
{
	if (s->n > CS_SETTINGS_MAX)
		return cs_error_set(e, -E2BIG, "more than %d settings", CS_SETTINGS_MAX);
	for (size_t i = 0; i < s->n; i++) {
		if (strlen(s->rows[i].name) >= CS_SETTINGS_NAME || depth_of(s->rows[i].name) > CS_SETTINGS_MAX_DEPTH)
			return cs_error_set(e, -EINVAL, "the name of the setting %s is too long", s->rows[i].name);
		if (cs_setting_find(s, s->rows[i].name) != &s->rows[i] || cs_setting_is_section(s, s->rows[i].name))
			return cs_error_set(e, -EEXIST, "the setting %s is there twice", s->rows[i].name);
		int r = cs_setting_assign(&s->rows[i], config, s->rows[i].def, e);
		if (r < 0)
			return cs_error_prefix(e, "default"), r;
	}
	return 0;
}

int cs_settings_set(const struct cs_settings *s, void *config, const char *assignment, struct cs_error *e)
{
	const char *equals = strchr(assignment, '=');
	char name[128], quoted[80];
	cs_setting_quote(assignment, quoted);
	if (!equals)
		return cs_error_set(e, -EINVAL, "%s is not KEY=VALUE", quoted);
	snprintf(name, sizeof(name), "%.*s", (int)(equals - assignment), assignment);
	const struct cs_setting *row = cs_setting_find(s, name);
	if (!row)
		return cs_setting_unknown(s, name, e);
	return cs_setting_assign(row, config, equals + 1, e);
}

void cs_settings_free(const struct cs_settings *s, void *config)
{
	for (size_t i = 0; i < s->n; i++) {
		void *field = (char *)config + s->rows[i].offset;
		if (s->rows[i].type == CS_SETTING_LIST)
			cs_strings_free(field);
		if (s->rows[i].type == CS_SETTING_STRING || s->rows[i].type == CS_SETTING_PATH) {
			free(*(char **)field);
			*(char **)field = NULL;
		}
	}
}
