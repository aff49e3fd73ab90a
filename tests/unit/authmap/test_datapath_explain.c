/* What Auth.Explain says is what the datapath does: random rows, read back from the maps as the service reads them, and a
 * packet for each address and direction through the real programs. */
#include "fixture.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "explain.h"

#define ROUNDS 800

static unsigned seed;

static int pick(int n)
{
	return rand_r(&seed) % n;
}

static const struct peer {
	const char *ip;
	uint32_t identity;
	uint16_t node;
} peers[] = {{REMOTE4, REMOTE, 1}, {REMOTE6, REMOTE, 1}, {LOCAL4, LOCAL, 0}, {LOCAL6, LOCAL, 0}, {HOST4, CS_ID_HOST, 0},
	{HOST6, CS_ID_HOST, 0}, {NODE4, CS_ID_REMOTE_NODE, 1}, {NODE6, CS_ID_REMOTE_NODE, 1}, {CIDR4, CIDR_ID, 0},
	{CIDR6, CIDR_ID, 0}, {OUTSIDE4, CS_ID_WORLD, 0}, {OUTSIDE6, CS_ID_WORLD, 0}, {"10.0.9.9", CS_ID_UNKNOWN, 0},
	{LINKLOCAL6, CS_ID_WORLD, 0}};

static void random_endpoint(struct world *w, const struct cs_endpoint *full)
{
	w->endpoint = *full;
	for (int i = 0; i < 4; i++)
		w->endpoint.verdict[i >> 1][i & 1] = (uint8_t)pick(3);
	w->endpoint.flags = (pick(8) ? 0 : CS_EP_DEPENDS) | (pick(8) ? 0 : CS_EP_AUDIT);
	if (!pick(6)) {
		w->endpoint.n4 = 0;
		memset(w->endpoint.own4_be32, 0, sizeof(w->endpoint.own4_be32));
	}
	world_endpoint(w);
	world_flags(
		w, (pick(2) ? CS_NODE_HOLD : 0) | (pick(2) ? CS_NODE_HOST_PASSES : 0) | (pick(8) ? 0 : CS_NODE_AUDIT));
	cs_datapath_set_alive(w->dp, pick(6) ? cs_datapath_now_ns() : cs_datapath_now_ns() - CS_ALIVE_NS);
}

static void random_pair(struct world *w, const struct peer *peer)
{
	const struct cs_auth_key key = world_key(peer->identity, peer->node);
	const struct cs_policy_key policy = {.local = OWN, .remote = peer->identity};
	assert_int_equal(cs_datapath_policy_del(w->dp, &policy, NULL), 0);
	assert_int_equal(cs_datapath_auth_del(w->dp, &key, NULL), 0);
	assert_int_equal(cs_datapath_pending_del(w->dp, &key, NULL), 0);
	if (pick(2))
		world_policy(w, peer->identity, pick(3) | (pick(4) ? 0 : CS_AUDIT), pick(3) | (pick(4) ? 0 : CS_AUDIT));
	if (pick(2))
		world_auth(w, peer->identity, peer->node, pick(3) ? 60000 : -1000,
			(pick(4) ? 0 : CS_AUTH_REPLY_TO) | (pick(4) ? 0 : CS_AUTH_REPLY_FROM) |
				(pick(4) ? 0 : CS_AUTH_FLUSHING));
	if (pick(2))
		world_pending(w, peer->identity, peer->node, pick(2) ? CS_ASKING : CS_REFUSED, pick(2) ? 60000 : -1000);
	/* An exact row only where there is one: the others are found by prefix, or not at all. */
	if (peer->identity != CIDR_ID && peer->identity != CS_ID_WORLD)
		world_addr(w, peer->ip, peer->identity, peer->node, pick(8) ? 0 : CS_ADDR_DEPENDS);
}

