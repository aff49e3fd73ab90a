/* The plan: what the directory says and what SPIRE has, to what is written. The SPIRE here is a table that does what the real
 * one was seen to do; a test says what it has at the start and what it has at the end, and counts the writes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "grpc.h"
#include "registrar_plan.h"

#define LINGER_MS 600000
#define SPIRE_MAX 64
#define DOMAIN    "example.org"
#define PREFIX    "spiffe://example.org/identity/"

struct fixture {
	struct cs_reg_plan *plan;
	struct cs_reg_rules rules;
	int64_t now_ms;
	Spire__Api__Types__Entry *spire[SPIRE_MAX]; /* as it has them */
	size_t nspire, ids;
	unsigned writes[CS_REG_OPS];
	int code; /* 0, or how every item ends */
	const char *message;
};

static double no_jitter(void *data)
{
	(void)data;
	return 0.5;
}

static void start(struct fixture *f)
{
	f->plan = cs_reg_plan_new(&f->rules);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->now_ms = 1000000;
	f->message = "as the test wants it";
	f->rules = (struct cs_reg_rules){.trust_domain = DOMAIN,
		.mark = "countersign",
		.prefix = PREFIX,
		.parent = "/node/{node}",
		.agent_selector = "",
		.federates_with = "",
		.linger_ms = LINGER_MS,
		.random = no_jitter};
	start(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cs_reg_plan_free(f->plan);
	for (size_t i = 0; i < f->nspire; i++)
		spire__api__types__entry__free_unpacked(f->spire[i], NULL);
	free(f);
	return 0;
}

/* ---- the directory ---- */

static void batch(struct fixture *f, Countersign__V1__Record *record, bool complete, bool synced)
{
	struct cs_error e;
	Countersign__V1__DirectoryBatch b = COUNTERSIGN__V1__DIRECTORY_BATCH__INIT;
	b.records = &record;
	b.n_records = record != NULL;
	b.complete = complete;
	b.synced = synced;
	assert_int_equal(cs_reg_plan_directory_batch(f->plan, &b, f->now_ms, &e), 0);
}

static bool in_full; /* a full state is under way */

static void begin(struct fixture *f)
{
	in_full = true;
	cs_reg_plan_directory_begin(f->plan);
}

static void synced(struct fixture *f)
{
	in_full = false;
	batch(f, NULL, true, true);
}

static void node(struct fixture *f, const char *name, bool deleted)
{
	Countersign__V1__Record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Node n = COUNTERSIGN__V1__NODE__INIT;
	n.name = (char *)name;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_NODE;
	r.node = &n;
	r.deleted = deleted;
	batch(f, &r, !in_full, false);
}

static void identity(struct fixture *f, uint32_t id, const char *spiffe_id)
{
	Countersign__V1__Record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Identity i = COUNTERSIGN__V1__IDENTITY__INIT;
	i.id = id;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_IDENTITY;
	r.identity = &i;
	r.deleted = !spiffe_id;
	if (spiffe_id)
		i.spiffe_id = (char *)spiffe_id;
	batch(f, &r, !in_full, false);
}

static void number(struct fixture *f, uint32_t id)
{
	char text[64];
	snprintf(text, sizeof(text), PREFIX "%u", id);
	identity(f, id, text);
}

static void place(struct fixture *f, uint32_t id, const char *name, bool deleted)
{
	Countersign__V1__Record r = COUNTERSIGN__V1__RECORD__INIT;
	Countersign__V1__Placement p = COUNTERSIGN__V1__PLACEMENT__INIT;
	p.identity = id;
	p.node = (char *)name;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT;
	r.placement = &p;
	r.deleted = deleted;
	batch(f, &r, !in_full, false);
}

/* Two nodes, and identity 300 on the first. */
static void usual(struct fixture *f)
{
	begin(f);
	node(f, "n1", false);
	node(f, "n2", false);
	number(f, 300);
	place(f, 300, "n1", false);
	synced(f);
}

/* ---- SPIRE ---- */

static Spire__Api__Types__Entry *copy(const Spire__Api__Types__Entry *in)
{
	size_t n = spire__api__types__entry__get_packed_size(in);
	uint8_t *bytes = malloc(n ? n : 1);
	spire__api__types__entry__pack(in, bytes);
	Spire__Api__Types__Entry *out = spire__api__types__entry__unpack(NULL, n, bytes);
	free(bytes);
	return out;
}

static Spire__Api__Types__Entry *add(struct fixture *f, const struct cs_reg_content *content, const char *id)
{
	Spire__Api__Types__Entry *message = cs_reg_message(content, id);
	assert_true(f->nspire < SPIRE_MAX);
	f->spire[f->nspire] = copy(message);
	free(message);
	return f->spire[f->nspire++];
}

static void new_id(struct fixture *f, char id[64])
{
	snprintf(id, 64, "countersign.%032zx", ++f->ids);
}

/* One of ours that is there from before. */
static Spire__Api__Types__Entry *ours(struct fixture *f, uint32_t id, const char *name)
{
	char entry_id[64], spiffe_id[64], parent[64];
	new_id(f, entry_id);
	snprintf(spiffe_id, sizeof(spiffe_id), PREFIX "%u", id);
	snprintf(parent, sizeof(parent), "spiffe://" DOMAIN "/node/%s", name);
	const struct cs_reg_content content = {
		.identity = id, .node = name, .spiffe_id = spiffe_id, .parent_id = parent, .federates_with = ""};
	return add(f, &content, entry_id);
}

static size_t find(const struct fixture *f, const char *id)
{
	size_t i = 0;
	while (i < f->nspire && strcmp(f->spire[i]->id, id) != 0)
		i++;
	return i;
}

static void drop(struct fixture *f, size_t i)
{
	spire__api__types__entry__free_unpacked(f->spire[i], NULL);
	f->nspire--;
	memmove(f->spire + i, f->spire + i + 1, (f->nspire - i) * sizeof(f->spire[0]));
}

static void list(struct fixture *f)
{
	struct cs_error e;
	cs_reg_plan_list_begin(f->plan);
	for (size_t i = 0; i < f->nspire; i++)
		assert_int_equal(cs_reg_plan_list_add(f->plan, f->spire[i], f->now_ms, &e), 0);
	cs_reg_plan_list_end(f->plan, true, f->now_ms);
}

static bool similar(const Spire__Api__Types__Entry *a, const Spire__Api__Types__Entry *b)
{
	return strcmp(a->spiffe_id->path, b->spiffe_id->path) == 0 &&
	       strcmp(a->parent_id->path, b->parent_id->path) == 0 && a->n_selectors == b->n_selectors &&
	       strcmp(a->selectors[0]->value, b->selectors[0]->value) == 0;
}

static struct cs_reg_answer create(struct fixture *f, const struct cs_reg_slot *slot)
{
	char id[64];
	new_id(f, id);
	const struct cs_reg_content content = cs_reg_slot_content(f->plan, slot);
	Spire__Api__Types__Entry *entry = add(f, &content, id);
	for (size_t i = 0; i + 1 < f->nspire; i++)
		if (similar(f->spire[i], entry)) {
			drop(f, f->nspire - 1);
			return (struct cs_reg_answer){
				CS_GRPC_ALREADY_EXISTS, "similar entry already exists", f->spire[i]};
		}
	return (struct cs_reg_answer){CS_GRPC_OK, "", entry};
}

static struct cs_reg_answer update(struct fixture *f, const struct cs_reg_slot *slot)
{
	const struct cs_reg_content content = cs_reg_slot_content(f->plan, slot);
	size_t i = find(f, cs_reg_slot_entry_id(slot));
	if (i == f->nspire)
		return (struct cs_reg_answer){CS_GRPC_NOT_FOUND, "failed to update entry", NULL};
	Spire__Api__Types__Entry *message = cs_reg_message(&content, f->spire[i]->id);
	int64_t revision = f->spire[i]->revision_number;
	spire__api__types__entry__free_unpacked(f->spire[i], NULL);
	f->spire[i] = copy(message);
	f->spire[i]->revision_number = revision + 1;
	free(message);
	return (struct cs_reg_answer){CS_GRPC_OK, "", f->spire[i]};
}

static struct cs_reg_answer delete (struct fixture *f, const struct cs_reg_slot *slot)
{
	size_t i = find(f, cs_reg_slot_entry_id(slot));
	if (i == f->nspire)
		return (struct cs_reg_answer){CS_GRPC_NOT_FOUND, "entry not found", NULL};
	drop(f, i);
	return (struct cs_reg_answer){CS_GRPC_OK, "", NULL};
}

/* Everything that is ready now, once. Returns how many were done. */
static unsigned work(struct fixture *f)
{
	static struct cs_reg_answer (*const does[CS_REG_OPS])(struct fixture *, const struct cs_reg_slot *) = {
		create, update, delete};
	struct cs_reg_slot *slots[CS_REG_OPS][SPIRE_MAX];
	size_t n[CS_REG_OPS];
	unsigned done = 0;
	size_t taken = cs_reg_plan_taken(f->plan); /* by the test itself */
	struct cs_error e;
	cs_reg_plan_run(f->plan, f->now_ms);
	for (int op = 0; op < CS_REG_OPS; op++)
		n[op] = cs_reg_plan_take(f->plan, (enum cs_reg_op)op, slots[op], SPIRE_MAX);
	for (int op = 0; op < CS_REG_OPS; op++)
		for (size_t i = 0; i < n[op]; i++) {
			struct cs_reg_answer answer = {f->code, f->message, NULL};
			if (f->code == 0)
				answer = does[op](f, slots[op][i]);
			f->writes[op]++;
			done += cs_reg_plan_answered(
					f->plan, slots[op][i], (enum cs_reg_op)op, &answer, f->now_ms, &e) == 0;
		}
	assert_int_equal(cs_reg_plan_taken(f->plan), taken);
	return done;
}

/* Until nothing is ready any more. */
static void settle(struct fixture *f)
{
	for (int i = 0; i < 10 && work(f) > 0; i++)
		;
	assert_int_equal(work(f), 0);
}

static void assert_writes(struct fixture *f, unsigned creates, unsigned updates, unsigned deletes)
{
	assert_int_equal(f->writes[CS_REG_CREATE], creates);
	assert_int_equal(f->writes[CS_REG_UPDATE], updates);
	assert_int_equal(f->writes[CS_REG_DELETE], deletes);
	memset(f->writes, 0, sizeof(f->writes));
}

static void assert_has(const struct fixture *f, uint32_t id, const char *name, bool has)
{
	char hint[64];
	bool found = false;
	snprintf(hint, sizeof(hint), "%u@%s", id, name);
	for (size_t i = 0; i < f->nspire; i++)
		found |= strcmp(f->spire[i]->hint, hint) == 0;
	assert_int_equal(found, has);
}

/* ---- from what is and what should be, to writes ---- */

static void have_nothing(struct fixture *f)
{
	(void)f;
}
static void have_it(struct fixture *f)
{
	ours(f, 300, "n1");
}
static void have_other_ttl(struct fixture *f)
{
	ours(f, 300, "n1")->x509_svid_ttl = 5;
}
static void have_other_spiffe_id(struct fixture *f)
{
	Spire__Api__Types__Entry *e = ours(f, 300, "n1");
	free(e->spiffe_id->path);
	e->spiffe_id->path = strdup("/old/300");
}
static void have_other_parent(struct fixture *f)
{
	Spire__Api__Types__Entry *e = ours(f, 300, "n1");
	free(e->parent_id->path);
	e->parent_id->path = strdup("/spire/agent/join_token/x");
}
static void have_no_hint(struct fixture *f)
{
	Spire__Api__Types__Entry *e = ours(f, 300, "n1");
	free(e->hint);
	e->hint = strdup("an admin wrote this");
}
static void have_no_hint_and_selector(struct fixture *f)
{
	have_no_hint(f);
	free(f->spire[0]->selectors[0]->value);
	f->spire[0]->selectors[0]->value = strdup("uid:4711");
}
static void have_admin(struct fixture *f)
{
	ours(f, 300, "n1")->admin = true;
}
static void have_it_twice(struct fixture *f)
{
	ours(f, 300, "n1");
	ours(f, 300, "n1")->x509_svid_ttl = 7;
}
static void have_gone_node(struct fixture *f)
{
	ours(f, 300, "n1");
	ours(f, 300, "n9");
}
static void have_gone_identity(struct fixture *f)
{
	ours(f, 300, "n1");
	ours(f, 777, "n1");
}
static void have_not_placed(struct fixture *f)
{
	ours(f, 300, "n1");
	ours(f, 300, "n2"); /* lingers */
}
static void have_nonsense(struct fixture *f)
{
	Spire__Api__Types__Entry *e = ours(f, 300, "n1");
	free(e->hint);
	e->hint = strdup("");
	free(e->selectors[0]->value);
	e->selectors[0]->value = strdup("what:ever");
	free(e->spiffe_id->path);
	e->spiffe_id->path = strdup("/what/ever");
}

static void test_what_is_and_what_should_be(void **state)
{
	static const struct {
		void (*have)(struct fixture *f);
		unsigned creates, updates, deletes;
		size_t left;
	} table[] = {
		{have_nothing, 1, 0, 0, 1},
		{have_it, 0, 0, 0, 1},
		{have_other_ttl, 0, 1, 0, 1},
		{have_other_spiffe_id, 0, 1, 0, 1},
		{have_other_parent, 0, 1, 0, 1},
		{have_no_hint, 0, 1, 0, 1},
		{have_no_hint_and_selector, 0, 1, 0, 1},
		{have_admin, 0, 1, 0, 1},
		{have_it_twice, 0, 0, 1, 1},
		{have_gone_node, 0, 0, 1, 1},
		{have_gone_identity, 0, 0, 1, 1},
		{have_not_placed, 0, 0, 0, 2},
		{have_nonsense, 1, 0, 1, 1},
	};
	teardown(state);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		setup(state);
		struct fixture *f = *state;
		table[i].have(f);
		usual(f);
		list(f);
		settle(f);
		assert_writes(f, table[i].creates, table[i].updates, table[i].deletes);
		assert_int_equal(f->nspire, table[i].left);
		assert_has(f, 300, "n1", true);
		assert_int_equal(cs_reg_plan_count(f->plan).right, 1);
		/* A second look finds nothing to write. */
		list(f);
		settle(f);
		assert_writes(f, 0, 0, 0);
		teardown(state);
	}
	setup(state);
}

