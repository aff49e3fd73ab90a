/* The entries of cs_auth and what they rest on: written after a verdict, lengthened, looked at again whenever something
 * changed that they rest on, deleted. All of it through the maps; nothing else writes them. */
#ifndef CS_ENTRIES_H
#define CS_ENTRIES_H

#include "authd.h"

/* What a verdict allows: basis, then entry; what is held is sent. The first one writes, a later one only lengthens. */
CS_MUST_USE int cs_entries_write(struct cs_authd *a, const struct cs_allowed *allowed, struct cs_error *e);
/* The entry, if there is one, and then its basis; what is held for the pair is dropped. */
void cs_entries_delete(struct cs_authd *a, struct cs_pair *pair, enum cs_event_kind kind, enum cs_reason reason);
/* An event about a pair, with what is known of it. */
void cs_entries_event(struct cs_authd *a, const struct cs_pair *pair, enum cs_event_kind kind, enum cs_reason reason);

/* struct cs_apply's: pairs that a revision touched. */
void cs_entries_changed(void *authd, bool before);
/* SVIDs or bundles have changed: all. */
void cs_entries_recheck(struct cs_authd *a);
/* All have spoken: what was adopted and still stands is as good as what is new. */
void cs_entries_trust(struct cs_authd *a);
/* This identity's SVID is another one: renew what rests on the old one, and forget refusals for want of it. */
void cs_entries_svid(struct cs_authd *a, uint32_t identity);
/* Every second. */
void cs_entries_tick(struct cs_authd *a);
/* A clock has jumped: derive every expiry anew. */
void cs_entries_rederive(struct cs_authd *a);
/* All of them go. */
void cs_entries_clear(struct cs_authd *a, enum cs_reason reason);

/* At start: what an earlier life left. An entry without a basis, of an unknown node or of another type goes; the others
 * live, and are looked at once the directory has spoken, and again when SVIDs and bundles have. */
CS_MUST_USE int cs_entries_adopt(struct cs_authd *a, struct cs_error *e);

#endif
