/* What the two test programs of gRPC share: options, and mTLS with plain certificates. */
#ifndef GRPC_ECHO_H
#define GRPC_ECHO_H

#include "grpc.h"

struct echo_tls {
	SSL_CTX *ctx;
	struct cs_grpc_tls tls;
};
/* dir has cert.pem, key.pem and ca.pem. A peer's name is its common name, and "stranger" is refused. */
int echo_tls_init(struct echo_tls *t, const char *dir, bool server, struct cs_error *e);
void echo_tls_fini(struct echo_tls *t);

/* "message_max=1000", ... into limits. */
int echo_limit(struct cs_grpc_limits *limits, const char *text);

#endif
