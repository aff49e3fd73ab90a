#include "notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int cs_notify(const char *state, struct cs_error *e)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (!path || !*path)
		return 0;
	size_t len = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(addr.sun_path))
		return cs_error_set(e, -EINVAL, "NOTIFY_SOCKET is neither a path nor an abstract name: '%s'", path);
	memcpy(addr.sun_path, path, len);
	if (path[0] == '@') /* sd_notify(3): an abstract socket */
		addr.sun_path[0] = '\0';
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot tell the service manager");
	ssize_t n = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&addr,
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
	int r = n < 0 ? -errno : 1;
	close(fd);
	return r < 0 ? cs_error_errno(e, r, "cannot tell the service manager at '%s'", path) : 1;
}
