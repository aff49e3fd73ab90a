#include "creds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uthash.h>
#include "log.h"

/* What was said of an identity that lives here. */
struct told {
	uint32_t identity;
	uint64_t generation;
	char *spiffe_id;
	bool seen;
	UT_hash_handle hh;
};
struct cs_creds {
	struct cs_handshakers *handshakers;
	const struct cs_world *world;
	const struct cs_svids *svids;
	char sign_path[108];
	struct told *told;
	struct cs_timer again;
	bool has_signer[CS_HANDSHAKERS_MAX], wants_signer[CS_HANDSHAKERS_MAX];
	int64_t tried_mono_ms[CS_HANDSHAKERS_MAX];
};

/* index -1: to all that are ready. */
static void send_to(struct cs_creds *c, int index, const void *message, size_t len, int fd)
{
	for (unsigned i = 0; i < cs_handshakers_count(c->handshakers); i++) {
		if ((index >= 0 && (unsigned)index != i) || !cs_handshakers_ready(c->handshakers, i))
			continue;
		if (cs_handshakers_send(c->handshakers, i, message, len, fd) < 0)
			cs_handshakers_kill(c->handshakers, i, "it does not take what it is told");
	}
}

/* ---- SVIDs ---- */

static void send_svid(struct cs_creds *c, int index, uint32_t identity, const char *spiffe_id)
{
	struct cs_svid svid;
	struct cs_hs_svid m = {.h = {.type = CS_HS_SVID}, .identity = identity};
	int fd = -1;
	strncpy(m.spiffe_id, spiffe_id, sizeof(m.spiffe_id) - 1);
	if (spiffe_id[0] && cs_svids_find(c->svids, identity, &svid) && svid.generation &&
		strcmp(svid.spiffe_id, spiffe_id) == 0) {
		fd = cs_handshakers_list(svid.list, svid.list_len);
		if (fd < 0) {
			cs_fail("an SVID cannot be handed to the handshakers", cs_u64("identity", identity),
				cs_str("error", strerror(-fd)));
		} else {
			m.generation = svid.generation;
			m.not_after_unix_s = svid.not_after_unix_s;
		}
	}
	send_to(c, index, &m, sizeof(m), fd);
	if (fd >= 0)
		close(fd);
}

static void forget(struct cs_creds *c, struct told *t)
{
	send_svid(c, -1, t->identity, "");
	HASH_DEL(c->told, t);
	free(t->spiffe_id);
	free(t);
}

static uint64_t generation_of(const struct cs_creds *c, uint32_t identity, const char *spiffe_id)
{
	struct cs_svid svid;
	return cs_svids_find(c->svids, identity, &svid) && strcmp(svid.spiffe_id, spiffe_id) == 0 ? svid.generation : 0;
}

static void look_at(uint32_t identity, void *data)
{
	struct cs_creds *c = data;
	struct cs_world_identity known;
	struct told *t;
	HASH_FIND(hh, c->told, &identity, sizeof(identity), t);
	if (!cs_world_local(c->world, identity) || !cs_world_identity(c->world, identity, &known)) {
		if (t)
			forget(c, t);
		return;
	}
	uint64_t generation = generation_of(c, identity, known.spiffe_id);
	if (t && t->generation == generation && strcmp(t->spiffe_id, known.spiffe_id) == 0) {
		t->seen = true;
		return;
	}
	if (!t) {
		t = calloc(1, sizeof(*t));
		if (!t)
			abort();
		t->identity = identity;
		HASH_ADD(hh, c->told, identity, sizeof(t->identity), t);
	}
	free(t->spiffe_id);
	t->spiffe_id = strdup(known.spiffe_id);
	if (!t->spiffe_id)
		abort();
	t->generation = generation;
	t->seen = true;
	send_svid(c, -1, identity, t->spiffe_id);
}

void cs_creds_world(struct cs_creds *c)
{
	struct told *t, *next;
	HASH_ITER (hh, c->told, t, next)
		t->seen = false;
	cs_world_each_local(c->world, look_at, c);
	HASH_ITER (hh, c->told, t, next)
		if (!t->seen)
			forget(c, t);
}

void cs_creds_svid(struct cs_creds *c, uint32_t identity)
{
	look_at(identity, c);
}

/* ---- bundles ---- */

