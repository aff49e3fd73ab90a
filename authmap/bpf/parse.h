/* Headers into struct packet. What cannot be read is refused, whoever sent it. */
#ifndef CS_PARSE_H
#define CS_PARSE_H

#include "packet.h"

#define MAX_EXTENSIONS 8
#define IP_AT          ((__u32)sizeof(struct ethhdr)) /* Ethernet devices only, tags refused */

static __always_inline _Bool link_local6(const __u32 *addr32)
{
	return (addr32[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline _Bool unspecified6(const __u64 *addr64)
{
	return !(addr64[0] | addr64[1]);
}

/* Options are not looked at: source routing changes where a packet goes next, and every hook on its way judges the
 * addresses that it has there. */
static __always_inline int take4(const struct iphdr *ip, struct packet *p, __u32 at)
{
	__u32 header = ip->ihl * 4;
	__u16 fragment = bpf_ntohs(ip->frag_off);

	p->family = 4;
	p->src32[0] = ip->saddr;
	p->dst32[0] = ip->daddr;
	p->proto = ip->protocol;
	p->hop = ip->ttl;
	p->len = bpf_ntohs(ip->tot_len);
	p->l4 = at + header;
	p->later = (fragment & 0x1fff) != 0;
	p->fragment = (fragment & 0x3fff) != 0;
	p->group = (p->dst[0] & 0xf0) == 0xe0 || p->dst32[0] == 0xffffffff;
	p->special = p->group || !p->src32[0] || p->proto == IPPROTO_IGMP;
	if (ip->version != 4 || header < sizeof(*ip))
		return CS_R_UNREADABLE_HEADER;
	return CS_R_NONE;
}

static __always_inline int take6(const struct ipv6hdr *ip, struct packet *p, __u32 at)
{
	p->family = 6;
	__builtin_memcpy(p->src, &ip->saddr, 16);
	__builtin_memcpy(p->dst, &ip->daddr, 16);
	p->proto = ip->nexthdr;
	p->hop = ip->hop_limit;
	p->len = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	p->l4 = at + sizeof(*ip);
	p->group = p->dst[0] == 0xff;
	p->special = p->group || link_local6(p->src32) || link_local6(p->dst32) || unspecified6(p->src64);
	if (ip->version != 6)
		return CS_R_UNREADABLE_HEADER;
	return CS_R_NONE;
}

/* Headers between IPv6 and the transport (RFC 7045). ESP hides what follows, and is a transport here. */
static __always_inline _Bool is_extension(__u8 proto)
{
	switch (proto) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
	case IPPROTO_HIP:
	case IPPROTO_SHIM6:
		return 1;
	}
	return 0;
}

/* Out of line: few packets have any. */
OUT_OF_LINE int cs_walk_extensions(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return CS_R_UNREADABLE_HEADER;
	p->extended = 1;
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 h[8];
		if (bpf_skb_load_bytes(skb, p->l4, h, sizeof(h)))
			return CS_R_UNREADABLE_HEADER;
		if (p->proto == IPPROTO_FRAGMENT) {
			p->fragment = 1;
			p->later = h[2] || (h[3] & 0xf8);
			p->l4 += 8;
		} else if (p->proto == IPPROTO_AH) {
			p->l4 += (h[1] + 2) * 4;
		} else {
			p->l4 += (h[1] + 1) * 8;
		}
		p->proto = h[0];
		if (p->later || !is_extension(p->proto))
			return CS_R_NONE;
	}
	return CS_R_UNREADABLE_HEADER;
}

/* The first `len` bytes of the frame, where they can be read directly; NULL if the frame is shorter. */
static __always_inline void *linear(struct __sk_buff *skb, __u32 len)
{
	void *data = (void *)(long)skb->data;
	if (data + len <= (void *)(long)skb->data_end)
		return data;
	if (bpf_skb_pull_data(skb, len))
		return NULL;
	data = (void *)(long)skb->data;
	return data + len <= (void *)(long)skb->data_end ? data : NULL;
}

static __always_inline int read4(struct __sk_buff *skb, struct packet *p)
{
	const struct ethhdr *eth = linear(skb, IP_AT + sizeof(struct iphdr));
	if (!eth)
		return CS_R_UNREADABLE_HEADER;
	if (eth->h_proto != bpf_htons(ETH_P_IP))
		return CS_R_ETHERTYPE;
	int why = take4((const struct iphdr *)(eth + 1), p, IP_AT);
	/* tot_len 0: a packet that segmentation offload made larger than the field */
	if (!p->len && skb->gso_size)
		p->len = skb->len - IP_AT;
	if (why || IP_AT + p->len > skb->len || IP_AT + p->len < p->l4)
		return CS_R_UNREADABLE_HEADER;
	return CS_R_NONE;
}

static __always_inline int read6(struct __sk_buff *skb, struct packet *p)
{
	const struct ethhdr *eth = linear(skb, IP_AT + sizeof(struct ipv6hdr));
	if (!eth)
		return CS_R_UNREADABLE_HEADER;
	if (eth->h_proto != bpf_htons(ETH_P_IPV6))
		return CS_R_ETHERTYPE;
	int why = take6((const struct ipv6hdr *)(eth + 1), p, IP_AT);
	if (why || IP_AT + p->len > skb->len)
		return CS_R_UNREADABLE_HEADER;
	if (!is_extension(p->proto))
		return CS_R_NONE;
	return cs_walk_extensions(skb, p);
}

#endif
