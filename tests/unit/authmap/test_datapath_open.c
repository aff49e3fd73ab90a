/* Opening: what a kernel may lack, and what an earlier life may have left. */
#include "fixture.h"

#include <dirent.h>
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <linux/bpf.h>

static struct cs_datapath_config small(const char *instance)
{
	struct cs_datapath_config c = cs_datapath_defaults();
	c.instance = instance;
	c.array_ifindex = 15;
	c.addresses = c.policy = c.flows = c.auth = c.seen = c.pending = 256;
	return c;
}

static void new_instance(char name[64])
{
	static int serial;
	snprintf(name, 64, "unit-open-%d-%d", (int)getpid(), serial++);
}

static bool exists(const char *instance)
{
	char path[256];
	struct stat st;
	snprintf(path, sizeof(path), "/sys/fs/bpf/countersign/%s", instance);
	return stat(path, &st) == 0;
}

static bool probe_left_something(void)
{
	DIR *dir = opendir("/sys/fs/bpf");
	char mine[64];
	bool found = false;
	assert_non_null(dir);
	snprintf(mine, sizeof(mine), "countersign_probe_%d", (int)getpid());
	for (struct dirent *d; (d = readdir(dir));)
		if (strcmp(d->d_name, mine) == 0)
			found = true;
	closedir(dir);
	return found;
}

