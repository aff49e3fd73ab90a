#include "core_private.h"

#include <errno.h>
#include <countersign/maps.h>
#include "mem.h"

const char *const cs_node_paths[] = {"unknown", "trusted", "wireguard", "ipsec", "vxlan", NULL};

int64_t cs_core_now_unix_ms(const struct cs_core *core)
{
	const struct cs_clock *clock = core->config->clock ? core->config->clock : &cs_clock_system;
	return clock->unix_ms(clock->data);
}

/* --- changes --- */

void cs_changes_add_take(struct cs_changes *changes, cs_record *record)
{
	if (changes->n == changes->cap) {
		changes->cap = changes->cap ? changes->cap * 2 : 16;
		changes->records = cs_xrealloc(changes->records, changes->cap, sizeof(cs_record *));
	}
	changes->records[changes->n++] = record;
}

void cs_changes_fini(struct cs_changes *changes)
{
	for (size_t i = 0; i < changes->n; i++)
		cs_record_free(changes->records[i]);
	free(changes->records);
	*changes = (struct cs_changes){0};
}

int cs_changes_apply_take(struct cs_changes *changes, struct cs_directory *dir, struct cs_error *e)
{
	int r = 0;
	for (size_t i = 0; i < changes->n; i++) {
		cs_record *record = changes->records[i];
		if (record->deleted) {
			cs_dir_del(dir, record);
			cs_record_free(record);
		} else {
			int put = cs_dir_put_take(dir, record, e);
			r = put < 0 ? put : r;
		}
	}
	/* The store counted, so the directory does, even if what it counted is not for the directory. */
	if (changes->revision > cs_dir_revision(dir))
		cs_dir_publish(dir, changes->revision, true);
	free(changes->records);
	*changes = (struct cs_changes){0};
	return r;
}

/* --- asks --- */

struct cs_ask *cs_ask_new(enum cs_ask_kind kind, const char *node, size_t nclaims)
{
	struct cs_ask *ask = cs_xcalloc(1, sizeof(*ask));
	ask->kind = kind;
	ask->node = cs_xstrdup(node);
	ask->claims = cs_xcalloc(nclaims, sizeof(*ask->claims));
	ask->nclaims = nclaims;
	return ask;
}

void cs_claim_fini(struct cs_claim *claim)
{
	free(claim->id);
	cs_labels_fini(&claim->labels);
}

void cs_ask_free(struct cs_ask *ask)
{
	if (!ask)
		return;
	for (size_t i = 0; i < ask->nclaims; i++)
		cs_claim_fini(&ask->claims[i]);
	free(ask->claims);
	if (ask->revocation)
		countersign__v1__revocation__free_unpacked(ask->revocation, NULL);
	free(ask->body);
	free(ask->node);
	free(ask->path);
	free(ask);
}

/* --- one transaction --- */

/* A store operation and whom it answers. */
struct work {
	struct cs_store_op op;
	struct cs_ask *ask;     /* NULL: our own */
	struct cs_claim *claim; /* CLAIM */
	char *labels;
	char *next; /* name of a claim that only places an identity */
	char **keep;
};
struct works {
	struct work **items;
	size_t n, cap;
};

static struct work *add_work(struct works *works, enum cs_store_kind kind, struct cs_ask *ask)
{
	if (works->n == works->cap) {
		works->cap = works->cap ? works->cap * 2 : 16;
		works->items = cs_xrealloc(works->items, works->cap, sizeof(struct work *));
	}
	struct work *work = cs_xcalloc(1, sizeof(*work));
	work->op.kind = kind;
	work->ask = ask;
	works->items[works->n++] = work;
	return work;
}

static void works_fini(struct works *works)
{
	for (size_t i = 0; i < works->n; i++) {
		cs_store_op_fini(&works->items[i]->op);
		free(works->items[i]->labels);
		free(works->items[i]->next);
		free(works->items[i]->keep);
		free(works->items[i]);
	}
	free(works->items);
}

static void add_release(struct works *works, struct cs_ask *ask, const char *node, const char *endpoint)
{
	struct work *work = add_work(works, CS_STORE_RELEASE, ask);
	work->op.claim.node = node;
	work->op.claim.endpoint = endpoint;
}

