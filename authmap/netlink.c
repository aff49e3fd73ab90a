#include "netlink.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>
#include "address.h"
#include "log.h"

#define RECEIVE_BUFFER (4 * 1024 * 1024)
#define MESSAGES_MAX   256 /* datagrams in one turn of the loop */
#define DUMP_TRIES     5   /* while the kernel says that something changed meanwhile */
#define AGAIN_MS       1000

/* One address at one interface. */
struct held_key {
	struct cs_ip ip;
	uint32_t ifindex;
};
struct held {
	struct held_key key;
	bool seen;
	UT_hash_handle hh;
};
struct count {
	struct cs_ip ip;
	unsigned n;
	UT_hash_handle hh;
};
struct link {
	uint32_t ifindex;
	char name[IFNAMSIZ];
	bool seen;
	UT_hash_handle hh;
};
struct cs_netlink {
	struct cs_netlink_callbacks callbacks;
	int fd; /* what changes */
	bool dumping, interrupted;
	struct held *held;
	struct count *counts;
	struct link *links;
	uv_poll_t poll;
	struct cs_timer again; /* a reading that failed */
	int open_handles;
	char buffer[64 * 1024] __attribute__((aligned(NLMSG_ALIGNTO)));
};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

/* ---- the table ---- */

static void count_addr(struct cs_netlink *nl, const struct cs_ip *ip, int by)
{
	struct count *c;
	HASH_FIND(hh, nl->counts, ip, sizeof(*ip), c);
	if (!c) {
		c = must(calloc(1, sizeof(*c)));
		c->ip = *ip;
		HASH_ADD(hh, nl->counts, ip, sizeof(c->ip), c);
	}
	bool was = c->n > 0;
	c->n += (unsigned)by;
	bool is = c->n > 0;
	if (!is) {
		HASH_DEL(nl->counts, c);
		free(c);
	}
	if (was != is)
		nl->callbacks.on_addr(nl->callbacks.data, ip->family, ip->b, is);
}

static void addr_gone(struct cs_netlink *nl, struct held *h)
{
	struct cs_ip ip = h->key.ip;
	HASH_DEL(nl->held, h);
	free(h);
	count_addr(nl, &ip, -1);
}

static void addr_there(struct cs_netlink *nl, const struct held_key *key)
{
	struct held *h;
	HASH_FIND(hh, nl->held, key, sizeof(*key), h);
	if (h) {
		h->seen = true;
		return;
	}
	if (HASH_COUNT(nl->held) >= CS_NETLINK_ADDRS) {
		cs_warn("this node has more addresses than are watched", cs_u64("limit", CS_NETLINK_ADDRS));
		return;
	}
	h = must(calloc(1, sizeof(*h)));
	h->key = *key;
	h->seen = true;
	HASH_ADD(hh, nl->held, key, sizeof(h->key), h);
	count_addr(nl, &key->ip, 1);
}

static void link_gone(struct cs_netlink *nl, struct link *l)
{
	uint32_t ifindex = l->ifindex;
	struct held *h, *next;
	HASH_ITER (hh, nl->held, h, next)
		if (h->key.ifindex == ifindex)
			addr_gone(nl, h);
	HASH_DEL(nl->links, l);
	free(l);
	nl->callbacks.on_link(nl->callbacks.data, ifindex, NULL);
}

static void link_there(struct cs_netlink *nl, uint32_t ifindex, const char *name)
{
	struct link *l;
	HASH_FIND(hh, nl->links, &ifindex, sizeof(ifindex), l);
	if (l && strcmp(l->name, name) == 0) {
		l->seen = true;
		if (!nl->dumping)
			nl->callbacks.on_link_changed(nl->callbacks.data, ifindex);
		return;
	}
	if (!l && HASH_COUNT(nl->links) >= CS_NETLINK_LINKS) {
		cs_warn("this node has more interfaces than are watched", cs_u64("limit", CS_NETLINK_LINKS));
		return;
	}
	if (!l) {
		l = must(calloc(1, sizeof(*l)));
		l->ifindex = ifindex;
		HASH_ADD(hh, nl->links, ifindex, sizeof(l->ifindex), l);
	}
	l->seen = true;
	snprintf(l->name, sizeof(l->name), "%s", name);
	nl->callbacks.on_link(nl->callbacks.data, ifindex, l->name);
}

/* ---- messages ---- */

