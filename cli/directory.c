#include "directory.h"

#include <errno.h>
#include <countersign/v1/directory.pb-c.h>
#include "client.h"
#include "doc.h"
#include "revocation.h"
#include "view.h"

#define SILENCE_MS 15000 /* three heartbeats */

struct reading {
	json_t *identities, *nodes, *policies, *revocations; /* objects by id or name */
	uint32_t silent_ms;
	bool synced;
};

/* The entry of a list, made if it is not there yet: placements and endpoints may come before what they speak of. */
static json_t *entry(json_t *map, const char *key)
{
	json_t *found = json_object_get(map, key);
	if (found)
		return found;
	cs_doc_set(map, key, json_object());
	return json_object_get(map, key);
}

static json_t *identity(struct reading *r, uint32_t id)
{
	char key[16];
	snprintf(key, sizeof(key), "%u", id);
	json_t *e = entry(r->identities, key);
	if (!json_object_get(e, "id")) {
		cs_doc_set(e, "id", json_integer(id));
		cs_doc_set(e, "spiffe_id", json_string(""));
		cs_doc_set(e, "created_unix_ms", json_integer(0));
		cs_doc_set(e, "labels", json_array());
		cs_doc_set(e, "nodes", json_array());
		cs_doc_set(e, "endpoints", json_integer(0));
	}
	return e;
}

static json_t *node(struct reading *r, const char *name)
{
	json_t *text = cs_doc_text(name), *e = entry(r->nodes, json_string_value(text));
	if (!json_object_get(e, "name")) {
		cs_doc_set(e, "name", json_incref(text));
		cs_doc_set(e, "addresses", json_array());
		cs_doc_set(e, "port", json_integer(0));
		cs_doc_set(e, "path", json_string(""));
		cs_doc_set(e, "self", json_false());
		cs_doc_set(e, "gone", json_false());
		cs_doc_set(e, "identities", json_integer(0));
		cs_doc_set(e, "endpoints", json_integer(0));
	}
	json_decref(text);
	return e;
}

static void count(json_t *object, const char *key)
{
	cs_doc_set(object, key, json_integer(json_integer_value(json_object_get(object, key)) + 1));
}

static void take_node(struct reading *r, const Countersign__V1__Node *n)
{
	json_t *e = node(r, n->name);
	cs_doc_set(e, "addresses", cs_doc_addresses(n->addresses, n->n_addresses));
	cs_doc_set(e, "port", json_integer(n->port));
	cs_doc_set(e, "path", cs_doc_text(n->path));
	cs_doc_set(e, "self", json_boolean(n->self));
	cs_doc_set(e, "gone", json_boolean(n->gone));
}

static void take_identity(struct reading *r, const Countersign__V1__Identity *i)
{
	json_t *e = identity(r, i->id);
	cs_doc_set(e, "spiffe_id", cs_doc_text(i->spiffe_id));
	cs_doc_set(e, "created_unix_ms", json_integer(i->created_unix_ms));
	cs_doc_set(e, "labels", cs_doc_labels(i->labels, i->n_labels));
}

static void take_placement(struct reading *r, const Countersign__V1__Placement *p)
{
	cs_doc_append(json_object_get(identity(r, p->identity), "nodes"),
		cs_doc_pack("{s:o, s:o}", "node", cs_doc_text(p->node), "authority", cs_doc_text(p->authority)));
	count(node(r, p->node), "identities");
}

static void take_endpoint(struct reading *r, const Countersign__V1__Endpoint *e)
{
	count(node(r, e->node), "endpoints");
	if (e->identity)
		count(identity(r, e->identity), "endpoints");
}

static void take_policy(struct reading *r, const Countersign__V1__Policy *p)
{
	json_t *findings = json_array(), *name = cs_doc_text(p->name);
	for (size_t i = 0; i < p->n_findings; i++)
		cs_doc_append(findings,
			cs_doc_pack("{s:o, s:o, s:o}", "rule", cs_doc_text(p->findings[i]->rule), "kind",
				cs_doc_text(p->findings[i]->kind), "text", cs_doc_text(p->findings[i]->text)));
	cs_doc_set(r->policies, json_string_value(name),
		cs_doc_pack("{s:O, s:o, s:o, s:b, s:o}", "name", name, "file", cs_doc_text(p->file), "sha256",
			cs_doc_hex(&p->sha256), "audit", p->audit, "findings", findings));
	json_decref(name);
}

