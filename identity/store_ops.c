/* The operations of a commit: the rules, over the facts. */
#include "store_private.h"

#include <countersign/maps.h>
#include <errno.h>
#include <stdarg.h>
#include "labels.h"
#include "mem.h"
#include "spiffe_template.h"

int cs_store_refuse(struct cs_store_op *op, int code, enum cs_reason reason, const char *fmt, ...)
{
	char text[sizeof(op->error.text)];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	op->result = cs_error_reason(&op->error, code, reason, "%s", text);
	return 0;
}

/* --- identities --- */

static void answer_identity(struct cs_store_op *op, const struct cs_store_identity *identity)
{
	op->identity = identity->id;
	op->incarnation = identity->incarnation;
	op->created_unix_ms = identity->created_unix_ms;
	op->spiffe_id = cs_xstrdup(identity->spiffe_id);
}

static uint32_t number_for(struct cs_store *s, struct cs_store_op *op)
{
	if (op->fixed == 0)
		return cs_store_free_id(s);
	const struct cs_store_identity *other = cs_facts_identity(s->facts, op->fixed);
	if (!other)
		return op->fixed;
	cs_store_refuse(
		op, -EEXIST, CS_R_LABELS_INVALID, "identity %u has the labels %s already", op->fixed, other->labels);
	return 0;
}

static int allocate(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	struct cs_fact fact = {.kind = CS_FACT_IDENTITY};
	struct cs_store_identity *identity = &fact.identity;
	if (cs_store_random(&identity->incarnation, e) < 0)
		return e->code;
	identity->id = number_for(s, op);
	if (op->result < 0)
		return 0;
	if (identity->id == 0)
		return cs_store_refuse(op, -ENOSPC, CS_R_IDENTITIES_EXHAUSTED, "%s", cs_store_exhausted(s));
	char *spiffe_id = cs_mem_check(cs_spiffe_template_fill(s->config.spiffe_id_template, identity->id));
	uint32_t odd = cs_facts_odd_spiffe_id(s->facts, spiffe_id);
	const struct cs_store_retired *was = cs_facts_odd_retired(s->facts, spiffe_id);
	if (odd == 0 && was && was->until_store_ms > cs_store_now_ms(s))
		odd = was->id; /* SVIDs of its old owner may live */
	if (odd != 0) {
		cs_store_refuse(op, -EEXIST, CS_R_SPIFFE_ID_TAKEN,
			"%s belongs to identity %u already; change spiffe_id_template", spiffe_id, odd);
		free(spiffe_id);
		return 0;
	}
	const struct cs_slot *slot = cs_facts_slot(s->facts, identity->id);
	if (slot && slot->retired)
		cs_store_remove(s, slot->retired); /* its rest is over */
	identity->labels = op->labels;
	identity->spiffe_id = spiffe_id;
	identity->created_unix_ms = s->clock->unix_ms(s->clock->data);
	cs_store_put(s, &fact);
	answer_identity(op, identity);
	op->created = op->changed = true;
	free(spiffe_id);
	return 0;
}

static int find_or_allocate(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	const struct cs_store_identity *known = cs_facts_identity_of(s->facts, op->labels);
	if (!known)
		return allocate(s, op, e);
	if (op->fixed != 0 && known->id != op->fixed)
		return cs_store_refuse(op, -EEXIST, CS_R_LABELS_INVALID,
			"the labels %s have identity %u already, not %u", op->labels, known->id, op->fixed);
	answer_identity(op, known);
	if (known->idle_since_store_ms == 0)
		return 0;
	struct cs_fact fact = {.kind = CS_FACT_IDENTITY, .identity = *known};
	fact.identity.idle_since_store_ms = 0; /* somebody refers to it again */
	cs_store_put(s, &fact);
	op->changed = true;
	return 0;
}

/* --- addresses --- */

/* Refuses an address of another endpoint, or of a node: who could claim one would speak for it. */
static void check_addresses(struct cs_store *s, struct cs_store_op *op)
{
	const struct cs_store_claim *claim = &op->claim;
	for (size_t i = 0; i < claim->naddrs && op->result == 0; i++) {
		char text[CS_IP_TEXT];
		cs_ip_text(&claim->addrs[i], text);
		const struct cs_store_claim *owner = cs_facts_claim_at(s->facts, &claim->addrs[i]);
		const struct cs_store_node *node = cs_facts_node_at(s->facts, &claim->addrs[i]);
		if (owner && (strcmp(owner->node, claim->node) != 0 || strcmp(owner->endpoint, claim->endpoint) != 0))
			cs_store_refuse(op, -EADDRINUSE, CS_R_ADDRESS_TAKEN, "%s belongs to endpoint '%s' on node %s",
				text, owner->endpoint, owner->node);
		else if (node)
			cs_store_refuse(op, -EADDRINUSE, CS_R_ADDRESS_TAKEN, "%s is an address of node %s itself", text,
				node->name);
	}
}

