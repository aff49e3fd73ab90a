/* Records of the directory: kind, key, copies. */
#include "dir.h"

#include <arpa/inet.h>
#include <stdio.h>
#include "mem.h"

/* The cases of the oneof are the kinds, one further. */
_Static_assert(COUNTERSIGN__V1__RECORD__RECORD_NODE == COUNTERSIGN__V1__KIND__KIND_NODE + 1, "record and kind");
_Static_assert(
	COUNTERSIGN__V1__RECORD__RECORD_REVOCATION == COUNTERSIGN__V1__KIND__KIND_REVOCATION + 1, "record and kind");

Countersign__V1__Kind cs_record_kind(const cs_record *record)
{
	if (record->record_case < COUNTERSIGN__V1__RECORD__RECORD_NODE ||
		record->record_case > COUNTERSIGN__V1__RECORD__RECORD_REVOCATION || !record->node)
		return COUNTERSIGN__V1__KIND__KIND_UNSPECIFIED;
	return (Countersign__V1__Kind)(record->record_case - 1);
}

static char *prefix_key(const Countersign__V1__Prefix *prefix)
{
	char ip[INET6_ADDRSTRLEN] = "", *key = NULL;
	if (!prefix || (prefix->ip.len != 4 && prefix->ip.len != 16))
		return NULL;
	inet_ntop(prefix->ip.len == 4 ? AF_INET : AF_INET6, prefix->ip.data, ip, sizeof(ip));
	return asprintf(&key, "prefix/%s/%u", ip, prefix->bits) < 0 ? NULL : key;
}

char *cs_record_key(const cs_record *r)
{
	char *key = NULL;
	int n = -1;
	switch (cs_record_kind(r)) {
	case COUNTERSIGN__V1__KIND__KIND_NODE:
		n = asprintf(&key, "node/%s", r->node->name);
		break;
	case COUNTERSIGN__V1__KIND__KIND_IDENTITY:
		n = asprintf(&key, "identity/%u", r->identity->id);
		break;
	case COUNTERSIGN__V1__KIND__KIND_PLACEMENT:
		n = asprintf(&key, "placement/%u/%s", r->placement->identity, r->placement->node);
		break;
	case COUNTERSIGN__V1__KIND__KIND_ENDPOINT:
		n = asprintf(&key, "endpoint/%s/%s", r->endpoint->node, r->endpoint->id);
		break;
	case COUNTERSIGN__V1__KIND__KIND_PREFIX:
		return prefix_key(r->prefix->prefix);
	case COUNTERSIGN__V1__KIND__KIND_POLICY:
		n = asprintf(&key, "policy/%s", r->policy->name);
		break;
	case COUNTERSIGN__V1__KIND__KIND_POLICY_ROW:
		n = asprintf(&key, "row/%u/%u", r->policy_row->local, r->policy_row->remote);
		break;
	case COUNTERSIGN__V1__KIND__KIND_POLICY_DEFAULT:
		n = asprintf(&key, "default/%u", r->policy_default->local);
		break;
	case COUNTERSIGN__V1__KIND__KIND_DEPENDS_ON:
		n = asprintf(&key, "depends-on/%s", r->depends_on->name);
		break;
	case COUNTERSIGN__V1__KIND__KIND_REVOCATION:
		n = asprintf(&key, "revocation/%s", r->revocation->id);
		break;
	default:
		return NULL;
	}
	return n < 0 ? NULL : key;
}

/* A borrowed view of r with nothing but the key fields, packed by the caller while `key` lives. */
struct key_only {
	cs_record record;
	Countersign__V1__Node node;
	Countersign__V1__Identity identity;
	Countersign__V1__Placement placement;
	Countersign__V1__Endpoint endpoint;
	Countersign__V1__PrefixIdentity prefix;
	Countersign__V1__Policy policy;
	Countersign__V1__PolicyRow row;
	Countersign__V1__PolicyDefault def;
	Countersign__V1__DependsOn depends_on;
	Countersign__V1__Revocation revocation;
};