static void on_addr(struct cs_netlink *nl, const struct nlmsghdr *h)
{
	const struct ifaddrmsg *m = NLMSG_DATA(h);
	struct held_key key = {0};
	int left = (int)IFA_PAYLOAD(h);
	const struct rtattr *address = NULL, *local = NULL;
	for (const struct rtattr *a = IFA_RTA(m); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == IFA_ADDRESS)
			address = a;
		else if (a->rta_type == IFA_LOCAL) /* with a peer, IFA_ADDRESS is the peer's */
			local = a;
	}
	const struct rtattr *mine = local ? local : address;
	if (!mine || !cs_ip_from_bytes(&key.ip, RTA_DATA(mine), RTA_PAYLOAD(mine)))
		return;
	key.ifindex = m->ifa_index;
	struct held *held;
	HASH_FIND(hh, nl->held, &key, sizeof(key), held);
	if (h->nlmsg_type == RTM_NEWADDR)
		addr_there(nl, &key);
	else if (held)
		addr_gone(nl, held);
}

static void on_link(struct cs_netlink *nl, const struct nlmsghdr *h)
{
	const struct ifinfomsg *m = NLMSG_DATA(h);
	int left = (int)IFLA_PAYLOAD(h);
	char name[IFNAMSIZ] = "";
	struct link *l;
	uint32_t ifindex = (uint32_t)m->ifi_index;
	if (m->ifi_family != AF_UNSPEC) /* a bridge port's; the interface itself comes apart */
		return;
	for (const struct rtattr *a = IFLA_RTA(m); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == IFLA_IFNAME && RTA_PAYLOAD(a) <= sizeof(name))
			memcpy(name, RTA_DATA(a), RTA_PAYLOAD(a));
	name[sizeof(name) - 1] = '\0';
	HASH_FIND(hh, nl->links, &ifindex, sizeof(ifindex), l);
	if (h->nlmsg_type == RTM_NEWLINK && name[0])
		link_there(nl, ifindex, name);
	else if (h->nlmsg_type == RTM_DELLINK && l)
		link_gone(nl, l);
}

/* One datagram. 1: a dump ended; 0; or the error that it reports. */
static int take(struct cs_netlink *nl, size_t len)
{
	int ended = 0;
	for (const struct nlmsghdr *h = (const void *)nl->buffer; NLMSG_OK(h, len); h = NLMSG_NEXT(h, len)) {
		if (h->nlmsg_flags & NLM_F_DUMP_INTR)
			nl->interrupted = true;
		switch (h->nlmsg_type) {
		case NLMSG_DONE:
			ended = 1;
			break;
		case NLMSG_ERROR:
			return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
		case RTM_NEWADDR:
		case RTM_DELADDR:
			on_addr(nl, h);
			break;
		case RTM_NEWLINK:
		case RTM_DELLINK:
			on_link(nl, h);
			break;
		}
	}
	return ended;
}

/* Bytes, or a negative errno; only the kernel is listened to. */
static ssize_t receive(struct cs_netlink *nl, int fd, int flags)
{
	struct sockaddr_nl from = {0};
	struct iovec iov = {.iov_base = nl->buffer, .iov_len = sizeof(nl->buffer)};
	struct msghdr msg = {.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n = recvmsg(fd, &msg, flags | MSG_TRUNC);
	if (n < 0)
		return -errno;
	return from.nl_pid != 0 ? 0 : n > (ssize_t)sizeof(nl->buffer) ? -ENOBUFS : n;
}

/* ---- everything anew ---- */

/* The kernel answers in recvmsg, at once. */
static int dump(struct cs_netlink *nl, int fd, int type)
{
	struct {
		struct nlmsghdr h;
		struct ifinfomsg m; /* ifaddrmsg is smaller */
	} request = {.h = {.nlmsg_len = sizeof(request),
			     .nlmsg_type = (uint16_t)type,
			     .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
			     .nlmsg_seq = 1}};
	if (send(fd, &request, sizeof(request), 0) < 0)
		return -errno;
	for (;;) {
		ssize_t n = receive(nl, fd, 0);
		int r = n < 0 ? (int)n : take(nl, (size_t)n);
		if (r != 0)
			return r < 0 ? r : 0;
	}
}

/* On a socket of its own, so that what is in the queue of events is never taken for the kernel's answer: those come
 * after it, in order, and what they say of the time before the dump is put right by the last of them. */
static int dump_all(struct cs_netlink *nl)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		return -errno;
	int r = dump(nl, fd, RTM_GETLINK);
	if (r == 0)
		r = dump(nl, fd, RTM_GETADDR);
	close(fd);
	return r < 0 ? r : nl->interrupted ? -EAGAIN : 0;
}

static void sweep(struct cs_netlink *nl)
{
	struct held *h, *next_h;
	struct link *l, *next_l;
	HASH_ITER (hh, nl->held, h, next_h)
		if (!h->seen)
			addr_gone(nl, h);
	HASH_ITER (hh, nl->links, l, next_l)
		if (!l->seen)
			link_gone(nl, l);
}

