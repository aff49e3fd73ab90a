#include "authenticate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>
#include "authd_metrics.h"
#include "entries.h"
#include "log.h"

#define ALERT_UNRECOGNIZED_NAME                                                                                        \
	112 /* RFC 6066 3: what an acceptor says without an SVID, or an endpoint, of the identity */
#define ALERT_CERTIFICATE_UNKNOWN 46 /* RFC 8446 6.2: its directory does not place our identity here, or not yet */

struct attempt {
	uint64_t request;
	struct cs_authd *a;
	struct cs_ask ask;
	struct cs_auth_key key; /* of an accept: with node alone, until the verdict */
	int64_t deadline_mono_ms;
	struct cs_dial *dial; /* connecting */
	int handshaker;       /* -1: not handed over */
	int not_again;        /* the handshaker that died with it; -1 */
	bool judged, cancelled;
	uint32_t alert; /* by which the peer refused us; 0 */
	enum cs_reason answer;
	UT_hash_handle hh;
};

static void begin(struct cs_authd *a, struct cs_pair *pair, int not_again);
static void refuse_pair(struct cs_authd *a, struct cs_pair *pair, enum cs_reason reason);

/* ---- attempts ---- */

static struct attempt *attempt_new(struct cs_authd *a, enum cs_hs_role role, const struct cs_auth_key *key)
{
	struct attempt *t = calloc(1, sizeof(*t));
	if (!t)
		abort();
	*t = (struct attempt){.request = ++a->next_request,
		.a = a,
		.key = *key,
		.ask = {.role = role, .local = key->local, .remote = key->remote, .node = key->node},
		.deadline_mono_ms = cs_loop_mono_ms(a->loop) + CS_HANDSHAKE_MS,
		.handshaker = -1,
		.not_again = -1};
	HASH_ADD(hh, a->attempts, request, sizeof(t->request), t);
	if (role != CS_HS_ACCEPTOR)
		cs_shares_take(&a->shares, key->local);
	return t;
}

static struct attempt *attempt_find(struct cs_authd *a, uint64_t request)
{
	struct attempt *t;
	HASH_FIND(hh, a->attempts, &request, sizeof(request), t);
	return t;
}

static struct cs_auth_key mirrored(const struct cs_auth_key *key)
{
	return (struct cs_auth_key){.local = key->remote, .remote = key->local, .node = key->node, .type = key->type};
}

/* The pairs that this attempt is for: one, or both of a pair on one node. */
static size_t pairs_of(const struct attempt *t, struct cs_pair *pairs[2])
{
	struct cs_auth_key keys[2] = {t->key, mirrored(&t->key)};
	size_t n = 0;
	if (t->ask.role == CS_HS_ACCEPTOR)
		return 0;
	bool both = t->ask.role == CS_HS_LOOPBACK && t->key.local != t->key.remote;
	for (int i = 0; i < (both ? 2 : 1); i++) {
		struct cs_pair *pair = cs_pairs_find(t->a->pairs, &keys[i]);
		if (pair && pair->attempt == t->request)
			pairs[n++] = pair;
	}
	return n;
}

static void attempt_free(struct attempt *t)
{
	struct cs_pair *pairs[2];
	for (size_t i = pairs_of(t, pairs); i > 0; i--)
		pairs[i - 1]->attempt = 0;
	if (t->dial)
		cs_dial_cancel(t->dial);
	if (t->ask.role == CS_HS_ACCEPTOR)
		cs_admission_done(t->a->admission, t->ask.node);
	else
		cs_shares_give(&t->a->shares, t->ask.local);
	HASH_DEL(t->a->attempts, t);
	free(t);
}

size_t cs_authenticate_in_flight(const struct cs_authd *a)
{
	return HASH_COUNT(a->attempts);
}

/* ---- those that wait for a place ---- */

static size_t dials_max(const struct cs_authd *a)
{
	return (size_t)cs_handshakers_ready_count(a->handshakers) * CS_DIALS_PER_HANDSHAKER;
}

static bool has_place(const struct cs_authd *a)
{
	size_t dials = HASH_COUNT(a->attempts) - cs_admission_in_flight(a->admission);
	return dials < dials_max(a) && cs_handshakers_pick(a->handshakers, -1) >= 0;
}

static bool wait_for_place(struct cs_authd *a, struct cs_pair *pair, int64_t not_before_mono_ms)
{
	if (a->nwaiting >= CS_WAITING_MAX)
		return false;
	pair->waiting = true;
	pair->not_before_mono_ms = not_before_mono_ms;
	DL_APPEND2(a->waiting, pair, wait_prev, wait_next);
	a->nwaiting++;
	return true;
}

