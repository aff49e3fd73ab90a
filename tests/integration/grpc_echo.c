#include "grpc_echo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static SSL_CTX *context(void *data, struct cs_error *e)
{
	(void)e;
	return data;
}

static int peer(const STACK_OF(X509) * chain, char name[CS_GRPC_PEER_NAME], void *data, struct cs_error *e)
{
	(void)data;
	const X509_NAME *subject = X509_get_subject_name(sk_X509_value(chain, 0));
	X509_NAME_get_text_by_NID((X509_NAME *)(uintptr_t)subject, NID_commonName, name, CS_GRPC_PEER_NAME);
	if (strcmp(name, "stranger") == 0)
		return cs_error_reason(e, -EACCES, CS_R_SPIFFE_ID_MISMATCH, "'%s' is not expected here", name);
	return 0;
}

int echo_tls_init(struct echo_tls *t, const char *dir, bool server, struct cs_error *e)
{
	char cert[512], key[512], ca[512];
	snprintf(cert, sizeof(cert), "%s/cert.pem", dir);
	snprintf(key, sizeof(key), "%s/key.pem", dir);
	snprintf(ca, sizeof(ca), "%s/ca.pem", dir);
	t->ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	t->tls = (struct cs_grpc_tls){.context = context, .peer = peer, .data = t->ctx};
	if (!t->ctx || SSL_CTX_use_certificate_chain_file(t->ctx, cert) != 1 ||
		SSL_CTX_use_PrivateKey_file(t->ctx, key, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_load_verify_locations(t->ctx, ca, NULL) != 1)
		return cs_error_set(e, -EINVAL, "cannot use the certificates in %s", dir);
	SSL_CTX_set_min_proto_version(t->ctx, TLS1_3_VERSION);
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return 0;
}

void echo_tls_fini(struct echo_tls *t)
{
	SSL_CTX_free(t->ctx);
}

int echo_limit(struct cs_grpc_limits *limits, const char *text)
{
	const char *equals = strchr(text, '=');
	if (!equals)
		return -EINVAL;
	const struct {
		const char *name;
		uint32_t *u32;
		int64_t *ms;
	} names[] = {
		{"message_max", &limits->message_max, NULL},
		{"streams_max", &limits->streams_max, NULL},
		{"calls_max", &limits->calls_max, NULL},
		{"window", &limits->window, NULL},
		{"conn_window", &limits->conn_window, NULL},
		{"headers_max", &limits->headers_max, NULL},
		{"queue_max", &limits->queue_max, NULL},
		{"connections_max", &limits->connections_max, NULL},
		{"per_user_max", &limits->per_user_max, NULL},
		{"pending_max", &limits->pending_max, NULL},
		{"handshake_ms", NULL, &limits->handshake_ms},
		{"request_ms", NULL, &limits->request_ms},
		{"idle_ms", NULL, &limits->idle_ms},
	};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strlen(names[i].name) != (size_t)(equals - text) ||
			strncmp(text, names[i].name, strlen(names[i].name)) != 0)
			continue;
		if (names[i].u32)
			*names[i].u32 = (uint32_t)strtoul(equals + 1, NULL, 10);
		else
			*names[i].ms = strtoll(equals + 1, NULL, 10);
		return 0;
	}
	return -EINVAL;
}
