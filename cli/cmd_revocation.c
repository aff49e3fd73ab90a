/* revocation add, list, remove. */
#include "commands.h"

#include <errno.h>
#include <string.h>
#include <countersign/v1/admin.pb-c.h>
#include "client.h"
#include "directory.h"
#include "doc.h"
#include "revocation.h"
#include "settings.h"
#include "view.h"

#define KEY_ID_MAX 64
#define SERIAL_MAX 20
#define LEAF       32

/* ---- add ---- */

struct addition {
	Countersign__V1__AddRevocationRequest request;
	Countersign__V1__Revocation revocation;
	Countersign__V1__Placement placement;
	Countersign__V1__SerialOf serial;
	uint8_t leaf[LEAF], authority[KEY_ID_MAX], number[SERIAL_MAX];
	json_t *answer;
};

/* The bytes of an option in hexadecimal; *ret is empty if it is not given. */
static int read_hex(const struct cs_cli *cli, const char *option, uint8_t *space, size_t max, ProtobufCBinaryData *ret,
	struct cs_error *e)
{
	const char *text = cs_cli_value(cli, option);
	*ret = (ProtobufCBinaryData){.data = space};
	if (text && cs_hex_parse(text, space, max, &ret->len, e) < 0)
		return cs_error_prefix(e, "--%s", option);
	return 0;
}

/* Which of the subjects the options name; they combine in two ways only. */
static int read_subject(const struct cs_cli *cli, struct addition *a, struct cs_error *e)
{
	Countersign__V1__Revocation *r = &a->revocation;
	const char *node = cs_cli_value(cli, "node");
	ProtobufCBinaryData leaf, serial, authority;
	uint32_t identity;
	if (cs_cli_number(cli, "identity", UINT32_MAX, &identity, e) != CS_CLI_OK ||
		read_hex(cli, "leaf", a->leaf, LEAF, &leaf, e) < 0 ||
		read_hex(cli, "serial", a->number, SERIAL_MAX, &serial, e) < 0 ||
		read_hex(cli, "authority", a->authority, KEY_ID_MAX, &authority, e) < 0)
		return -EINVAL;
	bool one = (identity || node) + (leaf.len > 0) + (serial.len > 0 || authority.len > 0) == 1;
	if (!one || (serial.len > 0 && authority.len == 0))
		return cs_error_set(e, -EINVAL,
			"name one thing: --identity N, --node NAME, both of them, --leaf SHA256, --serial HEX with "
			"--authority "
			"HEX, or --authority HEX");
	if (identity && node) {
		a->placement.identity = identity;
		a->placement.node = (char *)node;
		r->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT;
		r->placement = &a->placement;
	} else if (identity) {
		r->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY;
		r->identity = identity;
	} else if (node) {
		r->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE;
		r->node = (char *)node;
	} else if (leaf.len > 0) {
		r->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256;
		r->leaf_sha256 = leaf;
	} else if (serial.len > 0) {
		a->serial.serial = serial;
		a->serial.authority = authority;
		r->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL;
		r->serial = &a->serial;
	} else {
		r->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY;
		r->authority = authority;
	}
	return 0;
}

static int read_addition(const struct cs_cli *cli, struct addition *a, struct cs_error *e)
{
	const char *span = cs_cli_value(cli, "for");
	int64_t ms = 0;
	countersign__v1__add_revocation_request__init(&a->request);
	countersign__v1__revocation__init(&a->revocation);
	countersign__v1__placement__init(&a->placement);
	countersign__v1__serial_of__init(&a->serial);
	a->request.revocation = &a->revocation;
	a->revocation.why = (char *)cs_cli_value(cli, "why");
	if (span && cs_duration_parse(span, &ms, e) < 0)
		return cs_error_prefix(e, "--for");
	if (span)
		a->revocation.until_unix_s = (cs_cli_now_ms() + ms + 999) / 1000;
	return read_subject(cli, a, e);
}

static void take_revocation(const ProtobufCMessage *message, void *data)
{
	struct addition *a = data;
	json_decref(a->answer);
	a->answer = cs_revocation_doc((const Countersign__V1__Revocation *)message);
}

static int run_add(struct cs_cli *cli, struct cs_error *e)
{
	struct addition a = {0};
	if (read_addition(cli, &a, e) < 0)
		return CS_CLI_USAGE;
	int code = cs_cli_ask(cli, &cs_service_admin, "AddRevocation", &a.request.base, take_revocation, &a, NULL, e);
	if (code != CS_CLI_OK)
		return code;
	if (cli->json) {
		cs_view_json(cli->out, a.answer);
	} else {
		fputs("revoked ", cli->out);
		cs_view_styled(
			cli->out, CS_STYLE_PLAIN, cli->colour, json_string_value(json_object_get(a.answer, "subject")));
		fprintf(cli->out, "; countersign revocation remove %s takes it back\n",
			json_string_value(json_object_get(a.answer, "id")));
	}
	json_decref(a.answer);
	return CS_CLI_OK;
}

/* ---- list ---- */

