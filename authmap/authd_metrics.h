/* The metrics of countersign-authd. Counters that the kernel keeps are read when somebody asks. */
#ifndef CS_AUTHD_METRICS_H
#define CS_AUTHD_METRICS_H

#include "authd.h"

struct cs_authd_metrics *cs_authd_metrics_new(struct cs_authd *a);
void cs_authd_metrics_free(struct cs_authd_metrics *m);
/* A handshake, or what should have been one, is over. micros 0: no TLS was spoken. */
void cs_authd_metrics_handshake(
	struct cs_authd_metrics *m, enum cs_hs_role role, enum cs_reason reason, uint32_t micros);

#endif
