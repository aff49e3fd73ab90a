/* A few synchronous questions and orders to rtnetlink, in this thread's network namespace. */
#ifndef CS_RTNL_H
#define CS_RTNL_H

#include <net/if.h>
#include <stdint.h>
#include "error.h"

struct cs_link_info {
	char name[IF_NAMESIZE];
	char kind[16];     /* IFLA_INFO_KIND, "" for a physical device */
	uint16_t type;     /* ARPHRD_* */
	uint32_t xdp_prog; /* id of an XDP program, 0: none */
};

/* -ENODEV: no such interface. */
CS_MUST_USE int cs_rtnl_link(uint32_t ifindex, struct cs_link_info *ret, struct cs_error *e);
/* A veth pair, both ends here and up, without IPv6 addresses of their own. */
CS_MUST_USE int cs_rtnl_make_pair(
	const char *a, const char *b, uint32_t mtu, uint32_t *ret_a, uint32_t *ret_b, struct cs_error *e);
/* What is not there is deleted already. */
CS_MUST_USE int cs_rtnl_delete(const char *name, struct cs_error *e);

#endif
