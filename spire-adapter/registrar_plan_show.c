/* What the plan shows: counts, differences, failures. */
#include <string.h>
#include "mem.h"
#include "registrar_plan_private.h"

struct cs_reg_count cs_reg_plan_count(const struct cs_reg_plan *p)
{
	return (struct cs_reg_count){.wanted = p->nplaced,
		.right = p->kinds[RIGHT],
		.lingering = p->kinds[LINGER],
		.failing = p->nfailing,
		.stuck = p->kinds[STUCK]};
}

bool cs_reg_slot_change(const struct cs_reg_plan *p, const struct cs_reg_slot *slot, struct cs_reg_change *ret)
{
	const struct cs_reg_entry *have = slot->haves ? slot->haves->entry : NULL;
	const struct identity *identity = slot->identity;
	const struct node *node = slot->key.node;
	if (slot->kind == NOTHING || slot->kind == RIGHT)
		return false;
	*ret = (struct cs_reg_change){.what = CS_REG_SHOW_CREATE,
		.identity = slot->key.number,
		.node = node->name,
		.spiffe_id = identity->spiffe_id ? identity->spiffe_id
			     : have              ? have->spiffe_id
						 : "",
		.parent_id = node->parent ? node->parent
			     : have       ? have->parent_id
					  : "",
		.entry_id = have ? have->id : "",
		.failed = slot->failed};
	if (slot->failures > 0)
		ret->until_mono_ms = slot->retry_mono_ms;
	if (slot->kind == LINGER) {
		ret->what = CS_REG_SHOW_LINGER;
		ret->until_mono_ms = slot->due_mono_ms;
	} else if (slot->kind == WRITE && slot->op == CS_REG_DELETE) {
		ret->what = CS_REG_SHOW_DELETE;
		ret->entry_id = slot->haves->prev->entry->id;
	} else if (have) {
		ret->what = CS_REG_SHOW_UPDATE;
		if (slot->kind == WRITE) {
			const struct cs_reg_content content = cs_reg_slot_content(p, slot);
			ret->fields = cs_reg_differs(&content, have);
		}
	}
	return true;
}

struct cs_reg_change *cs_reg_change_copy(const struct cs_reg_change *c)
{
	const char *const strings[] = {c->node, c->spiffe_id, c->parent_id, c->entry_id};
	size_t size = sizeof(*c);
	for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
		size += strlen(strings[i]) + 1;
	struct cs_reg_change *copy = cs_xcalloc(1, size);
	*copy = *c;
	copy->failed = NULL;
	const char **const places[] = {&copy->node, &copy->spiffe_id, &copy->parent_id, &copy->entry_id};
	char *at = (char *)(copy + 1);
	for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {
		*places[i] = strcpy(at, strings[i]);
		at += strlen(at) + 1;
	}
	return copy;
}

void cs_reg_plan_each_change(const struct cs_reg_plan *p,
	void (*fn)(void *data, const struct cs_reg_slot *slot, const struct cs_reg_change *change), void *data)
{
	struct cs_reg_slot *slot, *next;
	struct cs_reg_change change;
	HASH_ITER (hh, p->slots, slot, next)
		if (cs_reg_slot_change(p, slot, &change))
			fn(data, slot, &change);
}

const struct cs_error *cs_reg_plan_first_failure(const struct cs_reg_plan *p, struct cs_reg_change *ret)
{
	struct cs_reg_slot *slot, *next;
	if (p->nfailing + p->kinds[STUCK] == 0)
		return NULL;
	HASH_ITER (hh, p->slots, slot, next)
		if (slot->failed && cs_reg_slot_change(p, slot, ret))
			return slot->failed;
	return NULL;
}
