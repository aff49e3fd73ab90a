#include "core_private.h"

#include <errno.h>
#include "mem.h"

const char *const cs_node_paths[] = {"unknown", "trusted", "wireguard", "ipsec", "vxlan", NULL};

int64_t cs_core_now_unix_ms(const struct cs_core *core)
{
	const struct cs_clock *clock = core->config->clock ? core->config->clock : &cs_clock_system;
	return clock->unix_ms(clock->data);
}

/* --- changes --- */

void cs_changes_add_take(struct cs_changes *changes, cs_record *record)
{
	if (changes->n == changes->cap) {
		changes->cap = changes->cap ? changes->cap * 2 : 16;
		changes->records = cs_xrealloc(changes->records, changes->cap, sizeof(cs_record *));
	}
	changes->records[changes->n++] = record;
}

void cs_changes_fini(struct cs_changes *changes)
{
	for (size_t i = 0; i < changes->n; i++)
		cs_record_free(changes->records[i]);
	free(changes->records);
	*changes = (struct cs_changes){0};
}

int cs_changes_apply_take(struct cs_changes *changes, struct cs_directory *dir, struct cs_error *e)
{
	int r = 0;
	for (size_t i = 0; i < changes->n; i++) {
		cs_record *record = changes->records[i];
		if (record->deleted) {
			cs_dir_del(dir, record);
			cs_record_free(record);
		} else {
			int put = cs_dir_put_take(dir, record, e);
			r = put < 0 ? put : r;
		}
	}
	if (changes->revision != 0)
		cs_dir_set_epoch(dir, changes->epoch);
	/* The store counted, so the directory does, even if what it counted is not for the directory. */
	if (changes->revision > cs_dir_revision(dir))
		cs_dir_publish(dir, changes->revision, true);
	free(changes->records);
	*changes = (struct cs_changes){0};
	return r;
}

/* --- the store --- */

const struct cs_facts *cs_core_facts(const struct cs_core *core)
{
	return cs_store_facts(core->store);
}

void cs_core_usage(const struct cs_core *core, struct cs_store_usage *ret)
{
	cs_store_usage(core->store, ret);
}

void cs_core_state(const struct cs_core *core, struct cs_store_state *ret)
{
	cs_store_state(core->store, ret);
}

int cs_core_poll(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct cs_fact_sink sink = cs_core_sink;
	core->changes = changes;
	sink.data = core;
	return cs_store_poll(core->store, &sink, e);
}

int cs_core_lead(struct cs_core *core, struct cs_changes *changes, struct cs_error *ret_placement,
	struct cs_error *ret_policy, struct cs_error *e)
{
	ret_placement->code = ret_policy->code = 0;
	int r = cs_core_poll(core, changes, e); /* what the one before wrote last */
	if (r == 0)
		r = cs_core_write_depends(core, changes, e);
	if (r == 0)
		r = cs_core_write_shared(core, changes, e);
	if (r < 0)
		return r;
	if (cs_core_reload_placement(core, changes, ret_placement) < 0 && ret_placement->code == 0)
		ret_placement->code = -EIO;
	if (cs_core_reload_policy(core, changes, ret_policy) < 0 && ret_policy->code == 0)
		ret_policy->code = -EIO;
	return 0;
}

void cs_core_resign(struct cs_core *core)
{
	cs_store_resign(core->store);
}

/* --- opening --- */

static int open_store(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	const struct cs_core_config *c = core->config;
	struct cs_store_config config = {.path = c->store_path,
		.etcd = c->etcd,
		.trust_domain = c->trust_domain,
		.spiffe_id_template = c->spiffe_id_template,
		.cluster_id = c->numbers ? c->numbers->cluster_id : 0,
		.id_min = c->numbers ? c->numbers->min : 0,
		.id_max = c->numbers ? c->numbers->max : 0,
		.address_quarantine_ms = c->quarantine_ms,
		.id_quarantine_ms = c->id_quarantine_ms,
		.clock = c->clock,
		.notify = c->notify,
		.notify_data = c->notify_data};
	struct cs_fact_sink sink = cs_core_sink;
	core->changes = changes;
	sink.data = core;
	int r = cs_store_open(&config, &core->store, e);
	if (r == 0)
		r = cs_store_load(core->store, &sink, e);
	if (r == 0 && c->etcd)
		r = cs_store_campaign(core->store, c->advertise, e);
	return r;
}

/* SQLite: nobody else leads, so what the files say is in force before anybody hears of it. */
static int lead_alone(struct cs_core *core, struct cs_changes *changes, struct cs_error *e)
{
	struct cs_error placement, policy;
	int r = cs_core_lead(core, changes, &placement, &policy, e);
	if (r == 0 && placement.code < 0)
		*e = placement;
	else if (r == 0 && policy.code < 0)
		*e = policy;
	return r < 0 ? r : placement.code < 0 || policy.code < 0 ? e->code : 0;
}

int cs_core_open(
	const struct cs_core_config *config, struct cs_core **ret, struct cs_changes *ret_changes, struct cs_error *e)
{
	struct cs_core *core = cs_xcalloc(1, sizeof(*core));
	core->config = config;
	core->authority_name = "self";
	int r = cs_core_check_depends(core, e);
	if (r == 0)
		r = cs_core_load_authority(core, &core->authority, e);
	if (r == 0)
		r = open_store(core, ret_changes, e);
	if (r == 0)
		r = cs_core_check_numbers(core, e);
	if (r == 0)
		r = cs_core_check_policy(core, e);
	if (r == 0 && !config->etcd)
		r = lead_alone(core, ret_changes, e);
	if (r < 0) {
		cs_changes_fini(ret_changes);
		cs_core_close(core);
		return r;
	}
	*ret = core;
	return 0;
}

void cs_core_close(struct cs_core *core)
{
	if (!core)
		return;
	cs_core_facts_fini(core);
	cs_core_policy_fini(core);
	cs_authority_free(core->authority);
	cs_store_close(core->store);
	free(core);
}
