/* A registration entry, as SPIRE has it and as it should be: each field, whose it is, and what for. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include "registrar_entry.h"

#define ID "countersign.00112233445566778899aabbccddeeff"

static const struct cs_reg_content content = {.identity = 300,
	.node = "n1",
	.spiffe_id = "spiffe://example.org/identity/300",
	.parent_id = "spiffe://example.org/node/n1",
	.federates_with = "a.example\nb.example",
	.ttl_s = 60};

/* As SPIRE would give back what was sent. */
static struct cs_reg_entry *sent(void (*change)(Spire__Api__Types__Entry *entry))
{
	Spire__Api__Types__Entry *message = cs_reg_message(&content, ID);
	if (change)
		change(message);
	/* over the wire, so that what is a pointer into our own memory is seen */
	size_t n = spire__api__types__entry__get_packed_size(message);
	uint8_t *bytes = malloc(n);
	spire__api__types__entry__pack(message, bytes);
	free(message);
	Spire__Api__Types__Entry *back = spire__api__types__entry__unpack(NULL, n, bytes);
	assert_non_null(back);
	struct cs_reg_entry *entry = cs_reg_entry_new(back);
	spire__api__types__entry__free_unpacked(back, NULL);
	free(bytes);
	return entry;
}

static void test_what_is_sent_is_what_should_be(void **state)
{
	(void)state;
	struct cs_reg_entry *e = sent(NULL);
	assert_string_equal(e->id, ID);
	assert_string_equal(e->spiffe_id, "spiffe://example.org/identity/300");
	assert_string_equal(e->parent_id, "spiffe://example.org/node/n1");
	assert_string_equal(e->selectors, "countersign:id:300");
	assert_string_equal(e->federates_with, "a.example\nb.example");
	assert_string_equal(e->hint, "300@n1");
	assert_int_equal(e->ttl_s, 60);
	assert_int_equal(cs_reg_differs(&content, e), 0);
	free(e);
}

static void other_path(Spire__Api__Types__Entry *e)
{
	e->spiffe_id->path = (char *)"/identity/301";
}
static void other_domain(Spire__Api__Types__Entry *e)
{
	e->spiffe_id->trust_domain = (char *)"example.net";
}
static void other_parent(Spire__Api__Types__Entry *e)
{
	e->parent_id->path = (char *)"/node/n2";
}
static void no_parent(Spire__Api__Types__Entry *e)
{
	e->parent_id = NULL;
}
static void other_selector(Spire__Api__Types__Entry *e)
{
	e->selectors[0]->value = (char *)"id:301";
}
static void no_selector(Spire__Api__Types__Entry *e)
{
	e->n_selectors = 0;
}
static void one_selector_more(Spire__Api__Types__Entry *e)
{
	static Spire__Api__Types__Selector more = SPIRE__API__TYPES__SELECTOR__INIT;
	static Spire__Api__Types__Selector *list[2];
	more.type = (char *)"unix";
	more.value = (char *)"uid:0";
	list[0] = e->selectors[0];
	list[1] = &more;
	e->selectors = list;
	e->n_selectors = 2;
}
static void other_ttl(Spire__Api__Types__Entry *e)
{
	e->x509_svid_ttl = 0;
}
static void federates_less(Spire__Api__Types__Entry *e)
{
	e->n_federates_with = 1;
}
static void other_hint(Spire__Api__Types__Entry *e)
{
	e->hint = (char *)"300@n2";
}
static void admin(Spire__Api__Types__Entry *e)
{
	e->admin = true;
}
static void downstream(Spire__Api__Types__Entry *e)
{
	e->downstream = true;
}
static void store_svid(Spire__Api__Types__Entry *e)
{
	e->store_svid = true;
}
static void expires(Spire__Api__Types__Entry *e)
{
	e->expires_at = 1;
}
static void dns(Spire__Api__Types__Entry *e)
{
	static char *names[] = {(char *)"a.example"};
	e->dns_names = names;
	e->n_dns_names = 1;
}

static void test_each_field_is_looked_at(void **state)
{
	static const struct {
		void (*change)(Spire__Api__Types__Entry *entry);
		unsigned fields;
	} table[] = {
		{other_path, CS_REG_SPIFFE_ID},
		{other_domain, CS_REG_SPIFFE_ID},
		{other_parent, CS_REG_PARENT_ID},
		{no_parent, CS_REG_PARENT_ID},
		{other_selector, CS_REG_SELECTORS},
		{no_selector, CS_REG_SELECTORS},
		{one_selector_more, CS_REG_SELECTORS},
		{other_ttl, CS_REG_TTL},
		{federates_less, CS_REG_FEDERATES},
		{other_hint, CS_REG_HINT},
		{admin, CS_REG_FLAGS},
		{downstream, CS_REG_FLAGS},
		{store_svid, CS_REG_FLAGS},
		{expires, CS_REG_EXPIRY},
		{dns, CS_REG_DNS},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct cs_reg_entry *e = sent(table[i].change);
		assert_int_equal(cs_reg_differs(&content, e), table[i].fields);
		free(e);
	}
}

