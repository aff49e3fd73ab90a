#include "adapter.h"

#include <countersign/maps.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include "directory.h"
#include "grpc.h"
#include "keys.h"
#include "local_identities.h"
#include "log.h"
#include "reporter.h"
#include "sign_server.h"
#include "svids.h"
#include "svids_service.h"

#define TICK_MS     1000 /* old keys are wiped, expired SVIDs are said to be none */
#define SHUTDOWN_MS 1000 /* for what is still queued to followers */

struct cs_adapter {
	struct cs_daemon *daemon;
	struct cs_keys *keys;
	struct cs_svids *svids;
	struct cs_source *source;
	struct cs_local_identities *locals;
	struct cs_svids_service *service;
	struct cs_grpc_server *server;
	struct cs_sign_server *signer;
	struct cs_directory *directory;
	struct cs_reporter *reporter;
	struct cs_timer tick;
	bool tick_is_open;
	struct cs_check *check; /* "svids" */
	struct cs_metric *expiration, *rotated, *rotations, *first, *count, *held, *memory, *followers;
};

/* ---- what changed ---- */

static int64_t now_unix_ms(const struct cs_adapter *a)
{
	return cs_loop_unix_ms(&a->daemon->loop);
}

/* Costs a look at every identity: once a second, and when somebody asks. */
static void update_check(void *data)
{
	struct cs_adapter *a = data;
	struct cs_svids_item item;
	size_t ready = cs_svids_ready(a->svids), all = cs_svids_count(a->svids);
	if (ready == all) {
		cs_check_ok(a->check);
		return;
	}
	for (uint64_t at = 0; cs_svids_next(a->svids, at, &item); at = item.change) {
		const Countersign__V1__Svid *svid = item.svid;
		if (!svid || svid->generation || !cs_svids_get(a->svids, svid->identity))
			continue;
		cs_check_fail(a->check, (enum cs_reason)cs_reason_parse(svid->reason->name),
			"%zu of %zu local identities have an SVID; %s has none: %s", ready, all, svid->spiffe_id,
			svid->reason->detail);
		return;
	}
}

static void changed(struct cs_adapter *a, uint32_t identity)
{
	if (identity != CS_ID_HOST)
		cs_reporter_mark(a->reporter, identity);
	cs_svids_service_changed(a->service);
}

/* ---- the source's events ---- */

static void set_none(struct cs_adapter *a, uint32_t identity, bool withdrawn, const struct cs_error *why)
{
	cs_keys_drop(a->keys, identity);
	cs_svids_none(a->svids, identity, withdrawn, why, now_unix_ms(a));
	cs_warn("no SVID", cs_u64("identity", identity), cs_bool("withdrawn", withdrawn), cs_err(why));
	changed(a, identity);
}

static void on_svid(void *data, const struct cs_source_svid *svid)
{
	struct cs_adapter *a = data;
	struct cs_error e;
	uint64_t generation = cs_svids_next_generation(a->svids);
	const Countersign__V1__Svid *before = cs_svids_get(a->svids, svid->identity);
	bool renewed = before && before->generation;
	int64_t waiting_since_unix_ms = cs_svids_waiting_since_unix_ms(a->svids, svid->identity);
	if (cs_svids_put(a->svids, svid, now_unix_ms(a), &e) < 0) {
		EVP_PKEY_free(svid->key);
		cs_metric_add(a->rotations, 1, "failed");
		set_none(a, svid->identity, false, &e);
		return;
	}
	/* Followers hear of it from the loop, when the key is there. */
	if (cs_keys_put_take(a->keys, svid->identity, generation, svid->key, cs_loop_mono_ms(&a->daemon->loop), &e) <
		0) {
		cs_metric_add(a->rotations, 1, "failed");
		set_none(a, svid->identity, false, &e);
		return;
	}
	cs_metric_add(a->rotations, 1, renewed ? "renewed" : "first");
	if (waiting_since_unix_ms > 0)
		cs_metric_observe(a->first, (double)(now_unix_ms(a) - waiting_since_unix_ms) / 1000);
	cs_debug("a new SVID", cs_u64("identity", svid->identity), cs_bool("renewed", renewed),
		cs_i64("not_after_unix_s", svid->not_after_unix_s));
	changed(a, svid->identity);
}

static void on_none(void *data, uint32_t identity, bool withdrawn, const struct cs_error *why)
{
	set_none(data, identity, withdrawn, why);
}

static void on_bundle(void *data, const char *trust_domain, const struct cs_der *authorities, size_t n)
{
	struct cs_adapter *a = data;
	struct cs_error e;
	if (cs_svids_put_bundle(a->svids, trust_domain, authorities, n, &e) < 0)
		cs_fail("a bundle could not be kept", cs_str("trust_domain", trust_domain), cs_err(&e));
	cs_svids_service_changed(a->service);
}

/* ---- the directory's events ---- */

