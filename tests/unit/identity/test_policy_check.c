/* --check-policy as a person or a script sees it: exit code, report, errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "policy_check.h"

#define HEAD "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: %s, namespace: prod}\n"

static const char fine[] =
	"spec: {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEndpoints: [{matchLabels: "
	"{app: web}}], authentication: {mode: required}}], egress: []}\n";
static const char wide[] = "spec: {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: 53}]}]}]}\n";
static const char wrong[] = "spec: {endpointSelector: {}, ingres: []}\n";

struct run {
	int code;
	char out[8192], err[4096];
};

static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/cs-policy-check.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

static void put_file(const char *name, const char *policy, const char *spec)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	if (policy)
		fprintf(f, HEAD, policy);
	fputs(spec, f);
	assert_int_equal(fclose(f), 0);
}

static void take(int fd, char *text, size_t size)
{
	ssize_t n = pread(fd, text, size - 1, 0);
	assert_true(n >= 0);
	text[n] = '\0';
	close(fd);
}

static struct run run(const char *arguments)
{
	struct run r = {0};
	char copy[512], *argv[16], *save = NULL;
	int argc = 0, out = memfd_create("out", 0), err = memfd_create("err", 0), old_out = dup(1), old_err = dup(2);
	snprintf(copy, sizeof(copy), "%s", arguments);
	for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	fflush(stdout);
	dup2(out, 1);
	dup2(err, 2);
	r.code = cs_policy_check_main(argc, argv);
	fflush(stdout);
	dup2(old_out, 1);
	dup2(old_err, 2);
	close(old_out);
	close(old_err);
	take(out, r.out, sizeof(r.out));
	take(err, r.err, sizeof(r.err));
	return r;
}

static struct run run_in_dir(const char *before, const char *name)
{
	char arguments[256];
	snprintf(arguments, sizeof(arguments), "%s %s/%s", before, dir, name);
	return run(arguments);
}

static void has(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("'%s' is not in:\n%s", part, text);
}

static void a_policy_is_explained(void **state)
{
	(void)state;
	put_file("fine.yaml", "a", fine);
	struct run r = run_in_dir("", "fine.yaml");
	assert_int_equal(r.code, 0);
	assert_string_equal(r.err, "");
	has(r.out, "prod/a  (");
	has(r.out, "  selects app=db in namespace prod\n");
	has(r.out, "  ingress: denied where no rule passes it\n");
	has(r.out, "    ingress[0]             require  from app=web in namespace prod\n");
	has(r.out, "  egress: denied, all of it\n");
	has(r.out, "\n1 policy, 1 rule, 0 remarks, in 1 file.\n");
}

static void strict_refuses_what_is_wider(void **state)
{
	(void)state;
	put_file("wide.yaml", "b", wide);
	struct run r = run_in_dir("", "wide.yaml");
	assert_int_equal(r.code, 0);
	has(r.out, "      ! wider-than-written: ports are not looked at (53/ANY)");
	has(r.out, "1 policy, 1 rule, 1 remark, in 1 file.\n");
	r = run_in_dir("--strict", "wide.yaml");
	assert_int_equal(r.code, 1);
	has(r.out, "Refused by --strict: 1 rule wider than written.");
	r = run_in_dir("--strict", "fine.yaml"); /* of the test before */
	assert_int_equal(r.code, 0);
}

static void a_directory_with_a_mistake(void **state)
{
	(void)state;
	put_file("fine.yaml", "a", fine);
	put_file("wide.yml", "b", wide);
	put_file("wrong.yaml", "c", wrong);
	put_file("twice.yaml", "a", fine);
	put_file("note.txt", NULL, "no policy");
	put_file(".hidden.yaml", NULL, "no policy");
	char path[128];
	snprintf(path, sizeof(path), "%s/wide.yaml", dir);
	unlink(path);
	struct run r = run_in_dir("", "");
	assert_int_equal(r.code, 1);
	has(r.err, "wrong.yaml:4: unknown field 'ingres'; is 'ingress' meant?\n");
	has(r.err, "twice.yaml:1: policy 'prod/a' is already in ");
	has(r.out, "2 policies, 2 rules, 1 remark, in 4 files. 2 files refused.\n");
	assert_null(strstr(r.err, "note"));
	assert_null(strstr(r.err, "hidden"));
}

