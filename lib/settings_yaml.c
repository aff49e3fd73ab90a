/* The file of settings: libyaml's events, one level of recursion per section. */
#include "settings_row.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct reader {
	const struct cs_settings *s;
	void *config;
	const char *file;
	yaml_parser_t yaml;
	yaml_event_t event;
	bool have_event;
	bool seen[CS_SETTINGS_MAX];
	char sections[CS_SETTINGS_MAX * CS_SETTINGS_MAX_DEPTH][CS_SETTINGS_NAME]; /* opened before */
	size_t nsections;
	struct cs_error *e;
};

static int at(struct reader *r, size_t line, int code)
{
	cs_error_prefix(r->e, "%s:%zu", r->file, line + 1);
	return code;
}

#define FAIL(r, line, ...) at(r, line, cs_error_set((r)->e, -EINVAL, __VA_ARGS__))

/* The next event into r->event; anchors, aliases and tags end here. */
static int next(struct reader *r)
{
	if (r->have_event)
		yaml_event_delete(&r->event);
	r->have_event = false;
	if (!yaml_parser_parse(&r->yaml, &r->event))
		return FAIL(r, r->yaml.problem_mark.line, "not YAML: %s%s%s", r->yaml.context ? r->yaml.context : "",
			r->yaml.context ? ", " : "", r->yaml.problem ? r->yaml.problem : "unreadable");
	r->have_event = true;
	const yaml_event_t *ev = &r->event;
	const yaml_char_t *anchor = NULL, *tag = NULL;
	if (ev->type == YAML_SCALAR_EVENT)
		anchor = ev->data.scalar.anchor, tag = ev->data.scalar.tag;
	if (ev->type == YAML_SEQUENCE_START_EVENT)
		anchor = ev->data.sequence_start.anchor, tag = ev->data.sequence_start.tag;
	if (ev->type == YAML_MAPPING_START_EVENT)
		anchor = ev->data.mapping_start.anchor, tag = ev->data.mapping_start.tag;
	if (anchor || tag || ev->type == YAML_ALIAS_EVENT)
		return FAIL(
			r, ev->start_mark.line, "anchors, aliases and tags are not taken here; write the value itself");
	if (ev->type == YAML_SCALAR_EVENT && strlen((char *)ev->data.scalar.value) != ev->data.scalar.length)
		return FAIL(r, ev->start_mark.line, "a value contains a zero byte");
	return 0;
}

static const char *scalar(const struct reader *r)
{
	return (const char *)r->event.data.scalar.value;
}

