#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include "grpc.h"
#include "mem.h"
#include "registrar_plan_private.h"
#include "spiffe_id.h"

/* ---- tables ---- */

struct node *cs_reg_node(struct cs_reg_plan *p, const char *name, bool make)
{
	struct node *node;
	HASH_FIND_STR(p->nodes, name, node);
	if (node || !make)
		return node;
	node = cs_xcalloc(1, sizeof(*node));
	node->name = cs_xstrdup(name);
	HASH_ADD_KEYPTR(hh, p->nodes, node->name, strlen(node->name), node);
	return node;
}

void cs_reg_node_drop(struct cs_reg_plan *p, struct node *node)
{
	if (node->known || node->slots)
		return;
	HASH_DEL(p->nodes, node);
	free(node->name);
	free(node->parent);
	free(node);
}

struct identity *cs_reg_identity(struct cs_reg_plan *p, uint32_t number, bool make)
{
	struct identity *identity;
	HASH_FIND(hh, p->identities, &number, sizeof(number), identity);
	if (identity || !make)
		return identity;
	identity = cs_xcalloc(1, sizeof(*identity));
	identity->number = number;
	HASH_ADD(hh, p->identities, number, sizeof(identity->number), identity);
	return identity;
}

void cs_reg_identity_drop(struct cs_reg_plan *p, struct identity *identity)
{
	if (identity->spiffe_id || identity->slots)
		return;
	HASH_DEL(p->identities, identity);
	free(identity);
}

struct cs_reg_slot *cs_reg_slot(struct cs_reg_plan *p, uint32_t number, const char *name, bool make, int64_t now_ms)
{
	struct node *node = cs_reg_node(p, name, false);
	const struct slot_key key = {.node = node, .number = number};
	struct cs_reg_slot *slot = NULL;
	if (node)
		HASH_FIND(hh, p->slots, &key, SLOT_KEY_SIZE, slot);
	if (slot || !make || HASH_COUNT(p->slots) >= CS_REG_SLOTS_MAX)
		return slot;
	slot = cs_xcalloc(1, sizeof(*slot));
	slot->key = (struct slot_key){.node = cs_reg_node(p, name, true), .number = number};
	slot->identity = cs_reg_identity(p, number, true);
	slot->since_mono_ms = now_ms;
	slot->missing = true;
	p->kinds[NOTHING]++;
	HASH_ADD(hh, p->slots, key, SLOT_KEY_SIZE, slot);
	DL_APPEND2(slot->key.node->slots, slot, node_prev, node_next);
	DL_APPEND2(slot->identity->slots, slot, identity_prev, identity_next);
	return slot;
}

/* ---- queues ---- */

static void leave(struct cs_reg_plan *p, struct cs_reg_slot *slot)
{
	if (slot->place == READY) {
		DL_DELETE(p->ready[slot->op], slot);
		p->nready[slot->op]--;
	} else if (slot->place == LATER) {
		DL_DELETE(p->later, slot);
	} else if (slot->place == TAKEN) {
		p->ntaken--;
		free(slot->writing);
		slot->writing = NULL;
	}
	slot->place = IDLE;
}

static void get_ready(struct cs_reg_plan *p, struct cs_reg_slot *slot, enum cs_reg_op op)
{
	leave(p, slot);
	slot->place = READY;
	slot->op = op;
	DL_APPEND(p->ready[op], slot);
	p->nready[op]++;
}

static void wait(struct cs_reg_plan *p, struct cs_reg_slot *slot, int64_t due_ms)
{
	leave(p, slot);
	slot->place = LATER;
	slot->due_mono_ms = due_ms;
	DL_APPEND(p->later, slot);
	if (due_ms < p->next_mono_ms)
		p->next_mono_ms = due_ms;
}

static void set_kind(struct cs_reg_plan *p, struct cs_reg_slot *slot, enum kind kind)
{
	p->kinds[slot->kind]--;
	slot->kind = kind;
	p->kinds[kind]++;
}

static void clear_failure(struct cs_reg_plan *p, struct cs_reg_slot *slot)
{
	if (slot->failures > 0)
		p->nfailing--;
	slot->failures = 0;
	slot->retry_mono_ms = 0;
	free(slot->failed);
	slot->failed = NULL;
}