static void on_local(void *data, uint32_t identity, const char *spiffe_id)
{
	struct cs_adapter *a = data;
	struct cs_error e;
	if (cs_svids_expect(a->svids, identity, spiffe_id, now_unix_ms(a), &e) < 0) {
		cs_fail("an identity could not be added", cs_str("spiffe_id", spiffe_id), cs_err(&e));
		return;
	}
	cs_info("identity is local", cs_u64("identity", identity), cs_str("spiffe_id", spiffe_id));
	if (a->source->start(a->source, identity, spiffe_id, &e) < 0)
		set_none(a, identity, false, &e);
	else
		changed(a, identity);
}

static void on_touched(void *data, uint32_t identity)
{
	struct cs_adapter *a = data;
	cs_reporter_mark(a->reporter, identity);
}

static void on_not_local(void *data, uint32_t identity)
{
	struct cs_adapter *a = data;
	a->source->stop(a->source, identity);
	cs_keys_drop(a->keys, identity);
	cs_svids_forget(a->svids, identity, now_unix_ms(a));
	cs_info("identity is not local any more", cs_u64("identity", identity));
	cs_svids_service_changed(a->service);
}

static void on_synced(void *data)
{
	struct cs_adapter *a = data;
	cs_svids_set_known(a->svids);
	cs_svids_service_changed(a->service);
	cs_reporter_mark_all(a->reporter); /* identityd keeps no conditions over its restart */
}

static void on_begin(void *data)
{
	struct cs_adapter *a = data;
	cs_local_identities_begin(a->locals);
}

static int on_batch(void *data, const Countersign__V1__DirectoryBatch *batch, struct cs_error *e)
{
	struct cs_adapter *a = data;
	return cs_local_identities_batch(a->locals, batch, e);
}

/* ---- time, metrics ---- */

static void on_tick(struct cs_timer *timer)
{
	struct cs_adapter *a = timer->data;
	uint32_t identity;
	cs_keys_sweep(a->keys, cs_loop_mono_ms(&a->daemon->loop));
	while ((identity = cs_svids_expired(a->svids, now_unix_ms(a) / 1000))) {
		struct cs_error e;
		cs_error_reason(&e, -EKEYEXPIRED, CS_R_SVID_EXPIRED, "it expired, and its source gave no other");
		set_none(a, identity, false, &e);
	}
	update_check(a);
}

static void on_render(void *data)
{
	struct cs_adapter *a = data;
	struct cs_svids_item item;
	cs_metric_clear(a->expiration);
	cs_metric_clear(a->rotated);
	for (uint64_t at = 0; cs_svids_next(a->svids, at, &item); at = item.change) {
		char identity[16];
		if (!item.svid || !item.svid->generation)
			continue;
		snprintf(identity, sizeof(identity), "%u", item.svid->identity);
		cs_metric_set(a->expiration, (double)item.svid->not_after_unix_s, identity, item.svid->spiffe_id);
		cs_metric_set(a->rotated, (double)item.svid->since_unix_ms / 1000, identity, item.svid->spiffe_id);
	}
	size_t ready = cs_svids_ready(a->svids);
	cs_metric_set(a->count, (double)ready, "ready");
	cs_metric_set(a->count, (double)(cs_svids_count(a->svids) - ready), "none");
	cs_metric_set(a->held, (double)cs_keys_count(a->keys));
	cs_metric_set(a->memory, (double)CRYPTO_secure_used());
	cs_metric_set(a->followers, (double)cs_svids_service_followers(a->service));
}

static void add_metrics(struct cs_adapter *a)
{
	struct cs_metrics *m = a->daemon->metrics;
	a->expiration = cs_gauge(m, "countersign_svid_expiration_timestamp_seconds",
		"When the SVID of a local identity ends, in Unix time", "identity,spiffe_id", CS_KEYS_IDENTITIES_MAX);
	a->rotated = cs_gauge(m, "countersign_svid_last_rotation_timestamp_seconds",
		"When a local identity got the SVID that it has, in Unix time", "identity,spiffe_id",
		CS_KEYS_IDENTITIES_MAX);
	a->rotations = cs_counter(m, "countersign_svid_rotations_total",
		"SVIDs that came: an identity's first, one that renewed another, or one that could not be kept",
		"result", 3);
	a->first = cs_histogram(m, "countersign_svid_first_seconds",
		"From the moment that an identity is local to its first SVID", NULL, 1, cs_metric_seconds,
		cs_metric_nseconds);
	a->count = cs_gauge(m, "countersign_svids", "Local identities by whether they have an SVID", "state", 2);
	a->held = cs_gauge(m, "countersign_keys", "Private keys held, old generations included", NULL, 1);
	a->memory = cs_gauge(m, "countersign_key_memory_bytes", "Locked memory in use for keys", NULL, 1);
	a->followers = cs_gauge(m, "countersign_svid_followers", "Calls of Svids.Follow", NULL, 1);
	cs_metrics_on_render(m, on_render, a);
}

