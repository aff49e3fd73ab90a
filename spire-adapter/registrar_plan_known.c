/* What the plan is told: the directory, SPIRE's agents, SPIRE's entries. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>
#include "mem.h"
#include "registrar_plan_private.h"
#include "spiffe_id.h"

/* ---- parents ---- */

/* template with {node}; NULL: it has no room. */
static const char *fill(const char *template, const char *node, char *out, size_t size)
{
	static const char place[] = "{node}";
	const char *at = strstr(template, place);
	if (!at)
		return NULL;
	int n = snprintf(out, size, "%.*s%s%s", (int)(at - template), template, node, at + strlen(place));
	return n >= 0 && (size_t)n < size ? out : NULL;
}

static char *alias_of(const struct cs_reg_plan *p, const char *node)
{
	char path[CS_SPIFFE_ID_MAX + 1];
	struct cs_spiffe_id id;
	struct cs_error ignored;
	if (!fill(p->rules.parent, node, path, sizeof(path)) ||
		cs_spiffe_id_make(&id, p->rules.trust_domain, path, &ignored) < 0)
		return NULL;
	return cs_xstrdup(id.text);
}

static char *agent_of(const struct cs_reg_plan *p, const char *node)
{
	char selector[2048];
	struct agent *agent = NULL;
	if (fill(p->rules.agent_selector, node, selector, sizeof(selector)))
		HASH_FIND_STR(p->agents, selector, agent);
	return agent ? cs_xstrdup(agent->id) : NULL;
}

void cs_reg_node_parent(struct cs_reg_plan *p, struct node *node)
{
	bool by_agent = *p->rules.agent_selector != '\0';
	char *parent = by_agent ? agent_of(p, node->name) : alias_of(p, node->name);
	if (by_agent && !parent)
		p->needs_agents = true;
	if (by_agent && !parent && node->parent)
		return; /* an agent that is not listed at this moment comes back, or another comes; its entries stay */
	free(node->parent);
	node->parent = parent;
}

/* ---- the directory ---- */

static void mark_node(struct cs_reg_plan *p, struct node *node, int64_t now_ms)
{
	struct cs_reg_slot *slot, *next;
	node->known = true; /* so that it is still there after its last slot */
	DL_FOREACH_SAFE2 (node->slots, slot, next, node_next)
		cs_reg_mark(p, slot, now_ms);
}

static void node_gone(struct cs_reg_plan *p, struct node *node, int64_t now_ms)
{
	struct cs_reg_slot *slot = node->slots, *next;
	node->known = false;
	if (!slot) {
		cs_reg_node_drop(p, node);
		return;
	}
	for (; slot; slot = next) { /* the last one takes the node with it */
		next = slot->node_next;
		cs_reg_mark(p, slot, now_ms);
	}
}

/* The directory has said so itself. */
static void said_of_node(struct node *node)
{
	struct cs_reg_slot *slot;
	DL_FOREACH2 (node->slots, slot, node_next)
		slot->missing = false;
}

static void said_of_identity(struct identity *identity)
{
	struct cs_reg_slot *slot;
	DL_FOREACH2 (identity->slots, slot, identity_next)
		slot->missing = false;
}

static int on_node(struct cs_reg_plan *p, const Countersign__V1__Record *record, int64_t now_ms, struct cs_error *e)
{
	const char *name = record->node->name;
	struct node *node = cs_reg_node(p, name, false);
	if (record->deleted) {
		if (node) {
			said_of_node(node);
			node_gone(p, node, now_ms);
		}
		return 0;
	}
	if (strlen(name) > CS_REG_NODE_MAX)
		return cs_error_set(e, -EMSGSIZE, "a node of the directory has a name of %zu bytes", strlen(name));
	if (!node && HASH_COUNT(p->nodes) >= CS_REG_NODES_MAX)
		return cs_error_reason(
			e, -ENOSPC, CS_R_TOO_MANY, "the directory has more than %d nodes", CS_REG_NODES_MAX);
	node = cs_reg_node(p, name, true);
	node->seen = p->state;
	if (node->known)
		return 0;
	cs_reg_node_parent(p, node);
	mark_node(p, node, now_ms);
	return 0;
}

static void identity_is(struct cs_reg_plan *p, struct identity *identity, const char *spiffe_id, int64_t now_ms)
{
	struct cs_reg_slot *slot = identity->slots, *next;
	free(identity->spiffe_id);
	identity->spiffe_id = spiffe_id ? cs_xstrdup(spiffe_id) : NULL;
	if (!slot)
		cs_reg_identity_drop(p, identity);
	for (; slot; slot = next) {
		next = slot->identity_next;
		cs_reg_mark(p, slot, now_ms);
	}
}

