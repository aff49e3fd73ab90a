/* What SPIRE's server sends, of whatever bytes: a page of registration entries, to the registrar's plan. An entry without our
 * mark is never written; what is written once is right, or it says why not. */
#include <countersign/v1/directory.pb-c.h>
#include <stdlib.h>
#include <string.h>
#include "grpc.h"
#include "grpc_wire.h"
#include "registrar_plan.h"
#include "spire_entry.pb-c.h"

#define UNPACK_MAX (1u << 20)
#define MARK       "countersign"
#define TAKEN_MAX  64

typedef Spire__Api__Server__Entry__V1__ListEntriesResponse page;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static double no_jitter(void *data)
{
	(void)data;
	return 0.5;
}

static void say(struct cs_reg_plan *plan, Countersign__V1__Record *record, bool synced)
{
	struct cs_error e;
	Countersign__V1__DirectoryBatch batch = COUNTERSIGN__V1__DIRECTORY_BATCH__INIT;
	batch.records = &record;
	batch.n_records = 1;
	batch.complete = batch.synced = synced;
	require(cs_reg_plan_directory_batch(plan, &batch, 0, &e) == 0);
}

/* n1 runs 300; it knows 301. */
static void directory(struct cs_reg_plan *plan)
{
	Countersign__V1__Record record = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Node node = COUNTERSIGN__V1__NODE__INIT;
	Countersign__V1__Identity identity = COUNTERSIGN__V1__IDENTITY__INIT;
	Countersign__V1__Placement placement = COUNTERSIGN__V1__PLACEMENT__INIT;
	cs_reg_plan_directory_begin(plan);
	record.record_case = COUNTERSIGN__V1__RECORD__RECORD_NODE;
	record.node = &node;
	node.name = (char *)"n1";
	say(plan, &record, false);
	record.record_case = COUNTERSIGN__V1__RECORD__RECORD_IDENTITY;
	record.identity = &identity;
	identity.id = 300;
	identity.spiffe_id = (char *)"spiffe://example.org/identity/300";
	say(plan, &record, false);
	identity.id = 301;
	identity.spiffe_id = (char *)"spiffe://example.org/identity/301";
	say(plan, &record, false);
	record.record_case = COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT;
	record.placement = &placement;
	placement.identity = 300;
	placement.node = (char *)"n1";
	say(plan, &record, true);
}

static void on_change(void *data, const struct cs_reg_slot *slot, const struct cs_reg_change *change)
{
	(void)slot;
	require(!*change->entry_id || cs_reg_is_ours(MARK, change->entry_id));
	++*(size_t *)data;
}

static void list(struct cs_reg_plan *plan, const page *in)
{
	struct cs_error e;
	cs_reg_plan_list_begin(plan);
	for (size_t i = 0; i < in->n_entries; i++)
		require(cs_reg_plan_list_add(plan, in->entries[i], 0, &e) == 0);
	cs_reg_plan_list_end(plan, true, 0);
	for (size_t i = 0; i < cs_reg_plan_foreign(plan); i++)
		require(!cs_reg_is_ours(MARK, cs_reg_plan_foreign_at(plan, i)->id));
}

/* A server that does what it is asked. */
static void answer(struct cs_reg_plan *plan, struct cs_reg_slot *slot, enum cs_reg_op op)
{
	struct cs_error e;
	struct cs_reg_answer answer = {.code = CS_GRPC_OK, .message = ""};
	Spire__Api__Types__Entry *entry = NULL;
	if (op != CS_REG_CREATE)
		require(cs_reg_is_ours(MARK, cs_reg_slot_entry_id(slot)));
	if (op != CS_REG_DELETE) {
		const struct cs_reg_content content = cs_reg_slot_content(plan, slot);
		entry = cs_reg_message(&content,
			op == CS_REG_CREATE ? MARK ".ffffffffffffffffffffffffffffffff" : cs_reg_slot_entry_id(slot));
	}
	answer.entry = entry;
	require(cs_reg_plan_answered(plan, slot, op, &answer, 0, &e) == 0);
	free(entry);
}

static void write_all(struct cs_reg_plan *plan)
{
	struct cs_reg_slot *slots[TAKEN_MAX];
	size_t n, all = 0;
	do {
		n = 0;
		for (int op = 0; op < CS_REG_OPS; op++) {
			size_t taken = cs_reg_plan_take(plan, (enum cs_reg_op)op, slots, TAKEN_MAX);
			for (size_t i = 0; i < taken; i++)
				answer(plan, slots[i], (enum cs_reg_op)op);
			n += taken;
		}
		all += n;
		require(all < UNPACK_MAX); /* it comes to an end */
	} while (n > 0);
	require(cs_reg_plan_count(plan).right == 1 && cs_reg_plan_count(plan).wanted == 1);
}

static void try_page(const page *in)
{
	const struct cs_reg_rules rules = {.trust_domain = "example.org",
		.mark = MARK,
		.prefix = "spiffe://example.org/identity/",
		.parent = "/node/{node}",
		.agent_selector = "",
		.federates_with = "other.example",
		.linger_ms = 600000,
		.random = no_jitter};
	struct cs_reg_plan *plan = cs_reg_plan_new(&rules);
	size_t shown = 0;
	directory(plan);
	cs_reg_plan_preview_begin(plan);
	for (size_t i = 0; i < in->n_entries; i++)
		cs_reg_plan_preview_add(plan, in->entries[i], 0, on_change, &shown);
	cs_reg_plan_preview_end(plan, on_change, &shown);
	list(plan, in);
	cs_reg_plan_each_change(plan, on_change, &shown);
	write_all(plan);
	cs_reg_plan_free(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ProtobufCMessage *message;
	if (cs_grpc_unpack(&spire__api__server__entry__v1__list_entries_response__descriptor, data, size, UNPACK_MAX,
		    &message) < 0)
		return 0;
	try_page((const page *)message);
	cs_grpc_unpack_free(message);
	return 0;
}
