/* Policies, placements and depends_on: from this replica's files and settings into the store, by the one that leads, so
 * that all replicas derive the same from them. */
#include "core_private.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <unistd.h>
#include "mem.h"
#include "policy_files.h"
#include "policy_yaml.h"

static int read_file(const char *path, size_t max, char **ret, size_t *ret_n, struct cs_error *e)
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
	*ret = cs_xrealloc(text, n + 1, 1);
	*ret_n = n;
	return 0;
}

/* --- a set of files --- */

struct files {
	struct cs_store_file *items;
	char **owned; /* names and bytes */
	size_t n, nowned;
};

static void files_fini(struct files *f)
{
	for (size_t i = 0; i < f->nowned; i++)
		free(f->owned[i]);
	free(f->owned);
	free(f->items);
}

static void files_add_take(struct files *f, const char *name, char *bytes, size_t n)
{
	f->items = cs_xrealloc(f->items, f->n + 1, sizeof(*f->items));
	f->owned = cs_xrealloc(f->owned, f->nowned + 2, sizeof(char *));
	f->owned[f->nowned++] = cs_xstrdup(name);
	f->owned[f->nowned++] = bytes;
	f->items[f->n++] = (struct cs_store_file){.name = f->owned[f->nowned - 2], .bytes = bytes, .n = n};
}

static bool is_in_store(const struct cs_core *core, const char *set, const struct files *f)
{
	const struct cs_store_documents *known = cs_facts_documents(cs_core_facts(core), set);
	if (!known || known->n != f->n)
		return false;
	for (size_t i = 0; i < f->n; i++) {
		uint8_t sum[CS_SHA256_BYTES];
		SHA256(f->items[i].bytes, f->items[i].n, sum);
		if (strcmp(known->items[i].name, f->items[i].name) != 0 ||
			memcmp(known->items[i].sha256, sum, sizeof(sum)) != 0)
			return false;
	}
	return true;
}

static void documents_op(struct cs_store_op *op, const char *set, const struct files *f)
{
	*op = (struct cs_store_op){.kind = CS_STORE_DOCUMENTS};
	op->documents.set = set;
	op->documents.files = f->items;
	op->documents.n = f->n;
}

/* One commit; whatever op was refused is the error. */
static int commit(
	struct cs_core *core, struct cs_store_op *ops, size_t n, struct cs_changes *changes, struct cs_error *e)
{
	struct cs_store_op **refs = cs_xcalloc(n, sizeof(*refs));
	struct cs_fact_sink sink = cs_core_sink;
	uint64_t revision;
	for (size_t i = 0; i < n; i++)
		refs[i] = &ops[i];
	core->changes = changes;
	sink.data = core;
	int r = cs_store_commit(core->store, refs, n, &sink, &revision, e);
	for (size_t i = 0; i < n; i++) {
		if (r == 0 && ops[i].result < 0) {
			r = ops[i].result;
			*e = ops[i].error;
		}
		cs_store_op_fini(&ops[i]);
	}
	free(refs);
	return r;
}

/* --- policies --- */

/* This replica's configuration knows nothing of what others put there: that does not go because of it. */
static bool stays_in_force(const struct cs_core *core, const char *set)
{
	const struct cs_store_documents *known = cs_facts_documents(cs_core_facts(core), set);
	return core->config->etcd && known && known->n > 0;
}

/* All files or an error: leaving one out could open what it denies. */
static int read_policies(const struct cs_core *core, struct files *f, struct cs_error *e)
{
	struct cs_policy_files list;
	if (!core->config->policy_dir[0])
		return 0;
	int r = cs_policy_files_list(core->config->policy_dir, &list, e);
	for (size_t i = 0; r == 0 && i < list.n; i++) {
		const char *slash = strrchr(list.paths[i], '/');
		char *bytes;
		size_t n;
		r = read_file(list.paths[i], CS_STORE_FILE_MAX, &bytes, &n, e);
		if (r == 0)
			files_add_take(f, slash ? slash + 1 : list.paths[i], bytes, n);
	}
	if (r == 0)
		cs_policy_files_fini(&list);
	else
		cs_error_prefix(e, "policy.dir");
	return r;
}

