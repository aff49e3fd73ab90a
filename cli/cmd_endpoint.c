/* endpoint list, register, unregister. */
#include "commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "client.h"
#include "doc.h"
#include "endpoint.h"
#include "settings.h"
#include "view.h"

#define LABELS    64
#define ADDRESSES 8
#define STEPS     5

/* ---- cells ---- */

/* "ready", or the first condition that is not met and why. */
static enum cs_style cell_ready(const json_t *conditions, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	size_t i;
	const json_t *c;
	json_array_foreach(conditions, i, c)
	{
		const char *reason = json_string_value(json_object_get(json_object_get(c, "reason"), "name"));
		if (json_is_true(json_object_get(c, "met")))
			continue;
		fprintf(out, "not %s%s%s", json_string_value(json_object_get(c, "step")), reason ? ": " : "",
			reason ? reason : "");
		return CS_STYLE_WARN;
	}
	fputs(i ? "ready" : "", out);
	return CS_STYLE_GOOD;
}

static enum cs_style cell_met(const json_t *met, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	fputs(json_is_true(met) ? "yes" : "no", out);
	return json_is_true(met) ? CS_STYLE_GOOD : CS_STYLE_WARN;
}

static enum cs_style cell_reason(const json_t *reason, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	const char *name = json_string_value(json_object_get(reason, "name"));
	const char *detail = json_string_value(json_object_get(reason, "detail"));
	fprintf(out, "%s%s%s", name ? name : "", name && *name && detail && *detail ? ": " : "", detail ? detail : "");
	return CS_STYLE_PLAIN;
}

static enum cs_style cell_number(const json_t *number, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	if (json_integer_value(number))
		fprintf(out, "%lld", (long long)json_integer_value(number));
	return CS_STYLE_PLAIN;
}

static const struct cs_column list_columns[] = {
	{"ID", "id", cs_cell_text, false},
	{"INTERFACE", "interface", cs_cell_text, false},
	{"ADDRESSES", "addresses", cs_cell_list, false},
	{"IDENTITY", "identity", cell_number, true},
	{"STATE", "conditions", cell_ready, false},
	{"LABELS", "labels", cs_cell_list, false},
	{"NOT IN IDENTITY", "filtered_labels", cs_cell_list, false},
};
static const struct cs_column condition_columns[] = {
	{"CONDITION", "step", cs_cell_text, false},
	{"MET", "met", cell_met, false},
	{"SINCE", "since_unix_ms", cs_cell_ago, false},
	{"REASON", "reason", cell_reason, false},
};
#define N(columns) (sizeof(columns) / sizeof((columns)[0]))

/* ---- list ---- */

static void take_list(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__ListReply *reply = (const void *)message;
	for (size_t i = 0; i < reply->n_endpoints; i++)
		cs_doc_append(data, cs_endpoint_doc(reply->endpoints[i]));
}

static int read_list(const struct cs_cli *cli, json_t *list, struct cs_error *e)
{
	Countersign__V1__ListRequest request = COUNTERSIGN__V1__LIST_REQUEST__INIT;
	return cs_cli_ask(cli, &cs_service_endpoints, "List", &request.base, take_list, list, NULL, e);
}

static int run_list(struct cs_cli *cli, struct cs_error *e)
{
	json_t *document = cs_doc_pack("{s:[]}", "endpoints"), *list = json_object_get(document, "endpoints");
	int code = read_list(cli, list, e);
	cs_doc_sort(list, "id");
	if (code == CS_CLI_OK && cli->json)
		cs_view_json(cli->out, document);
	else if (code == CS_CLI_OK)
		cs_view_table(
			cli->out, list, list_columns, N(list_columns), "no endpoints", cs_cli_now_ms(), cli->colour);
	json_decref(document);
	return code;
}

/* ---- register ---- */

struct registration {
	Countersign__V1__RegisterRequest request;
	Countersign__V1__EndpointSpec spec;
	Countersign__V1__Label labels[LABELS], *label_list[LABELS];
	char *label_texts[LABELS];
	Countersign__V1__Address addresses[ADDRESSES], *address_list[ADDRESSES];
	uint8_t bytes[ADDRESSES][16];
	Countersign__V1__Step steps[STEPS];
	json_t *answer;
};

static int read_labels(const struct cs_cli *cli, struct registration *r, struct cs_error *e)
{
	const char *text;
	for (size_t i = 0; (text = cs_cli_nth(cli, "label", i)); i++) {
		if (i == LABELS)
			return cs_error_set(e, -E2BIG, "more than %d labels", LABELS);
		r->label_texts[i] = strdup(text);
		if (!r->label_texts[i])
			abort();
		r->label_list[i] = &r->labels[i];
		int rc = cs_label_parse(r->label_texts[i], &r->labels[i], e);
		if (rc < 0)
			return cs_error_prefix(e, "--label");
		r->spec.n_labels = i + 1;
	}
	r->spec.labels = r->label_list;
	return 0;
}

