#include "explain.h"

#include <string.h>
#include "world.h"

bool cs_explain_is_host(const struct cs_ip *ip)
{
	static const uint8_t none[16], all[4] = {255, 255, 255, 255};
	if (ip->family == 4)
		return (ip->b[0] & 0xf0) != 0xe0 && memcmp(ip->b, none, 4) != 0 && memcmp(ip->b, all, 4) != 0;
	return ip->b[0] != 0xff && memcmp(ip->b, none, 16) != 0;
}

static bool is_link_local(const struct cs_ip *ip)
{
	return ip->family == 6 && ip->b[0] == 0xfe && (ip->b[1] & 0xc0) == 0x80;
}

static bool has_family(const struct cs_endpoint *ep, const struct cs_ip *remote)
{
	return remote->family == 4 ? ep->n4 > 0 : ep->n6 > 0;
}

static uint8_t by_policy(const struct cs_explain_rows *r, enum cs_dir dir)
{
	enum cs_peer_class class = cs_world_can_authenticate(r->addr.identity) ? CS_PEER_ENDPOINT : CS_PEER_OTHER;
	if (r->addr.identity == CS_ID_UNKNOWN)
		return CS_DENY;
	if (dir == CS_TO && r->addr.identity == CS_ID_HOST && (r->config.node_flags & CS_NODE_HOST_PASSES))
		return CS_PASS;
	return (r->has_policy ? r->policy.verdict[dir] : r->endpoint.verdict[dir][class]) & CS_VERDICT_MASK;
}

static bool refuses(uint8_t verdict, uint32_t remote)
{
	return verdict == CS_PASS ? false : verdict == CS_REQUIRE ? !cs_world_can_authenticate(remote) : true;
}

static bool entry_lives(const struct cs_explain_rows *r)
{
	return cs_world_can_authenticate(r->addr.identity) && (r->entry & CS_AUTH_EXPIRY) > r->now_ns;
}

/* There is no entry, and policy asks for one. */
static enum cs_reason unanswered(const struct cs_explain_rows *r)
{
	if (r->config.alive_ns + CS_ALIVE_NS <= r->now_ns)
		return CS_R_DAEMON_DOWN;
	if (r->pending.state == CS_REFUSED && r->pending.until_ns > r->now_ns)
		return CS_R_BACKOFF;
	return CS_R_UNAUTHENTICATED;
}

static void weigh(const struct cs_explain_rows *r, enum cs_dir dir, struct cs_explained *ret)
{
	uint64_t reply_only = dir == CS_FROM ? CS_AUTH_REPLY_FROM : CS_AUTH_REPLY_TO;
	bool refused = refuses(ret->verdict, r->addr.identity);
	if (entry_lives(r)) {
		ret->replies_pass = (r->entry & reply_only) != 0;
		ret->reason = ret->replies_pass ? CS_R_POLICY_DENY : CS_R_NONE;
	} else if (refused) {
		ret->replies_pass = !refuses(by_policy(r, (enum cs_dir) !dir), r->addr.identity);
		ret->reason = ret->verdict == CS_REQUIRE ? CS_R_PEER_CANNOT_AUTHENTICATE : CS_R_POLICY_DENY;
	} else {
		ret->reason = ret->verdict == CS_REQUIRE ? unanswered(r) : CS_R_NONE;
	}
}

static void explain_dir(const struct cs_explain_rows *r, const struct cs_ip *remote, bool depends, enum cs_dir dir,
	struct cs_explained *ret)
{
	*ret = (struct cs_explained){.verdict = CS_DENY};
	if (!r->endpoint.identity) {
		ret->reason = CS_R_NO_ENDPOINT;
		return;
	}
	ret->verdict = by_policy(r, dir);
	if (is_link_local(remote))
		ret->reason = CS_R_LINK_LOCAL;
	else if (!has_family(&r->endpoint, remote))
		ret->reason = dir == CS_FROM ? CS_R_SOURCE_NOT_OWNED : CS_R_DESTINATION_NOT_OWNED;
	else if (!depends)
		weigh(r, dir, ret);
	ret->passes = ret->reason == CS_R_NONE;
}

void cs_explain(const struct cs_explain_rows *r, const struct cs_ip *remote, struct cs_explanation *ret)
{
	bool is_endpoint = r->endpoint.identity != 0;
	ret->depends_on = is_endpoint && ((r->endpoint.flags & CS_EP_DEPENDS) || (r->addr.flags & CS_ADDR_DEPENDS));
	ret->audit = (r->config.node_flags & CS_NODE_AUDIT) || (is_endpoint && (r->endpoint.flags & CS_EP_AUDIT));
	for (int dir = CS_FROM; dir <= CS_TO; dir++)
		explain_dir(r, remote, ret->depends_on, (enum cs_dir)dir, &ret->dir[dir]);
}
