/* Inside of the client: grpc_channel.c (connections and states), grpc_client.c (calls), grpc_response.c (what nghttp2
 * reports). */
#ifndef CS_GRPC_CLIENT_H
#define CS_GRPC_CLIENT_H

#include <utlist.h>
#include "grpc_session.h"

#define CS_GRPC_TARGET_MAX    255
#define CS_GRPC_ADDRESSES_MAX 8 /* of a name; tried one after the other */

struct client_conn {
	struct cs_http2 h;               /* first */
	struct cs_grpc_channel *channel; /* lives longer */
	struct client_conn *prev, *next;
	uv_connect_t connect;
	size_t ncalls;
	bool ready; /* the server's SETTINGS are here */
};

struct cs_grpc_channel {
	struct cs_loop *loop;
	struct cs_grpc_channel_options options; /* strings are ours, limits are filled */
	enum cs_grpc_state state;
	uint64_t connection;
	/* Where to */
	char name[CS_GRPC_TARGET_MAX + 1];   /* options.target */
	char target[CS_GRPC_TARGET_MAX + 1]; /* path, or host */
	char authority[CS_GRPC_TARGET_MAX + 1];
	uint16_t port;
	bool tcp;
	uv_getaddrinfo_t resolve;
	bool resolving, resolve_stale; /* stale: its result is not wanted any more */
	struct sockaddr_storage addresses[CS_GRPC_ADDRESSES_MAX];
	size_t naddresses, next_address;
	/* Connections: the current one, and those that the server sent away but whose calls still run */
	struct client_conn *conn, *conns;
	struct cs_error why; /* of the last failure */
	unsigned attempts;   /* failures in a row */
	/* Calls */
	struct cs_grpc_client_call *waiting, *running, *done;
	size_t ncalls;
	/* Deadlines: of calls, of connecting, of backoff, of idleness */
	struct cs_timer timer;
	int64_t next_ms;
	int64_t attempt_ms; /* CONNECTING: give up; BACKOFF: over */
	int64_t start_ms;   /* CONNECTING: not before */
	int64_t ready_ms;   /* READY: since */
	int64_t idle_ms;    /* READY: without a call until then */
	uv_idle_t wake;
	bool closing, reset;
	bool in_ready; /* on_state is being told of READY: calls made there go first */
	unsigned closing_handles;
	void (*closed)(void *data);
	void *closed_data;
};

enum call_place { CALL_WAITING, CALL_RUNNING, CALL_DONE };

struct cs_grpc_client_call {
	struct cs_grpc_client_call *prev, *next;
	struct cs_grpc_channel *channel;
	enum call_place place;    /* which of the channel's lists it is on */
	struct client_conn *conn; /* while it has a stream */
	int32_t stream;
	char path[CS_GRPC_PATH_MAX + 1];
	const ProtobufCMessageDescriptor *type; /* of answers */
	struct cs_grpc_packet *request;         /* of a call with one: kept for one more try */
	size_t request_sent;
	struct cs_grpc_queue out; /* of cs_grpc_open */
	bool open;                /* made by cs_grpc_open */
	bool full, drain_due, half_closed, deferred;
	bool request_done; /* nghttp2 has the end of the request */
	int64_t deadline_ms;
	bool wait, retried, unary, first;
	struct cs_grpc_field fields[CS_GRPC_FIELDS_MAX]; /* ours */
	size_t nfields;
	/* the answer */
	int http_status;
	size_t headers_bytes;
	bool headers_done, has_status, content_type_ok, encoded;
	struct cs_grpc_status status;
	struct cs_grpc_deframer in;
	uint8_t *held; /* bytes that came while paused, from held_read on: the window's worth at most */
	size_t nheld, held_read, held_room;
	bool paused, resumed;
	bool ended;              /* the status is final; it waits behind held messages */
	ProtobufCMessage *reply; /* unary */
	cs_grpc_on_reply *on_reply;
	cs_grpc_on_message *on_message;
	void (*on_drain)(struct cs_grpc_client_call *call, void *data);
	cs_grpc_on_done *on_done;
	void *data;
};

/* grpc_channel.c */
/* A connection that becomes the current one; not connected yet. NULL: no memory. */
struct client_conn *cs_grpc_channel_conn(struct cs_grpc_channel *channel, struct cs_error *e);
void cs_grpc_channel_wake(struct cs_grpc_channel *channel);
void cs_grpc_channel_deadline(struct cs_grpc_channel *channel, int64_t at_ms);
void cs_grpc_channel_ready(struct client_conn *conn);
void cs_grpc_channel_goaway(struct client_conn *conn);

/* grpc_client.c */
void cs_grpc_client_submit_all(struct cs_grpc_channel *channel); /* those that wait, as far as the server lets us */
void cs_grpc_client_first(struct cs_grpc_channel *channel);      /* calls made in_ready to the front */
void cs_grpc_client_conn_lost(struct client_conn *conn, const struct cs_error *why);
/* Those that do not want to wait for a connection, or all. */
void cs_grpc_client_fail_waiting(struct cs_grpc_channel *channel, const struct cs_error *why);
void cs_grpc_client_cancel_all(struct cs_grpc_channel *channel);
int64_t cs_grpc_client_due(struct cs_grpc_channel *channel, int64_t now_ms); /* ends the overdue; when to look again */
void cs_grpc_client_callbacks(struct cs_grpc_channel *channel); /* of the resumed, the drained and the done */
/* A call without a request yet; its callbacks are the caller's to fill in. */
CS_MUST_USE int cs_grpc_client_start(struct cs_grpc_channel *channel, const ProtobufCServiceDescriptor *service,
	const char *method, const struct cs_grpc_call_options *options, struct cs_grpc_client_call **ret_call,
	struct cs_error *e);
/* The call is over by our own doing; its stream, if there is one, is reset. The callback comes from the loop. */
void cs_grpc_client_end(struct cs_grpc_client_call *call, enum cs_grpc_code code, const char *fmt, ...) CS_PRINTF(3, 4);
void cs_grpc_client_detach(struct cs_grpc_client_call *call, bool reset); /* let go of its stream */
void cs_grpc_client_settle(struct cs_grpc_client_call *call);             /* `ended`: final, unless messages are held */
void cs_grpc_client_retry(struct cs_grpc_client_call *call);              /* the server did not look at it: once more */

/* grpc_open.c */
/* nghttp2 wants bytes of the request of an open call; as its nghttp2_data_source_read_callback. */
ssize_t cs_grpc_open_read(struct cs_grpc_client_call *call, uint8_t *out, size_t room, uint32_t *flags);

/* grpc_response.c */
int cs_grpc_response_session(struct client_conn *conn, struct cs_error *e);
/* Go on with what was held, until it is empty or the call is paused again. */
void cs_grpc_response_resume(struct cs_grpc_client_call *call);

#endif