static bool is_plain(const struct reader *r)
{
	return r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

/* YAML's ways to say "nothing". */
static bool is_null(const struct reader *r)
{
	const char *v = scalar(r);
	return is_plain(r) && (!*v || strcmp(v, "~") == 0 || strcasecmp(v, "null") == 0);
}

static int wrong_type(struct reader *r, const struct cs_setting *row, const char *got)
{
	char expects[256];
	cs_setting_expects(row, expects);
	return FAIL(r, r->event.start_mark.line, "%s: %s, where %s belongs", row->name, got, expects);
}

static int read_scalar(struct reader *r, const struct cs_setting *row)
{
	size_t line = r->event.start_mark.line;
	if (row->type == CS_SETTING_LIST)
		return wrong_type(r, row, is_null(r) ? "no value" : "a single value");
	if (is_null(r))
		return wrong_type(r, row, "no value");
	if (!is_plain(r) && (row->type == CS_SETTING_BOOL || row->type == CS_SETTING_INT))
		return wrong_type(r, row, "a quoted text");
	int rc = cs_setting_assign(row, r->config, scalar(r), r->e);
	return rc < 0 ? at(r, line, rc) : 0;
}

static int read_items(struct reader *r, const struct cs_setting *row, struct cs_strings *list)
{
	for (;;) {
		int rc = next(r);
		if (rc < 0)
			return rc;
		if (r->event.type == YAML_SEQUENCE_END_EVENT)
			return 0;
		if (r->event.type != YAML_SCALAR_EVENT || is_null(r))
			return wrong_type(r, row, "an entry that is no text");
		if (list->n == CS_SETTINGS_LIST || r->event.data.scalar.length > CS_SETTINGS_TEXT)
			return wrong_type(r, row, "too many or too long entries");
		if (r->event.data.scalar.length == 0)
			return wrong_type(r, row, "an empty entry");
		if (cs_strings_add(list, scalar(r), r->event.data.scalar.length) < 0)
			return at(r, r->event.start_mark.line, cs_error_errno(r->e, -ENOMEM, "%s", row->name));
	}
}

static int read_list(struct reader *r, const struct cs_setting *row)
{
	if (row->type != CS_SETTING_LIST)
		return wrong_type(r, row, "a list");
	struct cs_strings list = {0};
	size_t line = r->event.start_mark.line;
	int rc = read_items(r, row, &list);
	if (rc < 0) {
		cs_strings_free(&list);
		return rc;
	}
	rc = cs_setting_take_list(row, r->config, &list, r->e);
	return rc < 0 ? at(r, line, rc) : 0;
}

static int read_value(struct reader *r, const struct cs_setting *row)
{
	size_t i = (size_t)(row - r->s->rows), line = r->event.start_mark.line;
	if (r->seen[i])
		return FAIL(r, line, "%s is given twice", row->name);
	r->seen[i] = true;
	int rc = next(r);
	if (rc < 0)
		return rc;
	switch (r->event.type) {
	case YAML_SCALAR_EVENT:
		return read_scalar(r, row);
	case YAML_SEQUENCE_START_EVENT:
		return read_list(r, row);
	default:
		return wrong_type(r, row, "a section");
	}
}

static int read_mapping(struct reader *r, const char *path, int depth);

static int read_section(struct reader *r, const char *path, int depth)
{
	for (size_t i = 0; i < r->nsections; i++)
		if (strcmp(r->sections[i], path) == 0)
			return FAIL(r, r->event.start_mark.line,
				"the section %s is there twice; put its settings together", path);
	/* There is room: each is the beginning of a known name, and none comes twice. */
	snprintf(r->sections[r->nsections++], sizeof(r->sections[0]), "%s", path);
	int rc = next(r);
	if (rc < 0)
		return rc;
	if (r->event.type != YAML_MAPPING_START_EVENT)
		return FAIL(r, r->event.start_mark.line, "%s is a section: its settings go below it, indented", path);
	return read_mapping(r, path, depth + 1);
}

static int read_key(struct reader *r, const char *path, int depth)
{
	char name[CS_SETTINGS_NAME];
	size_t line = r->event.start_mark.line;
	if (r->event.type != YAML_SCALAR_EVENT)
		return FAIL(r, line, "the name of a setting belongs here");
	if (snprintf(name, sizeof(name), "%s%s%s", path, *path ? "." : "", scalar(r)) >= (int)sizeof(name))
		return at(r, line, cs_setting_unknown(r->s, name, r->e));
	const struct cs_setting *row = cs_setting_find(r->s, name);
	bool section = !row && cs_setting_is_section(r->s, name);
	if ((row || section) && strchr(scalar(r), '.'))
		return FAIL(r, line, "'%s' belongs into sections: one level of indentation per dot", scalar(r));
	if (row)
		return read_value(r, row);
	if (section && depth < CS_SETTINGS_MAX_DEPTH)
		return read_section(r, name, depth);
	return at(r, line, cs_setting_unknown(r->s, name, r->e));
}

static int read_mapping(struct reader *r, const char *path, int depth)
{
	for (;;) {
		int rc = next(r);
		if (rc < 0)
			return rc;
		if (r->event.type == YAML_MAPPING_END_EVENT)
			return 0;
		rc = read_key(r, path, depth);
		if (rc < 0)
			return rc;
	}
}

static int read_document(struct reader *r)
{
	int rc = next(r);
	if (rc < 0)
		return rc;
	if (r->event.type == YAML_SCALAR_EVENT && is_null(r))
		return 0;
	if (r->event.type != YAML_MAPPING_START_EVENT)
		return FAIL(r, r->event.start_mark.line, "settings belong here, as 'name: value'");
	return read_mapping(r, "", 1);
}

static int read_stream(struct reader *r)
{
	for (int documents = 0;;) {
		int rc = next(r);
		if (rc < 0)
			return rc;
		if (r->event.type == YAML_STREAM_END_EVENT)
			return 0;
		if (r->event.type != YAML_DOCUMENT_START_EVENT)
			continue; /* the stream's start, a document's end */
		if (documents++)
			return FAIL(r, r->event.start_mark.line, "a second document; one file holds one");
		rc = read_document(r);
		if (rc < 0)
			return rc;
	}
}

int cs_settings_yaml(
	const struct cs_settings *s, void *config, const char *file, const char *text, size_t len, struct cs_error *e)
{
	struct reader *r = calloc(1, sizeof(*r));
	if (!r || s->n > CS_SETTINGS_MAX || !yaml_parser_initialize(&r->yaml)) {
		free(r);
		return cs_error_errno(e, -ENOMEM, "%s", file);
	}
	r->s = s;
	r->config = config;
	r->file = file;
	r->e = e;
	yaml_parser_set_encoding(&r->yaml, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&r->yaml, (const unsigned char *)text, len);
	int rc = read_stream(r);
	if (r->have_event)
		yaml_event_delete(&r->event);
	yaml_parser_delete(&r->yaml);
	free(r);
	return rc;
}

int cs_settings_file(const struct cs_settings *s, void *config, const char *file, struct cs_error *e)
{
	FILE *f = fopen(file, "re");
	if (!f)
		return cs_error_errno(e, -errno, "cannot open %s", file);
	int rc = 0;
	char *text = malloc(CS_SETTINGS_FILE + 1);
	size_t len = text ? fread(text, 1, CS_SETTINGS_FILE + 1, f) : 0;
	if (!text)
		rc = cs_error_errno(e, -ENOMEM, "%s", file);
	else if (ferror(f))
		rc = cs_error_errno(e, -errno, "cannot read %s", file);
	else if (len > CS_SETTINGS_FILE)
		rc = cs_error_set(e, -EFBIG, "%s has more than %d bytes", file, CS_SETTINGS_FILE);
	else
		rc = cs_settings_yaml(s, config, file, text, len, e);
	fclose(f);
	free(text);
	return rc;
}
