/* Facts as keys and values. */
#include "facts_private.h"

#include <countersign/maps.h>
#include <errno.h>
#include <inttypes.h>
#include "mem.h"
#include "store.pb-c.h"
#include "store_private.h"

typedef Countersign__Store__Identity pb_identity;
typedef Countersign__Store__Retired pb_retired;
typedef Countersign__Store__Node pb_node;
typedef Countersign__Store__Claim pb_claim;
typedef Countersign__Store__Address pb_address;
typedef Countersign__Store__Prefix pb_prefix;
typedef Countersign__Store__Revocation pb_revocation;
typedef Countersign__Store__Documents pb_documents;
typedef Countersign__Store__Document pb_document;
typedef Countersign__Store__Blob pb_blob;
typedef Countersign__Store__Meta pb_meta;

static const struct {
	const char *word;
	const ProtobufCMessageDescriptor *descriptor;
} kinds[CS_FACT_KINDS] = {
	[CS_FACT_IDENTITY] = {"identity", &countersign__store__identity__descriptor},
	[CS_FACT_RETIRED] = {"retired", &countersign__store__retired__descriptor},
	[CS_FACT_NODE] = {"node", &countersign__store__node__descriptor},
	[CS_FACT_CLAIM] = {"claim", &countersign__store__claim__descriptor},
	[CS_FACT_ADDRESS] = {"address", &countersign__store__address__descriptor},
	[CS_FACT_PREFIX] = {"prefix", &countersign__store__prefix__descriptor},
	[CS_FACT_REVOCATION] = {"revocation", &countersign__store__revocation__descriptor},
	[CS_FACT_DOCUMENTS] = {"documents", &countersign__store__documents__descriptor},
	[CS_FACT_BLOB] = {"blob", &countersign__store__blob__descriptor},
};

/* --- keys --- */

const char *cs_fact_key(const struct cs_fact *f, char out[CS_FACT_KEY_MAX])
{
	const char *word = kinds[f->kind].word;
	char ip[CS_IP_TEXT], hex[2 * CS_SHA256_BYTES + 1];
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		snprintf(out, CS_FACT_KEY_MAX, "%s/%u", word, f->identity.id);
		break;
	case CS_FACT_RETIRED:
		snprintf(out, CS_FACT_KEY_MAX, "%s/%u", word, f->retired.id);
		break;
	case CS_FACT_NODE:
		snprintf(out, CS_FACT_KEY_MAX, "%s/%s", word, f->node.name);
		break;
	case CS_FACT_CLAIM:
		snprintf(out, CS_FACT_KEY_MAX, "%s/%s/%s", word, f->claim.node, f->claim.endpoint);
		break;
	case CS_FACT_ADDRESS:
		snprintf(out, CS_FACT_KEY_MAX, "%s/%s", word, cs_ip_text(&f->address.ip, ip));
		break;
	case CS_FACT_PREFIX:
		snprintf(out, CS_FACT_KEY_MAX, "%s/%u", word, f->prefix.id & ~CS_ID_LOCAL_SCOPE);
		break;
	case CS_FACT_REVOCATION:
		snprintf(out, CS_FACT_KEY_MAX, "%s/%s", word, f->revocation.id);
		break;
	case CS_FACT_DOCUMENTS:
		snprintf(out, CS_FACT_KEY_MAX, "%s/%s", word, f->documents.set);
		break;
	case CS_FACT_BLOB:
		for (size_t i = 0; i < CS_SHA256_BYTES; i++)
			snprintf(hex + 2 * i, 3, "%02x", f->blob.sha256[i]);
		snprintf(out, CS_FACT_KEY_MAX, "%s/%s", word, hex);
		break;
	case CS_FACT_KINDS:
		abort();
	}
	return out;
}

/* --- values --- */

static uint8_t *pack(const void *message, size_t *ret_n)
{
	*ret_n = protobuf_c_message_get_packed_size(message);
	uint8_t *out = cs_xcalloc(1, *ret_n);
	protobuf_c_message_pack(message, out);
	return out;
}

