#include "view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS 16
#define LISTED  4

static const char *const codes[] = {"", "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[2m"};

/* ---- texts ---- */

/* What comes from a daemon may come from a peer: nothing in it may move the cursor. */
static void put_clean(FILE *out, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f) { /* C1 controls */
			fputc('?', out);
			p++;
		} else {
			fputc(*p < 0x20 || *p == 0x7f ? '?' : *p, out);
		}
	}
}

void cs_view_styled(FILE *out, enum cs_style style, bool colour, const char *text)
{
	bool paint = colour && style != CS_STYLE_PLAIN && *text;
	fputs(paint ? codes[style] : "", out);
	put_clean(out, text);
	fputs(paint ? "\x1b[0m" : "", out);
}

void cs_view_span(int64_t ms, char out[24])
{
	static const struct {
		const char *name;
		int64_t ms;
	} units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}};
	for (size_t i = 0; i < 3; i++)
		if (ms >= 2 * units[i].ms) {
			snprintf(out, 24, "%" PRId64 "%s", ms / units[i].ms, units[i].name);
			return;
		}
	snprintf(out, 24, "%" PRId64 "s", ms / 1000);
}

/* Characters, not bytes: what an aligned column counts. */
static size_t width(const char *text)
{
	size_t n = 0;
	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

/* ---- cells ---- */

enum cs_style cs_cell_text(const json_t *value, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	if (json_is_string(value))
		fputs(json_string_value(value), out);
	else if (json_is_integer(value))
		fprintf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_boolean(value))
		fputs(json_is_true(value) ? "yes" : "no", out);
	return CS_STYLE_PLAIN;
}

enum cs_style cs_cell_list(const json_t *value, int64_t now_unix_ms, FILE *out)
{
	size_t n = json_array_size(value);
	for (size_t i = 0; i < n && i < LISTED; i++) {
		fputs(i ? ", " : "", out);
		cs_cell_text(json_array_get(value, i), now_unix_ms, out);
	}
	if (n > LISTED)
		fprintf(out, ", ... (%zu)", n);
	return CS_STYLE_PLAIN;
}

static void put_relative(int64_t at_ms, int64_t now_ms, FILE *out)
{
	char span[24];
	int64_t distance;
	bool future = at_ms > now_ms;
	if (__builtin_sub_overflow(future ? at_ms : now_ms, future ? now_ms : at_ms, &distance))
		distance = INT64_MAX;
	cs_view_span(distance, span);
	fprintf(out, future ? "in %s" : "%s ago", span);
}

enum cs_style cs_cell_ago(const json_t *value, int64_t now_unix_ms, FILE *out)
{
	int64_t at_ms = json_integer_value(value);
	if (at_ms == 0)
		return CS_STYLE_PLAIN;
	/* Clocks of two processes are read one after the other: "in 0s" would be odd. */
	put_relative(at_ms < now_unix_ms + 1000 && at_ms > now_unix_ms ? now_unix_ms : at_ms, now_unix_ms, out);
	return CS_STYLE_PLAIN;
}

enum cs_style cs_cell_until(const json_t *value, int64_t now_unix_ms, FILE *out)
{
	int64_t at_s = json_integer_value(value), at_ms;
	if (at_s == 0)
		return CS_STYLE_PLAIN;
	if (__builtin_mul_overflow(at_s, 1000, &at_ms))
		at_ms = at_s > 0 ? INT64_MAX : INT64_MIN;
	put_relative(at_ms, now_unix_ms, out);
	return at_ms <= now_unix_ms ? CS_STYLE_BAD : at_ms - now_unix_ms < 300000 ? CS_STYLE_WARN : CS_STYLE_PLAIN;
}

/* ---- tables ---- */

struct cell {
	char *text;
	enum cs_style style;
};

static void fill(struct cell *cell, const struct cs_column *column, const json_t *row, int64_t now_unix_ms)
{
	char *raw = NULL;
	size_t len;
	FILE *f = open_memstream(&raw, &len);
	if (!f)
		abort();
	const json_t *value = column->key ? json_object_get(row, column->key) : row;
	cell->style = column->cell(value, now_unix_ms, f);
	fclose(f);
	f = open_memstream(&cell->text, &len);
	if (!f)
		abort();
	put_clean(f, raw && *raw ? raw : "-");
	fclose(f);
	free(raw);
}

static void put_cell(
	FILE *out, const struct cell *cell, const struct cs_column *column, size_t room, bool last, bool colour)
{
	size_t pad = room - width(cell->text);
	bool dash = strcmp(cell->text, "-") == 0;
	fprintf(out, "%*s", column->right ? (int)pad : 0, "");
	cs_view_styled(out, dash ? CS_STYLE_DIM : cell->style, colour, cell->text);
	if (!last)
		fprintf(out, "%*s", (int)(column->right ? 0 : pad) + 2, "");
}

void cs_view_table(FILE *out, const json_t *rows, const struct cs_column *columns, size_t ncolumns, const char *empty,
	int64_t now_unix_ms, bool colour)
{
	size_t nrows = json_array_size(rows), widths[COLUMNS];
	if (nrows == 0) {
		cs_view_styled(out, CS_STYLE_DIM, colour, empty);
		fputc('\n', out);
		return;
	}
	struct cell *cells = calloc((nrows + 1) * ncolumns, sizeof(*cells));
	if (!cells || ncolumns > COLUMNS)
		abort();
	for (size_t c = 0; c < ncolumns; c++) {
		cells[c] = (struct cell){.text = strdup(columns[c].header), .style = CS_STYLE_DIM};
		widths[c] = width(columns[c].header);
		for (size_t r = 0; r < nrows; r++) {
			struct cell *cell = &cells[(r + 1) * ncolumns + c];
			fill(cell, &columns[c], json_array_get(rows, r), now_unix_ms);
			if (width(cell->text) > widths[c])
				widths[c] = width(cell->text);
		}
	}
	for (size_t i = 0; i < (nrows + 1) * ncolumns; i++) {
		size_t c = i % ncolumns;
		put_cell(out, &cells[i], &columns[c], widths[c], c == ncolumns - 1, colour);
		if (c == ncolumns - 1)
			fputc('\n', out);
		free(cells[i].text);
	}
	free(cells);
}

void cs_view_json(FILE *out, const json_t *document)
{
	if (json_dumpf(document, out, JSON_INDENT(2)) < 0)
		abort();
	fputc('\n', out);
}
