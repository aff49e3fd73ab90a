/* The inside of the service Directory, for directory_service.c and directory_published.c only. */
#ifndef CS_DIRECTORY_SERVICE_PRIVATE_H
#define CS_DIRECTORY_SERVICE_PRIVATE_H

#include <uthash.h>
#include <utlist.h>
#include "directory_service.h"
#include "identity_limits.h"

struct follower {
	struct cs_directory_service *service;
	struct cs_grpc_call *call;
	const struct cs_grpc_conn *conn;
	struct cs_cursor *cursor;
	bool full;                /* the call's queue is full: on_drain tells when not */
	bool waits;               /* for its turn: coalesced, or a full state */
	bool in_full;             /* its full state is on its way, one of CS_FULL_STATES_MAX */
	int64_t since_mono_ms;    /* when it came; in_full: when that began */
	int64_t progress_mono_ms; /* when it last took something */
	int64_t sent_mono_ms;     /* when it last got changes */
	struct follower *prev, *next;
	/* acks */
	bool acks, stale;
	uint64_t acked, asked, want; /* revisions: said to have; to be said, if not acked; somebody waits for */
	uint64_t fresh;              /* by service->turn: who began to wait before does not wait for this one */
	UT_hash_handle hh;           /* by conn, of those with acks */
};

struct cs_published {
	struct cs_directory_service *service;
	uint64_t revision, turn;
	int64_t deadline_mono_ms;
	bool counting;  /* the directory has the revision */
	size_t missing; /* followers that are waited for */
	size_t have, stale;
	cs_published_done *done;
	void *data;
	struct cs_published *prev, *next;
};

struct cs_directory_service {
	struct cs_directory_service_options options;
	struct cs_grpc_method methods[1];
	struct cs_grpc_service grpc;
	struct follower *followers;
	size_t nfollowers;
	struct follower *full[CS_FULL_STATES_MAX]; /* whose full state is on its way */
	size_t nfull;
	struct cs_dir_watch watch;
	struct cs_timer heartbeat, flush, expiry;
	bool closed;
	struct cs_metric *followers_gauge, *cut_off, *batches, *full_gauge, *stale_gauge;
	/* acks */
	struct follower *ackers;
	struct cs_published *waiting; /* the oldest first */
	size_t nwaiting, nstale;
	uint64_t turn;
};

/* An empty batch, which may ask for an ack. The follower may be gone afterwards. */
void cs_follower_beat(struct follower *f);

/* directory_published.c */
void cs_follower_acks_init(struct follower *f);
void cs_follower_acks_fini(struct follower *f);
/* May this batch, which takes the follower to the revision, ask for an ack? Then it does. */
bool cs_follower_asks(struct follower *f, uint64_t revision);
/* The directory has a new revision. */
void cs_published_look(struct cs_directory_service *s);
void cs_published_init(struct cs_directory_service *s);
void cs_published_close(struct cs_directory_service *s);

#endif
