/* The seam between the adapter and whoever issues SVIDs. A source is told for whom, and answers with SVIDs and bundles.
 *
 * Every start is answered by svid or by none, and after that whenever something changes; nothing is called from within
 * start or stop, nothing about an identity after its stop, and nothing at all after close. Everything
 * happens on the loop thread. */
#ifndef CS_SOURCE_H
#define CS_SOURCE_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "algorithm.h"
#include "der.h"
#include "error.h"

struct cs_source_svid {
	uint32_t identity;
	EVP_PKEY *key;              /* the receiver takes it over */
	const struct cs_der *chain; /* leaf first, without the root; borrowed, like what it points at */
	size_t nchain;              /* at most CS_CHAIN_MAX */
	int64_t not_before_unix_s, not_after_unix_s; /* latest and earliest of the chain */
};

struct cs_source_events {
	/* A first or a renewed SVID; it replaces the one before. */
	void (*svid)(void *data, const struct cs_source_svid *svid);
	/* There is none now. withdrawn: it was taken away for good, so what rests on it has to go; else what is in use lives
	 * on, and an SVID may still come. */
	void (*none)(void *data, uint32_t identity, bool withdrawn, const struct cs_error *why);
	/* The authorities of a trust domain, all of them; n = 0: the domain is gone. Borrowed. */
	void (*bundle)(void *data, const char *trust_domain, const struct cs_der *authorities, size_t n);
	void *data;
};

struct cs_source {
	const char *name; /* "local-ca", as in Svid.source */
	/* spiffe_id is copied. An identity that is started already must be stopped first. */
	int (*start)(struct cs_source *source, uint32_t identity, const char *spiffe_id, struct cs_error *e);
	void (*stop)(struct cs_source *source, uint32_t identity);
	/* Stops everything; the loop ends later. */
	void (*close)(struct cs_source *source);
	/* After the loop has ended. */
	void (*free)(struct cs_source *source);
};

#endif
