/* All commands; their table is in commands.c. */
#ifndef CS_CLI_COMMANDS_H
#define CS_CLI_COMMANDS_H

#include "cli.h"

extern const struct cs_command cs_cmd_status, cs_cmd_exporter;
extern const struct cs_command cs_cmd_identity_list, cs_cmd_identity_lint, cs_cmd_identity_gc, cs_cmd_node_list,
	cs_cmd_policy_list, cs_cmd_policy_check;
extern const struct cs_command cs_cmd_endpoint_list, cs_cmd_endpoint_register, cs_cmd_endpoint_unregister;
extern const struct cs_command cs_cmd_revocation_add, cs_cmd_revocation_list, cs_cmd_revocation_remove;
extern const struct cs_command cs_cmd_store_copy, cs_cmd_store_new_epoch;
extern const struct cs_command cs_cmd_svid_list, cs_cmd_svid_inspect, cs_cmd_bundle_list, cs_cmd_bundle_show;
extern const struct cs_command cs_cmd_bootstrap_spire;
extern const struct cs_command cs_cmd_entry_list, cs_cmd_entry_diff, cs_cmd_entry_sync;
extern const struct cs_command cs_cmd_auth_list, cs_cmd_auth_explain, cs_cmd_auth_flush;

#endif
