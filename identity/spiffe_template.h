/* SPIFFE IDs from a template with {id}. */
#ifndef CS_SPIFFE_TEMPLATE_H
#define CS_SPIFFE_TEMPLATE_H

#include <stdint.h>
#include "error.h"

/* Heap; NULL without memory, or for a template without {id}. */
char *cs_spiffe_template_fill(const char *template, uint32_t id);
/* spiffe://<trust domain>/... with {id} exactly once, and a valid SPIFFE ID for every id. */
CS_MUST_USE int cs_spiffe_template_check(const char *template, const char *trust_domain, struct cs_error *e);

#endif
