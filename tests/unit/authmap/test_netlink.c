/* authmap/netlink: the node's own addresses and interfaces, in a network namespace of this process's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <dirent.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netlink.h"

#define WAIT_MS 10000
#define ROWS    256

/* What the callbacks told, as a table; one that says nothing new fails the test. */
struct told {
	char addrs[ROWS][INET6_ADDRSTRLEN];
	char links[ROWS][IF_NAMESIZE]; /* by ifindex */
	unsigned changed[ROWS];
	unsigned naddrs, settled, calls;
};
struct fixture {
	struct cs_loop loop;
	struct cs_timer deadline;
	struct cs_netlink *netlink;
	struct told told;
	int fd; /* the one that events come on */
};

static int addr_at(const struct told *t, const char *text)
{
	for (unsigned i = 0; i < t->naddrs; i++)
		if (strcmp(t->addrs[i], text) == 0)
			return (int)i;
	return -1;
}

static void on_addr(void *data, int family, const void *ip, bool present)
{
	struct told *t = data;
	char text[INET6_ADDRSTRLEN];
	assert_non_null(inet_ntop(family == 4 ? AF_INET : AF_INET6, ip, text, sizeof(text)));
	int at = addr_at(t, text);
	t->calls++;
	assert_int_equal(at >= 0, !present);
	if (present)
		strcpy(t->addrs[t->naddrs++], text);
	else
		memmove(t->addrs[at], t->addrs[--t->naddrs], sizeof(t->addrs[0]));
}

static void on_link(void *data, uint32_t ifindex, const char *name)
{
	struct told *t = data;
	t->calls++;
	assert_in_range(ifindex, 1, ROWS - 1);
	assert_string_not_equal(t->links[ifindex], name ? name : "");
	strcpy(t->links[ifindex], name ? name : "");
}

static void on_link_changed(void *data, uint32_t ifindex)
{
	struct told *t = data;
	assert_in_range(ifindex, 1, ROWS - 1);
	assert_string_not_equal(t->links[ifindex], "");
	t->changed[ifindex]++;
}

static void on_settled(void *data)
{
	struct told *t = data;
	t->settled++;
}

static void too_late(struct cs_timer *timer)
{
	(void)timer;
	fail_msg("nothing was told in %d ms", WAIT_MS);
}

static void run(const char *command)
{
	if (system(command) != 0)
		fail_msg("failed: %s", command);
}

static bool has(const struct fixture *f, const char *addr)
{
	return addr_at(&f->told, addr) >= 0;
}

static uint32_t link_at(const struct fixture *f, const char *name)
{
	for (uint32_t i = 1; i < ROWS; i++)
		if (strcmp(f->told.links[i], name) == 0)
			return i;
	return 0;
}

#define WAIT_UNTIL(f, condition)                                                                                       \
	do {                                                                                                           \
		cs_timer_start(&(f)->deadline, WAIT_MS, 0);                                                            \
		while (!(condition))                                                                                   \
			uv_run(&(f)->loop.uv, UV_RUN_ONCE);                                                            \
		cs_timer_stop(&(f)->deadline);                                                                         \
	} while (0)

/* Makes one change after all others, and waits for it: what was to be told before has been told. */
static void catch_up(struct fixture *f)
{
	run("ip addr add 192.0.2.250/32 dev lo");
	WAIT_UNTIL(f, has(f, "192.0.2.250"));
	run("ip addr del 192.0.2.250/32 dev lo");
	WAIT_UNTIL(f, !has(f, "192.0.2.250"));
}

/* The newest descriptor that is a netlink socket. */
static int netlink_fd(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	int newest = -1;
	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name), domain;
		socklen_t len = sizeof(domain);
		if (fd > newest && getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_NETLINK)
			newest = fd;
	}
	closedir(dir);
	return newest;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cs_error e;
	const struct cs_netlink_callbacks callbacks = {on_addr, on_link, on_link_changed, on_settled, &f->told};
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	run("ip link set lo up && ip link add v0 type veth peer name v1 && ip addr add 198.51.100.1/24 dev v0");
	assert_int_equal(cs_loop_init(&f->loop, NULL, NULL), 0);
	cs_timer_init(&f->deadline, &f->loop, too_late, NULL);
	f->netlink = cs_netlink_new(&f->loop, &callbacks, &e);
	if (!f->netlink)
		fail_msg("%s", e.text);
	f->fd = netlink_fd();
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	cs_netlink_close(f->netlink);
	cs_netlink_close(NULL);
	cs_timer_close(&f->deadline, NULL);
	cs_loop_run(&f->loop);
	cs_loop_fini(&f->loop);
	free(f);
	return 0;
}

static void test_at_start(void **state)
{
	struct fixture *f = *state;
	assert_true(has(f, "127.0.0.1"));
	assert_true(has(f, "198.51.100.1"));
	assert_false(has(f, "198.51.100.2"));
	assert_int_equal(link_at(f, "lo"), 1);
	assert_int_equal(link_at(f, "v0"), if_nametoindex("v0"));
	assert_int_equal(link_at(f, "v1"), if_nametoindex("v1"));
	assert_int_equal(link_at(f, "v2"), 0);
	assert_int_equal(f->told.settled, 1);
	for (uint32_t i = 1; i < ROWS; i++)
		assert_int_equal(f->told.changed[i], 0);
}

static void test_address_comes_and_goes(void **state)
{
	struct fixture *f = *state;
	unsigned settled = f->told.settled;
	run("ip addr add 10.1.2.3/8 dev v0 && ip addr add fd00::3/64 dev v0 nodad");
	WAIT_UNTIL(f, has(f, "10.1.2.3") && has(f, "fd00::3"));
	assert_true(f->told.settled > settled);
	run("ip addr del 10.1.2.3/8 dev v0 && ip addr del fd00::3/64 dev v0");
	WAIT_UNTIL(f, !has(f, "10.1.2.3") && !has(f, "fd00::3"));
	assert_true(has(f, "198.51.100.1"));
}

