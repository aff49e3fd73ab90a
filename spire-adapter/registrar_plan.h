/* Which registration entries there should be, which there are, and what follows from that. Pure: records, lists, answers
 * and the time come in, and what is to be written next comes out.
 *
 * A slot is one identity on one node. It should have exactly one entry while the identity is placed on the node, and loses
 * it `linger` after that ended; at once, if the node or the identity itself is gone. Only entries of our mark are ever
 * changed; an entry is changed by update. Nothing is written while the directory or the list of SPIRE's entries is not
 * complete.
 *
 * What the directory says is gone is gone. What a full state merely lacks is too, unless that is most of our entries at
 * once: so looks the directory of a store that is empty, or restored from long ago. Those are held until the directory
 * has them again, or a person says that they are to go. */
#ifndef CS_REGISTRAR_PLAN_H
#define CS_REGISTRAR_PLAN_H

#include <countersign/v1/directory.pb-c.h>
#include "error.h"
#include "registrar_entry.h"

#define CS_REG_SLOTS_MAX    262144 /* entries wanted, lingering or there; some 600 bytes each */
#define CS_REG_NODES_MAX    16384
#define CS_REG_FOREIGN_MAX  1000 /* that are remembered; more are counted */
#define CS_REG_MISSING_MAX  10   /* entries whose node or identity a full state lacks, or half of all: more are held */
#define CS_REG_RETRY_MIN_MS 1000 /* of one entry: doubled each time, ± 20 % */
#define CS_REG_RETRY_MAX_MS 300000
#define CS_REG_STEP_MS      250 /* what is due later is due in steps: what failed together shares a call again */

struct cs_reg_rules { /* strings are borrowed */
	const char *trust_domain;
	const char *mark;
	const char *prefix;         /* "spiffe://example.org/identity/": every SPIFFE ID of ours, and nobody else's */
	const char *parent;         /* path with {node}: the node's alias */
	const char *agent_selector; /* with {node}; empty: parent. Else the agent that has it is the parent */
	const char *federates_with; /* lines, sorted; never the own trust domain */
	int32_t ttl_s;
	int64_t linger_ms;
	double (*random)(void *data); /* 0 to 1 */
	void *data;
};

enum cs_reg_op { CS_REG_CREATE, CS_REG_UPDATE, CS_REG_DELETE, CS_REG_OPS };

struct cs_reg_plan;
struct cs_reg_slot;

struct cs_reg_plan *cs_reg_plan_new(const struct cs_reg_rules *rules); /* copied */
void cs_reg_plan_free(struct cs_reg_plan *p);

/* ---- the directory ---- */

/* A new call: a full state begins, and replaces what was known when it is complete. */
void cs_reg_plan_directory_begin(struct cs_reg_plan *p);
/* An error (a limit): end the call. What was known stays. */
CS_MUST_USE int cs_reg_plan_directory_batch(
	struct cs_reg_plan *p, const Countersign__V1__DirectoryBatch *batch, int64_t now_mono_ms, struct cs_error *e);
/* Is the directory complete? */
bool cs_reg_plan_directory_known(const struct cs_reg_plan *p);

/* ---- SPIRE's agents, if rules.agent_selector ---- */

/* A node has no agent that we know: list them (again). */
bool cs_reg_plan_needs_agents(const struct cs_reg_plan *p);
void cs_reg_plan_agents_begin(struct cs_reg_plan *p);
void cs_reg_plan_agents_add(struct cs_reg_plan *p, const Spire__Api__Types__Agent *agent);
/* false: what came is forgotten. */
void cs_reg_plan_agents_end(struct cs_reg_plan *p, bool complete, int64_t now_mono_ms);

/* ---- SPIRE's entries ---- */

/* What is known is not what SPIRE has, or never was: list them (again). Until then nothing is to be written. */
bool cs_reg_plan_needs_list(const struct cs_reg_plan *p);
void cs_reg_plan_set_needs_list(struct cs_reg_plan *p);
/* Not while something is being written. */
void cs_reg_plan_list_begin(struct cs_reg_plan *p);
/* -ENOSPC: CS_REG_SLOTS_MAX. */
CS_MUST_USE int cs_reg_plan_list_add(
	struct cs_reg_plan *p, const Spire__Api__Types__Entry *entry, int64_t now_mono_ms, struct cs_error *e);
void cs_reg_plan_list_end(struct cs_reg_plan *p, bool complete, int64_t now_mono_ms);
/* Entries under our prefix without our mark, as of the last complete list. Borrowed; NULL: there are fewer (remembered). */
size_t cs_reg_plan_foreign(const struct cs_reg_plan *p);
const struct cs_reg_entry *cs_reg_plan_foreign_at(const struct cs_reg_plan *p, size_t i);

