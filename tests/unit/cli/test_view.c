/* cli/view: tables that line up, times that a person reads, and nothing that moves the cursor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "view.h"

#define NOW INT64_C(1700000000000)

static char *text;

static FILE *open_text(void)
{
	static size_t len;
	free(text);
	text = NULL;
	return open_memstream(&text, &len);
}

static const char *table(const char *json, const struct cs_column *columns, size_t n, bool colour)
{
	json_t *rows = json_loads(json, 0, NULL);
	FILE *out = open_text();
	assert_non_null(rows);
	cs_view_table(out, rows, columns, n, "nothing here", NOW, colour);
	fclose(out);
	json_decref(rows);
	return text;
}

static const char *cell(cs_cell *fn, json_t *value, enum cs_style *style)
{
	FILE *out = open_text();
	enum cs_style s = fn(value, NOW, out);
	fclose(out);
	json_decref(value);
	if (style)
		*style = s;
	return text;
}

static const struct cs_column columns[] = {
	{"NAME", "name", cs_cell_text, false},
	{"N", "n", cs_cell_text, true},
	{"LIST", "list", cs_cell_list, false},
};

static void test_aligned(void **state)
{
	(void)state;
	assert_string_equal(table("[{\"name\":\"a\",\"n\":1,\"list\":[\"x\",\"y\"]},{\"name\":\"long "
				  "name\",\"n\":12345,\"list\":[]}]",
				    columns, 3, false),
		"NAME           N  LIST\n"
		"a              1  x, y\n"
		"long name  12345  -\n");
	assert_string_equal(table("[]", columns, 3, false), "nothing here\n");
	/* characters, not bytes */
	assert_string_equal(table("[{\"name\":\"\xc3\xa4\xc3\xb6\xc3\xbc-x\",\"n\":1},{\"name\":\"abcdef\",\"n\":2}]",
				    columns, 3, false),
		"NAME    N  LIST\n"
		"\xc3\xa4\xc3\xb6\xc3\xbc-x   1  -\n"
		"abcdef  2  -\n");
	assert_string_equal(table("[{\"name\":true,\"n\":null,\"list\":[1,2,3,4,5,6]}]", columns, 3, false),
		"NAME  N  LIST\n"
		"yes   -  1, 2, 3, 4, ... (6)\n");
}

static void test_colour(void **state)
{
	(void)state;
	const struct cs_column until[] = {{"UNTIL", "t", cs_cell_until, false}};
	assert_string_equal(table("[{\"t\":1}]", until, 1, true), "\x1b[2mUNTIL\x1b[0m\n\x1b[31m19675d ago\x1b[0m\n");
	assert_string_equal(table("[]", until, 1, true), "\x1b[2mnothing here\x1b[0m\n");
	assert_null(strchr(table("[{\"t\":1}]", until, 1, false), '\x1b'));
}

static void test_hostile(void **state)
{
	(void)state;
	assert_string_equal(table("[{\"name\":\"a\\u001b[2J\\nb\\u009b\\u007f\"}]", columns, 1, false), "NAME\n"
													"a?[2J?b??\n");
	FILE *out = open_text();
	cs_view_styled(out, CS_STYLE_BAD, true, "x\x1b[0my");
	fclose(out);
	assert_string_equal(text, "\x1b[31mx?[0my\x1b[0m");
}

static void test_spans(void **state)
{
	(void)state;
	const struct {
		int64_t ms;
		const char *text;
	} spans[] = {{0, "0s"}, {999, "0s"}, {1000, "1s"}, {119999, "119s"}, {120000, "2m"}, {7199999, "119m"},
		{7200000, "2h"}, {172799999, "47h"}, {172800000, "2d"}, {INT64_MAX, "106751991167d"}};
	for (size_t i = 0; i < sizeof(spans) / sizeof(spans[0]); i++) {
		char out[24];
		cs_view_span(spans[i].ms, out);
		assert_string_equal(out, spans[i].text);
	}
}

static void test_times(void **state)
{
	(void)state;
	enum cs_style style;
	assert_string_equal(cell(cs_cell_ago, json_integer(NOW - 5000), NULL), "5s ago");
	assert_string_equal(cell(cs_cell_ago, json_integer(NOW + 500), NULL), "0s ago"); /* another process' clock */
	assert_string_equal(cell(cs_cell_ago, json_integer(NOW + 130000), NULL), "in 2m");
	assert_string_equal(cell(cs_cell_ago, json_integer(0), NULL), "");
	assert_string_equal(cell(cs_cell_ago, json_integer(INT64_MIN), NULL), "106751991167d ago");
	assert_string_equal(cell(cs_cell_until, json_integer(NOW / 1000 + 52 * 60), &style), "in 52m");
	assert_int_equal(style, CS_STYLE_PLAIN);
	assert_string_equal(cell(cs_cell_until, json_integer(NOW / 1000 + 60), &style), "in 60s");
	assert_int_equal(style, CS_STYLE_WARN);
	assert_string_equal(cell(cs_cell_until, json_integer(NOW / 1000 - 180), &style), "3m ago");
	assert_int_equal(style, CS_STYLE_BAD);
	assert_string_equal(cell(cs_cell_until, json_integer(0), NULL), "");
	assert_string_equal(cell(cs_cell_until, json_integer(INT64_MAX), NULL), "in 106751971491d");
	assert_string_equal(cell(cs_cell_until, json_null(), NULL), "");
}

static int cleanup(void **state)
{
	(void)state;
	free(text);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_aligned), cmocka_unit_test(test_colour),
		cmocka_unit_test(test_hostile), cmocka_unit_test(test_spans), cmocka_unit_test(test_times)};
	return cmocka_run_group_tests(tests, NULL, cleanup);
}