/* The list may come before the directory: nothing is deleted on half of the truth. */
static void test_list_before_directory(void **state)
{
	struct fixture *f = *state;
	ours(f, 300, "n1");
	ours(f, 301, "n1");
	list(f);
	settle(f);
	begin(f);
	place(f, 300, "n1", false); /* before its node and identity */
	settle(f);
	node(f, "n1", false);
	number(f, 300);
	settle(f);
	assert_writes(f, 0, 0, 0);
	synced(f);
	settle(f);
	assert_writes(f, 0, 0, 1); /* 301 is no identity any more */
	assert_has(f, 300, "n1", true);
}

static void test_nothing_before_a_list(void **state)
{
	struct fixture *f = *state;
	usual(f);
	settle(f);
	assert_writes(f, 0, 0, 0);
	assert_true(cs_reg_plan_needs_list(f->plan));
	cs_reg_plan_list_begin(f->plan);
	settle(f);
	cs_reg_plan_list_end(f->plan, false, f->now_ms); /* it broke off */
	settle(f);
	assert_writes(f, 0, 0, 0);
	list(f);
	settle(f);
	assert_writes(f, 1, 0, 0);
}

static void test_a_new_full_state_replaces(void **state)
{
	struct fixture *f = *state;
	usual(f);
	number(f, 301);
	place(f, 301, "n1", false);
	list(f);
	settle(f);
	assert_writes(f, 2, 0, 0);
	begin(f); /* identityd was started anew: its cluster does not place 301 any more, and has no n2 */
	node(f, "n1", false);
	number(f, 300);
	number(f, 301);
	place(f, 300, "n1", false);
	f->now_ms += 10 * LINGER_MS;
	settle(f);
	assert_writes(f, 0, 0, 0); /* not before it is complete */
	synced(f);
	settle(f);
	assert_writes(f, 0, 0, 0); /* it lingers from now on */
	f->now_ms += LINGER_MS;
	settle(f);
	assert_writes(f, 0, 0, 1);
	assert_has(f, 301, "n1", false);
}

