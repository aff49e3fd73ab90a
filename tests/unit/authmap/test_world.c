/* The world's rows and the order in which they change: the maps are modelled, and after every single operation each pair
 * has its old verdict, its new one, or none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "world_text.h"

/* ---- the maps, as the datapath would read them ---- */

#define ROWS 64
struct model {
	struct {
		bool used;
		uint32_t ifindex;
		struct cs_endpoint row;
	} ep[ROWS];
	struct {
		bool used;
		struct cs_ip ip;
		struct cs_addr row;
	} addr[ROWS];
	struct {
		bool used;
		struct cs_ip_prefix prefix;
		struct cs_addr row;
	} prefix[ROWS];
	struct {
		bool used;
		struct cs_policy_key key;
		struct cs_policy row;
	} policy[ROWS];
	struct {
		bool used;
		struct cs_auth_key key;
		uint64_t flags;
	} auth[ROWS];
	bool node[ROWS];
	size_t policy_room, addr_room; /* rows of a kind; 0: ROWS */
	unsigned count[CS_OP_NODE_DEL + 1];
};

#define FIND(table, match)                                                                                             \
	({                                                                                                             \
		int found_ = -1;                                                                                       \
		for (int i = 0; i < ROWS; i++)                                                                         \
			if (m->table[i].used && (match))                                                               \
				found_ = i;                                                                            \
		found_;                                                                                                \
	})
#define SLOT(table, match)                                                                                             \
	({                                                                                                             \
		int slot_ = FIND(table, match);                                                                        \
		for (int i = 0; i < ROWS && slot_ < 0; i++)                                                            \
			if (!m->table[i].used)                                                                         \
				slot_ = i;                                                                             \
		slot_;                                                                                                 \
	})

static bool can(uint32_t identity)
{
	return identity >= CS_ID_FIRST_AUTH && identity < CS_ID_LOCAL_SCOPE;
}

/* What becomes of a packet: 'd'rop, 'p'ass by policy, 'a'uthenticated, 'm'iss (asks), and who the peer is. */
static char judge(const struct model *m, uint32_t ifindex, const struct cs_ip *peer, enum cs_dir dir)
{
	int e = FIND(ep, m->ep[i].ifindex == ifindex);
	int a = FIND(addr, cs_ip_equal(&m->addr[i].ip, peer));
	if (e < 0)
		return 'd';
	const struct cs_endpoint *ep = &m->ep[e].row;
	uint32_t remote = a >= 0 ? m->addr[a].row.identity : CS_ID_WORLD;
	uint16_t node = a >= 0 ? m->addr[a].row.node : 0;
	struct cs_auth_key key = {.local = ep->identity, .remote = remote, .node = node, .type = 1};
	int entry = can(remote) ? FIND(auth, memcmp(&m->auth[i].key, &key, sizeof(key)) == 0) : -1;
	if (entry >= 0)
		return m->auth[entry].flags & (dir == CS_TO ? CS_AUTH_REPLY_TO : CS_AUTH_REPLY_FROM) ? 'd' : 'a';
	struct cs_policy_key pk = {.local = ep->identity, .remote = remote};
	int p = FIND(policy, memcmp(&m->policy[i].key, &pk, sizeof(pk)) == 0);
	uint8_t v = p >= 0 ? m->policy[p].row.verdict[dir] : ep->verdict[dir][can(remote) ? 1 : 0];
	v &= CS_VERDICT_MASK;
	return v == CS_PASS ? 'p' : v == CS_REQUIRE && can(remote) ? 'm' : 'd';
}

/* ---- the executor ---- */

struct test {
	struct cs_world *w;
	struct model m;
	/* Probes: after each operation every one is in what is allowed. */
	struct probe {
		uint32_t ifindex;
		struct cs_ip peer;
		enum cs_dir dir;
		char allowed[8];
	} probe[8];
	int nprobes;
	struct cs_op last;
};

static void entries(struct test *t, bool before)
{
	struct model *m = &t->m;
	for (int i = 0; i < ROWS; i++) {
		if (!m->auth[i].used)
			continue;
		const struct cs_auth_key *k = &m->auth[i].key;
		uint64_t flags = cs_world_reply_flags(t->w, k->local, k->remote);
		if (before && (!cs_world_asks(t->w, k->local, k->remote) || !cs_world_local(t->w, k->local) ||
				      !cs_world_placed(t->w, k->remote, k->node)))
			m->auth[i].used = false;
		m->auth[i].flags = before ? m->auth[i].flags | flags : flags;
	}
}

static size_t used_policy(const struct model *m)
{
	size_t n = 0;
	for (int i = 0; i < ROWS; i++)
		n += m->policy[i].used;
	return n;
}

static size_t used_addr(const struct model *m)
{
	size_t n = 0;
	for (int i = 0; i < ROWS; i++)
		n += m->addr[i].used;
	return n;
}

