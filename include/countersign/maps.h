/* The BPF maps: the contract between the datapath (authmap/bpf/) and countersign-authd.
 * One header for C and for BPF. Pinned under <bpffs>/countersign/<instance>/v<CS_ABI>/.
 *
 * Rules for all of them
 * - host byte order, except fields named be16/be32 and addresses, which are as on the wire;
 * - every padding byte is a named field and is zero: keys are compared as bytes;
 * - a zeroed value means the closed thing (deny, expired, no identity);
 * - every ns is of CLOCK_MONOTONIC_COARSE (bpf_ktime_get_coarse_ns), on both sides;
 * - only authd writes, unless the map says "datapath". An update from user space replaces the row, and what the
 *   datapath counts in it meanwhile is lost: counts are taken back by the program cs_settle and by nothing else;
 * - a change of any layout or meaning changes CS_ABI. */
#ifndef COUNTERSIGN_MAPS_H
#define COUNTERSIGN_MAPS_H

#include <countersign/leaf.h>
#include <linux/types.h>

#define CS_ABI 1

/* Reserved identities that the datapath itself knows (Cilium's numbers). */
enum cs_identity {
	CS_ID_UNKNOWN = 0,
	CS_ID_HOST = 1, /* made on this very node: one of its addresses AND no ingress interface */
	CS_ID_WORLD = 2,
	CS_ID_REMOTE_NODE = 6,
	CS_ID_FIRST_AUTH = 100,      /* from here to CS_ID_LOCAL_SCOPE - 1 an identity can authenticate */
	CS_ID_LOCAL_SCOPE = 1 << 24, /* CIDR identities: have no SVID */
};

/* A hook is named by what the endpoint of the interface does there. */
enum cs_dir {
	CS_FROM = 0, /* tc ingress of the host-side interface: the endpoint sends (policy: egress) */
	CS_TO = 1,   /* tc egress: the endpoint receives (policy: ingress) */
};

enum cs_verdict {
	CS_DENY = 0,    /* passes only as the reply to a flow that the other direction let out */
	CS_REQUIRE = 1, /* passes only with a live entry in cs_auth */
	CS_PASS = 2,
	CS_VERDICT_MASK = 0x0f,
	CS_AUDIT = 0x80, /* would be refused: count and record it, and pass */
};

/* Can the peer authenticate? Defaults differ: an empty selector means endpoints, not the world. */
enum cs_peer_class {
	CS_PEER_OTHER = 0, /* host, world, remote-node, CIDR */
	CS_PEER_ENDPOINT = 1,
};

/* cs_endpoint, ARRAY (about 8 ns less) while interface indices are small, else HASH: u32 ifindex ->
 * struct cs_endpoint; identity 0 in the ARRAY is "no row". No row: everything is dropped (no-endpoint).
 * The defaults are the verdicts of peers without a row in cs_policy. authd writes a new endpoint with
 * all defaults CS_DENY, then its policy rows, then its real defaults. An update of an ARRAY is not atomic: before
 * identity or addresses of a row change it is zeroed. */
enum cs_endpoint_flags {
	CS_EP_DHCP = 1 << 0,    /* DHCP client traffic passes */
	CS_EP_AUDIT = 1 << 1,   /* nothing at all is dropped, everything is recorded */
	CS_EP_DEPENDS = 1 << 2, /* depends_on: passes before policy, source binding still holds */
	CS_EP_FLOWS = 1 << 3,   /* some direction can deny: passed packets are noted in cs_flows */
};
#define CS_OWN 4
struct cs_endpoint {
	__u32 identity;
	__u32 flags;
	__u8 verdict[2][2]; /* [enum cs_dir][enum cs_peer_class] */
	__u8 n4, n6;
	__u16 pad;
	__u32 own4_be32[CS_OWN];
	__u8 own6[CS_OWN][16];
};

/* cs_addr4, cs_addr6, HASH: address -> struct cs_addr. Exact addresses: all endpoints, all nodes,
 * this node's own (every local address of every interface, from netlink, as CS_ID_HOST).
 * cs_prefix4, cs_prefix6, LPM_TRIE: CIDR identities and depends_on prefixes (identity: the longest CIDR that holds
 * it, else CS_ID_WORLD). Only one row is looked at, so each, exact ones too, carries CS_ADDR_DEPENDS also for the
 * prefixes around it. No match: CS_ID_WORLD. Without its row an endpoint would be judged as world: when one finds no room,
 * CS_PEER_OTHER becomes CS_DENY at every endpoint (map-full). */
