/* What the configuration files of spire-agent and spire-server say. */
#include <string.h>
#include "bootstrap.h"
#include "settings.h"

#define DEFAULT_SYNC_MS   5000
#define DEFAULT_TTL_MS    3600000
#define DEFAULT_CA_TTL_MS 86400000
#define SLOWEST_SYNC_MS   5000
#define CA_SHARE          6 /* the server warns if an SVID lives for more than this part of a CA's life */

/* A duration of Go as far as SPIRE's files have them ("1h30m", "500ms"); the default if it is not there or no duration. */
static int64_t duration_ms(const struct cs_spire_conf *conf, const char *path, int64_t otherwise_ms)
{
	const char *text = cs_spire_conf_get(conf, path);
	int64_t ms;
	struct cs_error e;
	return text && cs_duration_parse(text, &ms, &e) == 0 ? ms : otherwise_ms;
}

static void check_trust_domain(const struct cs_bootstrap *b, const struct cs_spire_conf *conf, const char *path,
	const char *file, struct cs_findings *f)
{
	const char *domain = cs_spire_conf_get(conf, path);
	if (!domain || strcmp(domain, b->trust_domain) != 0)
		cs_findings_add(f, "other-trust-domain", file,
			"give the file, or --trust-domain, of the same installation", "%s is %.300s, not %s", path,
			domain ? domain : "not set", b->trust_domain);
}

/* ---- the agent ---- */

static void check_delegates(
	const struct cs_bootstrap *b, const struct cs_spire_conf *conf, const char *file, struct cs_findings *f)
{
	char id[CS_SPIRE_ID];
	snprintf(id, sizeof(id), "spiffe://%s/countersign/spire-adapter", b->trust_domain);
	if (!cs_spire_conf_lists(conf, "agent.authorized_delegates", id))
		cs_findings_add(f, "not-a-delegate", file, "add it to authorized_delegates and restart the agent",
			"authorized_delegates does not have %s: the agent gives the adapter no SVID of any workload",
			id);
}

static size_t dir_len(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? (size_t)(slash - path) : 0;
}

static void check_admin_socket(const struct cs_spire_conf *conf, const char *file, struct cs_findings *f)
{
	const char *admin = cs_spire_conf_get(conf, "agent.admin_socket_path");
	const char *api = cs_spire_conf_get(conf, "agent.socket_path");
	if (!admin) {
		cs_findings_add(f, "no-admin-socket", file,
			"set admin_socket_path, and spire.admin_socket of the adapter to it",
			"admin_socket_path is not set: there is no Delegated Identity API to ask");
		return;
	}
	size_t n = api ? dir_len(api) : 0;
	if (n && strncmp(admin, api, n) == 0 && admin[n] == '/')
		cs_findings_add(f, "no-admin-socket", file, "put admin_socket_path into a directory of its own",
			"admin_socket_path %.300s is in or under the directory of socket_path: the agent does not "
			"start",
			admin);
}

static void check_paths(
	const struct cs_bootstrap *b, const struct cs_spire_conf *conf, const char *file, struct cs_findings *f)
{
	const char *discover =
		cs_spire_conf_get(conf, "plugins.WorkloadAttestor.unix.plugin_data.discover_workload_path");
	bool wanted = false;
	for (size_t i = 0; i < b->adapter_selectors.n; i++)
		wanted |= strncmp(b->adapter_selectors.items[i], "unix:path:", 10) == 0 ||
			  strncmp(b->adapter_selectors.items[i], "unix:sha256:", 12) == 0;
	if (wanted && (!discover || strcmp(discover, "true") != 0))
		cs_findings_add(f, "paths-not-discovered", file,
			"set discover_workload_path = true in plugin_data of WorkloadAttestor \"unix\", or give "
			"--adapter-selector",
			"the adapter's selector is the path of its program, and this agent does not look at paths");
}

