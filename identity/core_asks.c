/* What is asked of the core, as operations of the store, and their answers. */
#include "core_private.h"

#include <errno.h>
#include "mem.h"

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
	for (size_t i = 0; i < ask->ncollected; i++)
		free(ask->collected[i].labels);
	free(ask->collected);
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
	char *node_name, *node_path; /* NODE, of our own */
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
		free(works->items[i]->node_name);
		free(works->items[i]->node_path);
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
	if (cs_facts_claim(cs_core_facts(core), node, next)) {
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
	const struct cs_store_identity *known;
	char *text = NULL;
	uint32_t fixed = 0;
	claim->result = cs_identity_labels(
		core->config->label_filter, core->config->numbers, &claim->labels, &labels, &fixed, &claim->error);
	if (claim->result == 0) {
		text = cs_mem_check(cs_labels_format(&labels));
		known = cs_facts_identity_of(cs_core_facts(core), text);
		claim->identity = known ? known->id : 0;
		claim->result = cs_authority_places(core->authority, &labels, ask->node, &claim->error);
	}
	cs_labels_fini(&labels);
	if (claim->result < 0) {
		free(text);
		if (cs_facts_claim(cs_core_facts(core), ask->node, claim->id))
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
	const struct cs_store_claim *known = cs_facts_claim(cs_core_facts(core), node, claim->id);
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

/* As it is in the store, with another mark. */
static void add_node(struct works *works, struct cs_ask *ask, const struct cs_store_node *node, bool keep_addresses)
{
	struct work *work = add_work(works, CS_STORE_NODE, ask);
	work->node_name = cs_xstrdup(node->name);
	work->node_path = cs_xstrdup(node->path);
	work->op.node = *node;
	work->op.node.name = work->node_name;
	work->op.node.path = work->node_path;
	if (!keep_addresses)
		work->op.node.naddrs = 0;
}

static void add_gone(struct cs_core *core, struct works *works, struct cs_ask *ask)
{
	const struct cs_store_node *node = cs_facts_node(cs_core_facts(core), ask->node);
	if (!node || node->gone == ask->gone)
		return;
	add_node(works, ask, node, true);
	works->items[works->n - 1]->op.node.gone = ask->gone;
}

static struct cs_collected *add_collected(struct cs_ask *ask, uint32_t identity, const char *labels)
{
	ask->collected = cs_xrealloc(ask->collected, ask->ncollected + 1, sizeof(*ask->collected));
	struct cs_collected *c = &ask->collected[ask->ncollected++];
	*c = (struct cs_collected){.identity = identity, .labels = cs_xstrdup(labels)};
	return c;
}

static void would_mark(void *data, const struct cs_store_identity *identity)
{
	add_collected(data, identity->id, identity->labels)->what = CS_COLLECT_MARK;
}

static void would_wait(void *data, const struct cs_store_identity *identity, int64_t left_ms)
{
	struct cs_collected *c = add_collected(data, identity->id, identity->labels);
	c->what = CS_COLLECT_WAIT;
	c->left_ms = left_ms;
}

static void would_delete(void *data, const struct cs_store_identity *identity)
{
	add_collected(data, identity->id, identity->labels)->what = CS_COLLECT_DELETE;
}

static void rests(void *data, const struct cs_store_retired *retired, int64_t left_ms)
{
	struct cs_collected *c = add_collected(data, retired->id, retired->labels);
	c->what = CS_COLLECT_RESTS;
	c->left_ms = left_ms;
}

static void add_collect(struct cs_core *core, struct works *works, struct cs_ask *ask)
{
	if (ask->dry_run) {
		const struct cs_store_gc_plan plan = {.mark = would_mark,
			.marked = would_wait,
			.remove = would_delete,
			.resting = rests,
			.data = ask};
		cs_store_gc_plan(core->store, ask->grace_ms, &plan);
		return;
	}
	struct work *work = add_work(works, CS_STORE_GC, ask);
	work->op.gc.grace_ms = ask->grace_ms;
	work->op.gc.max = ask->collect_max;
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
	case CS_ASK_GONE:
		add_gone(core, works, ask);
		break;
	case CS_ASK_FORGET:
		add_work(works, CS_STORE_NODE_FORGET, ask)->op.node.name = ask->node;
		break;
	case CS_ASK_COLLECT:
		add_collect(core, works, ask);
		break;
	}
}

static void answer_ask(struct work *work)
{
	if (!work->ask)
		return;
	work->ask->result = work->op.result;
	if (work->op.result < 0)
		work->ask->error = work->op.error;
}

static void answer_claim(struct work *work)
{
	const struct cs_store_op *op = &work->op;
	struct cs_claim *claim = work->claim;
	claim->result = op->result;
	if (op->result == 0) {
		claim->identity = op->identity;
		return;
	}
	claim->error = op->error;
	claim->retry_after_ms = op->retry_after_ms;
}

static void answer(struct work *work)
{
	switch (work->op.kind) {
	case CS_STORE_CLAIM:
		answer_claim(work);
		break;
	case CS_STORE_GC:
		work->ask->marked = work->op.gc.marked;
		work->ask->deleted = work->op.gc.deleted;
		break;
	case CS_STORE_NODE_FORGET:
		work->ask->nreleased = work->op.nreleased;
		break;
	case CS_STORE_REVOKE:
	case CS_STORE_UNREVOKE:
	case CS_STORE_NODE:
		answer_ask(work);
		break;
	default: /* cannot be refused, or is our own */
		break;
	}
}

/* What it changes is told as facts, into core->changes; here are the answers. */
static int commit(
	struct cs_core *core, struct works *works, struct cs_changes *changes, uint64_t *revision, struct cs_error *e)
{
	struct cs_store_op **ops = cs_xcalloc(works->n, sizeof(*ops));
	struct cs_fact_sink sink = cs_core_sink;
	for (size_t i = 0; i < works->n; i++)
		ops[i] = &works->items[i]->op;
	core->changes = changes;
	sink.data = core;
	int r = cs_store_commit(core->store, ops, works->n, &sink, revision, e);
	for (size_t i = 0; i < works->n && r == 0; i++)
		answer(works->items[i]);
	free(ops);
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

/* --- what the authority no longer agrees to --- */

/* Labels of identities, parsed once. */
struct parsed {
	uint32_t id;
	struct cs_labels labels;
	UT_hash_handle hh;
};
struct withdrawing {
	struct cs_core *core;
	struct works *works;
	struct parsed *parsed;
};

static const struct cs_labels *labels_of(struct withdrawing *w, uint32_t id)
{
	struct parsed *p;
	HASH_FIND(hh, w->parsed, &id, sizeof(id), p);
	if (p)
		return &p->labels;
	const struct cs_store_identity *identity = cs_facts_identity(cs_core_facts(w->core), id);
	p = cs_xcalloc(1, sizeof(*p));
	p->id = id;
	if (identity)
		cs_core_labels_of(identity, &p->labels);
	HASH_ADD(hh, w->parsed, id, sizeof(p->id), p);
	return &p->labels;
}

static void look_at_claim(void *data, const struct cs_fact *fact)
{
	struct withdrawing *w = data;
	const struct cs_store_claim *claim = &fact->claim;
	struct cs_error e;
	if (cs_authority_places(w->core->authority, labels_of(w, claim->identity), claim->node, &e) == 0)
		return;
	struct work *work = add_work(w->works, CS_STORE_RELEASE, NULL);
	work->node_name = cs_xstrdup(claim->node);
	work->labels = cs_xstrdup(claim->endpoint);
	work->op.claim.node = work->node_name;
	work->op.claim.endpoint = work->labels;
}

static void look_at_node(void *data, const struct cs_fact *fact)
{
	struct withdrawing *w = data;
	const struct cs_store_node *node = &fact->node;
	struct cs_error e;
	if (cs_authority_addresses(w->core->authority, node->name, node->addrs, node->naddrs, &e) < 0)
		add_node(w->works, NULL, node, false);
}

/* Claims that the authority no longer agrees to, and addresses of nodes that it no longer lists, are taken back; then its
 * file is written. */
int cs_core_withdraw(
	struct cs_core *core, const struct cs_store_op *documents, struct cs_changes *changes, struct cs_error *e)
{
	struct works works = {0};
	struct withdrawing w = {.core = core, .works = &works};
	uint64_t revision;
	cs_facts_each(cs_core_facts(core), CS_FACT_CLAIM, look_at_claim, &w);
	cs_facts_each(cs_core_facts(core), CS_FACT_NODE, look_at_node, &w);
	add_work(&works, CS_STORE_DOCUMENTS, NULL)->op.documents = documents->documents;
	int r = commit(core, &works, changes, &revision, e);
	if (r == 0 && works.items[works.n - 1]->op.result < 0) {
		r = works.items[works.n - 1]->op.result;
		*e = works.items[works.n - 1]->op.error;
	}
	works_fini(&works);
	struct parsed *p, *tmp;
	HASH_ITER (hh, w.parsed, p, tmp) {
		HASH_DEL(w.parsed, p);
		cs_labels_fini(&p->labels);
		free(p);
	}
	return r;
}
