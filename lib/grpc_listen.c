/* Where clients come in: listening sockets, and who may stay. */
#include "grpc_server.h"
#include "unix_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- who comes in ---- */

static int take_credentials(struct cs_grpc_conn *conn, const struct cs_roles *roles, struct cs_error *e)
{
	uv_os_fd_t fd;
	struct ucred cred;
	socklen_t n = sizeof(cred);
	char peer[CS_UNIX_PEER];
	if (uv_fileno(&conn->h.io.handle, &fd) < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
		return cs_error_errno(e, -errno, "cannot tell who connected");
	int r = cs_unix_peer_roles(fd, roles, &conn->roles, peer, e);
	if (r < 0)
		return r;
	conn->local = true;
	conn->uid = cred.uid;
	snprintf(conn->peer, sizeof(conn->peer), "%s", peer);
	if (conn->roles == 0)
		return cs_error_reason(
			e, -EACCES, CS_R_ROLE_REFUSED, "user %u has no role on this socket", (unsigned)cred.uid);
	return 0;
}

static int take_address(struct cs_grpc_conn *conn, struct cs_error *e)
{
	struct sockaddr_storage sa;
	int n = sizeof(sa), r = uv_tcp_getpeername(&conn->h.io.tcp, (struct sockaddr *)&sa, &n);
	if (r < 0)
		return cs_error_set(e, r, "cannot tell who connected: %s", uv_strerror(r));
	char host[INET6_ADDRSTRLEN];
	uint16_t port;
	if (sa.ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&sa;
		conn->address = in6->sin6_addr;
		port = ntohs(in6->sin6_port);
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
	} else {
		const struct sockaddr_in *in = (const struct sockaddr_in *)&sa;
		memcpy(&conn->address.s6_addr[12], &in->sin_addr, 4);
		port = ntohs(in->sin_port);
		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
	}
	snprintf(conn->peer, sizeof(conn->peer), sa.ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, (unsigned)port);
	return 0;
}

static int check_room(const struct cs_grpc_conn *conn, struct cs_error *e)
{
	const struct cs_grpc_server *server = conn->server;
	const struct cs_grpc_limits *limits = &server->options.limits;
	const struct cs_grpc_conn *other;
	if (server->nconns > limits->connections_max)
		return cs_error_reason(e, -EMFILE, CS_R_TOO_MANY, "there are %u connections, as many as may be",
			(unsigned)limits->connections_max);
	uint32_t same = 0;
	DL_FOREACH (server->conns, other)
		same += other->local && other->uid == conn->uid && !other->turned_away;
	if (same > limits->per_user_max)
		return cs_error_reason(e, -EMFILE, CS_R_TOO_MANY,
			"this user has %u connections, as many as it may have", (unsigned)limits->per_user_max);
	return 0;
}

/* Has it kept its peer's place for long enough? One that we keep waiting has not. */
static bool may_go(const struct cs_grpc_conn *conn, int64_t now_ms)
{
	const struct cs_http2 *h = &conn->h;
	return !h->working && !h->waiting && !h->failed &&
	       (now_ms - h->idle_since_ms > CS_GRPC_PENDING_IDLE_MS || h->rounds > CS_GRPC_PENDING_ROUNDS);
}

/* Whoever has not shown a certificate yet has a place among those only, and whoever sits on one makes room. */
static int check_pending_room(struct cs_grpc_conn *conn, struct cs_error *e)
{
	struct cs_grpc_server *server = conn->server;
	struct cs_grpc_conn *other, *idle = NULL, *idle_same = NULL;
	uint32_t max = server->options.limits.pending_max, same = 0;
	int64_t now_ms = cs_loop_mono_ms(server->loop);
	DL_FOREACH2 (server->pending, other, pnext) {
		bool is_same = memcmp(&other->address, &conn->address, sizeof(conn->address)) == 0;
		bool goes = may_go(other, now_ms);
		same += is_same;
		idle = !idle && goes ? other : idle;
		idle_same = !idle_same && goes && is_same ? other : idle_same;
	}
	bool full = server->npending >= max, full_same = same >= (max + 1) / 2;
	struct cs_grpc_conn *goes = full_same ? idle_same : idle;
	if (!full && !full_same)
		return 0;
	if (!goes)
		return cs_error_reason(e, -EMFILE, CS_R_TOO_MANY,
			"%zu connections have not shown a certificate yet, %u of them from this address; there is room "
			"for %u, and half of it for an address",
			server->npending, (unsigned)same, (unsigned)max);
	cs_error_reason(e, -EMFILE, CS_R_TOO_MANY, "it showed no certificate, and others need its place");
	cs_grpc_conn_place(goes, CS_GRPC_NOWHERE);
	cs_http2_fail(&goes->h, e);
	return 0;
}

int cs_grpc_conn_name_room(const struct cs_grpc_conn *conn, struct cs_error *e)
{
	const struct cs_grpc_server *server = conn->server;
	const struct cs_grpc_limits *limits = &server->options.limits;
	const struct cs_grpc_conn *other;
	if (server->nnamed >= limits->connections_max)
		return cs_error_reason(e, -EMFILE, CS_R_TOO_MANY, "there are %u connections, as many as may be",
			(unsigned)limits->connections_max);
	uint32_t same = 0;
	DL_FOREACH (server->conns, other)
		same += other->is_named && strcmp(other->peer, conn->peer) == 0;
	if (same >= limits->per_user_max)
		return cs_error_reason(e, -EMFILE, CS_R_TOO_MANY, "%.200s has %u connections, as many as it may have",
			conn->peer, (unsigned)limits->per_user_max);
	return 0;
}

static void on_connection(uv_stream_t *stream, int status)
{
	struct listener *listener = stream->data;
	if (status < 0)
		return;
	struct cs_grpc_conn *conn = cs_grpc_conn_new(listener->server, !listener->path);
	if (!conn)
		return; /* out of memory: libuv keeps it, and listens no more */
	struct cs_error e;
	int r = uv_accept(stream, &conn->h.io.stream);
	if (r < 0)
		cs_error_set(&e, r, "cannot accept a connection: %s", uv_strerror(r));
	if (r == 0)
		r = listener->path ? take_credentials(conn, listener->roles, &e) : take_address(conn, &e);
	if (r == 0)
		r = listener->path ? check_room(conn, &e) : check_pending_room(conn, &e);
	if (r == 0 && !listener->path)
		cs_grpc_conn_place(conn, CS_GRPC_PENDING);
	if (r < 0) {
		cs_grpc_conn_refuse(conn, &e);
		return;
	}
	if (cs_grpc_conn_start(conn, listener->tls, &e) < 0)
		cs_http2_fail(&conn->h, &e);
}

/* ---- listeners ---- */

static void listener_closed(uv_handle_t *handle)
{
	struct listener *listener = handle->data;
	struct cs_grpc_server *server = listener->server;
	free(listener->path);
	free(listener);
	cs_grpc_listener_gone(server);
}

void cs_grpc_listener_close(struct listener *listener)
{
	struct stat st;
	if (listener->path && listener->ino && lstat(listener->path, &st) == 0 && st.st_dev == listener->dev &&
		st.st_ino == listener->ino)
		unlink(listener->path);
	uv_close(&listener->io.handle, listener_closed);
}

static struct listener *listener_new(struct cs_grpc_server *server, bool tcp)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return NULL;
	int r = tcp ? uv_tcp_init(&server->loop->uv, &listener->io.tcp)
		    : uv_pipe_init(&server->loop->uv, &listener->io.pipe, 0);
	if (r < 0) {
		free(listener);
		return NULL;
	}
	listener->io.handle.data = listener;
	listener->server = server;
	server->nlisteners++;
	return listener;
}

