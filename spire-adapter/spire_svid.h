/* The chain of an X.509-SVID as SPIRE's APIs carry it: DER in, checked values out. Nothing that was not checked here goes
 * on: profile, sizes, dates. Whether an authority signed it is for those who verify. */
#ifndef CS_SPIRE_SVID_H
#define CS_SPIRE_SVID_H

#include <stdint.h>
#include "algorithm.h"
#include "der.h"
#include "spiffe_id.h"

/* DER certificates one after the other, without padding (SPIFFE Workload API 5.2.1), into slices of blob. An empty blob is
 * none. Reasons: CERTIFICATE_MALFORMED, TOO_MANY (more than max). */
CS_MUST_USE int cs_spire_split(struct cs_der blob, struct cs_der *ret, size_t max, size_t *ret_n, struct cs_error *e);

struct cs_spire_chain {
	struct cs_der cert[CS_CHAIN_MAX]; /* leaf first; slices of what was given */
	size_t n;
	struct cs_spiffe_id id;
	int64_t not_before_unix_s, not_after_unix_s; /* latest and earliest of the chain */
	struct cs_der spki;
	uint8_t leaf_sha256[32];
};
/* cert and n of ret are filled already. Reasons: as cs_profile_leaf, CHAIN_TOO_LARGE. */
CS_MUST_USE int cs_spire_chain_read(struct cs_spire_chain *ret, struct cs_error *e);
/* "spiffe://example.org" or "example.org", to the name alone, checked (SPIRE sends the former, the standard's text allows
 * both). NULL: it is neither. */
const char *cs_spire_trust_domain(const char *name);

#endif
