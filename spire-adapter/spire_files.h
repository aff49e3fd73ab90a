/* Own SVIDs handed to a daemon of this node as files, as `--issue-node` writes them: svid.pem, svid.key, bundle.pem in a
 * directory that nobody else can enter. Written in a worker thread, each by rename. Who reads them may meet a key that is
 * one newer than the chain, and looks again. */
#ifndef CS_SPIRE_FILES_H
#define CS_SPIRE_FILES_H

#include "loop.h"
#include "spire_workload.h"

struct cs_spire_files;

/* dir is copied; it is made with mode 0700 when there is something to write. */
CS_MUST_USE int cs_spire_files_new(
	struct cs_loop *loop, const char *dir, struct cs_spire_files **ret, struct cs_error *e);
/* Writes it, if it is another one than before. A write that failed is tried again by itself, and said once. */
void cs_spire_files_put(struct cs_spire_files *f, const struct cs_spire_own *own);
/* It is not issued (any more): the files go, also those of an earlier life of this process. */
void cs_spire_files_remove(struct cs_spire_files *f);
/* The loop ends when the last write is over. NULL is fine. */
void cs_spire_files_close(struct cs_spire_files *f);
/* After the loop has ended. NULL is fine. */
void cs_spire_files_free(struct cs_spire_files *f);

#endif
