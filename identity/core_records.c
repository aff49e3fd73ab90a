/* What the core knows, as records of the directory. */
#include "core_private.h"

#include "mem.h"

typedef Countersign__V1__Record__RecordCase record_case;

static cs_record *finish(cs_record *r, record_case kind, void *message, bool deleted)
{
	r->record_case = kind;
	r->node = message; /* the oneof's pointers share their place */
	return cs_record_copy(r, deleted);
}

cs_record *cs_core_node_record(const struct cs_store_node *node, bool deleted)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Node m = COUNTERSIGN__V1__NODE__INIT;
	Countersign__V1__Address addrs[CS_NODE_ADDRS_MAX], *refs[CS_NODE_ADDRS_MAX];
	for (size_t i = 0; i < node->naddrs; i++) {
		cs_ip_to_pb(&node->addrs[i], &addrs[i]);
		refs[i] = &addrs[i];
	}
	m.name = (char *)node->name;
	m.addresses = refs;
	m.n_addresses = node->naddrs;
	m.port = node->port;
	m.path = (char *)node->path;
	m.gone = node->gone;
	return finish(&r, COUNTERSIGN__V1__RECORD__RECORD_NODE, &m, deleted);
}

cs_record *cs_core_identity_record(const struct cs_store_identity *identity, bool deleted)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Identity m = COUNTERSIGN__V1__IDENTITY__INIT;
	Countersign__V1__Label labels[CS_LABELS_MAX], *refs[CS_LABELS_MAX];
	struct cs_labels parsed;
	cs_core_labels_of(identity, &parsed);
	for (size_t i = 0; i < parsed.n; i++) {
		countersign__v1__label__init(&labels[i]);
		labels[i].source = (char *)parsed.items[i].source;
		labels[i].key = parsed.items[i].key;
		labels[i].value = parsed.items[i].value;
		refs[i] = &labels[i];
	}
	m.id = identity->id;
	m.labels = refs;
	m.n_labels = parsed.n;
	m.spiffe_id = (char *)identity->spiffe_id;
	m.incarnation = identity->incarnation;
	m.created_unix_ms = identity->created_unix_ms;
	cs_record *record = finish(&r, COUNTERSIGN__V1__RECORD__RECORD_IDENTITY, &m, deleted);
	cs_labels_fini(&parsed);
	return record;
}

cs_record *cs_core_endpoint_record(const struct cs_store_claim *claim, bool deleted)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Endpoint m = COUNTERSIGN__V1__ENDPOINT__INIT;
	Countersign__V1__Address addrs[2 * CS_FAMILY_ADDRS_MAX], *refs[2 * CS_FAMILY_ADDRS_MAX];
	for (size_t i = 0; i < claim->naddrs; i++) {
		cs_ip_to_pb(&claim->addrs[i], &addrs[i]);
		refs[i] = &addrs[i];
	}
	m.node = (char *)claim->node;
	m.id = (char *)claim->endpoint;
	m.identity = claim->identity;
	m.addresses = refs;
	m.n_addresses = claim->naddrs;
	return finish(&r, COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT, &m, deleted);
}

cs_record *cs_core_placement_record(uint32_t identity, const char *node, const char *authority, bool deleted)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Placement m = COUNTERSIGN__V1__PLACEMENT__INIT;
	m.identity = identity;
	m.node = (char *)node;
	m.authority = (char *)authority;
	return finish(&r, COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT, &m, deleted);
}

static void prefix_message(const struct cs_prefix *prefix, Countersign__V1__Prefix *ret)
{
	countersign__v1__prefix__init(ret);
	ret->ip = (ProtobufCBinaryData){.len = prefix->family == 4 ? 4 : 16, .data = (uint8_t *)prefix->addr};
	ret->bits = prefix->bits;
}

cs_record *cs_core_prefix_record(const struct cs_prefix_identity *prefix, bool deleted)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__PrefixIdentity m = COUNTERSIGN__V1__PREFIX_IDENTITY__INIT;
	Countersign__V1__Prefix p;
	prefix_message(&prefix->prefix, &p);
	m.prefix = &p;
	m.identity = prefix->id;
	return finish(&r, COUNTERSIGN__V1__RECORD__RECORD_PREFIX, &m, deleted);
}

