/* Sending a held frame again: at CS_FROM through a helper veth pair of this node, at CS_TO through the interface itself.
 * The offload state of the record is said again in a virtio header, so nothing is computed and nothing is looked into. */
#ifndef CS_INJECT_H
#define CS_INJECT_H

#include <net/if.h>
#include "datapath.h"

struct cs_inject {
	int fd;      /* AF_PACKET; sends only */
	int link_fd; /* TCX; lives as long as we do, and without us nothing is released anyway */
	uint32_t entry_ifindex;
	char entry[IF_NAMESIZE],
		exit[IF_NAMESIZE]; /* ends of the pair: what goes in at entry is redirected from exit */
};

void cs_inject_init(struct cs_inject *inject);
/* Replaces devices that an earlier life left. */
CS_MUST_USE int cs_inject_open(
	struct cs_inject *inject, struct cs_datapath *dp, const char *instance, struct cs_error *e);
void cs_inject_close(struct cs_inject *inject);
/* 0, or a negative errno: the kernel did not take it (-ENOBUFS: the check refused it at CS_TO). */
CS_MUST_USE int cs_inject_send(const struct cs_inject *inject, const struct cs_held *head, const uint8_t *frame);

#endif
