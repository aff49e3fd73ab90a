#include "rtnl.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REPLY_MAX 32768 /* one RTM_NEWLINK of a device with many attributes */

struct request {
	struct nlmsghdr head;
	struct ifinfomsg link;
	uint8_t attributes[512];
};

static struct request request_new(uint16_t type, uint16_t flags)
{
	struct request r = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
				    .nlmsg_type = type,
				    .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
				    .nlmsg_seq = 1}};
	return r;
}

/* Everything here has room: names are bounded, and there are a dozen attributes at most. */
static struct rtattr *add(struct request *r, uint16_t type, const void *data, size_t n)
{
	struct rtattr *a = (struct rtattr *)((uint8_t *)r + NLMSG_ALIGN(r->head.nlmsg_len));
	a->rta_type = type;
	a->rta_len = (uint16_t)RTA_LENGTH(n);
	if (n)
		memcpy(RTA_DATA(a), data, n);
	r->head.nlmsg_len = NLMSG_ALIGN(r->head.nlmsg_len) + (uint32_t)RTA_ALIGN(RTA_LENGTH(n));
	return a;
}

static void end(struct request *r, struct rtattr *nest)
{
	nest->rta_len = (uint16_t)((uint8_t *)r + r->head.nlmsg_len - (uint8_t *)nest);
}

/* The reply's message into buf, or 0 bytes for a plain acknowledgement; a negative errno. */
static ssize_t talk(struct request *r, uint8_t *buf, size_t size)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		return -errno;
	ssize_t n = send(fd, r, r->head.nlmsg_len, 0);
	if (n >= 0)
		n = recv(fd, buf, size, 0);
	int code = errno;
	close(fd);
	if (n < 0)
		return -code;
	const struct nlmsghdr *h = (const struct nlmsghdr *)buf;
	if (!NLMSG_OK(h, (size_t)n))
		return -EBADMSG;
	if (h->nlmsg_type == NLMSG_ERROR)
		return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
	return n;
}

static void read_nested(const struct rtattr *nest, uint16_t want, void *out, size_t size)
{
	int left = (int)RTA_PAYLOAD(nest);
	for (const struct rtattr *a = RTA_DATA(nest); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == want)
			memcpy(out, RTA_DATA(a), RTA_PAYLOAD(a) < size ? RTA_PAYLOAD(a) : size);
}

int cs_rtnl_link(uint32_t ifindex, struct cs_link_info *ret, struct cs_error *e)
{
	uint8_t buf[REPLY_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct request r = request_new(RTM_GETLINK, 0);
	r.link.ifi_index = (int)ifindex;
	ssize_t n = talk(&r, buf, sizeof(buf));
	if (n < 0)
		return cs_error_errno(e, (int)n, "cannot look at interface %u", ifindex);
	const struct nlmsghdr *h = (const struct nlmsghdr *)buf;
	const struct ifinfomsg *link = NLMSG_DATA(h);
	*ret = (struct cs_link_info){.type = link->ifi_type};
	int left = (int)IFLA_PAYLOAD(h);
	for (const struct rtattr *a = IFLA_RTA(link); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		uint16_t type = a->rta_type & NLA_TYPE_MASK;
		if (type == IFLA_IFNAME)
			snprintf(ret->name, sizeof(ret->name), "%s", (const char *)RTA_DATA(a));
		else if (type == IFLA_LINKINFO)
			read_nested(a, IFLA_INFO_KIND, ret->kind, sizeof(ret->kind) - 1);
		else if (type == IFLA_XDP)
			read_nested(a, IFLA_XDP_PROG_ID, &ret->xdp_prog, sizeof(ret->xdp_prog));
	}
	return 0;
}

/* No link-local address, so that the kernel says nothing of its own there. */
static void add_quiet(struct request *r)
{
	uint8_t mode = IN6_ADDR_GEN_MODE_NONE;
	struct rtattr *families = add(r, IFLA_AF_SPEC, NULL, 0);
	struct rtattr *inet6 = add(r, AF_INET6, NULL, 0);
	add(r, IFLA_INET6_ADDR_GEN_MODE, &mode, sizeof(mode));
	end(r, inet6);
	end(r, families);
}

static int set_up(uint32_t ifindex)
{
	uint8_t buf[REPLY_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct request r = request_new(RTM_NEWLINK, NLM_F_ACK);
	r.link.ifi_index = (int)ifindex;
	add_quiet(&r);
	ssize_t n = talk(&r, buf, sizeof(buf));
	if (n < 0 && n != -EAFNOSUPPORT) /* IPv6 is off in this kernel */
		return (int)n;
	r = request_new(RTM_NEWLINK, NLM_F_ACK);
	r.link.ifi_index = (int)ifindex;
	r.link.ifi_flags = r.link.ifi_change = IFF_UP;
	return (int)talk(&r, buf, sizeof(buf));
}

int cs_rtnl_make_pair(const char *a, const char *b, uint32_t mtu, uint32_t *ret_a, uint32_t *ret_b, struct cs_error *e)
{
	uint8_t buf[REPLY_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct request r = request_new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK);
	struct ifinfomsg peer = {0};
	add(&r, IFLA_IFNAME, a, strlen(a) + 1);
	add(&r, IFLA_MTU, &mtu, sizeof(mtu));
	struct rtattr *info = add(&r, IFLA_LINKINFO, NULL, 0);
	add(&r, IFLA_INFO_KIND, "veth", 5);
	struct rtattr *data = add(&r, IFLA_INFO_DATA, NULL, 0);
	struct rtattr *nest = add(&r, VETH_INFO_PEER, &peer, sizeof(peer));
	add(&r, IFLA_IFNAME, b, strlen(b) + 1);
	add(&r, IFLA_MTU, &mtu, sizeof(mtu));
	end(&r, nest);
	end(&r, data);
	end(&r, info);
	ssize_t n = talk(&r, buf, sizeof(buf));
	if (n < 0)
		return cs_error_errno(e, (int)n, "cannot make the helper devices %s and %s", a, b);
	*ret_a = if_nametoindex(a);
	*ret_b = if_nametoindex(b);
	int code = *ret_a && *ret_b ? 0 : -ENODEV;
	if (code == 0)
		code = set_up(*ret_a);
	if (code == 0)
		code = set_up(*ret_b);
	return code < 0 ? cs_error_errno(e, code, "cannot set the helper devices %s and %s up", a, b) : 0;
}

int cs_rtnl_delete(const char *name, struct cs_error *e)
{
	uint8_t buf[REPLY_MAX] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct request r = request_new(RTM_DELLINK, NLM_F_ACK);
	add(&r, IFLA_IFNAME, name, strlen(name) + 1);
	ssize_t n = talk(&r, buf, sizeof(buf));
	if (n < 0 && n != -ENODEV)
		return cs_error_errno(e, (int)n, "cannot remove the device %s", name);
	return 0;
}
