#include "identityd.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "admin_service.h"
#include "cluster.h"
#include "cluster_housekeeping.h"
#include "cluster_service.h"
#include "directory_service.h"
#include "endpoints_service.h"
#include "log.h"
#include "mem.h"
#include "node_local.h"
#include "node_remote.h"
#include "spiffe_id.h"
#include "tls.h"
#include "tls_watch.h"

#define GRACE_MS 500 /* for calls that run when we are told to end */
/* 5,000 nodes with one connection each, and some that reconnect. Their full lists of claims are what is large. */
#define CLUSTER_CONNECTIONS_MAX 6000
#define CLUSTER_MESSAGE_MAX     (16u << 20)
/* All that a node may claim at once, with the largest labels, is half of it; a flood of empty objects holds the loop up. */
#define CLUSTER_UNPACK_MAX (32u << 20)

struct cs_identityd {
	struct cs_daemon *daemon;
	const struct cs_identityd_config *config;
	char state_dir[CS_PATH], store_path[CS_PATH], registrations_dir[CS_PATH];
	char *template, *shared, hostname[CS_NODE_NAME_BYTES + 1];
	struct cs_numbers numbers;
	struct cs_label_filter *label_filter;
	struct cs_tls *tls;
	struct cs_tls_watch *tls_watch;
	/* cluster role */
	struct cs_cluster *cluster;
	struct cs_peers *peers;
	struct cs_housekeeping *housekeeping;
	struct cs_etcd_config etcd;
	char etcd_password[CS_ETCD_PASSWORD_MAX];
	struct cs_cluster_service *cluster_service;
	struct cs_directory_service *cluster_directory;
	struct cs_grpc_server *cluster_server;
	/* node role */
	struct cs_node *node;
	struct cs_link *local, *remote;
	struct cs_directory_service *node_directory;
	struct cs_endpoints_service *endpoints;
	struct cs_admin_service *admin;
	struct cs_grpc_server *directory_server, *endpoints_server, *admin_server;
	uv_signal_t sighup;
	bool has_sighup;
	struct cs_metric *records, *revision;
};

/* --- pieces --- */

static void on_fatal(void *data, const struct cs_error *e)
{
	struct cs_identityd *d = data;
	cs_daemon_fatal(d->daemon, e);
}

static void on_render(void *data)
{
	struct cs_identityd *d = data;
	static const char *const kinds[] = {"", "node", "identity", "placement", "endpoint", "prefix", "policy",
		"policy_row", "policy_default", "depends_on", "revocation"};
	const struct cs_directory *dir = d->cluster ? cs_cluster_directory(d->cluster)
					 : d->node  ? cs_node_directory(d->node)
						    : NULL;
	for (int i = 1; dir && i <= COUNTERSIGN__V1__KIND__KIND_REVOCATION; i++)
		cs_metric_set(d->records, (double)cs_dir_count(dir, (Countersign__V1__Kind)i), kinds[i]);
	if (dir)
		cs_metric_set(d->revision, (double)cs_dir_revision(dir));
}

static int make_state_dir(struct cs_identityd *d, struct cs_error *e)
{
	int r = cs_daemon_path(d->daemon, "state", d->state_dir, e);
	if (r == 0)
		r = cs_daemon_path(d->daemon, "state/store.db", d->store_path, e);
	if (r == 0)
		r = cs_daemon_path(d->daemon, "state/endpoints", d->registrations_dir, e);
	if (r < 0)
		return r;
	if (mkdir(d->state_dir, 0700) < 0 && errno != EEXIST)
		return cs_error_errno(e, -errno, "cannot make the state directory %s", d->state_dir);
	return 0;
}

static int open_tls(struct cs_identityd *d, struct cs_error *e)
{
	const struct cs_identityd_config *c = d->config;
	const struct cs_tls_files files = {.chain = c->tls_cert, .key = c->tls_key, .bundle = c->tls_bundle};
	if (!c->tls_cert[0])
		return 0;
	enum cs_tls_role role = c->role == CS_RUN_NODE ? CS_TLS_CLIENT : CS_TLS_SERVER;
	int r = cs_tls_new(role, &files, d->daemon->loop.clock, &d->tls, e);
	if (r == 0 && !(d->tls_watch = cs_tls_watch_new(&d->daemon->loop, role, &files, d->tls)))
		r = cs_error_set(e, -ENOMEM, "out of memory");
	return r;
}

