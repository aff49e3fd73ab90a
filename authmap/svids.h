/* The SVIDs of local identities and the trust bundles, as spire-adapter says. Chains are bytes here: authd parses no
 * certificate. Pure. */
#ifndef CS_SVIDS_H
#define CS_SVIDS_H

#include <countersign/leaf.h>
#include <countersign/v1/svids.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"

#define CS_SVIDS_MAX   65536 /* identities */
#define CS_BUNDLES_MAX 1024  /* trust domains */

struct cs_svids;
struct cs_svid_callbacks {
	/* Something about this identity's SVID, or this trust domain's bundle, has changed. */
	void (*on_svid)(void *data, uint32_t identity);
	void (*on_bundle)(void *data, const char *trust_domain);
	/* The full state is here, for the first time on this connection. */
	void (*on_synced)(void *data);
	void *data;
};
struct cs_svids *cs_svids_new(const struct cs_svid_callbacks *callbacks);
void cs_svids_free(struct cs_svids *s);

/* A new stream begins: what it does not name until `synced` is absent from then on. */
void cs_svids_begin(struct cs_svids *s);
/* -EBADMSG: what no adapter should send; nothing of it is taken. -ENOSPC: beyond the limits. */
CS_MUST_USE int cs_svids_batch(struct cs_svids *s, const Countersign__V1__SvidBatch *batch, struct cs_error *e);
/* There was a full state, on this connection or an earlier one. */
bool cs_svids_ready(const struct cs_svids *s);

/* list: certificates as the handshaker takes them, each u32 length and DER; borrowed until the next batch. */
struct cs_svid {
	uint32_t identity;
	uint64_t generation; /* 0: none now */
	bool withdrawn;      /* taken away for good: entries that rest on it go */
	int64_t not_after_unix_s;
	const char *spiffe_id;
	enum cs_reason reason;
	const uint8_t *list;
	size_t list_len;
};
struct cs_trust {
	const char *trust_domain;
	uint64_t generation; /* 0: withdrawn, or absent: nothing new begins */
	const uint8_t *list;
	size_t list_len;
};
/* False: never heard of. */
bool cs_svids_find(const struct cs_svids *s, uint32_t identity, struct cs_svid *ret);
bool cs_svids_bundle(const struct cs_svids *s, const char *trust_domain, size_t len, struct cs_trust *ret);
void cs_svids_each_bundle(const struct cs_svids *s, void (*fn)(const struct cs_trust *bundle, void *data), void *data);

/* May an entry with this leaf, of this trust domain, still stand? False: the bundle is withdrawn, its root is not in it
 * any more, or the authority is tainted. True as well while that domain's bundle is absent: that deletes nothing. */
bool cs_svids_root_stands(const struct cs_svids *s, const char *trust_domain, size_t len, const struct cs_leaf *leaf);

#endif