/* Opens in a child that may not use one bpf(2) command; the child's error text, "" for success. */
static void open_without(uint32_t command, int code, const struct cs_datapath_config *config, char text[1024])
{
	int fds[2], status;
	assert_int_equal(pipe(fds), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct cs_error e = {0};
		scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
		if (seccomp_rule_add(filter, SCMP_ACT_ERRNO(code), SCMP_SYS(bpf), 1, SCMP_A0_32(SCMP_CMP_EQ, command)) <
				0 ||
			seccomp_load(filter) < 0)
			snprintf(e.text, sizeof(e.text), "the filter cannot be loaded");
		struct cs_datapath *dp = e.text[0] ? NULL : cs_datapath_open(config, &e);
		if (dp)
			e.text[0] = '\0';
		else if (probe_left_something())
			snprintf(e.text, sizeof(e.text), "something was left in the bpffs");
		(void)!write(fds[1], e.text, strlen(e.text));
		_exit(0);
	}
	close(fds[1]);
	ssize_t n = read(fds[0], text, 1023);
	text[n > 0 ? n : 0] = '\0';
	close(fds[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void remove_instance(const struct cs_datapath_config *config)
{
	struct cs_error e = {0};
	struct cs_datapath *dp = cs_datapath_open(config, &e);
	if (!dp)
		fail_msg("%s", e.text);
	assert_int_equal(cs_datapath_unpin(dp, &e), 0);
	cs_datapath_free(dp);
}

/* Each command either is not needed, or its refusal is one sentence that names it, and nothing is left behind. */
static void test_refused_commands(void **state)
{
	static const struct {
		uint32_t command;
		const char *named;
	} needed[] = {{0, "bpf(BPF_MAP_CREATE)"}, {1, "bpf(BPF_MAP_LOOKUP_ELEM)"}, {2, "bpf(BPF_MAP_UPDATE_ELEM)"},
		{3, "bpf(BPF_MAP_DELETE_ELEM)"}, {4, "bpf(BPF_MAP_GET_NEXT_KEY)"}, {5, "bpf(BPF_PROG_LOAD)"},
		{6, "bpf(BPF_OBJ_PIN)"}, {7, "bpf(BPF_OBJ_GET)"}, {10, "bpf(BPF_PROG_TEST_RUN)"},
		{15, "bpf(BPF_OBJ_GET_INFO_BY_FD)"}, {16, "bpf(BPF_PROG_QUERY)"}, {18, "bpf(BPF_BTF_LOAD)"},
		{22, "bpf(BPF_MAP_FREEZE)"}, {28, "bpf(BPF_LINK_CREATE)"}, {29, "bpf(BPF_LINK_UPDATE)"}};
	static const int codes[] = {EPERM, EINVAL};
	(void)state;
	for (uint32_t command = 0; command <= 36; command++)
		for (int k = 0; k < 2; k++) {
			char name[64], text[1024];
			const char *named = NULL;
			new_instance(name);
			struct cs_datapath_config c = small(name);
			c.attach = CS_ATTACH_TCX;
			for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
				if (needed[i].command == command)
					named = needed[i].named;
			open_without(command, codes[k], &c, text);
			if (!named) {
				if (text[0])
					fail_msg("command %u is not needed, but: %s", command, text);
				remove_instance(&c);
				continue;
			}
			if (!strstr(text, named) || !strstr(text, strerror(codes[k])) || strchr(text, '\n'))
				fail_msg("command %u (%s): %s", command, strerror(codes[k]), text);
			assert_false(exists(name));
		}
}

/* Without TCX, `auto` is clsact and needs none of its commands. */
static void test_without_tcx(void **state)
{
	static const uint32_t commands[] = {16, 28, 29};
	(void)state;
	char name[64], text[1024];
	for (int i = 0; i < 3; i++) {
		new_instance(name);
		struct cs_datapath_config c = small(name);
		c.attach = CS_ATTACH_CLSACT;
		open_without(commands[i], EINVAL, &c, text);
		assert_string_equal(text, "");
		remove_instance(&c);
	}
	new_instance(name);
	struct cs_datapath_config c = small(name);
	open_without(28, EINVAL, &c, text);
	assert_string_equal(text, "");
	remove_instance(&c);
}

static void test_bpffs(void **state)
{
	char dir[] = "/tmp/unit-open-XXXXXX", name[64];
	struct cs_error e = {0};
	(void)state;
	new_instance(name);
	struct cs_datapath_config c = small(name);
	assert_non_null(mkdtemp(dir));
	c.bpffs = dir;
	assert_null(cs_datapath_open(&c, &e));
	assert_non_null(strstr(e.text, "is not a bpffs"));
	assert_non_null(strstr(e.text, dir));
	assert_int_equal(rmdir(dir), 0); /* nothing was made in it */
	assert_null(cs_datapath_open(&c, &e));
	assert_non_null(strstr(e.text, "No such file or directory"));
	c.bpffs = "/proc";
	assert_true(cs_datapath_probe(&c, &e) < 0);
	assert_non_null(strstr(e.text, "is not a bpffs"));
	c.bpffs = "/sys/fs/bpf";
	assert_int_equal(cs_datapath_probe(&c, &e), 0);
	assert_false(probe_left_something());
	assert_false(exists(name));
}

static struct cs_datapath *must_open(const struct cs_datapath_config *c)
{
	struct cs_error e = {0};
	struct cs_datapath *dp = cs_datapath_open(c, &e);
	if (!dp)
		fail_msg("%s", e.text);
	return dp;
}

/* Entries survive the process; programs are new in each life. */
static void test_taken_over(void **state)
{
	char name[64];
	struct cs_auth_key key = {.local = 1000, .remote = 2000, .node = 1, .type = CS_AUTH_SPIRE};
	struct cs_basis basis = {.role = 1, .written_unix_s = 5}, found;
	uint64_t value;
	(void)state;
	new_instance(name);
	struct cs_datapath_config c = small(name);
	struct cs_datapath *dp = must_open(&c);
	assert_int_equal(cs_datapath_auth_put(dp, &key, 42, NULL), 0);
	assert_int_equal(cs_datapath_basis_put(dp, &key, &basis, NULL), 0);
	cs_datapath_free(dp);
	dp = must_open(&c);
	assert_int_equal(cs_datapath_auth_get(dp, &key, &value), 1);
	assert_int_equal(value, 42);
	assert_int_equal(cs_datapath_basis_get(dp, &key, &found), 1);
	assert_memory_equal(&found, &basis, sizeof(basis));
	/* A life that was killed while it pinned, or a hand that unpinned one: what is there stays, the rest is made. */
	char path[320];
	snprintf(path, sizeof(path), "%s/cs_flows", cs_datapath_dir(dp));
	assert_int_equal(unlink(path), 0);
	cs_datapath_free(dp);
	dp = must_open(&c);
	assert_int_equal(cs_datapath_auth_get(dp, &key, &value), 1);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(cs_datapath_unpin(dp, NULL), 0);
	cs_datapath_free(dp);
	assert_false(exists(name));
	dp = must_open(&c);
	assert_int_equal(cs_datapath_auth_get(dp, &key, &value), 0);
	assert_int_equal(cs_datapath_unpin(dp, NULL), 0);
	cs_datapath_free(dp);
}

static uint32_t rows(struct cs_datapath *dp, const char *name)
{
	struct bpf_map_info info = {0};
	uint32_t size = sizeof(info);
	assert_int_equal(bpf_obj_get_info_by_fd(cs_datapath_map_fd(dp, name), &info, &size), 0);
	return info.max_entries;
}

/* Other sizes than an earlier life's: the rows move, and where they have no room nothing changes. */
static void test_other_sizes(void **state)
{
	char name[64];
	struct cs_error e = {0};
	struct cs_endpoint ep = {.identity = 1000}, found;
	struct cs_auth_key key = {.local = 1000, .node = 1, .type = CS_AUTH_SPIRE};
	uint64_t value;
	(void)state;
	new_instance(name);
	struct cs_datapath_config c = small(name), other = c;
	struct cs_datapath *dp = must_open(&c);
	for (key.remote = 1; key.remote <= 100; key.remote++)
		assert_int_equal(cs_datapath_auth_put(dp, &key, key.remote, NULL), 0);
	assert_int_equal(cs_datapath_endpoint_put(dp, 7, &ep, NULL), 0);
	cs_datapath_free(dp);
	other.auth = 512;
	other.array_ifindex = 0;
	other.held_bytes = 65536;
	dp = must_open(&other);
	assert_int_equal(rows(dp, "cs_auth"), 512);
	assert_int_equal(rows(dp, "cs_basis"), 512);
	assert_int_equal(rows(dp, "cs_held"), 65536);
	for (key.remote = 1; key.remote <= 100; key.remote++) {
		assert_int_equal(cs_datapath_auth_get(dp, &key, &value), 1);
		assert_int_equal(value, key.remote);
	}
	assert_int_equal(cs_datapath_endpoint_get(dp, 7, &found), 1);
	assert_int_equal(found.identity, 1000);
	cs_datapath_free(dp);
	dp = must_open(&c); /* and back to an array */
	assert_int_equal(rows(dp, "cs_auth"), 256);
	assert_int_equal(cs_datapath_endpoint_get(dp, 7, &found), 1);
	cs_datapath_free(dp);
	other.auth = 64;
	assert_null(cs_datapath_open(&other, &e));
	assert_non_null(strstr(e.text, "/cs_auth"));
	assert_non_null(strstr(e.text, "set a larger one"));
	dp = must_open(&c);
	key.remote = 100;
	assert_int_equal(cs_datapath_auth_get(dp, &key, &value), 1);
	assert_int_equal(cs_datapath_unpin(dp, NULL), 0);
	cs_datapath_free(dp);
	assert_false(exists(name));
}

/* A map of another program under our name is not touched. */
static void test_foreign_map(void **state)
{
	char name[64], path[320];
	struct cs_error e = {0};
	(void)state;
	new_instance(name);
	struct cs_datapath_config c = small(name);
	struct cs_datapath *dp = must_open(&c);
	snprintf(path, sizeof(path), "%s/cs_auth", cs_datapath_dir(dp));
	assert_int_equal(unlink(path), 0);
	int fd = bpf_map_create(BPF_MAP_TYPE_HASH, NULL, 12, 16, 256, NULL);
	assert_int_equal(bpf_obj_pin(fd, path), 0);
	close(fd);
	struct cs_datapath *again = cs_datapath_open(&c, &e);
	assert_null(again);
	assert_non_null(strstr(e.text, "/cs_auth"));
	assert_non_null(strstr(e.text, "another size"));
	assert_int_equal(cs_datapath_unpin(dp, NULL), 0);
	cs_datapath_free(dp);
}

/* bpffs takes no dot, an instance may have one. */
static void test_dotted_instance(void **state)
{
	char name[64];
	(void)state;
	snprintf(name, sizeof(name), "unit.open.%d", (int)getpid());
	struct cs_datapath_config c = small(name);
	struct cs_datapath *dp = must_open(&c);
	assert_null(strchr(cs_datapath_dir(dp), '.'));
	assert_int_equal(cs_datapath_unpin(dp, NULL), 0);
	cs_datapath_free(dp);
}

static bool first_only(const void *key, const void *value, void *data)
{
	(void)key;
	(void)value;
	(*(int *)data)++;
	return false;
}

static bool delete_policy(const void *key, const void *value, void *data)
{
	(void)value;
	assert_int_equal(cs_datapath_policy_del(data, key, NULL), 0);
	return true;
}

static void test_full_maps_and_walks(void **state)
{
	struct world *w = *state;
	struct cs_error e = {0};
	struct cs_policy row = {.verdict = {CS_PASS, CS_PASS}};
	int r = 0, calls = 0;
	for (uint32_t i = 0; i < 257 && r == 0; i++) {
		struct cs_policy_key key = {.local = OWN, .remote = 1000 + i};
		r = cs_datapath_policy_put(w->dp, &key, &row, &e);
	}
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(e.reason, CS_R_MAP_FULL);
	assert_non_null(strstr(e.text, "cs_policy"));
	assert_int_equal(cs_datapath_each(w->dp, CS_MAP_POLICY, first_only, &calls, NULL), 1);
	assert_int_equal(calls, 1);
	/* Every row is seen, though each is deleted under the walk. */
	assert_int_equal(cs_datapath_each(w->dp, CS_MAP_POLICY, delete_policy, w->dp, NULL), 256);
	assert_int_equal(world_rows(w, CS_MAP_POLICY), 0);
	assert_int_equal(world_rows(w, CS_MAP_ENDPOINT), 1);
	struct cs_policy_key gone = {.local = 1, .remote = 1};
	assert_int_equal(cs_datapath_policy_del(w->dp, &gone, &e), 0);
}

/* cs_endpoint as an array and as a hash: the same answers. */
static void test_endpoint_kinds(void **state)
{
	(void)state;
	for (int hash = 0; hash < 2; hash++) {
		char name[64];
		struct cs_error e = {0};
		struct cs_endpoint ep = {.identity = 1}, found;
		new_instance(name);
		struct cs_datapath_config c = small(name);
		c.array_ifindex = hash ? 0 : 15;
		struct world *w = world_new(&c);
		world_defaults(w, CS_PASS, CS_PASS, CS_PASS, CS_PASS);
		EXPECT(w, {"registered", CS_FROM, {OWN4, REMOTE4}, PASSES},
			{"registered", CS_FROM, {LOCAL4, REMOTE4}, CS_R_SOURCE_NOT_OWNED});
		assert_int_equal(cs_datapath_endpoint_get(w->dp, IFINDEX, &found), 1);
		assert_int_equal(found.identity, OWN);
		assert_int_equal(cs_datapath_endpoint_get(w->dp, 2, &found), 0);
		assert_int_equal(world_rows(w, CS_MAP_ENDPOINT), 1);
		assert_int_equal(cs_datapath_endpoint_put(w->dp, 15, &ep, &e), 0);
		int r = cs_datapath_endpoint_put(w->dp, 16, &ep, &e);
		assert_int_equal(r, hash ? 0 : -ENOSPC);
		if (!hash) {
			assert_int_equal(e.reason, CS_R_MAP_FULL);
			assert_non_null(strstr(e.text, "takes a hash"));
		}
		assert_int_equal(cs_datapath_endpoint_del(w->dp, IFINDEX, &e), 0);
		assert_int_equal(cs_datapath_endpoint_get(w->dp, IFINDEX, &found), 0);
		EXPECT(w, {"unregistered", CS_FROM, {OWN4, REMOTE4}, CS_R_NO_ENDPOINT});
		assert_int_equal(cs_datapath_endpoint_del(w->dp, 999, &e), 0);
		world_free(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused_commands),
		cmocka_unit_test(test_without_tcx),
		cmocka_unit_test(test_bpffs),
		cmocka_unit_test(test_taken_over),
		cmocka_unit_test(test_other_sizes),
		cmocka_unit_test(test_foreign_map),
		cmocka_unit_test(test_dotted_instance),
		cmocka_unit_test_setup_teardown(test_full_maps_and_walks, world_open, world_close),
		cmocka_unit_test(test_endpoint_kinds),
	};
	return cmocka_run_group_tests(tests, own_network, remove_leftovers);
}
