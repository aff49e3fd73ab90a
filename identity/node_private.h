/* The inside of the node role, for node.c, node_claims.c and node_disk.c only. */
#ifndef CS_NODE_PRIVATE_H
#define CS_NODE_PRIVATE_H

#include "links.h"
#include "node.h"
#include "registrations.h"

/* A registration or its end, on its way to the disk. */
struct disk_op {
	struct cs_endpoint_spec spec; /* id only: unregister */
	unsigned ifindex;
	bool put;
	cs_node_written *written; /* may be NULL */
	void *data;
};

/* What was reported about an identity, for its endpoints that come later. */
struct said {
	uint32_t identity;
	struct cs_condition conditions[CS_STEPS]; /* since_unix_ms 0: nothing */
	UT_hash_handle hh;
};

struct cs_node {
	struct cs_node_options options;
	struct cs_link *link;
	bool up; /* asks may be sent */
	struct cs_directory *dir;
	struct cs_node_endpoint *endpoints;
	struct said *said;
	struct cs_links *links;
	void (*on_change)(void *data, const struct cs_node_endpoint *ep, bool gone);
	void *on_change_data;
	/* disk */
	struct disk_op *queue, *running;
	size_t nqueue, capqueue, nrunning;
	struct cs_registration *writing;
	size_t written;
	struct cs_error write_error;
	uv_work_t work;
	/* upstream */
	bool synced;
	uint64_t epoch, revision; /* of the cluster role: where to resume */
	cs_record **incoming;     /* of a batch that is not complete */
	size_t nincoming, capincoming;
	/* claims */
	struct cs_timer retry, moves;
	bool reconcile_due, reconciling, outage;
	char outage_text[256];
	enum cs_reason outage_reason;
	char store_away[256]; /* what the cluster role said of its store when it took no claim; "" once it takes one */
	/* end */
	bool closing;
	int open_timers;
	void (*closed)(void *data);
	void *closed_data;
	size_t asking_published;
	struct cs_check *check_cluster, *check_disk;
	struct cs_metric *registered, *refused, *waiting;
};

int64_t cs_node_unix_ms(const struct cs_node *node);
void cs_node_changed(struct cs_node *node, const struct cs_node_endpoint *ep, bool gone);
void cs_node_maybe_closed(struct cs_node *node);
/* Identity, placement and the record in the directory, as they follow from what is known; the caller publishes. */
void cs_node_refresh(struct cs_node *node, struct cs_node_endpoint *ep);
void cs_node_publish(struct cs_node *node);
void cs_node_forget_record(struct cs_node *node, const char *id);
/* The interface, looked up anew. */
void cs_node_check_link(struct cs_node *node, struct cs_node_endpoint *ep);

/* node_claims.c */
void cs_node_claim(struct cs_node *node, struct cs_node_endpoint *ep);
void cs_node_release(struct cs_node *node, const char *id);
void cs_node_claims_init(struct cs_node *node);
void cs_node_reconcile_claims(struct cs_node *node);
void cs_node_reconcile_later(struct cs_node *node, int64_t after_ms);

/* node_published.c */
void cs_node_maybe_published(struct cs_node *node, struct cs_node_endpoint *ep);

/* node_move.c */
void cs_node_moves_init(struct cs_node *node);
/* `fresh` takes the place of `old`, with other labels on the same interface and addresses: keep what it was for now. */
void cs_node_move_begin(struct cs_node_endpoint *fresh, const struct cs_node_endpoint *old);
/* The identity `to` is placed here. */
void cs_node_move_prepared(struct cs_node *node, struct cs_node_endpoint *ep, uint32_t to);
/* Those that can move now. */
void cs_node_moves_look(struct cs_node *node);

/* node_disk.c */
CS_MUST_USE int cs_node_load(struct cs_node *node, struct cs_error *e);
void cs_node_disk_fini(struct cs_node *node);

#endif
