/* The maps behind typed functions. */
#include "datapath_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#define FLOWS_BATCH 4096 /* rows in one call */

static int put(struct cs_datapath *dp, int map, const void *key, const void *value, struct cs_error *e)
{
	int r = bpf_map_update_elem(dp->map_fd[map], key, value, BPF_ANY);
	if (r == 0)
		return 0;
	if (r == -E2BIG || r == -ENOSPC || r == -ENOMEM)
		return cs_error_reason(e, -ENOSPC, CS_R_MAP_FULL,
			"the map %s has no room for another row; its size is a setting of the datapath",
			cs_map_name(map));
	cs_error_errno(e, r, "cannot write to the map %s", cs_map_name(map));
	if (e)
		e->reason = CS_R_MAP_WRITE_FAILED;
	return r;
}

static int get(struct cs_datapath *dp, int map, const void *key, void *value)
{
	int r = bpf_map_lookup_elem(dp->map_fd[map], key, value);
	return r == 0 ? 1 : r == -ENOENT ? 0 : r;
}

static int del(struct cs_datapath *dp, int map, const void *key, struct cs_error *e)
{
	int r = bpf_map_delete_elem(dp->map_fd[map], key);
	if (r == 0 || r == -ENOENT)
		return 0;
	cs_error_errno(e, r, "cannot delete from the map %s", cs_map_name(map));
	if (e)
		e->reason = CS_R_MAP_WRITE_FAILED;
	return r;
}

int cs_datapath_each(struct cs_datapath *dp, enum cs_map map,
	bool (*fn)(const void *key, const void *value, void *data), void *data, struct cs_error *e)
{
	/* Aligned, for fn reads them as what they are. */
	uint8_t key[CS_ROW_KEY_MAX] __attribute__((aligned(8))), next[CS_ROW_KEY_MAX] __attribute__((aligned(8)));
	uint8_t value[CS_ROW_VALUE_MAX] __attribute__((aligned(8)));
	int fd = dp->map_fd[map], rows = 0;
	int r = bpf_map_get_next_key(fd, NULL, key);
	while (r == 0) {
		/* The next key first: fn may delete this row, and from a missing key the walk would start again. */
		int next_r = bpf_map_get_next_key(fd, key, next);
		r = bpf_map_lookup_elem(fd, key, value);
		bool is_row = r == 0;
		if (map == CS_MAP_ENDPOINT && !dp->endpoint_hash)
			is_row = is_row && ((struct cs_endpoint *)value)->identity != 0;
		if (is_row) {
			rows++;
			if (!fn(key, value, data))
				return rows;
		} else if (r < 0 && r != -ENOENT) {
			break;
		}
		memcpy(key, next, sizeof(key));
		r = next_r;
	}
	if (r != -ENOENT)
		return cs_error_errno(e, r, "cannot walk the map %s", cs_map_name((int)map));
	return rows;
}

/* Endpoints */

static bool same_owner(const struct cs_endpoint *a, const struct cs_endpoint *b)
{
	return a->identity == b->identity && a->n4 == b->n4 && a->n6 == b->n6 &&
	       memcmp(a->own4_be32, b->own4_be32, sizeof(a->own4_be32)) == 0 &&
	       memcmp(a->own6, b->own6, sizeof(a->own6)) == 0;
}

static struct cs_budget_key budget_key(uint32_t ifindex, enum cs_dir dir)
{
	return (struct cs_budget_key){.kind = CS_BUDGET_INTERFACE, .id = ifindex << 1 | dir};
}

static int make_budgets(struct cs_datapath *dp, uint32_t ifindex, struct cs_error *e)
{
	for (int dir = CS_FROM; dir <= CS_TO; dir++) {
		struct cs_budget_key key = budget_key(ifindex, (enum cs_dir)dir);
		struct cs_budget row = {.pairs = CS_NEW_PAIRS_PER_S, .refill_ns = cs_datapath_now_ns()};
		int r = bpf_map_update_elem(dp->map_fd[CS_MAP_BUDGET], &key, &row, BPF_NOEXIST);
		if (r < 0 && r != -EEXIST)
			return put(dp, CS_MAP_BUDGET, &key, &row, e); /* for the error's sentence */
	}
	return 0;
}

