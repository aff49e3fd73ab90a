/* auth list, explain, flush. */
#include "commands.h"

#include <errno.h>
#include <string.h>
#include <countersign/identities.h>
#include <countersign/maps.h>
#include <countersign/v1/auth.pb-c.h>
#include "client.h"
#include "doc.h"
#include "endpoint.h"
#include "view.h"

#define N(columns) (sizeof(columns) / sizeof((columns)[0]))

static const struct cs_option pair_options[] = {
	{.name = "local", .arg = "ID", .help = "Only this local identity"},
	{.name = "remote", .arg = "ID", .help = "Only this remote identity"},
	{.name = "node", .arg = "NAME", .help = "Only this remote node"},
	{.name = "pending", .help = "Also pairs that are asked for or refused now"},
};

static int read_pair(const struct cs_cli *cli, Countersign__V1__AuthPair *pair, struct cs_error *e)
{
	countersign__v1__auth_pair__init(pair);
	if (cs_cli_value(cli, "node"))
		pair->node = (char *)cs_cli_value(cli, "node");
	int code = cs_cli_number(cli, "local", UINT32_MAX, &pair->local, e);
	if (code == CS_CLI_OK)
		code = cs_cli_number(cli, "remote", UINT32_MAX, &pair->remote, e);
	return code;
}

static json_t *entry_doc(const Countersign__V1__AuthEntry *a)
{
	static const Countersign__V1__AuthPair none = COUNTERSIGN__V1__AUTH_PAIR__INIT;
	const Countersign__V1__AuthPair *pair = a->pair ? a->pair : &none;
	json_t *entry = cs_doc_pack("{s:I, s:I, s:o, s:o, s:o, s:o}", "local", (json_int_t)pair->local, "remote",
		(json_int_t)pair->remote, "node", cs_doc_text(pair->node), "state", cs_doc_text(a->state), "role",
		cs_doc_text(a->role), "reason", cs_doc_reason(a->reason));
	cs_doc_set(entry, "until_unix_ms", json_integer(a->until_unix_ms));
	cs_doc_set(entry, "not_after_unix_s", json_integer(a->not_after_unix_s));
	cs_doc_set(entry, "since_unix_ms", json_integer(a->since_unix_ms));
	cs_doc_set(entry, "remote_spiffe_id", cs_doc_text(a->remote_spiffe_id));
	cs_doc_set(entry, "remote_leaf_sha256", cs_doc_hex(&a->remote_leaf_sha256));
	cs_doc_set(entry, "remote_serial", cs_doc_hex(&a->remote_serial));
	cs_doc_set(entry, "remote_authority", cs_doc_hex(&a->remote_authority));
	cs_doc_set(entry, "held_packets", json_integer(a->held_packets));
	cs_doc_set(entry, "path", cs_doc_text(a->path));
	return entry;
}

/* ---- cells ---- */

static enum cs_style cell_state(const json_t *entry, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	const char *state = json_string_value(json_object_get(entry, "state"));
	const char *reason = json_string_value(json_object_get(json_object_get(entry, "reason"), "name"));
	fprintf(out, "%s%s%s", state, reason && *reason ? ": " : "", reason ? reason : "");
	return strcmp(state, "live") == 0      ? CS_STYLE_GOOD
	       : strcmp(state, "refused") == 0 ? CS_STYLE_BAD
					       : CS_STYLE_WARN;
}

/* The end of this state: an entry's expiry, or when a refused pair is asked for again. */
static enum cs_style cell_until_ms(const json_t *until_ms, int64_t now_unix_ms, FILE *out)
{
	if (json_integer_value(until_ms) == 0)
		return CS_STYLE_PLAIN;
	cs_cell_ago(until_ms, now_unix_ms, out); /* says "in" for what is ahead */
	return json_integer_value(until_ms) <= now_unix_ms ? CS_STYLE_WARN : CS_STYLE_PLAIN;
}

static enum cs_style cell_held(const json_t *packets, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	if (json_integer_value(packets))
		fprintf(out, "%lld packets", (long long)json_integer_value(packets));
	return CS_STYLE_PLAIN;
}

static const struct cs_column columns[] = {
	{"LOCAL", "local", cs_cell_text, true},
	{"REMOTE", "remote", cs_cell_text, true},
	{"NODE", "node", cs_cell_text, false},
	{"STATE", NULL, cell_state, false},
	{"UNTIL", "until_unix_ms", cell_until_ms, false},
	{"CERTIFICATES", "not_after_unix_s", cs_cell_until, false},
	{"ROLE", "role", cs_cell_text, false},
	{"HELD", "held_packets", cell_held, false},
	{"REMOTE SPIFFE ID", "remote_spiffe_id", cs_cell_text, false},
};

/* ---- list ---- */

