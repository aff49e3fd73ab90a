#include "grpc_roles.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	uint32_t role;
	const char *name;
} names[] = {
	{CS_ROLE_VIEWER, "viewer"},
	{CS_ROLE_OPERATOR, "operator"},
	{CS_ROLE_AGENT, "agent"},
	{CS_ROLE_ADAPTER, "adapter"},
	{CS_ROLE_AUTHD, "authd"},
	{CS_ROLE_PEER, "peer"},
};
#define NNAMES (sizeof(names) / sizeof(names[0]))

const char *cs_role_name(uint32_t role)
{
	for (size_t i = 0; i < NNAMES; i++)
		if (names[i].role == role)
			return names[i].name;
	return "unknown-role";
}

void cs_roles_text(uint32_t set, char out[96])
{
	size_t used = 0;
	out[0] = '\0';
	for (size_t i = 0; i < NNAMES && used < 96; i++)
		if (set & names[i].role)
			used += (size_t)snprintf(out + used, 96 - used, "%s%s", used ? ", " : "", names[i].name);
}

static int add(struct cs_roles *roles, uint32_t role, bool group, uint32_t id, struct cs_error *e)
{
	role &= CS_ROLE_LOCAL;
	if (role)
		role |= CS_ROLE_VIEWER;
	for (size_t i = 0; i < roles->n; i++)
		if (roles->members[i].group == group && roles->members[i].id == id) {
			roles->members[i].roles |= role;
			return 0;
		}
	if (roles->n == CS_ROLES_MEMBERS_MAX)
		return cs_error_set(
			e, -ENOSPC, "more than %d users and groups have roles; use a group", CS_ROLES_MEMBERS_MAX);
	roles->members[roles->n++] = (struct cs_role_member){.roles = role, .group = group, .id = id};
	return 0;
}

void cs_roles_init(struct cs_roles *roles)
{
	*roles = (struct cs_roles){0};
	if (cs_roles_allow(roles, CS_ROLE_LOCAL, "uid:0", NULL) < 0)
		abort(); /* an empty table has room */
}

/* Strictly decimal, below (uid_t)-1, which means "no user" to the kernel. */
static int parse_id(const char *text, uint32_t *ret_id)
{
	size_t n = strlen(text);
	if (n == 0 || n > 10 || strspn(text, "0123456789") != n)
		return -EINVAL;
	unsigned long long id = strtoull(text, NULL, 10);
	if (id >= UINT32_MAX)
		return -EINVAL;
	*ret_id = (uint32_t)id;
	return 0;
}

int cs_roles_allow(struct cs_roles *roles, uint32_t role, const char *who, struct cs_error *e)
{
	uint32_t id = 0;
	const char *name = strchr(who, ':');
	if (name && (strncmp(who, "uid:", 4) == 0 || strncmp(who, "gid:", 4) == 0) && parse_id(name + 1, &id) == 0)
		return add(roles, role, who[0] == 'g', id, e);
	if (strncmp(who, "user:", 5) == 0) {
		const struct passwd *pw = getpwnam(name + 1);
		if (!pw)
			return cs_error_set(
				e, -ENOENT, "there is no user '%s' to give the role %s", name + 1, cs_role_name(role));
		return add(roles, role, false, pw->pw_uid, e);
	}
	if (strncmp(who, "group:", 6) == 0) {
		const struct group *gr = getgrnam(name + 1);
		if (!gr)
			return cs_error_set(
				e, -ENOENT, "there is no group '%s' to give the role %s", name + 1, cs_role_name(role));
		return add(roles, role, true, gr->gr_gid, e);
	}
	return cs_error_set(
		e, -EINVAL, "'%s' names no user or group: write user:NAME, uid:NUMBER, group:NAME or gid:NUMBER", who);
}

uint32_t cs_roles_of(const struct cs_roles *roles, uid_t uid, gid_t gid, const gid_t *groups, size_t ngroups)
{
	uint32_t set = 0;
	for (size_t i = 0; i < roles->n; i++) {
		const struct cs_role_member *m = &roles->members[i];
		bool match = m->group ? m->id == gid : m->id == uid;
		for (size_t g = 0; m->group && !match && g < ngroups; g++)
			match = m->id == groups[g];
		if (match)
			set |= m->roles;
	}
	return set;
}