/* ---- linger ---- */

static void test_linger(void **state)
{
	struct fixture *f = *state;
	usual(f);
	list(f);
	settle(f);
	place(f, 300, "n1", true);
	settle(f);
	f->now_ms += LINGER_MS - 2000;
	assert_int_equal(cs_reg_plan_count(f->plan).lingering, 1);
	settle(f);
	assert_writes(f, 1, 0, 0);
	place(f, 300, "n1", false); /* it is back: no cold issue */
	settle(f);
	f->now_ms += LINGER_MS;
	settle(f);
	assert_writes(f, 0, 0, 0);
	place(f, 300, "n1", true);
	settle(f);
	assert_true(cs_reg_plan_run(f->plan, f->now_ms) <= f->now_ms + LINGER_MS + 1000);
	f->now_ms += LINGER_MS + 1000;
	settle(f);
	assert_writes(f, 0, 0, 1);
	assert_int_equal(f->nspire, 0);
}

static void test_linger_of_zero(void **state)
{
	struct fixture *f = *state;
	cs_reg_plan_free(f->plan);
	f->rules.linger_ms = 0;
	start(f);
	usual(f);
	list(f);
	settle(f);
	place(f, 300, "n1", true);
	place(f, 300, "n2", false);
	settle(f);
	assert_writes(f, 2, 0, 1);
	assert_has(f, 300, "n1", false);
	assert_has(f, 300, "n2", true);
}

