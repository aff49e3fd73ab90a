/* The private keys of local SVIDs: what this process exists to keep. One identity has one current key, and for a
 * moment those that it replaced: handshakes that began with the old certificate still need the old key.
 *
 * Keys live in OpenSSL's secure heap (locked, never in a core dump, wiped on free); see cs_keys_lock_memory(). They
 * leave this process in no way. From the loop thread, but for cs_sign_content(). */
#ifndef CS_KEYS_H
#define CS_KEYS_H

#include <countersign/sign.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"

#define CS_KEYS_IDENTITIES_MAX (8192 + 1) /* local to one node (some hundreds in practice), and the node itself */
#define CS_KEYS_OLD_MAX        8          /* replaced keys of one identity that may still sign; then the oldest goes */
#define CS_KEYS_HEAP_BYTES     (4u << 20) /* locked memory: 32 bytes a P-256 key, about 2 KiB an RSA-4096 key */
#define CS_SIGNATURE_MAX       512        /* RSA-4096 */

/* Core dumps off, then the secure heap: before the first key. Fails if the memory cannot be locked. */
CS_MUST_USE int cs_keys_lock_memory(struct cs_error *e);

struct cs_keys;
struct cs_key;

struct cs_keys *cs_keys_new(void); /* NULL: no memory */
void cs_keys_free(struct cs_keys *keys);

/* key is taken over, also on failure. It becomes the identity's current one; that before it signs for
 * CS_SIGN_GRACE_MS more. Reason ALGORITHM_REFUSED: not P-256, P-384 or RSA of 2048 to 4096 bits. -ENOSPC:
 * CS_KEYS_IDENTITIES_MAX. */
CS_MUST_USE int cs_keys_put_take(struct cs_keys *keys, uint32_t identity, uint64_t generation, EVP_PKEY *key,
	int64_t now_mono_ms, struct cs_error *e);
/* All keys of an identity, at once. */
void cs_keys_drop(struct cs_keys *keys, uint32_t identity);
/* Wipes those whose time is over; whether wiped yet or not, they do not sign. */
void cs_keys_sweep(struct cs_keys *keys, int64_t now_mono_ms);
/* NULL: none such. Borrowed until the next put, drop or sweep. */
const struct cs_key *cs_keys_find(
	const struct cs_keys *keys, uint32_t identity, uint64_t generation, int64_t now_mono_ms);
/* Keys held, old ones included. */
size_t cs_keys_count(const struct cs_keys *keys);

/* Does this TLS SignatureScheme (RFC 8446 4.2.3) belong to the key? */
bool cs_key_fits(const struct cs_key *key, uint16_t scheme);
/* P-256 signs in some 25 us, others take more than the loop may stand still. */
bool cs_key_is_fast(const struct cs_key *key);
/* A reference for a worker thread; EVP_PKEY_free it. */
EVP_PKEY *cs_key_ref(const struct cs_key *key);

/* Fast keys, on the loop thread: the bytes written, or negative. scheme must fit. */
int cs_key_sign(const struct cs_key *key, const void *content, size_t len, uint8_t out[static CS_SIGNATURE_MAX]);
/* Any key, any thread. */
int cs_sign_content(
	EVP_PKEY *key, uint16_t scheme, const void *content, size_t len, uint8_t out[static CS_SIGNATURE_MAX]);

#endif