static struct cs_fact_entry *quarantine_of(const struct cs_store *s, const struct cs_ip *ip)
{
	struct cs_fact fact = {.kind = CS_FACT_ADDRESS, .address.ip = cs_ip_key(ip)};
	return cs_facts_find(s->facts, &fact);
}

/* Refuses an address that was another identity's a moment ago: who has not heard that it was let go would take the one
 * for the other. What a live claim has does not rest: its labels may change. */
static void check_quarantine(struct cs_store *s, struct cs_store_op *op)
{
	const struct cs_store_claim *claim = &op->claim;
	const struct cs_store_identity *identity = cs_facts_identity_of(s->facts, op->labels);
	int64_t now_ms = cs_store_now_ms(s);
	for (size_t i = 0; i < claim->naddrs && op->result == 0; i++) {
		const struct cs_fact_entry *entry = quarantine_of(s, &claim->addrs[i]);
		if (!entry)
			continue;
		const struct cs_store_address *was = &entry->fact.address;
		int64_t left_ms = was->until_store_ms - now_ms;
		/* A shorter setting is one for what rests already, too. */
		if (left_ms > s->config.address_quarantine_ms)
			left_ms = s->config.address_quarantine_ms;
		bool same = identity && identity->id == was->identity;
		char text[CS_IP_TEXT];
		if (left_ms > 0 && !same && op->retry_after_ms < left_ms)
			op->retry_after_ms = left_ms;
		if (left_ms > 0 && !same)
			cs_store_refuse(op, -EBUSY, CS_R_ADDRESS_IN_QUARANTINE,
				"%s was identity %u's until a moment ago; it can be another's in %lld s "
				"(address.quarantine)",
				cs_ip_text(&claim->addrs[i], text), was->identity, (long long)(left_ms + 999) / 1000);
	}
}

/* Its addresses are nobody's from here on. */
static void let_go(struct cs_store *s, const struct cs_store_claim *claim)
{
	for (size_t i = 0; s->config.address_quarantine_ms > 0 && i < claim->naddrs; i++) {
		struct cs_fact fact = {.kind = CS_FACT_ADDRESS,
			.address = {.ip = cs_ip_key(&claim->addrs[i]),
				.identity = claim->identity,
				.until_store_ms = cs_store_now_ms(s) + s->config.address_quarantine_ms}};
		cs_store_put(s, &fact);
	}
}

/* The oldest few whose rest is over: what was let go does not stay for ever. */
static void end_quarantines(struct cs_store *s)
{
	int64_t now_ms = cs_store_now_ms(s);
	struct cs_fact_entry *first;
	for (int i = 0; i < 4 && (first = s->facts->kinds[CS_FACT_ADDRESS]); i++) {
		if (first->fact.address.until_store_ms > now_ms)
			return;
		cs_store_remove(s, first);
	}
}

/* --- claims --- */

static bool claim_is_there(const struct cs_store_claim *known, const struct cs_store_op *op)
{
	if (!known || known->identity != op->identity || known->naddrs != op->claim.naddrs)
		return false;
	for (size_t i = 0; i < known->naddrs; i++)
		if (!cs_ip_equal(&known->addrs[i], &op->claim.addrs[i]))
			return false;
	return true;
}

static void write_claim(struct cs_store *s, struct cs_store_op *op)
{
	struct cs_fact fact = {.kind = CS_FACT_CLAIM, .claim = op->claim};
	struct cs_fact_entry *known = cs_facts_find(s->facts, &fact);
	if (known)
		let_go(s, &known->fact.claim);
	for (size_t i = 0; i < op->claim.naddrs; i++) {
		struct cs_fact_entry *quarantine = quarantine_of(s, &op->claim.addrs[i]);
		if (quarantine)
			cs_store_remove(s, quarantine);
	}
	fact.claim.identity = op->identity;
	cs_store_put(s, &fact);
	end_quarantines(s);
	op->changed = true;
}

static int do_claim(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	const struct cs_store_claim *known = cs_facts_claim(s->facts, op->claim.node, op->claim.endpoint);
	check_addresses(s, op);
	if (op->result == 0)
		check_quarantine(s, op);
	if (op->result == 0 && !known && cs_facts_claims_of(s->facts, op->claim.node) >= CS_NODE_ENDPOINTS_MAX)
		cs_store_refuse(op, -ENOSPC, CS_R_TOO_MANY, "node %s has %d endpoints, more are refused",
			op->claim.node, CS_NODE_ENDPOINTS_MAX);
	/* Refusals come first: from here on something may have been changed. */
	int r = op->result == 0 ? find_or_allocate(s, op, e) : 0;
	if (r == 0 && op->result == 0 && !claim_is_there(known, op))
		write_claim(s, op);
	return r;
}

