/* The form of one record: what no directory should send. */
#include "world.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>

static int bad(struct cs_error *e, const char *what)
{
	return cs_error_set(e, -EBADMSG, "directory: %s", what);
}

static bool text(const char *s, size_t max)
{
	size_t n = strlen(s);
	return n > 0 && n <= max;
}

static bool addresses(Countersign__V1__Address *const *a, size_t n, size_t max, size_t max_of_family)
{
	struct cs_ip ip;
	size_t v4 = 0;
	for (size_t i = 0; i < n; i++) {
		if (!cs_ip_from_bytes(&ip, a[i]->ip.data, a[i]->ip.len))
			return false;
		v4 += ip.family == 4;
	}
	return n <= max && v4 <= max_of_family && n - v4 <= max_of_family;
}

static bool prefix(const Countersign__V1__Prefix *p)
{
	struct cs_ip ip;
	struct cs_ip_prefix made;
	return p && cs_ip_from_bytes(&ip, p->ip.data, p->ip.len) && cs_ip_prefix_make(&made, &ip, p->bits);
}

static int check_node(const Countersign__V1__Node *n, bool deleted, struct cs_error *e)
{
	if (!text(n->name, CS_NODE_NAME - 1))
		return bad(e, "a node without a name, or with one of more than 255 bytes");
	if (!deleted && (n->port > 65535 || !addresses(n->addresses, n->n_addresses, CS_NODE_ADDRS, CS_NODE_ADDRS)))
		return bad(e, "a node with an impossible port or address, or more than 8 addresses");
	return 0;
}

static int check_endpoint(const Countersign__V1__Endpoint *p, bool deleted, struct cs_error *e)
{
	if (!text(p->node, CS_NODE_NAME - 1) || !text(p->id, 1024))
		return bad(e, "an endpoint without node or id");
	if (deleted)
		return 0;
	if (!addresses(p->addresses, p->n_addresses, CS_WORLD_ENDPOINT_ADDRS, CS_OWN))
		return bad(e, "an endpoint with an impossible address, or more than 4 of a family");
	if (p->local && (!text(p->local->interface, IFNAMSIZ - 1) || !p->local->ifindex))
		return bad(e, "a local endpoint without an interface");
	return 0;
}

static int check_depends(const Countersign__V1__DependsOn *d, struct cs_error *e)
{
	for (size_t i = 0; i < d->n_prefixes; i++)
		if (!prefix(d->prefixes[i]))
			return bad(e, "depends_on with an impossible prefix");
	return text(d->name, 1024) ? 0 : bad(e, "depends_on without a name");
}

static int check_revocation(const Countersign__V1__Revocation *r, bool deleted, struct cs_error *e)
{
	bool ok = true;
	if (!text(r->id, 1024))
		return bad(e, "a revocation without an id");
	if (deleted)
		return 0;
	switch (r->subject_case) {
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE:
		ok = text(r->node, CS_NODE_NAME - 1);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT:
		ok = text(r->placement->node, CS_NODE_NAME - 1);
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256:
		ok = r->leaf_sha256.len == 32;
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL:
		ok = r->serial->serial.len <= 20 && r->serial->authority.len <= 32;
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY:
		ok = r->authority.len > 0 && r->authority.len <= 32;
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY:
		break;
	default: /* a kind that we do not know would not be enforced: better no directory at all */
		ok = false;
	}
	return ok ? 0 : bad(e, "a revocation whose subject is not understood");
}

int cs_world_record_check(const Countersign__V1__Record *r, struct cs_error *e)
{
	switch (r->record_case) {
	case COUNTERSIGN__V1__RECORD__RECORD_NODE:
		return check_node(r->node, r->deleted, e);
	case COUNTERSIGN__V1__RECORD__RECORD_IDENTITY:
		if (!r->identity->id || (!r->deleted && !text(r->identity->spiffe_id, 2048)))
			return bad(e, "an identity without a number or a SPIFFE ID");
		return 0;
	case COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT:
		return text(r->placement->node, CS_NODE_NAME - 1) ? 0 : bad(e, "a placement without a node");
	case COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT:
		return check_endpoint(r->endpoint, r->deleted, e);
	case COUNTERSIGN__V1__RECORD__RECORD_PREFIX:
		return prefix(r->prefix->prefix) ? 0 : bad(e, "an impossible prefix");
	case COUNTERSIGN__V1__RECORD__RECORD_DEPENDS_ON:
		return check_depends(r->depends_on, e);
	case COUNTERSIGN__V1__RECORD__RECORD_REVOCATION:
		return check_revocation(r->revocation, r->deleted, e);
	default:
		return 0;
	}
}
