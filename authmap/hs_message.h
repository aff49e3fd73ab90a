/* What may come from a handshaker, which an attacker may have taken over: form only, bytes in, yes or no out. */
#ifndef CS_HS_MESSAGE_H
#define CS_HS_MESSAGE_H

#include <countersign/handshaker.h>
#include <stdbool.h>
#include <stddef.h>
#include "error.h"

union cs_hs_report {
	struct cs_hs_head head;
	struct cs_hs_verdict verdict;
	struct cs_hs_done done;
};

/* 0 and a copy in *ret, or -EBADMSG: the handshaker is to be killed. Size by type, no descriptor, strings terminated and
 * zero-filled, padding zero, enums known, text printable. */
CS_MUST_USE int cs_hs_report_parse(
	const void *bytes, size_t len, bool has_fd, union cs_hs_report *ret, struct cs_error *e);

#endif
