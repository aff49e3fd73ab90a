/* lib/options: a command line in, options and words out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>

#include "options.h"

static const struct cs_option first[] = {
	{.name = "instance", .arg = "DIR", .help = "Where"}, {.name = "help", .letter = 'h', .help = "This"}};
static const struct cs_option second[] = {{.name = "output", .letter = 'o', .arg = "FORM", .help = "How"},
	{.name = "label", .arg = "LABEL", .many = true, .help = "Labels"}};

/* "name=value" per option and "word" per word, separated by '|'; or "error: ...". */
static const char *parsed(char *const *argv)
{
	static char out[2048];
	struct cs_options_reader r = {.tables = {first, second}, .n = {2, 2}, .argv = (char **)argv, .at = 1};
	const struct cs_option *option;
	const char *value;
	struct cs_error e;
	int found;
	out[0] = '\0';
	while (argv[r.argc])
		r.argc++;
	while ((found = cs_options_next(&r, &option, &value, &e)) > 0) {
		size_t n = strlen(out);
		snprintf(out + n, sizeof(out) - n, "%s%s%s|", found == CS_OPTIONS_OPTION ? option->name : "",
			found == CS_OPTIONS_OPTION ? "=" : "", value);
	}
	if (found < 0)
		snprintf(out, sizeof(out), "error: %s", e.text);
	return out;
}

#define PARSED(...) parsed((char *const[]){(char *)"program", ##__VA_ARGS__, NULL})
#define A(text)     (char *)text

static void test_good(void **state)
{
	(void)state;
	assert_string_equal(PARSED(), "");
	assert_string_equal(PARSED(A("--instance"), A("/x"), A("word"), A("-h")), "instance=/x|word|help=|");
	assert_string_equal(
		PARSED(A("--instance=/x=y"), A("--label="), A("--label"), A("")), "instance=/x=y|label=|label=|");
	assert_string_equal(PARSED(A("-o"), A("json"), A("-ojson")), "output=json|output=json|");
	assert_string_equal(PARSED(A("--output"), A("--help")), "output=--help|"); /* a value is a value */
	assert_string_equal(PARSED(A("-"), A("--"), A("--help"), A("--"), A("-x")), "-|--help|--|-x|");
}

static void test_bad(void **state)
{
	(void)state;
	assert_string_equal(PARSED(A("--instanc=x")), "error: unknown option --instanc; did you mean --instance?");
	assert_string_equal(PARSED(A("--zzzzzz")), "error: unknown option --zzzzzz; see --help");
	assert_string_equal(PARSED(A("-x")), "error: unknown option -x; see --help");
	assert_string_equal(PARSED(A("-hx")), "error: unknown option -hx; see --help");
	assert_string_equal(PARSED(A("--instance")), "error: --instance needs a value: --instance DIR");
	assert_string_equal(PARSED(A("-o")), "error: --output needs a value: --output FORM");
	assert_string_equal(PARSED(A("--help=yes")), "error: --help takes no value");
	assert_string_equal(PARSED(A("--=")), "error: unknown option --; see --help");
}

static void test_help(void **state)
{
	(void)state;
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	cs_options_help(second, 2, out);
	fclose(out);
	assert_string_equal(text, "  -o, --output FORM          How.\n"
				  "  --label LABEL              Labels; may be repeated.\n");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good), cmocka_unit_test(test_bad), cmocka_unit_test(test_help)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
