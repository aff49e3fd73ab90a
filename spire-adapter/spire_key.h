/* A PKCS #8 key (RFC 5208) into OpenSSL's secure heap, without a copy anywhere else: OpenSSL's own decoder leaves one in
 * the ordinary heap. */
#ifndef CS_SPIRE_KEY_H
#define CS_SPIRE_KEY_H

#include <openssl/evp.h>
#include "der.h"
#include "error.h"

#define CS_SPIRE_KEY_MAX 8192 /* bytes; RSA-4096 has some 2,400 */

/* The key of this SubjectPublicKeyInfo; another one is an error. EC (RFC 5915) and RSA (RFC 8017 A.1.2). EVP_PKEY_free it. */
CS_MUST_USE int cs_spire_key_read(struct cs_der pkcs8, struct cs_der spki, EVP_PKEY **ret, struct cs_error *e);

#endif
