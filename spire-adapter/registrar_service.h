/* The service Entries (include/countersign/v1/entries.proto) over the plan and the work. */
#ifndef CS_REGISTRAR_SERVICE_H
#define CS_REGISTRAR_SERVICE_H

#include "grpc.h"
#include "registrar_work.h"

#define CS_REG_CALLS_MAX 32          /* of List and Sync at a time */
#define CS_REG_QUEUE_MAX (64u << 20) /* what a caller that reads slowly may leave with us: a list of everything */

struct cs_reg_service;

struct cs_reg_service_options {
	struct cs_loop *loop;
	struct cs_reg_plan *plan; /* all borrowed */
	struct cs_reg_work *work;
	struct cs_spire_server *server;
	const char *mark, *prefix, *trust_domain;
	const struct cs_error *(*may_write)(void *data); /* as in registrar_work.h */
	void *data;
};

struct cs_reg_service *cs_reg_service_new(const struct cs_reg_service_options *options); /* NULL: no memory */
const struct cs_grpc_service *cs_reg_service_grpc(const struct cs_reg_service *s);
/* The work's events. */
void cs_reg_service_answered(struct cs_reg_service *s, const struct cs_reg_change *change, const struct cs_error *why);
void cs_reg_service_listed(struct cs_reg_service *s, const struct cs_error *why);
void cs_reg_service_idle(struct cs_reg_service *s);
/* Nothing can be written now: who waits for that is told. */
void cs_reg_service_abort(struct cs_reg_service *s, const struct cs_error *why);
/* Ends all calls; free after the loop has ended. NULL is fine. */
void cs_reg_service_close(struct cs_reg_service *s);
void cs_reg_service_free(struct cs_reg_service *s);

#endif
