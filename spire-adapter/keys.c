#include "keys.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <uthash.h>
#include "algorithm.h"

#define HEAP_SMALLEST 32 /* bytes of a P-256 scalar */

struct cs_key {
	uint64_t generation;
	int64_t until_mono_ms; /* INT64_MAX: the current one */
	enum cs_key_algorithm algorithm;
	EVP_PKEY *pkey;
	EVP_PKEY_CTX *sign; /* P-256 only: initialised once, for SHA-256, the only digest it signs with */
	struct cs_key *older;
};

struct entry {
	uint32_t identity;
	struct cs_key *newest;
	UT_hash_handle hh;
};

struct cs_keys {
	struct entry *by_identity;
	size_t count;
};

int cs_keys_lock_memory(struct cs_error *e)
{
	const struct rlimit none = {0, 0};
	if (prctl(PR_SET_DUMPABLE, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
		return cs_error_errno(e, -errno, "cannot turn core dumps off");
	if (CRYPTO_secure_malloc_initialized())
		return 0;
	/* 1: locked and excluded from dumps; 2: usable, but something of that failed. */
	if (CRYPTO_secure_malloc_init(CS_KEYS_HEAP_BYTES, HEAP_SMALLEST) != 1)
		return cs_error_set(e, -ENOMEM,
			"cannot lock %u bytes of memory for keys; allow it by LimitMEMLOCK= or ulimit -l",
			CS_KEYS_HEAP_BYTES);
	return 0;
}

static enum cs_key_algorithm algorithm_of(const EVP_PKEY *pkey)
{
	char group[32];
	int bits = EVP_PKEY_get_bits(pkey);
	if (EVP_PKEY_is_a(pkey, "RSA"))
		return bits >= CS_RSA_BITS_MIN && bits <= CS_RSA_BITS_MAX ? CS_KEY_RSA : CS_KEY_NONE;
	if (!EVP_PKEY_is_a(pkey, "EC") || !EVP_PKEY_get_group_name(pkey, group, sizeof(group), NULL))
		return CS_KEY_NONE;
	if (strcmp(group, "prime256v1") == 0)
		return CS_KEY_P256;
	return strcmp(group, "secp384r1") == 0 ? CS_KEY_P384 : CS_KEY_NONE;
}

/* RFC 8446 4.2.3. The digest belongs to the scheme; with ECDSA it belongs to the curve, and so to the key. */
static const struct scheme {
	uint16_t number;
	enum cs_key_algorithm algorithm;
	const EVP_MD *(*md)(void);
} schemes[] = {
	{0x0403, CS_KEY_P256, EVP_sha256}, /* ecdsa_secp256r1_sha256 */
	{0x0503, CS_KEY_P384, EVP_sha384}, /* ecdsa_secp384r1_sha384 */
	{0x0804, CS_KEY_RSA, EVP_sha256},  /* rsa_pss_rsae_sha256 */
	{0x0805, CS_KEY_RSA, EVP_sha384},  /* rsa_pss_rsae_sha384 */
	{0x0806, CS_KEY_RSA, EVP_sha512},  /* rsa_pss_rsae_sha512 */
};

static const struct scheme *find_scheme(uint16_t number)
{
	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (schemes[i].number == number)
			return &schemes[i];
	return NULL;
}

static EVP_PKEY_CTX *new_context(EVP_PKEY *pkey, const struct scheme *scheme)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, pkey, NULL);
	bool ok = ctx && EVP_PKEY_sign_init(ctx) > 0;
	if (ok && scheme->algorithm == CS_KEY_RSA)
		ok = EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) > 0 &&
		     EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, RSA_PSS_SALTLEN_DIGEST) > 0;
	if (ok && EVP_PKEY_CTX_set_signature_md(ctx, scheme->md()) > 0)
		return ctx;
	EVP_PKEY_CTX_free(ctx);
	return NULL;
}

static int sign(EVP_PKEY_CTX *ctx, const EVP_MD *md, const void *content, size_t len, uint8_t *out)
{
	uint8_t digest[EVP_MAX_MD_SIZE];
	unsigned digest_len;
	size_t n = CS_SIGNATURE_MAX;
	if (!EVP_Digest(content, len, digest, &digest_len, md, NULL) ||
		EVP_PKEY_sign(ctx, out, &n, digest, digest_len) <= 0)
		return -EIO;
	return (int)n;
}

int cs_key_sign(const struct cs_key *key, const void *content, size_t len, uint8_t out[static CS_SIGNATURE_MAX])
{
	return sign(key->sign, EVP_sha256(), content, len, out);
}

int cs_sign_content(
	EVP_PKEY *key, uint16_t number, const void *content, size_t len, uint8_t out[static CS_SIGNATURE_MAX])
{
	const struct scheme *scheme = find_scheme(number);
	if (!scheme || scheme->algorithm != algorithm_of(key))
		return -EINVAL;
	EVP_PKEY_CTX *ctx = new_context(key, scheme);
	int r = ctx ? sign(ctx, scheme->md(), content, len, out) : -EIO;
	EVP_PKEY_CTX_free(ctx);
	return r;
}

bool cs_key_fits(const struct cs_key *key, uint16_t number)
{
	const struct scheme *scheme = find_scheme(number);
	return scheme && scheme->algorithm == key->algorithm;
}

