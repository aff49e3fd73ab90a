/* Tells identityd which endpoints are enforced, and why others are not: Endpoints.Report. What was said is repeated after
 * each new connection, because a restarted identityd has forgotten it. */
#ifndef CS_REPORT_H
#define CS_REPORT_H

#include "loop.h"
#include "world.h"

#define CS_REPORT_BATCH    256 /* endpoints in one call */
#define CS_REPORT_AGAIN_MS 1000

struct cs_report;
/* socket: endpoints.sock. world is borrowed. */
CS_MUST_USE int cs_report_new(struct cs_loop *loop, const char *socket, const struct cs_world *world,
	struct cs_report **ret, struct cs_error *e);
/* Something may have changed: what is new is sent soon. */
void cs_report_changed(struct cs_report *r);
/* Say everything again. */
void cs_report_all(struct cs_report *r);
/* Memory is freed when the loop has closed the handles. NULL is fine. */
void cs_report_close(struct cs_report *r);

#endif
