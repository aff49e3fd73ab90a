/* Inside the policy parser: typed access to the YAML tree with errors "file:line: ...", selectors and rules. */
#ifndef CS_POLICY_READ_H
#define CS_POLICY_READ_H

#include "policy.h"
#include "yaml_tree.h"

struct cs_reader {
	const char *file;
	struct cs_error *e;
	struct cs_cnp *cnp; /* what is being built */
	const char *ns;     /* of the policy */
	size_t nrules;      /* so far, in cnp */
};

/* All return a negative errno. */
int cs_read_fail(struct cs_reader *r, const struct cs_yaml *at, const char *fmt, ...) CS_PRINTF(3, 4);
int cs_read_nomem(struct cs_reader *r);

/* Every key of the mapping must be in names (NULL-terminated). */
CS_MUST_USE int cs_read_fields(struct cs_reader *r, const struct cs_yaml *map, const char *const *names);
/* CS_YAML_SCALAR means text: a number, true or nothing is refused. */
CS_MUST_USE int cs_read_kind(struct cs_reader *r, const struct cs_yaml *node, enum cs_yaml_kind kind);
/* The field of that name, which must be there (need) or may be missing (may; then *ret is NULL). */
CS_MUST_USE int cs_read_need(struct cs_reader *r, const struct cs_yaml *map, const char *field, enum cs_yaml_kind kind,
	const struct cs_yaml **ret);
CS_MUST_USE int cs_read_may(struct cs_reader *r, const struct cs_yaml *map, const char *field, enum cs_yaml_kind kind,
	const struct cs_yaml **ret);

/* subject: an endpointSelector, which never leaves the policy's namespace. *ret may be half filled on failure, and is
 * freed with the policy; so with cs_read_rule. */
CS_MUST_USE int cs_read_selector(struct cs_reader *r, const struct cs_yaml *map, bool subject, struct cs_selector *ret);
/* rule has name, line, dir and deny already. */
CS_MUST_USE int cs_read_rule(struct cs_reader *r, const struct cs_yaml *map, struct cs_rule *rule);
/* toPorts, in the words of cs_rule.ports; *ret is NULL when it narrows nothing. */
CS_MUST_USE int cs_read_ports(struct cs_reader *r, const struct cs_yaml *list, char **ret);

#endif
