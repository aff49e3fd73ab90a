/* Inside of the plan: registrar_plan.c (slots and what follows), registrar_plan_known.c (what comes in),
 * registrar_plan_missing.c (what a full state lacks), registrar_plan_show.c (what is shown). */
#ifndef CS_REGISTRAR_PLAN_PRIVATE_H
#define CS_REGISTRAR_PLAN_PRIVATE_H

#include <uthash.h>
#include "registrar_plan.h"

struct node {
	char *name;
	bool known;    /* the directory has it */
	uint64_t seen; /* in which full state */
	char *parent;  /* SPIFFE ID; NULL: none is known */
	struct cs_reg_slot *slots;
	UT_hash_handle hh;
};

struct identity {
	uint32_t number;
	char *spiffe_id; /* NULL: the directory does not have it */
	uint64_t seen;
	struct cs_reg_slot *slots;
	UT_hash_handle hh;
};

/* An entry of ours that SPIRE has. */
struct have {
	struct cs_reg_entry *entry;
	struct cs_reg_slot *slot;
	uint64_t seen; /* in which list */
	struct have *prev, *next;
	UT_hash_handle hh; /* by entry->id */
};

struct slot_key {
	struct node *node;
	uint32_t number;
};
#define SLOT_KEY_SIZE (offsetof(struct slot_key, number) + sizeof(uint32_t))

enum kind { NOTHING, RIGHT, WRITE, LINGER, STUCK, HELD, KINDS };

struct cs_reg_slot {
	struct slot_key key;
	struct identity *identity;
	bool placed;
	uint64_t seen;
	bool missing;          /* not placed, and no record of the directory ever said so */
	uint64_t previewed;    /* in which preview */
	int64_t since_mono_ms; /* placed, or not placed any more */
	bool made;             /* it had its entry since it is placed */
	struct have *haves;    /* the oldest first; one that is too many is deleted */
	enum kind kind;
	enum cs_reg_op op; /* WRITE */
	enum { IDLE, READY, LATER, TAKEN } place;
	char *writing; /* TAKEN for UPDATE or DELETE: the entry's ID; it may have gone to another slot meanwhile */
	int64_t due_mono_ms; /* LATER */
	unsigned failures;   /* in a row */
	int64_t retry_mono_ms;
	struct cs_error *failed;         /* the last try, or why it is STUCK */
	struct cs_reg_slot *prev, *next; /* READY, LATER */
	struct cs_reg_slot *node_prev, *node_next, *identity_prev, *identity_next;
	UT_hash_handle hh;
};

struct agent {
	char *selector, *id;
	int64_t until_unix_s;
	bool banned;
	UT_hash_handle hh;
};

struct foreign {
	struct cs_reg_entry *entries[CS_REG_FOREIGN_MAX];
	size_t n;
};

struct cs_reg_plan {
	struct cs_reg_rules rules;
	struct node *nodes;
	struct identity *identities;
	struct cs_reg_slot *slots;
	struct have *haves;
	struct cs_reg_slot *ready[CS_REG_OPS], *later;
	size_t nready[CS_REG_OPS], ntaken, kinds[KINDS], nplaced, nfailing;
	int64_t next_mono_ms; /* when something of `later` is due */
	/* the directory */
	uint64_t state;       /* counts full states */
	bool synced, settled; /* its full state was complete; and so is the last revision */
	bool holds;           /* what is missing is not deleted */
	struct cs_error held;
	/* agents */
	struct agent *agents, *coming;
	bool needs_agents, agents_listed;
	/* lists */
	uint64_t list;
	bool needs_list, listing;
	uint64_t preview;
	struct foreign foreign, next_foreign;
};

/* registrar_plan.c */
struct node *cs_reg_node(struct cs_reg_plan *p, const char *name, bool make);
struct identity *cs_reg_identity(struct cs_reg_plan *p, uint32_t number, bool make);
/* NULL: there is none, or no room for one. */
struct cs_reg_slot *cs_reg_slot(
	struct cs_reg_plan *p, uint32_t number, const char *node, bool make, int64_t now_mono_ms);
void cs_reg_node_drop(struct cs_reg_plan *p, struct node *node); /* if nothing needs it any more */
void cs_reg_identity_drop(struct cs_reg_plan *p, struct identity *identity);
/* Something of it is another now: what follows? Frees it if nothing is left of it. */
void cs_reg_mark(struct cs_reg_plan *p, struct cs_reg_slot *slot, int64_t now_mono_ms);
void cs_reg_mark_all(struct cs_reg_plan *p, int64_t now_mono_ms);
void cs_reg_unplace(struct cs_reg_plan *p, struct cs_reg_slot *slot, int64_t now_mono_ms);
/* A copy of entry replaces what is known under its ID, and goes to its slot. */
int cs_reg_have(struct cs_reg_plan *p, const Spire__Api__Types__Entry *entry, struct cs_reg_slot *hint_slot,
	int64_t now_mono_ms, struct cs_error *e);
/* Where an entry belongs. make: if nothing tells, or there is no such slot, it is made, so that it is deleted from there. */
struct cs_reg_slot *cs_reg_slot_of(
	struct cs_reg_plan *p, const struct cs_reg_entry *entry, bool make, int64_t now_mono_ms);
/* When an entry goes that nobody needs any more; 0: at once. */
int64_t cs_reg_linger_until_ms(const struct cs_reg_plan *p, const struct cs_reg_slot *slot);
/* What is in the way of an entry that should be, if something is. */
bool cs_reg_is_stuck(const struct cs_reg_plan *p, const struct cs_reg_slot *slot, struct cs_error *e);
void cs_reg_have_free(struct cs_reg_plan *p, struct have *have);

/* registrar_plan_missing.c */
/* A full state, or a list, is complete: is too much missing? Looks at all slots. */
void cs_reg_look_at_missing(struct cs_reg_plan *p, int64_t now_mono_ms);
bool cs_reg_is_held(const struct cs_reg_plan *p, const struct cs_reg_slot *slot);

/* registrar_plan_known.c */
void cs_reg_node_parent(struct cs_reg_plan *p, struct node *node); /* find its parent */
void cs_reg_agents_free(struct agent **agents);
void cs_reg_foreign_free(struct foreign *foreign);

#endif