enum cs_addr_flags {
	CS_ADDR_DEPENDS = 1 << 0, /* depends_on */
};
struct cs_addr6 {
	__u8 addr[16];
};
struct cs_prefix4 {
	__u32 len; /* LPM_TRIE: bits */
	__u32 addr_be32;
};
struct cs_prefix6 {
	__u32 len;
	__u8 addr[16];
};
struct cs_addr {
	__u32 identity;
	__u16 node; /* 0: this node, or none; which one, the identity tells (CS_ID_FIRST_AUTH) */
	__u16 flags;
};

/* cs_policy, HASH: struct cs_policy_key -> struct cs_policy. Both directions of a pair in one row, so
 * that `require` joined over both and the test of a reply cost no second lookup.
 * Rows exist only for local identities and only for peers that a rule names. Which rule decided is not here: authd
 * has it from the directory, by pair and direction. */
struct cs_policy_key {
	__u32 local;
	__u32 remote;
};
struct cs_policy {
	__u8 verdict[2]; /* [enum cs_dir] */
	__u8 pad[2];
};

/* cs_auth, HASH, NO_PREALLOC: struct cs_auth_key -> u64. Layout of the key is Cilium's.
 * Value: ns of CLOCK_MONOTONIC_COARSE until which the pair is authenticated, and three flags. */
enum cs_auth_type {
	CS_AUTH_SPIRE = 1, /* the only type the datapath looks up */
};
struct cs_auth_key {
	__u32 local;
	__u32 remote;
	__u16 node;
	__u8 type;
	__u8 pad;
};
/* FLUSHING: only re-injected packets pass while cs_pending has the pair in CS_FLUSHING and its until_ns is ahead. That
 * row is written before the flag and deleted after it; without it, or past its time, the flag means nothing, so that
 * a pair whose authd died while flushing lives on. */
#define CS_AUTH_FLUSHING   (1ULL << 63)
#define CS_AUTH_REPLY_TO   (1ULL << 62) /* policy denies CS_TO: only replies in cs_flows pass there */
#define CS_AUTH_REPLY_FROM (1ULL << 61) /* the same for CS_FROM */
#define CS_AUTH_EXPIRY     ((1ULL << 61) - 1)

/* cs_basis, HASH, NO_PREALLOC: struct cs_auth_key -> struct cs_basis. Never read by the datapath: what an
 * entry rests on, kept in the kernel so that it survives authd. Written before the entry, deleted after
 * it; an entry without a basis is deleted at start. Facts only, no generations: those guard what is in
 * flight, and end with the process that counted them. The incarnations are the directory's (Identity.incarnation):
 * where one differs, the number has been given to another identity meanwhile and the entry goes. */
struct cs_basis {
	__u64 not_after_unix_s; /* earliest of both chains */
	__u64 written_unix_s;
	__u64 local_incarnation;
	__u64 remote_incarnation;
	struct cs_leaf local;
	struct cs_leaf remote;
	__u8 role; /* enum cs_hs_role */
	__u8 pad[7];
};

/* cs_pending, HASH: struct cs_auth_key -> struct cs_pending. Datapath: creates (BPF_NOEXIST), counts,
 * and turns *refused*, or an *asking*, whose time is over into a fresh *asking* by compare-and-swap of
 * until_ns (the state of an overdue *asking* does not change); the one that wins sets state and asks. It keeps
 * refusals. A record in cs_held asks as well as one in cs_signal; when neither ring has room the row is deleted again,
 * or nobody would ask for 6 s. authd: answers, and deletes. Cleared at authd's start. */
enum cs_pending_state {
	CS_ASKING = 1,   /* until_ns: when to ask again if nobody answers (6 s) */
	CS_REFUSED = 2,  /* until_ns: dropped without a signal */
	CS_FLUSHING = 3, /* until_ns: end of CS_AUTH_FLUSHING (250 ms) */
};
struct cs_pending {
	__u64 until_ns;
	__u32 state;
	__u32 packets; /* held now; taken back by cs_settle */
	__u32 bytes;
	__u32 refusals; /* in a row: backoff 100 ms << refusals, at most 30 s, or less (authmap/hold.h) */
};

