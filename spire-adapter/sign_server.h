/* sign.sock on the loop: connections of role authd, each with at most CS_SIGN_UNANSWERED requests at work. P-256 is
 * signed on the loop, slower keys by worker threads; answers go out in the order of the requests all the same. */
#ifndef CS_SIGN_SERVER_H
#define CS_SIGN_SERVER_H

#include "keys.h"
#include "grpc_roles.h"
#include "instance.h"
#include "loop.h"
#include "metrics.h"

#define CS_SIGN_CONNECTIONS_MAX 256 /* one per handshaker, and a handshaker per core */

struct cs_sign_server;

/* Listens on path with 0600. keys, roles and metrics are borrowed until the server is freed. */
CS_MUST_USE int cs_sign_server_new(struct cs_loop *loop, const char *path, const struct cs_roles *roles,
	const struct cs_keys *keys, struct cs_metrics *metrics, struct cs_sign_server **ret, struct cs_error *e);
/* Stops listening, removes the socket file and closes every connection. NULL is fine. */
void cs_sign_server_close(struct cs_sign_server *server);
/* After the loop has ended. NULL is fine. */
void cs_sign_server_free(struct cs_sign_server *server);

#endif