static void take_entry(const ProtobufCMessage *message, void *data)
{
	cs_doc_append(data, entry_doc((const void *)message));
}

static int run_list(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__AuthListRequest request = COUNTERSIGN__V1__AUTH_LIST_REQUEST__INIT;
	Countersign__V1__AuthPair pair;
	int code = read_pair(cli, &pair, e);
	if (code != CS_CLI_OK)
		return code;
	request.match = &pair;
	request.pending = cs_cli_value(cli, "pending") != NULL;
	json_t *document = cs_doc_pack("{s:[]}", "entries"), *entries = json_object_get(document, "entries");
	code = cs_cli_stream(cli, &cs_service_auth, "List", &request.base, take_entry, entries, NULL, e);
	cs_doc_sort(entries, "remote");
	cs_doc_sort(entries, "local");
	if (code == CS_CLI_OK && cli->json)
		cs_view_json(cli->out, document);
	else if (code == CS_CLI_OK)
		cs_view_table(
			cli->out, entries, columns, N(columns), "no authenticated pairs", cs_cli_now_ms(), cli->colour);
	json_decref(document);
	return code;
}

/* ---- explain ---- */

static json_t *direction_doc(
	Countersign__V1__Verdict verdict, const char *policy, bool passes, const Countersign__V1__Reason *reason)
{
	return cs_doc_pack("{s:o, s:o, s:b, s:o}", "verdict", cs_doc_verdict(verdict), "policy", cs_doc_text(policy),
		"passes", passes, "reason", cs_doc_reason(reason));
}

static void take_explanation(const ProtobufCMessage *message, void *data)
{
	static const Countersign__V1__AuthPair none = COUNTERSIGN__V1__AUTH_PAIR__INIT;
	const Countersign__V1__ExplainReply *r = (const void *)message;
	const Countersign__V1__AuthPair *pair = r->pair ? r->pair : &none;
	json_t **document = data;
	json_decref(*document);
	*document = cs_doc_pack("{s:o, s:I, s:I, s:o, s:b, s:b, s:o, s:o, s:o}", "endpoint", cs_doc_text(r->endpoint),
		"local", (json_int_t)pair->local, "remote", (json_int_t)pair->remote, "node", cs_doc_text(pair->node),
		"audit", r->audit, "depends_on", r->depends_on, "from",
		direction_doc(r->from, r->policy_from, r->from_passes, r->reason_from), "to",
		direction_doc(r->to, r->policy_to, r->to_passes, r->reason_to), "entry",
		r->entry ? entry_doc(r->entry) : json_null());
}

static const char *text_at(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : "";
}

static void put_direction(const struct cs_cli *cli, const char *name, const json_t *d)
{
	const json_t *reason = json_object_get(d, "reason");
	bool passes = json_is_true(json_object_get(d, "passes"));
	const char *policy = text_at(d, "policy");
	fprintf(cli->out, "  %-5s ", name);
	cs_view_styled(cli->out, passes ? CS_STYLE_GOOD : CS_STYLE_BAD, cli->colour, passes ? "passes" : "is refused");
	fputs(", policy says ", cli->out);
	cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, text_at(d, "verdict"));
	fputs(*policy ? " by " : " (no policy selects it)", cli->out);
	cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, policy);
	if (*text_at(reason, "name")) {
		fputs(": ", cli->out);
		cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, text_at(reason, "name"));
		int number = cs_reason_parse(text_at(reason, "name"));
		const char *detail = *text_at(reason, "detail") ? text_at(reason, "detail")
				     : number >= 0              ? cs_reason_sentence((enum cs_reason)number)
								: "";
		fputs(*detail ? ", " : "", cli->out);
		cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, detail);
	}
	fputc('\n', cli->out);
}

/* "identity 257 on node2", "world", "host": what cannot authenticate has a name and no node. */
static void put_remote(const struct cs_cli *cli, const json_t *d)
{
	long long identity = json_integer_value(json_object_get(d, "remote"));
	const char *name = identity < CS_ID_FIRST_AUTH ? cs_id_name((uint32_t)identity) : NULL;
	if (name) {
		fputs(name, cli->out);
		return;
	}
	fprintf(cli->out, "identity %lld%s", identity, *text_at(d, "node") ? " on " : "");
	cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, text_at(d, "node"));
}

