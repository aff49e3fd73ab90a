#include "sign_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>
#include "log.h"
#include "signer.h"
#include "unix_socket.h"

#define BACKLOG         16
#define SLOTS           16 /* requests at work, and behind them refusals that wait for their turn; then we read no more */
#define PER_WAKEUP      16   /* requests of one connection before the others have their turn: some 400 us */
#define ACCEPT_PAUSE_MS 1000 /* out of descriptors */

struct slot {
	uv_work_t uv;
	struct connection *conn;
	bool ready;
	struct cs_sign_work work;
};

struct connection {
	uv_poll_t poll;
	int fd;
	char peer[CS_UNIX_PEER];
	struct cs_sign_server *server;
	struct cs_sign_bucket bucket;
	struct slot slots[SLOTS]; /* a ring: first is the oldest, its answer goes out next */
	unsigned first, used;
	unsigned working; /* slots in worker threads: until they are back the memory stays */
	bool closed;
	struct connection *prev, *next;
};

struct cs_sign_server {
	struct cs_loop *loop;
	const struct cs_roles *roles;
	const struct cs_keys *keys;
	struct cs_metric *answers, *connections;
	uv_poll_t poll;
	struct cs_timer pause;
	int fd;
	char path[CS_PATH];
	bool closing;
	struct connection *conns;
	size_t nconns;
};

/* ---- a connection ---- */

static void release(struct connection *conn)
{
	if (conn->closed && conn->working == 0)
		free(conn);
}

static void connection_closed(uv_handle_t *handle)
{
	struct connection *conn = handle->data;
	close(conn->fd);
	conn->closed = true;
	release(conn);
}

static void close_connection(struct connection *conn)
{
	if (uv_is_closing((uv_handle_t *)&conn->poll))
		return;
	struct cs_sign_server *server = conn->server;
	DL_DELETE(server->conns, conn);
	server->nconns--;
	cs_metric_set(server->connections, (double)server->nconns);
	uv_close((uv_handle_t *)&conn->poll, connection_closed);
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct connection *conn)
{
	bool answer_waits = conn->used > 0 && conn->slots[conn->first].ready;
	int events = (conn->used < SLOTS ? UV_READABLE : 0) | (answer_waits ? UV_WRITABLE : 0);
	/* Nothing to do until a worker is back: only look whether the peer is gone. */
	uv_poll_start(&conn->poll, events ? events : UV_DISCONNECT, on_poll);
}

/* Sends what is ready, in order. False: the connection is gone. */
static bool send_answers(struct connection *conn)
{
	while (conn->used > 0 && conn->slots[conn->first].ready) {
		const struct cs_sign_work *work = &conn->slots[conn->first].work;
		ssize_t n = send(conn->fd, &work->answer, sizeof(work->answer), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n < 0) {
			close_connection(conn);
			return false;
		}
		conn->first = (conn->first + 1) % SLOTS;
		conn->used--;
	}
	return true;
}

static void account(struct connection *conn, enum cs_sign_result result)
{
	const char *name = cs_sign_result_name(result);
	cs_metric_add(conn->server->answers, 1, name);
	if (result != CS_SIGN_SIGNED)
		cs_warn("a signature was refused", cs_str("peer", conn->peer), cs_str("result", name));
}

static void work_in_thread(uv_work_t *uv)
{
	struct slot *slot = uv->data;
	cs_sign_work_do(&slot->work);
}

static void work_done(uv_work_t *uv, int status)
{
	(void)status; /* never cancelled */
	struct slot *slot = uv->data;
	struct connection *conn = slot->conn;
	slot->ready = true;
	conn->working--;
	account(conn, slot->work.result);
	if (uv_is_closing((uv_handle_t *)&conn->poll))
		release(conn);
	else if (send_answers(conn))
		watch(conn);
}

/* One message off the socket. False: nothing more to read now, or the connection is gone. */
static bool take_request(struct connection *conn)
{
	struct cs_sign_server *server = conn->server;
	struct cs_sign_request q;
	struct slot *slot = &conn->slots[(conn->first + conn->used) % SLOTS];
	ssize_t n = recv(conn->fd, &q, sizeof(q), MSG_DONTWAIT | MSG_TRUNC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		close_connection(conn);
		return false;
	}
	if (cs_signer_handle(server->keys, &conn->bucket, &q, (size_t)n, conn->used, cs_loop_mono_ms(server->loop),
		    &slot->work) < 0) {
		account(conn, CS_SIGN_MALFORMED);
		close_connection(conn);
		return false;
	}
	slot->ready = !slot->work.key;
	conn->used++;
	if (slot->ready) {
		account(conn, slot->work.result);
		return true;
	}
	slot->uv.data = slot;
	slot->conn = conn;
	conn->working++;
	uv_queue_work(&server->loop->uv, &slot->uv, work_in_thread, work_done);
	return true;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct connection *conn = poll->data;
	if (status < 0 || events & UV_DISCONNECT) {
		close_connection(conn);
		return;
	}
	if (!send_answers(conn))
		return;
	for (int i = 0; i < PER_WAKEUP && conn->used < SLOTS; i++)
		if (!take_request(conn) || !send_answers(conn))
			break;
	if (!uv_is_closing((uv_handle_t *)&conn->poll))
		watch(conn);
}

