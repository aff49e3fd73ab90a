/* identity lint: which labels make identities multiply, and when there are no numbers left. */
#include "commands.h"

#include <errno.h>
#include <string.h>
#include <countersign/v1/admin.pb-c.h>
#include "client.h"
#include "directory.h"
#include "doc.h"
#include "lint.h"
#include "view.h"

static void take_usage(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__UsageReply *reply = (const void *)message;
	struct cs_lint_range *range = data;
	*range = (struct cs_lint_range){.known = true,
		.first = reply->first,
		.last = reply->last,
		.in_use = reply->in_use,
		.resting = reply->resting};
}

/* Only the cluster role knows the range; elsewhere the rest is told all the same. */
static int read_range(const struct cs_cli *cli, struct cs_lint_range *range, struct cs_error *e)
{
	Countersign__V1__UsageRequest request = COUNTERSIGN__V1__USAGE_REQUEST__INIT;
	struct cs_grpc_status status = {0};
	int code = cs_cli_ask(cli, &cs_service_admin, "Usage", &request.base, take_usage, range, &status, e);
	return code == CS_CLI_REFUSED && status.code == CS_GRPC_FAILED_PRECONDITION ? CS_CLI_OK : code;
}

static enum cs_style cell_multiplies(const json_t *value, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	fputs(json_is_true(value) ? "yes" : "", out);
	return json_is_true(value) ? CS_STYLE_WARN : CS_STYLE_PLAIN;
}

static const struct cs_column columns[] = {
	{"LABEL", "key", cs_cell_text, false},
	{"VALUES", "values", cs_cell_text, true},
	{"IDENTITIES", "identities", cs_cell_text, true},
	{"UNUSED", "unused", cs_cell_text, true},
	{"WITHOUT IT", "without", cs_cell_text, true},
	{"MULTIPLIES", "multiplies", cell_multiplies, false},
	{"EXAMPLE", "example", cs_cell_text, false},
};

static void put_range(const struct cs_cli *cli, const json_t *document)
{
	const json_t *range = json_object_get(document, "range");
	const json_t *per_day = json_object_get(document, "per_day"), *days = json_object_get(document, "full_in_days");
	fprintf(cli->out, "\n%lld identities, %lld of them without an endpoint",
		(long long)json_integer_value(json_object_get(document, "identities")),
		(long long)json_integer_value(json_object_get(document, "unused")));
	if (json_is_null(range))
		fputs("; how many there can be is told where the cluster role runs", cli->out);
	else
		fprintf(cli->out, "; numbers %lld to %lld, %lld free, %lld resting",
			(long long)json_integer_value(json_object_get(range, "first")),
			(long long)json_integer_value(json_object_get(range, "last")),
			(long long)json_integer_value(json_object_get(range, "free")),
			(long long)json_integer_value(json_object_get(range, "resting")));
	if (!json_is_null(per_day))
		fprintf(cli->out, "; %.1f new ones a day", json_real_value(per_day));
	if (!json_is_null(days))
		fprintf(cli->out, ", full in %.0f days at this rate", json_real_value(days));
	fputc('\n', cli->out);
}

static void put(const struct cs_cli *cli, const json_t *document)
{
	const json_t *warning;
	size_t i;
	cs_view_table(cli->out, json_object_get(document, "labels"), columns, sizeof(columns) / sizeof(columns[0]),
		"no identities", cs_cli_now_ms(), cli->colour);
	put_range(cli, document);
	json_array_foreach(json_object_get(document, "warnings"), i, warning)
	{
		cs_view_styled(cli->out, CS_STYLE_WARN, cli->colour, json_string_value(warning));
		fputc('\n', cli->out);
	}
	cs_directory_note_silence(cli, document);
}

static int run(struct cs_cli *cli, struct cs_error *e)
{
	struct cs_lint_range range = {0};
	json_t *all;
	int code = read_range(cli, &range, e);
	if (code == CS_CLI_OK)
		code = cs_directory_read(cli, CS_DIRECTORY_IDENTITIES, &all, e);
	if (code != CS_CLI_OK)
		return code;
	json_t *document = cs_lint_doc(json_object_get(all, "identities"), &range, cs_cli_now_ms());
	cs_doc_set(document, "silent_ms", json_incref(json_object_get(all, "silent_ms")));
	json_decref(all);
	if (cli->json)
		cs_view_json(cli->out, document);
	else
		put(cli, document);
	code = json_array_size(json_object_get(document, "warnings")) > 0 ? CS_CLI_FAILED : CS_CLI_OK;
	json_decref(document);
	e->text[0] = '\0'; /* all was said */
	return code;
}

const struct cs_command cs_cmd_identity_lint = {.name = "identity lint",
	.summary = "Say which labels make identities multiply, and when there are no numbers left",
	.usage = "",
	.timeout_ms = 30000,
	.notes = "WITHOUT IT is how many identities there would be if no identity had the label. A label MULTIPLIES if "
		 "it makes\n"
		 "10 identities or more and at least half of its values look made by a machine (a number, a hash, a "
		 "UUID);\n"
		 "labels.filter of identityd leaves it out of identities made from then on. The rate is that of the "
		 "last 7\n"
		 "days. Exit code 1: there is a warning (a label that multiplies, or full within 30 days).",
	.examples = "  countersign identity lint\n"
		    "  countersign identity lint -o json | jq -r '.warnings[]'\n",
	.run = run};
