/* lib/notify: the datagram that systemd gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "notify.h"

/* A bound datagram socket; first: what the path begins with, '@' for an abstract one. */
static int listener(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	strcpy(addr.sun_path, path);
	if (path[0] == '@')
		addr.sun_path[0] = '\0';
	assert_int_equal(
		bind(fd, (struct sockaddr *)&addr, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path))),
		0);
	return fd;
}

static void sent_to(const char *path)
{
	char got[64] = "";
	struct cs_error e;
	int fd = listener(path);
	setenv("NOTIFY_SOCKET", path, 1);
	if (cs_notify("READY=1\nSTATUS=serving", &e) != 1)
		fail_msg("%s", e.text);
	assert_int_equal(recv(fd, got, sizeof(got) - 1, 0), strlen("READY=1\nSTATUS=serving"));
	assert_string_equal(got, "READY=1\nSTATUS=serving");
	close(fd);
}

static void test_sent(void **state)
{
	(void)state;
	char dir[] = "/tmp/cs-notify-XXXXXX", path[64];
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	sent_to(path);
	unlink(path);
	rmdir(dir);
	snprintf(path, sizeof(path), "@cs-notify-test-%d", getpid());
	sent_to(path);
}

static void test_nobody(void **state)
{
	(void)state;
	struct cs_error e;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(cs_notify("READY=1", &e), 0);
	setenv("NOTIFY_SOCKET", "", 1);
	assert_int_equal(cs_notify("READY=1", &e), 0);
}

static void test_wrong(void **state)
{
	(void)state;
	char longest[200];
	struct cs_error e;
	setenv("NOTIFY_SOCKET", "relative", 1);
	assert_int_equal(cs_notify("READY=1", &e), -EINVAL);
	memset(longest, 'a', sizeof(longest));
	longest[0] = '/';
	longest[199] = '\0';
	setenv("NOTIFY_SOCKET", longest, 1);
	assert_int_equal(cs_notify("READY=1", &e), -EINVAL);
	setenv("NOTIFY_SOCKET", "/nonexistent/socket", 1);
	assert_int_equal(cs_notify("READY=1", &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nonexistent/socket"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sent), cmocka_unit_test(test_nobody), cmocka_unit_test(test_wrong)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
