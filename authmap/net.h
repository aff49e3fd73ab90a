/* Connections between nodes (tcp/4250). authd makes, accepts and addresses every one of them; what is on them it leaves to
 * a handshaker. Nothing blocks. */
#ifndef CS_NET_H
#define CS_NET_H

#include <stdbool.h>
#include "address.h"
#include "error.h"
#include "loop.h"

#define CS_NET_LISTENERS   8
#define CS_NET_BACKLOG     512
#define CS_NET_AGAIN_MS    1000 /* an address that cannot be bound is tried again */
#define CS_NET_ACCEPT_TURN 64   /* connections in one turn of the loop */

struct cs_net;
struct cs_net_callbacks {
	/* fd is the callee's: non-blocking, close-on-exec. */
	void (*on_accept)(void *data, int fd, const struct cs_ip *peer);
	void *data;
};
CS_MUST_USE int cs_net_new(
	struct cs_loop *loop, const struct cs_net_callbacks *callbacks, struct cs_net **ret, struct cs_error *e);
/* Memory is freed when the loop has closed the handles. NULL is fine. */
void cs_net_close(struct cs_net *net);
/* Listen on exactly these; one that cannot be bound now is tried again until it is, or is not wanted any more. */
void cs_net_listen(struct cs_net *net, const struct cs_ip *addrs, size_t n, uint16_t port);
/* How many of the wanted addresses are listened to; why not (the first): borrowed. */
size_t cs_net_listening(const struct cs_net *net, size_t *ret_wanted, const struct cs_error **ret_error);

/* One connection to a node: its addresses in their order, each from an address of ours of the same family. */
struct cs_dial;
struct cs_dial_target {
	const struct cs_ip *to, *from;
	size_t nto, nfrom;
	uint16_t port;
	int64_t deadline_mono_ms;
};
/* done: fd (the callee's), or -1 and a reason: peer-unreachable, peer-timeout. The target is copied. The
 * dial is gone when done returns. NULL: no memory. */
struct cs_dial *cs_dial_new(struct cs_loop *loop, const struct cs_dial_target *target,
	void (*done)(void *data, int fd, const struct cs_error *error), void *data);
/* Not wanted any more: done does not come. */
void cs_dial_cancel(struct cs_dial *dial);

#endif
