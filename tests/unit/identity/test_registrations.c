/* Registrations on disk: what was written is there, what was half written is not, and what cannot be read is said. */
#include "registrations.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char base[] = "/tmp/countersign-registrations-XXXXXX", dir[128];

struct loaded {
	unsigned n;
	size_t bytes;
	int fail;
};

static int on_file(void *data, const uint8_t *bytes, size_t n, struct cs_error *e)
{
	struct loaded *l = data;
	l->n++;
	l->bytes += n;
	assert_true(n == 0 || bytes[0] == 'x');
	return l->fail ? cs_error_set(e, l->fail, "as the test wants it") : 0;
}

static struct loaded load(void)
{
	struct loaded l = {0};
	struct cs_error e;
	if (cs_registrations_load(dir, on_file, &l, &e) < 0)
		fail_msg("%s", e.text);
	return l;
}

static void write_one(const char *id, const char *text)
{
	struct cs_registration reg = {.id = (char *)id, .bytes = (uint8_t *)text, .n = text ? strlen(text) : 0};
	struct cs_error e;
	size_t done;
	assert_int_equal(cs_registrations_write(dir, &reg, 1, &done, &e), 0);
	assert_int_equal(done, 1);
}

static void test_write_and_load(void **state)
{
	(void)state;
	assert_int_equal(load().n, 0);
	struct stat st;
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	write_one("a", "x1");
	write_one("../../etc/b", "x22");
	assert_int_equal(load().bytes, 5);
	write_one("a", "x333");
	assert_int_equal(load().bytes, 7);
	write_one("a", NULL);
	write_one("a", NULL); /* twice is once */
	assert_int_equal(load().n, 1);
	/* What a killed process left. */
	char path[192];
	snprintf(path, sizeof(path), "%s/0123.new", dir);
	close(open(path, O_WRONLY | O_CREAT, 0600));
	assert_int_equal(load().n, 1);
	assert_int_equal(access(path, F_OK), -1);
	write_one("../../etc/b", NULL);
}

static void test_what_cannot_be_read(void **state)
{
	(void)state;
	struct loaded l = {.fail = -EINVAL};
	struct cs_error e;
	write_one("a", "x");
	assert_int_equal(cs_registrations_load(dir, on_file, &l, &e), -EINVAL);
	assert_non_null(strstr(e.text, dir));
	write_one("a", NULL);
	struct cs_registration reg = {.id = (char *)"a", .bytes = (uint8_t *)"x", .n = 1};
	size_t done;
	assert_int_equal(cs_registrations_write("/nowhere", &reg, 1, &done, &e), -ENOENT);
	assert_int_equal(done, 0);
}

int main(void)
{
	if (!mkdtemp(base))
		return 1;
	snprintf(dir, sizeof(dir), "%s/endpoints", base);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_write_and_load),
		cmocka_unit_test(test_what_cannot_be_read),
	};
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(dir);
	rmdir(base);
	return r;
}
