/* Several Prometheus texts into one. A family may be in more than one of them (countersign_build_info), and the format
 * wants all its samples together, after one HELP and one TYPE. Bytes in, bytes out. */
#ifndef CS_CLI_MERGE_H
#define CS_CLI_MERGE_H

#include <stddef.h>
#include <stdio.h>
#include "error.h"

#define CS_MERGE_FAMILIES 1024
#define CS_MERGE_NAME     128

struct cs_merge;

struct cs_merge *cs_merge_new(void); /* NULL: no memory */
void cs_merge_free(struct cs_merge *m);
/* Adds a text as lib/metrics renders it. An error (not this format, or too many families) adds nothing. */
CS_MUST_USE int cs_merge_add(struct cs_merge *m, const char *text, size_t len, struct cs_error *e);
void cs_merge_write(const struct cs_merge *m, FILE *out);

#endif
