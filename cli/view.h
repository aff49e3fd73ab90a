/* What a command found is one JSON document. -o json prints it; a table is a view of one of its lists, column by
 * column. */
#ifndef CS_CLI_VIEW_H
#define CS_CLI_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum cs_style { CS_STYLE_PLAIN, CS_STYLE_GOOD, CS_STYLE_WARN, CS_STYLE_BAD, CS_STYLE_DIM };

/* Writes the text of one cell. value is what the row has under the column's key, or the row if the key is NULL. */
typedef enum cs_style cs_cell(const json_t *value, int64_t now_unix_ms, FILE *out);

struct cs_column {
	const char *header;
	const char *key;
	cs_cell *cell;
	bool right; /* numbers */
};

cs_cell cs_cell_text;  /* a string, number or boolean; nothing for null */
cs_cell cs_cell_list;  /* a list of them, joined by commas; its length in brackets after the first four */
cs_cell cs_cell_ago;   /* milliseconds: "3m ago" */
cs_cell cs_cell_until; /* seconds: "in 52m", "3m ago" (bad) */

/* Aligned columns, two spaces apart; empty: one line that says so. Control characters become '?'. */
void cs_view_table(FILE *out, const json_t *rows, const struct cs_column *columns, size_t ncolumns, const char *empty,
	int64_t now_unix_ms, bool colour);
/* The document, indented, and a newline. */
void cs_view_json(FILE *out, const json_t *document);
/* text in a style, without control characters. */
void cs_view_styled(FILE *out, enum cs_style style, bool colour, const char *text);

/* "0s", "52m", "23h", "12d": the largest unit of which there are at least two, or one. */
void cs_view_span(int64_t ms, char out[24]);

#endif
