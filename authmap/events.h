/* What happened to pairs: a ring of the last ones, from which each reader takes at its own pace. A hole in seq means that a
 * reader was too slow. Also the audit log: every event is one line. */
#ifndef CS_EVENTS_H
#define CS_EVENTS_H

#include <countersign/maps.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"

#define CS_EVENTS_KEPT 4096

enum cs_event_kind {
	CS_EVENT_AUTHENTICATED,
	CS_EVENT_REFUSED,
	CS_EVENT_EXPIRED,
	CS_EVENT_DELETED,
	CS_EVENT_DROPPED, /* datapath */
	CS_EVENT_STATE,   /* the daemon's own: reason only */
};
const char *cs_event_kind_name(enum cs_event_kind kind);

/* Fixed size: names that may be gone when it is read are copied. */
struct cs_event {
	uint64_t seq;      /* of all; both are set by cs_events_add */
	uint64_t pair_seq; /* of all but CS_EVENT_DROPPED, for readers who leave those out: no false holes */
	int64_t at_unix_ms;
	enum cs_event_kind kind;
	struct cs_auth_key key; /* 0: none */
	char node[64];          /* cut */
	enum cs_reason reason;
	uint8_t role; /* enum cs_hs_role; 0: none */
	int64_t not_after_unix_s, until_unix_ms;
	/* dropped */
	char interface[16];
	uint64_t packets;
	bool would;
	uint8_t dir; /* enum cs_dir */
	uint8_t family;
	uint8_t addr[16];
	char policy[96]; /* "name rule", cut */
};

struct cs_events;
/* on_added: readers have something to read. */
struct cs_events *cs_events_new(void (*on_added)(void *data), void *data);
void cs_events_free(struct cs_events *e);
void cs_events_add(struct cs_events *e, const struct cs_event *event);
/* The first event from *seq on, and *seq moves behind it; NULL: none yet. Start with cs_events_next_seq(). Borrowed until
 * the next add. */
const struct cs_event *cs_events_read(const struct cs_events *e, uint64_t *seq);
uint64_t cs_events_next_seq(const struct cs_events *e);
/* pair_seq of the last event that has one; 0: none yet. */
uint64_t cs_events_pair_seq(const struct cs_events *e);

#endif
