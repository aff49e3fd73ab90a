/* Inside of the etcd client: etcd.c (endpoints, life), etcd_tls.c, etcd_call.c (one question, one answer), etcd_auth.c,
 * etcd_kv.c, etcd_stream.c (streams that are replaced when they break), etcd_lease.c, etcd_watch.c. */
#ifndef CS_ETCD_PRIVATE_H
#define CS_ETCD_PRIVATE_H

#include "etcd.h"
#include "etcd_rpc.pb-c.h"
#include "grpc.h"

struct endpoint {
	struct cs_etcd *etcd;
	char *url;  /* as it was given */
	char *host; /* of it */
	char target[288];
	bool plain;
	SSL_CTX *ctx; /* of the newest connection */
	struct cs_grpc_tls tls;
	struct cs_grpc_channel *channel;
};

struct cs_etcd {
	struct cs_loop *loop;
	struct endpoint endpoints[CS_ETCD_ENDPOINTS_MAX];
	size_t nendpoints, current;
	char *ca_file, *cert_file, *key_file, *server_name;
	char *user, *password, *token;
	unsigned token_number; /* of the token: who was refused with an older one need not ask for another */
	bool authenticating;
	struct etcd_call *calls;
	size_t ncalls;
	struct etcd_stream *streams;
	size_t handles; /* timers and channels that are not closed yet */
	bool closing;
	void (*closed)(void *data);
	void *closed_data;
};

/* etcd.c */
void cs_etcd_handle_closed(struct cs_etcd *etcd);
/* This endpoint is of no use now: the next one's turn, unless that has happened already. */
void cs_etcd_turn(struct cs_etcd *etcd, size_t endpoint);
/* How long to wait before the nth try (from 0): not at all while there are endpoints that were not asked. */
int64_t cs_etcd_backoff_ms(const struct cs_etcd *etcd, unsigned n);
/* Metadata of every call; fields has room for CS_GRPC_FIELDS_MAX. Valid until the token changes. */
size_t cs_etcd_fields(const struct cs_etcd *etcd, bool with_token, struct cs_grpc_field *fields);
char *cs_etcd_strdup(const char *s); /* NULL stays NULL */

/* etcd_tls.c */
void cs_etcd_tls_init(struct endpoint *endpoint);
void cs_etcd_tls_fini(struct endpoint *endpoint);

/* ---- one question, one answer (etcd_call.c) ---- */

struct etcd_call {
	struct etcd_call *prev, *next;
	struct cs_etcd *etcd;
	const ProtobufCServiceDescriptor *service;
	const char *method;
	ProtobufCMessage *request; /* ours */
	bool reads;                /* may be done twice */
	bool without_token;
	enum { CALL_WAITS, CALL_WAITS_FOR_TOKEN, CALL_RUNS, CALL_OVER } state;
	unsigned tries, token_tries, token_number;
	size_t endpoint;
	int64_t deadline_ms;
	struct cs_error why; /* of the last try */
	struct cs_grpc_client_call *running;
	struct cs_timer timer;
	/* Once; reply is NULL unless DONE. */
	void (*finish)(struct etcd_call *call, const struct cs_etcd_result *result, const ProtobufCMessage *reply);
	void (*done)(void); /* the user's, for finish to cast back */
	void *data;
};
struct etcd_call_spec {
	const ProtobufCServiceDescriptor *service;
	const char *method;
	const ProtobufCMessage *request;
	bool reads, without_token;
	int64_t timeout_ms;
	void (*finish)(struct etcd_call *call, const struct cs_etcd_result *result, const ProtobufCMessage *reply);
	void (*done)(void);
	void *data;
};
CS_MUST_USE int cs_etcd_call_new(struct cs_etcd *etcd, const struct etcd_call_spec *spec, struct cs_error *e);
void cs_etcd_calls_shut_down(struct cs_etcd *etcd);
/* There is a token now, or there will be none (why). */
void cs_etcd_calls_have_token(struct cs_etcd *etcd, const struct cs_error *why);

/* What a status of etcd's means. */
struct etcd_verdict {
	int code;       /* negative errno */
	bool sure;      /* it was not done */
	bool elsewhere; /* another endpoint may know better */
	bool token;     /* a new token may help */
	bool later;     /* the same endpoint, in a moment */
};
struct etcd_verdict cs_etcd_judge(const struct cs_grpc_status *status);
/* Does this text say that the token is at fault? */
bool cs_etcd_token_refused(const char *text);

/* etcd_auth.c */
/* Get a token, if one is needed and nobody asks for it yet. True: there is one, or none is needed. */
bool cs_etcd_token_ready(struct cs_etcd *etcd);
void cs_etcd_token_drop(struct cs_etcd *etcd, unsigned number);

/* ---- streams (etcd_stream.c) ---- */

struct etcd_stream;
struct etcd_stream_ops {
	const ProtobufCServiceDescriptor *service;
	const char *method;
	void (*opened)(struct etcd_stream *s); /* say what is wanted */
	void (*message)(struct etcd_stream *s, const ProtobufCMessage *message);
	void (*probe)(struct etcd_stream *s);                               /* ask for a sign of life */
	void (*refused)(struct etcd_stream *s, const struct cs_error *why); /* for good */
	void (*gone)(struct etcd_stream *s);                                /* the memory is the owner's again */
};
struct etcd_stream { /* first member of its owner */
	struct etcd_stream *prev, *next;
	struct cs_etcd *etcd;
	const struct etcd_stream_ops *ops;
	struct etcd_leg *leg; /* the call under it; NULL: none now */
	size_t endpoint;
	unsigned tries, token_tries, token_number;
	int64_t probe_every_ms, silent_max_ms, probed_ms, heard_ms;
	struct cs_timer timer;
	bool over;
};
CS_MUST_USE int cs_etcd_stream_init(struct etcd_stream *s, struct cs_etcd *etcd, const struct etcd_stream_ops *ops,
	int64_t probe_every_ms, int64_t silent_max_ms, struct cs_error *e);
/* On the stream that is open. */
void cs_etcd_stream_send(struct etcd_stream *s, const ProtobufCMessage *message);
/* It does what it is for: the next failure is a first one. */
void cs_etcd_stream_works(struct etcd_stream *s);
/* A new one, at another endpoint. */
void cs_etcd_stream_replace(struct etcd_stream *s);
/* The token is at fault: a new one. False: that was tried. */
bool cs_etcd_stream_new_token(struct etcd_stream *s);
void cs_etcd_stream_close(struct etcd_stream *s); /* then gone */

#endif
