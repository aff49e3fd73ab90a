#include "registrar_entry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "mem.h"
#include "spiffe_id.h"

/* ---- what SPIRE has ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "a\nb" of strings that are freed on the way, like the list itself. */
static char *lines_take(char **strings, size_t n)
{
	size_t size = 1;
	for (size_t i = 0; i < n; i++)
		size += strlen(strings[i]) + 1;
	if (n > 0)
		qsort(strings, n, sizeof(*strings), by_text);
	char *lines = cs_xcalloc(1, size), *at = lines;
	for (size_t i = 0; i < n; i++) {
		if (i == 0 || strcmp(strings[i], strings[i - 1]) != 0)
			at += sprintf(at, "%s%s", at > lines ? "\n" : "", strings[i]);
	}
	for (size_t i = 0; i < n; i++)
		free(strings[i]);
	free(strings);
	return lines;
}

static char *joined(const char *a, const char *between, const char *b)
{
	size_t size = strlen(a) + strlen(between) + strlen(b) + 1;
	char *text = cs_xcalloc(1, size);
	snprintf(text, size, "%s%s%s", a, between, b);
	return text;
}

static char *selectors_of(const Spire__Api__Types__Entry *in)
{
	char **strings = cs_xcalloc(in->n_selectors, sizeof(*strings));
	for (size_t i = 0; i < in->n_selectors; i++)
		strings[i] = joined(in->selectors[i]->type, ":", in->selectors[i]->value);
	return lines_take(strings, in->n_selectors);
}

/* By name: SPIRE takes IDs too, and gives names. */
static char *federates_of(const Spire__Api__Types__Entry *in)
{
	char **strings = cs_xcalloc(in->n_federates_with, sizeof(*strings));
	for (size_t i = 0; i < in->n_federates_with; i++) {
		const char *name = in->federates_with[i];
		if (strncmp(name, CS_SPIFFE_SCHEME, strlen(CS_SPIFFE_SCHEME)) == 0)
			name += strlen(CS_SPIFFE_SCHEME);
		strings[i] = cs_xstrdup(name);
	}
	return lines_take(strings, in->n_federates_with);
}

static char *id_of(const Spire__Api__Types__SPIFFEID *id)
{
	char *rest = id ? joined(id->trust_domain, "", id->path) : cs_xstrdup("");
	char *text = id ? joined(CS_SPIFFE_SCHEME, "", rest) : cs_xstrdup("");
	free(rest);
	return text;
}

struct cs_reg_entry *cs_reg_entry_new(const Spire__Api__Types__Entry *in)
{
	char *strings[] = {cs_xstrdup(in->id), id_of(in->spiffe_id), id_of(in->parent_id), selectors_of(in),
		federates_of(in), cs_xstrdup(in->hint)};
	size_t size = sizeof(struct cs_reg_entry);
	for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
		size += strlen(strings[i]) + 1;
	struct cs_reg_entry *e = cs_xcalloc(1, size);
	*e = (struct cs_reg_entry){.ttl_s = in->x509_svid_ttl,
		.admin = in->admin,
		.downstream = in->downstream,
		.store_svid = in->store_svid,
		.dns_names = in->n_dns_names > 0,
		.expires_unix_s = in->expires_at,
		.created_unix_s = in->created_at,
		.revision = in->revision_number};
	const char **places[] = {&e->id, &e->spiffe_id, &e->parent_id, &e->selectors, &e->federates_with, &e->hint};
	char *at = (char *)(e + 1);
	for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++) {
		*places[i] = strcpy(at, strings[i]);
		at += strlen(at) + 1;
		free(strings[i]);
	}
	return e;
}

/* ---- what it should have ---- */

static void selector_value(uint32_t identity, char out[static 16])
{
	snprintf(out, 16, "id:%u", identity);
}

static void hint_of(const struct cs_reg_content *c, char out[static CS_REG_HINT_MAX + 1])
{
	snprintf(out, CS_REG_HINT_MAX + 1, "%u@%.*s", c->identity, CS_REG_NODE_MAX, c->node);
}

const char *cs_reg_field_name(enum cs_reg_field field)
{
	static const char *const names[CS_REG_FIELDS] = {"spiffe_id", "parent_id", "selectors", "x509_svid_ttl",
		"federates_with", "hint", "admin, downstream or store_svid", "expires_at", "dns_names"};
	return names[__builtin_ctz(field)];
}

unsigned cs_reg_differs(const struct cs_reg_content *c, const struct cs_reg_entry *e)
{
	char value[16], selector[sizeof(CS_REG_SELECTOR_TYPE) + sizeof(value)], hint[CS_REG_HINT_MAX + 1];
	selector_value(c->identity, value);
	snprintf(selector, sizeof(selector), "%s:%s", CS_REG_SELECTOR_TYPE, value);
	hint_of(c, hint);
	return (strcmp(c->spiffe_id, e->spiffe_id) != 0 ? CS_REG_SPIFFE_ID : 0) |
	       (strcmp(c->parent_id, e->parent_id) != 0 ? CS_REG_PARENT_ID : 0) |
	       (strcmp(selector, e->selectors) != 0 ? CS_REG_SELECTORS : 0) | (c->ttl_s != e->ttl_s ? CS_REG_TTL : 0) |
	       (strcmp(c->federates_with, e->federates_with) != 0 ? CS_REG_FEDERATES : 0) |
	       (strcmp(hint, e->hint) != 0 ? CS_REG_HINT : 0) |
	       (e->admin || e->downstream || e->store_svid ? CS_REG_FLAGS : 0) |
	       (e->expires_unix_s != 0 ? CS_REG_EXPIRY : 0) | (e->dns_names ? CS_REG_DNS : 0);
}

