/* The HTTP server of `countersign exporter`. */
#ifndef CS_CLI_EXPORTER_H
#define CS_CLI_EXPORTER_H

#include <stdint.h>
#include "error.h"
#include "loop.h"

#define CS_EXPORTER_ADDRESS 96
#define CS_EXPORTER_TEXT    (8u << 20) /* bytes that one daemon may say; more counts as no answer */
#define CS_EXPORTER_SCRAPES 4          /* requests that ask the daemons at once; more get 503 */
#define CS_EXPORTER_CONNS   64

struct cs_exporter;

/* listen: "127.0.0.1:9964", "[::]:9964"; port 0 takes a free one. timeout_ms: for the answer of a daemon. */
CS_MUST_USE int cs_exporter_new(struct cs_loop *loop, const char *instance, const char *listen, int64_t timeout_ms,
	struct cs_exporter **ret_exporter, struct cs_error *e);
/* "http://127.0.0.1:9964/metrics" */
void cs_exporter_address(const struct cs_exporter *x, char out[CS_EXPORTER_ADDRESS]);
/* Ends it; the loop ends later. Free after the loop has ended; NULL is fine. */
void cs_exporter_close(struct cs_exporter *x);
void cs_exporter_free(struct cs_exporter *x);

#endif
