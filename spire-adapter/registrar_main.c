/* countersign-registrar: settings. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bootstrap.h"
#include "keys.h"
#include "mem.h"
#include "registrar.h"
#include "spiffe_id.h"

#define FEDERATES_MAX 64
#define NODE          "{node}"

struct config {
	struct cs_daemon_config common;
	char *trust_domain, *server, *agent_socket, *mark, *prefix, *parent, *agent_selector;
	struct cs_strings federates_with;
	int64_t call_ms, svid_ttl_ms, linger_ms, list_ms, max_stale_ms;
};

static const struct cs_setting settings[] = {
	CS_DAEMON_SETTINGS(struct config, common),
	CS_SET_STRING(struct config, trust_domain, "trust_domain", "", 0, CS_TRUST_DOMAIN_MAX,
		"The SPIFFE trust domain of the cluster; must be set"),
	CS_SET_STRING(struct config, server, "spire.server", "unix:/run/spire/server/private/api.sock", 1, 255,
		"SPIRE's server: unix:PATH, its private socket, or HOST:PORT (8081), by mutual TLS with the "
		"registrar's own "
		"SVID, whose entry must be an admin's"),
	CS_SET_PATH(struct config, agent_socket, "spire.agent_socket", "/run/spire/sockets/agent/agent.sock", 1,
		"The SPIRE agent's Workload API socket, for the registrar's own SVID, /countersign/registrar; not used "
		"with "
		"unix:PATH"),
	CS_SET_DURATION(struct config, call_ms, "spire.call_timeout", "60s", 1000, 600000,
		"How long SPIRE's server may take for one call; after that SPIRE is listed anew, because it may have "
		"been "
		"done"),
	CS_SET_DURATION(struct config, max_stale_ms, "directory.max_stale", "60s", 1000, 86400000LL,
		"How long the cluster role may be silent before nothing is written any more"),
	CS_SET_STRING(struct config, mark, "registrar.mark", "countersign", 1, CS_REG_MARK_MAX,
		"What the IDs of our entries begin with, before a dot; of two clusters that share a SPIRE, each has "
		"its "
		"own"),
	CS_SET_STRING(struct config, prefix, "registrar.spiffe_id_prefix", "", 0, CS_SPIFFE_ID_MAX,
		"What all SPIFFE IDs of identities begin with, and nobody else's: what identityd's spiffe_id_template "
		"has "
		"before {id}; empty: spiffe://TRUST DOMAIN/identity/"),
	CS_SET_STRING(struct config, parent, "registrar.parent", "/node/" NODE, 1, 1024,
		"Path of the SPIFFE ID that is the parent of a node's entries, with " NODE
		" for its name: the node's alias, or the agent itself where its ID follows from the name"),
	CS_SET_STRING(struct config, agent_selector, "registrar.agent_selector", "", 0, 1024,
		"Find the parent by a selector of the node's agent instead, with " NODE
		" for its name; for example k8s_psat:agent_node_name:" NODE),
	CS_SET_DURATION(struct config, svid_ttl_ms, "registrar.svid_ttl", "0", 0, 366 * 86400000LL,
		"Life of the SVIDs, in whole seconds; 0: SPIRE's default"),
	CS_SET_LIST(struct config, federates_with, "registrar.federates_with", "", 0, FEDERATES_MAX,
		"Trust domains whose bundles the nodes need; SPIRE's server must have each"),
	CS_SET_DURATION(struct config, linger_ms, "registrar.linger", "10m", 0, 30 * 86400000LL,
		"How long a node keeps the entry of an identity that stopped running there; 0: not at all"),
	CS_SET_DURATION(struct config, list_ms, "registrar.list_interval", "1h", 1000, 7 * 86400000LL,
		"How often all entries of SPIRE are listed, to find what others changed"),
};

enum option { BOOTSTRAP_SPIRE };

static const struct cs_option options[] = {
	[BOOTSTRAP_SPIRE] = {.name = "bootstrap-spire",
		.arg = "OPTION",
		.mode = true,
		.rest = true,
		.help = "As the first argument: make, print or check the entries that Countersign itself needs of "
			"SPIRE, and "
			"end (--bootstrap-spire --help)"},
};

/* ---- checks ---- */