static int read_addresses(const struct cs_cli *cli, struct registration *r, struct cs_error *e)
{
	const char *text;
	for (size_t i = 0; (text = cs_cli_nth(cli, "address", i)); i++) {
		if (i == ADDRESSES)
			return cs_error_set(e, -E2BIG, "more than %d addresses", ADDRESSES);
		countersign__v1__address__init(&r->addresses[i]);
		r->addresses[i].ip.data = r->bytes[i];
		if (cs_address_parse(text, r->bytes[i], &r->addresses[i].ip.len, e) < 0)
			return cs_error_prefix(e, "--address");
		r->address_list[i] = &r->addresses[i];
		r->spec.n_addresses = i + 1;
	}
	r->spec.addresses = r->address_list;
	return 0;
}

static int read_wait(const struct cs_cli *cli, struct registration *r, struct cs_error *e)
{
	const char *p = cs_cli_value(cli, "wait");
	r->request.wait_for = r->steps;
	while (p) {
		size_t len = strcspn(p, ",");
		Countersign__V1__Step step = cs_step_parse(p, len);
		if (step == COUNTERSIGN__V1__STEP__STEP_UNSPECIFIED || r->request.n_wait_for == STEPS)
			return cs_error_set(e, -EINVAL, "--wait %.*s: not a list of %s", (int)len, p, cs_step_names);
		r->steps[r->request.n_wait_for++] = step;
		p = p[len] ? p + len + 1 : NULL;
	}
	return 0;
}

static int read_registration(const struct cs_cli *cli, struct registration *r, struct cs_error *e)
{
	countersign__v1__register_request__init(&r->request);
	countersign__v1__endpoint_spec__init(&r->spec);
	r->request.spec = &r->spec;
	r->spec.id = (char *)cs_cli_value(cli, "id");
	r->spec.interface = (char *)cs_cli_value(cli, "interface");
	r->spec.dhcp = cs_cli_value(cli, "dhcp") != NULL;
	r->spec.audit = cs_cli_value(cli, "audit") != NULL;
	int rc = read_labels(cli, r, e);
	if (rc == 0)
		rc = read_addresses(cli, r, e);
	if (rc == 0)
		rc = read_wait(cli, r, e);
	return rc;
}

static void take_status(const ProtobufCMessage *message, void *data)
{
	struct registration *r = data;
	json_decref(r->answer);
	r->answer = cs_endpoint_doc((const void *)message);
}

static void show(const struct cs_cli *cli, const json_t *endpoint)
{
	if (cli->json) {
		cs_view_json(cli->out, endpoint);
		return;
	}
	fputs("endpoint ", cli->out);
	cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, json_string_value(json_object_get(endpoint, "id")));
	long long identity = json_integer_value(json_object_get(endpoint, "identity"));
	if (identity) {
		fprintf(cli->out, ", identity %lld, ", identity);
		cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour,
			json_string_value(json_object_get(endpoint, "spiffe_id")));
	}
	fputc('\n', cli->out);
	cs_view_table(cli->out, json_object_get(endpoint, "conditions"), condition_columns, N(condition_columns),
		"no conditions yet", cs_cli_now_ms(), cli->colour);
}

/* Whether the wait was for this condition; without --wait it is for `enforced`. */
static bool waited_for(const struct registration *r, const char *step)
{
	if (r->request.n_wait_for == 0)
		return strcmp(step, "enforced") == 0;
	for (size_t i = 0; i < r->request.n_wait_for; i++)
		if (strcmp(step, cs_step_name(r->steps[i])) == 0)
			return true;
	return false;
}

static const char *text_in(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : "";
}

/* What is missing, and why. An endpoint that is not placed is not enforced either: then the cause is said. */
static void explain_conditions(const struct cs_cli *cli, const struct registration *r, struct cs_error *e)
{
	const json_t *c, *cause = NULL;
	char timeout[32], because[64] = "";
	size_t i;
	cs_duration_format(cli->timeout_ms, timeout);
	json_array_foreach(json_object_get(r->answer, "conditions"), i, c)
	{
		const char *step = text_in(c, "step");
		if (json_is_true(json_object_get(c, "met")))
			continue;
		if (!cause && cs_step_parse(step, strlen(step)) < COUNTERSIGN__V1__STEP__STEP_ENFORCED)
			cause = c;
		if (!waited_for(r, step))
			continue;
		if (!cause || cause == c)
			cause = c;
		else
			snprintf(because, sizeof(because), ", because it is not %s", text_in(cause, "step"));
		const json_t *reason = json_object_get(cause, "reason");
		const char *name = text_in(reason, "name"), *detail = text_in(reason, "detail");
		cs_error_set(e, -ETIMEDOUT, "endpoint %s is registered, but not %s within %s%s: %s%s%s", r->spec.id,
			step, timeout, because, *name ? name : "no reason given", *detail ? ": " : "", detail);
		return;
	}
}

