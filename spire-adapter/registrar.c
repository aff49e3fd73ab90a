#include "registrar.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include "directory.h"
#include "leader.h"
#include "log.h"
#include "registrar_service.h"

#define TICK_MS       1000 /* how old is what we know? */
#define SHUTDOWN_MS   1000
#define FOREIGN_NAMED 8 /* in the log */

struct cs_registrar {
	struct cs_daemon *daemon;
	struct cs_registrar_options options;
	struct cs_reg_plan *plan;
	struct cs_spire_server *spire;
	struct cs_reg_work *work;
	struct cs_reg_service *service;
	struct cs_grpc_server *server;
	struct cs_directory *directory;
	struct cs_leader *leader;
	struct cs_timer tick;
	bool tick_is_open;
	bool may_write;       /* as of the last look */
	struct cs_error why;  /* why not */
	struct cs_error away; /* the server is */
	bool is_away;
	bool holds; /* as of the last look */
	struct cs_check *check_spire, *check_foreign, *check_entries;
	struct cs_metric *entries, *foreign, *active, *connections, *svid_until;
};

/* ---- may anything be written? ---- */

static bool look(struct cs_registrar *r)
{
	int64_t silent_ms = cs_directory_silent_ms(r->directory);
	if (!cs_leader_is_known(r->leader, &r->why))
		cs_error_prefix(&r->why, "this registrar is not active");
	else if (!cs_leader_is(r->leader))
		cs_error_reason(
			&r->why, -EPERM, CS_R_NONE, "this registrar is not active: its identityd is not the leader");
	else if (!cs_reg_plan_directory_known(r->plan))
		cs_error_reason(&r->why, -EAGAIN, CS_R_DIRECTORY_STALE, "the directory is not complete yet");
	else if (silent_ms == INT64_MAX)
		cs_error_reason(&r->why, -EAGAIN, CS_R_DIRECTORY_STALE, "identityd's directory is away");
	else if (silent_ms > r->options.max_stale_ms)
		cs_error_reason(&r->why, -ESTALE, CS_R_DIRECTORY_STALE,
			"the cluster role has been silent for %lld s; nothing is written on what was known then",
			(long long)silent_ms / 1000);
	else
		return true;
	return false;
}

static const struct cs_error *may_write(void *data)
{
	struct cs_registrar *r = data;
	bool may = look(r);
	if (may != r->may_write && may)
		cs_info("what should be in SPIRE is known");
	else if (may != r->may_write)
		cs_warn("nothing is written in SPIRE now", cs_err(&r->why));
	r->may_write = may;
	return may ? NULL : &r->why;
}

/* ---- what happens ---- */

static void directory_begin(void *data)
{
	struct cs_registrar *r = data;
	cs_reg_plan_directory_begin(r->plan);
}

static int directory_batch(void *data, const Countersign__V1__DirectoryBatch *batch, struct cs_error *e)
{
	struct cs_registrar *r = data;
	int result = cs_reg_plan_directory_batch(r->plan, batch, cs_loop_mono_ms(&r->daemon->loop), e);
	if (batch->n_records > 0 || batch->synced)
		cs_reg_work_kick(r->work);
	return result;
}

static void leader_changed(void *data)
{
	struct cs_registrar *r = data;
	cs_info(cs_leader_is(r->leader) ? "this registrar is active" : "this registrar is not active any more");
	cs_reg_plan_set_needs_list(r->plan); /* another one wrote, or will */
	cs_reg_work_list_twice(r->work);
}

static void on_spire(void *data, const struct cs_error *why)
{
	struct cs_registrar *r = data;
	if (why) {
		r->away = *why;
		cs_reg_service_abort(r->service, why);
		cs_warn("SPIRE's server is away; what is there stays", cs_err(why), cs_why(why->reason));
	} else if (r->is_away) {
		cs_info("SPIRE's server answers");
	}
	r->is_away = why != NULL;
	cs_reg_work_kick(r->work);
}