static void json_is_json(void **state)
{
	(void)state;
	put_file("wide.yml", "b", wide);
	struct run r = run_in_dir("--strict -o json", "wide.yml");
	assert_int_equal(r.code, 1);
	json_t *all = json_loads(r.out, JSON_REJECT_DUPLICATES, NULL), *rule;
	assert_non_null(all);
	assert_int_equal(json_integer_value(json_object_get(all, "wider_than_written")), 1);
	json_t *policy = json_array_get(json_object_get(all, "policies"), 0);
	assert_string_equal(json_string_value(json_object_get(policy, "name")), "prod/b");
	assert_int_equal(json_string_length(json_object_get(policy, "sha256")), 64);
	rule = json_array_get(json_object_get(policy, "specs"), 0);
	assert_string_equal(json_string_value(json_object_get(rule, "selects")), "every endpoint in namespace prod");
	rule = json_array_get(json_object_get(rule, "rules"), 0);
	assert_string_equal(json_string_value(json_object_get(rule, "verdict")), "pass");
	assert_string_equal(json_string_value(json_object_get(rule, "ports")), "53/ANY");
	assert_string_equal(json_string_value(json_array_get(json_object_get(rule, "peers"), 0)), "all");
	json_t *finding = json_array_get(json_object_get(rule, "findings"), 0);
	assert_string_equal(json_string_value(json_object_get(finding, "kind")), "wider-than-written");
	json_decref(all);
}

static void findings_need_no_cluster(void **state)
{
	(void)state;
	put_file("join.yaml", "j",
		"spec: {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEndpoints: [{matchExpressions: "
		"[{key: "
		"app, operator: NotIn, values: [db]}, {key: tier, operator: Exists}]}], authentication: {mode: "
		"required}}]}\n");
	struct run r = run_in_dir("", "join.yaml");
	assert_int_equal(r.code, 0);
	has(r.out, "! asks-more-than-written: egress with these peers would pass");
	put_file("join.yaml", "j",
		"spec: {endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEndpoints: [{}], authentication: "
		"{mode: "
		"required}}], egress: []}\n");
	r = run_in_dir("", "join.yaml");
	assert_null(strstr(r.out, "!"));
}

/* What an endpoint has may be in no identity: a selector of it means nobody. */
static void labels_that_are_in_no_identity(void **state)
{
	(void)state;
	put_file("hash.yaml", "h",
		"spec: {endpointSelector: {matchLabels: {pod-template-hash: abc}}, ingress: [{fromEndpoints: "
		"[{matchLabels: {app: web}}]}, {fromEndpoints: [{matchExpressions: [{key: "
		"\"k8s:controller-revision-hash\", "
		"operator: DoesNotExist}]}]}]}\n");
	struct run r = run_in_dir("", "hash.yaml");
	assert_int_equal(r.code, 0);
	has(r.out, "! label-in-no-identity: the label pod-template-hash is in no identity");
	has(r.out, "the endpoints of the whole spec mean nobody");
	has(r.out, "! label-in-no-identity: the label k8s:controller-revision-hash is in no identity");
	has(r.out, "these peers exclude nobody by it");
	/* The namespace of every selector, labels of Kubernetes that are taken, and one that only looks alike, are fine. */
	put_file("hash.yaml", "h",
		"spec: {endpointSelector: {matchLabels: {app.kubernetes.io/name: db}}, ingress: [{fromEndpoints: "
		"[{matchLabels: {my-pod-template-hash: abc, \"reserved:payments\": \"\", "
		"\"k8s:io.kubernetes.pod.namespace\": shop}}]}]}\n");
	r = run_in_dir("", "hash.yaml");
	assert_int_equal(r.code, 0);
	assert_null(strstr(r.out, "label-in-no-identity"));
}

static void usage_and_files(void **state)
{
	(void)state;
	struct run r = run("--help");
	assert_int_equal(r.code, 0);
	has(r.out, "Usage: ");
	r = run("");
	assert_int_equal(r.code, 2);
	has(r.err, "Usage: ");
	r = run("--stict a.yaml");
	assert_int_equal(r.code, 2);
	has(r.err, "does not know '--stict'");
	r = run("-o xml a.yaml");
	assert_int_equal(r.code, 2);
	r = run_in_dir("", "none.yaml");
	assert_int_equal(r.code, 2);
	has(r.err, "none.yaml: No such file or directory");
	put_file("empty.yaml", NULL, "# nothing\n");
	r = run_in_dir("", "empty.yaml");
	assert_int_equal(r.code, 0);
	has(r.out, "0 policies, 0 rules");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_policy_is_explained),
		cmocka_unit_test(strict_refuses_what_is_wider),
		cmocka_unit_test(a_directory_with_a_mistake),
		cmocka_unit_test(json_is_json),
		cmocka_unit_test(findings_need_no_cluster),
		cmocka_unit_test(labels_that_are_in_no_identity),
		cmocka_unit_test(usage_and_files),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
