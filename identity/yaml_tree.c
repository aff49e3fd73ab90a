#include "yaml_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

struct builder {
	const char *file;
	yaml_parser_t parser;
	size_t nodes, depth;
	struct cs_error *e;
};

void cs_yaml_free(struct cs_yaml *node)
{
	while (node) {
		struct cs_yaml *next = node->next;
		cs_yaml_free(node->kids);
		free(node->key);
		free(node->text);
		free(node);
		node = next;
	}
}

static unsigned line_of(const yaml_event_t *event)
{
	return (unsigned)event->start_mark.line + 1;
}

static int refuse(struct builder *b, const yaml_event_t *event, const char *what)
{
	return cs_error_set(b->e, -EINVAL, "%s:%u: %s", b->file, line_of(event), what);
}

static int next_event(struct builder *b, yaml_event_t *event)
{
	if (yaml_parser_parse(&b->parser, event))
		return 0;
	const yaml_parser_t *p = &b->parser;
	if (p->error == YAML_MEMORY_ERROR)
		return cs_error_set(b->e, -ENOMEM, "out of memory");
	return cs_error_set(b->e, -EINVAL, "%s:%zu: not YAML: %s", b->file, (size_t)p->problem_mark.line + 1,
		p->problem ? p->problem : "it cannot be read");
}

/* Anchors and aliases can make a small file large ("billion laughs"); a tag can give a value another type. */
static int check_plain(struct builder *b, const yaml_event_t *event)
{
	const yaml_char_t *anchor = NULL, *tag = NULL;
	switch (event->type) {
	case YAML_ALIAS_EVENT:
		return refuse(b, event, "YAML aliases (*name) are not taken; write the value out");
	case YAML_SCALAR_EVENT:
		anchor = event->data.scalar.anchor;
		tag = event->data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT:
		anchor = event->data.sequence_start.anchor;
		tag = event->data.sequence_start.tag;
		break;
	case YAML_MAPPING_START_EVENT:
		anchor = event->data.mapping_start.anchor;
		tag = event->data.mapping_start.tag;
		break;
	default:
		break;
	}
	if (anchor)
		return refuse(b, event, "YAML anchors (&name) are not taken; write the value where it is used");
	if (tag)
		return refuse(b, event, "YAML tags (!name) are not taken");
	return 0;
}

static int take_text(struct builder *b, const yaml_event_t *event, char **ret)
{
	size_t n = event->data.scalar.length;
	const char *text = (const char *)event->data.scalar.value;
	if (n > CS_YAML_SCALAR_MAX)
		return cs_error_set(b->e, -E2BIG, "%s:%u: text of %zu bytes, more than %d", b->file, line_of(event), n,
			(int)CS_YAML_SCALAR_MAX);
	if (memchr(text, 0, n))
		return refuse(b, event, "text with a NUL byte");
	*ret = strndup(text, n);
	return *ret ? 0 : cs_error_set(b->e, -ENOMEM, "out of memory");
}

static int parse_node(struct builder *b, const yaml_event_t *event, struct cs_yaml **ret);

static int take_key(struct builder *b, const struct cs_yaml *map, const yaml_event_t *event, char **ret)
{
	int r = check_plain(b, event);
	if (r < 0)
		return r;
	if (event->type != YAML_SCALAR_EVENT)
		return refuse(b, event, "a key must be text");
	r = take_text(b, event, ret);
	if (r < 0)
		return r;
	const struct cs_yaml *there = cs_yaml_get(map, *ret);
	if (there)
		return cs_error_set(b->e, -EINVAL, "%s:%u: '%s' is given twice, first in line %u", b->file,
			line_of(event), *ret, there->line);
	return 0;
}

/* One element of a list, or key and value of a mapping; *ret is NULL at the end. */
static int parse_kid(struct builder *b, const struct cs_yaml *parent, struct cs_yaml **ret)
{
	yaml_event_t event;
	char *key = NULL;
	*ret = NULL;
	int r = next_event(b, &event);
	if (r < 0)
		return r;
	if (event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT) {
		yaml_event_delete(&event);
		return 0;
	}
	unsigned line = line_of(&event);
	if (parent->kind == CS_YAML_MAP) {
		r = take_key(b, parent, &event, &key);
		yaml_event_delete(&event);
		if (r == 0)
			r = next_event(b, &event);
		if (r < 0) {
			free(key);
			return r;
		}
	}
	r = parse_node(b, &event, ret);
	yaml_event_delete(&event);
	if (r < 0) {
		free(key);
		return r;
	}
	(*ret)->key = key;
	if (key)
		(*ret)->line = line;
	return 0;
}

static int parse_kids(struct builder *b, struct cs_yaml *parent)
{
	struct cs_yaml **tail = &parent->kids;
	if (++b->depth > CS_YAML_DEPTH_MAX)
		return cs_error_set(b->e, -E2BIG, "%s:%u: nested deeper than %d levels", b->file, parent->line,
			(int)CS_YAML_DEPTH_MAX);
	for (;;) {
		int r = parse_kid(b, parent, tail);
		if (r < 0)
			return r;
		if (!*tail)
			break;
		if (++parent->nkids > CS_YAML_LIST_MAX)
			return cs_error_set(b->e, -E2BIG, "%s:%u: more than %d elements", b->file, parent->line,
				(int)CS_YAML_LIST_MAX);
		tail = &(*tail)->next;
	}
	b->depth--;
	return 0;
}

