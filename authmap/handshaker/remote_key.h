/* An OpenSSL provider without private keys: a KEYMGMT that holds a public key and a reference (identity, generation),
 * and a SIGNATURE that takes the content of CertificateVerify apart and has the signer sign {kind, hash}. Nothing
 * else can be signed through it, and TLS 1.2 cannot. */
#ifndef CS_REMOTE_KEY_H
#define CS_REMOTE_KEY_H

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdint.h>
#include "sign_channel.h"

/* After the base provider of ctx was loaded. Once per context. */
CS_MUST_USE int cs_remote_provider_load(OSSL_LIB_CTX *ctx, struct cs_error *e);

/* A key with leaf's public part whose private part is (identity, generation) behind channel, which is borrowed for
 * the life of the key. The caller frees it with EVP_PKEY_free. */
CS_MUST_USE int cs_remote_key_new(OSSL_LIB_CTX *ctx, struct cs_sign_channel *channel, uint32_t identity,
	uint64_t generation, X509 *leaf, EVP_PKEY **ret_key, struct cs_error *e);

/* The error-queue library code under which a failed signature leaves its text. */
#define CS_REMOTE_KEY_ERR_LIB ERR_LIB_USER

#endif
