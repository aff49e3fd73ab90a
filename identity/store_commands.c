#include "store_commands.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include "mem.h"
#include "store.h"

/* A store as the configuration has it. */
struct place {
	struct cs_store_config config;
	struct cs_numbers numbers;
	char path[CS_PATH];
	struct cs_etcd_config etcd;
	char password[CS_ETCD_PASSWORD_MAX];
	char *template;
	struct cs_store *store;
};

static void place_fini(struct place *p)
{
	cs_store_close(p->store);
	cs_numbers_fini(&p->numbers);
	explicit_bzero(p->password, sizeof(p->password));
	free(p->template);
}

static int find_file(const struct cs_daemon *d, const char *what, bool must_exist, struct place *p, struct cs_error *e)
{
	int r = 0;
	if (strcmp(what, "sqlite") == 0)
		r = cs_daemon_path(d, "state/store.db", p->path, e);
	else if (!strchr(what, '/'))
		r = cs_error_set(
			e, -EINVAL, "'%s' is no store: sqlite, etcd, or the path of a file with a '/' in it", what);
	else
		cs_text_cut(p->path, sizeof(p->path), what);
	if (r == 0 && must_exist && access(p->path, F_OK) < 0)
		r = cs_error_errno(e, -errno, "there is no store %s", p->path);
	p->config.path = p->path;
	return r;
}

static int find_etcd(const struct cs_daemon *d, struct place *p, struct cs_error *e)
{
	const struct cs_identityd_config *c = d->config;
	if (!cs_etcd_settings_used(&c->etcd))
		return cs_error_set(e, -EINVAL, "etcd.endpoints is not set: where is etcd?");
	p->config.etcd = &p->etcd;
	return cs_etcd_settings_config(&c->etcd, &p->etcd, p->password, e);
}

static int place_open(const struct cs_daemon *d, const char *what, bool must_exist, struct place *p, struct cs_error *e)
{
	const struct cs_identityd_config *c = d->config;
	*p = (struct place){0};
	umask(077); /* a copy is for whom the store is for */
	int r = cs_identityd_numbers(c, &p->numbers, e);
	if (r < 0)
		return r;
	if (c->spiffe_id_template[0])
		p->template = cs_xstrdup(c->spiffe_id_template);
	else if (asprintf(&p->template, "spiffe://%s/identity/{id}", c->trust_domain) < 0)
		cs_mem_check(NULL);
	p->config = (struct cs_store_config){.trust_domain = c->trust_domain,
		.spiffe_id_template = p->template,
		.cluster_id = p->numbers.cluster_id,
		.id_min = p->numbers.min,
		.id_max = p->numbers.max,
		.address_quarantine_ms = c->address_quarantine_ms,
		.id_quarantine_ms = c->id_quarantine_ms};
	r = strcmp(what, "etcd") == 0 ? find_etcd(d, p, e) : find_file(d, what, must_exist, p, e);
	return r < 0 ? r : cs_store_open(&p->config, &p->store, e);
}

static void on_progress(void *data, size_t done, size_t all)
{
	(void)data;
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r%zu of %zu%s", done, all, done == all ? "\n" : "");
}

static void print_counts(const struct cs_store *s)
{
	static const struct {
		enum cs_fact_kind kind;
		const char *name;
	} kinds[] = {{CS_FACT_IDENTITY, "identities"}, {CS_FACT_RETIRED, "numbers that rest"}, {CS_FACT_NODE, "nodes"},
		{CS_FACT_CLAIM, "endpoints"}, {CS_FACT_ADDRESS, "addresses in quarantine"},
		{CS_FACT_PREFIX, "prefixes"}, {CS_FACT_REVOCATION, "revocations"}, {CS_FACT_DOCUMENTS, "sets of files"},
		{CS_FACT_BLOB, "files"}};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		printf("%8zu %s\n", cs_facts_count(cs_store_facts(s), kinds[i].kind), kinds[i].name);
}

static int ended(const struct cs_daemon *d, int r, const struct cs_error *e)
{
	if (r == 0)
		return 0;
	fprintf(stderr, "%s: %s\n", d->spec->program, e->text);
	return r == -EINVAL ? CS_EXIT_USAGE : CS_EXIT_FAILURE;
}

int cs_store_command_copy(struct cs_daemon *d, const char *from, const char *to)
{
	struct place source = {0}, target = {0};
	struct cs_error e = {0};
	struct cs_store_state state;
	int r = place_open(d, from, true, &source, &e);
	if (r == 0) {
		cs_store_state(source.store, &state);
		if (state.epoch == 0)
			r = cs_error_set(&e, -ENOENT, "there is nothing in the store %s", from);
	}
	if (r == 0)
		r = place_open(d, to, false, &target, &e);
	if (r == 0)
		r = cs_store_copy(source.store, target.store, on_progress, NULL, &e);
	if (r == 0) {
		printf("copied, and compared:\n");
		print_counts(target.store);
		printf("It has an epoch of its own: every follower reads it from the beginning.\n");
	}
	place_fini(&target);
	place_fini(&source);
	return ended(d, r, &e);
}

int cs_store_command_new_epoch(struct cs_daemon *d, const char *store)
{
	struct place place = {0};
	struct cs_error e = {0};
	int r = place_open(d, store, true, &place, &e);
	if (r == 0)
		r = cs_store_lead_now(place.store, "countersign store new-epoch", &e);
	if (r == 0)
		r = cs_store_new_epoch(place.store, &e);
	if (r == 0)
		printf("The store has a new epoch: every follower reads it from the beginning.\n");
	place_fini(&place);
	return ended(d, r, &e);
}
