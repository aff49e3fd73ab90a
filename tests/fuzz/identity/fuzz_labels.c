/* What is taken must have a canonical form that is taken again and means the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "labels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_labels l = {0}, again = {0};
	struct cs_error e = {0};
	if (cs_labels_parse((const char *)data, size, &l, &e) < 0) {
		if (e.reason != CS_R_LABELS_INVALID || !*e.text)
			abort();
		return 0;
	}
	char *text = cs_labels_format(&l);
	if (!text || strlen(text) > CS_LABELS_TEXT_MAX || l.n > CS_LABELS_MAX)
		abort();
	if (cs_labels_parse(text, strlen(text), &again, &e) < 0 || !cs_labels_equal(&l, &again))
		abort();
	free(text);
	cs_labels_fini(&l);
	cs_labels_fini(&again);
	return 0;
}
