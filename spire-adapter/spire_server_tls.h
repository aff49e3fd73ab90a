/* Mutual TLS to SPIRE's server: our side is an X.509-SVID of the Workload API, the other must be spiffe://<trust
 * domain>/spire/server and nothing else. It has no DNS name, so no host name is looked at. */
#ifndef CS_SPIRE_SERVER_TLS_H
#define CS_SPIRE_SERVER_TLS_H

#include "grpc.h"
#include "spire_workload.h"

#define CS_SPIRE_SERVER_PATH "/spire/server"

struct cs_spire_server_tls;

/* clock is borrowed. There is no SVID yet: connections are refused, by the sentence of cs_spire_server_tls_clear(). */
CS_MUST_USE int cs_spire_server_tls_new(
	const char *trust_domain, const struct cs_clock *clock, struct cs_spire_server_tls **ret, struct cs_error *e);
/* Connections from here on show this SVID, and trust its bundle. On failure the one before stays. */
CS_MUST_USE int cs_spire_server_tls_set(
	struct cs_spire_server_tls *tls, const struct cs_spire_own *own, struct cs_error *e);
/* There is none (any more). why is copied. */
void cs_spire_server_tls_clear(struct cs_spire_server_tls *tls, const struct cs_error *why);
/* Lent, good until free. */
const struct cs_grpc_tls *cs_spire_server_tls_grpc(const struct cs_spire_server_tls *tls);
/* When the SVID ends; 0: there is none. */
int64_t cs_spire_server_tls_not_after_unix_s(const struct cs_spire_server_tls *tls);
void cs_spire_server_tls_free(struct cs_spire_server_tls *tls); /* after every connection of it is gone; NULL is fine */

#endif
