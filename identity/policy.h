/* Policies as written: what the parser (policy_yaml.h) makes of a CiliumNetworkPolicy and the compiler
 * (policy_compile.h) reads. Plain values, owned by their cs_cnp_set. */
#ifndef CS_POLICY_H
#define CS_POLICY_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"
#include "labels.h"

enum cs_policy_dir { CS_INGRESS = 0, CS_EGRESS = 1 };

enum cs_selector_op { CS_SEL_IN, CS_SEL_NOT_IN, CS_SEL_EXISTS, CS_SEL_NOT_EXISTS };
struct cs_requirement {
	const char *source; /* static; NULL: any source */
	char *key;
	enum cs_selector_op op;
	char **values; /* CS_SEL_IN and CS_SEL_NOT_IN: sorted, no duplicates */
	size_t nvalues;
};
/* All requirements must hold. The scope of the policy's namespace is one of them, put there by the parser. */
struct cs_selector {
	struct cs_requirement *reqs; /* sorted */
	size_t n;
};

struct cs_prefix {
	uint8_t family; /* 4 or 6 */
	uint8_t bits;
	uint8_t addr[16]; /* network order; IPv4 in the first four bytes; all bits after `bits` are zero */
};
#define CS_PREFIX_TEXT (INET6_ADDRSTRLEN + 4)

struct cs_cidr {
	struct cs_prefix prefix;
	struct cs_prefix *except; /* each inside prefix */
	size_t nexcept;
};

enum cs_entity {
	CS_ENTITY_ENDPOINTS = 1 << 0, /* every identity that can authenticate */
	CS_ENTITY_HOST = 1 << 1,
	CS_ENTITY_REMOTE_NODE = 1 << 2,
	CS_ENTITY_WORLD = 1 << 3, /* includes every CIDR */
	CS_ENTITY_CLUSTER = CS_ENTITY_ENDPOINTS | CS_ENTITY_HOST | CS_ENTITY_REMOTE_NODE,
	CS_ENTITY_ALL = CS_ENTITY_CLUSTER | CS_ENTITY_WORLD,
};

enum cs_auth_mode {
	CS_AUTH_UNSET,
	CS_AUTH_DISABLED,
	CS_AUTH_REQUIRED,
	CS_AUTH_ALWAYS_FAIL, /* test-always-fail: nobody passes */
};

/* One element of ingress, egress, ingressDeny or egressDeny. A peer is meant if any of the three lists means it. */
struct cs_rule {
	char *name; /* "ingress[0]", "specs[1].egressDeny[2]" */
	unsigned line;
	enum cs_policy_dir dir;
	bool deny;
	enum cs_auth_mode auth;
	unsigned entities; /* of enum cs_entity */
	struct cs_selector *selectors;
	size_t nselectors;
	struct cs_cidr *cidrs;
	size_t ncidrs;
	char *ports; /* NULL: none written. For people: "53/UDP, 80/TCP (http)" */
};

struct cs_spec {
	struct cs_selector subject; /* endpointSelector, scoped */
	bool selects[2];            /* [enum cs_policy_dir]: this direction is denied but for what rules allow */
	struct cs_rule *rules;
	size_t nrules;
};

/* A CiliumNetworkPolicy (maps.h has a struct cs_policy of its own). */
struct cs_cnp {
	char *name; /* "namespace/name" */
	char *file; /* as given to the parser */
	unsigned line;
	uint8_t sha256[32]; /* of the whole file */
	struct cs_spec *specs;
	size_t nspecs;
};

struct cs_cnp_set {
	struct cs_cnp **items; /* sorted by name, which is unique */
	size_t n;
};

void cs_cnp_free(struct cs_cnp *p);
void cs_cnp_set_fini(struct cs_cnp_set *set);
/* Takes p over, also on failure. A name that is there already is an error that names both files. */
CS_MUST_USE int cs_cnp_set_add_take(struct cs_cnp_set *set, struct cs_cnp *p, struct cs_error *e);

/* Moves all of from into to, or none of it. */
CS_MUST_USE int cs_cnp_set_merge(struct cs_cnp_set *to, struct cs_cnp_set *from, struct cs_error *e);
/* The policy of that name, or NULL. */
const struct cs_cnp *cs_cnp_set_get(const struct cs_cnp_set *set, const char *name);

/* A workload without the label CS_LABEL_NAMESPACE is matched as if it were in CS_LABEL_NAMESPACE_DEFAULT. */
bool cs_selector_match(const struct cs_selector *s, const struct cs_labels *labels);
/* "app=web, tier in (a, b), !debug" into out, cut with an ellipsis; "everything" for the empty selector. */
void cs_selector_format(const struct cs_selector *s, char *out, size_t size);
/* A total order, for sorting and for finding equal ones. */
int cs_selector_cmp(const struct cs_selector *a, const struct cs_selector *b);
int cs_requirement_cmp(const struct cs_requirement *a, const struct cs_requirement *b);

int cs_prefix_cmp(const struct cs_prefix *a, const struct cs_prefix *b); /* family, address, bits */
bool cs_prefix_contains(const struct cs_prefix *outer, const struct cs_prefix *inner);
void cs_prefix_format(const struct cs_prefix *p, char out[CS_PREFIX_TEXT]);
/* "10.0.0.0/8" or a bare address. Set bits after the prefix length are an error that names the prefix meant. */
CS_MUST_USE int cs_prefix_parse(const char *text, struct cs_prefix *ret, struct cs_error *e);

#endif
