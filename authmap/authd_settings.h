/* The settings of countersign-authd: one table for parser, --help and the reference. */
#ifndef CS_AUTHD_SETTINGS_H
#define CS_AUTHD_SETTINGS_H

#include "daemon.h"
#include "datapath.h"

enum cs_directory_fail { CS_DIRECTORY_KEEP, CS_DIRECTORY_CLOSE };

struct cs_authd_config {
	struct cs_daemon_config common;
	int64_t max_ttl_ms;
	bool hold;
	int64_t hold_bytes;
	char *bpffs;
	int attach, csum; /* enum cs_attach_mode, cs_csum_mode */
	bool audit, host_passes;
	int64_t endpoints, addresses, prefixes, policy_rows, entries, pending, flows, nodes;
	int64_t max_stale_ms;
	int directory_fail; /* enum cs_directory_fail */
	int64_t handshakers;
	char *handshaker_user, *handshaker_path;
};

extern const struct cs_settings cs_authd_settings;

/* For the modes and for the daemon alike. name is borrowed: the instance's. */
struct cs_datapath_config cs_authd_datapath_config(const struct cs_authd_config *c, const char *name);

#endif
