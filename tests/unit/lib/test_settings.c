/* lib/settings: one table, YAML and --set in, values or one sentence out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <unistd.h>

#include "settings.h"

struct config {
	bool on;
	int64_t port, ttl_ms, negative;
	char *name, *dir;
	int mode;
	struct cs_strings who;
};

static const char *const modes[] = {"enforce", "audit", NULL};
static const struct cs_setting rows[] = {
	CS_SET_BOOL(struct config, on, "hold.on", "true", "Whether packets are held"),
	CS_SET_INT(struct config, port, "auth.port", "4250", 1, 65535, NULL, "The port"),
	CS_SET_INT(struct config, negative, "auth.bias", "-5", -10, 10, "steps", "A bias"),
	CS_SET_DURATION(struct config, ttl_ms, "auth.max_ttl", "1h", 1000, 86400000, "Longest life of an entry"),
	CS_SET_STRING(struct config, name, "node.name", "n1", 1, 16, "The node's name"),
	CS_SET_PATH(struct config, dir, "policy.dir", "", 0, "Where the policies are"),
	CS_SET_ENUM(struct config, mode, "mode", "enforce", modes, "What happens to a refused packet"),
	CS_SET_LIST(struct config, who, "roles.viewer", "group:a,group:b", 0, 3, "Who may look"),
};
static const struct cs_settings table = {rows, sizeof(rows) / sizeof(rows[0])};

static void defaults(struct config *c)
{
	struct cs_error e;
	memset(c, 0, sizeof(*c));
	assert_int_equal(cs_settings_defaults(&table, c, &e), 0);
}

static int yaml(struct config *c, const char *text, struct cs_error *e)
{
	return cs_settings_yaml(&table, c, "f.yaml", text, strlen(text), e);
}

/* text is refused, and the sentence contains `where` and `right`. */
static void refused(const char *text, const char *where, const char *right)
{
	struct config c;
	struct cs_error e = {0};
	defaults(&c);
	assert_true(yaml(&c, text, &e) < 0);
	if (!strstr(e.text, where) || !strstr(e.text, right))
		fail_msg("'%s' gave '%s', expected '%s' and '%s' in it", text, e.text, where, right);
	assert_null(strchr(e.text, '\n'));
	cs_settings_free(&table, &c);
}

static void test_defaults(void **state)
{
	(void)state;
	struct config c;
	defaults(&c);
	assert_true(c.on);
	assert_int_equal(c.port, 4250);
	assert_int_equal(c.negative, -5);
	assert_int_equal(c.ttl_ms, 3600000);
	assert_string_equal(c.name, "n1");
	assert_string_equal(c.dir, "");
	assert_int_equal(c.mode, 0);
	assert_int_equal(c.who.n, 2);
	assert_string_equal(c.who.items[1], "group:b");
	cs_settings_free(&table, &c);
	assert_null(c.name);
	assert_null(c.who.items);
	cs_settings_free(&table, &c); /* twice is nothing */
}

static void test_bad_tables(void **state)
{
	(void)state;
	static const struct cs_setting bad_default[] = {
		CS_SET_INT(struct config, port, "port", "0", 1, 65535, NULL, "The port")};
	static const struct cs_setting twice[] = {
		CS_SET_BOOL(struct config, on, "on", "true", "x"), CS_SET_BOOL(struct config, on, "on", "true", "x")};
	static const struct cs_setting section_and_value[] = {CS_SET_BOOL(struct config, on, "on.it", "true", "x"),
		CS_SET_BOOL(struct config, on, "on", "true", "x")};
	static const struct cs_setting too_deep[] = {CS_SET_BOOL(struct config, on, "a.b.c.d.e", "true", "x")};
	static const struct cs_setting too_long[] = {CS_SET_BOOL(
		struct config, on, "a234567890123456789012345678901234567890123456789012345678901234", "true", "x")};
	const struct cs_settings tables[] = {
		{bad_default, 1}, {twice, 2}, {section_and_value, 2}, {too_deep, 1}, {too_long, 1}};
	for (size_t i = 0; i < 5; i++) {
		struct config c = {0};
		struct cs_error e;
		assert_true(cs_settings_defaults(&tables[i], &c, &e) < 0);
	}
}