static int parse_policies(const struct cs_core *core, const struct files *f, struct cs_cnp_set *set, struct cs_error *e)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < f->n; i++) {
		char path[4096];
		snprintf(path, sizeof(path), "%s/%s", core->config->policy_dir, f->items[i].name);
		r = cs_policy_yaml_parse(path, f->items[i].bytes, f->items[i].n, set, e);
	}
	return r;
}

/* Numbers that are new are stored before the policies that name them. */
static int write_policies(struct cs_core *core, const struct files *f, const struct cs_compiled *compiled,
	struct cs_changes *changes, struct cs_error *e)
{
	size_t n;
	const struct cs_prefix_identity *prefixes = cs_compiled_prefixes(compiled, &n);
	struct cs_store_op *ops = cs_xcalloc(n + 1, sizeof(*ops));
	for (size_t i = 0; i < n; i++)
		ops[i] = (struct cs_store_op){.kind = CS_STORE_PREFIX, .prefix = prefixes[i]};
	documents_op(&ops[n], CS_SET_POLICY, f);
	int r = commit(core, ops, n + 1, changes, e);
	free(ops);
	return r;
}

/* Parsed and compiled, or refused; changes NULL: that is all. */
static int take_policies(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct files f = {0};
	struct cs_cnp_set set = {0};
	struct cs_compiled *compiled = NULL;
	int r = read_policies(core, &f, e);
	if (r == 0 && changes && !core->config->policy_dir[0] && stays_in_force(core, CS_SET_POLICY))
		return cs_error_set(e, -EINVAL,
			"policy.dir is not set here, but another replica's is: its policies stay in force; give all "
			"replicas the same configuration");
	bool same = r == 0 && is_in_store(core, CS_SET_POLICY, &f) && !core->compile_error.code;
	if (r == 0 && (!same || !changes))
		r = parse_policies(core, &f, &set, e);
	if (r == 0 && (!same || !changes)) {
		compiled = cs_core_compile(core, &set, e);
		r = compiled ? 0 : -EINVAL;
	}
	if (r == 0 && !same && changes)
		r = write_policies(core, &f, compiled, changes, e);
	cs_compiled_free(compiled);
	cs_cnp_set_fini(&set);
	files_fini(&f);
	return r;
}

int cs_core_reload_policy(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	return take_policies(core, changes, e);
}

int cs_core_policies_of(const struct cs_core *core, struct cs_cnp_set *set, struct cs_error *e)
{
	const struct cs_facts *facts = cs_core_facts(core);
	const struct cs_store_documents *documents = cs_facts_documents(facts, CS_SET_POLICY);
	int r = 0;
	for (size_t i = 0; documents && r == 0 && i < documents->n; i++) {
		const struct cs_store_blob *blob = cs_facts_blob(facts, documents->items[i].sha256);
		r = blob ? cs_policy_yaml_parse(documents->items[i].name, blob->bytes, blob->n, set, e)
			 : cs_error_set(e, -EPROTO, "the store has lost the policy file %s", documents->items[i].name);
	}
	return r;
}

/* --- depends_on --- */

static int read_depends(const struct cs_core *core, struct files *f, struct cs_error *e)
{
	const struct cs_strings *lines = &core->config->depends_on;
	size_t n = 0;
	for (size_t i = 0; i < lines->n; i++) {
		if (strchr(lines->items[i], '\n'))
			return cs_error_set(e, -EINVAL, "depends_on: an entry is one line");
		n += strlen(lines->items[i]) + 1;
	}
	if (n == 0)
		return 0;
	char *text = cs_xcalloc(1, n + 1), *end = text;
	for (size_t i = 0; i < lines->n; i++)
		end += sprintf(end, "%s\n", lines->items[i]);
	files_add_take(f, CS_SET_DEPENDS, text, n);
	return 0;
}