int cs_datapath_endpoint_put(
	struct cs_datapath *dp, uint32_t ifindex, const struct cs_endpoint *endpoint, struct cs_error *e)
{
	static const struct cs_endpoint closed;
	struct cs_endpoint old;
	if (!dp->endpoint_hash && ifindex >= dp->endpoint_rows)
		return cs_error_reason(e, -ENOSPC, CS_R_MAP_FULL,
			"the interface's index %u is above %u, up to which this life looks interfaces up in an array; "
			"started "
			"again, it takes a hash",
			ifindex, dp->endpoint_rows - 1);
	int r = make_budgets(dp, ifindex, e);
	if (r == 0 && cs_datapath_endpoint_get(dp, ifindex, &old) == 1 && !same_owner(&old, endpoint))
		r = put(dp, CS_MAP_ENDPOINT, &ifindex, &closed, e);
	if (r == 0)
		r = put(dp, CS_MAP_ENDPOINT, &ifindex, endpoint, e);
	return r;
}

int cs_datapath_endpoint_get(struct cs_datapath *dp, uint32_t ifindex, struct cs_endpoint *ret)
{
	int r = get(dp, CS_MAP_ENDPOINT, &ifindex, ret);
	return r == 1 && ret->identity == 0 ? 0 : r;
}

struct flow_filter {
	struct cs_datapath *dp;
	uint32_t ifindex;
	int family;
	const void *ip; /* NULL: those of the interface */
	struct cs_error *e;
};

static bool is_flow_of(const struct cs_flow_key *flow, const struct flow_filter *f)
{
	size_t n = f->family == 4 ? 4 : 16;
	if (!f->ip)
		return flow->ifindex == f->ifindex;
	return flow->family == f->family && (memcmp(flow->saddr, f->ip, n) == 0 || memcmp(flow->daddr, f->ip, n) == 0);
}

/* In batches: workloads fill this map, and each address that goes anywhere in the cluster is a walk over it. */
static int forget_flows(const struct flow_filter *f)
{
	struct cs_flow_key *keys = malloc(FLOWS_BATCH * sizeof(*keys));
	uint64_t *seen = malloc(FLOWS_BATCH * sizeof(*seen));
	uint32_t at = 0; /* the kernel's: where it is in the map */
	int r = keys && seen ? 0 : -ENOMEM, deleted = 0;
	for (bool first = true; r == 0 && deleted == 0; first = false) {
		uint32_t n = FLOWS_BATCH;
		r = bpf_map_lookup_batch(f->dp->map_fd[CS_MAP_FLOWS], first ? NULL : &at, &at, keys, seen, &n, NULL);
		for (uint32_t i = 0; (r == 0 || r == -ENOENT) && deleted == 0 && i < n; i++)
			if (is_flow_of(&keys[i], f))
				deleted = del(f->dp, CS_MAP_FLOWS, &keys[i], f->e);
	}
	free(keys);
	free(seen);
	if (r < 0 && r != -ENOENT) /* -ENOENT: that was all */
		return cs_error_errno(f->e, r, "cannot walk the map %s", cs_map_name(CS_MAP_FLOWS));
	return deleted;
}

int cs_datapath_endpoint_del(struct cs_datapath *dp, uint32_t ifindex, struct cs_error *e)
{
	static const struct cs_endpoint closed;
	int r = 0;
	if (dp->endpoint_hash)
		r = del(dp, CS_MAP_ENDPOINT, &ifindex, e);
	else if (ifindex < dp->endpoint_rows)
		r = put(dp, CS_MAP_ENDPOINT, &ifindex, &closed, e);
	for (int dir = CS_FROM; r == 0 && dir <= CS_TO; dir++) {
		struct cs_budget_key key = budget_key(ifindex, (enum cs_dir)dir);
		r = del(dp, CS_MAP_BUDGET, &key, e);
	}
	if (r == 0)
		r = forget_flows(&(struct flow_filter){.dp = dp, .ifindex = ifindex, .e = e});
	return r;
}

/* Addresses */

int cs_datapath_addr_put(
	struct cs_datapath *dp, int family, const void *ip, const struct cs_addr *addr, struct cs_error *e)
{
	return put(dp, family == 4 ? CS_MAP_ADDR4 : CS_MAP_ADDR6, ip, addr, e);
}

