/* gRPC over HTTP/2 (nghttp2) on the daemon's one loop: server and client, Unix sockets and TCP with mTLS, unary and
 * server-streaming calls; the client also makes calls whose requests are a stream. Messages are protobuf-c's. Wire format: gRPC's PROTOCOL-HTTP2.md.
 *
 * Rules that hold everywhere here:
 * - No function calls one of your callbacks before it returns; callbacks come from the loop. A callback may call any
 *   function, close included.
 * - A function that takes a callback and returns an error never calls it. Otherwise the final callback (a reply,
 *   on_done, closed) comes exactly once.
 * - Messages and statuses in a callback are borrowed until it returns. Messages that you pass in are packed before the
 *   function returns and stay yours.
 * - Strings in options are copied; services, methods, descriptors, cs_roles and cs_grpc_tls are borrowed until
 *   `closed`. */
#ifndef CS_GRPC_H
#define CS_GRPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <openssl/ssl.h>
#include <protobuf-c/protobuf-c.h>
#include "error.h"
#include "grpc_roles.h"
#include "loop.h"

/* ---- status ---------------------------------------------------------------------------------------------------- */

enum cs_grpc_code {
	CS_GRPC_OK = 0,
	CS_GRPC_CANCELLED = 1,
	CS_GRPC_UNKNOWN = 2,
	CS_GRPC_INVALID_ARGUMENT = 3,
	CS_GRPC_DEADLINE_EXCEEDED = 4,
	CS_GRPC_NOT_FOUND = 5,
	CS_GRPC_ALREADY_EXISTS = 6,
	CS_GRPC_PERMISSION_DENIED = 7,
	CS_GRPC_RESOURCE_EXHAUSTED = 8,
	CS_GRPC_FAILED_PRECONDITION = 9,
	CS_GRPC_ABORTED = 10,
	CS_GRPC_OUT_OF_RANGE = 11,
	CS_GRPC_UNIMPLEMENTED = 12,
	CS_GRPC_INTERNAL = 13,
	CS_GRPC_UNAVAILABLE = 14,
	CS_GRPC_DATA_LOSS = 15,
	CS_GRPC_UNAUTHENTICATED = 16,
};

#define CS_GRPC_STATUS_TEXT 1024 /* longer messages are cut on the way in and out */

/* How a call ended. The reason travels in the trailer "countersign-reason", by name, so that other gRPC
 * implementations see it as trailing metadata. */
struct cs_grpc_status {
	enum cs_grpc_code code;
	enum cs_reason reason;             /* CS_R_NONE: none was said */
	char message[CS_GRPC_STATUS_TEXT]; /* UTF-8, decoded; may be empty */
	bool untouched; /* client: the server surely did nothing for it: it never got there, or was turned away unseen */
};

/* "DEADLINE_EXCEEDED"; unknown numbers give "UNKNOWN". */
const char *cs_grpc_code_name(enum cs_grpc_code code);
/* The status as an error: "RESOURCE_EXHAUSTED: message", errno by code. 0 for OK, else the negative errno. */
int cs_grpc_status_error(const struct cs_grpc_status *status, struct cs_error *e);

/* ---- limits ---------------------------------------------------------------------------------------------------- */

/* Defaults of struct cs_grpc_limits; 0 in a field means its default. What each of them bounds is per connection unless
 * it says otherwise. */
#define CS_GRPC_MESSAGE_MAX     (4u << 20)  /* bytes of one message, packed; gRPC's usual default */
#define CS_GRPC_UNPACK_MAX      (32u << 20) /* bytes of memory one message may become: protobuf amplifies */
#define CS_GRPC_STREAMS_MAX     128u        /* server: calls in flight on one connection */
#define CS_GRPC_CALLS_MAX       1024u /* client: calls of a channel that wait or run; server: of all connections */
#define CS_GRPC_WINDOW          (256u << 10) /* flow-control window of a stream: what a slow reader makes us keep */
#define CS_GRPC_CONN_WINDOW     (1u << 20)   /* of the connection */
#define CS_GRPC_QUEUE_HIGH      (256u << 10) /* queued bytes of a call from which on send says CS_GRPC_FULL */
#define CS_GRPC_QUEUE_MAX       (8u << 20)   /* ... and from which on it refuses: -ENOBUFS */
#define CS_GRPC_HEADERS_MAX     (16u << 10)  /* bytes of one header list, by HTTP/2's count (RFC 9113 6.5.2) */
#define CS_GRPC_CONNECTIONS_MAX 256u         /* server: connections; over TCP those whose peer's name is known */
#define CS_GRPC_PER_USER_MAX    64u          /* server: connections of one uid, or of one name */
#define CS_GRPC_PENDING_MAX     512u         /* server: over TCP, those that showed no certificate yet */
#define CS_GRPC_HANDSHAKE_MS    5000         /* connect until TLS is up and the peer's SETTINGS are here */
#define CS_GRPC_REQUEST_MS      10000        /* server: from a call's first header to the end of its request */
#define CS_GRPC_IDLE_MS         600000       /* server: a connection without a call; client: the same, then IDLE */

