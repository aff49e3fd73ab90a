/* Calls to the local services, and what is said when one fails. */
#ifndef CS_CLI_CLIENT_H
#define CS_CLI_CLIENT_H

#include "cli.h"

struct cs_service {
	const char *daemon;  /* folder of the instance: "identityd" */
	const char *program; /* "countersign-identityd" */
	const char *socket;  /* "directory.sock" */
	const ProtobufCServiceDescriptor *descriptor;
	bool optional; /* of `cs_service_status`: not on every node, so that it is no trouble if it was never there */
};
extern const struct cs_service cs_service_directory, cs_service_endpoints, cs_service_admin, cs_service_svids,
	cs_service_auth, cs_service_entries;

/* The daemons of an instance, for `status` and the exporter: their service Status. */
extern const struct cs_service cs_service_status[];
extern const size_t cs_service_nstatus;

/* Is it optional, or is identityd alone there (role cluster), and has it never run in this instance? */
bool cs_service_is_absent(const char *instance, const struct cs_service *service);

/* One call of a streaming method; each message goes to fn (borrowed). An enum cs_exit; e names the socket and what to
 * do. ret_status may be NULL. */
CS_MUST_USE int cs_cli_stream(const struct cs_cli *cli, const struct cs_service *service, const char *method,
	const ProtobufCMessage *in, void (*fn)(const ProtobufCMessage *message, void *data), void *data,
	struct cs_grpc_status *ret_status, struct cs_error *e);
/* The same for a unary method: CS_CLI_OK means that fn was called, once. */
CS_MUST_USE int cs_cli_ask(const struct cs_cli *cli, const struct cs_service *service, const char *method,
	const ProtobufCMessage *in, void (*fn)(const ProtobufCMessage *message, void *data), void *data,
	struct cs_grpc_status *ret_status, struct cs_error *e);

#endif
