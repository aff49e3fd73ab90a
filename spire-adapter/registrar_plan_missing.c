/* What a full state of the directory lacks: most of our entries at once are not deleted for that. */
#include <errno.h>
#include "registrar_plan_private.h"

static bool is_missing(const struct cs_reg_slot *slot)
{
	return slot->missing && (!slot->key.node->known || !slot->identity->spiffe_id);
}

bool cs_reg_is_held(const struct cs_reg_plan *p, const struct cs_reg_slot *slot)
{
	return p->holds && is_missing(slot);
}

void cs_reg_look_at_missing(struct cs_reg_plan *p, int64_t now_ms)
{
	const struct cs_reg_slot *slot, *next;
	size_t n = 0, all = HASH_COUNT(p->haves);
	if (p->synced) {
		HASH_ITER (hh, p->slots, slot, next)
			n += slot->haves && is_missing(slot);
		p->holds = n > CS_REG_MISSING_MAX && n > all / 2;
		cs_error_reason(&p->held, -EPERM, CS_R_DIRECTORY_STALE,
			"the directory lacks the nodes or identities of %zu of the %zu entries that we have in SPIRE, "
			"as that "
			"of a new or an old store does: these entries stay until it has them, or `countersign entry "
			"sync "
			"--delete-missing` says that they are to go",
			n, all);
	}
	cs_reg_mark_all(p, now_ms);
}

const struct cs_error *cs_reg_plan_held(const struct cs_reg_plan *p)
{
	return p->kinds[HELD] > 0 ? &p->held : NULL;
}

void cs_reg_plan_release(struct cs_reg_plan *p, int64_t now_ms)
{
	struct cs_reg_slot *slot, *next;
	HASH_ITER (hh, p->slots, slot, next)
		slot->missing = false;
	p->holds = false;
	cs_reg_mark_all(p, now_ms);
}
