#include "endpoint.h"

#include <errno.h>
#include "mem.h"

/* --- the spec --- */

int cs_endpoint_id_check(const char *id, struct cs_error *e)
{
	size_t n = strlen(id);
	if (n == 0 || n > CS_ENDPOINT_ID_MAX)
		return cs_error_set(e, -EINVAL, "an endpoint's id has 1 to %d bytes, not %zu", CS_ENDPOINT_ID_MAX, n);
	for (size_t i = 0; i < n; i++)
		if (id[i] <= ' ' || id[i] > '~')
			return cs_error_set(e, -EINVAL,
				"an endpoint's id is printable ASCII without space; byte %zu is 0x%02x", i,
				(unsigned char)id[i]);
	return 0;
}

static int check_interface(const char *name, struct cs_error *e)
{
	size_t n = strlen(name);
	if (n == 0)
		return cs_error_reason(e, -EINVAL, CS_R_INTERFACE_UNSUITABLE,
			"an endpoint needs an interface of its own on the host side; host network has none");
	bool odd = n > CS_INTERFACE_MAX || strchr(name, '/');
	for (size_t i = 0; i < n && !odd; i++)
		odd = name[i] <= ' ' || name[i] > '~';
	if (odd)
		return cs_error_reason(
			e, -EINVAL, CS_R_INTERFACE_UNSUITABLE, "'%.40s' is not the name of an interface", name);
	return 0;
}

int cs_endpoint_addresses(
	Countersign__V1__Address *const *in, size_t n, struct cs_ip *ret, size_t *ret_n, struct cs_error *e)
{
	size_t per_family[2] = {0};
	if (n == 0)
		return cs_error_set(e, -EINVAL, "an endpoint has at least one address");
	int r = cs_ips_from_pb(in, n, 2 * CS_FAMILY_ADDRS_MAX, ret, ret_n, e);
	for (size_t i = 0; i < n && r == 0; i++)
		if (++per_family[ret[i].len == 16] > CS_FAMILY_ADDRS_MAX)
			r = cs_error_set(
				e, -EINVAL, "an endpoint has at most %d addresses of a family", CS_FAMILY_ADDRS_MAX);
	return r;
}

int cs_endpoint_spec_check(const Countersign__V1__EndpointSpec *pb, struct cs_endpoint_spec *ret, struct cs_error *e)
{
	struct cs_endpoint_spec spec = {.dhcp = pb->dhcp, .audit = pb->audit};
	int r = cs_endpoint_id_check(pb->id, e);
	if (r == 0)
		r = check_interface(pb->interface, e);
	if (r == 0)
		r = cs_endpoint_addresses(pb->addresses, pb->n_addresses, spec.addrs, &spec.naddrs, e);
	if (r == 0)
		r = cs_labels_from_proto(pb->labels, pb->n_labels, &spec.labels, e);
	if (r == 0)
		r = cs_labels_check_claim(&spec.labels, e);
	if (r < 0) {
		cs_labels_fini(&spec.labels);
		return r;
	}
	spec.id = cs_xstrdup(pb->id);
	spec.labels_text = cs_mem_check(cs_labels_format(&spec.labels));
	snprintf(spec.interface, sizeof(spec.interface), "%s", pb->interface);
	*ret = spec;
	return 0;
}

void cs_endpoint_spec_fini(struct cs_endpoint_spec *spec)
{
	free(spec->id);
	free(spec->labels_text);
	cs_labels_fini(&spec->labels);
	*spec = (struct cs_endpoint_spec){0};
}

bool cs_endpoint_same_place(const struct cs_endpoint_spec *a, const struct cs_endpoint_spec *b)
{
	if (strcmp(a->interface, b->interface) != 0 || a->dhcp != b->dhcp || a->audit != b->audit ||
		a->naddrs != b->naddrs)
		return false;
	for (size_t i = 0; i < a->naddrs; i++)
		if (!cs_ip_equal(&a->addrs[i], &b->addrs[i]))
			return false;
	return true;
}

