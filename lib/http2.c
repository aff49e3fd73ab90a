#include "http2.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define WRITE_ROUNDS 16 /* buffers written in one go before the loop gets its turn */

static void flush(struct cs_http2 *h);
static void on_wake(uv_idle_t *idle);
static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);

int cs_http2_init(struct cs_http2 *h, struct cs_loop *loop, bool tcp, bool server, const struct cs_http2_events *events,
	struct cs_error *e)
{
	*h = (struct cs_http2){.loop = loop, .server = server, .events = events};
	int r = tcp ? uv_tcp_init(&loop->uv, &h->io.tcp) : uv_pipe_init(&loop->uv, &h->io.pipe, 0);
	if (r < 0)
		return cs_error_set(e, r, "cannot make a connection: %s", uv_strerror(r));
	uv_idle_init(&loop->uv, &h->wake);
	h->io.handle.data = h->wake.data = h->write.data = h;
	return 0;
}

/* A peer whose machine vanished is noticed within half a minute, in both directions. */
static void set_tcp_options(struct cs_http2 *h)
{
	uv_os_fd_t fd;
	if (h->io.handle.type != UV_TCP || uv_fileno(&h->io.handle, &fd) < 0)
		return;
	uv_tcp_nodelay(&h->io.tcp, 1);
	uv_tcp_keepalive(&h->io.tcp, 1, 10);
	const int interval_s = 5, probes = 4, unacked_ms = 30000;
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked_ms, sizeof(unacked_ms));
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
	(void)handle;
	(void)size;
	void *in = malloc(CS_HTTP2_BUFFER); /* on_read frees it; without memory it gets UV_ENOBUFS */
	*buf = uv_buf_init(in, in ? CS_HTTP2_BUFFER : 0);
}

int cs_http2_input(struct cs_http2 *h, const uint8_t *bytes, size_t n, struct cs_error *e)
{
	ssize_t r = nghttp2_session_mem_recv(h->session, bytes, n);
	if (r >= 0)
		return 0;
	if (r == NGHTTP2_ERR_BAD_CLIENT_MAGIC)
		return cs_error_set(e, -EPROTO, "what came is not HTTP/2");
	return cs_error_set(e, -EPROTO, "HTTP/2: %s", nghttp2_strerror((int)r));
}

static void take_bytes(struct cs_http2 *h, ssize_t n, const uv_buf_t *buf)
{
	struct cs_error e;
	int r = 0;
	if (n < 0)
		r = n == UV_EOF ? cs_error_set(&e, -ECONNRESET, "the other side closed the connection")
				: cs_error_set(&e, (int)n, "connection lost: %s", uv_strerror((int)n));
	else if (h->tls)
		r = cs_http2_tls_read(h, (const uint8_t *)buf->base, (size_t)n, &e);
	else
		r = cs_http2_input(h, (const uint8_t *)buf->base, (size_t)n, &e);
	if (r < 0)
		cs_http2_fail(h, &e);
	if (h->working || h->waiting) /* the memory BIOs are the worker's, and the kernel keeps what comes */
		uv_read_stop(&h->io.stream);
	else
		flush(h);
}

static void closed_one(struct cs_http2 *h);

void cs_http2_worked(struct cs_http2 *h)
{
	struct cs_error e;
	if (h->down) {
		closed_one(h);
		return;
	}
	if (h->failed) /* it goes down soon */
		return;
	int r = cs_http2_tls_after_work(h, &e);
	if (r == 0 && h->reading) {
		r = uv_read_start(&h->io.stream, on_alloc, on_read);
		if (r < 0)
			cs_error_set(&e, r, "cannot read from the connection: %s", uv_strerror(r));
	}
	if (r < 0)
		cs_http2_fail(h, &e);
	flush(h);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct cs_http2 *h = stream->data;
	if (n != 0 && !h->failed)
		take_bytes(h, n, buf);
	if (n > 0)
		OPENSSL_cleanse(buf->base, (size_t)n); /* some messages carry keys */
	free(buf->base);
}

int cs_http2_up(struct cs_http2 *h, struct cs_error *e)
{
	h->is_up = true;
	return h->events->up(h, e);
}

int cs_http2_start(struct cs_http2 *h, const struct cs_grpc_tls *tls, struct cs_error *e)
{
	set_tcp_options(h);
	h->tls = tls;
	int r = tls ? cs_http2_tls_start(h, e) : cs_http2_up(h, e);
	if (r < 0)
		return r;
	r = uv_read_start(&h->io.stream, on_alloc, on_read);
	if (r < 0)
		return cs_error_set(e, r, "cannot read from the connection: %s", uv_strerror(r));
	h->reading = true;
	cs_http2_wake(h);
	return 0;
}

