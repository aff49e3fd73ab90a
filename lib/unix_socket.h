/* Local sockets: made with the right mode from the first moment on, and callers known by the kernel's word. */
#ifndef CS_UNIX_SOCKET_H
#define CS_UNIX_SOCKET_H

#include <sys/types.h>
#include "error.h"
#include "grpc_roles.h"

/* A listening, non-blocking, close-on-exec socket of this type (SOCK_STREAM, SOCK_SEQPACKET). Mode and group ((gid_t)-1:
 * leave it) are set before anybody can connect. Removes a stale socket of this user. -EEXIST: the path is no socket;
 * -EPERM: it belongs to somebody else; -EADDRINUSE: a live process answers on it. Two that start at the same instant are
 * kept apart by cs_instance_lock(), not here. */
CS_MUST_USE int cs_unix_listen(const char *path, int type, mode_t mode, gid_t group, int backlog, struct cs_error *e);

#define CS_UNIX_PEER 48 /* "uid 4294967295 (pid 4194304)" */

/* The roles (0: none) of the process that connected, by its uid, gid and supplementary groups at that time. */
CS_MUST_USE int cs_unix_peer_roles(
	int fd, const struct cs_roles *roles, uint32_t *ret_roles, char peer[CS_UNIX_PEER], struct cs_error *e);

#endif