static void on_identity(struct cs_reg_plan *p, const Countersign__V1__Record *record, int64_t now_ms)
{
	struct identity *identity = cs_reg_identity(p, record->identity->id, !record->deleted);
	if (!identity)
		return;
	identity->seen = p->state;
	if (record->deleted)
		said_of_identity(identity);
	const char *spiffe_id = record->deleted ? NULL : record->identity->spiffe_id;
	if (!spiffe_id || !identity->spiffe_id || strcmp(identity->spiffe_id, spiffe_id) != 0)
		identity_is(p, identity, spiffe_id, now_ms);
}

static int on_placement(
	struct cs_reg_plan *p, const Countersign__V1__Record *record, int64_t now_ms, struct cs_error *e)
{
	const Countersign__V1__Placement *in = record->placement;
	if (strlen(in->node) > CS_REG_NODE_MAX)
		return cs_error_set(e, -EMSGSIZE, "a node of the directory has a name of %zu bytes", strlen(in->node));
	struct cs_reg_slot *slot = cs_reg_slot(p, in->identity, in->node, !record->deleted, now_ms);
	if (slot)
		slot->missing = false;
	if (record->deleted) {
		if (slot)
			cs_reg_unplace(p, slot, now_ms);
		return 0;
	}
	if (!slot)
		return cs_error_reason(
			e, -ENOSPC, CS_R_TOO_MANY, "there are more than %d entries to keep in SPIRE", CS_REG_SLOTS_MAX);
	slot->seen = p->state;
	if (slot->placed)
		return 0;
	slot->placed = true;
	slot->since_mono_ms = now_ms;
	p->nplaced++;
	cs_reg_mark(p, slot, now_ms);
	return 0;
}

static int on_record(struct cs_reg_plan *p, const Countersign__V1__Record *record, int64_t now_ms, struct cs_error *e)
{
	switch (record->record_case) {
	case COUNTERSIGN__V1__RECORD__RECORD_NODE:
		return on_node(p, record, now_ms, e);
	case COUNTERSIGN__V1__RECORD__RECORD_IDENTITY:
		on_identity(p, record, now_ms);
		return 0;
	case COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT:
		return on_placement(p, record, now_ms, e);
	default:
		return 0; /* not asked for, and of no interest */
	}
}

/* What the full state did not have is gone. */
static void sweep(struct cs_reg_plan *p, int64_t now_ms)
{
	struct cs_reg_slot *slot, *nexts;
	struct node *node, *nextn;
	struct identity *identity, *nexti;
	HASH_ITER (hh, p->slots, slot, nexts)
		if (slot->placed && slot->seen != p->state) {
			slot->missing = true;
			cs_reg_unplace(p, slot, now_ms);
		}
	HASH_ITER (hh, p->nodes, node, nextn)
		if (node->known && node->seen != p->state)
			node_gone(p, node, now_ms);
	HASH_ITER (hh, p->identities, identity, nexti)
		if (identity->spiffe_id && identity->seen != p->state)
			identity_is(p, identity, NULL, now_ms);
	cs_reg_look_at_missing(p, now_ms);
}

void cs_reg_plan_directory_begin(struct cs_reg_plan *p)
{
	p->state++;
	p->synced = p->settled = false;
}

int cs_reg_plan_directory_batch(
	struct cs_reg_plan *p, const Countersign__V1__DirectoryBatch *batch, int64_t now_ms, struct cs_error *e)
{
	int r = 0;
	if (batch->n_records > 0)
		p->settled = false;
	for (size_t i = 0; i < batch->n_records && r == 0; i++)
		r = on_record(p, batch->records[i], now_ms, e);
	if (r < 0)
		return r;
	if (batch->synced && !p->synced) {
		p->synced = true;
		sweep(p, now_ms);
	}
	if (p->synced && (batch->synced || batch->complete))
		p->settled = true;
	return 0;
}

bool cs_reg_plan_directory_known(const struct cs_reg_plan *p)
{
	return p->settled;
}

/* ---- SPIRE's agents ---- */

void cs_reg_agents_free(struct agent **agents)
{
	struct agent *agent, *next;
	HASH_ITER (hh, *agents, agent, next) {
		HASH_DEL(*agents, agent);
		free(agent->selector);
		free(agent->id);
		free(agent);
	}
}

bool cs_reg_plan_needs_agents(const struct cs_reg_plan *p)
{
	return p->needs_agents;
}

void cs_reg_plan_agents_begin(struct cs_reg_plan *p)
{
	cs_reg_agents_free(&p->coming);
}

