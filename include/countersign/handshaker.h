/* Monitor <-> handshaker (authmap/): one SOCK_SEQPACKET socketpair per handshaker. One message is one
 * fixed-size struct with this header; what varies in size is a sealed memfd (F_SEAL_WRITE|SHRINK|GROW),
 * descriptors come by SCM_RIGHTS, at most one per message. A message of another size, type or with an
 * unexpected descriptor ends the sender: the monitor kills the handshaker, the handshaker exits.
 * Strings are NUL-terminated and zero-filled. */
#ifndef COUNTERSIGN_HANDSHAKER_H
#define COUNTERSIGN_HANDSHAKER_H
#include <countersign/leaf.h>
#include <stdint.h>

#define CS_SPIFFE_ID 2049 /* 2048 and NUL (SPIFFE-ID 2.3) */
#define CS_DOMAIN    256

#define CS_HS_LIST_MAX (1024 * 1024) /* bytes of a chain or bundle in its memfd */
#define CS_HS_WORK_MAX 256           /* dials and accepts in flight in one handshaker; 182 KiB each at most */

enum cs_hs_type {
	/* monitor -> handshaker, state; each replaces the earlier of the same subject */
	/* cs_hs_svid; fd: chain, leaf first, each u32 length (host order) + DER. No fd and generation 0: the identity lives
	 * here but has no SVID now. No fd and an empty spiffe_id: it does not live here any more */
	CS_HS_SVID = 1,
	CS_HS_BUNDLE = 2, /* cs_hs_bundle; fd: authorities in the same form; no fd: the bundle is gone */
	CS_HS_SIGNER = 3, /* header only; fd: a connected sign.sock that blocks (again after each adapter restart) */
	/* monitor -> handshaker, work; fd: a socket. The monitor connects and accepts, so addresses are its own knowledge */
	CS_HS_DIAL = 16,
	CS_HS_ACCEPT = 17,
	CS_HS_CANCEL = 18, /* header only; the request still ends with CS_HS_DONE */
	CS_HS_ANSWER = 19, /* to a verdict: say yes, or refuse */
	/* handshaker -> monitor */
	CS_HS_READY = 32,   /* header only: locked in, takes work */
	CS_HS_VERDICT = 33, /* both sides proved possession and verified; waits for CS_HS_ANSWER */
	CS_HS_DONE = 34,    /* exactly once per dial and accept: it is over; reason none = accepted by both */
};
enum cs_hs_role { CS_HS_DIALLER = 1, CS_HS_ACCEPTOR = 2, CS_HS_LOOPBACK = 3 /* both ends here, node 0 */ };

struct cs_hs_head {
	uint32_t type; /* enum cs_hs_type */
	uint32_t pad;
	uint64_t request; /* unique in the monitor's life; 0 in state messages */
};
struct cs_hs_svid {
	struct cs_hs_head h;
	uint64_t generation;
	int64_t not_after_unix_s;
	uint32_t identity;
	uint32_t pad;
	char spiffe_id[CS_SPIFFE_ID];
	char pad2[7];
};
struct cs_hs_bundle {
	struct cs_hs_head h;
	uint64_t generation;
	char trust_domain[CS_DOMAIN];
};
struct cs_hs_dial { /* also CS_HS_LOOPBACK, then without fd */
	struct cs_hs_head h;
	int64_t deadline_mono_ms;
	uint32_t role;
	uint32_t local, remote;
	uint32_t pad;
	char sni[CS_DOMAIN + 16];
	char remote_spiffe_id[CS_SPIFFE_ID]; /* the directory's, to be matched byte for byte */
	char pad2[7];
};
struct cs_hs_accept {
	struct cs_hs_head h;
	int64_t deadline_mono_ms;
};
/* Sent by the acceptor before it says anything after its Finished; a yes then becomes close_notify, a reason an alert
 * (RFC 8446 6.2): certificate_unknown if the identity is not known or not placed there (yet), internal_error if the entry could
 * not be written, else access_denied.
 * Sent by the dialler after the peer's close_notify, which alone means accepted. */
struct cs_hs_verdict {
	struct cs_hs_head h;
	uint32_t role;
	uint32_t local; /* acceptor: from SNI */
	/* Generations it rests on. remote_svid: CS_HS_LOOPBACK only, else 0 */
	uint64_t local_svid_generation, remote_svid_generation, local_bundle_generation, remote_bundle_generation;
	int64_t not_after_unix_s;               /* earliest of both chains */
	struct cs_leaf local_leaf, remote_leaf; /* both: a pair on one node makes two entries */
	char remote_spiffe_id[CS_SPIFFE_ID];    /* the monitor looks it up whole; it never takes it apart */
	char pad2[7];
};
struct cs_hs_answer {
	struct cs_hs_head h;
	uint32_t reason; /* enum cs_reason; none: say yes */
	uint32_t pad;
};
struct cs_hs_done {
	struct cs_hs_head h;
	uint32_t reason;
	uint32_t alert;  /* TLS alert sent or received, or 0 */
	uint32_t micros; /* handshake, for the histogram */
	uint32_t pad;
	char detail[128]; /* printable ASCII, for the log only */
};
_Static_assert(sizeof(struct cs_hs_head) == 16, "head");
_Static_assert(sizeof(struct cs_hs_svid) == 2096, "svid");
_Static_assert(sizeof(struct cs_hs_verdict) % 8 == 0, "verdict");
#endif
