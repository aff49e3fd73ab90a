/* Nanoseconds per packet of an authenticated pair (BPF_PROG_TEST_RUN): the shipped cs_from and cs_to, a program that does
 * nothing, and a reference that does the same lookups and nothing else. Rounds alternate between them, because a machine
 * drifts by more than they differ. */
#include <arpa/inet.h>
#include <errno.h>
#include <jansson.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <reference.skel.h>
#include "datapath.h"
#include "../measure.h"

#define ROUNDS  21
#define REPEAT  500000
#define IFINDEX 1u /* lo: a test run needs a device, and sends nothing on it */
#define LOCAL   1000u
#define FIRST   2000u /* identity of the first peer */
#define PASSES  ((uint32_t)-1)

enum { EMPTY, REF4, FROM4, TO4, REF6, FROM6, TO6, PROGRAMS };
static const char *const names[PROGRAMS] = {"nothing", "reference, IPv4", "cs_from, IPv4", "cs_to, IPv4",
	"reference, IPv6", "cs_from, IPv6", "cs_to, IPv6"};

struct frame {
	uint8_t bytes[64 + ETH_HLEN];
};

struct bench {
	struct cs_datapath *dp;
	struct reference_bpf *reference;
	int fd[PROGRAMS];
	struct frame frame[PROGRAMS];
	double ns[PROGRAMS][ROUNDS];
};

static void need(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "bench: %s: %s\n", what, strerror(-r));
		exit(1);
	}
}

/* Peer n: 10.1.x.y and fd00::x:y, of node 1. */
static void peer4(uint32_t n, uint8_t ip[4])
{
	uint32_t be = htonl(0x0a010000u + n);
	memcpy(ip, &be, 4);
}

static void peer6(uint32_t n, uint8_t ip[16])
{
	uint32_t be = htonl(n);
	memset(ip, 0, 16);
	ip[0] = 0xfd;
	memcpy(ip + 12, &be, 4);
}

static const uint8_t own4[4] = {10, 0, 0, 1};
static const uint8_t own6[16] = {0xfd, 1, [15] = 1};

static struct frame udp(int family, bool from)
{
	struct frame f = {0};
	uint8_t *ip = f.bytes + ETH_HLEN, peer[16];
	f.bytes[12] = family == 4 ? 0x08 : 0x86;
	f.bytes[13] = family == 4 ? 0x00 : 0xdd;
	if (family == 4) {
		peer4(0, peer);
		memcpy(ip, "\x45\x00\x00\x40\x00\x00\x00\x00\x40\x11", 10);
		memcpy(ip + 12, from ? own4 : peer, 4);
		memcpy(ip + 16, from ? peer : own4, 4);
	} else {
		peer6(0, peer);
		memcpy(ip, "\x60\x00\x00\x00\x00\x18\x11\x40", 8);
		memcpy(ip + 8, from ? own6 : peer, 16);
		memcpy(ip + 24, from ? peer : own6, 16);
	}
	return f;
}

static uint32_t run(const struct bench *b, int program, int repeat, double *ret_ns)
{
	struct __sk_buff ctx = {.ifindex = IFINDEX, .ingress_ifindex = program == TO4 || program == TO6 ? 7 : 0};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = b->frame[program].bytes, .data_size_in = sizeof(struct frame),
		.ctx_in = &ctx, .ctx_size_in = sizeof(ctx), .repeat = repeat);
	need(bpf_prog_test_run_opts(b->fd[program], &opts), names[program]);
	if (ret_ns)
		*ret_ns = opts.duration;
	return opts.retval;
}

static struct cs_datapath *open_datapath(void)
{
	struct cs_datapath_config c = cs_datapath_defaults();
	struct cs_error e = {0};
	char instance[64];
	snprintf(instance, sizeof(instance), "bench-%d", (int)getpid());
	c.instance = instance;
	struct cs_datapath *dp = cs_datapath_open(&c, &e);
	if (!dp) {
		fprintf(stderr, "bench: %s\n", e.text);
		exit(1);
	}
	return dp;
}

/* The reference looks into the shipped program's own maps. */
static struct reference_bpf *open_reference(const struct cs_datapath *dp)
{
	struct reference_bpf *r = reference_bpf__open();
	need(r ? 0 : -errno, "the reference cannot be opened");
	struct bpf_map *maps[] = {r->maps.cs_endpoint, r->maps.cs_addr4, r->maps.cs_addr6, r->maps.cs_auth};
	for (int i = 0; i < 4; i++)
		need(bpf_map__reuse_fd(maps[i], cs_datapath_map_fd(dp, bpf_map__name(maps[i]))), "sharing a map");
	need(reference_bpf__load(r), "the reference cannot be loaded");
	return r;
}