/* One segment of a SPIFFE ID's path: another name has no certificate, and none can join by it. */
static bool is_node_name(const char *name)
{
	char path[CS_NODE_NAME_BYTES + 2];
	struct cs_spiffe_id id;
	struct cs_error ignored;
	if (strlen(name) > CS_NODE_NAME_BYTES || strchr(name, '/'))
		return false;
	snprintf(path, sizeof(path), "/%s", name);
	return cs_spiffe_id_make(&id, "example.org", path, &ignored) == 0;
}

/* The name in the certificate is the one that counts; in role `all` there is none. */
static int node_name(struct cs_identityd *d, const char **ret, struct cs_error *e)
{
	const char *set = d->config->node_name;
	*ret = set;
	if (d->config->role == CS_RUN_NODE) {
		*ret = cs_tls_own_name(d->tls);
		if (set[0] && strcmp(set, *ret) != 0)
			return cs_error_set(e, -EINVAL, "node.name is %s, but the certificate %s is node %s's", set,
				d->config->tls_cert, *ret);
	} else if (!set[0]) {
		if (gethostname(d->hostname, sizeof(d->hostname) - 1) < 0)
			return cs_error_errno(e, -errno, "cannot read the host's name; set node.name");
		*ret = d->hostname;
	}
	if (!is_node_name(*ret))
		return cs_error_set(e, -EINVAL,
			"'%.64s' is no name for a node: set node.name to one of A-Z a-z 0-9 . - _ (at most %d bytes)",
			*ret, CS_NODE_NAME_BYTES);
	return 0;
}

/* --- cluster role --- */

static void on_leads(void *data, bool leads)
{
	struct cs_identityd *d = data;
	cs_status_set_leadership(d->daemon->status, leads ? CS_LEADERSHIP_LEADER : CS_LEADERSHIP_FOLLOWER);
}

/* A descriptor for each node, and for those that come: as many as this process may ask for. */
static void raise_file_limit(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	if (files.rlim_max < CLUSTER_CONNECTIONS_MAX + 1024)
		cs_warn("fewer files may be open than nodes may be connected; raise LimitNOFILE",
			cs_u64("limit", files.rlim_max));
}

static void print_list(FILE *f, const char *key, const struct cs_strings *list)
{
	fprintf(f, "%s=", key);
	for (size_t i = 0; i < list->n; i++)
		fprintf(f, "%s%s", i ? "," : "", list->items[i]);
	fputc('\n', f);
}

/* What a number's label set, SPIFFE ID and rest follow from: see struct cs_core_config. */
static char *shared_settings(const struct cs_identityd_config *c, const char *template)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	cs_mem_check(f);
	print_list(f, "labels.filter", &c->label_rules);
	fprintf(f, "labels.filter_defaults=%s\n", c->label_defaults ? "true" : "false");
	fprintf(f, "spiffe_id_template=%s\n", template);
	fprintf(f, "cluster.max_clusters=%d\n", c->cluster_max == 0 ? 255 : 511);
	print_list(f, "cluster.trust_domains", &c->cluster_domains);
	print_list(f, "identity.fixed", &c->identity_fixed);
	fprintf(f, "address.quarantine=%lldms\n", (long long)c->address_quarantine_ms);
	fprintf(f, "id.quarantine=%lldms\n", (long long)c->id_quarantine_ms);
	fprintf(f, "svid.max_life=%lldms\n", (long long)c->svid_max_life_ms);
	fclose(f);
	cs_mem_check(text);
	return text;
}