static void test_a_node_that_goes_loses_all(void **state)
{
	struct fixture *f = *state;
	usual(f);
	number(f, 301);
	place(f, 301, "n1", false);
	place(f, 301, "n2", false);
	list(f);
	settle(f);
	place(f, 300, "n1", true); /* lingers */
	settle(f);
	assert_writes(f, 3, 0, 0);
	place(f, 301, "n1", true);
	node(f, "n1", true);
	settle(f);
	assert_writes(f, 0, 0, 2);
	assert_int_equal(f->nspire, 1);
	assert_has(f, 301, "n2", true);
}

static void test_an_identity_that_goes_loses_all(void **state)
{
	struct fixture *f = *state;
	usual(f);
	list(f);
	settle(f);
	place(f, 300, "n1", true);
	identity(f, 300, NULL);
	settle(f);
	assert_writes(f, 1, 0, 1);
}

static void on_change(void *data, const struct cs_reg_slot *slot, const struct cs_reg_change *change)
{
	(void)slot;
	char *text = data;
	snprintf(text + strlen(text), 400 - strlen(text), "%d %u@%s %x %s%s;", change->what, change->identity,
		change->node, change->fields, *change->entry_id ? "there" : "new", change->failed ? " failed" : "");
}

/* ---- what a full state lacks ---- */

#define MANY (CS_REG_MISSING_MAX + 1)

/* Two nodes; n identities on the first of them. */
static void crowd(struct fixture *f, uint32_t n)
{
	begin(f);
	node(f, "n1", false);
	node(f, "n2", false);
	for (uint32_t i = 0; i < n; i++) {
		number(f, 400 + i);
		place(f, 400 + i, "n1", false);
	}
	synced(f);
}

static void crowd_is_made(struct fixture *f, uint32_t n)
{
	f->rules.linger_ms = 0;
	while (f->nspire > 0)
		drop(f, 0);
	cs_reg_plan_free(f->plan);
	start(f);
	crowd(f, n);
	list(f);
	settle(f);
	assert_writes(f, n, 0, 0);
}

static void empty(struct fixture *f)
{
	begin(f);
	synced(f);
	settle(f);
}

static void test_an_empty_store_deletes_nothing(void **state)
{
	struct fixture *f = *state;
	crowd_is_made(f, MANY);
	empty(f);
	assert_writes(f, 0, 0, 0);
	assert_non_null(cs_reg_plan_held(f->plan));
	assert_non_null(strstr(cs_reg_plan_held(f->plan)->text, "of 11 of the 11 entries"));
	assert_int_equal(cs_reg_plan_count(f->plan).held, MANY);
	begin(f); /* nor when a state begins and is not completed */
	list(f);
	settle(f);
	assert_int_equal(cs_reg_plan_count(f->plan).held, MANY);
	empty(f);
	list(f); /* nor an hour later */
	f->now_ms += 3600000;
	settle(f);
	assert_writes(f, 0, 0, 0);
	/* What it says itself goes on, and one that it has again is as it was. */
	number(f, 400);
	node(f, "n1", false);
	place(f, 400, "n1", false);
	number(f, 900);
	place(f, 900, "n1", false);
	settle(f);
	assert_writes(f, 1, 0, 0);
	assert_int_equal(cs_reg_plan_count(f->plan).held, MANY - 1);
	crowd(f, MANY); /* its state is back */
	settle(f);
	assert_writes(f, 0, 0, 1); /* 900 */
	assert_null(cs_reg_plan_held(f->plan));
	assert_int_equal(f->nspire, MANY);
}

static void test_an_empty_store_at_the_start(void **state)
{
	struct fixture *f = *state;
	char text[400] = "";
	for (uint32_t i = 0; i < MANY; i++)
		ours(f, 400 + i, "n1");
	list(f);
	empty(f); /* what was listed before it was known */
	assert_writes(f, 0, 0, 0);
	assert_non_null(cs_reg_plan_held(f->plan));
	cs_reg_plan_free(f->plan);
	start(f);
	empty(f);
	list(f); /* and after */
	settle(f);
	assert_writes(f, 0, 0, 0);
	assert_int_equal(cs_reg_plan_count(f->plan).held, MANY);
	cs_reg_plan_each_change(f->plan, on_change, text);
	assert_non_null(strstr(text, "2 400@n1 0 there failed;"));
	*text = '\0';
	cs_reg_plan_preview_begin(f->plan);
	cs_reg_plan_preview_add(f->plan, f->spire[0], f->now_ms, on_change, text);
	cs_reg_plan_preview_end(f->plan, on_change, text);
	assert_string_equal(text, "2 400@n1 0 there failed;");
	/* Somebody says that they are to go. */
	cs_reg_plan_release(f->plan, f->now_ms);
	settle(f);
	assert_writes(f, 0, 0, MANY);
	assert_null(cs_reg_plan_held(f->plan));
	assert_int_equal(f->nspire, 0);
}