static void take_revocation(struct reading *r, const Countersign__V1__Revocation *in)
{
	json_t *id = cs_doc_text(in->id);
	cs_doc_set(r->revocations, json_string_value(id), cs_revocation_doc(in));
	json_decref(id);
}

static void take_batch(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__DirectoryBatch *batch = (const void *)message;
	struct reading *r = data;
	r->silent_ms = batch->silent_ms;
	r->synced |= batch->synced;
	for (size_t i = 0; i < batch->n_records; i++) {
		const Countersign__V1__Record *record = batch->records[i];
		if (record->deleted)
			continue;
		switch (record->record_case) {
		case COUNTERSIGN__V1__RECORD__RECORD_NODE:
			take_node(r, record->node);
			break;
		case COUNTERSIGN__V1__RECORD__RECORD_IDENTITY:
			take_identity(r, record->identity);
			break;
		case COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT:
			take_placement(r, record->placement);
			break;
		case COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT:
			take_endpoint(r, record->endpoint);
			break;
		case COUNTERSIGN__V1__RECORD__RECORD_POLICY:
			take_policy(r, record->policy);
			break;
		case COUNTERSIGN__V1__RECORD__RECORD_REVOCATION:
			take_revocation(r, record->revocation);
			break;
		default: /* not asked for */
			break;
		}
	}
}

/* The values of an object as a list, in the order of a key. */
static json_t *listed(json_t *map, const char *key)
{
	json_t *list = json_array(), *value;
	const char *name;
	json_object_foreach(map, name, value) cs_doc_append(list, json_incref(value));
	cs_doc_sort(list, key);
	json_decref(map);
	return list;
}

/* What a list is made of; nothing else is asked for, for a cluster has 65,000 identities. */
static size_t choose_kinds(enum cs_directory_list which, Countersign__V1__Kind kinds[3])
{
	if (which == CS_DIRECTORY_POLICIES || which == CS_DIRECTORY_REVOCATIONS) {
		kinds[0] = which == CS_DIRECTORY_POLICIES ? COUNTERSIGN__V1__KIND__KIND_POLICY
							  : COUNTERSIGN__V1__KIND__KIND_REVOCATION;
		return 1;
	}
	kinds[0] =
		which == CS_DIRECTORY_NODES ? COUNTERSIGN__V1__KIND__KIND_NODE : COUNTERSIGN__V1__KIND__KIND_IDENTITY;
	kinds[1] = COUNTERSIGN__V1__KIND__KIND_PLACEMENT;
	kinds[2] = COUNTERSIGN__V1__KIND__KIND_ENDPOINT;
	return 3;
}

int cs_directory_read(const struct cs_cli *cli, enum cs_directory_list which, json_t **ret_document, struct cs_error *e)
{
	struct reading r = {.identities = json_object(),
		.nodes = json_object(),
		.policies = json_object(),
		.revocations = json_object()};
	Countersign__V1__Kind kinds[3];
	Countersign__V1__FollowRequest request = COUNTERSIGN__V1__FOLLOW_REQUEST__INIT;
	request.once = true;
	request.kinds = kinds;
	request.n_kinds = choose_kinds(which, kinds);
	int code = cs_cli_stream(cli, &cs_service_directory, "Follow", &request.base, take_batch, &r, NULL, e);
	json_t *document = cs_doc_pack("{s:o, s:o, s:o, s:o, s:I}", "identities", listed(r.identities, "id"), "nodes",
		listed(r.nodes, "name"), "policies", listed(r.policies, "name"), "revocations",
		listed(r.revocations, "from_unix_s"), "silent_ms", (json_int_t)r.silent_ms);
	if (code == CS_CLI_OK && !r.synced) {
		cs_error_set(e, -EPROTO, "%s ended its answer before it was complete", cs_service_directory.program);
		code = CS_CLI_FAILED;
	}
	if (code != CS_CLI_OK) {
		json_decref(document);
		return code;
	}
	*ret_document = document;
	return CS_CLI_OK;
}

void cs_directory_note_silence(const struct cs_cli *cli, const json_t *document)
{
	json_int_t silent_ms = json_integer_value(json_object_get(document, "silent_ms"));
	char span[24], text[128];
	if (silent_ms < SILENCE_MS)
		return;
	cs_view_span(silent_ms, span);
	snprintf(text, sizeof(text), "The cluster role was last heard %s ago; this is what was known then.", span);
	cs_view_styled(cli->out, CS_STYLE_WARN, cli->colour, text);
	fputc('\n', cli->out);
}
