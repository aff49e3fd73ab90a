/* The real programs over real maps, fed with crafted frames by BPF_PROG_TEST_RUN: each case asserts the verdict and that
 * exactly its reason was counted.
 *
 * The endpoint under test is on interface 1 (lo, the only one that a test run can name without making one). */
#ifndef CS_FIXTURE_H
#define CS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "datapath.h"

#define IFINDEX  1u
#define WORLD_ID 2u

/* The world of the tests: who has which address. */
#define OWN4       "10.0.1.10"
#define OWN6       "fd00:1::10"
#define OWN        1000u
#define REMOTE4    "10.0.2.20" /* an endpoint of node 1 */
#define REMOTE6    "fd00:2::20"
#define REMOTE     2000u
#define LOCAL4     "10.0.1.11" /* an endpoint of this node */
#define LOCAL6     "fd00:1::11"
#define LOCAL      3000u
#define OTHER4     "10.0.3.30" /* an endpoint of node 2 that no rule names */
#define OTHER6     "fd00:3::30"
#define OTHER      4000u
#define HOST4      "10.0.1.1"
#define HOST6      "fd00:1::1"
#define NODE4      "192.0.2.2" /* the address of node 1 */
#define NODE6      "2001:db8:2::2"
#define CIDR4      "198.51.100.7"
#define CIDR6      "2001:db8:64::7"
#define CIDR_ID    ((1u << 24) | 1u)
#define OUTSIDE4   "203.0.113.5"
#define OUTSIDE6   "2001:db8:ffff::5"
#define LINKLOCAL6 "fe80::1"

struct world {
	struct cs_datapath *dp;
	struct cs_endpoint endpoint; /* as written; change and world_endpoint() */
	char instance[64];
};

/* cmocka, for the group: a network namespace of its own, so that no interface but lo has an index. */
int own_network(void **state);
/* cmocka, for the group: unpins what a failed test left. */
int remove_leftovers(void **state);
/* cmocka: opens the datapath with the addresses above, hold on, authd alive, no policy (everything denied). */
int world_open(void **state);
int world_close(void **state);
struct world *world_new(const struct cs_datapath_config *config);
void world_free(struct world *w);

void world_endpoint(struct world *w); /* writes w->endpoint */
void world_defaults(struct world *w, int from_endpoint, int from_other, int to_endpoint, int to_other);
void world_policy(struct world *w, uint32_t remote, int from, int to);
void world_addr(struct world *w, const char *ip, uint32_t identity, uint16_t node, uint16_t flags);
struct cs_auth_key world_key(uint32_t remote, uint16_t node);
/* An entry that lives for ms from now (negative: dead), with flags. */
void world_auth(struct world *w, uint32_t remote, uint16_t node, int64_t ms, uint64_t flags);
void world_pending(struct world *w, uint32_t remote, uint16_t node, uint32_t state, int64_t ms);
void world_flags(struct world *w, uint32_t node_flags);
uint32_t world_rows(struct world *w, enum cs_map map);

struct spec {
	const char *src, *dst; /* the family follows; NULL: see type */
	uint8_t proto;         /* 0: UDP */
	uint8_t hop;           /* 0: 64 */
	uint16_t sport, dport; /* 0: 1000, 2000 */
	uint8_t type, code;    /* ICMP */
	uint16_t id;           /* echo */
	const char *target;    /* ND */
	uint16_t
		fragment; /* IPv4: flags and offset; IPv6: a fragment header with offset << 3 | more; FRAGMENT_ATOMIC */
	int extensions;   /* IPv6: destination options before the transport */
	uint16_t ethertype; /* instead of the right one */
	int tags;           /* 802.1Q tags before it */
	size_t body;        /* bytes after the transport header (default 8) */
	size_t cut;         /* the frame ends here */
	size_t trail;       /* bytes behind the packet */
	const struct spec *quote;
	size_t quote_bytes; /* of its transport, 0: 8 */
	/* not in the frame */
	uint32_t ingress; /* ingress_ifindex */
	uint32_t mark, gso_size;
	int own_checksum; /* 0: the pseudo-header's sum, as the stack leaves it; 1: complete; 2: wrong */
};
#define FRAGMENT_ATOMIC 0x8000
#define MORE4           0x2000

struct frame {
	uint8_t bytes[4096];
	size_t len;
};
struct frame build(const struct spec *spec);
struct frame build_arp(const char *sender, const char *target, size_t len);

/* What the program returned, and the mark that it left. */
struct run {
	int verdict; /* TC_ACT_UNSPEC, TC_ACT_SHOT, ... */
	uint32_t mark;
};
struct run run_frame(struct world *w, enum cs_dir dir, const struct frame *frame, const struct spec *spec);

/* What a packet may come to: a reason counted and dropped, or */
#define PASSES 0
#define HELD   1000 /* dropped uncounted, a record in cs_held */
#define WOULD  2000 /* + reason: passed, and counted as what would have been */

struct expect {
	const char *name;
	enum cs_dir dir;
	struct spec spec;
	int outcome;
};
/* Fails the test, by name, unless each comes to its outcome; counters of all other reasons stay where they are. */
void expect_all(struct world *w, const struct expect *cases, size_t n);
#define EXPECT(w, ...)                                                                                                 \
	expect_all((w), (const struct expect[]){__VA_ARGS__},                                                          \
		sizeof((const struct expect[]){__VA_ARGS__}) / sizeof(struct expect))
void expect_frame(struct world *w, const char *name, enum cs_dir dir, const struct frame *frame, int outcome);

/* The records of a ring since the last call, at most max; for cs_drop give drops. */
size_t take_held(struct world *w, const char *ring, struct cs_held *ret, uint8_t (*frames)[CS_HELD_MAX], size_t max);
size_t take_drops(struct world *w, struct cs_drop *ret, size_t max);

#endif
