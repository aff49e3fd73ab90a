/* What the server's own lists say about an installation. */
#include <string.h>
#include "bootstrap.h"
#include "mem.h"

struct word {
	char *text;
	char *agent;            /* of an alias: whose it is; NULL: whoever has its selectors */
	int64_t expires_unix_s; /* of an agent; 0: not known */
	UT_hash_handle hh;
};

struct cs_bootstrap_check {
	const struct cs_bootstrap *b;
	struct cs_findings *f;
	struct word *agents;    /* SPIFFE IDs of agents that the server knows */
	struct word *parents;   /* IDs that stand for an agent: they have an entry under the server or an agent */
	struct word *bundles;   /* trust domains whose bundle is there */
	struct word *relations; /* ... is fetched */
	struct word *federated; /* ... entries federate with */
};

static struct word *word_add(struct word **set, const char *text)
{
	struct word *word;
	HASH_FIND_STR(*set, text, word);
	if (word)
		return word;
	word = cs_xcalloc(1, sizeof(*word));
	word->text = cs_xstrdup(text);
	HASH_ADD_KEYPTR(hh, *set, word->text, strlen(word->text), word);
	return word;
}

static struct word *word_find(struct word *set, const char *text)
{
	struct word *word;
	HASH_FIND_STR(set, text, word);
	return word;
}

static void words_free(struct word **set)
{
	struct word *word, *next;
	HASH_ITER (hh, *set, word, next) {
		HASH_DEL(*set, word);
		free(word->text);
		free(word->agent);
		free(word);
	}
}

struct cs_bootstrap_check *cs_bootstrap_check_new(const struct cs_bootstrap *b, struct cs_findings *f)
{
	struct cs_bootstrap_check *c = cs_xcalloc(1, sizeof(*c));
	c->b = b;
	c->f = f;
	return c;
}

void cs_bootstrap_check_free(struct cs_bootstrap_check *c)
{
	if (!c)
		return;
	words_free(&c->agents);
	words_free(&c->parents);
	words_free(&c->bundles);
	words_free(&c->relations);
	words_free(&c->federated);
	free(c);
}

/* ---- entries ---- */

/* The server returns names, and takes IDs as well. */
static const char *domain_name(const char *text)
{
	return strncmp(text, "spiffe://", 9) == 0 ? text + 9 : text;
}

static void check_federation_of(struct cs_bootstrap_check *c, const cs_spire_entry *entry, const char *id)
{
	char parent[CS_SPIRE_ID];
	cs_spire_id_text(entry->parent_id, parent);
	for (size_t i = 0; i < entry->n_federates_with; i++) {
		const char *domain = domain_name(entry->federates_with[i]);
		if (strcmp(domain, c->b->trust_domain) != 0)
			word_add(&c->federated, domain);
		else
			cs_findings_add(c->f, "own-trust-domain-federated", entry->id,
				"take it out of federates_with, or delete the entry: spire-server entry update|delete "
				"-entryID ID",
				"%.400s (parent %.300s) federates with its own trust domain: every agent that receives "
				"this entry stops "
				"syncing, and so gets no new entry and renews no SVID until they expire",
				id, parent);
	}
}

static bool is_marked(const struct cs_bootstrap *b, const char *entry_id)
{
	size_t n = strlen(b->mark);
	return strncmp(entry_id, b->mark, n) == 0 && entry_id[n] == '.';
}

static void check_foreign(struct cs_bootstrap_check *c, const cs_spire_entry *entry, const char *id)
{
	if (strncmp(id, c->b->identities, strlen(c->b->identities)) == 0 && !is_marked(c->b, entry->id))
		cs_findings_add(c->f, "foreign-entry", entry->id,
			"delete it, or give the registrar another prefix; countersign entry list --foreign shows them "
			"all",
			"%.400s is under the prefix of the identities that the registrar keeps, and not made by it: "
			"the registrar "
			"does not start",
			id);
}

static bool under(const char *path, const char *prefix)
{
	return strncmp(path, prefix, strlen(prefix)) == 0;
}

/* Somebody else's process that is given one of our names. */
static void check_ours(struct cs_bootstrap_check *c, const cs_spire_entry *entry, const char *id)
{
	char selectors[256];
	if (!under(entry->spiffe_id->path, "/countersign/"))
		return;
	cs_spire_selectors_text(entry->selectors, entry->n_selectors, selectors, sizeof(selectors));
	if (entry->n_selectors == 1 && strcmp(entry->selectors[0]->type, "unix") == 0 &&
		(strcmp(entry->selectors[0]->value, "uid:0") == 0 ||
			strcmp(entry->selectors[0]->value, "user:root") == 0))
		cs_findings_add(c->f, "wide-selector", entry->id,
			"give it a selector of its one process, for example unix:path:PROGRAM",
			"%.400s is for every process of root (selectors %s), SPIRE's agent and all daemons included",
			id, selectors);
	if (entry->x509_svid_ttl > 0 && entry->x509_svid_ttl < 20)
		cs_findings_add(c->f, "short-ttl", entry->id,
			"spire-server entry update -x509SVIDTTL 3600, or 0 for the server's",
			"%.400s lives for %d s: an agent that misses a sync or two lets it expire", id,
			entry->x509_svid_ttl);
}

/* By a join token it is an entry under the agent, by selectors one under the server. */
static void see_alias(struct cs_bootstrap_check *c, const cs_spire_entry *entry, const char *id)
{
	char parent[CS_SPIRE_ID];
	struct word *alias = word_add(&c->parents, id);
	free(alias->agent);
	cs_spire_id_text(entry->parent_id, parent);
	alias->agent = under(entry->parent_id->path, "/spire/agent/") ? cs_xstrdup(parent) : NULL;
}

