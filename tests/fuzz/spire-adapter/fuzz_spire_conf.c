/* A configuration of SPIRE: whatever the bytes are, it ends, and every path is within its limit. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "spire_conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_spire_conf conf;
	struct cs_error e = {0};
	char *text = malloc(size ? size : 1); /* no NUL behind it */
	if (!text)
		abort();
	memcpy(text, data, size);
	int r = cs_spire_conf_parse("fuzz", text, size, &conf, &e);
	free(text);
	if (r < 0 && (e.code >= 0 || !*e.text))
		abort();
	if (r < 0)
		return 0;
	if (conf.n > CS_SPIRE_CONF_VALUES)
		abort();
	for (size_t i = 0; i < conf.n; i++)
		if (strlen(conf.items[i].path) >= CS_SPIRE_CONF_PATH)
			abort();
	cs_spire_conf_fini(&conf);
	return 0;
}