static char *next_name(const char *endpoint)
{
	char *name = NULL;
	return asprintf(&name, "%s" NEXT_SUFFIX, endpoint) < 0 ? cs_mem_check(NULL) : name;
}

/* The endpoint has moved, or will not: its next identity is no longer placed for its sake. */
static void add_release_next(
	struct cs_core *core, struct works *works, struct cs_ask *ask, const char *node, const char *endpoint)
{
	char *next = next_name(endpoint);
	if (cs_core_claim(core, node, next)) {
		add_release(works, ask, node, next);
		works->items[works->n - 1]->next = next;
	} else {
		free(next);
	}
}

/* The authority first: a refused claim is not stored, makes no identity and holds no address. */
static void add_claim(struct cs_core *core, struct works *works, struct cs_ask *ask, struct cs_claim *claim)
{
	struct cs_labels labels = {0};
	struct known_identity *known;
	char *text = NULL;
	uint32_t fixed = 0;
	claim->result = cs_identity_labels(
		core->config->label_filter, core->config->numbers, &claim->labels, &labels, &fixed, &claim->error);
	if (claim->result == 0) {
		text = cs_mem_check(cs_labels_format(&labels));
		HASH_FIND(hh_text, core->by_text, text, strlen(text), known);
		claim->identity = known ? known->id : 0;
		claim->result = cs_authority_places(core->authority, &labels, ask->node, &claim->error);
	}
	cs_labels_fini(&labels);
	if (claim->result < 0) {
		free(text);
		if (cs_core_claim(core, ask->node, claim->id))
			add_release(works, ask, ask->node, claim->id);
		add_release_next(core, works, ask, ask->node, claim->id);
		return;
	}
	struct work *work = add_work(works, CS_STORE_CLAIM, ask);
	work->claim = claim;
	work->labels = text;
	work->op.labels = text;
	work->op.fixed = fixed;
	work->op.claim.node = ask->node;
	if (claim->prepare) {
		work->op.claim.endpoint = work->next = next_name(claim->id);
		return;
	}
	work->op.claim.endpoint = claim->id;
	memcpy(work->op.claim.addrs, claim->addrs, sizeof(claim->addrs));
	work->op.claim.naddrs = claim->naddrs;
	add_release_next(core, works, ask, ask->node, claim->id); /* after it: the placement lasts */
}

static void add_hello(struct cs_core *core, struct works *works, struct cs_ask *ask)
{
	ask->result = cs_authority_addresses(core->authority, ask->node, ask->addrs, ask->naddrs, &ask->error);
	if (ask->result < 0)
		return;
	struct work *work = add_work(works, CS_STORE_NODE, ask);
	work->op.node.name = ask->node;
	memcpy(work->op.node.addrs, ask->addrs, sizeof(ask->addrs));
	work->op.node.naddrs = ask->naddrs;
	work->op.node.port = ask->port;
	work->op.node.path = ask->path;
}

static bool same_addresses(struct cs_core *core, const char *node, const struct cs_claim *claim)
{
	const struct known_claim *known = cs_core_claim(core, node, claim->id);
	if (!known || known->naddrs != claim->naddrs)
		return false;
	for (size_t i = 0; i < claim->naddrs; i++)
		if (!cs_ip_equal(&known->addrs[i], &claim->addrs[i]))
			return false;
	return true;
}

/* What the node no longer has goes first, and makes room for what it has now. */
static void add_reconcile(struct cs_core *core, struct works *works, struct cs_ask *ask)
{
	struct work *keep = add_work(works, CS_STORE_KEEP, ask);
	keep->op.claim.node = ask->node;
	keep->keep = cs_xcalloc(2 * ask->nclaims, sizeof(char *));
	for (size_t i = 0; i < ask->nclaims; i++) {
		struct cs_claim *claim = &ask->claims[i];
		/* One whose addresses change lets the old ones go now: two endpoints may have swapped theirs. */
		if (claim->prepare || same_addresses(core, ask->node, claim))
			keep->keep[keep->op.nkeep++] = claim->id;
		add_claim(core, works, ask, claim);
		struct work *added = works->items[works->n - 1];
		if (claim->prepare && added->claim == claim)
			keep->keep[keep->op.nkeep++] = added->next;
	}
	keep->op.keep = (const char *const *)keep->keep;
}