static void check_sync(
	const struct cs_bootstrap *b, const struct cs_spire_conf *conf, const char *file, struct cs_findings *f)
{
	int64_t sync_ms = duration_ms(conf, "agent.experimental.sync_interval", DEFAULT_SYNC_MS);
	int64_t ttl_ms = b->ttl_s ? b->ttl_s * 1000 : DEFAULT_TTL_MS;
	if (sync_ms > SLOWEST_SYNC_MS)
		cs_findings_add(f, "slow-sync", file, "sync_interval = \"1s\" in experimental { } of the agent",
			"the agent asks for changes every %lld s: that long a new workload waits for its SVID, and "
			"that long one "
			"that left keeps it",
			(long long)sync_ms / 1000);
	if (ttl_ms < 4 * sync_ms)
		cs_findings_add(f, "short-ttl", file, "a longer --ttl, or a shorter sync_interval",
			"SVIDs that live for %lld s are renewed at half of that, which a sync every %lld s may miss",
			(long long)ttl_ms / 1000, (long long)sync_ms / 1000);
}

int cs_bootstrap_check_agent_config(
	const struct cs_bootstrap *b, const char *file, struct cs_findings *f, struct cs_error *e)
{
	struct cs_spire_conf conf;
	int r = cs_spire_conf_read(file, &conf, e);
	if (r < 0)
		return r;
	if (!cs_spire_conf_has(&conf, "agent")) {
		cs_spire_conf_fini(&conf);
		return cs_error_set(e, -EINVAL, "%s has no block 'agent': it is no configuration of spire-agent", file);
	}
	check_trust_domain(b, &conf, "agent.trust_domain", file, f);
	check_delegates(b, &conf, file, f);
	check_admin_socket(&conf, file, f);
	check_paths(b, &conf, file, f);
	check_sync(b, &conf, file, f);
	cs_spire_conf_fini(&conf);
	return 0;
}

/* ---- the server ---- */

static void check_ttls(
	const struct cs_bootstrap *b, const struct cs_spire_conf *conf, const char *file, struct cs_findings *f)
{
	int64_t ttl_ms = duration_ms(conf, "server.default_x509_svid_ttl", DEFAULT_TTL_MS);
	int64_t ca_ms = duration_ms(conf, "server.ca_ttl", DEFAULT_CA_TTL_MS);
	if (b->ttl_s)
		ttl_ms = b->ttl_s * 1000;
	if (ttl_ms > ca_ms / CA_SHARE)
		cs_findings_add(f, "ttl-beyond-ca", file, "a longer ca_ttl, or a shorter default_x509_svid_ttl",
			"SVIDs are to live for %lld s and a CA for %lld s: towards its end SVIDs are cut short, and "
			"are renewed all at "
			"once",
			(long long)ttl_ms / 1000, (long long)ca_ms / 1000);
	int64_t reload_ms = duration_ms(conf, "server.experimental.cache_reload_interval", DEFAULT_SYNC_MS);
	if (reload_ms > SLOWEST_SYNC_MS)
		cs_findings_add(f, "slow-sync", file,
			"cache_reload_interval = \"1s\" in experimental { } of the server",
			"the server sees changes of entries every %lld s only: that long a new workload waits, the "
			"agent's sync on top",
			(long long)reload_ms / 1000);
}

int cs_bootstrap_check_server_config(
	const struct cs_bootstrap *b, const char *file, struct cs_findings *f, struct cs_error *e)
{
	struct cs_spire_conf conf;
	int r = cs_spire_conf_read(file, &conf, e);
	if (r < 0)
		return r;
	if (!cs_spire_conf_has(&conf, "server")) {
		cs_spire_conf_fini(&conf);
		return cs_error_set(
			e, -EINVAL, "%s has no block 'server': it is no configuration of spire-server", file);
	}
	check_trust_domain(b, &conf, "server.trust_domain", file, f);
	check_ttls(b, &conf, file, f);
	if (cs_spire_conf_has(&conf, "plugins.KeyManager.memory"))
		cs_findings_add(f, "keys-in-memory", file, "KeyManager \"disk\", with keys_path",
			"the server's keys are in memory: after its restart there is another CA, and agents end that "
			"know the old one");
	cs_spire_conf_fini(&conf);
	return 0;
}
