/* A miss: ask authd, by the packet itself where it can be held, and bounded in every direction. */
#ifndef CS_BPF_HOLD_H
#define CS_BPF_HOLD_H

#include "offload.h"

#define NEW_PAIR_NS (1000000000ULL / CS_NEW_PAIRS_PER_S)

/* One of the interface's new pairs. */
static __always_inline _Bool take_new_pair(struct cs_budget *budget, __u64 now)
{
	__u64 refilled = budget->refill_ns;

	if (now >= refilled + NEW_PAIR_NS) {
		__u64 grown = (now - refilled) / NEW_PAIR_NS;
		/* Who moves the time on adds; the rest of an interval is kept unless the bucket is full anyway. */
		__u64 until = grown >= CS_NEW_PAIRS_PER_S ? now : refilled + grown * NEW_PAIR_NS;
		if (__sync_val_compare_and_swap(&budget->refill_ns, refilled, until) == refilled) {
			__u64 pairs = budget->pairs + grown;
			budget->pairs = pairs > CS_NEW_PAIRS_PER_S ? CS_NEW_PAIRS_PER_S : pairs;
		}
	}
	if ((__s32)__sync_fetch_and_add(&budget->pairs, (__u32)-1) > 0)
		return 1;
	__sync_fetch_and_add(&budget->pairs, 1);
	return 0;
}

static __always_inline _Bool take(__u32 *counter, __u32 n, __u32 limit)
{
	if (__sync_fetch_and_add(counter, n) + n <= limit)
		return 1;
	__sync_fetch_and_sub(counter, n);
	return 0;
}

static __always_inline _Bool take_room(struct cs_pending *pending, struct cs_budget *budget, __u32 len)
{
	if (!take(&pending->packets, 1, CS_HOLD_PAIR_PACKETS))
		return 0;
	if (take(&pending->bytes, len, CS_HOLD_PAIR_BYTES)) {
		if (take(&budget->packets, 1, CS_HOLD_INTERFACE_PACKETS)) {
			if (take(&budget->bytes, len, CS_HOLD_INTERFACE_BYTES))
				return 1;
			__sync_fetch_and_sub(&budget->packets, 1);
		}
		__sync_fetch_and_sub(&pending->bytes, len);
	}
	__sync_fetch_and_sub(&pending->packets, 1);
	return 0;
}

static __always_inline void give_room(struct cs_pending *pending, struct cs_budget *budget, __u32 len)
{
	__sync_fetch_and_sub(&pending->packets, 1);
	__sync_fetch_and_sub(&pending->bytes, len);
	__sync_fetch_and_sub(&budget->packets, 1);
	__sync_fetch_and_sub(&budget->bytes, len);
}

static __always_inline void fill_head(
	struct __sk_buff *skb, const struct judged *j, __u64 now, __u8 why, struct cs_held *held)
{
	__builtin_memset(held, 0, sizeof(*held));
	held->ts_ns = now;
	held->key = j->key;
	held->ifindex = j->ifindex;
	held->dir = j->dir;
	held->why = why;
	held->len = skb->len;
	held->mark = skb->mark;
}

/* bpf_ringbuf_reserve wants a constant size, hence one function per class. */
static __always_inline int copy_class(struct __sk_buff *skb, const struct judged *j, __u64 now, const __u32 class)
{
	struct cs_held *held = bpf_ringbuf_reserve(&cs_held, sizeof(*held) + class, 0);
	__u32 len = skb->len;

	if (!held)
		return CS_R_HOLD_BUDGET;
	fill_head(skb, j, now, 0, held);
	barrier_var(len); /* one copy of len, so that both tests bound what is handed on */
	if (len < ETH_HLEN || len > class || bpf_skb_load_bytes(skb, 0, held + 1, len) ||
		!fill_offload(skb, &j->p, held)) {
		bpf_ringbuf_discard(held, 0);
		return CS_R_UNHOLDABLE;
	}
	held->caplen = len;
	bpf_ringbuf_submit(held, 0);
	return HELD;
}

