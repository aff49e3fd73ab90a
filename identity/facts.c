#include "facts_private.h"

#include <countersign/maps.h>
#include <errno.h>
#include "mem.h"
#include "spiffe_template.h"

/* A node: its own fact, and its claims (which may be there without it). */
struct cs_holder {
	UT_hash_handle hh;
	struct cs_fact_entry *claims; /* the last one's `next` is NULL, the first one's `prev` the last */
	size_t nclaims;
	char name[];
};

struct cs_owned {
	UT_hash_handle hh;
	struct cs_ip ip;
	const struct cs_fact_entry *claim, *node;
};

struct cs_odd {
	UT_hash_handle hh;
	const struct cs_fact_entry *entry;
};

/* --- one fact --- */

static size_t fact_size(enum cs_fact_kind kind)
{
#define UP_TO(member) (offsetof(struct cs_fact, member) + sizeof(((struct cs_fact *)0)->member))
	switch (kind) {
	case CS_FACT_IDENTITY:
		return UP_TO(identity);
	case CS_FACT_RETIRED:
		return UP_TO(retired);
	case CS_FACT_NODE:
		return UP_TO(node);
	case CS_FACT_CLAIM:
		return UP_TO(claim);
	case CS_FACT_ADDRESS:
		return UP_TO(address);
	case CS_FACT_PREFIX:
		return UP_TO(prefix);
	case CS_FACT_REVOCATION:
		return UP_TO(revocation);
	case CS_FACT_DOCUMENTS:
		return UP_TO(documents);
	case CS_FACT_BLOB:
		return UP_TO(blob);
	case CS_FACT_KINDS:
		break;
	}
	abort();
#undef UP_TO
}

/* Strings and bytes behind the fact; with `to` NULL only counted. */
struct tail {
	char *to;
	size_t n;
};

static void tail_bytes(struct tail *t, const void **what, size_t n)
{
	if (t->to && n > 0) {
		memcpy(t->to + t->n, *what, n);
		*what = t->to + t->n;
	} else if (t->to)
		*what = t->to; /* anything that can be pointed to */
	t->n += n;
}

static void tail_text(struct tail *t, const char **what)
{
	tail_bytes(t, (const void **)what, strlen(*what) + 1);
}

/* What a fact points to comes behind it; a claim's node and endpoint are one key, side by side. */
static void tail_of(struct cs_fact *f, struct tail *t)
{
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		tail_text(t, &f->identity.labels);
		tail_text(t, &f->identity.spiffe_id);
		break;
	case CS_FACT_RETIRED:
		tail_text(t, &f->retired.labels);
		tail_text(t, &f->retired.spiffe_id);
		break;
	case CS_FACT_NODE:
		tail_text(t, &f->node.name);
		tail_text(t, &f->node.path);
		break;
	case CS_FACT_CLAIM:
		tail_text(t, &f->claim.node);
		tail_text(t, &f->claim.endpoint);
		break;
	case CS_FACT_REVOCATION:
		tail_bytes(t, (const void **)&f->revocation.body, f->revocation.n);
		tail_text(t, &f->revocation.id);
		break;
	case CS_FACT_DOCUMENTS:
		/* First, as its items have the strictest alignment of all; the fact before it ends on a pointer's. */
		tail_bytes(t, (const void **)&f->documents.items, f->documents.n * sizeof(*f->documents.items));
		tail_text(t, &f->documents.set);
		for (size_t i = 0; i < f->documents.n; i++)
			tail_text(t, t->to ? (const char **)&f->documents.items[i].name
					   : &(const char *){f->documents.items[i].name});
		break;
	case CS_FACT_BLOB:
		tail_bytes(t, (const void **)&f->blob.bytes, f->blob.n);
		break;
	case CS_FACT_ADDRESS:
	case CS_FACT_PREFIX:
	case CS_FACT_KINDS:
		break;
	}
}

struct cs_fact_entry *cs_fact_entry_new(const struct cs_fact *fact)
{
	size_t head = offsetof(struct cs_fact_entry, fact) + fact_size(fact->kind);
	struct cs_fact copy = {0};
	struct tail tail = {0};
	memcpy(&copy, fact, fact_size(fact->kind));
	tail_of(&copy, &tail);
	struct cs_fact_entry *entry = cs_xcalloc(1, head + tail.n);
	struct cs_fact *own = (struct cs_fact *)((char *)entry + offsetof(struct cs_fact_entry, fact));
	memcpy(own, fact, fact_size(fact->kind));
	tail = (struct tail){.to = (char *)entry + head};
	tail_of(own, &tail);
	return entry;
}

