/* entry list, entry diff, entry sync: SPIRE's registration entries, as they are and as they should be. */
#include "commands.h"

#include <string.h>
#include <countersign/v1/entries.pb-c.h>
#include "client.h"
#include "doc.h"
#include "view.h"

#define N(columns) (sizeof(columns) / sizeof((columns)[0]))

static json_t *texts(char *const *list, size_t n)
{
	json_t *array = json_array();
	for (size_t i = 0; i < n; i++)
		cs_doc_append(array, cs_doc_text(list[i]));
	return array;
}

/* ---- list ---- */

static json_t *entry_doc(const Countersign__V1__RegistrationEntry *e)
{
	json_t *entry = cs_doc_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "id", cs_doc_text(e->id), "spiffe_id",
		cs_doc_text(e->spiffe_id), "parent_id", cs_doc_text(e->parent_id), "selectors",
		texts(e->selectors, e->n_selectors), "federates_with", texts(e->federates_with, e->n_federates_with),
		"hint", cs_doc_text(e->hint));
	cs_doc_set(entry, "svid_ttl_s", json_integer(e->svid_ttl_s));
	cs_doc_set(entry, "admin", json_boolean(e->admin));
	cs_doc_set(entry, "downstream", json_boolean(e->downstream));
	cs_doc_set(entry, "created_unix_ms", json_integer(e->created_unix_s * 1000));
	cs_doc_set(entry, "revision", json_integer(e->revision));
	cs_doc_set(entry, "identity", e->identity ? json_integer(e->identity) : json_null());
	cs_doc_set(entry, "node", *e->node ? cs_doc_text(e->node) : json_null());
	cs_doc_set(entry, "warning", *e->warning ? cs_doc_text(e->warning) : json_null());
	return entry;
}

static void take_entries(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__EntryBatch *batch = (const void *)message;
	for (size_t i = 0; i < batch->n_entries; i++)
		cs_doc_append(data, entry_doc(batch->entries[i]));
}

static const struct cs_column entry_columns[] = {
	{"IDENTITY", "identity", cs_cell_text, true},
	{"NODE", "node", cs_cell_text, false},
	{"SPIFFE ID", "spiffe_id", cs_cell_text, false},
	{"PARENT", "parent_id", cs_cell_text, false},
	{"REVISION", "revision", cs_cell_text, true},
	{"MADE", "created_unix_ms", cs_cell_ago, false},
	{"ENTRY", "id", cs_cell_text, false},
};
static const struct cs_column foreign_columns[] = {
	{"ENTRY", "id", cs_cell_text, false},
	{"SPIFFE ID", "spiffe_id", cs_cell_text, false},
	{"PARENT", "parent_id", cs_cell_text, false},
	{"SELECTORS", "selectors", cs_cell_list, false},
	{"MADE", "created_unix_ms", cs_cell_ago, false},
	{"WARNING", "warning", cs_cell_text, false},
};

static int run_list(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__ListEntriesRequest request = COUNTERSIGN__V1__LIST_ENTRIES_REQUEST__INIT;
	json_t *entries = json_array();
	bool foreign = cs_cli_value(cli, "foreign") != NULL;
	request.foreign = foreign;
	int code = cs_cli_stream(cli, &cs_service_entries, "List", &request.base, take_entries, entries, NULL, e);
	cs_doc_sort(entries, "spiffe_id");
	if (code == CS_CLI_OK && cli->json) {
		json_t *document = cs_doc_pack("{s:O}", "entries", entries);
		cs_view_json(cli->out, document);
		json_decref(document);
	} else if (code == CS_CLI_OK && foreign) {
		cs_view_table(cli->out, entries, foreign_columns, N(foreign_columns), "no foreign entries",
			cs_cli_now_ms(), cli->colour);
	} else if (code == CS_CLI_OK) {
		cs_view_table(
			cli->out, entries, entry_columns, N(entry_columns), "no entries", cs_cli_now_ms(), cli->colour);
	}
	json_decref(entries);
	return code;
}

/* ---- diff, sync ---- */

static const char *action_of(const Countersign__V1__EntryChange *c)
{
	switch (c->action) {
	case COUNTERSIGN__V1__ENTRY_ACTION__ENTRY_ACTION_CREATE:
		return "create";
	case COUNTERSIGN__V1__ENTRY_ACTION__ENTRY_ACTION_UPDATE:
		return "update";
	case COUNTERSIGN__V1__ENTRY_ACTION__ENTRY_ACTION_DELETE:
		return "delete";
	case COUNTERSIGN__V1__ENTRY_ACTION__ENTRY_ACTION_LINGER:
		return "linger";
	default:
		return "unknown";
	}
}

static json_t *change_doc(const Countersign__V1__EntryChange *c)
{
	json_t *change = cs_doc_pack("{s:s, s:I, s:o, s:o, s:o, s:o}", "action", action_of(c), "identity",
		(json_int_t)c->identity, "node", cs_doc_text(c->node), "spiffe_id", cs_doc_text(c->spiffe_id),
		"parent_id", cs_doc_text(c->parent_id), "fields", texts(c->fields, c->n_fields));
	cs_doc_set(change, "entry_id", *c->entry_id ? cs_doc_text(c->entry_id) : json_null());
	cs_doc_set(change, "until_unix_ms", c->until_unix_ms ? json_integer(c->until_unix_ms) : json_null());
	cs_doc_set(change, "retry_unix_ms", c->retry_unix_ms ? json_integer(c->retry_unix_ms) : json_null());
	cs_doc_set(change, "done", json_boolean(c->done));
	cs_doc_set(change, "failed", c->failed ? cs_doc_text(c->failed->detail) : json_null());
	return change;
}

