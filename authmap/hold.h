/* Held packets: from the rings of the datapath, through a queue per pair, back to the interface in order.
 *
 * A packet that meets no entry is copied to cs_held and dropped by the datapath. It waits here for the verdict and is then
 * sent again where it was taken: at CS_FROM through a helper veth whose program redirects it to the ingress of the
 * interface, at CS_TO through a packet socket on the interface. It meets the check again, tagged CS_MARK_REINJECTED.
 *
 * Nothing here looks into a frame. Bounds: the budgets of maps.h (per pair, per interface and hook), hold.max_bytes over
 * all, and 1 s per packet. Everything but yes drops the pair's queue. Callbacks come from the loop, never from inside a
 * call of this header. */
#ifndef CS_HOLD_H
#define CS_HOLD_H

#include "datapath.h"
#include "loop.h"

#define CS_HOLD_MS 1000 /* a held packet's life */

struct cs_hold_config {
	const char *instance; /* names the helper devices; copied */
	size_t max_bytes;     /* frames in all queues; 16 MiB */
};

struct cs_hold_callbacks {
	/* A pair has no live entry and packets that want one: answer with release, refuse or forget. Comes again for a pair
	 * that is still unanswered after CS_ASKING_NS, and after each backoff. held: its packet waits here. */
	void (*on_miss)(void *data, const struct cs_auth_key *key, uint32_t ifindex, enum cs_dir dir, bool held);
	/* A packet was dropped by the datapath, or would have been (audit): at most one per key and minute. May be NULL. */
	void (*on_drop)(void *data, const struct cs_drop *drop);
	void *data;
};

struct cs_hold;

/* Makes the helper devices (a leftover of an earlier life is replaced), empties cs_held and cs_pending, and reads the
 * rings from the loop. loop, dp and callbacks' data are borrowed. NULL: see e. */
struct cs_hold *cs_hold_new(struct cs_loop *loop, struct cs_datapath *dp, const struct cs_hold_config *config,
	const struct cs_hold_callbacks *callbacks, struct cs_error *e);
/* Drops everything (CS_R_DAEMON_DOWN), removes the helper devices. Memory is freed when the loop has closed the handles.
 * NULL is fine. */
void cs_hold_close(struct cs_hold *hold);

/* Yes: writes the entry (value as in cs_auth, without CS_AUTH_FLUSHING; the basis is already there) and sends what is held,
 * before any packet that came later. Also right for a pair that nobody asked for, and to lengthen an entry. */
CS_MUST_USE int cs_hold_release(
	struct cs_hold *hold, const struct cs_auth_key *key, uint64_t value, struct cs_error *e);
/* No: drops what is held and has the datapath drop without asking for the backoff (100 ms, doubling while refusals follow
 * each other, at most max_ms). Returns the backoff in ms. */
#define CS_BACKOFF_MAX_MS 30000
/* The peer does not speak for the identity yet: its SVID, or the endpoint, is on its way, and who has been waiting shall not
 * wait for much longer than that. Its no costs neither side a signature. */
#define CS_BACKOFF_SOON_MS 500
int64_t cs_hold_refuse(struct cs_hold *hold, const struct cs_auth_key *key, enum cs_reason reason, int64_t max_ms);
/* The question is void (entry removed, policy changed): drops what is held; the next packet asks anew. */
void cs_hold_forget(struct cs_hold *hold, const struct cs_auth_key *key, enum cs_reason reason);
/* The endpoint is gone, or has changed hands: drops what came from or for this interface. */
void cs_hold_forget_interface(struct cs_hold *hold, uint32_t ifindex, enum cs_reason reason);

/* Has a pair something that nobody was told of yet, or that is held? */
bool cs_hold_waits(const struct cs_hold *hold, const struct cs_auth_key *key);
/* Packets of a pair that wait here. */
uint32_t cs_hold_packets(const struct cs_hold *hold, const struct cs_auth_key *key);

struct cs_hold_stats {
	uint64_t held, released, signals;
	uint64_t send_failed;            /* the kernel did not take a released packet */
	uint64_t malformed;              /* records that break the form of maps.h */
	uint64_t dropped[CS_REASON_MAX]; /* by reason; CS_R_HELD_TOO_LONG: after CS_HOLD_MS */
	size_t packets, bytes, pairs;    /* now */
};
const struct cs_hold_stats *cs_hold_stats(const struct cs_hold *hold);

/* The parser of ring records, for its fuzz target too: 0 and *frame of head->caplen bytes (borrowed, NULL if none), or
 * -EBADMSG. ret_head is a copy: the ring is shared with the kernel. */
CS_MUST_USE int cs_hold_parse(const void *record, size_t size, struct cs_held *ret_head, const uint8_t **ret_frame);

#endif
