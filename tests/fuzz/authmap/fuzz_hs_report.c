/* What a handshaker that was taken over may send to the monitor. Whatever passes has the form that the rest relies on. */
#include <stdlib.h>
#include <string.h>
#include "hs_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	union cs_hs_report m;
	struct cs_error e;
	if (cs_hs_report_parse(data, size, false, &m, &e) < 0)
		return 0;
	if (m.head.type == CS_HS_VERDICT && (strnlen(m.verdict.remote_spiffe_id, sizeof(m.verdict.remote_spiffe_id)) >=
							    sizeof(m.verdict.remote_spiffe_id) ||
						    m.verdict.role > CS_HS_LOOPBACK || !m.verdict.local))
		abort();
	if (m.head.type == CS_HS_DONE &&
		(m.done.reason >= CS_REASON_MAX ||
			strnlen(m.done.detail, sizeof(m.done.detail)) >= sizeof(m.done.detail)))
		abort();
	return 0;
}