/* ---- the listener ---- */

static void add_connection(struct cs_sign_server *server, int fd, const char *peer)
{
	struct connection *conn = calloc(1, sizeof(*conn));
	if (!conn) {
		close(fd);
		return;
	}
	conn->fd = fd;
	conn->server = server;
	snprintf(conn->peer, sizeof(conn->peer), "%s", peer);
	cs_sign_bucket_init(&conn->bucket, cs_loop_mono_ms(server->loop));
	if (uv_poll_init(&server->loop->uv, &conn->poll, fd) < 0) {
		close(fd);
		free(conn);
		return;
	}
	conn->poll.data = conn;
	DL_APPEND(server->conns, conn);
	server->nconns++;
	cs_metric_set(server->connections, (double)server->nconns);
	watch(conn);
}

static void admit(struct cs_sign_server *server, int fd)
{
	struct cs_error e;
	char peer[CS_UNIX_PEER];
	uint32_t roles = 0;
	if (cs_unix_peer_roles(fd, server->roles, &roles, peer, &e) < 0) {
		cs_warn("a connection to sign.sock was refused", cs_err(&e));
	} else if (!(roles & CS_ROLE_AUTHD)) {
		cs_metric_add(server->answers, 1, cs_reason_name(CS_R_ROLE_REFUSED));
		cs_warn("a connection to sign.sock was refused", cs_str("peer", peer), cs_why(CS_R_ROLE_REFUSED));
	} else if (server->nconns >= CS_SIGN_CONNECTIONS_MAX) {
		cs_warn("a connection to sign.sock was refused", cs_str("peer", peer), cs_why(CS_R_TOO_MANY));
	} else {
		add_connection(server, fd, peer);
		return;
	}
	close(fd);
}

static void on_listener(uv_poll_t *poll, int status, int events)
{
	struct cs_sign_server *server = poll->data;
	(void)status, (void)events;
	int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		admit(server, fd);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
		struct cs_error e;
		cs_error_errno(&e, -errno, "cannot accept on %s", server->path);
		cs_warn("connections have to wait", cs_err(&e));
		uv_poll_stop(&server->poll);
		cs_timer_start(&server->pause, ACCEPT_PAUSE_MS, 0);
	}
}

static void pause_over(struct cs_timer *timer)
{
	struct cs_sign_server *server = timer->data;
	uv_poll_start(&server->poll, UV_READABLE, on_listener);
}

static void listener_closed(uv_handle_t *handle)
{
	struct cs_sign_server *server = handle->data;
	close(server->fd);
}

int cs_sign_server_new(struct cs_loop *loop, const char *path, const struct cs_roles *roles, const struct cs_keys *keys,
	struct cs_metrics *metrics, struct cs_sign_server **ret, struct cs_error *e)
{
	struct cs_sign_server *server = calloc(1, sizeof(*server));
	if (!server)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*server = (struct cs_sign_server){.loop = loop, .roles = roles, .keys = keys};
	snprintf(server->path, sizeof(server->path), "%s", path);
	server->fd = cs_unix_listen(path, SOCK_SEQPACKET, 0600, (gid_t)-1, BACKLOG, e);
	int r = server->fd;
	if (r >= 0 && (r = uv_poll_init(&loop->uv, &server->poll, server->fd)) < 0) {
		cs_error_set(e, r, "cannot watch %s: %s", path, uv_strerror(r));
		close(server->fd);
		unlink(path);
	}
	if (r < 0) {
		free(server);
		return r;
	}
	server->poll.data = server;
	uv_poll_start(&server->poll, UV_READABLE, on_listener);
	cs_timer_init(&server->pause, loop, pause_over, server);
	server->answers = cs_counter(
		metrics, "countersign_signatures_total", "Signing requests by result", "result", CS_SIGN_RESULTS + 1);
	server->connections = cs_gauge(metrics, "countersign_sign_connections", "Connections to sign.sock", NULL, 1);
	*ret = server;
	return 0;
}

void cs_sign_server_close(struct cs_sign_server *server)
{
	if (!server || server->closing)
		return;
	server->closing = true;
	unlink(server->path);
	uv_close((uv_handle_t *)&server->poll, listener_closed);
	cs_timer_close(&server->pause, NULL);
	struct connection *conn, *next;
	DL_FOREACH_SAFE (server->conns, conn, next)
		close_connection(conn);
}

void cs_sign_server_free(struct cs_sign_server *server)
{
	free(server);
}
