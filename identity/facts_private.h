/* Changing facts: for the store's own files only. */
#ifndef CS_FACTS_PRIVATE_H
#define CS_FACTS_PRIVATE_H

#include <uthash.h>
#include "facts.h"

#define CS_STORE_IDS (1u << 24) /* every identity of a label set is below */

/* One fact, its strings behind it in the same piece of memory. */
struct cs_fact_entry {
	UT_hash_handle hh;                 /* among those of its kind, by what must be unique */
	struct cs_fact_entry *prev, *next; /* claims of one node */
	unsigned round;                    /* of the last whole read that had it */
	struct cs_fact fact;               /* last: as long as its kind is */
};

/* A number: what it is now, and who refers to it. */
struct cs_slot {
	struct cs_fact_entry *identity, *retired, *prefix;
	uint32_t references; /* claims of the identity */
};

struct cs_facts {
	struct cs_fact_entry *kinds[CS_FACT_KINDS];
	struct cs_slot **pages;           /* by id / CS_SLOT_PAGE */
	struct cs_holder *holders;        /* nodes by name, and whose claims there are */
	struct cs_owned *owned;           /* addresses */
	struct cs_odd *odd, *odd_retired; /* SPIFFE IDs that do not follow from the template: an earlier one's */
	char *template;
	uint32_t id_min, id_max;
	size_t in_use, resting; /* numbers of that range */
	unsigned round;
};
#define CS_SLOT_PAGE 256

/* As a hash key: nothing behind the address. */
static inline struct cs_ip cs_ip_key(const struct cs_ip *ip)
{
	struct cs_ip key = {.len = ip->len};
	memcpy(key.bytes, ip->bytes, ip->len);
	return key;
}

struct cs_facts *cs_facts_new(const char *spiffe_id_template, uint32_t id_min, uint32_t id_max);
void cs_facts_free(struct cs_facts *facts);

struct cs_fact_entry *cs_fact_entry_new(const struct cs_fact *fact); /* a deep copy */
void cs_fact_entry_free(struct cs_fact_entry *entry);
size_t cs_fact_entry_size(const struct cs_fact_entry *entry);

/* The entry that this fact would take the place of, or NULL. */
struct cs_fact_entry *cs_facts_find(const struct cs_facts *facts, const struct cs_fact *fact);
struct cs_fact_entry *cs_facts_find_prefix(const struct cs_facts *facts, const struct cs_prefix *prefix);
/* Takes the entry in; none with its key may be there. */
void cs_facts_link(struct cs_facts *facts, struct cs_fact_entry *entry);
void cs_facts_unlink(struct cs_facts *facts, struct cs_fact_entry *entry);

/* NULL where no number of that page was ever used. */
const struct cs_slot *cs_facts_slot(const struct cs_facts *facts, uint32_t id);
/* The identity that an earlier template gave this SPIFFE ID, 0: none. */
uint32_t cs_facts_odd_spiffe_id(const struct cs_facts *facts, const char *spiffe_id);
/* The same of numbers that rest, or did; NULL: none. */
const struct cs_store_retired *cs_facts_odd_retired(const struct cs_facts *facts, const char *spiffe_id);
/* The first of a node's claims; the rest by `next`. */
struct cs_fact_entry *cs_facts_claims(const struct cs_facts *facts, const char *node);
/* 0, or which two facts contradict each other: what the rules never let happen, but a hand in the file may. */
CS_MUST_USE int cs_facts_check(const struct cs_facts *facts, struct cs_error *e);

/* store_codec.c: keys and values. */
#define CS_FACT_KEY_MAX 512
const char *cs_fact_key(const struct cs_fact *fact, char out[CS_FACT_KEY_MAX]);
/* Heap. */
uint8_t *cs_fact_encode(const struct cs_fact *fact, size_t *ret_n);
/* *ret points into *ret_hold, which cs_fact_hold_free frees. */
struct cs_fact_hold;
CS_MUST_USE int cs_fact_decode(const char *key, const void *value, size_t n, struct cs_fact *ret,
	struct cs_fact_hold **ret_hold, struct cs_error *e);
void cs_fact_hold_free(struct cs_fact_hold *hold);
struct cs_fact_entry *cs_facts_find_key(const struct cs_facts *facts, const char *key);

#endif