static void add_peers(struct bench *b, uint32_t from, uint32_t to)
{
	uint8_t ip[16];
	for (uint32_t n = from; n < to; n++) {
		struct cs_addr addr = {.identity = FIRST + n, .node = 1};
		struct cs_auth_key key = {.local = LOCAL, .remote = FIRST + n, .node = 1, .type = CS_AUTH_SPIRE};
		peer4(n, ip);
		need(cs_datapath_addr_put(b->dp, 4, ip, &addr, NULL), "an address");
		peer6(n, ip);
		need(cs_datapath_addr_put(b->dp, 6, ip, &addr, NULL), "an address");
		need(cs_datapath_auth_put(b->dp, &key, cs_datapath_now_ns() + 3600000000000ULL, NULL), "an entry");
	}
}

static void set_up(struct bench *b)
{
	struct cs_endpoint ep = {.identity = LOCAL, .n4 = 1, .n6 = 1}; /* denies everything that has no entry */
	memcpy(ep.own4_be32, own4, sizeof(own4));
	memcpy(ep.own6[0], own6, sizeof(own6));
	b->dp = open_datapath();
	b->reference = open_reference(b->dp);
	need(cs_datapath_endpoint_put(b->dp, IFINDEX, &ep, NULL), "the endpoint");
	const int fds[PROGRAMS] = {bpf_program__fd(b->reference->progs.empty),
		bpf_program__fd(b->reference->progs.reference4), cs_datapath_prog_fd(b->dp, CS_PROG_FROM, 0),
		cs_datapath_prog_fd(b->dp, CS_PROG_TO, 0), bpf_program__fd(b->reference->progs.reference6),
		cs_datapath_prog_fd(b->dp, CS_PROG_FROM, 0), cs_datapath_prog_fd(b->dp, CS_PROG_TO, 0)};
	memcpy(b->fd, fds, sizeof(fds));
	for (int i = 0; i < PROGRAMS; i++)
		b->frame[i] = udp(i >= REF6 ? 6 : 4, i != TO4 && i != TO6);
}

static void tear_down(struct bench *b)
{
	reference_bpf__destroy(b->reference);
	need(cs_datapath_unpin(b->dp, NULL), "unpinning");
	cs_datapath_free(b->dp);
}

/* On how many maps does this packet's passing depend? Each is emptied of its row and filled again. */
static int count_lookups(struct bench *b)
{
	static const struct cs_endpoint closed;
	struct cs_endpoint ep;
	struct cs_addr addr = {.identity = FIRST, .node = 1};
	struct cs_auth_key key = {.local = LOCAL, .remote = FIRST, .node = 1, .type = CS_AUTH_SPIRE};
	struct cs_policy_key pair = {.local = LOCAL, .remote = FIRST};
	struct cs_policy deny = {{CS_DENY, CS_DENY}, {0}};
	uint8_t ip[4];
	int n = 0;
	uint64_t entry;
	peer4(0, ip);
	need(cs_datapath_endpoint_get(b->dp, IFINDEX, &ep), "the endpoint");
	need(cs_datapath_endpoint_put(b->dp, IFINDEX, &closed, NULL), "the endpoint");
	n += run(b, FROM4, 1, NULL) != PASSES;
	need(cs_datapath_endpoint_put(b->dp, IFINDEX, &ep, NULL), "the endpoint");
	need(cs_datapath_addr_del(b->dp, 4, ip, NULL), "an address");
	n += run(b, FROM4, 1, NULL) != PASSES;
	need(cs_datapath_addr_put(b->dp, 4, ip, &addr, NULL), "an address");
	need(cs_datapath_auth_get(b->dp, &key, &entry), "an entry");
	need(cs_datapath_auth_del(b->dp, &key, NULL), "an entry");
	n += run(b, FROM4, 1, NULL) != PASSES;
	need(cs_datapath_auth_put(b->dp, &key, entry, NULL), "an entry");
	need(cs_datapath_policy_put(b->dp, &pair, &deny, NULL), "a row of policy");
	n += run(b, FROM4, 1, NULL) != PASSES;
	need(cs_datapath_policy_del(b->dp, &pair, NULL), "a row of policy");
	return n;
}