static void slot_free(struct cs_reg_plan *p, struct cs_reg_slot *slot)
{
	struct node *node = slot->key.node;
	struct identity *identity = slot->identity;
	leave(p, slot);
	clear_failure(p, slot);
	p->kinds[slot->kind]--;
	p->nplaced -= slot->placed;
	HASH_DEL(p->slots, slot);
	DL_DELETE2(node->slots, slot, node_prev, node_next);
	DL_DELETE2(identity->slots, slot, identity_prev, identity_next);
	free(slot);
	cs_reg_node_drop(p, node);
	cs_reg_identity_drop(p, identity);
}

/* ---- what follows ---- */

static struct cs_reg_content content_of(const struct cs_reg_plan *p, const struct cs_reg_slot *slot)
{
	return (struct cs_reg_content){.identity = slot->key.number,
		.node = slot->key.node->name,
		.spiffe_id = slot->identity->spiffe_id,
		.parent_id = slot->key.node->parent,
		.federates_with = p->rules.federates_with,
		.ttl_s = p->rules.ttl_s};
}

bool cs_reg_is_stuck(const struct cs_reg_plan *p, const struct cs_reg_slot *slot, struct cs_error *e)
{
	const struct cs_reg_rules *r = &p->rules;
	if (!slot->identity->spiffe_id)
		cs_error_reason(e, -ENOENT, CS_R_NONE, "the directory has no record of the identity");
	else if (strncmp(slot->identity->spiffe_id, r->prefix, strlen(r->prefix)) != 0)
		cs_error_reason(e, -EINVAL, CS_R_SPIFFE_ID_MISMATCH, "%.300s is not under spiffe_id_prefix, %.300s",
			slot->identity->spiffe_id, r->prefix);
	else if (!slot->key.node->known)
		cs_error_reason(e, -ENOENT, CS_R_PEER_NODE_UNKNOWN, "the directory has no record of the node");
	else if (!slot->key.node->parent && *r->agent_selector)
		cs_error_reason(e, -ENOENT, CS_R_NONE,
			"SPIRE has no agent for this node: none has the selector registrar.agent_selector");
	else if (!slot->key.node->parent)
		cs_error_reason(e, -EINVAL, CS_R_NONE, "the node's name makes no SPIFFE ID");
	else
		return false;
	return true;
}

/* Up to a whole step, so that a long list of what is due is not walked for each of it. */
static int64_t step_up(int64_t ms)
{
	return (ms + CS_REG_STEP_MS - 1) / CS_REG_STEP_MS * CS_REG_STEP_MS;
}

int64_t cs_reg_linger_until_ms(const struct cs_reg_plan *p, const struct cs_reg_slot *slot)
{
	if (!slot->key.node->known || !slot->identity->spiffe_id || p->rules.linger_ms == 0)
		return 0;
	return step_up(slot->since_mono_ms + p->rules.linger_ms);
}

static void decide_wanted(struct cs_reg_plan *p, struct cs_reg_slot *slot)
{
	struct cs_error why;
	if (cs_reg_is_stuck(p, slot, &why)) {
		clear_failure(p, slot);
		slot->failed = cs_xmemdup(&why, sizeof(why));
		set_kind(p, slot, STUCK);
		return;
	}
	if (slot->kind == STUCK)
		clear_failure(p, slot);
	const struct cs_reg_content content = content_of(p, slot);
	if (!slot->haves) {
		slot->op = CS_REG_CREATE;
	} else if (cs_reg_differs(&content, slot->haves->entry)) {
		slot->op = CS_REG_UPDATE;
	} else if (slot->haves->next) {
		slot->op = CS_REG_DELETE;
	} else {
		clear_failure(p, slot);
		slot->made = true;
		set_kind(p, slot, RIGHT);
		return;
	}
	set_kind(p, slot, WRITE);
}

static void decide(struct cs_reg_plan *p, struct cs_reg_slot *slot, int64_t now_ms)
{
	if (slot->placed) {
		decide_wanted(p, slot);
		return;
	}
	if (slot->kind == STUCK)
		clear_failure(p, slot);
	slot->op = CS_REG_DELETE;
	if (!slot->haves)
		set_kind(p, slot, NOTHING);
	else if (now_ms < cs_reg_linger_until_ms(p, slot))
		set_kind(p, slot, LINGER);
	else
		set_kind(p, slot, cs_reg_is_held(p, slot) ? HELD : WRITE);
}

