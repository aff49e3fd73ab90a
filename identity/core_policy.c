/* The core's policy side: files to rules, rules and identities to rows, and what of them changed. */
#include "core_private.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "mem.h"
#include "policy_files.h"

/* --- files --- */

int cs_core_read_file(const char *path, size_t max, char **ret, size_t *ret_n, struct cs_error *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot open %s", path);
	char *text = cs_xcalloc(1, max + 2);
	size_t n = 0;
	ssize_t got = 1;
	while (n <= max && (got = read(fd, text + n, max + 1 - n)) > 0)
		n += (size_t)got;
	int err = errno;
	close(fd);
	if (got < 0 || n > max) {
		free(text);
		return got < 0 ? cs_error_errno(e, -err, "cannot read %s", path)
			       : cs_error_set(e, -EFBIG, "%s is larger than %zu bytes", path, max);
	}
	*ret = text;
	*ret_n = n;
	return 0;
}

/* All files or an error: leaving one out could open what it denies. */
static int read_policies(const char *dir, struct cs_cnp_set *set, struct cs_error *e)
{
	struct cs_policy_files files;
	if (!dir[0])
		return 0;
	int r = cs_policy_files_list(dir, &files, e);
	if (r < 0)
		return cs_error_prefix(e, "policy.dir");
	for (size_t i = 0; i < files.n && r == 0; i++)
		r = cs_policy_file_load(files.paths[i], set, e);
	cs_policy_files_fini(&files);
	return r;
}

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

static int parse_dependency(struct cs_core *core, const char *text, struct cs_error *e)
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

int cs_core_depends_parse(struct cs_core *core, struct cs_error *e)
{
	int r = 0;
	for (size_t i = 0; i < core->config->depends_on.n && r == 0; i++)
		r = parse_dependency(core, core->config->depends_on.items[i], e);
	return r;
}

