/* Witnesses: made-up identities, one for each selector of the policies, that the selector means. With them the compiler
 * can say what policies do where no cluster is at hand. */
#ifndef CS_POLICY_WITNESS_H
#define CS_POLICY_WITNESS_H

#include "policy_compile.h"

struct cs_witnesses {
	struct cs_compile_identity *identities;
	struct cs_labels *labels;
	size_t n;
};
CS_MUST_USE int cs_witnesses_make(const struct cs_cnp_set *policies, struct cs_witnesses *ret, struct cs_error *e);
void cs_witnesses_fini(struct cs_witnesses *w);

#endif