static int listen_on(struct listener *listener, struct cs_error *e, const char *where)
{
	int r = uv_listen(&listener->io.stream, CS_GRPC_BACKLOG, on_connection);
	if (r < 0)
		return cs_error_set(e, r, "cannot listen on %s: %s", where, uv_strerror(r));
	listener->next = listener->server->listeners;
	listener->server->listeners = listener;
	return 0;
}

/* ---- Unix ---- */

static int bind_unix(struct listener *listener, mode_t mode, gid_t group, struct cs_error *e)
{
	struct stat st;
	int fd = cs_unix_listen(listener->path, SOCK_STREAM, mode, group, CS_GRPC_BACKLOG, e);
	if (fd < 0)
		return fd;
	if (lstat(listener->path, &st) == 0) { /* so that only this very socket is removed at the end */
		listener->dev = st.st_dev;
		listener->ino = st.st_ino;
	}
	int r = uv_pipe_open(&listener->io.pipe, fd);
	if (r < 0) {
		close(fd);
		return cs_error_set(e, r, "cannot serve %s: %s", listener->path, uv_strerror(r));
	}
	return listen_on(listener, e, listener->path);
}

int cs_grpc_server_listen_unix(struct cs_grpc_server *server, const char *path, mode_t mode, gid_t group,
	const struct cs_roles *roles, struct cs_error *e)
{
	struct listener *listener = listener_new(server, false);
	if (!listener)
		return cs_error_set(e, -ENOMEM, "no memory to listen on %s", path);
	listener->roles = roles;
	listener->path = strdup(path);
	int r = listener->path ? bind_unix(listener, mode, group, e)
			       : cs_error_set(e, -ENOMEM, "no memory to listen on %s", path);
	if (r < 0)
		cs_grpc_listener_close(listener);
	return r;
}