static void add_agent(struct cs_reg_plan *p, const Spire__Api__Types__Agent *in, const char *selector)
{
	char id[CS_SPIFFE_ID_MAX + 1];
	struct agent *agent;
	HASH_FIND_STR(p->coming, selector, agent);
	/* Of several, the one that was attested last. */
	if (in->banned || !in->id || (agent && agent->until_unix_s >= in->x509svid_expires_at) ||
		snprintf(id, sizeof(id), "%s%s%s", CS_SPIFFE_SCHEME, in->id->trust_domain, in->id->path) >=
			(int)sizeof(id))
		return;
	if (!agent) {
		agent = cs_xcalloc(1, sizeof(*agent));
		agent->selector = cs_xstrdup(selector);
		HASH_ADD_KEYPTR(hh, p->coming, agent->selector, strlen(agent->selector), agent);
	}
	free(agent->id);
	agent->id = cs_xstrdup(id);
	agent->until_unix_s = in->x509svid_expires_at;
}

/* Could it be the template with some node's name in it? */
static bool fits(const char *template, const char *selector)
{
	const char *place = strstr(template, "{node}");
	size_t before = place ? (size_t)(place - template) : 0, after = place ? strlen(place + strlen("{node}")) : 0;
	size_t n = strlen(selector);
	return place && n > before + after && strncmp(selector, template, before) == 0 &&
	       strcmp(selector + n - after, place + strlen("{node}")) == 0;
}

void cs_reg_plan_agents_add(struct cs_reg_plan *p, const Spire__Api__Types__Agent *in)
{
	char selector[2048];
	for (size_t i = 0; i < in->n_selectors; i++) {
		int n = snprintf(selector, sizeof(selector), "%s:%s", in->selectors[i]->type, in->selectors[i]->value);
		if (n < (int)sizeof(selector) && fits(p->rules.agent_selector, selector))
			add_agent(p, in, selector);
	}
}

void cs_reg_plan_agents_end(struct cs_reg_plan *p, bool complete, int64_t now_ms)
{
	struct node *node, *next;
	if (!complete) {
		cs_reg_agents_free(&p->coming);
		return;
	}
	cs_reg_agents_free(&p->agents);
	p->agents = p->coming;
	p->coming = NULL;
	p->needs_agents = false;
	HASH_ITER (hh, p->nodes, node, next) {
		if (!node->known)
			continue;
		cs_reg_node_parent(p, node);
		mark_node(p, node, now_ms);
	}
}

/* ---- SPIRE's entries ---- */

void cs_reg_foreign_free(struct foreign *foreign)
{
	for (size_t i = 0; i < foreign->n && i < CS_REG_FOREIGN_MAX; i++)
		free(foreign->entries[i]);
	foreign->n = 0;
}

bool cs_reg_plan_needs_list(const struct cs_reg_plan *p)
{
	return p->needs_list;
}

void cs_reg_plan_set_needs_list(struct cs_reg_plan *p)
{
	p->needs_list = true;
}

void cs_reg_plan_list_begin(struct cs_reg_plan *p)
{
	p->list++;
	p->listing = true;
	cs_reg_foreign_free(&p->next_foreign);
}

static bool is_foreign(const struct cs_reg_plan *p, const Spire__Api__Types__Entry *in)
{
	char id[CS_SPIFFE_ID_MAX + 1];
	if (!in->spiffe_id)
		return false;
	snprintf(id, sizeof(id), "%s%s%s", CS_SPIFFE_SCHEME, in->spiffe_id->trust_domain, in->spiffe_id->path);
	return strncmp(id, p->rules.prefix, strlen(p->rules.prefix)) == 0;
}

int cs_reg_plan_list_add(struct cs_reg_plan *p, const Spire__Api__Types__Entry *in, int64_t now_ms, struct cs_error *e)
{
	if (cs_reg_is_ours(p->rules.mark, in->id))
		return cs_reg_have(p, in, NULL, now_ms, e);
	if (!is_foreign(p, in))
		return 0;
	if (p->next_foreign.n++ < CS_REG_FOREIGN_MAX)
		p->next_foreign.entries[p->next_foreign.n - 1] = cs_reg_entry_new(in);
	return 0;
}

void cs_reg_plan_list_end(struct cs_reg_plan *p, bool complete, int64_t now_ms)
{
	struct have *have, *next;
	p->listing = false;
	if (!complete) { /* what it showed is so all the same */
		cs_reg_mark_all(p, now_ms);
		return;
	}
	HASH_ITER (hh, p->haves, have, next)
		if (have->seen != p->list)
			cs_reg_have_free(p, have);
	cs_reg_foreign_free(&p->foreign);
	p->foreign = p->next_foreign;
	p->next_foreign.n = 0;
	p->needs_list = false;
	cs_reg_look_at_missing(p, now_ms);
}

size_t cs_reg_plan_foreign(const struct cs_reg_plan *p)
{
	return p->foreign.n;
}

const struct cs_reg_entry *cs_reg_plan_foreign_at(const struct cs_reg_plan *p, size_t i)
{
	return i < p->foreign.n && i < CS_REG_FOREIGN_MAX ? p->foreign.entries[i] : NULL;
}
