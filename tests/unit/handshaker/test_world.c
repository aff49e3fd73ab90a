/* What the monitor said about local identities: each message replaces the earlier one, also when no more have room. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include "world.h"

static int tell(struct cs_hs_world *world, uint32_t identity, const char *path, struct cs_error *e)
{
	struct cs_hs_svid m = {.h = {.type = CS_HS_SVID}, .identity = identity};
	if (path)
		snprintf(m.spiffe_id, sizeof(m.spiffe_id), "spiffe://example.org/%s", path);
	return cs_hs_world_svid(world, &m, NULL, 0, e);
}

static const char *known(const struct cs_hs_world *world, uint32_t identity)
{
	struct cs_hs_svid_state *s;
	HASH_FIND(hh, world->svids, &identity, sizeof(identity), s);
	return s ? cs_spiffe_id_path(&s->id) : NULL;
}

static void test_full(void **state)
{
	(void)state;
	static struct cs_hs_world world;
	struct cs_hs_svid_state *svid;
	struct cs_error e;
	assert_int_equal(cs_hs_world_init(&world, &e), 0);
	for (uint32_t i = 1; i <= CS_HS_SVIDS_MAX; i++)
		assert_int_equal(tell(&world, i, "a", &e), 0);
	assert_int_equal(tell(&world, CS_HS_SVIDS_MAX + 1, "a", &e), -ENOSPC);
	assert_int_equal(e.reason, CS_R_TOO_MANY);
	assert_int_equal(cs_hs_world_use(&world, CS_HS_SVIDS_MAX + 1, &svid, &e), -ENOENT);
	assert_int_equal(e.reason, CS_R_NO_LOCAL_ENDPOINT);

	/* Those that are there go on being replaced and taken away. */
	assert_int_equal(tell(&world, 5, "b", &e), 0);
	assert_string_equal(known(&world, 5), "/b");
	assert_int_equal(cs_hs_world_use(&world, 5, &svid, &e), -ENOENT);
	assert_int_equal(e.reason, CS_R_NO_LOCAL_SVID);
	assert_int_equal(tell(&world, 6, NULL, &e), 0);
	assert_null(known(&world, 6));
	assert_int_equal(tell(&world, CS_HS_SVIDS_MAX + 1, "a", &e), 0);
	cs_hs_world_fini(&world);
}

/* A chain that does not parse: the identity lives here and has no SVID. */
static void test_malformed(void **state)
{
	(void)state;
	static struct cs_hs_world world;
	static const uint8_t list[] = {4, 0, 0, 0, 1, 2, 3, 4};
	struct cs_hs_svid m = {.h = {.type = CS_HS_SVID},
		.identity = 300,
		.generation = 1,
		.spiffe_id = "spiffe://example.org/identity/300"};
	struct cs_hs_svid_state *svid;
	struct cs_error e;
	assert_int_equal(cs_hs_world_init(&world, &e), 0);
	assert_true(cs_hs_world_svid(&world, &m, list, sizeof(list), &e) < 0);
	assert_int_equal(e.reason, CS_R_CERTIFICATE_MALFORMED);
	assert_int_equal(cs_hs_world_use(&world, 300, &svid, &e), -ENOENT);
	assert_int_equal(e.reason, CS_R_NO_LOCAL_SVID);
	cs_hs_world_fini(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_full), cmocka_unit_test(test_malformed)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
