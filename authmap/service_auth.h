/* The gRPC service Auth on DIR/authd/auth.sock: what is authenticated, what would happen to a packet, what has happened,
 * and an operator's word. */
#ifndef CS_SERVICE_AUTH_H
#define CS_SERVICE_AUTH_H

#include "authd.h"

#define CS_AUTH_READERS_MAX 64    /* calls of Events */
#define CS_AUTH_WALKS_MAX   16    /* calls of List and Flush: each keeps the keys that it has still to look at */
#define CS_AUTH_ASKERS_MAX  64    /* calls of Authenticate */
#define CS_AUTH_ASK_MS      30000 /* an Authenticate without a nearer deadline ends then */

/* NULL: see e. Serves from here on. */
struct cs_auth_service *cs_auth_service_new(struct cs_authd *a, struct cs_error *e);
/* Ends every call. Memory is freed when the loop has closed the handles. NULL is fine. */
void cs_auth_service_close(struct cs_auth_service *s);

/* struct cs_hold_callbacks.on_drop: becomes an event. */
void cs_auth_service_drop(void *authd, const struct cs_drop *drop);
/* on_added of cs_events_new. */
void cs_auth_service_event(void *authd);
/* Calls of Events. */
size_t cs_auth_service_readers(const struct cs_auth_service *s);

#endif
