/* What countersign-handshaker takes from the monitor, and from a peer before TLS is done: messages, certificate lists,
 * server names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_sni(const uint8_t *data, size_t size)
{
	char sni[300], again[300];
	uint32_t identity;
	const char *domain;
	size_t n = size < sizeof(sni) - 1 ? size : sizeof(sni) - 1;
	memcpy(sni, data, n);
	sni[n] = '\0';
	if (cs_hs_sni_parse(sni, &identity, &domain, NULL) < 0)
		return;
	/* Canonical: there is one way to write it. */
	snprintf(again, sizeof(again), "%u.%s", identity, domain);
	if (strcmp(sni, again) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_der certs[CS_HS_CERTS_MAX];
	struct cs_error e;
	size_t n, total = 0;
	if (size == 0)
		return 0;
	if (cs_hs_message_check(data + 1, size - 1, data[0] & 1, &e) < 0 && !e.text[0])
		abort();
	if (cs_hs_list_parse(data, size, certs, &n, &e) == 0) {
		for (size_t i = 0; i < n; i++)
			total += certs[i].len + sizeof(uint32_t);
		if (total != size)
			abort();
	}
	try_sni(data, size);
	return 0;
}
