/* The two streams that authd lives by: identityd's Directory, which is fed into the world, and spire-adapter's Svids.
 * Both reconnect by themselves, resume where they can, and are cut when a stream is silent for too long or breaks its
 * word.
 *
 * A revision is taken in whole or not at all. Bounded: what is kept of an unfinished one (or of a full state before
 * `synced`) is at most CS_FOLLOW_STAGED bytes. */
#ifndef CS_FOLLOW_H
#define CS_FOLLOW_H

#include "grpc.h"
#include "svids.h"
#include "world.h"

#define CS_FOLLOW_STAGED    (256u << 20)
#define CS_FOLLOW_SILENT_MS 20000 /* four heartbeats: cut, and call again */
#define CS_FOLLOW_AGAIN_MS  500   /* after a call that ended in an error */

/* ---- Directory ---- */

struct cs_directory;
struct cs_directory_callbacks {
	/* The world has changed; full: it was replaced. */
	void (*on_change)(void *data, bool full);
	/* A new connection: what reporters said before may be forgotten there. */
	void (*on_connected)(void *data);
	void *data;
};

/* socket: of the node role. world is borrowed. */
CS_MUST_USE int cs_directory_new(struct cs_loop *loop, const char *socket, struct cs_world *world,
	const struct cs_directory_callbacks *callbacks, struct cs_directory **ret, struct cs_error *e);
/* For how long nothing new may have come from the cluster role, by its own word and by the age of the last message.
 * INT64_MAX before the first full state. */
int64_t cs_directory_silent_ms(const struct cs_directory *d);
/* Memory is freed when the loop has closed the handles. NULL is fine. */
void cs_directory_close(struct cs_directory *d);

/* ---- Svids ---- */

struct cs_svids_stream;
CS_MUST_USE int cs_svids_stream_new(struct cs_loop *loop, const char *socket, struct cs_svids *svids,
	void (*on_connected)(void *data), void *data, struct cs_svids_stream **ret, struct cs_error *e);
bool cs_svids_stream_connected(const struct cs_svids_stream *s);
void cs_svids_stream_close(struct cs_svids_stream *s);

#endif