void cs_reg_mark(struct cs_reg_plan *p, struct cs_reg_slot *slot, int64_t now_ms)
{
	if (slot->place == TAKEN)
		return; /* its answer comes, and then it is looked at */
	leave(p, slot);
	decide(p, slot, now_ms);
	if (slot->kind == NOTHING)
		slot_free(p, slot);
	else if (slot->kind == LINGER)
		wait(p, slot, cs_reg_linger_until_ms(p, slot));
	else if (slot->kind == WRITE && now_ms < slot->retry_mono_ms)
		wait(p, slot, slot->retry_mono_ms);
	else if (slot->kind == WRITE)
		get_ready(p, slot, slot->op);
}

void cs_reg_mark_all(struct cs_reg_plan *p, int64_t now_ms)
{
	struct cs_reg_slot *slot, *next;
	HASH_ITER (hh, p->slots, slot, next)
		cs_reg_mark(p, slot, now_ms);
}

void cs_reg_unplace(struct cs_reg_plan *p, struct cs_reg_slot *slot, int64_t now_ms)
{
	if (slot->placed) {
		slot->placed = slot->made = false;
		slot->since_mono_ms = now_ms;
		p->nplaced--;
	}
	cs_reg_mark(p, slot, now_ms);
}

int64_t cs_reg_plan_run(struct cs_reg_plan *p, int64_t now_ms)
{
	struct cs_reg_slot *slot, *next, *due = p->later;
	if (now_ms < p->next_mono_ms)
		return p->next_mono_ms;
	p->next_mono_ms = INT64_MAX;
	p->later = NULL;
	DL_FOREACH_SAFE (due, slot, next) {
		slot->place = IDLE;
		if (now_ms >= slot->due_mono_ms)
			cs_reg_mark(p, slot, now_ms);
		else
			wait(p, slot, slot->due_mono_ms);
	}
	return p->next_mono_ms;
}

/* ---- entries ---- */

static struct cs_reg_slot *slot_by_parent(const struct identity *identity, const char *parent_id)
{
	struct cs_reg_slot *slot;
	DL_FOREACH2 (identity->slots, slot, identity_next)
		if (slot->key.node->parent && strcmp(slot->key.node->parent, parent_id) == 0)
			return slot;
	return NULL;
}

/* Whose hint was changed by somebody: by its selector, or its SPIFFE ID, and its parent. */
static struct cs_reg_slot *guess_slot(struct cs_reg_plan *p, const struct cs_reg_entry *entry)
{
	struct identity *identity = cs_reg_identity(p, cs_reg_selectors_read(entry->selectors), false), *next;
	struct cs_reg_slot *slot = identity ? slot_by_parent(identity, entry->parent_id) : NULL;
	if (slot)
		return slot;
	HASH_ITER (hh, p->identities, identity, next)
		if (identity->spiffe_id && strcmp(identity->spiffe_id, entry->spiffe_id) == 0)
			return slot_by_parent(identity, entry->parent_id);
	return NULL;
}

struct cs_reg_slot *cs_reg_slot_of(struct cs_reg_plan *p, const struct cs_reg_entry *entry, bool make, int64_t now_ms)
{
	char node[CS_REG_NODE_MAX + 1] = "";
	uint32_t number = 0;
	struct cs_reg_slot *slot = NULL;
	if (!cs_reg_hint_read(entry->hint, &number, node))
		slot = guess_slot(p, entry);
	return slot ? slot : cs_reg_slot(p, number, node, make, now_ms);
}

void cs_reg_have_free(struct cs_reg_plan *p, struct have *have)
{
	HASH_DEL(p->haves, have);
	DL_DELETE(have->slot->haves, have);
	free(have->entry);
	free(have);
}

int cs_reg_have(struct cs_reg_plan *p, const Spire__Api__Types__Entry *in, struct cs_reg_slot *known, int64_t now_ms,
	struct cs_error *e)
{
	struct cs_reg_entry *entry = cs_reg_entry_new(in);
	struct cs_reg_slot *slot = known ? known : cs_reg_slot_of(p, entry, true, now_ms), *before = NULL;
	struct have *have;
	if (!slot) {
		free(entry);
		return cs_error_reason(e, -ENOSPC, CS_R_TOO_MANY,
			"there are more than %d entries of this mark in SPIRE", CS_REG_SLOTS_MAX);
	}
	HASH_FIND_STR(p->haves, entry->id, have);
	if (have && have->slot == slot) {
		HASH_DEL(p->haves, have); /* its key goes with the entry */
		free(have->entry);
	} else {
		if (have) {
			before = have->slot;
			cs_reg_have_free(p, have);
		}
		have = cs_xcalloc(1, sizeof(*have));
		have->slot = slot;
		DL_APPEND(slot->haves, have);
	}
	have->entry = entry;
	have->seen = p->list;
	HASH_ADD_KEYPTR(hh, p->haves, entry->id, strlen(entry->id), have);
	if (before)
		cs_reg_mark(p, before, now_ms);
	return 0;
}

