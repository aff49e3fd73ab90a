/* May this pair pass at this hook? Entries first, then policy. */
#ifndef CS_VERDICT_H
#define CS_VERDICT_H

#include "flows.h"
#include "hold.h"
#include "icmp.h"
#include "neighbour.h"

#define REPLY_ONLY(dir) ((dir) == CS_FROM ? CS_AUTH_REPLY_FROM : CS_AUTH_REPLY_TO)

/* The entry if it is alive, else 0. */
static __always_inline __u64 live_entry(const struct cs_auth_key *key, __u64 now)
{
	__u64 *entry;

	if (!can_authenticate(key->remote))
		return 0;
	entry = bpf_map_lookup_elem(&cs_auth, key);
	return entry && (*entry & CS_AUTH_EXPIRY) > now ? *entry : 0;
}

/* Are held packets of the pair on their way, so that later ones wait behind them? */
static __always_inline _Bool flushing(const struct cs_auth_key *key, __u64 now)
{
	struct cs_pending *row = bpf_map_lookup_elem(&cs_pending, key);
	return row && row->state == CS_FLUSHING && row->until_ns > now;
}

/* Both directions of the pair by policy. A peer that cannot authenticate is refused where policy asks it to. */
static __always_inline void by_policy(const struct cs_endpoint *ep, const struct cs_auth_key *pair, __u8 verdict[2])
{
	struct cs_policy_key key = {.local = pair->local, .remote = pair->remote};
	struct cs_policy *row;
	int class = can_authenticate(pair->remote) ? CS_PEER_ENDPOINT : CS_PEER_OTHER;

	verdict[CS_FROM] = verdict[CS_TO] = CS_DENY;
	if (pair->remote == CS_ID_UNKNOWN)
		return;
	row = bpf_map_lookup_elem(&cs_policy, &key);
	verdict[CS_FROM] = (row ? row->verdict[CS_FROM] : ep->verdict[CS_FROM][class]) & CS_VERDICT_MASK;
	verdict[CS_TO] = (row ? row->verdict[CS_TO] : ep->verdict[CS_TO][class]) & CS_VERDICT_MASK;
	if (pair->remote == CS_ID_HOST && (node_flags() & CS_NODE_HOST_PASSES))
		verdict[CS_TO] = CS_PASS;
}

static __always_inline _Bool refuses(__u8 verdict, const struct cs_auth_key *pair)
{
	return verdict == CS_PASS ? 0 : verdict == CS_REQUIRE ? !can_authenticate(pair->remote) : 1;
}

static __always_inline int denied(const struct judged *j, __u8 verdict)
{
	if (j->nat)
		return CS_R_PEER_BEHIND_NAT;
	return verdict == CS_REQUIRE ? CS_R_PEER_CANNOT_AUTHENTICATE : CS_R_POLICY_DENY;
}

static __always_inline int weigh_entry(struct __sk_buff *skb, const struct cs_endpoint *ep, const struct judged *j,
	__u64 entry, __u64 now, _Bool quoted)
{
	if (entry & REPLY_ONLY(j->dir)) {
		if (!cs_answers_flow(skb, j, now, !quoted))
			return j->p.later ? CS_R_FRAGMENT : CS_R_POLICY_DENY;
	} else if (!quoted && (entry & REPLY_ONLY(!j->dir)) && (ep->flags & CS_EP_FLOWS)) {
		cs_note_flow(skb, j, now);
	}
	if ((entry & CS_AUTH_FLUSHING) && !quoted && !j->reinjected && !j->p.group && flushing(&j->key, now))
		return CS_R_UNAUTHENTICATED;
	return CS_R_NONE;
}

static __always_inline int weigh_policy(
	struct __sk_buff *skb, const struct cs_endpoint *ep, const struct judged *j, __u64 now, _Bool quoted)
{
	__u8 verdict[2], here, there;

	by_policy(ep, &j->key, verdict);
	here = j->dir == CS_FROM ? verdict[CS_FROM] : verdict[CS_TO];
	there = j->dir == CS_FROM ? verdict[CS_TO] : verdict[CS_FROM];
	if (!refuses(here, &j->key)) {
		if (here == CS_REQUIRE)
			return CS_R_UNAUTHENTICATED;
		if (!quoted && refuses(there, &j->key) && (ep->flags & CS_EP_FLOWS))
			cs_note_flow(skb, j, now);
		return CS_R_NONE;
	}
	if (refuses(there, &j->key))
		return denied(j, here);
	if (j->p.later)
		return CS_R_FRAGMENT;
	if (!cs_answers_flow(skb, j, now, !quoted))
		return denied(j, here);
	return there == CS_REQUIRE ? CS_R_UNAUTHENTICATED : CS_R_NONE;
}

/* CS_R_NONE: it may. CS_R_UNAUTHENTICATED: it might, once the pair is authenticated. Else why not.
 * quoted: only asked about, so nothing is noted. */
OUT_OF_LINE int cs_weigh(
	struct __sk_buff *skb, const struct cs_endpoint *ep, const struct judged *j, __u64 now, _Bool quoted)
{
	__u64 entry;

	if (!ep || !j)
		return CS_R_NO_ENDPOINT;
	if ((ep->flags & CS_EP_DEPENDS) || (j->flags & CS_ADDR_DEPENDS))
		return CS_R_NONE;
	entry = live_entry(&j->key, now);
	if (entry)
		return weigh_entry(skb, ep, j, entry, now, quoted);
	return weigh_policy(skb, ep, j, now, quoted);
}

/* Everything but the plain hit. */
OUT_OF_LINE int cs_slow(struct __sk_buff *skb, const struct cs_endpoint *ep, const struct judged *j)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	int why;

	if (!ep || !j)
		return CS_R_NO_ENDPOINT;
	why = cs_weigh(skb, ep, j, now, 0);
	if (why == CS_R_NONE)
		return CS_R_NONE;
	if (j->dir == CS_TO && is_error(skb, &j->p)) {
		struct judged sent = {};
		if (cs_quoted(skb, ep, j, &sent))
			why = cs_weigh(skb, ep, &sent, now, 1);
		return why;
	}
	if (why != CS_R_UNAUTHENTICATED)
		return why;
	if (j->p.group)
		return CS_R_MULTICAST;
	return cs_ask(skb, j, now);
}

#endif
