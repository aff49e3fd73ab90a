#include "authd_metrics.h"

#include <stdlib.h>
#include "authenticate.h"
#include "service_auth.h"

struct cs_authd_metrics {
	struct cs_authd *a;
	struct cs_metric *handshakes, *seconds, *dropped, *dropped_bytes;
	struct cs_metric *entries, *pairs, *attempts, *waiting, *known, *no_room;
	struct cs_metric *held, *held_bytes, *held_total, *released_total, *hold_dropped, *signals, *send_failed,
		*malformed;
	struct cs_metric *datapath, *endpoints, *readers;
	struct cs_metric *handshakers, *restarts, *silent, *operations, *failures, *clock_jumps;
};

static const char *role_name(enum cs_hs_role role)
{
	return role == CS_HS_DIALLER ? "dialler" : role == CS_HS_ACCEPTOR ? "acceptor" : "loopback";
}

void cs_authd_metrics_handshake(
	struct cs_authd_metrics *m, enum cs_hs_role role, enum cs_reason reason, uint32_t micros)
{
	cs_metric_add(m->handshakes, 1, role_name(role), cs_reason_name(reason));
	if (micros)
		cs_metric_observe(m->seconds, micros / 1e6, role_name(role));
}

static void read_drops(struct cs_authd_metrics *m)
{
	static const char *const hooks[] = {"from", "to"}, *const would[] = {"false", "true"};
	for (int reason = 1; reason < CS_REASON_MAX; reason++)
		for (int i = 0; i < 4; i++) {
			struct cs_count count;
			if (cs_datapath_count(m->a->dp, (enum cs_reason)reason, i & 1, (enum cs_dir)(i >> 1), &count) <
					0 ||
				!count.packets)
				continue;
			const char *name = cs_reason_name((enum cs_reason)reason);
			cs_metric_set(m->dropped, (double)count.packets, name, hooks[i >> 1], would[i & 1]);
			cs_metric_set(m->dropped_bytes, (double)count.bytes, name, hooks[i >> 1], would[i & 1]);
		}
}

static void read_hold(struct cs_authd_metrics *m)
{
	const struct cs_hold_stats *s = cs_hold_stats(m->a->hold);
	cs_metric_set(m->held, (double)s->packets);
	cs_metric_set(m->held_bytes, (double)s->bytes);
	cs_metric_set(m->held_total, (double)s->held);
	cs_metric_set(m->released_total, (double)s->released);
	cs_metric_set(m->signals, (double)s->signals);
	cs_metric_set(m->send_failed, (double)s->send_failed);
	cs_metric_set(m->malformed, (double)s->malformed);
	for (int reason = 1; reason < CS_REASON_MAX; reason++)
		if (s->dropped[reason])
			cs_metric_set(
				m->hold_dropped, (double)s->dropped[reason], cs_reason_name((enum cs_reason)reason));
}

static void count_endpoint(const struct cs_world_endpoint *ep, void *data)
{
	struct cs_authd_metrics *m = data;
	cs_metric_add(m->endpoints, 1, ep->enforced ? "enforced" : "closed", cs_reason_name(ep->reason));
}

static void read_datapath(struct cs_authd_metrics *m)
{
	const struct cs_authd *a = m->a;
	cs_metric_set(m->datapath, 1, cs_attach_mode_name(cs_datapath_attach_mode(a->dp)),
		cs_csum_mode_name(cs_datapath_csum_mode(a->dp)), a->config->hold ? "on" : "off",
		a->config->audit ? "audit" : "enforce");
	cs_metric_clear(m->endpoints);
	cs_metric_set(m->endpoints, 0, "closed", cs_reason_name(CS_R_SHADOWED));
	cs_world_each_endpoint(a->world, count_endpoint, m);
}

static void on_render(void *data)
{
	struct cs_authd_metrics *m = data;
	const struct cs_authd *a = m->a;
	if (!a->dp || !a->hold || !a->handshakers || !a->directory)
		return; /* not started, or at its end */
	struct cs_world_counts n = cs_world_counts(a->world);
	int64_t silent_ms = cs_directory_silent_ms(a->directory);
	cs_metric_set(m->entries, (double)cs_pairs_live(a->pairs));
	cs_metric_set(m->pairs, (double)cs_pairs_count(a->pairs));
	cs_metric_set(m->attempts, (double)cs_authenticate_in_flight(a));
	cs_metric_set(m->waiting, (double)a->nwaiting);
	cs_metric_set(m->known, (double)n.nodes, "nodes");
	cs_metric_set(m->known, (double)n.identities, "identities");
	cs_metric_set(m->known, (double)n.endpoints, "endpoints");
	cs_metric_set(m->known, (double)n.local_endpoints, "local-endpoints");
	cs_metric_set(m->known, (double)n.addresses, "addresses");
	cs_metric_set(m->known, (double)n.prefixes, "prefixes");
	cs_metric_set(m->known, (double)n.policy_rows, "policy-rows");
	cs_metric_set(m->known, (double)n.revocations, "revocations");
	cs_metric_set(m->no_room, (double)n.no_room);
	cs_metric_set(m->handshakers, cs_handshakers_ready_count(a->handshakers));
	cs_metric_set(m->restarts, (double)cs_handshakers_restarts(a->handshakers));
	cs_metric_set(m->silent, silent_ms == INT64_MAX ? -1 : (double)silent_ms / 1000);
	cs_metric_set(m->operations, (double)a->apply.operations);
	cs_metric_set(m->failures, (double)a->apply.failures);
	cs_metric_set(m->clock_jumps, (double)a->clock_jumps);
	if (a->service)
		cs_metric_set(m->readers, (double)cs_auth_service_readers(a->service));
	read_datapath(m);
	read_hold(m);
	read_drops(m);
}

