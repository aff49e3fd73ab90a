/* The entries that Countersign's own processes need. */
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include "bootstrap.h"
#include "mem.h"
#include "spiffe_id.h"
#include "utf8.h"

typedef Spire__Api__Types__SPIFFEID spiffeid;
typedef Spire__Api__Types__Selector selector;

void cs_spire_id_text(const spiffeid *id, char ret[CS_SPIRE_ID])
{
	if (id)
		snprintf(ret, CS_SPIRE_ID, "spiffe://%s%s", id->trust_domain, id->path);
	else
		ret[0] = '\0';
}

void cs_spire_selectors_text(selector *const *s, size_t n, char *ret, size_t size)
{
	size_t at = 0;
	ret[0] = '\0';
	for (size_t i = 0; i < n && at < size; i++)
		at += (size_t)snprintf(ret + at, size - at, "%s%s:%s", i ? ", " : "", s[i]->type, s[i]->value);
}

void cs_bootstrap_fill(const char *template, const char *node, char *ret, size_t size)
{
	static const char hole[] = "{node}";
	const char *at = strstr(template, hole);
	if (at)
		snprintf(ret, size, "%.*s%s%s", (int)(at - template), template, node, at + strlen(hole));
	else
		snprintf(ret, size, "%s", template);
}

void cs_bootstrap_parent(const struct cs_bootstrap *b, const char *node, char ret[CS_SPIRE_ID])
{
	char text[CS_SPIRE_ID];
	cs_bootstrap_fill(b->parent, node, text, sizeof(text));
	if (text[0] == '/')
		snprintf(ret, CS_SPIRE_ID, "spiffe://%s%.2000s", b->trust_domain, text);
	else
		snprintf(ret, CS_SPIRE_ID, "%s", text);
}

/* ---- an entry ---- */

static int id_new(const char *text, spiffeid **ret, struct cs_error *e)
{
	struct cs_spiffe_id id;
	char domain[CS_TRUST_DOMAIN_MAX + 1];
	int r = cs_spiffe_id_parse(&id, text, strlen(text), e);
	if (r < 0)
		return cs_error_prefix(e, "'%.300s'", text);
	if (!*cs_spiffe_id_path(&id))
		return cs_error_set(e, -EINVAL, "'%s' names a trust domain and nobody in it", text);
	*ret = cs_xcalloc(1, sizeof(**ret));
	spire__api__types__spiffeid__init(*ret);
	cs_spiffe_id_domain(&id, domain);
	(*ret)->trust_domain = cs_xstrdup(domain);
	(*ret)->path = cs_xstrdup(cs_spiffe_id_path(&id));
	return 0;
}

static bool is_utf8(const char *text)
{
	for (size_t n = 0; *text; text += n)
		if ((n = cs_utf8_length((const uint8_t *)text, strlen(text))) == 0)
			return false;
	return true;
}

static int selector_new(const char *text, selector **ret, struct cs_error *e)
{
	const char *colon = strchr(text, ':');
	if (!colon || colon == text || !colon[1] || !is_utf8(text))
		return cs_error_set(
			e, -EINVAL, "'%s' is no selector; write TYPE:VALUE, for example unix:user:countersign", text);
	*ret = cs_xcalloc(1, sizeof(**ret));
	spire__api__types__selector__init(*ret);
	(*ret)->type = cs_xcalloc(1, (size_t)(colon - text) + 1);
	memcpy((*ret)->type, text, (size_t)(colon - text));
	(*ret)->value = cs_xstrdup(colon + 1);
	return 0;
}

static int add(struct cs_wishes *w, const char *what, const char *id, const char *parent,
	const struct cs_bootstrap_words *selectors, struct cs_error *e)
{
	cs_spire_entry *entry = cs_xcalloc(1, sizeof(*entry));
	spire__api__types__entry__init(entry);
	entry->selectors = cs_xcalloc(selectors->n, sizeof(*entry->selectors));
	int r = id_new(parent, &entry->parent_id, e);
	if (r == 0)
		r = id_new(id, &entry->spiffe_id, e);
	for (size_t i = 0; i < selectors->n && r == 0; i++) {
		r = selector_new(selectors->items[i], &entry->selectors[i], e);
		entry->n_selectors += r == 0;
	}
	if (r < 0) {
		spire__api__types__entry__free_unpacked(entry, NULL);
		return r;
	}
	w->items = cs_xrealloc(w->items, w->n + 1, sizeof(*w->items));
	w->items[w->n] = (struct cs_wish){.entry = entry};
	cs_text_cut(w->items[w->n++].what, sizeof(w->items[0].what), what);
	return 0;
}

