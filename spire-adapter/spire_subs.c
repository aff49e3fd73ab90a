#include "spire_subs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

enum state { QUEUED, WAITING, OPEN, RESTING };

/* Why an identity has no SVID, as far as it was said. */
enum cause {
	UNSAID,
	SAID_AWAY,
	SAID_REFUSED,
	SAID_SILENT,
	SAID_FAILED,
	SAID_NOTHING,
	SAID_OTHERS,
	SAID_EXPIRED,
	SAID_EARLY,
	SAID_BAD
};

struct sub {
	uint32_t identity;
	char *spiffe_id;
	enum state state;
	bool own;
	int64_t opened_ms; /* WAITING: since */
	int64_t due_ms;    /* RESTING: until; WAITING: the watchdog's time */
	unsigned failures; /* calls that ended badly, in a row */
	bool have;         /* an SVID was delivered, and not withdrawn since */
	uint8_t leaf_sha256[32];
	int64_t gone_ms; /* since when the set lacks it; INT64_MAX: it does not */
	struct cs_error gone_why;
	enum cause said;
	struct sub *prev, *next; /* in the queue */
	UT_hash_handle hh;
};

struct cs_spire_subs {
	struct cs_spire_subs_io io;
	struct cs_spire_subs_times times;
	struct sub *subs, *queue;
	size_t nqueued, nwaiting, nopen;
	bool connected;
	bool probing;       /* a few calls at a time, until one is answered */
	enum cause trouble; /* UNSAID, AWAY, REFUSED or SILENT, and why */
	struct cs_error why;
	bool told_any; /* io.agent was told something, and that was told */
	enum cause told;
	bool retell;         /* ... also those that were told of another trouble of this kind */
	bool untold;         /* a start or a trouble that run has to tell identities about */
	unsigned refusals;   /* in a row */
	int64_t pause_ms;    /* no call before; refused */
	int64_t answered_ms; /* the last message of any */
	int64_t next_ms;     /* when something of a sub is due */
};

static struct sub *find(const struct cs_spire_subs *s, uint32_t identity)
{
	struct sub *sub;
	HASH_FIND(hh, s->subs, &identity, sizeof(identity), sub);
	return sub;
}

/* ---- states ---- */

static size_t *counter(struct cs_spire_subs *s, enum state state)
{
	return state == WAITING ? &s->nwaiting : state == OPEN ? &s->nopen : &s->nqueued;
}

static void leave(struct cs_spire_subs *s, struct sub *sub)
{
	if (sub->own)
		return;
	--*counter(s, sub->state);
	if (sub->state == QUEUED)
		DL_DELETE(s->queue, sub);
}

static void enter(struct cs_spire_subs *s, struct sub *sub, enum state state)
{
	sub->state = state;
	if (sub->own)
		return;
	++*counter(s, state);
	if (state == QUEUED)
		DL_APPEND(s->queue, sub);
}

static void move(struct cs_spire_subs *s, struct sub *sub, enum state state)
{
	leave(s, sub);
	enter(s, sub, state);
}

static void due(struct cs_spire_subs *s, int64_t at_ms)
{
	if (at_ms < s->next_ms)
		s->next_ms = at_ms;
}

static int64_t backoff_ms(struct cs_spire_subs *s, unsigned failures)
{
	int64_t ms = CS_SPIRE_RETRY_MIN_MS;
	while (--failures > 0 && ms < CS_SPIRE_RETRY_MAX_MS)
		ms *= 2;
	if (ms > CS_SPIRE_RETRY_MAX_MS)
		ms = CS_SPIRE_RETRY_MAX_MS;
	return (int64_t)((double)ms * (0.8 + 0.4 * s->io.random(s->io.data)));
}

