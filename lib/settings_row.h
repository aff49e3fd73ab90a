/* One row of a table of settings: what it expects, and texts into its field. Shared by lib/settings*.c. */
#ifndef CS_SETTINGS_ROW_H
#define CS_SETTINGS_ROW_H

#include "settings.h"

/* NULL if there is none of that name. */
const struct cs_setting *cs_setting_find(const struct cs_settings *s, const char *name);
/* Whether some name starts with "section." */
bool cs_setting_is_section(const struct cs_settings *s, const char *section);
/* -ENOENT and "unknown setting 'x'; did you mean y?" */
int cs_setting_unknown(const struct cs_settings *s, const char *name, struct cs_error *e);
/* "a duration from 1s to 1h, like 10m" */
void cs_setting_expects(const struct cs_setting *row, char out[256]);
/* -EINVAL and "auth.max_ttl: '5 parsecs' is not a duration from 1s to 1h, like 10m" */
int cs_setting_refuse(const struct cs_setting *row, const char *value, struct cs_error *e);
/* A text into the field; a list is split at its commas. */
CS_MUST_USE int cs_setting_assign(const struct cs_setting *row, void *config, const char *text, struct cs_error *e);
/* The entries of *list move into the field, or are freed. */
CS_MUST_USE int cs_setting_take_list(
	const struct cs_setting *row, void *config, struct cs_strings *list, struct cs_error *e);
CS_MUST_USE int cs_strings_add(struct cs_strings *list, const char *text, size_t len);
void cs_strings_free(struct cs_strings *list);
/* value for a message: cut, and without control characters. */
void cs_setting_quote(const char *value, char out[80]);

#endif