static __always_inline int copy(struct __sk_buff *skb, const struct judged *j, __u64 now)
{
	if (skb->len <= CS_HELD_SMALL)
		return copy_class(skb, j, now, CS_HELD_SMALL);
	if (skb->len <= CS_HELD_MAX)
		return copy_class(skb, j, now, CS_HELD_MAX);
	return CS_R_UNHOLDABLE;
}

static __always_inline _Bool signal(struct __sk_buff *skb, const struct judged *j, __u64 now, __u8 why)
{
	struct cs_held *held = bpf_ringbuf_reserve(&cs_signal, sizeof(*held), 0);

	if (!held)
		return 0;
	fill_head(skb, j, now, why, held);
	bpf_ringbuf_submit(held, 0);
	return 1;
}

/* The pair's row. *asks: nobody has asked yet, and this packet must. NULL with *why: dropped unasked. */
static __always_inline struct cs_pending *pending_row(
	const struct judged *j, struct cs_budget *budget, __u64 now, _Bool *asks, int *why)
{
	struct cs_pending *row = bpf_map_lookup_elem(&cs_pending, &j->key);
	__u64 until;

	*why = CS_R_PENDING_FULL;
	if (!row) {
		struct cs_pending fresh = {.until_ns = now + CS_ASKING_NS, .state = CS_ASKING};
		if (!take_new_pair(budget, now))
			return NULL;
		*asks = !bpf_map_update_elem(&cs_pending, &j->key, &fresh, BPF_NOEXIST);
		return bpf_map_lookup_elem(&cs_pending, &j->key);
	}
	until = row->until_ns;
	if (until > now) {
		*why = CS_R_BACKOFF;
		return row->state == CS_REFUSED ? NULL : row;
	}
	if (!take_new_pair(budget, now))
		return NULL;
	if (__sync_val_compare_and_swap(&row->until_ns, until, now + CS_ASKING_NS) == until) {
		row->state = CS_ASKING;
		*asks = 1;
	}
	return row;
}

/* HELD, or why the packet is dropped (in audit: would be). */
OUT_OF_LINE int cs_ask(struct __sk_buff *skb, const struct judged *j, __u64 now)
{
	struct cs_budget_key id = {.kind = CS_BUDGET_INTERFACE};
	struct cs_config *c = config();
	struct cs_budget *budget;
	struct cs_pending *row;
	_Bool asks = 0;
	int why;

	if (!j || j->reinjected)
		return CS_R_REINJECTED_MISS;
	if (!c || c->alive_ns + CS_ALIVE_NS <= now)
		return CS_R_DAEMON_DOWN;
	id.id = j->ifindex << 1 | (j->dir & 1);
	budget = bpf_map_lookup_elem(&cs_budget, &id);
	if (!budget)
		return CS_R_HOLD_BUDGET;
	row = pending_row(j, budget, now, &asks, &why);
	if (!row)
		return why;
	if (!(c->node_flags & CS_NODE_HOLD) || (c->node_flags & CS_NODE_AUDIT) || j->audit) {
		why = CS_R_UNAUTHENTICATED;
	} else if (skb->len > CS_HELD_MAX) {
		why = CS_R_UNHOLDABLE;
	} else if (!take_room(row, budget, skb->len)) {
		why = CS_R_HOLD_BUDGET;
	} else {
		why = copy(skb, j, now);
		if (why == HELD)
			return HELD;
		give_room(row, budget, skb->len);
	}
	if (asks && !signal(skb, j, now, why))
		bpf_map_delete_elem(&cs_pending, &j->key); /* or nobody would ask until its time is over */
	return why;
}

static __always_inline void settle_counter(__u32 *counter, __u32 n)
{
	for (int i = 0; i < 16; i++) {
		__u32 old = *counter;
		if (__sync_val_compare_and_swap(counter, old, old > n ? old - n : 0) == old)
			return;
	}
}

#endif