void cs_fact_entry_free(struct cs_fact_entry *entry)
{
	free(entry);
}

size_t cs_fact_entry_size(const struct cs_fact_entry *entry)
{
	struct cs_fact copy = {0};
	struct tail tail = {0};
	memcpy(&copy, &entry->fact, fact_size(entry->fact.kind));
	tail_of(&copy, &tail);
	return fact_size(copy.kind) + tail.n;
}

/* What of a fact is unique among its kind; numbers are found by their slots, and identities are unique by labels. */
static const void *unique_key(const struct cs_fact *f, size_t *n)
{
	const char *text;
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		text = f->identity.labels;
		break;
	case CS_FACT_NODE:
		text = f->node.name;
		break;
	case CS_FACT_REVOCATION:
		text = f->revocation.id;
		break;
	case CS_FACT_DOCUMENTS:
		text = f->documents.set;
		break;
	case CS_FACT_CLAIM:
		*n = strlen(f->claim.node) + 1 + strlen(f->claim.endpoint);
		return f->claim.node; /* the endpoint lies behind it */
	case CS_FACT_RETIRED:
		*n = sizeof(f->retired.id);
		return &f->retired.id;
	case CS_FACT_ADDRESS:
		*n = sizeof(f->address.ip);
		return &f->address.ip;
	case CS_FACT_PREFIX:
		*n = sizeof(f->prefix.prefix);
		return &f->prefix.prefix;
	case CS_FACT_BLOB:
		*n = sizeof(f->blob.sha256);
		return f->blob.sha256;
	default:
		abort();
	}
	*n = strlen(text);
	return text;
}

/* --- numbers --- */

static struct cs_slot *slot_make(struct cs_facts *facts, uint32_t id)
{
	struct cs_slot **page = &facts->pages[id / CS_SLOT_PAGE];
	if (!*page)
		*page = cs_xcalloc(CS_SLOT_PAGE, sizeof(**page));
	return &(*page)[id % CS_SLOT_PAGE];
}

const struct cs_slot *cs_facts_slot(const struct cs_facts *facts, uint32_t id)
{
	if (id >= CS_STORE_IDS || !facts->pages[id / CS_SLOT_PAGE])
		return NULL;
	return &facts->pages[id / CS_SLOT_PAGE][id % CS_SLOT_PAGE];
}

/* --- SPIFFE IDs of earlier templates --- */

/* An identity's, or what the one had whose number rests. */
static const char *spiffe_id_of(const struct cs_fact *fact, uint32_t *id)
{
	bool lives = fact->kind == CS_FACT_IDENTITY;
	*id = lives ? fact->identity.id : fact->retired.id;
	return lives ? fact->identity.spiffe_id : fact->retired.spiffe_id;
}

static struct cs_odd **odd_table(struct cs_facts *facts, const struct cs_fact *fact)
{
	return fact->kind == CS_FACT_IDENTITY ? &facts->odd : &facts->odd_retired;
}

static void odd_link(struct cs_facts *facts, const struct cs_fact_entry *entry)
{
	uint32_t id;
	const char *spiffe_id = spiffe_id_of(&entry->fact, &id);
	char *usual = cs_mem_check(cs_spiffe_template_fill(facts->template, id));
	if (strcmp(usual, spiffe_id) != 0) {
		struct cs_odd *odd = cs_xcalloc(1, sizeof(*odd)), **table = odd_table(facts, &entry->fact);
		odd->entry = entry;
		HASH_ADD_KEYPTR(hh, *table, spiffe_id, strlen(spiffe_id), odd);
	}
	free(usual);
}

static struct cs_odd *odd_find(const struct cs_odd *table, const char *spiffe_id)
{
	struct cs_odd *odd;
	HASH_FIND_STR(table, spiffe_id, odd);
	return odd;
}

static void odd_unlink(struct cs_facts *facts, const struct cs_fact_entry *entry)
{
	uint32_t id;
	struct cs_odd **table = odd_table(facts, &entry->fact);
	struct cs_odd *odd = odd_find(*table, spiffe_id_of(&entry->fact, &id));
	if (odd && odd->entry == entry) {
		HASH_DEL(*table, odd);
		free(odd);
	}
}