static enum cs_style cell_since(const json_t *value, int64_t now_unix_ms, FILE *out)
{
	json_t *ms = json_integer(json_integer_value(value) * 1000);
	enum cs_style style = cs_cell_ago(ms, now_unix_ms, out);
	json_decref(ms);
	return style;
}

static const struct cs_column columns[] = {
	{"ID", "id", cs_cell_text, false},
	{"SUBJECT", "subject", cs_cell_text, false},
	{"SINCE", "from_unix_s", cell_since, false},
	{"ENDS", "until_unix_s", cs_cell_until, false},
	{"WHO", "who", cs_cell_text, false},
	{"WHY", "why", cs_cell_text, false},
};

static int run_list(struct cs_cli *cli, struct cs_error *e)
{
	json_t *all;
	int code = cs_directory_read(cli, CS_DIRECTORY_REVOCATIONS, &all, e);
	if (code != CS_CLI_OK)
		return code;
	const json_t *rows = json_object_get(all, "revocations");
	if (cli->json) {
		json_t *document =
			cs_doc_pack("{s:O, s:O}", "revocations", rows, "silent_ms", json_object_get(all, "silent_ms"));
		cs_view_json(cli->out, document);
		json_decref(document);
	} else {
		cs_view_table(cli->out, rows, columns, sizeof(columns) / sizeof(columns[0]), "no revocations",
			cs_cli_now_ms(), cli->colour);
		cs_directory_note_silence(cli, all);
	}
	json_decref(all);
	return CS_CLI_OK;
}

/* ---- remove ---- */

static void take_nothing(const ProtobufCMessage *message, void *data)
{
	(void)message;
	(void)data;
}

static int run_remove(struct cs_cli *cli, struct cs_error *e)
{
	Countersign__V1__RemoveRevocationRequest request = COUNTERSIGN__V1__REMOVE_REVOCATION_REQUEST__INIT;
	request.id = cli->words[0];
	int code = cs_cli_ask(cli, &cs_service_admin, "RemoveRevocation", &request.base, take_nothing, NULL, NULL, e);
	if (code != CS_CLI_OK)
		return code;
	if (cli->json) {
		json_t *document = cs_doc_pack("{s:o}", "removed", cs_doc_text(request.id));
		cs_view_json(cli->out, document);
		json_decref(document);
	} else {
		fprintf(cli->out, "removed %s; what it named is believed again\n", request.id);
	}
	return CS_CLI_OK;
}

/* ---- the commands ---- */

static const struct cs_option add_options[] = {
	{.name = "identity", .arg = "N", .help = "This numeric identity, wherever it runs"},
	{.name = "node", .arg = "NAME", .help = "This node; with --identity: that identity on this node"},
	{.name = "serial", .arg = "HEX", .help = "The certificate with this serial number of --authority"},
	{.name = "authority", .arg = "HEX", .help = "The authority with this subject key id, and all that it signed"},
	{.name = "leaf", .arg = "SHA256", .help = "The certificate with this hash; prefer --serial, see below"},
	{.name = "why", .arg = "TEXT", .required = true, .help = "For who reads it later"},
	{.name = "for",
		.arg = "TIME",
		.help = "For how long, like 7d; default and minimum: svid.max_life of identityd"},
};

const struct cs_command cs_cmd_revocation_add = {.name = "revocation add",
	.summary = "Record that an identity, a node or a certificate must not be believed any more",
	.usage = "SUBJECT --why TEXT [--for TIME]",
	.options = add_options,
	.noptions = sizeof(add_options) / sizeof(add_options[0]),
	.timeout_ms = 10000,
	.notes = "Run it where identityd's cluster role runs, with the role operator. The record is durable, reaches "
		 "the\n"
		 "directory of every node, and goes by itself when its time is over. That is all it does in this "
		 "version:\n"
		 "authd does not act on revocations yet. Until it does, also take the placement away or rotate the "
		 "authority.\n"
		 "\n"
		 "Who holds an ECDSA certificate can change its hash without making it invalid: prefer --serial to "
		 "--leaf.",
	.examples = "  countersign revocation add --identity 300 --why 'key leaked, ticket 4711'\n"
		    "  countersign revocation add --identity 300 --node node7 --why 'node7 is compromised' --for 30d\n"
		    "  countersign revocation add --serial 3f:09:aa --authority 5b:ce:1d --why 'laptop stolen'\n",
	.run = run_add};

const struct cs_command cs_cmd_revocation_list = {.name = "revocation list",
	.summary = "Revocations that stand, who made them and why",
	.usage = "",
	.examples = "  countersign revocation list\n"
		    "  countersign revocation list -o json | jq '.revocations[] | select(.node == \"node7\")'\n",
	.run = run_list};

const struct cs_command cs_cmd_revocation_remove = {.name = "revocation remove",
	.summary = "Take a revocation away before its time is over",
	.usage = "ID",
	.min_words = 1,
	.max_words = 1,
	.timeout_ms = 10000,
	.examples = "  countersign revocation remove r-5f1d0c2a9be37744\n",
	.run = run_remove};
