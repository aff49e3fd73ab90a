/* The cluster role: a core (core.h) that works off the loop, and the directory that it feeds. What waits while a
 * transaction runs goes into the next one, so that a disk that syncs slowly costs latency, not throughput. */
#ifndef CS_CLUSTER_H
#define CS_CLUSTER_H

#include "core.h"
#include "loop.h"
#include "metrics.h"
#include "status.h"

struct cs_cluster;

struct cs_cluster_options { /* borrowed until closed */
	struct cs_loop *loop;
	const char *name; /* of this replica, for people: who leads */
	struct cs_core_config core;
	struct cs_metrics *metrics;
	struct cs_status *status;
	void (*on_leads)(void *data, bool leads); /* it begins or ends to lead; may be NULL */
	void *data;
};

/* Opens the store and reads everything; blocks. Watches policy.dir and the placement file from here on. */
CS_MUST_USE int cs_cluster_new(const struct cs_cluster_options *options, struct cs_cluster **ret, struct cs_error *e);
/* What waits is still done; then `closed`, in which the caller may free. */
void cs_cluster_close(struct cs_cluster *cluster, void (*closed)(void *data), void *data);
void cs_cluster_free(struct cs_cluster *cluster);

struct cs_directory *cs_cluster_directory(struct cs_cluster *cluster);
/* Does this replica lead, and so take asks? Who does, as far as it knows; "" for nobody. */
bool cs_cluster_leads(const struct cs_cluster *cluster);
const char *cs_cluster_leader(const struct cs_cluster *cluster);
/* How long nothing was heard of the store: how old the directory may be. SQLite: 0. */
int64_t cs_cluster_silent_ms(const struct cs_cluster *cluster);
/* By the loop's monotonic clock; of use while it leads. */
int64_t cs_cluster_leads_since_mono_ms(const struct cs_cluster *cluster);
/* Why it does not: another one leads, nobody, or the store does not answer. code -EREMOTE, not-leader or store-unavailable. */
void cs_cluster_why_not(const struct cs_cluster *cluster, struct cs_error *e);
/* Not the leader: the error of cs_cluster_why_not, and the ask stays the caller's.
 * Takes the ask; its done() comes from the loop after the commit, and after the directory has what it changed.
 * -ENOBUFS (and the ask stays the caller's): CS_WRITER_QUEUE_MAX wait already. -ESHUTDOWN: closing. */
CS_MUST_USE int cs_cluster_ask_take(struct cs_cluster *cluster, struct cs_ask *ask, struct cs_error *e);
/* How much of the range of numbers is taken, as of the last transaction. */
const struct cs_store_usage *cs_cluster_usage(const struct cs_cluster *cluster);
const struct cs_numbers *cs_cluster_numbers(const struct cs_cluster *cluster);
/* Read policies and placements anew, as after SIGHUP. */
void cs_cluster_reload(struct cs_cluster *cluster);

#endif
