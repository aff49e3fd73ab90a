/* Inside the policy compiler: what cs_policy_compile() keeps. */
#ifndef CS_POLICY_COMPILED_H
#define CS_POLICY_COMPILED_H

#include "policy_compile.h"

#define CS_NONE UINT32_MAX /* no index */

/* Ascending indices, of identities (cs_compiled.ids) or of prefixes (cs_compiled.prefixes). */
struct cs_set {
	uint32_t *v;
	size_t n, room;
};

/* Equal selectors are evaluated once and share their set. */
struct cs_resolved {
	const struct cs_selector *selector;
	struct cs_set set;
};

struct cs_compiled_rule {
	const struct cs_cnp *policy;
	const struct cs_rule *rule;
	uint32_t spec;
	uint8_t verdict;            /* enum cs_verdict; the lower one wins within a direction */
	bool endpoints;             /* every peer that can authenticate */
	const struct cs_set **sets; /* of identities, borrowed from cs_compiled.resolved */
	size_t nsets;
	struct cs_set prefixes;
};

struct cs_compiled_spec {
	const struct cs_cnp *policy;
	const struct cs_spec *spec;
	const struct cs_set *subjects; /* borrowed from cs_compiled.resolved */
	uint32_t first_rule, nrules;
};

/* Identities that the same specs select: they have the same rows. */
struct cs_group {
	uint32_t *specs; /* ascending */
	size_t nspecs;
	size_t members; /* 0: split up, unused */
};

struct cs_compiled {
	uint32_t *ids; /* ascending */
	size_t nids, ids_room;
	uint32_t *added; /* indices of the last cs_compiled_add, ascending */
	size_t nadded;
	uint32_t *group_of; /* by index of identity */
	struct cs_group *groups;
	size_t ngroups, groups_room;
	struct cs_compiled_spec *specs; /* by policy name, then as written: so are the rules */
	size_t nspecs;
	struct cs_compiled_rule *rules;
	size_t nrules;
	struct cs_resolved *resolved; /* by selector */
	size_t nresolved;
	struct cs_prefix_identity *prefixes; /* by prefix */
	size_t nprefixes;
	struct cs_finding *findings;
	size_t nfindings;
	struct cs_picks *picks; /* room for rows, kept; NULL: none yet */
};

/* The rules that decide for the identities of one group, by peer and direction; CS_NONE: no rule means the peer. */
struct cs_picks {
	const struct cs_compiled *c;
	size_t ids_room;                /* for so many identities */
	uint32_t *ids[2], *prefixes[2]; /* [enum cs_policy_dir][index] */
	uint32_t endpoints[2], host[2], remote_node[2], world[2];
	uint32_t selects[2]; /* first spec that selects this direction, or CS_NONE */
	uint32_t *named_ids; /* identities and prefixes that a rule names; unsorted */
	size_t nnamed_ids;
	uint32_t *named_prefixes;
	size_t nnamed_prefixes;
};

/* policy_resolve.c: ids, resolved. */
CS_MUST_USE int cs_resolve(struct cs_compiled *c, const struct cs_compile_input *in, struct cs_error *e);
const struct cs_set *cs_resolved_set(const struct cs_compiled *c, const struct cs_selector *s);
bool cs_selector_may_mean_everybody(const struct cs_selector *s); /* policy_compile.c */
/* policy_prefixes.c: prefixes. */
CS_MUST_USE int cs_number_prefixes(struct cs_compiled *c, const struct cs_compile_input *in, struct cs_error *e);
CS_MUST_USE int cs_prefixes_of_rule(const struct cs_compiled *c, const struct cs_rule *rule, struct cs_set *ret);
/* policy_groups.c: groups, group_of. */
CS_MUST_USE int cs_make_groups(struct cs_compiled *c);
/* The group of these specs, a new one if there is none; takes a member. */
CS_MUST_USE int cs_join_group(struct cs_compiled *c, const uint32_t *specs, size_t nspecs, uint32_t *ret);
/* policy_picks.c. _init once, then _fill for any number of groups. */
CS_MUST_USE int cs_picks_init(struct cs_picks *p, const struct cs_compiled *c);
void cs_picks_fini(struct cs_picks *p);
void cs_picks_fill(struct cs_picks *p, const struct cs_group *g);
/* The rule that decides of two, each of which may be CS_NONE: deny beats require beats pass, then the first one. */
uint32_t cs_stronger(const struct cs_compiled *c, uint32_t a, uint32_t b);
struct cs_decision cs_decide(const struct cs_picks *p, enum cs_policy_dir dir, uint32_t a, uint32_t b);
/* Both directions of a pair of peers that can authenticate; verdict is [enum cs_dir]. True if one was changed. */
bool cs_join(struct cs_decision verdict[2]);
/* policy_findings.c: findings. */
CS_MUST_USE int cs_find(struct cs_compiled *c, const struct cs_compile_input *in);

#endif