static void add_revoke(struct cs_core *core, struct works *works, struct cs_ask *ask)
{
	ask->result = cs_core_revocation_fill(core, ask);
	if (ask->result < 0)
		return;
	struct work *work = add_work(works, CS_STORE_REVOKE, ask);
	work->op.revocation =
		(struct cs_store_revocation){.id = ask->revocation->id, .body = ask->body, .n = ask->nbody};
}

static void add_unrevoke(struct works *works, struct cs_ask *ask, const char *id)
{
	struct work *work = add_work(works, CS_STORE_UNREVOKE, ask);
	work->op.revocation.id = id;
}

static void add_ask(struct cs_core *core, struct works *works, struct cs_ask *ask)
{
	switch (ask->kind) {
	case CS_ASK_HELLO:
		add_hello(core, works, ask);
		break;
	case CS_ASK_CLAIM:
		add_claim(core, works, ask, &ask->claims[0]);
		break;
	case CS_ASK_RELEASE:
		add_release(works, ask, ask->node, ask->claims[0].id);
		add_release_next(core, works, ask, ask->node, ask->claims[0].id);
		break;
	case CS_ASK_RECONCILE:
		add_reconcile(core, works, ask);
		break;
	case CS_ASK_REVOKE:
		add_revoke(core, works, ask);
		break;
	case CS_ASK_UNREVOKE:
		add_unrevoke(works, ask, ask->revocation->id);
		break;
	}
}

static void answer_claim(struct cs_core *core, struct work *work, struct cs_changes *changes, bool *new_identities)
{
	struct cs_store_op *op = &work->op;
	struct cs_claim *claim = work->claim;
	claim->result = op->result;
	if (op->result < 0) {
		claim->error = op->error;
		claim->retry_after_ms = op->retry_after_ms;
		return;
	}
	claim->identity = op->identity;
	if (op->created) {
		struct cs_store_identity identity = {.id = op->identity,
			.labels = op->labels,
			.spiffe_id = op->spiffe_id,
			.incarnation = op->incarnation,
			.created_unix_ms = op->created_unix_ms};
		struct known_identity *known = cs_core_learn_identity(core, &identity);
		cs_changes_add_take(changes, cs_core_identity_record(known));
		*new_identities = true;
	}
	op->claim.identity = op->identity;
	if (op->changed)
		cs_core_learn_claim(core, &op->claim, changes);
}

static void answer_ask(struct work *work)
{
	if (!work->ask)
		return;
	work->ask->result = work->op.result;
	if (work->op.result < 0)
		work->ask->error = work->op.error;
}

static void answer(struct cs_core *core, struct work *work, struct cs_changes *changes, bool *new_identities)
{
	struct cs_store_op *op = &work->op;
	switch (op->kind) {
	case CS_STORE_CLAIM:
		answer_claim(core, work, changes, new_identities);
		break;
	case CS_STORE_REVOKE:
	case CS_STORE_UNREVOKE:
		answer_ask(work);
		if (op->changed)
			cs_changes_add_take(
				changes, cs_core_revocation_record(&op->revocation, op->kind == CS_STORE_UNREVOKE));
		break;
	case CS_STORE_NODE:
		answer_ask(work);
		if (op->changed)
			cs_core_learn_node(core, &op->node, changes);
		break;
	default:
		for (size_t i = 0; i < op->nreleased; i++)
			cs_core_forget_claim(core, op->claim.node, op->released[i], changes);
		break;
	}
}