/* One of the trust domain's own, under the node's parent. */
static int add_own(struct cs_wishes *w, const struct cs_bootstrap *b, const char *what, const char *path,
	const char *node, const struct cs_bootstrap_words *selectors, struct cs_error *e)
{
	char parent[CS_SPIRE_ID], id[CS_SPIRE_ID];
	cs_bootstrap_parent(b, node, parent);
	snprintf(id, sizeof(id), "spiffe://%s%.2000s", b->trust_domain, path);
	int r = add(w, what, id, parent, selectors, e);
	if (r == 0)
		w->items[w->n - 1].entry->x509_svid_ttl = (int32_t)b->ttl_s;
	return r;
}

static bool has(const struct cs_bootstrap_words *words, const char *word)
{
	for (size_t i = 0; i < words->n; i++)
		if (strcmp(words->items[i], word) == 0)
			return true;
	return false;
}

static int add_node(struct cs_wishes *w, const struct cs_bootstrap *b, const char *node, struct cs_error *e)
{
	char path[512], parent[CS_SPIRE_ID], server[CS_SPIRE_ID], agent[1024];
	const char *agent_selector = agent;
	const struct cs_bootstrap_words alias = {&agent_selector, 1};
	int r = 0;
	if (b->agent_selector) {
		cs_bootstrap_parent(b, node, parent);
		snprintf(server, sizeof(server), "spiffe://%s/spire/server", b->trust_domain);
		cs_bootstrap_fill(b->agent_selector, node, agent, sizeof(agent));
		r = add(w, "the node's agent, by a name of ours", parent, server, &alias, e);
	}
	if (r == 0)
		r = add_own(w, b, "the adapter, as a delegate", "/countersign/spire-adapter", node,
			&b->adapter_selectors, e);
	snprintf(path, sizeof(path), "/countersign/node/%s", node);
	if (r == 0)
		r = add_own(w, b, "the node", path, node, &b->adapter_selectors, e);
	if (r < 0 || !has(&b->cluster_nodes, node))
		return r;
	r = add_own(w, b, "identityd's cluster role", "/countersign/identityd", node, &b->adapter_selectors, e);
	if (r == 0)
		r = add_own(w, b, "the registrar", "/countersign/registrar", node, &b->registrar_selectors, e);
	if (r == 0)
		w->items[w->n - 1].entry->admin = true;
	return r;
}

/* ---- all of them ---- */

static bool subset(const struct cs_bootstrap_words *a, const struct cs_bootstrap_words *b)
{
	for (size_t i = 0; i < a->n; i++)
		if (!has(b, a->items[i]))
			return false;
	return true;
}

static int check_words(const struct cs_bootstrap *b, struct cs_error *e)
{
	if (subset(&b->adapter_selectors, &b->registrar_selectors) ||
		subset(&b->registrar_selectors, &b->adapter_selectors))
		return cs_error_set(e, -EINVAL,
			"the selectors of adapter and registrar do not tell them apart: each process gets every SVID "
			"whose selectors it has, and the registrar's is an admin of SPIRE's server; give them "
			"different "
			"--adapter-selector and --registrar-selector");
	if (b->nodes.n > 1 && !strstr(b->parent, "{node}"))
		return cs_error_set(e, -EINVAL,
			"--parent %s is the same for all nodes, and so each of them would get the SVIDs of all; write "
			"{node} "
			"where the node's name belongs",
			b->parent);
	for (size_t i = 0; i < b->cluster_nodes.n; i++)
		if (!has(&b->nodes, b->cluster_nodes.items[i]))
			return cs_error_set(e, -EINVAL, "--cluster-node %s is no --node", b->cluster_nodes.items[i]);
	for (size_t i = 0; i < b->nodes.n; i++) {
		const char *name = b->nodes.items[i];
		if (!*name || strchr(name, '/') || strlen(name) > 255)
			return cs_error_set(e, -EINVAL,
				"--node '%s': a name is 1 to 255 of the characters a-z A-Z 0-9 . - _", name);
	}
	return 0;
}

