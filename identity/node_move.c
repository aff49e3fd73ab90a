/* An endpoint whose labels changed becomes another identity: make before break. Its next identity is placed here first, so
 * that its SVID comes, and only then the endpoint moves. A wait that is over ends in a move all the same: the labels are
 * what they are. */
#include "node_private.h"

#include "log.h"

void cs_node_move_begin(struct cs_node_endpoint *fresh, const struct cs_node_endpoint *old)
{
	bool placed = old->conditions[COUNTERSIGN__V1__STEP__STEP_PLACED].met;
	if (fresh->ifindex != old->ifindex || !cs_endpoint_same_place(&fresh->spec, &old->spec))
		return;
	if (old->move.from != 0)
		fresh->move = (struct cs_move){
			.from = old->move.from, .incarnation = old->move.incarnation, .preparing = true};
	else if (placed && old->identity != 0)
		fresh->move = (struct cs_move){.from = old->identity,
			.incarnation = old->incarnation,
			.preparing = old->conditions[COUNTERSIGN__V1__STEP__STEP_SVID_READY].met};
}

static bool has_svid(const struct cs_node *node, uint32_t identity)
{
	struct said *said;
	HASH_FIND(hh, node->said, &identity, sizeof(identity), said);
	return said && said->conditions[COUNTERSIGN__V1__STEP__STEP_SVID_READY].met;
}

static void arm(struct cs_node *node)
{
	if (!node->closing && !cs_timer_active(&node->moves))
		cs_timer_start(&node->moves, CS_MOVE_WAIT_MS, 0);
}

void cs_node_move_prepared(struct cs_node *node, struct cs_node_endpoint *ep, uint32_t to)
{
	if (ep->move.to == to)
		return;
	ep->move.to = to;
	ep->move.until_mono_ms = cs_loop_mono_ms(node->options.loop) + CS_MOVE_WAIT_MS;
	cs_info("endpoint is about to become another identity", cs_str("endpoint", ep->spec.id),
		cs_u64("from", ep->move.from), cs_u64("to", to));
	arm(node);
}

void cs_node_moves_look(struct cs_node *node)
{
	struct cs_node_endpoint *ep, *tmp;
	int64_t now_mono_ms = cs_loop_mono_ms(node->options.loop);
	HASH_ITER (hh, node->endpoints, ep, tmp) {
		if (!ep->move.preparing || ep->move.to == 0)
			continue;
		bool over = now_mono_ms >= ep->move.until_mono_ms;
		if (ep->move.to != ep->move.from && !has_svid(node, ep->move.to) && !over)
			continue;
		if (over)
			cs_warn("an endpoint's next identity has no SVID yet; it moves all the same",
				cs_str("endpoint", ep->spec.id), cs_u64("identity", ep->move.to));
		ep->move.preparing = false;
		cs_node_claim(node, ep);
	}
}

static void on_moves(struct cs_timer *timer)
{
	struct cs_node *node = timer->data;
	struct cs_node_endpoint *ep, *tmp;
	cs_node_moves_look(node);
	HASH_ITER (hh, node->endpoints, ep, tmp)
		if (ep->move.preparing && ep->move.to != 0)
			arm(node);
}

void cs_node_moves_init(struct cs_node *node)
{
	cs_timer_init(&node->moves, node->options.loop, on_moves, node);
}
