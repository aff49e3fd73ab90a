/* The handshakers: started, fed, watched, and started again. Each is a process of its own with one SEQPACKET socketpair
 * (<countersign/handshaker.h>), under a user that may do nothing. What it says is checked for form; one that breaks the
 * form is killed.
 *
 * Nothing blocks: what a handshaker does not take at once waits in a queue of at most CS_HS_QUEUE messages, and one whose
 * queue is full is killed. Callbacks come from the loop; only on_died also from inside cs_handshakers_kill. */
#ifndef CS_HANDSHAKERS_H
#define CS_HANDSHAKERS_H

#include <countersign/handshaker.h>
#include <stdbool.h>
#include "error.h"
#include "loop.h"

#define CS_HANDSHAKERS_MAX   64
#define CS_HS_QUEUE          16384
#define CS_HS_RESTART_MIN_MS 100 /* doubling while it dies within 10 s */
#define CS_HS_RESTART_MAX_MS 10000
#define CS_HS_READY_MS       10000 /* from its start until it is ready */

struct cs_handshakers_config {
	const char *path; /* the program; opened once, at start */
	const char *user; /* "": this process's own */
	unsigned count;   /* 0: one per core */
};
struct cs_handshakers_callbacks {
	/* One takes work from here on: tell it everything (with cs_handshakers_send), it knows nothing. */
	void (*on_ready)(void *data, unsigned index);
	void (*on_verdict)(void *data, unsigned index, const struct cs_hs_verdict *verdict);
	void (*on_done)(void *data, unsigned index, const struct cs_hs_done *done);
	/* It is gone, and with it all that it was given. */
	void (*on_died)(void *data, unsigned index);
	void *data;
};

struct cs_handshakers;
CS_MUST_USE int cs_handshakers_new(struct cs_loop *loop, const struct cs_handshakers_config *config,
	const struct cs_handshakers_callbacks *callbacks, struct cs_handshakers **ret, struct cs_error *e);
/* Ends them all. Memory is freed when the loop has closed the handles. NULL is fine. */
void cs_handshakers_close(struct cs_handshakers *h);

unsigned cs_handshakers_count(const struct cs_handshakers *h);
unsigned cs_handshakers_ready_count(const struct cs_handshakers *h);
bool cs_handshakers_ready(const struct cs_handshakers *h, unsigned index);
uint64_t cs_handshakers_restarts(const struct cs_handshakers *h);
/* The one with the least work that is not `except` (-1: any); -1: none is ready or has room. */
int cs_handshakers_pick(const struct cs_handshakers *h, int except);

/* One message of the contract with its descriptor (-1: none), which stays the caller's. Not to one that is not ready: 
 * -ENOTCONN. A dial or accept counts as work until its end. */
CS_MUST_USE int cs_handshakers_send(struct cs_handshakers *h, unsigned index, const void *message, size_t len, int fd);
/* It said what it cannot know, or answered what was not asked. */
void cs_handshakers_kill(struct cs_handshakers *h, unsigned index, const char *why);

/* Every second: one that does not get ready is killed. */
void cs_handshakers_tick(struct cs_handshakers *h);

/* A sealed memfd with these bytes, for CS_HS_SVID and CS_HS_BUNDLE; or a negative errno. */
CS_MUST_USE int cs_handshakers_list(const void *bytes, size_t len);

/* The user's uid and gid; -ENOENT names the way out. For settings. */
CS_MUST_USE int cs_handshakers_user(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct cs_error *e);

#endif
