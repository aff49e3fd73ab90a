/* What SPIRE's agent sends, of whatever bytes: the two messages that carry chains and keys. What is accepted fits together. */
#include <openssl/x509.h>
#include <stdlib.h>
#include "delegated_identity.pb-c.h"
#include "grpc_wire.h"
#include "spire_key.h"
#include "spire_svid.h"
#include "workload.pb-c.h"

#define UNPACK_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
	if (!ok)
		abort();
}

static struct cs_der span(ProtobufCBinaryData bytes)
{
	return (struct cs_der){bytes.data, bytes.len};
}

static void check(struct cs_spire_chain *chain, struct cs_der pkcs8)
{
	struct cs_error e;
	EVP_PKEY *key;
	if (cs_spire_chain_read(chain, &e) < 0)
		return;
	require(*cs_spiffe_id_path(&chain->id) == '/');
	if (cs_spire_key_read(pkcs8, chain->spki, &key, &e) < 0)
		return;
	unsigned char *spki = NULL;
	int n = i2d_PUBKEY(key, &spki);
	require(n > 0 && cs_der_equal((struct cs_der){spki, (size_t)n}, chain->spki));
	OPENSSL_free(spki);
	EVP_PKEY_free(key);
}

static void delegated(const uint8_t *data, size_t size)
{
	ProtobufCMessage *message;
	if (cs_grpc_unpack(&spire__api__agent__delegatedidentity__v1__subscribe_to_x509_svids_response__descriptor,
		    data, size, UNPACK_MAX, &message) < 0)
		return;
	const Spire__Api__Agent__Delegatedidentity__V1__SubscribeToX509SVIDsResponse *in = (const void *)message;
	for (size_t i = 0; i < in->n_x509_svids; i++) {
		const Spire__Api__Agent__Delegatedidentity__V1__X509SVID *svid = in->x509_svids[i]->x509_svid;
		struct cs_spire_chain chain = {0};
		for (; svid && chain.n < svid->n_cert_chain && chain.n < CS_CHAIN_MAX; chain.n++)
			chain.cert[chain.n] = span(svid->cert_chain[chain.n]);
		check(&chain, span(in->x509_svids[i]->x509_svid_key));
	}
	cs_grpc_unpack_free(message);
}

static void workload(const uint8_t *data, size_t size)
{
	ProtobufCMessage *message;
	if (cs_grpc_unpack(&x509_svidresponse__descriptor, data, size, UNPACK_MAX, &message) < 0)
		return;
	const X509SVIDResponse *in = (const void *)message;
	for (size_t i = 0; i < in->n_svids; i++) {
		struct cs_spire_chain chain = {0};
		struct cs_error e;
		if (cs_spire_split(span(in->svids[i]->x509_svid), chain.cert, CS_CHAIN_MAX, &chain.n, &e) == 0)
			check(&chain, span(in->svids[i]->x509_svid_key));
		cs_spire_trust_domain(in->svids[i]->spiffe_id);
	}
	cs_grpc_unpack_free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	delegated(data, size);
	workload(data, size);
	return 0;
}
