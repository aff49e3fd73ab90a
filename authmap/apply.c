#include "apply.h"

#include <errno.h>
#include <string.h>
#include "log.h"

#define ROUNDS_MAX 4 /* a failure closes something; that it is closed may open nothing, so two are enough */

static const void *ip_bytes(const struct cs_ip *ip)
{
	return ip->b;
}

static int put(struct cs_apply *a, const struct cs_op *op, struct cs_error *e)
{
	struct cs_node node;
	struct cs_endpoint endpoint;
	struct cs_addr addr;
	struct cs_policy policy;
	switch (op->kind) {
	case CS_OP_NODE_PUT:
		return cs_world_node_row(a->world, op->node, &node) ? cs_datapath_node_put(a->dp, op->node, &node, e)
								    : 0;
	case CS_OP_ENDPOINT_PUT:
		return cs_world_endpoint_row(a->world, op->ifindex, &endpoint)
			       ? cs_datapath_endpoint_put(a->dp, op->ifindex, &endpoint, e)
			       : 0;
	case CS_OP_ADDR_PUT:
		return cs_world_addr_row(a->world, &op->addr, &addr)
			       ? cs_datapath_addr_put(a->dp, op->addr.family, ip_bytes(&op->addr), &addr, e)
			       : 0;
	case CS_OP_PREFIX_PUT:
		return cs_world_prefix_row(a->world, &op->prefix, &addr)
			       ? cs_datapath_prefix_put(a->dp, op->prefix.ip.family, ip_bytes(&op->prefix.ip),
					 op->prefix.bits, &addr, e)
			       : 0;
	case CS_OP_POLICY_PUT:
		return cs_world_policy_row(a->world, &op->policy, &policy)
			       ? cs_datapath_policy_put(a->dp, &op->policy, &policy, e)
			       : 0;
	default:
		return 0;
	}
}

static int close_endpoint(struct cs_apply *a, uint32_t ifindex, struct cs_error *e)
{
	cs_hold_forget_interface(a->hold, ifindex, CS_R_NO_ENDPOINT);
	return cs_datapath_endpoint_del(a->dp, ifindex, e);
}

/* A row that cannot be changed does not go on saying what it said before. */
static int put_endpoint(struct cs_apply *a, const struct cs_op *op, struct cs_error *e)
{
	struct cs_error ignored;
	int r = put(a, op, e);
	if (r < 0 && close_endpoint(a, op->ifindex, &ignored) < 0)
		a->again = true;
	return r;
}

static int execute(struct cs_apply *a, const struct cs_op *op, struct cs_error *e)
{
	switch (op->kind) {
	case CS_OP_ATTACH:
		return cs_attach_add(a->attach, op->ifindex, e);
	case CS_OP_ENDPOINT_DEL:
		return close_endpoint(a, op->ifindex, e);
	case CS_OP_ENDPOINT_PUT:
		return put_endpoint(a, op, e);
	case CS_OP_ADDR_DEL:
		return cs_datapath_addr_del(a->dp, op->addr.family, ip_bytes(&op->addr), e);
	case CS_OP_PREFIX_DEL:
		return cs_datapath_prefix_del(
			a->dp, op->prefix.ip.family, ip_bytes(&op->prefix.ip), op->prefix.bits, e);
	case CS_OP_POLICY_DEL:
		return cs_datapath_policy_del(a->dp, &op->policy, e);
	case CS_OP_NODE_DEL:
		return cs_datapath_node_del(a->dp, op->node, e);
	case CS_OP_ENTRIES_BEFORE:
	case CS_OP_ENTRIES_AFTER:
		a->entries(a->data, op->kind == CS_OP_ENTRIES_BEFORE);
		return 0;
	default:
		return put(a, op, e);
	}
}

static bool one_round(struct cs_apply *a)
{
	size_t n;
	bool again = false;
	const struct cs_op *ops = cs_world_plan(a->world, &n);
	for (size_t i = 0; i < n; i++) {
		struct cs_error e = {0};
		int r = execute(a, &ops[i], &e);
		a->operations++;
		if (r < 0) {
			a->failures++;
			a->again |= ops[i].kind != CS_OP_ATTACH && e.reason != CS_R_MAP_FULL;
			cs_warn("the datapath could not be changed", cs_err(&e), cs_why(e.reason));
		}
		again |= cs_world_done(a->world, &ops[i], r < 0 ? &e : NULL);
	}
	return again;
}

void cs_apply_run(struct cs_apply *a)
{
	a->again = false;
	for (int i = 0; i < ROUNDS_MAX && one_round(a); i++)
		;
}

/* ---- at start ---- */

static bool adopt_node(const void *key, const void *value, void *data)
{
	uint16_t id;
	memcpy(&id, key, sizeof(id));
	cs_world_adopt_node(((struct cs_apply *)data)->world, id, value);
	return true;
}

static bool adopt_endpoint(const void *key, const void *value, void *data)
{
	uint32_t ifindex;
	memcpy(&ifindex, key, sizeof(ifindex));
	cs_world_adopt_endpoint(((struct cs_apply *)data)->world, ifindex, value);
	return true;
}

static void adopt_ip(struct cs_apply *a, const void *bytes, size_t len, const void *value)
{
	struct cs_ip ip;
	cs_ip_from_bytes(&ip, bytes, len);
	cs_world_adopt_addr(a->world, &ip, value);
}

static bool adopt_addr4(const void *key, const void *value, void *data)
{
	adopt_ip(data, key, 4, value);
	return true;
}

static bool adopt_addr6(const void *key, const void *value, void *data)
{
	adopt_ip(data, key, 16, value);
	return true;
}

static void adopt_prefix(struct cs_apply *a, const void *bytes, size_t len, uint32_t bits, const void *value)
{
	struct cs_ip_prefix prefix = {.bits = bits};
	cs_ip_from_bytes(&prefix.ip, bytes, len);
	cs_world_adopt_prefix(a->world, &prefix, value);
}

static bool adopt_prefix4(const void *key, const void *value, void *data)
{
	const struct cs_prefix4 *p = key;
	adopt_prefix(data, &p->addr_be32, 4, p->len, value);
	return true;
}

static bool adopt_prefix6(const void *key, const void *value, void *data)
{
	const struct cs_prefix6 *p = key;
	adopt_prefix(data, p->addr, 16, p->len, value);
	return true;
}

static bool adopt_policy(const void *key, const void *value, void *data)
{
	cs_world_adopt_policy(((struct cs_apply *)data)->world, key, value);
	return true;
}

int cs_apply_adopt(struct cs_apply *a, struct cs_error *e)
{
	static const struct {
		enum cs_map map;
		bool (*fn)(const void *key, const void *value, void *data);
	} maps[] = {{CS_MAP_NODE, adopt_node}, {CS_MAP_ENDPOINT, adopt_endpoint}, {CS_MAP_ADDR4, adopt_addr4},
		{CS_MAP_ADDR6, adopt_addr6}, {CS_MAP_PREFIX4, adopt_prefix4}, {CS_MAP_PREFIX6, adopt_prefix6},
		{CS_MAP_POLICY, adopt_policy}};
	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++) {
		int r = cs_datapath_each(a->dp, maps[i].map, maps[i].fn, a, e);
		if (r < 0)
			return r;
	}
	return 0;
}
