/* The client of identityd's Directory: follows it for ever and hands the records on. Always from the full state: it is
 * local, and so a lost connection costs little and nothing can be missed. */
#ifndef CS_DIRECTORY_H
#define CS_DIRECTORY_H

#include <countersign/v1/directory.pb-c.h>
#include "loop.h"
#include "status.h"

#define CS_DIRECTORY_RETRY_MS  1000  /* after a call that ended */
#define CS_DIRECTORY_BROKEN_MS 10000 /* after records that could not be used */
#define CS_DIRECTORY_SILENT_MS 15000 /* three heartbeats: connect anew */

struct cs_directory;

struct cs_directory_events {
	const Countersign__V1__Kind *kinds; /* to follow; static */
	size_t nkinds;
	/* A new call: a full state begins. */
	void (*begin)(void *data);
	/* An error ends the call; it begins anew after CS_DIRECTORY_BROKEN_MS. */
	int (*batch)(void *data, const Countersign__V1__DirectoryBatch *batch, struct cs_error *e);
	void *data;
};

/* socket: path of directory.sock; need not exist yet. events is copied; check ("directory") is borrowed until it is
 * freed. */
CS_MUST_USE int cs_directory_new(struct cs_loop *loop, const char *socket, const struct cs_directory_events *events,
	struct cs_check *check, struct cs_directory **ret, struct cs_error *e);
/* For how long the cluster role has been silent, as far as is known here; INT64_MAX: identityd is not heard now. */
int64_t cs_directory_silent_ms(const struct cs_directory *directory);
/* The loop ends later. NULL is fine. */
void cs_directory_close(struct cs_directory *directory);
/* After the loop has ended. NULL is fine. */
void cs_directory_free(struct cs_directory *directory);

#endif