static int commit(
	struct cs_core *core, struct works *works, struct cs_changes *changes, uint64_t *revision, struct cs_error *e)
{
	struct cs_store_op **ops = cs_xcalloc(works->n, sizeof(*ops));
	for (size_t i = 0; i < works->n; i++)
		ops[i] = &works->items[i]->op;
	int r = cs_store_commit(core->store, ops, works->n, NULL, revision, e);
	free(ops);
	bool new_identities = false, changed = false;
	for (size_t i = 0; i < works->n && r == 0; i++) {
		answer(core, works->items[i], changes, &new_identities);
		changed |= works->items[i]->op.changed;
	}
	if (changed)
		changes->revision = *revision;
	if (new_identities)
		cs_core_recompile(core, changes);
	cs_core_refresh_rows(core, changes);
	return r;
}

int cs_core_ask(
	struct cs_core *core, struct cs_ask *const *asks, size_t n, struct cs_changes *changes, struct cs_error *e)
{
	struct works works = {0};
	uint64_t revision = 0;
	for (size_t i = 0; i < n; i++)
		add_ask(core, &works, asks[i]);
	int r = commit(core, &works, changes, &revision, e);
	works_fini(&works);
	for (size_t i = 0; i < n; i++) {
		asks[i]->revision = revision;
		if (r < 0) {
			asks[i]->result = r;
			asks[i]->error = *e;
		}
	}
	return r;
}

int cs_core_expire(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct works works = {0};
	uint64_t revision;
	size_t n;
	char **ids = cs_core_revocations_over(core, &n);
	for (size_t i = 0; i < n; i++)
		add_unrevoke(&works, NULL, ids[i]);
	int r = n > 0 ? commit(core, &works, changes, &revision, e) : 0;
	works_fini(&works);
	for (size_t i = 0; i < n; i++)
		free(ids[i]);
	free(ids);
	return r;
}

void cs_core_usage(const struct cs_core *core, struct cs_store_usage *ret)
{
	cs_store_usage(core->store, ret);
}

/* --- placement --- */

static int load_authority(const struct cs_core *core, struct cs_authority **ret, struct cs_error *e)
{
	if (core->config->authority == CS_AUTHORITY_SELF) {
		*ret = cs_authority_self();
		return 0;
	}
	char *text;
	size_t n;
	int r = cs_core_read_file(core->config->placement_file, 1 << 20, &text, &n, e);
	if (r < 0)
		return r;
	r = cs_authority_parse(core->config->placement_file, text, n, ret, e);
	free(text);
	return r;
}

/* Claims that the authority no longer agrees to, and addresses of nodes that it no longer lists, are taken back. */
static void add_withdrawals(struct cs_core *core, struct works *works)
{
	struct known_claim *claim, *tmp;
	struct cs_error e;
	HASH_ITER (hh, core->claims, claim, tmp) {
		struct known_identity *identity = cs_core_identity(core, claim->identity);
		if (identity && cs_authority_places(core->authority, &identity->labels, claim->node, &e) < 0)
			add_release(works, NULL, claim->node, claim->endpoint);
	}
	struct known_node *node, *next;
	HASH_ITER (hh, core->nodes, node, next) {
		if (cs_authority_addresses(core->authority, node->name, node->addrs, node->naddrs, &e) == 0)
			continue;
		struct work *work = add_work(works, CS_STORE_NODE, NULL);
		work->op.node.name = node->name;
		work->op.node.port = node->port;
		work->op.node.path = node->path;
	}
}

int cs_core_reload_placement(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct cs_authority *fresh, *old = core->authority;
	int r = load_authority(core, &fresh, e);
	if (r < 0)
		return r;
	struct works works = {0};
	uint64_t revision;
	core->authority = fresh;
	add_withdrawals(core, &works);
	r = works.n > 0 ? commit(core, &works, changes, &revision, e) : 0;
	works_fini(&works);
	if (r < 0)
		core->authority = old;
	cs_authority_free(r < 0 ? fresh : old);
	return r;
}

/* --- opening --- */

struct opening {
	struct cs_core *core;
	struct cs_changes *changes;
	uint64_t epoch;
};