static void stop_waiting(struct cs_authd *a, struct cs_pair *pair)
{
	if (!pair->waiting)
		return;
	pair->waiting = false;
	DL_DELETE2(a->waiting, pair, wait_prev, wait_next);
	a->nwaiting--;
}

/* Nobody has time for it: a question does not wait longer than its answer may take. */
static void give_up_waiting(struct cs_authd *a, int64_t now)
{
	struct cs_pair *pair, *next;
	DL_FOREACH_SAFE2 (a->waiting, pair, next, wait_next) {
		if (now - pair->asked_mono_ms < CS_HANDSHAKE_MS)
			continue;
		stop_waiting(a, pair);
		refuse_pair(a, pair, cs_handshakers_ready_count(a->handshakers) ? CS_R_TOO_MANY : CS_R_HANDSHAKER_DIED);
	}
}

void cs_authenticate_pump(struct cs_authd *a)
{
	int64_t now = cs_loop_mono_ms(a->loop);
	struct cs_pair *pair, *next;
	if (a->pumping) /* one that began has ended at once, and its end calls here */
		return;
	a->pumping = true;
	give_up_waiting(a, now);
	DL_FOREACH_SAFE2 (a->waiting, pair, next, wait_next) {
		if (!has_place(a))
			break;
		if (pair->not_before_mono_ms > now ||
			cs_shares_of(a->shares, pair->key.local) >= dials_max(a) / CS_DIALS_SHARE)
			continue;
		stop_waiting(a, pair);
		begin(a, pair, -1);
		if (next && !next->waiting) /* it was the mirror of the one that began */
			break;
	}
	a->pumping = false;
}

void cs_authenticate_hurry(struct cs_authd *a)
{
	struct cs_pair *pair;
	DL_FOREACH2 (a->waiting, pair, wait_next)
		pair->not_before_mono_ms = 0;
	cs_authenticate_pump(a);
}

/* ---- no ---- */

static void refuse_pair_until(struct cs_authd *a, struct cs_pair *pair, enum cs_reason reason, int64_t max_ms)
{
	struct cs_instant now = cs_authd_now(a);
	if (pair->live) { /* what another verdict wrote stays */
		cs_pair_renewal_failed(pair, &now);
		cs_entries_event(a, pair, CS_EVENT_REFUSED, reason);
		return;
	}
	int64_t backoff_ms = cs_hold_refuse(a->hold, &pair->key, reason, max_ms);
	bool news = pair->refused != reason;
	cs_pair_set_refused(pair, reason, backoff_ms, &now);
	if (news)
		cs_entries_event(a, pair, CS_EVENT_REFUSED, reason);
}

static void refuse_pair(struct cs_authd *a, struct cs_pair *pair, enum cs_reason reason)
{
	refuse_pair_until(a, pair, reason, CS_BACKOFF_MAX_MS);
}

/* Worth another attempt while the packet is held? The world moved on, the peer hears of it a moment later than we do, or
 * the signer's keys are newer than our view. */
static bool again(const struct cs_authd *a, const struct cs_pair *pair, enum cs_reason reason, uint32_t alert)
{
	struct cs_svid svid;
	if (pair->tries >= CS_TRIES_MAX)
		return false;
	if (alert == ALERT_CERTIFICATE_UNKNOWN) /* once: who refuses for good is not asked four times as often */
		return pair->refused == CS_R_NONE;
	if (reason == CS_R_STALE_VERDICT)
		return true;
	return (reason == CS_R_NO_LOCAL_SVID || reason == CS_R_SIGNER_UNAVAILABLE) &&
	       cs_svids_find(a->svids, pair->key.local, &svid) && svid.generation;
}

/* The attempt is over without an entry; it is freed. */
static void attempt_failed(struct attempt *t, enum cs_reason reason)
{
	struct cs_authd *a = t->a;
	struct cs_pair *pairs[2];
	size_t n = pairs_of(t, pairs);
	bool retry = n > 0 && again(a, pairs[0], reason, t->alert) && !t->cancelled;
	int64_t max_ms = t->alert == ALERT_UNRECOGNIZED_NAME ? CS_BACKOFF_SOON_MS : CS_BACKOFF_MAX_MS;
	attempt_free(t);
	for (size_t i = 0; i < n; i++) {
		if (!retry)
			refuse_pair_until(a, pairs[i], reason, max_ms);
		else if (i == 0 &&
			 !wait_for_place(a, pairs[i],
				 cs_loop_mono_ms(a->loop) + (reason == CS_R_STALE_VERDICT ? 0 : CS_TRY_AGAIN_MS)))
			refuse_pair(a, pairs[i], CS_R_TOO_MANY);
	}
	cs_authenticate_pump(a);
}