/* ---- start and end ---- */

static int make_state(struct cs_adapter *a, const char *source_name, struct cs_error *e)
{
	const struct cs_local_events events = {on_local, on_touched, on_not_local, on_synced, a};
	uint64_t first;
	if (RAND_bytes((unsigned char *)&first, sizeof(first)) != 1)
		return cs_error_set(e, -EIO, "no randomness for the first generation");
	a->keys = cs_keys_new();
	a->svids = cs_svids_new(source_name, first);
	a->locals = cs_local_identities_new(&events);
	if (!a->keys || !a->svids || !a->locals || !(a->service = cs_svids_service_new(&a->daemon->loop, a->svids)))
		return cs_error_set(e, -ENOMEM, "out of memory");
	return 0;
}

static int serve(struct cs_adapter *a, struct cs_error *e)
{
	struct cs_daemon *d = a->daemon;
	const struct cs_grpc_server_options options = {.on_refused = cs_status_refused, .refused_data = d->status};
	char path[CS_PATH];
	int r;
	if ((r = cs_grpc_server_new(&d->loop, &options, &a->server, e)) < 0 ||
		(r = cs_grpc_server_add(a->server, cs_svids_service_grpc(a->service), e)) < 0 ||
		(r = cs_daemon_path(d, "svids.sock", path, e)) < 0 ||
		(r = cs_grpc_server_listen_unix(a->server, path, 0666, (gid_t)-1, d->roles, e)) < 0 ||
		(r = cs_daemon_path(d, "sign.sock", path, e)) < 0)
		return r;
	return cs_sign_server_new(&d->loop, path, d->roles, a->keys, d->metrics, &a->signer, e);
}

static int follow(struct cs_adapter *a, struct cs_error *e)
{
	static const Countersign__V1__Kind kinds[] = {
		COUNTERSIGN__V1__KIND__KIND_IDENTITY, COUNTERSIGN__V1__KIND__KIND_ENDPOINT};
	const struct cs_directory_events events = {
		.kinds = kinds, .nkinds = 2, .begin = on_begin, .batch = on_batch, .data = a};
	struct cs_daemon *d = a->daemon;
	char path[CS_PATH];
	int r;
	if ((r = cs_instance_path(d->instance, "identityd", "endpoints.sock", path, e)) < 0 ||
		(r = cs_reporter_new(&d->loop, path, a->svids, cs_check_new(d->status, "reports"), &a->reporter, e)) <
			0 ||
		(r = cs_instance_path(d->instance, "identityd", "directory.sock", path, e)) < 0)
		return r;
	return cs_directory_new(&d->loop, path, &events, cs_check_new(d->status, "directory"), &a->directory, e);
}

int cs_adapter_start(struct cs_daemon *d, cs_source_open *open_source, const char *node_spiffe_id,
	struct cs_adapter **ret, struct cs_error *e)
{
	struct cs_adapter *a = calloc(1, sizeof(*a));
	if (!a)
		return cs_error_set(e, -ENOMEM, "out of memory");
	*ret = a;
	a->daemon = d;
	a->check = cs_check_new(d->status, "svids");
	const struct cs_source_events events = {on_svid, on_none, on_bundle, a};
	int r;
	if ((r = open_source(d, &events, &a->source, e)) < 0 || (r = make_state(a, a->source->name, e)) < 0 ||
		(r = serve(a, e)) < 0 || (r = follow(a, e)) < 0)
		return r;
	add_metrics(a);
	cs_timer_init(&a->tick, &d->loop, on_tick, a);
	a->tick_is_open = true;
	cs_timer_start(&a->tick, TICK_MS, TICK_MS);
	if ((r = cs_svids_expect(a->svids, CS_ID_HOST, node_spiffe_id, now_unix_ms(a), e)) < 0)
		return r;
	cs_status_on_read(d->status, update_check, a);
	return a->source->start(a->source, CS_ID_HOST, node_spiffe_id, e);
}

void cs_adapter_stop(struct cs_adapter *a)
{
	if (!a)
		return;
	if (a->tick_is_open)
		cs_timer_close(&a->tick, NULL);
	a->tick_is_open = false;
	cs_directory_close(a->directory);
	cs_reporter_close(a->reporter);
	cs_sign_server_close(a->signer);
	cs_svids_service_close(a->service);
	if (a->server)
		cs_grpc_server_close(a->server, SHUTDOWN_MS, NULL, NULL);
	a->server = NULL; /* it frees itself */
	if (a->source)
		a->source->close(a->source);
}

void cs_adapter_free(struct cs_adapter *a)
{
	if (!a)
		return;
	cs_directory_free(a->directory);
	cs_reporter_free(a->reporter);
	cs_sign_server_free(a->signer);
	cs_svids_service_free(a->service);
	if (a->source)
		a->source->free(a->source);
	cs_local_identities_free(a->locals);
	cs_svids_free(a->svids);
	cs_keys_free(a->keys);
	free(a);
}
