#include "verdict.h"

#include <string.h>

const char *cs_trust_domain_of(const char *spiffe_id, size_t *ret_len)
{
	static const char scheme[] = "spiffe://";
	if (strncmp(spiffe_id, scheme, sizeof(scheme) - 1) != 0)
		return NULL;
	const char *domain = spiffe_id + sizeof(scheme) - 1;
	*ret_len = strcspn(domain, "/");
	return *ret_len ? domain : NULL;
}

/* ---- the generations that a handshaker's work rests on ---- */

static enum cs_reason svid_current(
	const struct cs_facts *f, const struct cs_world_identity *identity, uint64_t generation)
{
	struct cs_svid svid;
	if (!cs_svids_find(f->svids, identity->id, &svid) || !svid.generation)
		return CS_R_NO_LOCAL_SVID;
	if (strcmp(svid.spiffe_id, identity->spiffe_id) != 0)
		return CS_R_SPIFFE_ID_MISMATCH;
	return svid.generation == generation ? CS_R_NONE : CS_R_STALE_VERDICT;
}

static enum cs_reason bundle_current(
	const struct cs_facts *f, const struct cs_world_identity *identity, uint64_t generation)
{
	struct cs_trust trust;
	size_t len;
	const char *domain = cs_trust_domain_of(identity->spiffe_id, &len);
	if (!domain || !cs_svids_bundle(f->svids, domain, len, &trust) || !trust.generation)
		return CS_R_NO_BUNDLE;
	return trust.generation == generation ? CS_R_NONE : CS_R_STALE_VERDICT;
}

static enum cs_reason generations_current(const struct cs_facts *f, const struct cs_ask *ask,
	const struct cs_hs_verdict *v, const struct cs_world_identity *local, const struct cs_world_identity *remote)
{
	enum cs_reason why = svid_current(f, local, v->local_svid_generation);
	if (why == CS_R_NONE && ask->role == CS_HS_LOOPBACK)
		why = svid_current(f, remote, v->remote_svid_generation);
	if (why == CS_R_NONE)
		why = bundle_current(f, local, v->local_bundle_generation);
	if (why == CS_R_NONE)
		why = bundle_current(f, remote, v->remote_bundle_generation);
	if (why != CS_R_NONE)
		return why;
	struct cs_world_generations now = cs_world_generations(f->world, local->id, remote->id, ask->node);
	/* Is the address at the other end still that node's, and the number still that node? */
	if (now.node != ask->generations.node)
		return CS_R_STALE_VERDICT;
	if (ask->role == CS_HS_ACCEPTOR)
		return CS_R_NONE;
	return memcmp(&now, &ask->generations, sizeof(now)) == 0 ? CS_R_NONE : CS_R_STALE_VERDICT;
}

/* ---- what the directory says of the pair ---- */

/* Does this identity live where it is spoken for? */
static enum cs_reason placed(const struct cs_facts *f, uint32_t identity, uint16_t node)
{
	struct cs_world_node n;
	if (!cs_world_node_by_id(f->world, node, &n))
		return CS_R_PEER_NODE_UNKNOWN;
	if (!cs_world_placed(f->world, identity, node))
		return CS_R_PEER_NOT_PLACED;
	if (node == 0 && !cs_world_local(f->world, identity))
		return CS_R_NO_LOCAL_ENDPOINT;
	return CS_R_NONE;
}

static enum cs_reason revoked(const struct cs_facts *f, const struct cs_auth_key *key, const struct cs_leaf *local,
	const struct cs_leaf *remote)
{
	struct cs_world_subject ours = {.identity = key->local, .node = 0, .leaf = local};
	struct cs_world_subject theirs = {.identity = key->remote, .node = key->node, .leaf = remote};
	enum cs_reason why = cs_world_revoked(f->world, &ours, f->now_unix_s, NULL);
	return why != CS_R_NONE ? why : cs_world_revoked(f->world, &theirs, f->now_unix_s, NULL);
}

