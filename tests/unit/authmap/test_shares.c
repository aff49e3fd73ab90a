#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "shares.h"

static void test_each_identity_has_its_own(void **state)
{
	(void)state;
	struct cs_shares *shares = NULL;
	assert_int_equal(cs_shares_of(shares, 256), 0);
	for (int i = 0; i < 3; i++)
		cs_shares_take(&shares, 256);
	cs_shares_take(&shares, 257);
	assert_int_equal(cs_shares_of(shares, 256), 3);
	assert_int_equal(cs_shares_of(shares, 257), 1);
	cs_shares_give(&shares, 256);
	assert_int_equal(cs_shares_of(shares, 256), 2);
	cs_shares_give(&shares, 258); /* never took one */
	for (int i = 0; i < 2; i++)
		cs_shares_give(&shares, 256);
	cs_shares_give(&shares, 257);
	assert_null(shares); /* no row is left of those who have none */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_identity_has_its_own),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
