/* The network interfaces of this node (rtnetlink): which one has a name, whether the check can be put on it, and when
 * something about interfaces changed. */
#ifndef CS_LINKS_H
#define CS_LINKS_H

#include "error.h"
#include "loop.h"

struct cs_links;

/* 0 and *ret_ifindex, or an error with a reason: there is none of that name (-ENODEV, interface-missing), or it is of a kind
 * whose packets go round a tc program on the host side (-EOPNOTSUPP, interface-unsuitable). Asks the kernel; does not block. */
CS_MUST_USE int cs_link_find(const char *name, unsigned *ret_ifindex, struct cs_error *e);

/* fn is called from the loop after interfaces came, went or were renamed (several at once are one call). */
CS_MUST_USE int cs_links_watch(
	struct cs_loop *loop, void (*fn)(void *data), void *data, struct cs_links **ret, struct cs_error *e);
void cs_links_close(struct cs_links *links); /* freed when the loop has closed it; NULL is fine */

#endif
