/* Revocations as documents, and hexadecimal as people paste it. */
#ifndef CS_CLI_REVOCATION_H
#define CS_CLI_REVOCATION_H

#include "cli.h"
#include <countersign/v1/directory.pb-c.h>

/* {"id", "subject": "identity 300 on node n1", "identity", "node", "leaf_sha256", "serial", "authority" (null where it
 * names none), "from_unix_s", "until_unix_s", "why", "who"} */
json_t *cs_revocation_doc(const Countersign__V1__Revocation *r);

/* "0a1b", "0A:1B" into bytes; -EINVAL names what it is not. */
CS_MUST_USE int cs_hex_parse(const char *text, uint8_t *bytes, size_t max, size_t *ret_n, struct cs_error *e);

#endif
