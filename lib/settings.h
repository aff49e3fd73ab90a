/* Configuration. A daemon has ONE table of settings; it drives the parser and its limits, --help, --set and the
 * reference in docs/reference/. The file is YAML, nested by the dots of the names:
 *
 *	auth:
 *	  max_ttl: 30m		# the setting auth.max_ttl
 *
 * Strict: an unknown key, a key given twice, a wrong type, a value out of range, an anchor, alias or tag is an error
 * that names file, line, the value and what would be right. */
#ifndef CS_SETTINGS_H
#define CS_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "error.h"

#define CS_SETTINGS_MAX       128 /* rows in a table */
#define CS_SETTINGS_NAME      64  /* bytes of a name, with its NUL */
#define CS_SETTINGS_FILE      (1024 * 1024)
#define CS_SETTINGS_TEXT      4096 /* one value */
#define CS_SETTINGS_LIST      1024 /* entries of a list, whatever its own limit */
#define CS_SETTINGS_MAX_DEPTH 4

struct cs_strings {
	char **items;
	size_t n;
};

enum cs_setting_type {
	CS_SETTING_BOOL,     /* bool: true, false */
	CS_SETTING_INT,      /* int64_t: decimal */
	CS_SETTING_DURATION, /* int64_t, milliseconds: 250ms, 10s, 1h30m, 7d; a bare number only if it is 0 */
	CS_SETTING_STRING,   /* char *, never NULL */
	CS_SETTING_PATH,     /* char *, absolute, or empty where min is 0 */
	CS_SETTING_ENUM,     /* int: index into choices */
	CS_SETTING_LIST,     /* struct cs_strings; as text (--set, default): a,b,c */
};

/* One row. Make it by the macros below: they check that the field has the type that the row says. */
struct cs_setting {
	const char *name; /* dotted, lower case: "auth.max_ttl" */
	enum cs_setting_type type;
	const char *def;            /* as one would write it after --set name= */
	int64_t min, max;           /* INT: the value; DURATION: ms; STRING, PATH: length; LIST: entries */
	const char *unit;           /* for people, INT: "packets"; may be NULL */
	const char *const *choices; /* ENUM, NULL-terminated */
	const char *help;           /* one sentence, no full stop */
	size_t offset;              /* of the field in the daemon's config */
};

#define CS_FIELD_AT(config, field, ctype)                                                                              \
	(offsetof(config, field) +                                                                                     \
		0 * sizeof(char[__builtin_types_compatible_p(__typeof__(((config *)0)->field), ctype) ? 1 : -1]))

#define CS_SET_BOOL(config, field, name_, def_, help_)                                                                 \
	{                                                                                                              \
		.name = name_, .type = CS_SETTING_BOOL, .def = def_, .help = help_,                                    \
		.offset = CS_FIELD_AT(config, field, bool)                                                             \
	}
#define CS_SET_INT(config, field, name_, def_, min_, max_, unit_, help_)                                               \
	{                                                                                                              \
		.name = name_, .type = CS_SETTING_INT, .def = def_, .min = min_, .max = max_, .unit = unit_,           \
		.help = help_, .offset = CS_FIELD_AT(config, field, int64_t)                                           \
	}
#define CS_SET_DURATION(config, field, name_, def_, min_ms_, max_ms_, help_)                                           \
	{                                                                                                              \
		.name = name_, .type = CS_SETTING_DURATION, .def = def_, .min = min_ms_, .max = max_ms_,               \
		.help = help_, .offset = CS_FIELD_AT(config, field, int64_t)                                           \
	}
#define CS_SET_STRING(config, field, name_, def_, minlen_, maxlen_, help_)                                             \
	{                                                                                                              \
		.name = name_, .type = CS_SETTING_STRING, .def = def_, .min = minlen_, .max = maxlen_, .help = help_,  \
		.offset = CS_FIELD_AT(config, field, char *)                                                           \
	}
#define CS_SET_PATH(config, field, name_, def_, minlen_, help_)                                                        \
	{                                                                                                              \
		.name = name_, .type = CS_SETTING_PATH, .def = def_, .min = minlen_, .max = 255, .help = help_,        \
		.offset = CS_FIELD_AT(config, field, char *)                                                           \
	}
#define CS_SET_ENUM(config, field, name_, def_, choices_, help_)                                                       \
	{                                                                                                              \
		.name = name_, .type = CS_SETTING_ENUM, .def = def_, .choices = choices_, .help = help_,               \
		.offset = CS_FIELD_AT(config, field, int)                                                              \
	}
#define CS_SET_LIST(config, field, name_, def_, min_, max_, help_)                                                     \
	{                                                                                                              \
		.name = name_, .type = CS_SETTING_LIST, .def = def_, .min = min_, .max = max_, .help = help_,          \
		.offset = CS_FIELD_AT(config, field, struct cs_strings)                                                \
	}

struct cs_settings {
	const struct cs_setting *rows;
	size_t n;
};

/* All defaults into *config, which must be zeroed. An error means that the table itself is wrong. */
CS_MUST_USE int cs_settings_defaults(const struct cs_settings *s, void *config, struct cs_error *e);
/* Bytes in, values or an error out. `file` is for messages only. After an error *config holds some of the new values
 * and stays freeable. An empty text changes nothing. */
CS_MUST_USE int cs_settings_yaml(
	const struct cs_settings *s, void *config, const char *file, const char *text, size_t len, struct cs_error *e);
/* Reads a file of at most CS_SETTINGS_FILE bytes. */
CS_MUST_USE int cs_settings_file(const struct cs_settings *s, void *config, const char *file, struct cs_error *e);
/* "key=value", as after --set. */
CS_MUST_USE int cs_settings_set(const struct cs_settings *s, void *config, const char *assignment, struct cs_error *e);
/* Frees what the fields hold, and leaves them empty. Takes a zeroed or half-filled config. */
void cs_settings_free(const struct cs_settings *s, void *config);

/* "." if the sentence lacks it, else "". */
const char *cs_full_stop(const char *sentence);
/* The section "settings" of --help, and the page for docs/reference/ (Markdown). */
void cs_settings_help(const struct cs_settings *s, FILE *out);
void cs_settings_reference(const struct cs_settings *s, const char *program, const char *summary, FILE *out);

/* "1h30m" and the like to milliseconds, and back into the shortest text. */
CS_MUST_USE int cs_duration_parse(const char *text, int64_t *ret_ms, struct cs_error *e);
void cs_duration_format(int64_t ms, char out[32]);
/* The name that is nearest to `word` in a NULL-terminated list, or NULL if none is near. For "did you mean". */
const char *cs_nearest(const char *word, const char *const *names);

#endif
