#include "numbers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <countersign/maps.h>
#include "mem.h"
#include "spiffe_id.h"

/* In bounds by what the two allow; both end below the scopes. */
static void set_range(struct cs_numbers *n)
{
	n->shift = n->clusters_max == 255 ? 16 : 15;
	n->min = n->cluster_id == 0 ? CS_ID_LABELS_FIRST : n->cluster_id << n->shift;
	n->max = ((n->cluster_id + 1) << n->shift) - 1;
}

void cs_numbers_fini(struct cs_numbers *n)
{
	free(n->trust_domain);
	for (size_t i = 0; i < n->ndomains; i++)
		free(n->domains[i].trust_domain);
	free(n->domains);
	for (size_t i = 0; i < sizeof(n->fixed) / sizeof(n->fixed[0]); i++)
		free(n->fixed[i]);
	*n = (struct cs_numbers){0};
}

/* "12=..." with a canonical number from min to max; *ret_rest is what follows the '='. */
static int number_before(const char *text, uint32_t min, uint32_t max, uint32_t *ret, const char **ret_rest,
	const char *example, struct cs_error *e)
{
	char *end = NULL;
	unsigned long n = text[0] >= '1' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;
	if (n < min || n > max || *end != '=' || end - text > 5 || !end[1])
		return cs_error_set(e, -EINVAL, "'%.80s' is not NUMBER=NAME with a number from %u to %u, like %s", text,
			min, max, example);
	*ret = (uint32_t)n;
	*ret_rest = end + 1;
	return 0;
}

static int add_domain(struct cs_numbers *n, const char *text, struct cs_error *e)
{
	uint32_t cluster;
	const char *domain;
	int r = number_before(text, 1, n->clusters_max, &cluster, &domain, "2=other.example", e);
	if (r < 0)
		return r;
	if (cluster == n->cluster_id)
		return cs_error_set(e, -EINVAL, "'%.80s': %u is this cluster itself, whose trust domain is %s", text,
			cluster, n->trust_domain);
	if (cs_trust_domain_check(domain, strlen(domain), e) < 0)
		return cs_error_prefix(e, "'%.80s'", text);
	for (size_t i = 0; i < n->ndomains; i++)
		if (n->domains[i].cluster == cluster)
			return cs_error_set(e, -EINVAL, "'%.80s': cluster %u has the trust domain %s already", text,
				cluster, n->domains[i].trust_domain);
	n->domains = cs_xrealloc(n->domains, n->ndomains + 1, sizeof(*n->domains));
	n->domains[n->ndomains++] = (struct cs_cluster_domain){.cluster = cluster, .trust_domain = cs_xstrdup(domain)};
	return 0;
}

static int check_fixed_name(const char *name, struct cs_error *e)
{
	size_t len = strlen(name);
	bool ok = len <= CS_FIXED_NAME_MAX;
	for (size_t i = 0; i < len && ok; i++)
		ok = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') || name[i] == '-' ||
		     name[i] == '.';
	if (!ok)
		return cs_error_set(e, -EINVAL,
			"'%.80s' is no name for a user-reserved identity: at most %d of a-z, 0-9, '-' and '.'", name,
			CS_FIXED_NAME_MAX);
	for (uint32_t id = 0; id < CS_ID_FIXED_FIRST; id++)
		if (cs_id_name(id) && strcmp(cs_id_name(id), name) == 0)
			return cs_error_set(e, -EINVAL, "'%s' is the name of the reserved identity %u", name, id);
	return 0;
}

static int add_fixed(struct cs_numbers *n, const char *text, struct cs_error *e)
{
	uint32_t id;
	const char *name;
	int r = number_before(text, CS_ID_FIXED_FIRST, CS_ID_FIXED_LAST, &id, &name, "128=payments", e);
	if (r == 0)
		r = check_fixed_name(name, e);
	if (r < 0)
		return r;
	char **slot = &n->fixed[id - CS_ID_FIXED_FIRST];
	if (*slot)
		return cs_error_set(e, -EINVAL, "'%.80s': %u has the name '%s' already", text, id, *slot);
	if (cs_number_fixed(n, name) != 0)
		return cs_error_set(
			e, -EINVAL, "'%.80s': '%s' is the name of %u already", text, name, cs_number_fixed(n, name));
	*slot = cs_xstrdup(name);
	return 0;
}

