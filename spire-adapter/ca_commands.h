/* What the program does with the built-in CA besides being a daemon. Both print what they did and where, for people. */
#ifndef CS_CA_COMMANDS_H
#define CS_CA_COMMANDS_H

#include "error.h"

/* Makes the CA, or says what is there already. */
CS_MUST_USE int cs_command_ca_init(const char *ca_dir, const char *trust_domain, struct cs_error *e);
/* SVID, key and bundle of spiffe://<trust domain><path> into out: what identityd needs for its mTLS. */
CS_MUST_USE int cs_command_issue(
	const char *ca_dir, const char *trust_domain, const char *path, const char *out, struct cs_error *e);

#endif
