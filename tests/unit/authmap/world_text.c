#include "world_text.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define WORDS 24

struct line {
	char *word[WORDS];
	int n;
};
/* Room for one record and all that it points to. */
struct room {
	Countersign__V1__Record record;
	union {
		Countersign__V1__Node node;
		Countersign__V1__Identity identity;
		Countersign__V1__Placement placement;
		Countersign__V1__Endpoint endpoint;
		Countersign__V1__PrefixIdentity prefix;
		Countersign__V1__PolicyRow row;
		Countersign__V1__PolicyDefault def;
		Countersign__V1__DependsOn depends;
		Countersign__V1__Revocation revocation;
	};
	Countersign__V1__LocalEndpoint local;
	Countersign__V1__Placement placed;
	Countersign__V1__SerialOf serial;
	Countersign__V1__Decision decision[4];
	Countersign__V1__Address address[16], *addresses[16];
	Countersign__V1__Prefix prefixes[16], *prefix_list[16];
	struct cs_ip ip[16];
	uint32_t ids[16];
	char text[4][128], policy[4][64], rule[4][16];
	uint8_t bytes[2][32];
};

struct cs_ip ip_of(const char *text)
{
	struct cs_ip ip = {0};
	uint8_t b[16];
	if (inet_pton(AF_INET, text, b) == 1)
		cs_ip_from_bytes(&ip, b, 4);
	else if (inet_pton(AF_INET6, text, b) == 1)
		cs_ip_from_bytes(&ip, b, 16);
	else
		fail_msg("no address: %s", text);
	return ip;
}

void fill_leaf(struct cs_leaf *leaf, int leaf_byte, int serial_byte, int authority_byte)
{
	memset(leaf, 0, sizeof(*leaf));
	memset(leaf->sha256, leaf_byte, sizeof(leaf->sha256));
	memset(leaf->serial, serial_byte, sizeof(leaf->serial));
	memset(leaf->authority_kid, authority_byte, sizeof(leaf->authority_kid));
}

static uint32_t number(const char *s)
{
	return (uint32_t)strtoul(s, NULL, 10);
}

static ProtobufCBinaryData bytes_of(struct cs_ip *ip)
{
	return (ProtobufCBinaryData){.len = ip->family == 4 ? 4 : 16, .data = ip->b};
}

static size_t take_addresses(struct room *r, const struct line *l, int from)
{
	size_t n = 0;
	for (int i = from; i < l->n && strcmp(l->word[i], "@") != 0; i++, n++) {
		r->ip[n] = ip_of(l->word[i]);
		countersign__v1__address__init(&r->address[n]);
		r->address[n].ip = bytes_of(&r->ip[n]);
		r->addresses[n] = &r->address[n];
	}
	return n;
}

static Countersign__V1__Prefix *take_prefix(struct room *r, size_t i, const char *word)
{
	char text[64];
	snprintf(text, sizeof(text), "%s", word);
	char *slash = strchr(text, '/');
	*slash = '\0';
	r->ip[i] = ip_of(text);
	countersign__v1__prefix__init(&r->prefixes[i]);
	r->prefixes[i].ip = bytes_of(&r->ip[i]);
	r->prefixes[i].bits = number(slash + 1);
	return &r->prefixes[i];
}

static Countersign__V1__Decision *take_decision(struct room *r, int i, const char *word)
{
	Countersign__V1__Decision *d = &r->decision[i];
	countersign__v1__decision__init(d);
	d->verdict = strncmp(word, "pass", 4) == 0      ? COUNTERSIGN__V1__VERDICT__VERDICT_PASS
		     : strncmp(word, "require", 7) == 0 ? COUNTERSIGN__V1__VERDICT__VERDICT_REQUIRE
							: COUNTERSIGN__V1__VERDICT__VERDICT_DENY;
	d->audit = strstr(word, "+audit") != NULL;
	snprintf(r->policy[i], sizeof(r->policy[i]), "p-%s", word);
	d->policy = r->policy[i];
	snprintf(r->rule[i], sizeof(r->rule[i]), "ingress[0]");
	d->rule = r->rule[i];
	return d;
}

