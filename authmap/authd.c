#include "authd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>
#include "authd_checks.h"
#include "authd_metrics.h"
#include "authenticate.h"
#include "entries.h"
#include "log.h"
#include "service_auth.h"

#define PORT_DEFAULT 4250

/* ---- what ties the parts together ---- */

struct cs_instant cs_authd_now(const struct cs_authd *a)
{
	return (struct cs_instant){.coarse_ns = cs_datapath_now_ns(),
		.mono_ms = cs_loop_mono_ms(a->loop),
		.unix_ms = cs_loop_unix_ms(a->loop)};
}

static bool is_stale(const struct cs_authd *a)
{
	return !a->directory || cs_directory_silent_ms(a->directory) > a->config->max_stale_ms;
}

struct cs_facts cs_authd_facts(const struct cs_authd *a)
{
	return (struct cs_facts){.world = a->world,
		.svids = a->svids,
		.pairs = a->pairs,
		.now_unix_s = cs_loop_unix_ms(a->loop) / 1000,
		.stale = is_stale(a)};
}

static void listen_as_self(struct cs_authd *a)
{
	struct cs_world_node self;
	if (!cs_world_self(a->world, &self)) {
		cs_net_listen(a->net, NULL, 0, 0);
		return;
	}
	cs_net_listen(a->net, self.addrs, self.naddrs, self.port ? self.port : PORT_DEFAULT);
}

void cs_authd_apply(struct cs_authd *a)
{
	if (!cs_world_ready(a->world))
		return;
	cs_apply_run(&a->apply);
	cs_creds_world(a->creds);
	listen_as_self(a);
	cs_report_changed(a->report);
}

/* Directory, SVIDs and bundles have all spoken: what an earlier life left is judged for good. */
static void look_at_adopted(struct cs_authd *a)
{
	if (a->synced || !cs_world_ready(a->world) || !cs_svids_ready(a->svids))
		return;
	a->synced = true;
	cs_entries_recheck(a);
	cs_entries_trust(a);
	cs_authenticate_hurry(a);
}

static void on_directory_change(void *data, bool full)
{
	struct cs_authd *a = data;
	struct cs_world_node self;
	if (full && cs_world_self(a->world, &self))
		cs_status_set_node(a->daemon->status, self.name);
	cs_authd_apply(a);
	look_at_adopted(a);
}

static void on_directory_connected(void *data)
{
	struct cs_authd *a = data;
	if (a->report)
		cs_report_all(a->report);
}

static void on_svid(void *data, uint32_t identity)
{
	struct cs_authd *a = data;
	struct cs_svid svid;
	if (!a->creds)
		return;
	cs_creds_svid(a->creds, identity);
	cs_entries_svid(a, identity);
	cs_authenticate_hurry(a);
	if (cs_svids_find(a->svids, identity, &svid) && svid.withdrawn)
		cs_entries_recheck(a);
}

static void on_bundle(void *data, const char *trust_domain)
{
	struct cs_authd *a = data;
	if (!a->creds)
		return;
	cs_creds_bundle(a->creds, trust_domain);
	cs_entries_recheck(a);
}

static void on_svids_synced(void *data)
{
	look_at_adopted(data);
}

static void on_svids_connected(void *data)
{
	struct cs_authd *a = data;
	cs_creds_signers(a->creds);
}

/* ---- netlink and programs ---- */

static void on_addr(void *data, int family, const void *bytes, bool present)
{
	struct cs_authd *a = data;
	struct cs_ip ip;
	cs_ip_from_bytes(&ip, bytes, family == 4 ? 4 : 16);
	cs_world_host_addr(a->world, &ip, present);
}

static void on_link(void *data, uint32_t ifindex, const char *name)
{
	struct cs_authd *a = data;
	if (!name)
		cs_attach_forget(a->attach, ifindex);
	cs_world_link(a->world, ifindex, name);
}

static void on_link_changed(void *data, uint32_t ifindex)
{
	struct cs_authd *a = data;
	cs_attach_check(a->attach, ifindex, cs_loop_mono_ms(a->loop));
}

static void on_settled(void *data)
{
	cs_authd_apply(data);
}

static void on_attach_change(void *data, uint32_t ifindex, enum cs_reason reason, const char *name)
{
	struct cs_authd *a = data;
	cs_world_shadowed(a->world, ifindex, reason, name);
	if (a->report)
		cs_report_changed(a->report);
}

/* ---- every second ---- */