static bool execute(struct test *t, const struct cs_op *o)
{
	struct model *m = &t->m;
	struct cs_node node;
	int s;
	m->count[o->kind]++;
	switch (o->kind) {
	case CS_OP_NODE_PUT:
		assert_true(cs_world_node_row(t->w, o->node, &node));
		m->node[o->node] = true;
		break;
	case CS_OP_NODE_DEL:
		m->node[o->node] = false;
		break;
	case CS_OP_ATTACH:
		break;
	case CS_OP_ENDPOINT_DEL:
		s = FIND(ep, m->ep[i].ifindex == o->ifindex);
		if (s >= 0)
			m->ep[s].used = false;
		break;
	case CS_OP_ENDPOINT_PUT:
		s = SLOT(ep, m->ep[i].ifindex == o->ifindex);
		m->ep[s].used = cs_world_endpoint_row(t->w, o->ifindex, &m->ep[s].row);
		m->ep[s].ifindex = o->ifindex;
		break;
	case CS_OP_ADDR_DEL:
		s = FIND(addr, cs_ip_equal(&m->addr[i].ip, &o->addr));
		if (s >= 0)
			m->addr[s].used = false;
		break;
	case CS_OP_ADDR_PUT:
		if (m->addr_room && used_addr(m) >= m->addr_room)
			return false;
		s = SLOT(addr, cs_ip_equal(&m->addr[i].ip, &o->addr));
		m->addr[s].used = cs_world_addr_row(t->w, &o->addr, &m->addr[s].row);
		m->addr[s].ip = o->addr;
		assert_true(!m->addr[s].row.node || m->node[m->addr[s].row.node]); /* named first, and unnamed last */
		break;
	case CS_OP_PREFIX_DEL:
		s = FIND(prefix, memcmp(&m->prefix[i].prefix, &o->prefix, sizeof(o->prefix)) == 0);
		if (s >= 0)
			m->prefix[s].used = false;
		break;
	case CS_OP_PREFIX_PUT:
		s = SLOT(prefix, memcmp(&m->prefix[i].prefix, &o->prefix, sizeof(o->prefix)) == 0);
		m->prefix[s].used = cs_world_prefix_row(t->w, &o->prefix, &m->prefix[s].row);
		m->prefix[s].prefix = o->prefix;
		break;
	case CS_OP_POLICY_PUT:
		if (m->policy_room && used_policy(m) >= m->policy_room)
			return false;
		s = SLOT(policy, memcmp(&m->policy[i].key, &o->policy, sizeof(o->policy)) == 0);
		m->policy[s].used = cs_world_policy_row(t->w, &o->policy, &m->policy[s].row);
		m->policy[s].key = o->policy;
		break;
	case CS_OP_POLICY_DEL:
		s = FIND(policy, memcmp(&m->policy[i].key, &o->policy, sizeof(o->policy)) == 0);
		if (s >= 0)
			m->policy[s].used = false;
		break;
	case CS_OP_ENTRIES_BEFORE:
	case CS_OP_ENTRIES_AFTER:
		entries(t, o->kind == CS_OP_ENTRIES_BEFORE);
		break;
	}
	return true;
}

static void look(struct test *t)
{
	for (int i = 0; i < t->nprobes; i++) {
		const struct probe *p = &t->probe[i];
		char now = judge(&t->m, p->ifindex, &p->peer, p->dir);
		if (!strchr(p->allowed, now))
			fail_msg("probe %d: '%c' after operation %d, allowed are \"%s\"", i, now, t->last.kind,
				p->allowed);
	}
}

static void apply(struct test *t)
{
	struct cs_error full = {.code = -28, .reason = CS_R_MAP_FULL, .text = "no room"};
	memset(t->m.count, 0, sizeof(t->m.count));
	bool again = true;
	for (int round = 0; round < 4 && again; round++) {
		size_t n;
		const struct cs_op *ops = cs_world_plan(t->w, &n);
		again = false;
		for (size_t i = 0; i < n; i++) {
			if (i)
				assert_true(ops[i].kind >= ops[i - 1].kind);
			t->last = ops[i];
			bool ok = execute(t, &ops[i]);
			again |= cs_world_done(t->w, &ops[i], ok ? NULL : &full);
			look(t);
		}
	}
	assert_false(again);
	t->nprobes = 0;
}

static void probe(struct test *t, uint32_t ifindex, const char *peer, enum cs_dir dir, const char *allowed)
{
	struct probe *p = &t->probe[t->nprobes++];
	p->ifindex = ifindex;
	p->peer = ip_of(peer);
	p->dir = dir;
	strncpy(p->allowed, allowed, sizeof(p->allowed) - 1);
}

static char now(struct test *t, uint32_t ifindex, const char *peer, enum cs_dir dir)
{
	struct cs_ip ip = ip_of(peer);
	return judge(&t->m, ifindex, &ip, dir);
}

