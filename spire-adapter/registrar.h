/* The registrar: keeps SPIRE's registration entries equal to what the directory says. */
#ifndef CS_REGISTRAR_H
#define CS_REGISTRAR_H

#include "daemon.h"
#include "registrar_plan.h"

#define CS_REGISTRAR_PATH "/countersign/registrar" /* of its own SPIFFE ID */

struct cs_registrar_options { /* borrowed while it runs */
	const char *server, *agent_socket, *trust_domain, *own_id;
	struct cs_reg_rules rules; /* without random */
	int64_t call_ms, list_ms, max_stale_ms;
};

struct cs_registrar;

/* *ret is set also on failure, for stop and free. */
CS_MUST_USE int cs_registrar_start(
	struct cs_daemon *d, const struct cs_registrar_options *options, struct cs_registrar **ret, struct cs_error *e);
void cs_registrar_stop(struct cs_registrar *r); /* NULL is fine */
void cs_registrar_free(struct cs_registrar *r); /* after the loop has ended; NULL is fine */

#endif
