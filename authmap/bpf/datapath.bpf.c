/* The datapath: two programs per endpoint, cs_from at tc ingress and cs_to at tc egress of its host-side interface.
 * What they decide, and in which order, is docs/datapath.md; what they share with authd is <countersign/maps.h>.
 *
 * Default is drop. The fast path is a hit: endpoint, address, entry, and the clock. */
#include "count.h"
#include "verdict.h"

static __always_inline int read_packet(struct __sk_buff *skb, struct packet *p)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return read4(skb, p);
	return read6(skb, p);
}

/* Are the addresses of this packet what they may be at this hook? */
static __always_inline int check_owner(const struct cs_endpoint *ep, const struct packet *p, __u8 dir)
{
	if (dir == CS_FROM)
		return owns(ep, p->family, p->src64) ? CS_R_NONE : CS_R_SOURCE_NOT_OWNED;
	return p->group || owns(ep, p->family, p->dst64) ? CS_R_NONE : CS_R_DESTINATION_NOT_OWNED;
}

static __always_inline int decide(struct __sk_buff *skb, const struct cs_endpoint *ep, struct judged *j, const __u8 dir)
{
	__u64 *entry;
	int why;

	if (skb->vlan_present)
		return CS_R_ETHERTYPE;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return cs_arp(skb, ep, dir);
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return CS_R_ETHERTYPE;
	why = read_packet(skb, &j->p);
	if (why)
		return why;
	if ((ep->flags & CS_EP_DHCP) && cs_dhcp(skb, ep, &j->p, dir))
		return CS_R_NONE;
	if (j->p.special || j->p.proto == IPPROTO_ICMPV6) {
		why = cs_own_rule(skb, ep, &j->p, dir);
		if (why != GO_ON)
			return why;
	}
	why = check_owner(ep, &j->p, dir);
	if (why)
		return why;

	identify(j);
	if (dir == CS_TO && j->key.remote == CS_ID_HOST && (skb->ingress_ifindex || j->reinjected)) {
		/* One of our addresses, but it came in: source NAT, or a forgery. */
		j->key.remote = CS_ID_WORLD;
		j->flags = 0;
		j->nat = 1;
	}
	if (can_authenticate(j->key.remote)) {
		entry = bpf_map_lookup_elem(&cs_auth, &j->key);
		/* Above CS_AUTH_EXPIRY are the flags, which want more than a look at the time. */
		if (entry && *entry <= CS_AUTH_EXPIRY && *entry > bpf_ktime_get_coarse_ns())
			return CS_R_NONE;
	}
	return cs_slow(skb, ep, j);
}

static __always_inline int judge(struct __sk_buff *skb, const __u8 dir)
{
	struct judged j = {.ifindex = skb->ifindex, .dir = dir, .key = {.type = CS_AUTH_SPIRE}};
	struct cs_endpoint *ep = bpf_map_lookup_elem(&cs_endpoint, &j.ifindex);
	int why = CS_R_NO_ENDPOINT;

	j.reinjected = skb->mark == CS_MARK_REINJECTED;
	if (ep && ep->identity) {
		j.key.local = ep->identity;
		j.audit = (ep->flags & CS_EP_AUDIT) != 0;
		why = decide(skb, ep, &j, dir);
	}
	if (why == CS_R_NONE) {
		if (j.reinjected) {
			barrier_var(skb); /* or clang folds the reading and this writing into one modified pointer */
			skb->mark = 0;
		}
		return TC_ACT_UNSPEC;
	}
	if (why == HELD)
		return held_action;
	return cs_refuse(skb, &j, why);
}

SEC("tc")
int cs_from(struct __sk_buff *skb)
{
	return judge(skb, CS_FROM);
}

SEC("tc")
int cs_to(struct __sk_buff *skb)
{
	return judge(skb, CS_TO);
}

/* On the helper device: a released frame to the ingress of the interface that authd named in the mark. */
SEC("tc")
int cs_inject(struct __sk_buff *skb)
{
	__u32 ifindex = skb->mark;

	if (!ifindex)
		return TC_ACT_SHOT; /* what the kernel itself says on a new device */
	barrier_var(skb);
	skb->mark = CS_MARK_REINJECTED;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

SEC("syscall")
int cs_settle(struct cs_settle *ctx)
{
	struct cs_auth_key key = ctx->key;
	struct cs_budget_key id = {.kind = CS_BUDGET_INTERFACE, .id = ctx->ifindex << 1 | (ctx->dir & 1)};
	__u32 packets = ctx->packets, bytes = ctx->bytes;
	struct cs_pending *pending = bpf_map_lookup_elem(&cs_pending, &key);
	struct cs_budget *budget = bpf_map_lookup_elem(&cs_budget, &id);

	if (pending) {
		settle_counter(&pending->packets, packets);
		settle_counter(&pending->bytes, bytes);
	}
	if (budget) {
		settle_counter(&budget->packets, packets);
		settle_counter(&budget->bytes, bytes);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
