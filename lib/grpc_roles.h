/* Who may call what on a local socket. A connection gets a set of roles from its kernel-attested credentials
 * (SO_PEERCRED: uid and gid at the time of connect; SO_PEERGROUPS: supplementary groups) before a byte of it is read.
 * Every method of a service names the roles that may call it (struct cs_grpc_method). */
#ifndef CS_GRPC_ROLES_H
#define CS_GRPC_ROLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "error.h"

enum cs_role { /* a set is the OR of them */
	CS_ROLE_VIEWER = 1 << 0,
	CS_ROLE_OPERATOR = 1 << 1,
	CS_ROLE_AGENT = 1 << 2,   /* a node agent: registers endpoints */
	CS_ROLE_ADAPTER = 1 << 3, /* spire-adapter */
	CS_ROLE_AUTHD = 1 << 4,
	CS_ROLE_LOCAL = (1 << 5) - 1, /* all of the above */
	CS_ROLE_PEER = 1 << 5,        /* came in by mTLS; never given to a local user */
};

#define CS_ROLES_MEMBERS_MAX 64 /* uids and gids of one table, all roles together */

struct cs_roles {
	struct cs_role_member {
		uint32_t roles;
		bool group;
		uint32_t id;
	} members[CS_ROLES_MEMBERS_MAX];
	size_t n;
};

/* Root has every local role, nobody else has one. */
void cs_roles_init(struct cs_roles *roles);
/* who: "user:NAME", "uid:NUMBER", "group:NAME" or "gid:NUMBER". Whoever has any role is a viewer too. -ENOENT: no such
 * user or group; -EINVAL: malformed; -ENOSPC: CS_ROLES_MEMBERS_MAX. Blocks on the user database: at start only. */
CS_MUST_USE int cs_roles_allow(struct cs_roles *roles, uint32_t role, const char *who, struct cs_error *e);
/* The set of a user; 0: none. */
uint32_t cs_roles_of(const struct cs_roles *roles, uid_t uid, gid_t gid, const gid_t *groups, size_t ngroups);
/* "viewer", ...; role is one bit. */
const char *cs_role_name(uint32_t role);
/* "viewer, operator" into out. */
void cs_roles_text(uint32_t set, char out[96]);

#endif