/* A message alone is no success: an agent that ends each call after its first would be called without a rest. */
static void rest(struct cs_spire_subs *s, struct sub *sub, int64_t now_ms)
{
	if (sub->state == OPEN && now_ms - sub->opened_ms > CS_SPIRE_RETRY_MAX_MS)
		sub->failures = 0;
	move(s, sub, RESTING);
	sub->due_ms = now_ms + backoff_ms(s, ++sub->failures);
	due(s, sub->due_ms);
}

/* ---- what is said ---- */

/* Once per cause; who has an SVID keeps it, whatever is wrong, until it is withdrawn or expires. */
static void say_none(struct cs_spire_subs *s, struct sub *sub, enum cause cause, const struct cs_error *why)
{
	if (sub->have || sub->said == cause)
		return;
	sub->said = cause;
	s->io.none(s->io.data, sub->identity, false, why);
}

static void set_trouble(struct cs_spire_subs *s, enum cause trouble, const struct cs_error *why)
{
	/* "No identity issued" and "not a delegate" are two states: who mends one shall read of the other. */
	bool other = trouble == SAID_REFUSED && s->trouble == trouble && strcmp(s->why.text, why->text) != 0;
	s->trouble = trouble;
	if (why) {
		s->why = *why;
		s->untold = true;
		s->retell |= other;
	}
	if (s->told_any && s->told == trouble && !other)
		return;
	s->told_any = true;
	s->told = trouble;
	s->io.agent(s->io.data, why);
}

/* ---- start and stop ---- */

struct cs_spire_subs *cs_spire_subs_new(const struct cs_spire_subs_io *io, const struct cs_spire_subs_times *times)
{
	struct cs_spire_subs *s = calloc(1, sizeof(*s));
	if (s) {
		s->io = *io;
		s->times = *times;
		s->next_ms = INT64_MAX;
		s->answered_ms = INT64_MIN;
	}
	return s;
}

static void sub_free(struct cs_spire_subs *s, struct sub *sub)
{
	leave(s, sub);
	HASH_DEL(s->subs, sub);
	free(sub->spiffe_id);
	free(sub);
}

void cs_spire_subs_free(struct cs_spire_subs *s)
{
	struct sub *sub, *next;
	if (!s)
		return;
	HASH_ITER (hh, s->subs, sub, next)
		sub_free(s, sub);
	free(s);
}

int cs_spire_subs_start(struct cs_spire_subs *s, uint32_t identity, const char *spiffe_id, bool own, struct cs_error *e)
{
	struct sub *sub = calloc(1, sizeof(*sub));
	if (!sub || !(sub->spiffe_id = strdup(spiffe_id))) {
		free(sub);
		return cs_error_set(e, -ENOMEM, "out of memory");
	}
	sub->identity = identity;
	sub->own = own;
	sub->gone_ms = INT64_MAX;
	HASH_ADD(hh, s->subs, identity, sizeof(sub->identity), sub);
	enter(s, sub, own ? OPEN : QUEUED);
	s->untold = true;
	return 0;
}

void cs_spire_subs_stop(struct cs_spire_subs *s, uint32_t identity)
{
	struct sub *sub = find(s, identity);
	if (!sub)
		return;
	if (!sub->own && (sub->state == WAITING || sub->state == OPEN))
		s->io.cancel(s->io.data, identity);
	sub_free(s, sub);
}

const char *cs_spire_subs_spiffe_id(const struct cs_spire_subs *s, uint32_t identity)
{
	const struct sub *sub = find(s, identity);
	return sub ? sub->spiffe_id : NULL;
}

/* ---- what happens ---- */

void cs_spire_subs_connected(struct cs_spire_subs *s)
{
	s->connected = true;
}

void cs_spire_subs_disconnected(struct cs_spire_subs *s, const struct cs_error *why)
{
	s->connected = false;
	if (why)
		set_trouble(s, SAID_AWAY, why);
}

void cs_spire_subs_answered(struct cs_spire_subs *s, int64_t now_mono_ms)
{
	s->answered_ms = now_mono_ms;
	s->refusals = 0;
	s->pause_ms = 0;
	s->probing = false;
	set_trouble(s, UNSAID, NULL);
}

