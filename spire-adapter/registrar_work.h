/* Carries the plan out at SPIRE's server: lists, batches of writes, and when. Nothing is written
 * - while the directory is not complete, or silent for longer than max_stale (`may_write`);
 * - until a first list had no foreign entry under our SPIFFE IDs;
 * - while a list is under way: what it shows shall be of one moment;
 * - after a call that may have been done, until a list has shown whether it was;
 * - for a while after a call that failed as a whole: the next one would too. */
#ifndef CS_REGISTRAR_WORK_H
#define CS_REGISTRAR_WORK_H

#include "metrics.h"
#include "registrar_plan.h"
#include "spire_server.h"

#define CS_REG_BATCH           50   /* entries of one call; larger ones are not faster, and keep others waiting */
#define CS_REG_CALLS           2    /* under way at a time */
#define CS_REG_LIST_RETRY_MS   1000 /* after a list that failed; doubled up to */
#define CS_REG_LIST_SLOWEST_MS 60000
#define CS_REG_PAUSE_MIN_MS    1000 /* after a call that failed as a whole; doubled up to */
#define CS_REG_PAUSE_MAX_MS    10000
#define CS_REG_FOREIGN_MS      30000 /* while foreign entries are in the way: look again */
#define CS_REG_AGAIN_MS        30000 /* to the second of two lists */
#define CS_REG_AGENTS_MS       10000 /* between two lists of agents */

struct cs_reg_work_events {
	/* May anything be written? NULL: yes; else why not, borrowed. */
	const struct cs_error *(*may_write)(void *data);
	/* One entry was written (why NULL), or could not be. Borrowed. */
	void (*answered)(void *data, const struct cs_reg_change *change, const struct cs_error *why);
	/* A list ended (why NULL: well). */
	void (*listed)(void *data, const struct cs_error *why);
	/* Everything that could be tried was tried. */
	void (*idle)(void *data);
	void *data;
};

struct cs_reg_work_options {
	struct cs_loop *loop;
	struct cs_reg_plan *plan;       /* borrowed */
	struct cs_spire_server *server; /* borrowed */
	struct cs_metrics *metrics;
	const char *mark;
	int64_t list_ms; /* between two lists */
	struct cs_reg_work_events events;
};

struct cs_reg_work;

CS_MUST_USE int cs_reg_work_new(
	const struct cs_reg_work_options *options, struct cs_reg_work **ret, struct cs_error *e);
/* Something is another now: look soon what there is to do. */
void cs_reg_work_kick(struct cs_reg_work *w);
/* List now, whenever the last time was. */
void cs_reg_work_list(struct cs_reg_work *w);
/* List now, and soon again: another registrar wrote until a moment ago, and may have a write under way. */
void cs_reg_work_list_twice(struct cs_reg_work *w);
/* Foreign entries hold us back: no list without them has been seen yet. */
bool cs_reg_work_is_held(const struct cs_reg_work *w);
/* The last list or call failed as a whole; NULL: it did not. */
const struct cs_error *cs_reg_work_failure(const struct cs_reg_work *w);
/* Nothing is called any more; the loop ends later. NULL is fine. Free after the loop has ended. */
void cs_reg_work_close(struct cs_reg_work *w);
void cs_reg_work_free(struct cs_reg_work *w);

#endif
