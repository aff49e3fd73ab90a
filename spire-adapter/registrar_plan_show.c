/* What the plan shows: counts, differences, failures. */
#include <stdlib.h>
#include <string.h>
#include "mem.h"
#include "registrar_plan_private.h"

struct cs_reg_count cs_reg_plan_count(const struct cs_reg_plan *p)
{
	return (struct cs_reg_count){.wanted = p->nplaced,
		.right = p->kinds[RIGHT],
		.lingering = p->kinds[LINGER],
		.failing = p->nfailing,
		.stuck = p->kinds[STUCK],
		.held = p->kinds[HELD]};
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
	} else if (slot->kind == HELD) {
		ret->what = CS_REG_SHOW_DELETE;
		ret->failed = &p->held;
		ret->held = true;
	} else if (slot->kind == WRITE && slot->op == CS_REG_DELETE) {
		ret->what = CS_REG_SHOW_DELETE;
		ret->entry_id = slot->writing ? slot->writing : slot->haves->prev->entry->id;
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

void cs_reg_plan_each_change(const struct cs_reg_plan *p, cs_reg_on_change *fn, void *data)
{
	struct cs_reg_slot *slot, *next;
	struct cs_reg_change change;
	HASH_ITER (hh, p->slots, slot, next)
		if (cs_reg_slot_change(p, slot, &change))
			fn(data, slot, &change);
}

/* ---- previews ---- */

void cs_reg_plan_preview_begin(struct cs_reg_plan *p)
{
	p->preview++;
}

/* It is for a slot that is not known: nothing is placed there. */
static void preview_other(struct cs_reg_plan *p, const struct cs_reg_entry *entry, int64_t now_ms,
	char name[CS_REG_NODE_MAX + 1], struct cs_reg_change *ret)
{
	if (!cs_reg_hint_read(entry->hint, &ret->identity, name))
		return;
	struct node *node = cs_reg_node(p, name, false);
	struct identity *identity = cs_reg_identity(p, ret->identity, false);
	if (!node || !node->known || !identity || !identity->spiffe_id || p->rules.linger_ms == 0)
		return;
	ret->what = CS_REG_SHOW_LINGER;
	ret->until_mono_ms = now_ms + p->rules.linger_ms;
}

/* What would become of one entry of a slot. false: nothing. */
static bool preview(struct cs_reg_plan *p, const struct cs_reg_entry *entry, struct cs_reg_slot *slot, int64_t now_ms,
	struct cs_reg_change *ret)
{
	struct cs_error stuck;
	bool first = slot->previewed != p->preview;
	slot->previewed = p->preview;
	ret->identity = slot->key.number;
	ret->node = slot->key.node->name;
	if (!slot->placed) {
		ret->until_mono_ms = cs_reg_linger_until_ms(p, slot);
		if (now_ms < ret->until_mono_ms)
			ret->what = CS_REG_SHOW_LINGER;
		else if ((ret->held = cs_reg_is_held(p, slot)))
			ret->failed = &p->held;
		return true;
	}
	if (!first)
		return true; /* one too many */
	if (cs_reg_is_stuck(p, slot, &stuck))
		return false; /* it stays as it is */
	const struct cs_reg_content content = cs_reg_slot_content(p, slot);
	ret->what = CS_REG_SHOW_UPDATE;
	ret->fields = cs_reg_differs(&content, entry);
	return ret->fields != 0;
}

void cs_reg_plan_preview_add(
	struct cs_reg_plan *p, const Spire__Api__Types__Entry *in, int64_t now_ms, cs_reg_on_change *fn, void *data)
{
	char name[CS_REG_NODE_MAX + 1] = "";
	if (!cs_reg_is_ours(p->rules.mark, in->id))
		return;
	struct cs_reg_entry *entry = cs_reg_entry_new(in);
	struct cs_reg_slot *slot = cs_reg_slot_of(p, entry, false, now_ms);
	struct cs_reg_change change = {.what = CS_REG_SHOW_DELETE,
		.node = name,
		.spiffe_id = entry->spiffe_id,
		.parent_id = entry->parent_id,
		.entry_id = entry->id};
	bool differs = true;
	if (slot)
		differs = preview(p, entry, slot, now_ms, &change);
	else
		preview_other(p, entry, now_ms, name, &change);
	if (differs)
		fn(data, NULL, &change);
	free(entry);
}

void cs_reg_plan_preview_end(struct cs_reg_plan *p, cs_reg_on_change *fn, void *data)
{
	struct cs_reg_slot *slot, *next;
	struct cs_error stuck;
	HASH_ITER (hh, p->slots, slot, next) {
		if (!slot->placed || slot->previewed == p->preview)
			continue;
		struct cs_reg_change change = {.what = CS_REG_SHOW_CREATE,
			.identity = slot->key.number,
			.node = slot->key.node->name,
			.spiffe_id = slot->identity->spiffe_id ? slot->identity->spiffe_id : "",
			.parent_id = slot->key.node->parent ? slot->key.node->parent : "",
			.entry_id = "",
			.failed = cs_reg_is_stuck(p, slot, &stuck) ? &stuck : NULL};
		fn(data, NULL, &change);
	}
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