static int check_template(const char *template, const char *name, struct cs_error *e)
{
	const char *at = strstr(template, NODE);
	if (!at || strchr(template, '{') != at || strchr(at + 1, '{'))
		return cs_error_set(e, -EINVAL, "%s: '%.300s' must have " NODE " exactly once", name, template);
	return 0;
}

static int check_prefix(const struct config *c, struct cs_error *e)
{
	char start[sizeof(CS_SPIFFE_SCHEME) + CS_TRUST_DOMAIN_MAX + 1];
	size_t n = strlen(c->prefix);
	snprintf(start, sizeof(start), "%s%s/", CS_SPIFFE_SCHEME, c->trust_domain);
	if (n > 0 && (strncmp(c->prefix, start, strlen(start)) != 0 || n == strlen(start)))
		return cs_error_set(e, -EINVAL, "registrar.spiffe_id_prefix: '%.300s' must begin with %s and go on",
			c->prefix, start);
	return 0;
}

static int check_federates(const struct config *c, struct cs_error *e)
{
	for (size_t i = 0; i < c->federates_with.n; i++) {
		const char *name = c->federates_with.items[i];
		if (cs_trust_domain_check(name, strlen(name), e) < 0)
			return cs_error_prefix(e, "registrar.federates_with");
		if (strcmp(name, c->trust_domain) == 0)
			return cs_error_set(e, -EINVAL,
				"registrar.federates_with: %s is the own trust domain; SPIRE would take it, and every "
				"agent that gets such an entry stops syncing",
				name);
	}
	return 0;
}

static int check_parent(const struct config *c, struct cs_error *e)
{
	char path[1024 + 8];
	struct cs_spiffe_id id;
	int r;
	if (*c->agent_selector)
		return check_template(c->agent_selector, "registrar.agent_selector", e);
	if ((r = check_template(c->parent, "registrar.parent", e)) < 0)
		return r;
	size_t before = (size_t)(strstr(c->parent, NODE) - c->parent);
	snprintf(path, sizeof(path), "%.*sn%s", (int)before, c->parent, c->parent + before + strlen(NODE));
	if (cs_spiffe_id_make(&id, c->trust_domain, path, e) < 0)
		return cs_error_prefix(e, "registrar.parent");
	return 0;
}

static int check(struct cs_daemon *d, struct cs_error *e)
{
	static const char mark_characters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
	const struct config *c = d->config;
	int r;
	if (d->options[BOOTSTRAP_SPIRE])
		return 0; /* needs no configuration */
	if (!*c->trust_domain)
		return cs_error_set(e, -EINVAL, "trust_domain is not set; for example --set trust_domain=example.org");
	if (cs_trust_domain_check(c->trust_domain, strlen(c->trust_domain), e) < 0)
		return cs_error_prefix(e, "trust_domain");
	if (c->mark[strspn(c->mark, mark_characters)])
		return cs_error_set(
			e, -EINVAL, "registrar.mark: '%s' has other characters than a-z A-Z 0-9 _ -", c->mark);
	if (c->svid_ttl_ms % 1000)
		return cs_error_set(e, -EINVAL, "registrar.svid_ttl: SPIRE counts in whole seconds");
	if (strncmp(c->server, "unix:", strlen("unix:")) == 0 && c->server[strlen("unix:")] != '/')
		return cs_error_set(e, -EINVAL, "spire.server: '%s' needs an absolute path after unix:", c->server);
	if ((r = check_prefix(c, e)) < 0 || (r = check_parent(c, e)) < 0)
		return r;
	return check_federates(c, e);
}

