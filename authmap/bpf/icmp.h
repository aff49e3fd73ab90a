/* ICMP errors: judged by the packet that they quote, because a router on the way has no identity and path MTU discovery
 * must work all the same. */
#ifndef CS_ICMP_H
#define CS_ICMP_H

#include "ownership.h"
#include "parse.h"

#define ERROR4_MAX  576  /* RFC 1812 4.3.2.3 */
#define ERROR6_MAX  1280 /* RFC 4443 2.4 (c) */
#define ICMP_HEADER 8

static __always_inline _Bool is_error(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	if (p->fragment || p->proto != (p->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4, &type, 1))
		return 0;
	if (p->family == 4)
		return type == 3 || type == 11 || type == 12;
	return type >= 1 && type <= 4;
}

/* The packet that an error at CS_TO quotes, as the pair that it was sent in: from the endpoint (its source must be own) to
 * its destination. False: it quotes nothing that can be judged. */
OUT_OF_LINE int cs_quoted(
	struct __sk_buff *skb, const struct cs_endpoint *ep, const struct judged *error, struct judged *ret)
{
	__u32 at;

	if (!ep || !error || !ret)
		return 0;
	at = error->p.l4 + ICMP_HEADER;
	if (skb->len - IP_AT > (error->p.family == 4 ? ERROR4_MAX : ERROR6_MAX))
		return 0;
	if (error->p.family == 4) {
		struct iphdr ip;
		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || take4(&ip, &ret->p, at))
			return 0;
		if (!owns4(ep, ret->p.src32[0]))
			return 0;
	} else {
		struct ipv6hdr ip;
		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || take6(&ip, &ret->p, at))
			return 0;
		if (is_extension(ret->p.proto) && cs_walk_extensions(skb, &ret->p))
			return 0;
		if (!owns6(ep, ret->p.src64))
			return 0;
	}
	ret->ifindex = error->ifindex;
	ret->dir = CS_FROM;
	ret->key.local = error->key.local;
	ret->key.type = CS_AUTH_SPIRE;
	identify(ret);
	return 1;
}

#endif