static int start_cluster(struct cs_identityd *d, struct cs_error *e)
{
	const struct cs_identityd_config *c = d->config;
	if (c->spiffe_id_template[0])
		d->template = cs_xstrdup(c->spiffe_id_template);
	else if (asprintf(&d->template, "spiffe://%s/identity/{id}", c->trust_domain) < 0)
		return cs_error_set(e, -ENOMEM, "out of memory");
	d->shared = shared_settings(c, d->template);
	int r = cs_identityd_numbers(c, &d->numbers, e);
	if (r == 0)
		r = cs_label_filter_new(c->label_defaults, &c->label_rules, &d->label_filter, e);
	if (r < 0)
		return r;
	if (!c->node_name[0] && gethostname(d->hostname, sizeof(d->hostname) - 1) < 0)
		return cs_error_errno(e, -errno, "cannot read the host's name; set node.name");
	if (cs_etcd_settings_used(&c->etcd)) {
		r = cs_etcd_settings_config(&c->etcd, &d->etcd, d->etcd_password, e);
		if (r < 0)
			return r;
	}
	struct cs_cluster_options options = {.loop = &d->daemon->loop,
		.name = c->node_name[0] ? c->node_name : d->hostname,
		.core = {.store_path = d->store_path,
			.etcd = cs_etcd_settings_used(&c->etcd) ? &d->etcd : NULL,
			.trust_domain = c->trust_domain,
			.spiffe_id_template = d->template,
			.quarantine_ms = c->address_quarantine_ms,
			.id_quarantine_ms = c->id_quarantine_ms,
			.svid_max_life_ms = c->svid_max_life_ms,
			.numbers = &d->numbers,
			.label_filter = d->label_filter,
			.clock = d->daemon->loop.clock,
			.authority = (enum cs_authority_kind)c->placement_authority,
			.placement_file = c->placement_file,
			.policy_dir = c->policy_dir,
			.depends_on = c->depends_on,
			.shared = cs_etcd_settings_used(&c->etcd) ? d->shared : NULL},
		.metrics = d->daemon->metrics,
		.status = d->daemon->status,
		.on_leads = on_leads,
		.data = d};
	r = cs_cluster_new(&options, &d->cluster, e);
	explicit_bzero(d->etcd_password, sizeof(d->etcd_password)); /* the store has its own */
	return r;
}

