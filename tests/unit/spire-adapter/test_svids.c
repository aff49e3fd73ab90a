/* What Svids publishes: the states of an identity, the order of changes, tombstones, when the state is complete. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include "svids.h"

#define ID  70001
#define GEN 1000

static const uint8_t leaf[] = "leaf", issuer[] = "issuer";
static const struct cs_der chain[] = {{leaf, 4}, {issuer, 6}};

static int setup(void **state)
{
	*state = cs_svids_new("local-ca", GEN);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	cs_svids_free(*state);
	return 0;
}

static void expect(struct cs_svids *s, uint32_t identity)
{
	struct cs_error e;
	char id[64];
	snprintf(id, sizeof(id), "spiffe://example.org/identity/%u", identity);
	assert_int_equal(cs_svids_expect(s, identity, id, 6000, &e), 0);
}

static void put(struct cs_svids *s, uint32_t identity)
{
	struct cs_error e;
	struct cs_source_svid svid = {
		.identity = identity, .chain = chain, .nchain = 2, .not_before_unix_s = 100, .not_after_unix_s = 200};
	assert_int_equal(cs_svids_put(s, &svid, 7000, &e), 0);
}

static void none(struct cs_svids *s, uint32_t identity, bool withdrawn, enum cs_reason reason)
{
	struct cs_error e;
	cs_error_reason(&e, -EIO, reason, "because");
	cs_svids_none(s, identity, withdrawn, &e, 8000);
}

/* The next item after *change, which must be this identity's, with this generation. */
static const Countersign__V1__Svid *next_is(
	struct cs_svids *s, uint64_t *change, uint32_t identity, uint64_t generation)
{
	struct cs_svids_item item;
	assert_true(cs_svids_next(s, *change, &item));
	assert_true(item.change > *change);
	*change = item.change;
	assert_non_null(item.svid);
	assert_int_equal(item.svid->identity, identity);
	assert_int_equal(item.svid->generation, generation);
	return item.svid;
}

static void ends(struct cs_svids *s, uint64_t change)
{
	struct cs_svids_item item;
	assert_false(cs_svids_next(s, change, &item));
}

static void publishes_what_a_source_gives(void **state)
{
	struct cs_svids *s = *state;
	uint8_t sha[32];
	uint64_t at = 0;
	assert_null(cs_svids_get(s, ID));
	expect(s, ID);
	assert_int_equal(next_is(s, &at, ID, 0)->since_unix_ms, 6000);
	assert_string_equal(cs_svids_get(s, ID)->reason->name, "no-local-svid");
	assert_false(cs_svids_get(s, ID)->withdrawn); /* a restart must not look like a withdrawal */
	put(s, ID);
	const Countersign__V1__Svid *svid = next_is(s, &at, ID, GEN);
	assert_string_equal(svid->spiffe_id, "spiffe://example.org/identity/70001");
	assert_string_equal(svid->source, "local-ca");
	assert_int_equal(svid->n_chain, 2);
	assert_memory_equal(svid->chain[0].data, "leaf", 4);
	assert_memory_equal(svid->chain[1].data, "issuer", 6);
	assert_int_equal(svid->not_before_unix_s, 100);
	assert_int_equal(svid->not_after_unix_s, 200);
	assert_int_equal(svid->since_unix_ms, 7000);
	SHA256(leaf, 4, sha);
	assert_int_equal(svid->leaf_sha256.len, 32);
	assert_memory_equal(svid->leaf_sha256.data, sha, 32);
	assert_null(svid->reason);
	ends(s, at);
	assert_ptr_equal(cs_svids_get(s, ID), svid);
}

static void each_svid_has_a_generation_of_its_own(void **state)
{
	struct cs_svids *s = *state;
	uint64_t at = 0;
	expect(s, ID);
	expect(s, ID + 1);
	assert_int_equal(cs_svids_next_generation(s), GEN);
	put(s, ID);
	put(s, ID + 1);
	put(s, ID);
	next_is(s, &at, ID + 1, GEN + 1);
	next_is(s, &at, ID, GEN + 2); /* in the order of the last change, and only the last */
	ends(s, at);

	struct cs_svids *wrap = cs_svids_new("local-ca", UINT64_MAX);
	expect(wrap, ID);
	put(wrap, ID);
	put(wrap, ID);
	assert_int_equal(cs_svids_get(wrap, ID)->generation, 1); /* 0 says none */
	cs_svids_free(wrap);
	wrap = cs_svids_new("local-ca", 0);
	assert_int_equal(cs_svids_next_generation(wrap), 1);
	cs_svids_free(wrap);
}

