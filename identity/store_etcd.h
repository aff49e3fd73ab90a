/* The store in etcd: where it is, and how long a leader may be silent. */
#ifndef CS_STORE_ETCD_H
#define CS_STORE_ETCD_H

#include "etcd.h"

#define CS_STORE_ETCD_PREFIX     "/countersign/"
#define CS_STORE_ETCD_PREFIX_MAX 255
#define CS_STORE_ETCD_LEASE_MS   10000
#define CS_STORE_ETCD_TIMEOUT_MS 5000

/* What a cs_store_config points to; copied by cs_store_open. */
struct cs_etcd_config {
	struct cs_etcd_options client;
	/* All keys of this cluster begin with it, so that several clusters can share an etcd; ends in '/'. NULL: the default. */
	const char *prefix;
	int64_t lease_ms;   /* a leader that is silent for longer leads no more; whole seconds; 0: the default */
	int64_t timeout_ms; /* of one request; 0: the default */
};

#endif
