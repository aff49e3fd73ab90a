/* What a store says of numbers must be what they mean here: a store that was written to by hand, or by another cluster,
 * would give the SPIFFE IDs of one trust domain to numbers of another. */
#include "core_private.h"

#include "spiffe_id.h"

struct checking {
	const struct cs_numbers *numbers;
	int result;
	struct cs_error *e;
};

static void check_one(void *data, const struct cs_fact *fact)
{
	struct checking *c = data;
	const struct cs_store_identity *identity = &fact->identity;
	struct cs_spiffe_id id;
	char domain[CS_TRUST_DOMAIN_MAX + 1];
	if (c->result < 0)
		return;
	c->result = cs_spiffe_id_parse(&id, identity->spiffe_id, strlen(identity->spiffe_id), c->e);
	if (c->result == 0) {
		cs_spiffe_id_domain(&id, domain);
		c->result = cs_number_check_domain(c->numbers, identity->id, domain, c->e);
	}
	if (c->result < 0)
		cs_error_prefix(c->e, "the store says that %u is %.256s", identity->id, identity->spiffe_id);
}

int cs_core_check_numbers(struct cs_core *core, struct cs_error *e)
{
	struct checking c = {.numbers = core->config->numbers, .e = e};
	if (c.numbers)
		cs_facts_each(cs_core_facts(core), CS_FACT_IDENTITY, check_one, &c);
	return c.result;
}