struct cs_grpc_limits {
	uint32_t message_max, unpack_max, streams_max, calls_max;
	uint32_t window, conn_window, queue_high, queue_max, headers_max;
	uint32_t connections_max, per_user_max, pending_max;
	int64_t handshake_ms, request_ms, idle_ms;
};

/* ---- TLS ------------------------------------------------------------------------------------------------------- */

#define CS_GRPC_PEER_NAME 2048 /* a SPIFFE ID has at most 2,048 bytes */

/* mTLS. lib/ knows nothing of certificates: certs/ provides both functions. */
struct cs_grpc_tls {
	/* The context of a new connection, asked for each time, so that certificates rotate. Borrowed: the connection takes
	 * its own reference. Its verify mode must have SSL_VERIFY_PEER (server: and SSL_VERIFY_FAIL_IF_NO_PEER_CERT), else
	 * the connection is refused. ALPN (h2) is set here. A verify callback of it that refuses
	 * says why by ERR_raise_data(ERR_LIB_USER, 1, "<name of the reason>: <sentence>"). NULL: none now; fill e. */
	SSL_CTX *(*context)(void *data, struct cs_error *e);
	/* A server calls this, and verification, in worker threads, several at a time.
	 * After the handshake and before a byte of HTTP/2: chain as the peer sent it, leaf first, borrowed. 0 and the peer's
	 * name (not empty), or an error, and the connection is closed. */
	int (*peer)(const STACK_OF(X509) * chain, char name[CS_GRPC_PEER_NAME], void *data, struct cs_error *e);
	void *data;
	/* Client, for servers that are known by a DNS name or an address and not by a SPIFFE ID: the certificate must have it,
	 * and a name is sent as SNI. NULL: `peer` alone decides. Borrowed. */
	const char *server_name;
};

/* ---- server ---------------------------------------------------------------------------------------------------- */

struct cs_grpc_server;
struct cs_grpc_conn; /* one connection of a client */
struct cs_grpc_call; /* one call on the server */

/* in is of the type that the service's descriptor names; data is the service's. The handler finishes the call, now or
 * later. A call that outlives the handler must have an on_cancel (cs_grpc_call_watch): if the handler returns without
 * having done either, the call ends with INTERNAL. */
typedef void cs_grpc_handler(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data);

struct cs_grpc_method {
	const char *name; /* as in the .proto */
	uint32_t roles;   /* whoever has one of them may call it (enum cs_role) */
	bool streaming;   /* server-streaming: cs_grpc_send, then cs_grpc_finish; else cs_grpc_reply */
	cs_grpc_handler *fn;
};

/* A method that is not listed is UNIMPLEMENTED, also if the .proto has it. */
struct cs_grpc_service {
	const ProtobufCServiceDescriptor *descriptor; /* e.g. &countersign__v1__endpoints__descriptor */
	const struct cs_grpc_method *methods;
	size_t nmethods;
	void *data; /* for the handlers */
};

/* A connection or a call that was turned away; for the log and the audit record. Everything is borrowed. */
struct cs_grpc_refusal {
	const char *peer;      /* "uid 1000 (pid 4711)", a SPIFFE ID, or an address */
	const char *method;    /* "/package.Service/Method"; "": not known yet; NULL: the whole connection */
	enum cs_reason reason; /* CS_R_ROLE_REFUSED, CS_R_TOO_MANY, a reason of cs_grpc_tls.peer, or NONE */
	const char *text;
};