static double median(const double *values)
{
	double sorted[ROUNDS];
	memcpy(sorted, values, sizeof(sorted));
	return bench_median(sorted, ROUNDS);
}

/* Of the rounds' own ratios, in which both ran side by side. */
static double ratio(const struct bench *b, int program, int reference)
{
	double r[ROUNDS];
	for (int i = 0; i < ROUNDS; i++)
		r[i] = b->ns[program][i] / b->ns[reference][i];
	return median(r);
}

static void measure(struct bench *b)
{
	for (int i = 0; i < PROGRAMS; i++)
		if (run(b, i, 1000, NULL) != PASSES) {
			fprintf(stderr, "bench: %s: the packet did not pass\n", names[i]);
			exit(1);
		}
	for (int round = 0; round < ROUNDS; round++)
		for (int i = 0; i < PROGRAMS; i++)
			(void)run(b, i, REPEAT, &b->ns[i][round]);
}

static void print_table(const struct bench *b, uint32_t identities)
{
	double empty = median(b->ns[EMPTY]);
	printf("%u identities          ns     over nothing   x reference\n", identities);
	for (int i = 0; i < PROGRAMS; i++) {
		double ns = median(b->ns[i]);
		printf("  %-18s %7.1f %12.1f", names[i], ns, ns - empty);
		if (i == FROM4 || i == TO4)
			printf(" %13.2f", ratio(b, i, REF4));
		if (i == FROM6 || i == TO6)
			printf(" %13.2f", ratio(b, i, REF6));
		printf("\n");
	}
	printf("\n");
}

static void print_machine(void)
{
	char line[256], model[256] = "unknown processor";
	struct utsname u;
	FILE *f = fopen("/proc/cpuinfo", "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
			snprintf(model, sizeof(model), "%s", strchr(line, ':') + 2);
			model[strcspn(model, "\n")] = '\0';
			break;
		}
	if (f)
		fclose(f);
	uname(&u);
	printf("machine: %s, Linux %s\n", model, u.release);
}

static void print_what(const struct bench *b)
{
	printf("A UDP packet of an authenticated pair, nanoseconds of the whole program by BPF_PROG_TEST_RUN on one "
	       "CPU,\n"
	       "median of %d alternating rounds of %d runs. The reference does the same three lookups (u32 array, u32 "
	       "or\n"
	       "16-byte hash, 12-byte hash) in the same maps and reads the coarse clock; it checks nothing. The ratio "
	       "is of\n"
	       "whole programs, the median over the rounds. It is always the same packet, so its rows are in the "
	       "cache.\n",
		ROUNDS, REPEAT);
	print_machine();
	printf("attach: %s, checksums: %s\n\n", cs_attach_mode_name(cs_datapath_attach_mode(b->dp)),
		cs_csum_mode_name(cs_datapath_csum_mode(b->dp)));
}

static int write_json(const struct bench *b, const char *file, int lookups)
{
	json_t *o = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i}", "empty_ns", median(b->ns[EMPTY]),
		"hit4_ns_10000", median(b->ns[FROM4]), "ref4_ns_10000", median(b->ns[REF4]), "ratio4",
		ratio(b, FROM4, REF4), "hit6_ns_10000", median(b->ns[FROM6]), "ref6_ns_10000", median(b->ns[REF6]),
		"ratio6", ratio(b, FROM6, REF6), "lookups", lookups);
	int r = o ? json_dump_file(o, file, JSON_INDENT(2)) : -1;
	json_decref(o);
	if (r != 0)
		fprintf(stderr, "bench: cannot write %s\n", file);
	return r;
}

int main(int argc, char **argv)
{
	static struct bench b;
	const char *json = argc == 3 && strcmp(argv[1], "--json") == 0 ? argv[2] : NULL;
	cpu_set_t one;
	if (argc > 1 && !json) {
		fprintf(stderr, "usage: tests/bench/check [--json FILE]\n");
		return 2;
	}
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	(void)sched_setaffinity(0, sizeof(one), &one);
	set_up(&b);
	print_what(&b);
	add_peers(&b, 0, 10);
	measure(&b);
	print_table(&b, 10);
	add_peers(&b, 10, 10000);
	measure(&b);
	print_table(&b, 10000);
	int lookups = count_lookups(&b);
	printf("maps that this packet's passing depends on: %d\n", lookups);
	int r = json ? write_json(&b, json, lookups) : 0;
	tear_down(&b);
	return r != 0;
}