static ProtobufCBinaryData bytes_of(const void *p, size_t n)
{
	return (ProtobufCBinaryData){.len = n, .data = (uint8_t *)p};
}

static size_t addresses_of(const struct cs_ip *ips, size_t n, ProtobufCBinaryData *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = bytes_of(ips[i].bytes, ips[i].len);
	return n;
}

static uint8_t *encode_node(const struct cs_store_node *node, size_t *ret_n)
{
	pb_node m = COUNTERSIGN__STORE__NODE__INIT;
	ProtobufCBinaryData addrs[CS_NODE_ADDRS_MAX];
	m.name = (char *)node->name;
	m.n_addresses = addresses_of(node->addrs, node->naddrs, addrs);
	m.addresses = addrs;
	m.port = node->port;
	m.path = (char *)node->path;
	m.gone = node->gone;
	return pack(&m, ret_n);
}

static uint8_t *encode_claim(const struct cs_store_claim *claim, size_t *ret_n)
{
	pb_claim m = COUNTERSIGN__STORE__CLAIM__INIT;
	ProtobufCBinaryData addrs[2 * CS_FAMILY_ADDRS_MAX];
	m.node = (char *)claim->node;
	m.endpoint = (char *)claim->endpoint;
	m.identity = claim->identity;
	m.n_addresses = addresses_of(claim->addrs, claim->naddrs, addrs);
	m.addresses = addrs;
	return pack(&m, ret_n);
}

static uint8_t *encode_documents(const struct cs_store_documents *d, size_t *ret_n)
{
	pb_documents m = COUNTERSIGN__STORE__DOCUMENTS__INIT;
	pb_document *items = cs_xcalloc(d->n, sizeof(*items)), **refs = cs_xcalloc(d->n, sizeof(*refs));
	for (size_t i = 0; i < d->n; i++) {
		countersign__store__document__init(&items[i]);
		items[i].name = (char *)d->items[i].name;
		items[i].sha256 = bytes_of(d->items[i].sha256, CS_SHA256_BYTES);
		refs[i] = &items[i];
	}
	m.set = (char *)d->set;
	m.items = refs;
	m.n_items = d->n;
	uint8_t *out = pack(&m, ret_n);
	free(refs);
	free(items);
	return out;
}

static uint8_t *encode_small(const struct cs_fact *f, size_t *ret_n)
{
	union {
		pb_identity identity;
		pb_retired retired;
		pb_address address;
		pb_prefix prefix;
		pb_revocation revocation;
		pb_blob blob;
	} m;
	protobuf_c_message_init(kinds[f->kind].descriptor, &m);
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		m.identity.id = f->identity.id;
		m.identity.labels = (char *)f->identity.labels;
		m.identity.spiffe_id = (char *)f->identity.spiffe_id;
		m.identity.incarnation = f->identity.incarnation;
		m.identity.created_unix_ms = f->identity.created_unix_ms;
		m.identity.idle_since_store_ms = f->identity.idle_since_store_ms;
		break;
	case CS_FACT_RETIRED:
		m.retired.id = f->retired.id;
		m.retired.labels = (char *)f->retired.labels;
		m.retired.spiffe_id = (char *)f->retired.spiffe_id;
		m.retired.until_store_ms = f->retired.until_store_ms;
		break;
	case CS_FACT_ADDRESS:
		m.address.ip = bytes_of(f->address.ip.bytes, f->address.ip.len);
		m.address.identity = f->address.identity;
		m.address.until_store_ms = f->address.until_store_ms;
		break;
	case CS_FACT_PREFIX:
		m.prefix.number = f->prefix.id & ~CS_ID_LOCAL_SCOPE;
		m.prefix.ip = bytes_of(f->prefix.prefix.addr, f->prefix.prefix.family == 4 ? 4 : 16);
		m.prefix.bits = f->prefix.prefix.bits;
		break;
	case CS_FACT_REVOCATION:
		m.revocation.id = (char *)f->revocation.id;
		m.revocation.body = bytes_of(f->revocation.body, f->revocation.n);
		break;
	case CS_FACT_BLOB:
		m.blob.sha256 = bytes_of(f->blob.sha256, CS_SHA256_BYTES);
		m.blob.body = bytes_of(f->blob.bytes, f->blob.n);
		break;
	default:
		abort();
	}
	return pack(&m, ret_n);
}