struct cs_grpc_server_options {
	struct cs_grpc_limits limits;
	/* All optional. A connection's callbacks: after its roles are known and before its first call, and after its last call
	 * was cancelled. */
	void (*on_connect)(struct cs_grpc_conn *conn, void *data);
	void (*on_disconnect)(struct cs_grpc_conn *conn, void *data);
	void *data; /* for these two */
	/* Whoever was turned away: a daemon gives cs_status_refused and its status (status.h). */
	void (*on_refused)(const struct cs_grpc_refusal *refusal, void *refused_data);
	void *refused_data;
};

/* options may be NULL. -ENOMEM only. */
CS_MUST_USE int cs_grpc_server_new(struct cs_loop *loop, const struct cs_grpc_server_options *options,
	struct cs_grpc_server **ret_server, struct cs_error *e);
/* Before the first listen. service is borrowed. -EINVAL: a method that the descriptor does not have, twice the same
 * service, a method without roles. */
CS_MUST_USE int cs_grpc_server_add(
	struct cs_grpc_server *server, const struct cs_grpc_service *service, struct cs_error *e);
/* Listen on a Unix socket. Mode and group (-1: leave it) are set before anybody can connect. Removes a stale socket of
 * this user; refuses (-EEXIST, -EADDRINUSE, -EPERM) a path that is not a socket, belongs to somebody else, or on which a
 * live process answers. roles is borrowed; a connection without a role is closed before a byte of it is read. The socket
 * file goes with the server. */
CS_MUST_USE int cs_grpc_server_listen_unix(struct cs_grpc_server *server, const char *path, mode_t mode, gid_t group,
	const struct cs_roles *roles, struct cs_error *e);
/* Listen on TCP with mTLS: address is numeric, "0.0.0.0:4251", "[::]:4251"; port 0 takes a free one. Peers have the role
 * CS_ROLE_PEER. tls is borrowed. */
CS_MUST_USE int cs_grpc_server_listen_tcp(
	struct cs_grpc_server *server, const char *address, const struct cs_grpc_tls *tls, struct cs_error *e);
/* The port of the last cs_grpc_server_listen_tcp. */
uint16_t cs_grpc_server_port(const struct cs_grpc_server *server);
size_t cs_grpc_server_calls(const struct cs_grpc_server *server);
/* Stops listening, says GOAWAY, lets calls run for grace_ms, then ends them (UNAVAILABLE, on_cancel) and closes. The
 * server is freed after closed (may be NULL). A second close with a smaller grace shortens the first. */
void cs_grpc_server_close(struct cs_grpc_server *server, int64_t grace_ms, void (*closed)(void *data), void *data);

/* A connection lives from on_connect until on_disconnect returns. */
const char *cs_grpc_conn_peer(const struct cs_grpc_conn *conn); /* name by cs_grpc_tls.peer, or "uid 0 (pid 12)" */
uid_t cs_grpc_conn_uid(const struct cs_grpc_conn *conn);        /* of a Unix socket's peer, as the kernel says */
uint32_t cs_grpc_conn_roles(const struct cs_grpc_conn *conn);
void cs_grpc_conn_set_data(struct cs_grpc_conn *conn, void *data); /* yours; free it in on_disconnect */
void *cs_grpc_conn_data(const struct cs_grpc_conn *conn);
/* Ends all its calls (UNAVAILABLE, on_cancel) and the connection, soon. */
void cs_grpc_conn_close(struct cs_grpc_conn *conn);

struct cs_grpc_conn *cs_grpc_call_conn(const struct cs_grpc_call *call);
/* "/package.Service/Method" */
const char *cs_grpc_call_path(const struct cs_grpc_call *call);
/* By the loop's monotonic clock; INT64_MAX: none. */
int64_t cs_grpc_call_deadline_mono_ms(const struct cs_grpc_call *call);

/* on_cancel: the client cancelled, its deadline passed, or the connection ended; when it returns the call is gone. After
 * cs_grpc_reply or cs_grpc_finish it does not come. on_drain (may be NULL): the queue has room again after CS_GRPC_FULL.
 * A second watch replaces the first. */
