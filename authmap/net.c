#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "log.h"

#define DIAL_ADDRS 8

/* ---- listening ---- */

struct listener {
	struct cs_net *net;
	struct cs_ip addr;
	uint16_t port;
	int fd; /* -1: not bound */
	bool wanted, used, closing;
	bool paused; /* no descriptor was free */
	struct cs_error error;
	uv_poll_t poll;
};
struct cs_net {
	struct cs_loop *loop;
	struct cs_net_callbacks callbacks;
	struct cs_timer again;
	unsigned open;
	bool closing;
	struct cs_ip wanted[CS_NET_LISTENERS];
	size_t nwanted;
	uint16_t port;
	struct listener each[CS_NET_LISTENERS];
};

static void on_connection(uv_poll_t *poll, int status, int events)
{
	struct listener *l = poll->data;
	(void)status;
	(void)events;
	for (int i = 0; i < CS_NET_ACCEPT_TURN && l->fd >= 0; i++) {
		struct sockaddr_storage from;
		socklen_t len = sizeof(from);
		struct cs_ip peer;
		int one = 1;
		int fd = accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			cs_warn("connections of other nodes wait: no descriptor is free");
			uv_poll_stop(poll);
			l->paused = true;
			cs_timer_start(&l->net->again, CS_NET_AGAIN_MS, 0);
		}
		if (fd < 0)
			return;
		if (!cs_ip_from_sockaddr(&peer, (struct sockaddr *)&from)) {
			close(fd);
			continue;
		}
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		l->net->callbacks.on_accept(l->net->callbacks.data, fd, &peer);
	}
}

static int bind_listener(struct listener *l)
{
	struct sockaddr_storage sa;
	char text[CS_IP_TEXT];
	int one = 1;
	socklen_t len = cs_ip_to_sockaddr(&l->addr, l->port, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd >= 0 && sa.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, CS_NET_BACKLOG) < 0) {
		int r = cs_error_errno(
			&l->error, -errno, "cannot listen on %s port %u", cs_ip_text(&l->addr, text), l->port);
		if (fd >= 0)
			close(fd);
		return r;
	}
	if (uv_poll_init(&l->net->loop->uv, &l->poll, fd) < 0) {
		close(fd);
		return cs_error_set(&l->error, -ENOMEM, "cannot wait for connections");
	}
	l->fd = fd;
	l->poll.data = l;
	l->net->open++;
	uv_poll_start(&l->poll, UV_READABLE, on_connection);
	cs_info("listening for other nodes", cs_str("address", cs_ip_text(&l->addr, text)), cs_u64("port", l->port));
	return 0;
}

static void net_closed(struct cs_net *net)
{
	if (--net->open == 0 && net->closing)
		free(net);
}

static void reconcile(struct cs_net *net);

static void on_listener_closed(uv_handle_t *handle)
{
	struct listener *l = handle->data;
	struct cs_net *net = l->net;
	l->used = l->closing = false;
	if (!net->closing)
		reconcile(net); /* its place is free */
	net_closed(net);
}

static void unlisten(struct listener *l)
{
	if (!l->used || l->closing)
		return;
	if (l->fd < 0) {
		l->used = false;
		return;
	}
	l->closing = true;
	uv_poll_stop(&l->poll);
	uv_close((uv_handle_t *)&l->poll, on_listener_closed);
	close(l->fd);
	l->fd = -1;
}

static struct listener *listener_of(struct cs_net *net, const struct cs_ip *addr)
{
	struct listener *free_one = NULL;
	for (size_t i = 0; i < CS_NET_LISTENERS; i++) {
		struct listener *l = &net->each[i];
		if (l->used && !l->closing && cs_ip_equal(&l->addr, addr) && l->port == net->port)
			return l;
		if (!l->used && !free_one)
			free_one = l;
	}
	if (free_one)
		*free_one = (struct listener){.net = net, .addr = *addr, .port = net->port, .fd = -1, .used = true};
	return free_one;
}