static void test_yaml_all(void **state)
{
	(void)state;
	struct config c;
	struct cs_error e = {0};
	defaults(&c);
	const char *text = "# a comment\n"
			   "hold: {on: false}\n"
			   "auth:\n  port: 1\n  bias: 10\n  max_ttl: \"1h30m\"\n"
			   "node:\n  name: 'true'\n"
			   "policy:\n  dir: /etc/countersign/policy\n"
			   "mode: audit\n"
			   "roles:\n  viewer:\n    - uid:1\n    - \"gid:2\"\n";
	if (yaml(&c, text, &e) < 0)
		fail_msg("%s", e.text);
	assert_false(c.on);
	assert_int_equal(c.port, 1);
	assert_int_equal(c.negative, 10);
	assert_int_equal(c.ttl_ms, 5400000);
	assert_string_equal(c.name, "true");
	assert_string_equal(c.dir, "/etc/countersign/policy");
	assert_int_equal(c.mode, 1);
	assert_int_equal(c.who.n, 2);
	assert_string_equal(c.who.items[0], "uid:1");
	/* a second file on top changes what it names and nothing else */
	assert_int_equal(yaml(&c, "roles: {viewer: []}\n", &e), 0);
	assert_int_equal(c.who.n, 0);
	assert_int_equal(c.mode, 1);
	cs_settings_free(&table, &c);
}

/* As many sections as there can be: every setting in three of its own. */
static void test_yaml_sections(void **state)
{
	(void)state;
	static struct cs_setting wide[CS_SETTINGS_MAX];
	static char names[CS_SETTINGS_MAX][32], text[CS_SETTINGS_MAX * 64];
	static bool fields[CS_SETTINGS_MAX];
	const struct cs_settings all = {wide, CS_SETTINGS_MAX};
	struct cs_error e;
	size_t used = 0;
	for (size_t i = 0; i < CS_SETTINGS_MAX; i++) {
		snprintf(names[i], sizeof(names[i]), "a%zu.b.c.d", i);
		wide[i] = (struct cs_setting){.name = names[i],
			.type = CS_SETTING_BOOL,
			.def = "false",
			.help = "x",
			.offset = i * sizeof(bool)};
		used += (size_t)snprintf(text + used, sizeof(text) - used, "a%zu:\n  b:\n    c:\n      d: true\n", i);
	}
	assert_int_equal(cs_settings_defaults(&all, fields, &e), 0);
	if (cs_settings_yaml(&all, fields, "f.yaml", text, used, &e) < 0)
		fail_msg("%s", e.text);
	assert_true(fields[0] && fields[CS_SETTINGS_MAX - 1]);
}

static void test_yaml_empty(void **state)
{
	(void)state;
	const char *const texts[] = {"", "\n", "# nothing\n", "---\n", "--- ~\n...\n"};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct config c;
		struct cs_error e = {0};
		defaults(&c);
		if (yaml(&c, texts[i], &e) < 0)
			fail_msg("%s", e.text);
		assert_int_equal(c.port, 4250);
		cs_settings_free(&table, &c);
	}
}

static void test_yaml_unknown(void **state)
{
	(void)state;
	refused("mod: audit\n", "f.yaml:1", "did you mean 'mode'?");
	refused("mode: audit\nauth:\n  maxttl: 1h\n", "f.yaml:3: unknown setting 'auth.maxttl'", "'auth.max_ttl'?");
	refused("max_ttl: 1h\n", "unknown setting 'max_ttl'", "'auth.max_ttl'?");
	refused("completely_else: 1\n", "f.yaml:1: unknown setting 'completely_else'", "--help");
	refused("auth: {port: {a: 1}}\n", "auth.port: a section", "1 to 65535");
	refused("auth.port: 5\n", "f.yaml:1", "one level of indentation per dot");
	refused("? [a]\n: 1\n", "f.yaml:1", "name of a setting");
	refused("evil\tkey\x1b: 1\n", "f.yaml:1", "not YAML");
	refused("\"evil\\e[31m\\n\": 1\n", "'evil?[31m?'", "unknown setting");
	refused("auth:\n  a:\n    b:\n      c:\n        d: 1\n", "f.yaml:2", "unknown setting 'auth.a'");
}

static void test_yaml_twice(void **state)
{
	(void)state;
	refused("mode: audit\nmode: audit\n", "f.yaml:2", "mode is given twice");
	refused("auth: {port: 1}\nmode: audit\nauth: {bias: 1}\n", "f.yaml:3", "auth is there twice");
	refused("mode: audit\n---\nmode: audit\n", "f.yaml:2", "second document");
}

