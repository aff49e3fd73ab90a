/* The client of identityd's Directory: follows it for ever and feeds the records to struct cs_local_identities. Always
 * from the full state: it is local, and so a lost connection costs little and nothing can be missed. */
#ifndef CS_DIRECTORY_H
#define CS_DIRECTORY_H

#include "local_identities.h"
#include "loop.h"
#include "status.h"

#define CS_DIRECTORY_RETRY_MS  1000  /* after a call that ended */
#define CS_DIRECTORY_BROKEN_MS 10000 /* after records that could not be used */
#define CS_DIRECTORY_SILENT_MS 15000 /* three heartbeats: connect anew */

struct cs_directory;

/* socket: path of directory.sock; need not exist yet. locals and check ("directory") are borrowed until it is freed. */
CS_MUST_USE int cs_directory_new(struct cs_loop *loop, const char *socket, struct cs_local_identities *locals,
	struct cs_check *check, struct cs_directory **ret, struct cs_error *e);
/* The loop ends later. NULL is fine. */
void cs_directory_close(struct cs_directory *directory);
/* After the loop has ended. NULL is fine. */
void cs_directory_free(struct cs_directory *directory);

#endif
