/* Which numbers there are (countersign/identities.h), which of them label sets of this cluster get, and to which trust
 * domain an identity of another cluster must belong. Pure: configuration in, answers out. */
#ifndef CS_NUMBERS_H
#define CS_NUMBERS_H

#include <stdbool.h>
#include <countersign/identities.h>
#include "settings.h"

#define CS_FIXED_NAME_MAX 63 /* bytes of the name of a user-reserved identity */

enum cs_number_kind {
	CS_NUMBER_RESERVED,   /* 0-99 */
	CS_NUMBER_WELL_KNOWN, /* 100-127 */
	CS_NUMBER_FIXED,      /* 128-255 */
	CS_NUMBER_LABELS,     /* a label set of some cluster */
	CS_NUMBER_CIDR,       /* 1 << 24 | n */
	CS_NUMBER_NODE,       /* 2 << 24 | n */
	CS_NUMBER_NONE,       /* beyond everything */
};

struct cs_numbers_config {         /* borrowed for cs_numbers_init only */
	int64_t cluster_id;        /* 0: a cluster of its own; else 1 to clusters_max */
	int64_t clusters_max;      /* 255 or 511; the same in all clusters that know each other */
	const char *trust_domain;  /* of this cluster */
	struct cs_strings domains; /* "CLUSTER=TRUST_DOMAIN" of other clusters */
	struct cs_strings fixed;   /* "NUMBER=NAME": user-reserved identities */
};

struct cs_numbers {
	uint32_t cluster_id, clusters_max;
	unsigned shift;    /* id >> shift is the cluster's id */
	uint32_t min, max; /* what label sets of this cluster get, both included */
	char *trust_domain;
	struct cs_cluster_domain {
		uint32_t cluster;
		char *trust_domain;
	} * domains;
	size_t ndomains;
	char *fixed[CS_ID_FIXED_LAST - CS_ID_FIXED_FIRST + 1]; /* names; NULL: not given */
};

/* -EINVAL says which entry is wrong and what would be right. *n is untouched then. */
CS_MUST_USE int cs_numbers_init(struct cs_numbers *n, const struct cs_numbers_config *config, struct cs_error *e);
void cs_numbers_fini(struct cs_numbers *n);

enum cs_number_kind cs_number_kind(uint32_t id);
/* "label set", "CIDR", ... */
const char *cs_number_kind_name(enum cs_number_kind kind);
/* Can something with this number ever have an SVID? */
bool cs_number_authenticates(uint32_t id);
/* The cluster whose range it is in; 0 for what belongs to no cluster. */
uint32_t cs_number_cluster(const struct cs_numbers *n, uint32_t id);
/* In the range that label sets of this cluster get. */
bool cs_number_is_own(const struct cs_numbers *n, uint32_t id);
/* The number of a user-reserved name, or 0. */
uint32_t cs_number_fixed(const struct cs_numbers *n, const char *name);

/* The trust domain that identities of this number must belong to, or NULL: a cluster that is not configured, or a number
 * that cannot authenticate. */
const char *cs_number_trust_domain(const struct cs_numbers *n, uint32_t id);
/* -EACCES with trust-domain-mismatch: an identity of this number from that trust domain is none of ours. */
CS_MUST_USE int cs_number_check_domain(
	const struct cs_numbers *n, uint32_t id, const char *trust_domain, struct cs_error *e);

#endif