static int run_mode(struct cs_daemon *d)
{
	fprintf(stderr, "%s: --bootstrap-spire is the first argument; what follows is its own\n", d->spec->program);
	return CS_EXIT_USAGE;
}

/* ---- life ---- */

struct app {
	struct cs_registrar *registrar;
	char own_id[CS_SPIFFE_ID_MAX + 1], prefix[CS_SPIFFE_ID_MAX + 1];
	char *federates; /* lines */
};

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted, without repeats. */
static char *lines_of(struct cs_strings *list)
{
	char *lines = cs_xcalloc(list->n + 1, CS_TRUST_DOMAIN_MAX + 2), *at = lines;
	if (list->n > 0)
		qsort(list->items, list->n, sizeof(*list->items), by_text);
	for (size_t i = 0; i < list->n; i++)
		if (i == 0 || strcmp(list->items[i], list->items[i - 1]) != 0)
			at += sprintf(at, "%s%s", at > lines ? "\n" : "", list->items[i]);
	return lines;
}

static int start(struct cs_daemon *d, struct cs_error *e)
{
	struct config *c = d->config;
	struct app *app = d->app = cs_xcalloc(1, sizeof(*app));
	int r = cs_keys_lock_memory(e);
	if (r < 0)
		return r;
	snprintf(app->own_id, sizeof(app->own_id), "%s%s%s", CS_SPIFFE_SCHEME, c->trust_domain, CS_REGISTRAR_PATH);
	snprintf(app->prefix, sizeof(app->prefix), "%s", c->prefix);
	if (!*c->prefix)
		snprintf(app->prefix, sizeof(app->prefix), "%s%s/identity/", CS_SPIFFE_SCHEME, c->trust_domain);
	app->federates = lines_of(&c->federates_with);
	const struct cs_registrar_options options = {.server = c->server,
		.agent_socket = c->agent_socket,
		.trust_domain = c->trust_domain,
		.own_id = app->own_id,
		.rules = {.trust_domain = c->trust_domain,
			.mark = c->mark,
			.prefix = app->prefix,
			.parent = c->parent,
			.agent_selector = c->agent_selector,
			.federates_with = app->federates,
			.ttl_s = (int32_t)(c->svid_ttl_ms / 1000),
			.linger_ms = c->linger_ms},
		.call_ms = c->call_ms,
		.list_ms = c->list_ms,
		.max_stale_ms = c->max_stale_ms};
	r = cs_registrar_start(d, &options, &app->registrar, e);
	if (r == 0)
		cs_daemon_ready(d);
	return r;
}

static void stop(struct cs_daemon *d)
{
	struct app *app = d->app;
	cs_registrar_stop(app->registrar);
}

static void fini(struct cs_daemon *d)
{
	struct app *app = d->app;
	cs_registrar_free(app->registrar);
	free(app->federates);
	free(app);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--bootstrap-spire") == 0)
		return cs_bootstrap_main(argc - 2, argv + 2);
	static const struct cs_daemon_spec spec = {
		.name = "registrar",
		.program = "countersign-registrar",
		.summary = "Keeps SPIRE's registration entries equal to what the directory says: one per identity and "
			   "node.",
		.examples = "  countersign-registrar --set trust_domain=example.org --set "
			    "spire.server=unix:/run/spire/server/private/api.sock\n"
			    "  countersign-registrar --set trust_domain=example.org --set "
			    "spire.server=spire.example.org:8081\n"
			    "  countersign-registrar --config /etc/countersign/registrar.yaml --check-config\n",
		.settings = {settings, sizeof(settings) / sizeof(settings[0])},
		.config_size = sizeof(struct config),
		.common_offset = offsetof(struct config, common),
		.options = options,
		.noptions = sizeof(options) / sizeof(options[0]),
		.check = check,
		.run_mode = run_mode,
		.start = start,
		.stop = stop,
		.fini = fini,
	};
	return cs_daemon_main(&spec, argc, argv);
}