/* ---- whose it is, and what for ---- */

bool cs_reg_is_ours(const char *mark, const char *id)
{
	size_t n = strlen(mark);
	return strncmp(id, mark, n) == 0 && id[n] == '.' &&
	       strspn(id + n + 1, "0123456789abcdef") == 2 * CS_REG_ID_RANDOM && !id[n + 1 + 2 * CS_REG_ID_RANDOM];
}

/* Canonical decimal, up to `end`. */
static uint32_t number_of(const char *text, const char *end)
{
	uint64_t n = 0;
	if (text == end || *text == '0')
		return 0;
	for (; text < end; text++) {
		if (*text < '0' || *text > '9' || (n = n * 10 + (uint64_t)(*text - '0')) > UINT32_MAX)
			return 0;
	}
	return (uint32_t)n;
}

bool cs_reg_hint_read(const char *hint, uint32_t *ret_identity, char ret_node[CS_REG_NODE_MAX + 1])
{
	const char *at = strchr(hint, '@');
	uint32_t identity = at ? number_of(hint, at) : 0;
	if (identity == 0 || !at[1] || strlen(at + 1) > CS_REG_NODE_MAX)
		return false;
	*ret_identity = identity;
	strcpy(ret_node, at + 1);
	return true;
}

uint32_t cs_reg_selectors_read(const char *selectors)
{
	static const char prefix[] = CS_REG_SELECTOR_TYPE ":id:";
	size_t n = sizeof(prefix) - 1;
	return strncmp(selectors, prefix, n) == 0 ? number_of(selectors + n, strchr(selectors, '\0')) : 0;
}

/* ---- messages ---- */

struct message {
	Spire__Api__Types__Entry entry; /* first */
	Spire__Api__Types__SPIFFEID spiffe_id, parent_id;
	Spire__Api__Types__Selector selector, *selectors[1];
	char value[16], hint[CS_REG_HINT_MAX + 1];
	char *federates[]; /* and then the bytes of strings */
};

static char *put(char **at, const char *text)
{
	char *place = strcpy(*at, text);
	*at += strlen(text) + 1;
	return place;
}

/* "spiffe://domain/path" to both. */
static void put_id(Spire__Api__Types__SPIFFEID *id, char **at, const char *text)
{
	*id = (Spire__Api__Types__SPIFFEID)SPIRE__API__TYPES__SPIFFEID__INIT;
	char *domain = put(at, text + strlen(CS_SPIFFE_SCHEME)), *path = strchr(domain, '/');
	id->trust_domain = domain;
	if (!path)
		return;
	id->path = put(at, path);
	*path = '\0';
}

static size_t put_federates(struct message *m, char *lines)
{
	size_t n = 0;
	for (char *rest = lines, *line; *lines && (line = strsep(&rest, "\n"));)
		m->federates[n++] = line;
	return n;
}

Spire__Api__Types__Entry *cs_reg_message(const struct cs_reg_content *c, const char *id)
{
	size_t lines = *c->federates_with != '\0';
	for (const char *p = c->federates_with; (p = strchr(p, '\n')); p++)
		lines++;
	size_t bytes = 2 * (strlen(c->spiffe_id) + strlen(c->parent_id)) + strlen(c->federates_with) + strlen(id) + 8;
	struct message *m = cs_xcalloc(1, sizeof(*m) + lines * sizeof(char *) + bytes);
	char *at = (char *)(m->federates + lines);
	m->entry = (Spire__Api__Types__Entry)SPIRE__API__TYPES__ENTRY__INIT;
	m->selector = (Spire__Api__Types__Selector)SPIRE__API__TYPES__SELECTOR__INIT;
	put_id(&m->spiffe_id, &at, c->spiffe_id);
	put_id(&m->parent_id, &at, c->parent_id);
	selector_value(c->identity, m->value);
	hint_of(c, m->hint);
	m->selector.type = (char *)CS_REG_SELECTOR_TYPE;
	m->selector.value = m->value;
	m->selectors[0] = &m->selector;
	m->entry.id = put(&at, id);
	m->entry.spiffe_id = &m->spiffe_id;
	m->entry.parent_id = &m->parent_id;
	m->entry.selectors = m->selectors;
	m->entry.n_selectors = 1;
	m->entry.x509_svid_ttl = c->ttl_s;
	m->entry.hint = m->hint;
	m->entry.federates_with = m->federates;
	m->entry.n_federates_with = put_federates(m, put(&at, c->federates_with));
	return &m->entry;
}

Spire__Api__Types__EntryMask cs_reg_mask(void)
{
	Spire__Api__Types__EntryMask mask = SPIRE__API__TYPES__ENTRY_MASK__INIT;
	mask.spiffe_id = mask.parent_id = mask.selectors = mask.x509_svid_ttl = mask.federates_with = true;
	mask.admin = mask.downstream = mask.store_svid = mask.expires_at = mask.dns_names = mask.hint = true;
	return mask;
}
