/* SPIFFE IDs against a grammar that is written down a second time, as a regular expression. */
#include <regex.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "spiffe_id.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool by_regex(const uint8_t *data, size_t size)
{
	static regex_t form, dots;
	static bool ready;
	char text[CS_SPIFFE_ID_MAX + 1];
	if (!ready) {
		if (regcomp(&form, "^spiffe://[a-z0-9._-]{1,255}(/[a-zA-Z0-9._-]+)*$", REG_EXTENDED | REG_NOSUB) != 0 ||
			regcomp(&dots, "^spiffe://[^/]*/(.*/)?[.]{1,2}(/|$)", REG_EXTENDED | REG_NOSUB) != 0)
			abort();
		ready = true;
	}
	if (size > CS_SPIFFE_ID_MAX || memchr(data, 0, size))
		return false;
	memcpy(text, data, size);
	text[size] = '\0';
	return regexec(&form, text, 0, NULL, 0) == 0 && regexec(&dots, text, 0, NULL, 0) != 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cs_spiffe_id id, again;
	struct cs_error e;
	char domain[CS_TRUST_DOMAIN_MAX + 1];
	bool parsed = cs_spiffe_id_parse(&id, data, size, &e) == 0;
	if (parsed != by_regex(data, size))
		abort();
	if (!parsed)
		return 0;
	cs_spiffe_id_domain(&id, domain);
	if (id.len != size || memcmp(id.text, data, size) != 0 || strlen(id.text) != size)
		abort();
	if (cs_spiffe_id_make(&again, domain, cs_spiffe_id_path(&id), &e) < 0 || !cs_spiffe_id_equal(&id, &again))
		abort();
	return 0;
}