/* ---- dialling ---- */

static int fill_dial(const struct attempt *t, struct cs_hs_dial *m)
{
	struct cs_world_identity remote;
	size_t len;
	*m = (struct cs_hs_dial){.h = {.type = CS_HS_DIAL, .request = t->request},
		.deadline_mono_ms = t->deadline_mono_ms,
		.role = (uint32_t)t->ask.role,
		.local = t->ask.local,
		.remote = t->ask.remote};
	if (!cs_world_identity(t->a->world, t->ask.remote, &remote))
		return -ENOENT;
	const char *domain = cs_trust_domain_of(remote.spiffe_id, &len);
	if (!domain || len >= CS_DOMAIN)
		return -EINVAL;
	snprintf(m->sni, sizeof(m->sni), "%u.%.*s", t->ask.remote, (int)len, domain);
	strncpy(m->remote_spiffe_id, remote.spiffe_id, sizeof(m->remote_spiffe_id) - 1);
	return 0;
}

/* fd -1: both ends are here. */
static void hand_over(struct attempt *t, int fd)
{
	struct cs_authd *a = t->a;
	struct cs_hs_dial m;
	int index = cs_handshakers_pick(a->handshakers, t->not_again);
	if (index < 0) /* there is only the one that died, and it is up again */
		index = cs_handshakers_pick(a->handshakers, -1);
	bool known = fill_dial(t, &m) == 0;
	if (index >= 0 && known && cs_handshakers_send(a->handshakers, (unsigned)index, &m, sizeof(m), fd) == 0)
		t->handshaker = index;
	if (fd >= 0)
		close(fd);
	if (t->handshaker < 0)
		attempt_failed(t, !known ? CS_R_STALE_VERDICT : index < 0 ? CS_R_TOO_MANY : CS_R_HANDSHAKER_DIED);
}

static void on_connected(void *data, int fd, const struct cs_error *error)
{
	struct attempt *t = data;
	t->dial = NULL;
	if (fd >= 0) {
		hand_over(t, fd);
		return;
	}
	cs_debug("no connection", cs_err(error));
	cs_authd_metrics_handshake(t->a->metrics, t->ask.role, error->reason, 0);
	attempt_failed(t, error->reason);
}

static void connect_to(struct attempt *t)
{
	struct cs_authd *a = t->a;
	struct cs_world_node to = {0}, from = {0};
	if (!cs_world_node_by_id(a->world, t->ask.node, &to) || !cs_world_self(a->world, &from)) {
		attempt_failed(t, CS_R_PEER_NODE_UNKNOWN);
		return;
	}
	struct cs_dial_target target = {.to = to.addrs,
		.nto = to.naddrs,
		.from = from.addrs,
		.nfrom = from.naddrs,
		.port = to.port,
		.deadline_mono_ms = t->deadline_mono_ms};
	t->dial = cs_dial_new(a->loop, &target, on_connected, t);
	if (!t->dial)
		attempt_failed(t, CS_R_TOO_MANY);
}

/* Will it be otherwise in a moment? At start the directory and the SVIDs are not here yet, and a new identity gets its
 * SVID after its endpoint is enforced: the packet is held anyway. */
static bool soon(const struct cs_authd *a, const struct cs_pair *pair, enum cs_reason why)
{
	if (cs_loop_mono_ms(a->loop) - pair->asked_mono_ms >= CS_HOLD_MS - CS_TRY_AGAIN_MS)
		return false;
	return !a->synced || why == CS_R_NO_LOCAL_SVID || why == CS_R_NO_BUNDLE;
}

