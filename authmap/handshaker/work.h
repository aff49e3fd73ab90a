/* The connections in flight: dials, accepts and pairs on one node. Each ends with exactly one `done`. */
#ifndef CS_HS_WORK_H
#define CS_HS_WORK_H

#include "loop.h"
#include "world.h"

struct cs_hs_job;

struct cs_hs_work {
	struct cs_loop *loop;      /* borrowed */
	struct cs_hs_world *world; /* borrowed */
	void (*verdict)(const struct cs_hs_verdict *verdict, void *data);
	void (*done)(const struct cs_hs_done *done, void *data);
	void *data;
	struct cs_hs_job *jobs; /* hash by request */
	void (*drained)(void *data);
};

/* Sets the callbacks of the world's SSL_CTXs. */
CS_MUST_USE int cs_hs_work_init(struct cs_hs_work *work, struct cs_error *e);
/* Ends everything with STALE_VERDICT; drained(data) when the last handle is closed (also if there was none). */
void cs_hs_work_stop(struct cs_hs_work *work, void (*drained)(void *data));

/* These take over fd (-1: loopback). A request that is in use already is refused by closing fd: the monitor broke its
 * word, and -EEXIST says so. */
CS_MUST_USE int cs_hs_dial_take(struct cs_hs_work *work, const struct cs_hs_dial *m, int fd, struct cs_error *e);
CS_MUST_USE int cs_hs_accept_take(struct cs_hs_work *work, const struct cs_hs_accept *m, int fd, struct cs_error *e);
/* Requests that are over already are ignored: messages cross. */
void cs_hs_cancel(struct cs_hs_work *work, uint64_t request);
void cs_hs_answer(struct cs_hs_work *work, const struct cs_hs_answer *m);

#endif
