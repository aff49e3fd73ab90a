/* User and password become a token, which goes with every call until etcd does not know it any more. */
#include "etcd_private.h"

#include <openssl/crypto.h>
#include "mem.h"

#define AUTH_TIMEOUT_MS 5000

void cs_etcd_token_drop(struct cs_etcd *etcd, unsigned number)
{
	if (number != etcd->token_number || !etcd->token)
		return;
	OPENSSL_cleanse(etcd->token, strlen(etcd->token));
	free(etcd->token);
	etcd->token = NULL;
}

static void on_token(struct etcd_call *call, const struct cs_etcd_result *result, const ProtobufCMessage *reply)
{
	struct cs_etcd *etcd = call->etcd;
	etcd->authenticating = false;
	if (etcd->closing)
		return;
	if (result->outcome == CS_ETCD_DONE) {
		cs_etcd_token_drop(etcd, etcd->token_number);
		etcd->token = cs_xstrdup(((const Etcdserverpb__AuthenticateResponse *)reply)->token);
		etcd->token_number++;
	}
	cs_etcd_calls_have_token(etcd, result->outcome == CS_ETCD_DONE ? NULL : &result->error);
}

bool cs_etcd_token_ready(struct cs_etcd *etcd)
{
	if (!etcd->user || etcd->token)
		return true;
	if (etcd->authenticating)
		return false;
	Etcdserverpb__AuthenticateRequest request = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;
	request.name = etcd->user;
	request.password = etcd->password;
	struct cs_error e;
	const struct etcd_call_spec spec = {.service = &etcdserverpb__auth__descriptor,
		.method = "Authenticate",
		.request = &request.base,
		.reads = true,
		.without_token = true,
		.timeout_ms = AUTH_TIMEOUT_MS,
		.finish = on_token};
	/* Without room for one more call nobody waits for long: some end, and ask again. */
	etcd->authenticating = cs_etcd_call_new(etcd, &spec, &e) == 0;
	return false;
}