static void watch_staleness(struct cs_authd *a)
{
	bool stale = is_stale(a);
	if (stale && a->config->directory_fail == CS_DIRECTORY_CLOSE && cs_world_ready(a->world))
		cs_entries_clear(a, CS_R_DIRECTORY_STALE);
	if (stale != a->was_stale && cs_world_ready(a->world))
		cs_warn(stale ? "the directory is silent: nothing new is authenticated" : "the directory speaks again");
	a->was_stale = stale;
}

static void watch_clocks(struct cs_authd *a)
{
	int64_t jump_ms;
	if (!cs_clockwatch_check(&a->clockwatch, cs_clocks_now(), &jump_ms))
		return;
	a->clock_jumps++;
	cs_warn("a clock has jumped: every expiry is derived anew", cs_i64("by_ms", jump_ms));
	cs_entries_rederive(a);
}

/* A revocation that was written ahead comes into force. */
static void watch_revocations(struct cs_authd *a)
{
	int64_t now_s = cs_loop_unix_ms(a->loop) / 1000;
	if (a->next_revocation_unix_s && now_s >= a->next_revocation_unix_s)
		cs_entries_recheck(a);
	int64_t next = cs_world_next_revocation_unix_s(a->world, now_s);
	a->next_revocation_unix_s = next == INT64_MAX ? 0 : next;
}

static void on_second(struct cs_timer *t)
{
	struct cs_authd *a = t->data;
	cs_datapath_set_alive(a->dp, cs_datapath_now_ns());
	cs_attach_poll(a->attach, cs_loop_mono_ms(a->loop));
	watch_clocks(a);
	watch_staleness(a);
	watch_revocations(a);
	if (a->apply.again)
		cs_authd_apply(a);
	cs_entries_tick(a);
	cs_authenticate_tick(a);
	cs_authd_checks_tick(a);
}

static void on_pump(struct cs_timer *t)
{
	struct cs_authd *a = t->data;
	if (a->waiting)
		cs_authenticate_pump(a);
}

/* ---- start and end ---- */

static int open_datapath(struct cs_authd *a, struct cs_error *e)
{
	char name[64];
	int r = cs_instance_name(a->daemon->instance, name, e);
	if (r < 0)
		return r;
	struct cs_datapath_config config = cs_authd_datapath_config(a->config, name);
	struct cs_hold_config hold = {.instance = name, .max_bytes = (size_t)a->config->hold_bytes};
	struct cs_hold_callbacks callbacks = {
		.on_miss = cs_authenticate_miss, .on_drop = cs_auth_service_drop, .data = a};
	if (!(a->dp = cs_datapath_open(&config, e)) || !(a->attach = cs_attach_new(a->dp, on_attach_change, a, e)) ||
		!(a->hold = cs_hold_new(a->loop, a->dp, &hold, &callbacks, e)))
		return e->code;
	cs_datapath_set_flags(a->dp, (a->config->audit ? CS_NODE_AUDIT : 0) | (a->config->hold ? CS_NODE_HOLD : 0) |
					     (a->config->host_passes ? CS_NODE_HOST_PASSES : 0));
	cs_datapath_set_alive(a->dp, cs_datapath_now_ns());
	a->apply = (struct cs_apply){.world = a->world,
		.dp = a->dp,
		.attach = a->attach,
		.hold = a->hold,
		.entries = cs_entries_changed,
		.data = a};
	r = cs_apply_adopt(&a->apply, e);
	return r < 0 ? r : cs_entries_adopt(a, e);
}

static int open_handshakers(struct cs_authd *a, struct cs_error *e)
{
	struct cs_handshakers_config config = {.path = a->config->handshaker_path,
		.user = a->config->handshaker_user,
		.count = (unsigned)a->config->handshakers};
	struct cs_handshakers_callbacks callbacks = {.on_ready = cs_authenticate_ready,
		.on_verdict = cs_authenticate_verdict,
		.on_done = cs_authenticate_done,
		.on_died = cs_authenticate_died,
		.data = a};
	char sign[CS_PATH];
	int r = cs_instance_path(a->daemon->instance, "spire-adapter", "sign.sock", sign, e);
	if (r == 0)
		r = cs_handshakers_new(a->loop, &config, &callbacks, &a->handshakers, e);
	if (r < 0)
		return r;
	if (!config.user[0])
		cs_warn("handshakers run as authd's own user: they are isolated less");
	a->creds = cs_creds_new(a->loop, a->handshakers, a->world, a->svids, sign);
	a->admission = cs_admission_new((size_t)cs_handshakers_count(a->handshakers) * CS_ACCEPTS_PER_HANDSHAKER);
	return 0;
}

