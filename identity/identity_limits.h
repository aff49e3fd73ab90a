/* All limits of this room, each with what it is there for. (A file limits.h would hide the C library's.) */
#ifndef CS_IDENTITY_LIMITS_H
#define CS_IDENTITY_LIMITS_H

/* Numeric identities of label sets (facts of Cilium's numbering: 1-255 are reserved or fixed). */
#define CS_IDENTITY_MIN       256u
#define CS_IDENTITY_MAX       65535u
#define CS_NODE_NAME_BYTES    253 /* a DNS name */
#define CS_ENDPOINT_ID_MAX    128 /* becomes part of keys, logs and a file's content */
#define CS_INTERFACE_MAX      15  /* IFNAMSIZ - 1 */
#define CS_FAMILY_ADDRS_MAX   4   /* addresses of an endpoint, per family: what its map row holds */
#define CS_NODE_ADDRS_MAX     8
#define CS_NODE_ENDPOINTS_MAX 1024 /* registrations of one node: a node that registers without end fills no store */

/* After a restore, so many numbers rest that may have been given after the backup; half of those that are free at most. */
#define CS_STORE_RESTORE_SKIP    4096
#define CS_STORE_REVOCATIONS_MAX 16384
/* A file that is kept in the store: what etcd takes in one request, with its key. */
#define CS_STORE_FILE_MAX  (1000u * 1024)
#define CS_STORE_FILES_MAX 4096 /* in a set */

/* Directory: 150,000 addresses, 65,000 identities, 5,000 nodes and their policy rows. */
#define CS_DIR_RECORDS_MAX 2000000
/* Changes that are kept for those who come back; who was away for more gets the full state. */
#define CS_DIR_CHANGES_MAX 65536
#define CS_BATCH_BYTES_MAX (1024 * 1024)
/* Streams at a time: 5,000 nodes and then some. */
#define CS_FOLLOWERS_MAX         6000
#define CS_HEARTBEAT_MS          5000
#define CS_CLUSTER_BEAT_MS       2000 /* of the cluster role: nodes leave a replica that is silent for three of them */
#define CS_FULL_STATES_MAX       16 /* full states on their way at a time: each is a list of all records; others wait */
#define CS_FULL_STATES_OF_ONE    4 /* ... of one node, or local process: who reads none of them leaves room for others */
#define CS_FULL_STATE_MS         60000 /* ... and who does not take it in this time makes room for them */
#define CS_AHEAD_MS              5000 /* a follower that knows more than this replica waits so long for it to catch up */
#define CS_PUBLISHED_MS          1000 /* who did not say by then that it has a revision is not waited for */
#define CS_PUBLISHED_WAITERS_MAX 4096
#define CS_FOLLOWER_STALL_MS     60000 /* a follower that takes nothing for so long is cut off */
#define CS_NODE_HEARTBEAT_MS     5000
#define CS_CLAIM_RETRY_MIN_MS    1000
#define CS_MOVE_WAIT_MS          10000 /* for the SVID of an endpoint's next identity */
#define CS_CLAIM_RETRY_MAX_MS    15000

#define CS_LEADER_NAME_MAX 253
#define CS_REPLICAS_MAX    8 /* of the cluster role, that a node knows */
/* With more identities than this a new one is added to what is compiled, and findings follow within half a minute. */
#define CS_COMPILE_ANEW_MAX 1000
#define CS_STORE_SILENT_MS  6000 /* etcd: nothing heard for so long is told */
/* A node has one connection to a replica, and a dead one or two that TCP still holds. */
#define CS_NODE_CONNECTIONS_MAX 4
/* Claims of one node that wait for the store, also those of calls that it has given up: a full list, what a reconnection
 * says again, and changes beside them. */
#define CS_NODE_WAITING_MAX (4 * CS_NODE_ENDPOINTS_MAX)

/* Disk: what waits for the writer, and what one transaction takes. */
#define CS_WRITER_QUEUE_MAX 16384
#define CS_WRITER_BATCH_MAX 256

#endif
