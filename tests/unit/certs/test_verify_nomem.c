/* OpenSSL's allocations fail in turn: a refusal, no leak, and never a yes to what is bad. (A process of its own:
 * OpenSSL takes an allocator only before it has made its first allocation.) */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/crypto.h>
#include <cmocka.h>
#include "certs_files.h"
#include "verify.h"

static long until_failure = -1; /* -1: none fails */

static bool fails(void)
{
	return until_failure >= 0 && until_failure-- == 0;
}

static void *my_malloc(size_t size, const char *file, int line)
{
	(void)file, (void)line;
	return fails() ? NULL : malloc(size);
}

static void *my_realloc(void *old, size_t size, const char *file, int line)
{
	(void)file, (void)line;
	return fails() ? NULL : realloc(old, size);
}

static void my_free(void *p, const char *file, int line)
{
	(void)file, (void)line;
	free(p);
}

static struct cs_bundle *root(const char *name, struct cs_error *e)
{
	struct cs_bundle *bundle = NULL;
	struct cs_der der = certs_file(name);
	if (cs_bundle_new(NULL, "test.example", 1, &der, 1, &bundle, e) < 0)
		return NULL;
	return bundle;
}

/* True if nothing failed on the way, because there was no allocation left to fail. */
static bool attempt(const struct cs_bundles *bundles, const struct cs_der *chain, size_t n, long nth, bool good)
{
	struct cs_verifier *v;
	struct cs_peer *peer;
	struct cs_error e = {0};
	assert_int_equal(cs_verifier_new(NULL, 1, &v, &e), 0);
	struct cs_verify what = {.chain = chain, .n = n, .bundles = bundles, .now_unix_s = NOW};
	until_failure = nth;
	int r = cs_verify(v, &what, &peer, &e);
	bool spent = until_failure < 0;
	until_failure = -1;
	if (r == 0) {
		assert_true(good);
		assert_string_equal(cs_peer_id(peer)->text, "spiffe://test.example/web");
		assert_non_null(cs_peer_key(peer));
	} else {
		assert_null(peer);
		assert_true(e.text[0] != '\0');
		assert_true(spent || !good);
	}
	cs_peer_unref(peer);
	cs_verifier_free(v);
	return !spent;
}

static void every_nth(void **state)
{
	(void)state;
	struct cs_bundles *bundles = cs_bundles_new();
	struct cs_error e;
	struct cs_bundle *bundle = root("root-p256", &e);
	assert_int_equal(cs_bundles_put(bundles, bundle, &e), 0);
	cs_bundle_unref(bundle);
	struct cs_der good[] = {certs_file("below-i1"), certs_file("i1")}, bad[] = {certs_file("bad-signature")};
	struct cs_der other[] = {certs_file("other-signs-test")};
	attempt(bundles, good, 2, 1000000, true); /* what OpenSSL makes once and keeps */
	/* Each of the first hundred, then ever fewer: there are thousands, and much alike. */
	long n = 0, tries = 0;
	for (; !attempt(bundles, good, 2, n, true); n += 1 + n / 100)
		tries++;
	assert_in_range(tries, 100, 10000);
	for (n = 0; !attempt(bundles, bad, 1, n, false); n += 1 + n / 100)
		;
	for (n = 0; !attempt(bundles, other, 1, n, false); n += 1 + n / 100)
		;
	cs_bundles_free(bundles);
}

/* A bundle either has the root, or left it out, or is none. */
static void bundles_too(void **state)
{
	(void)state;
	struct cs_error e;
	for (long n = 0;; n++) {
		until_failure = n;
		struct cs_bundle *bundle = root("root-p256", &e);
		bool spent = until_failure < 0;
		until_failure = -1;
		if (bundle)
			assert_int_equal(cs_bundle_count(bundle) + cs_bundle_refused(bundle, NULL), 1);
		if (!spent)
			assert_int_equal(cs_bundle_count(bundle), 1);
		cs_bundle_unref(bundle);
		if (!spent)
			break;
	}
}

int main(void)
{
	if (!CRYPTO_set_mem_functions(my_malloc, my_realloc, my_free))
		return 1;
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_nth), cmocka_unit_test(bundles_too)};
	return cmocka_run_group_tests(tests, NULL, certs_files_free);
}
