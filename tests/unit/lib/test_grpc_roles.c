/* Roles of users and groups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "grpc_roles.h"

static void defaults(void **state)
{
	(void)state;
	struct cs_roles roles;
	const gid_t groups[] = {0, 7};
	cs_roles_init(&roles);
	assert_int_equal(cs_roles_of(&roles, 0, 0, NULL, 0), CS_ROLE_LOCAL);
	assert_int_equal(cs_roles_of(&roles, 1000, 0, groups, 2), 0); /* the group root is not the user root */
}

static void users_and_groups(void **state)
{
	(void)state;
	struct cs_roles roles = {0};
	struct cs_error e;
	const gid_t groups[] = {5, 50};
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_AGENT, "uid:1000", &e), 0);
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_OPERATOR, "gid:50", &e), 0);
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_ADAPTER, "user:root", &e), 0);
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_AUTHD, "group:root", &e), 0);
	assert_int_equal(cs_roles_of(&roles, 1000, 1000, NULL, 0), CS_ROLE_AGENT | CS_ROLE_VIEWER);
	assert_int_equal(cs_roles_of(&roles, 1000, 1000, groups, 2), CS_ROLE_AGENT | CS_ROLE_OPERATOR | CS_ROLE_VIEWER);
	assert_int_equal(cs_roles_of(&roles, 1001, 50, NULL, 0), CS_ROLE_OPERATOR | CS_ROLE_VIEWER);
	assert_int_equal(cs_roles_of(&roles, 50, 1, NULL, 0), 0);
	assert_int_equal(cs_roles_of(&roles, 0, 0, NULL, 0), CS_ROLE_ADAPTER | CS_ROLE_AUTHD | CS_ROLE_VIEWER);
	/* No local user becomes a peer of mTLS. */
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_PEER, "uid:1", &e), 0);
	assert_int_equal(cs_roles_of(&roles, 1, 1, NULL, 0), 0);
}

static void refused(void **state)
{
	(void)state;
	struct cs_roles roles = {0};
	struct cs_error e;
	const char *bad[] = {"", "root", "uid:", "uid:-1", "uid:4294967295", "uid:99999999999", "uid:1x", "gid: 1",
		"users:root", ":0"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cs_roles_allow(&roles, CS_ROLE_VIEWER, bad[i], &e), -EINVAL);
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_VIEWER, "user:no-such-user-here", &e), -ENOENT);
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_VIEWER, "group:no-such-group-here", &e), -ENOENT);
	assert_int_equal(roles.n, 0);
	for (int i = 0; i < CS_ROLES_MEMBERS_MAX; i++) {
		char who[32];
		snprintf(who, sizeof(who), "uid:%d", i);
		assert_int_equal(cs_roles_allow(&roles, CS_ROLE_VIEWER, who, &e), 0);
	}
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_VIEWER, "uid:100", &e), -ENOSPC);
	assert_int_equal(cs_roles_allow(&roles, CS_ROLE_AGENT, "uid:3", &e), 0); /* the same member once more */
}

static void names(void **state)
{
	(void)state;
	char text[96];
	assert_string_equal(cs_role_name(CS_ROLE_AUTHD), "authd");
	cs_roles_text(CS_ROLE_LOCAL | CS_ROLE_PEER, text);
	assert_string_equal(text, "viewer, operator, agent, adapter, authd, peer");
	cs_roles_text(0, text);
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(users_and_groups),
		cmocka_unit_test(refused),
		cmocka_unit_test(names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
