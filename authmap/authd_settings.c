#include "authd_settings.h"

static const char *const attach_modes[] = {"auto", "tcx", "clsact", NULL};
static const char *const csum_modes[] = {"auto", "kfunc", "pseudo-header", NULL};
static const char *const fail_modes[] = {"keep", "close", NULL};

#ifndef CS_LIBEXEC
#define CS_LIBEXEC "/usr/libexec/countersign"
#endif

#define C struct cs_authd_config
static const struct cs_setting rows[] = {
	CS_DAEMON_SETTINGS(C, common),
	CS_SET_DURATION(C, max_ttl_ms, "auth.max_ttl", "1h", 10000, 86400000,
		"How far ahead an entry may reach at most; it is lengthened while the certificates live"),
	CS_SET_BOOL(C, hold, "hold.enabled", "true",
		"Hold the packets of a pair that is not authenticated yet, and send them after the verdict; otherwise "
		"they are dropped and their senders try again"),
	CS_SET_INT(C, hold_bytes, "hold.max_bytes", "16777216", 65536, 1073741824, "bytes",
		"Held packets of all pairs together"),
	CS_SET_PATH(C, bpffs, "datapath.bpffs", "/sys/fs/bpf", 1,
		"A mounted bpffs that outlives this daemon; maps and links are pinned under countersign/INSTANCE/"),
	CS_SET_ENUM(C, attach, "datapath.attach", "auto", attach_modes,
		"How the programs are attached; auto is tcx where the kernel has it (6.6), else clsact"),
	CS_SET_ENUM(C, csum, "datapath.csum", "auto", csum_modes,
		"How checksums of held packets are known; auto is kfunc where the kernel has it"),
	CS_SET_BOOL(C, audit, "datapath.audit", "false",
		"Drop nothing at all on this node: what would have been dropped is counted and recorded"),
	CS_SET_BOOL(C, host_passes, "datapath.host_passes", "true",
		"What this node itself sends to its endpoints passes (probes); otherwise policy judges it"),
	CS_SET_INT(C, endpoints, "maps.endpoints", "4096", 16, 65536, "rows",
		"Endpoints, where interface indices are too large for an array"),
	CS_SET_INT(C, addresses, "maps.addresses", "262144", 64, 4194304, "rows",
		"Addresses of all endpoints and nodes, of each family"),
	CS_SET_INT(C, prefixes, "maps.prefixes", "16384", 16, 1048576, "rows",
		"CIDR identities and depends_on prefixes, of each family"),
	CS_SET_INT(C, policy_rows, "maps.policy", "262144", 64, 4194304, "rows", "Pairs that a rule names"),
	CS_SET_INT(C, entries, "maps.entries", "65536", 64, 1048576, "rows", "Authenticated pairs"),
	CS_SET_INT(
		C, pending, "maps.pending", "16384", 64, 1048576, "rows", "Pairs that are asked for or were refused"),
	CS_SET_INT(C, flows, "maps.flows", "65536", 64, 4194304, "rows", "Flows whose replies pass a deny"),
	CS_SET_INT(C, nodes, "maps.nodes", "8192", 16, 65535, "rows", "Nodes"),
	CS_SET_DURATION(C, max_stale_ms, "directory.max_stale", "60s", 15000, 86400000,
		"After so long a silence of the directory nothing new is authenticated; heartbeats come within 10s"),
	CS_SET_ENUM(C, directory_fail, "directory.fail", "keep", fail_modes,
		"What becomes of entries in use after directory.max_stale: keep, or close"),
	CS_SET_INT(C, handshakers, "handshaker.count", "0", 0, 64, "processes", "Handshakers; 0 is one per core"),
	CS_SET_STRING(C, handshaker_user, "handshaker.user", "countersign-handshaker", 0, 32,
		"The user that handshakers run as; \"\" is authd's own, and isolates them less"),
	CS_SET_PATH(C, handshaker_path, "handshaker.path", CS_LIBEXEC "/countersign-handshaker", 1,
		"The program of the handshakers"),
};

const struct cs_settings cs_authd_settings = {.rows = rows, .n = sizeof(rows) / sizeof(rows[0])};

struct cs_datapath_config cs_authd_datapath_config(const struct cs_authd_config *c, const char *name)
{
	struct cs_datapath_config d = cs_datapath_defaults();
	d.bpffs = c->bpffs;
	d.instance = name;
	d.attach = (enum cs_attach_mode)c->attach;
	d.csum = (enum cs_csum_mode)c->csum;
	d.endpoints = (uint32_t)c->endpoints;
	d.addresses = (uint32_t)c->addresses;
	d.prefixes = (uint32_t)c->prefixes;
	d.policy = (uint32_t)c->policy_rows;
	d.auth = (uint32_t)c->entries;
	d.pending = (uint32_t)c->pending;
	d.flows = (uint32_t)c->flows;
	d.nodes = (uint32_t)c->nodes;
	return d;
}