/* What SPIRE gives in another order, twice, or as an ID is the same. */
static void in_another_form(Spire__Api__Types__Entry *e)
{
	static char *names[] = {(char *)"spiffe://b.example", (char *)"a.example", (char *)"b.example"};
	e->federates_with = names;
	e->n_federates_with = 3;
	e->jwt_svid_ttl = 77; /* not ours to decide */
	e->created_at = 5;
	e->revision_number = 9;
}

static void test_other_forms_are_no_difference(void **state)
{
	(void)state;
	struct cs_reg_entry *e = sent(in_another_form);
	assert_int_equal(cs_reg_differs(&content, e), 0);
	assert_int_equal(e->revision, 9);
	assert_int_equal(e->created_unix_s, 5);
	free(e);
}

static void test_the_mask_has_what_is_decided(void **state)
{
	Spire__Api__Types__EntryMask mask = cs_reg_mask();
	(void)state;
	assert_true(mask.spiffe_id && mask.parent_id && mask.selectors && mask.x509_svid_ttl && mask.federates_with);
	assert_true(mask.admin && mask.downstream && mask.store_svid && mask.expires_at && mask.dns_names && mask.hint);
	assert_false(mask.jwt_svid_ttl || mask.revision_number || mask.created_at);
}

static void test_the_mark(void **state)
{
	static const struct {
		const char *id;
		bool ours;
	} table[] = {
		{ID, true},
		{"countersign.00112233445566778899aabbccddeef", false},
		{"countersign.00112233445566778899aabbccddeeff0", false},
		{"countersign.00112233445566778899AABBCCDDEEFF", false},
		{"countersign2.00112233445566778899aabbccddeeff", false},
		{"countersig.00112233445566778899aabbccddeeff", false},
		{"countersign-00112233445566778899aabbccddeeff", false},
		{"d3a7c1de-4a55-4b52-9a17-5f0a9b5c9d7e", false},
		{"countersign.", false},
		{"countersign", false},
		{"", false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		assert_int_equal(cs_reg_is_ours("countersign", table[i].id), table[i].ours);
}

static void test_what_a_hint_says(void **state)
{
	static const struct {
		const char *hint;
		uint32_t identity; /* 0: nothing */
		const char *node;
	} table[] = {
		{"300@n1", 300, "n1"},
		{"4294967295@a@b", UINT32_MAX, "a@b"},
		{"4294967296@n1", 0, ""},
		{"0@n1", 0, ""},
		{"0300@n1", 0, ""},
		{"-1@n1", 0, ""},
		{"300@", 0, ""},
		{"@n1", 0, ""},
		{"300", 0, ""},
		{"", 0, ""},
	};
	char node[CS_REG_NODE_MAX + 1], hint[600];
	uint32_t identity;
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		bool said = cs_reg_hint_read(table[i].hint, &identity, node);
		assert_int_equal(said, table[i].identity != 0);
		if (said) {
			assert_int_equal(identity, table[i].identity);
			assert_string_equal(node, table[i].node);
		}
	}
	memcpy(hint, "300@", 4);
	memset(hint + 4, 'n', CS_REG_NODE_MAX);
	hint[4 + CS_REG_NODE_MAX] = '\0';
	assert_true(cs_reg_hint_read(hint, &identity, node));
	strcat(hint, "n");
	assert_false(cs_reg_hint_read(hint, &identity, node));
	assert_int_equal(cs_reg_selectors_read("countersign:id:300"), 300);
	assert_int_equal(cs_reg_selectors_read("countersign:id:300\nunix:uid:0"), 0);
	assert_int_equal(cs_reg_selectors_read("unix:uid:300"), 0);
	assert_int_equal(cs_reg_selectors_read(""), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_sent_is_what_should_be),
		cmocka_unit_test(test_each_field_is_looked_at),
		cmocka_unit_test(test_other_forms_are_no_difference),
		cmocka_unit_test(test_the_mask_has_what_is_decided),
		cmocka_unit_test(test_the_mark),
		cmocka_unit_test(test_what_a_hint_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
