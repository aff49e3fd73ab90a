/* Tells identityd the condition SVID_READY of local identities (Endpoints.Report). What there is to tell is read from
 * struct cs_svids when it is told, so that only the latest state goes out, and what fails goes out again. */
#ifndef CS_REPORTER_H
#define CS_REPORTER_H

#include "loop.h"
#include "status.h"
#include "svids.h"

#define CS_REPORT_ITEMS      256  /* in one call */
#define CS_REPORT_TIMEOUT_MS 5000 /* of one call */
#define CS_REPORT_RETRY_MS   1000

struct cs_reporter;

/* socket: path of endpoints.sock; need not exist yet. svids and check ("reports") are borrowed until it is freed. */
CS_MUST_USE int cs_reporter_new(struct cs_loop *loop, const char *socket, struct cs_svids *svids,
	struct cs_check *check, struct cs_reporter **ret, struct cs_error *e);
/* This identity's condition has to be told (again). Without memory it is told with the next cs_reporter_mark_all(). */
void cs_reporter_mark(struct cs_reporter *reporter, uint32_t identity);
/* identityd forgot everything: tell all. */
void cs_reporter_mark_all(struct cs_reporter *reporter);
/* The loop ends later. NULL is fine. */
void cs_reporter_close(struct cs_reporter *reporter);
/* After the loop has ended. NULL is fine. */
void cs_reporter_free(struct cs_reporter *reporter);

#endif
