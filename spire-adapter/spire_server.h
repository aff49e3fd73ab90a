/* The client of SPIRE server's APIs: registration entries, agents, federation. Over the server's Unix socket, where whoever
 * may open it may do everything, or over TCP by mutual TLS with an SVID of our own whose registration entry is an admin's.
 * The connection comes back by itself; the server ends each after three minutes, which nobody notices here.
 *
 * Messages are protobuf-c's of proto/spire_*.proto. What a callback gets is borrowed until it returns; what is passed in
 * is packed before the function returns and stays yours. A function that returns an error never calls back; otherwise the
 * final callback comes exactly once, from the loop, unless the server is closed first. */
#ifndef CS_SPIRE_SERVER_H
#define CS_SPIRE_SERVER_H

#include "grpc.h"
#include "spire_agents.pb-c.h"
#include "spire_bundles_api.pb-c.h"
#include "spire_entry.pb-c.h"
#include "spire_federation.pb-c.h"
#include "spire_types.pb-c.h"

#define CS_SPIRE_CALL_MS          60000 /* default deadline of one call */
#define CS_SPIRE_LIST_PAGE        500   /* items of a page: an entry has up to some 10 kB */
#define CS_SPIRE_LIST_PAGES_MAX   1024
#define CS_SPIRE_SERVER_MESSAGE   (16u << 20) /* of the server; it has no limit of its own */
#define CS_SPIRE_SERVER_UNPACKED  (64u << 20)
#define CS_SPIRE_SERVER_CALLS_MAX 64

typedef Spire__Api__Types__Entry cs_spire_entry;
typedef Spire__Api__Types__EntryMask cs_spire_entry_mask;
typedef Spire__Api__Types__Agent cs_spire_agent;
typedef Spire__Api__Types__Bundle cs_spire_bundle;
typedef Spire__Api__Types__FederationRelationship cs_spire_federation;

struct cs_spire_server;

struct cs_spire_server_options {
	const char *target;       /* "unix:/path", or "HOST:PORT" */
	const char *trust_domain; /* the server's */
	/* TCP only, else NULL: the agent's Workload API and the SPIFFE ID whose SVID it issues to this process. */
	const char *agent_socket, *own_id;
	int64_t call_ms; /* deadline of one call; 0: CS_SPIRE_CALL_MS */
	/* May be NULL. why: it cannot be reached, or refuses us; at changes only. NULL: a connection is there, each time. */
	void (*on_state)(void *data, const struct cs_error *why);
	void *data;
};

/* Strings are copied. Nothing needs to exist yet. */
CS_MUST_USE int cs_spire_server_new(struct cs_loop *loop, const struct cs_spire_server_options *options,
	struct cs_spire_server **ret, struct cs_error *e);
bool cs_spire_server_is_ready(const struct cs_spire_server *server);
/* How often a connection was made. */
uint64_t cs_spire_server_connections(const struct cs_spire_server *server);
/* When the own SVID ends; 0: there is none, or none is needed. */
int64_t cs_spire_server_svid_not_after_unix_s(const struct cs_spire_server *server);
/* Nothing is called any more; the loop ends later. NULL is fine. */
void cs_spire_server_close(struct cs_spire_server *server);
/* After the loop has ended. NULL is fine. */
void cs_spire_server_free(struct cs_spire_server *server);

/* A call that failed as a whole. */
struct cs_spire_failure {
	enum cs_grpc_code code;
	bool perhaps_done; /* a deadline, a lost connection: all of it, some or nothing was done */
	struct cs_error error;
};

/* ---- lists ---- */

enum cs_spire_list {
	CS_SPIRE_ENTRIES,    /* cs_spire_entry */
	CS_SPIRE_AGENTS,     /* cs_spire_agent */
	CS_SPIRE_BUNDLES,    /* cs_spire_bundle: of trust domains that are federated with; without the certificates */
	CS_SPIRE_FEDERATION, /* cs_spire_federation: where these bundles are fetched; without the bundles */
};

struct cs_spire_list_events {
	/* Messages of the kind; n may be 0. Not before done is it all. */
	void (*page)(void *data, void *const *items, size_t n);
	/* failure NULL: that was all. Otherwise what came is to be forgotten. */
	void (*done)(void *data, const struct cs_spire_failure *failure);
	void *data;
};

/* Page after page, until there is none. events is copied. */
CS_MUST_USE int cs_spire_server_list(struct cs_spire_server *server, enum cs_spire_list kind,
	const struct cs_spire_list_events *events, struct cs_error *e);

/* ---- entries ---- */

/* What became of one item. The call as a whole is well also if none is. */
struct cs_spire_item {
	enum cs_grpc_code code;
	const char *message;         /* never NULL */
	const cs_spire_entry *entry; /* NULL: none was sent */
};
/* failure NULL: items[i] is what became of the i-th that was given. */
typedef void cs_spire_on_items(
	void *data, const struct cs_spire_failure *failure, const struct cs_spire_item *items, size_t n);

/* items[i].entry is the new entry; with ALREADY_EXISTS the one that has the same SPIFFE ID, parent and selectors, or NULL:
 * the ID is another entry's. */
CS_MUST_USE int cs_spire_server_create(struct cs_spire_server *server, cs_spire_entry **entries, size_t n,
	cs_spire_on_items *on_items, void *data, struct cs_error *e);
/* Overwrites the fields of the mask (NULL: all), and makes every agent that has the entry issue a new certificate, also if
 * nothing differs. items[i].entry is the entry as it is then. */
CS_MUST_USE int cs_spire_server_update(struct cs_spire_server *server, cs_spire_entry **entries, size_t n,
	cs_spire_entry_mask *mask, cs_spire_on_items *on_items, void *data, struct cs_error *e);
/* NOT_FOUND: it is gone already. */
CS_MUST_USE int cs_spire_server_delete(struct cs_spire_server *server, char **ids, size_t n,
	cs_spire_on_items *on_items, void *data, struct cs_error *e);

#endif