static void authenticated(struct test *t, uint32_t local, uint32_t remote, const char *node)
{
	struct cs_world_node n = {0};
	struct model *m = &t->m;
	assert_true(cs_world_node_by_name(t->w, node, &n));
	struct cs_auth_key key = {.local = local, .remote = remote, .node = n.id, .type = 1};
	int s = SLOT(auth, memcmp(&m->auth[i].key, &key, sizeof(key)) == 0);
	m->auth[s].used = true;
	m->auth[s].key = key;
	m->auth[s].flags = cs_world_reply_flags(t->w, local, remote);
	cs_world_node_hold(t->w, n.id);
}

#define START                                                                                                          \
	"node n1 self 192.168.0.1; node n2 192.168.0.2; identity 100; identity 101; identity 102;"                     \
	"placement 100 n2; placement 101 n1; placement 102 n2;"                                                        \
	"endpoint n2 web 100 10.0.2.1; endpoint n2 other 102 10.0.2.2; endpoint n1 db 101 10.0.1.1 @ veth1 7;"         \
	"default 101 pass pass deny deny; row 101 100 require require"

static struct test *start(const char *lines)
{
	struct test *t = calloc(1, sizeof(*t));
	t->w = cs_world_new(1000);
	cs_world_link(t->w, 7, "veth1");
	cs_world_link(t->w, 8, "veth2");
	world_replace(t->w, lines);
	apply(t);
	return t;
}

static void end(struct test *t)
{
	cs_world_free(t->w);
	free(t);
}

/* ---- what is there ---- */

static void test_nothing_before_the_full_state(void **state)
{
	(void)state;
	struct cs_world *w = cs_world_new(1);
	size_t n;
	cs_world_link(w, 7, "veth1");
	cs_world_replace_begin(w);
	world_say(w, START);
	cs_world_plan(w, &n);
	assert_int_equal(n, 0);
	assert_false(cs_world_ready(w));
	cs_world_replace_end(w);
	cs_world_plan(w, &n);
	assert_true(n > 0);
	cs_world_free(w);
}

static void test_rows(void **state)
{
	(void)state;
	struct test *t = start(START);
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'm');
	assert_int_equal(now(t, 7, "10.0.2.1", CS_FROM), 'm');
	assert_int_equal(now(t, 7, "10.0.2.2", CS_TO), 'd');
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'p');
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'p');
	assert_int_equal(now(t, 8, "8.8.8.8", CS_FROM), 'd'); /* no endpoint */
	struct cs_endpoint row;
	assert_true(cs_world_endpoint_row(t->w, 7, &row));
	assert_int_equal(row.identity, 101);
	assert_int_equal(row.n4, 1);
	assert_true(row.flags & CS_EP_FLOWS);
	struct cs_addr a;
	struct cs_ip node = ip_of("192.168.0.2"), self = ip_of("192.168.0.1");
	assert_true(cs_world_addr_row(t->w, &node, &a));
	assert_int_equal(a.identity, CS_ID_REMOTE_NODE);
	assert_int_not_equal(a.node, 0);
	assert_false(cs_world_addr_row(t->w, &self, &a)); /* netlink's word, not the directory's */
	cs_world_host_addr(t->w, &self, true);
	assert_true(cs_world_addr_row(t->w, &self, &a));
	assert_int_equal(a.identity, CS_ID_HOST);
	end(t);
}

static void test_same_again_does_nothing(void **state)
{
	(void)state;
	struct test *t = start(START);
	world_replace(t->w, START);
	apply(t);
	for (int kind = 0; kind <= CS_OP_NODE_DEL; kind++)
		if (kind != CS_OP_ENTRIES_BEFORE && kind != CS_OP_ENTRIES_AFTER)
			assert_int_equal(t->m.count[kind], 0);
	end(t);
}

static void test_replacement_takes_away(void **state)
{
	(void)state;
	struct test *t = start(START);
	world_replace(t->w, "node n1 self 192.168.0.1");
	apply(t);
	assert_int_equal(used_policy(&t->m), 0);
	assert_int_equal(used_addr(&t->m), 0);
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'd');
	assert_int_equal(t->m.count[CS_OP_NODE_DEL], 1);
	end(t);
}

