/* A row of the store, "KEY NUL VALUE": what is taken must become the same fact again, and be found by its key. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "facts_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_fact fact, again;
	struct cs_fact_hold *hold = NULL, *hold_again = NULL;
	struct cs_error e = {0};
	const uint8_t *end = memchr(data, '\0', size);
	if (!end || end - data >= CS_FACT_KEY_MAX)
		return 0;
	const char *key = (const char *)data;
	if (cs_fact_decode(key, end + 1, size - (size_t)(end + 1 - data), &fact, &hold, &e) < 0) {
		if (!*e.text)
			abort();
		return 0;
	}
	size_t n;
	uint8_t *value = cs_fact_encode(&fact, &n);
	if (cs_fact_decode(key, value, n, &again, &hold_again, &e) < 0)
		abort();
	struct cs_facts *facts = cs_facts_new("spiffe://example.org/identity/{id}", 256, 65535);
	struct cs_fact_entry *entry = cs_fact_entry_new(&again);
	cs_facts_link(facts, entry);
	if (cs_facts_find_key(facts, key) != entry || cs_facts_find(facts, &fact) != entry)
		abort();
	size_t m;
	uint8_t *mine = cs_fact_encode(&entry->fact, &m);
	if (m != n || memcmp(mine, value, n) != 0)
		abort();
	free(mine);
	free(value);
	cs_facts_free(facts);
	cs_fact_hold_free(hold);
	cs_fact_hold_free(hold_again);
	return 0;
}
