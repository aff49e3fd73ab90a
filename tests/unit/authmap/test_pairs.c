#include <countersign/handshaker.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "pairs.h"

#define HOUR_MS 3600000
#define S_NS    1000000000ULL

static struct cs_instant at(int64_t s)
{
	return (struct cs_instant){
		.coarse_ns = (uint64_t)(50 + s) * S_NS, .mono_ms = (70 + s) * 1000, .unix_ms = (100000 + s) * 1000};
}

static struct cs_auth_key key(uint32_t local, uint16_t node)
{
	return (struct cs_auth_key){.local = local, .remote = 200, .node = node, .type = CS_AUTH_SPIRE};
}

static struct cs_basis basis(int64_t lives_s, enum cs_hs_role role)
{
	return (struct cs_basis){
		.not_after_unix_s = (uint64_t)(100000 + lives_s), .written_unix_s = 100000, .role = (uint8_t)role};
}

/* ---- expiry ---- */

static void test_value(void **state)
{
	(void)state;
	struct cs_instant now = at(0);
	/* min(not_after, now + max_ttl) on the maps' clock */
	assert_true(cs_pair_value(100000 + 60, HOUR_MS, 0, &now) == 110 * S_NS);
	assert_true(cs_pair_value(100000 + 99999, HOUR_MS, 0, &now) == (50 + 3600) * S_NS);
	assert_true(cs_pair_value(INT64_MAX, HOUR_MS, 0, &now) == (50 + 3600) * S_NS);
	/* over, or over long ago */
	assert_true(cs_pair_value(100000, HOUR_MS, 0, &now) == 0);
	assert_true(cs_pair_value(1, HOUR_MS, CS_AUTH_REPLY_TO, &now) == 0);
	assert_true(cs_pair_value(-5, HOUR_MS, 0, &now) == 0);
	/* flags ride along and touch no bit of the time */
	uint64_t v = cs_pair_value(100000 + 60, HOUR_MS, CS_AUTH_REPLY_TO | 77, &now);
	assert_true(v == (110 * S_NS | CS_AUTH_REPLY_TO));
}

static void test_due(void **state)
{
	(void)state;
	struct cs_pairs *p = cs_pairs_new(10);
	struct cs_auth_key k = key(1, 2);
	struct cs_pair *pair = cs_pairs_get(p, &k);
	struct cs_basis b = basis(9000, CS_HS_DIALLER);
	struct cs_instant now = at(0);
	uint64_t value = 0;
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_KEEP); /* no entry */
	cs_pair_set_live(p, pair, &b, cs_pair_value(100000 + 9000, HOUR_MS, 0, &now), &now);
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_KEEP);
	now = at(449); /* an eighth of the longest life is 450 s */
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_KEEP);
	now = at(451);
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_LENGTHEN);
	assert_true(value == (50 + 451 + 3600) * S_NS);
	/* never beyond the certificates */
	now = at(6000);
	pair->value = (50 + 6100) * S_NS;
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_LENGTHEN);
	assert_true(value == (50 + 9000) * S_NS);
	pair->value = value;
	now = at(8999);
	assert_int_not_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_LENGTHEN);
	now = at(9000);
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_EXPIRED);
	cs_pairs_free(p);
}

/* A basis comes from a map, and may hold any number. */
static void test_no_number_is_too_large(void **state)
{
	(void)state;
	static const uint64_t ends[] = {INT64_MAX, UINT64_MAX, INT64_MAX / 1000, 1ULL << 63};
	struct cs_pairs *p = cs_pairs_new(10);
	struct cs_auth_key k = key(1, 2);
	struct cs_pair *pair = cs_pairs_get(p, &k);
	struct cs_instant now = at(0);
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		struct cs_basis b = {.not_after_unix_s = ends[i], .role = CS_HS_DIALLER};
		uint64_t value = cs_pair_value((int64_t)ends[i], HOUR_MS, 0, &now);
		assert_true(value == ((int64_t)ends[i] < 0 ? 0 : (50 + 3600) * S_NS));
		cs_pair_set_live(p, pair, &b, value, &now);
		assert_true(pair->renew_mono_ms > now.mono_ms);
	}
	cs_pairs_free(p);
}

/* A clock that jumped ahead ends an entry before the maps' clock does. */
static void test_due_by_wall_clock(void **state)
{
	(void)state;
	struct cs_pairs *p = cs_pairs_new(10);
	struct cs_auth_key k = key(1, 2);
	struct cs_pair *pair = cs_pairs_get(p, &k);
	struct cs_basis b = basis(100, CS_HS_DIALLER);
	struct cs_instant now = at(0);
	uint64_t value = 0;
	cs_pair_set_live(p, pair, &b, cs_pair_value(100000 + 100, HOUR_MS, 0, &now), &now);
	now.unix_ms += 200000;
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_EXPIRED);
	cs_pairs_free(p);
}

static void test_adopted_only_expire(void **state)
{
	(void)state;
	struct cs_pairs *p = cs_pairs_new(10);
	struct cs_auth_key k = key(1, 2);
	struct cs_pair *pair = cs_pairs_get(p, &k);
	struct cs_basis b = basis(9000, CS_HS_DIALLER);
	struct cs_instant now = at(0);
	uint64_t value = 0;
	cs_pair_set_live(p, pair, &b, 60 * S_NS, &now);
	pair->adopted = true;
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_KEEP);
	pair->adopted = false; /* the twin: looked at, so it is lengthened */
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_LENGTHEN);
	pair->adopted = true;
	now = at(10);
	assert_int_equal(cs_pair_due(pair, HOUR_MS, &now, &value), CS_PAIR_EXPIRED);
	cs_pairs_free(p);
}

/* ---- renewal ---- */