static void test_adopted_rows(void **state)
{
	(void)state;
	struct cs_world *w = cs_world_new(1);
	struct cs_node node = {.name = "n2"};
	struct cs_addr stale = {.identity = 555, .node = 9}, same = {.identity = 100, .node = 9};
	struct cs_ip gone = ip_of("10.9.9.9"), kept = ip_of("10.0.2.1");
	struct cs_policy_key key = {.local = 101, .remote = 100};
	struct cs_policy row = {.verdict = {CS_REQUIRE, CS_REQUIRE}};
	cs_world_adopt_node(w, 9, &node);
	cs_world_adopt_addr(w, &gone, &stale);
	cs_world_adopt_addr(w, &kept, &same);
	cs_world_adopt_policy(w, &key, &row);
	cs_world_link(w, 7, "veth1");
	world_replace(w, START);
	size_t n, dels = 0;
	const struct cs_op *ops = cs_world_plan(w, &n);
	for (size_t i = 0; i < n; i++) {
		dels += ops[i].kind == CS_OP_ADDR_DEL;
		if (ops[i].kind == CS_OP_ADDR_DEL)
			assert_true(cs_ip_equal(&ops[i].addr, &gone));
		if (ops[i].kind == CS_OP_ADDR_PUT)
			assert_false(cs_ip_equal(&ops[i].addr, &kept));
		assert_int_not_equal(ops[i].kind, CS_OP_POLICY_PUT);
	}
	assert_int_equal(dels, 1);
	struct cs_world_node found;
	assert_true(cs_world_node_by_name(w, "n2", &found));
	assert_int_equal(found.id, 9);
	cs_world_free(w);
}

/* ---- changes, at every instant ---- */

static void test_require_to_deny(void **state)
{
	(void)state;
	struct test *t = start(START);
	authenticated(t, 101, 100, "n2");
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'a');
	world_say(t->w, "row 101 100 deny deny");
	probe(t, 7, "10.0.2.1", CS_TO, "amd");
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'd');
	assert_int_equal(now(t, 7, "10.0.2.1", CS_FROM), 'd');
	end(t);
}

static void test_one_direction_denied(void **state)
{
	(void)state;
	struct test *t = start(START);
	authenticated(t, 101, 100, "n2");
	world_say(t->w, "row 101 100 require deny");
	probe(t, 7, "10.0.2.1", CS_FROM, "a"); /* never interrupted */
	probe(t, 7, "10.0.2.1", CS_TO, "ad");
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'd');
	world_say(t->w, "row 101 100 require require");
	probe(t, 7, "10.0.2.1", CS_FROM, "a");
	probe(t, 7, "10.0.2.1", CS_TO, "da");
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'a');
	end(t);
}

static void test_pass_to_require_and_back(void **state)
{
	(void)state;
	struct test *t = start(START);
	world_say(t->w, "row 101 102 require require");
	probe(t, 7, "10.0.2.2", CS_FROM, "pm");
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'm');
	authenticated(t, 101, 102, "n2");
	world_say(t->w, "row 101 102 pass pass");
	probe(t, 7, "10.0.2.2", CS_FROM, "amp");
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'p');
	end(t);
}

/* The map takes no change of a row that is there: it does not go on saying what it said, and never does the default, which
 * passes, count instead. */
static void test_a_row_that_cannot_be_changed(void **state)
{
	(void)state;
	struct test *t = start(START);
	t->m.policy_room = 1;
	world_say(t->w, "row 101 100 deny deny");
	probe(t, 7, "10.0.2.1", CS_FROM, "md");
	apply(t);
	assert_int_equal(used_policy(&t->m), 0);
	assert_int_equal(now(t, 7, "10.0.2.1", CS_FROM), 'd');
	world_say(t->w, "row 101 100 pass pass"); /* there is room again */
	apply(t);
	assert_int_equal(used_policy(&t->m), 1);
	assert_int_equal(now(t, 7, "10.0.2.1", CS_FROM), 'p');
	end(t);
}

static void test_row_and_default_change_together(void **state)
{
	(void)state;
	struct test *t = start(START);
	/* The row that denied goes, and the default that passed requires: never a pass in between. */
	world_say(t->w, "row 101 102 deny deny");
	apply(t);
	world_say(t->w, "-row 101 102; default 101 require pass require deny");
	probe(t, 7, "10.0.2.2", CS_FROM, "dm");
	probe(t, 7, "10.0.2.2", CS_TO, "dm");
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'm');
	/* And back: a row is there before the default opens. */
	world_say(t->w, "row 101 102 deny deny; default 101 pass pass pass pass");
	probe(t, 7, "10.0.2.2", CS_FROM, "md");
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'd');
	end(t);
}

static void test_address_changes_hands(void **state)
{
	(void)state;
	struct test *t = start(START);
	authenticated(t, 101, 100, "n2");
	/* web's address becomes other's: to 101 it is authenticated, then nobody (world: denied), then other (denied). */
	world_say(t->w, "endpoint n2 web 100 10.0.2.9; endpoint n2 other 102 10.0.2.1");
	probe(t, 7, "10.0.2.1", CS_TO, "ad");
	probe(t, 7, "10.0.2.9", CS_TO, "da");
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'd');
	assert_int_equal(now(t, 7, "10.0.2.9", CS_TO), 'a');
	assert_true(t->m.count[CS_OP_ADDR_DEL] >= 1);
	end(t);
}

