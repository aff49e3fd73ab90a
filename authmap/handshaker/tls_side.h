/* One end of a TLS 1.3 connection in Cilium's dialect: which SVID it shows, whom it expects, why it said no. */
#ifndef CS_HS_TLS_SIDE_H
#define CS_HS_TLS_SIDE_H

#include "late_alert.h"
#include "world.h"

struct cs_hs_side {
	struct cs_hs_world *world; /* borrowed */
	SSL *ssl;                  /* NULL: this end is not here */
	struct cs_hs_svid_state *svid;
	struct cs_peer *self, *peer; /* our own chain and the other's, verified */
	bool expects;
	struct cs_spiffe_id expect;
	struct cs_traffic_secret secret; /* acceptor: for the late alert */
	struct cs_error why;             /* why.reason NONE: nothing was refused by us */
	uint8_t alert;                   /* last fatal alert sent or received */
	bool alert_received;
	bool heard; /* a byte of the peer was read */
};

/* Callbacks of both SSL_CTXs; once per world. */
CS_MUST_USE int cs_hs_side_contexts(struct cs_hs_world *world, struct cs_error *e);

/* A client that shows identity's SVID, sends sni and accepts exactly remote_spiffe_id. */
CS_MUST_USE int cs_hs_side_client(struct cs_hs_side *side, struct cs_hs_world *world, uint32_t identity,
	const char *sni, const char *remote_spiffe_id, struct cs_error *e);
/* A server that shows the SVID that the client's SNI asks for; expect NULL: any identity of a known trust domain. */
CS_MUST_USE int cs_hs_side_server(
	struct cs_hs_side *side, struct cs_hs_world *world, const struct cs_spiffe_id *expect, struct cs_error *e);
void cs_hs_side_fini(struct cs_hs_side *side);

/* After SSL_do_handshake, SSL_read or SSL_shutdown returned an error that is no WANT_*: what to tell. Empties OpenSSL's
 * error queue. */
enum cs_reason cs_hs_side_failure(struct cs_hs_side *side, int ssl_error, char *detail, size_t size);

#endif