static void key_only_init(struct key_only *k, const cs_record *r)
{
	countersign__v1__record__init(&k->record);
	k->record.deleted = true;
	k->record.record_case = r->record_case;
	switch (cs_record_kind(r)) {
	case COUNTERSIGN__V1__KIND__KIND_NODE:
		countersign__v1__node__init(&k->node);
		k->node.name = r->node->name;
		k->record.node = &k->node;
		break;
	case COUNTERSIGN__V1__KIND__KIND_IDENTITY:
		countersign__v1__identity__init(&k->identity);
		k->identity.id = r->identity->id;
		k->record.identity = &k->identity;
		break;
	case COUNTERSIGN__V1__KIND__KIND_PLACEMENT:
		countersign__v1__placement__init(&k->placement);
		k->placement.identity = r->placement->identity;
		k->placement.node = r->placement->node;
		k->record.placement = &k->placement;
		break;
	case COUNTERSIGN__V1__KIND__KIND_ENDPOINT:
		countersign__v1__endpoint__init(&k->endpoint);
		k->endpoint.node = r->endpoint->node;
		k->endpoint.id = r->endpoint->id;
		k->record.endpoint = &k->endpoint;
		break;
	case COUNTERSIGN__V1__KIND__KIND_PREFIX:
		countersign__v1__prefix_identity__init(&k->prefix);
		k->prefix.prefix = r->prefix->prefix;
		k->record.prefix = &k->prefix;
		break;
	case COUNTERSIGN__V1__KIND__KIND_POLICY:
		countersign__v1__policy__init(&k->policy);
		k->policy.name = r->policy->name;
		k->record.policy = &k->policy;
		break;
	case COUNTERSIGN__V1__KIND__KIND_POLICY_ROW:
		countersign__v1__policy_row__init(&k->row);
		k->row.local = r->policy_row->local;
		k->row.remote = r->policy_row->remote;
		k->record.policy_row = &k->row;
		break;
	case COUNTERSIGN__V1__KIND__KIND_POLICY_DEFAULT:
		countersign__v1__policy_default__init(&k->def);
		k->def.local = r->policy_default->local;
		k->record.policy_default = &k->def;
		break;
	case COUNTERSIGN__V1__KIND__KIND_DEPENDS_ON:
		countersign__v1__depends_on__init(&k->depends_on);
		k->depends_on.name = r->depends_on->name;
		k->record.depends_on = &k->depends_on;
		break;
	case COUNTERSIGN__V1__KIND__KIND_REVOCATION:
		countersign__v1__revocation__init(&k->revocation);
		k->revocation.id = r->revocation->id;
		k->record.revocation = &k->revocation;
		break;
	default:
		break;
	}
}

/* --- one piece of memory for each record: there are hundreds of thousands, of a dozen small strings and messages each --- */

struct piece {
	uint8_t *bytes;
	size_t used, room;
};

/* Messages and arrays of pointers have sizes of 8 bytes' multiples, arrays of numbers of 4 or 8; a text needs nothing. */
static void *piece_alloc(void *data, size_t size)
{
	struct piece *p = data;
	size_t align = size % 8 == 0 ? 8 : size % 4 == 0 ? 4 : 1;
	size_t at = (p->used + align - 1) & ~(align - 1);
	if (at + size > p->room)
		return NULL;
	p->used = at + size;
	return p->bytes + at;
}

static void piece_free(void *data, void *pointer)
{
	(void)data;
	(void)pointer;
}

static cs_record *unpack_into(struct piece *p, const uint8_t *bytes, size_t n)
{
	ProtobufCAllocator allocator = {.alloc = piece_alloc, .free = piece_free, .allocator_data = p};
	return cs_mem_check(countersign__v1__record__unpack(&allocator, n, bytes));
}

/* Unpacked twice: the first time tells how much it takes. The record itself comes first in its piece. */
cs_record *cs_record_unpack(const uint8_t *bytes, size_t n)
{
	_Alignas(8) uint8_t small[16384];
	struct piece scratch = {
		.bytes = small, .room = 64 * n + 4096}; /* a nested message of 2 bytes becomes one of 100 */
	if (scratch.room > sizeof(small))
		scratch.bytes = cs_mem_check(malloc(scratch.room));
	unpack_into(&scratch, bytes, n);
	if (scratch.bytes != small)
		free(scratch.bytes);
	struct piece exact = {.room = scratch.used};
	exact.bytes = cs_mem_check(malloc(exact.room));
	return unpack_into(&exact, bytes, n);
}

cs_record *cs_record_copy(const cs_record *record, bool key_only)
{
	struct key_only k;
	if (key_only) {
		key_only_init(&k, record);
		record = &k.record;
	}
	size_t n = countersign__v1__record__get_packed_size(record);
	uint8_t *bytes = cs_xcalloc(1, n);
	countersign__v1__record__pack(record, bytes);
	cs_record *copy = cs_record_unpack(bytes, n);
	free(bytes);
	return copy;
}

void cs_record_free(cs_record *record)
{
	free(record);
}

bool cs_record_equal(const cs_record *a, const cs_record *b)
{
	size_t n = countersign__v1__record__get_packed_size(a);
	if (n != countersign__v1__record__get_packed_size(b))
		return false;
	uint8_t *bytes = cs_xcalloc(2, n);
	countersign__v1__record__pack(a, bytes);
	countersign__v1__record__pack(b, bytes + n);
	bool same = memcmp(bytes, bytes + n, n) == 0;
	free(bytes);
	return same;
}