static uint32_t cluster_silent_ms(void *data)
{
	int64_t ms = cs_cluster_silent_ms(data);
	return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

static bool is_complete(void *data)
{
	return cs_cluster_leads(data);
}

static int serve_cluster(struct cs_identityd *d, struct cs_error *e)
{
	d->peers = cs_peers_new();
	if (!d->tls) {
		cs_info("tls.cert is not set: no other node can join this cluster role");
		return 0;
	}
	raise_file_limit();
	struct cs_cluster_service_options service = {.loop = &d->daemon->loop,
		.cluster = d->cluster,
		.peers = d->peers,
		.trust_domain = d->config->trust_domain,
		.cluster_id = (uint32_t)d->config->cluster_id,
		.node_ttl_ms = d->config->node_ttl_ms,
		.metrics = d->daemon->metrics};
	d->cluster_service = cs_cluster_service_new(&service);
	struct cs_directory_service_options directory = {.loop = &d->daemon->loop,
		.dir = cs_cluster_directory(d->cluster),
		.silent_ms = cluster_silent_ms,
		.complete = is_complete,
		.data = d->cluster,
		.roles = CS_ROLE_PEER,
		.may_follow = cs_cluster_service_may_follow,
		.follow_data = d->cluster_service,
		.coalesce_ms = d->config->directory_coalesce_ms,
		.heartbeat_ms = CS_CLUSTER_BEAT_MS,
		.acks = true,
		.label = "cluster",
		.metrics = d->daemon->metrics};
	d->cluster_directory = cs_directory_service_new(&directory);
	cs_cluster_service_follow(d->cluster_service, d->cluster_directory);
	if (d->local)
		cs_link_local_published(d->local, d->cluster_directory);
	struct cs_grpc_server_options options = {.limits = {.message_max = CLUSTER_MESSAGE_MAX,
							 .unpack_max = CLUSTER_UNPACK_MAX,
							 .connections_max = CLUSTER_CONNECTIONS_MAX,
							 .calls_max = 2 * CLUSTER_CONNECTIONS_MAX},
		.on_connect = cs_cluster_service_connected,
		.on_disconnect = cs_cluster_service_disconnected,
		.data = d->cluster_service,
		.on_refused = cs_status_refused,
		.refused_data = d->daemon->status};
	int r = cs_grpc_server_new(&d->daemon->loop, &options, &d->cluster_server, e);
	if (r == 0)
		r = cs_grpc_server_add(d->cluster_server, cs_cluster_service_grpc(d->cluster_service), e);
	if (r == 0)
		r = cs_grpc_server_add(d->cluster_server, cs_directory_service_grpc(d->cluster_directory), e);
	if (r == 0)
		r = cs_grpc_server_listen_tcp(d->cluster_server, d->config->cluster_listen, cs_tls_grpc(d->tls), e);
	if (r == 0)
		cs_info("cluster role serves", cs_str("listen", d->config->cluster_listen),
			cs_u64("port", cs_grpc_server_port(d->cluster_server)));
	return r;
}

/* --- node role --- */

static int start_node(struct cs_identityd *d, struct cs_error *e)
{
	const struct cs_identityd_config *c = d->config;
	struct cs_node_options options = {.loop = &d->daemon->loop,
		.port = (uint32_t)c->node_port,
		.path = cs_node_paths[c->node_path],
		.state_dir = d->registrations_dir,
		.metrics = d->daemon->metrics,
		.status = d->daemon->status,
		.fatal = on_fatal,
		.fatal_data = d};
	int r = node_name(d, &options.name, e);
	if (r == 0)
		r = cs_identityd_addresses(c, options.addrs, &options.naddrs, e);
	if (r == 0)
		r = cs_node_new(&options, &d->node, e);
	if (r < 0)
		return r;
	cs_status_set_node(d->daemon->status, options.name);
	if (options.naddrs == 0)
		cs_warn("node.addresses is not set: no other node can authenticate with this one");
	if (d->cluster) {
		d->local = cs_link_local_new(&d->daemon->loop, d->cluster, d->node);
		return 0;
	}
	struct cs_link_remote_options remote = {.loop = &d->daemon->loop,
		.servers = &c->cluster_server,
		.tls = cs_tls_grpc(d->tls),
		.node = d->node,
		.metrics = d->daemon->metrics};
	return cs_link_remote_new(&remote, &d->remote, e);
}

static uint32_t node_silent_ms(void *data)
{
	return cs_node_silent_ms(data);
}

static int serve_on(struct cs_identityd *d, const struct cs_grpc_service *service, const char *socket,
	struct cs_grpc_server **ret, struct cs_error *e)
{
	struct cs_grpc_server_options options = {.on_refused = cs_status_refused, .refused_data = d->daemon->status};
	char path[CS_PATH];
	int r = cs_grpc_server_new(&d->daemon->loop, &options, ret, e);
	if (r == 0)
		r = cs_grpc_server_add(*ret, service, e);
	if (r == 0)
		r = cs_daemon_path(d->daemon, socket, path, e);
	/* Anybody may connect; roles decide before a byte is read. */
	if (r == 0)
		r = cs_grpc_server_listen_unix(*ret, path, 0666, (gid_t)-1, d->daemon->roles, e);
	return r;
}

static int serve_admin(struct cs_identityd *d, struct cs_error *e)
{
	d->admin = cs_admin_service_new(d->cluster, &d->config->cluster_server, d->config->gc_grace_ms);
	return serve_on(d, cs_admin_service_grpc(d->admin), "admin.sock", &d->admin_server, e);
}

static int serve_node(struct cs_identityd *d, struct cs_error *e)
{
	struct cs_directory_service_options directory = {.loop = &d->daemon->loop,
		.dir = cs_node_directory(d->node),
		.silent_ms = node_silent_ms,
		.data = d->node,
		.node = cs_node_name(d->node),
		.roles = CS_ROLE_VIEWER,
		.label = "node",
		.metrics = d->daemon->metrics};
	d->node_directory = cs_directory_service_new(&directory);
	d->endpoints = cs_endpoints_service_new(&d->daemon->loop, d->node);
	int r = serve_on(d, cs_directory_service_grpc(d->node_directory), "directory.sock", &d->directory_server, e);
	if (r == 0)
		r = serve_on(d, cs_endpoints_service_grpc(d->endpoints), "endpoints.sock", &d->endpoints_server, e);
	return r == 0 ? serve_admin(d, e) : r;
}

/* Role cluster: for people, and for the registrar beside it. */
static int serve_local(struct cs_identityd *d, struct cs_error *e)
{
	struct cs_directory_service_options directory = {.loop = &d->daemon->loop,
		.dir = cs_cluster_directory(d->cluster),
		.silent_ms = cluster_silent_ms,
		.data = d->cluster,
		.node = "",
		.roles = CS_ROLE_VIEWER,
		.label = "local",
		.metrics = d->daemon->metrics};
	d->node_directory = cs_directory_service_new(&directory);
	int r = serve_on(d, cs_directory_service_grpc(d->node_directory), "directory.sock", &d->directory_server, e);
	return r == 0 ? serve_admin(d, e) : r;
}

static void keep_house(struct cs_identityd *d)
{
	struct cs_housekeeping_options options = {.loop = &d->daemon->loop,
		.cluster = d->cluster,
		.peers = d->peers,
		.own_node = d->node ? cs_node_name(d->node) : NULL,
		.node_ttl_ms = d->config->node_ttl_ms,
		.node_grace_ms = d->config->node_grace_ms,
		.gc_grace_ms = d->config->gc_grace_ms,
		.metrics = d->daemon->metrics};
	d->housekeeping = cs_housekeeping_new(&options);
}

/* --- life --- */

static void on_sighup(uv_signal_t *handle, int signum)
{
	(void)signum;
	struct cs_identityd *d = handle->data;
	if (d->cluster)
		cs_cluster_reload(d->cluster);
}

static void catch_sighup(struct cs_identityd *d)
{
	uv_signal_init(&d->daemon->loop.uv, &d->sighup);
	d->sighup.data = d;
	d->has_sighup = true;
	uv_signal_start(&d->sighup, on_sighup, SIGHUP);
}

static void make_metrics(struct cs_identityd *d)
{
	struct cs_metrics *m = d->daemon->metrics;
	d->records = cs_gauge(m, "countersign_directory_records", "Records of the directory", "kind", 16);
	d->revision = cs_gauge(m, "countersign_directory_revision", "Revision of the directory", NULL, 1);
	cs_metrics_on_render(m, on_render, d);
}

int cs_identityd_start(struct cs_daemon *daemon, struct cs_identityd **ret, struct cs_error *e)
{
	static const char *const roles[] = {[CS_RUN_ALL] = "all", [CS_RUN_NODE] = "node", [CS_RUN_CLUSTER] = "cluster"};
	struct cs_identityd *d = cs_xcalloc(1, sizeof(*d));
	d->daemon = daemon;
	d->config = daemon->config;
	*ret = d;
	make_metrics(d);
	cs_status_set_role(daemon->status, roles[d->config->role]);
	if (d->config->role != CS_RUN_NODE)
		on_leads(d, false);
	catch_sighup(d);
	int r = make_state_dir(d, e);
	if (r == 0)
		r = open_tls(d, e);
	if (r == 0 && d->config->role != CS_RUN_NODE)
		r = start_cluster(d, e);
	if (r == 0 && d->config->role != CS_RUN_CLUSTER)
		r = start_node(d, e);
	if (r == 0 && d->cluster)
		r = serve_cluster(d, e);
	if (r == 0)
		r = d->node ? serve_node(d, e) : serve_local(d, e);
	if (r == 0 && d->cluster)
		keep_house(d);
	malloc_trim(0); /* reading a store of 65,000 identities took as much again for a moment */
	return r;
}

void cs_identityd_stop(struct cs_identityd *d)
{
	if (!d)
		return;
	/* Outside in: no new calls, then what served them, then what they used. Memory goes when the loop has ended. */
	if (d->endpoints)
		cs_endpoints_service_close(d->endpoints);
	if (d->node_directory)
		cs_directory_service_close(d->node_directory);
	if (d->cluster_directory)
		cs_directory_service_close(d->cluster_directory);
	struct cs_grpc_server *servers[] = {
		d->admin_server, d->endpoints_server, d->directory_server, d->cluster_server};
	for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++)
		if (servers[i])
			cs_grpc_server_close(servers[i], GRACE_MS, NULL, NULL);
	cs_housekeeping_close(d->housekeeping);
	cs_link_local_close(d->local);
	if (d->remote)
		cs_link_remote_close(d->remote, NULL, NULL);
	if (d->node)
		cs_node_close(d->node, NULL, NULL);
	if (d->cluster)
		cs_cluster_close(d->cluster, NULL, NULL);
	cs_tls_watch_close(d->tls_watch);
	if (d->has_sighup)
		uv_close((uv_handle_t *)&d->sighup, NULL);
}

void cs_identityd_free(struct cs_identityd *d)
{
	if (!d)
		return;
	cs_admin_service_free(d->admin);
	cs_endpoints_service_free(d->endpoints);
	cs_directory_service_free(d->node_directory);
	cs_directory_service_free(d->cluster_directory);
	cs_cluster_service_free(d->cluster_service);
	cs_housekeeping_free(d->housekeeping);
	cs_peers_free(d->peers);
	cs_node_free(d->node);
	cs_cluster_free(d->cluster);
	cs_tls_watch_free(d->tls_watch);
	cs_tls_free(d->tls);
	cs_numbers_fini(&d->numbers);
	cs_label_filter_free(d->label_filter);
	free(d->template);
	free(d->shared);
	free(d);
}
