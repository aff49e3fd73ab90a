/* svid list: what spire-adapter holds, without the keys. */
#include "commands.h"

#include <errno.h>
#include <string.h>
#include <countersign/v1/svids.pb-c.h>
#include "client.h"
#include "doc.h"
#include "view.h"

struct reading {
	json_t *svids, *bundles;
	bool synced;
};

static const char *state_of(const Countersign__V1__Svid *s)
{
	return s->withdrawn ? "withdrawn" : s->generation ? "ready" : "none";
}

static void take_svid(struct reading *r, const Countersign__V1__Svid *s)
{
	json_t *svid = cs_doc_pack("{s:I, s:o, s:s, s:o, s:o, s:o}", "identity", (json_int_t)s->identity, "spiffe_id",
		cs_doc_text(s->spiffe_id), "state", state_of(s), "source", cs_doc_text(s->source), "generation",
		cs_doc_mark(s->generation), "reason", cs_doc_reason(s->reason));
	cs_doc_set(svid, "not_before_unix_s", json_integer(s->not_before_unix_s));
	cs_doc_set(svid, "not_after_unix_s", json_integer(s->not_after_unix_s));
	cs_doc_set(svid, "since_unix_ms", json_integer(s->since_unix_ms));
	cs_doc_set(svid, "leaf_sha256", cs_doc_hex(&s->leaf_sha256));
	cs_doc_set(svid, "chain_length", json_integer((json_int_t)s->n_chain));
	cs_doc_append(r->svids, svid);
}

static void take_batch(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__SvidBatch *batch = (const void *)message;
	struct reading *r = data;
	r->synced |= batch->synced;
	for (size_t i = 0; i < batch->n_svids; i++)
		take_svid(r, batch->svids[i]);
	for (size_t i = 0; i < batch->n_bundles; i++) {
		const Countersign__V1__Bundle *b = batch->bundles[i];
		cs_doc_append(
			r->bundles, cs_doc_pack("{s:o, s:o, s:I, s:I}", "trust_domain", cs_doc_text(b->trust_domain),
					    "generation", cs_doc_mark(b->generation), "authorities",
					    (json_int_t)b->n_authorities, "tainted", (json_int_t)b->n_tainted_kids));
	}
}

static enum cs_style cell_state(const json_t *svid, int64_t now_unix_ms, FILE *out)
{
	(void)now_unix_ms;
	const char *state = json_string_value(json_object_get(svid, "state"));
	const char *reason = json_string_value(json_object_get(json_object_get(svid, "reason"), "name"));
	bool ready = strcmp(state, "ready") == 0;
	fprintf(out, "%s%s%s", state, !ready && reason ? ": " : "", !ready && reason ? reason : "");
	return ready ? CS_STYLE_GOOD : CS_STYLE_WARN;
}

static const struct cs_column svid_columns[] = {
	{"IDENTITY", "identity", cs_cell_text, true},
	{"SPIFFE ID", "spiffe_id", cs_cell_text, false},
	{"STATE", NULL, cell_state, false},
	{"EXPIRES", "not_after_unix_s", cs_cell_until, false},
	{"SINCE", "since_unix_ms", cs_cell_ago, false},
	{"SOURCE", "source", cs_cell_text, false},
};
static const struct cs_column bundle_columns[] = {
	{"TRUST DOMAIN", "trust_domain", cs_cell_text, false},
	{"AUTHORITIES", "authorities", cs_cell_text, true},
	{"TAINTED", "tainted", cs_cell_text, true},
};
#define N(columns) (sizeof(columns) / sizeof((columns)[0]))

static int run(struct cs_cli *cli, struct cs_error *e)
{
	struct reading r = {.svids = json_array(), .bundles = json_array()};
	Countersign__V1__FollowSvidsRequest request = COUNTERSIGN__V1__FOLLOW_SVIDS_REQUEST__INIT;
	request.once = true;
	int code = cs_cli_stream(cli, &cs_service_svids, "Follow", &request.base, take_batch, &r, NULL, e);
	if (code == CS_CLI_OK && !r.synced) {
		cs_error_set(e, -EPROTO, "%s ended its answer before it was complete", cs_service_svids.program);
		code = CS_CLI_FAILED;
	}
	cs_doc_sort(r.svids, "identity");
	cs_doc_sort(r.bundles, "trust_domain");
	json_t *document = cs_doc_pack("{s:o, s:o}", "svids", r.svids, "bundles", r.bundles);
	if (code == CS_CLI_OK && cli->json) {
		cs_view_json(cli->out, document);
	} else if (code == CS_CLI_OK) {
		cs_view_table(
			cli->out, r.svids, svid_columns, N(svid_columns), "no SVIDs", cs_cli_now_ms(), cli->colour);
		fputc('\n', cli->out);
		cs_view_table(cli->out, r.bundles, bundle_columns, N(bundle_columns), "no trust bundles",
			cs_cli_now_ms(), cli->colour);
	}
	json_decref(document);
	return code;
}

const struct cs_command cs_cmd_svid_list = {.name = "svid list",
	.summary = "SVIDs of the identities on this node, and the trust bundles",
	.usage = "",
	.examples = "  countersign svid list\n"
		    "  countersign svid list -o json | jq '.svids[] | select(.state != \"ready\")'\n",
	.run = run};
