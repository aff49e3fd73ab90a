#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "admission.h"

static void test_in_flight_per_node(void **state)
{
	(void)state;
	struct cs_admission *ad = cs_admission_new(1000);
	for (int i = 0; i < CS_ACCEPTS_PER_NODE; i++)
		assert_int_equal(cs_admission_ask(ad, 1, 0), CS_R_NONE);
	assert_int_equal(cs_admission_ask(ad, 1, 0), CS_R_TOO_MANY);
	assert_int_equal(cs_admission_ask(ad, 2, 0), CS_R_NONE); /* somebody else's are not spent */
	cs_admission_done(ad, 1);
	assert_int_equal(cs_admission_ask(ad, 1, 0), CS_R_NONE);
	cs_admission_done(ad, 3); /* never asked: nothing to give back */
	assert_int_equal(cs_admission_in_flight(ad), CS_ACCEPTS_PER_NODE + 1);
	cs_admission_free(ad);
}

static void test_in_flight_total(void **state)
{
	(void)state;
	struct cs_admission *ad = cs_admission_new(3);
	for (uint16_t node = 1; node <= 3; node++)
		assert_int_equal(cs_admission_ask(ad, node, 0), CS_R_NONE);
	assert_int_equal(cs_admission_ask(ad, 4, 0), CS_R_TOO_MANY);
	cs_admission_done(ad, 2);
	assert_int_equal(cs_admission_ask(ad, 4, 0), CS_R_NONE);
	cs_admission_free(ad);
}

static void test_rate(void **state)
{
	(void)state;
	struct cs_admission *ad = cs_admission_new(1000);
	int in = 0;
	for (int i = 0; i < 2 * CS_ACCEPT_RATE_PER_S; i++) {
		if (cs_admission_ask(ad, 1, 5000) == CS_R_NONE) {
			in++;
			cs_admission_done(ad, 1);
		}
	}
	assert_int_equal(in, CS_ACCEPT_RATE_PER_S);
	assert_int_equal(cs_admission_ask(ad, 1, 5001), CS_R_NONE); /* one per ms */
	assert_int_equal(cs_admission_ask(ad, 1, 5001), CS_R_TOO_MANY);
	assert_int_equal(cs_admission_ask(ad, 1, 4000), CS_R_TOO_MANY); /* a clock that goes back gives nothing */
	cs_admission_free(ad);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_in_flight_per_node),
		cmocka_unit_test(test_in_flight_total),
		cmocka_unit_test(test_rate),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
