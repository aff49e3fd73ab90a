/* What the core knows, and the placements that follow from claims. Each change says what it means for the directory. */
#include "core_private.h"

#include "mem.h"

struct known_identity *cs_core_learn_identity(struct cs_core *core, const struct cs_store_identity *identity)
{
	struct known_identity *known;
	HASH_FIND(hh, core->identities, &identity->id, sizeof(identity->id), known);
	if (known)
		return known;
	known = cs_xcalloc(1, sizeof(*known));
	known->id = identity->id;
	known->incarnation = identity->incarnation;
	known->created_unix_ms = identity->created_unix_ms;
	known->text = cs_xstrdup(identity->labels);
	known->spiffe_id = cs_xstrdup(identity->spiffe_id);
	struct cs_error e;
	if (cs_labels_parse(known->text, strlen(known->text), &known->labels, &e) < 0)
		known->labels = (struct cs_labels){0}; /* a store that was written to by hand: matches no selector */
	HASH_ADD(hh, core->identities, id, sizeof(known->id), known);
	HASH_ADD_KEYPTR(hh_text, core->by_text, known->text, strlen(known->text), known);
	return known;
}

struct known_identity *cs_core_identity(struct cs_core *core, uint32_t id)
{
	struct known_identity *known;
	HASH_FIND(hh, core->identities, &id, sizeof(id), known);
	return known;
}

static char *join(const char *a, const char *b)
{
	char *key = NULL;
	return asprintf(&key, "%s/%s", a, b) < 0 ? cs_mem_check(NULL) : key;
}

struct known_claim *cs_core_claim(struct cs_core *core, const char *node, const char *endpoint)
{
	struct known_claim *known;
	char *key = join(node, endpoint);
	HASH_FIND_STR(core->claims, key, known);
	free(key);
	return known;
}

/* --- placements follow from claims --- */

static void place(struct cs_core *core, uint32_t identity, const char *node, struct cs_changes *changes)
{
	char number[16];
	snprintf(number, sizeof(number), "%u", identity);
	char *key = join(number, node);
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
	cs_changes_add_take(
		changes, cs_core_placement_record(identity, node, cs_authority_name(core->authority), false));
	struct local *local;
	HASH_FIND(hh, core->locals, &identity, sizeof(identity), local);
	if (!local) {
		local = cs_xcalloc(1, sizeof(*local));
		local->identity = identity;
		local->stale = true;
		HASH_ADD(hh, core->locals, identity, sizeof(identity), local);
	}
	local->placements++;
}

static void unplace(struct cs_core *core, uint32_t identity, const char *node, struct cs_changes *changes)
{
	char number[16];
	snprintf(number, sizeof(number), "%u", identity);
	char *key = join(number, node);
	struct placed *placed;
	HASH_FIND_STR(core->placed, key, placed);
	free(key);
	if (!placed || --placed->claims > 0)
		return;
	HASH_DEL(core->placed, placed);
	free(placed->key);
	free(placed);
	cs_changes_add_take(changes, cs_core_placement_record(identity, node, "", true));
	struct local *local;
	HASH_FIND(hh, core->locals, &identity, sizeof(identity), local);
	if (local && --local->placements == 0)
		cs_core_local_free(core, local, changes);
}

bool cs_core_claim_is_next(const char *endpoint)
{
	size_t n = strlen(endpoint), suffix = strlen(NEXT_SUFFIX);
	return n > suffix && strcmp(endpoint + n - suffix, NEXT_SUFFIX) == 0;
}

void cs_core_learn_claim(struct cs_core *core, const struct cs_store_claim *claim, struct cs_changes *changes)
{
	struct known_claim *known = cs_core_claim(core, claim->node, claim->endpoint);
	if (!known) {
		known = cs_xcalloc(1, sizeof(*known));
		known->key = join(claim->node, claim->endpoint);
		known->node = cs_xstrdup(claim->node);
		known->endpoint = cs_xstrdup(claim->endpoint);
		HASH_ADD_KEYPTR(hh, core->claims, known->key, strlen(known->key), known);
	}
	uint32_t before = known->identity;
	known->identity = claim->identity;
	memcpy(known->addrs, claim->addrs, sizeof(known->addrs));
	known->naddrs = claim->naddrs;
	if (before != claim->identity) {
		place(core, claim->identity, claim->node, changes);
		if (before != 0)
			unplace(core, before, claim->node, changes);
	}
	if (!cs_core_claim_is_next(known->endpoint))
		cs_changes_add_take(changes, cs_core_endpoint_record(known, false));
}

void cs_core_forget_claim(struct cs_core *core, const char *node, const char *endpoint, struct cs_changes *changes)
{
	struct known_claim *known = cs_core_claim(core, node, endpoint);
	if (!known)
		return;
	if (!cs_core_claim_is_next(known->endpoint))
		cs_changes_add_take(changes, cs_core_endpoint_record(known, true));
	unplace(core, known->identity, known->node, changes);
	HASH_DEL(core->claims, known);
	free(known->key);
	free(known->node);
	free(known->endpoint);
	free(known);
}

void cs_core_learn_node(struct cs_core *core, const struct cs_store_node *node, struct cs_changes *changes)
{
	struct known_node *known;
	HASH_FIND_STR(core->nodes, node->name, known);
	if (!known) {
		known = cs_xcalloc(1, sizeof(*known));
		known->name = cs_xstrdup(node->name);
		HASH_ADD_KEYPTR(hh, core->nodes, known->name, strlen(known->name), known);
	}
	char *path = cs_xstrdup(node->path); /* which may be the known one's */
	free(known->path);
	known->path = path;
	memcpy(known->addrs, node->addrs, sizeof(known->addrs));
	known->naddrs = node->naddrs;
	known->port = node->port;
	cs_changes_add_take(changes, cs_core_node_record(known));
}
