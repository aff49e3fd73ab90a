/* The core's policy side: rules and identities to rows, and what of them changed. */
#include "core_private.h"

#include <errno.h>
#include <utlist.h>
#include "mem.h"

/* --- depends_on --- */

static struct dependency *dependency_of(struct cs_core *core, const char *name)
{
	for (size_t i = 0; i < core->ndepends; i++)
		if (strcmp(core->depends[i].name, name) == 0)
			return &core->depends[i];
	core->depends = cs_xrealloc(core->depends, core->ndepends + 1, sizeof(*core->depends));
	struct dependency *d = &core->depends[core->ndepends++];
	*d = (struct dependency){.name = cs_xstrdup(name)};
	return d;
}

int cs_core_depends_parse(struct cs_core *core, const char *text, struct cs_error *e)
{
	const char *equals = strchr(text, '=');
	if (!equals || equals == text || equals - text > 63 || !equals[1])
		return cs_error_set(e, -EINVAL,
			"depends_on: '%s' is not NAME=LABEL[;LABEL...] or NAME=PREFIX, with a name of at most 63 bytes",
			text);
	char name[64];
	snprintf(name, sizeof(name), "%.*s", (int)(equals - text), text);
	const char *value = equals + 1;
	struct dependency *d = dependency_of(core, name);
	if (strspn(value, "0123456789abcdefABCDEF.:/") == strlen(value) && strpbrk(value, ".:")) {
		d->prefixes = cs_xrealloc(d->prefixes, d->nprefixes + 1, sizeof(*d->prefixes));
		if (cs_prefix_parse(value, &d->prefixes[d->nprefixes], e) < 0)
			return cs_error_prefix(e, "depends_on: '%s'", text);
		d->nprefixes++;
		return 0;
	}
	struct cs_labels labels;
	if (cs_labels_parse(value, strlen(value), &labels, e) < 0)
		return cs_error_prefix(e, "depends_on: '%s'", text);
	d->selectors = cs_xrealloc(d->selectors, d->nselectors + 1, sizeof(*d->selectors));
	d->selectors[d->nselectors++] = labels;
	return 0;
}

static bool depends_on(const struct dependency *d, const struct cs_labels *labels)
{
	for (size_t i = 0; i < d->nselectors; i++)
		if (cs_labels_cover(&d->selectors[i], labels))
			return true;
	return false;
}

/* --- identities with their labels --- */

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

struct named {
	struct cs_labels *labels; /* of items[i] */
	struct cs_compile_identity *items;
	size_t n;
};

static void add_named(void *data, const struct cs_fact *fact)
{
	struct named *named = data;
	cs_core_labels_of(&fact->identity, &named->labels[named->n]);
	named->items[named->n] =
		(struct cs_compile_identity){.id = fact->identity.id, .labels = &named->labels[named->n]};
	named->n++;
}

static struct named *named_room(size_t n)
{
	struct named *named = cs_xcalloc(1, sizeof(*named));
	named->labels = cs_xcalloc(n, sizeof(*named->labels));
	named->items = cs_xcalloc(n, sizeof(*named->items));
	return named;
}

static struct named *all_named(const struct cs_core *core)
{
	const struct cs_facts *facts = cs_core_facts(core);
	struct named *named = named_room(cs_facts_count(facts, CS_FACT_IDENTITY));
	cs_facts_each(facts, CS_FACT_IDENTITY, add_named, named);
	return named;
}

static void named_free(struct named *named)
{
	for (size_t i = 0; i < named->n; i++)
		cs_labels_fini(&named->labels[i]);
	free(named->labels);
	free(named->items);
	free(named);
}

/* The identities of one dependency, sorted; heap. */
static uint32_t *depends_identities(const struct dependency *d, const struct named *named, size_t *ret_n)
{
	uint32_t *ids = cs_xcalloc(named->n, sizeof(*ids));
	size_t n = 0;
	for (size_t i = 0; i < named->n; i++)
		if (depends_on(d, named->items[i].labels))
			ids[n++] = named->items[i].id;
	qsort(ids, n, sizeof(*ids), by_number);
	*ret_n = n;
	return ids;
}

