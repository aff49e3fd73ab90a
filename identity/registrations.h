/* The registrations of a node role, one file each in its state directory: DIR/<hash of the id>, the packed
 * EndpointSpec. Written by rename and synced. Everything blocks: for a worker, but for the loading at start. */
#ifndef CS_REGISTRATIONS_H
#define CS_REGISTRATIONS_H

#include <stddef.h>
#include <stdint.h>
#include "error.h"

struct cs_registration {
	char *id;
	uint8_t *bytes; /* NULL: remove it */
	size_t n;
};

/* Makes the directory, removes what a killed process left half written, and calls fn for each file. A file that cannot
 * be read is an error: going on without it would forget an endpoint. */
CS_MUST_USE int cs_registrations_load(const char *dir,
	int (*fn)(void *data, const uint8_t *bytes, size_t n, struct cs_error *e), void *data, struct cs_error *e);
/* All of them in their order, then one sync of the directory. On an error (-ENOSPC, ...) those before it are there;
 * *ret_done says how many. */
CS_MUST_USE int cs_registrations_write(
	const char *dir, const struct cs_registration *list, size_t n, size_t *ret_done, struct cs_error *e);

#endif