uint32_t cs_facts_odd_spiffe_id(const struct cs_facts *facts, const char *spiffe_id)
{
	const struct cs_odd *odd = odd_find(facts->odd, spiffe_id);
	return odd ? odd->entry->fact.identity.id : 0;
}

const struct cs_store_retired *cs_facts_odd_retired(const struct cs_facts *facts, const char *spiffe_id)
{
	const struct cs_odd *odd = odd_find(facts->odd_retired, spiffe_id);
	return odd ? &odd->entry->fact.retired : NULL;
}

/* --- addresses and nodes --- */

static struct cs_owned *owned_find(const struct cs_facts *facts, const struct cs_ip *ip)
{
	struct cs_owned *owned;
	struct cs_ip key = cs_ip_key(ip);
	HASH_FIND(hh, facts->owned, &key, sizeof(key), owned);
	return owned;
}

/* In a revision that is read, the new owner may come before the old one goes: the later one counts. */
static void own(struct cs_facts *facts, const struct cs_ip *ips, size_t n, const struct cs_fact_entry *entry)
{
	for (size_t i = 0; i < n; i++) {
		struct cs_owned *owned = owned_find(facts, &ips[i]);
		if (!owned) {
			owned = cs_xcalloc(1, sizeof(*owned));
			owned->ip = cs_ip_key(&ips[i]);
			HASH_ADD(hh, facts->owned, ip, sizeof(owned->ip), owned);
		}
		if (entry->fact.kind == CS_FACT_CLAIM)
			owned->claim = entry;
		else
			owned->node = entry;
	}
}

static void disown(struct cs_facts *facts, const struct cs_ip *ips, size_t n, const struct cs_fact_entry *entry)
{
	for (size_t i = 0; i < n; i++) {
		struct cs_owned *owned = owned_find(facts, &ips[i]);
		if (!owned)
			continue;
		owned->claim = owned->claim == entry ? NULL : owned->claim;
		owned->node = owned->node == entry ? NULL : owned->node;
		if (!owned->claim && !owned->node) {
			HASH_DEL(facts->owned, owned);
			free(owned);
		}
	}
}

static struct cs_holder *holder_find(const struct cs_facts *facts, const char *node)
{
	struct cs_holder *holder;
	HASH_FIND_STR(facts->holders, node, holder);
	return holder;
}

static void hold(struct cs_facts *facts, struct cs_fact_entry *entry)
{
	const char *node = entry->fact.claim.node;
	struct cs_holder *holder = holder_find(facts, node);
	if (!holder) {
		size_t n = strlen(node);
		holder = cs_xcalloc(1, sizeof(*holder) + n + 1);
		memcpy(holder->name, node, n + 1);
		HASH_ADD_KEYPTR(hh, facts->holders, holder->name, n, holder);
	}
	entry->prev = NULL;
	entry->next = holder->claims;
	if (holder->claims)
		holder->claims->prev = entry;
	holder->claims = entry;
	holder->nclaims++;
}

static void unhold(struct cs_facts *facts, struct cs_fact_entry *entry)
{
	struct cs_holder *holder = holder_find(facts, entry->fact.claim.node);
	if (entry->prev)
		entry->prev->next = entry->next;
	else
		holder->claims = entry->next;
	if (entry->next)
		entry->next->prev = entry->prev;
	if (--holder->nclaims == 0) {
		HASH_DEL(facts->holders, holder);
		free(holder);
	}
}

/* --- in and out --- */

static bool in_range(const struct cs_facts *facts, uint32_t id)
{
	return id >= facts->id_min && id <= facts->id_max;
}

