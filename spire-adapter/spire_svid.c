#include "spire_svid.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <string.h>
#include "profile.h"

int cs_spire_split(struct cs_der blob, struct cs_der *ret, size_t max, size_t *ret_n, struct cs_error *e)
{
	struct cs_der_element element;
	size_t n = 0;
	while (blob.len > 0) {
		if (!cs_der_next(&blob, &element) || element.tag != CS_DER_SEQUENCE)
			return cs_error_reason(e, -EINVAL, CS_R_CERTIFICATE_MALFORMED,
				"after %zu certificates there are bytes that are none", n);
		if (n == max)
			return cs_error_reason(e, -EINVAL, CS_R_TOO_MANY, "there are more than %zu certificates", max);
		ret[n++] = element.whole;
	}
	*ret_n = n;
	return 0;
}

int cs_spire_chain_read(struct cs_spire_chain *c, struct cs_error *e)
{
	struct cs_cert_facts facts;
	size_t bytes = 0;
	if (c->n == 0 || c->n > CS_CHAIN_MAX)
		return cs_error_reason(e, -EINVAL, CS_R_CHAIN_TOO_LARGE, "a chain of %zu certificates; 1 to %d may be",
			c->n, CS_CHAIN_MAX);
	for (size_t i = 0; i < c->n; i++) {
		int r = i == 0 ? cs_profile_leaf(c->cert[i], &facts, &c->id, e)
			       : cs_profile_authority(c->cert[i], &facts, e);
		if (r < 0)
			return cs_error_prefix(e, "certificate %zu of the chain", i + 1);
		if (i == 0) {
			c->spki = facts.spki;
			c->not_before_unix_s = facts.not_before_unix_s;
			c->not_after_unix_s = facts.not_after_unix_s;
		}
		if (facts.not_before_unix_s > c->not_before_unix_s)
			c->not_before_unix_s = facts.not_before_unix_s;
		if (facts.not_after_unix_s < c->not_after_unix_s)
			c->not_after_unix_s = facts.not_after_unix_s;
		bytes += c->cert[i].len;
	}
	if (bytes > CS_CHAIN_BYTES_MAX)
		return cs_error_reason(e, -EINVAL, CS_R_CHAIN_TOO_LARGE, "a chain of %zu bytes; at most %d may be",
			bytes, CS_CHAIN_BYTES_MAX);
	SHA256(c->cert[0].data, c->cert[0].len, c->leaf_sha256);
	return 0;
}

int cs_spire_key_read(
	const struct cs_spire_chain *chain, const ProtobufCBinaryData *pkcs8, EVP_PKEY **ret, struct cs_error *e)
{
	const unsigned char *p = pkcs8->data;
	if (pkcs8->len == 0 || pkcs8->len > CS_SPIRE_KEY_MAX)
		return cs_error_set(e, -EINVAL, "a key of %zu bytes; 1 to %d may be", pkcs8->len, CS_SPIRE_KEY_MAX);
	PKCS8_PRIV_KEY_INFO *info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &p, (long)pkcs8->len);
	EVP_PKEY *key = info && p == pkcs8->data + pkcs8->len ? EVP_PKCS82PKEY(info) : NULL;
	PKCS8_PRIV_KEY_INFO_free(info); /* clears its copy */
	if (!key)
		return cs_error_set(e, -EINVAL, "the key is not an unencrypted PKCS #8 key");
	unsigned char *spki = NULL;
	int n = i2d_PUBKEY(key, &spki);
	bool same = n > 0 && cs_der_equal((struct cs_der){spki, (size_t)n}, chain->spki);
	OPENSSL_free(spki);
	if (!same) {
		EVP_PKEY_free(key);
		return cs_error_set(e, -EINVAL, "the key is not that of the certificate");
	}
	*ret = key;
	return 0;
}

const char *cs_spire_trust_domain(const char *name)
{
	struct cs_error ignored;
	if (strncmp(name, CS_SPIFFE_SCHEME, strlen(CS_SPIFFE_SCHEME)) == 0)
		name += strlen(CS_SPIFFE_SCHEME);
	return cs_trust_domain_check(name, strlen(name), &ignored) < 0 ? NULL : name;
}