static void test_address_at_two_interfaces(void **state)
{
	struct fixture *f = *state;
	run("ip addr add 10.1.2.3/32 dev v0 && ip addr add 10.1.2.3/32 dev v1");
	WAIT_UNTIL(f, has(f, "10.1.2.3"));
	catch_up(f);
	run("ip addr del 10.1.2.3/32 dev v0");
	catch_up(f);
	assert_true(has(f, "10.1.2.3"));
	run("ip addr del 10.1.2.3/32 dev v1");
	WAIT_UNTIL(f, !has(f, "10.1.2.3"));
}

static void test_peer_address_is_not_own(void **state)
{
	struct fixture *f = *state;
	run("ip addr add 10.9.0.1 peer 10.9.0.2/32 dev v0 && ip addr add fd00::1 peer fd00::2/128 dev v0 nodad");
	WAIT_UNTIL(f, has(f, "10.9.0.1") && has(f, "fd00::1"));
	catch_up(f);
	assert_false(has(f, "10.9.0.2"));
	assert_false(has(f, "fd00::2"));
}

static void test_rename(void **state)
{
	struct fixture *f = *state;
	uint32_t ifindex = if_nametoindex("v0");
	run("ip link set v0 name renamed0");
	WAIT_UNTIL(f, link_at(f, "renamed0"));
	assert_int_equal(link_at(f, "renamed0"), ifindex);
	assert_int_equal(link_at(f, "v0"), 0);
	assert_true(has(f, "198.51.100.1"));
	run("ip link set renamed0 name v"); /* shorter */
	WAIT_UNTIL(f, link_at(f, "v") == ifindex);
}

static void test_changed(void **state)
{
	struct fixture *f = *state;
	uint32_t v0 = if_nametoindex("v0"), v1 = if_nametoindex("v1");
	catch_up(f);
	assert_int_equal(f->told.changed[v0], 0);
	run("ip link set v0 mtu 1400");
	WAIT_UNTIL(f, f->told.changed[v0]);
	catch_up(f);
	assert_int_equal(f->told.changed[v1], 0);
}

static void test_link_goes(void **state)
{
	struct fixture *f = *state;
	run("ip link del v0");
	WAIT_UNTIL(f, !link_at(f, "v0") && !link_at(f, "v1"));
	assert_false(has(f, "198.51.100.1"));
	assert_true(has(f, "127.0.0.1"));
	run("ip link add v0 type veth peer name v1");
	WAIT_UNTIL(f, link_at(f, "v0") && link_at(f, "v1"));
	assert_false(has(f, "198.51.100.1"));
}

/* The queue of events overflows. What it still holds is old: 10.0.0.1 was there, and is not any more. */
static void test_lost_messages(void **state)
{
	struct fixture *f = *state;
	int size = 1;
	assert_int_equal(setsockopt(f->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)), 0);
	run("ip addr add 10.0.0.1/32 dev v0"
	    " && for i in $(seq 2 100); do echo addr add 10.0.0.$i/32 dev v0; done | ip -batch -"
	    " && ip addr del 10.0.0.1/32 dev v0 && ip addr del 198.51.100.1/24 dev v0"
	    " && ip link add late0 type veth peer name late1");
	WAIT_UNTIL(f, has(f, "10.0.0.100"));
	for (int i = 2; i <= 100; i++) {
		char text[INET_ADDRSTRLEN];
		snprintf(text, sizeof(text), "10.0.0.%d", i);
		assert_true(has(f, text));
	}
	assert_false(has(f, "10.0.0.1"));
	assert_false(has(f, "198.51.100.1"));
	assert_int_equal(link_at(f, "late0"), if_nametoindex("late0"));
	catch_up(f); /* it still listens */
	run("for i in $(seq 2 100); do echo addr del 10.0.0.$i/32 dev v0; done | ip -batch - && ip link del late0");
	WAIT_UNTIL(f, !has(f, "10.0.0.100") && !link_at(f, "late1"));
	assert_false(has(f, "10.0.0.2"));
	assert_true(has(f, "127.0.0.1"));
	catch_up(f);
}

/* A program that may send to this socket is not the kernel. */
static void test_only_the_kernel(void **state)
{
	struct fixture *f = *state;
	struct {
		struct nlmsghdr h;
		struct ifaddrmsg m;
		struct rtattr a;
		uint8_t ip[4];
	} forged = {.h = {.nlmsg_len = sizeof(forged), .nlmsg_type = RTM_NEWADDR},
		.m = {.ifa_family = AF_INET, .ifa_index = 1},
		.a = {.rta_len = RTA_LENGTH(4), .rta_type = IFA_LOCAL},
		.ip = {203, 0, 113, 66}};
	struct sockaddr_nl to;
	socklen_t len = sizeof(to);
	assert_int_equal(getsockname(f->fd, (struct sockaddr *)&to, &len), 0);
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	to.nl_groups = 0;
	assert_int_equal(sendto(fd, &forged, sizeof(forged), 0, (struct sockaddr *)&to, len), sizeof(forged));
	close(fd);
	catch_up(f);
	assert_false(has(f, "203.0.113.66"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_at_start), TEST(test_address_comes_and_goes),
		TEST(test_address_at_two_interfaces), TEST(test_peer_address_is_not_own), TEST(test_rename),
		TEST(test_changed), TEST(test_link_goes), TEST(test_lost_messages), TEST(test_only_the_kernel)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