int cs_datapath_addr_del(struct cs_datapath *dp, int family, const void *ip, struct cs_error *e)
{
	int r = del(dp, family == 4 ? CS_MAP_ADDR4 : CS_MAP_ADDR6, ip, e);
	if (r == 0)
		r = forget_flows(&(struct flow_filter){.dp = dp, .family = family, .ip = ip, .e = e});
	return r;
}

union prefix {
	struct cs_prefix4 v4;
	struct cs_prefix6 v6;
};

static int prefix_key(int family, const void *ip, uint32_t bits, union prefix *ret, struct cs_error *e)
{
	if (bits > (family == 4 ? 32u : 128u))
		return cs_error_set(e, -EINVAL, "a prefix of IPv%d has no %u bits", family, bits);
	memset(ret, 0, sizeof(*ret));
	if (family == 4) {
		ret->v4.len = bits;
		memcpy(&ret->v4.addr_be32, ip, 4);
	} else {
		ret->v6.len = bits;
		memcpy(ret->v6.addr, ip, 16);
	}
	return 0;
}

int cs_datapath_prefix_put(struct cs_datapath *dp, int family, const void *ip, uint32_t bits,
	const struct cs_addr *addr, struct cs_error *e)
{
	union prefix key;
	int r = prefix_key(family, ip, bits, &key, e);
	return r < 0 ? r : put(dp, family == 4 ? CS_MAP_PREFIX4 : CS_MAP_PREFIX6, &key, addr, e);
}

int cs_datapath_prefix_del(struct cs_datapath *dp, int family, const void *ip, uint32_t bits, struct cs_error *e)
{
	union prefix key;
	int r = prefix_key(family, ip, bits, &key, e);
	return r < 0 ? r : del(dp, family == 4 ? CS_MAP_PREFIX4 : CS_MAP_PREFIX6, &key, e);
}

int cs_datapath_addr_find(struct cs_datapath *dp, int family, const void *ip, struct cs_addr *ret)
{
	union prefix key;
	int r = get(dp, family == 4 ? CS_MAP_ADDR4 : CS_MAP_ADDR6, ip, ret);
	if (r == 0 && (r = prefix_key(family, ip, family == 4 ? 32 : 128, &key, NULL)) == 0)
		r = get(dp, family == 4 ? CS_MAP_PREFIX4 : CS_MAP_PREFIX6, &key, ret);
	if (r == 0)
		*ret = (struct cs_addr){.identity = CS_ID_WORLD};
	return r < 0 ? r : 0;
}

/* Pairs */

int cs_datapath_policy_put(
	struct cs_datapath *dp, const struct cs_policy_key *key, const struct cs_policy *policy, struct cs_error *e)
{
	return put(dp, CS_MAP_POLICY, key, policy, e);
}

int cs_datapath_policy_get(struct cs_datapath *dp, const struct cs_policy_key *key, struct cs_policy *ret)
{
	return get(dp, CS_MAP_POLICY, key, ret);
}

int cs_datapath_policy_del(struct cs_datapath *dp, const struct cs_policy_key *key, struct cs_error *e)
{
	return del(dp, CS_MAP_POLICY, key, e);
}

int cs_datapath_auth_put(struct cs_datapath *dp, const struct cs_auth_key *key, uint64_t value, struct cs_error *e)
{
	return put(dp, CS_MAP_AUTH, key, &value, e);
}

int cs_datapath_auth_get(struct cs_datapath *dp, const struct cs_auth_key *key, uint64_t *ret)
{
	return get(dp, CS_MAP_AUTH, key, ret);
}

int cs_datapath_auth_del(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_error *e)
{
	return del(dp, CS_MAP_AUTH, key, e);
}

int cs_datapath_basis_put(
	struct cs_datapath *dp, const struct cs_auth_key *key, const struct cs_basis *basis, struct cs_error *e)
{
	return put(dp, CS_MAP_BASIS, key, basis, e);
}

int cs_datapath_basis_get(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_basis *ret)
{
	return get(dp, CS_MAP_BASIS, key, ret);
}

int cs_datapath_basis_del(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_error *e)
{
	return del(dp, CS_MAP_BASIS, key, e);
}