static void having_none_is_said_with_its_reason(void **state)
{
	struct cs_svids *s = *state;
	uint64_t at = 0;
	expect(s, ID);
	put(s, ID);
	next_is(s, &at, ID, GEN);
	none(s, ID, false, CS_R_SVID_EXPIRED);
	const Countersign__V1__Svid *svid = next_is(s, &at, ID, 0);
	assert_string_equal(svid->reason->name, "svid-expired");
	assert_string_equal(svid->reason->detail, "because");
	assert_int_equal(svid->n_chain, 0);
	assert_int_equal(svid->leaf_sha256.len, 0);
	assert_int_equal(svid->not_after_unix_s, 0);
	assert_int_equal(svid->since_unix_ms, 8000);
	assert_false(svid->withdrawn);
	none(s, ID, true, CS_R_NONE); /* there always is a reason */
	svid = next_is(s, &at, ID, 0);
	assert_string_equal(svid->reason->name, "no-local-svid");
	assert_true(svid->withdrawn);
	none(s, ID, false, CS_R_NONE); /* who did not see that one, sees it here */
	assert_true(next_is(s, &at, ID, 0)->withdrawn);
	put(s, ID); /* and back */
	svid = next_is(s, &at, ID, GEN + 1);
	assert_null(svid->reason);
	assert_false(svid->withdrawn);
}

static void answers_for_nobody_are_dropped(void **state)
{
	struct cs_svids *s = *state;
	struct cs_error e;
	struct cs_source_svid svid = {.identity = ID, .chain = chain, .nchain = 1};
	assert_int_equal(cs_svids_put(s, &svid, 0, &e), -ENOENT);
	none(s, ID, true, CS_R_NONE);
	cs_svids_forget(s, ID, 0);
	ends(s, 0);
	expect(s, ID);
	svid.nchain = 0;
	assert_int_equal(cs_svids_put(s, &svid, 0, &e), -EINVAL);
	svid.nchain = CS_CHAIN_MAX + 1;
	assert_int_equal(cs_svids_put(s, &svid, 0, &e), -EINVAL);
	assert_int_equal(e.reason, CS_R_CHAIN_TOO_LARGE);
	assert_int_equal(cs_svids_next_generation(s), GEN);
	assert_int_equal(cs_svids_expect(s, ID, "spiffe://example.org/other", 0, &e), -EEXIST);
}

static void counts_what_is_ready(void **state)
{
	struct cs_svids *s = *state;
	assert_false(cs_svids_known(s));
	expect(s, ID);
	expect(s, ID + 1);
	expect(s, ID + 1);
	cs_svids_set_known(s);
	assert_true(cs_svids_known(s));
	put(s, ID);
	put(s, ID);
	assert_int_equal(cs_svids_ready(s), 1);
	assert_int_equal(cs_svids_count(s), 2);
	put(s, ID + 1);
	assert_int_equal(cs_svids_ready(s), 2);
	none(s, ID, false, CS_R_NONE);
	none(s, ID, false, CS_R_NONE);
	assert_int_equal(cs_svids_ready(s), 1);
	cs_svids_forget(s, ID + 1, 0);
	assert_int_equal(cs_svids_ready(s), 0);
	assert_int_equal(cs_svids_count(s), 1);
}

static void the_last_word_stays_until_everybody_was_told(void **state)
{
	struct cs_svids *s = *state;
	uint64_t at = 0;
	expect(s, ID);
	expect(s, ID + 1);
	put(s, ID);
	put(s, ID + 1);
	cs_svids_forget(s, ID, 9000);
	cs_svids_forget(s, ID, 9001);
	assert_null(cs_svids_get(s, ID));
	assert_int_equal(cs_svids_count(s), 1);
	next_is(s, &at, ID + 1, GEN + 1);
	cs_svids_told(s, at); /* somebody has not got that far */
	const Countersign__V1__Svid *svid = next_is(s, &at, ID, 0);
	assert_string_equal(svid->reason->name, "no-local-endpoint");
	assert_true(svid->withdrawn);
	assert_int_equal(svid->since_unix_ms, 9000);
	cs_svids_told(s, at);
	at = 0;
	next_is(s, &at, ID + 1, GEN + 1);
	ends(s, at);
}