/* The call ended without what was waited for: ask what is missing. False: the endpoint is not there at all. */
static bool explain_wait(const struct cs_cli *cli, struct registration *r, struct cs_error *e)
{
	json_t *list = json_array();
	struct cs_error ignored;
	size_t i;
	const json_t *endpoint;
	struct cs_cli brief = *cli;
	brief.timeout_ms = 2000;
	int code = read_list(&brief, list, &ignored);
	json_array_foreach(list, i, endpoint)
	{
		if (!r->answer && strcmp(json_string_value(json_object_get(endpoint, "id")), r->spec.id) == 0)
			r->answer = json_incref((json_t *)endpoint);
	}
	json_decref(list);
	if (code != CS_CLI_OK || !r->answer)
		return false;
	explain_conditions(cli, r, e);
	return true;
}

static int run_register(struct cs_cli *cli, struct cs_error *e)
{
	struct registration r = {0};
	struct cs_grpc_status status = {0};
	int code = CS_CLI_USAGE;
	if (read_registration(cli, &r, e) == 0)
		code = cs_cli_ask(
			cli, &cs_service_endpoints, "RegisterEndpoint", &r.request.base, take_status, &r, &status, e);
	struct cs_error said = *e;
	/* Said at once: it takes longer than we wait, or nobody knows how long. */
	bool at_once = status.reason == CS_R_ADDRESS_IN_QUARANTINE || status.reason == CS_R_STORE_UNAVAILABLE;
	if (code != CS_CLI_USAGE && (at_once || status.code == CS_GRPC_DEADLINE_EXCEEDED) && explain_wait(cli, &r, e)) {
		code = CS_CLI_NOT_YET;
		*e = at_once ? said : *e;
	}
	if (r.answer)
		show(cli, r.answer);
	for (size_t i = 0; i < LABELS; i++)
		free(r.label_texts[i]);
	json_decref(r.answer);
	return code;
}

/* ---- unregister ---- */

static void take_nothing(const ProtobufCMessage *message, void *data)
{
	(void)message;
	(void)data;
}

static int run_unregister(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__UnregisterRequest request = COUNTERSIGN__V1__UNREGISTER_REQUEST__INIT;
	request.id = cli->words[0];
	int code = cs_cli_ask(
		cli, &cs_service_endpoints, "UnregisterEndpoint", &request.base, take_nothing, NULL, NULL, e);
	if (code != CS_CLI_OK)
		return code;
	if (cli->json) {
		json_t *document = cs_doc_pack("{s:o}", "unregistered", cs_doc_text(request.id));
		cs_view_json(cli->out, document);
		json_decref(document);
	} else {
		fprintf(cli->out, "unregistered %s; its interface stays closed until it is gone or registered anew\n",
			request.id);
	}
	return CS_CLI_OK;
}

/* ---- the commands ---- */

const struct cs_command cs_cmd_endpoint_list = {.name = "endpoint list",
	.summary = "Endpoints of this node, and how far each has come",
	.usage = "",
	.examples = "  countersign endpoint list\n"
		    "  countersign endpoint list -o json | jq '.endpoints[].conditions[] | select(.met | not)'\n",
	.run = run_list};

static const struct cs_option register_options[] = {
	{.name = "id", .arg = "ID", .required = true, .help = "Name of the endpoint; the same again replaces it"},
	{.name = "label", .arg = "LABEL", .required = true, .many = true, .help = "SOURCE:KEY=VALUE, like k8s:app=db"},
	{.name = "address", .arg = "IP", .required = true, .many = true, .help = "IPv4 or IPv6, up to four of each"},
	{.name = "interface",
		.arg = "NAME",
		.required = true,
		.help = "Host side of its link, in the node's namespace"},
	{.name = "dhcp", .help = "Let its DHCP client through"},
	{.name = "audit", .help = "Drop nothing here, record what would have been"},
	{.name = "wait", .arg = "STEPS", .help = "Conditions to wait for, separated by commas; default enforced"},
};

const struct cs_command cs_cmd_endpoint_register = {.name = "endpoint register",
	.summary = "Tell the node that a workload with these labels and addresses is on this interface",
	.usage = "--id ID --label LABEL... --address IP... --interface NAME",
	.options = register_options,
	.noptions = N(register_options),
	.timeout_ms = 30000,
	.notes = "Conditions: registered, identified, placed, enforced (every packet is judged), svid-ready (it can\n"
		 "authenticate), published (the other nodes know it). Let the workload send only after `enforced`. If\n"
		 "the wait fails the endpoint stays registered, and closed, and the exit code is 4.",
	.examples =
		"  countersign endpoint register --id db --label k8s:app=db --address 10.0.1.5 --interface cs-db\n"
		"  countersign endpoint register --id db --label k8s:app=db --address 10.0.1.5 --interface cs-db \\\n"
		"      --wait enforced,svid-ready --timeout 10s\n",
	.run = run_register};

const struct cs_command cs_cmd_endpoint_unregister = {.name = "endpoint unregister",
	.summary = "Take an endpoint away",
	.usage = "ID",
	.min_words = 1,
	.max_words = 1,
	.examples = "  countersign endpoint unregister db\n",
	.run = run_unregister};
