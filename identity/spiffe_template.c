#include "spiffe_template.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "identity_limits.h"
#include "mem.h"
#include "spiffe_id.h"

#define ID_MARK "{id}"

char *cs_spiffe_template_fill(const char *template, uint32_t id)
{
	const char *mark = strstr(template, ID_MARK);
	char *out = NULL;
	if (!mark || asprintf(&out, "%.*s%u%s", (int)(mark - template), template, id, mark + strlen(ID_MARK)) < 0)
		return NULL;
	return out;
}

int cs_spiffe_template_check(const char *template, const char *trust_domain, struct cs_error *e)
{
	const char *mark = strstr(template, ID_MARK);
	if (!mark || strstr(mark + 1, ID_MARK))
		return cs_error_set(e, -EINVAL,
			"'%s' must have " ID_MARK " exactly once, or two identities would get the same SPIFFE ID",
			template);
	struct cs_spiffe_id id;
	char *text = cs_mem_check(cs_spiffe_template_fill(template, CS_IDENTITY_MAX)), domain[CS_TRUST_DOMAIN_MAX + 1];
	int r = cs_spiffe_id_parse(&id, text, strlen(text), e);
	free(text);
	if (r < 0)
		return cs_error_prefix(e, "the template '%s' makes no SPIFFE ID", template);
	cs_spiffe_id_domain(&id, domain);
	if (strcmp(domain, trust_domain) != 0)
		return cs_error_reason(e, -EINVAL, CS_R_TRUST_DOMAIN_MISMATCH,
			"the template '%s' names another trust domain than %s", template, trust_domain);
	return 0;
}