static enum cs_reason known(const struct cs_facts *f, const struct cs_auth_key *key, struct cs_world_identity *local,
	struct cs_world_identity *remote)
{
	if (!cs_world_local(f->world, key->local) || !cs_world_identity(f->world, key->local, local))
		return CS_R_NO_LOCAL_ENDPOINT;
	if (!cs_world_can_authenticate(key->remote) || !cs_world_identity(f->world, key->remote, remote))
		return CS_R_SPIFFE_ID_UNKNOWN;
	return placed(f, key->remote, key->node);
}

/* ---- the three questions ---- */

static struct cs_auth_key key_of(uint32_t local, uint32_t remote, uint16_t node)
{
	return (struct cs_auth_key){.local = local, .remote = remote, .node = node, .type = CS_AUTH_SPIRE};
}

static int64_t svid_ends(const struct cs_facts *f, uint32_t identity)
{
	struct cs_svid svid;
	return cs_svids_find(f->svids, identity, &svid) ? svid.not_after_unix_s : 0;
}

/* The earliest end of both chains. Those of this node are known here, so that no handshaker makes an entry that outlives
 * them. */
static int64_t earliest_end(const struct cs_facts *f, const struct cs_ask *ask, const struct cs_hs_verdict *v,
	const struct cs_world_identity *remote)
{
	int64_t end = v->not_after_unix_s, own = svid_ends(f, v->local);
	if (own < end)
		end = own;
	if (ask->role == CS_HS_LOOPBACK && (own = svid_ends(f, remote->id)) < end)
		end = own;
	return end;
}

static void fill(const struct cs_facts *f, const struct cs_world_identity *local,
	const struct cs_world_identity *remote, const struct cs_ask *ask, const struct cs_hs_verdict *v, int64_t end,
	struct cs_allowed *ret)
{
	struct cs_allowed_entry *entry = &ret->entry[ret->n++];
	bool swapped = ret->n == 2;
	*entry = (struct cs_allowed_entry){.key = key_of(local->id, remote->id, ask->node),
		.basis = {.not_after_unix_s = (uint64_t)end,
			.written_unix_s = (uint64_t)f->now_unix_s,
			.local_incarnation = local->incarnation,
			.remote_incarnation = remote->incarnation,
			.local = swapped ? v->remote_leaf : v->local_leaf,
			.remote = swapped ? v->local_leaf : v->remote_leaf,
			.role = (uint8_t)ask->role},
		.reply_flags = cs_world_reply_flags(f->world, local->id, remote->id),
		.asks = cs_world_asks(f->world, local->id, remote->id)};
}

static enum cs_reason same_as_asked(
	const struct cs_ask *ask, const struct cs_hs_verdict *v, const struct cs_world_identity *remote)
{
	if ((uint32_t)ask->role != v->role)
		return CS_R_STALE_VERDICT;
	if (ask->role == CS_HS_ACCEPTOR)
		return ask->node ? CS_R_NONE : CS_R_PEER_NODE_UNKNOWN;
	if (ask->local != v->local)
		return CS_R_STALE_VERDICT;
	return ask->remote == remote->id ? CS_R_NONE : CS_R_SPIFFE_ID_MISMATCH;
}

/* Has the peer's node as many entries here as it may? One that is there already may be lengthened. */
static bool node_is_full(const struct cs_facts *f, const struct cs_auth_key *key)
{
	const struct cs_pair *pair = cs_pairs_find(f->pairs, key);
	return !(pair && pair->live) && cs_pairs_accepted(f->pairs, key->node) >= CS_ACCEPTED_MAX;
}