/* *ret is NULL on failure. */
static int parse_node(struct builder *b, const yaml_event_t *event, struct cs_yaml **ret)
{
	int r = check_plain(b, event);
	if (r < 0)
		return r;
	if (++b->nodes > CS_YAML_NODES_MAX)
		return cs_error_set(b->e, -E2BIG, "%s:%u: more than %d values in a file", b->file, line_of(event),
			(int)CS_YAML_NODES_MAX);
	struct cs_yaml *node = calloc(1, sizeof(*node));
	if (!node)
		return cs_error_set(b->e, -ENOMEM, "out of memory");
	node->line = line_of(event);
	if (event->type == YAML_SCALAR_EVENT) {
		node->kind = CS_YAML_SCALAR;
		node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
		r = take_text(b, event, &node->text);
	} else {
		node->kind = event->type == YAML_MAPPING_START_EVENT ? CS_YAML_MAP : CS_YAML_LIST;
		r = parse_kids(b, node);
	}
	if (r < 0) {
		cs_yaml_free(node);
		return r;
	}
	*ret = node;
	return 0;
}

static int parse_documents(struct builder *b, struct cs_yaml **tail)
{
	size_t documents = 0;
	for (;;) {
		yaml_event_t event;
		int r = next_event(b, &event);
		if (r < 0)
			return r;
		yaml_event_type_t type = event.type;
		if (type == YAML_DOCUMENT_START_EVENT && ++documents > CS_YAML_DOCUMENTS_MAX)
			r = cs_error_set(b->e, -E2BIG, "%s:%u: more than %d documents in a file", b->file,
				line_of(&event), (int)CS_YAML_DOCUMENTS_MAX);
		else if (type == YAML_SCALAR_EVENT || type == YAML_SEQUENCE_START_EVENT ||
			 type == YAML_MAPPING_START_EVENT || type == YAML_ALIAS_EVENT)
			r = parse_node(b, &event, tail);
		yaml_event_delete(&event);
		if (r < 0 || type == YAML_STREAM_END_EVENT)
			return r;
		if (*tail && cs_yaml_is_null(*tail)) {
			cs_yaml_free(*tail);
			*tail = NULL;
		}
		if (*tail)
			tail = &(*tail)->next;
	}
}

int cs_yaml_parse(const char *file, const void *bytes, size_t n, struct cs_yaml **ret, struct cs_error *e)
{
	if (n > CS_YAML_FILE_MAX)
		return cs_error_set(
			e, -E2BIG, "%s:1: the file has %zu bytes, more than %d", file, n, (int)CS_YAML_FILE_MAX);
	struct builder b = {.file = file, .e = e};
	if (!yaml_parser_initialize(&b.parser))
		return cs_error_set(e, -ENOMEM, "out of memory");
	yaml_parser_set_input_string(&b.parser, bytes, n);
	struct cs_yaml *documents = NULL;
	int r = parse_documents(&b, &documents);
	yaml_parser_delete(&b.parser);
	if (r < 0) {
		cs_yaml_free(documents);
		return r;
	}
	*ret = documents;
	return 0;
}

const struct cs_yaml *cs_yaml_get(const struct cs_yaml *map, const char *key)
{
	if (map->kind != CS_YAML_MAP)
		return NULL;
	for (const struct cs_yaml *kid = map->kids; kid; kid = kid->next)
		if (kid->key && strcmp(kid->key, key) == 0)
			return kid;
	return NULL;
}

static bool is_plain(const struct cs_yaml *node)
{
	return node->kind == CS_YAML_SCALAR && !node->quoted;
}

bool cs_yaml_is_null(const struct cs_yaml *node)
{
	return is_plain(node) && (!*node->text || strcmp(node->text, "~") == 0 || strcasecmp(node->text, "null") == 0);
}

/* YAML 1.1, which Kubernetes' tools read, has all of these. */
static bool is_bool(const struct cs_yaml *node)
{
	static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "y", "n"};
	for (size_t i = 0; is_plain(node) && i < sizeof(words) / sizeof(words[0]); i++)
		if (strcasecmp(node->text, words[i]) == 0)
			return true;
	return false;
}

static bool is_number(const struct cs_yaml *node)
{
	if (!is_plain(node) || !node->text[strspn(node->text, "+-.")])
		return false;
	if (strcasecmp(node->text, ".inf") == 0 || strcasecmp(node->text, ".nan") == 0)
		return true;
	const char *digits = node->text + (*node->text == '-' || *node->text == '+');
	if (!((*digits >= '0' && *digits <= '9') || *digits == '.'))
		return false;
	if (strncmp(digits, "0b", 2) == 0 || strncmp(digits, "0o", 2) == 0)
		return !digits[2 + strspn(digits + 2, "01234567_")];
	char *end;
	strtod(digits, &end);
	return !*end || !digits[strspn(digits, "0123456789_")];
}

bool cs_yaml_is_text(const struct cs_yaml *node)
{
	return node->kind == CS_YAML_SCALAR && !cs_yaml_is_null(node) && !is_bool(node) && !is_number(node);
}

const char *cs_yaml_kind_name(const struct cs_yaml *node)
{
	if (node->kind != CS_YAML_SCALAR)
		return node->kind == CS_YAML_MAP ? "a mapping" : "a list";
	if (cs_yaml_is_null(node))
		return "nothing";
	if (is_bool(node))
		return "true or false";
	return is_number(node) ? "a number" : "text";
}
