/* svid list, svid inspect, bundle list, bundle show: what spire-adapter holds, without the keys. */
#include "commands.h"

#include <errno.h>
#include <string.h>
#include <countersign/v1/svids.pb-c.h>
#include "certificate.h"
#include "client.h"
#include "doc.h"
#include "view.h"

struct reading {
	json_t *svids, *bundles;
	bool synced;
	/* One of them in full, certificates included; NULL: the lists. */
	const char *svid, *bundle;
	json_t *found;
};

static const char *state_of(const Countersign__V1__Svid *s)
{
	return s->withdrawn ? "withdrawn" : s->generation ? "ready" : "none";
}

static json_t *certificates(const ProtobufCBinaryData *certs, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		cs_doc_append(list, cs_certificate_doc(&certs[i]));
	return list;
}

static bool is_svid(const Countersign__V1__Svid *s, const char *word)
{
	char number[16];
	snprintf(number, sizeof(number), "%u", s->identity);
	return strcmp(word, number) == 0 || strcmp(word, s->spiffe_id) == 0;
}

static json_t *svid_doc(const Countersign__V1__Svid *s)
{
	json_t *svid = cs_doc_pack("{s:I, s:o, s:s, s:o, s:o, s:o}", "identity", (json_int_t)s->identity, "spiffe_id",
		cs_doc_text(s->spiffe_id), "state", state_of(s), "source", cs_doc_text(s->source), "generation",
		cs_doc_mark(s->generation), "reason", cs_doc_reason(s->reason));
	cs_doc_set(svid, "not_before_unix_s", json_integer(s->not_before_unix_s));
	cs_doc_set(svid, "not_after_unix_s", json_integer(s->not_after_unix_s));
	cs_doc_set(svid, "since_unix_ms", json_integer(s->since_unix_ms));
	cs_doc_set(svid, "leaf_sha256", cs_doc_hex(&s->leaf_sha256));
	cs_doc_set(svid, "chain_length", json_integer((json_int_t)s->n_chain));
	return svid;
}

static void take_svid(struct reading *r, const Countersign__V1__Svid *s)
{
	if (!r->svid) {
		cs_doc_append(r->svids, svid_doc(s));
	} else if (is_svid(s, r->svid)) {
		json_decref(r->found);
		r->found = svid_doc(s);
		cs_doc_set(r->found, "certificates", certificates(s->chain, s->n_chain));
	}
}

static void take_bundle(struct reading *r, const Countersign__V1__Bundle *b)
{
	json_t *bundle = cs_doc_pack("{s:o, s:o, s:I, s:I}", "trust_domain", cs_doc_text(b->trust_domain), "generation",
		cs_doc_mark(b->generation), "authorities", (json_int_t)b->n_authorities, "tainted",
		(json_int_t)b->n_tainted_kids);
	if (!r->bundle) {
		cs_doc_append(r->bundles, bundle);
	} else if (strcmp(b->trust_domain, r->bundle) == 0) {
		json_decref(r->found);
		r->found = bundle;
		cs_doc_set(bundle, "certificates", certificates(b->authorities, b->n_authorities));
	} else {
		json_decref(bundle);
	}
}