static void test_placement_ends(void **state)
{
	(void)state;
	struct test *t = start(START);
	authenticated(t, 101, 100, "n2");
	world_say(t->w, "-placement 100 n2; -endpoint n2 web");
	probe(t, 7, "10.0.2.1", CS_TO, "ad");
	probe(t, 7, "10.0.2.1", CS_FROM, "amp"); /* world in the end, which passes outwards */
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'd');
	end(t);
}

static void test_endpoint_changes_identity(void **state)
{
	(void)state;
	struct test *t = start(START ";identity 103; placement 103 n1; default 103 deny deny deny deny");
	authenticated(t, 101, 100, "n2");
	world_say(t->w, "endpoint n1 db 103 10.0.1.1 @ veth1 7");
	probe(t, 7, "10.0.2.1", CS_TO, "ad");
	probe(t, 7, "8.8.8.8", CS_FROM, "pd");
	apply(t);
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'd');
	assert_int_equal(t->m.count[CS_OP_ENDPOINT_DEL], 1);
	end(t);
}

static void test_not_placed_gets_nothing(void **state)
{
	(void)state;
	struct test *t = start(START);
	world_say(t->w, "endpoint n1 db 0 10.0.1.1 @ veth1 7");
	apply(t);
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'd');
	struct cs_world_endpoint ep;
	assert_true(cs_world_endpoint(t->w, "db", &ep));
	assert_false(ep.enforced);
	assert_int_equal(ep.reason, CS_R_NO_ENDPOINT);
	world_say(t->w, "endpoint n1 db 101 10.0.1.1 @ veth1 7");
	apply(t);
	assert_true(cs_world_endpoint(t->w, "veth1", &ep));
	assert_true(ep.enforced);
	assert_int_equal(ep.reason, CS_R_NONE);
	end(t);
}

static void test_no_default_is_deny(void **state)
{
	(void)state;
	struct test *t = start(START);
	world_say(t->w, "-default 101");
	apply(t);
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'd');
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'm'); /* its row is there */
	end(t);
}

/* ---- interfaces ---- */

static void test_interface_missing_and_taken(void **state)
{
	(void)state;
	struct test *t = start(START);
	struct cs_world_endpoint ep;
	world_say(t->w, "endpoint n1 db2 101 10.0.1.2 @ veth1 7");
	apply(t);
	assert_true(cs_world_endpoint(t->w, "db2", &ep));
	assert_int_equal(ep.reason, CS_R_INTERFACE_TAKEN);
	cs_world_link(t->w, 7, "renamed");
	apply(t);
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'd');
	assert_true(cs_world_endpoint(t->w, "db", &ep));
	assert_int_equal(ep.reason, CS_R_INTERFACE_MISSING);
	cs_world_link(t->w, 7, "veth1");
	apply(t);
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'p');
	cs_world_link(t->w, 7, NULL);
	apply(t);
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'd');
	end(t);
}

static void test_attach_fails(void **state)
{
	(void)state;
	struct cs_world *w = cs_world_new(1);
	struct cs_error no = {.code = -95, .reason = CS_R_INTERFACE_UNSUITABLE, .text = "a bridge"};
	struct cs_world_endpoint ep;
	struct cs_endpoint row;
	size_t n;
	cs_world_link(w, 7, "veth1");
	world_replace(w, START);
	const struct cs_op *ops = cs_world_plan(w, &n);
	for (size_t i = 0; i < n; i++)
		assert_false(cs_world_done(w, &ops[i], ops[i].kind == CS_OP_ATTACH ? &no : NULL));
	assert_false(cs_world_endpoint_row(w, 7, &row));
	assert_true(cs_world_endpoint(w, "db", &ep));
	assert_false(ep.enforced);
	assert_int_equal(ep.reason, CS_R_INTERFACE_UNSUITABLE);
	world_say(w, "default 101 pass pass pass pass"); /* no reason to try again */
	ops = cs_world_plan(w, &n);
	for (size_t i = 0; i < n; i++)
		assert_int_not_equal(ops[i].kind, CS_OP_ATTACH);
	cs_world_link(w, 7, "veth1"); /* this is one */
	ops = cs_world_plan(w, &n);
	size_t attaches = 0;
	for (size_t i = 0; i < n; i++)
		attaches += ops[i].kind == CS_OP_ATTACH;
	assert_int_equal(attaches, 1);
	cs_world_free(w);
}

static void test_shadowed(void **state)
{
	(void)state;
	struct test *t = start(START);
	struct cs_world_endpoint ep;
	cs_world_shadowed(t->w, 7, CS_R_SHADOWED, "evil (program id 7)");
	assert_true(cs_world_endpoint(t->w, "db", &ep));
	assert_false(ep.enforced);
	assert_int_equal(ep.reason, CS_R_SHADOWED);
	cs_world_shadowed(t->w, 7, CS_R_NONE, NULL);
	assert_true(cs_world_endpoint(t->w, "db", &ep));
	assert_true(ep.enforced);
	end(t);
}

/* ---- no room ---- */

