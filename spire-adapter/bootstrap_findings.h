/* What a check found: a kind for machines, whom it is about, a sentence, and the way out. */
#ifndef CS_BOOTSTRAP_FINDINGS_H
#define CS_BOOTSTRAP_FINDINGS_H

#include <stdbool.h>
#include <stddef.h>
#include "error.h"

#define CS_FINDINGS_OF_A_KIND 50 /* more are counted only */

struct cs_findings_item {
	const char *kind; /* static */
	char *subject, *text, *remedy;
};
struct cs_findings {
	struct cs_findings_item *items;
	size_t n;
	struct cs_findings_more {
		const char *kind;
		size_t n; /* all of this kind */
	} * kinds;
	size_t nkinds;
	char **unchecked; /* what could not be looked at, and what would let it */
	size_t nunchecked;
};

/* remedy: static text. fmt makes the sentence, with control characters replaced. */
void cs_findings_add(struct cs_findings *f, const char *kind, const char *subject, const char *remedy, const char *fmt,
	...) CS_PRINTF(5, 6);
void cs_findings_unchecked(struct cs_findings *f, const char *text);
void cs_findings_report(const struct cs_findings *f, bool json);
void cs_findings_fini(struct cs_findings *f);

#endif