static int parse_depends(struct cs_core *core, const char *bytes, size_t n, struct cs_error *e)
{
	int r = 0;
	for (size_t at = 0; r == 0 && at < n;) {
		const char *newline = memchr(bytes + at, '\n', n - at);
		size_t len = newline ? (size_t)(newline - bytes) - at : n - at;
		char *line = cs_xcalloc(1, len + 1);
		memcpy(line, bytes + at, len);
		r = cs_core_depends_parse(core, line, e);
		free(line);
		at += len + 1;
	}
	return r;
}

int cs_core_depends_of(struct cs_core *core, struct cs_error *e)
{
	const struct cs_store_documents *set = cs_facts_documents(cs_core_facts(core), CS_SET_DEPENDS);
	const struct cs_store_blob *blob =
		set && set->n > 0 ? cs_facts_blob(cs_core_facts(core), set->items[0].sha256) : NULL;
	cs_core_depends_fini(core);
	return blob ? parse_depends(core, (const char *)blob->bytes, blob->n, e) : 0;
}

int cs_core_write_depends(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct files f = {0};
	struct cs_store_op op;
	int r = read_depends(core, &f, e);
	if (r == 0 && !is_in_store(core, CS_SET_DEPENDS, &f)) {
		documents_op(&op, CS_SET_DEPENDS, &f);
		r = commit(core, &op, 1, changes, e);
	}
	files_fini(&f);
	return r;
}

/* --- the settings that all replicas must have alike --- */

#define SHOWN_MAX 300 /* of a setting, in an error */

int cs_core_write_shared(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct files f = {0};
	struct cs_store_op op;
	int r = 0;
	if (!core->config->shared)
		return 0;
	files_add_take(&f, CS_SET_SETTINGS, cs_xstrdup(core->config->shared), strlen(core->config->shared));
	if (!is_in_store(core, CS_SET_SETTINGS, &f)) {
		documents_op(&op, CS_SET_SETTINGS, &f);
		r = commit(core, &op, 1, changes, e);
	}
	files_fini(&f);
	return r;
}

int cs_core_check_shared(const struct cs_core *core, struct cs_error *e)
{
	const struct cs_store_documents *set = cs_facts_documents(cs_core_facts(core), CS_SET_SETTINGS);
	const struct cs_store_blob *blob =
		set && set->n > 0 ? cs_facts_blob(cs_core_facts(core), set->items[0].sha256) : NULL;
	const char *mine = core->config->shared;
	if (!mine || !blob)
		return 0; /* nobody has led since there are such */
	const char *theirs = (const char *)blob->bytes;
	size_t n = strlen(mine), at = 0, start = 0;
	for (; at < n && at < blob->n && mine[at] == theirs[at]; at++)
		if (mine[at] == '\n')
			start = at + 1;
	if (at == n && at == blob->n)
		return 0;
	const char *line = mine + start, *other = theirs + start, *newline = memchr(other, '\n', blob->n - start);
	size_t line_n = strcspn(line, "\n"), other_n = newline ? (size_t)(newline - other) : blob->n - start;
	return cs_error_set(e, -EINVAL,
		"this replica has %.*s, the one that leads (or led last) has %.*s; give all replicas the same "
		"configuration, for the leader's decides",
		(int)(line_n > SHOWN_MAX ? SHOWN_MAX : line_n), line, (int)(other_n > SHOWN_MAX ? SHOWN_MAX : other_n),
		other);
}

/* --- findings --- */

/* What policies have to say about themselves depends on all identities, and takes long: it is looked for when the leader
 * says so, which makes it the same everywhere. */