void cs_grpc_call_watch(struct cs_grpc_call *call, void (*on_cancel)(struct cs_grpc_call *call, void *data),
	void (*on_drain)(struct cs_grpc_call *call, void *data), void *data);

#define CS_GRPC_FULL 1
/* Streaming: queue one message. 0; CS_GRPC_FULL: it is queued, and no more please before on_drain; -EMSGSIZE: larger than
 * message_max; -ENOBUFS: queue_max would be passed; -ENOMEM. On a negative result nothing was queued and the call is
 * open. */
CS_MUST_USE int cs_grpc_send(struct cs_grpc_call *call, const ProtobufCMessage *message);
/* Bytes queued and not yet in HTTP/2 frames. */
size_t cs_grpc_call_queued(const struct cs_grpc_call *call);

/* These end the call: do not touch it afterwards. What was queued is still sent. A reply that is larger than message_max
 * becomes RESOURCE_EXHAUSTED. */
void cs_grpc_reply(struct cs_grpc_call *call, const ProtobufCMessage *message); /* unary: message and OK */
void cs_grpc_finish(struct cs_grpc_call *call, enum cs_grpc_code code, const char *fmt, ...) CS_PRINTF(3, 4);
void cs_grpc_finish_reason(
	struct cs_grpc_call *call, enum cs_grpc_code code, enum cs_reason reason, const char *fmt, ...) CS_PRINTF(4, 5);
/* Text and reason of e. */
void cs_grpc_finish_error(struct cs_grpc_call *call, enum cs_grpc_code code, const struct cs_error *e);

/* ---- client ---------------------------------------------------------------------------------------------------- */

struct cs_grpc_channel;
struct cs_grpc_client_call;

enum cs_grpc_state {
	CS_GRPC_IDLE, /* connects at the next call */
	CS_GRPC_CONNECTING,
	CS_GRPC_READY,   /* TLS is up, the peer is verified, its SETTINGS are here */
	CS_GRPC_BACKOFF, /* the last attempt failed; the next one comes by itself if a call waits, or by the next call */
	CS_GRPC_CLOSED,
};

/* After a loss or a failure; then × 1.6 up to the maximum, each ± 20 %. A connection that held for the maximum starts
 * anew. */
#define CS_GRPC_BACKOFF_MIN_MS 100
#define CS_GRPC_BACKOFF_MAX_MS 10000

struct cs_grpc_channel_options {
	const char *target;            /* "unix:/path", "HOST:PORT", "[::1]:4251"; a name is resolved off the loop */
	const struct cs_grpc_tls *tls; /* needed for TCP, refused for unix: */
	bool plain; /* TCP without TLS: whoever sets it has made sure that it stays on this machine */
	struct cs_grpc_limits limits;
	int64_t backoff_min_ms, backoff_max_ms; /* 0: the defaults */
	/* Stay connected: connect at once, and again after a loss, without a call that asks for it. */
	bool keep;
	/* May be NULL. error says why for BACKOFF, and for IDLE after a loss, else NULL. Calls that READY's callback makes go out before those that
	 * waited (a Hello). READY comes once per connection; its number is cs_grpc_channel_connection(). */
	void (*on_state)(
		struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data);
	void *data;
};

CS_MUST_USE int cs_grpc_channel_new(struct cs_loop *loop, const struct cs_grpc_channel_options *options,
	struct cs_grpc_channel **ret_channel, struct cs_error *e);
enum cs_grpc_state cs_grpc_channel_state(const struct cs_grpc_channel *channel);
/* 1 for the first connection that was READY, and so on; 0 before. */
uint64_t cs_grpc_channel_connection(const struct cs_grpc_channel *channel);
/* The server's name by cs_grpc_tls.peer; "" unless READY by TLS. */
const char *cs_grpc_channel_peer(const struct cs_grpc_channel *channel);
/* Drop the connection (its calls end with UNAVAILABLE) and connect anew: for rotated certificates, or a server that broke
 * its word. */
void cs_grpc_channel_reset(struct cs_grpc_channel *channel);
/* All calls end with CANCELLED (on_done comes), then the channel is freed and closed (may be NULL) is called. Waits for a
 * name that is being resolved. */
void cs_grpc_channel_close(struct cs_grpc_channel *channel, void (*closed)(void *data), void *data);