enum cs_reason cs_verdict_check(
	const struct cs_facts *f, const struct cs_ask *ask, const struct cs_hs_verdict *v, struct cs_allowed *ret)
{
	struct cs_world_identity local, remote;
	enum cs_reason why;
	ret->n = 0;
	if (f->stale)
		return CS_R_DIRECTORY_STALE;
	if (!cs_world_identity_by_spiffe_id(f->world, v->remote_spiffe_id, &remote))
		return CS_R_SPIFFE_ID_UNKNOWN;
	struct cs_auth_key key = key_of(v->local, remote.id, ask->node);
	if ((why = same_as_asked(ask, v, &remote)) != CS_R_NONE ||
		(why = known(f, &key, &local, &remote)) != CS_R_NONE ||
		(why = generations_current(f, ask, v, &local, &remote)) != CS_R_NONE ||
		(why = revoked(f, &key, &v->local_leaf, &v->remote_leaf)) != CS_R_NONE)
		return why;
	int64_t end = earliest_end(f, ask, v, &remote);
	if (end <= f->now_unix_s)
		return CS_R_SVID_EXPIRED;
	fill(f, &local, &remote, ask, v, end, ret);
	if (ask->role == CS_HS_LOOPBACK && local.id != remote.id)
		fill(f, &remote, &local, ask, v, end, ret);
	if (ask->role != CS_HS_ACCEPTOR)
		return ret->entry[0].asks || (ret->n == 2 && ret->entry[1].asks) ? CS_R_NONE
										 : CS_R_POLICY_NO_LONGER_ASKS;
	return ret->entry[0].asks && node_is_full(f, &key) ? CS_R_TOO_MANY : CS_R_NONE;
}

static bool withdrawn(const struct cs_facts *f, uint32_t identity)
{
	struct cs_svid svid;
	return cs_svids_find(f->svids, identity, &svid) && svid.withdrawn;
}

static bool root_stands(const struct cs_facts *f, const struct cs_world_identity *identity, const struct cs_leaf *leaf)
{
	size_t len;
	const char *domain = cs_trust_domain_of(identity->spiffe_id, &len);
	return domain && cs_svids_root_stands(f->svids, domain, len, leaf);
}

enum cs_reason cs_entry_check(const struct cs_facts *f, const struct cs_auth_key *key, const struct cs_basis *basis)
{
	struct cs_world_identity local, remote;
	enum cs_reason why;
	if ((why = known(f, key, &local, &remote)) != CS_R_NONE)
		return why;
	if (basis->local_incarnation != local.incarnation || basis->remote_incarnation != remote.incarnation)
		return CS_R_SPIFFE_ID_MISMATCH;
	if (!cs_world_asks(f->world, key->local, key->remote))
		return CS_R_POLICY_NO_LONGER_ASKS;
	if ((why = revoked(f, key, &basis->local, &basis->remote)) != CS_R_NONE)
		return why;
	if ((int64_t)basis->not_after_unix_s <= f->now_unix_s)
		return CS_R_SVID_EXPIRED;
	if (withdrawn(f, key->local) || (key->node == 0 && withdrawn(f, key->remote)))
		return CS_R_NO_LOCAL_SVID;
	if (!root_stands(f, &local, &basis->local) || !root_stands(f, &remote, &basis->remote))
		return CS_R_UNTRUSTED;
	return CS_R_NONE;
}

/* NONE: it has one. That it had one and let it expire is another thing than that it never had one. */
static enum cs_reason lacks_svid(const struct cs_facts *f, uint32_t identity)
{
	struct cs_svid svid;
	if (!cs_svids_find(f->svids, identity, &svid))
		return CS_R_NO_LOCAL_SVID;
	if (svid.generation)
		return CS_R_NONE;
	return svid.reason == CS_R_SVID_EXPIRED ? CS_R_SVID_EXPIRED : CS_R_NO_LOCAL_SVID;
}

enum cs_reason cs_dial_check(const struct cs_facts *f, const struct cs_auth_key *key)
{
	struct cs_world_identity local, remote;
	enum cs_reason why;
	if (f->stale)
		return CS_R_DIRECTORY_STALE;
	if ((why = known(f, key, &local, &remote)) != CS_R_NONE || (why = revoked(f, key, NULL, NULL)) != CS_R_NONE)
		return why;
	if (!cs_world_asks(f->world, key->local, key->remote) &&
		!(key->node == 0 && cs_world_asks(f->world, key->remote, key->local)))
		return CS_R_POLICY_NO_LONGER_ASKS;
	if ((why = lacks_svid(f, key->local)) != CS_R_NONE ||
		(key->node == 0 && (why = lacks_svid(f, key->remote)) != CS_R_NONE))
		return why;
	struct cs_trust trust;
	size_t len;
	const char *domain = cs_trust_domain_of(remote.spiffe_id, &len);
	if (!domain || !cs_svids_bundle(f->svids, domain, len, &trust) || !trust.generation)
		return CS_R_NO_BUNDLE;
	return CS_R_NONE;
}
