/* status: every daemon of the instance in its own words. */
#include "commands.h"

#include <string.h>
#include <countersign/v1/status.pb-c.h>
#include "client.h"
#include "doc.h"
#include "view.h"

/* "" where there is no cluster role. */
static json_t *leadership(Countersign__V1__Leadership value)
{
	switch (value) {
	case COUNTERSIGN__V1__LEADERSHIP__LEADERSHIP_LEADER:
		return json_string("leader");
	case COUNTERSIGN__V1__LEADERSHIP__LEADERSHIP_FOLLOWER:
		return json_string("follower");
	default:
		return json_string("");
	}
}

static void take_status(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__StatusReply *r = (const void *)message;
	json_t *daemon = data, *checks = json_array();
	for (size_t i = 0; i < r->n_checks; i++) {
		const Countersign__V1__Check *c = r->checks[i];
		cs_doc_append(
			checks, cs_doc_pack("{s:o, s:b, s:o, s:I}", "name", cs_doc_text(c->name), "ok", c->ok, "reason",
					cs_doc_reason(c->reason), "since_unix_ms", (json_int_t)c->since_unix_ms));
	}
	cs_doc_set(daemon, "running", json_true());
	cs_doc_set(daemon, "healthy", json_boolean(r->healthy));
	cs_doc_set(daemon, "version", cs_doc_text(r->version));
	cs_doc_set(daemon, "role", cs_doc_text(r->role));
	cs_doc_set(daemon, "leadership", leadership(r->leadership));
	cs_doc_set(daemon, "node", cs_doc_text(r->node));
	cs_doc_set(daemon, "started_unix_ms", json_integer(r->started_unix_ms));
	cs_doc_set(daemon, "checks", checks);
}

static json_t *ask(const struct cs_cli *cli, const struct cs_service *service)
{
	Countersign__V1__StatusRequest request = COUNTERSIGN__V1__STATUS_REQUEST__INIT;
	struct cs_error e = {0};
	json_t *daemon = cs_doc_pack("{s:s, s:b, s:b, s:s, s:s, s:s, s:s, s:i, s:[]}", "daemon", service->daemon,
		"running", 0, "healthy", 0, "version", "", "role", "", "leadership", "", "node", "", "started_unix_ms",
		0, "checks");
	int code = cs_cli_ask(cli, service, "Get", &request.base, take_status, daemon, NULL, &e);
	if (e.reason == CS_R_ROLE_REFUSED) /* it is there, and turns this user away */
		cs_doc_set(daemon, "running", json_true());
	cs_doc_set(daemon, "error", code == CS_CLI_OK ? json_null() : cs_doc_text(e.text));
	return daemon;
}

/* ---- the table ---- */

static enum cs_style cell_state(const json_t *daemon, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	bool running = json_is_true(json_object_get(daemon, "running"));
	bool healthy = json_is_true(json_object_get(daemon, "healthy"));
	if (running && json_is_string(json_object_get(daemon, "error"))) {
		fputs("no access", out);
		return CS_STYLE_WARN;
	}
	fputs(!running ? "down" : healthy ? "healthy" : "degraded", out);
	return !running ? CS_STYLE_BAD : healthy ? CS_STYLE_GOOD : CS_STYLE_WARN;
}

/* A cluster role that is alone leads, and nobody asks. */
static enum cs_style cell_role(const json_t *daemon, int64_t now_unix_ms, FILE *out)
{
	const char *role = json_string_value(json_object_get(daemon, "role"));
	const char *leadership = json_string_value(json_object_get(daemon, "leadership"));
	cs_cell_text(json_object_get(daemon, "role"), now_unix_ms, out);
	if (strcmp(role, "cluster") == 0 && *leadership)
		fprintf(out, ", %s", leadership);
	return CS_STYLE_PLAIN;
}

static const struct cs_column columns[] = {
	{"DAEMON", "daemon", cs_cell_text, false},
	{"STATE", NULL, cell_state, false},
	{"STARTED", "started_unix_ms", cs_cell_ago, false},
	{"VERSION", "version", cs_cell_text, false},
	{"ROLE", NULL, cell_role, false},
	{"NODE", "node", cs_cell_text, false},
};

/* One line per check that is not ok, and per daemon that does not answer. */
static void put_trouble(const struct cs_cli *cli, const json_t *daemon)
{
	const char *name = json_string_value(json_object_get(daemon, "daemon"));
	const char *error = json_string_value(json_object_get(daemon, "error"));
	size_t i;
	const json_t *check;
	if (error) {
		fprintf(cli->out, "%s: ", name);
		cs_view_styled(cli->out, CS_STYLE_BAD, cli->colour, error);
		fputc('\n', cli->out);
	}
	json_array_foreach(json_object_get(daemon, "checks"), i, check)
	{
		const json_t *reason = json_object_get(check, "reason");
		const char *why = json_string_value(json_object_get(reason, "name"));
		const char *detail = json_string_value(json_object_get(reason, "detail"));
		if (json_is_true(json_object_get(check, "ok")))
			continue;
		fprintf(cli->out, "%s: ", name);
		cs_view_styled(cli->out, CS_STYLE_WARN, cli->colour, json_string_value(json_object_get(check, "name")));
		fputs(why && *why ? ": " : "", cli->out);
		cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, why ? why : "");
		fputs(detail && *detail ? ": " : "", cli->out);
		cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, detail ? detail : "");
		fputs(" (since ", cli->out);
		cs_cell_ago(json_object_get(check, "since_unix_ms"), cs_cli_now_ms(), cli->out);
		fputs(")\n", cli->out);
	}
}

static int run(struct cs_cli *cli, struct cs_error *e)
{
	(void)e; /* a daemon that is down is an answer */
	json_t *daemons = json_array();
	bool healthy = true;
	for (size_t i = 0; i < cs_service_nstatus; i++) {
		if (cs_service_is_absent(cli->instance, &cs_service_status[i]))
			continue;
		json_t *daemon = ask(cli, &cs_service_status[i]);
		healthy &= json_is_true(json_object_get(daemon, "healthy"));
		cs_doc_append(daemons, daemon);
	}
	json_t *document = cs_doc_pack(
		"{s:o, s:b, s:o}", "instance", cs_doc_text(cli->instance), "healthy", healthy, "daemons", daemons);
	if (cli->json) {
		cs_view_json(cli->out, document);
	} else {
		size_t i;
		const json_t *daemon;
		cs_view_table(cli->out, daemons, columns, sizeof(columns) / sizeof(columns[0]), "", cs_cli_now_ms(),
			cli->colour);
		json_array_foreach(daemons, i, daemon) put_trouble(cli, daemon);
	}
	json_decref(document);
	return healthy ? CS_CLI_OK : CS_CLI_FAILED;
}

const struct cs_command cs_cmd_status = {.name = "status",
	.summary = "Whether the daemons of this node run, and what is wrong",
	.usage = "",
	.notes = "The exit code is 0 only if every daemon runs and all its checks are ok.",
	.timeout_ms = 2000,
	.examples = "  countersign status\n"
		    "  countersign status --instance /run/cs/node1 -o json | jq '.daemons[].checks[] | select(.ok | "
		    "not)'\n",
	.run = run};