static char *key_of(const cs_spire_entry *entry)
{
	char id[CS_SPIRE_ID], parent[CS_SPIRE_ID], *key;
	cs_spire_id_text(entry->spiffe_id, id);
	cs_spire_id_text(entry->parent_id, parent);
	return cs_mem_check(asprintf(&key, "%s %s", parent, id) < 0 ? NULL : key);
}

static int index_all(struct cs_wishes *w, struct cs_error *e)
{
	for (size_t i = 0; i < w->n; i++) {
		struct cs_wish *wish = &w->items[i], *other;
		wish->key = key_of(wish->entry);
		HASH_FIND_STR(w->by_key, wish->key, other);
		if (other)
			return cs_error_set(e, -EINVAL, "%s is wanted twice; is a --node given twice?", wish->key);
		HASH_ADD_KEYPTR(hh, w->by_key, wish->key, strlen(wish->key), wish);
	}
	return 0;
}

int cs_wishes_init(struct cs_wishes *w, const struct cs_bootstrap *b, struct cs_error *e)
{
	*w = (struct cs_wishes){0};
	int r = check_words(b, e);
	for (size_t i = 0; i < b->nodes.n && r == 0; i++)
		r = add_node(w, b, b->nodes.items[i], e);
	if (r == 0)
		r = index_all(w, e);
	if (r < 0)
		cs_wishes_fini(w);
	return r;
}

void cs_wishes_fini(struct cs_wishes *w)
{
	HASH_CLEAR(hh, w->by_key);
	for (size_t i = 0; i < w->n; i++) {
		spire__api__types__entry__free_unpacked(w->items[i].entry, NULL);
		free(w->items[i].key);
		free(w->items[i].id);
		free(w->items[i].text);
	}
	free(w->items);
	*w = (struct cs_wishes){0};
}

/* ---- beside what is there ---- */

static bool has_selectors(const cs_spire_entry *a, const cs_spire_entry *of)
{
	for (size_t i = 0; i < of->n_selectors; i++) {
		bool found = false;
		for (size_t k = 0; k < a->n_selectors && !found; k++)
			found = strcmp(a->selectors[k]->type, of->selectors[i]->type) == 0 &&
				strcmp(a->selectors[k]->value, of->selectors[i]->value) == 0;
		if (!found)
			return false;
	}
	return true;
}

/* NULL: nothing that matters differs. */
static char *difference(const cs_spire_entry *wanted, const cs_spire_entry *entry)
{
	char selectors[512];
	struct cs_error clean; /* whoever made the entry chose the text */
	if (!has_selectors(wanted, entry) || !has_selectors(entry, wanted)) {
		cs_spire_selectors_text(entry->selectors, entry->n_selectors, selectors, sizeof(selectors));
		cs_error_set(&clean, 0, "its selectors are %s", selectors);
		return cs_xstrdup(clean.text);
	}
	if (entry->admin != wanted->admin)
		return cs_xstrdup(wanted->admin
					  ? "it is not an admin's (admin: false), so the server refuses the registrar"
					  : "it is an admin's (admin: true), and only the registrar's should be");
	if (entry->downstream)
		return cs_xstrdup("it is a downstream server's (downstream: true)");
	return NULL;
}

void cs_wishes_see(struct cs_wishes *w, const cs_spire_entry *entry)
{
	struct cs_wish *wish;
	char *key = key_of(entry);
	HASH_FIND_STR(w->by_key, key, wish);
	free(key);
	if (!wish || wish->state == CS_WISH_THERE)
		return;
	free(wish->text);
	free(wish->id);
	wish->text = difference(wish->entry, entry);
	wish->id = cs_xstrdup(entry->id);
	wish->state = wish->text ? CS_WISH_DIFFERS : CS_WISH_THERE;
}

/* ---- telling ---- */

static json_t *selectors_json(const cs_spire_entry *entry)
{
	json_t *list = json_array();
	for (size_t i = 0; i < entry->n_selectors; i++)
		json_array_append_new(list, json_pack("{s:s, s:s}", "type", entry->selectors[i]->type, "value",
						    entry->selectors[i]->value));
	return list;
}