static void name_foreign(struct cs_registrar *r)
{
	const struct cs_reg_entry *entry;
	for (size_t i = 0; i < FOREIGN_NAMED && (entry = cs_reg_plan_foreign_at(r->plan, i)); i++)
		cs_warn("an entry of SPIRE is under our SPIFFE IDs and is not ours; it is not touched",
			cs_str("entry", entry->id), cs_str("spiffe_id", entry->spiffe_id),
			cs_str("parent", entry->parent_id), cs_str("selectors", entry->selectors));
	if (cs_reg_work_is_held(r->work))
		cs_fail("foreign entries are in the way: nothing is written before they are gone; see `countersign "
			"entry "
			"list --foreign`",
			cs_u64("foreign", cs_reg_plan_foreign(r->plan)), cs_str("prefix", r->options.rules.prefix));
}

static void on_listed(void *data, const struct cs_error *why)
{
	struct cs_registrar *r = data;
	if (!why) {
		struct cs_reg_count n = cs_reg_plan_count(r->plan);
		cs_info("SPIRE's entries are listed", cs_u64("wanted", n.wanted), cs_u64("right", n.right),
			cs_u64("lingering", n.lingering), cs_u64("foreign", cs_reg_plan_foreign(r->plan)));
		name_foreign(r);
	}
	cs_reg_service_listed(r->service, why);
}

static void on_answered(void *data, const struct cs_reg_change *change, const struct cs_error *why)
{
	struct cs_registrar *r = data;
	cs_reg_service_answered(r->service, change, why);
}

static void on_idle(void *data)
{
	struct cs_registrar *r = data;
	cs_reg_service_idle(r->service);
}

static void say_held(struct cs_registrar *r)
{
	const struct cs_error *why = cs_reg_plan_held(r->plan);
	if (!why == !r->holds)
		return;
	r->holds = why != NULL;
	if (why)
		cs_warn("entries that the directory lacks are not deleted", cs_err(why));
	else
		cs_info("no entry is held back any more");
}

static void on_tick(struct cs_timer *timer)
{
	struct cs_registrar *r = timer->data;
	const struct cs_error *why = may_write(r);
	if (why)
		cs_reg_service_abort(r->service, why);
	say_held(r);
	cs_reg_work_kick(r->work);
}

static double on_random(void *data)
{
	uint32_t n;
	(void)data;
	return getrandom(&n, sizeof(n), GRND_NONBLOCK) == sizeof(n) ? (double)n / UINT32_MAX : 0.5;
}

/* ---- status and metrics ---- */

static void check_spire(struct cs_registrar *r)
{
	const struct cs_error *failure = cs_reg_work_failure(r->work);
	if (r->is_away)
		cs_check_error(r->check_spire, &r->away);
	else if (failure)
		cs_check_error(r->check_spire, failure);
	else
		cs_check_ok(r->check_spire);
}

static void check_foreign(struct cs_registrar *r)
{
	const struct cs_reg_entry *entry = cs_reg_plan_foreign_at(r->plan, 0);
	if (entry)
		cs_check_fail(r->check_foreign, CS_R_NONE,
			"%zu entries under %.200s are not ours%s; %.100s is one; see `countersign entry list "
			"--foreign`",
			cs_reg_plan_foreign(r->plan), r->options.rules.prefix,
			cs_reg_work_is_held(r->work) ? ", and nothing is written before they are gone" : "", entry->id);
	else
		cs_check_ok(r->check_foreign);
}

static void check_entries(struct cs_registrar *r)
{
	struct cs_reg_count n = cs_reg_plan_count(r->plan);
	struct cs_reg_change change;
	const struct cs_error *why = may_write(r), *held = cs_reg_plan_held(r->plan);
	struct cs_error unknown;
	if (cs_leader_is_known(r->leader, &unknown) && !cs_leader_is(r->leader)) {
		cs_check_ok(r->check_entries); /* another one does it */
		return;
	}
	if (!why && held) {
		cs_check_error(r->check_entries, held);
		return;
	}
	if (!why)
		why = cs_reg_plan_first_failure(r->plan, &change);
	if (!why)
		cs_check_ok(r->check_entries);
	else if (why == &r->why)
		cs_check_error(r->check_entries, why);
	else
		cs_check_fail(r->check_entries, why->reason,
			"%zu of %zu entries are as they should be; that of identity %u on %.100s: %.500s", n.right,
			n.wanted, change.identity, change.node, why->text);
}

