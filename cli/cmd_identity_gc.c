/* identity gc: identities that no endpoint refers to. */
#include "commands.h"

#include <countersign/v1/admin.pb-c.h>
#include "client.h"
#include "doc.h"
#include "view.h"

static enum cs_style cell_left(const json_t *value, int64_t now_unix_ms, FILE *out)
{
	char span[24];
	(void)now_unix_ms;
	if (json_is_null(value))
		return CS_STYLE_PLAIN;
	cs_view_span(json_integer_value(value), span);
	fputs(span, out);
	return CS_STYLE_PLAIN;
}

static const struct cs_column columns[] = {
	{"IDENTITY", "identity", cs_cell_text, true},
	{"WHAT", "state", cs_cell_text, false},
	{"LEFT", "left_ms", cell_left, true},
	{"LABELS", "labels", cs_cell_text, false},
};

static json_t *item(const Countersign__V1__Garbage *g)
{
	static const char *const states[] = {"unknown", "mark", "marked", "delete", "resting"};
	bool waits = g->state == COUNTERSIGN__V1__GARBAGE__STATE__STATE_WAIT ||
		     g->state == COUNTERSIGN__V1__GARBAGE__STATE__STATE_REST;
	json_t *o = json_object();
	cs_doc_set(o, "identity", json_integer(g->identity));
	cs_doc_set(o, "state",
		json_string(g->state <= COUNTERSIGN__V1__GARBAGE__STATE__STATE_REST ? states[g->state] : states[0]));
	cs_doc_set(o, "left_ms", waits ? json_integer(g->left_ms) : json_null());
	cs_doc_set(o, "labels", json_string(g->labels));
	return o;
}

static void take_reply(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__CollectGarbageReply *in = (const Countersign__V1__CollectGarbageReply *)message;
	json_t *document = data, *items = json_array();
	for (size_t i = 0; i < in->n_items; i++)
		json_array_append_new(items, item(in->items[i]));
	cs_doc_set(document, "marked", json_integer(in->marked));
	cs_doc_set(document, "deleted", json_integer(in->deleted));
	cs_doc_set(document, "waiting", json_integer(in->waiting));
	cs_doc_set(document, "resting", json_integer(in->resting));
	cs_doc_set(document, "identities", items);
}

static void put(const struct cs_cli *cli, const json_t *document, bool dry_run)
{
	long long marked = json_integer_value(json_object_get(document, "marked")),
		  deleted = json_integer_value(json_object_get(document, "deleted"));
	if (!dry_run) {
		fprintf(cli->out, "%lld marked, %lld deleted\n", marked, deleted);
		return;
	}
	cs_view_table(cli->out, json_object_get(document, "identities"), columns, sizeof(columns) / sizeof(columns[0]),
		"every identity is in use", cs_cli_now_ms(), cli->colour);
	fprintf(cli->out, "%lld would be marked, %lld deleted; %lld are marked and wait, %lld numbers rest\n", marked,
		deleted, (long long)json_integer_value(json_object_get(document, "waiting")),
		(long long)json_integer_value(json_object_get(document, "resting")));
}

static int run(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__CollectGarbageRequest request = COUNTERSIGN__V1__COLLECT_GARBAGE_REQUEST__INIT;
	json_t *document = json_object();
	request.dry_run = cs_cli_value(cli, "dry-run") != NULL;
	int code = cs_cli_ask(cli, &cs_service_admin, "CollectGarbage", &request.base, take_reply, document, NULL, e);
	if (code == CS_CLI_OK && cli->json)
		cs_view_json(cli->out, document);
	else if (code == CS_CLI_OK)
		put(cli, document, request.dry_run);
	json_decref(document);
	return code;
}

static const struct cs_option options[] = {
	{.name = "dry-run", .help = "Only say what would be done, and what waits"},
};

const struct cs_command cs_cmd_identity_gc = {.name = "identity gc",
	.summary = "Mark identities that no endpoint uses, and delete those that are marked for long enough",
	.usage = "[--dry-run]",
	.options = options,
	.noptions = 1,
	.notes = "The cluster role that leads does so by itself once a minute: an identity that no endpoint refers to "
		 "is marked,\n"
		 "deleted after gc.grace, and its number rests for id.quarantine. One that a revocation names stays.\n"
		 "--dry-run lists at most 2000 of them. To be run where the cluster role runs, by an operator.",
	.examples = "  countersign identity gc --dry-run\n",
	.run = run};