static int open_streams(struct cs_authd *a, struct cs_error *e)
{
	struct cs_directory_callbacks directory = {
		.on_change = on_directory_change, .on_connected = on_directory_connected, .data = a};
	const char *instance = a->daemon->instance;
	char path[CS_PATH];
	int r = cs_instance_path(instance, "identityd", "endpoints.sock", path, e);
	if (r == 0)
		r = cs_report_new(a->loop, path, a->world, &a->report, e);
	if (r == 0)
		r = cs_instance_path(instance, "identityd", "directory.sock", path, e);
	if (r == 0)
		r = cs_directory_new(a->loop, path, a->world, &directory, &a->directory, e);
	if (r == 0)
		r = cs_instance_path(instance, "spire-adapter", "svids.sock", path, e);
	if (r == 0)
		r = cs_svids_stream_new(a->loop, path, a->svids, on_svids_connected, a, &a->svids_stream, e);
	return r;
}

static int open_network(struct cs_authd *a, struct cs_error *e)
{
	struct cs_net_callbacks net = {.on_accept = cs_authenticate_accept, .data = a};
	struct cs_netlink_callbacks netlink = {.on_addr = on_addr,
		.on_link = on_link,
		.on_link_changed = on_link_changed,
		.on_settled = on_settled,
		.data = a};
	int r = cs_net_new(a->loop, &net, &a->net, e);
	if (r < 0)
		return r;
	a->netlink = cs_netlink_new(a->loop, &netlink, e);
	return a->netlink ? 0 : e->code;
}

static void raise_limits(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

int cs_authd_start(struct cs_daemon *d, struct cs_error *e)
{
	struct cs_svid_callbacks svids = {.on_svid = on_svid, .on_bundle = on_bundle, .on_synced = on_svids_synced};
	uint64_t seeds[2];
	struct cs_authd *a = calloc(1, sizeof(*a));
	if (!a || getrandom(seeds, sizeof(seeds), 0) != sizeof(seeds))
		abort();
	d->app = a;
	svids.data = a;
	a->daemon = d;
	a->loop = &d->loop;
	a->config = d->config;
	a->next_request = seeds[0] >> 1;
	a->world = cs_world_new(seeds[1]);
	a->svids = cs_svids_new(&svids);
	a->pairs = cs_pairs_new((size_t)(a->config->entries + a->config->pending));
	a->events = cs_events_new(cs_auth_service_event, a);
	a->metrics = cs_authd_metrics_new(a);
	a->checks = cs_authd_checks_new(a);
	raise_limits();
	cs_timer_init(&a->second, a->loop, on_second, a);
	cs_timer_init(&a->pump, a->loop, on_pump, a);
	int r = open_datapath(a, e);
	if (r == 0)
		r = open_handshakers(a, e);
	if (r == 0)
		r = open_network(a, e);
	if (r == 0)
		r = open_streams(a, e);
	if (r == 0)
		r = (a->service = cs_auth_service_new(a, e)) ? 0 : e->code;
	if (r < 0)
		return r;
	cs_authd_checks_tick(a);
	cs_timer_start(&a->second, 1000, 1000);
	cs_timer_start(&a->pump, CS_TRY_AGAIN_MS, CS_TRY_AGAIN_MS);
	cs_daemon_ready(d);
	return 0;
}

void cs_authd_stop(struct cs_daemon *d)
{
	struct cs_authd *a = d->app;
	if (!a)
		return;
	cs_timer_close(&a->second, NULL);
	cs_timer_close(&a->pump, NULL);
	cs_auth_service_close(a->service);
	a->service = NULL;
	if (a->admission)
		cs_authenticate_stop(a);
	cs_netlink_close(a->netlink);
	cs_net_close(a->net);
	cs_directory_close(a->directory);
	cs_svids_stream_close(a->svids_stream);
	cs_report_close(a->report);
	cs_creds_close(a->creds);
	cs_handshakers_close(a->handshakers);
	if (a->dp)
		cs_datapath_set_alive(a->dp, 0); /* what misses from here on is not copied for nobody */
	cs_hold_close(a->hold);
	a->netlink = NULL; /* for who asks meanwhile */
	a->net = NULL;
	a->directory = NULL;
	a->svids_stream = NULL;
	a->report = NULL;
	a->creds = NULL;
	a->handshakers = NULL;
	a->hold = NULL;
}

void cs_authd_fini(struct cs_daemon *d)
{
	struct cs_authd *a = d->app;
	if (!a)
		return;
	cs_attach_free(a->attach);
	cs_datapath_free(a->dp);
	cs_admission_free(a->admission);
	cs_authd_checks_free(a->checks);
	cs_authd_metrics_free(a->metrics);
	cs_events_free(a->events);
	cs_pairs_free(a->pairs);
	cs_svids_free(a->svids);
	cs_world_free(a->world);
	free(a);
}
