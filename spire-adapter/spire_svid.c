#include "spire_svid.h"

#include <errno.h>
#include <openssl/sha.h>
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

const char *cs_spire_trust_domain(const char *name)
{
	struct cs_error ignored;
	if (strncmp(name, CS_SPIFFE_SCHEME, strlen(CS_SPIFFE_SCHEME)) == 0)
		name += strlen(CS_SPIFFE_SCHEME);
	return cs_trust_domain_check(name, strlen(name), &ignored) < 0 ? NULL : name;
}