void cs_spire_subs_refused(struct cs_spire_subs *s, const struct cs_error *why, int64_t now_mono_ms)
{
	if (now_mono_ms >= s->pause_ms) /* those that were under way together are one refusal */
		s->pause_ms = now_mono_ms + backoff_ms(s, ++s->refusals);
	s->probing = true;
	set_trouble(s, SAID_REFUSED, why);
}

/* The set lacks it: it is gone when that has lasted. */
static void lacks(
	struct cs_spire_subs *s, struct sub *sub, enum cause cause, const struct cs_error *why, int64_t now_ms)
{
	if (!sub->have) {
		say_none(s, sub, cause, why);
		return;
	}
	if (sub->gone_ms == INT64_MAX)
		sub->gone_ms = now_ms;
	sub->gone_why = *why;
	due(s, sub->gone_ms + s->times.quiet_ms);
}

static bool knows(const struct sub *sub, const uint8_t leaf_sha256[32])
{
	return sub->have && memcmp(sub->leaf_sha256, leaf_sha256, sizeof(sub->leaf_sha256)) == 0;
}

bool cs_spire_subs_knows(const struct cs_spire_subs *s, uint32_t identity, const uint8_t leaf_sha256[32])
{
	const struct sub *sub = find(s, identity);
	return sub && knows(sub, leaf_sha256);
}

static void unusable(struct cs_spire_subs *s, struct sub *sub, const struct cs_spire_seen *seen, int64_t now_ms)
{
	static const enum cause causes[] = {[CS_SPIRE_SEEN_EXPIRED] = SAID_EXPIRED,
		[CS_SPIRE_SEEN_EARLY] = SAID_EARLY,
		[CS_SPIRE_SEEN_BAD] = SAID_BAD};
	say_none(s, sub, causes[seen->what], &seen->why);
	if (seen->what == CS_SPIRE_SEEN_EARLY && !sub->own) {
		s->io.cancel(s->io.data, sub->identity);
		rest(s, sub, now_ms);
	}
}

bool cs_spire_subs_seen(
	struct cs_spire_subs *s, uint32_t identity, const struct cs_spire_seen *seen, int64_t now_mono_ms)
{
	struct sub *sub = find(s, identity);
	if (!sub)
		return false;
	if (!sub->own) {
		cs_spire_subs_answered(s, now_mono_ms);
		if (sub->state == WAITING)
			move(s, sub, OPEN);
	}
	if (seen->what == CS_SPIRE_SEEN_NOTHING || seen->what == CS_SPIRE_SEEN_OTHERS) {
		lacks(s, sub, seen->what == CS_SPIRE_SEEN_NOTHING ? SAID_NOTHING : SAID_OTHERS, &seen->why,
			now_mono_ms);
		return false;
	}
	sub->gone_ms = INT64_MAX;
	if (seen->what != CS_SPIRE_SEEN_SVID) {
		unusable(s, sub, seen, now_mono_ms);
		return false;
	}
	if (knows(sub, seen->leaf_sha256))
		return false;
	memcpy(sub->leaf_sha256, seen->leaf_sha256, sizeof(sub->leaf_sha256));
	sub->have = true;
	sub->said = UNSAID;
	return true;
}

void cs_spire_subs_ended(struct cs_spire_subs *s, uint32_t identity, enum cs_spire_end how, const struct cs_error *why,
	int64_t now_mono_ms)
{
	struct sub *sub = find(s, identity);
	if (!sub || sub->own)
		return;
	switch (how) {
	case CS_SPIRE_END_LOST:
		move(s, sub, QUEUED);
		break;
	case CS_SPIRE_END_REFUSED:
		if (sub->state == OPEN)
			rest(s, sub, now_mono_ms);
		else
			move(s, sub, QUEUED);
		cs_spire_subs_refused(s, why, now_mono_ms);
		break;
	case CS_SPIRE_END_OTHER:
		rest(s, sub, now_mono_ms);
		say_none(s, sub, SAID_FAILED, why);
		break;
	}
}