/* ---- writing ---- */

size_t cs_reg_plan_ready(const struct cs_reg_plan *p, enum cs_reg_op op)
{
	return p->settled && !p->needs_list && !p->listing ? p->nready[op] : 0;
}

size_t cs_reg_plan_taken(const struct cs_reg_plan *p)
{
	return p->ntaken;
}

/* The one too many is the newest. */
static const struct have *target(const struct cs_reg_slot *slot)
{
	return slot->op == CS_REG_DELETE ? slot->haves->prev : slot->haves;
}

size_t cs_reg_plan_take(struct cs_reg_plan *p, enum cs_reg_op op, struct cs_reg_slot **ret, size_t max)
{
	size_t n = 0;
	for (; n < max && cs_reg_plan_ready(p, op) > 0; n++) {
		struct cs_reg_slot *slot = p->ready[op];
		leave(p, slot);
		slot->place = TAKEN;
		p->ntaken++;
		if (op != CS_REG_CREATE)
			slot->writing = cs_xstrdup(target(slot)->entry->id);
		ret[n] = slot;
	}
	return n;
}

struct cs_reg_content cs_reg_slot_content(const struct cs_reg_plan *p, const struct cs_reg_slot *slot)
{
	return content_of(p, slot);
}

const char *cs_reg_slot_entry_id(const struct cs_reg_slot *slot)
{
	return slot->writing;
}

int64_t cs_reg_slot_waited_ms(const struct cs_reg_slot *slot, int64_t now_ms)
{
	return slot->made ? -1 : now_ms - slot->since_mono_ms;
}

static void fail(struct cs_reg_plan *p, struct cs_reg_slot *slot, const struct cs_error *why, int64_t now_ms)
{
	int64_t wait_ms = CS_REG_RETRY_MIN_MS;
	for (unsigned i = 0; i < slot->failures && wait_ms < CS_REG_RETRY_MAX_MS; i++)
		wait_ms *= 2;
	if (wait_ms > CS_REG_RETRY_MAX_MS)
		wait_ms = CS_REG_RETRY_MAX_MS;
	if (slot->failures++ == 0)
		p->nfailing++;
	wait_ms = (int64_t)((double)wait_ms * (0.8 + 0.4 * p->rules.random(p->rules.data)));
	slot->retry_mono_ms = step_up(now_ms + wait_ms);
	free(slot->failed);
	slot->failed = cs_xmemdup(why, sizeof(*why));
}

/* An entry is there that has the same SPIFFE ID, parent and selectors. */
static int adopt(struct cs_reg_plan *p, struct cs_reg_slot *slot, const struct cs_reg_answer *answer, int64_t now_ms,
	struct cs_error *e)
{
	if (!answer->entry)
		return cs_error_set(e, -EEXIST, "the ID made for it is another entry's; the next try has a new one");
	if (!cs_reg_is_ours(p->rules.mark, answer->entry->id))
		return cs_error_set(e, -EEXIST,
			"SPIRE has an entry, %.100s, with the same SPIFFE ID, parent and selector, which is not ours; "
			"see "
			"`countersign entry list --foreign`",
			answer->entry->id);
	return cs_reg_have(p, answer->entry, slot, now_ms, e);
}

/* An update that changes nothing would be repeated for ever, and each makes agents issue new certificates. */
static int check_update(const struct cs_reg_plan *p, const struct cs_reg_slot *slot, struct cs_error *e)
{
	struct cs_error stuck;
	if (!slot->placed || cs_reg_is_stuck(p, slot, &stuck))
		return 0;
	const struct cs_reg_content content = content_of(p, slot);
	unsigned fields = cs_reg_differs(&content, slot->haves->entry);
	return fields ? cs_error_set(e, -EIO, "SPIRE's server took the update and changed nothing in %s",
				cs_reg_field_name((enum cs_reg_field)(fields & -fields)))
		      : 0;
}