static void test_yaml_types(void **state)
{
	(void)state;
	refused("hold: {on: yes}\n", "hold.on: 'yes'", "true or false");
	refused("hold: {on: \"true\"}\n", "hold.on: a quoted text", "true or false");
	refused("hold: {on: 1}\n", "hold.on: '1'", "true or false");
	refused("auth: {port: \"5\"}\n", "auth.port: a quoted text", "1 to 65535");
	refused("auth: {port: 5.0}\n", "auth.port: '5.0'", "1 to 65535");
	refused("auth: {port: 0x10}\n", "auth.port: '0x10'", "1 to 65535");
	refused("auth: {port: 010}\n", "auth.port: '010'", "1 to 65535");
	refused("auth: {port: +5}\n", "auth.port: '+5'", "1 to 65535");
	refused("auth: {port: [5]}\n", "auth.port: a list", "1 to 65535");
	refused("auth:\n  port:\n", "auth.port: no value", "1 to 65535");
	refused("auth: {max_ttl: 10}\n", "auth.max_ttl: '10'", "like 250ms, 10m");
	refused("node: {name: ~}\n", "node.name: no value", "1 to 16 characters");
	refused("mode: Audit\n", "mode: 'Audit'", "one of enforce, audit");
	refused("roles: {viewer: uid:1}\n", "roles.viewer: a single value", "a list of 0 to 3");
	refused("roles: {viewer: [[a]]}\n", "roles.viewer: an entry that is no text", "a list");
	refused("roles: {viewer: [a, ~]}\n", "roles.viewer: an entry that is no text", "a list");
	refused("roles: {viewer: [a, '']}\n", "roles.viewer: an empty entry", "a list");
	refused("auth: 5\n", "auth is a section", "indented");
	refused("auth:\nmode: audit\n", "auth is a section", "indented");
	refused("- mode\n", "f.yaml:1", "as 'name: value'");
	refused("mode\n", "f.yaml:1", "as 'name: value'");
	refused("node: {name: \"a\\0b\"}\n", "f.yaml:1", "zero byte");
	refused("mode: &a audit\n", "f.yaml:1", "anchors");
	refused("node: {name: &a x}\nmode: *a\n", "f.yaml:1", "anchors");
	refused("mode: *a\n", "f.yaml:1", "anchors");
	refused("mode: !!str audit\n", "f.yaml:1", "tags");
	refused("roles: {viewer: [a\n", "f.yaml", "not YAML");
	refused("mode: \xff\n", "f.yaml", "not YAML");
	refused("mode: audit: b\n", "f.yaml:1", "not YAML");
}

static void test_yaml_ranges(void **state)
{
	(void)state;
	refused("auth: {port: 0}\n", "auth.port: '0'", "1 to 65535");
	refused("auth: {port: 65536}\n", "auth.port: '65536'", "1 to 65535");
	refused("auth: {port: 99999999999999999999999}\n", "auth.port: '9", "1 to 65535");
	refused("auth: {bias: -11}\n", "auth.bias: '-11'", "-10 to 10 steps");
	refused("auth: {max_ttl: 999ms}\n", "auth.max_ttl: '999ms'", "from 1s to 1d");
	refused("auth: {max_ttl: 25h}\n", "auth.max_ttl: '25h'", "from 1s to 1d");
	refused("node: {name: ''}\n", "node.name: ''", "1 to 16");
	refused("node: {name: aaaaaaaaaaaaaaaaa}\n", "node.name: 'aaa", "1 to 16");
	refused("policy: {dir: relative}\n", "policy.dir: 'relative'", "absolute path");
	refused("roles: {viewer: [a, b, c, d]}\n", "roles.viewer: 4 entries", "0 to 3");
}

