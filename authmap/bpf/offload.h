/* The offload state of a held frame, so that who sends it again need not look into it. What the stack left to be finished
 * (CHECKSUM_PARTIAL, segmentation) must be said again, or the frame arrives with a checksum that is wrong. */
#ifndef CS_OFFLOAD_H
#define CS_OFFLOAD_H

#include <linux/virtio_net.h>
#include <bpf/bpf_core_read.h>
#include "packet.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif
#define CHECKSUM_PARTIAL 3 /* include/linux/skbuff.h */

/* As much of struct sk_buff as is needed; libbpf finds the fields in the running kernel. */
struct sk_buff___cs {
	__u8 ip_summed : 2;
	__u16 csum_start, csum_offset;
	unsigned char *head, *data;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

static __always_inline void checksum_known(struct __sk_buff *skb, struct cs_held *held)
{
	struct sk_buff___cs *kernel = bpf_cast_to_kern_ctx(skb);

	if (BPF_CORE_READ_BITFIELD(kernel, ip_summed) != CHECKSUM_PARTIAL)
		return;
	held->csum = CS_CSUM_PARTIAL;
	held->csum_start = kernel->csum_start - (__u16)((long)kernel->data - (long)kernel->head);
	held->csum_offset = kernel->csum_offset;
}

/* Sum of the pseudo-header as the stack leaves it in the field. Native order throughout: one's complement does not mind. */
static __always_inline __u16 pseudo_header(const struct packet *p, __u32 transport_len)
{
	const __u16 *src = (const __u16 *)p->src, *dst = (const __u16 *)p->dst;
	__u32 sum = bpf_htons(p->proto) + bpf_htons(transport_len & 0xffff) + bpf_htons(transport_len >> 16);

	for (int i = 0; i < 8; i++)
		sum += src[i] + dst[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Without the kernel's word: a field that holds the pseudo-header's sum (which is never 0, as "none" of UDP is) is unfinished. (Finishing a complete checksum that
 * happens to have that value gives the same value again.) Everything else is complete, or corrupt and not ours to repair. */
static __always_inline void checksum_inferred(
	struct __sk_buff *skb, const struct packet *p, __u32 offset, struct cs_held *held)
{
	__u16 field;

	if (!offset || p->fragment || bpf_skb_load_bytes(skb, p->l4 + offset, &field, sizeof(field)))
		return;
	if (field != pseudo_header(p, IP_AT + p->len - p->l4))
		return;
	held->csum = CS_CSUM_PARTIAL;
	held->csum_start = p->l4;
	held->csum_offset = offset;
}

/* False: this frame cannot be sent again as it was. */
static __always_inline _Bool fill_offload(struct __sk_buff *skb, const struct packet *p, struct cs_held *held)
{
	__u32 offset = p->proto == IPPROTO_TCP ? 16 : p->proto == IPPROTO_UDP ? 6 : 0;
	__u8 data_offset;

	/* Its CRC32c may be left to the device, and a virtio header has no word for that. */
	if (p->proto == IPPROTO_SCTP)
		return 0;
	if (csum_kfunc)
		checksum_known(skb, held);
	else
		checksum_inferred(skb, p, offset, held);
	if (!skb->gso_size)
		return 1;
	if (held->csum != CS_CSUM_PARTIAL || held->csum_start != p->l4 || !offset)
		return 0;
	held->gso_size = skb->gso_size;
	if (p->proto == IPPROTO_UDP) {
		held->gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
		held->hdr_len = p->l4 + 8;
		return 1;
	}
	if (bpf_skb_load_bytes(skb, p->l4 + 12, &data_offset, 1))
		return 0;
	held->gso_type = p->family == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	held->hdr_len = p->l4 + (data_offset >> 4) * 4;
	return 1;
}

#endif