static void node(struct room *r, const struct line *l)
{
	countersign__v1__node__init(&r->node);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_NODE;
	r->record.node = &r->node;
	r->node.name = l->word[1];
	r->node.port = 4250;
	r->node.self = l->n > 2 && strcmp(l->word[2], "self") == 0;
	r->node.n_addresses = take_addresses(r, l, r->node.self ? 3 : 2);
	r->node.addresses = r->addresses;
}

static void identity(struct room *r, const struct line *l)
{
	countersign__v1__identity__init(&r->identity);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_IDENTITY;
	r->record.identity = &r->identity;
	r->identity.id = number(l->word[1]);
	snprintf(r->text[0], sizeof(r->text[0]), "spiffe://example.org/identity/%u", r->identity.id);
	r->identity.spiffe_id = r->text[0];
	r->identity.incarnation = l->n > 2 ? number(l->word[2]) : 1;
}

static void placement(struct room *r, const struct line *l)
{
	countersign__v1__placement__init(&r->placement);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT;
	r->record.placement = &r->placement;
	r->placement.identity = number(l->word[1]);
	r->placement.node = l->word[2];
}

static void endpoint(struct room *r, const struct line *l)
{
	countersign__v1__endpoint__init(&r->endpoint);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT;
	r->record.endpoint = &r->endpoint;
	r->endpoint.node = l->word[1];
	r->endpoint.id = l->word[2];
	r->endpoint.identity = l->n > 3 ? number(l->word[3]) : 0;
	r->endpoint.n_addresses = take_addresses(r, l, 4);
	r->endpoint.addresses = r->addresses;
	for (int i = 4; i < l->n; i++)
		if (strcmp(l->word[i], "@") == 0) {
			countersign__v1__local_endpoint__init(&r->local);
			r->endpoint.local = &r->local;
			r->local.interface = l->word[i + 1];
			r->local.ifindex = number(l->word[i + 2]);
			r->local.incarnation = 7;
		} else if (strcmp(l->word[i], "dhcp") == 0) {
			r->local.dhcp = true;
		} else if (strcmp(l->word[i], "audit") == 0) {
			r->local.audit = true;
		}
}

static void row(struct room *r, const struct line *l)
{
	countersign__v1__policy_row__init(&r->row);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_POLICY_ROW;
	r->record.policy_row = &r->row;
	r->row.local = number(l->word[1]);
	r->row.remote = number(l->word[2]);
	if (l->n > 4) {
		r->row.from = take_decision(r, 0, l->word[3]);
		r->row.to = take_decision(r, 1, l->word[4]);
	}
}

static void def(struct room *r, const struct line *l)
{
	countersign__v1__policy_default__init(&r->def);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_POLICY_DEFAULT;
	r->record.policy_default = &r->def;
	r->def.local = number(l->word[1]);
	if (l->n < 6)
		return;
	r->def.from_endpoint = take_decision(r, 0, l->word[2]);
	r->def.from_other = take_decision(r, 1, l->word[3]);
	r->def.to_endpoint = take_decision(r, 2, l->word[4]);
	r->def.to_other = take_decision(r, 3, l->word[5]);
}

static void prefix(struct room *r, const struct line *l)
{
	countersign__v1__prefix_identity__init(&r->prefix);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_PREFIX;
	r->record.prefix = &r->prefix;
	r->prefix.prefix = take_prefix(r, 0, l->word[1]);
	r->prefix.identity = l->n > 2 ? number(l->word[2]) : 0;
}

static void depends(struct room *r, const struct line *l)
{
	countersign__v1__depends_on__init(&r->depends);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_DEPENDS_ON;
	r->record.depends_on = &r->depends;
	r->depends.name = l->word[1];
	r->depends.identities = r->ids;
	r->depends.prefixes = r->prefix_list;
	for (int i = 2; i < l->n; i++) {
		if (strchr(l->word[i], '/')) {
			size_t n = r->depends.n_prefixes++;
			r->prefix_list[n] = take_prefix(r, n, l->word[i]);
		} else {
			r->ids[r->depends.n_identities++] = number(l->word[i]);
		}
	}
}