bool cs_endpoint_spec_equal(const struct cs_endpoint_spec *a, const struct cs_endpoint_spec *b)
{
	return strcmp(a->id, b->id) == 0 && strcmp(a->labels_text, b->labels_text) == 0 && cs_endpoint_same_place(a, b);
}

static void fill_labels(
	const struct cs_labels *labels, Countersign__V1__Label space[CS_LABELS_MAX], Countersign__V1__Label **refs)
{
	for (size_t i = 0; i < labels->n; i++) {
		countersign__v1__label__init(&space[i]);
		space[i].source = (char *)labels->items[i].source;
		space[i].key = labels->items[i].key;
		space[i].value = labels->items[i].value;
		refs[i] = &space[i];
	}
}

Countersign__V1__EndpointSpec *cs_endpoint_spec_message(const struct cs_endpoint_spec *spec)
{
	Countersign__V1__EndpointSpec m = COUNTERSIGN__V1__ENDPOINT_SPEC__INIT;
	Countersign__V1__Label labels[CS_LABELS_MAX], *label_refs[CS_LABELS_MAX];
	Countersign__V1__Address addrs[2 * CS_FAMILY_ADDRS_MAX], *addr_refs[2 * CS_FAMILY_ADDRS_MAX];
	fill_labels(&spec->labels, labels, label_refs);
	for (size_t i = 0; i < spec->naddrs; i++) {
		cs_ip_to_pb(&spec->addrs[i], &addrs[i]);
		addr_refs[i] = &addrs[i];
	}
	m.id = spec->id;
	m.labels = label_refs;
	m.n_labels = spec->labels.n;
	m.addresses = addr_refs;
	m.n_addresses = spec->naddrs;
	m.interface = (char *)spec->interface;
	m.dhcp = spec->dhcp;
	m.audit = spec->audit;
	size_t n = countersign__v1__endpoint_spec__get_packed_size(&m);
	uint8_t *bytes = cs_xcalloc(1, n);
	countersign__v1__endpoint_spec__pack(&m, bytes);
	Countersign__V1__EndpointSpec *copy = cs_mem_check(countersign__v1__endpoint_spec__unpack(NULL, n, bytes));
	free(bytes);
	return copy;
}

/* --- the endpoint --- */

struct cs_node_endpoint *cs_endpoint_new_take(struct cs_endpoint_spec *spec, uint64_t incarnation, int64_t now_unix_ms)
{
	struct cs_node_endpoint *ep = cs_xcalloc(1, sizeof(*ep));
	ep->spec = *spec;
	*spec = (struct cs_endpoint_spec){0};
	cs_endpoint_reset(ep, incarnation, now_unix_ms);
	return ep;
}

void cs_endpoint_free(struct cs_node_endpoint *ep)
{
	if (!ep)
		return;
	cs_endpoint_spec_fini(&ep->spec);
	free(ep->spiffe_id);
	cs_labels_fini(&ep->identity_labels);
	free(ep);
}

void cs_endpoint_reset(struct cs_node_endpoint *ep, uint64_t incarnation, int64_t now_unix_ms)
{
	static const struct {
		Countersign__V1__Step step;
		enum cs_reason reason;
		const char *detail;
	} unmet[] = {
		{COUNTERSIGN__V1__STEP__STEP_ENFORCED, CS_R_DATAPATH_DOWN, "authd has not reported yet"},
		{COUNTERSIGN__V1__STEP__STEP_SVID_READY, CS_R_NO_LOCAL_SVID, "spire-adapter has not reported yet"},
	};
	ep->incarnation = incarnation;
	ep->caught_up = 0;
	ep->asking_published = false;
	if (ep->want_published)
		cs_endpoint_set(ep, COUNTERSIGN__V1__STEP__STEP_PUBLISHED, false, CS_R_DIRECTORY_STALE,
			"the other nodes have not answered yet", now_unix_ms);
	cs_endpoint_set(ep, COUNTERSIGN__V1__STEP__STEP_REGISTERED, true, CS_R_NONE, NULL, now_unix_ms);
	for (size_t i = 0; i < sizeof(unmet) / sizeof(unmet[0]); i++)
		cs_endpoint_set(ep, unmet[i].step, false, unmet[i].reason, unmet[i].detail, now_unix_ms);
}

