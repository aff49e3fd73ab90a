#include "tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <string.h>
#include "x509.h"

static int configure(SSL_CTX *ctx)
{
	SSL_CTX_set_security_level(ctx, 2); /* 112 bits */
	SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) &&
	       SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) && SSL_CTX_set_num_tickets(ctx, 0) &&
	       SSL_CTX_set_max_early_data(ctx, 0) &&
	       SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384") &&
	       SSL_CTX_set1_groups_list(ctx, "X25519:P-256") &&
	       /* The last three are for certificates; TLS 1.3 itself has no PKCS #1 (RFC 8446 4.2.3). */
	       SSL_CTX_set1_sigalgs_list(ctx, "ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:rsa_pss_rsae_sha256:"
					      "rsa_pss_rsae_sha384:rsa_pss_rsae_sha512:rsa_pkcs1_sha256:"
					      "rsa_pkcs1_sha384:rsa_pkcs1_sha512");
}

int cs_tls_base_ctx(OSSL_LIB_CTX *libctx, bool server, SSL_CTX **ret, struct cs_error *e)
{
	char why[256];
	SSL_CTX *ctx = SSL_CTX_new_ex(libctx, NULL, server ? TLS_server_method() : TLS_client_method());
	if (!ctx || !configure(ctx)) {
		SSL_CTX_free(ctx);
		return cs_error_set(e, -EIO, "TLS 1.3 cannot be set up: %s", cs_openssl_why(why, sizeof(why)));
	}
	*ret = ctx;
	return 0;
}

int cs_tls_chain_get(const STACK_OF(X509) * chain, struct cs_tls_chain *ret, struct cs_error *e)
{
	int n = sk_X509_num(chain); /* -1 of NULL */
	size_t used = 0;
	if (n < 1)
		return cs_error_reason(e, -EACCES, CS_R_NO_CERTIFICATE, "the peer sent no certificate");
	if (n > CS_CHAIN_MAX)
		return cs_error_reason(e, -EACCES, CS_R_CHAIN_TOO_LARGE,
			"the chain has %d certificates; the most is %d", n, CS_CHAIN_MAX);
	for (int i = 0; i < n; i++) {
		X509 *x509 = sk_X509_value(chain, i);
		int len = i2d_X509(x509, NULL);
		uint8_t *p = ret->bytes + used;
		if (len <= 0)
			return cs_error_reason(e, -EACCES, CS_R_CERTIFICATE_MALFORMED,
				"certificate %d of the chain cannot be encoded", i + 1);
		if ((size_t)len > sizeof(ret->bytes) - used)
			return cs_error_reason(e, -EACCES, CS_R_CHAIN_TOO_LARGE, "the chain has more than %d bytes",
				CS_CHAIN_BYTES_MAX);
		ret->cert[i] = (struct cs_der){p, (size_t)len};
		i2d_X509(x509, &p);
		used += (size_t)len;
	}
	ret->n = (size_t)n;
	return 0;
}

int cs_tls_x509_error(enum cs_reason reason)
{
	switch (reason) {
	case CS_R_SVID_EXPIRED:
		return X509_V_ERR_CERT_HAS_EXPIRED; /* certificate_expired */
	case CS_R_NO_BUNDLE:
	case CS_R_UNTRUSTED:
		return X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY; /* unknown_ca */
	case CS_R_ALGORITHM_REFUSED:
	case CS_R_SVID_PROFILE:
		return X509_V_ERR_INVALID_PURPOSE; /* unsupported_certificate */
	case CS_R_REVOKED:
		return X509_V_ERR_CERT_REVOKED; /* certificate_revoked */
	case CS_R_CERTIFICATE_MALFORMED:
	case CS_R_CHAIN_TOO_LARGE:
		return X509_V_ERR_CERT_UNTRUSTED; /* bad_certificate */
	default:
		return X509_V_ERR_APPLICATION_VERIFICATION; /* handshake_failure */
	}
}