static void publish_depends(struct cs_core *core, const struct named *named)
{
	for (size_t i = 0; i < core->ndepends; i++) {
		const struct dependency *d = &core->depends[i];
		size_t n;
		uint32_t *ids = depends_identities(d, named, &n);
		cs_changes_add_take(core->changes, cs_core_depends_record(d->name, ids, n, d->prefixes, d->nprefixes));
		free(ids);
	}
}

/* --- compiling --- */

struct prefixes {
	struct cs_prefix_identity *items;
	size_t n;
};

static void add_prefix(void *data, const struct cs_fact *fact)
{
	struct prefixes *prefixes = data;
	prefixes->items[prefixes->n++] = fact->prefix;
}

static struct cs_compiled *compile(
	const struct cs_core *core, const struct cs_cnp_set *policies, const struct named *named, struct cs_error *e)
{
	size_t nids = 0, ndepends = 0;
	const struct cs_facts *facts = cs_core_facts(core);
	struct prefixes known = {.items = cs_xcalloc(cs_facts_count(facts, CS_FACT_PREFIX), sizeof(*known.items))};
	uint32_t *ids = NULL;
	struct cs_prefix *prefixes = NULL;
	cs_facts_each(facts, CS_FACT_PREFIX, add_prefix, &known);
	for (size_t i = 0; i < core->ndepends; i++) {
		const struct dependency *d = &core->depends[i];
		size_t more;
		uint32_t *these = depends_identities(d, named, &more);
		ids = cs_xrealloc(ids, nids + more, sizeof(*ids));
		memcpy(ids + nids, these, more * sizeof(*ids));
		nids += more;
		free(these);
		prefixes = cs_xrealloc(prefixes, ndepends + d->nprefixes, sizeof(*prefixes));
		if (d->nprefixes > 0)
			memcpy(prefixes + ndepends, d->prefixes, d->nprefixes * sizeof(*prefixes));
		ndepends += d->nprefixes;
	}
	struct cs_compile_input in = {.policies = policies,
		.identities = named->items,
		.nidentities = named->n,
		.prefixes = known.items,
		.nprefixes = known.n,
		.depends_identities = ids,
		.ndepends_identities = nids,
		.depends_prefixes = prefixes,
		.ndepends_prefixes = ndepends};
	struct cs_compiled *compiled = cs_policy_compile(&in, e);
	free(known.items);
	free(ids);
	free(prefixes);
	return compiled;
}

struct cs_compiled *cs_core_compile(const struct cs_core *core, const struct cs_cnp_set *policies, struct cs_error *e)
{
	struct named *named = all_named(core);
	struct cs_compiled *compiled = compile(core, policies, named, e);
	named_free(named);
	return compiled;
}

/* --- rows: what changed, by identity --- */

static int by_key(const void *a, const void *b)
{
	const cs_record *x = *(cs_record *const *)a, *y = *(cs_record *const *)b;
	/* The default first, then by remote. */
	uint32_t p = x->record_case == COUNTERSIGN__V1__RECORD__RECORD_POLICY_ROW ? x->policy_row->remote + 1 : 0;
	uint32_t q = y->record_case == COUNTERSIGN__V1__RECORD__RECORD_POLICY_ROW ? y->policy_row->remote + 1 : 0;
	return (p > q) - (p < q);
}

static void rows_free(cs_record **rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		cs_record_free(rows[i]);
	free(rows);
}

/* Both are sorted: what is only in the old one goes, what is new or different comes. */
static void rows_changed(cs_record **old, size_t nold, cs_record **fresh, size_t nfresh, struct cs_changes *changes)
{
	size_t i = 0, k = 0;
	while (i < nold || k < nfresh) {
		int order = i == nold ? 1 : k == nfresh ? -1 : by_key(&old[i], &fresh[k]);
		if (order < 0)
			cs_changes_add_take(changes, cs_record_copy(old[i], true));
		else if (order > 0 || !cs_record_equal(old[i], fresh[k]))
			cs_changes_add_take(changes, cs_record_copy(fresh[k], false));
		i += order <= 0;
		k += order >= 0;
	}
}

