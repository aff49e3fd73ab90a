/* Which labels of an endpoint make its identity. The others (a pod's hash, a job's number) would give every workload an
 * identity of its own; they stay on the endpoint.
 *
 * Rules are Cilium's: [SOURCE:][!]PATTERN. PATTERN is a POSIX extended regular expression that must match from the first
 * character of the key on, and need not match all of it: so a plain word is a prefix. `!` ignores, anything else includes.
 * A label is taken if no rule ignores it (and nobody asked for labels by an include rule of his own), or if the longest
 * match of an include rule is longer than the shortest match of an ignore rule.
 *
 * An endpoint with the label io.cilium.fixed-identity=NAME has the one label reserved:NAME and the number that
 * identity.fixed gives to that name.
 *
 * Applied by the cluster role, which numbers the sets: nodes that filtered differently would give one workload two
 * identities. Pure. */
#ifndef CS_LABELS_FILTER_H
#define CS_LABELS_FILTER_H

#include "labels.h"
#include "numbers.h"

#define CS_LABEL_FIXED      "io.cilium.fixed-identity"
#define CS_LABEL_RULE_MAX   512 /* bytes of one rule */
#define CS_LABEL_FILTER_MAX 128 /* rules of the configuration */

struct cs_label_filter;

/* Those that hold without any configuration; NULL-terminated. */
extern const char *const cs_label_filter_defaults[];

/* rules (may be NULL) come on top of the defaults; without the defaults an empty list takes every label. -EINVAL names
 * the rule. */
CS_MUST_USE int cs_label_filter_new(
	bool defaults, const struct cs_strings *rules, struct cs_label_filter **ret, struct cs_error *e);
void cs_label_filter_free(struct cs_label_filter *filter);

bool cs_label_filter_takes(const struct cs_label_filter *filter, const struct cs_label *label);

/* The labels of the identity; *ret_fixed is its number if it is user-reserved, else 0. -EINVAL with labels-invalid: no
 * label is left, or there is no user-reserved identity of that name. *ret is untouched on failure. */
CS_MUST_USE int cs_identity_labels(const struct cs_label_filter *filter, const struct cs_numbers *numbers,
	const struct cs_labels *labels, struct cs_labels *ret, uint32_t *ret_fixed, struct cs_error *e);

/* Could the filter have made `identity` of `labels`? Each is there, or stands for the endpoint's fixed identity. For a
 * node, which does not know the filter. */
bool cs_identity_labels_of(const struct cs_labels *identity, const struct cs_labels *labels);

#endif
