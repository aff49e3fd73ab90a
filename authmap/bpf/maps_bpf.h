/* The maps of <countersign/maps.h> as the kernel sees them, and what is fixed before loading. Sizes here are only the
 * defaults: authd sets them, and the type of cs_endpoint, from its settings. */
#ifndef CS_MAPS_BPF_H
#define CS_MAPS_BPF_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <countersign/maps.h>
#include <countersign/reason.h>

#define MAP(name, kind, rows, k, v, flags)                                                                             \
	struct {                                                                                                       \
		__uint(type, kind);                                                                                    \
		__uint(max_entries, rows);                                                                             \
		__uint(map_flags, flags);                                                                              \
		__type(key, k);                                                                                        \
		__type(value, v);                                                                                      \
	} name SEC(".maps")
#define RING(name, bytes)                                                                                              \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                                    \
		__uint(max_entries, bytes);                                                                            \
	} name SEC(".maps")

MAP(cs_endpoint, BPF_MAP_TYPE_ARRAY, 4096, __u32, struct cs_endpoint, 0);
MAP(cs_addr4, BPF_MAP_TYPE_HASH, 262144, __u32, struct cs_addr, BPF_F_NO_PREALLOC);
MAP(cs_addr6, BPF_MAP_TYPE_HASH, 262144, struct cs_addr6, struct cs_addr, BPF_F_NO_PREALLOC);
MAP(cs_prefix4, BPF_MAP_TYPE_LPM_TRIE, 16384, struct cs_prefix4, struct cs_addr, BPF_F_NO_PREALLOC);
MAP(cs_prefix6, BPF_MAP_TYPE_LPM_TRIE, 16384, struct cs_prefix6, struct cs_addr, BPF_F_NO_PREALLOC);
MAP(cs_policy, BPF_MAP_TYPE_HASH, 262144, struct cs_policy_key, struct cs_policy, BPF_F_NO_PREALLOC);
MAP(cs_auth, BPF_MAP_TYPE_HASH, 65536, struct cs_auth_key, __u64, BPF_F_NO_PREALLOC);
MAP(cs_basis, BPF_MAP_TYPE_HASH, 65536, struct cs_auth_key, struct cs_basis, BPF_F_NO_PREALLOC);
/* Written from packets, or by the sleepable cs_settle: preallocated. */
MAP(cs_pending, BPF_MAP_TYPE_HASH, 16384, struct cs_auth_key, struct cs_pending, 0);
MAP(cs_budget, BPF_MAP_TYPE_HASH, 8192, struct cs_budget_key, struct cs_budget, 0);
MAP(cs_flows, BPF_MAP_TYPE_LRU_HASH, 65536, struct cs_flow_key, __u64, 0);
MAP(cs_seen, BPF_MAP_TYPE_LRU_HASH, 16384, struct cs_drop_key, struct cs_seen, 0);
MAP(cs_node, BPF_MAP_TYPE_HASH, 8192, __u16, struct cs_node, BPF_F_NO_PREALLOC);
MAP(cs_config, BPF_MAP_TYPE_ARRAY, 1, __u32, struct cs_config, BPF_F_MMAPABLE);
MAP(cs_count, BPF_MAP_TYPE_PERCPU_ARRAY, CS_COUNT_ROWS, __u32, struct cs_count, 0);
RING(cs_held, 1 << 20);
RING(cs_signal, 1 << 18);
RING(cs_drop, 1 << 18);

/* Under TCX only TC_ACT_SHOT drops; under clsact TC_ACT_STOLEN spares a sender on this very node an ENOBUFS for a packet
 * that is only held. */
const volatile int held_action = 2 /* TC_ACT_SHOT */;
/* The kernel has bpf_cast_to_kern_ctx: checksum state is known instead of inferred. */
const volatile _Bool csum_kfunc = 0;

#endif
