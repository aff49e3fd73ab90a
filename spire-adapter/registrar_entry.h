/* A registration entry, as far as the registrar looks at it: what SPIRE has, and what it should have. Pure.
 *
 * Our own are known by their mark: the entry's ID is "<mark>.<32 hex digits>", made once and never given again (agents do
 * not notice an ID that was used before). The hint says what an entry is for: "<identity>@<node>". */
#ifndef CS_REGISTRAR_ENTRY_H
#define CS_REGISTRAR_ENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "spire_entry.pb-c.h"

#define CS_REG_MARK_MAX      64
#define CS_REG_ID_RANDOM     16                                           /* bytes */
#define CS_REG_ID_MAX        (CS_REG_MARK_MAX + 1 + 2 * CS_REG_ID_RANDOM) /* SPIRE takes 255 */
#define CS_REG_NODE_MAX      255
#define CS_REG_HINT_MAX      (10 + 1 + CS_REG_NODE_MAX) /* SPIRE takes 1,024 */
#define CS_REG_SELECTOR_TYPE "countersign"              /* "countersign:id:NUMBER", which only this identity has */

/* One block of memory; strings point into it. Lists are lines, sorted, without repeats: "a\nb". */
struct cs_reg_entry {
	const char *id, *spiffe_id, *parent_id, *selectors, *federates_with, *hint;
	int32_t ttl_s;
	bool admin, downstream, store_svid, dns_names;
	int64_t expires_unix_s, created_unix_s, revision;
};
/* A copy; IDs are "spiffe://...". free() it. */
struct cs_reg_entry *cs_reg_entry_new(const Spire__Api__Types__Entry *entry);

/* Everything that the registrar decides about an entry. Strings are borrowed. */
struct cs_reg_content {
	uint32_t identity;
	const char *node, *spiffe_id, *parent_id;
	const char *federates_with; /* lines */
	int32_t ttl_s;
};

enum cs_reg_field { /* bits */
	CS_REG_SPIFFE_ID = 1 << 0,
	CS_REG_PARENT_ID = 1 << 1,
	CS_REG_SELECTORS = 1 << 2,
	CS_REG_TTL = 1 << 3,
	CS_REG_FEDERATES = 1 << 4,
	CS_REG_HINT = 1 << 5,
	CS_REG_FLAGS = 1 << 6, /* admin, downstream, store_svid: they hide the SVID from delegates */
	CS_REG_EXPIRY = 1 << 7,
	CS_REG_DNS = 1 << 8,
	CS_REG_FIELDS = 9,
};
/* "spiffe_id", ... of one bit. */
const char *cs_reg_field_name(enum cs_reg_field field);
/* The fields (bits) in which an entry is not what it should be; 0: there is nothing to write. */
unsigned cs_reg_differs(const struct cs_reg_content *content, const struct cs_reg_entry *entry);

/* Is it of this mark? */
bool cs_reg_is_ours(const char *mark, const char *id);
/* What an entry is for, by its hint. false: it does not say. */
bool cs_reg_hint_read(const char *hint, uint32_t *ret_identity, char ret_node[CS_REG_NODE_MAX + 1]);
/* ... and by its selectors, whoever changed its hint. 0: they do not say. */
uint32_t cs_reg_selectors_read(const char *selectors);

/* A message to send, id included. One block of memory: free() it. */
Spire__Api__Types__Entry *cs_reg_message(const struct cs_reg_content *content, const char *id);
/* The fields that cs_reg_message() decides. */
Spire__Api__Types__EntryMask cs_reg_mask(void);

#endif
