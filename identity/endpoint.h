/* One endpoint of this node: what was registered, and its five conditions (v1/endpoints.proto). Pure. */
#ifndef CS_ENDPOINT_H
#define CS_ENDPOINT_H

#include <countersign/v1/endpoints.pb-c.h>
#include <uthash.h>
#include "ip.h"
#include "labels.h"
#include "identity_limits.h"

#define CS_STEPS 7 /* enum Step, 0 is none */

struct cs_condition {
	bool met;
	enum cs_reason reason;
	char detail[256];
	int64_t since_unix_ms;
};

/* The registration, checked. */
struct cs_endpoint_spec {
	char *id;
	struct cs_labels labels;
	char *labels_text; /* canonical */
	struct cs_ip addrs[2 * CS_FAMILY_ADDRS_MAX];
	size_t naddrs;
	char interface[CS_INTERFACE_MAX + 1];
	bool dhcp, audit;
};

enum cs_claim_state {
	CS_CLAIM_DUE,     /* to be sent (again) */
	CS_CLAIM_SENT,    /* no answer yet */
	CS_CLAIM_TAKEN,   /* the cluster role has it */
	CS_CLAIM_REFUSED, /* tried again after retry_after_ms */
};

/* Other labels are another identity. The endpoint keeps the one that it has until the new one can authenticate here. */
struct cs_move {
	uint32_t from;         /* what it is to everybody meanwhile; 0: it does not move */
	uint64_t incarnation;  /* under which authd knows that */
	uint32_t to;           /* 0: not known yet */
	bool preparing;        /* `to` is to be placed first, for its SVID; else the claim moves it */
	int64_t until_mono_ms; /* it moves then all the same; 0: not known yet */
};

struct cs_node_endpoint {
	struct cs_endpoint_spec spec;
	uint64_t incarnation;
	unsigned ifindex;  /* 0: the interface is not there */
	uint32_t identity; /* 0: not known */
	uint32_t heard;    /* in the cluster role's record of it, before the claim is answered; 0: none */
	char *spiffe_id;   /* NULL: not known */
	struct cs_labels identity_labels; /* of it: what the cluster role's filter took */
	uint64_t identity_incarnation;    /* whose these two are */
	struct cs_move move;
	struct cs_condition conditions[CS_STEPS];
	enum cs_claim_state claim;
	uint32_t caught_up;      /* the identity whose reports it has */
	uint64_t taken_revision; /* CLAIM_TAKEN: the directory has it from there on */
	bool want_published;     /* somebody waits, or waited, for its peers to know it */
	bool asking_published;
	enum cs_reason refused; /* CLAIM_REFUSED */
	char refused_text[256];
	int64_t refused_until_mono_ms; /* not before; in the past: not known */
	int64_t retry_after_ms;
	UT_hash_handle hh; /* by spec.id */
};

/* The rules of a registration and of a claim: 1 to CS_ENDPOINT_ID_MAX bytes of printable ASCII, 1 to CS_FAMILY_ADDRS_MAX
 * addresses of a family. ret has room for two families. */
CS_MUST_USE int cs_endpoint_id_check(const char *id, struct cs_error *e);
CS_MUST_USE int cs_endpoint_addresses(
	Countersign__V1__Address *const *in, size_t n, struct cs_ip *ret, size_t *ret_n, struct cs_error *e);

/* Checks everything that can be seen from the message alone: -EINVAL, with a reason where the list has one. *ret is
 * untouched on failure. */
CS_MUST_USE int cs_endpoint_spec_check(
	const Countersign__V1__EndpointSpec *pb, struct cs_endpoint_spec *ret, struct cs_error *e);
void cs_endpoint_spec_fini(struct cs_endpoint_spec *spec);
/* All but id and labels. */
bool cs_endpoint_same_place(const struct cs_endpoint_spec *a, const struct cs_endpoint_spec *b);
bool cs_endpoint_spec_equal(const struct cs_endpoint_spec *a, const struct cs_endpoint_spec *b);
/* The message of a spec; heap, freed by countersign__v1__endpoint_spec__free_unpacked. */
Countersign__V1__EndpointSpec *cs_endpoint_spec_message(const struct cs_endpoint_spec *spec);

/* Takes the spec over. Nothing is met but `registered`. */
struct cs_node_endpoint *cs_endpoint_new_take(struct cs_endpoint_spec *spec, uint64_t incarnation, int64_t now_unix_ms);
void cs_endpoint_free(struct cs_node_endpoint *ep);
/* Another incarnation: what others reported about the earlier one counts no more. */
void cs_endpoint_reset(struct cs_node_endpoint *ep, uint64_t incarnation, int64_t now_unix_ms);

/* True if it changed. `since` moves only when met changes. detail may be NULL. */
bool cs_endpoint_set(struct cs_node_endpoint *ep, Countersign__V1__Step step, bool met, enum cs_reason reason,
	const char *detail, int64_t now_unix_ms);
/* The first of the steps that is not met, or 0. */
Countersign__V1__Step cs_endpoint_unmet(
	const struct cs_node_endpoint *ep, const Countersign__V1__Step *steps, size_t n);
/* "identified", ... */
const char *cs_step_name(Countersign__V1__Step step);

/* Heap, freed by countersign__v1__endpoint_status__free_unpacked. */
Countersign__V1__EndpointStatus *cs_endpoint_status(const struct cs_node_endpoint *ep, const char *node);

#endif