uint8_t *cs_fact_encode(const struct cs_fact *f, size_t *ret_n)
{
	switch (f->kind) {
	case CS_FACT_NODE:
		return encode_node(&f->node, ret_n);
	case CS_FACT_CLAIM:
		return encode_claim(&f->claim, ret_n);
	case CS_FACT_DOCUMENTS:
		return encode_documents(&f->documents, ret_n);
	default:
		return encode_small(f, ret_n);
	}
}

/* --- back --- */

struct cs_fact_hold {
	ProtobufCMessage *message;
	struct cs_store_document *items;
};

void cs_fact_hold_free(struct cs_fact_hold *hold)
{
	if (!hold)
		return;
	if (hold->message)
		protobuf_c_message_free_unpacked(hold->message, NULL);
	free(hold->items);
	free(hold);
}

static bool to_ip(const ProtobufCBinaryData *in, struct cs_ip *ret)
{
	*ret = (struct cs_ip){.len = (uint8_t)in->len};
	if (in->len != 4 && in->len != 16)
		return false;
	memcpy(ret->bytes, in->data, in->len);
	return true;
}

static bool to_ips(const ProtobufCBinaryData *in, size_t n, struct cs_ip *ret, size_t max, size_t *ret_n)
{
	*ret_n = n;
	for (size_t i = 0; i < n; i++)
		if (i >= max || !to_ip(&in[i], &ret[i]))
			return false;
	return true;
}

static bool decode_documents(const pb_documents *m, struct cs_store_documents *d, struct cs_fact_hold *hold)
{
	hold->items = cs_xcalloc(m->n_items, sizeof(*hold->items));
	*d = (struct cs_store_documents){.set = m->set, .items = hold->items, .n = m->n_items};
	for (size_t i = 0; i < m->n_items; i++) {
		if (m->items[i]->sha256.len != CS_SHA256_BYTES)
			return false;
		hold->items[i].name = m->items[i]->name;
		memcpy(hold->items[i].sha256, m->items[i]->sha256.data, CS_SHA256_BYTES);
	}
	return m->set[0] != '\0';
}

static bool decode_prefix(const pb_prefix *m, struct cs_prefix_identity *prefix)
{
	size_t n = m->ip.len;
	*prefix = (struct cs_prefix_identity){.id = CS_ID_LOCAL_SCOPE | m->number};
	if ((n != 4 && n != 16) || m->bits > 8 * n || m->number == 0 || m->number >= CS_ID_LOCAL_SCOPE)
		return false;
	prefix->prefix.family = n == 4 ? 4 : 6;
	prefix->prefix.bits = (uint8_t)m->bits;
	memcpy(prefix->prefix.addr, m->ip.data, n);
	return true;
}

static bool is_id(uint32_t id)
{
	return id > 0 && id < CS_STORE_IDS;
}

