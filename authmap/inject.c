#include "inject.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <bpf/libbpf.h>
#include "log.h"
#include "rtnl.h"
#include "tcx.h"

#define MTU 9000 /* of the helper devices: more than any frame that is held */
_Static_assert(MTU > CS_HELD_MAX, "a held frame fits the helper devices");

void cs_inject_init(struct cs_inject *inject)
{
	*inject = (struct cs_inject){.fd = -1, .link_fd = -1};
}

/* Device names have 15 characters and instances more, hence a hash (FNV-1a) of the name. */
static void name_devices(struct cs_inject *inject, const char *instance)
{
	uint32_t hash = 2166136261u;
	for (const char *c = instance; *c; c++)
		hash = (hash ^ (uint8_t)*c) * 16777619u;
	snprintf(inject->entry, sizeof(inject->entry), "cs%08xa", hash);
	snprintf(inject->exit, sizeof(inject->exit), "cs%08xb", hash);
}

static int attach_exit(struct cs_inject *inject, struct cs_datapath *dp, uint32_t ifindex, struct cs_error *e)
{
	int prog = cs_datapath_prog_fd(dp, CS_PROG_INJECT, 0), r;
	if (cs_datapath_attach_mode(dp) == CS_ATTACH_TCX) {
		r = inject->link_fd = cs_tcx_link_create(prog, ifindex, CS_FROM, 0);
	} else {
		LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)ifindex, .attach_point = BPF_TC_INGRESS);
		LIBBPF_OPTS(bpf_tc_opts, opts, .handle = 1, .priority = 1, .prog_fd = prog);
		r = bpf_tc_hook_create(&hook);
		if (r == 0)
			r = bpf_tc_attach(&hook, &opts);
	}
	return r < 0 ? cs_error_errno(e, r, "cannot attach to the helper device %s", inject->exit) : 0;
}

static int open_socket(struct cs_inject *inject, struct cs_error *e)
{
	int one = 1;
	inject->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (inject->fd < 0)
		return cs_error_errno(e, -errno, "cannot open a packet socket");
	if (setsockopt(inject->fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)) < 0)
		return cs_error_errno(e, -errno, "cannot say offload state on a packet socket (PACKET_VNET_HDR)");
	return 0;
}

int cs_inject_open(struct cs_inject *inject, struct cs_datapath *dp, const char *instance, struct cs_error *e)
{
	uint32_t exit_ifindex;
	name_devices(inject, instance);
	int r = cs_rtnl_delete(inject->entry, e);
	if (r == 0)
		r = cs_rtnl_make_pair(inject->entry, inject->exit, MTU, &inject->entry_ifindex, &exit_ifindex, e);
	if (r == 0)
		r = attach_exit(inject, dp, exit_ifindex, e);
	if (r == 0)
		r = open_socket(inject, e);
	return r;
}

void cs_inject_close(struct cs_inject *inject)
{
	struct cs_error e = {0};
	if (inject->fd >= 0)
		close(inject->fd);
	if (inject->link_fd >= 0)
		close(inject->link_fd);
	if (inject->entry[0]) {
		if (cs_rtnl_delete(inject->entry, &e) < 0) /* the next life replaces what stays */
			cs_warn("a helper device stays", cs_err(&e));
	}
	cs_inject_init(inject);
}

int cs_inject_send(const struct cs_inject *inject, const struct cs_held *head, const uint8_t *frame)
{
	struct virtio_net_hdr offload = {.gso_type = head->gso_type,
		.hdr_len = head->hdr_len,
		.gso_size = head->gso_size,
		.csum_start = head->csum_start,
		.csum_offset = head->csum_offset};
	if (head->csum == CS_CSUM_PARTIAL)
		offload.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	struct iovec parts[] = {{.iov_base = &offload, .iov_len = sizeof(offload)},
		{.iov_base = (void *)frame, .iov_len = head->caplen}};
	struct sockaddr_ll to = {.sll_family = AF_PACKET,
		.sll_ifindex = (int)(head->dir == CS_FROM ? inject->entry_ifindex : head->ifindex)};
	/* On the helper device the mark says where to; its program then sets the tag. */
	uint32_t mark = head->dir == CS_FROM ? head->ifindex : CS_MARK_REINJECTED;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(mark))];
	} control = {.bytes = {0}};
	struct msghdr m = {.msg_name = &to,
		.msg_namelen = sizeof(to),
		.msg_iov = parts,
		.msg_iovlen = 2,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SO_MARK;
	c->cmsg_len = CMSG_LEN(sizeof(mark));
	memcpy(CMSG_DATA(c), &mark, sizeof(mark));
	return sendmsg(inject->fd, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}