/* The pair is neither waiting nor being asked, and there is a place. */
static void begin(struct cs_authd *a, struct cs_pair *pair, int not_again)
{
	struct cs_facts facts = cs_authd_facts(a);
	enum cs_reason why = cs_dial_check(&facts, &pair->key);
	if (why != CS_R_NONE && soon(a, pair, why) &&
		wait_for_place(a, pair, cs_loop_mono_ms(a->loop) + CS_TRY_AGAIN_MS))
		return;
	if (why != CS_R_NONE) {
		refuse_pair(a, pair, why);
		return;
	}
	bool loopback = pair->key.node == 0;
	struct attempt *t = attempt_new(a, loopback ? CS_HS_LOOPBACK : CS_HS_DIALLER, &pair->key);
	t->ask.generations = cs_world_generations(a->world, pair->key.local, pair->key.remote, pair->key.node);
	t->not_again = not_again;
	pair->attempt = t->request;
	pair->tries++;
	if (!loopback) {
		connect_to(t);
		return;
	}
	struct cs_auth_key other_key = mirrored(&pair->key);
	struct cs_pair *other = cs_pairs_find(a->pairs, &other_key);
	if (other && !other->attempt) { /* asked for as well: this attempt is for both */
		stop_waiting(a, other);
		other->attempt = t->request;
	}
	hand_over(t, -1);
}

static enum cs_reason want(struct cs_authd *a, struct cs_pair *pair)
{
	struct cs_facts facts = cs_authd_facts(a);
	if (pair->attempt || pair->waiting)
		return CS_R_NONE;
	enum cs_reason why = cs_dial_check(&facts, &pair->key);
	pair->tries = 0;
	pair->asked_unix_ms = cs_loop_unix_ms(a->loop);
	pair->asked_mono_ms = cs_loop_mono_ms(a->loop);
	if (why != CS_R_NONE && (pair->live || !soon(a, pair, why))) {
		refuse_pair(a, pair, why);
		return why;
	}
	if (pair->key.node == 0) { /* the other half may be at it already: then this one joins */
		struct cs_auth_key other_key = mirrored(&pair->key);
		struct cs_pair *other = cs_pairs_find(a->pairs, &other_key);
		if (other && other != pair && other->attempt) {
			pair->attempt = other->attempt;
			return CS_R_NONE;
		}
	}
	if (!wait_for_place(a, pair, 0)) {
		refuse_pair(a, pair, CS_R_TOO_MANY);
		return CS_R_TOO_MANY;
	}
	cs_authenticate_pump(a);
	return CS_R_NONE;
}

void cs_authenticate_miss(void *authd, const struct cs_auth_key *key, uint32_t ifindex, enum cs_dir dir, bool held)
{
	struct cs_authd *a = authd;
	struct cs_pair *pair = cs_pairs_get(a->pairs, key);
	(void)ifindex;
	(void)dir;
	(void)held;
	if (!pair) { /* and no refusal, which nobody would ever take back */
		cs_hold_forget(a->hold, key, CS_R_TOO_MANY);
		return;
	}
	struct cs_instant now = cs_authd_now(a);
	if (pair->live && (pair->value & CS_AUTH_EXPIRY) > now.coarse_ns) {
		/* It was written while the question was on its way. */
		struct cs_error e;
		if (cs_hold_release(a->hold, key, pair->value, &e) < 0)
			cs_warn("held packets could not be released", cs_err(&e));
		return;
	}
	if (pair->live)
		cs_entries_delete(a, pair, CS_EVENT_EXPIRED, CS_R_SVID_EXPIRED);
	want(a, pair);
}

void cs_authenticate_renew(struct cs_authd *a, struct cs_pair *pair)
{
	want(a, pair);
}

enum cs_reason cs_authenticate_now(struct cs_authd *a, const struct cs_auth_key *key)
{
	struct cs_pair *pair = cs_pairs_get(a->pairs, key);
	return pair ? want(a, pair) : CS_R_TOO_MANY;
}

void cs_authenticate_cancel(struct cs_authd *a, struct cs_pair *pair)
{
	struct attempt *t = attempt_find(a, pair->attempt);
	stop_waiting(a, pair);
	pair->attempt = 0;
	if (!t || t->cancelled)
		return;
	struct cs_pair *pairs[2];
	if (pairs_of(t, pairs) > 0)
		return; /* the other half of a pair on one node still wants it */
	if (t->handshaker < 0) {
		attempt_free(t);
		return;
	}
	struct cs_hs_head m = {.type = CS_HS_CANCEL, .request = t->request};
	t->cancelled = true;
	if (cs_handshakers_send(a->handshakers, (unsigned)t->handshaker, &m, sizeof(m), -1) < 0)
		cs_handshakers_kill(a->handshakers, (unsigned)t->handshaker, "it takes no messages");
}

/* ---- accepting ---- */