/* n on a node, and then a full state of so many of them. */
static void shrinks(struct fixture *f, uint32_t n, uint32_t to, unsigned deletes)
{
	crowd_is_made(f, n);
	crowd(f, to);
	settle(f);
	assert_writes(f, 0, 0, deletes);
	assert_int_equal(cs_reg_plan_count(f->plan).held, n - to - deletes);
}

static void test_how_many_may_be_missing(void **state)
{
	shrinks(*state, CS_REG_MISSING_MAX, 0, CS_REG_MISSING_MAX); /* few go */
	shrinks(*state, 2 * MANY, MANY, MANY);                      /* and so does half */
	shrinks(*state, 2 * MANY, MANY - 1, 0);                     /* more stay */
}

/* A node that is drained, or removed with all that it had: the directory says so, and is believed. */
static void test_what_is_said_to_go_goes(void **state)
{
	struct fixture *f = *state;
	crowd_is_made(f, 2 * MANY);
	for (uint32_t i = 0; i < MANY; i++) {
		place(f, 400 + i, "n1", true);
		identity(f, 400 + i, NULL);
	}
	for (uint32_t i = MANY; i < 2 * MANY; i++)
		place(f, 400 + i, "n1", true);
	node(f, "n1", true);
	settle(f);
	assert_writes(f, 0, 0, 2 * MANY);
	assert_null(cs_reg_plan_held(f->plan));
}

/* Its record may go first: what is placed is not deleted. */
static void test_placed_without_a_record(void **state)
{
	struct fixture *f = *state;
	usual(f);
	list(f);
	settle(f);
	identity(f, 300, NULL);
	f->now_ms += 2 * LINGER_MS;
	settle(f);
	assert_writes(f, 1, 0, 0);
	assert_int_equal(cs_reg_plan_count(f->plan).stuck, 1);
	number(f, 300);
	settle(f);
	assert_writes(f, 0, 0, 0);
	assert_int_equal(cs_reg_plan_count(f->plan).right, 1);
}

/* ---- whose entries ---- */

static Spire__Api__Types__Entry *foreign(struct fixture *f, uint32_t id)
{
	Spire__Api__Types__Entry *e = ours(f, id, "n1");
	free(e->id);
	e->id = strdup("d3a7c1de-4a55-4b52-9a17-5f0a9b5c9d7e");
	return e;
}

static void test_foreign_entries(void **state)
{
	struct fixture *f = *state;
	foreign(f, 999);
	usual(f);
	list(f);
	assert_int_equal(cs_reg_plan_foreign(f->plan), 1);
	assert_string_equal(cs_reg_plan_foreign_at(f->plan, 0)->spiffe_id, PREFIX "999");
	assert_null(cs_reg_plan_foreign_at(f->plan, 1));
	settle(f);
	place(f, 300, "n1", true);
	f->now_ms += 2 * LINGER_MS;
	settle(f);
	assert_writes(f, 1, 0, 1);
	assert_int_equal(f->nspire, 1); /* it is still there */
	drop(f, 0);
	list(f);
	assert_int_equal(cs_reg_plan_foreign(f->plan), 0);
}

static void test_an_entry_elsewhere_is_nobodys_business(void **state)
{
	struct fixture *f = *state;
	Spire__Api__Types__Entry *e = foreign(f, 999);
	free(e->spiffe_id->path);
	e->spiffe_id->path = strdup("/countersign/registrar");
	usual(f);
	list(f);
	assert_int_equal(cs_reg_plan_foreign(f->plan), 0);
}

static void test_a_foreign_entry_in_the_way(void **state)
{
	struct fixture *f = *state;
	struct cs_reg_change change;
	usual(f);
	list(f);
	foreign(f, 300); /* between the list and the write */
	assert_int_equal(work(f), 0);
	assert_writes(f, 1, 0, 0);
	const struct cs_error *why = cs_reg_plan_first_failure(f->plan, &change);
	assert_non_null(why);
	assert_non_null(strstr(why->text, "not ours"));
	assert_non_null(strstr(why->text, "entry list --foreign"));
	assert_int_equal(change.identity, 300);
	assert_int_equal(f->nspire, 1);
	/* Nor is it ours because an answer says so. */
	struct cs_reg_slot *slot;
	struct cs_error e;
	f->now_ms += CS_REG_RETRY_MAX_MS;
	cs_reg_plan_run(f->plan, f->now_ms);
	assert_int_equal(cs_reg_plan_take(f->plan, CS_REG_CREATE, &slot, 1), 1);
	const struct cs_reg_answer lie = {CS_GRPC_OK, "", f->spire[0]};
	assert_int_equal(cs_reg_plan_answered(f->plan, slot, CS_REG_CREATE, &lie, f->now_ms, &e), -EPROTO);
	assert_true(cs_reg_plan_needs_list(f->plan));
	assert_int_equal(cs_reg_plan_count(f->plan).right, 0);
}

/* Made by a call of which nobody knew that it was done, or by another registrar. */
static void test_one_of_ours_that_is_there_already(void **state)
{
	struct fixture *f = *state;
	usual(f);
	list(f);
	ours(f, 300, "n1");
	settle(f);
	assert_writes(f, 1, 0, 0);
	assert_int_equal(f->nspire, 1);
	assert_int_equal(cs_reg_plan_count(f->plan).right, 1);
}

