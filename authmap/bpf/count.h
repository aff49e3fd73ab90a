/* What a refusal leaves behind: a count by reason and hook, and once a minute a record. */
#ifndef CS_COUNT_H
#define CS_COUNT_H

#include "packet.h"

static __always_inline void count(__u32 index, __u32 len)
{
	struct cs_count *row = bpf_map_lookup_elem(&cs_count, &index);
	if (row) {
		row->packets++;
		row->bytes += len;
	}
}

/* Packets of this key so far, or 0 if none is to be recorded now. */
static __always_inline __u64 due(const struct cs_drop_key *key, __u64 now)
{
	struct cs_seen first = {.recorded_ns = now, .packets = 1}, *seen = bpf_map_lookup_elem(&cs_seen, key);
	__u64 recorded, packets;

	if (!seen)
		return !bpf_map_update_elem(&cs_seen, key, &first, BPF_NOEXIST);
	packets = __sync_fetch_and_add(&seen->packets, 1) + 1;
	recorded = seen->recorded_ns;
	if (recorded + CS_RECORD_NS > now)
		return 0;
	return __sync_val_compare_and_swap(&seen->recorded_ns, recorded, now) == recorded ? packets : 0;
}

static __always_inline void record(struct __sk_buff *skb, const struct judged *j, __u8 why, __u8 would)
{
	struct cs_drop_key key = {.local = j->key.local,
		.remote = j->key.remote,
		.ifindex = j->ifindex,
		.reason = why,
		.dir = j->dir,
		.would = would};
	__u64 now = bpf_ktime_get_coarse_ns(), packets = due(&key, now);
	_Bool not_own = why == CS_R_SOURCE_NOT_OWNED || why == CS_R_DESTINATION_NOT_OWNED;
	struct cs_drop *drop;

	if (!packets)
		return;
	drop = bpf_ringbuf_reserve(&cs_drop, sizeof(*drop), 0);
	if (!drop)
		return;
	drop->ts_ns = now;
	drop->packets = packets;
	drop->key = key;
	drop->node = j->key.node;
	drop->family = j->p.family;
	drop->proto = j->p.proto;
	__builtin_memcpy(drop->addr, (j->dir == CS_FROM) == not_own ? j->p.src : j->p.dst, 16);
	drop->len = skb->len;
	bpf_ringbuf_submit(drop, 0);
}

/* The end of a packet that may not pass. */
OUT_OF_LINE int cs_refuse(struct __sk_buff *skb, const struct judged *j, int why)
{
	__u8 would;

	if (!j)
		return TC_ACT_SHOT;
	would = j->audit || (node_flags() & CS_NODE_AUDIT);

	count(CS_COUNT(why & (CS_REASON_MAX - 1), would, j->dir), skb->len);
	record(skb, j, why, would);
	return would ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

#endif
