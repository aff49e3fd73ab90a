/* countersign-spire-adapter: settings, options, and which source. */
#include <countersign/maps.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "adapter.h"
#include "ca.h"
#include "ca_commands.h"
#include "keys.h"
#include "source_local_ca.h"
#include "source_spire.h"
#include "spiffe_id.h"

#define NODE_NAME_MAX 255

struct config {
	struct cs_daemon_config common;
	char *trust_domain, *node_name, *local_ca_dir;
	int source;
	int64_t svid_ttl_ms;
	char *agent_socket, *admin_socket;
	int64_t withdrawal_grace_ms, first_message_ms, bundle_reopen_ms;
};

static const char *const sources[] = {"local-ca", "spire", NULL};

static const struct cs_setting settings[] = {
	CS_DAEMON_SETTINGS(struct config, common),
	CS_SET_STRING(struct config, trust_domain, "trust_domain", "", 0, CS_TRUST_DOMAIN_MAX,
		"The SPIFFE trust domain of this node; must be set"),
	CS_SET_STRING(struct config, node_name, "node.name", "", 0, NODE_NAME_MAX,
		"Name of this node in the cluster; must be set"),
	CS_SET_ENUM(struct config, source, "source", "local-ca", sources,
		"Who issues SVIDs: local-ca, a CA for one machine, kept in a file; or spire, the SPIRE agent of this "
		"node"),
	CS_SET_PATH(struct config, local_ca_dir, "local_ca.dir", "/var/lib/countersign/local-ca", 1,
		"Directory of the built-in CA; the adapters of one machine may share it, no two machines may"),
	CS_SET_DURATION(struct config, svid_ttl_ms, "local_ca.svid_ttl", "1h", 5000, 30 * 86400000LL,
		"Life of an SVID of the built-in CA; it is replaced when half of it is over"),
	CS_SET_PATH(struct config, agent_socket, "spire.agent_socket", "/run/spire/sockets/agent/agent.sock", 1,
		"The SPIRE agent's Workload API socket, for the adapter's and the node's own SVIDs"),
	CS_SET_PATH(struct config, admin_socket, "spire.admin_socket", "/run/spire/sockets/admin.sock", 1,
		"The SPIRE agent's admin socket, for the SVIDs of local identities; the adapter must be one of its "
		"authorized_delegates"),
	CS_SET_DURATION(struct config, withdrawal_grace_ms, "spire.withdrawal_grace", "2s", 0, 30000,
		"How long SPIRE must leave an identity out before its SVID counts as withdrawn; tainting an authority "
		"makes gaps of up to a second"),
	CS_SET_DURATION(struct config, first_message_ms, "spire.first_message", "30s", 1000, 600000,
		"How long the agent may take to answer a new subscription before it is asked anew"),
	CS_SET_DURATION(struct config, bundle_reopen_ms, "spire.bundle_reopen", "5m", 10000, 86400000LL,
		"How often the stream of trust bundles is opened anew, because the agent does not take a trust domain "
		"out of an open one"),
};

enum option { CA_INIT, ISSUE_NODE, ISSUE_SERVER, OUT };

static const struct cs_option options[] = {
	[CA_INIT] = {.name = "ca-init", .mode = true, .help = "Make the built-in CA if it is not there, and end"},
	[ISSUE_NODE] = {.name = "issue-node",
		.arg = "NAME",
		.mode = true,
		.help = "Issue a node's certificate for identityd's mTLS into the directory --out, and end"},
	[ISSUE_SERVER] = {.name = "issue-server",
		.mode = true,
		.help = "The same for identityd's cluster role, which is the server, and end"},
	[OUT] = {.name = "out", .arg = "DIR", .help = "Where --issue-node and --issue-server write"},
};

/* "/countersign/node/<name>"; what a name may be made of, the SPIFFE ID's grammar says. */
static int node_path(const char *name, char path[64 + NODE_NAME_MAX], struct cs_error *e)
{
	if (!*name || strchr(name, '/') || strlen(name) > NODE_NAME_MAX)
		return cs_error_set(e, -EINVAL, "the node name '%s' is not 1 to %d of the characters a-z A-Z 0-9 . - _",
			name, NODE_NAME_MAX);
	snprintf(path, 64 + NODE_NAME_MAX, "/countersign/node/%s", name);
	return 0;
}

static int node_id(const struct config *c, struct cs_spiffe_id *ret, struct cs_error *e)
{
	char path[64 + NODE_NAME_MAX];
	int r = node_path(c->node_name, path, e);
	return r < 0 ? r : cs_spiffe_id_make(ret, c->trust_domain, path, e);
}