/* Why entries are held that the directory lacks; NULL: none is. Borrowed. */
const struct cs_error *cs_reg_plan_held(const struct cs_reg_plan *p);
/* What is missing by now is to go. */
void cs_reg_plan_release(struct cs_reg_plan *p, int64_t now_mono_ms);

/* ---- what to write ---- */

/* What is due by now gets ready. Returns when something is due next, INT64_MAX: nothing. */
int64_t cs_reg_plan_run(struct cs_reg_plan *p, int64_t now_mono_ms);
size_t cs_reg_plan_ready(const struct cs_reg_plan *p, enum cs_reg_op op);
/* Takes up to max slots that wait for op; each is to be answered by one of the following. */
size_t cs_reg_plan_take(struct cs_reg_plan *p, enum cs_reg_op op, struct cs_reg_slot **ret, size_t max);
size_t cs_reg_plan_taken(const struct cs_reg_plan *p);

/* What a slot that was taken should have; for CREATE and UPDATE. Borrowed until the next change of the plan. */
struct cs_reg_content cs_reg_slot_content(const struct cs_reg_plan *p, const struct cs_reg_slot *slot);
/* The entry that is to be updated or deleted. */
const char *cs_reg_slot_entry_id(const struct cs_reg_slot *slot);
/* How long it was wanted when it was made for the first time, or -1. */
int64_t cs_reg_slot_waited_ms(const struct cs_reg_slot *slot, int64_t now_mono_ms);

/* How an item ended, as SPIRE says it. */
struct cs_reg_answer {
	int code;            /* google.rpc.Code */
	const char *message; /* never NULL */
	const Spire__Api__Types__Entry *entry;
};
/* 0: it is done. Otherwise it is tried again, and e says why. */
int cs_reg_plan_answered(struct cs_reg_plan *p, struct cs_reg_slot *slot, enum cs_reg_op op,
	const struct cs_reg_answer *answer, int64_t now_mono_ms, struct cs_error *e);
/* The whole call failed. perhaps_done: look at SPIRE anew before anything else. */
void cs_reg_plan_failed(struct cs_reg_plan *p, struct cs_reg_slot *slot, bool perhaps_done, const struct cs_error *why,
	int64_t now_mono_ms);

/* ---- what is shown ---- */

struct cs_reg_count {
	size_t wanted;    /* slots that should have an entry */
	size_t right;     /* ... and have it, as it should be */
	size_t lingering; /* entries that are not needed any more */
	size_t failing;   /* slots whose last try failed */
	size_t stuck;     /* wanted, but something is missing to make it: a parent, a fitting SPIFFE ID */
	size_t held;      /* entries that a full state lacks, too many to believe it */
};
struct cs_reg_count cs_reg_plan_count(const struct cs_reg_plan *p);

struct cs_reg_change { /* borrowed until the next change of the plan */
	enum { CS_REG_SHOW_CREATE, CS_REG_SHOW_UPDATE, CS_REG_SHOW_DELETE, CS_REG_SHOW_LINGER } what;
	uint32_t identity;
	const char *node, *spiffe_id, *parent_id, *entry_id; /* empty: not known, not there */
	unsigned fields;                                     /* UPDATE: enum cs_reg_field */
	int64_t until_mono_ms;                               /* LINGER; and after a failure the next try, else 0 */
	const struct cs_error *failed;                       /* or what is in the way; NULL: nothing */
	bool held;                                           /* DELETE: cs_reg_plan_held() is in the way */
};
/* What differs in this slot. false: nothing. */
bool cs_reg_slot_change(const struct cs_reg_plan *p, const struct cs_reg_slot *slot, struct cs_reg_change *ret);
/* A copy that keeps, in one block of memory: free() it. Without `failed`. */
struct cs_reg_change *cs_reg_change_copy(const struct cs_reg_change *change);
/* All slots that differ, as of now. */
typedef void cs_reg_on_change(void *data, const struct cs_reg_slot *slot, const struct cs_reg_change *change);
void cs_reg_plan_each_change(const struct cs_reg_plan *p, cs_reg_on_change *fn, void *data);
/* What a list of SPIRE's entries would lead to, without leading to it: begin, add each entry, end. fn as above, with NULL
 * for the slot. One at a time. */
void cs_reg_plan_preview_begin(struct cs_reg_plan *p);
void cs_reg_plan_preview_add(struct cs_reg_plan *p, const Spire__Api__Types__Entry *entry, int64_t now_mono_ms,
	cs_reg_on_change *fn, void *data);
void cs_reg_plan_preview_end(struct cs_reg_plan *p, cs_reg_on_change *fn, void *data);
/* The first failure of a slot, for the check. NULL: none fails. */
const struct cs_error *cs_reg_plan_first_failure(const struct cs_reg_plan *p, struct cs_reg_change *ret);

#endif
