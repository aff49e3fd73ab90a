/* The condition `published`: asked for by those who wait for it, of the replicas whom the other nodes follow. */
#include "node_private.h"

#include "log.h"
#include "mem.h"

#define PUBLISHED COUNTERSIGN__V1__STEP__STEP_PUBLISHED

struct asking {
	struct cs_node *node;
	char *id;
	uint64_t incarnation;
};

static void on_answer(void *data, size_t have, size_t stale, const struct cs_error *e)
{
	struct asking *a = data;
	struct cs_node *node = a->node;
	struct cs_node_endpoint *ep = node->closing ? NULL : cs_node_endpoint(node, a->id);
	char detail[128] = "";
	if (stale > 0)
		snprintf(detail, sizeof(detail), "%zu of %zu nodes did not say in time that they know it", stale,
			have + stale);
	if (ep && ep->incarnation == a->incarnation) {
		ep->asking_published = false;
		bool changed = cs_endpoint_set(ep, PUBLISHED, !e,
			!e          ? CS_R_NONE
			: e->reason ? e->reason
				    : CS_R_DIRECTORY_STALE,
			e ? e->text : detail, cs_node_unix_ms(node));
		if (e)
			cs_node_reconcile_later(node, CS_CLAIM_RETRY_MIN_MS);
		if (changed)
			cs_node_changed(node, ep, false);
	}
	free(a->id);
	free(a);
}

void cs_node_maybe_published(struct cs_node *node, struct cs_node_endpoint *ep)
{
	bool there = node->link && node->up && ep->claim == CS_CLAIM_TAKEN;
	if (!there || !ep->want_published || ep->asking_published || ep->conditions[PUBLISHED].met)
		return;
	struct asking *a = cs_xcalloc(1, sizeof(*a));
	a->node = node;
	a->id = cs_xstrdup(ep->spec.id);
	a->incarnation = ep->incarnation;
	ep->asking_published = true;
	node->link->published(node->link, ep->taken_revision, on_answer, a);
}

void cs_node_want_published(struct cs_node *node, const char *id)
{
	struct cs_node_endpoint *ep = cs_node_endpoint(node, id);
	if (!ep)
		return;
	if (!ep->want_published)
		cs_endpoint_set(ep, PUBLISHED, false, CS_R_DIRECTORY_STALE, "the other nodes have not answered yet",
			cs_node_unix_ms(node));
	ep->want_published = true;
	cs_node_maybe_published(node, ep);
}
