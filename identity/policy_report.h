/* What `--check-policy` prints. */
#ifndef CS_POLICY_REPORT_H
#define CS_POLICY_REPORT_H

#include <stdio.h>
#include "policy_compile.h"

struct cs_policy_report {
	const struct cs_cnp_set *policies;
	const struct cs_compiled *compiled;
	char **errors; /* sentences about files that were refused */
	size_t nerrors;
	size_t nfiles;
	bool strict;
	size_t nwider; /* rules that --strict refuses */
};
void cs_policy_report_table(const struct cs_policy_report *r, FILE *out);
CS_MUST_USE int cs_policy_report_json(const struct cs_policy_report *r, FILE *out);

#endif