/* Fill h->out from the session, through TLS if there is. */
static int fill(struct cs_http2 *h, struct cs_error *e)
{
	if (!h->out)
		h->out = malloc(CS_HTTP2_BUFFER);
	if (!h->out)
		return cs_error_set(e, -ENOMEM, "no memory to write to the connection");
	while (h->nout < CS_HTTP2_BUFFER) {
		if (h->tls && cs_http2_tls_pending(h) > 0) {
			h->nout += cs_http2_tls_take(h, h->out + h->nout, CS_HTTP2_BUFFER - h->nout);
			continue;
		}
		if (h->npending == 0) {
			ssize_t n = h->session ? nghttp2_session_mem_send(h->session, &h->pending) : 0;
			if (n < 0)
				return cs_error_set(e, -EPROTO, "HTTP/2: %s", nghttp2_strerror((int)n));
			if (n == 0)
				return 0;
			h->npending = (size_t)n;
		}
		size_t room = CS_HTTP2_BUFFER - h->nout;
		size_t n = h->npending < room ? h->npending : room;
		if (h->tls) {
			int r = cs_http2_tls_write(h, h->pending, n, e);
			if (r < 0)
				return r;
		} else {
			memcpy(h->out + h->nout, h->pending, n);
			h->nout += n;
		}
		h->pending += n;
		h->npending -= n;
	}
	return 0;
}

static void on_written(uv_write_t *write, int status)
{
	struct cs_http2 *h = write->data;
	h->writing = false;
	h->nout = 0;
	if (h->down)
		return;
	if (status < 0) {
		struct cs_error e;
		cs_error_set(&e, status, "connection lost: %s", uv_strerror(status));
		cs_http2_fail(h, &e);
	}
	flush(h);
}

/* Hand h->out to the kernel; what it does not take at once goes by uv_write. */
static int write_out(struct cs_http2 *h, struct cs_error *e)
{
	uv_buf_t buf = uv_buf_init((char *)h->out, (unsigned)h->nout);
	int r = uv_try_write(&h->io.stream, &buf, 1);
	if (r == (int)h->nout) {
		h->nout = 0;
		return 0;
	}
	if (r < 0 && r != UV_EAGAIN)
		return cs_error_set(e, r, "connection lost: %s", uv_strerror(r));
	if (r > 0) {
		buf.base += r;
		buf.len -= (size_t)r;
	}
	r = uv_write(&h->write, &h->io.stream, &buf, 1, on_written);
	if (r < 0)
		return cs_error_set(e, r, "connection lost: %s", uv_strerror(r));
	h->writing = true;
	return 0;
}

static void flush(struct cs_http2 *h)
{
	struct cs_error e;
	int r = 0;
	for (int round = 0; r == 0 && !h->down && !h->failed && !h->writing && !h->working && !h->waiting; round++) {
		if (round == WRITE_ROUNDS) {
			cs_http2_wake(h);
			break;
		}
		r = fill(h, &e);
		if (r == 0 && h->nout == 0)
			break;
		if (r == 0)
			r = write_out(h, &e);
	}
	if (r < 0)
		cs_http2_fail(h, &e);
	if (h->down || h->failed || h->working || h->waiting)
		return;
	if (!h->writing && h->nout == 0) {
		free(h->out);
		h->out = NULL;
	}
	if (h->session && h->is_up)
		h->events->after_io(h);
	if (!h->failed && h->session && !h->writing && h->npending == 0 && !nghttp2_session_want_read(h->session) &&
		!nghttp2_session_want_write(h->session)) {
		cs_error_set(&e, -ECONNRESET, "the connection was closed in order");
		cs_http2_fail(h, &e);
	}
}

void cs_http2_wake(struct cs_http2 *h)
{
	if (!h->down)
		uv_idle_start(&h->wake, on_wake);
}

static void closed_one(struct cs_http2 *h)
{
	if (--h->closing_handles > 0)
		return;
	nghttp2_session_del(h->session);
	SSL_free(h->ssl);
	free(h->out);
	h->events->gone(h);
}

static void on_closed(uv_handle_t *handle)
{
	closed_one(handle->data);
}

static void go_down(struct cs_http2 *h)
{
	struct cs_error ignored;
	if (h->waiting)
		cs_http2_tls_forget(h);
	int r = h->writing || h->working ? -EAGAIN : fill(h, &ignored);
	if (r == 0 && h->tls && h->is_up) {
		cs_http2_tls_end(h);
		r = fill(h, &ignored);
	}
	if (!h->writing && h->nout > 0) { /* GOAWAY or an alert, if the kernel takes it now */
		uv_buf_t buf = uv_buf_init((char *)h->out, (unsigned)h->nout);
		uv_try_write(&h->io.stream, &buf, 1);
	}
	h->down = true;
	uv_idle_stop(&h->wake);
	h->events->down(h, &h->why);
	h->closing_handles = h->working ? 3 : 2; /* and the worker */
	uv_close((uv_handle_t *)&h->wake, on_closed);
	uv_close(&h->io.handle, on_closed);
}

static void on_wake(uv_idle_t *idle)
{
	struct cs_http2 *h = idle->data;
	uv_idle_stop(idle);
	if (h->failed)
		go_down(h);
	else
		flush(h);
}

void cs_http2_fail(struct cs_http2 *h, const struct cs_error *why)
{
	if (h->failed)
		return;
	h->failed = true;
	h->why = *why;
	if (h->reading)
		uv_read_stop(&h->io.stream);
	cs_http2_wake(h);
}
