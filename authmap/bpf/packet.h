/* What the judgement of one packet works on. */
#ifndef CS_PACKET_H
#define CS_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include "maps_bpf.h"

#ifndef IPPROTO_HIP
#define IPPROTO_HIP   139
#define IPPROTO_SHIM6 140
#endif

/* Filled by parse.h; of the frame, or of the packet that an ICMP error quotes. */
struct packet {
	/* IPv4 in the first four bytes, rest 0 */
	union {
		__u8 src[16];
		__u32 src32[4];
		__u64 src64[2];
	};
	union {
		__u8 dst[16];
		__u32 dst32[4];
		__u64 dst64[2];
	};
	__u32 l4;      /* offset in the frame of what proto says; unset in a later fragment */
	__u32 len;     /* of the IP packet, by its header */
	__u8 family;   /* 4 or 6; 0: no address was read */
	__u8 proto;    /* behind the extension headers */
	__u8 hop;      /* TTL or hop limit */
	__u8 fragment; /* any fragment, the first and an only one included */
	__u8 later;    /* a fragment without a transport header */
	__u8 extended; /* IPv6: has extension headers */
	__u8 group;    /* multicast or limited broadcast */
	__u8 special;  /* its addresses or protocol may have a rule of their own (neighbour.h) */
};

/* A pair, seen at a hook through a packet. */
struct judged {
	struct packet p;
	struct cs_auth_key key; /* local, remote, node; remote 0: not looked up */
	__u32 ifindex;
	__u8 dir;
	__u8 flags;      /* enum cs_addr_flags of the other address */
	__u8 nat;        /* an address of this node, but not made here */
	__u8 reinjected; /* has been held before */
	__u8 audit;      /* the endpoint's: nothing is dropped, so nothing is held */
	__u8 pad[3];
};

/* A global function: the verifier looks at it once, for whatever arguments, instead of anew on each path that leads to
 * it. That keeps the object far below the verifier's limits. It may not trust a pointer to be there. */
#define OUT_OF_LINE __attribute__((noinline))

/* Besides enum cs_reason: */
enum {
	GO_ON = -1, /* no rule of its own applies */
	HELD = 256, /* copied to authd, may come back */
};

static __always_inline _Bool can_authenticate(__u32 identity)
{
	return identity - CS_ID_FIRST_AUTH < CS_ID_LOCAL_SCOPE - CS_ID_FIRST_AUTH;
}

static __always_inline const __u8 *other_address(const struct judged *j)
{
	return j->dir == CS_FROM ? j->p.dst : j->p.src;
}

static __always_inline struct cs_config *config(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&cs_config, &zero);
}

static __always_inline __u32 node_flags(void)
{
	struct cs_config *c = config();
	return c ? c->node_flags : 0;
}

#endif