static void reconcile(struct cs_net *net)
{
	bool again = false;
	for (size_t i = 0; i < CS_NET_LISTENERS; i++)
		net->each[i].wanted = false;
	for (size_t i = 0; i < net->nwanted; i++) {
		struct listener *l = listener_of(net, &net->wanted[i]);
		if (l)
			l->wanted = true;
	}
	for (size_t i = 0; i < CS_NET_LISTENERS; i++) {
		struct listener *l = &net->each[i];
		if (!l->wanted)
			unlisten(l);
		else if (l->fd < 0 && bind_listener(l) < 0) {
			cs_warn("not listening", cs_err(&l->error));
			again = true;
		} else if (l->paused) {
			l->paused = false;
			uv_poll_start(&l->poll, UV_READABLE, on_connection);
		}
	}
	if (again)
		cs_timer_start(&net->again, CS_NET_AGAIN_MS, 0);
}

static void on_again(struct cs_timer *t)
{
	reconcile(t->data);
}

void cs_net_listen(struct cs_net *net, const struct cs_ip *addrs, size_t n, uint16_t port)
{
	if (n > CS_NET_LISTENERS)
		n = CS_NET_LISTENERS;
	if (n == net->nwanted && port == net->port && memcmp(addrs, net->wanted, n * sizeof(*addrs)) == 0)
		return;
	memcpy(net->wanted, addrs, n * sizeof(*addrs));
	net->nwanted = n;
	net->port = port;
	reconcile(net);
}

size_t cs_net_listening(const struct cs_net *net, size_t *ret_wanted, const struct cs_error **ret_error)
{
	size_t n = 0;
	*ret_wanted = net->nwanted;
	*ret_error = NULL;
	for (size_t i = 0; i < CS_NET_LISTENERS; i++) {
		const struct listener *l = &net->each[i];
		if (!l->used || !l->wanted)
			continue;
		n += l->fd >= 0;
		if (l->fd < 0 && !*ret_error)
			*ret_error = &l->error;
	}
	return n;
}

int cs_net_new(struct cs_loop *loop, const struct cs_net_callbacks *callbacks, struct cs_net **ret, struct cs_error *e)
{
	struct cs_net *net = calloc(1, sizeof(*net));
	if (!net)
		return cs_error_set(e, -ENOMEM, "no memory");
	*net = (struct cs_net){.loop = loop, .callbacks = *callbacks, .open = 1};
	cs_timer_init(&net->again, loop, on_again, net);
	*ret = net;
	return 0;
}

static void on_again_closed(struct cs_timer *t)
{
	net_closed(t->data);
}

void cs_net_close(struct cs_net *net)
{
	if (!net)
		return;
	net->closing = true;
	for (size_t i = 0; i < CS_NET_LISTENERS; i++)
		unlisten(&net->each[i]);
	cs_timer_close(&net->again, on_again_closed);
}

/* ---- dialling ---- */

struct cs_dial {
	struct cs_loop *loop;
	struct cs_ip to[DIAL_ADDRS], from[DIAL_ADDRS];
	size_t n, next; /* pairs of addresses */
	uint16_t port;
	int fd;
	bool over, polling;
	unsigned open;
	void (*done)(void *data, int fd, const struct cs_error *error);
	void *data;
	struct cs_error error;
	uv_poll_t poll;
	struct cs_timer deadline, soon; /* soon: what is known at once is said from the loop */
};

static void dial_closed(struct cs_dial *d)
{
	if (--d->open == 0)
		free(d);
}

static void on_timer_closed(struct cs_timer *t)
{
	dial_closed(t->data);
}

static void on_last_poll_closed(uv_handle_t *handle)
{
	dial_closed(handle->data);
}

static void dial_over(struct cs_dial *d)
{
	d->over = true;
	if (d->polling && !uv_is_closing((uv_handle_t *)&d->poll))
		uv_close((uv_handle_t *)&d->poll, on_last_poll_closed);
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	cs_timer_close(&d->deadline, on_timer_closed);
	cs_timer_close(&d->soon, on_timer_closed);
}

static void finish(struct cs_dial *d)
{
	int fd = d->fd;
	if (fd >= 0)
		uv_poll_stop(&d->poll);
	d->fd = -1;
	void (*done)(void *data, int fd, const struct cs_error *error) = d->done;
	done(d->data, fd, fd >= 0 ? NULL : &d->error);
	dial_over(d);
}

