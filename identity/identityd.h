/* countersign-identityd: configuration, and what belongs together for its role. */
#ifndef CS_IDENTITYD_H
#define CS_IDENTITYD_H

#include "daemon.h"
#include "etcd_settings.h"
#include "node.h"
#include "numbers.h"
#include "placement.h"

enum cs_role_choice { CS_RUN_ALL, CS_RUN_NODE, CS_RUN_CLUSTER };

struct cs_identityd_config {
	struct cs_daemon_config common;
	int role; /* enum cs_role_choice */
	char *trust_domain, *spiffe_id_template;
	char *node_name;
	struct cs_strings node_addresses;
	int64_t node_port;
	int node_path;
	char *cluster_listen;
	struct cs_strings cluster_server;
	int64_t cluster_id;
	int cluster_max; /* index into the choices: 255, 511 */
	struct cs_strings cluster_domains, identity_fixed;
	struct cs_strings label_rules;
	bool label_defaults;
	char *tls_cert, *tls_key, *tls_bundle;
	char *policy_dir;
	int placement_authority; /* enum cs_authority_kind */
	char *placement_file;
	int64_t address_quarantine_ms, id_quarantine_ms, svid_max_life_ms, auth_max_ttl_ms, directory_coalesce_ms;
	int64_t node_ttl_ms, node_grace_ms, gc_grace_ms;
	struct cs_strings depends_on;
	struct cs_etcd_settings etcd;
};

struct cs_identityd;

/* Opens and starts everything; blocks on the disk. *ret is set even on failure, for the two below. */
CS_MUST_USE int cs_identityd_start(struct cs_daemon *daemon, struct cs_identityd **ret, struct cs_error *e);
void cs_identityd_stop(struct cs_identityd *d); /* NULL is fine */
void cs_identityd_free(struct cs_identityd *d); /* after the loop has ended; NULL is fine */

/* Addresses of node.addresses. */
CS_MUST_USE int cs_identityd_addresses(const struct cs_identityd_config *config, struct cs_ip ret[CS_NODE_ADDRS_MAX],
	size_t *ret_n, struct cs_error *e);

/* cluster.id and what goes with it, identity.fixed. */
CS_MUST_USE int cs_identityd_numbers(
	const struct cs_identityd_config *config, struct cs_numbers *ret, struct cs_error *e);

#endif
