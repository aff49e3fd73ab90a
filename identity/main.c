/* countersign-identityd: settings and options. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "identityd.h"
#include "labels_filter.h"
#include "policy_check.h"
#include "spiffe_id.h"
#include "store.h"
#include "store_commands.h"

static const char *const roles[] = {"all", "node", "cluster", NULL};
static const char *const clusters[] = {"255", "511", NULL};
static const char *const authorities[] = {"self", "static", NULL};

#define C struct cs_identityd_config
static const struct cs_setting settings[] = {
	CS_DAEMON_SETTINGS(C, common),
	CS_SET_ENUM(C, role, "role", "all", roles,
		"all: cluster role and node role in one process; node: a node that follows a cluster role elsewhere; "
		"cluster: the cluster role alone, one of several replicas if the store is in etcd"),
	CS_SET_STRING(C, trust_domain, "trust_domain", "", 0, CS_TRUST_DOMAIN_MAX,
		"The SPIFFE trust domain of this cluster; must be set in role all"),
	CS_SET_STRING(C, spiffe_id_template, "spiffe_id_template", "", 0, CS_SPIFFE_ID_MAX,
		"SPIFFE ID of a new identity, with {id} once; empty: spiffe://TRUST_DOMAIN/identity/{id}"),
	CS_SET_STRING(C, node_name, "node.name", "", 0, CS_NODE_NAME_BYTES,
		"Name of this node; empty: the host's name, in role node the one in the certificate; role cluster: "
		"what "
		"people call this replica"),
	CS_SET_LIST(C, node_addresses, "node.addresses", "", 0, CS_NODE_ADDRS_MAX,
		"Addresses at which other nodes reach authd of this node, the preferred one first"),
	CS_SET_INT(C, node_port, "node.port", "4250", 1, 65535, NULL, "Port of authd of this node"),
	CS_SET_ENUM(C, node_path, "node.path", "unknown", cs_node_paths,
		"What protects packets between this node and others on their way"),
	CS_SET_STRING(C, cluster_listen, "cluster.listen", "[::]:4251", 1, 255,
		"Where the cluster role serves other nodes, if tls.cert is set"),
	CS_SET_LIST(C, cluster_server, "cluster.server", "", 0, CS_REPLICAS_MAX,
		"HOST:PORT of every replica of the cluster role; role node"),
	CS_SET_INT(C, cluster_id, "cluster.id", "0", 0, 511, NULL,
		"Number of this cluster among those that know each other; identities of cluster N begin at N shifted "
		"left "
		"by 16 bits (15 with cluster.max_clusters 511); 0: a cluster of its own, identities from 256; cannot "
		"be "
		"changed once identities were given; role all"),
	CS_SET_ENUM(C, cluster_max, "cluster.max_clusters", "255", clusters,
		"How many clusters there can be: 255 of 65536 identities each, or 511 of 32768; the same in all of "
		"them; "
		"role all"),
	CS_SET_LIST(C, cluster_domains, "cluster.trust_domains", "", 0, 511,
		"CLUSTER=TRUST_DOMAIN of other clusters: an identity of their range from another trust domain is "
		"trust-domain-mismatch; role all"),
	CS_SET_LIST(C, identity_fixed, "identity.fixed", "", 0, 128,
		"NUMBER=NAME, user-reserved identities from 128 to 255: endpoints with the label "
		"io.cilium.fixed-identity=NAME get that number; role all"),
	CS_SET_LIST(C, label_rules, "labels.filter", "", 0, CS_LABEL_FILTER_MAX,
		"Which labels of endpoints make identities, as Cilium has it: [SOURCE:][!]PATTERN includes or (!) "
		"ignores "
		"keys that begin with a match of PATTERN; with an include rule only what is included counts; role all"),
	CS_SET_BOOL(C, label_defaults, "labels.filter_defaults", "true",
		"Whether Cilium's own rules come before labels.filter: without pod-template-hash and the like, with "
		"the "
		"namespace and app.kubernetes.io; role all"),
	CS_SET_PATH(C, tls_cert, "tls.cert", "", 0,
		"Certificate chain for mTLS: of spiffe://TRUST_DOMAIN/countersign/identityd in role all, of "
		"spiffe://TRUST_DOMAIN/countersign/node/NAME in role node"),
	CS_SET_PATH(C, tls_key, "tls.key", "", 0, "Its key"),
	CS_SET_PATH(C, tls_bundle, "tls.bundle", "", 0, "Authorities of the trust domain"),
	CS_SET_PATH(C, policy_dir, "policy.dir", "", 0,
		"Directory of CiliumNetworkPolicy files (*.yaml, *.yml), read again when it changes; write files "
		"elsewhere and "
		"rename them into it; role all"),
	CS_SET_ENUM(C, placement_authority, "placement.authority", "self", authorities,
		"Who says that an identity may run on a node; self: the node does"),
	CS_SET_PATH(C, placement_file, "placement.file", "", 0,
		"The file of the placement authority static, read again when it changes"),
	CS_SET_DURATION(C, address_quarantine_ms, "address.quarantine", "75s", 0, 86400000,
		"For how long an address that an endpoint let go is not given to another identity; longer than authd's "
		"directory.max_stale"),
	CS_SET_DURATION(C, id_quarantine_ms, "id.quarantine", "26h", 0, 366 * 86400000LL,
		"For how long the number of a deleted identity is not given again; longer than svid.max_life and "
		"auth.max_ttl together; role all"),
	CS_SET_DURATION(C, svid_max_life_ms, "svid.max_life", "24h", 60000, 365 * 86400000LL,
		"The longest that any SVID of an identity lives, whoever issues it; role all"),
	CS_SET_DURATION(C, auth_max_ttl_ms, "auth.max_ttl", "1h", 10000, 86400000,
		"The longest auth.max_ttl of any node's authd; role all"),
	CS_SET_DURATION(C, node_ttl_ms, "node.ttl", "60s", 2000, 86400000,
		"A node that the cluster role has not heard for so long is gone, and its record says so"),
	CS_SET_DURATION(C, node_grace_ms, "node.grace", "10m", 0, 7 * 86400000LL,
		"How much longer a node that is gone keeps its endpoints and its address"),
	CS_SET_DURATION(C, gc_grace_ms, "gc.grace", "30m", 1000, 365 * 86400000LL,
		"For how long an identity without any endpoint is kept"),
	CS_SET_DURATION(C, directory_coalesce_ms, "directory.coalesce", "50ms", 0, 5000,
		"The least time between two batches of changes to one node; the first after a quiet while goes at "
		"once"),
	CS_SET_LIST(C, depends_on, "depends_on", "", 0, 256,
		"What must be reachable before anything is authenticated (SPIRE, DNS): NAME=LABEL[;LABEL...] or "
		"NAME=PREFIX"),
	CS_ETCD_SETTINGS(C, etcd),
};
#undef C

enum option { ROLE, CHECK_POLICY, COPY_STORE, TO, NEW_EPOCH };

static const struct cs_option options[] = {
	[ROLE] = {.name = "role", .arg = "all|node|cluster", .help = "The same as --set role="},
	[CHECK_POLICY] = {.name = "check-policy",
		.arg = "FILE",
		.mode = true,
		.rest = true,
		.help = "As the first argument: say what policies in files or directories would do, and end "
			"(--check-policy --help)"},
	[COPY_STORE] = {.name = "copy-store",
		.arg = "STORE",
		.mode = true,
		.help = "Copy this store (sqlite, etcd, or the path of a SQLite file) to the one of --to, and end"},
	[TO] = {.name = "to", .arg = "STORE", .help = "Where --copy-store copies to; it must be empty"},
	[NEW_EPOCH] = {.name = "new-epoch",
		.arg = "STORE",
		.mode = true,
		.help = "Give a store that was restored from a backup a new epoch, and end"},
};

int cs_identityd_addresses(
	const struct cs_identityd_config *c, struct cs_ip ret[CS_NODE_ADDRS_MAX], size_t *ret_n, struct cs_error *e)
{
	int r = 0;
	*ret_n = 0;
	for (size_t i = 0; i < c->node_addresses.n && r == 0; i++) {
		r = cs_ip_parse(c->node_addresses.items[i], &ret[i], e);
		if (r == 0)
			r = cs_ip_check_unicast(&ret[i], e);
		*ret_n = i + 1;
	}
	return r < 0 ? cs_error_prefix(e, "node.addresses") : 0;
}

int cs_identityd_numbers(const struct cs_identityd_config *c, struct cs_numbers *ret, struct cs_error *e)
{
	const struct cs_numbers_config config = {.cluster_id = c->cluster_id,
		.clusters_max = c->cluster_max == 0 ? 255 : 511,
		.trust_domain = c->trust_domain,
		.domains = c->cluster_domains,
		.fixed = c->identity_fixed};
	return cs_numbers_init(ret, &config, e);
}

static int check_cluster(const struct cs_identityd_config *c, struct cs_error *e)
{
	if (!c->tls_cert[0])
		return cs_error_set(
			e, -EINVAL, "tls.cert is not set: nodes reach role cluster by mutual TLS, and only so");
	if (c->node_addresses.n > 0)
		return cs_error_set(e, -EINVAL, "node.addresses is for a node; in role cluster there is none");
	return 0;
}

static int check_all(const struct cs_identityd_config *c, struct cs_error *e)
{
	if (!c->trust_domain[0])
		return cs_error_set(e, -EINVAL, "trust_domain is not set; for example --set trust_domain=example.org");
	if (cs_trust_domain_check(c->trust_domain, strlen(c->trust_domain), e) < 0)
		return cs_error_prefix(e, "trust_domain");
	struct cs_numbers numbers;
	if (cs_identityd_numbers(c, &numbers, e) < 0)
		return e->code;
	cs_numbers_fini(&numbers);
	struct cs_label_filter *filter;
	if (cs_label_filter_new(c->label_defaults, &c->label_rules, &filter, e) < 0)
		return cs_error_prefix(e, "labels.filter");
	cs_label_filter_free(filter);
	if (c->spiffe_id_template[0] && cs_spiffe_template_check(c->spiffe_id_template, c->trust_domain, e) < 0)
		return cs_error_prefix(e, "spiffe_id_template");
	if (cs_store_quarantine_check(c->id_quarantine_ms, c->svid_max_life_ms, c->auth_max_ttl_ms, e) < 0)
		return e->code;
	if (c->placement_authority == CS_AUTHORITY_STATIC && !c->placement_file[0])
		return cs_error_set(e, -EINVAL, "placement.authority is static, but placement.file is not set");
	if (c->cluster_server.n > 0)
		return cs_error_set(e, -EINVAL, "cluster.server is for role node; here is the cluster role itself");
	if (c->role == CS_RUN_ALL && cs_etcd_settings_used(&c->etcd))
		return cs_error_set(e, -EINVAL,
			"etcd.endpoints is for role cluster: a replica that does not lead cannot serve a node in the "
			"same "
			"process; run the node role beside it");
	return c->role == CS_RUN_CLUSTER ? check_cluster(c, e) : 0;
}

static int check_node(const struct cs_identityd_config *c, struct cs_error *e)
{
	if (c->cluster_server.n == 0)
		return cs_error_set(
			e, -EINVAL, "cluster.server is not set; for example --set cluster.server=10.0.0.1:4251");
	if (!c->tls_cert[0])
		return cs_error_set(e, -EINVAL, "tls.cert is not set: role node needs this node's certificate");
	if (c->node_addresses.n == 0)
		return cs_error_set(e, -EINVAL, "node.addresses is not set: where do other nodes reach this one?");
	if (c->policy_dir[0] || c->placement_file[0])
		return cs_error_set(e, -EINVAL, "policy.dir and placement.file are for the cluster role");
	if (cs_etcd_settings_used(&c->etcd))
		return cs_error_set(e, -EINVAL, "etcd.endpoints is for role cluster: nodes know nothing of the store");
	if (c->cluster_id != 0 || c->cluster_domains.n > 0 || c->identity_fixed.n > 0)
		return cs_error_set(
			e, -EINVAL, "cluster.id, cluster.trust_domains and identity.fixed are for role all");
	return 0;
}

static int check(struct cs_daemon *d, struct cs_error *e)
{
	struct cs_identityd_config *c = d->config;
	struct cs_ip addrs[CS_NODE_ADDRS_MAX];
	size_t n;
	if (d->options[CHECK_POLICY])
		return 0; /* needs no configuration */
	if (d->options[ROLE]) {
		char assignment[64];
		snprintf(assignment, sizeof(assignment), "role=%.40s", d->options[ROLE]);
		if (cs_settings_set(&d->spec->settings, c, assignment, e) < 0)
			return e->code;
	}
	if (!c->tls_cert[0] != !c->tls_key[0] || !c->tls_cert[0] != !c->tls_bundle[0])
		return cs_error_set(e, -EINVAL, "tls.cert, tls.key and tls.bundle go together");
	if (cs_identityd_addresses(c, addrs, &n, e) < 0)
		return e->code;
	return c->role == CS_RUN_NODE ? check_node(c, e) : check_all(c, e);
}