static void test_no_room_for_policy(void **state)
{
	(void)state;
	struct test *t = start(START);
	struct cs_world_endpoint ep;
	t->m.policy_room = 1;
	world_say(t->w, "row 101 102 require require");
	apply(t);
	/* 102 would be judged by the default, which passes: everything without a row is denied. */
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'd');
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'd');
	assert_int_equal(now(t, 7, "10.0.2.1", CS_TO), 'm');
	assert_true(cs_world_endpoint(t->w, "db", &ep));
	assert_true(ep.enforced);
	assert_int_equal(ep.reason, CS_R_MAP_FULL);
	assert_false(cs_world_asks(t->w, 101, 102));
	t->m.policy_room = 0; /* room again: the next plan opens what was closed */
	world_say(t->w, "identity 104");
	apply(t);
	apply(t);
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'm');
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'p');
	assert_int_equal(cs_world_counts(t->w).no_room, 0);
	end(t);
}

static void test_no_room_for_an_address(void **state)
{
	(void)state;
	struct test *t = start(START);
	t->m.addr_room = used_addr(&t->m);
	world_say(t->w, "endpoint n2 web2 100 10.0.2.7");
	apply(t);
	/* 10.0.2.7 would be judged as world. */
	assert_int_equal(now(t, 7, "10.0.2.7", CS_FROM), 'd');
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'd');
	assert_int_equal(now(t, 7, "10.0.2.2", CS_FROM), 'p'); /* endpoints are known */
	world_say(t->w, "-endpoint n2 web2");
	apply(t);
	assert_int_equal(now(t, 7, "8.8.8.8", CS_FROM), 'p');
	end(t);
}

/* ---- prefixes, depends_on ---- */

/* The row that a packet with this address meets: exact, then the longest prefix, then world. */
static struct cs_addr met(struct test *t, const struct cs_ip *ip)
{
	const struct model *m = &t->m;
	int best = -1, exact = FIND(addr, cs_ip_equal(&m->addr[i].ip, ip));
	if (exact >= 0)
		return m->addr[exact].row;
	for (int i = 0; i < ROWS; i++)
		if (m->prefix[i].used && cs_ip_prefix_holds(&m->prefix[i].prefix, ip, ip->family == 4 ? 32 : 128) &&
			(best < 0 || m->prefix[i].prefix.bits > m->prefix[best].prefix.bits))
			best = i;
	return best >= 0 ? m->prefix[best].row : (struct cs_addr){.identity = CS_ID_WORLD};
}

static void test_depends_on(void **state)
{
	(void)state;
	struct test *t = start(START ";prefix 192.0.2.0/24 16777217; depends dns 102 192.0.2.8/29 10.0.1.0/24");
	struct cs_addr a;
	struct cs_ip in = ip_of("192.0.2.9"), out = ip_of("192.0.2.1"), own = ip_of("10.0.1.1"),
		     web = ip_of("10.0.2.1"), other = ip_of("10.0.2.2");
	a = met(t, &in);
	assert_int_equal(a.identity, 16777217); /* the longest CIDR around it */
	assert_true(a.flags & CS_ADDR_DEPENDS);
	a = met(t, &out);
	assert_int_equal(a.identity, 16777217);
	assert_false(a.flags & CS_ADDR_DEPENDS);
	assert_true(met(t, &own).flags & CS_ADDR_DEPENDS);   /* an exact row inside the prefix */
	assert_true(met(t, &other).flags & CS_ADDR_DEPENDS); /* by its identity */
	assert_false(met(t, &web).flags & CS_ADDR_DEPENDS);
	world_say(t->w, "-prefix 192.0.2.0/24");
	apply(t);
	assert_int_equal(met(t, &in).identity, CS_ID_WORLD);
	world_say(t->w, "-depends dns");
	apply(t);
	assert_int_equal(t->m.count[CS_OP_ADDR_DEL], 2); /* own and other: no failure leaves them passing */
	assert_int_equal(t->m.count[CS_OP_ADDR_PUT], 2);
	assert_false(met(t, &in).flags & CS_ADDR_DEPENDS);
	assert_false(met(t, &own).flags & CS_ADDR_DEPENDS);
	world_say(t->w, "depends dns 102 192.0.2.8/29 10.0.1.0/24");
	apply(t);
	assert_int_equal(t->m.count[CS_OP_ADDR_DEL], 0);
	assert_int_equal(t->m.count[CS_OP_ADDR_PUT], 2);
	end(t);
}

/* ---- nodes ---- */

static void test_node_ids_outlive_entries(void **state)
{
	(void)state;
	struct test *t = start(START);
	struct cs_world_node n2, n3;
	assert_true(cs_world_node_by_name(t->w, "n2", &n2));
	authenticated(t, 101, 100, "n2");
	world_say(t->w, "-node n2; -placement 100 n2; -placement 102 n2; -endpoint n2 web; -endpoint n2 other");
	apply(t);
	assert_true(t->m.node[n2.id]); /* the entry names it */
	world_say(t->w, "node n3 192.168.0.3");
	apply(t);
	assert_true(cs_world_node_by_name(t->w, "n3", &n3));
	assert_int_not_equal(n3.id, n2.id);
	cs_world_node_release(t->w, n2.id);
	apply(t);
	assert_false(t->m.node[n2.id]);
	end(t);
}

