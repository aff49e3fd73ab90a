/* Local sockets: modes, what is in the way, and who connected. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "unix_socket.h"

static char dir[32], path[64];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/cs-test-unix-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static int listen_on(int type, mode_t mode, struct cs_error *e)
{
	return cs_unix_listen(path, type, mode, (gid_t)-1, 4, e);
}

static int dial(int type)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strcpy(a.sun_path, path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void has_the_mode_that_was_asked_for(void **state)
{
	(void)state;
	struct cs_error e;
	struct stat st;
	const mode_t modes[] = {0600, 0660, 0666};
	for (int i = 0; i < 3; i++) {
		mode_t old = umask(077);
		int fd = cs_unix_listen(path, SOCK_STREAM, modes[i], getegid(), 4, &e);
		umask(old);
		assert_true(fd >= 0);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, modes[i]);
		assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
		assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
		close(fd); /* and leaves a stale socket to the next */
	}
}

static void refuses_what_is_in_the_way(void **state)
{
	(void)state;
	struct cs_error e;
	const int types[] = {SOCK_STREAM, SOCK_SEQPACKET};
	for (int i = 0; i < 2; i++) {
		int live = listen_on(types[i], 0600, &e);
		assert_true(live >= 0);
		assert_int_equal(listen_on(SOCK_STREAM, 0600, &e), -EADDRINUSE);
		assert_int_equal(listen_on(SOCK_SEQPACKET, 0600, &e), -EADDRINUSE);
		assert_non_null(strstr(e.text, path));
		close(live);
	}
	assert_int_equal(unlink(path), 0);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(listen_on(SOCK_STREAM, 0600, &e), -EEXIST);
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
	if (geteuid() != 0)
		return;
	int fd = listen_on(SOCK_STREAM, 0600, &e);
	close(fd);
	assert_int_equal(chown(path, 4711, (gid_t)-1), 0);
	assert_int_equal(listen_on(SOCK_STREAM, 0600, &e), -EPERM);
	assert_non_null(strstr(e.text, "4711"));
}

static void says_what_failed(void **state)
{
	(void)state;
	struct cs_error e;
	char text[256];
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(cs_unix_listen(text, SOCK_STREAM, 0600, (gid_t)-1, 4, &e), -ENAMETOOLONG);
	assert_int_equal(cs_unix_listen("/nowhere/s", SOCK_STREAM, 0600, (gid_t)-1, 4, &e), -ENOENT);
}

static void knows_who_connected(void **state)
{
	(void)state;
	struct cs_roles roles = {.n = 1, .members = {{.roles = CS_ROLE_AUTHD, .id = geteuid()}}};
	struct cs_error e;
	uint32_t got = 0;
	char peer[CS_UNIX_PEER], want[CS_UNIX_PEER];
	int listener = listen_on(SOCK_SEQPACKET, 0666, &e), client = dial(SOCK_SEQPACKET);
	int fd = accept(listener, NULL, NULL);
	assert_int_equal(cs_unix_peer_roles(fd, &roles, &got, peer, &e), 0);
	assert_int_equal(got, CS_ROLE_AUTHD);
	snprintf(want, sizeof(want), "uid %u (pid %d)", (unsigned)geteuid(), (int)getpid());
	assert_string_equal(peer, want);
	roles.members[0].id++;
	assert_int_equal(cs_unix_peer_roles(fd, &roles, &got, peer, &e), 0);
	assert_int_equal(got, 0);
	close(fd);
	close(client);
	close(listener);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {T(has_the_mode_that_was_asked_for), T(refuses_what_is_in_the_way),
		T(says_what_failed), T(knows_who_connected)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