static void put_json(json_t *document)
{
	json_dumpf(document, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(document);
}

/* One word for a shell. */
static void put_word(const char *word)
{
	if (*word && !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@,")]) {
		fputs(word, stdout);
		return;
	}
	putchar('\'');
	for (; *word; word++)
		*word == '\'' ? fputs("'\\''", stdout) : putchar(*word);
	putchar('\'');
}

static void put_option(const char *option, const char *value)
{
	printf(" \\\n    %s ", option);
	put_word(value);
}

static void print_command(const struct cs_wish *wish, const struct cs_bootstrap *b)
{
	const cs_spire_entry *entry = wish->entry;
	char text[CS_SPIRE_ID];
	printf("# %s\nspire-server entry create", wish->what);
	if (b->server_socket)
		put_option("-socketPath", b->server_socket);
	cs_spire_id_text(entry->parent_id, text);
	if (strcmp(entry->parent_id->path, "/spire/server") == 0)
		printf(" \\\n    -node");
	else
		put_option("-parentID", text);
	cs_spire_id_text(entry->spiffe_id, text);
	put_option("-spiffeID", text);
	for (size_t i = 0; i < entry->n_selectors; i++) {
		cs_spire_selectors_text(&entry->selectors[i], 1, text, sizeof(text));
		put_option("-selector", text);
	}
	if (entry->x509_svid_ttl)
		printf(" \\\n    -x509SVIDTTL %d", entry->x509_svid_ttl);
	printf("%s\n", entry->admin ? " \\\n    -admin" : "");
}

void cs_wishes_print(const struct cs_wishes *w, const struct cs_bootstrap *b)
{
	json_t *entries = json_array();
	char id[CS_SPIRE_ID], parent[CS_SPIRE_ID];
	for (size_t i = 0; i < w->n; i++) {
		const cs_spire_entry *entry = w->items[i].entry;
		if (!b->json) {
			print_command(&w->items[i], b);
			continue;
		}
		cs_spire_id_text(entry->spiffe_id, id);
		cs_spire_id_text(entry->parent_id, parent);
		json_array_append_new(entries,
			json_pack("{s:s, s:s, s:o, s:i, s:b}", "spiffe_id", id, "parent_id", parent, "selectors",
				selectors_json(entry), "x509_svid_ttl", entry->x509_svid_ttl, "admin", entry->admin));
	}
	if (b->json)
		put_json(json_pack("{s:O}", "entries", entries));
	json_decref(entries);
}

void cs_wishes_report(const struct cs_wishes *w, bool json)
{
	static const char *const states[] = {"missing", "made", "there already", "DIFFERS", "FAILED"};
	static const char *const json_states[] = {"missing", "made", "there", "differs", "failed"};
	json_t *entries = json_array();
	char id[CS_SPIRE_ID], parent[CS_SPIRE_ID], selectors[512];
	for (size_t i = 0; i < w->n; i++) {
		const struct cs_wish *wish = &w->items[i];
		cs_spire_id_text(wish->entry->spiffe_id, id);
		cs_spire_id_text(wish->entry->parent_id, parent);
		cs_spire_selectors_text(wish->entry->selectors, wish->entry->n_selectors, selectors, sizeof(selectors));
		if (!json) {
			printf("%-14s %s  (%s)\n%-14s parent %s, selectors %s%s\n", states[wish->state], id, wish->what,
				"", parent, selectors, wish->entry->admin ? ", admin" : "");
			if (wish->text)
				printf("%-14s %s%s%s\n", "", wish->text, wish->id ? "; entry " : "",
					wish->id ? wish->id : "");
			continue;
		}
		json_array_append_new(
			entries, json_pack("{s:s, s:s, s:s, s:o, s:b, s:s, s:s?, s:s?}", "what", wish->what,
					 "spiffe_id", id, "parent_id", parent, "selectors", selectors_json(wish->entry),
					 "admin", wish->entry->admin, "state", json_states[wish->state], "id", wish->id,
					 "text", wish->text));
	}
	if (json)
		put_json(json_pack("{s:O}", "entries", entries));
	json_decref(entries);
}