static void test_set(void **state)
{
	(void)state;
	struct config c;
	struct cs_error e = {0};
	defaults(&c);
	assert_int_equal(cs_settings_set(&table, &c, "auth.max_ttl=250s", &e), 0);
	assert_int_equal(c.ttl_ms, 250000);
	assert_int_equal(cs_settings_set(&table, &c, "node.name=a=b", &e), 0);
	assert_string_equal(c.name, "a=b");
	assert_int_equal(cs_settings_set(&table, &c, "roles.viewer=", &e), 0);
	assert_int_equal(c.who.n, 0);
	assert_int_equal(cs_settings_set(&table, &c, "roles.viewer=a,b,c", &e), 0);
	assert_int_equal(c.who.n, 3);
	const struct {
		const char *text, *says;
	} bad[] = {
		{"auth.max_ttl", "not KEY=VALUE"},
		{"auth.maxttl=1h", "'auth.max_ttl'?"},
		{"=1h", "unknown setting ''"},
		{"auth.port=", "1 to 65535"},
		{"auth.port= 5", "1 to 65535"},
		{"hold.on=TRUE", "true or false"},
		{"roles.viewer=a,,b", "entry of the list is empty"},
		{"roles.viewer=a,b,c,d", "4 entries"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_true(cs_settings_set(&table, &c, bad[i].text, &e) < 0);
		if (!strstr(e.text, bad[i].says))
			fail_msg("'%s' gave '%s'", bad[i].text, e.text);
	}
	assert_int_equal(c.who.n, 3);
	cs_settings_free(&table, &c);
}

static void test_file(void **state)
{
	(void)state;
	struct config c;
	struct cs_error e = {0};
	char path[] = "/tmp/cs-settings-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "mode: audit\n", 12), 12);
	defaults(&c);
	assert_int_equal(cs_settings_file(&table, &c, path, &e), 0);
	assert_int_equal(c.mode, 1);
	assert_int_equal(ftruncate(fd, CS_SETTINGS_FILE + 1), 0);
	assert_int_equal(cs_settings_file(&table, &c, path, &e), -EFBIG);
	close(fd);
	unlink(path);
	assert_int_equal(cs_settings_file(&table, &c, path, &e), -ENOENT);
	assert_non_null(strstr(e.text, path));
	assert_true(cs_settings_file(&table, &c, "/tmp", &e) < 0);
	cs_settings_free(&table, &c);
}

static void test_durations(void **state)
{
	(void)state;
	const struct {
		const char *text;
		int64_t ms;
	} good[] = {{"0", 0}, {"0s", 0}, {"1ms", 1}, {"10s", 10000}, {"90m", 5400000}, {"1h30m", 5400000},
		{"7d", 604800000}, {"1d2h3m4s5ms", 93784005}};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		int64_t ms = -1;
		struct cs_error e;
		assert_int_equal(cs_duration_parse(good[i].text, &ms, &e), 0);
		assert_int_equal(ms, good[i].ms);
	}
	const char *const bad[] = {"", "1", "s", "-1s", "1.5s", "1 s", "1s ", "1m1h", "1s1s", "1M", "1sec",
		"99999999999d", "9223372036854775808ms", "36500d24h", "1h-1m", "00"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int64_t ms = 77;
		struct cs_error e;
		if (cs_duration_parse(bad[i], &ms, &e) == 0)
			fail_msg("'%s' was taken", bad[i]);
		assert_int_equal(ms, 77);
	}
	char text[32];
	cs_duration_format(5400000, text);
	assert_string_equal(text, "1h30m");
	cs_duration_format(250, text);
	assert_string_equal(text, "250ms");
	cs_duration_format(0, text);
	assert_string_equal(text, "0");
}

static void test_nearest(void **state)
{
	(void)state;
	const char *const names[] = {"list", "explain", "flush", NULL};
	assert_string_equal(cs_nearest("lst", names), "list");
	assert_string_equal(cs_nearest("explian", names), "explain");
	assert_null(cs_nearest("zzzzzz", names));
	assert_null(cs_nearest("", names));
}

static char *printed(void (*print)(FILE *out))
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	print(out);
	fclose(out);
	return text;
}

static void print_help(FILE *out)
{
	cs_settings_help(&table, out);
}

static void print_reference(FILE *out)
{
	cs_settings_reference(&table, "countersign-x", "X is an example", out);
}

static void test_texts(void **state)
{
	(void)state;
	char *help = printed(print_help), *reference = printed(print_reference);
	for (size_t i = 0; i < table.n; i++) {
		assert_non_null(strstr(help, rows[i].name));
		assert_non_null(strstr(help, rows[i].help));
		assert_non_null(strstr(reference, rows[i].name));
		assert_non_null(strstr(reference, rows[i].help));
	}
	assert_non_null(strstr(help, "a duration from 1s to 1d; default: 1h"));
	assert_non_null(strstr(reference, "# Settings of countersign-x\n"));
	assert_non_null(
		strstr(reference, "| `auth.max_ttl` | a duration from 1s to 1d | `1h` | Longest life of an entry |"));
	free(help);
	free(reference);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults), cmocka_unit_test(test_bad_tables),
		cmocka_unit_test(test_yaml_all), cmocka_unit_test(test_yaml_sections),
		cmocka_unit_test(test_yaml_empty), cmocka_unit_test(test_yaml_unknown),
		cmocka_unit_test(test_yaml_twice), cmocka_unit_test(test_yaml_types),
		cmocka_unit_test(test_yaml_ranges), cmocka_unit_test(test_set), cmocka_unit_test(test_file),
		cmocka_unit_test(test_durations), cmocka_unit_test(test_nearest), cmocka_unit_test(test_texts)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