static void delete_claim(struct cs_store *s, struct cs_store_op *op, struct cs_fact_entry *entry)
{
	op->changed = true;
	op->released = cs_xrealloc(op->released, op->nreleased + 1, sizeof(char *));
	op->released[op->nreleased++] = cs_xstrdup(entry->fact.claim.endpoint);
	let_go(s, &entry->fact.claim);
	cs_store_remove(s, entry);
	end_quarantines(s);
}

static int do_release(struct cs_store *s, struct cs_store_op *op)
{
	struct cs_fact fact = {.kind = CS_FACT_CLAIM, .claim = op->claim};
	struct cs_fact_entry *entry = cs_facts_find(s->facts, &fact);
	if (entry)
		delete_claim(s, op, entry);
	return 0;
}

/* An endpoint that stays, by its id. */
struct kept {
	UT_hash_handle hh;
};

/* All of a node's claims but those that are kept; 1: no room for all of them. */
static int release_others(struct cs_store *s, struct cs_store_op *op, const char *node, const struct kept *kept)
{
	struct cs_fact_entry *next;
	for (struct cs_fact_entry *entry = cs_facts_claims(s->facts, node); entry; entry = next) {
		const char *endpoint = entry->fact.claim.endpoint;
		struct kept *found;
		next = entry->next;
		HASH_FIND_STR(kept, endpoint, found);
		if (found)
			continue;
		if (!cs_store_has_room(s, CS_STORE_OP_WRITES_MAX, CS_STORE_OP_BYTES_MAX))
			return 1;
		delete_claim(s, op, entry);
	}
	return 0;
}

static int do_keep(struct cs_store *s, struct cs_store_op *op)
{
	struct kept *table = NULL, *kept = cs_xcalloc(op->nkeep, sizeof(*kept));
	for (size_t i = 0; i < op->nkeep; i++)
		HASH_ADD_KEYPTR(hh, table, op->keep[i], strlen(op->keep[i]), &kept[i]);
	int r = release_others(s, op, op->claim.node, table);
	HASH_CLEAR(hh, table);
	free(kept);
	return r;
}

/* --- nodes --- */

/* Refuses an address of another node, or of an endpoint. */
static void check_node_addresses(struct cs_store *s, struct cs_store_op *op)
{
	for (size_t i = 0; i < op->node.naddrs && op->result == 0; i++) {
		char text[CS_IP_TEXT];
		cs_ip_text(&op->node.addrs[i], text);
		const struct cs_store_node *node = cs_facts_node_at(s->facts, &op->node.addrs[i]);
		const struct cs_store_claim *claim = cs_facts_claim_at(s->facts, &op->node.addrs[i]);
		if (node && strcmp(node->name, op->node.name) != 0)
			cs_store_refuse(
				op, -EADDRINUSE, CS_R_NODE_ADDRESS_TAKEN, "%s belongs to node %s", text, node->name);
		else if (claim)
			cs_store_refuse(op, -EADDRINUSE, CS_R_NODE_ADDRESS_TAKEN,
				"%s belongs to endpoint '%s' on node %s", text, claim->endpoint, claim->node);
	}
}

static bool node_is_there(const struct cs_store_node *known, const struct cs_store_node *node)
{
	if (!known || known->port != node->port || strcmp(known->path, node->path) != 0 || known->gone != node->gone ||
		known->naddrs != node->naddrs)
		return false;
	for (size_t i = 0; i < known->naddrs; i++)
		if (!cs_ip_equal(&known->addrs[i], &node->addrs[i]))
			return false;
	return true;
}

static int do_node(struct cs_store *s, struct cs_store_op *op)
{
	check_node_addresses(s, op);
	if (op->result < 0 || node_is_there(cs_facts_node(s->facts, op->node.name), &op->node))
		return 0;
	struct cs_fact fact = {.kind = CS_FACT_NODE, .node = op->node};
	cs_store_put(s, &fact);
	op->changed = true;
	return 0;
}

static int do_node_forget(struct cs_store *s, struct cs_store_op *op)
{
	if (release_others(s, op, op->node.name, NULL) == 1)
		return 1;
	struct cs_fact fact = {.kind = CS_FACT_NODE, .node = op->node};
	struct cs_fact_entry *entry = cs_facts_find(s->facts, &fact);
	if (entry) {
		cs_store_remove(s, entry);
		op->changed = true;
	}
	return 0;
}