static void send_bundle(struct cs_creds *c, int index, const struct cs_trust *trust)
{
	struct cs_hs_bundle m = {.h = {.type = CS_HS_BUNDLE}};
	int fd = -1;
	strncpy(m.trust_domain, trust->trust_domain, sizeof(m.trust_domain) - 1);
	if (trust->generation)
		fd = cs_handshakers_list(trust->list, trust->list_len);
	if (fd >= 0)
		m.generation = trust->generation;
	else if (trust->generation)
		cs_fail("a bundle cannot be handed to the handshakers", cs_str("trust_domain", trust->trust_domain),
			cs_str("error", strerror(-fd)));
	send_to(c, index, &m, sizeof(m), fd);
	if (fd >= 0)
		close(fd);
}

void cs_creds_bundle(struct cs_creds *c, const char *trust_domain)
{
	struct cs_trust trust;
	if (cs_svids_bundle(c->svids, trust_domain, strlen(trust_domain), &trust))
		send_bundle(c, -1, &trust);
}

/* ---- the signer ---- */

/* A local socket: connected at once, or not at all. */
static int connect_signer(const struct cs_creds *c)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	memcpy(sa.sun_path, c->sign_path, sizeof(sa.sun_path));
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* A handshaker waits for its signatures, with a limit: from here on the descriptor blocks. */
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0) {
		int r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

void cs_creds_signer(struct cs_creds *c, unsigned index)
{
	int64_t now = cs_loop_mono_ms(c->again.loop);
	struct cs_hs_head m = {.type = CS_HS_SIGNER};
	if (!cs_handshakers_ready(c->handshakers, index))
		return;
	c->wants_signer[index] = true;
	if (now - c->tried_mono_ms[index] < CS_SIGNER_AGAIN_MS) {
		if (!cs_timer_active(&c->again))
			cs_timer_start(&c->again, CS_SIGNER_AGAIN_MS, 0);
		return;
	}
	c->tried_mono_ms[index] = now;
	int fd = connect_signer(c);
	c->has_signer[index] = fd >= 0;
	c->wants_signer[index] = fd < 0;
	if (fd < 0) {
		cs_warn("spire-adapter's signer cannot be reached", cs_str("path", c->sign_path),
			cs_str("error", strerror(-fd)));
		cs_timer_start(&c->again, CS_SIGNER_AGAIN_MS, 0);
		return;
	}
	send_to(c, (int)index, &m, sizeof(m), fd);
	close(fd);
}

void cs_creds_signers(struct cs_creds *c)
{
	for (unsigned i = 0; i < cs_handshakers_count(c->handshakers); i++) {
		c->tried_mono_ms[i] = INT64_MIN / 2;
		cs_creds_signer(c, i);
	}
}

static void on_again(struct cs_timer *t)
{
	struct cs_creds *c = t->data;
	for (unsigned i = 0; i < cs_handshakers_count(c->handshakers); i++)
		if (c->wants_signer[i])
			cs_creds_signer(c, i);
}

unsigned cs_creds_signers_count(const struct cs_creds *c)
{
	unsigned n = 0;
	for (unsigned i = 0; i < cs_handshakers_count(c->handshakers); i++)
		n += c->has_signer[i] && cs_handshakers_ready(c->handshakers, i);
	return n;
}

/* ---- a new one ---- */

struct telling {
	struct cs_creds *c;
	unsigned index;
};

static void tell_bundle(const struct cs_trust *trust, void *data)
{
	const struct telling *t = data;
	if (trust->generation)
		send_bundle(t->c, (int)t->index, trust);
}

void cs_creds_tell(struct cs_creds *c, unsigned index)
{
	struct told *t, *next;
	struct telling telling = {c, index};
	c->has_signer[index] = false;
	c->tried_mono_ms[index] = INT64_MIN / 2;
	cs_creds_signer(c, index);
	cs_svids_each_bundle(c->svids, tell_bundle, &telling);
	HASH_ITER (hh, c->told, t, next)
		send_svid(c, (int)index, t->identity, t->spiffe_id);
}

/* ---- life ---- */

struct cs_creds *cs_creds_new(struct cs_loop *loop, struct cs_handshakers *handshakers, const struct cs_world *world,
	const struct cs_svids *svids, const char *sign_path)
{
	struct cs_creds *c = calloc(1, sizeof(*c));
	if (!c)
		abort();
	c->handshakers = handshakers;
	c->world = world;
	c->svids = svids;
	strncpy(c->sign_path, sign_path, sizeof(c->sign_path) - 1);
	cs_timer_init(&c->again, loop, on_again, c);
	return c;
}

static void on_closed(struct cs_timer *t)
{
	struct cs_creds *c = t->data;
	struct told *it, *next;
	HASH_ITER (hh, c->told, it, next) {
		HASH_DEL(c->told, it);
		free(it->spiffe_id);
		free(it);
	}
	free(c);
}

void cs_creds_close(struct cs_creds *c)
{
	if (c)
		cs_timer_close(&c->again, on_closed);
}