static void test_deleted_by_somebody_else(void **state)
{
	struct fixture *f = *state;
	usual(f);
	list(f);
	settle(f);
	drop(f, 0);
	list(f);
	settle(f);
	assert_writes(f, 2, 0, 0);
	assert_int_equal(f->nspire, 1);
	drop(f, 0); /* and now it is noticed at the write only */
	place(f, 300, "n1", true);
	f->now_ms += LINGER_MS + 1000;
	settle(f);
	assert_writes(f, 0, 0, 1);
	assert_int_equal(cs_reg_plan_count(f->plan).failing, 0);
}

/* ---- failures ---- */

static void test_retries(void **state)
{
	struct fixture *f = *state;
	struct cs_reg_change change;
	usual(f);
	list(f);
	f->code = CS_GRPC_INTERNAL;
	f->message = "unable to find federated bundle";
	int64_t wait_ms = CS_REG_RETRY_MIN_MS;
	for (unsigned i = 0; i < 12; i++) {
		assert_int_equal(work(f), 0);
		assert_writes(f, 1, 0, 0);
		assert_int_equal(cs_reg_plan_count(f->plan).failing, 1);
		const struct cs_error *why = cs_reg_plan_first_failure(f->plan, &change);
		assert_non_null(strstr(why->text, "INTERNAL unable to find federated bundle"));
		assert_int_equal(change.until_mono_ms, f->now_ms + wait_ms);
		assert_int_equal(cs_reg_plan_run(f->plan, f->now_ms), f->now_ms + wait_ms);
		f->now_ms += wait_ms - 1;
		assert_int_equal(work(f), 0);
		assert_writes(f, 0, 0, 0);
		f->now_ms += 1;
		wait_ms = wait_ms * 2 > CS_REG_RETRY_MAX_MS ? CS_REG_RETRY_MAX_MS : wait_ms * 2;
	}
	f->code = 0;
	settle(f);
	assert_writes(f, 1, 0, 0);
	assert_int_equal(cs_reg_plan_count(f->plan).failing, 0);
	assert_null(cs_reg_plan_first_failure(f->plan, &change));
}

/* One that fails keeps nobody else waiting. */
static void test_others_go_on(void **state)
{
	struct fixture *f = *state;
	usual(f);
	list(f);
	f->code = CS_GRPC_INTERNAL;
	work(f);
	f->code = 0;
	number(f, 301);
	place(f, 301, "n1", false);
	settle(f);
	assert_has(f, 301, "n1", true);
	assert_has(f, 300, "n1", false);
	assert_int_equal(cs_reg_plan_count(f->plan).failing, 1);
	assert_int_equal(cs_reg_plan_count(f->plan).wanted, 2);
}

static void test_perhaps_done(void **state)
{
	struct fixture *f = *state;
	struct cs_reg_slot *slots[2];
	struct cs_error why;
	usual(f);
	list(f);
	cs_error_set(&why, -EIO, "DEADLINE_EXCEEDED");
	assert_int_equal(cs_reg_plan_take(f->plan, CS_REG_CREATE, slots, 2), 1);
	ours(f, 300, "n1"); /* it was */
	cs_reg_plan_failed(f->plan, slots[0], true, &why, f->now_ms);
	assert_true(cs_reg_plan_needs_list(f->plan));
	f->now_ms += CS_REG_RETRY_MAX_MS;
	settle(f);
	assert_writes(f, 0, 0, 0); /* not before SPIRE was looked at */
	list(f);
	settle(f);
	assert_writes(f, 0, 0, 0);
	assert_int_equal(cs_reg_plan_count(f->plan).right, 1);
	/* And one that was certainly not done needs no list. */
	place(f, 300, "n1", true);
	f->now_ms += LINGER_MS + 1000;
	cs_reg_plan_run(f->plan, f->now_ms);
	assert_int_equal(cs_reg_plan_take(f->plan, CS_REG_DELETE, slots, 2), 1);
	cs_reg_plan_failed(f->plan, slots[0], false, &why, f->now_ms);
	assert_false(cs_reg_plan_needs_list(f->plan));
	f->now_ms += CS_REG_RETRY_MIN_MS;
	settle(f);
	assert_writes(f, 0, 0, 1);
}

/* A server that takes an update and does not do it: not for ever, not at once again. */
static void test_an_update_without_effect(void **state)
{
	struct fixture *f = *state;
	struct cs_reg_slot *slots[1];
	struct cs_error e;
	ours(f, 300, "n1")->x509_svid_ttl = 5;
	usual(f);
	list(f);
	assert_int_equal(cs_reg_plan_take(f->plan, CS_REG_UPDATE, slots, 1), 1);
	const struct cs_reg_answer answer = {CS_GRPC_OK, "", f->spire[0]};
	assert_true(cs_reg_plan_answered(f->plan, slots[0], CS_REG_UPDATE, &answer, f->now_ms, &e) < 0);
	assert_non_null(strstr(e.text, "x509_svid_ttl"));
	assert_int_equal(cs_reg_plan_ready(f->plan, CS_REG_UPDATE), 0);
	f->now_ms += CS_REG_RETRY_MIN_MS;
	settle(f);
	assert_writes(f, 0, 1, 0);
}

/* What changes while it is written is looked at when it is written. */
static void test_a_change_meanwhile(void **state)
{
	struct fixture *f = *state;
	struct cs_reg_slot *slots[1];
	struct cs_error e;
	cs_reg_plan_free(f->plan);
	f->rules.linger_ms = 0;
	start(f);
	usual(f);
	list(f);
	assert_int_equal(cs_reg_plan_take(f->plan, CS_REG_CREATE, slots, 1), 1);
	place(f, 300, "n1", true);
	node(f, "n1", true);
	identity(f, 300, NULL);
	settle(f);
	assert_writes(f, 0, 0, 0);
	Spire__Api__Types__Entry *made = ours(f, 300, "n1");
	const struct cs_reg_answer answer = {CS_GRPC_OK, "", made};
	assert_int_equal(cs_reg_plan_answered(f->plan, slots[0], CS_REG_CREATE, &answer, f->now_ms, &e), 0);
	settle(f);
	assert_writes(f, 0, 0, 1);
	assert_int_equal(f->nspire, 0);
}

