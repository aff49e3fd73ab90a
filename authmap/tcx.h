/* TCX by raw bpf(2): libbpf 1.1 (Debian 12) has no API for it, and its headers no names. */
#ifndef CS_TCX_H
#define CS_TCX_H

#include <stdint.h>
#include <countersign/maps.h>
#include "error.h"

#define CS_TCX_BEFORE 8  /* BPF_F_BEFORE: with no anchor, before all others */
#define CS_TCX_PROGS  64 /* the kernel's limit per hook (BPF_MPROG_MAX) */

struct cs_tcx_query {
	uint64_t revision; /* changes with every change at the hook */
	uint32_t count;
	uint32_t prog_ids[CS_TCX_PROGS]; /* in the order in which they run */
};

/* A link's descriptor or a negative errno. */
CS_MUST_USE int cs_tcx_link_create(int prog_fd, uint32_t ifindex, enum cs_dir dir, uint32_t flags);
CS_MUST_USE int cs_tcx_query(uint32_t ifindex, enum cs_dir dir, struct cs_tcx_query *ret);
/* Where the link is attached: 0, or -ENODEV when its interface is gone, or -EINVAL when it is no TCX link. */
CS_MUST_USE int cs_tcx_link_info(int link_fd, uint32_t *ret_ifindex, enum cs_dir *ret_dir, uint32_t *ret_prog_id);

#endif
