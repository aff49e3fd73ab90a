/* Handshakes from the question to the answer: who is dialled and when, who may come in, which handshaker does it, and what
 * its verdict leads to. */
#ifndef CS_AUTHENTICATE_H
#define CS_AUTHENTICATE_H

#include "authd.h"

#define CS_HANDSHAKE_MS          5000
#define CS_DIALS_PER_HANDSHAKER  128  /* in flight; the other half of CS_HS_WORK_MAX is for accepts */
#define CS_DIALS_SHARE           4    /* one local identity takes at most this part of them */
#define CS_WAITING_MAX           4096 /* pairs that wait for a free place */
#define CS_TRIES_MAX             4 /* attempts for one question: stale verdicts, an adapter that has just restarted */
#define CS_TRY_AGAIN_MS          100
#define CS_HANDSHAKER_SILENCE_MS 2000 /* past the deadline: it hangs, and is killed */

/* struct cs_hold_callbacks. */
void cs_authenticate_miss(void *authd, const struct cs_auth_key *key, uint32_t ifindex, enum cs_dir dir, bool held);
/* Authenticate again, before the entry ends. */
void cs_authenticate_renew(struct cs_authd *a, struct cs_pair *pair);
/* An operator's word: now, whatever the backoff. CS_R_NONE: under way. */
enum cs_reason cs_authenticate_now(struct cs_authd *a, const struct cs_auth_key *key);
/* The question is void. */
void cs_authenticate_cancel(struct cs_authd *a, struct cs_pair *pair);

/* struct cs_net_callbacks and struct cs_handshakers_callbacks. */
void cs_authenticate_accept(void *authd, int fd, const struct cs_ip *peer);
void cs_authenticate_ready(void *authd, unsigned index);
void cs_authenticate_verdict(void *authd, unsigned index, const struct cs_hs_verdict *verdict);
void cs_authenticate_done(void *authd, unsigned index, const struct cs_hs_done *done);
void cs_authenticate_died(void *authd, unsigned index);

/* What some wait for may be here. */
void cs_authenticate_hurry(struct cs_authd *a);
/* Every CS_TRY_AGAIN_MS: those that wait. Every second: those that hang. */
void cs_authenticate_pump(struct cs_authd *a);
void cs_authenticate_tick(struct cs_authd *a);
size_t cs_authenticate_in_flight(const struct cs_authd *a);
/* At the end: connections under way are given up. */
void cs_authenticate_stop(struct cs_authd *a);

#endif
