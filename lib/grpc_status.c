#include "grpc.h"

#include <errno.h>

static const struct {
	const char *name;
	int error; /* negative errno for cs_grpc_status_error */
} codes[] = {
	[CS_GRPC_OK] = {"OK", 0},
	[CS_GRPC_CANCELLED] = {"CANCELLED", -ECANCELED},
	[CS_GRPC_UNKNOWN] = {"UNKNOWN", -EIO},
	[CS_GRPC_INVALID_ARGUMENT] = {"INVALID_ARGUMENT", -EINVAL},
	[CS_GRPC_DEADLINE_EXCEEDED] = {"DEADLINE_EXCEEDED", -ETIMEDOUT},
	[CS_GRPC_NOT_FOUND] = {"NOT_FOUND", -ENOENT},
	[CS_GRPC_ALREADY_EXISTS] = {"ALREADY_EXISTS", -EEXIST},
	[CS_GRPC_PERMISSION_DENIED] = {"PERMISSION_DENIED", -EACCES},
	[CS_GRPC_RESOURCE_EXHAUSTED] = {"RESOURCE_EXHAUSTED", -ENOBUFS},
	[CS_GRPC_FAILED_PRECONDITION] = {"FAILED_PRECONDITION", -EBUSY},
	[CS_GRPC_ABORTED] = {"ABORTED", -EAGAIN},
	[CS_GRPC_OUT_OF_RANGE] = {"OUT_OF_RANGE", -ERANGE},
	[CS_GRPC_UNIMPLEMENTED] = {"UNIMPLEMENTED", -EOPNOTSUPP},
	[CS_GRPC_INTERNAL] = {"INTERNAL", -EPROTO},
	[CS_GRPC_UNAVAILABLE] = {"UNAVAILABLE", -ECONNREFUSED},
	[CS_GRPC_DATA_LOSS] = {"DATA_LOSS", -EBADMSG},
	[CS_GRPC_UNAUTHENTICATED] = {"UNAUTHENTICATED", -EPERM},
};
#define NCODES ((int)(sizeof(codes) / sizeof(codes[0])))

static int known(enum cs_grpc_code code)
{
	int n = (int)code;
	return n >= 0 && n < NCODES ? n : CS_GRPC_UNKNOWN;
}

const char *cs_grpc_code_name(enum cs_grpc_code code)
{
	return codes[known(code)].name;
}

int cs_grpc_status_error(const struct cs_grpc_status *status, struct cs_error *e)
{
	int error = codes[known(status->code)].error;
	if (error == 0)
		return 0;
	return cs_error_reason(e, error, status->reason, "%s: %s", cs_grpc_code_name(status->code),
		status->message[0] ? status->message : "the other side gave no message");
}