/* Somebody changed its hint, so that it seems to be for nobody and is deleted, while the identity's own slot makes one and is
 * told that it is there. */
static void test_adopted_while_it_is_deleted(void **state)
{
	struct fixture *f = *state;
	struct cs_reg_slot *create_of[1], *delete_of[1];
	struct cs_reg_change change;
	struct cs_error e;
	Spire__Api__Types__Entry *entry = ours(f, 300, "n1");
	free(entry->hint);
	entry->hint = strdup("9@n9");
	usual(f);
	list(f);
	assert_int_equal(cs_reg_plan_take(f->plan, CS_REG_CREATE, create_of, 1), 1);
	assert_int_equal(cs_reg_plan_take(f->plan, CS_REG_DELETE, delete_of, 1), 1);
	assert_string_equal(cs_reg_slot_entry_id(delete_of[0]), entry->id);
	struct cs_reg_answer answer = {CS_GRPC_ALREADY_EXISTS, "similar entry already exists", entry};
	assert_int_equal(cs_reg_plan_answered(f->plan, create_of[0], CS_REG_CREATE, &answer, f->now_ms, &e), 0);
	assert_true(cs_reg_slot_change(f->plan, delete_of[0], &change));
	assert_string_equal(change.entry_id, entry->id);
	drop(f, 0);
	answer = (struct cs_reg_answer){CS_GRPC_OK, "", NULL};
	assert_int_equal(cs_reg_plan_answered(f->plan, delete_of[0], CS_REG_DELETE, &answer, f->now_ms, &e), 0);
	settle(f);
	assert_writes(f, 1, 0, 0); /* it is known that the adopted one is gone */
	assert_has(f, 300, "n1", true);
	assert_int_equal(cs_reg_plan_count(f->plan).right, 1);
}

/* ---- what is in the way ---- */

static void test_stuck(void **state)
{
	struct fixture *f = *state;
	struct cs_reg_change change;
	usual(f);
	list(f);
	settle(f);
	assert_writes(f, 1, 0, 0);
	identity(f, 301, "spiffe://example.org/other/301");
	place(f, 301, "n1", false);
	settle(f);
	assert_int_equal(cs_reg_plan_count(f->plan).stuck, 1);
	assert_non_null(strstr(cs_reg_plan_first_failure(f->plan, &change)->text, "is not under spiffe_id_prefix"));
	place(f, 301, "n1", true);
	number(f, 302);
	place(f, 302, "no such node", false);
	settle(f);
	assert_non_null(strstr(cs_reg_plan_first_failure(f->plan, &change)->text, "no record of the node"));
	node(f, "no such node", false);
	settle(f);
	assert_non_null(strstr(cs_reg_plan_first_failure(f->plan, &change)->text, "makes no SPIFFE ID"));
	assert_writes(f, 0, 0, 0);
	place(f, 302, "no such node", true);
	assert_int_equal(cs_reg_plan_count(f->plan).stuck, 0);
}

/* ---- parents by agent ---- */

static void agent(struct fixture *f, const char *path, const char *value, int64_t until, bool banned)
{
	Spire__Api__Types__Agent a = SPIRE__API__TYPES__AGENT__INIT;
	Spire__Api__Types__SPIFFEID id = SPIRE__API__TYPES__SPIFFEID__INIT;
	Spire__Api__Types__Selector s = SPIRE__API__TYPES__SELECTOR__INIT, *list = &s;
	id.trust_domain = (char *)DOMAIN;
	id.path = (char *)path;
	s.type = (char *)"k8s_psat";
	s.value = (char *)value;
	a.id = &id;
	a.selectors = &list;
	a.n_selectors = 1;
	a.x509svid_expires_at = until;
	a.banned = banned;
	cs_reg_plan_agents_add(f->plan, &a);
}

static void test_parents_by_agent(void **state)
{
	struct fixture *f = *state;
	cs_reg_plan_free(f->plan);
	f->rules.agent_selector = "k8s_psat:agent_node_name:{node}";
	start(f);
	usual(f);
	list(f);
	settle(f);
	assert_writes(f, 0, 0, 0);
	assert_true(cs_reg_plan_needs_agents(f->plan));
	cs_reg_plan_agents_begin(f->plan);
	agent(f, "/spire/agent/old", "agent_node_name:n1", 10, false);
	agent(f, "/spire/agent/new", "agent_node_name:n1", 20, false);
	agent(f, "/spire/agent/banned", "agent_node_name:n1", 30, true);
	agent(f, "/spire/agent/two", "agent_node_name:n2", 20, false);
	agent(f, "/spire/agent/other", "agent_pod_name:n1", 99, false);
	cs_reg_plan_agents_end(f->plan, true, f->now_ms);
	assert_false(cs_reg_plan_needs_agents(f->plan));
	settle(f);
	assert_writes(f, 1, 0, 0);
	assert_string_equal(f->spire[0]->parent_id->path, "/spire/agent/new");
	/* The node is made anew: its agent has another ID, and the entry follows by update. */
	cs_reg_plan_agents_begin(f->plan);
	agent(f, "/spire/agent/newest", "agent_node_name:n1", 40, false);
	cs_reg_plan_agents_end(f->plan, true, f->now_ms);
	settle(f);
	assert_writes(f, 0, 1, 0);
	assert_string_equal(f->spire[0]->parent_id->path, "/spire/agent/newest");
	/* An agent that is not there for a moment takes nothing with it; a list that broke off says nothing. */
	cs_reg_plan_agents_begin(f->plan);
	cs_reg_plan_agents_end(f->plan, true, f->now_ms);
	cs_reg_plan_agents_begin(f->plan);
	agent(f, "/spire/agent/wrong", "agent_node_name:n1", 50, false);
	cs_reg_plan_agents_end(f->plan, false, f->now_ms);
	settle(f);
	assert_writes(f, 0, 0, 0);
	node(f, "n3", false);
	place(f, 300, "n3", false);
	assert_true(cs_reg_plan_needs_agents(f->plan));
	assert_int_equal(cs_reg_plan_count(f->plan).stuck, 1);
}