/* SPIRE has it no more. */
static void drop_entry(struct cs_reg_plan *p, struct cs_reg_slot *slot, const char *id, int64_t now_ms)
{
	struct have *have;
	HASH_FIND_STR(p->haves, id, have);
	if (!have)
		return;
	struct cs_reg_slot *of = have->slot;
	cs_reg_have_free(p, have);
	if (of != slot)
		cs_reg_mark(p, of, now_ms);
}

static int take_answer(struct cs_reg_plan *p, struct cs_reg_slot *slot, enum cs_reg_op op,
	const struct cs_reg_answer *answer, int64_t now_ms, struct cs_error *e)
{
	if (op == CS_REG_DELETE && answer->code == CS_GRPC_OK) {
		drop_entry(p, slot, slot->writing, now_ms);
		return 0;
	}
	if (answer->code == CS_GRPC_OK && answer->entry && !cs_reg_is_ours(p->rules.mark, answer->entry->id)) {
		p->needs_list = true;
		return cs_error_set(
			e, -EPROTO, "SPIRE's server answers with entry %.100s, which is not ours", answer->entry->id);
	}
	if (answer->code == CS_GRPC_OK && answer->entry) {
		int r = cs_reg_have(p, answer->entry, slot, now_ms, e);
		return r == 0 && op == CS_REG_UPDATE ? check_update(p, slot, e) : r;
	}
	if (answer->code == CS_GRPC_ALREADY_EXISTS && op == CS_REG_CREATE)
		return adopt(p, slot, answer, now_ms, e);
	if (answer->code == CS_GRPC_NOT_FOUND && op != CS_REG_CREATE) { /* somebody else deleted it */
		drop_entry(p, slot, slot->writing, now_ms);
		return 0;
	}
	if (answer->code == CS_GRPC_OK)
		p->needs_list = true;
	return cs_error_set(e, -EIO, "SPIRE's server: %s %.600s", cs_grpc_code_name((enum cs_grpc_code)answer->code),
		answer->message);
}

int cs_reg_plan_answered(struct cs_reg_plan *p, struct cs_reg_slot *slot, enum cs_reg_op op,
	const struct cs_reg_answer *answer, int64_t now_ms, struct cs_error *e)
{
	int r = take_answer(p, slot, op, answer, now_ms, e);
	leave(p, slot);
	if (r == 0)
		clear_failure(p, slot);
	else
		fail(p, slot, e, now_ms);
	cs_reg_mark(p, slot, now_ms);
	return r;
}

void cs_reg_plan_failed(
	struct cs_reg_plan *p, struct cs_reg_slot *slot, bool perhaps_done, const struct cs_error *why, int64_t now_ms)
{
	leave(p, slot);
	fail(p, slot, why, now_ms);
	if (perhaps_done)
		p->needs_list = true;
	cs_reg_mark(p, slot, now_ms);
}

/* ---- life ---- */

struct cs_reg_plan *cs_reg_plan_new(const struct cs_reg_rules *rules)
{
	struct cs_reg_plan *p = cs_xcalloc(1, sizeof(*p));
	p->rules = *rules;
	p->needs_list = true;
	p->needs_agents = *rules->agent_selector != '\0';
	p->next_mono_ms = INT64_MAX;
	return p;
}

void cs_reg_plan_free(struct cs_reg_plan *p)
{
	struct cs_reg_slot *slot, *nexts;
	struct have *have, *nexth;
	struct node *node, *nextn;
	struct identity *identity, *nexti;
	if (!p)
		return;
	HASH_ITER (hh, p->haves, have, nexth)
		cs_reg_have_free(p, have);
	HASH_ITER (hh, p->slots, slot, nexts)
		slot_free(p, slot);
	HASH_ITER (hh, p->nodes, node, nextn) {
		node->known = false;
		cs_reg_node_drop(p, node);
	}
	HASH_ITER (hh, p->identities, identity, nexti) {
		free(identity->spiffe_id);
		identity->spiffe_id = NULL;
		cs_reg_identity_drop(p, identity);
	}
	cs_reg_agents_free(&p->agents);
	cs_reg_agents_free(&p->coming);
	cs_reg_foreign_free(&p->foreign);
	cs_reg_foreign_free(&p->next_foreign);
	free(p);
}
