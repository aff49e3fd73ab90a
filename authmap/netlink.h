/* What rtnetlink says of this network namespace: the node's own addresses, and its interfaces by index and name.
 *
 * Keeps its own table, so that every callback is a change: an address that several interfaces have appears once, and is
 * gone with the last; a rename is on_link again. When the kernel dropped messages (ENOBUFS) everything is read anew and
 * compared. Loopback addresses count (127.0.0.1, ::1), multicast and IPv6 tentative ones too; 127.0.0.0/8 as a whole
 * does not. */
#ifndef CS_NETLINK_H
#define CS_NETLINK_H

#include <stdbool.h>
#include <stdint.h>
#include "error.h"
#include "loop.h"

#define CS_NETLINK_ADDRS 16384 /* more are left out, and the log says so */
#define CS_NETLINK_LINKS 16384

struct cs_netlink;

struct cs_netlink_callbacks {
	/* family 4 or 6, ip as on the wire. */
	void (*on_addr)(void *data, int family, const void *ip, bool present);
	/* name NULL: the interface is gone. Borrowed. */
	void (*on_link)(void *data, uint32_t ifindex, const char *name);
	/* RTM_NEWLINK of a link that is known already and kept its name: flags, or an XDP program, have changed. */
	void (*on_link_changed)(void *data, uint32_t ifindex);
	/* The messages that were there are handled: time to apply what they changed. */
	void (*on_settled)(void *data);
	void *data;
};

/* Reads everything (callbacks come before it returns, from on_addr and on_link; then on_settled), then follows from the
 * loop. callbacks is copied. NULL: see e. */
struct cs_netlink *cs_netlink_new(
	struct cs_loop *loop, const struct cs_netlink_callbacks *callbacks, struct cs_error *e);
/* Memory is freed when the loop has closed the handle. NULL is fine. */
void cs_netlink_close(struct cs_netlink *netlink);

#endif