/* ---- TCP ---- */

static int parse_address(const char *address, struct sockaddr_storage *sa)
{
	char host[INET6_ADDRSTRLEN + 2];
	const char *colon = strrchr(address, ':');
	if (!colon || (size_t)(colon - address) >= sizeof(host))
		return -EINVAL;
	snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
	char *end;
	unsigned long port = strtoul(colon + 1, &end, 10);
	if (colon[1] < '0' || colon[1] > '9' || *end || port > 65535)
		return -EINVAL;
	size_t n = strlen(host);
	if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = '\0';
		return uv_ip6_addr(host + 1, (int)port, (struct sockaddr_in6 *)sa);
	}
	return uv_ip4_addr(host, (int)port, (struct sockaddr_in *)sa);
}

static int bind_tcp(struct listener *listener, const char *address, struct cs_error *e)
{
	struct sockaddr_storage sa;
	int n = sizeof(sa);
	if (parse_address(address, &sa) < 0)
		return cs_error_set(
			e, -EINVAL, "'%s' is not an address to listen on: write 0.0.0.0:PORT or [::]:PORT", address);
	int r = uv_tcp_bind(&listener->io.tcp, (const struct sockaddr *)&sa, 0);
	if (r < 0)
		return cs_error_set(e, r, "cannot bind %s: %s", address, uv_strerror(r));
	r = listen_on(listener, e, address);
	if (r < 0)
		return r;
	if (uv_tcp_getsockname(&listener->io.tcp, (struct sockaddr *)&sa, &n) == 0)
		listener->server->port = ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
									: ((struct sockaddr_in *)&sa)->sin_port);
	return 0;
}

int cs_grpc_server_listen_tcp(
	struct cs_grpc_server *server, const char *address, const struct cs_grpc_tls *tls, struct cs_error *e)
{
	struct listener *listener = listener_new(server, true);
	if (!listener)
		return cs_error_set(e, -ENOMEM, "no memory to listen on %s", address);
	listener->tls = tls;
	int r = bind_tcp(listener, address, e);
	if (r < 0)
		cs_grpc_listener_close(listener);
	return r;
}