void cs_authenticate_accept(void *authd, int fd, const struct cs_ip *peer)
{
	struct cs_authd *a = authd;
	struct cs_world_node node = {0};
	char text[CS_IP_TEXT];
	enum cs_reason why = cs_world_node_by_addr(a->world, peer, &node) ? CS_R_NONE : CS_R_PEER_NODE_UNKNOWN;
	if (why == CS_R_NONE)
		why = cs_admission_ask(a->admission, node.id, cs_loop_mono_ms(a->loop));
	if (why != CS_R_NONE) {
		cs_authd_metrics_handshake(a->metrics, CS_HS_ACCEPTOR, why, 0);
		cs_warn("a connection is refused", cs_str("from", cs_ip_text(peer, text)), cs_why(why));
		close(fd);
		return;
	}
	struct cs_auth_key key = {.node = node.id, .type = CS_AUTH_SPIRE};
	struct attempt *t = attempt_new(a, CS_HS_ACCEPTOR, &key);
	t->ask.generations = cs_world_generations(a->world, 0, 0, node.id);
	int index = cs_handshakers_pick(a->handshakers, -1);
	struct cs_hs_accept m = {
		.h = {.type = CS_HS_ACCEPT, .request = t->request}, .deadline_mono_ms = t->deadline_mono_ms};
	if (index >= 0 && cs_handshakers_send(a->handshakers, (unsigned)index, &m, sizeof(m), fd) == 0)
		t->handshaker = index;
	close(fd);
	if (t->handshaker < 0) {
		why = index < 0 ? CS_R_TOO_MANY : CS_R_HANDSHAKER_DIED;
		cs_authd_metrics_handshake(a->metrics, CS_HS_ACCEPTOR, why, 0);
		cs_warn("a connection is refused", cs_str("from", cs_ip_text(peer, text)), cs_why(why));
		attempt_free(t);
	}
}

/* ---- what handshakers say ---- */

void cs_authenticate_ready(void *authd, unsigned index)
{
	struct cs_authd *a = authd;
	cs_creds_tell(a->creds, index);
	cs_authenticate_pump(a);
}

/* The one place where an entry comes from. Starts at no. */
static enum cs_reason judge(struct attempt *t, const struct cs_hs_verdict *v)
{
	struct cs_authd *a = t->a;
	struct cs_facts facts = cs_authd_facts(a);
	struct cs_allowed allowed;
	struct cs_error e = {0};
	if (t->cancelled)
		return CS_R_STALE_VERDICT;
	enum cs_reason why = cs_verdict_check(&facts, &t->ask, v, &allowed);
	if (why != CS_R_NONE)
		return why;
	if (t->ask.role == CS_HS_ACCEPTOR)
		t->key = allowed.entry[0].key;
	if (cs_entries_write(a, &allowed, &e) == 0)
		return CS_R_NONE;
	cs_warn("an entry could not be written", cs_err(&e), cs_why(e.reason)); /* peers can make it happen often */
	return CS_R_MAP_WRITE_FAILED;
}

void cs_authenticate_verdict(void *authd, unsigned index, const struct cs_hs_verdict *v)
{
	struct cs_authd *a = authd;
	struct attempt *t = attempt_find(a, v->h.request);
	if (!t || t->handshaker != (int)index || t->judged || v->role != (uint32_t)t->ask.role ||
		(t->ask.role != CS_HS_ACCEPTOR && v->local != t->ask.local)) {
		cs_handshakers_kill(a->handshakers, index, "a verdict on what it was not asked");
		return;
	}
	t->judged = true;
	t->answer = judge(t, v);
	struct cs_hs_answer m = {.h = {.type = CS_HS_ANSWER, .request = t->request}, .reason = (uint32_t)t->answer};
	if (cs_handshakers_send(a->handshakers, index, &m, sizeof(m), -1) < 0)
		cs_handshakers_kill(a->handshakers, index, "it takes no messages");
}

/* An accept that led to nothing has no pair to remember it: it is said here. */
static void accept_refused(struct attempt *t, enum cs_reason reason, const char *detail)
{
	struct cs_world_node node;
	struct cs_event v = {.at_unix_ms = cs_loop_unix_ms(t->a->loop),
		.kind = CS_EVENT_REFUSED,
		.key = t->key,
		.reason = reason,
		.role = CS_HS_ACCEPTOR};
	if (cs_world_node_by_id(t->a->world, t->ask.node, &node))
		strncpy(v.node, node.name, sizeof(v.node) - 1);
	cs_events_add(t->a->events, &v);
	cs_debug("an accept was refused", cs_why(reason), cs_str("detail", detail));
}