static void test_who_dials(void **state)
{
	(void)state;
	struct test *t = start(START);
	struct cs_world_node n;
	struct cs_ip n2 = ip_of("192.168.0.2"), self = ip_of("192.168.0.1"), web = ip_of("10.0.2.1");
	assert_true(cs_world_node_by_addr(t->w, &n2, &n));
	assert_string_equal(n.name, "n2");
	assert_false(cs_world_node_by_addr(t->w, &self, &n));
	assert_false(cs_world_node_by_addr(t->w, &web, &n)); /* an endpoint's */
	assert_true(cs_world_self(t->w, &n));
	assert_string_equal(n.name, "n1");
	assert_int_equal(n.id, 0);
	end(t);
}

/* ---- revocations ---- */

static enum cs_reason revoked(
	struct cs_world *w, uint32_t identity, const char *node, int leaf, int serial, int kid, int64_t at)
{
	struct cs_world_node n = {0};
	struct cs_leaf l;
	fill_leaf(&l, leaf, serial, kid);
	assert_true(cs_world_node_by_name(w, node, &n));
	struct cs_world_subject s = {.identity = identity, .node = n.id, .leaf = &l};
	return cs_world_revoked(w, &s, at, NULL);
}

static void test_revocations(void **state)
{
	(void)state;
	static const struct {
		const char *line;
		uint32_t identity;
		const char *node;
		int leaf, serial, kid;
		bool hit;
	} cases[] = {{"revoke r identity 100", 100, "n2", 1, 2, 3, true},
		{"revoke r identity 100", 102, "n2", 1, 2, 3, false}, {"revoke r node n2", 100, "n2", 1, 2, 3, true},
		{"revoke r node n2", 100, "n1", 1, 2, 3, false},
		{"revoke r placement 100 n2", 100, "n2", 1, 2, 3, true},
		{"revoke r placement 100 n2", 102, "n2", 1, 2, 3, false},
		{"revoke r placement 100 n2", 100, "n1", 1, 2, 3, false}, {"revoke r leaf 1", 100, "n2", 1, 2, 3, true},
		{"revoke r leaf 1", 100, "n2", 9, 2, 3, false}, {"revoke r serial 2 3", 100, "n2", 1, 2, 3, true},
		{"revoke r serial 2 3", 100, "n2", 1, 2, 9, false}, {"revoke r serial 2 3", 100, "n2", 1, 9, 3, false},
		{"revoke r authority 3", 100, "n2", 1, 2, 3, true}, {"revoke r authority 3", 100, "n2", 1, 2, 9, false},
		{"revoke r identity 100 from 50 until 60", 100, "n2", 1, 2, 3, true},
		{"revoke r identity 100 from 56 until 60", 100, "n2", 1, 2, 3, false},
		{"revoke r identity 100 from 40 until 50", 100, "n2", 1, 2, 3, false}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct test *t = start(START);
		world_say(t->w, cases[i].line);
		apply(t);
		assert_int_equal(revoked(t->w, cases[i].identity, cases[i].node, cases[i].leaf, cases[i].serial,
					 cases[i].kid, 55),
			cases[i].hit ? CS_R_REVOKED : CS_R_NONE);
		world_say(t->w, "-revoke r");
		assert_int_equal(revoked(t->w, cases[i].identity, cases[i].node, cases[i].leaf, cases[i].serial,
					 cases[i].kid, 55),
			CS_R_NONE);
		end(t);
	}
	struct test *t = start(START ";revoke a identity 1 from 70; revoke b identity 2 from 60");
	assert_int_equal(cs_world_next_revocation_unix_s(t->w, 50), 60);
	assert_int_equal(cs_world_next_revocation_unix_s(t->w, 60), 70);
	assert_true(cs_world_next_revocation_unix_s(t->w, 70) == INT64_MAX);
	end(t);
}

static void test_generations(void **state)
{
	(void)state;
	struct test *t = start(START);
	struct cs_world_node n2;
	assert_true(cs_world_node_by_name(t->w, "n2", &n2));
	struct cs_world_generations a = cs_world_generations(t->w, 101, 100, n2.id), b;
	world_say(t->w, "row 101 102 deny deny; identity 102 9; placement 102 n1; placement 100 n2");
	b = cs_world_generations(t->w, 101, 100, n2.id);
	assert_memory_equal(&a, &b, sizeof(a)); /* what does not concern the pair */
	const char *changes[] = {"identity 100 2", "identity 101 2", "-placement 100 n2; placement 100 n2",
		"-endpoint n1 db; endpoint n1 db 101 10.0.1.1 @ veth1 7", "revoke r identity 5", "node n2 192.168.0.9",
		"-node n2; node n2 192.168.0.9"};
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		world_say(t->w, changes[i]);
		b = cs_world_generations(t->w, 101, 100, n2.id);
		assert_memory_not_equal(&a, &b, sizeof(a));
		a = b;
	}
	end(t);
}