static void make_gauges(struct cs_authd_metrics *m, struct cs_metrics *r)
{
	m->entries = cs_gauge(r, "countersign_auth_entries", "Authenticated pairs in the auth map", NULL, 1);
	m->pairs =
		cs_gauge(r, "countersign_auth_pairs", "Pairs with an entry, a question or a recent refusal", NULL, 1);
	m->attempts = cs_gauge(r, "countersign_handshakes_in_flight", "Handshakes under way", NULL, 1);
	m->waiting = cs_gauge(r, "countersign_handshakes_waiting", "Pairs that wait for a free handshake", NULL, 1);
	m->known = cs_gauge(r, "countersign_known", "What the directory says there is", "kind", 16);
	m->no_room = cs_gauge(r, "countersign_map_rows_without_room", "Rows that found no room in a map", NULL, 1);
	m->datapath = cs_gauge(
		r, "countersign_datapath_info", "How the datapath works: always 1", "attach,csum,hold,mode", 2);
	m->endpoints = cs_gauge(r, "countersign_local_endpoints",
		"Endpoints of this node by condition: a reason other than none says why not enforced, or what is "
		"degraded",
		"state,reason", 64);
	m->readers = cs_gauge(r, "countersign_event_readers", "Calls of Auth.Events", NULL, 1);
	m->held = cs_gauge(r, "countersign_held_packets", "Packets held now", NULL, 1);
	m->held_bytes = cs_gauge(r, "countersign_held_bytes", "Bytes of the packets held now", NULL, 1);
	m->handshakers = cs_gauge(r, "countersign_handshakers_ready", "Handshakers that take work", NULL, 1);
	m->silent = cs_gauge(r, "countersign_directory_silent_seconds",
		"For how long the cluster role may have been silent; -1 before the first full state", NULL, 1);
}

static void make_counters(struct cs_authd_metrics *m, struct cs_metrics *r)
{
	m->handshakes = cs_counter(r, "countersign_handshakes_total",
		"Handshakes and connections by role and result (none: both sides said yes)", "role,result", 256);
	m->dropped = cs_counter(r, "countersign_dropped_packets_total",
		"Packets that the datapath dropped, or would have dropped (audit)", "reason,hook,would", 512);
	m->dropped_bytes = cs_counter(r, "countersign_dropped_bytes_total",
		"Bytes that the datapath dropped, or would have dropped (audit)", "reason,hook,would", 512);
	m->held_total = cs_counter(r, "countersign_held_packets_total", "Packets that were held", NULL, 1);
	m->released_total = cs_counter(r, "countersign_released_packets_total", "Held packets sent on", NULL, 1);
	m->hold_dropped = cs_counter(r, "countersign_hold_dropped_packets_total", "Held packets dropped", "reason", 64);
	m->signals = cs_counter(r, "countersign_signals_total", "Misses that could not be held", NULL, 1);
	m->send_failed = cs_counter(
		r, "countersign_release_failed_total", "Released packets that the kernel did not take", NULL, 1);
	m->malformed = cs_counter(
		r, "countersign_malformed_records_total", "Records of the datapath that break their form", NULL, 1);
	m->restarts = cs_counter(r, "countersign_handshaker_restarts_total", "Handshakers that ended", NULL, 1);
	m->operations =
		cs_counter(r, "countersign_map_operations_total", "Changes made to maps and interfaces", NULL, 1);
	m->failures = cs_counter(r, "countersign_map_failures_total", "Changes that failed", NULL, 1);
	m->clock_jumps = cs_counter(r, "countersign_clock_jumps_total", "Jumps of a clock", NULL, 1);
	m->seconds = cs_histogram(r, "countersign_handshake_duration_seconds",
		"TLS handshakes, as handshakers measure them", "role", 4, cs_metric_seconds, cs_metric_nseconds);
}

struct cs_authd_metrics *cs_authd_metrics_new(struct cs_authd *a)
{
	struct cs_authd_metrics *m = calloc(1, sizeof(*m));
	if (!m)
		abort();
	m->a = a;
	make_gauges(m, a->daemon->metrics);
	make_counters(m, a->daemon->metrics);
	cs_metrics_on_render(a->daemon->metrics, on_render, m);
	return m;
}

void cs_authd_metrics_free(struct cs_authd_metrics *m)
{
	free(m);
}