static bool is_selected(struct cs_core *core, uint32_t id)
{
	const struct cs_store_identity *identity = cs_facts_identity(cs_core_facts(core), id);
	struct cs_labels labels;
	bool is = false;
	if (!identity)
		return false;
	cs_core_labels_of(identity, &labels);
	for (size_t i = 0; i < core->policies->n && !is; i++)
		for (size_t k = 0; k < core->policies->items[i]->nspecs && !is; k++)
			is = cs_selector_match(&core->policies->items[i]->specs[k].subject, &labels);
	cs_labels_fini(&labels);
	return is;
}

static void refresh_local(struct cs_core *core, struct local *local)
{
	struct cs_rows rows = {0};
	cs_record **fresh = NULL;
	size_t n = 0;
	if (local->policy_set != core->policy_set)
		local->selected = is_selected(core, local->identity);
	local->policy_set = core->policy_set;
	if (cs_compiled_rows(core->compiled, &local->identity, 1, &rows, &core->compile_error) == 0) {
		fresh = cs_xcalloc(rows.nrows + rows.ndefaults, sizeof(*fresh));
		for (size_t i = 0; i < rows.ndefaults; i++)
			fresh[n++] = cs_core_default_record(&rows.defaults[i]);
		for (size_t i = 0; i < rows.nrows; i++)
			fresh[n++] = cs_core_row_record(&rows.rows[i]);
		qsort(fresh, n, sizeof(*fresh), by_key);
		cs_rows_fini(&rows);
	} /* else: none, and without a default nothing passes */
	rows_changed(local->rows, local->nrows, fresh, n, core->changes);
	rows_free(local->rows, local->nrows);
	local->rows = fresh;
	local->nrows = local->caprows = n;
}

static void refresh_rows(struct cs_core *core)
{
	while (core->compiled && core->stale_locals) {
		struct local *local = core->stale_locals;
		DL_DELETE2(core->stale_locals, local, sprev, snext);
		local->stale = false;
		refresh_local(core, local);
	}
}

void cs_core_local_stale(struct cs_core *core, struct local *local)
{
	if (!local->stale)
		DL_APPEND2(core->stale_locals, local, sprev, snext);
	local->stale = true;
}

void cs_core_local_free(struct cs_core *core, struct local *local)
{
	if (local->stale)
		DL_DELETE2(core->stale_locals, local, sprev, snext);
	rows_changed(local->rows, local->nrows, NULL, 0, core->changes);
	rows_free(local->rows, local->nrows);
	HASH_DEL(core->locals, local);
	free(local);
}

/* --- taking over a compilation --- */

