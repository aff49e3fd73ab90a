#include "unix_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int make_address(const char *path, struct sockaddr_un *ret, struct cs_error *e)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(ret->sun_path))
		return cs_error_set(e, -ENAMETOOLONG, "the socket path %s is longer than %zu characters", path,
			sizeof(ret->sun_path) - 1);
	strcpy(ret->sun_path, path);
	return 0;
}

/* Takes a socket away that a dead process of this user left; 0 if the path is free now. */
static int remove_stale(const struct sockaddr_un *address, int type, struct cs_error *e)
{
	const char *path = address->sun_path;
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : cs_error_errno(e, -errno, "cannot look at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return cs_error_set(e, -EEXIST, "%s is there and is not a socket; move it away", path);
	if (st.st_uid != geteuid())
		return cs_error_set(e, -EPERM, "the socket %s belongs to user %u, not to this daemon's user %u", path,
			(unsigned)st.st_uid, (unsigned)geteuid());
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot make a socket");
	int err = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? errno : 0;
	close(fd);
	if (err != ECONNREFUSED && err != ENOENT)
		return cs_error_set(
			e, -EADDRINUSE, "another process listens on %s; stop it, or choose another --instance", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return cs_error_errno(e, -errno, "cannot remove the stale socket %s", path);
	return 0;
}

int cs_unix_listen(const char *path, int type, mode_t mode, gid_t group, int backlog, struct cs_error *e)
{
	struct sockaddr_un address;
	int r = make_address(path, &address, e);
	if (r < 0 || (r = remove_stale(&address, type, e)) < 0)
		return r;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot make a socket");
	bool bound = false;
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) {
		bound = true;
		/* Until listen() a connect is refused. */
		if ((group == (gid_t)-1 || lchown(path, (uid_t)-1, group) == 0) && chmod(path, mode) == 0 &&
			listen(fd, backlog) == 0)
			return fd;
	}
	r = cs_error_errno(e, -errno, "cannot listen on %s", path);
	close(fd);
	if (bound)
		unlink(path);
	return r;
}

static int get_groups(int fd, gid_t **ret, size_t *ret_n)
{
	socklen_t len = 32 * sizeof(gid_t);
	for (;;) {
		gid_t *groups = malloc(len);
		if (!groups)
			return -ENOMEM;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) == 0) {
			*ret = groups;
			*ret_n = len / sizeof(gid_t);
			return 0;
		}
		int err = errno;
		free(groups);
		if (err != ERANGE) /* then len is what is needed */
			return -err;
	}
}

int cs_unix_peer_roles(
	int fd, const struct cs_roles *roles, uint32_t *ret_roles, char peer[CS_UNIX_PEER], struct cs_error *e)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	gid_t *groups = NULL;
	size_t n = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return cs_error_errno(e, -errno, "cannot ask who connected");
	int r = get_groups(fd, &groups, &n);
	if (r < 0)
		return cs_error_errno(e, r, "cannot ask for the groups of who connected");
	*ret_roles = cs_roles_of(roles, cred.uid, cred.gid, groups, n);
	snprintf(peer, CS_UNIX_PEER, "uid %u (pid %d)", (unsigned)cred.uid, (int)cred.pid);
	free(groups);
	return 0;
}
