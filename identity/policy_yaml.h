/* CiliumNetworkPolicy (cilium.io/v2) from YAML, several documents in a file. Bytes in, policies or an error out.
 * Strict: a field that is not known, a value of the wrong type, a key twice, an anchor, an alias or a tag is an error
 * with file, line, name and what would be right. docs/policy.md lists the fields. */
#ifndef CS_POLICY_YAML_H
#define CS_POLICY_YAML_H

#include "policy.h"

/* Further limits: yaml_tree.h. */
#define CS_POLICY_RULES_MAX 1024 /* in one policy */

/* Adds the policies of one file to set: all of them, or none and an error. file is only a name, for messages.
 * A file without a document (empty, comments only) adds nothing. */
CS_MUST_USE int cs_policy_yaml_parse(
	const char *file, const void *bytes, size_t n, struct cs_cnp_set *set, struct cs_error *e);

#endif
