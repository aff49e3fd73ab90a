/* Whose address is it: the endpoint's own, and who the other one is. */
#ifndef CS_OWNERSHIP_H
#define CS_OWNERSHIP_H

#include "packet.h"

/* Unused places are zero, and so is no address that can be owned. */
static __always_inline _Bool owns4(const struct cs_endpoint *ep, __u32 addr)
{
	return addr && (ep->own4_be32[0] == addr || ep->own4_be32[1] == addr || ep->own4_be32[2] == addr ||
			       ep->own4_be32[3] == addr);
}

static __always_inline _Bool owns6(const struct cs_endpoint *ep, const __u64 *addr64)
{
	const __u64 *own = (const __u64 *)ep->own6;
	if (!(addr64[0] | addr64[1]))
		return 0;
	return (own[0] == addr64[0] && own[1] == addr64[1]) || (own[2] == addr64[0] && own[3] == addr64[1]) ||
	       (own[4] == addr64[0] && own[5] == addr64[1]) || (own[6] == addr64[0] && own[7] == addr64[1]);
}

static __always_inline _Bool owns(const struct cs_endpoint *ep, __u8 family, const __u64 *addr64)
{
	return family == 4 ? owns4(ep, (__u32)addr64[0]) : owns6(ep, addr64);
}

/* Out of line: an address of the world; endpoints and nodes have exact rows. */
static __noinline struct cs_addr *by_prefix(__u8 family, const __u64 *addr64)
{
	if (family == 4) {
		struct cs_prefix4 key = {.len = 32, .addr_be32 = (__u32)addr64[0]};
		return bpf_map_lookup_elem(&cs_prefix4, &key);
	}
	struct cs_prefix6 key = {.len = 128};
	__builtin_memcpy(key.addr, addr64, 16);
	return bpf_map_lookup_elem(&cs_prefix6, &key);
}

/* Fills remote, node and flags of the other address. A group is nobody: the world. */
static __always_inline void identify(struct judged *j)
{
	const __u64 *other = j->dir == CS_FROM ? j->p.dst64 : j->p.src64;
	struct cs_addr *addr;

	j->key.remote = CS_ID_WORLD;
	if (j->dir == CS_FROM && j->p.group)
		return;
	if (j->p.family == 4) {
		__u32 key = (__u32)other[0];
		addr = bpf_map_lookup_elem(&cs_addr4, &key);
	} else {
		addr = bpf_map_lookup_elem(&cs_addr6, other);
	}
	if (!addr)
		addr = by_prefix(j->p.family, other);
	if (!addr)
		return;
	j->key.remote = addr->identity;
	j->key.node = addr->node;
	j->flags = addr->flags;
}

#endif