/* Limits of holding. */
#define CS_HOLD_PAIR_PACKETS      16
#define CS_HOLD_PAIR_BYTES        (64 * 1024)
#define CS_HOLD_INTERFACE_PACKETS 64 /* and hook */
#define CS_HOLD_INTERFACE_BYTES   (256 * 1024)
#define CS_NEW_PAIRS_PER_S        50 /* per interface and hook; also the burst */
#define CS_ASKING_NS              6000000000ULL
#define CS_FLUSHING_NS            250000000ULL

/* cs_budget, HASH: struct cs_budget_key -> struct cs_budget. Datapath, but for cs_settle. Rows are made by authd with
 * the endpoint and the node; no row: no hold, no signal. FROM and TO have buckets of their own, so that
 * who floods an endpoint does not spend what it needs to speak. No new pair left: neither row nor signal. No room for
 * packet or bytes: only the signal. */
enum cs_budget_kind {
	CS_BUDGET_INTERFACE = 1, /* id: ifindex << 1 | enum cs_dir */
	CS_BUDGET_NODE = 2,      /* id: node */
};
struct cs_budget_key {
	__u32 kind;
	__u32 id;
};
struct cs_budget {
	__u64 refill_ns; /* of pairs */
	__u32 pairs;     /* token bucket: new pairs left */
	__u32 packets;   /* held now; taken back by cs_settle */
	__u32 bytes;
	__u32 pad;
};

/* Argument of the program cs_settle (SEC("syscall"), run by authd with BPF_PROG_TEST_RUN): packets of this pair and hook
 * left authd's hands, released or dropped. Subtracts from cs_pending and cs_budget, never below 0, rows that are gone
 * aside. At start authd empties cs_held first and then makes the rows anew. */
struct cs_settle {
	struct cs_auth_key key;
	__u32 ifindex;
	__u32 dir; /* enum cs_dir */
	__u32 packets;
	__u32 bytes;
};

/* cs_flows, LRU_HASH, datapath: struct cs_flow_key -> u64 ns last seen (coarse monotonic). Written when a
 * packet passes by its own verdict (never when it passes by a flow) and the endpoint has CS_EP_FLOWS.
 * The key is the packet's that would be the reply. Spares a `deny` only while the other direction of
 * the pair is not `deny` itself. ICMP echo: identifier in both ports; other protocols: ports 0.
 * Idle time: 1 h TCP, 3 min others. authd deletes those of an interface or an address that changes hands. */
struct cs_flow_key {
	__u32 ifindex;
	__u8 dir; /* hook at which the reply will be seen */
	__u8 proto;
	__u8 family; /* 4 or 6 */
	__u8 pad;
	__u16 sport_be16, dport_be16;
	__u8 saddr[16], daddr[16]; /* IPv4 in the first four bytes, rest 0 */
};

/* cs_node, HASH: u16 node id -> struct cs_node. Read by people and by authd's next life. Written before the first row
 * that uses the id, deleted after the last (cs_addr, cs_auth, cs_basis, cs_pending). */
#define CS_NODE_NAME  256
#define CS_NODE_ADDRS 8
struct cs_node {
	char name[CS_NODE_NAME]; /* NUL-terminated */
	__u8 naddr;
	__u8 pad[7];
	__u8 addr[CS_NODE_ADDRS][16]; /* IPv4 as ::ffff:a.b.c.d */
};

/* cs_config, ARRAY of 1, BPF_F_MMAPABLE: authd and its break-glass mode are two processes, each stores single fields
 * and neither writes the whole. */
enum cs_node_flags {
	CS_NODE_AUDIT = 1 << 0,       /* as CS_EP_AUDIT, for all endpoints */
	CS_NODE_HOLD = 1 << 1,        /* hold: on. Else a miss is dropped, and asked for through cs_signal */
	CS_NODE_HOST_PASSES = 1 << 2, /* CS_ID_HOST passes at CS_TO (the default). Else policy judges it */
};
struct cs_config {
	__u32 abi;
	__u32 node_flags;
	__u64 bypass_until_ns; /* break-glass; ends by itself */
	__u64 alive_ns;        /* authd writes it every second; older than 5 s: drop without copying */
};
#define CS_ALIVE_NS 5000000000ULL

/* cs_count, PERCPU_ARRAY of CS_COUNT_ROWS: CS_COUNT(reason, would, dir) -> struct cs_count. What was dropped, and apart
 * from it what would have been (audit: it passed). */
#define CS_COUNT(reason, would, dir) ((__u32)(reason) << 2 | (__u32)(would) << 1 | (__u32)(dir))
#define CS_COUNT_ROWS                512 /* CS_REASON_MAX << 2 */
struct cs_count {
	__u64 packets;
	__u64 bytes;
};

