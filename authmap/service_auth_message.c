/* AuthEntry: what is known of a pair. */
#include <stdio.h>
#include <string.h>
#include "service_auth_private.h"

static ProtobufCBinaryData bytes(const void *data, size_t len)
{
	return (ProtobufCBinaryData){.len = len, .data = (uint8_t *)data};
}

/* Right-aligned in its field: without the zeros before it. */
static ProtobufCBinaryData serial_of(const struct cs_leaf *leaf)
{
	size_t zeros = 0;
	while (zeros < sizeof(leaf->serial) && !leaf->serial[zeros])
		zeros++;
	return bytes(leaf->serial + zeros, sizeof(leaf->serial) - zeros);
}

/* A subject key id is 20 bytes (RFC 5280 4.2.1.2), or longer and zero-filled. */
static ProtobufCBinaryData authority_of(const struct cs_leaf *leaf)
{
	size_t len = sizeof(leaf->authority_kid);
	while (len > 20 && !leaf->authority_kid[len - 1])
		len--;
	return bytes(leaf->authority_kid, len);
}

static bool is_flushing(const struct cs_authd *a, const struct cs_auth_key *key, uint64_t now_ns)
{
	struct cs_pending row;
	return cs_datapath_pending_get(a->dp, key, &row) == 1 && row.state == CS_FLUSHING && row.until_ns > now_ns;
}

static void fill_live(const struct cs_authd *a, const struct cs_pair *pair, Countersign__V1__AuthEntry *m)
{
	struct cs_instant now = cs_authd_now(a);
	int64_t left_ns = (int64_t)((pair->value & CS_AUTH_EXPIRY) - now.coarse_ns);
	m->state = (char *)(is_flushing(a, &pair->key, now.coarse_ns) ? "flushing" : "live");
	m->until_unix_ms = now.unix_ms + left_ns / 1000000;
	m->not_after_unix_s = (int64_t)pair->basis.not_after_unix_s;
	m->role = (char *)cs_auth_role_name(pair->basis.role);
	m->remote_leaf_sha256 = bytes(pair->basis.remote.sha256, sizeof(pair->basis.remote.sha256));
	m->remote_serial = serial_of(&pair->basis.remote);
	m->remote_authority = authority_of(&pair->basis.remote);
	m->since_unix_ms = pair->since_unix_ms;
}

static void fill_refused(const struct cs_authd *a, const struct cs_pair *pair, struct cs_auth_message *ret)
{
	struct cs_instant now = cs_authd_now(a);
	ret->msg.state = (char *)"refused";
	ret->msg.since_unix_ms = pair->refused_unix_ms;
	ret->msg.until_unix_ms = now.unix_ms + pair->refused_until_mono_ms - now.mono_ms;
	ret->reason.name = (char *)cs_reason_name(pair->refused);
	ret->reason.detail = (char *)cs_reason_sentence(pair->refused);
	ret->msg.reason = &ret->reason;
}

bool cs_auth_pair_is_pending(const struct cs_pair *pair)
{
	return pair->attempt || pair->waiting || pair->refused;
}

void cs_auth_message_fill(const struct cs_authd *a, const struct cs_auth_key *key, const struct cs_pair *pair,
	struct cs_auth_message *ret)
{
	struct cs_world_node node;
	struct cs_world_identity remote;
	countersign__v1__auth_entry__init(&ret->msg);
	countersign__v1__auth_pair__init(&ret->pair);
	countersign__v1__reason__init(&ret->reason);
	ret->msg.pair = &ret->pair;
	ret->pair.local = key->local;
	ret->pair.remote = key->remote;
	if (cs_world_node_by_id(a->world, key->node, &node)) {
		ret->pair.node = (char *)node.name;
		if (key->node)
			ret->msg.path = (char *)node.path;
	}
	if (cs_world_identity(a->world, key->remote, &remote))
		ret->msg.remote_spiffe_id = (char *)remote.spiffe_id;
	if (!pair)
		return;
	ret->msg.held_packets = cs_hold_packets(a->hold, key);
	if (pair->live) {
		fill_live(a, pair, &ret->msg);
	} else if (pair->attempt || pair->waiting) {
		ret->msg.state = (char *)"asking";
		ret->msg.since_unix_ms = pair->asked_unix_ms;
	} else if (pair->refused) {
		fill_refused(a, pair, ret);
	}
}