void cs_facts_link(struct cs_facts *facts, struct cs_fact_entry *entry)
{
	const struct cs_fact *f = &entry->fact;
	size_t n;
	const void *key = unique_key(f, &n);
	entry->round = facts->round;
	HASH_ADD_KEYPTR(hh, facts->kinds[f->kind], key, n, entry);
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		slot_make(facts, f->identity.id)->identity = entry;
		facts->in_use += in_range(facts, f->identity.id);
		odd_link(facts, entry);
		break;
	case CS_FACT_RETIRED:
		slot_make(facts, f->retired.id)->retired = entry;
		facts->resting += in_range(facts, f->retired.id);
		if (f->retired.spiffe_id[0])
			odd_link(facts, entry);
		break;
	case CS_FACT_PREFIX:
		slot_make(facts, f->prefix.id & ~CS_ID_LOCAL_SCOPE)->prefix = entry;
		break;
	case CS_FACT_NODE:
		own(facts, f->node.addrs, f->node.naddrs, entry);
		break;
	case CS_FACT_CLAIM:
		own(facts, f->claim.addrs, f->claim.naddrs, entry);
		slot_make(facts, f->claim.identity)->references++;
		hold(facts, entry);
		break;
	default:
		break;
	}
}

void cs_facts_unlink(struct cs_facts *facts, struct cs_fact_entry *entry)
{
	const struct cs_fact *f = &entry->fact;
	HASH_DEL(facts->kinds[f->kind], entry);
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		slot_make(facts, f->identity.id)->identity = NULL;
		facts->in_use -= in_range(facts, f->identity.id);
		odd_unlink(facts, entry);
		break;
	case CS_FACT_RETIRED:
		slot_make(facts, f->retired.id)->retired = NULL;
		facts->resting -= in_range(facts, f->retired.id);
		if (f->retired.spiffe_id[0])
			odd_unlink(facts, entry);
		break;
	case CS_FACT_PREFIX:
		slot_make(facts, f->prefix.id & ~CS_ID_LOCAL_SCOPE)->prefix = NULL;
		break;
	case CS_FACT_NODE:
		disown(facts, f->node.addrs, f->node.naddrs, entry);
		break;
	case CS_FACT_CLAIM:
		disown(facts, f->claim.addrs, f->claim.naddrs, entry);
		slot_make(facts, f->claim.identity)->references--;
		unhold(facts, entry);
		break;
	default:
		break;
	}
}

struct cs_facts *cs_facts_new(const char *spiffe_id_template, uint32_t id_min, uint32_t id_max)
{
	struct cs_facts *facts = cs_xcalloc(1, sizeof(*facts));
	facts->pages = cs_xcalloc(CS_STORE_IDS / CS_SLOT_PAGE, sizeof(*facts->pages));
	facts->template = cs_xstrdup(spiffe_id_template);
	facts->id_min = id_min;
	facts->id_max = id_max;
	return facts;
}

void cs_facts_free(struct cs_facts *facts)
{
	if (!facts)
		return;
	for (int kind = 0; kind < CS_FACT_KINDS; kind++) {
		struct cs_fact_entry *entry, *tmp;
		HASH_ITER (hh, facts->kinds[kind], entry, tmp) {
			cs_facts_unlink(facts, entry);
			cs_fact_entry_free(entry);
		}
	}
	for (size_t i = 0; i < CS_STORE_IDS / CS_SLOT_PAGE; i++)
		free(facts->pages[i]);
	free(facts->pages);
	free(facts->template);
	free(facts);
}

/* --- reading --- */

static struct cs_fact_entry *find_key(const struct cs_facts *facts, enum cs_fact_kind kind, const void *key, size_t n)
{
	struct cs_fact_entry *entry;
	HASH_FIND(hh, facts->kinds[kind], key, n, entry);
	return entry;
}

static struct cs_fact_entry *find_claim(const struct cs_facts *facts, const char *node, const char *endpoint)
{
	char key[CS_NODE_NAME_BYTES + 1 + CS_ENDPOINT_ID_MAX + 1];
	size_t n = strlen(node), m = strlen(endpoint);
	if (n > CS_NODE_NAME_BYTES || m > CS_ENDPOINT_ID_MAX)
		return NULL;
	memcpy(key, node, n + 1);
	memcpy(key + n + 1, endpoint, m + 1);
	return find_key(facts, CS_FACT_CLAIM, key, n + 1 + m);
}

struct cs_fact_entry *cs_facts_find(const struct cs_facts *facts, const struct cs_fact *f)
{
	const struct cs_slot *slot;
	size_t n;
	const void *key;
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		slot = cs_facts_slot(facts, f->identity.id);
		return slot ? slot->identity : NULL;
	case CS_FACT_PREFIX:
		slot = cs_facts_slot(facts, f->prefix.id & ~CS_ID_LOCAL_SCOPE);
		return slot ? slot->prefix : NULL;
	case CS_FACT_CLAIM:
		return find_claim(facts, f->claim.node, f->claim.endpoint);
	default:
		key = unique_key(f, &n);
		return find_key(facts, f->kind, key, n);
	}
}

