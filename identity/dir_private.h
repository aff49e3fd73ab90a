/* The inside of the directory, for dir.c and dir_cursor.c only. */
#ifndef CS_DIR_PRIVATE_H
#define CS_DIR_PRIVATE_H

#include "dir.h"

#include <uthash.h>
#include <utlist.h>

#define CS_KINDS 11

/* A record that several hold: the state, the changes and the followers it is being sent to. There are hundreds of
 * thousands, and each goes to thousands of followers: it is kept as the bytes that a batch has of it, and unpacked only
 * for those who look into it. */
struct cs_rec {
	unsigned refs;
	uint8_t kind; /* Countersign__V1__Kind */
	bool deleted;
	bool seen;         /* in the state: by the replacement under way */
	uint32_t identity; /* of a placement; the local one of a policy row or default */
	uint32_t nframed;  /* its length and the packed record, behind the key and its NUL */
	cs_record *msg;    /* once somebody looked */
	uint16_t nkey;
	char key[];
};

/* As small as can be: there are hundreds of thousands. */
struct cs_entry {
	struct cs_rec *rec;
	struct cs_rule_entry *rule; /* policy rows and defaults only */
	UT_hash_handle hh;
	struct cs_entry *kprev, *knext; /* of its kind */
};
struct cs_rule_entry {
	struct cs_entry *entry;
	struct cs_local *local;
	struct cs_rule_entry *prev, *next; /* of its local identity */
};

/* The identities that are placed on one node. */
struct cs_placed {
	uint32_t identity;
	UT_hash_handle hh;
};
struct cs_host {
	char *node;
	struct cs_placed *placed;
	UT_hash_handle hh;
};

/* The policy rows and default of one local identity. */
struct cs_local {
	uint32_t identity;
	struct cs_rule_entry *rules;
	UT_hash_handle hh;
};

struct cs_change {
	uint64_t revision;
	struct cs_rec *rec; /* deleted: it went away */
};

struct cs_directory {
	uint64_t epoch, revision, floor; /* one can resume from floor or later */
	bool published, changed;
	struct cs_dir_limits limits;
	struct cs_entry *entries;
	struct cs_entry *kinds[CS_KINDS];
	size_t counts[CS_KINDS];
	struct cs_local *locals;
	struct cs_host *hosts;
	struct cs_change *changes; /* ring */
	size_t cap, head, nchanges;
	struct cs_dir_watch *watchers;
};

struct cs_rec *cs_rec_new(const cs_record *record, const char *key);
/* That it went away: nothing but the key fields. */
struct cs_rec *cs_rec_gone(const struct cs_rec *rec);
cs_record *cs_rec_unpack(const struct cs_rec *rec); /* for cs_record_free */
const char *cs_rec_placement_node(const struct cs_rec *rec);
static inline const uint8_t *cs_rec_framed(const struct cs_rec *rec)
{
	return (const uint8_t *)rec->key + rec->nkey + 1;
}
struct cs_rec *cs_rec_ref(struct cs_rec *rec);
void cs_rec_unref(struct cs_rec *rec);
const struct cs_change *cs_dir_change(const struct cs_directory *dir, size_t i); /* 0: the oldest */
/* NULL: nothing is placed there. */
const struct cs_host *cs_dir_host(const struct cs_directory *dir, const char *node);
bool cs_host_has(const struct cs_host *host, uint32_t identity);
struct cs_entry *cs_dir_entry(const struct cs_directory *dir, const char *key);

#endif
