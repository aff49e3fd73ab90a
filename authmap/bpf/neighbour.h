/* What passes by a rule of its own, before any policy: ARP, neighbour discovery, MLD and IGMP, DHCP clients. And what
 * never passes: other link-local unicast. Each rule is as narrow as the protocol that it is for, because everything that
 * it lets through needs no authentication. */
#ifndef CS_NEIGHBOUR_H
#define CS_NEIGHBOUR_H

#include "ownership.h"
#include "parse.h"

#define ARP_MAX_FRAME 60  /* the shortest Ethernet frame without its checksum */
#define ND_MAX_PACKET 256 /* a router advertisement with every usual option is below 200 */

struct arp4 {
	__u16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__u16 operation;
	__u8 sender_mac[6], sender[4], target_mac[6], target[4];
} __attribute__((packed));

OUT_OF_LINE int cs_arp(struct __sk_buff *skb, const struct cs_endpoint *ep, __u8 dir)
{
	struct arp4 a;
	__u32 sender;

	if (!ep || skb->len > ARP_MAX_FRAME)
		return CS_R_NEIGHBOUR_DISCOVERY;
	if (dir == CS_TO)
		return CS_R_NONE;
	if (bpf_skb_load_bytes(skb, IP_AT, &a, sizeof(a)))
		return CS_R_UNREADABLE_HEADER;
	if (a.hardware != bpf_htons(1) || a.protocol != bpf_htons(ETH_P_IP) || a.hardware_len != 6 ||
		a.protocol_len != 4)
		return CS_R_NEIGHBOUR_DISCOVERY;
	__builtin_memcpy(&sender, a.sender, sizeof(sender));
	return !sender || owns4(ep, sender) ? CS_R_NONE : CS_R_SOURCE_NOT_OWNED;
}

/* The sender may use this IPv6 source on its own link. */
static __always_inline _Bool source_on_link(const struct cs_endpoint *ep, const struct packet *p)
{
	return link_local6(p->src32) || owns6(ep, p->src64);
}

/* ff02::/16, link-local, or known to be delivered on this node, where nothing routes it on: its own addresses, and
 * endpoints whose CS_TO looks at the hop limit. */
static __always_inline _Bool destination_on_link(const struct cs_endpoint *ep, const struct packet *p, __u8 dir)
{
	struct cs_addr *addr;

	if (p->dst[0] == 0xff)
		return p->dst[1] == 0x02;
	if (link_local6(p->dst32))
		return 1;
	if (dir == CS_TO)
		return owns6(ep, p->dst64);
	addr = bpf_map_lookup_elem(&cs_addr6, p->dst);
	return addr && !addr->node && (addr->identity == CS_ID_HOST || can_authenticate(addr->identity));
}

enum { RS = 133, RA = 134, NS = 135, NA = 136, REDIRECT = 137 };

/* RFC 4861: hop limit 255 is what proves that no router passed it on; 6980: never fragmented. */
static __always_inline int neighbour_discovery(
	struct __sk_buff *skb, const struct cs_endpoint *ep, const struct packet *p, __u8 type, __u8 dir)
{
	union {
		__u8 addr[16];
		__u32 addr32[4];
		__u64 addr64[2];
	} target;

	if (p->hop != 255 || p->extended || skb->len - IP_AT > ND_MAX_PACKET || !destination_on_link(ep, p, dir))
		return CS_R_NEIGHBOUR_DISCOVERY;
	if (dir == CS_TO)
		return type == RS ? CS_R_NEIGHBOUR_DISCOVERY : CS_R_NONE;
	if (type == RA || type == REDIRECT)
		return CS_R_NEIGHBOUR_DISCOVERY;
	if (!source_on_link(ep, p) && !(type == NS && unspecified6(p->src64)))
		return CS_R_SOURCE_NOT_OWNED;
	if (type != NA)
		return CS_R_NONE;
	if (bpf_skb_load_bytes(skb, p->l4 + 8, &target, sizeof(target)))
		return CS_R_UNREADABLE_HEADER;
	return link_local6(target.addr32) || owns6(ep, target.addr64) ? CS_R_NONE : CS_R_SOURCE_NOT_OWNED;
}

/* MLD comes behind a router alert (RFC 2710, 3810), so extension headers are fine here. */
static __always_inline _Bool multicast_listener(
	const struct cs_endpoint *ep, const struct packet *p, __u8 type, __u8 dir)
{
	if (type != 130 && type != 131 && type != 132 && type != 143)
		return 0;
	if (p->hop != 1 || !p->group || p->fragment)
		return 0;
	return dir == CS_TO || source_on_link(ep, p) || unspecified6(p->src64);
}

static __always_inline _Bool group_membership(const struct cs_endpoint *ep, const struct packet *p, __u8 dir)
{
	if (p->proto != IPPROTO_IGMP || p->hop != 1 || (p->dst[0] & 0xf0) != 0xe0 || p->fragment)
		return 0;
	return dir == CS_TO || !p->src32[0] || owns4(ep, p->src32[0]);
}

/* Is this the DHCP of a client (RFC 2131 4.1, RFC 8415 7)? */
OUT_OF_LINE int cs_dhcp(struct __sk_buff *skb, const struct cs_endpoint *ep, const struct packet *p, __u8 dir)
{
	__u16 ports[2], client, server;

	if (!ep || !p)
		return 0;
	client = p->family == 4 ? bpf_htons(68) : bpf_htons(546);
	server = p->family == 4 ? bpf_htons(67) : bpf_htons(547);
	if (!(ep->flags & CS_EP_DHCP) || p->proto != IPPROTO_UDP || p->fragment || p->extended)
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
		return 0;
	if (ports[dir == CS_TO] != client || ports[dir == CS_FROM] != server)
		return 0;
	if (p->family == 4 && dir == CS_FROM)
		return owns4(ep, p->src32[0]) || (!p->src32[0] && p->dst32[0] == 0xffffffff);
	if (p->family == 4)
		return owns4(ep, p->dst32[0]) || p->dst32[0] == 0xffffffff;
	if (!link_local6(p->src32))
		return 0;
	/* ff02::1:2, All_DHCP_Relay_Agents_and_Servers */
	if (dir == CS_FROM)
		return p->dst32[0] == bpf_htonl(0xff020000) && !p->dst32[1] && !p->dst32[2] &&
		       p->dst32[3] == bpf_htonl(0x00010002);
	return link_local6(p->dst32);
}

/* CS_R_NONE: passes; a reason: refused; GO_ON: no rule of its own. */
OUT_OF_LINE int cs_own_rule(struct __sk_buff *skb, const struct cs_endpoint *ep, const struct packet *p, __u8 dir)
{
	__u8 type = 0;

	if (!ep || !p)
		return CS_R_UNREADABLE_HEADER;
	if (p->family == 4) {
		if (group_membership(ep, p, dir))
			return CS_R_NONE;
		return GO_ON;
	}
	if (p->proto == IPPROTO_ICMPV6 && !p->later) {
		if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
			return CS_R_UNREADABLE_HEADER;
		if (type >= RS && type <= REDIRECT)
			return neighbour_discovery(skb, ep, p, type, dir);
		if (multicast_listener(ep, p, type, dir))
			return CS_R_NONE;
	}
	if (link_local6(p->src32) || link_local6(p->dst32))
		return CS_R_LINK_LOCAL;
	return GO_ON;
}

#endif
