/* What is done with a store while no identityd uses it: modes of countersign-identityd. */
#ifndef CS_STORE_COMMANDS_H
#define CS_STORE_COMMANDS_H

#include "identityd.h"

/* A store is "sqlite" (the instance's own file), "etcd" (what etcd.* of the configuration says), or the path of a SQLite
 * file, with a '/' in it. Both print what they did, and on a terminal how far they are. Exit codes: daemon.h. */
int cs_store_command_copy(struct cs_daemon *d, const char *from, const char *to);
int cs_store_command_new_epoch(struct cs_daemon *d, const char *store);

#endif