static void put_explanation(const struct cs_cli *cli, const char *remote, const json_t *d)
{
	const json_t *entry = json_object_get(d, "entry");
	fputs("endpoint ", cli->out);
	cs_view_styled(cli->out, CS_STYLE_PLAIN, cli->colour, text_at(d, "endpoint"));
	fprintf(cli->out, " (identity %lld) and %s (", (long long)json_integer_value(json_object_get(d, "local")),
		remote);
	put_remote(cli, d);
	fputs(")\n", cli->out);
	put_direction(cli, "from", json_object_get(d, "from"));
	put_direction(cli, "to", json_object_get(d, "to"));
	if (json_is_true(json_object_get(d, "audit")))
		fputs("  audit mode: passes all the same, and is recorded\n", cli->out);
	if (json_is_true(json_object_get(d, "depends_on")))
		fputs("  depends_on: passes before policy is asked\n", cli->out);
	if (json_is_null(entry)) {
		fputs("  no entry in the auth map\n", cli->out);
		return;
	}
	json_t *rows = cs_doc_pack("[O]", entry);
	fputc('\n', cli->out);
	cs_view_table(cli->out, rows, columns, N(columns), "", cs_cli_now_ms(), cli->colour);
	json_decref(rows);
}

static int run_explain(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__ExplainRequest request = COUNTERSIGN__V1__EXPLAIN_REQUEST__INIT;
	Countersign__V1__Address remote = COUNTERSIGN__V1__ADDRESS__INIT;
	uint8_t bytes[16];
	json_t *document = NULL;
	remote.ip.data = bytes;
	if (cs_address_parse(cli->words[1], bytes, &remote.ip.len, e) < 0)
		return CS_CLI_USAGE;
	request.interface = cli->words[0];
	request.remote = &remote;
	int code = cs_cli_ask(cli, &cs_service_auth, "Explain", &request.base, take_explanation, &document, NULL, e);
	if (code == CS_CLI_OK && cli->json)
		cs_view_json(cli->out, document);
	else if (code == CS_CLI_OK)
		put_explanation(cli, cli->words[1], document);
	json_decref(document);
	return code;
}

/* ---- flush ---- */

static void take_flushed(const ProtobufCMessage *message, void *data)
{
	*(uint32_t *)data = ((const Countersign__V1__AuthFlushReply *)(const void *)message)->flushed;
}

static int run_flush(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__AuthFlushRequest request = COUNTERSIGN__V1__AUTH_FLUSH_REQUEST__INIT;
	Countersign__V1__AuthPair pair;
	uint32_t flushed = 0;
	int code = read_pair(cli, &pair, e);
	if (code != CS_CLI_OK)
		return code;
	bool all = cs_cli_value(cli, "all") != NULL, some = pair.local || pair.remote || *pair.node;
	if (all == some) {
		cs_error_set(e, -EINVAL, "say what to flush: --local ID, --remote ID, --node NAME, or --all alone");
		return CS_CLI_USAGE;
	}
	request.match = &pair;
	code = cs_cli_ask(cli, &cs_service_auth, "Flush", &request.base, take_flushed, &flushed, NULL, e);
	if (code == CS_CLI_OK && cli->json)
		fprintf(cli->out, "{\n  \"flushed\": %u\n}\n", flushed);
	else if (code == CS_CLI_OK)
		fprintf(cli->out, "flushed %u %s\n", flushed, flushed == 1 ? "entry" : "entries");
	return code;
}

/* ---- the commands ---- */

const struct cs_command cs_cmd_auth_list = {.name = "auth list",
	.summary = "Pairs that have authenticated each other, and until when",
	.usage = "[--local ID] [--remote ID] [--node NAME] [--pending]",
	.options = pair_options,
	.noptions = N(pair_options),
	.examples = "  countersign auth list\n"
		    "  countersign auth list --pending\n"
		    "  countersign auth list --node node2 -o json | jq '.entries[].remote_spiffe_id'\n",
	.run = run_list};

const struct cs_command cs_cmd_auth_explain = {.name = "auth explain",
	.summary = "What would happen now to packets between an endpoint of this node and an address",
	.usage = "ENDPOINT|INTERFACE ADDRESS",
	.min_words = 2,
	.max_words = 2,
	.examples = "  countersign auth explain db 10.0.2.7\n"
		    "  countersign auth explain cs-db fd00::7 -o json\n",
	.run = run_explain};

static const struct cs_option flush_options[] = {
	{.name = "local", .arg = "ID", .help = "Only this local identity"},
	{.name = "remote", .arg = "ID", .help = "Only this remote identity"},
	{.name = "node", .arg = "NAME", .help = "Only this remote node"},
	{.name = "all", .help = "Everything"},
};

const struct cs_command cs_cmd_auth_flush = {.name = "auth flush",
	.summary = "Forget entries; their pairs authenticate anew with the next packet",
	.usage = "--local ID | --remote ID | --node NAME | --all",
	.options = flush_options,
	.noptions = N(flush_options),
	.notes = "This is no revocation: who can still prove its identity is back at once.",
	.examples = "  countersign auth flush --remote 4711\n"
		    "  countersign auth flush --all\n",
	.run = run_flush};
