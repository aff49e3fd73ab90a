#include "tcx.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <bpf/bpf.h>

#define TCX_INGRESS   46 /* BPF_TCX_INGRESS */
#define TCX_EGRESS    47
#define LINK_TYPE_TCX 11 /* BPF_LINK_TYPE_TCX */

/* The heads of union bpf_attr as Linux 6.6 has them; zero-filled behind. */
struct attr_link_create {
	uint32_t prog_fd, target_ifindex, attach_type, flags;
	uint32_t relative_fd, pad;
	uint64_t expected_revision;
	uint8_t rest[32];
};
struct attr_query {
	uint32_t target_ifindex, attach_type, query_flags, attach_flags;
	uint64_t prog_ids;
	uint32_t count, pad;
	uint64_t prog_attach_flags, link_ids, link_attach_flags, revision;
};
struct link_info {
	uint32_t type, id, prog_id, pad;
	struct {
		uint32_t ifindex, attach_type;
	} tcx;
	uint8_t rest[64];
};

static uint32_t attach_type(enum cs_dir dir)
{
	return dir == CS_FROM ? TCX_INGRESS : TCX_EGRESS;
}

int cs_tcx_link_create(int prog_fd, uint32_t ifindex, enum cs_dir dir, uint32_t flags)
{
	struct attr_link_create attr = {.prog_fd = (uint32_t)prog_fd,
		.target_ifindex = ifindex,
		.attach_type = attach_type(dir),
		.flags = flags};
	int fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));
	return fd < 0 ? -errno : fd;
}

int cs_tcx_query(uint32_t ifindex, enum cs_dir dir, struct cs_tcx_query *ret)
{
	struct attr_query attr = {.target_ifindex = ifindex,
		.attach_type = attach_type(dir),
		.prog_ids = (uint64_t)(uintptr_t)ret->prog_ids,
		.count = CS_TCX_PROGS};
	if (syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof(attr)) < 0)
		return -errno;
	ret->revision = attr.revision;
	ret->count = attr.count;
	return 0;
}

int cs_tcx_link_info(int link_fd, uint32_t *ret_ifindex, enum cs_dir *ret_dir, uint32_t *ret_prog_id)
{
	struct link_info info = {0};
	uint32_t size = sizeof(info);
	int r = bpf_obj_get_info_by_fd(link_fd, &info, &size);
	if (r < 0)
		return r;
	if (info.type != LINK_TYPE_TCX || (info.tcx.attach_type != TCX_INGRESS && info.tcx.attach_type != TCX_EGRESS))
		return -EINVAL;
	if (!info.tcx.ifindex)
		return -ENODEV;
	*ret_ifindex = info.tcx.ifindex;
	*ret_dir = info.tcx.attach_type == TCX_INGRESS ? CS_FROM : CS_TO;
	*ret_prog_id = info.prog_id;
	return 0;
}