/* False: not what anybody here wrote. */
static bool decode(const void *message, struct cs_fact *f, struct cs_fact_hold *hold)
{
	const pb_identity *identity = message;
	const pb_retired *retired = message;
	const pb_node *node = message;
	const pb_claim *claim = message;
	const pb_address *address = message;
	const pb_revocation *revocation = message;
	const pb_blob *blob = message;
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		f->identity = (struct cs_store_identity){.id = identity->id,
			.labels = identity->labels,
			.spiffe_id = identity->spiffe_id,
			.incarnation = identity->incarnation,
			.created_unix_ms = identity->created_unix_ms,
			.idle_since_store_ms = identity->idle_since_store_ms};
		return is_id(identity->id) && identity->labels[0] && identity->spiffe_id[0] &&
		       identity->incarnation != 0;
	case CS_FACT_RETIRED:
		f->retired = (struct cs_store_retired){.id = retired->id,
			.labels = retired->labels,
			.spiffe_id = retired->spiffe_id,
			.until_store_ms = retired->until_store_ms};
		return is_id(retired->id);
	case CS_FACT_NODE:
		f->node = (struct cs_store_node){
			.name = node->name, .port = node->port, .path = node->path, .gone = node->gone};
		return node->name[0] && strlen(node->name) <= CS_NODE_NAME_BYTES &&
		       to_ips(node->addresses, node->n_addresses, f->node.addrs, CS_NODE_ADDRS_MAX, &f->node.naddrs);
	case CS_FACT_CLAIM:
		f->claim = (struct cs_store_claim){
			.node = claim->node, .endpoint = claim->endpoint, .identity = claim->identity};
		return is_id(claim->identity) && claim->node[0] && strlen(claim->node) <= CS_NODE_NAME_BYTES &&
		       claim->endpoint[0] && strlen(claim->endpoint) <= CS_ENDPOINT_ID_MAX &&
		       to_ips(claim->addresses, claim->n_addresses, f->claim.addrs, 2 * CS_FAMILY_ADDRS_MAX,
			       &f->claim.naddrs);
	case CS_FACT_ADDRESS:
		f->address = (struct cs_store_address){
			.identity = address->identity, .until_store_ms = address->until_store_ms};
		return to_ip(&address->ip, &f->address.ip);
	case CS_FACT_PREFIX:
		return decode_prefix(message, &f->prefix);
	case CS_FACT_REVOCATION:
		f->revocation = (struct cs_store_revocation){
			.id = revocation->id, .body = revocation->body.data, .n = revocation->body.len};
		return revocation->id[0] != '\0';
	case CS_FACT_DOCUMENTS:
		return decode_documents(message, &f->documents, hold);
	case CS_FACT_BLOB:
		if (blob->sha256.len != CS_SHA256_BYTES)
			return false;
		f->blob = (struct cs_store_blob){.bytes = blob->body.data, .n = blob->body.len};
		memcpy(f->blob.sha256, blob->sha256.data, CS_SHA256_BYTES);
		return true;
	case CS_FACT_KINDS:
		break;
	}
	return false;
}

static enum cs_fact_kind kind_of(const char *key)
{
	for (int kind = 0; kind < CS_FACT_KINDS; kind++) {
		size_t n = strlen(kinds[kind].word);
		if (strncmp(key, kinds[kind].word, n) == 0 && key[n] == '/')
			return (enum cs_fact_kind)kind;
	}
	return CS_FACT_KINDS;
}

int cs_fact_decode(const char *key, const void *value, size_t n, struct cs_fact *ret, struct cs_fact_hold **ret_hold,
	struct cs_error *e)
{
	enum cs_fact_kind kind = kind_of(key);
	if (kind == CS_FACT_KINDS)
		return cs_error_set(e, -EPROTO, "the store has the key '%s', which is nothing that is known here", key);
	struct cs_fact_hold *hold = cs_xcalloc(1, sizeof(*hold));
	char own_key[CS_FACT_KEY_MAX];
	memset(ret, 0, sizeof(*ret));
	ret->kind = kind;
	hold->message = protobuf_c_message_unpack(kinds[kind].descriptor, NULL, n, value);
	/* The key must be the one that the value asks for, or two keys could hold one thing. */
	if (!hold->message || !decode(hold->message, ret, hold) || strcmp(cs_fact_key(ret, own_key), key) != 0) {
		cs_fact_hold_free(hold);
		return cs_error_set(e, -EPROTO, "the store's value of '%s' is damaged", key);
	}
	*ret_hold = hold;
	return 0;
}

