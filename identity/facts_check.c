/* Do the facts that were read contradict each other? The rules never let that happen, but a hand in the file may. */
#include "facts_private.h"

#include <countersign/maps.h>
#include <errno.h>

static int check_identities(const struct cs_facts *facts, struct cs_error *e)
{
	for (struct cs_fact_entry *entry = facts->kinds[CS_FACT_IDENTITY]; entry; entry = entry->hh.next) {
		const struct cs_store_identity *identity = &entry->fact.identity;
		const struct cs_store_identity *other = cs_facts_identity_of(facts, identity->labels);
		uint32_t odd = cs_facts_odd_spiffe_id(facts, identity->spiffe_id);
		if (other != identity)
			return cs_error_set(
				e, -EPROTO, "identities %u and %u have the same labels", identity->id, other->id);
		if (odd != 0 && odd != identity->id)
			return cs_error_set(e, -EPROTO, "identities %u and %u both have %s", identity->id, odd,
				identity->spiffe_id);
	}
	return 0;
}

int cs_facts_check(const struct cs_facts *facts, struct cs_error *e)
{
	char text[CS_IP_TEXT];
	for (struct cs_fact_entry *entry = facts->kinds[CS_FACT_CLAIM]; entry; entry = entry->hh.next) {
		const struct cs_store_claim *claim = &entry->fact.claim;
		if (!cs_facts_identity(facts, claim->identity))
			return cs_error_set(e, -EPROTO, "endpoint '%s' on node %s has identity %u, which is not there",
				claim->endpoint, claim->node, claim->identity);
		for (size_t i = 0; i < claim->naddrs; i++)
			if (cs_facts_claim_at(facts, &claim->addrs[i]) != claim)
				return cs_error_set(e, -EPROTO, "two endpoints have the address %s",
					cs_ip_text(&claim->addrs[i], text));
	}
	for (struct cs_fact_entry *entry = facts->kinds[CS_FACT_PREFIX]; entry; entry = entry->hh.next)
		if (cs_facts_find_prefix(facts, &entry->fact.prefix.prefix) != entry)
			return cs_error_set(e, -EPROTO, "the prefix of number %u has another number too",
				entry->fact.prefix.id & ~CS_ID_LOCAL_SCOPE);
	for (struct cs_fact_entry *entry = facts->kinds[CS_FACT_NODE]; entry; entry = entry->hh.next) {
		const struct cs_store_node *node = &entry->fact.node;
		for (size_t i = 0; i < node->naddrs; i++)
			if (cs_facts_node_at(facts, &node->addrs[i]) != node)
				return cs_error_set(
					e, -EPROTO, "two nodes have the address %s", cs_ip_text(&node->addrs[i], text));
	}
	return check_identities(facts, e);
}
