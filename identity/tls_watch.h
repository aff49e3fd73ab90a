/* The files of the own certificate are looked at again and again, and what is new is used: spire-adapter writes them anew
 * each time SPIRE renews an SVID. */
#ifndef CS_TLS_WATCH_H
#define CS_TLS_WATCH_H

#include "loop.h"
#include "tls.h"

#define CS_TLS_WATCH_MS 2000

struct cs_tls_watch;

/* tls was made of files (copied), in this role; it is borrowed until free. Reading happens in a worker thread. What cannot
 * be used is logged once for each change of the files, and what was there stays. NULL: no memory. */
struct cs_tls_watch *cs_tls_watch_new(
	struct cs_loop *loop, enum cs_tls_role role, const struct cs_tls_files *files, struct cs_tls *tls);
/* The loop ends later. NULL is fine. */
void cs_tls_watch_close(struct cs_tls_watch *w);
/* After the loop has ended. NULL is fine. */
void cs_tls_watch_free(struct cs_tls_watch *w);

#endif