static void update_checks(void *data)
{
	check_spire(data);
	check_foreign(data);
	check_entries(data);
}

static void on_render(void *data)
{
	struct cs_registrar *r = data;
	struct cs_reg_count n = cs_reg_plan_count(r->plan);
	cs_metric_set(r->entries, (double)n.wanted, "wanted");
	cs_metric_set(r->entries, (double)n.right, "right");
	cs_metric_set(r->entries, (double)n.lingering, "lingering");
	cs_metric_set(r->entries, (double)n.failing, "failing");
	cs_metric_set(r->entries, (double)n.stuck, "stuck");
	cs_metric_set(r->entries, (double)n.held, "held");
	cs_metric_set(r->foreign, (double)cs_reg_plan_foreign(r->plan));
	cs_metric_set(r->active, cs_leader_is(r->leader));
	cs_metric_set(r->connections, (double)cs_spire_server_connections(r->spire));
	cs_metric_set(r->svid_until, (double)cs_spire_server_svid_not_after_unix_s(r->spire));
}

static void add_metrics(struct cs_registrar *r)
{
	struct cs_metrics *m = r->daemon->metrics;
	r->entries = cs_gauge(m, "countersign_registrar_entries",
		"Registration entries: wanted, right (and as they should be), lingering (not needed any more), failing "
		"(the last "
		"try failed), stuck (something is missing), held (the directory lacks too many to believe it)",
		"state", 8);
	r->foreign = cs_gauge(m, "countersign_registrar_foreign_entries",
		"Entries under our SPIFFE IDs that are not ours, at the last list", NULL, 1);
	r->active = cs_gauge(m, "countersign_registrar_active", "Is this the one that writes?", NULL, 1);
	r->connections = cs_counter(m, "countersign_spire_server_connections_total",
		"Connections to SPIRE's server; it ends each after three minutes", NULL, 1);
	r->svid_until = cs_gauge(m, "countersign_registrar_svid_expiration_timestamp_seconds",
		"When the registrar's own SVID ends; 0: there is none, or none is needed", NULL, 1);
	cs_metrics_on_render(m, on_render, r);
	cs_status_on_read(r->daemon->status, update_checks, r);
}

/* ---- start and end ---- */

static int open_spire(struct cs_registrar *r, struct cs_error *e)
{
	const struct cs_spire_server_options options = {.target = r->options.server,
		.trust_domain = r->options.trust_domain,
		.agent_socket = r->options.agent_socket,
		.own_id = r->options.own_id,
		.call_ms = r->options.call_ms,
		.on_state = on_spire,
		.data = r};
	int result = cs_spire_server_new(&r->daemon->loop, &options, &r->spire, e);
	if (result < 0)
		return result;
	r->is_away = true;
	cs_error_reason(
		&r->away, -EAGAIN, CS_R_NONE, "SPIRE's server was not reached yet at %.300s", r->options.server);
	const struct cs_reg_work_options work = {.loop = &r->daemon->loop,
		.plan = r->plan,
		.server = r->spire,
		.metrics = r->daemon->metrics,
		.mark = r->options.rules.mark,
		.list_ms = r->options.list_ms,
		.events = {.may_write = may_write,
			.answered = on_answered,
			.listed = on_listed,
			.idle = on_idle,
			.data = r}};
	return cs_reg_work_new(&work, &r->work, e);
}

