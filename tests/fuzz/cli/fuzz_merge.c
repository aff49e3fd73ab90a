/* The texts of daemons into one: never more than was put in, and all of it or nothing. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "merge.h"

#define KNOWN "# HELP a x\n# TYPE a gauge\na 1\n"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_merge *m = cs_merge_new();
	struct cs_error e = {0};
	char *text = NULL;
	size_t len = 0;
	if (!m || cs_merge_add(m, KNOWN, strlen(KNOWN), &e) < 0)
		abort();
	int r = cs_merge_add(m, (const char *)data, size, &e);
	FILE *out = open_memstream(&text, &len);
	if (!out)
		abort();
	cs_merge_write(m, out);
	fclose(out);
	if (r < 0 ? len != strlen(KNOWN) || !*e.text : len > strlen(KNOWN) + size)
		abort();
	/* what was written is taken again */
	struct cs_merge *again = cs_merge_new();
	if (!again || cs_merge_add(again, text, len, &e) < 0)
		abort();
	cs_merge_free(again);
	cs_merge_free(m);
	free(text);
	return 0;
}
