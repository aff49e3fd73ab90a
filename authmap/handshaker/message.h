/* What may come from the monitor: form only, bytes in, yes or no out. */
#ifndef CS_HS_MESSAGE_H
#define CS_HS_MESSAGE_H

#include <countersign/handshaker.h>
#include <stdbool.h>
#include "algorithm.h"
#include "error.h"

#define CS_HS_CERTS_MAX 64 /* in one memfd */

union cs_hs_message {
	struct cs_hs_head head;
	struct cs_hs_svid svid;
	struct cs_hs_bundle bundle;
	struct cs_hs_dial dial;
	struct cs_hs_accept accept;
	struct cs_hs_answer answer;
};

/* Is this a message that a monitor may send, with or without a descriptor? Size by type, strings terminated and
 * zero-filled, padding zero, enums known. */
CS_MUST_USE int cs_hs_message_check(const void *bytes, size_t len, bool has_fd, struct cs_error *e);

/* A list of certificates, each u32 length + DER, to spans that borrow from bytes. *ret_n <= CS_HS_CERTS_MAX. */
CS_MUST_USE int cs_hs_list_parse(
	const uint8_t *bytes, size_t len, struct cs_der certs[CS_HS_CERTS_MAX], size_t *ret_n, struct cs_error *e);

/* "<numeric identity>.<trust domain>" in the one canonical form (no sign, no leading zero, no base prefix). *ret_domain
 * borrows from sni. Reason: SNI_INVALID. */
CS_MUST_USE int cs_hs_sni_parse(const char *sni, uint32_t *ret_identity, const char **ret_domain, struct cs_error *e);

#endif
