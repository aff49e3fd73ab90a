#include "authd_checks.h"

#include <stdlib.h>

struct cs_authd_checks {
	struct cs_check *directory, *svids, *handshakers, *signer, *listen, *endpoints, *maps;
};

static void check_directory(const struct cs_authd *a, struct cs_check *c)
{
	int64_t silent_ms = cs_directory_silent_ms(a->directory);
	if (!cs_world_ready(a->world))
		cs_check_fail(c, CS_R_DIRECTORY_STALE, "identityd has not said yet what there is; does it run?");
	else if (silent_ms > a->config->max_stale_ms)
		cs_check_fail(c, CS_R_DIRECTORY_STALE,
			"silent for %lld s (directory.max_stale is %lld s): nothing new is authenticated",
			(long long)silent_ms / 1000, (long long)a->config->max_stale_ms / 1000);
	else
		cs_check_ok(c);
}

static void check_svids(const struct cs_authd *a, struct cs_check *c)
{
	if (!cs_svids_ready(a->svids))
		cs_check_fail(
			c, CS_R_NO_LOCAL_SVID, "spire-adapter has not said yet which SVIDs there are; does it run?");
	else if (!cs_svids_stream_connected(a->svids_stream))
		cs_check_fail(c, CS_R_NO_LOCAL_SVID,
			"spire-adapter is not there: rotations and withdrawals are not heard of");
	else
		cs_check_ok(c);
}

static void check_handshakers(const struct cs_authd *a, struct cs_check *handshakers, struct cs_check *signer)
{
	unsigned count = cs_handshakers_count(a->handshakers), ready = cs_handshakers_ready_count(a->handshakers);
	unsigned signers = cs_creds_signers_count(a->creds);
	if (ready < count)
		cs_check_fail(handshakers, CS_R_HANDSHAKER_DIED, "%u of %u handshakers are ready, %llu restarts so far",
			ready, count, (unsigned long long)cs_handshakers_restarts(a->handshakers));
	else
		cs_check_ok(handshakers);
	if (signers < ready)
		cs_check_fail(signer, CS_R_SIGNER_UNAVAILABLE,
			"%u of %u handshakers have a connection to spire-adapter's signer", signers, ready);
	else
		cs_check_ok(signer);
}

static void check_listen(const struct cs_authd *a, struct cs_check *c)
{
	const struct cs_error *error = NULL;
	size_t wanted = 0, n = cs_net_listening(a->net, &wanted, &error);
	if (wanted == 0)
		cs_check_fail(c, CS_R_PEER_NODE_UNKNOWN, "the directory has no address of this node to listen on");
	else if (n < wanted)
		cs_check_fail(c, CS_R_NONE, "listening on %zu of %zu addresses of this node%s%s", n, wanted,
			error ? ": " : "", error ? error->text : "");
	else
		cs_check_ok(c);
}

struct unenforced {
	size_t all, closed;
	struct cs_world_endpoint first;
};

static void look_at_endpoint(const struct cs_world_endpoint *ep, void *data)
{
	struct unenforced *u = data;
	if (!ep->identity)
		return; /* not placed here: closed, as it should be */
	u->all++;
	if (ep->enforced)
		return;
	if (u->closed++ == 0)
		u->first = *ep;
}

static void check_endpoints(const struct cs_authd *a, struct cs_check *c)
{
	struct unenforced u = {0};
	cs_world_each_endpoint(a->world, look_at_endpoint, &u);
	if (u.closed)
		cs_check_fail(c, u.first.reason, "%zu of %zu endpoints are not enforced; '%s' at %s: %s", u.closed,
			u.all, u.first.id, u.first.interface, u.first.detail);
	else
		cs_check_ok(c);
}

static void check_maps(const struct cs_authd *a, struct cs_check *c)
{
	size_t no_room = cs_world_counts(a->world).no_room;
	if (no_room)
		cs_check_fail(c, CS_R_MAP_FULL,
			"%zu rows found no room; what would be judged wrongly without them is denied (settings maps.*)",
			no_room);
	else
		cs_check_ok(c);
}

void cs_authd_checks_tick(struct cs_authd *a)
{
	const struct cs_authd_checks *c = a->checks;
	check_directory(a, c->directory);
	check_svids(a, c->svids);
	check_handshakers(a, c->handshakers, c->signer);
	check_listen(a, c->listen);
	check_endpoints(a, c->endpoints);
	check_maps(a, c->maps);
}

struct cs_authd_checks *cs_authd_checks_new(struct cs_authd *a)
{
	struct cs_status *s = a->daemon->status;
	struct cs_authd_checks *c = calloc(1, sizeof(*c));
	if (!c)
		abort();
	c->directory = cs_check_new(s, "directory");
	c->svids = cs_check_new(s, "svids");
	c->handshakers = cs_check_new(s, "handshakers");
	c->signer = cs_check_new(s, "signer");
	c->listen = cs_check_new(s, "listen");
	c->endpoints = cs_check_new(s, "endpoints");
	c->maps = cs_check_new(s, "maps");
	return c;
}

void cs_authd_checks_free(struct cs_authd_checks *checks)
{
	free(checks);
}
