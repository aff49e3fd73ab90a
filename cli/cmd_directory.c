/* identity list, node list, policy list: three views of the directory. */
#include "commands.h"

#include <stdlib.h>
#include <string.h>
#include "directory.h"
#include "doc.h"
#include "view.h"

/* ---- cells ---- */

/* "node1, node2 (self-asserted)" */
static enum cs_style cell_placed(const json_t *nodes, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	size_t i;
	const json_t *p;
	json_array_foreach(nodes, i, p)
	{
		const char *authority = json_string_value(json_object_get(p, "authority"));
		fprintf(out, "%s%s", i ? ", " : "", json_string_value(json_object_get(p, "node")));
		if (authority && strcmp(authority, "self") == 0)
			fputs(" (self-asserted)", out);
	}
	return CS_STYLE_PLAIN;
}

static enum cs_style cell_node_state(const json_t *node, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	if (json_is_true(json_object_get(node, "gone"))) {
		fputs("gone", out);
		return CS_STYLE_WARN;
	}
	fputs(json_is_true(json_object_get(node, "self")) ? "this node" : "known", out);
	return CS_STYLE_GOOD;
}

static enum cs_style cell_mode(const json_t *audit, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	fputs(json_is_true(audit) ? "audit" : "enforce", out);
	return json_is_true(audit) ? CS_STYLE_WARN : CS_STYLE_PLAIN;
}

static enum cs_style cell_count(const json_t *list, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	fprintf(out, "%zu", json_array_size(list));
	return json_array_size(list) ? CS_STYLE_WARN : CS_STYLE_PLAIN;
}

/* ---- the lists ---- */

static const struct cs_column identity_columns[] = {
	{"ID", "id", cs_cell_text, true},
	{"SPIFFE ID", "spiffe_id", cs_cell_text, false},
	{"ENDPOINTS", "endpoints", cs_cell_text, true},
	{"PLACED ON", "nodes", cell_placed, false},
	{"LABELS", "labels", cs_cell_list, false},
};
static const struct cs_column node_columns[] = {
	{"NAME", "name", cs_cell_text, false},
	{"STATE", NULL, cell_node_state, false},
	{"ADDRESSES", "addresses", cs_cell_list, false},
	{"PORT", "port", cs_cell_text, true},
	{"PATH", "path", cs_cell_text, false},
	{"IDENTITIES", "identities", cs_cell_text, true},
	{"ENDPOINTS", "endpoints", cs_cell_text, true},
};
static const struct cs_column policy_columns[] = {
	{"NAME", "name", cs_cell_text, false},
	{"MODE", "audit", cell_mode, false},
	{"FINDINGS", "findings", cell_count, true},
	{"FILE", "file", cs_cell_text, false},
};
#define N(columns) (sizeof(columns) / sizeof((columns)[0]))

static void put_findings(const struct cs_cli *cli, const json_t *policies)
{
	size_t i, j;
	const json_t *policy, *finding;
	json_array_foreach(policies, i, policy)
	{
		json_array_foreach(json_object_get(policy, "findings"), j, finding)
		{
			char *line = NULL;
			if (asprintf(&line, "%s %s: %s: %s", json_string_value(json_object_get(policy, "name")),
				    json_string_value(json_object_get(finding, "rule")),
				    json_string_value(json_object_get(finding, "kind")),
				    json_string_value(json_object_get(finding, "text"))) < 0)
				continue;
			cs_view_styled(cli->out, CS_STYLE_WARN, cli->colour, line);
			fputc('\n', cli->out);
			free(line);
		}
	}
}

static int list(struct cs_cli *cli, enum cs_directory_list which, const struct cs_column *columns, size_t ncolumns,
	struct cs_error *e)
{
	static const char *const keys[] = {"identities", "nodes", "policies"};
	static const char *const empty[] = {"no identities", "no nodes", "no policies"};
	const char *key = keys[which];
	json_t *all;
	int code = cs_directory_read(cli, which, &all, e);
	if (code != CS_CLI_OK)
		return code;
	const json_t *rows = json_object_get(all, key);
	if (cli->json) {
		json_t *document = cs_doc_pack("{s:O, s:O}", key, rows, "silent_ms", json_object_get(all, "silent_ms"));
		cs_view_json(cli->out, document);
		json_decref(document);
	} else {
		cs_view_table(cli->out, rows, columns, ncolumns, empty[which], cs_cli_now_ms(), cli->colour);
		if (which == CS_DIRECTORY_POLICIES)
			put_findings(cli, rows);
		cs_directory_note_silence(cli, all);
	}
	json_decref(all);
	return CS_CLI_OK;
}

static int identity_list(struct cs_cli *cli, struct cs_error *e)
{
	return list(cli, CS_DIRECTORY_IDENTITIES, identity_columns, N(identity_columns), e);
}

static int node_list(struct cs_cli *cli, struct cs_error *e)
{
	return list(cli, CS_DIRECTORY_NODES, node_columns, N(node_columns), e);
}

static int policy_list(struct cs_cli *cli, struct cs_error *e)
{
	return list(cli, CS_DIRECTORY_POLICIES, policy_columns, N(policy_columns), e);
}

/* ---- the commands ---- */

const struct cs_command cs_cmd_identity_list = {.name = "identity list",
	.summary = "Label sets, their numeric identities and SPIFFE IDs, and the nodes that run them",
	.usage = "",
	.examples = "  countersign identity list\n"
		    "  countersign identity list -o json | jq '.identities[] | select(.endpoints == 0)'\n",
	.run = identity_list};

const struct cs_command cs_cmd_node_list = {.name = "node list",
	.summary = "Nodes of the cluster, with addresses and what protects the path to them",
	.usage = "",
	.examples = "  countersign node list\n"
		    "  countersign node list -o json | jq -r '.nodes[] | select(.gone) | .name'\n",
	.run = node_list};

const struct cs_command cs_cmd_policy_list = {.name = "policy list",
	.summary = "Policies that are in force, with what the compiler had to say about them",
	.usage = "",
	.examples = "  countersign policy list\n"
		    "  countersign policy list -o json | jq '.policies[].findings[]'\n",
	.run = policy_list};
