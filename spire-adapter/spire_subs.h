/* The subscriptions to SPIRE's Delegated Identity API, one per local identity, as a state machine: no sockets, no clock, no
 * crypto. Who owns it makes the calls, tells what came of them and when, and asks what to do next.
 *
 * What SPIRE's agent was seen to do, and what that makes necessary:
 * - Several hundred calls that wait for their first message at once wedge it for good: CS_SPIRE_WAITING_MAX.
 * - A first message may take its time (until an SVID is signed) or never come: a watchdog, no deadline.
 * - A set without an identity may be followed, milliseconds or (taint) a second later, by one with it: a withdrawal counts
 *   only after a quiet time, counted from the first set that lacks it.
 * - Sets are repeated, and an SVID may be handed out that has expired: neither is an event.
 * - That the agent refuses us is about us and not about an identity: a few calls probe, the others wait. */
#ifndef CS_SPIRE_SUBS_H
#define CS_SPIRE_SUBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"

#define CS_SPIRE_WAITING_MAX  60 /* calls that wait for their first message; bundles and the Workload API make it 64 */
#define CS_SPIRE_PROBES       4  /* ... after a refusal or a silence; more than one: an entry may be at fault */
#define CS_SPIRE_RETRY_MIN_MS 1000  /* after a call that ended; doubled each time, each with 20 % of jitter */
#define CS_SPIRE_RETRY_MAX_MS 30000 /* a delegate's new entry shall not wait for long */

/* What a message says about the one identity that the subscription is for. */
enum cs_spire_seen_what {
	CS_SPIRE_SEEN_NOTHING, /* the set is empty: no entry matches */
	CS_SPIRE_SEEN_OTHERS,  /* what matches has other SPIFFE IDs; why names one */
	CS_SPIRE_SEEN_EXPIRED, /* it is there, but its time is over */
	CS_SPIRE_SEEN_EARLY, /* it is there, and valid later: the clocks differ. No message will say when; it is asked again */
	CS_SPIRE_SEEN_BAD, /* it is there and cannot be used; why says so */
	CS_SPIRE_SEEN_SVID,
};
struct cs_spire_seen {
	enum cs_spire_seen_what what;
	uint8_t leaf_sha256[32]; /* SVID */
	struct cs_error why;     /* all but SVID; may carry a reason */
};

/* How a call ended. */
enum cs_spire_end {
	CS_SPIRE_END_LOST,    /* with its connection: nothing is wrong with it */
	CS_SPIRE_END_REFUSED, /* the agent refuses us, or cannot tell who we are */
	CS_SPIRE_END_OTHER,   /* this one call */
};

struct cs_spire_subs_io {
	/* Begin the call of this identity. An error counts as END_OTHER. */
	int (*open)(void *data, uint32_t identity, struct cs_error *e);
	/* End it; nothing is said about it any more. */
	void (*cancel)(void *data, uint32_t identity);
	/* As in cs_source_events. */
	void (*none)(void *data, uint32_t identity, bool withdrawn, const struct cs_error *why);
	/* The agent answers (NULL), is away, refuses us, or is silent: at changes from one to another only. */
	void (*agent)(void *data, const struct cs_error *why);
	/* No call is answered, and none is open: a new connection costs nothing and may help. */
	void (*stuck)(void *data);
	/* 0 to 1, for jitter. */
	double (*random)(void *data);
	void *data;
};
struct cs_spire_subs_times {
	int64_t quiet_ms, watchdog_ms;
};

struct cs_spire_subs;

struct cs_spire_subs *cs_spire_subs_new(const struct cs_spire_subs_io *io, const struct cs_spire_subs_times *times);
void cs_spire_subs_free(struct cs_spire_subs *s);

/* spiffe_id is copied. own: it has no call here; what is known of it comes by another way (the Workload API). These two
 * call nothing back but cancel. */
CS_MUST_USE int cs_spire_subs_start(
	struct cs_spire_subs *s, uint32_t identity, const char *spiffe_id, bool own, struct cs_error *e);
void cs_spire_subs_stop(struct cs_spire_subs *s, uint32_t identity);
/* NULL: it is not started. Borrowed. */
const char *cs_spire_subs_spiffe_id(const struct cs_spire_subs *s, uint32_t identity);

/* Calls can be made, or cannot. why NULL: for a moment, as far as is known; nothing is said. */
void cs_spire_subs_connected(struct cs_spire_subs *s);
void cs_spire_subs_disconnected(struct cs_spire_subs *s, const struct cs_error *why);
/* Another call of the same API (bundles) was answered, or refused as by END_REFUSED. */
void cs_spire_subs_answered(struct cs_spire_subs *s, int64_t now_mono_ms);
void cs_spire_subs_refused(struct cs_spire_subs *s, const struct cs_error *why, int64_t now_mono_ms);
/* Was this SVID delivered already? Then its key need not be looked at. */
bool cs_spire_subs_knows(const struct cs_spire_subs *s, uint32_t identity, const uint8_t leaf_sha256[32]);
/* A message. True: this SVID is new; deliver it. EARLY ends the call (io.cancel). */
bool cs_spire_subs_seen(
	struct cs_spire_subs *s, uint32_t identity, const struct cs_spire_seen *seen, int64_t now_mono_ms);
/* The call is over. */
void cs_spire_subs_ended(struct cs_spire_subs *s, uint32_t identity, enum cs_spire_end how, const struct cs_error *why,
	int64_t now_mono_ms);
/* Does what is due, and returns when to call it again (INT64_MAX: not before something happens). Call it after each of
 * the above too. */
int64_t cs_spire_subs_run(struct cs_spire_subs *s, int64_t now_mono_ms);

/* For metrics: those without a call, those that wait for a first message, those that run. */
struct cs_spire_subs_count {
	size_t queued, waiting, open;
};
struct cs_spire_subs_count cs_spire_subs_count(const struct cs_spire_subs *s);

#endif