int cs_numbers_init(struct cs_numbers *ret, const struct cs_numbers_config *c, struct cs_error *e)
{
	struct cs_numbers n = {.cluster_id = (uint32_t)c->cluster_id, .clusters_max = (uint32_t)c->clusters_max};
	if (c->clusters_max != 255 && c->clusters_max != 511)
		return cs_error_set(e, -EINVAL, "there are 255 or 511 clusters, not %lld", (long long)c->clusters_max);
	if (c->cluster_id < 0 || c->cluster_id > c->clusters_max)
		return cs_error_set(e, -EINVAL, "cluster.id is 0 to %lld, not %lld; cluster.max_clusters is %lld",
			(long long)c->clusters_max, (long long)c->cluster_id, (long long)c->clusters_max);
	set_range(&n);
	n.trust_domain = cs_xstrdup(c->trust_domain);
	int r = 0;
	for (size_t i = 0; i < c->domains.n && r == 0; i++)
		r = add_domain(&n, c->domains.items[i], e);
	if (r < 0)
		cs_error_prefix(e, "cluster.trust_domains");
	for (size_t i = 0; i < c->fixed.n && r == 0; i++)
		if ((r = add_fixed(&n, c->fixed.items[i], e)) < 0)
			cs_error_prefix(e, "identity.fixed");
	if (r < 0)
		cs_numbers_fini(&n);
	else
		*ret = n;
	return r;
}

enum cs_number_kind cs_number_kind(uint32_t id)
{
	if (id < CS_ID_WELL_KNOWN_FIRST)
		return CS_NUMBER_RESERVED;
	if (id < CS_ID_FIXED_FIRST)
		return CS_NUMBER_WELL_KNOWN;
	if (id <= CS_ID_FIXED_LAST)
		return CS_NUMBER_FIXED;
	if (id < CS_ID_SCOPE_CIDR)
		return CS_NUMBER_LABELS;
	return id < CS_ID_SCOPE_NODE ? CS_NUMBER_CIDR : id < CS_ID_SCOPE_END ? CS_NUMBER_NODE : CS_NUMBER_NONE;
}

const char *cs_number_kind_name(enum cs_number_kind kind)
{
	static const char *const names[] = {
		"reserved", "well-known", "user-reserved", "label set", "CIDR", "remote node", "none"};
	return names[kind];
}

bool cs_number_authenticates(uint32_t id)
{
	return id >= CS_ID_FIRST_AUTH && id < CS_ID_LOCAL_SCOPE;
}

uint32_t cs_number_cluster(const struct cs_numbers *n, uint32_t id)
{
	return cs_number_kind(id) == CS_NUMBER_LABELS ? id >> n->shift : 0;
}

bool cs_number_is_own(const struct cs_numbers *n, uint32_t id)
{
	return id >= n->min && id <= n->max;
}

uint32_t cs_number_fixed(const struct cs_numbers *n, const char *name)
{
	for (uint32_t id = CS_ID_FIXED_FIRST; id <= CS_ID_FIXED_LAST; id++)
		if (n->fixed[id - CS_ID_FIXED_FIRST] && strcmp(n->fixed[id - CS_ID_FIXED_FIRST], name) == 0)
			return id;
	return 0;
}

const char *cs_number_trust_domain(const struct cs_numbers *n, uint32_t id)
{
	if (!cs_number_authenticates(id))
		return NULL;
	/* Every cluster has its own well-known and user-reserved ones. */
	if (cs_number_kind(id) != CS_NUMBER_LABELS || cs_number_is_own(n, id))
		return n->trust_domain;
	for (size_t i = 0; i < n->ndomains; i++)
		if (n->domains[i].cluster == cs_number_cluster(n, id))
			return n->domains[i].trust_domain;
	return NULL;
}

int cs_number_check_domain(const struct cs_numbers *n, uint32_t id, const char *trust_domain, struct cs_error *e)
{
	const char *right = cs_number_trust_domain(n, id);
	uint32_t cluster = cs_number_cluster(n, id);
	if (right && strcmp(right, trust_domain) == 0)
		return 0;
	if (!cs_number_authenticates(id))
		return cs_error_reason(e, -EACCES, CS_R_TRUST_DOMAIN_MISMATCH,
			"identity %u (%s) cannot authenticate and belongs to no trust domain", id,
			cs_number_kind_name(cs_number_kind(id)));
	if (!right)
		return cs_error_reason(e, -EACCES, CS_R_TRUST_DOMAIN_MISMATCH,
			"identity %u is of cluster %u, which is not in cluster.trust_domains", id, cluster);
	return cs_error_reason(e, -EACCES, CS_R_TRUST_DOMAIN_MISMATCH,
		"identity %u is of cluster %u, whose trust domain is %s, not %.255s", id, cluster, right, trust_domain);
}
