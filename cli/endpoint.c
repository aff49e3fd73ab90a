#include "endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include "doc.h"

static const char *const steps[] = {
	[COUNTERSIGN__V1__STEP__STEP_REGISTERED] = "registered",
	[COUNTERSIGN__V1__STEP__STEP_IDENTIFIED] = "identified",
	[COUNTERSIGN__V1__STEP__STEP_PLACED] = "placed",
	[COUNTERSIGN__V1__STEP__STEP_ENFORCED] = "enforced",
	[COUNTERSIGN__V1__STEP__STEP_SVID_READY] = "svid-ready",
	[COUNTERSIGN__V1__STEP__STEP_PUBLISHED] = "published",
};
#define NSTEPS (sizeof(steps) / sizeof(steps[0]))
const char *const cs_step_names = "registered, identified, placed, enforced, svid-ready, published";

const char *cs_step_name(Countersign__V1__Step step)
{
	return (size_t)step < NSTEPS && steps[step] ? steps[step] : "unknown";
}

Countersign__V1__Step cs_step_parse(const char *name, size_t len)
{
	for (size_t i = 1; i < NSTEPS; i++)
		if (strlen(steps[i]) == len && strncmp(steps[i], name, len) == 0)
			return (Countersign__V1__Step)i;
	return COUNTERSIGN__V1__STEP__STEP_UNSPECIFIED;
}

/* What is on the endpoint and not in its identity. */
static json_t *filtered_doc(const json_t *labels, const json_t *identity_labels)
{
	json_t *list = json_array();
	const json_t *label, *taken;
	size_t i, k;
	json_array_foreach(labels, i, label)
	{
		bool there = json_array_size(identity_labels) == 0; /* not identified yet: not known */
		json_array_foreach(identity_labels, k, taken) there |= json_equal(label, taken);
		if (!there)
			cs_doc_append(list, json_incref((json_t *)label));
	}
	return list;
}

json_t *cs_endpoint_doc(const Countersign__V1__EndpointStatus *s)
{
	static const Countersign__V1__EndpointSpec none = COUNTERSIGN__V1__ENDPOINT_SPEC__INIT;
	const Countersign__V1__EndpointSpec *spec = s->spec ? s->spec : &none;
	json_t *conditions = json_array(), *labels = cs_doc_labels(spec->labels, spec->n_labels);
	json_t *identity_labels = cs_doc_labels(s->identity_labels, s->n_identity_labels);
	json_t *filtered = filtered_doc(labels, identity_labels);
	for (size_t i = 0; i < s->n_conditions; i++) {
		const Countersign__V1__Condition *c = s->conditions[i];
		cs_doc_append(conditions,
			cs_doc_pack("{s:o, s:b, s:o, s:I}", "step", cs_doc_text(cs_step_name(c->step)), "met", c->met,
				"reason", cs_doc_reason(c->reason), "since_unix_ms", (json_int_t)c->since_unix_ms));
	}
	return cs_doc_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:I, s:o, s:o, s:o}", "id",
		cs_doc_text(spec->id), "node", cs_doc_text(s->node), "interface", cs_doc_text(spec->interface),
		"addresses", cs_doc_addresses(spec->addresses, spec->n_addresses), "labels", labels, "identity_labels",
		identity_labels, "filtered_labels", filtered, "dhcp", spec->dhcp, "audit", spec->audit, "identity",
		(json_int_t)s->identity, "spiffe_id", cs_doc_text(s->spiffe_id), "incarnation",
		cs_doc_mark(s->incarnation), "conditions", conditions);
}

int cs_label_parse(char *text, Countersign__V1__Label *label, struct cs_error *e)
{
	char *colon = strchr(text, ':'), *equals = colon ? strchr(colon, '=') : NULL;
	if (!colon || colon == text || !equals || equals == colon + 1)
		return cs_error_set(e, -EINVAL, "'%s' is no label; write SOURCE:KEY=VALUE, like k8s:app=db", text);
	*colon = *equals = '\0';
	countersign__v1__label__init(label);
	label->source = text;
	label->key = colon + 1;
	label->value = equals + 1;
	return 0;
}

int cs_address_parse(const char *text, uint8_t bytes[16], size_t *ret_len, struct cs_error *e)
{
	if (inet_pton(AF_INET, text, bytes) == 1)
		*ret_len = 4;
	else if (inet_pton(AF_INET6, text, bytes) == 1)
		*ret_len = 16;
	else
		return cs_error_set(e, -EINVAL,
			"'%s' is no IP address; write one without a prefix length, like 10.0.0.5 or fd00::5", text);
	return 0;
}