static void an_identity_may_come_back(void **state)
{
	struct cs_svids *s = *state;
	struct cs_error e;
	uint64_t at = 0;
	expect(s, ID);
	put(s, ID);
	cs_svids_forget(s, ID, 0);
	assert_int_equal(cs_svids_expect(s, ID, "spiffe://example.org/renamed", 0, &e), 0);
	assert_false(next_is(s, &at, ID, 0)->withdrawn);
	cs_svids_told(s, UINT64_MAX);
	put(s, ID);
	assert_string_equal(next_is(s, &at, ID, GEN + 1)->spiffe_id, "spiffe://example.org/renamed");
	ends(s, at);
	assert_int_equal(cs_svids_ready(s), 1);
	assert_int_equal(cs_svids_count(s), 1);
}

static void knows_what_has_expired(void **state)
{
	struct cs_svids *s = *state;
	expect(s, ID);
	assert_int_equal(cs_svids_expired(s, 1000), 0);
	put(s, ID);
	assert_int_equal(cs_svids_expired(s, 199), 0);
	assert_int_equal(cs_svids_expired(s, 200), ID);
	none(s, ID, false, CS_R_SVID_EXPIRED);
	assert_int_equal(cs_svids_expired(s, 200), 0);
}

static void bundles_come_and_go(void **state)
{
	struct cs_svids *s = *state;
	struct cs_error e;
	struct cs_svids_item item;
	assert_int_equal(cs_svids_put_bundle(s, "example.org", chain, 2, &e), 0);
	assert_true(cs_svids_next(s, 0, &item));
	assert_null(item.svid);
	assert_string_equal(item.bundle->trust_domain, "example.org");
	assert_int_equal(item.bundle->generation, GEN);
	assert_int_equal(item.bundle->n_authorities, 2);
	assert_memory_equal(item.bundle->authorities[1].data, "issuer", 6);
	uint64_t at = item.change;
	assert_int_equal(cs_svids_put_bundle(s, "example.org", chain, 1, &e), 0);
	assert_true(cs_svids_next(s, at, &item));
	assert_int_equal(item.bundle->generation, GEN + 1);
	assert_int_equal(item.bundle->n_authorities, 1);
	assert_int_equal(cs_svids_put_bundle(s, "example.org", NULL, 0, &e), 0);
	assert_true(cs_svids_next(s, at, &item));
	assert_int_equal(item.bundle->generation, 0);
	assert_int_equal(item.bundle->n_authorities, 0);
	cs_svids_told(s, item.change);
	ends(s, 0);
	assert_int_equal(cs_svids_put_bundle(s, "example.org", chain, 1, &e), 0);
	assert_true(cs_svids_next(s, 0, &item));
	assert_int_equal(cs_svids_expired(s, INT64_MAX), 0);
}

static void bundles_are_bounded(void **state)
{
	struct cs_svids *s = *state;
	struct cs_error e;
	char domain[32];
	for (int i = 0; i < CS_SVIDS_BUNDLES_MAX; i++) {
		snprintf(domain, sizeof(domain), "d%d.example", i);
		assert_int_equal(cs_svids_put_bundle(s, domain, chain, 1, &e), 0);
	}
	assert_int_equal(cs_svids_put_bundle(s, "one.more", chain, 1, &e), -ENOSPC);
	assert_int_equal(cs_svids_put_bundle(s, "d7.example", chain, 2, &e), 0);
}

/* Whoever asks for the next item until there is none sees each item once, whatever changes meanwhile. */
static void a_slow_follower_sees_the_last_state_of_each(void **state)
{
	struct cs_svids *s = *state;
	uint64_t at = 0, seen[8] = {0};
	struct cs_svids_item item;
	for (uint32_t i = 0; i < 8; i++) {
		expect(s, ID + i);
		put(s, ID + i);
	}
	for (int i = 0; i < 3; i++) {
		assert_true(cs_svids_next(s, at, &item));
		at = item.change;
		seen[item.svid->identity - ID]++;
	}
	put(s, ID);     /* seen already: comes again */
	put(s, ID + 7); /* not yet: comes once, renewed */
	while (cs_svids_next(s, at, &item)) {
		at = item.change;
		seen[item.svid->identity - ID]++;
	}
	for (int i = 0; i < 8; i++)
		assert_int_equal(seen[i], i == 0 ? 2 : 1);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(publishes_what_a_source_gives),
		T(each_svid_has_a_generation_of_its_own),
		T(having_none_is_said_with_its_reason),
		T(answers_for_nobody_are_dropped),
		T(counts_what_is_ready),
		T(the_last_word_stays_until_everybody_was_told),
		T(an_identity_may_come_back),
		T(knows_what_has_expired),
		T(bundles_come_and_go),
		T(bundles_are_bounded),
		T(a_slow_follower_sees_the_last_state_of_each),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