static void test_touched(void **state)
{
	(void)state;
	struct test *t = start(START);
	assert_false(cs_world_touched(t->w, 101, 100));
	world_say(t->w, "row 101 102 deny deny");
	assert_true(cs_world_touched(t->w, 101, 100));
	assert_false(cs_world_touched(t->w, 105, 100));
	apply(t);
	assert_false(cs_world_touched(t->w, 101, 100));
	world_say(t->w, "-placement 100 n2");
	assert_true(cs_world_touched(t->w, 7, 100));
	apply(t);
	world_say(t->w, "revoke r node n2");
	assert_true(cs_world_touched(t->w, 1, 2));
	end(t);
}

/* ---- form ---- */

static void test_records_that_no_directory_sends(void **state)
{
	(void)state;
	struct cs_error e;
	uint8_t five[5] = {0}, v4[4] = {10, 0, 0, 1};
	Countersign__V1__Address address = COUNTERSIGN__V1__ADDRESS__INIT, *addresses[] = {&address};
	Countersign__V1__Node node = COUNTERSIGN__V1__NODE__INIT;
	Countersign__V1__Record r = COUNTERSIGN__V1__RECORD__INIT;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_NODE;
	r.node = &node;
	assert_int_equal(cs_world_record_check(&r, &e), -74); /* no name */
	char name[] = "n1", id[] = "r";
	node.name = name;
	assert_int_equal(cs_world_record_check(&r, &e), 0);
	node.n_addresses = 1;
	node.addresses = addresses;
	address.ip = (ProtobufCBinaryData){.len = 5, .data = five};
	assert_int_equal(cs_world_record_check(&r, &e), -74);
	address.ip = (ProtobufCBinaryData){.len = 4, .data = v4};
	assert_int_equal(cs_world_record_check(&r, &e), 0);
	node.port = 70000;
	assert_int_equal(cs_world_record_check(&r, &e), -74);

	Countersign__V1__Prefix p = COUNTERSIGN__V1__PREFIX__INIT;
	Countersign__V1__PrefixIdentity pi = COUNTERSIGN__V1__PREFIX_IDENTITY__INIT;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_PREFIX;
	r.prefix = &pi;
	assert_int_equal(cs_world_record_check(&r, &e), -74); /* absent */
	pi.prefix = &p;
	p.ip = (ProtobufCBinaryData){.len = 4, .data = v4};
	p.bits = 33;
	assert_int_equal(cs_world_record_check(&r, &e), -74);
	p.bits = 24; /* bits beyond it are set */
	assert_int_equal(cs_world_record_check(&r, &e), -74);
	p.bits = 32;
	assert_int_equal(cs_world_record_check(&r, &e), 0);

	Countersign__V1__Revocation v = COUNTERSIGN__V1__REVOCATION__INIT;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_REVOCATION;
	r.revocation = &v;
	v.id = id;
	assert_int_equal(cs_world_record_check(&r, &e), -74); /* of nothing that is understood */
	r.deleted = true;
	assert_int_equal(cs_world_record_check(&r, &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_before_the_full_state),
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_same_again_does_nothing),
		cmocka_unit_test(test_replacement_takes_away),
		cmocka_unit_test(test_adopted_rows),
		cmocka_unit_test(test_require_to_deny),
		cmocka_unit_test(test_one_direction_denied),
		cmocka_unit_test(test_pass_to_require_and_back),
		cmocka_unit_test(test_a_row_that_cannot_be_changed),
		cmocka_unit_test(test_row_and_default_change_together),
		cmocka_unit_test(test_address_changes_hands),
		cmocka_unit_test(test_placement_ends),
		cmocka_unit_test(test_endpoint_changes_identity),
		cmocka_unit_test(test_not_placed_gets_nothing),
		cmocka_unit_test(test_no_default_is_deny),
		cmocka_unit_test(test_interface_missing_and_taken),
		cmocka_unit_test(test_attach_fails),
		cmocka_unit_test(test_shadowed),
		cmocka_unit_test(test_no_room_for_policy),
		cmocka_unit_test(test_no_room_for_an_address),
		cmocka_unit_test(test_depends_on),
		cmocka_unit_test(test_node_ids_outlive_entries),
		cmocka_unit_test(test_who_dials),
		cmocka_unit_test(test_revocations),
		cmocka_unit_test(test_generations),
		cmocka_unit_test(test_touched),
		cmocka_unit_test(test_records_that_no_directory_sends),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