/* The other half of a pair on one node asked as well, and policy wants no entry for it any more. */
static void forget_unwritten(const struct attempt *t)
{
	struct cs_pair *pairs[2];
	for (size_t i = pairs_of(t, pairs); i > 0; i--)
		if (!pairs[i - 1]->live)
			cs_hold_forget(t->a->hold, &pairs[i - 1]->key, CS_R_POLICY_NO_LONGER_ASKS);
}

void cs_authenticate_done(void *authd, unsigned index, const struct cs_hs_done *d)
{
	struct cs_authd *a = authd;
	struct attempt *t = attempt_find(a, d->h.request);
	if (!t || t->handshaker != (int)index || (d->reason == CS_R_NONE && (!t->judged || t->answer != CS_R_NONE))) {
		cs_handshakers_kill(
			a->handshakers, index, "the end of what it was not given, or a yes that nobody said");
		return;
	}
	/* Our own no is the reason; after our yes the entry is there, whatever became of the connection. */
	bool yes = t->judged && t->answer == CS_R_NONE;
	enum cs_reason reason = t->judged ? t->answer : (enum cs_reason)d->reason;
	cs_authd_metrics_handshake(a->metrics, t->ask.role, reason, d->micros);
	if (d->detail[0] && !yes)
		cs_info("a handshake was refused", cs_u64("local", t->key.local), cs_u64("remote", t->key.remote),
			cs_why(reason), cs_str("detail", d->detail));
	if (t->cancelled || yes) {
		if (yes)
			forget_unwritten(t);
		attempt_free(t);
		cs_authenticate_pump(a);
	} else if (t->ask.role == CS_HS_ACCEPTOR) {
		accept_refused(t, reason, d->detail);
		attempt_free(t);
		cs_authenticate_pump(a);
	} else {
		t->alert = reason == CS_R_VERDICT_ALERT ? d->alert : 0;
		attempt_failed(t, reason);
	}
	if (reason == CS_R_SIGNER_UNAVAILABLE) /* last: it may find that the handshaker is gone */
		cs_creds_signer(a->creds, index);
}

/* One of its requests: a dial is tried once more, elsewhere. */
static void died_with(struct attempt *t)
{
	struct cs_authd *a = t->a;
	struct cs_pair *pairs[2];
	int index = t->handshaker;
	size_t n = pairs_of(t, pairs);
	cs_authd_metrics_handshake(a->metrics, t->ask.role, CS_R_HANDSHAKER_DIED, 0);
	if (t->ask.role == CS_HS_ACCEPTOR) {
		accept_refused(t, CS_R_HANDSHAKER_DIED, "");
		attempt_free(t);
	} else if (t->not_again >= 0 || t->judged || n == 0) {
		t->handshaker = -1;
		if (t->judged && t->answer == CS_R_NONE) {
			forget_unwritten(t);
			attempt_free(t);
		} else
			attempt_failed(t, CS_R_HANDSHAKER_DIED);
	} else {
		attempt_free(t);
		if (has_place(a))
			begin(a, pairs[0], index);
		else if (!wait_for_place(a, pairs[0], 0))
			refuse_pair(a, pairs[0], CS_R_HANDSHAKER_DIED);
	}
}

void cs_authenticate_died(void *authd, unsigned index)
{
	struct cs_authd *a = authd;
	struct attempt *t, *next;
	uint64_t last = a->next_request; /* those that begin meanwhile are not its */
	HASH_ITER (hh, a->attempts, t, next)
		if (t->handshaker == (int)index && t->request <= last)
			died_with(t);
	cs_authenticate_pump(a);
}

/* ---- time ---- */

void cs_authenticate_tick(struct cs_authd *a)
{
	struct attempt *t, *next;
	int64_t now = cs_loop_mono_ms(a->loop);
	int hangs = -1;
	HASH_ITER (hh, a->attempts, t, next)
		if (t->handshaker >= 0 && now > t->deadline_mono_ms + CS_HANDSHAKER_SILENCE_MS)
			hangs = t->handshaker;
	if (hangs >= 0)
		cs_handshakers_kill(a->handshakers, (unsigned)hangs, "it hangs: a request is past its deadline");
	cs_handshakers_tick(a->handshakers);
}

void cs_authenticate_stop(struct cs_authd *a)
{
	struct attempt *t, *next;
	struct cs_pair *pair, *next_pair;
	HASH_ITER (hh, a->attempts, t, next)
		attempt_free(t);
	DL_FOREACH_SAFE2 (a->waiting, pair, next_pair, wait_next)
		stop_waiting(a, pair);
}