/* Records of drops, and of what audit let pass: one per key and minute. cs_seen, LRU_HASH, datapath: struct cs_drop_key
 * -> struct cs_seen; who moves recorded_ns on by compare-and-swap writes a struct cs_drop to cs_drop, RINGBUF. No room
 * there: the record is lost, cs_count has it all the same. In audit a miss also asks (cs_signal), and is never held. */
struct cs_drop_key {
	__u32 local;
	__u32 remote; /* by the packet's address; 0: not looked up */
	__u32 ifindex;
	__u8 reason;
	__u8 dir;   /* enum cs_dir */
	__u8 would; /* 1: audit, it passed */
	__u8 pad;
};
struct cs_seen {
	__u64 recorded_ns;
	__u64 packets; /* all so far, as long as the LRU keeps the row */
};
struct cs_drop {
	__u64 ts_ns;
	__u64 packets; /* cs_seen's at this moment */
	struct cs_drop_key key;
	__u16 node;  /* cs_addr's */
	__u8 family; /* 4, 6; 0: no address was read */
	__u8 proto;
	/* The other end's, of this packet; source-not-owned and destination-not-owned: the one that is not own. IPv4 in the
	 * first four bytes, rest 0 */
	__u8 addr[16];
	__u32 len;
};
#define CS_RECORD_NS 60000000000ULL

/* cs_held, RINGBUF: struct cs_held, then caplen bytes of Ethernet frame. Record sizes: header + 256 or 2,048; what is
 * longer is not held (unholdable), nor is SCTP, whose checksum may be left to the device and cannot be said again.
 * cs_signal, RINGBUF: struct cs_held alone, caplen 0, asks for a pair whose packet could not be held. Pinned like the
 * rest; consumed by one process at a time (lock file of the instance). */
#define CS_HELD_SMALL 256
#define CS_HELD_MAX   2048
enum cs_csum {
	CS_CSUM_LEAVE = 0,   /* complete, absent, or not ours to repair */
	CS_CSUM_PARTIAL = 1, /* csum_start and csum_offset are to be finished by who sends it */
};
struct cs_held {
	__u64 ts_ns;
	struct cs_auth_key key;
	__u32 ifindex;
	__u8 dir;      /* enum cs_dir */
	__u8 why;      /* 0 held; else the reason number it was only signalled for; hold off: CS_R_UNAUTHENTICATED */
	__u8 csum;     /* enum cs_csum */
	__u8 gso_type; /* VIRTIO_NET_HDR_GSO_* */
	__u16 csum_start, csum_offset, gso_size, hdr_len;
	__u32 len;    /* of the frame */
	__u32 caplen; /* 0 or len */
	__u32 mark;
};

/* Ways back of a held frame. CS_TO: sent on the interface itself (AF_PACKET, virtio header, no qdisc bypass) with SO_MARK
 * CS_MARK_REINJECTED. CS_FROM: sent into authd's helper veth with SO_MARK = ifindex; the program cs_inject at the other
 * end sets CS_MARK_REINJECTED and redirects to the ingress of that interface, where it is checked again. */

/* "Do not hold again"; never "allowed". The hook that lets the packet pass clears it: on one node it meets two. */
#define CS_MARK_REINJECTED 0x48000000u

#ifndef __BPF__
_Static_assert(sizeof(struct cs_endpoint) == 96, "cs_endpoint");
_Static_assert(sizeof(struct cs_addr) == 8, "cs_addr");
_Static_assert(sizeof(struct cs_auth_key) == 12, "cs_auth_key is Cilium's");
_Static_assert(sizeof(struct cs_pending) == 24, "cs_pending");
_Static_assert(sizeof(struct cs_flow_key) == 44, "cs_flow_key");
_Static_assert(sizeof(struct cs_policy) == 4, "cs_policy");
_Static_assert(sizeof(struct cs_basis) == 280, "cs_basis");
_Static_assert(sizeof(struct cs_settle) == 28, "cs_settle");
_Static_assert(sizeof(struct cs_config) == 24, "cs_config");
_Static_assert(sizeof(struct cs_drop_key) == 16, "cs_drop_key");
_Static_assert(sizeof(struct cs_drop) == 56, "cs_drop");
_Static_assert(sizeof(struct cs_held) == 48, "cs_held");
#endif
#endif
