/* A revocation, as an operator asks for it: what it may name, and for how long it must stand. Pure.
 *
 * What it names must not be believed from `from` to `until`, which is no earlier than the end of the longest-lived
 * certificate that there can be: before that, who was revoked could simply come back. */
#ifndef CS_REVOCATION_H
#define CS_REVOCATION_H

#include <countersign/v1/directory.pb-c.h>
#include <stdbool.h>
#include <stdint.h>
#include "error.h"

#define CS_REVOCATION_WHY_MAX    256
#define CS_REVOCATION_KEY_ID_MAX 64                  /* subject key id of an authority; 20 bytes as a rule */
#define CS_REVOCATION_SERIAL_MAX 20                  /* RFC 5280 4.1.2.2 */
#define CS_REVOCATION_LIFE_MAX_S (10 * 365 * 86400l) /* an authority's life, with room */

/* Exactly one well-formed subject, a reason for people, and a time that is long enough; fills in from and an `until` that
 * is 0. -EINVAL. Whether what it names is there, the core knows. */
CS_MUST_USE int cs_revocation_check(
	Countersign__V1__Revocation *r, int64_t now_unix_s, int64_t svid_max_life_s, struct cs_error *e);

/* "identity 300 on node n1" into out. */
void cs_revocation_subject(const Countersign__V1__Revocation *r, char out[320]);

#endif
