#include "tls_side.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "remote_key.h"
#include "tls.h"

static int side_index = -1;

static struct cs_hs_side *side_of(const SSL *ssl)
{
	return SSL_get_ex_data(ssl, side_index);
}

/* Replaces all of libssl's chain checks. The proof of possession, CertificateVerify, stays libssl's. */
static int verify(X509_STORE_CTX *store, void *arg)
{
	(void)arg;
	struct cs_hs_side *side = side_of(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
	struct cs_tls_chain chain;
	int r = cs_tls_chain_get(X509_STORE_CTX_get0_untrusted(store), &chain, &side->why);
	if (r == 0) {
		struct cs_verify v = {.chain = chain.cert,
			.n = chain.n,
			.bundles = side->world->bundles,
			.now_unix_s = time(NULL),
			.expect = side->expects ? &side->expect : NULL};
		cs_peer_unref(side->peer);
		side->peer = NULL;
		r = cs_verify(side->world->verifier, &v, &side->peer, &side->why);
	}
	X509_STORE_CTX_set_error(store, r == 0 ? X509_V_OK : cs_tls_x509_error(side->why.reason));
	return r == 0;
}

/* Shows the SVID of an identity. Our own chain is verified first: one that we would not accept we do not show. */
static int show(struct cs_hs_side *side, uint32_t identity, struct cs_error *e)
{
	int r = cs_hs_world_use(side->world, identity, &side->svid, e);
	if (r == 0)
		r = cs_hs_world_self(side->world, side->svid, &side->self, e);
	if (r == 0 &&
		SSL_use_cert_and_key(side->ssl, side->svid->leaf, side->svid->key, side->svid->intermediates, 1) != 1)
		r = cs_error_reason(e, -EINVAL, CS_R_NO_LOCAL_SVID, "identity %u: its SVID cannot be used", identity);
	return r;
}

static int on_servername(SSL *ssl, int *alert, void *arg)
{
	(void)arg;
	struct cs_hs_side *side = side_of(ssl);
	const char *sni = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name), *domain;
	uint32_t identity;
	char own[CS_TRUST_DOMAIN_MAX + 1];
	int r = sni ? cs_hs_sni_parse(sni, &identity, &domain, &side->why)
		    : cs_error_reason(&side->why, -EINVAL, CS_R_SNI_INVALID, "no server name");
	if (r == 0)
		r = show(side, identity, &side->why);
	if (r == 0) {
		cs_spiffe_id_domain(&side->svid->id, own);
		if (strcmp(own, domain) != 0)
			r = cs_error_reason(&side->why, -EINVAL, CS_R_TRUST_DOMAIN_MISMATCH,
				"identity %u belongs to the trust domain %s, not to %s", identity, own, domain);
	}
	*alert = SSL_AD_UNRECOGNIZED_NAME;
	return r == 0 ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* Called only if the client offers an ALPN: Cilium's dialect has none. */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *in,
	unsigned int inlen, void *arg)
{
	(void)out;
	(void)outlen;
	(void)in;
	(void)inlen;
	(void)arg;
	cs_error_reason(&side_of(ssl)->why, -EPROTONOSUPPORT, CS_R_PROTOCOL_REFUSED, "the peer offers an ALPN");
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static void on_info(const SSL *ssl, int where, int ret)
{
	struct cs_hs_side *side = side_of(ssl);
	if (side && (where & SSL_CB_ALERT) && (ret >> 8) == SSL3_AL_FATAL) {
		side->alert = (uint8_t)ret;
		side->alert_received = (where & SSL_CB_READ) != 0;
	}
}

static void on_message(int write_p, int version, int content_type, const void *buf, size_t len, SSL *ssl, void *arg)
{
	(void)version;
	(void)content_type;
	(void)buf;
	(void)len;
	(void)arg;
	struct cs_hs_side *side = side_of(ssl);
	if (!write_p && side)
		side->heard = true;
}

static void on_keylog(const SSL *ssl, const char *line)
{
	struct cs_hs_side *side = side_of(ssl);
	if (side)
		cs_traffic_secret_from_keylog(line, &side->secret);
}

int cs_hs_side_contexts(struct cs_hs_world *world, struct cs_error *e)
{
	SSL_CTX *both[] = {world->client, world->server};
	if (side_index < 0)
		side_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	if (side_index < 0)
		return cs_error_set(e, -ENOMEM, "no memory");
	for (int i = 0; i < 2; i++) {
		SSL_CTX_set_cert_verify_callback(both[i], verify, NULL);
		SSL_CTX_set_info_callback(both[i], on_info);
		SSL_CTX_set_msg_callback(both[i], on_message);
		SSL_CTX_set_max_cert_list(both[i], CS_CHAIN_BYTES_MAX + 1024); /* the default is 100 KiB */
	}
	SSL_CTX_set_tlsext_servername_callback(world->server, on_servername);
	SSL_CTX_set_alpn_select_cb(world->server, on_alpn, NULL);
	SSL_CTX_set_keylog_callback(world->server, on_keylog);
	return 0;
}

static int side_new(struct cs_hs_side *side, struct cs_hs_world *world, SSL_CTX *ctx, struct cs_error *e)
{
	*side = (struct cs_hs_side){.world = world};
	side->ssl = SSL_new(ctx);
	if (!side->ssl || !SSL_set_ex_data(side->ssl, side_index, side))
		return cs_error_set(e, -ENOMEM, "no memory for a connection");
	return 0;
}

int cs_hs_side_client(struct cs_hs_side *side, struct cs_hs_world *world, uint32_t identity, const char *sni,
	const char *remote_spiffe_id, struct cs_error *e)
{
	int r = side_new(side, world, world->client, e);
	if (r == 0)
		r = cs_spiffe_id_parse(&side->expect, remote_spiffe_id, strlen(remote_spiffe_id), e);
	side->expects = true;
	if (r == 0)
		r = show(side, identity, e);
	if (r == 0 && SSL_set_tlsext_host_name(side->ssl, sni) != 1)
		r = cs_error_reason(e, -EINVAL, CS_R_SNI_INVALID, "the server name %s cannot be sent", sni);
	if (r == 0)
		SSL_set_connect_state(side->ssl);
	return r;
}

int cs_hs_side_server(
	struct cs_hs_side *side, struct cs_hs_world *world, const struct cs_spiffe_id *expect, struct cs_error *e)
{
	int r = side_new(side, world, world->server, e);
	if (r == 0) {
		side->expects = expect != NULL;
		if (expect)
			side->expect = *expect;
		SSL_set_accept_state(side->ssl);
	}
	return r;
}

void cs_hs_side_fini(struct cs_hs_side *side)
{
	SSL_free(side->ssl);
	cs_hs_svid_unref(side->svid);
	cs_peer_unref(side->self);
	cs_peer_unref(side->peer);
	OPENSSL_cleanse(&side->secret, sizeof(side->secret));
	*side = (struct cs_hs_side){0};
}

static enum cs_reason reason_of(const struct cs_hs_side *side, unsigned long error)
{
	if (ERR_GET_LIB(error) == CS_REMOTE_KEY_ERR_LIB)
		return side->world->signer.reason != CS_R_NONE ? side->world->signer.reason : CS_R_SIGNER_UNAVAILABLE;
	if (ERR_GET_LIB(error) != ERR_LIB_SSL)
		return CS_R_NONE;
	switch (ERR_GET_REASON(error)) {
	case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
		return CS_R_NO_CERTIFICATE;
	case SSL_R_EXCESSIVE_MESSAGE_SIZE:
		return CS_R_CHAIN_TOO_LARGE;
	case SSL_R_BAD_SIGNATURE:
	case SSL_R_WRONG_SIGNATURE_TYPE:
	case SSL_R_WRONG_SIGNATURE_SIZE:
	case SSL_R_DIGEST_CHECK_FAILED:
		return CS_R_SIGNATURE_INVALID;
	case SSL_R_NO_SHARED_CIPHER:
	case SSL_R_NO_SUITABLE_KEY_SHARE:
	case SSL_R_NO_SUITABLE_GROUPS:
	case SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS:
	case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
	case SSL_R_WRONG_CIPHER_RETURNED:
		return CS_R_ALGORITHM_REFUSED;
	case SSL_R_UNEXPECTED_EOF_WHILE_READING:
		return CS_R_VERDICT_TRUNCATED;
	}
	return CS_R_NOT_TLS;
}

enum cs_reason cs_hs_side_failure(struct cs_hs_side *side, int ssl_error, char *detail, size_t size)
{
	enum cs_reason reason = CS_R_NONE;
	unsigned long error, first = 0;
	const char *data, *first_data = NULL;
	char text[128] = "", data_text[128] = "";
	int flags, saved_errno = errno;
	while ((error = ERR_get_error_all(NULL, NULL, NULL, &data, &flags)) != 0) {
		enum cs_reason r = reason_of(side, error);
		if (first == 0 || (r != CS_R_NONE && r != CS_R_NOT_TLS && reason == CS_R_NONE)) {
			first = error;
			first_data = (flags & ERR_TXT_STRING) ? data : NULL;
			snprintf(data_text, sizeof(data_text), "%s", first_data ? first_data : "");
		}
		if (reason == CS_R_NONE || reason == CS_R_NOT_TLS)
			reason = r != CS_R_NONE ? r : reason;
	}
	if (first)
		snprintf(text, sizeof(text), "%s",
			ERR_reason_error_string(first) ? ERR_reason_error_string(first) : "unknown");
	if (side->why.reason != CS_R_NONE || side->why.code != 0) {
		snprintf(detail, size, "%s", side->why.text);
		return side->why.reason != CS_R_NONE ? side->why.reason : CS_R_NOT_TLS;
	}
	if (side->alert_received) {
		snprintf(detail, size, "alert %u: %s", side->alert, SSL_alert_desc_string_long(side->alert));
		return CS_R_VERDICT_ALERT;
	}
	if (ssl_error == SSL_ERROR_SYSCALL || reason == CS_R_NONE) {
		snprintf(detail, size, "%s", saved_errno ? strerror(saved_errno) : "the connection ended");
		return CS_R_VERDICT_TRUNCATED;
	}
	snprintf(detail, size, "%s%s%s", text, data_text[0] ? ": " : "", data_text);
	return reason;
}
