#include "commands.h"

const struct cs_command *const cs_commands[] = {
	&cs_cmd_status,
	&cs_cmd_identity_list,
	&cs_cmd_endpoint_list,
	&cs_cmd_endpoint_register,
	&cs_cmd_endpoint_unregister,
	&cs_cmd_node_list,
	&cs_cmd_policy_list,
	&cs_cmd_policy_check,
	&cs_cmd_svid_list,
	&cs_cmd_svid_inspect,
	&cs_cmd_bundle_list,
	&cs_cmd_bundle_show,
	&cs_cmd_auth_list,
	&cs_cmd_auth_explain,
	&cs_cmd_auth_flush,
	&cs_cmd_bootstrap_spire,
	&cs_cmd_exporter,
	NULL,
};
