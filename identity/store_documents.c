/* Sets of files: the bytes first, by their sums, in as many revisions as it takes; then, in one, which files the set has
 * now; then what no set names any more goes. So a set is the old one or the new one, never a mixture. */
#include "store_private.h"

#include <errno.h>
#include <limits.h>
#include <openssl/sha.h>
#include "mem.h"

static struct cs_store_document *sums_of(const struct cs_store_op *op)
{
	struct cs_store_document *items = cs_xcalloc(op->documents.n, sizeof(*items));
	for (size_t i = 0; i < op->documents.n; i++) {
		const struct cs_store_file *file = &op->documents.files[i];
		items[i].name = file->name;
		SHA256(file->bytes, file->n, items[i].sha256);
	}
	return items;
}

/* 1: no room for all of them. */
static int put_blobs(struct cs_store *s, struct cs_store_op *op, const struct cs_store_document *items)
{
	for (size_t i = 0; i < op->documents.n; i++) {
		const struct cs_store_file *file = &op->documents.files[i];
		struct cs_fact fact = {.kind = CS_FACT_BLOB, .blob = {.bytes = file->bytes, .n = file->n}};
		memcpy(fact.blob.sha256, items[i].sha256, CS_SHA256_BYTES);
		if (cs_facts_find(s->facts, &fact))
			continue;
		if (!cs_store_has_room(s, CS_STORE_OP_WRITES_MAX, file->n + CS_STORE_OP_BYTES_MAX))
			return 1;
		cs_store_put(s, &fact);
		op->changed = true;
	}
	return 0;
}

static bool same_set(const struct cs_store_documents *known, const struct cs_store_document *items, size_t n)
{
	if (!known || known->n != n)
		return false;
	for (size_t i = 0; i < n; i++)
		if (strcmp(known->items[i].name, items[i].name) != 0 ||
			memcmp(known->items[i].sha256, items[i].sha256, CS_SHA256_BYTES) != 0)
			return false;
	return true;
}

static int put_set(struct cs_store *s, struct cs_store_op *op, const struct cs_store_document *items)
{
	struct cs_fact fact = {.kind = CS_FACT_DOCUMENTS,
		.documents = {.set = op->documents.set, .items = items, .n = op->documents.n}};
	size_t bytes = 0;
	if (same_set(cs_facts_documents(s->facts, op->documents.set), items, op->documents.n))
		return 0;
	for (size_t i = 0; i < op->documents.n; i++)
		bytes += sizeof(*items) + strlen(items[i].name);
	if (!cs_store_has_room(s, CS_STORE_OP_WRITES_MAX, bytes + CS_STORE_OP_BYTES_MAX))
		return 1;
	cs_store_put(s, &fact);
	op->changed = true;
	return 0;
}

struct named {
	const uint8_t *sha256;
	bool is;
};

static void look_in_set(void *data, const struct cs_fact *fact)
{
	struct named *named = data;
	for (size_t i = 0; i < fact->documents.n; i++)
		named->is |= memcmp(fact->documents.items[i].sha256, named->sha256, CS_SHA256_BYTES) == 0;
}

static int drop_blobs(struct cs_store *s, struct cs_store_op *op)
{
	struct cs_fact_entry *entry, *tmp;
	HASH_ITER (hh, s->facts->kinds[CS_FACT_BLOB], entry, tmp) {
		struct named named = {.sha256 = entry->fact.blob.sha256};
		cs_facts_each(s->facts, CS_FACT_DOCUMENTS, look_in_set, &named);
		if (named.is)
			continue;
		if (!cs_store_has_room(s, CS_STORE_OP_WRITES_MAX, CS_STORE_OP_BYTES_MAX))
			return 1;
		cs_store_remove(s, entry);
		op->changed = true;
	}
	return 0;
}

static int check(struct cs_store_op *op)
{
	if (op->documents.n > CS_STORE_FILES_MAX)
		return cs_store_refuse(op, -E2BIG, CS_R_TOO_MANY, "%zu files are more than a set may have (%d)",
			op->documents.n, CS_STORE_FILES_MAX);
	for (size_t i = 0; i < op->documents.n; i++)
		if (op->documents.files[i].n > CS_STORE_FILE_MAX || strlen(op->documents.files[i].name) > NAME_MAX)
			return cs_store_refuse(op, -EFBIG, CS_R_TOO_MANY,
				"the file %.255s is larger than %u bytes, which is what the store takes",
				op->documents.files[i].name, CS_STORE_FILE_MAX);
	return 0;
}

int cs_store_apply_documents(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	(void)e;
	check(op);
	if (op->result < 0)
		return 0;
	struct cs_store_document *items = sums_of(op);
	int r = put_blobs(s, op, items);
	if (r == 0)
		r = put_set(s, op, items);
	if (r == 0)
		r = drop_blobs(s, op);
	free(items);
	return r;
}
