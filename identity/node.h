/* The node role: the endpoints of this node, and the directory as the cluster role tells it, with them in it.
 *
 * An endpoint is registered when its file is synced, closed from the moment it is in the directory (identity 0 there:
 * it gets nothing through), claimed at the cluster role, and has its identity once the directory holds identity and
 * placement. While the cluster role is away the last directory is served on; after a start nothing is, before the
 * cluster role has said `synced`. */
#ifndef CS_NODE_H
#define CS_NODE_H

#include "core.h"
#include "dir.h"
#include "endpoint.h"
#include "loop.h"
#include "metrics.h"
#include "status.h"

struct cs_node;

typedef void cs_node_published(void *data, size_t have, size_t stale, const struct cs_error *e);

/* The way to the cluster role: in this process (node_local.h) or by mTLS to its replicas (node_remote.h). */
struct cs_link {
	/* Takes the ask, whose done() comes from the loop; result < 0 is no answer, of whatever cause. */
	int (*ask_take)(struct cs_link *link, struct cs_ask *ask, struct cs_error *e);
	/* How long the directory has been silent. */
	int64_t (*silent_ms)(struct cs_link *link);
	/* Do all who follow the cluster role, and are not stale, have the revision? done comes, perhaps before this returns;
	 * e: nobody knows. */
	void (*published)(struct cs_link *link, uint64_t revision, cs_node_published *done, void *data);
};
/* What a link tells: Hello was taken and asks may come (all claims are made anew, after a while if there is no haste); they
 * may not; a directory is followed from now on, and its batches. */
void cs_node_link_up(struct cs_node *node, int64_t reconcile_after_ms);
void cs_node_link_down(struct cs_node *node, const struct cs_error *why);
/* Asks are taken, but no directory is heard; e NULL: it is. */
void cs_node_link_silent(struct cs_node *node, const struct cs_error *e);
void cs_node_link_following(struct cs_node *node);
void cs_node_link_batch(struct cs_node *node, const Countersign__V1__DirectoryBatch *batch);
/* The ask that a link begins with. Its done() is the link's. */
struct cs_ask *cs_node_hello(struct cs_node *node);
/* Where to resume: false if nothing was synced yet. */
bool cs_node_position(const struct cs_node *node, uint64_t *ret_epoch, uint64_t *ret_revision);

struct cs_node_options { /* strings are borrowed until closed */
	struct cs_loop *loop;
	const char *name;
	struct cs_ip addrs[CS_NODE_ADDRS_MAX];
	size_t naddrs;
	uint32_t port; /* authd's */
	const char *path;
	const char *state_dir; /* of the registrations */
	struct cs_metrics *metrics;
	struct cs_status *status;
	void (*fatal)(void *data, const struct cs_error *e); /* an error that it cannot live with */
	void *fatal_data;
};

/* Loads the registrations; blocks. The link is set before the loop runs. */
CS_MUST_USE int cs_node_new(const struct cs_node_options *options, struct cs_node **ret, struct cs_error *e);
void cs_node_set_link(struct cs_node *node, struct cs_link *link);
/* What is being written is still written; then closed. The link is closed before by its owner. */
void cs_node_close(struct cs_node *node, void (*closed)(void *data), void *data);
void cs_node_free(struct cs_node *node);

uint64_t cs_node_random(void);
struct cs_directory *cs_node_directory(struct cs_node *node);
uint32_t cs_node_silent_ms(struct cs_node *node);
const char *cs_node_name(const struct cs_node *node);

/* e is NULL when it is on disk. */
typedef void cs_node_written(void *data, const struct cs_error *e);

/* Takes the spec over, also on failure. -EEXIST with address-taken or interface-taken: another endpoint has it.
 * -ENODEV, -EOPNOTSUPP: the interface. -ENOBUFS: too many. The same spec again is done at once (*ret_same, and written is
 * not called). */
CS_MUST_USE int cs_node_register_take(struct cs_node *node, struct cs_endpoint_spec *spec, bool *ret_same,
	cs_node_written *written, void *data, struct cs_error *e);
/* -ENOENT with not-registered. */
CS_MUST_USE int cs_node_unregister(
	struct cs_node *node, const char *id, cs_node_written *written, void *data, struct cs_error *e);
/* All endpoints of this node: the others are unregistered, their ids are in *ret_gone (heap, *ret_ngone). Takes the
 * specs' content over, also on failure. written is called once, also if nothing was to be written. */
CS_MUST_USE int cs_node_reconcile_take(struct cs_node *node, struct cs_endpoint_spec *specs, size_t n, char ***ret_gone,
	size_t *ret_ngone, cs_node_written *written, void *data, struct cs_error *e);

/* Borrowed until the loop runs again. */
struct cs_node_endpoint *cs_node_endpoint(const struct cs_node *node, const char *id);
void cs_node_each(const struct cs_node *node, void (*fn)(struct cs_node_endpoint *ep, void *data), void *data);
size_t cs_node_endpoints(const struct cs_node *node);

/* What authd or the adapter says. endpoint "": all of that identity, also those that come later. Reports about what is
 * no longer so are dropped. */
void cs_node_report(struct cs_node *node, const char *endpoint, uint32_t identity, uint64_t incarnation,
	Countersign__V1__Step step, bool met, enum cs_reason reason, const char *detail);

/* Somebody waits for `published`: the other nodes are asked once the claim is taken. Again is nothing. */
void cs_node_want_published(struct cs_node *node, const char *id);

/* fn is called when conditions of an endpoint changed, and with gone when it was unregistered. */
void cs_node_on_change(
	struct cs_node *node, void (*fn)(void *data, const struct cs_node_endpoint *ep, bool gone), void *data);

#endif
