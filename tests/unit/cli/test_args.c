/* cli: a command line in, one command with its options and words out. And the table of commands is whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli.h"

struct parsed {
	struct cs_cli cli;
	struct cs_error e;
	int code;
	bool end;
	char *argv[16], *printed;
};

static void parse(struct parsed *p, const char *const *args)
{
	size_t len;
	int argc = 1;
	*p = (struct parsed){.argv = {(char *)"countersign"}};
	for (; args[argc - 1]; argc++)
		p->argv[argc] = (char *)args[argc - 1];
	p->cli.out = open_memstream(&p->printed, &len);
	p->code = cs_cli_parse(&p->cli, argc, p->argv, &p->end, &p->e);
	fclose(p->cli.out);
}

#define PARSE(p, ...) parse(p, (const char *const[]){__VA_ARGS__, NULL})

static void test_command(void **state)
{
	(void)state;
	struct parsed p;
	PARSE(&p, "auth", "list", "--local", "257", "-o", "json", "--instance=/x", "--timeout", "1m30s");
	assert_int_equal(p.code, CS_CLI_OK);
	assert_false(p.end);
	assert_string_equal(p.cli.command->name, "auth list");
	assert_string_equal(p.cli.instance, "/x");
	assert_true(p.cli.json);
	assert_int_equal(p.cli.timeout_ms, 90000);
	assert_string_equal(cs_cli_value(&p.cli, "local"), "257");
	assert_null(cs_cli_value(&p.cli, "remote"));
	assert_int_equal(p.cli.nwords, 0);
	free(p.printed);
}

/* The same options before the command, between its words' end and the arguments, and after them. */
static void test_places(void **state)
{
	(void)state;
	const char *const lines[][8] = {
		{"--instance", "/x", "-o", "json", "auth", "explain", "db", "10.0.0.1"},
		{"auth", "explain", "--instance", "/x", "db", "-ojson", "10.0.0.1"},
		{"-ojson", "auth", "explain", "db", "10.0.0.1", "--instance=/x"},
	};
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct parsed p;
		const char *args[9] = {0};
		memcpy(args, lines[i], sizeof(lines[i]));
		parse(&p, args);
		assert_int_equal(p.code, CS_CLI_OK);
		assert_string_equal(p.cli.command->name, "auth explain");
		assert_string_equal(p.cli.instance, "/x");
		assert_true(p.cli.json);
		assert_int_equal(p.cli.nwords, 2);
		assert_string_equal(p.cli.words[0], "db");
		assert_string_equal(p.cli.words[1], "10.0.0.1");
		assert_null(p.cli.words[2]);
		free(p.printed);
	}
}

static void test_many(void **state)
{
	(void)state;
	struct parsed p;
	PARSE(&p, "endpoint", "register", "--id", "db", "--label", "a:b=c", "--label", "d:e=f", "--address", "10.0.0.1",
		"--interface", "eth0");
	assert_int_equal(p.code, CS_CLI_OK);
	assert_string_equal(cs_cli_nth(&p.cli, "label", 0), "a:b=c");
	assert_string_equal(cs_cli_nth(&p.cli, "label", 1), "d:e=f");
	assert_null(cs_cli_nth(&p.cli, "label", 2));
	assert_null(cs_cli_value(&p.cli, "dhcp"));
	assert_int_equal(p.cli.timeout_ms, 30000); /* its own default */
	free(p.printed);
	PARSE(&p, "endpoint", "register", "--id", "db", "--label", "a:b=c", "--address", "10.0.0.1");
	assert_int_equal(p.code, CS_CLI_USAGE);
	assert_non_null(strstr(p.e.text, "--interface NAME is missing"));
	free(p.printed);
}

static void test_words(void **state)
{
	(void)state;
	struct parsed p;
	PARSE(&p, "endpoint", "unregister", "--", "--help");
	assert_int_equal(p.code, CS_CLI_OK);
	assert_false(p.end);
	assert_string_equal(p.cli.words[0], "--help");
	free(p.printed);
	PARSE(&p, "endpoint", "unregister");
	assert_int_equal(p.code, CS_CLI_USAGE);
	free(p.printed);
	PARSE(&p, "endpoint", "unregister", "a", "b");
	assert_int_equal(p.code, CS_CLI_USAGE);
	free(p.printed);
}

