/* One HTTP/2 connection: carries bytes between a uv stream (Unix or TCP, with or without TLS) and an nghttp2 session
 * that its owner made. Internal to grpc_*.c. */
#ifndef CS_HTTP2_H
#define CS_HTTP2_H

#include <nghttp2/nghttp2.h>
#include "grpc.h"

#define CS_HTTP2_BUFFER    (64u << 10) /* bytes of one read and of one write */
#define CS_HTTP2_LINGER_MS 1000        /* for the last bytes (GOAWAY, alert) of a connection that ends */

struct cs_http2;
struct cs_http2_events {
	/* TLS is up and the peer is known (at once without TLS). Make h->session; a negative result ends the connection. */
	int (*up)(struct cs_http2 *h, struct cs_error *e);
	/* After frames were written or read: a place to call back from. No nghttp2 function is on the stack. */
	void (*after_io)(struct cs_http2 *h);
	/* Once: the connection is over, and why. The session is still there. */
	void (*down)(struct cs_http2 *h, const struct cs_error *why);
	/* Last of all: handles are closed, the session is deleted, the memory is the owner's again. */
	void (*gone)(struct cs_http2 *h);
};

/* Handshakes of a server's connections run in worker threads, because a chain takes milliseconds to verify: some at a
 * time, the others in the order in which they came. */
#define CS_HTTP2_WORKERS 2
struct cs_http2_handshakes {
	struct cs_http2 *waiting; /* the first; by next_waiting */
	unsigned running;
};

struct cs_http2 {
	struct cs_loop *loop;
	const struct cs_http2_events *events;
	union {
		uv_handle_t handle;
		uv_stream_t stream;
		uv_pipe_t pipe;
		uv_tcp_t tcp;
	} io;
	uv_idle_t wake;
	uv_write_t write;
	nghttp2_session *session;
	const struct cs_grpc_tls *tls;
	SSL *ssl;
	char peer[CS_GRPC_PEER_NAME];
	const uint8_t *pending; /* what nghttp2 gave and the buffer had no room for */
	size_t npending, nout;
	uint8_t *out; /* only while there is something to write: an idle connection has no buffers */
	unsigned closing_handles;
	bool server, is_up, writing, failed, down, reading;
	struct cs_error why;
	/* A handshake in a worker; h->ssl is the worker's while working. */
	struct cs_http2_handshakes *handshakes; /* NULL: in the loop */
	struct cs_http2 *next_waiting;
	bool working, waiting;
	unsigned rounds;       /* how often it was the worker's */
	int64_t idle_since_ms; /* when it began to wait for its peer */
	uv_work_t work;
	int result; /* of the worker: 1 more is needed, 0 the peer is known, < 0 */
	struct cs_error error;
};

/* Makes the handles; on success they must be closed by cs_http2_fail, and `gone` comes. */
CS_MUST_USE int cs_http2_init(struct cs_http2 *h, struct cs_loop *loop, bool tcp, bool server,
	const struct cs_http2_events *events, struct cs_error *e);
/* The stream is connected: start TLS (tls may be NULL) or call `up` from the loop, and read. */
CS_MUST_USE int cs_http2_start(struct cs_http2 *h, const struct cs_grpc_tls *tls, struct cs_error *e);
/* The session has something to send: soon. */
void cs_http2_wake(struct cs_http2 *h);
/* End it, from the loop. What nghttp2 has to say is still tried. Only the first `why` counts. */
void cs_http2_fail(struct cs_http2 *h, const struct cs_error *why);

/* ---- TLS half (http2_tls.c) ---- */

CS_MUST_USE int cs_http2_tls_start(struct cs_http2 *h, struct cs_error *e);
/* The next step of a handshake in a worker; then cs_http2_worked from the loop, which calls _after_work. */
void cs_http2_tls_work(struct cs_http2 *h);
CS_MUST_USE int cs_http2_tls_after_work(struct cs_http2 *h, struct cs_error *e);
/* It is over with this connection before its turn came. */
void cs_http2_tls_forget(struct cs_http2 *h);
/* Bytes from the wire; calls cs_http2_input for what is inside. */
CS_MUST_USE int cs_http2_tls_read(struct cs_http2 *h, const uint8_t *bytes, size_t n, struct cs_error *e);
/* Bytes for the wire. */
CS_MUST_USE int cs_http2_tls_write(struct cs_http2 *h, const uint8_t *bytes, size_t n, struct cs_error *e);
/* close_notify. */
void cs_http2_tls_end(struct cs_http2 *h);
size_t cs_http2_tls_pending(const struct cs_http2 *h);
size_t cs_http2_tls_take(struct cs_http2 *h, uint8_t *out, size_t room);

/* For http2_tls.c. */
void cs_http2_worked(struct cs_http2 *h);
CS_MUST_USE int cs_http2_up(struct cs_http2 *h, struct cs_error *e);
CS_MUST_USE int cs_http2_input(struct cs_http2 *h, const uint8_t *bytes, size_t n, struct cs_error *e);

#endif