/* A fact with what its key says: enough to find the one that has it. */
static bool fact_of_key(const char *rest, char *scratch, struct cs_fact *f)
{
	struct cs_error e;
	char *slash;
	switch (f->kind) {
	case CS_FACT_IDENTITY:
		f->identity.id = (uint32_t)strtoul(rest, NULL, 10);
		return true;
	case CS_FACT_RETIRED:
		f->retired.id = (uint32_t)strtoul(rest, NULL, 10);
		return true;
	case CS_FACT_NODE:
		f->node.name = rest;
		return true;
	case CS_FACT_CLAIM:
		slash = strchr(scratch, '/');
		if (!slash)
			return false;
		*slash = '\0';
		f->claim.node = scratch;
		f->claim.endpoint = slash + 1;
		return true;
	case CS_FACT_ADDRESS:
		return cs_ip_parse(rest, &f->address.ip, &e) == 0;
	case CS_FACT_PREFIX:
		f->prefix.id = CS_ID_LOCAL_SCOPE | (uint32_t)strtoul(rest, NULL, 10);
		return true;
	case CS_FACT_REVOCATION:
		f->revocation.id = rest;
		return true;
	case CS_FACT_DOCUMENTS:
		f->documents.set = rest;
		return true;
	case CS_FACT_BLOB:
		for (size_t i = 0; i < CS_SHA256_BYTES; i++)
			if (sscanf(rest + 2 * i, "%2hhx", &f->blob.sha256[i]) != 1)
				return false;
		return true;
	case CS_FACT_KINDS:
		break;
	}
	return false;
}

struct cs_fact_entry *cs_facts_find_key(const struct cs_facts *facts, const char *key)
{
	struct cs_fact f = {.kind = kind_of(key)};
	char scratch[CS_FACT_KEY_MAX];
	if (f.kind == CS_FACT_KINDS)
		return NULL;
	const char *rest = key + strlen(kinds[f.kind].word) + 1;
	cs_text_cut(scratch, sizeof(scratch), rest);
	return fact_of_key(rest, scratch, &f) ? cs_facts_find(facts, &f) : NULL;
}

/* --- meta --- */

uint8_t *cs_meta_encode(const struct cs_meta *meta, size_t *ret_n)
{
	pb_meta m = COUNTERSIGN__STORE__META__INIT;
	m.schema = CS_STORE_SCHEMA;
	m.epoch = meta->epoch;
	m.revision = meta->revision;
	m.store_ms = meta->store_ms;
	m.trust_domain = meta->trust_domain;
	m.spiffe_id_template = meta->template;
	m.cluster_id = meta->cluster_id;
	m.copying = meta->copying;
	m.tag = meta->tag;
	m.next_id = meta->next_id;
	return pack(&m, ret_n);
}

int cs_meta_decode(const void *value, size_t n, struct cs_meta *ret, struct cs_error *e)
{
	pb_meta *m = countersign__store__meta__unpack(NULL, n, value);
	if (!m)
		return cs_error_set(e, -EPROTO, "the store's value of 'meta' is damaged");
	int r = 0;
	if (m->schema != CS_STORE_SCHEMA)
		r = cs_error_set(e, -EPROTO,
			"the store has schema %u, this program knows %d: it is a newer version's; nothing was changed",
			m->schema, CS_STORE_SCHEMA);
	else if (m->epoch == 0 || m->revision == 0)
		r = cs_error_set(e, -EPROTO, "the store's value of 'meta' is damaged: no epoch or no revision");
	else
		*ret = (struct cs_meta){.epoch = m->epoch,
			.revision = m->revision,
			.store_ms = m->store_ms,
			.trust_domain = cs_xstrdup(m->trust_domain),
			.template = cs_xstrdup(m->spiffe_id_template),
			.cluster_id = m->cluster_id,
			.copying = m->copying,
			.tag = m->tag,
			.next_id = m->next_id};
	countersign__store__meta__free_unpacked(m, NULL);
	return r;
}

void cs_meta_fini(struct cs_meta *meta)
{
	free(meta->trust_domain);
	free(meta->template);
	*meta = (struct cs_meta){0};
}
