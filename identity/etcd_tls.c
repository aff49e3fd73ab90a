/* TLS with etcd: its own CA, names and addresses in certificates; no SPIFFE IDs. */
#include "etcd_private.h"

#include <errno.h>
#include <openssl/err.h>
#include "mem.h"

static int file_error(struct cs_error *e, const char *what, const char *file)
{
	unsigned long code = ERR_peek_error();
	const char *text = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
	cs_error_set(e, -EACCES, "cannot use the file %s of etcd.%s: %s", file, what,
		text ? text : "it is not what it should be");
	ERR_clear_error();
	return e->code;
}

static int load_files(SSL_CTX *ctx, const struct cs_etcd *etcd, struct cs_error *e)
{
	ERR_clear_error();
	if (SSL_CTX_load_verify_file(ctx, etcd->ca_file) != 1)
		return file_error(e, "ca", etcd->ca_file);
	if (!etcd->cert_file)
		return 0;
	if (SSL_CTX_use_certificate_chain_file(ctx, etcd->cert_file) != 1)
		return file_error(e, "cert", etcd->cert_file);
	if (SSL_CTX_use_PrivateKey_file(ctx, etcd->key_file, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_check_private_key(ctx) != 1)
		return file_error(e, "key", etcd->key_file);
	return 0;
}

static SSL_CTX *hook_context(void *data, struct cs_error *e)
{
	struct endpoint *p = data;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	if (!ctx) {
		cs_error_set(e, -ENOMEM, "no memory for TLS");
		return NULL;
	}
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	if (load_files(ctx, p->etcd, e) < 0) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	SSL_CTX_free(p->ctx);
	p->ctx = ctx;
	return ctx;
}

/* OpenSSL has verified the chain and that it is for tls.server_name. */
static int hook_peer(const STACK_OF(X509) * chain, char name[CS_GRPC_PEER_NAME], void *data, struct cs_error *e)
{
	(void)chain;
	(void)e;
	const struct endpoint *p = data;
	snprintf(name, CS_GRPC_PEER_NAME, "%s", p->tls.server_name);
	return 0;
}

void cs_etcd_tls_init(struct endpoint *p)
{
	p->tls = (struct cs_grpc_tls){.context = hook_context,
		.peer = hook_peer,
		.data = p,
		.server_name = p->etcd->server_name ? p->etcd->server_name : p->host};
}

void cs_etcd_tls_fini(struct endpoint *p)
{
	SSL_CTX_free(p->ctx);
}
