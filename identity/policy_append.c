/* More identities for what is compiled already. Most new label sets are of no interest to any policy: they change nothing
 * but that they are there, and compiling everything anew for each of them would cost as much as all identities do. */
#include <stdlib.h>
#include "policy_compiled.h"
#include <countersign/maps.h>

/* A selector that finds everybody is a default instead of rows (policy_compile.c), so it must go on finding everybody. */
static bool means(const struct cs_compiled *c, const struct cs_labels *labels)
{
	for (size_t i = 0; i < c->nresolved; i++)
		if (c->resolved[i].set.n == c->nids || cs_selector_match(c->resolved[i].selector, labels))
			return true;
	return false;
}

/* The group of those whom no spec selects; it has members, so that what is found about it (findings) was found. */
static uint32_t unselected(const struct cs_compiled *c)
{
	for (uint32_t i = 0; i < c->ngroups; i++)
		if (c->groups[i].nspecs == 0 && (c->groups[i].members > 0 || c->nspecs == 0))
			return i;
	return CS_NONE;
}

bool cs_compiled_append(struct cs_compiled *c, const struct cs_compile_identity *identities, size_t n)
{
	uint32_t group = unselected(c), last = c->nids > 0 ? c->ids[c->nids - 1] : CS_ID_FIRST_AUTH - 1;
	for (size_t i = 0; i < n; last = identities[i++].id)
		if (group == CS_NONE || identities[i].id <= last || identities[i].id >= CS_ID_LOCAL_SCOPE ||
			means(c, identities[i].labels))
			return false;
	if (c->nids + n + 1 > c->ids_room) {
		size_t room = 2 * (c->nids + n) + 64;
		uint32_t *ids = realloc(c->ids, room * sizeof(*ids));
		c->ids = ids ? ids : c->ids;
		uint32_t *group_of = ids ? realloc(c->group_of, room * sizeof(*group_of)) : NULL;
		if (!group_of)
			return false;
		c->group_of = group_of;
		c->ids_room = room;
	}
	for (size_t i = 0; i < n; i++) {
		c->group_of[c->nids] = group;
		c->ids[c->nids++] = identities[i].id;
	}
	c->groups[group].members += n;
	return true;
}
