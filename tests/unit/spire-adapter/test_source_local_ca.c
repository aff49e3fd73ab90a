/* The source "local-ca": every start is answered, SVIDs are renewed at half of their life, and the clock may jump. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "log.h"
#include "source_local_ca.h"
#include "verify.h"

#define ID      70001
#define SPIFFE  "spiffe://example.org/identity/70001"
#define TTL_S   3600
#define START_S 1700000000

/* The wall clock is the test's, so that an hour passes at once; timers are real. */
struct fixture {
	struct cs_loop loop;
	struct cs_clock clock;
	int64_t unix_ms;
	char base[48], dir[64];
	struct cs_source *source;
	unsigned svids, nones, bundles;
	uint32_t last;
	int64_t not_after_unix_s;
	struct cs_error why;
	struct cs_bundles *trusted;
	struct cs_verifier *verifier;
	bool stop_in_event;
};

static int64_t fake_unix_ms(void *data)
{
	return ((struct fixture *)data)->unix_ms;
}

static int64_t fake_mono_ms(void *data)
{
	(void)data;
	return cs_clock_system.mono_ms(NULL);
}

/* Whatever it issues, our own verification must accept. */
static void on_svid(void *data, const struct cs_source_svid *svid)
{
	struct fixture *f = data;
	struct cs_error e;
	struct cs_peer *peer;
	struct cs_spiffe_id id;
	char text[64];
	snprintf(text, sizeof(text), "spiffe://example.org/identity/%u", svid->identity);
	assert_int_equal(cs_spiffe_id_parse(&id, text, strlen(text), &e), 0);
	struct cs_verify what = {.chain = svid->chain,
		.n = svid->nchain,
		.bundles = f->trusted,
		.now_unix_s = f->unix_ms / 1000,
		.expect = &id};
	if (cs_verify(f->verifier, &what, &peer, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(cs_peer_not_after_unix_s(peer), svid->not_after_unix_s);
	assert_int_equal(EVP_PKEY_eq(cs_peer_key(peer), svid->key), 1);
	cs_peer_unref(peer);
	EVP_PKEY_free(svid->key);
	f->svids++;
	f->last = svid->identity;
	f->not_after_unix_s = svid->not_after_unix_s;
	if (f->stop_in_event)
		f->source->stop(f->source, svid->identity);
	uv_stop(&f->loop.uv);
}

static void on_none(void *data, uint32_t identity, bool withdrawn, const struct cs_error *why)
{
	struct fixture *f = data;
	assert_false(withdrawn); /* the built-in CA takes nothing away */
	f->nones++;
	f->last = identity;
	f->why = *why;
	uv_stop(&f->loop.uv);
}

static void on_bundle(void *data, const char *trust_domain, const struct cs_der *authorities, size_t n)
{
	struct fixture *f = data;
	struct cs_error e;
	struct cs_bundle *bundle;
	assert_int_equal(cs_bundle_new(NULL, trust_domain, 1, authorities, n, &bundle, &e), 0);
	assert_int_equal(cs_bundle_count(bundle), 1);
	assert_int_equal(cs_bundles_put(f->trusted, bundle, &e), 0);
	cs_bundle_unref(bundle);
	f->bundles++;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct cs_source_events events = {on_svid, on_none, on_bundle, f};
	struct cs_error e;
	struct cs_ca *ca;
	strcpy(f->base, "/tmp/cs-test-local-ca-XXXXXX");
	assert_non_null(mkdtemp(f->base));
	snprintf(f->dir, sizeof(f->dir), "%s/ca", f->base);
	f->unix_ms = START_S * 1000LL;
	f->clock = (struct cs_clock){fake_mono_ms, cs_clock_system.mono_ns, fake_unix_ms, f};
	assert_int_equal(cs_loop_init(&f->loop, &f->clock, &e), 0);
	assert_int_equal(cs_ca_open(f->dir, "example.org", START_S - 86400, &ca, NULL, &e), 0);
	assert_int_equal(cs_source_local_ca_new_take(&f->loop, ca, TTL_S, &events, &f->source, &e), 0);
	f->trusted = cs_bundles_new();
	assert_int_equal(cs_verifier_new(NULL, 0, &f->verifier, &e), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char path[96];
	unsigned said = f->svids + f->nones;
	f->source->close(f->source);
	cs_loop_run(&f->loop);
	cs_loop_fini(&f->loop);
	assert_int_equal(f->svids + f->nones, said); /* nothing after close */
	f->source->free(f->source);
	cs_verifier_free(f->verifier);
	cs_bundles_free(f->trusted);
	const char *const files[] = {"ca.pem", "lock"};
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", f->dir, files[i]);
		unlink(path);
	}
	rmdir(f->dir);
	rmdir(f->base);
	free(f);
	return 0;
}

static void start(struct fixture *f, uint32_t identity, const char *spiffe_id)
{
	struct cs_error e;
	unsigned said = f->svids + f->nones;
	assert_int_equal(f->source->start(f->source, identity, spiffe_id, &e), 0);
	assert_int_equal(f->svids + f->nones, said); /* never from within */
}

static void next_event(struct fixture *f)
{
	uv_run(&f->loop.uv, UV_RUN_DEFAULT);
}

static void let_time_pass(struct fixture *f, int64_t seconds)
{
	f->unix_ms += seconds * 1000;
	start(f, ID + 1000, "spiffe://example.org/identity/71001"); /* wakes the source up */
	f->source->stop(f->source, ID + 1000);
}

static void a_start_is_answered(void **state)
{
	struct fixture *f = *state;
	start(f, ID, SPIFFE);
	next_event(f);
	assert_int_equal(f->svids, 1);
	assert_int_equal(f->last, ID);
	assert_int_equal(f->bundles, 1);
	assert_int_equal(f->not_after_unix_s, START_S + TTL_S);
	assert_string_equal(f->source->name, "local-ca");
}

static void renews_at_half_of_its_life(void **state)
{
	struct fixture *f = *state;
	start(f, ID, SPIFFE);
	next_event(f);
	let_time_pass(f, TTL_S / 2 - 1);
	start(f, ID + 1, "spiffe://example.org/identity/70002"); /* whose turn would be later */
	next_event(f);
	assert_int_equal(f->last, ID + 1);
	f->source->stop(f->source, ID + 1);
	let_time_pass(f, 1);
	next_event(f);
	assert_int_equal(f->last, ID);
	assert_int_equal(f->svids, 3);
	assert_int_equal(f->not_after_unix_s, START_S + TTL_S / 2 + TTL_S);
}

static void renews_if_the_clock_goes_back(void **state)
{
	struct fixture *f = *state;
	start(f, ID, SPIFFE);
	next_event(f);
	let_time_pass(f, 600);
	start(f, ID + 1, "spiffe://example.org/identity/70002");
	next_event(f);
	f->source->stop(f->source, ID + 1);
	assert_int_equal(f->last, ID + 1);
	let_time_pass(f, -600 - CS_CA_BACKDATE_S + 1); /* still valid */
	start(f, ID + 2, "spiffe://example.org/identity/70003");
	next_event(f);
	assert_int_equal(f->last, ID + 2);
	f->source->stop(f->source, ID + 2);
	let_time_pass(f, -2);
	next_event(f);
	assert_int_equal(f->last, ID);
	assert_int_equal(f->not_after_unix_s, START_S - CS_CA_BACKDATE_S - 1 + TTL_S);
}

static void what_cannot_be_issued_is_said(void **state)
{
	struct fixture *f = *state;
	start(f, ID, "spiffe://other.org/identity/70001");
	next_event(f);
	assert_int_equal(f->svids, 0);
	assert_int_equal(f->nones, 1);
	assert_int_equal(f->last, ID);
	assert_int_equal(f->why.reason, CS_R_TRUST_DOMAIN_MISMATCH);
	start(f, ID + 1, "spiffe://example.org/identity/70002"); /* and others are not held up */
	next_event(f);
	assert_int_equal(f->svids, 1);
}

static void nothing_after_stop(void **state)
{
	struct fixture *f = *state;
	start(f, ID, SPIFFE);
	uv_run(&f->loop.uv, UV_RUN_NOWAIT); /* at work now, or done */
	unsigned before = f->svids;
	f->source->stop(f->source, ID);
	f->source->stop(f->source, ID);
	start(f, ID + 1, "spiffe://example.org/identity/70002");
	next_event(f);
	assert_int_equal(f->last, ID + 1);
	assert_int_equal(f->svids, before + 1);
}

static void may_be_stopped_by_its_own_event(void **state)
{
	struct fixture *f = *state;
	f->stop_in_event = true;
	start(f, ID, SPIFFE);
	next_event(f);
	assert_int_equal(f->svids, 1);
}

static void many_are_answered_once_each(void **state)
{
	struct fixture *f = *state;
	char spiffe_id[64];
	enum { N = 100 };
	for (uint32_t i = 0; i < N; i++) {
		snprintf(spiffe_id, sizeof(spiffe_id), "spiffe://example.org/identity/%u", ID + i);
		start(f, ID + i, spiffe_id);
	}
	for (unsigned i = 1; i <= N; i++) {
		next_event(f);
		assert_int_equal(f->svids, i);
	}
	assert_int_equal(f->bundles, 1);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_start_is_answered),
		T(renews_at_half_of_its_life),
		T(renews_if_the_clock_goes_back),
		T(what_cannot_be_issued_is_said),
		T(nothing_after_stop),
		T(may_be_stopped_by_its_own_event),
		T(many_are_answered_once_each),
	};
	cs_log_init("test", CS_LOG_ERROR, CS_LOG_PLAIN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
