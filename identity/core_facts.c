/* Facts to records: what each change of a fact means for the directory. Whether this replica wrote it or another one
 * did makes no difference, so replicas that have the same revision have the same directory. */
#include "core_private.h"

#include "mem.h"

static void add(struct cs_core *core, cs_record *record)
{
	cs_changes_add_take(core->changes, record);
}

void cs_core_labels_of(const struct cs_store_identity *identity, struct cs_labels *ret)
{
	struct cs_error e;
	if (cs_labels_parse(identity->labels, strlen(identity->labels), ret, &e) < 0)
		*ret = (struct cs_labels){0};
}

/* --- placements follow from claims --- */

static char *placed_key(uint32_t identity, const char *node)
{
	char *key = NULL;
	return asprintf(&key, "%u/%s", identity, node) < 0 ? cs_mem_check(NULL) : key;
}

static void place(struct cs_core *core, uint32_t identity, const char *node)
{
	char *key = placed_key(identity, node);
	struct placed *placed;
	HASH_FIND_STR(core->placed, key, placed);
	if (placed) {
		free(key);
		placed->claims++;
		return;
	}
	placed = cs_xcalloc(1, sizeof(*placed));
	placed->key = key;
	placed->claims = 1;
	HASH_ADD_KEYPTR(hh, core->placed, placed->key, strlen(placed->key), placed);
	add(core, cs_core_placement_record(identity, node, core->authority_name, false));
	struct local *local;
	HASH_FIND(hh, core->locals, &identity, sizeof(identity), local);
	if (!local) {
		local = cs_xcalloc(1, sizeof(*local));
		local->identity = identity;
		HASH_ADD(hh, core->locals, identity, sizeof(identity), local);
		cs_core_local_stale(core, local);
	}
	local->placements++;
}

static void unplace(struct cs_core *core, uint32_t identity, const char *node)
{
	char *key = placed_key(identity, node);
	struct placed *placed;
	HASH_FIND_STR(core->placed, key, placed);
	free(key);
	if (!placed || --placed->claims > 0)
		return;
	HASH_DEL(core->placed, placed);
	free(placed->key);
	free(placed);
	add(core, cs_core_placement_record(identity, node, "", true));
	struct local *local;
	HASH_FIND(hh, core->locals, &identity, sizeof(identity), local);
	if (local && --local->placements == 0)
		cs_core_local_free(core, local);
}

/* Another authority agrees to them now. */
static void rename_placements(struct cs_core *core)
{
	const struct cs_store_documents *set = cs_facts_documents(cs_core_facts(core), CS_SET_PLACEMENT);
	const char *name = set && set->n > 0 ? "static" : "self";
	if (strcmp(name, core->authority_name) == 0)
		return;
	core->authority_name = name;
	struct placed *placed, *tmp;
	HASH_ITER (hh, core->placed, placed, tmp)
		add(core, cs_core_placement_record(
				  (uint32_t)strtoul(placed->key, NULL, 10), strchr(placed->key, '/') + 1, name, false));
}

/* --- one fact --- */

static void identity_changed(
	struct cs_core *core, const struct cs_store_identity *before, const struct cs_store_identity *now)
{
	const struct cs_store_identity *one = now ? now : before;
	add(core, cs_core_identity_record(one, !now));
	if (!now || (before && strcmp(before->labels, now->labels) != 0)) {
		core->identity_gone = true;
		return;
	}
	if (before)
		return; /* a mark of the garbage collection */
	if (core->nfresh == core->capfresh) {
		core->capfresh = core->capfresh ? core->capfresh * 2 : 64;
		core->fresh = cs_xrealloc(core->fresh, core->capfresh, sizeof(*core->fresh));
	}
	core->fresh[core->nfresh++] = now->id;
}

static bool is_next(const char *endpoint)
{
	size_t n = strlen(endpoint), suffix = strlen(NEXT_SUFFIX);
	return n > suffix && strcmp(endpoint + n - suffix, NEXT_SUFFIX) == 0;
}

static void claim_changed(struct cs_core *core, const struct cs_store_claim *before, const struct cs_store_claim *now)
{
	uint32_t was = before ? before->identity : 0, is = now ? now->identity : 0;
	const char *node = now ? now->node : before->node;
	bool next = is_next(now ? now->endpoint : before->endpoint);
	if (!now && !next)
		add(core, cs_core_endpoint_record(before, true));
	if (is != was && is != 0)
		place(core, is, node);
	if (is != was && was != 0)
		unplace(core, was, node);
	if (now && !next)
		add(core, cs_core_endpoint_record(now, false));
}

static void documents_changed(struct cs_core *core, const char *set)
{
	core->policy_changed |= strcmp(set, CS_SET_POLICY) == 0;
	core->placement_changed |= strcmp(set, CS_SET_PLACEMENT) == 0;
	core->depends_changed |= strcmp(set, CS_SET_DEPENDS) == 0;
	core->findings_changed |= strcmp(set, CS_SET_FINDINGS) == 0;
}

static void on_change(void *data, const struct cs_fact *before, const struct cs_fact *now)
{
	struct cs_core *core = data;
	const struct cs_fact *one = now ? now : before;
	switch (one->kind) {
	case CS_FACT_IDENTITY:
		identity_changed(core, before ? &before->identity : NULL, now ? &now->identity : NULL);
		break;
	case CS_FACT_NODE:
		add(core, cs_core_node_record(&one->node, !now));
		break;
	case CS_FACT_CLAIM:
		claim_changed(core, before ? &before->claim : NULL, now ? &now->claim : NULL);
		break;
	case CS_FACT_REVOCATION:
		add(core, cs_core_revocation_record(&one->revocation, !now));
		break;
	case CS_FACT_DOCUMENTS:
		documents_changed(core, one->documents.set);
		break;
	case CS_FACT_PREFIX:  /* a number for the policy that comes */
	case CS_FACT_BLOB:    /* content, of documents that come */
	case CS_FACT_RETIRED: /* the store's own */
	case CS_FACT_ADDRESS:
	case CS_FACT_KINDS:
		break;
	}
}

/* --- the end of a revision --- */

/* The same facts give other records in another version, so no follower resumes from one to the other. */
static uint64_t epoch_of(uint64_t store_epoch)
{
	uint64_t hash = 14695981039346656037u; /* FNV-1a */
	for (const char *p = CS_VERSION; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 1099511628211u;
	return store_epoch ^ hash;
}

static void on_revision(void *data, uint64_t epoch, uint64_t revision)
{
	struct cs_core *core = data;
	if (core->placement_changed)
		rename_placements(core);
	cs_core_settle_policy(core);
	core->nfresh = 0;
	core->identity_gone = core->policy_changed = core->placement_changed = false;
	core->depends_changed = core->findings_changed = false;
	core->changes->epoch = epoch_of(epoch);
	core->changes->revision = revision;
}

void cs_core_facts_fini(struct cs_core *core)
{
	struct placed *placed, *tmp;
	struct local *local, *next;
	struct cs_changes ignored = {0};
	core->changes = &ignored;
	HASH_ITER (hh, core->placed, placed, tmp) {
		HASH_DEL(core->placed, placed);
		free(placed->key);
		free(placed);
	}
	HASH_ITER (hh, core->locals, local, next)
		cs_core_local_free(core, local);
	cs_changes_fini(&ignored);
	free(core->fresh);
}

const struct cs_fact_sink cs_core_sink = {.change = on_change, .revision = on_revision};