bool cs_key_is_fast(const struct cs_key *key)
{
	return key->sign != NULL;
}

EVP_PKEY *cs_key_ref(const struct cs_key *key)
{
	EVP_PKEY_up_ref(key->pkey);
	return key->pkey;
}

static void key_free(struct cs_key *key)
{
	if (!key)
		return;
	EVP_PKEY_CTX_free(key->sign);
	EVP_PKEY_free(key->pkey); /* clears what it held */
	free(key);
}

static struct cs_key *key_new_take(EVP_PKEY *pkey, uint64_t generation, struct cs_error *e)
{
	struct cs_key *key = calloc(1, sizeof(*key));
	if (!key) {
		EVP_PKEY_free(pkey);
		cs_error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	*key = (struct cs_key){.generation = generation, .until_mono_ms = INT64_MAX, .pkey = pkey};
	key->algorithm = algorithm_of(pkey);
	if (key->algorithm == CS_KEY_NONE)
		cs_error_reason(e, -EINVAL, CS_R_ALGORITHM_REFUSED,
			"the SVID's key is not P-256, P-384 or RSA of %d to %d bits", CS_RSA_BITS_MIN, CS_RSA_BITS_MAX);
	else if (key->algorithm == CS_KEY_P256 && !(key->sign = new_context(pkey, find_scheme(0x0403))))
		cs_error_set(e, -EIO, "OpenSSL refuses to sign with the SVID's key");
	else
		return key;
	key_free(key);
	return NULL;
}

/* Frees the keys of an entry after the first n, and those whose time is over. */
static void trim(struct cs_keys *keys, struct entry *entry, size_t n, int64_t now_mono_ms)
{
	size_t i = 0;
	for (struct cs_key **at = &entry->newest; *at;) {
		struct cs_key *key = *at;
		if (i < n && now_mono_ms < key->until_mono_ms) {
			at = &key->older;
			i++;
			continue;
		}
		*at = key->older;
		key_free(key);
		keys->count--;
	}
}

static struct entry *find(const struct cs_keys *keys, uint32_t identity)
{
	struct entry *entry;
	HASH_FIND(hh, keys->by_identity, &identity, sizeof(identity), entry);
	return entry;
}

static struct entry *add(struct cs_keys *keys, uint32_t identity, struct cs_error *e)
{
	if (HASH_COUNT(keys->by_identity) >= CS_KEYS_IDENTITIES_MAX) {
		cs_error_reason(e, -ENOSPC, CS_R_TOO_MANY, "keys of %d identities are held, and no more may be",
			CS_KEYS_IDENTITIES_MAX);
		return NULL;
	}
	struct entry *entry = calloc(1, sizeof(*entry));
	if (!entry) {
		cs_error_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	entry->identity = identity;
	HASH_ADD(hh, keys->by_identity, identity, sizeof(entry->identity), entry);
	return entry;
}

int cs_keys_put_take(struct cs_keys *keys, uint32_t identity, uint64_t generation, EVP_PKEY *pkey, int64_t now_mono_ms,
	struct cs_error *e)
{
	struct cs_key *key = key_new_take(pkey, generation, e);
	if (!key)
		return -EINVAL;
	struct entry *entry = find(keys, identity);
	if (!entry && !(entry = add(keys, identity, e))) {
		key_free(key);
		return -ENOSPC;
	}
	if (entry->newest)
		entry->newest->until_mono_ms = now_mono_ms + CS_SIGN_GRACE_MS;
	key->older = entry->newest;
	entry->newest = key;
	keys->count++;
	trim(keys, entry, 1 + CS_KEYS_OLD_MAX, now_mono_ms);
	return 0;
}

static void drop(struct cs_keys *keys, struct entry *entry)
{
	trim(keys, entry, 0, 0);
	HASH_DEL(keys->by_identity, entry);
	free(entry);
}

void cs_keys_drop(struct cs_keys *keys, uint32_t identity)
{
	struct entry *entry = find(keys, identity);
	if (entry)
		drop(keys, entry);
}

void cs_keys_sweep(struct cs_keys *keys, int64_t now_mono_ms)
{
	struct entry *entry, *next;
	HASH_ITER (hh, keys->by_identity, entry, next)
		trim(keys, entry, 1 + CS_KEYS_OLD_MAX, now_mono_ms);
}

const struct cs_key *cs_keys_find(
	const struct cs_keys *keys, uint32_t identity, uint64_t generation, int64_t now_mono_ms)
{
	struct entry *entry = find(keys, identity);
	for (struct cs_key *key = entry ? entry->newest : NULL; key; key = key->older)
		if (key->generation == generation && now_mono_ms < key->until_mono_ms)
			return key;
	return NULL;
}

size_t cs_keys_count(const struct cs_keys *keys)
{
	return keys->count;
}

struct cs_keys *cs_keys_new(void)
{
	return calloc(1, sizeof(struct cs_keys));
}

void cs_keys_free(struct cs_keys *keys)
{
	struct entry *entry, *next;
	if (!keys)
		return;
	HASH_ITER (hh, keys->by_identity, entry, next)
		drop(keys, entry);
	free(keys);
}
