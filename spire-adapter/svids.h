/* What the service Svids publishes: the SVID, or the reason for having none, of every local identity, and bundles. No
 * keys, no sockets, no clock.
 *
 * Items are in the order of their last change, and carry its number. Whoever follows remembers the number of the last
 * item it got and asks for the next: a slow follower gets the latest state of each item, once, and costs no memory. An
 * item that is gone stays as a tombstone until every follower has been told. */
#ifndef CS_SVIDS_H
#define CS_SVIDS_H

#include <countersign/v1/svids.pb-c.h>
#include <stdbool.h>
#include <stdint.h>
#include "source.h"

#define CS_SVIDS_BUNDLES_MAX 256 /* trust domains, as in certs/ */

struct cs_svids;

/* An item: one of the two is set. Borrowed until the next call that changes the state. */
struct cs_svids_item {
	uint64_t change;
	const Countersign__V1__Svid *svid;
	const Countersign__V1__Bundle *bundle;
};

/* source: static. first_generation: random; generations are counted from there and never 0. NULL: no memory. */
struct cs_svids *cs_svids_new(const char *source, uint64_t first_generation);
void cs_svids_free(struct cs_svids *s);

/* ---- SVIDs: expected, then put or set to none, again and again, then forgotten ---- */

/* An identity became local: it has a record from here on, with generation 0 at first. Expecting twice is nothing.
 * -EEXIST: it is expected under another SPIFFE ID; forget that one first. */
CS_MUST_USE int cs_svids_expect(
	struct cs_svids *s, uint32_t identity, const char *spiffe_id, int64_t now_unix_ms, struct cs_error *e);
/* The generation that the next SVID or bundle will have. */
uint64_t cs_svids_next_generation(const struct cs_svids *s);
/* -ENOENT: nobody expects it (any more). The key is not looked at. */
CS_MUST_USE int cs_svids_put(
	struct cs_svids *s, const struct cs_source_svid *svid, int64_t now_unix_ms, struct cs_error *e);
/* Generation 0 and the reason (NO_LOCAL_SVID if the error has none). Nothing if nobody expects it. */
void cs_svids_none(
	struct cs_svids *s, uint32_t identity, bool withdrawn, const struct cs_error *why, int64_t now_unix_ms);
/* No endpoint of it is left here: withdrawn for NO_LOCAL_ENDPOINT, and not part of the state any more. */
void cs_svids_forget(struct cs_svids *s, uint32_t identity, int64_t now_unix_ms);
/* NULL: not local. Borrowed. */
const Countersign__V1__Svid *cs_svids_get(const struct cs_svids *s, uint32_t identity);
/* Since when it is local, as long as it has not had an SVID; else 0. */
int64_t cs_svids_waiting_since_unix_ms(const struct cs_svids *s, uint32_t identity);
/* An SVID whose time is over; 0: none. */
uint32_t cs_svids_expired(const struct cs_svids *s, int64_t now_unix_s);

/* ---- bundles ---- */

/* n = 0: the trust domain is gone. */
CS_MUST_USE int cs_svids_put_bundle(
	struct cs_svids *s, const char *trust_domain, const struct cs_der *authorities, size_t n, struct cs_error *e);

/* ---- following ---- */

/* It is known which identities are local: from here on what is published is the full state. Before, nobody may be told
 * that it is. */
void cs_svids_set_known(struct cs_svids *s);
bool cs_svids_known(const struct cs_svids *s);
/* The first item that changed after this number (0: the very first). False: none. */
bool cs_svids_next(struct cs_svids *s, uint64_t after, struct cs_svids_item *ret);
/* Every follower has all that changed up to this number: tombstones go. */
void cs_svids_told(struct cs_svids *s, uint64_t up_to);
/* Local identities that have an SVID, and all of them. */
size_t cs_svids_ready(const struct cs_svids *s);
size_t cs_svids_count(const struct cs_svids *s);

#endif
