#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <countersign/v1/admin.pb-c.h>
#include <countersign/v1/auth.pb-c.h>
#include <countersign/v1/directory.pb-c.h>
#include <countersign/v1/endpoints.pb-c.h>
#include <countersign/v1/entries.pb-c.h>
#include <countersign/v1/status.pb-c.h>
#include <countersign/v1/svids.pb-c.h>
#include "instance.h"
#include "settings.h"

const struct cs_service cs_service_directory = {"identityd", "countersign-identityd", "directory.sock",
				&countersign__v1__directory__descriptor, false},
			cs_service_endpoints = {"identityd", "countersign-identityd", "endpoints.sock",
				&countersign__v1__endpoints__descriptor, false},
			cs_service_admin = {"identityd", "countersign-identityd", "admin.sock",
				&countersign__v1__admin__descriptor, false},
			cs_service_svids = {"spire-adapter", "countersign-spire-adapter", "svids.sock",
				&countersign__v1__svids__descriptor, false},
			cs_service_auth = {"authd", "countersign-authd", "auth.sock",
				&countersign__v1__auth__descriptor, false},
			cs_service_entries = {"registrar", "countersign-registrar", "entries.sock",
				&countersign__v1__entries__descriptor, false};

const struct cs_service cs_service_status[] = {
	{"identityd", "countersign-identityd", "status.sock", &countersign__v1__status__descriptor, false},
	{"spire-adapter", "countersign-spire-adapter", "status.sock", &countersign__v1__status__descriptor, false},
	{"authd", "countersign-authd", "status.sock", &countersign__v1__status__descriptor, false},
	{"registrar", "countersign-registrar", "status.sock", &countersign__v1__status__descriptor, true},
};
const size_t cs_service_nstatus = sizeof(cs_service_status) / sizeof(cs_service_status[0]);

static bool is_there(const char *instance, const char *daemon, const char *file)
{
	char path[CS_PATH];
	struct cs_error ignored;
	return cs_instance_path(instance, daemon, file, path, &ignored) < 0 || access(path, F_OK) == 0 ||
	       errno != ENOENT;
}

bool cs_service_is_absent(const char *instance, const struct cs_service *service)
{
	/* identityd in role cluster is nobody's node: the others are not missed there. */
	bool alone =
		is_there(instance, "identityd", "directory.sock") && !is_there(instance, "identityd", "endpoints.sock");
	return (service->optional || alone) && !is_there(instance, service->daemon, "lock");
}

static int exit_of(enum cs_grpc_code code)
{
	switch (code) {
	case CS_GRPC_OK:
		return CS_CLI_OK;
	case CS_GRPC_INVALID_ARGUMENT:
	case CS_GRPC_NOT_FOUND:
	case CS_GRPC_ALREADY_EXISTS:
	case CS_GRPC_PERMISSION_DENIED:
	case CS_GRPC_UNAUTHENTICATED:
	case CS_GRPC_FAILED_PRECONDITION:
	case CS_GRPC_OUT_OF_RANGE:
	case CS_GRPC_ABORTED:
		return CS_CLI_REFUSED;
	default:
		return CS_CLI_FAILED;
	}
}

/* No connection, or one that ended before its answer. */
static void explain_unavailable(
	const struct cs_service *s, const char *path, const struct cs_grpc_status *status, struct cs_error *e)
{
	struct stat st;
	if (status->reason == CS_R_ROLE_REFUSED)
		cs_error_reason(e, -EACCES, CS_R_ROLE_REFUSED,
			"%s closes %s at once: your user has no role there; run this as root, or give it one (the "
			"daemon's settings roles.*)",
			s->program, path);
	else if (stat(path, &st) == 0)
		cs_error_set(e, -ECONNREFUSED, "%s does not answer at %s (%s); is it running?", s->program, path,
			status->message);
	else if (errno == EACCES)
		cs_error_set(e, -EACCES,
			"your user may not look at %s; run this as root, or choose another --instance DIR", path);
	else
		cs_error_set(e, -ENOENT, "there is no socket %s; is %s running, and is --instance DIR right?", path,
			s->program);
}

static void explain(const struct cs_cli *cli, const struct cs_service *s, const char *path,
	const struct cs_grpc_status *status, struct cs_error *e)
{
	bool answered = status->reason == CS_R_NOT_LEADER || status->reason == CS_R_STORE_UNAVAILABLE;
	if (status->code == CS_GRPC_UNAVAILABLE && !answered) {
		explain_unavailable(s, path, status, e);
	} else if (status->code == CS_GRPC_DEADLINE_EXCEEDED) {
		char timeout[32];
		cs_duration_format(cli->timeout_ms, timeout);
		cs_error_set(e, -ETIMEDOUT, "%s gave no answer at %s within %s (%s); --timeout waits longer",
			s->program, path, timeout, status->message);
	} else {
		const char *reason = status->reason == CS_R_NONE ? "" : cs_reason_name(status->reason);
		cs_error_reason(e, -EIO, status->reason, "%s: %s%s%s", s->program,
			status->message[0] ? status->message : cs_grpc_code_name(status->code), *reason ? ": " : "",
			reason);
	}
}

int cs_cli_stream(const struct cs_cli *cli, const struct cs_service *service, const char *method,
	const ProtobufCMessage *in, void (*fn)(const ProtobufCMessage *message, void *data), void *data,
	struct cs_grpc_status *ret_status, struct cs_error *e)
{
	char path[CS_PATH], target[CS_PATH + 8];
	struct cs_grpc_status status = {0};
	if (cs_instance_path(cli->instance, service->daemon, service->socket, path, e) < 0)
		return CS_CLI_USAGE;
	snprintf(target, sizeof(target), "unix:%s", path);
	const struct cs_grpc_channel_options options = {.target = target};
	int r = cs_grpc_call_sync(&options, service->descriptor, method, in, cli->timeout_ms, fn, data, &status, e);
	if (ret_status)
		*ret_status = status;
	if (r < 0 && !status.message[0] && status.code == CS_GRPC_INTERNAL)
		return CS_CLI_FAILED; /* before the call began: e says why */
	if (status.code != CS_GRPC_OK)
		explain(cli, service, path, &status, e);
	return exit_of(status.code);
}

struct one {
	void (*fn)(const ProtobufCMessage *message, void *data);
	void *data;
	size_t n;
};

static void take_one(const ProtobufCMessage *message, void *data)
{
	struct one *one = data;
	if (one->n++ == 0)
		one->fn(message, one->data);
}

int cs_cli_ask(const struct cs_cli *cli, const struct cs_service *service, const char *method,
	const ProtobufCMessage *in, void (*fn)(const ProtobufCMessage *message, void *data), void *data,
	struct cs_grpc_status *ret_status, struct cs_error *e)
{
	struct one one = {.fn = fn, .data = data};
	int code = cs_cli_stream(cli, service, method, in, take_one, &one, ret_status, e);
	if (code != CS_CLI_OK || one.n == 1)
		return code;
	cs_error_set(e, -EPROTO, "%s gave %zu answers to %s, where one belongs", service->program, one.n, method);
	return CS_CLI_FAILED;
}