static const struct cs_prefix_identity *prefix_in(
	const struct cs_prefix *prefix, const struct cs_prefix_identity *list, size_t n)
{
	for (size_t low = 0, high = n; low < high;) {
		size_t middle = (low + high) / 2;
		int order = cs_prefix_cmp(prefix, &list[middle].prefix);
		if (order == 0)
			return &list[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

static void publish_prefixes(const struct cs_compiled *old, const struct cs_compiled *fresh, struct cs_changes *changes)
{
	size_t nold = 0, nfresh;
	const struct cs_prefix_identity *before = old ? cs_compiled_prefixes(old, &nold) : NULL;
	const struct cs_prefix_identity *now = cs_compiled_prefixes(fresh, &nfresh);
	for (size_t i = 0; i < nold; i++)
		if (!prefix_in(&before[i].prefix, now, nfresh))
			cs_changes_add_take(changes, cs_core_prefix_record(&before[i], true));
	for (size_t i = 0; i < nfresh; i++)
		if (!before || !prefix_in(&now[i].prefix, before, nold))
			cs_changes_add_take(changes, cs_core_prefix_record(&now[i], false));
}

static bool has_policy(const struct cs_cnp_set *set, const char *name)
{
	for (size_t i = 0; i < set->n; i++)
		if (strcmp(set->items[i]->name, name) == 0)
			return true;
	return false;
}

static void publish_policies(const struct cs_cnp_set *old, const struct cs_cnp_set *fresh,
	const struct cs_compiled *compiled, struct cs_changes *changes)
{
	size_t n;
	const struct cs_finding *findings = cs_compiled_findings(compiled, &n);
	for (size_t i = 0; old && i < old->n; i++)
		if (!has_policy(fresh, old->items[i]->name))
			cs_changes_add_take(changes, cs_core_policy_gone_record(old->items[i]->name));
	for (size_t i = 0; i < fresh->n; i++)
		cs_changes_add_take(changes, cs_core_policy_record(fresh->items[i], findings, n));
}

static void adopt(struct cs_core *core, struct cs_cnp_set *policies, struct cs_compiled *compiled)
{
	publish_prefixes(core->compiled, compiled, core->changes);
	publish_policies(core->policies, policies, compiled, core->changes);
	cs_compiled_free(core->compiled); /* refers to the policies: goes first */
	core->compiled = compiled;
	core->compile_error = (struct cs_error){0};
	if (core->policies && core->policies != policies) {
		cs_cnp_set_fini(core->policies);
		free(core->policies);
	}
	core->policies = policies;
}

/* selected: a new peer makes rows only for those whom some policy selects. */
static void mark(struct cs_core *core, bool selected)
{
	struct local *local, *tmp;
	HASH_ITER (hh, core->locals, local, tmp)
		if (local->selected || !selected)
			cs_core_local_stale(core, local);
}

/* Everything anew, with the policies that are in the store now. An error leaves what there was: identities that it does
 * not know get no rows, and let nothing through. */
static void take_policies(struct cs_core *core, const struct named *named)
{
	struct cs_cnp_set *fresh = cs_xcalloc(1, sizeof(*fresh));
	struct cs_error e;
	int r = cs_core_policies_of(core, fresh, &e);
	struct cs_compiled *compiled = r == 0 ? compile(core, fresh, named, &e) : NULL;
	if (!compiled) {
		cs_cnp_set_fini(fresh);
		free(fresh);
		core->compile_error = e;
		return;
	}
	adopt(core, fresh, compiled);
	core->policy_set++;
	mark(core, false);
}

static void recompile(struct cs_core *core, const struct named *named)
{
	struct cs_error e;
	struct cs_compiled *compiled = compile(core, core->policies, named, &e);
	if (!compiled) {
		core->compile_error = e;
		return;
	}
	adopt(core, core->policies, compiled);
	mark(core, true);
}

/* --- identities that are new --- */

static int by_remote(const void *key, const void *row)
{
	uint32_t remote = *(const uint32_t *)key;
	const cs_record *r = *(cs_record *const *)row;
	uint32_t other = r->record_case == COUNTERSIGN__V1__RECORD__RECORD_POLICY_ROW ? r->policy_row->remote : 0;
	return (remote > other) - (remote < other);
}

/* Where a row for this remote belongs, in rows that are sorted by it. */
static size_t place_of(const struct local *local, uint32_t remote)
{
	size_t low = 0, high = local->nrows;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (by_remote(&remote, &local->rows[middle]) > 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void insert_row(struct cs_core *core, const struct cs_policy_row *row)
{
	struct local *local;
	HASH_FIND(hh, core->locals, &row->local, sizeof(row->local), local);
	if (local->nrows == local->caprows) {
		local->caprows = local->caprows * 3 / 2 + 8;
		local->rows = cs_xrealloc(local->rows, local->caprows, sizeof(*local->rows));
	}
	size_t at = place_of(local, row->remote);
	memmove(&local->rows[at + 1], &local->rows[at], (local->nrows - at) * sizeof(*local->rows));
	local->rows[at] = cs_core_row_record(row);
	local->nrows++;
	cs_changes_add_take(core->changes, cs_record_copy(local->rows[at], false));
}

/* A new peer makes rows for those whose policies name it, and no others. */
static int add_rows(struct cs_core *core, struct cs_error *e)
{
	if (!cs_compiled_added_any(core->compiled))
		return 0;
	uint32_t *ids = cs_xcalloc(HASH_COUNT(core->locals), sizeof(*ids));
	struct cs_rows rows = {0};
	size_t n = 0;
	struct local *local, *tmp;
	HASH_ITER (hh, core->locals, local, tmp)
		if (local->selected && !local->stale)
			ids[n++] = local->identity;
	int r = cs_compiled_added_rows(core->compiled, ids, n, &rows, e);
	for (size_t i = 0; r == 0 && i < rows.nrows; i++)
		insert_row(core, &rows.rows[i]);
	cs_rows_fini(&rows);
	free(ids);
	return r;
}

static bool any_depends(const struct cs_core *core, const struct named *named)
{
	for (size_t i = 0; i < core->ndepends; i++)
		for (size_t k = 0; k < named->n; k++)
			if (depends_on(&core->depends[i], named->items[k].labels))
				return true;
	return false;
}

/* True if that was all; else everything is compiled anew. */
static bool add_identities(struct cs_core *core)
{
	const struct cs_facts *facts = cs_core_facts(core);
	struct named *named = named_room(core->nfresh);
	struct cs_error e;
	for (size_t i = 0; i < core->nfresh; i++) {
		struct cs_fact fact = {.kind = CS_FACT_IDENTITY};
		const struct cs_store_identity *identity = cs_facts_identity(facts, core->fresh[i]);
		if (identity) { /* else it was new and is gone already, in one revision */
			fact.identity = *identity;
			add_named(named, &fact);
		}
	}
	bool ok = named->n == core->nfresh && !any_depends(core, named) &&
		  cs_compiled_add(core->compiled, named->items, named->n, &e) == 1 && add_rows(core, &e) == 0;
	core->findings_stale |= ok && core->policies->n > 0;
	named_free(named);
	return ok;
}

/* --- depends_on --- */

static void take_depends(struct cs_core *core)
{
	struct cs_error e;
	for (size_t i = 0; i < core->ndepends; i++)
		cs_changes_add_take(core->changes, cs_core_depends_gone_record(core->depends[i].name));
	if (cs_core_depends_of(core, &e) < 0)
		core->compile_error = e;
}

/* --- the end of a revision --- */

static void settle_anew(struct cs_core *core, bool all)
{
	struct named *named = all_named(core);
	if (all)
		take_policies(core, named);
	else
		recompile(core, named);
	publish_depends(core, named);
	named_free(named);
	core->findings_stale = false;
}

void cs_core_settle_policy(struct cs_core *core)
{
	bool all = core->policy_changed || !core->policies;
	bool anew = all || core->identity_gone || core->depends_changed || core->findings_changed;
	/* By the number of facts, not by time: replicas must come to the same. Below it findings are always new. */
	bool few = core->policies && core->policies->n > 0 && /* else there is nothing to find */
		   cs_facts_count(cs_core_facts(core), CS_FACT_IDENTITY) <= CS_COMPILE_ANEW_MAX;
	if (core->depends_changed)
		take_depends(core);
	if (!anew && core->nfresh > 0)
		anew = few || !core->compiled || core->compile_error.code || !add_identities(core);
	if (anew)
		settle_anew(core, all);
	refresh_rows(core);
}

const struct cs_error *cs_core_compile_error(const struct cs_core *core)
{
	return core->compile_error.code ? &core->compile_error : NULL;
}

void cs_core_depends_fini(struct cs_core *core)
{
	for (size_t i = 0; i < core->ndepends; i++) {
		struct dependency *d = &core->depends[i];
		free(d->name);
		free(d->prefixes);
		for (size_t k = 0; k < d->nselectors; k++)
			cs_labels_fini(&d->selectors[k]);
		free(d->selectors);
	}
	free(core->depends);
	core->depends = NULL;
	core->ndepends = 0;
}

void cs_core_policy_fini(struct cs_core *core)
{
	cs_compiled_free(core->compiled);
	if (core->policies)
		cs_cnp_set_fini(core->policies);
	free(core->policies);
	cs_core_depends_fini(core);
}