static int check(struct cs_daemon *d, struct cs_error *e)
{
	const struct config *c = d->config;
	struct cs_spiffe_id id;
	bool issues = d->options[ISSUE_NODE] || d->options[ISSUE_SERVER];
	if (!*c->trust_domain)
		return cs_error_set(e, -EINVAL, "trust_domain is not set; for example --set trust_domain=example.org");
	if (cs_trust_domain_check(c->trust_domain, strlen(c->trust_domain), e) < 0)
		return cs_error_prefix(e, "trust_domain");
	if (issues && !d->options[OUT])
		return cs_error_set(e, -EINVAL, "--out DIR is missing: where shall the certificate go?");
	if (!issues && d->options[OUT])
		return cs_error_set(e, -EINVAL, "--out goes with --issue-node or --issue-server");
	if (issues || d->options[CA_INIT])
		return 0;
	if (!*c->node_name)
		return cs_error_set(e, -EINVAL, "node.name is not set; for example --set node.name=node1");
	if (node_id(c, &id, e) < 0)
		return cs_error_prefix(e, "node.name");
	return 0;
}

static int run_mode(struct cs_daemon *d)
{
	const struct config *c = d->config;
	struct cs_error e;
	char path[64 + NODE_NAME_MAX] = "/countersign/identityd";
	int r = 0;
	if (d->options[ISSUE_NODE] && (r = node_path(d->options[ISSUE_NODE], path, &e)) < 0) {
		fprintf(stderr, "%s: %s\n", d->spec->program, e.text);
		return CS_EXIT_USAGE;
	}
	if ((r = cs_keys_lock_memory(&e)) == 0)
		r = d->options[CA_INIT] ? cs_command_ca_init(c->local_ca_dir, c->trust_domain, &e)
					: cs_command_issue(c->local_ca_dir, c->trust_domain, path, d->options[OUT], &e);
	if (r == 0)
		return 0;
	fprintf(stderr, "%s: %s\n", d->spec->program, e.text);
	return CS_EXIT_FAILURE;
}

static int open_local_ca(
	struct cs_daemon *d, const struct cs_source_events *events, struct cs_source **ret, struct cs_error *e)
{
	const struct config *c = d->config;
	struct cs_ca *ca;
	int r = cs_ca_open(c->local_ca_dir, c->trust_domain, time(NULL), &ca, NULL, e);
	return r < 0 ? r : cs_source_local_ca_new_take(&d->loop, ca, c->svid_ttl_ms / 1000, events, ret, e);
}

static int open_spire(
	struct cs_daemon *d, const struct cs_source_events *events, struct cs_source **ret, struct cs_error *e)
{
	const struct config *c = d->config;
	char files_dir[CS_PATH];
	const struct cs_source_spire_options options = {.agent_socket = c->agent_socket,
		.admin_socket = c->admin_socket,
		.trust_domain = c->trust_domain,
		.own_identity = CS_ID_HOST,
		.files_dir = files_dir,
		.quiet_ms = c->withdrawal_grace_ms,
		.watchdog_ms = c->first_message_ms,
		.bundle_reopen_ms = c->bundle_reopen_ms,
		.check = cs_check_new(d->status, "spire"),
		.metrics = d->metrics};
	int r = cs_daemon_path(d, "tls", files_dir, e);
	return r < 0 ? r : cs_source_spire_new(&d->loop, &options, events, ret, e);
}

static int start(struct cs_daemon *d, struct cs_error *e)
{
	static cs_source_open *const open_source[] = {open_local_ca, open_spire};
	const struct config *c = d->config;
	struct cs_spiffe_id id;
	int r;
	cs_status_set_node(d->status, c->node_name);
	if ((r = node_id(c, &id, e)) < 0 || (r = cs_keys_lock_memory(e)) < 0)
		return r;
	struct cs_adapter *adapter = NULL;
	r = cs_adapter_start(d, open_source[c->source], id.text, &adapter, e);
	d->app = adapter;
	if (r == 0)
		cs_daemon_ready(d);
	return r;
}

static void stop(struct cs_daemon *d)
{
	cs_adapter_stop(d->app);
}

static void fini(struct cs_daemon *d)
{
	cs_adapter_free(d->app);
}

int main(int argc, char **argv)
{
	static const struct cs_daemon_spec spec = {
		.name = "spire-adapter",
		.program = "countersign-spire-adapter",
		.summary = "Holds the keys of this node's SVIDs, says which SVIDs there are, and signs handshakes.",
		.examples = "  countersign-spire-adapter --set trust_domain=example.org --set node.name=node1\n"
			    "  countersign-spire-adapter --set trust_domain=example.org --set node.name=node1 --set "
			    "source=spire\n"
			    "  countersign-spire-adapter --set trust_domain=example.org --ca-init\n"
			    "  countersign-spire-adapter --set trust_domain=example.org --issue-node node1 --out "
			    "/etc/countersign/tls\n"
			    "  countersign-spire-adapter --set trust_domain=example.org --issue-server --out "
			    "/etc/countersign/tls\n",
		.settings = {settings, sizeof(settings) / sizeof(settings[0])},
		.options = options,
		.noptions = sizeof(options) / sizeof(options[0]),
		.config_size = sizeof(struct config),
		.common_offset = offsetof(struct config, common),
		.check = check,
		.run_mode = run_mode,
		.start = start,
		.stop = stop,
		.fini = fini,
	};
	return cs_daemon_main(&spec, argc, argv);
}
