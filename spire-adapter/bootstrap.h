/* `countersign bootstrap spire`: the registration entries that the nodes, their adapters, identityd and the registrar need for
 * themselves. Makes them, prints the commands that make them, or checks an installation against them. A mode of the registrar's
 * program: countersign-registrar --bootstrap-spire ...; it is no daemon. */
#ifndef CS_BOOTSTRAP_H
#define CS_BOOTSTRAP_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>
#include "bootstrap_findings.h"
#include "spire_conf.h"
#include "spire_server.h"

#define CS_BOOTSTRAP_NODES     10000
#define CS_BOOTSTRAP_SELECTORS 16 /* of one process */
#define CS_BOOTSTRAP_LIST      64 /* of the other options that may be repeated */

/* Exit codes. */
enum { CS_BOOTSTRAP_FINE = 0, CS_BOOTSTRAP_FAILED = 1, CS_BOOTSTRAP_USAGE = 2 };

struct cs_bootstrap_words {
	const char **items;
	size_t n;
};
enum cs_bootstrap_mode { CS_BOOTSTRAP_MAKE, CS_BOOTSTRAP_PRINT, CS_BOOTSTRAP_CHECK };

/* The command line; texts are borrowed from it. */
struct cs_bootstrap {
	enum cs_bootstrap_mode mode;
	bool json;
	const char *trust_domain, *server_socket, *parent, *agent_selector, *identities, *mark;
	struct cs_bootstrap_words nodes, cluster_nodes, adapter_selectors, registrar_selectors, federates_with,
		agent_configs;
	const char *server_config;
	int64_t ttl_s; /* 0: the server's */
};

/* ---- bootstrap_entries.c: what must be there ---- */

enum cs_wish_state { CS_WISH_MISSING, CS_WISH_MADE, CS_WISH_THERE, CS_WISH_DIFFERS, CS_WISH_FAILED };

struct cs_wish {
	cs_spire_entry *entry; /* owned */
	char what[64];         /* "the adapter as a delegate" */
	enum cs_wish_state state;
	char *id;   /* of the one that is there */
	char *text; /* what differs, or why it could not be made */
	char *key;  /* parent and ID */
	UT_hash_handle hh;
};
struct cs_wishes {
	struct cs_wish *items, *by_key;
	size_t n;
};

/* -EINVAL: a name or a selector that SPIRE would not take, or two processes that could not be told apart. */
CS_MUST_USE int cs_wishes_init(struct cs_wishes *w, const struct cs_bootstrap *b, struct cs_error *e);
void cs_wishes_fini(struct cs_wishes *w);
/* An entry that the server has: is it one of those? */
void cs_wishes_see(struct cs_wishes *w, const cs_spire_entry *entry);
/* spire-server's commands, or with json the document for `entry create -data -`. */
void cs_wishes_print(const struct cs_wishes *w, const struct cs_bootstrap *b);
void cs_wishes_report(const struct cs_wishes *w, bool json);

/* "spiffe://td/path"; ret has CS_SPIRE_ID bytes. Without an ID: "". */
#define CS_SPIRE_ID 2400
void cs_spire_id_text(const Spire__Api__Types__SPIFFEID *id, char ret[CS_SPIRE_ID]);
/* "unix:uid:0, unix:gid:0", cut to fit. */
void cs_spire_selectors_text(Spire__Api__Types__Selector *const *s, size_t n, char *ret, size_t size);
/* The parent of what runs on a node, as an ID. */
void cs_bootstrap_parent(const struct cs_bootstrap *b, const char *node, char ret[CS_SPIRE_ID]);
/* A template with the node's name for {node}. */
void cs_bootstrap_fill(const char *template, const char *node, char *ret, size_t size);

/* ---- bootstrap_check.c, bootstrap_config.c: what is not as it should be ---- */

struct cs_bootstrap_check;
struct cs_bootstrap_check *cs_bootstrap_check_new(const struct cs_bootstrap *b, struct cs_findings *f);
void cs_bootstrap_check_free(struct cs_bootstrap_check *c);
/* One of a list of the server, before cs_bootstrap_check_end. */
void cs_bootstrap_check_entry(struct cs_bootstrap_check *c, const cs_spire_entry *entry);
void cs_bootstrap_check_agent(struct cs_bootstrap_check *c, const cs_spire_agent *agent);
void cs_bootstrap_check_bundle(struct cs_bootstrap_check *c, const cs_spire_bundle *bundle);
void cs_bootstrap_check_federation(struct cs_bootstrap_check *c, const cs_spire_federation *federation);
void cs_bootstrap_check_end(struct cs_bootstrap_check *c, const struct cs_wishes *w, int64_t now_unix_s);

/* Files of spire-agent and spire-server. */
CS_MUST_USE int cs_bootstrap_check_agent_config(
	const struct cs_bootstrap *b, const char *file, struct cs_findings *f, struct cs_error *e);
CS_MUST_USE int cs_bootstrap_check_server_config(
	const struct cs_bootstrap *b, const char *file, struct cs_findings *f, struct cs_error *e);

/* ---- bootstrap.c ---- */

/* What follows --bootstrap-spire. */
int cs_bootstrap_main(int argc, char **argv);

#endif