static void load_fact(void *data, const struct cs_fact *before, const struct cs_fact *now)
{
	struct opening *o = data;
	struct cs_core *core = o->core;
	(void)before; /* at the opening everything is new */
	switch (now->kind) {
	case CS_FACT_IDENTITY:
		cs_changes_add_take(o->changes, cs_core_identity_record(cs_core_learn_identity(core, &now->identity)));
		break;
	case CS_FACT_NODE:
		cs_core_learn_node(core, &now->node, o->changes);
		break;
	case CS_FACT_CLAIM:
		cs_core_learn_claim(core, &now->claim, o->changes);
		break;
	case CS_FACT_PREFIX:
		core->prefixes = cs_xrealloc(core->prefixes, core->nprefixes + 1, sizeof(*core->prefixes));
		core->prefixes[core->nprefixes++] = now->prefix;
		break;
	case CS_FACT_REVOCATION:
		cs_changes_add_take(o->changes, cs_core_revocation_record(&now->revocation, false));
		break;
	default:
		break;
	}
}

static void load_revision(void *data, uint64_t epoch, uint64_t revision)
{
	struct opening *o = data;
	o->epoch = epoch;
	o->changes->revision = revision;
}

static int open_store(struct cs_core *core, uint64_t *ret_epoch, struct cs_changes *changes, struct cs_error *e)
{
	struct cs_store_config config = {.path = core->config->store_path,
		.trust_domain = core->config->trust_domain,
		.spiffe_id_template = core->config->spiffe_id_template,
		.cluster_id = core->config->numbers ? core->config->numbers->cluster_id : 0,
		.id_min = core->config->numbers ? core->config->numbers->min : 0,
		.id_max = core->config->numbers ? core->config->numbers->max : 0,
		.address_quarantine_ms = core->config->quarantine_ms,
		.id_quarantine_ms = core->config->id_quarantine_ms,
		.clock = core->config->clock};
	struct opening o = {.core = core, .changes = changes};
	struct cs_fact_sink sink = {.change = load_fact, .revision = load_revision, .data = &o};
	int r = cs_store_open(&config, &core->store, e);
	if (r == 0)
		r = cs_store_load(core->store, &sink, e);
	*ret_epoch = o.epoch;
	return r;
}

int cs_core_open(const struct cs_core_config *config, struct cs_core **ret, uint64_t *ret_epoch,
	struct cs_changes *ret_changes, struct cs_error *e)
{
	struct cs_core *core = cs_xcalloc(1, sizeof(*core));
	core->config = config;
	int r = cs_core_depends_parse(core, e);
	if (r == 0)
		r = load_authority(core, &core->authority, e);
	if (r == 0)
		r = open_store(core, ret_epoch, ret_changes, e);
	if (r == 0) { /* the authority may have changed while we were not there */
		struct works works = {0};
		uint64_t revision;
		add_withdrawals(core, &works);
		if (works.n > 0)
			r = commit(core, &works, ret_changes, &revision, e);
		works_fini(&works);
	}
	/* Also counts a revision: what was compiled before may differ, and nobody may resume across that. */
	if (r == 0)
		r = cs_core_reload_policy(core, ret_changes, e);
	if (r < 0) {
		cs_changes_fini(ret_changes);
		cs_core_close(core);
		return r;
	}
	*ret = core;
	return 0;
}

void cs_core_close(struct cs_core *core)
{
	if (!core)
		return;
	struct cs_changes ignored = {0};
	struct known_claim *claim, *ctmp;
	HASH_ITER (hh, core->claims, claim, ctmp)
		cs_core_forget_claim(core, claim->node, claim->endpoint, &ignored);
	cs_changes_fini(&ignored);
	struct known_identity *identity, *itmp;
	HASH_CLEAR(hh_text, core->by_text);
	HASH_ITER (hh, core->identities, identity, itmp) {
		HASH_DEL(core->identities, identity);
		free(identity->text);
		free(identity->spiffe_id);
		cs_labels_fini(&identity->labels);
		free(identity);
	}
	struct known_node *node, *ntmp;
	HASH_ITER (hh, core->nodes, node, ntmp) {
		HASH_DEL(core->nodes, node);
		free(node->name);
		free(node->path);
		free(node);
	}
	cs_core_policy_fini(core);
	cs_authority_free(core->authority);
	cs_store_close(core->store);
	free(core->prefixes);
	free(core);
}
