/* Where things are. Sockets and state of one node derive from one setting, --instance DIR, so that several nodes
 * live on one machine. DIR/<daemon>/ is that daemon's own directory:
 *
 *	DIR/identityd/{status,directory,endpoints}.sock, DIR/identityd/state/
 *	DIR/spire-adapter/{status,svids,sign}.sock
 *	DIR/authd/{status,auth}.sock
 *	DIR/registrar/{status,entries}.sock
 *	DIR/<daemon>/lock
 *
 * The last component of DIR names the instance: <bpffs>/countersign/<name>/v<abi>/. */
#ifndef CS_INSTANCE_H
#define CS_INSTANCE_H

#include <stddef.h>
#include "error.h"

#define CS_INSTANCE_DEFAULT "/var/lib/countersign/default"
#define CS_PATH             256 /* room for a path; sun_path bounds the sockets at 107 characters */

/* DIR/<daemon>/<file> into out; an error if it is longer than a socket address can be. */
CS_MUST_USE int cs_instance_path(
	const char *instance, const char *daemon, const char *file, char out[CS_PATH], struct cs_error *e);
/* The instance's name: letters, digits, '.', '_' and '-' only, for it becomes part of a bpffs path. */
CS_MUST_USE int cs_instance_name(const char *instance, char out[64], struct cs_error *e);
/* DIR must be absolute. Makes DIR and DIR/<daemon> (0755; a daemon keeps secrets in directories of its own with 0700). Refuses a directory
 * that belongs to somebody else than root or this user, and one that others may write to. */
CS_MUST_USE int cs_instance_make(const char *instance, const char *daemon, struct cs_error *e);
/* One process of a daemon per instance, even if two start at the same instant: a lock on DIR/<daemon>/lock, which is made
 * if it is not there. Returns its descriptor: to close it, or to end, gives it back. -EBUSY: another process has it;
 * -ENOENT: there is no such instance. */
CS_MUST_USE int cs_instance_lock(const char *instance, const char *daemon, struct cs_error *e);

#endif
