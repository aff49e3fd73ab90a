/* Replies: a packet passes a `deny` when it answers one that the other direction let out. */
#ifndef CS_FLOWS_H
#define CS_FLOWS_H

#include "parse.h"

#define FLOW_TCP_NS     3600000000000ULL
#define FLOW_OTHER_NS   180000000000ULL
#define FLOW_REFRESH_NS 1000000000ULL /* a row is written at most so often: packets of a flow share a cache line */

/* Ports, or the echo identifier in both; 0 where the protocol has none. False: this packet opens (or, `reply`, answers)
 * nothing: a later fragment, a header that is not there, ICMP other than echo. */
static __always_inline _Bool flow_ports(struct __sk_buff *skb, const struct packet *p, _Bool reply, __u16 ports[2])
{
	__u8 echo[6];

	ports[0] = ports[1] = 0;
	if (p->later)
		return 0;
	switch (p->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
	case IPPROTO_UDPLITE:
		return !bpf_skb_load_bytes(skb, p->l4, ports, 4);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (bpf_skb_load_bytes(skb, p->l4, echo, sizeof(echo)))
			return 0;
		if (echo[0] != (p->proto == IPPROTO_ICMP ? (reply ? 0 : 8) : (reply ? 129 : 128)))
			return 0;
		__builtin_memcpy(&ports[0], echo + 4, 2);
		ports[1] = ports[0];
		return 1;
	}
	return 1;
}

/* As this packet is seen at hook `dir`; `reversed`: as its answer would be. */
static __always_inline void fill_key(
	struct cs_flow_key *key, const struct judged *j, __u8 dir, const __u16 ports[2], _Bool reversed)
{
	key->ifindex = j->ifindex;
	key->dir = dir;
	key->proto = j->p.proto;
	key->family = j->p.family;
	key->pad = 0;
	key->sport_be16 = ports[reversed];
	key->dport_be16 = ports[!reversed];
	__builtin_memcpy(key->saddr, reversed ? j->p.dst : j->p.src, 16);
	__builtin_memcpy(key->daddr, reversed ? j->p.src : j->p.dst, 16);
}

/* Does this packet answer a flow that is alive? Refreshes it, but for a packet that is only quoted. */
OUT_OF_LINE int cs_answers_flow(struct __sk_buff *skb, const struct judged *j, __u64 now, _Bool refresh)
{
	struct cs_flow_key key;
	__u16 ports[2];
	__u64 *last, seen;

	if (!j || !flow_ports(skb, &j->p, 1, ports))
		return 0;
	fill_key(&key, j, j->dir, ports, 0);
	last = bpf_map_lookup_elem(&cs_flows, &key);
	if (!last)
		return 0;
	seen = *last;
	if (seen + (j->p.proto == IPPROTO_TCP ? FLOW_TCP_NS : FLOW_OTHER_NS) <= now)
		return 0;
	if (refresh && seen + FLOW_REFRESH_NS <= now)
		*last = now;
	return 1;
}

/* This packet passed by its own verdict: note whom the other direction may let answer. */
OUT_OF_LINE int cs_note_flow(struct __sk_buff *skb, const struct judged *j, __u64 now)
{
	struct cs_flow_key key;
	__u16 ports[2];
	__u64 *last;

	if (!j || !flow_ports(skb, &j->p, 0, ports))
		return 0;
	fill_key(&key, j, !j->dir, ports, 1);
	last = bpf_map_lookup_elem(&cs_flows, &key);
	if (!last)
		bpf_map_update_elem(&cs_flows, &key, &now, BPF_ANY);
	else if (*last + FLOW_REFRESH_NS <= now)
		*last = now;
	return 0;
}

#endif
