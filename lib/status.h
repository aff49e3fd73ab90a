/* What a daemon says about itself: the service Status (v1/status.proto) on DIR/<daemon>/status.sock, and a registry of
 * named checks. The daemon is healthy while all its checks are ok. From the loop thread only. */
#ifndef CS_STATUS_H
#define CS_STATUS_H

#include <stdbool.h>
#include "error.h"
#include "loop.h"
#include "metrics.h"

#define CS_STATUS_CHECKS 32

struct cs_status;
struct cs_check;
struct cs_roles;
struct cs_grpc_refusal;

/* Leadership of v1/status.proto. */
enum cs_leadership { CS_LEADERSHIP_NONE, CS_LEADERSHIP_FOLLOWER, CS_LEADERSHIP_LEADER };

/* daemon is copied. metrics is borrowed, and gets countersign_build_info, countersign_start_time_seconds,
 * countersign_check_ok and countersign_refused_calls_total. */
struct cs_status *cs_status_new(struct cs_loop *loop, const char *daemon, struct cs_metrics *metrics);
/* Copied: "all", "node", ...; the node's name. */
void cs_status_set_role(struct cs_status *s, const char *role);
void cs_status_set_node(struct cs_status *s, const char *node);
/* NONE until it is said. */
void cs_status_set_leadership(struct cs_status *s, enum cs_leadership leadership);
/* Serve on the socket at path; roles is borrowed. */
CS_MUST_USE int cs_status_listen(
	struct cs_status *s, const char *path, const struct cs_roles *roles, struct cs_error *e);
/* For cs_grpc_server_options.on_refused of the daemon's other servers, with the status as refused_data: counts it, and puts
 * it on record (cs_audit), up to 20 a second; what came beyond is counted in the next record as "unsaid". */
void cs_status_refused(const struct cs_grpc_refusal *refusal, void *status);
/* Ends the service; the loop ends later. Free after the loop has ended. */
void cs_status_close(struct cs_status *s);
void cs_status_free(struct cs_status *s);

/* A new check is ok until somebody says otherwise. name: lower case and '-', static: "directory", "datapath". */
struct cs_check *cs_check_new(struct cs_status *s, const char *name);
void cs_check_ok(struct cs_check *c);
/* Not ok: a reason, and one sentence with the values. `since` moves only when ok turns into not ok or back. */
void cs_check_fail(struct cs_check *c, enum cs_reason reason, const char *fmt, ...) CS_PRINTF(3, 4);
/* Not ok, as an error says it. */
void cs_check_error(struct cs_check *c, const struct cs_error *e);
/* fn is called before anybody is told about the checks (Get, metrics): the place to set one that is costly to keep up to
 * date. One fn. */
void cs_status_on_read(struct cs_status *s, void (*fn)(void *data), void *data);
bool cs_status_healthy(const struct cs_status *s);

#endif
