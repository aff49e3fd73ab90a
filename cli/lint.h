/* Which labels make identities multiply, and when their range is full. Pure: documents in, a document out. */
#ifndef CS_CLI_LINT_H
#define CS_CLI_LINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define CS_LINT_MANY        10 /* identities that a label must make before it is worth a word */
#define CS_LINT_WINDOW_DAYS 7  /* what "this rate" looks at */
#define CS_LINT_SOON_DAYS   30 /* full in less: a warning */

struct cs_lint_range {
	bool known;
	uint32_t first, last;
	uint64_t in_use, resting; /* resting: deleted, and not given again yet */
};

/* identities: as `identity list` has them. {"identities": N, "unused": N, "range": {...} or null, "per_day": N or null,
 * "full_in_days": N or null, "labels": [{"key", "values", "identities", "unused", "without", "multiplies", "example"}, ...],
 * "warnings": ["..."]}; the labels that make the most identities come first. `without` is how many identities there would
 * be if the label were in none. */
json_t *cs_lint_doc(const json_t *identities, const struct cs_lint_range *range, int64_t now_unix_ms);

/* Does it look like what a machine made for one workload: a number, a hash, a UUID? */
bool cs_lint_generated(const char *value);

#endif