int cs_datapath_pending_put(
	struct cs_datapath *dp, const struct cs_auth_key *key, const struct cs_pending *pending, struct cs_error *e)
{
	return put(dp, CS_MAP_PENDING, key, pending, e);
}

int cs_datapath_pending_get(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_pending *ret)
{
	return get(dp, CS_MAP_PENDING, key, ret);
}

int cs_datapath_pending_del(struct cs_datapath *dp, const struct cs_auth_key *key, struct cs_error *e)
{
	return del(dp, CS_MAP_PENDING, key, e);
}

int cs_datapath_settle(struct cs_datapath *dp, const struct cs_settle *settle, struct cs_error *e)
{
	struct cs_settle ctx = *settle;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx));
	int r = bpf_prog_test_run_opts(cs_datapath_prog_fd(dp, CS_PROG_SETTLE, 0), &opts);
	return r < 0 ? cs_error_errno(e, r, "cannot settle the budgets of interface %u", settle->ifindex) : 0;
}

struct each {
	struct cs_datapath *dp;
	struct cs_error *e;
	int r;
};

static bool forget_row(const void *key, const void *value, void *data)
{
	struct each *each = data;
	(void)value;
	each->r = del(each->dp, CS_MAP_PENDING, key, each->e);
	return each->r == 0;
}

static bool nothing_held(const void *key, const void *value, void *data)
{
	struct each *each = data;
	struct cs_budget row = *(const struct cs_budget *)value;
	row.packets = row.bytes = 0;
	each->r = put(each->dp, CS_MAP_BUDGET, key, &row, each->e);
	return each->r == 0;
}

int cs_datapath_forget_asked(struct cs_datapath *dp, struct cs_error *e)
{
	struct each each = {.dp = dp, .e = e};
	int r = cs_datapath_each(dp, CS_MAP_PENDING, forget_row, &each, e);
	if (r >= 0 && each.r == 0)
		r = cs_datapath_each(dp, CS_MAP_BUDGET, nothing_held, &each, e);
	return r < 0 ? r : each.r;
}

int cs_datapath_node_put(struct cs_datapath *dp, uint16_t id, const struct cs_node *node, struct cs_error *e)
{
	return put(dp, CS_MAP_NODE, &id, node, e);
}

int cs_datapath_node_del(struct cs_datapath *dp, uint16_t id, struct cs_error *e)
{
	return del(dp, CS_MAP_NODE, &id, e);
}

/* Configuration and counters */

void cs_datapath_set_alive(struct cs_datapath *dp, uint64_t now_ns)
{
	__atomic_store_n(&dp->config->alive_ns, now_ns, __ATOMIC_RELAXED);
}

void cs_datapath_set_flags(struct cs_datapath *dp, uint32_t node_flags)
{
	__atomic_store_n(&dp->config->node_flags, node_flags, __ATOMIC_RELAXED);
}

struct cs_config cs_datapath_get_config(const struct cs_datapath *dp)
{
	return (struct cs_config){.abi = __atomic_load_n(&dp->config->abi, __ATOMIC_RELAXED),
		.node_flags = __atomic_load_n(&dp->config->node_flags, __ATOMIC_RELAXED),
		.bypass_until_ns = __atomic_load_n(&dp->config->bypass_until_ns, __ATOMIC_RELAXED),
		.alive_ns = __atomic_load_n(&dp->config->alive_ns, __ATOMIC_RELAXED)};
}

int cs_datapath_count(struct cs_datapath *dp, enum cs_reason reason, bool would, enum cs_dir dir, struct cs_count *ret)
{
	int cpus = libbpf_num_possible_cpus();
	if (cpus < 0)
		return cpus;
	struct cs_count *rows = calloc((size_t)cpus, sizeof(*rows));
	if (!rows)
		return -ENOMEM;
	uint32_t key = CS_COUNT(reason, would, dir);
	int r = bpf_map_lookup_elem(dp->map_fd[MAP_COUNT], &key, rows);
	*ret = (struct cs_count){0};
	for (int i = 0; r == 0 && i < cpus; i++) {
		ret->packets += rows[i].packets;
		ret->bytes += rows[i].bytes;
	}
	free(rows);
	return r;
}

uint64_t cs_datapath_now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}
