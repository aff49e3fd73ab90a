/* Policies as short text, compiled over named identities; for the tests of the policy compiler. */
#ifndef POLICY_FIXTURE_H
#define POLICY_FIXTURE_H

#include "policy_compile.h"

struct fixture {
	struct cs_cnp_set policies;
	struct cs_labels *labels;
	struct cs_compile_identity *identities;
	size_t nidentities, room;
	struct cs_compile_input in;
	struct cs_compiled *compiled;
	struct cs_rows rows;
};

/* text: one policy a line, "namespace/name {spec}" or "namespace/name [{spec}, ...]". Fails the test on an error. */
void fixture_policies(struct fixture *f, const char *text);
void fixture_identity(struct fixture *f, uint32_t id, const char *labels);
/* Compiles, and makes the rows of all identities as locals. */
void fixture_compile(struct fixture *f);
void fixture_free(struct fixture *f);

/* Everything that the compiler says, as text: rows, defaults, prefixes, findings. malloc'd. */
char *fixture_dump(const struct fixture *f);
/* What the datapath would do: the row, else the default of the peer's class. */
const struct cs_decision *fixture_verdict(const struct fixture *f, uint32_t local, uint32_t remote, enum cs_dir dir);
/* Number of a CIDR identity, or 0. */
uint32_t fixture_prefix(const struct fixture *f, const char *prefix);

#endif