static void test_help(void **state)
{
	(void)state;
	const char *const lines[][4] = {{"--help"}, {"help"}, {"-h"}, {"endpoint", "--help"},
		{"--help", "auth", "list"}, {"auth", "list", "-h", NULL}, {"--version"}, {"auth", "list", "--version"}};
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct parsed p;
		const char *args[5] = {0};
		memcpy(args, lines[i], sizeof(lines[i]));
		parse(&p, args);
		assert_int_equal(p.code, CS_CLI_OK);
		assert_true(p.end);
		assert_memory_equal(p.printed, "countersign", 11);
		free(p.printed);
	}
	struct parsed p; /* what is missing is no reason not to help */
	PARSE(&p, "endpoint", "register", "--help");
	assert_true(p.end && p.code == CS_CLI_OK);
	assert_non_null(strstr(p.printed, "--label LABEL"));
	assert_non_null(strstr(p.printed, "required; may be repeated"));
	free(p.printed);
}

static void test_wrong(void **state)
{
	(void)state;
	const struct {
		const char *args[4], *says;
	} wrong[] = {
		{{NULL}, "a command is missing"},
		{{"--instance", "/x"}, "a command is missing"},
		{{"--instance"}, "--instance needs a value"},
		{{"auth"}, "'auth' needs one more word: list, explain, flush; see"},
		{{"auth", "-o", "json"}, "'auth' needs one more word"},
		{{"auth", "explian"}, "did you mean 'auth explain'?"},
		{{"list"}, "there is no command 'list'"},
		{{"auth list"}, "there is no command 'auth list'"},
		{{"auth", "list", "--lokal", "5"}, "did you mean --local?"},
		{{"--local", "5", "auth", "list"}, "unknown option --local"},
		{{"auth", "list", "-o", "yaml"}, "write table or json"},
		{{"exporter", "-o", "json"}, "'exporter' has no JSON form"},
		{{"-o", "json", "exporter"}, "'exporter' has no JSON form"},
		{{"status", "--timeout", "never"}, "--timeout: 'never' is not a duration"},
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct parsed p;
		const char *args[5] = {0};
		memcpy(args, wrong[i].args, sizeof(wrong[i].args));
		parse(&p, args);
		if (p.code != CS_CLI_USAGE || !strstr(p.e.text, wrong[i].says))
			fail_msg("line %zu gave %d, '%s'", i, p.code, p.e.text);
		free(p.printed);
	}
}

static void test_numbers(void **state)
{
	(void)state;
	const char *const bad[] = {
		"0", "", "-1", "+1", " 1", "1 ", "0x10", "4294967296", "99999999999999999999", "1.0"};
	struct parsed p;
	uint32_t n = 7;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		PARSE(&p, "auth", "list", "--local", bad[i]);
		assert_int_equal(cs_cli_number(&p.cli, "local", UINT32_MAX, &n, &p.e), CS_CLI_USAGE);
		assert_int_equal(n, 7);
		free(p.printed);
	}
	PARSE(&p, "auth", "list", "--local", "4294967295");
	assert_int_equal(cs_cli_number(&p.cli, "local", UINT32_MAX, &n, &p.e), CS_CLI_OK);
	assert_int_equal(n, UINT32_MAX);
	assert_int_equal(cs_cli_number(&p.cli, "remote", UINT32_MAX, &n, &p.e), CS_CLI_OK);
	assert_int_equal(n, 0);
	free(p.printed);
}

static void test_table_is_whole(void **state)
{
	(void)state;
	for (size_t i = 0; cs_commands[i]; i++) {
		const struct cs_command *c = cs_commands[i];
		assert_non_null(c->run);
		assert_non_null(c->usage);
		assert_true(strlen(c->summary) > 10);
		assert_int_not_equal(c->summary[strlen(c->summary) - 1], '.');
		assert_non_null(strstr(c->examples, "countersign"));
		assert_int_equal(c->examples[strlen(c->examples) - 1], '\n');
		for (size_t j = 0; j < c->noptions; j++)
			assert_true(c->options[j].arg || !c->options[j].required);
		for (size_t j = 0; cs_commands[j]; j++) /* one name is no beginning of another */
			assert_true(i == j || strncmp(c->name, cs_commands[j]->name, strlen(c->name)) != 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_command), cmocka_unit_test(test_places),
		cmocka_unit_test(test_many), cmocka_unit_test(test_words), cmocka_unit_test(test_help),
		cmocka_unit_test(test_wrong), cmocka_unit_test(test_numbers), cmocka_unit_test(test_table_is_whole)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
