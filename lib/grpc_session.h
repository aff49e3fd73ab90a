/* What both sides of gRPC tell nghttp2. Internal to grpc_*.c. */
#ifndef CS_GRPC_SESSION_H
#define CS_GRPC_SESSION_H

#include "grpc_wire.h"
#include "http2.h"

/* Floods of frames that cost us an answer or state; nghttp2 ends a connection that passes them. */
#define CS_GRPC_ACKS_MAX     100  /* queued answers to PING and SETTINGS */
#define CS_GRPC_SETTINGS_MAX 32   /* entries of one SETTINGS frame */
#define CS_GRPC_RESETS_BURST 1000 /* RST_STREAM (CVE-2023-44487): so many at once, */
#define CS_GRPC_RESETS_PER_S 100  /* and so many a second */
/* A header list of so many times headers_max is not answered: it ends the connection. */
#define CS_GRPC_HEADERS_ABUSE 8

/* Fills in the defaults. */
void cs_grpc_limits_fill(struct cs_grpc_limits *limits);
/* h->session, with its SETTINGS and windows submitted. streams: what the peer may open; 0 for a client. */
CS_MUST_USE int cs_grpc_session_new(struct cs_http2 *h, const nghttp2_session_callbacks *callbacks,
	const struct cs_grpc_limits *limits, uint32_t streams, void *data, struct cs_error *e);

/* A header field for nghttp2; name and value are copied by it. */
nghttp2_nv cs_grpc_nv(const char *name, const char *value);
bool cs_grpc_name_is(const uint8_t *name, size_t n, const char *expected);

#endif