/* ---- limits, and what is shown ---- */

static void test_too_many_slots(void **state)
{
	struct fixture *f = *state;
	struct cs_error e = {0};
	Countersign__V1__Record r = COUNTERSIGN__V1__RECORD__INIT, *list = &r;
	Countersign__V1__Placement p = COUNTERSIGN__V1__PLACEMENT__INIT;
	Countersign__V1__DirectoryBatch b = COUNTERSIGN__V1__DIRECTORY_BATCH__INIT;
	p.node = (char *)"n1";
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT;
	r.placement = &p;
	b.records = &list;
	b.n_records = 1;
	int result = 0;
	begin(f);
	for (p.identity = 1; result == 0 && p.identity <= CS_REG_SLOTS_MAX + 1; p.identity++)
		result = cs_reg_plan_directory_batch(f->plan, &b, f->now_ms, &e);
	assert_int_equal(result, -ENOSPC);
	assert_int_equal(e.reason, CS_R_TOO_MANY);
	assert_int_equal(p.identity, CS_REG_SLOTS_MAX + 2);
}

static void test_what_is_shown(void **state)
{
	struct fixture *f = *state;
	char text[400] = "";
	ours(f, 300, "n1")->x509_svid_ttl = 5;
	ours(f, 300, "n2");
	ours(f, 300, "n9");
	usual(f);
	number(f, 301);
	place(f, 301, "n2", false);
	list(f);
	cs_reg_plan_each_change(f->plan, on_change, text);
	assert_non_null(strstr(text, "1 300@n1 8 there;")); /* UPDATE of the TTL */
	assert_non_null(strstr(text, "3 300@n2 0 there;")); /* LINGER */
	assert_non_null(strstr(text, "2 300@n9 0 there;")); /* DELETE */
	assert_non_null(strstr(text, "0 301@n2 0 new;"));   /* CREATE */
	f->code = CS_GRPC_INTERNAL;
	work(f);
	*text = '\0';
	cs_reg_plan_each_change(f->plan, on_change, text);
	assert_non_null(strstr(text, "0 301@n2 0 new failed;"));
	f->code = 0;
	f->now_ms += LINGER_MS + 1000;
	settle(f);
	*text = '\0';
	cs_reg_plan_each_change(f->plan, on_change, text);
	assert_string_equal(text, "");
}

/* A dry run: as a list, and nothing follows. */
static void test_preview(void **state)
{
	struct fixture *f = *state;
	char text[400] = "";
	usual(f);
	number(f, 301);
	place(f, 301, "n2", false);
	list(f);
	settle(f);
	assert_writes(f, 2, 0, 0);
	drop(f, find(f, f->spire[1]->id)); /* what others do meanwhile */
	f->spire[0]->x509_svid_ttl = 5;
	ours(f, 300, "n1");
	ours(f, 300, "n2");
	ours(f, 300, "n9");
	have_nonsense(f);
	foreign(f, 999);
	for (int i = 0; i < 2; i++) {
		*text = '\0';
		cs_reg_plan_preview_begin(f->plan);
		for (size_t j = 0; j < f->nspire; j++)
			cs_reg_plan_preview_add(f->plan, f->spire[j], f->now_ms, on_change, text);
		cs_reg_plan_preview_end(f->plan, on_change, text);
		assert_non_null(strstr(text, "300@n1 8 there;"));   /* UPDATE of the TTL */
		assert_non_null(strstr(text, "2 300@n1 0 there;")); /* one too many */
		assert_non_null(strstr(text, "300@n2 0 there;"));
		assert_non_null(strstr(text, "2 0@ 0 there;"));
		assert_non_null(strstr(text, "0 301@n2 0 new;"));
		assert_null(strstr(text, "999"));
	}
	settle(f);
	assert_writes(f, 0, 0, 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_what_is_and_what_should_be),
		TEST(test_list_before_directory),
		TEST(test_nothing_before_a_list),
		TEST(test_a_new_full_state_replaces),
		TEST(test_linger),
		TEST(test_linger_of_zero),
		TEST(test_a_node_that_goes_loses_all),
		TEST(test_an_identity_that_goes_loses_all),
		TEST(test_placed_without_a_record),
		TEST(test_an_empty_store_deletes_nothing),
		TEST(test_an_empty_store_at_the_start),
		TEST(test_how_many_may_be_missing),
		TEST(test_what_is_said_to_go_goes),
		TEST(test_foreign_entries),
		TEST(test_an_entry_elsewhere_is_nobodys_business),
		TEST(test_a_foreign_entry_in_the_way),
		TEST(test_one_of_ours_that_is_there_already),
		TEST(test_deleted_by_somebody_else),
		TEST(test_retries),
		TEST(test_others_go_on),
		TEST(test_perhaps_done),
		TEST(test_an_update_without_effect),
		TEST(test_a_change_meanwhile),
		TEST(test_adopted_while_it_is_deleted),
		TEST(test_stuck),
		TEST(test_parents_by_agent),
		TEST(test_too_many_slots),
		TEST(test_what_is_shown),
		TEST(test_preview),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
