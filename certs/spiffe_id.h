/* SPIFFE IDs and trust domains (SPIFFE-ID.md 2). Only the canonical form exists here: what is not canonical does not
 * parse, so two IDs are the same identity exactly if their bytes are the same. */
#ifndef CS_SPIFFE_ID_H
#define CS_SPIFFE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include "error.h"

#define CS_SPIFFE_ID_MAX    2048 /* bytes in all (SPIFFE-ID 2.3) */
#define CS_TRUST_DOMAIN_MAX 255  /* bytes (SPIFFE-ID 2.3) */
#define CS_SPIFFE_SCHEME    "spiffe://"

struct cs_spiffe_id {
	size_t len;
	size_t domain_len;               /* the domain starts after the scheme, the path after the domain */
	char text[CS_SPIFFE_ID_MAX + 1]; /* "spiffe://example.org/path", NUL-terminated */
};

/* Bytes (no NUL expected, none allowed) to an ID. An empty path parses: it names the trust domain itself. The error
 * says which byte breaks which rule; its reason is left to the caller. *ret is untouched on failure. */
CS_MUST_USE int cs_spiffe_id_parse(struct cs_spiffe_id *ret, const void *bytes, size_t len, struct cs_error *e);
/* domain + path to an ID; path is "" or starts with '/'. */
CS_MUST_USE int cs_spiffe_id_make(struct cs_spiffe_id *ret, const char *domain, const char *path, struct cs_error *e);

bool cs_spiffe_id_equal(const struct cs_spiffe_id *a, const struct cs_spiffe_id *b);
/* "" or "/a/b"; borrowed from id. */
const char *cs_spiffe_id_path(const struct cs_spiffe_id *id);
/* The name alone, NUL-terminated ("example.org"). */
void cs_spiffe_id_domain(const struct cs_spiffe_id *id, char ret[static CS_TRUST_DOMAIN_MAX + 1]);

/* Is this the name of a trust domain (SPIFFE-ID 2.1)? */
CS_MUST_USE int cs_trust_domain_check(const void *name, size_t len, struct cs_error *e);

#endif