#define CS_GRPC_FIELDS_MAX 4
struct cs_grpc_field {
	const char *name, *value;
};
struct cs_grpc_call_options {
	int64_t timeout_ms; /* 0: none. Sent as grpc-timeout, and kept on this side too */
	/* Wait for a connection until the timeout. False: fail with UNAVAILABLE when connecting fails, or at once in
	 * BACKOFF. */
	bool wait;
	/* More metadata, copied; names in lower case. Never put into HPACK's table: a value may be a secret. */
	const struct cs_grpc_field *fields;
	size_t nfields;
};

/* reply is of the output type that the descriptor names; NULL unless the status is OK. */
typedef void cs_grpc_on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data);
typedef void cs_grpc_on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data);
typedef void cs_grpc_on_done(const struct cs_grpc_status *status, void *data);

/* options may be NULL (no timeout, no wait); ret_call may be NULL. The handle lives until the reply callback returns.
 * -EINVAL: no such method, too many fields; -EMSGSIZE; -ENOBUFS: calls_max; -ESHUTDOWN: the channel is closed. */
CS_MUST_USE int cs_grpc_unary(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *in, const struct cs_grpc_call_options *options,
	cs_grpc_on_reply *on_reply, void *data, struct cs_grpc_client_call **ret_call, struct cs_error *e);
/* Server-streaming. The handle lives until on_done returns. */
CS_MUST_USE int cs_grpc_stream(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *in, const struct cs_grpc_call_options *options,
	cs_grpc_on_message *on_message, cs_grpc_on_done *on_done, void *data, struct cs_grpc_client_call **ret_call,
	struct cs_error *e);
/* A call whose requests are a stream, whatever its answers are: one that the .proto calls client-streaming gives its one
 * answer to on_message. It opens without a message and is never tried again by itself. on_drain (may be NULL): the queue has
 * room again after CS_GRPC_FULL. The handle lives until on_done returns. */
struct cs_grpc_stream_events {
	cs_grpc_on_message *on_message;
	void (*on_drain)(struct cs_grpc_client_call *call, void *data);
	cs_grpc_on_done *on_done;
};
CS_MUST_USE int cs_grpc_open(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service,
	const char *method, const struct cs_grpc_call_options *options, const struct cs_grpc_stream_events *events,
	void *data, struct cs_grpc_client_call **ret_call, struct cs_error *e);
/* Queue one request, also before there is a connection. 0; CS_GRPC_FULL: it is queued, and no more please before on_drain;
 * -EMSGSIZE, -ENOBUFS (queue_max), -ENOMEM: not queued, the call is open; -EPIPE: the call is over, or this side said that
 * it was done. The queue empties as fast as the server reads. */
CS_MUST_USE int cs_grpc_client_send(struct cs_grpc_client_call *call, const ProtobufCMessage *message);
/* Bytes queued and not yet in HTTP/2 frames. */
size_t cs_grpc_client_queued(const struct cs_grpc_client_call *call);
/* No more requests: after what is queued the server sees the end of the stream. Answers go on coming. Twice is nothing. */
void cs_grpc_client_half_close(struct cs_grpc_client_call *call);
/* While paused no message is delivered and the window fills up: the server waits. The status waits behind the messages;
 * the timeout and cancel do not. */
void cs_grpc_client_pause(struct cs_grpc_client_call *call);
void cs_grpc_client_resume(struct cs_grpc_client_call *call);
/* RST_STREAM; the final callback comes from the loop with CANCELLED, messages do not come any more. Cancelling twice is
 * nothing. */
void cs_grpc_client_cancel(struct cs_grpc_client_call *call);

/* One call with a loop of its own, for command lines. Returns when it is over; messages (of a unary call: the reply) go to
 * on_message. 0, or the negative errno of status with its text in e. Not for use inside a daemon. */
CS_MUST_USE int cs_grpc_call_sync(const struct cs_grpc_channel_options *options,
	const ProtobufCServiceDescriptor *service, const char *method, const ProtobufCMessage *in, int64_t timeout_ms,
	void (*on_message)(const ProtobufCMessage *message, void *data), void *data, struct cs_grpc_status *ret_status,
	struct cs_error *e);

#endif
