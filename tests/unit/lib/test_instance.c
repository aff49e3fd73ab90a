/* lib/instance: paths that fit a socket address, names that fit bpffs, directories that are ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "instance.h"

static char dir[64], path[256];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/cs-instance-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	char command[128];
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

static const char *below(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void test_path(void **state)
{
	(void)state;
	char out[CS_PATH], longest[128];
	struct cs_error e;
	assert_int_equal(cs_instance_path("/i", "authd", "status.sock", out, &e), 0);
	assert_string_equal(out, "/i/authd/status.sock");
	memset(longest, 'a', sizeof(longest));
	longest[0] = '/';
	longest[107 - strlen("/authd/status.sock")] = '\0';
	assert_int_equal(cs_instance_path(longest, "authd", "status.sock", out, &e), 0);
	assert_int_equal(strlen(out), 107);
	strcat(longest, "a");
	assert_int_equal(cs_instance_path(longest, "authd", "status.sock", out, &e), -ENAMETOOLONG);
	assert_non_null(strstr(e.text, "shorter"));
}

static void test_name(void **state)
{
	(void)state;
	char out[64];
	struct cs_error e;
	assert_int_equal(cs_instance_name("/var/lib/countersign/default", out, &e), 0);
	assert_string_equal(out, "default");
	assert_int_equal(cs_instance_name("/a/node-1.x_Y//", out, &e), 0);
	assert_string_equal(out, "node-1.x_Y");
	const char *const bad[] = {"", "/", "/a/..", "/a/.hidden", "/a/b c", "/a/b\n", "/a/\xc3\xa9",
		"/a/1234567890123456789012345678901234567890123456789012345678901234"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cs_instance_name(bad[i], out, &e), -EINVAL);
}

static void test_make(void **state)
{
	(void)state;
	struct cs_error e;
	struct stat st;
	umask(0);
	assert_int_equal(cs_instance_make(below("deep/er/node1"), "authd", &e), 0);
	assert_int_equal(stat(below("deep/er/node1/authd"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	assert_int_equal(cs_instance_make(below("deep/er/node1"), "authd", &e), 0); /* again is nothing */
	assert_int_equal(cs_instance_make(below("deep/er/node1"), "identityd", &e), 0);
}

static void test_refuse(void **state)
{
	(void)state;
	struct cs_error e;
	assert_int_equal(cs_instance_make("", "authd", &e), -EINVAL);
	assert_int_equal(cs_instance_make("relative", "authd", &e), -EINVAL);
	assert_int_equal(mkdir(below("open"), 0755), 0);
	assert_int_equal(chmod(below("open"), 0777), 0);
	assert_int_equal(cs_instance_make(below("open"), "authd", &e), -EPERM);
	assert_non_null(strstr(e.text, "chmod go-w"));
	char target[256];
	snprintf(target, sizeof(target), "%s", below("open"));
	assert_int_equal(symlink(target, below("link")), 0);
	assert_int_equal(cs_instance_make(below("link"), "authd", &e), -ENOTDIR);
	FILE *f = fopen(below("file"), "w");
	assert_non_null(f);
	fclose(f);
	assert_int_equal(cs_instance_make(below("file"), "authd", &e), -ENOTDIR);
	if (geteuid() == 0) { /* only root can give a directory away */
		assert_int_equal(mkdir(below("foreign"), 0755), 0);
		assert_int_equal(chown(below("foreign"), 12345, 12345), 0);
		assert_int_equal(cs_instance_make(below("foreign"), "authd", &e), -EPERM);
		assert_non_null(strstr(e.text, "belongs to user 12345"));
	}
	char longest[300];
	memset(longest, 'a', sizeof(longest));
	longest[0] = '/';
	longest[299] = '\0';
	assert_int_equal(cs_instance_make(longest, "authd", &e), -ENAMETOOLONG);
}

static void test_lock(void **state)
{
	(void)state;
	struct cs_error e;
	struct stat st;
	assert_int_equal(cs_instance_lock(below("none"), "authd", &e), -ENOENT);
	assert_int_equal(cs_instance_make(below("n1"), "authd", &e), 0);
	assert_int_equal(cs_instance_make(below("n1"), "identityd", &e), 0);
	int fd = cs_instance_lock(below("n1"), "authd", &e);
	assert_true(fd >= 0);
	assert_int_equal(stat(below("n1/authd/lock"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(cs_instance_lock(below("n1"), "authd", &e), -EBUSY);
	assert_non_null(strstr(e.text, "choose another --instance"));
	int other = cs_instance_lock(below("n1"), "identityd", &e);
	assert_true(other >= 0);
	close(fd);
	fd = cs_instance_lock(below("n1"), "authd", &e);
	assert_true(fd >= 0);
	close(fd);
	close(other);
	assert_int_equal(unlink(below("n1/authd/lock")), 0);
	assert_int_equal(symlink("/dev/null", below("n1/authd/lock")), 0);
	assert_int_equal(cs_instance_lock(below("n1"), "authd", &e), -ELOOP);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {T(test_path), T(test_name), T(test_make), T(test_refuse), T(test_lock)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
