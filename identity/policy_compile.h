/* The policy compiler: rules x identities -> verdicts. A pure function; the same input, in whatever order, gives the
 * same output. Two steps, because the cluster role compiles once and is asked by many nodes:
 *
 *	cs_policy_compile()  everything that all nodes share: who is meant by which rule, CIDR identities, findings
 *	cs_compiled_rows()   the rows and defaults of the identities of one node; never all pairs
 *
 * Within a direction deny beats require beats pass; a direction that no policy selects passes, a selected one denies
 * what no rule allows. Then both directions of a pair are joined, for peers that can authenticate: require + pass
 * becomes require both ways, require + deny stays. For other peers require means refused. */
#ifndef CS_POLICY_COMPILE_H
#define CS_POLICY_COMPILE_H

#include <countersign/maps.h>
#include "policy.h"

enum cs_compile_limits {
	CS_PREFIX_IDENTITIES_MAX = 16384, /* CIDRs that all policies name: cs_prefix4 and cs_prefix6 must hold them */
	CS_ROWS_MAX = 1 << 20,            /* rows of one node: cs_policy must hold them */
};

struct cs_compile_identity {
	uint32_t id; /* CS_ID_FIRST_AUTH .. CS_ID_LOCAL_SCOPE - 1, unique */
	const struct cs_labels *labels;
};
struct cs_prefix_identity {
	struct cs_prefix prefix;
	uint32_t id; /* CS_ID_LOCAL_SCOPE | n, n from 1 */
};

struct cs_label_filter;   /* labels_filter.h */
struct cs_compile_input { /* all borrowed; policies must outlive the result, the rest only the call */
	const struct cs_cnp_set *policies;
	const struct cs_compile_identity *identities; /* any order */
	size_t nidentities;
	const struct cs_prefix_identity *prefixes; /* numbers given earlier: they are kept, and not given to others */
	size_t nprefixes;
	/* depends_on: passes before policy, so rules that would refuse it are reported. */
	const uint32_t *depends_identities;
	size_t ndepends_identities;
	const struct cs_prefix *depends_prefixes;
	size_t ndepends_prefixes;
	/* Selectors that ask for labels which it takes into no identity are reported. NULL: not looked at. */
	const struct cs_label_filter *filter;
};

enum cs_finding_kind {
	CS_FINDING_WIDER,        /* wider-than-written: ports and L7 are not looked at */
	CS_FINDING_ASKS_MORE,    /* asks-more-than-written: the other direction passes, and is now required too */
	CS_FINDING_NEVER,        /* never-authenticates: required of peers that have no SVID, so refused */
	CS_FINDING_NOT_SERVICES, /* not-enforceable-through-services: required at egress only */
	CS_FINDING_NO_LABEL,     /* label-in-no-identity: a selector asks for a label that the filter leaves out */
	CS_FINDING_DEPENDS,      /* hits-depends-on: the rule would refuse what passes before policy */
};
const char *cs_finding_kind_name(enum cs_finding_kind kind);
struct cs_finding {
	enum cs_finding_kind kind;
	const struct cs_cnp *policy;
	const struct cs_rule *rule;
	char *text; /* one sentence */
};

/* Why: the policy and the rule that decided. A direction that no policy selects: both NULL. One that is selected, but
 * where no rule means the peer: the first policy that selects, rule NULL. */
struct cs_decision {
	uint8_t verdict; /* enum cs_verdict */
	uint8_t dir;     /* enum cs_policy_dir of the direction that decided: a joined one has the other's */
	const struct cs_cnp *policy;
	const struct cs_rule *rule;
};
/* Name of the rule for PolicyRow and for people: "ingress[0]", "ingress" when no rule means the peer, "". */
const char *cs_decision_rule(const struct cs_decision *d);

struct cs_policy_row {
	uint32_t local, remote;
	struct cs_decision verdict[2]; /* [enum cs_dir] CS_FROM: egress, CS_TO: ingress */
};
struct cs_policy_default {
	uint32_t local;
	struct cs_decision verdict[2][2]; /* [enum cs_dir][enum cs_peer_class] */
};
struct cs_rows {
	struct cs_policy_row *rows; /* sorted by (local, remote) */
	size_t nrows;
	struct cs_policy_default *defaults; /* sorted by local; one for every local identity asked for and known */
	size_t ndefaults;
};

struct cs_compiled;
/* NULL and *e on a limit, an identity out of range or twice, or a prefix number given twice. */
struct cs_compiled *cs_policy_compile(const struct cs_compile_input *in, struct cs_error *e);
void cs_compiled_free(struct cs_compiled *c);

/* More identities, as if they had been in the input, but for the findings, which stay as they are. 1: done. 0: the result
 * would differ in more than what is added; c is as it was, and the caller compiles anew. Costs what the selectors cost
 * over the new ones, not over all. */
CS_MUST_USE int cs_compiled_add(
	struct cs_compiled *c, const struct cs_compile_identity *identities, size_t n, struct cs_error *e);

/* Borrowed from c. Prefixes: all that some policy names, sorted by prefix. Findings: by policy, rule, kind. */
const struct cs_prefix_identity *cs_compiled_prefixes(const struct cs_compiled *c, size_t *n);
const struct cs_finding *cs_compiled_findings(const struct cs_compiled *c, size_t *n);
/* How many of the identities a spec of the policies selects. */
size_t cs_compiled_count(const struct cs_compiled *c, const struct cs_spec *spec);

/* Rows and defaults for these local identities (any order; unknown ones and duplicates are left out). Keeps room in c for
 * the next time. */
CS_MUST_USE int cs_compiled_rows(
	struct cs_compiled *c, const uint32_t *locals, size_t nlocals, struct cs_rows *ret, struct cs_error *e);
/* Does any rule name one of those that the last cs_compiled_add added? If not there are no such rows. */
bool cs_compiled_added_any(const struct cs_compiled *c);
/* Only the rows whose remote was added by the last cs_compiled_add, in no particular order; no defaults. locals: known
 * ones only, each once. */
CS_MUST_USE int cs_compiled_added_rows(
	struct cs_compiled *c, const uint32_t *locals, size_t nlocals, struct cs_rows *ret, struct cs_error *e);
void cs_rows_fini(struct cs_rows *r);

#endif
