#include "links.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>
#include "mem.h"

static int answer_of(const char *name, char *buffer, size_t size, struct cs_error *e)
{
	struct {
		struct nlmsghdr header;
		struct ifinfomsg info;
		char attributes[64];
	} request = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
			     .nlmsg_type = RTM_GETLINK,
			     .nlmsg_flags = NLM_F_REQUEST},
		.info = {.ifi_family = AF_UNSPEC}};
	struct rtattr *attribute = (struct rtattr *)((char *)&request + NLMSG_ALIGN(request.header.nlmsg_len));
	attribute->rta_type = IFLA_IFNAME;
	attribute->rta_len = (unsigned short)RTA_LENGTH(strlen(name) + 1);
	memcpy(RTA_DATA(attribute), name, strlen(name) + 1);
	request.header.nlmsg_len = NLMSG_ALIGN(request.header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot ask the kernel for interfaces");
	ssize_t n = send(fd, &request, request.header.nlmsg_len, 0) < 0 ? -1 : recv(fd, buffer, size, 0);
	int err = errno;
	close(fd);
	if (n < 0)
		return cs_error_errno(e, -err, "cannot ask the kernel for the interface %s", name);
	return (int)n;
}

/* The kind of a link ("veth"), or NULL: a device of hardware. */
static const char *kind_of(struct nlmsghdr *header)
{
	struct ifinfomsg *info = NLMSG_DATA(header);
	int left = (int)IFLA_PAYLOAD(header);
	for (struct rtattr *a = IFLA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type != IFLA_LINKINFO)
			continue;
		int inner = (int)RTA_PAYLOAD(a);
		for (struct rtattr *b = RTA_DATA(a); RTA_OK(b, inner); b = RTA_NEXT(b, inner))
			if (b->rta_type == IFLA_INFO_KIND)
				return RTA_DATA(b);
	}
	return NULL;
}

static int refuse(const char *name, const char *what, struct cs_error *e)
{
	return cs_error_reason(e, -EOPNOTSUPP, CS_R_INTERFACE_UNSUITABLE,
		"the interface %s is %s: packets of a workload would go round the check there; use a veth or a tap",
		name, what);
}

int cs_link_find(const char *name, unsigned *ret_ifindex, struct cs_error *e)
{
	_Alignas(struct nlmsghdr) char buffer[32768];
	int n = answer_of(name, buffer, sizeof(buffer), e);
	if (n < 0)
		return n;
	struct nlmsghdr *header = (struct nlmsghdr *)buffer;
	if (!NLMSG_OK(header, (unsigned)n) || header->nlmsg_type != RTM_NEWLINK)
		return cs_error_reason(
			e, -ENODEV, CS_R_INTERFACE_MISSING, "there is no interface '%s' on this node", name);
	struct ifinfomsg *info = NLMSG_DATA(header);
	const char *kind = kind_of(header);
	if (info->ifi_flags & IFF_LOOPBACK)
		return refuse(name, "the loopback", e);
	if (!kind)
		return refuse(name, "a device of the machine", e);
	/* What a workload sends and is sent passes tc on the host side of a veth pair, and on a tap. Every other kind has a
	 * way round it (netkit runs its own programs in the peer, macvlan and ipvlan leave by the parent) or is the host's. */
	if (strcmp(kind, "veth") != 0 && strcmp(kind, "tun") != 0)
		return refuse(name, kind, e);
	if (info->ifi_type != ARPHRD_ETHER)
		return refuse(name, "a tun without Ethernet", e);
	*ret_ifindex = (unsigned)info->ifi_index;
	return 0;
}

/* --- changes --- */

struct cs_links {
	uv_poll_t poll;
	int fd;
	void (*fn)(void *data);
	void *data;
};

static void on_readable(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	struct cs_links *links = poll->data;
	char buffer[32768];
	bool any = false;
	ssize_t n;
	/* What it says does not matter, not even that some was lost (ENOBUFS): the listener looks for itself. Bounded, so
	 * that a storm of changes leaves the loop its turn. */
	for (int i = 0; i < 64 && ((n = recv(links->fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0 || errno == ENOBUFS);
		i++)
		any = true;
	if (any)
		links->fn(links->data);
}

int cs_links_watch(struct cs_loop *loop, void (*fn)(void *), void *data, struct cs_links **ret, struct cs_error *e)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int err = errno;
		if (fd >= 0)
			close(fd);
		return cs_error_errno(e, -err, "cannot watch the interfaces");
	}
	struct cs_links *links = cs_xcalloc(1, sizeof(*links));
	*links = (struct cs_links){.fd = fd, .fn = fn, .data = data};
	uv_poll_init(&loop->uv, &links->poll, fd);
	links->poll.data = links;
	uv_poll_start(&links->poll, UV_READABLE, on_readable);
	*ret = links;
	return 0;
}

static void closed(uv_handle_t *handle)
{
	struct cs_links *links = handle->data;
	close(links->fd);
	free(links);
}

void cs_links_close(struct cs_links *links)
{
	if (links)
		uv_close((uv_handle_t *)&links->poll, closed);
}
