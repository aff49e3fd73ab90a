/* What would happen to a packet of an endpoint and one address, in either direction: the decision of the datapath
 * (authmap/bpf/verdict.h) over the same rows, without its side effects. Pure. */
#ifndef CS_EXPLAIN_H
#define CS_EXPLAIN_H

#include <countersign/maps.h>
#include <stdbool.h>
#include <stdint.h>
#include "address.h"
#include "error.h"

/* The rows as they are in the maps; what is zero is not there. */
struct cs_explain_rows {
	struct cs_endpoint endpoint; /* of the interface */
	struct cs_addr addr;         /* that the remote address meets */
	bool has_policy;
	struct cs_policy policy;
	uint64_t entry;
	struct cs_pending pending;
	struct cs_config config;
	uint64_t now_ns;
};

struct cs_explained {
	uint8_t verdict; /* enum cs_verdict: what policy says, an entry aside */
	bool passes;
	bool replies_pass;     /* refused, but a reply to what the other direction let out passes */
	enum cs_reason reason; /* why not */
};
struct cs_explanation {
	struct cs_explained dir[2]; /* enum cs_dir */
	bool depends_on, audit;
};

/* remote is one host's address, no group's. */
void cs_explain(const struct cs_explain_rows *rows, const struct cs_ip *remote, struct cs_explanation *ret);

/* False: a group's, the unspecified or the broadcast address, which is nobody's. */
bool cs_explain_is_host(const struct cs_ip *ip);

#endif
