#include "service_auth.h"

#include <stdlib.h>
#include <string.h>
#include "service_auth_private.h"

#define OFTEN_MS 100
#define GRACE_MS 1000 /* at the end, for what is still queued */

static const struct cs_grpc_method methods[] = {
	{.name = "List", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = cs_auth_list},
	{.name = "Explain", .roles = CS_ROLE_VIEWER, .fn = cs_auth_explain},
	{.name = "Events", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = cs_auth_events},
	{.name = "Authenticate", .roles = CS_ROLE_OPERATOR, .fn = cs_auth_authenticate},
	{.name = "Flush", .roles = CS_ROLE_OPERATOR, .fn = cs_auth_flush},
};

bool cs_auth_node_id(const struct cs_auth_service *s, struct cs_grpc_call *call, const char *name, uint16_t *ret)
{
	struct cs_world_node node;
	if (!cs_world_node_by_name(s->a->world, name, &node)) {
		cs_grpc_finish_reason(
			call, CS_GRPC_NOT_FOUND, CS_R_PEER_NODE_UNKNOWN, "the directory has no node '%.255s'", name);
		return false;
	}
	*ret = node.id;
	return true;
}

const char *cs_auth_role_name(unsigned role)
{
	static const char *const names[] = {"", "dialler", "acceptor", "loopback"};
	return role < sizeof(names) / sizeof(names[0]) ? names[role] : "";
}

void cs_auth_policy_text(const struct cs_world_decision *d, char *out, size_t size)
{
	snprintf(out, size, "%s%s%s", d->policy, *d->policy && *d->rule ? " " : "", d->rule);
}

/* ---- what happens later ---- */

static void on_soon(struct cs_timer *timer)
{
	struct cs_auth_service *s = timer->data;
	cs_auth_readers_pump(s);
	cs_auth_askers_pump(s);
	cs_auth_walks_pump(s);
	if (s->askers && !cs_timer_active(&s->often))
		cs_timer_start(&s->often, OFTEN_MS, OFTEN_MS);
}

static void on_often(struct cs_timer *timer)
{
	struct cs_auth_service *s = timer->data;
	cs_auth_askers_pump(s);
	if (!s->askers)
		cs_timer_stop(timer);
}

void cs_auth_soon(struct cs_auth_service *s)
{
	if (!s->closing && !cs_timer_active(&s->soon))
		cs_timer_start(&s->soon, 0, 0);
}

void cs_auth_service_event(void *authd)
{
	const struct cs_authd *a = authd;
	if (a->service)
		cs_auth_soon(a->service);
}

size_t cs_auth_service_readers(const struct cs_auth_service *s)
{
	return s->nreaders;
}

/* ---- start and end ---- */

static void closed_one(struct cs_auth_service *s)
{
	if (--s->open > 0)
		return;
	cs_drops_free(s->drops);
	free(s);
}

static void on_timer_closed(struct cs_timer *timer)
{
	closed_one(timer->data);
}

static void on_server_closed(void *data)
{
	closed_one(data);
}

static int serve(struct cs_auth_service *s, struct cs_error *e)
{
	struct cs_daemon *d = s->a->daemon;
	const struct cs_grpc_server_options options = {.on_refused = cs_status_refused, .refused_data = d->status};
	char path[CS_PATH];
	int r = cs_grpc_server_new(s->a->loop, &options, &s->server, e);
	if (r < 0)
		return r;
	s->open++;
	if ((r = cs_grpc_server_add(s->server, &s->grpc, e)) == 0 && (r = cs_daemon_path(d, "auth.sock", path, e)) == 0)
		r = cs_grpc_server_listen_unix(s->server, path, 0666, (gid_t)-1, d->roles, e);
	return r;
}

struct cs_auth_service *cs_auth_service_new(struct cs_authd *a, struct cs_error *e)
{
	struct cs_auth_service *s = calloc(1, sizeof(*s));
	if (!s)
		abort();
	s->a = a;
	s->drops = cs_drops_new();
	s->grpc = (struct cs_grpc_service){
		&countersign__v1__auth__descriptor, methods, sizeof(methods) / sizeof(methods[0]), s};
	cs_timer_init(&s->soon, a->loop, on_soon, s);
	cs_timer_init(&s->often, a->loop, on_often, s);
	s->open = 2;
	if (serve(s, e) == 0)
		return s;
	cs_auth_service_close(s);
	return NULL;
}

void cs_auth_service_close(struct cs_auth_service *s)
{
	if (!s || s->closing)
		return;
	s->closing = true;
	cs_auth_readers_end(s);
	cs_auth_walks_end(s);
	cs_auth_askers_end(s);
	if (s->server)
		cs_grpc_server_close(s->server, GRACE_MS, on_server_closed, s);
	cs_timer_close(&s->soon, on_timer_closed);
	cs_timer_close(&s->often, on_timer_closed);
}