void cs_bootstrap_check_entry(struct cs_bootstrap_check *c, const cs_spire_entry *entry)
{
	char id[CS_SPIRE_ID];
	if (!entry->spiffe_id || !entry->parent_id)
		return;
	cs_spire_id_text(entry->spiffe_id, id);
	check_federation_of(c, entry, id);
	check_foreign(c, entry, id);
	check_ours(c, entry, id);
	if (under(entry->parent_id->path, "/spire/"))
		see_alias(c, entry, id);
}

/* ---- the other lists ---- */

void cs_bootstrap_check_agent(struct cs_bootstrap_check *c, const cs_spire_agent *agent)
{
	char id[CS_SPIRE_ID];
	cs_spire_id_text(agent->id, id);
	struct word *word = word_add(&c->agents, id);
	word->expires_unix_s = agent->x509svid_expires_at;
	if (agent->banned)
		cs_findings_add(c->f, "agent-banned", id, "spire-server agent evict lets it attest anew",
			"the server has banned this agent: its node gets nothing");
}

void cs_bootstrap_check_bundle(struct cs_bootstrap_check *c, const cs_spire_bundle *bundle)
{
	word_add(&c->bundles, domain_name(bundle->trust_domain));
}

void cs_bootstrap_check_federation(struct cs_bootstrap_check *c, const cs_spire_federation *federation)
{
	word_add(&c->relations, domain_name(federation->trust_domain));
}

/* ---- all of it ---- */

static void check_wishes(struct cs_bootstrap_check *c, const struct cs_wishes *w)
{
	char id[CS_SPIRE_ID], parent[CS_SPIRE_ID];
	for (size_t i = 0; i < w->n; i++) {
		const struct cs_wish *wish = &w->items[i];
		cs_spire_id_text(wish->entry->spiffe_id, id);
		cs_spire_id_text(wish->entry->parent_id, parent);
		if (wish->state == CS_WISH_MISSING)
			cs_findings_add(c->f, "entry-missing", id,
				"the same command without --check makes it, with --print shows how",
				"there is no entry for %s under %.600s", wish->what, parent);
		else if (wish->state == CS_WISH_DIFFERS)
			cs_findings_add(c->f, "entry-differs", wish->id,
				"update or delete it (spire-server entry update|delete -entryID ID), or say here what "
				"is wanted",
				"%.300s, for %s: %.400s", id, wish->what, wish->text);
	}
}

static void check_parent(struct cs_bootstrap_check *c, const char *node, int64_t now_unix_s)
{
	char parent[CS_SPIRE_ID];
	cs_bootstrap_parent(c->b, node, parent);
	const struct word *alias = word_find(c->parents, parent);
	const struct word *agent = word_find(c->agents, alias && alias->agent ? alias->agent : parent);
	if (!agent && !(alias && !alias->agent))
		cs_findings_add(c->f, "no-agent", node,
			"start an agent whose alias this is (spire-server token generate -spiffeID ALIAS), or say "
			"which is its "
			"parent: --agent-selector, --parent",
			"neither an agent nor an alias of one is called %.600s: what has it as its parent reaches no "
			"agent",
			parent);
	else if (agent && agent->expires_unix_s && agent->expires_unix_s < now_unix_s)
		cs_findings_add(c->f, "agent-expired", node, "look at the agent's log, and let it attest anew",
			"the SVID of its agent, %.600s, has expired: nothing is renewed there", agent->text);
}

static void check_domain(struct cs_bootstrap_check *c, const char *domain)
{
	if (!word_find(c->bundles, domain))
		cs_findings_add(c->f, "no-federated-bundle", domain,
			"spire-server bundle set -id spiffe://TRUST-DOMAIN, or spire-server federation create",
			"the server has no bundle of this trust domain: it refuses every entry that federates with it, "
			"and nobody of "
			"it is believed here");
	else if (!word_find(c->relations, domain))
		cs_findings_add(c->f, "bundle-not-refreshed", domain,
			"spire-server federation create, so that the server fetches it; or see to it yourself",
			"its bundle was set by hand and nobody fetches a new one: when its authorities rotate, it is "
			"not believed here");
}

static void check_domains(struct cs_bootstrap_check *c)
{
	struct word *word, *next;
	for (size_t i = 0; i < c->b->federates_with.n; i++)
		if (strcmp(domain_name(c->b->federates_with.items[i]), c->b->trust_domain) != 0)
			word_add(&c->federated, domain_name(c->b->federates_with.items[i]));
	HASH_ITER (hh, c->federated, word, next)
		check_domain(c, word->text);
}

void cs_bootstrap_check_end(struct cs_bootstrap_check *c, const struct cs_wishes *w, int64_t now_unix_s)
{
	check_wishes(c, w);
	for (size_t i = 0; i < c->b->nodes.n; i++)
		check_parent(c, c->b->nodes.items[i], now_unix_s);
	check_domains(c);
	if (!c->b->nodes.n)
		cs_findings_unchecked(c->f, "the entries of nodes, and their agents: give each with --node NAME");
	if (!c->b->agent_configs.n)
		cs_findings_unchecked(c->f, "authorized_delegates, the admin socket and the sync interval: they are in "
					    "the agent's file, --agent-config FILE");
	if (!c->b->server_config)
		cs_findings_unchecked(
			c->f, "the TTLs of server and CA: they are in the server's file, --server-config FILE");
}