static bool depends_on(const struct dependency *d, const struct cs_labels *labels)
{
	for (size_t i = 0; i < d->nselectors; i++)
		if (cs_labels_cover(&d->selectors[i], labels))
			return true;
	return false;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

/* The identities of one dependency, sorted; heap. */
static uint32_t *depends_identities(const struct cs_core *core, const struct dependency *d, size_t *ret_n)
{
	uint32_t *ids = cs_xcalloc(HASH_COUNT(core->identities), sizeof(*ids));
	size_t n = 0;
	struct known_identity *identity, *tmp;
	HASH_ITER (hh, core->identities, identity, tmp)
		if (depends_on(d, &identity->labels))
			ids[n++] = identity->id;
	qsort(ids, n, sizeof(*ids), by_number);
	*ret_n = n;
	return ids;
}

static void publish_depends(struct cs_core *core, struct cs_changes *changes)
{
	for (size_t i = 0; i < core->ndepends; i++) {
		const struct dependency *d = &core->depends[i];
		size_t n;
		uint32_t *ids = depends_identities(core, d, &n);
		cs_changes_add_take(changes, cs_core_depends_record(d->name, ids, n, d->prefixes, d->nprefixes));
		free(ids);
	}
}

/* --- compiling --- */

static struct cs_compiled *compile(const struct cs_core *core, const struct cs_cnp_set *policies, struct cs_error *e)
{
	size_t n = 0, nids = 0, nprefixes = 0;
	struct cs_compile_identity *identities = cs_xcalloc(HASH_COUNT(core->identities), sizeof(*identities));
	struct known_identity *identity, *tmp;
	HASH_ITER (hh, core->identities, identity, tmp)
		identities[n++] = (struct cs_compile_identity){.id = identity->id, .labels = &identity->labels};
	uint32_t *ids = NULL;
	struct cs_prefix *prefixes = NULL;
	for (size_t i = 0; i < core->ndepends; i++) {
		const struct dependency *d = &core->depends[i];
		size_t more;
		uint32_t *these = depends_identities(core, d, &more);
		ids = cs_xrealloc(ids, nids + more, sizeof(*ids));
		memcpy(ids + nids, these, more * sizeof(*ids));
		nids += more;
		free(these);
		prefixes = cs_xrealloc(prefixes, nprefixes + d->nprefixes, sizeof(*prefixes));
		if (d->nprefixes > 0)
			memcpy(prefixes + nprefixes, d->prefixes, d->nprefixes * sizeof(*prefixes));
		nprefixes += d->nprefixes;
	}
	struct cs_compile_input in = {.policies = policies,
		.identities = identities,
		.nidentities = n,
		.prefixes = core->prefixes,
		.nprefixes = core->nprefixes,
		.depends_identities = ids,
		.ndepends_identities = nids,
		.depends_prefixes = prefixes,
		.ndepends_prefixes = nprefixes};
	struct cs_compiled *compiled = cs_policy_compile(&in, e);
	free(identities);
	free(ids);
	free(prefixes);
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
	const struct known_identity *identity = cs_core_identity(core, id);
	for (size_t i = 0; identity && i < core->policies->n; i++)
		for (size_t k = 0; k < core->policies->items[i]->nspecs; k++)
			if (cs_selector_match(&core->policies->items[i]->specs[k].subject, &identity->labels))
				return true;
	return false;
}

static void refresh_local(struct cs_core *core, struct local *local, struct cs_changes *changes)
{
	struct cs_rows rows = {0};
	cs_record **fresh = NULL;
	size_t n = 0;
	local->stale = false;
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
	rows_changed(local->rows, local->nrows, fresh, n, changes);
	rows_free(local->rows, local->nrows);
	local->rows = fresh;
	local->nrows = n;
}

void cs_core_refresh_rows(struct cs_core *core, struct cs_changes *changes)
{
	struct local *local, *tmp;
	if (!core->compiled)
		return;
	HASH_ITER (hh, core->locals, local, tmp)
		if (local->stale)
			refresh_local(core, local, changes);
}

void cs_core_local_free(struct cs_core *core, struct local *local, struct cs_changes *changes)
{
	rows_changed(local->rows, local->nrows, NULL, 0, changes);
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

static void adopt(
	struct cs_core *core, struct cs_cnp_set *policies, struct cs_compiled *compiled, struct cs_changes *changes)
{
	publish_prefixes(core->compiled, compiled, changes);
	publish_policies(core->policies, policies, compiled, changes);
	publish_depends(core, changes);
	cs_compiled_free(core->compiled); /* refers to the policies: goes first */
	core->compiled = compiled;
	core->compile_error = (struct cs_error){0};
	if (core->policies && core->policies != policies) {
		cs_cnp_set_fini(core->policies);
		free(core->policies);
	}
	core->policies = policies;
}

static void mark_all(struct cs_core *core)
{
	struct local *local, *tmp;
	HASH_ITER (hh, core->locals, local, tmp)
		local->stale = true;
}

/* A new peer makes rows only for those whom some policy selects. */
static void mark_selected(struct cs_core *core)
{
	struct local *local, *tmp;
	HASH_ITER (hh, core->locals, local, tmp)
		local->stale |= local->selected;
}

void cs_core_recompile(struct cs_core *core, struct cs_changes *changes)
{
	struct cs_error e;
	if (!core->policies)
		return; /* at the start: the load compiles */
	struct cs_compiled *compiled = compile(core, core->policies, &e);
	if (compiled) {
		adopt(core, core->policies, compiled, changes);
		mark_selected(core);
	} else /* the earlier one stays; identities that it does not know get no rows, and let nothing through */
		core->compile_error = e;
}

/* Numbers that are new are stored before anybody hears of them; a new revision in any case. */
static int store_prefixes(
	struct cs_core *core, const struct cs_compiled *compiled, uint64_t *ret_revision, struct cs_error *e)
{
	size_t n, nops = 0;
	const struct cs_prefix_identity *now = cs_compiled_prefixes(compiled, &n);
	struct cs_store_op *ops = cs_xcalloc(n + 1, sizeof(*ops)), **refs = cs_xcalloc(n + 1, sizeof(*refs));
	for (size_t i = 0; i < n; i++)
		ops[nops++] = (struct cs_store_op){.kind = CS_STORE_PREFIX, .prefix = now[i]};
	ops[nops++] = (struct cs_store_op){.kind = CS_STORE_REVISION};
	for (size_t i = 0; i < nops; i++)
		refs[i] = &ops[i];
	int r = cs_store_commit(core->store, refs, nops, NULL, ret_revision, e);
	for (size_t i = 0; i < n && r == 0; i++) {
		if (!ops[i].changed)
			continue;
		core->prefixes = cs_xrealloc(core->prefixes, core->nprefixes + 1, sizeof(*core->prefixes));
		core->prefixes[core->nprefixes++] = now[i];
	}
	free(refs);
	free(ops);
	return r;
}

static bool same_policies(const struct cs_cnp_set *a, const struct cs_cnp_set *b)
{
	if (!a || a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (strcmp(a->items[i]->name, b->items[i]->name) != 0 ||
			strcmp(a->items[i]->file, b->items[i]->file) != 0 ||
			memcmp(a->items[i]->sha256, b->items[i]->sha256, sizeof(a->items[i]->sha256)) != 0)
			return false;
	return true;
}

int cs_core_reload_policy(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct cs_cnp_set *fresh = cs_xcalloc(1, sizeof(*fresh));
	struct cs_compiled *compiled = NULL;
	uint64_t revision;
	int r = read_policies(core->config->policy_dir, fresh, e);
	bool same = r == 0 && same_policies(core->policies, fresh) && !core->compile_error.code;
	if (r == 0 && !same) {
		compiled = compile(core, fresh, e);
		r = compiled ? store_prefixes(core, compiled, &revision, e) : -EINVAL;
	}
	if (r < 0 || same) {
		cs_compiled_free(compiled);
		cs_cnp_set_fini(fresh);
		free(fresh);
		return r;
	}
	adopt(core, fresh, compiled, changes);
	core->policy_set++;
	mark_all(core);
	cs_core_refresh_rows(core, changes);
	changes->revision = revision;
	return 0;
}

const struct cs_error *cs_core_compile_error(const struct cs_core *core)
{
	return core->compile_error.code ? &core->compile_error : NULL;
}

size_t cs_core_policies(const struct cs_core *core)
{
	return core->policies ? core->policies->n : 0;
}

void cs_core_policy_fini(struct cs_core *core)
{
	cs_compiled_free(core->compiled);
	if (core->policies)
		cs_cnp_set_fini(core->policies);
	free(core->policies);
	for (size_t i = 0; i < core->ndepends; i++) {
		struct dependency *d = &core->depends[i];
		free(d->name);
		free(d->prefixes);
		for (size_t k = 0; k < d->nselectors; k++)
			cs_labels_fini(&d->selectors[k]);
		free(d->selectors);
	}
	free(core->depends);
}