struct cs_fact_entry *cs_facts_find_prefix(const struct cs_facts *facts, const struct cs_prefix *prefix)
{
	return find_key(facts, CS_FACT_PREFIX, prefix, sizeof(*prefix));
}

const struct cs_store_identity *cs_facts_identity(const struct cs_facts *facts, uint32_t id)
{
	const struct cs_slot *slot = cs_facts_slot(facts, id);
	return slot && slot->identity ? &slot->identity->fact.identity : NULL;
}

const struct cs_store_identity *cs_facts_identity_of(const struct cs_facts *facts, const char *labels)
{
	const struct cs_fact_entry *entry = find_key(facts, CS_FACT_IDENTITY, labels, strlen(labels));
	return entry ? &entry->fact.identity : NULL;
}

const struct cs_store_retired *cs_facts_retired(const struct cs_facts *facts, uint32_t id)
{
	const struct cs_slot *slot = cs_facts_slot(facts, id);
	return slot && slot->retired ? &slot->retired->fact.retired : NULL;
}

const struct cs_store_node *cs_facts_node(const struct cs_facts *facts, const char *name)
{
	const struct cs_fact_entry *entry = find_key(facts, CS_FACT_NODE, name, strlen(name));
	return entry ? &entry->fact.node : NULL;
}

const struct cs_store_claim *cs_facts_claim(const struct cs_facts *facts, const char *node, const char *endpoint)
{
	const struct cs_fact_entry *entry = find_claim(facts, node, endpoint);
	return entry ? &entry->fact.claim : NULL;
}

const struct cs_store_revocation *cs_facts_revocation(const struct cs_facts *facts, const char *id)
{
	const struct cs_fact_entry *entry = find_key(facts, CS_FACT_REVOCATION, id, strlen(id));
	return entry ? &entry->fact.revocation : NULL;
}

const struct cs_store_documents *cs_facts_documents(const struct cs_facts *facts, const char *set)
{
	const struct cs_fact_entry *entry = find_key(facts, CS_FACT_DOCUMENTS, set, strlen(set));
	return entry ? &entry->fact.documents : NULL;
}

const struct cs_store_blob *cs_facts_blob(const struct cs_facts *facts, const uint8_t sha256[CS_SHA256_BYTES])
{
	const struct cs_fact_entry *entry = find_key(facts, CS_FACT_BLOB, sha256, CS_SHA256_BYTES);
	return entry ? &entry->fact.blob : NULL;
}

const struct cs_store_claim *cs_facts_claim_at(const struct cs_facts *facts, const struct cs_ip *ip)
{
	const struct cs_owned *owned = owned_find(facts, ip);
	return owned && owned->claim ? &owned->claim->fact.claim : NULL;
}

const struct cs_store_node *cs_facts_node_at(const struct cs_facts *facts, const struct cs_ip *ip)
{
	const struct cs_owned *owned = owned_find(facts, ip);
	return owned && owned->node ? &owned->node->fact.node : NULL;
}

size_t cs_facts_references(const struct cs_facts *facts, uint32_t id)
{
	const struct cs_slot *slot = cs_facts_slot(facts, id);
	return slot ? slot->references : 0;
}

size_t cs_facts_claims_of(const struct cs_facts *facts, const char *node)
{
	const struct cs_holder *holder = holder_find(facts, node);
	return holder ? holder->nclaims : 0;
}

struct cs_fact_entry *cs_facts_claims(const struct cs_facts *facts, const char *node)
{
	const struct cs_holder *holder = holder_find(facts, node);
	return holder ? holder->claims : NULL;
}

size_t cs_facts_count(const struct cs_facts *facts, enum cs_fact_kind kind)
{
	return HASH_COUNT(facts->kinds[kind]);
}

void cs_facts_each(const struct cs_facts *facts, enum cs_fact_kind kind,
	void (*fn)(void *data, const struct cs_fact *fact), void *data)
{
	for (struct cs_fact_entry *entry = facts->kinds[kind]; entry; entry = entry->hh.next)
		fn(data, &entry->fact);
}