/* What is older than the dump that follows. */
static void drain(struct cs_netlink *nl)
{
	ssize_t n;
	do
		n = receive(nl, nl->fd, MSG_DONTWAIT);
	while (n >= 0 || n == -ENOBUFS);
}

static int read_all(struct cs_netlink *nl, struct cs_error *e)
{
	struct held *h, *next_h;
	struct link *l, *next_l;
	int r = -EAGAIN;
	for (int tries = 0; tries < DUMP_TRIES && r == -EAGAIN; tries++) {
		drain(nl);
		HASH_ITER (hh, nl->held, h, next_h)
			h->seen = false;
		HASH_ITER (hh, nl->links, l, next_l)
			l->seen = false;
		nl->interrupted = false;
		nl->dumping = true;
		r = dump_all(nl);
		nl->dumping = false;
	}
	if (r < 0)
		return cs_error_errno(e, r, "cannot read this node's addresses and interfaces");
	sweep(nl);
	nl->callbacks.on_settled(nl->callbacks.data);
	return 0;
}

static void read_again(struct cs_timer *timer)
{
	struct cs_netlink *nl = timer->data;
	struct cs_error e;
	if (read_all(nl, &e) == 0)
		return;
	cs_fail("rtnetlink is asked again", cs_err(&e));
	cs_timer_start(&nl->again, AGAIN_MS, 0);
}

static void follow(struct cs_netlink *nl);

/* status: libuv stops at an error of the socket, which is how the kernel tells that its queue was full. */
static void on_readable(uv_poll_t *poll, int status, int events)
{
	struct cs_netlink *nl = poll->data;
	ssize_t n = 0;
	(void)events;
	for (int i = 0; i < MESSAGES_MAX && n >= 0; i++) {
		n = receive(nl, nl->fd, MSG_DONTWAIT);
		if (n > 0)
			take(nl, (size_t)n);
	}
	if (status < 0)
		follow(nl);
	if (n < 0 && n != -EAGAIN && n != -EINTR) {
		cs_warn("rtnetlink lost messages, everything is read anew", cs_i64("errno", -n));
		read_again(&nl->again);
		return;
	}
	nl->callbacks.on_settled(nl->callbacks.data);
}

static void follow(struct cs_netlink *nl)
{
	uv_poll_start(&nl->poll, UV_READABLE, on_readable);
}

/* ---- life ---- */

static void nl_free(struct cs_netlink *nl)
{
	struct held *h, *next_h;
	struct count *c, *next_c;
	struct link *l, *next_l;
	HASH_ITER (hh, nl->held, h, next_h) {
		HASH_DEL(nl->held, h);
		free(h);
	}
	HASH_ITER (hh, nl->counts, c, next_c) {
		HASH_DEL(nl->counts, c);
		free(c);
	}
	HASH_ITER (hh, nl->links, l, next_l) {
		HASH_DEL(nl->links, l);
		free(l);
	}
	if (nl->fd >= 0)
		close(nl->fd);
	free(nl);
}

static int nl_open(struct cs_netlink *nl, struct cs_error *e)
{
	struct sockaddr_nl us = {
		.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};
	int size = RECEIVE_BUFFER;
	nl->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (nl->fd < 0 || bind(nl->fd, (struct sockaddr *)&us, sizeof(us)) < 0)
		return cs_error_errno(e, -errno, "cannot open rtnetlink");
	if (setsockopt(nl->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(nl->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	return 0;
}

struct cs_netlink *cs_netlink_new(
	struct cs_loop *loop, const struct cs_netlink_callbacks *callbacks, struct cs_error *e)
{
	struct cs_netlink *nl = must(calloc(1, sizeof(*nl)));
	nl->callbacks = *callbacks;
	int r = nl_open(nl, e);
	if (r == 0)
		r = read_all(nl, e);
	if (r == 0 && (r = uv_poll_init(&loop->uv, &nl->poll, nl->fd)) < 0)
		cs_error_set(e, r, "rtnetlink cannot be waited for: %s", uv_strerror(r));
	if (r < 0) {
		nl_free(nl);
		return NULL;
	}
	nl->poll.data = nl;
	cs_timer_init(&nl->again, loop, read_again, nl);
	nl->open_handles = 2;
	follow(nl);
	return nl;
}

static void closed_one(struct cs_netlink *nl)
{
	if (--nl->open_handles == 0)
		nl_free(nl);
}

static void on_closed(uv_handle_t *handle)
{
	closed_one(handle->data);
}

static void on_again_closed(struct cs_timer *timer)
{
	closed_one(timer->data);
}

void cs_netlink_close(struct cs_netlink *nl)
{
	if (!nl)
		return;
	uv_close((uv_handle_t *)&nl->poll, on_closed);
	cs_timer_close(&nl->again, on_again_closed);
}