static int run_mode(struct cs_daemon *d)
{
	if (d->options[NEW_EPOCH])
		return cs_store_command_new_epoch(d, d->options[NEW_EPOCH]);
	if (d->options[COPY_STORE] && d->options[TO])
		return cs_store_command_copy(d, d->options[COPY_STORE], d->options[TO]);
	if (d->options[COPY_STORE]) {
		fprintf(stderr, "%s: --copy-store needs --to\n", d->spec->program);
		return CS_EXIT_USAGE;
	}
	fprintf(stderr, "%s: --check-policy is the first argument; what follows is its own\n", d->spec->program);
	return CS_EXIT_USAGE;
}

static int start(struct cs_daemon *d, struct cs_error *e)
{
	struct cs_identityd *app = NULL;
	int r = cs_identityd_start(d, &app, e);
	d->app = app;
	if (r == 0)
		cs_daemon_ready(d);
	return r;
}

static void stop(struct cs_daemon *d)
{
	cs_identityd_stop(d->app);
}

static void fini(struct cs_daemon *d)
{
	cs_identityd_free(d->app);
}

int main(int argc, char **argv)
{
	static const struct cs_daemon_spec spec = {
		.name = "identityd",
		.program = "countersign-identityd",
		.summary =
			"Who is who and where: labels, identities, endpoints, placements and policy, as one directory",
		.examples = "  countersign-identityd --role all --set trust_domain=example.org --set "
			    "node.addresses=10.0.0.1\n"
			    "  countersign-identityd --role node --config /etc/countersign/identityd.yaml\n"
			    "  countersign-identityd --role cluster --config /etc/countersign/identityd-cluster.yaml\n"
			    "  countersign-identityd --check-policy /etc/countersign/policies --strict\n",
		.settings = {settings, sizeof(settings) / sizeof(settings[0])},
		.options = options,
		.noptions = sizeof(options) / sizeof(options[0]),
		.config_size = sizeof(struct cs_identityd_config),
		.common_offset = offsetof(struct cs_identityd_config, common),
		.check = check,
		.run_mode = run_mode,
		.start = start,
		.stop = stop,
		.fini = fini,
	};
	if (argc > 1 && strcmp(argv[1], "--check-policy") == 0)
		return cs_policy_check_main(argc - 2, argv + 2);
	return cs_daemon_main(&spec, argc, argv);
}
