/* Between the files of the service Auth. */
#ifndef CS_SERVICE_AUTH_PRIVATE_H
#define CS_SERVICE_AUTH_PRIVATE_H

#include <countersign/v1/auth.pb-c.h>
#include "drops.h"
#include "grpc.h"
#include "service_auth.h"

struct reader; /* service_auth_events.c */
struct walk;   /* service_auth_list.c */
struct asker;  /* service_auth_now.c */

struct cs_auth_service {
	struct cs_authd *a;
	struct cs_grpc_service grpc;
	struct cs_grpc_server *server;
	struct cs_timer soon;  /* something has happened: tell those who wait for it */
	struct cs_timer often; /* while somebody waits for a pair */
	struct reader *readers;
	struct walk *walks;
	struct asker *askers;
	size_t nreaders, nwalks, naskers;
	struct cs_drops *drops;
	bool closing;
	int open; /* handles, and the server */
};

cs_grpc_handler cs_auth_list, cs_auth_flush, cs_auth_explain, cs_auth_authenticate, cs_auth_events;

/* From the loop, after something happened. */
void cs_auth_readers_pump(struct cs_auth_service *s);
void cs_auth_walks_pump(struct cs_auth_service *s);
void cs_auth_askers_pump(struct cs_auth_service *s);
void cs_auth_soon(struct cs_auth_service *s);
/* Every call of theirs ends: UNAVAILABLE. */
void cs_auth_readers_end(struct cs_auth_service *s);
void cs_auth_walks_end(struct cs_auth_service *s);
void cs_auth_askers_end(struct cs_auth_service *s);

/* A message with all that it points to; valid until something in authd changes. */
struct cs_auth_message {
	Countersign__V1__AuthEntry msg;
	Countersign__V1__AuthPair pair;
	Countersign__V1__Reason reason;
	char detail[512];
};
/* What is known of this key. pair NULL: nothing, only the key's names are filled. */
void cs_auth_message_fill(const struct cs_authd *a, const struct cs_auth_key *key, const struct cs_pair *pair,
	struct cs_auth_message *ret);
/* The pair has an entry, a question, or a refusal that is remembered. */
bool cs_auth_pair_is_pending(const struct cs_pair *pair);

/* A node by its name; this node too. False: the call is ended with the reason. */
bool cs_auth_node_id(const struct cs_auth_service *s, struct cs_grpc_call *call, const char *name, uint16_t *ret);
const char *cs_auth_role_name(unsigned role);
/* "name rule" of a decision, cut. */
void cs_auth_policy_text(const struct cs_world_decision *d, char *out, size_t size);

#endif