static int64_t renewal_s(const struct cs_pair *pair)
{
	return pair->renew_mono_ms / 1000 - 70;
}

static void test_renewal(void **state)
{
	(void)state;
	struct cs_pairs *p = cs_pairs_new(10);
	struct cs_auth_key k = key(1, 2), k2 = key(3, 2);
	struct cs_pair *dialler = cs_pairs_get(p, &k), *acceptor = cs_pairs_get(p, &k2);
	struct cs_basis b = basis(600, CS_HS_DIALLER), b2 = basis(600, CS_HS_ACCEPTOR);
	struct cs_instant now = at(0);
	uint64_t value = 0;
	cs_pair_set_live(p, dialler, &b, cs_pair_value(100600, HOUR_MS, 0, &now), &now);
	cs_pair_set_live(p, acceptor, &b2, cs_pair_value(100600, HOUR_MS, 0, &now), &now);
	assert_in_range(renewal_s(dialler), 370, 400);
	assert_in_range(renewal_s(acceptor), 470, 500); /* later, so that both do not cross */
	now = at(401);
	assert_int_equal(cs_pair_due(dialler, HOUR_MS, &now, &value), CS_PAIR_RENEW);
	dialler->attempt = 5; /* it is under way */
	assert_int_equal(cs_pair_due(dialler, HOUR_MS, &now, &value), CS_PAIR_KEEP);
	dialler->attempt = 0;
	/* It brought nothing newer: not at once again. */
	cs_pair_renewed(dialler, &now);
	assert_int_equal(cs_pair_due(dialler, HOUR_MS, &now, &value), CS_PAIR_KEEP);
	/* Failures: 5 s, doubling, at most 5 min. */
	int64_t waits[] = {5, 10, 20, 40, 80, 160, 300, 300};
	for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
		cs_pair_renewal_failed(dialler, &now);
		assert_int_equal(renewal_s(dialler) - 401, waits[i]);
	}
	/* Rotation: soon. */
	cs_pair_rotated(acceptor, 10000, &now);
	assert_in_range(renewal_s(acceptor), 401, 411);
	cs_pairs_free(p);
}

/* ---- bounds and counts ---- */

static void test_bounds(void **state)
{
	(void)state;
	struct cs_pairs *p = cs_pairs_new(2);
	struct cs_auth_key a = key(1, 2), b = key(2, 2), c = key(3, 2);
	struct cs_pair *pa = cs_pairs_get(p, &a);
	assert_non_null(pa);
	assert_non_null(cs_pairs_get(p, &b));
	assert_null(cs_pairs_get(p, &c));
	assert_ptr_equal(cs_pairs_get(p, &a), pa);
	assert_true(cs_pairs_drop(p, pa, 0));
	assert_non_null(cs_pairs_get(p, &c));
	cs_pairs_free(p);
}

static void test_accepted(void **state)
{
	(void)state;
	struct cs_pairs *p = cs_pairs_new(10);
	struct cs_auth_key a = key(1, 2), b = key(2, 2);
	struct cs_pair *pa = cs_pairs_get(p, &a), *pb = cs_pairs_get(p, &b);
	struct cs_basis in = basis(600, CS_HS_ACCEPTOR), out = basis(600, CS_HS_DIALLER);
	struct cs_instant now = at(0);
	cs_pair_set_live(p, pa, &in, 1, &now);
	cs_pair_set_live(p, pb, &in, 1, &now);
	assert_int_equal(cs_pairs_accepted(p, 2), 2);
	assert_int_equal(cs_pairs_accepted(p, 3), 0);
	cs_pair_set_live(p, pb, &out, 1, &now); /* lengthened by our own dial */
	assert_int_equal(cs_pairs_accepted(p, 2), 1);
	assert_int_equal(cs_pairs_live(p), 2);
	cs_pair_set_dead(p, pa);
	cs_pair_set_dead(p, pa);
	assert_int_equal(cs_pairs_accepted(p, 2), 0);
	assert_int_equal(cs_pairs_live(p), 1);
	cs_pairs_free(p);
}

static void test_drop(void **state)
{
	(void)state;
	struct cs_pairs *p = cs_pairs_new(10);
	struct cs_auth_key k = key(1, 2);
	struct cs_pair *pair = cs_pairs_get(p, &k);
	struct cs_basis b = basis(600, CS_HS_DIALLER);
	struct cs_instant now = at(0);
	cs_pair_set_live(p, pair, &b, 1, &now);
	assert_false(cs_pairs_drop(p, pair, now.mono_ms));
	cs_pair_set_dead(p, pair);
	pair->attempt = 1;
	assert_false(cs_pairs_drop(p, pair, now.mono_ms));
	pair->attempt = 0;
	pair->waiting = true;
	assert_false(cs_pairs_drop(p, pair, now.mono_ms));
	pair->waiting = false;
	cs_pair_set_refused(pair, CS_R_UNTRUSTED, 30000, &now);
	assert_int_equal(pair->refused_until_mono_ms, now.mono_ms + 30000);
	assert_false(cs_pairs_drop(p, pair, now.mono_ms + 30000 + CS_REFUSED_KEEP_MS - 1)); /* somebody may ask why */
	assert_true(cs_pairs_drop(p, pair, now.mono_ms + 30000 + CS_REFUSED_KEEP_MS));
	assert_null(cs_pairs_find(p, &k));
	cs_pairs_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_value),
		cmocka_unit_test(test_due),
		cmocka_unit_test(test_no_number_is_too_large),
		cmocka_unit_test(test_due_by_wall_clock),
		cmocka_unit_test(test_adopted_only_expire),
		cmocka_unit_test(test_renewal),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_accepted),
		cmocka_unit_test(test_drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
