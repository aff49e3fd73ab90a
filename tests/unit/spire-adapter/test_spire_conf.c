/* What is read of SPIRE's configuration files: HCL as in SPIRE's examples, and JSON. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "spire_conf.h"

static struct cs_spire_conf conf;

static int parse(const char *text, struct cs_error *e)
{
	return cs_spire_conf_parse("agent.conf", text, strlen(text), &conf, e);
}

static void refused(const char *text, const char *says)
{
	struct cs_error e;
	assert_int_equal(parse(text, &e), -EINVAL);
	assert_non_null(strstr(e.text, says));
	assert_int_equal(conf.n, 0);
}

static void test_spires_own_example(void **state)
{
	struct cs_error e;
	(void)state;
	assert_int_equal(parse("# a comment with a { brace\n"
			       "agent {\n"
			       "    data_dir = \"./.data\" // another\n"
			       "    authorized_delegates = [\n"
			       "        \"spiffe://example.org/a\", /* \"spiffe://example.org/no\", */\n"
			       "        \"spiffe://example.org/b\",\n"
			       "    ]\n"
			       "    server_port = 8081\n"
			       "    experimental {\n"
			       "        sync_interval = \"1s\"\n"
			       "    }\n"
			       "}\n"
			       "plugins {\n"
			       "    WorkloadAttestor \"unix\" {\n"
			       "        plugin_data { discover_workload_path = true }\n"
			       "    }\n"
			       "    KeyManager \"memory\" { plugin_data {} }\n"
			       "}\n",
				 &e),
		0);
	assert_string_equal(cs_spire_conf_get(&conf, "agent.data_dir"), "./.data");
	assert_string_equal(cs_spire_conf_get(&conf, "agent.server_port"), "8081");
	assert_string_equal(cs_spire_conf_get(&conf, "agent.experimental.sync_interval"), "1s");
	assert_string_equal(
		cs_spire_conf_get(&conf, "plugins.WorkloadAttestor.unix.plugin_data.discover_workload_path"), "true");
	assert_true(cs_spire_conf_lists(&conf, "agent.authorized_delegates", "spiffe://example.org/a"));
	assert_true(cs_spire_conf_lists(&conf, "agent.authorized_delegates", "spiffe://example.org/b"));
	assert_false(cs_spire_conf_lists(&conf, "agent.authorized_delegates", "spiffe://example.org/no"));
	assert_true(cs_spire_conf_has(&conf, "plugins.KeyManager.memory"));
	assert_false(cs_spire_conf_has(&conf, "plugins.KeyManager.disk"));
	assert_null(cs_spire_conf_get(&conf, "agent.trust_domain"));
	cs_spire_conf_fini(&conf);
}

static void test_json(void **state)
{
	struct cs_error e;
	(void)state;
	assert_int_equal(
		parse("{\"agent\": {\"trust_domain\": \"example.org\", \"authorized_delegates\": [\"a\", \"b\"]},\n"
		      " \"plugins\": {\"WorkloadAttestor\": [{\"unix\": {\"plugin_data\": {}}}]}}\n",
			&e),
		0);
	assert_string_equal(cs_spire_conf_get(&conf, "agent.trust_domain"), "example.org");
	assert_true(cs_spire_conf_lists(&conf, "agent.authorized_delegates", "b"));
	assert_true(cs_spire_conf_has(&conf, "plugins.WorkloadAttestor.unix"));
	cs_spire_conf_fini(&conf);
}

static void test_the_last_one_counts(void **state)
{
	struct cs_error e;
	(void)state;
	assert_int_equal(parse("a = \"1\"\na = \"say \\\"2\\\"\"", &e), 0);
	assert_string_equal(cs_spire_conf_get(&conf, "a"), "say \"2\"");
	cs_spire_conf_fini(&conf);
	assert_int_equal(parse("", &e), 0);
	assert_null(cs_spire_conf_get(&conf, "a"));
	cs_spire_conf_fini(&conf);
}

static void test_what_is_none(void **state)
{
	(void)state;
	refused("agent {\n  a = 1\n", "agent.conf: line 3: a block does not end");
	refused("agent {\n\n  a =\n}", "line 4: a value is missing");
	refused("a = \"x\n\"", "line 1: a value is missing");
	refused("a [ \"x\" ]", "line 1: after a name there should be '=' or '{'");
	refused("a = [ \"x\" }", "a list does not end");
	refused("}", "a name should be here");
	refused("{ \"a\": 1 } b", "something follows the last brace");
	refused("a = $HOME", "a value is missing");
}

static void test_limits(void **state)
{
	struct cs_error e;
	char text[8192];
	(void)state;
	size_t n = 0;
	for (int i = 0; i < CS_SPIRE_CONF_DEPTH; i++)
		n += (size_t)sprintf(text + n, "a {");
	for (int i = 0; i < CS_SPIRE_CONF_DEPTH; i++)
		n += (size_t)sprintf(text + n, "}");
	assert_int_equal(parse(text, &e), 0);
	cs_spire_conf_fini(&conf);
	char deeper[8192];
	snprintf(deeper, sizeof(deeper), "b { %s }", text);
	refused(deeper, "nested too deep");
	memset(text, 'a', CS_SPIRE_CONF_PATH);
	strcpy(text + CS_SPIRE_CONF_PATH, " = 1");
	refused(text, "a name is too long");
	char *many = malloc(8 * CS_SPIRE_CONF_VALUES + 64);
	n = (size_t)sprintf(many, "a = [");
	for (int i = 0; i < CS_SPIRE_CONF_VALUES; i++)
		n += (size_t)sprintf(many + n, "1, ");
	strcpy(many + n, "]");
	assert_int_equal(parse(many, &e), 0);
	cs_spire_conf_fini(&conf);
	strcpy(many + n, "1 ]");
	refused(many, "more values");
	free(many);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spires_own_example),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_the_last_one_counts),
		cmocka_unit_test(test_what_is_none),
		cmocka_unit_test(test_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