static void take_batch(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__SvidBatch *batch = (const void *)message;
	struct reading *r = data;
	r->synced |= batch->synced;
	for (size_t i = 0; i < batch->n_svids; i++)
		take_svid(r, batch->svids[i]);
	for (size_t i = 0; i < batch->n_bundles; i++)
		take_bundle(r, batch->bundles[i]);
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

static int read_state(struct cs_cli *cli, struct reading *r, struct cs_error *e)
{
	Countersign__V1__FollowSvidsRequest request = COUNTERSIGN__V1__FOLLOW_SVIDS_REQUEST__INIT;
	request.once = true;
	int code = cs_cli_stream(cli, &cs_service_svids, "Follow", &request.base, take_batch, r, NULL, e);
	if (code != CS_CLI_OK || r->synced)
		return code;
	cs_error_set(e, -EPROTO, "%s ended its answer before it was complete", cs_service_svids.program);
	return CS_CLI_FAILED;
}

static void put_bundles(struct cs_cli *cli, const json_t *bundles)
{
	cs_view_table(
		cli->out, bundles, bundle_columns, N(bundle_columns), "no trust bundles", cs_cli_now_ms(), cli->colour);
}

static int run_list(struct cs_cli *cli, bool with_svids, struct cs_error *e)
{
	struct reading r = {.svids = json_array(), .bundles = json_array()};
	int code = read_state(cli, &r, e);
	cs_doc_sort(r.svids, "identity");
	cs_doc_sort(r.bundles, "trust_domain");
	json_t *document = cs_doc_pack("{s:o}", "bundles", r.bundles);
	if (with_svids)
		cs_doc_set(document, "svids", r.svids);
	else
		json_decref(r.svids);
	if (code == CS_CLI_OK && cli->json) {
		cs_view_json(cli->out, document);
	} else if (code == CS_CLI_OK) {
		if (with_svids) {
			cs_view_table(cli->out, r.svids, svid_columns, N(svid_columns), "no SVIDs", cs_cli_now_ms(),
				cli->colour);
			fputc('\n', cli->out);
		}
		put_bundles(cli, r.bundles);
	}
	json_decref(document);
	return code;
}

static int run_svid_list(struct cs_cli *cli, struct cs_error *e)
{
	return run_list(cli, true, e);
}

static int run_bundle_list(struct cs_cli *cli, struct cs_error *e)
{
	return run_list(cli, false, e);
}

/* ---- one of them ---- */

static const struct cs_column certificate_columns[] = {
	{"URI", "uris", cs_cell_list, false},
	{"EXPIRES", "not_after_unix_s", cs_cell_until, false},
	{"KEY", "key", cs_cell_text, false},
	{"KEY ID", "subject_key_id", cs_cell_text, false},
	{"ISSUED BY", "authority_key_id", cs_cell_text, false},
	{"SERIAL", "serial", cs_cell_text, false},
};

static int run_one(struct cs_cli *cli, struct reading *r, const struct cs_column *columns, size_t ncolumns,
	const char *what, struct cs_error *e)
{
	int code = read_state(cli, r, e);
	if (code == CS_CLI_OK && !r->found) {
		cs_error_set(e, -ENOENT, "%s holds no %s '%s'", cs_service_svids.program, what, cli->words[0]);
		code = CS_CLI_REFUSED;
	}
	if (code == CS_CLI_OK && cli->json) {
		cs_view_json(cli->out, r->found);
	} else if (code == CS_CLI_OK) {
		json_t *rows = cs_doc_pack("[O]", r->found);
		cs_view_table(cli->out, rows, columns, ncolumns, "", cs_cli_now_ms(), cli->colour);
		json_decref(rows);
		fputc('\n', cli->out);
		cs_view_table(cli->out, json_object_get(r->found, "certificates"), certificate_columns,
			N(certificate_columns), "no certificates", cs_cli_now_ms(), cli->colour);
	}
	json_decref(r->found);
	return code;
}

static int run_svid_inspect(struct cs_cli *cli, struct cs_error *e)
{
	struct reading r = {.svid = cli->words[0], .bundle = ""};
	return run_one(cli, &r, svid_columns, N(svid_columns), "SVID of an identity", e);
}

static int run_bundle_show(struct cs_cli *cli, struct cs_error *e)
{
	struct reading r = {.svid = "", .bundle = cli->words[0]};
	return run_one(cli, &r, bundle_columns, N(bundle_columns), "bundle of a trust domain", e);
}

const struct cs_command cs_cmd_svid_list = {.name = "svid list",
	.summary = "SVIDs of the identities on this node, and the trust bundles",
	.usage = "",
	.examples = "  countersign svid list\n"
		    "  countersign svid list -o json | jq '.svids[] | select(.state != \"ready\")'\n",
	.run = run_svid_list};

const struct cs_command cs_cmd_svid_inspect = {.name = "svid inspect",
	.summary = "One SVID with its certificates",
	.usage = "IDENTITY|SPIFFE-ID",
	.min_words = 1,
	.max_words = 1,
	.examples =
		"  countersign svid inspect 257\n"
		"  countersign svid inspect spiffe://example.org/identity/257 -o json | jq -r '.certificates[].pem'\n",
	.run = run_svid_inspect};

const struct cs_command cs_cmd_bundle_list = {.name = "bundle list",
	.summary = "Trust bundles: whose authorities are trusted, one trust domain each",
	.usage = "",
	.examples = "  countersign bundle list\n",
	.run = run_bundle_list};

const struct cs_command cs_cmd_bundle_show = {.name = "bundle show",
	.summary = "The authorities of a trust domain",
	.usage = "TRUST-DOMAIN",
	.min_words = 1,
	.max_words = 1,
	.examples = "  countersign bundle show example.org\n"
		    "  countersign bundle show example.org -o json | jq -r '.certificates[].pem' > bundle.pem\n",
	.run = run_bundle_show};