static void take_changes(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__ChangeBatch *batch = (const void *)message;
	for (size_t i = 0; i < batch->n_changes; i++)
		cs_doc_append(data, change_doc(batch->changes[i]));
}

static enum cs_style cell_state(const json_t *change, int64_t now_unix_ms, FILE *out)
{
	const char *failed = json_string_value(json_object_get(change, "failed"));
	json_int_t until = json_integer_value(json_object_get(change, "until_unix_ms"));
	char span[24];
	if (failed) {
		fprintf(out, "failed: %s", failed);
		return CS_STYLE_BAD;
	}
	if (json_is_true(json_object_get(change, "done"))) {
		fputs("done", out);
		return CS_STYLE_GOOD;
	}
	if (until) {
		cs_view_span(until > now_unix_ms ? until - now_unix_ms : 0, span);
		fprintf(out, "deleted in %s", span);
		return CS_STYLE_DIM;
	}
	fputs("to do", out);
	return CS_STYLE_PLAIN;
}

static const struct cs_column change_columns[] = {
	{"ACTION", "action", cs_cell_text, false},
	{"IDENTITY", "identity", cs_cell_text, true},
	{"NODE", "node", cs_cell_text, false},
	{"SPIFFE ID", "spiffe_id", cs_cell_text, false},
	{"FIELDS", "fields", cs_cell_list, false},
	{"STATE", NULL, cell_state, false},
};

static bool any_failed(const json_t *changes)
{
	size_t i;
	const json_t *change;
	json_array_foreach(changes, i, change) if (!json_is_null(json_object_get(change, "failed"))) return true;
	return false;
}

static int show_changes(
	struct cs_cli *cli, const char *method, const ProtobufCMessage *request, const char *empty, struct cs_error *e)
{
	json_t *changes = json_array();
	int code = cs_cli_stream(cli, &cs_service_entries, method, request, take_changes, changes, NULL, e);
	cs_doc_sort(changes, "identity");
	if (code == CS_CLI_OK && cli->json) {
		json_t *document = cs_doc_pack("{s:O}", "changes", changes);
		cs_view_json(cli->out, document);
		json_decref(document);
	} else if (code == CS_CLI_OK) {
		cs_view_table(
			cli->out, changes, change_columns, N(change_columns), empty, cs_cli_now_ms(), cli->colour);
	}
	if (code == CS_CLI_OK && any_failed(changes)) {
		cs_error_set(e, -1, "not every entry is as it should be; those that failed are tried again");
		code = CS_CLI_NOT_YET;
	}
	json_decref(changes);
	return code;
}

static int run_diff(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__DiffEntriesRequest request = COUNTERSIGN__V1__DIFF_ENTRIES_REQUEST__INIT;
	return show_changes(cli, "Diff", &request.base, "every entry is as it should be", e);
}

static int run_sync(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__SyncEntriesRequest request = COUNTERSIGN__V1__SYNC_ENTRIES_REQUEST__INIT;
	request.dry_run = cs_cli_value(cli, "dry-run") != NULL;
	request.delete_missing = cs_cli_value(cli, "delete-missing") != NULL;
	return show_changes(cli, "Sync", &request.base, "every entry was as it should be", e);
}

static const struct cs_option list_options[] = {
	{.name = "foreign", .help = "Those under our SPIFFE IDs that are not ours, instead of our own"},
};
static const struct cs_option sync_options[] = {
	{.name = "dry-run", .help = "Say what would be done, and do nothing"},
	{.name = "delete-missing",
		.help = "Delete also the entries that are held because the directory suddenly lacked most of them"},
};

const struct cs_command cs_cmd_entry_list = {.name = "entry list",
	.summary = "SPIRE's registration entries: one per identity and node",
	.usage = "[--foreign]",
	.options = list_options,
	.noptions = N(list_options),
	.timeout_ms = 60000,
	.notes = "Asks SPIRE's server, by countersign-registrar. Our own entries are known by their ID, which begins "
		 "with "
		 "registrar.mark; a registrar that starts writes nothing while foreign entries exist under "
		 "registrar.spiffe_id_prefix.",
	.examples = "  countersign entry list\n"
		    "  countersign entry list --foreign\n"
		    "  countersign entry list --foreign -o json | jq -r '.entries[].id'\n",
	.run = run_list};

const struct cs_command cs_cmd_entry_diff = {.name = "entry diff",
	.summary = "Where SPIRE's entries are not as they should be, and why",
	.usage = "",
	.timeout_ms = 30000,
	.notes = "What countersign-registrar knows at this moment: what it is about to do, what failed and is tried "
		 "again, and "
		 "which entries linger. The exit code is 4 if something failed.",
	.examples = "  countersign entry diff\n"
		    "  countersign entry diff -o json | jq '.changes[] | select(.failed)'\n",
	.run = run_diff};

const struct cs_command cs_cmd_entry_sync = {.name = "entry sync",
	.summary = "List SPIRE's entries now, and make them as they should be",
	.usage = "[--dry-run] [--delete-missing]",
	.options = sync_options,
	.noptions = N(sync_options),
	.timeout_ms = 600000,
	.notes = "It is done by itself too, at every change and hourly (registrar.list_interval). The exit code is 4 "
		 "if an entry "
		 "could not be written, or is held: when the directory's full state lacks the nodes or identities of "
		 "more than 10 entries and of more than half, as that of an empty store does, they are not deleted "
		 "before --delete-missing says so.",
	.examples = "  countersign entry sync --dry-run\n"
		    "  countersign entry sync\n"
		    "  countersign entry sync --delete-missing\n",
	.run = run_sync};