static ProtobufCBinaryData bytes(struct room *r, int i, const char *word, size_t len)
{
	memset(r->bytes[i], (int)number(word), len);
	return (ProtobufCBinaryData){.len = len, .data = r->bytes[i]};
}

static void revoke(struct room *r, const struct line *l)
{
	Countersign__V1__Revocation *v = &r->revocation;
	countersign__v1__revocation__init(v);
	r->record.record_case = COUNTERSIGN__V1__RECORD__RECORD_REVOCATION;
	r->record.revocation = v;
	v->id = l->word[1];
	for (int i = 2; i + 1 < l->n; i++) {
		const char *kind = l->word[i], *arg = l->word[i + 1];
		if (strcmp(kind, "identity") == 0) {
			v->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY;
			v->identity = number(arg);
		} else if (strcmp(kind, "node") == 0) {
			v->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE;
			v->node = l->word[i + 1];
		} else if (strcmp(kind, "placement") == 0) {
			v->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT;
			countersign__v1__placement__init(&r->placed);
			v->placement = &r->placed;
			r->placed.identity = number(arg);
			r->placed.node = l->word[i + 2];
		} else if (strcmp(kind, "leaf") == 0) {
			v->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256;
			v->leaf_sha256 = bytes(r, 0, arg, 32);
		} else if (strcmp(kind, "authority") == 0) {
			v->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY;
			v->authority = bytes(r, 0, arg, 32);
		} else if (strcmp(kind, "serial") == 0) {
			v->subject_case = COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL;
			countersign__v1__serial_of__init(&r->serial);
			v->serial = &r->serial;
			r->serial.serial = bytes(r, 0, arg, 20);
			r->serial.authority = bytes(r, 1, l->word[i + 2], 32);
		} else if (strcmp(kind, "from") == 0) {
			v->from_unix_s = number(arg);
		} else if (strcmp(kind, "until") == 0) {
			v->until_unix_s = number(arg);
		}
	}
}

static void say(struct cs_world *w, char *text)
{
	static const struct {
		const char *word;
		void (*fn)(struct room *r, const struct line *l);
	} kinds[] = {{"node", node}, {"identity", identity}, {"placement", placement}, {"endpoint", endpoint},
		{"row", row}, {"default", def}, {"prefix", prefix}, {"depends", depends}, {"revoke", revoke}};
	struct line l = {.n = 0};
	struct room *r = calloc(1, sizeof(*r));
	struct cs_error e;
	char *save = NULL;
	countersign__v1__record__init(&r->record);
	r->record.deleted = text[0] == '-';
	for (char *p = strtok_r(text + (text[0] == '-'), " \t", &save); p && l.n < WORDS;
		p = strtok_r(NULL, " \t", &save))
		l.word[l.n++] = p;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && l.n; i++)
		if (strcmp(l.word[0], kinds[i].word) == 0)
			kinds[i].fn(r, &l);
	if (l.n) {
		assert_int_not_equal(r->record.record_case, COUNTERSIGN__V1__RECORD__RECORD__NOT_SET);
		if (cs_world_record_check(&r->record, &e) < 0)
			fail_msg("%s", e.text);
		cs_world_record(w, &r->record);
	}
	free(r);
}

void world_say(struct cs_world *w, const char *lines)
{
	char *copy = strdup(lines), *save = NULL;
	for (char *line = strtok_r(copy, "\n;", &save); line; line = strtok_r(NULL, "\n;", &save)) {
		while (*line == ' ' || *line == '\t')
			line++;
		say(w, line);
	}
	free(copy);
}

void world_replace(struct cs_world *w, const char *lines)
{
	cs_world_replace_begin(w);
	world_say(w, lines);
	cs_world_replace_end(w);
}