static void try_next(struct cs_dial *d);

static void on_try_closed(uv_handle_t *handle)
{
	struct cs_dial *d = handle->data;
	d->polling = false;
	if (!d->over)
		try_next(d);
	dial_closed(d);
}

static void failed(struct cs_dial *d, int error)
{
	char text[CS_IP_TEXT];
	cs_error_errno(
		&d->error, error, "cannot connect to %s port %u", cs_ip_text(&d->to[d->next - 1], text), d->port);
	d->error.reason = error == -ETIMEDOUT ? CS_R_PEER_TIMEOUT : CS_R_PEER_UNREACHABLE;
}

static void on_connected(uv_poll_t *poll, int status, int events)
{
	struct cs_dial *d = poll->data;
	int error = 0;
	socklen_t len = sizeof(error);
	(void)status;
	(void)events;
	if (getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (!error) {
		finish(d);
		return;
	}
	failed(d, -error);
	uv_poll_stop(poll);
	uv_close((uv_handle_t *)poll, on_try_closed);
	close(d->fd);
	d->fd = -1;
}

/* 0: under way; or a negative errno. */
static int start(struct cs_dial *d, const struct cs_ip *to, const struct cs_ip *from)
{
	struct sockaddr_storage there, here;
	socklen_t there_len = cs_ip_to_sockaddr(to, d->port, &there), here_len = cs_ip_to_sockaddr(from, 0, &here);
	int one = 1;
	d->fd = socket(there.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (d->fd < 0)
		return -errno;
	setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(d->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	int r = 0;
	if (bind(d->fd, (struct sockaddr *)&here, here_len) < 0 ||
		(connect(d->fd, (struct sockaddr *)&there, there_len) < 0 && errno != EINPROGRESS))
		r = -errno;
	else
		r = uv_poll_init(&d->loop->uv, &d->poll, d->fd);
	if (r < 0) {
		close(d->fd);
		d->fd = -1;
		return r;
	}
	d->polling = true;
	d->open++;
	d->poll.data = d;
	uv_poll_start(&d->poll, UV_WRITABLE, on_connected);
	return 0;
}

static void try_next(struct cs_dial *d)
{
	while (d->next < d->n) {
		size_t i = d->next++;
		int r = start(d, &d->to[i], &d->from[i]);
		if (r == 0)
			return;
		failed(d, r);
	}
	cs_timer_start(&d->soon, 0, 0);
}

static void on_soon(struct cs_timer *t)
{
	finish(t->data);
}

static void on_deadline(struct cs_timer *t)
{
	struct cs_dial *d = t->data;
	if (d->fd >= 0) {
		uv_poll_stop(&d->poll);
		close(d->fd);
	}
	d->fd = -1;
	cs_error_reason(&d->error, -ETIMEDOUT, CS_R_PEER_TIMEOUT, "no connection before the deadline");
	finish(d);
}

struct cs_dial *cs_dial_new(struct cs_loop *loop, const struct cs_dial_target *target,
	void (*done)(void *data, int fd, const struct cs_error *error), void *data)
{
	struct cs_dial *d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	*d = (struct cs_dial){.loop = loop, .port = target->port, .fd = -1, .open = 2, .done = done, .data = data};
	for (size_t i = 0; i < target->nto; i++)
		for (size_t j = 0; j < target->nfrom; j++)
			if (d->n < DIAL_ADDRS && target->to[i].family == target->from[j].family) {
				d->to[d->n] = target->to[i];
				d->from[d->n++] = target->from[j];
				break;
			}
	cs_error_reason(&d->error, -EHOSTUNREACH, CS_R_PEER_UNREACHABLE,
		"that node and this one have no addresses of one family");
	cs_timer_init(&d->deadline, loop, on_deadline, d);
	cs_timer_init(&d->soon, loop, on_soon, d);
	int64_t left_ms = target->deadline_mono_ms - cs_loop_mono_ms(loop);
	cs_timer_start(&d->deadline, left_ms > 0 ? left_ms : 0, 0);
	try_next(d);
	return d;
}

void cs_dial_cancel(struct cs_dial *d)
{
	if (d->fd >= 0)
		uv_poll_stop(&d->poll);
	dial_over(d);
}