static int serve(struct cs_registrar *r, struct cs_error *e)
{
	struct cs_daemon *d = r->daemon;
	const struct cs_grpc_server_options options = {
		.limits = {.queue_max = CS_REG_QUEUE_MAX}, .on_refused = cs_status_refused, .refused_data = d->status};
	const struct cs_reg_service_options service = {.loop = &d->loop,
		.plan = r->plan,
		.work = r->work,
		.server = r->spire,
		.mark = r->options.rules.mark,
		.prefix = r->options.rules.prefix,
		.trust_domain = r->options.trust_domain,
		.may_write = may_write,
		.data = r};
	char path[CS_PATH];
	int result;
	if (!(r->service = cs_reg_service_new(&service)))
		return cs_error_set(e, -ENOMEM, "out of memory");
	if ((result = cs_grpc_server_new(&d->loop, &options, &r->server, e)) < 0 ||
		(result = cs_grpc_server_add(r->server, cs_reg_service_grpc(r->service), e)) < 0 ||
		(result = cs_daemon_path(d, "entries.sock", path, e)) < 0)
		return result;
	return cs_grpc_server_listen_unix(r->server, path, 0666, (gid_t)-1, d->roles, e);
}

static int follow(struct cs_registrar *r, struct cs_error *e)
{
	static const Countersign__V1__Kind kinds[] = {COUNTERSIGN__V1__KIND__KIND_NODE,
		COUNTERSIGN__V1__KIND__KIND_IDENTITY, COUNTERSIGN__V1__KIND__KIND_PLACEMENT};
	const struct cs_directory_events events = {.kinds = kinds,
		.nkinds = sizeof(kinds) / sizeof(kinds[0]),
		.begin = directory_begin,
		.batch = directory_batch,
		.data = r};
	struct cs_daemon *d = r->daemon;
	char path[CS_PATH];
	int result;
	if ((result = cs_instance_path(d->instance, "identityd", "status.sock", path, e)) < 0 ||
		(result = cs_leader_new(&d->loop, path, leader_changed, r, &r->leader, e)) < 0 ||
		(result = cs_instance_path(d->instance, "identityd", "directory.sock", path, e)) < 0)
		return result;
	return cs_directory_new(&d->loop, path, &events, cs_check_new(d->status, "directory"), &r->directory, e);
}

int cs_registrar_start(
	struct cs_daemon *d, const struct cs_registrar_options *options, struct cs_registrar **ret, struct cs_error *e)
{
	struct cs_registrar *r = calloc(1, sizeof(*r));
	if (!r)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*ret = r;
	r->daemon = d;
	r->options = *options;
	r->options.rules.random = on_random;
	r->plan = cs_reg_plan_new(&r->options.rules);
	r->check_spire = cs_check_new(d->status, "spire");
	r->check_foreign = cs_check_new(d->status, "foreign");
	r->check_entries = cs_check_new(d->status, "entries");
	int result;
	if ((result = open_spire(r, e)) < 0 || (result = serve(r, e)) < 0 || (result = follow(r, e)) < 0)
		return result;
	add_metrics(r);
	cs_timer_init(&r->tick, &d->loop, on_tick, r);
	r->tick_is_open = true;
	cs_timer_start(&r->tick, TICK_MS, TICK_MS);
	return 0;
}

void cs_registrar_stop(struct cs_registrar *r)
{
	if (!r)
		return;
	if (r->tick_is_open)
		cs_timer_close(&r->tick, NULL);
	r->tick_is_open = false;
	cs_directory_close(r->directory);
	cs_leader_close(r->leader);
	cs_reg_work_close(r->work);
	cs_reg_service_close(r->service);
	cs_spire_server_close(r->spire);
	if (r->server)
		cs_grpc_server_close(r->server, SHUTDOWN_MS, NULL, NULL);
	r->server = NULL; /* it frees itself */
}

void cs_registrar_free(struct cs_registrar *r)
{
	if (!r)
		return;
	cs_directory_free(r->directory);
	cs_leader_free(r->leader);
	cs_reg_service_free(r->service);
	cs_reg_work_free(r->work);
	cs_spire_server_free(r->spire);
	cs_reg_plan_free(r->plan);
	free(r);
}
