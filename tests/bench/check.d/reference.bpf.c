/* What the shipped program is measured against: nothing at all, and the three lookups of a hit with the clock and nothing
 * else. It takes the address and the key from where the shipped program takes them, because without that there are no
 * lookups; it checks nothing. The maps are the shipped program's own. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <countersign/maps.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cs_endpoint);
} cs_endpoint SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cs_addr);
} cs_addr4 SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct cs_addr6);
	__type(value, struct cs_addr);
} cs_addr6 SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct cs_auth_key);
	__type(value, __u64);
} cs_auth SEC(".maps");

static __always_inline int hit(const struct cs_endpoint *ep, const struct cs_addr *addr)
{
	struct cs_auth_key key = {
		.local = ep->identity, .remote = addr->identity, .node = addr->node, .type = CS_AUTH_SPIRE};
	__u64 *entry = bpf_map_lookup_elem(&cs_auth, &key);
	return entry && *entry > bpf_ktime_get_coarse_ns() ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("tc")
int empty(struct __sk_buff *skb)
{
	(void)skb;
	return TC_ACT_UNSPEC;
}

SEC("tc")
int reference4(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	struct iphdr *ip = data + sizeof(struct ethhdr);
	__u32 ifindex = skb->ifindex, dst;
	struct cs_endpoint *ep = bpf_map_lookup_elem(&cs_endpoint, &ifindex);
	struct cs_addr *addr;

	if (!ep || (void *)(ip + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	dst = ip->daddr;
	addr = bpf_map_lookup_elem(&cs_addr4, &dst);
	return addr ? hit(ep, addr) : TC_ACT_SHOT;
}

SEC("tc")
int reference6(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	struct ipv6hdr *ip = data + sizeof(struct ethhdr);
	__u32 ifindex = skb->ifindex;
	struct cs_endpoint *ep = bpf_map_lookup_elem(&cs_endpoint, &ifindex);
	struct cs_addr6 dst;
	struct cs_addr *addr;

	if (!ep || (void *)(ip + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memcpy(&dst, &ip->daddr, sizeof(dst));
	addr = bpf_map_lookup_elem(&cs_addr6, &dst);
	return addr ? hit(ep, addr) : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
