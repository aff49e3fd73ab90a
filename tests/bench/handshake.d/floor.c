#include "floor.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define NEED(x)                                                                                                        \
	do {                                                                                                           \
		if (!(x)) {                                                                                            \
			fprintf(stderr, "floor: %s failed\n", #x);                                                     \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

struct floor {
	EVP_PKEY *p256, *peer;
	EVP_PKEY_CTX *keygen, *sign, *verify;
	uint8_t sig[80];
	size_t sig_len;
};

static const uint8_t hash[32] = {1, 2, 3};

struct floor *floor_new(void)
{
	struct floor *f = calloc(1, sizeof(*f));
	NEED(f);
	f->p256 = EVP_EC_gen("P-256");
	f->peer = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
	f->keygen = EVP_PKEY_CTX_new_from_name(NULL, "X25519", NULL);
	NEED(f->p256 && f->peer && f->keygen && EVP_PKEY_keygen_init(f->keygen) > 0);
	f->sign = EVP_PKEY_CTX_new(f->p256, NULL);
	f->verify = EVP_PKEY_CTX_new(f->p256, NULL);
	NEED(f->sign && EVP_PKEY_sign_init(f->sign) > 0 && EVP_PKEY_CTX_set_signature_md(f->sign, EVP_sha256()) > 0);
	NEED(f->verify && EVP_PKEY_verify_init(f->verify) > 0 &&
		EVP_PKEY_CTX_set_signature_md(f->verify, EVP_sha256()) > 0);
	return f;
}

void floor_once(struct floor *f)
{
	for (int i = 0; i < 2; i++) {
		EVP_PKEY *mine = NULL;
		uint8_t secret[32];
		size_t n = sizeof(secret);
		NEED(EVP_PKEY_keygen(f->keygen, &mine) > 0);
		EVP_PKEY_CTX *derive = EVP_PKEY_CTX_new(mine, NULL);
		NEED(derive && EVP_PKEY_derive_init(derive) > 0 && EVP_PKEY_derive_set_peer(derive, f->peer) > 0 &&
			EVP_PKEY_derive(derive, secret, &n) > 0);
		EVP_PKEY_CTX_free(derive);
		EVP_PKEY_free(mine);
	}
	for (int i = 0; i < 2; i++) {
		f->sig_len = sizeof(f->sig);
		NEED(EVP_PKEY_sign(f->sign, f->sig, &f->sig_len, hash, sizeof(hash)) > 0);
	}
	for (int i = 0; i < 4; i++)
		NEED(EVP_PKEY_verify(f->verify, f->sig, f->sig_len, hash, sizeof(hash)) == 1);
}

void floor_free(struct floor *f)
{
	EVP_PKEY_CTX_free(f->keygen);
	EVP_PKEY_CTX_free(f->sign);
	EVP_PKEY_CTX_free(f->verify);
	EVP_PKEY_free(f->p256);
	EVP_PKEY_free(f->peer);
	free(f);
}