cs_record *cs_core_policy_record(const struct cs_cnp *policy, const struct cs_finding *findings, size_t n)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Policy m = COUNTERSIGN__V1__POLICY__INIT;
	Countersign__V1__Finding *found = cs_xcalloc(n, sizeof(*found)), **refs = cs_xcalloc(n, sizeof(*refs));
	for (size_t i = 0; i < n; i++) {
		if (findings[i].policy != policy)
			continue;
		Countersign__V1__Finding *f = &found[m.n_findings];
		countersign__v1__finding__init(f);
		f->rule = findings[i].rule ? findings[i].rule->name : (char *)"";
		f->kind = (char *)cs_finding_kind_name(findings[i].kind);
		f->text = findings[i].text;
		refs[m.n_findings++] = f;
	}
	m.name = policy->name;
	m.file = policy->file;
	m.sha256 = (ProtobufCBinaryData){.len = sizeof(policy->sha256), .data = (uint8_t *)policy->sha256};
	m.findings = refs;
	cs_record *record = finish(&r, COUNTERSIGN__V1__RECORD__RECORD_POLICY, &m, false);
	free(refs);
	free(found);
	return record;
}

cs_record *cs_core_policy_gone_record(const char *name)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Policy m = COUNTERSIGN__V1__POLICY__INIT;
	m.name = (char *)name;
	return finish(&r, COUNTERSIGN__V1__RECORD__RECORD_POLICY, &m, true);
}

static Countersign__V1__Decision *decision_message(const struct cs_decision *d, Countersign__V1__Decision *ret)
{
	_Static_assert((int)CS_DENY == (int)COUNTERSIGN__V1__VERDICT__VERDICT_DENY &&
			       (int)CS_REQUIRE == (int)COUNTERSIGN__V1__VERDICT__VERDICT_REQUIRE &&
			       (int)CS_PASS == (int)COUNTERSIGN__V1__VERDICT__VERDICT_PASS,
		"verdicts of the maps and of the directory");
	countersign__v1__decision__init(ret);
	ret->verdict = (Countersign__V1__Verdict)(d->verdict & CS_VERDICT_MASK);
	ret->audit = (d->verdict & CS_AUDIT) != 0;
	ret->policy = d->policy ? d->policy->name : (char *)"";
	ret->rule = (char *)cs_decision_rule(d);
	return ret;
}

cs_record *cs_core_row_record(const struct cs_policy_row *row)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__PolicyRow m = COUNTERSIGN__V1__POLICY_ROW__INIT;
	Countersign__V1__Decision from, to;
	m.local = row->local;
	m.remote = row->remote;
	m.from = decision_message(&row->verdict[CS_FROM], &from);
	m.to = decision_message(&row->verdict[CS_TO], &to);
	return finish(&r, COUNTERSIGN__V1__RECORD__RECORD_POLICY_ROW, &m, false);
}

cs_record *cs_core_default_record(const struct cs_policy_default *def)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__PolicyDefault m = COUNTERSIGN__V1__POLICY_DEFAULT__INIT;
	Countersign__V1__Decision d[4];
	m.local = def->local;
	m.from_endpoint = decision_message(&def->verdict[CS_FROM][CS_PEER_ENDPOINT], &d[0]);
	m.from_other = decision_message(&def->verdict[CS_FROM][CS_PEER_OTHER], &d[1]);
	m.to_endpoint = decision_message(&def->verdict[CS_TO][CS_PEER_ENDPOINT], &d[2]);
	m.to_other = decision_message(&def->verdict[CS_TO][CS_PEER_OTHER], &d[3]);
	return finish(&r, COUNTERSIGN__V1__RECORD__RECORD_POLICY_DEFAULT, &m, false);
}

cs_record *cs_core_depends_gone_record(const char *name)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__DependsOn m = COUNTERSIGN__V1__DEPENDS_ON__INIT;
	m.name = (char *)name;
	return finish(&r, COUNTERSIGN__V1__RECORD__RECORD_DEPENDS_ON, &m, true);
}

cs_record *cs_core_depends_record(
	const char *name, const uint32_t *identities, size_t n, const struct cs_prefix *prefixes, size_t nprefixes)
{
	cs_record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__DependsOn m = COUNTERSIGN__V1__DEPENDS_ON__INIT;
	Countersign__V1__Prefix *list = cs_xcalloc(nprefixes, sizeof(*list)),
				**refs = cs_xcalloc(nprefixes, sizeof(*refs));
	for (size_t i = 0; i < nprefixes; i++) {
		prefix_message(&prefixes[i], &list[i]);
		refs[i] = &list[i];
	}
	m.name = (char *)name;
	m.identities = (uint32_t *)identities;
	m.n_identities = n;
	m.prefixes = refs;
	m.n_prefixes = nprefixes;
	cs_record *record = finish(&r, COUNTERSIGN__V1__RECORD__RECORD_DEPENDS_ON, &m, false);
	free(refs);
	free(list);
	return record;
}
