/* Reads a configuration file of spire-server or spire-agent, as far as somebody who checks it must: HCL 1 (what SPIRE's own
 * examples are written in) and the JSON form of the same. Every value is kept as text under its path:
 *
 *     agent { experimental { sync_interval = "1s" } }          agent.experimental.sync_interval
 *     plugins { NodeAttestor "join_token" { plugin_data {} } }  plugins.NodeAttestor.join_token
 *
 * Here-documents and ${interpolation} are not read: SPIRE has no use for them. */
#ifndef CS_SPIRE_CONF_H
#define CS_SPIRE_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include "error.h"

#define CS_SPIRE_CONF_BYTES  (1u << 20)
#define CS_SPIRE_CONF_VALUES 4096
#define CS_SPIRE_CONF_DEPTH  32
#define CS_SPIRE_CONF_PATH   512 /* bytes of a path */

struct cs_spire_conf {
	struct cs_spire_conf_value {
		char *path, *value; /* value NULL: a block begins here */
	} * items;
	size_t n;
};

/* name is for the error, which says the line. */
CS_MUST_USE int cs_spire_conf_parse(
	const char *name, const char *text, size_t len, struct cs_spire_conf *ret, struct cs_error *e);
CS_MUST_USE int cs_spire_conf_read(const char *file, struct cs_spire_conf *ret, struct cs_error *e);
void cs_spire_conf_fini(struct cs_spire_conf *conf);

/* The last value of a path, or NULL. Borrowed. */
const char *cs_spire_conf_get(const struct cs_spire_conf *conf, const char *path);
/* Is there a block of that path? */
bool cs_spire_conf_has(const struct cs_spire_conf *conf, const char *path);
/* Is this one of the values of a list? */
bool cs_spire_conf_lists(const struct cs_spire_conf *conf, const char *path, const char *value);

#endif