/* ---- what is due ---- */

static void watchdog(struct cs_spire_subs *s, struct sub *sub, int64_t now_ms)
{
	struct cs_error e;
	cs_error_reason(&e, -ETIMEDOUT, CS_R_NO_LOCAL_SVID,
		"SPIRE's agent has said nothing about it for %lld s; it is asked again",
		(long long)s->times.watchdog_ms / 1000);
	s->io.cancel(s->io.data, sub->identity);
	bool all = s->answered_ms < sub->opened_ms;
	rest(s, sub, now_ms);
	say_none(s, sub, SAID_SILENT, &e);
	if (!all)
		return;
	cs_error_reason(&e, -ETIMEDOUT, CS_R_NO_LOCAL_SVID, "SPIRE's agent answers no call; if that lasts, restart it");
	s->probing = true;
	set_trouble(s, SAID_SILENT, &e);
	if (s->nopen == 0)
		s->io.stuck(s->io.data);
}

static void sub_due(struct cs_spire_subs *s, struct sub *sub, int64_t now_ms)
{
	if (sub->gone_ms != INT64_MAX) {
		if (now_ms < sub->gone_ms + s->times.quiet_ms) {
			due(s, sub->gone_ms + s->times.quiet_ms);
		} else {
			sub->gone_ms = INT64_MAX;
			sub->have = false;
			sub->said = SAID_NOTHING;
			s->io.none(s->io.data, sub->identity, true, &sub->gone_why);
		}
	}
	if (sub->own || (sub->state != WAITING && sub->state != RESTING))
		return;
	if (now_ms < sub->due_ms)
		due(s, sub->due_ms);
	else if (sub->state == WAITING)
		watchdog(s, sub, now_ms);
	else
		move(s, sub, QUEUED);
}

static void open_queued(struct cs_spire_subs *s, int64_t now_ms)
{
	while (s->connected && s->queue && s->nwaiting < (s->probing ? CS_SPIRE_PROBES : CS_SPIRE_WAITING_MAX) &&
		now_ms >= s->pause_ms) {
		struct sub *sub = s->queue;
		struct cs_error e;
		if (s->io.open(s->io.data, sub->identity, &e) < 0) {
			rest(s, sub, now_ms);
			say_none(s, sub, SAID_FAILED, &e);
			continue;
		}
		move(s, sub, WAITING);
		sub->opened_ms = now_ms;
		sub->due_ms = now_ms + s->times.watchdog_ms;
		due(s, sub->due_ms);
	}
	if (s->connected && s->queue && now_ms < s->pause_ms)
		due(s, s->pause_ms);
}

int64_t cs_spire_subs_run(struct cs_spire_subs *s, int64_t now_mono_ms)
{
	struct sub *sub, *next;
	if (now_mono_ms >= s->next_ms) {
		s->next_ms = INT64_MAX;
		HASH_ITER (hh, s->subs, sub, next)
			sub_due(s, sub, now_mono_ms);
	}
	if (s->untold) {
		s->untold = false;
		HASH_ITER (hh, s->subs, sub, next) {
			if (s->trouble == UNSAID || sub->own)
				continue;
			if (s->retell && sub->said == s->trouble)
				sub->said = UNSAID;
			say_none(s, sub, s->trouble, &s->why);
		}
		s->retell = false;
	}
	open_queued(s, now_mono_ms);
	return s->next_ms;
}

struct cs_spire_subs_count cs_spire_subs_count(const struct cs_spire_subs *s)
{
	return (struct cs_spire_subs_count){.queued = s->nqueued, .waiting = s->nwaiting, .open = s->nopen};
}