int cs_core_refresh_findings(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct files f = {0};
	struct cs_store_op op;
	struct cs_store_state state;
	char *text = NULL;
	if (!core->findings_stale)
		return 0;
	cs_store_state(core->store, &state);
	int n = asprintf(&text, "%llu", (unsigned long long)state.revision);
	if (n < 0)
		cs_mem_check(NULL);
	files_add_take(&f, CS_SET_FINDINGS, text, (size_t)n);
	documents_op(&op, CS_SET_FINDINGS, &f);
	int r = commit(core, &op, 1, changes, e);
	files_fini(&f);
	return r;
}

/* --- placements --- */

static int read_placement(const struct cs_core *core, struct files *f, struct cs_authority **ret, struct cs_error *e)
{
	char *bytes;
	size_t n;
	if (core->config->authority == CS_AUTHORITY_SELF) {
		*ret = cs_authority_self();
		return 0;
	}
	int r = read_file(core->config->placement_file, CS_STORE_FILE_MAX, &bytes, &n, e);
	if (r < 0)
		return r;
	files_add_take(f, CS_SET_PLACEMENT, bytes, n);
	struct cs_authority *fresh;
	r = cs_authority_parse(core->config->placement_file, bytes, n, &fresh, e);
	if (r == 0 && (r = cs_authority_check(fresh, core->config->label_filter, e)) < 0) {
		cs_authority_free(fresh);
		return cs_error_prefix(e, "%s", core->config->placement_file);
	}
	if (r == 0)
		*ret = fresh;
	return r;
}

int cs_core_load_authority(const struct cs_core *core, struct cs_authority **ret, struct cs_error *e)
{
	struct files f = {0};
	int r = read_placement(core, &f, ret, e);
	files_fini(&f);
	return r;
}

static int take_stored_placement(struct cs_core *core, struct cs_error *e)
{
	const struct cs_store_documents *set = cs_facts_documents(cs_core_facts(core), CS_SET_PLACEMENT);
	const struct cs_store_blob *blob = cs_facts_blob(cs_core_facts(core), set->items[0].sha256);
	struct cs_authority *stored = NULL;
	int r = blob ? cs_authority_parse("the placement in the store", blob->bytes, blob->n, &stored, e)
		     : cs_error_set(e, -EPROTO, "the store has lost the placement file");
	if (r < 0)
		return r;
	cs_authority_free(core->authority);
	core->authority = stored;
	return cs_error_set(e, -EINVAL,
		"placement.authority is self here, but another replica's is static: its placements stay in force; give "
		"all replicas the same configuration");
}

int cs_core_reload_placement(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct files f = {0};
	struct cs_authority *fresh = NULL, *old = core->authority;
	struct cs_store_op op;
	int r = read_placement(core, &f, &fresh, e);
	if (r == 0 && f.n == 0 && stays_in_force(core, CS_SET_PLACEMENT)) {
		cs_authority_free(fresh);
		return take_stored_placement(core, e);
	}
	if (r == 0 && is_in_store(core, CS_SET_PLACEMENT, &f)) {
		core->authority = fresh;
		fresh = old;
	} else if (r == 0) {
		documents_op(&op, CS_SET_PLACEMENT, &f);
		core->authority = fresh;
		fresh = old;
		r = cs_core_withdraw(core, &op, changes, e);
		if (r < 0) { /* as it was, and tried again */
			fresh = core->authority;
			core->authority = old;
		}
	}
	cs_authority_free(fresh);
	files_fini(&f);
	return r;
}

/* --- the configuration is not wrong --- */

int cs_core_check_depends(struct cs_core *core, struct cs_error *e)
{
	struct files f = {0};
	int r = read_depends(core, &f, e);
	if (r == 0 && f.n > 0)
		r = parse_depends(core, f.items[0].bytes, f.items[0].n, e);
	cs_core_depends_fini(core); /* what is in force is in the store */
	files_fini(&f);
	return r;
}

int cs_core_check_policy(struct cs_core *core, struct cs_error *e)
{
	return take_policies(core, NULL, e);
}
