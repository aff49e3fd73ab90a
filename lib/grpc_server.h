/* Inside of the server: grpc_server.c (life), grpc_listen.c (sockets and who comes in), grpc_request.c (what nghttp2
 * reports), grpc_call.c (what handlers do). */
#ifndef CS_GRPC_SERVER_H
#define CS_GRPC_SERVER_H

#include <netinet/in.h>
#include <uthash.h>
#include <utlist.h>
#include "grpc_session.h"

#define CS_GRPC_SERVICES_MAX 16
#define CS_GRPC_LINGER_MS    60000 /* a finished call whose client does not take the rest */
#define CS_GRPC_CLOSE_MS     1000  /* for the last bytes when a server closes */
#define CS_GRPC_BACKLOG      1024  /* thousands come at once after a restart */
/* A connection without a name that has said nothing for so long, or that needs so many turns, makes room for others when
 * there is none. */
#define CS_GRPC_PENDING_IDLE_MS 300
#define CS_GRPC_PENDING_ROUNDS  8

struct listener {
	struct listener *next;
	struct cs_grpc_server *server;
	union {
		uv_handle_t handle;
		uv_stream_t stream;
		uv_pipe_t pipe;
		uv_tcp_t tcp;
	} io;
	char *path; /* Unix */
	dev_t dev;
	ino_t ino;
	const struct cs_roles *roles;
	const struct cs_grpc_tls *tls; /* TCP */
};

struct cs_grpc_server {
	struct cs_loop *loop;
	struct cs_grpc_server_options options; /* limits are filled */
	const struct cs_grpc_service *services[CS_GRPC_SERVICES_MAX];
	size_t nservices;
	struct listener *listeners;
	size_t nlisteners; /* whose handles are not closed yet */
	struct cs_grpc_conn *conns;
	size_t nconns, ncalls;
	struct cs_grpc_conn *pending; /* TCP, and no name yet; the oldest first */
	size_t npending, nnamed;      /* ... and those that have one */
	struct cs_http2_handshakes handshakes;
	struct cs_timer timer; /* one for all deadlines: at next_ms */
	int64_t next_ms, kill_ms;
	uint16_t port;
	bool closing, timer_closing;
	void (*closed)(void *data);
	void *closed_data;
};

struct cs_grpc_conn {
	struct cs_http2 h; /* first: an event's h is the conn */
	struct cs_grpc_server *server;
	struct cs_grpc_conn *prev, *next;
	struct cs_grpc_call *calls;
	size_t ncalls;
	char peer[CS_GRPC_PEER_NAME];
	uint32_t roles;
	bool local, turned_away, announced, settings_seen, drain_due;
	bool is_pending, is_named; /* one of the server's npending, nnamed */
	struct cs_grpc_conn *pprev, *pnext;
	uid_t uid;
	struct in6_addr address;
	int64_t deadline_ms; /* until SETTINGS came, while there is no call, or at the end; else INT64_MAX */
	void *data;
};

struct cs_grpc_call {
	struct cs_grpc_call *prev, *next;
	struct cs_grpc_conn *conn;
	int32_t stream;
	/* the request */
	char path[CS_GRPC_PATH_MAX + 1];
	size_t npath, headers_bytes;
	bool path_bad, is_post, content_type_ok, encoded, timeout_bad; /* what its headers said */
	bool headers_done, request_done;
	int64_t timeout_ms;
	int64_t deadline_ms;         /* the client's: INT64_MAX without one */
	int64_t request_deadline_ms; /* request_ms from the first header; later the linger of a finished call */
	const struct cs_grpc_service *service;
	const struct cs_grpc_method *method;
	struct cs_grpc_deframer in;
	bool has_message;
	/* the answer */
	bool running;  /* the handler has it */
	bool finished; /* the status is known */
	bool headers_sent, deferred, full, drain_due, sent_message;
	struct cs_grpc_queue out;
	struct cs_grpc_status status;
	void (*on_cancel)(struct cs_grpc_call *call, void *data);
	void (*on_drain)(struct cs_grpc_call *call, void *data);
	void *data;
};

/* grpc_server.c */
struct cs_grpc_conn *cs_grpc_conn_new(struct cs_grpc_server *server, bool tcp);
/* TCP: it counts among those whose name is not known, among those whose is, or among none any more. */
enum cs_grpc_place { CS_GRPC_NOWHERE, CS_GRPC_PENDING, CS_GRPC_NAMED };
void cs_grpc_conn_place(struct cs_grpc_conn *conn, enum cs_grpc_place place);
int cs_grpc_conn_start(struct cs_grpc_conn *conn, const struct cs_grpc_tls *tls, struct cs_error *e);
void cs_grpc_conn_refuse(struct cs_grpc_conn *conn, const struct cs_error *why); /* reports it too */
void cs_grpc_server_deadline(struct cs_grpc_server *server, int64_t at_ms);
void cs_grpc_server_refused(struct cs_grpc_conn *conn, const char *method, enum cs_reason reason, const char *text);

/* grpc_request.c */
int cs_grpc_request_session(struct cs_grpc_conn *conn, struct cs_error *e);
void cs_grpc_call_free(struct cs_grpc_call *call); /* on_cancel first, if it is running */

/* grpc_call.c */
void cs_grpc_call_end(struct cs_grpc_call *call, enum cs_grpc_code code, enum cs_reason reason, const char *text);
void cs_grpc_call_cancel(struct cs_grpc_call *call); /* tells the handler, once */
/* Answer a request that is not gRPC with an HTTP status alone. */
void cs_grpc_call_http(struct cs_grpc_call *call, const char *http_status);

/* grpc_listen.c */
int cs_grpc_conn_name_room(const struct cs_grpc_conn *conn, struct cs_error *e); /* its name is known now */
void cs_grpc_listener_close(struct listener *listener);
/* grpc_server.c: its handle is closed. */
void cs_grpc_listener_gone(struct cs_grpc_server *server);

#endif