bool cs_endpoint_set(struct cs_node_endpoint *ep, Countersign__V1__Step step, bool met, enum cs_reason reason,
	const char *detail, int64_t now_unix_ms)
{
	struct cs_condition *c = &ep->conditions[step];
	char text[sizeof(c->detail)];
	cs_text_cut(text, sizeof(text), detail ? detail : "");
	for (char *p = text; *p; p++) /* it may quote anything, and a string of a message must be UTF-8 */
		if (*p < ' ' || *p > '~')
			*p = '?';
	bool same = c->since_unix_ms != 0 && c->met == met && c->reason == reason && strcmp(c->detail, text) == 0;
	if (same)
		return false;
	if (c->met != met || c->since_unix_ms == 0)
		c->since_unix_ms = now_unix_ms;
	c->met = met;
	c->reason = reason;
	memcpy(c->detail, text, sizeof(text));
	return true;
}

Countersign__V1__Step cs_endpoint_unmet(const struct cs_node_endpoint *ep, const Countersign__V1__Step *steps, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (ep->conditions[steps[i]].met)
			continue;
		/* What is not placed is not enforced either: name the cause. */
		for (Countersign__V1__Step s = COUNTERSIGN__V1__STEP__STEP_REGISTERED; s < steps[i]; s++)
			if (s <= COUNTERSIGN__V1__STEP__STEP_PLACED && !ep->conditions[s].met)
				return s;
		return steps[i];
	}
	return COUNTERSIGN__V1__STEP__STEP_UNSPECIFIED;
}

const char *cs_step_name(Countersign__V1__Step step)
{
	static const char *const names[CS_STEPS] = {
		"unspecified", "registered", "identified", "placed", "enforced", "svid-ready", "published"};
	return (unsigned)step < CS_STEPS ? names[step] : "unknown";
}

Countersign__V1__EndpointStatus *cs_endpoint_status(const struct cs_node_endpoint *ep, const char *node)
{
	Countersign__V1__EndpointStatus m = COUNTERSIGN__V1__ENDPOINT_STATUS__INIT;
	Countersign__V1__Condition conditions[CS_STEPS], *refs[CS_STEPS];
	Countersign__V1__Reason reasons[CS_STEPS];
	Countersign__V1__Label labels[CS_LABELS_MAX], *label_refs[CS_LABELS_MAX];
	for (int i = 1; i < CS_STEPS; i++) {
		const struct cs_condition *c = &ep->conditions[i];
		if (i == COUNTERSIGN__V1__STEP__STEP_PUBLISHED && c->since_unix_ms == 0)
			continue; /* nobody asked */
		countersign__v1__condition__init(&conditions[i]);
		countersign__v1__reason__init(&reasons[i]);
		reasons[i].name = c->reason == CS_R_NONE ? (char *)"" : (char *)cs_reason_name(c->reason);
		reasons[i].detail = (char *)c->detail;
		conditions[i].step = (Countersign__V1__Step)i;
		conditions[i].met = c->met;
		conditions[i].reason = &reasons[i];
		conditions[i].since_unix_ms = c->since_unix_ms;
		refs[m.n_conditions++] = &conditions[i];
	}
	m.spec = cs_endpoint_spec_message(&ep->spec);
	m.node = (char *)node;
	m.identity = ep->move.from ? ep->move.from : ep->identity;
	m.spiffe_id = ep->spiffe_id ? ep->spiffe_id : (char *)"";
	m.incarnation = ep->incarnation;
	fill_labels(&ep->identity_labels, labels, label_refs);
	m.identity_labels = label_refs;
	m.n_identity_labels = ep->identity_labels.n;
	m.conditions = refs;
	size_t n = countersign__v1__endpoint_status__get_packed_size(&m);
	uint8_t *bytes = cs_xcalloc(1, n);
	countersign__v1__endpoint_status__pack(&m, bytes);
	Countersign__V1__EndpointStatus *copy = cs_mem_check(countersign__v1__endpoint_status__unpack(NULL, n, bytes));
	free(bytes);
	countersign__v1__endpoint_spec__free_unpacked(m.spec, NULL);
	return copy;
}