/* --- the rest --- */

static int do_prefix(struct cs_store *s, struct cs_store_op *op)
{
	struct cs_fact fact = {.kind = CS_FACT_PREFIX, .prefix = op->prefix};
	const struct cs_fact_entry *same = cs_facts_find_prefix(s->facts, &op->prefix.prefix);
	const struct cs_fact_entry *other = cs_facts_find(s->facts, &fact);
	if (same)
		return 0; /* it has its number for ever */
	if (other)
		return cs_store_refuse(op, -EEXIST, CS_R_IDENTITIES_EXHAUSTED,
			"the number %u is another prefix's already", op->prefix.id & ~CS_ID_LOCAL_SCOPE);
	cs_store_put(s, &fact);
	op->changed = true;
	return 0;
}

static int do_revoke(struct cs_store *s, struct cs_store_op *op)
{
	const struct cs_store_revocation *known = cs_facts_revocation(s->facts, op->revocation.id);
	struct cs_fact fact = {.kind = CS_FACT_REVOCATION, .revocation = op->revocation};
	if (!known && cs_facts_count(s->facts, CS_FACT_REVOCATION) >= CS_STORE_REVOCATIONS_MAX)
		return cs_store_refuse(op, -ENOSPC, CS_R_TOO_MANY,
			"there are %d revocations, more are refused; remove those that have ended",
			CS_STORE_REVOCATIONS_MAX);
	if (strlen(op->revocation.id) > CS_ENDPOINT_ID_MAX || op->revocation.n > CS_STORE_OP_BYTES_MAX / 2)
		return cs_store_refuse(
			op, -E2BIG, CS_R_TOO_MANY, "the revocation '%.64s' is too large", op->revocation.id);
	if (known && known->n == op->revocation.n && memcmp(known->body, op->revocation.body, known->n) == 0)
		return 0;
	cs_store_put(s, &fact);
	op->changed = true;
	return 0;
}

static int do_unrevoke(struct cs_store *s, struct cs_store_op *op)
{
	struct cs_fact fact = {.kind = CS_FACT_REVOCATION, .revocation = op->revocation};
	struct cs_fact_entry *entry = cs_facts_find(s->facts, &fact);
	if (!entry)
		return cs_store_refuse(op, -ENOENT, CS_R_NONE, "there is no revocation '%s'", op->revocation.id);
	cs_store_remove(s, entry);
	op->changed = true;
	return 0;
}

/* What becomes part of a key or must be read again later. Callers have looked at it long before; but what is stored and
 * cannot be read would end every cluster role from then on. */
static bool is_well_formed(const struct cs_store_op *op)
{
	const char *node = op->kind == CS_STORE_NODE ? op->node.name : op->claim.node;
	size_t n = op->kind == CS_STORE_CLAIM ? strlen(op->claim.endpoint) : 1;
	size_t labels = op->kind == CS_STORE_CLAIM ? strlen(op->labels) : 1;
	if (op->kind != CS_STORE_NODE && op->kind != CS_STORE_CLAIM)
		return true;
	return node[0] && strlen(node) <= CS_NODE_NAME_BYTES && !strchr(node, '/') && n > 0 &&
	       n <= CS_ENDPOINT_ID_MAX && labels > 0 && labels <= CS_LABELS_TEXT_MAX;
}

int cs_store_apply(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	if (!is_well_formed(op))
		return cs_store_refuse(op, -EINVAL, CS_R_LABELS_INVALID,
			"a name or a label set is empty or too long, or the name of a node has a '/'");
	switch (op->kind) {
	case CS_STORE_NODE:
		return do_node(s, op);
	case CS_STORE_NODE_FORGET:
		return do_node_forget(s, op);
	case CS_STORE_CLAIM:
		return do_claim(s, op, e);
	case CS_STORE_RELEASE:
		return do_release(s, op);
	case CS_STORE_KEEP:
		return do_keep(s, op);
	case CS_STORE_PREFIX:
		return do_prefix(s, op);
	case CS_STORE_REVOKE:
		return do_revoke(s, op);
	case CS_STORE_UNREVOKE:
		return do_unrevoke(s, op);
	case CS_STORE_DOCUMENTS:
		return cs_store_apply_documents(s, op, e);
	case CS_STORE_GC:
		return cs_store_apply_gc(s, op);
	case CS_STORE_REVISION:
		s->forced = op->changed = true;
		return 0;
	}
	return cs_error_set(e, -EINVAL, "the store knows no operation %d", (int)op->kind);
}