static void read_rows(struct world *w, const struct cs_ip *remote, struct cs_explain_rows *r)
{
	*r = (struct cs_explain_rows){.config = cs_datapath_get_config(w->dp), .now_ns = cs_datapath_now_ns()};
	assert_int_equal(cs_datapath_endpoint_get(w->dp, IFINDEX, &r->endpoint), 1);
	assert_int_equal(cs_datapath_addr_find(w->dp, remote->family, remote->b, &r->addr), 0);
	const struct cs_auth_key key = world_key(r->addr.identity, r->addr.node);
	const struct cs_policy_key policy = {.local = OWN, .remote = r->addr.identity};
	r->has_policy = cs_datapath_policy_get(w->dp, &policy, &r->policy) == 1;
	if (cs_datapath_auth_get(w->dp, &key, &r->entry) != 1)
		r->entry = 0;
	if (cs_datapath_pending_get(w->dp, &key, &r->pending) != 1)
		r->pending = (struct cs_pending){0};
}

static uint64_t counted(struct world *w, enum cs_reason reason, enum cs_dir dir)
{
	struct cs_count dropped, would;
	assert_int_equal(cs_datapath_count(w->dp, reason, false, dir, &dropped), 0);
	assert_int_equal(cs_datapath_count(w->dp, reason, true, dir, &would), 0);
	return dropped.packets + would.packets;
}

/* The reason that is counted for this packet; NONE: it passes, or is held. *ret_passes: which. */
static enum cs_reason outcome(struct world *w, enum cs_dir dir, const struct spec *spec, bool *ret_passes)
{
	uint64_t before[CS_REASON_MAX];
	const struct frame frame = build(spec);
	for (int i = 1; i < CS_REASON_MAX; i++)
		before[i] = counted(w, (enum cs_reason)i, dir);
	*ret_passes = run_frame(w, dir, &frame, spec).verdict != 2 /* TC_ACT_SHOT */;
	for (int i = 1; i < CS_REASON_MAX; i++)
		if (counted(w, (enum cs_reason)i, dir) != before[i])
			return (enum cs_reason)i;
	return CS_R_NONE;
}

/* A miss that asks ends as its budgets allow. */
static enum cs_reason asked(enum cs_reason reason, bool passes)
{
	if (reason == CS_R_NONE)
		return passes ? CS_R_NONE : CS_R_UNAUTHENTICATED; /* held */
	return reason == CS_R_HOLD_BUDGET || reason == CS_R_PENDING_FULL ? CS_R_UNAUTHENTICATED : reason;
}

static void compare(struct world *w, const struct peer *peer)
{
	struct cs_ip remote = {.family = strchr(peer->ip, ':') ? 6 : 4};
	const char *own = remote.family == 4 ? OWN4 : OWN6;
	assert_int_equal(inet_pton(remote.family == 4 ? AF_INET : AF_INET6, peer->ip, remote.b), 1);
	for (int dir = CS_FROM; dir <= CS_TO; dir++) {
		const struct spec spec = {
			.src = dir == CS_FROM ? own : peer->ip, .dst = dir == CS_FROM ? peer->ip : own};
		struct cs_explain_rows rows;
		struct cs_explanation x;
		bool passes;
		read_rows(w, &remote, &rows);
		cs_explain(&rows, &remote, &x);
		enum cs_reason reason = outcome(w, (enum cs_dir)dir, &spec, &passes);
		reason = asked(reason, passes);
		if (reason != x.dir[dir].reason)
			fail_msg("%s %s (seed %u): the datapath says %s and %s, explain %s (audit %d, depends_on %d, "
				 "entry %llx)",
				dir == CS_FROM ? "to" : "from", peer->ip, seed, cs_reason_name(reason),
				passes ? "passes" : "drops", cs_reason_name(x.dir[dir].reason), x.audit, x.depends_on,
				(unsigned long long)rows.entry);
		assert_int_equal(passes, x.dir[dir].passes || x.audit);
	}
}

static void test_as_the_datapath_decides(void **state)
{
	struct world *w = *state;
	const struct cs_endpoint full = w->endpoint;
	seed = (unsigned)time(NULL);
	print_message("seed %u\n", seed);
	for (int round = 0; round < ROUNDS; round++) {
		const struct peer *peer = &peers[round % (int)(sizeof(peers) / sizeof(peers[0]))];
		random_endpoint(w, &full);
		random_pair(w, peer);
		compare(w, peer);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_as_the_datapath_decides, world_open, world_close)};
	return cmocka_run_group_tests(tests, own_network, remove_leftovers);
}
