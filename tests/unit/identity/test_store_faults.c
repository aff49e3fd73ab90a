/* What a real backend does not do on demand: a write that fails, one that happened although nobody said so, somebody else who
 * writes in between, rows that make no sense, a store that lost its place or everything. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "mem.h"
#include "store_fixture.h"
#include "store_private.h"

/* Keys and values in memory; what the next write meets. */
struct row {
	char *key;
	uint8_t *value;
	size_t n;
};
static struct fake {
	struct cs_backend backend;
	struct row rows[1024];
	size_t nrows;
	unsigned writes;
	int fail_at;   /* the write, counted from 1 on; 0: none */
	int fail_with; /* what it says ... */
	bool happens;  /* ... although it happened */
	bool moved;    /* that is not found out yet: the next write or poll does */
	bool always_moved;
	bool follows;
	const char *damaged; /* this key's value is read cut in half */
	const char *hidden;  /* this one is not read at all */
	bool whole;          /* the next poll reads everything */
} fake;

static struct row *find(const char *key)
{
	for (size_t i = 0; i < fake.nrows; i++)
		if (strcmp(fake.rows[i].key, key) == 0)
			return &fake.rows[i];
	return NULL;
}

static void set(const struct cs_store_write *w)
{
	struct row *row = find(w->key);
	if (row) {
		free(row->key);
		free(row->value);
		*row = fake.rows[--fake.nrows];
	}
	if (w->value)
		fake.rows[fake.nrows++] =
			(struct row){.key = cs_xstrdup(w->key), .value = cs_xmemdup(w->value, w->n), .n = w->n};
	assert_true(fake.nrows < 1024);
}

static int read_all(const struct cs_backend_reader *reader)
{
	reader->whole(reader->data);
	for (size_t i = 0; i < fake.nrows; i++) {
		const struct row *row = &fake.rows[i];
		bool damaged = fake.damaged && strcmp(row->key, fake.damaged) == 0;
		if (!fake.hidden || strcmp(row->key, fake.hidden) != 0)
			reader->row(reader->data, row->key, row->value, damaged ? row->n / 2 : row->n);
	}
	reader->revision(reader->data);
	return 0;
}

static int fake_load(struct cs_backend *b, const struct cs_backend_reader *reader, struct cs_error *e)
{
	(void)b;
	(void)e;
	return read_all(reader);
}

/* Everything, as if it had lost its place: what is known already must not be told. */
static int fake_poll(struct cs_backend *b, const struct cs_backend_reader *reader, struct cs_error *e)
{
	(void)b;
	(void)e;
	bool read = fake.moved || fake.whole;
	fake.moved = fake.whole = false;
	return read ? read_all(reader) : 0;
}

static int fake_write(struct cs_backend *b, const struct cs_store_write *writes, size_t n, struct cs_error *e)
{
	assert_true(n <= b->ops->writes_max);
	fake.writes++;
	if (fake.moved || fake.always_moved)
		return cs_error_set(e, -EAGAIN, "somebody else wrote");
	bool fails = fake.fail_at > 0 && --fake.fail_at == 0;
	for (size_t i = 0; i < n && (!fails || fake.happens); i++)
		set(&writes[i]);
	fake.moved = fails && fake.happens;
	return fails ? cs_error_set(e, fake.fail_with, "as the test wants it") : 0;
}

static void fake_state(struct cs_backend *b, struct cs_store_state *ret)
{
	(void)b;
	ret->leads = !fake.follows;
	snprintf(ret->leader, sizeof(ret->leader), "%s", fake.follows ? "r2" : "");
}

static void fake_close(struct cs_backend *b)
{
	(void)b;
}

static const struct cs_backend_ops roomy = {.writes_max = 1000,
	.bytes_max = 1 << 20,
	.load = fake_load,
	.poll = fake_poll,
	.write = fake_write,
	.state = fake_state,
	.close = fake_close};
static const struct cs_backend_ops narrow = {.writes_max = 30,
	.bytes_max = 1 << 20,
	.load = fake_load,
	.poll = fake_poll,
	.write = fake_write,
	.state = fake_state,
	.close = fake_close};

static void forget_rows(void)
{
	for (size_t i = 0; i < fake.nrows; i++) {
		free(fake.rows[i].key);
		free(fake.rows[i].value);
	}
	fake.nrows = 0;
}

static int setup(void **state)
{
	forget_rows();
	fake = (struct fake){.backend.ops = &roomy};
	return store_setup(state);
}

static int teardown(void **state)
{
	(void)state;
	forget_rows();
	return 0;
}

static struct cs_store *open_fake(void)
{
	struct cs_store *s = NULL;
	struct cs_error e = {0};
	if (cs_store_open_on(&store_config, &fake.backend, &s, &e) < 0)
		fail_msg("%s", e.text);
	return s;
}

static struct told told;

static int commit(struct cs_store *s, struct cs_store_op *op, struct cs_error *e)
{
	struct cs_fact_sink sink = told_sink(&told);
	uint64_t revision;
	told.text[0] = '\0';
	return cs_store_commit(s, &op, 1, &sink, &revision, e);
}

static int poll(struct cs_store *s, struct cs_error *e)
{
	struct cs_fact_sink sink = told_sink(&told);
	told.text[0] = '\0';
	return cs_store_poll(s, &sink, e);
}

static void listed(struct cs_store *s)
{
	store_list(s, &told);
	told.text[0] = '\0';
}

static const char claimed[] =
	"+ identity 256 k8s:app=a; spiffe://example.org/identity/256\n+ claim n1 a 256 10.0.0.1\n= 2\n";

static void test_a_write_that_fails(void **state)
{
	(void)state;
	struct cs_store *s = open_fake();
	struct cs_store_op op = claim_op("n1", "a", "k8s:app=a;", 1);
	struct cs_error e = {0};
	listed(s);
	fake.fail_at = 1;
	fake.fail_with = -ENOSPC;
	assert_int_equal(commit(s, &op, &e), -ENOSPC);
	assert_string_equal(told.text, "");
	assert_true(op.identity == 0 && !op.changed && !op.spiffe_id);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_IDENTITY), 0);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 0);
	assert_int_equal(commit(s, &op, &e), 0); /* and takes the number that it would have had */
	assert_string_equal(told.text, claimed);
	cs_store_op_fini(&op);
	cs_store_close(s);
}

static void test_a_write_that_happened_unheard(void **state)
{
	(void)state;
	struct cs_store *s = open_fake();
	struct cs_store_op op = claim_op("n1", "a", "k8s:app=a;", 1);
	struct cs_error e = {0};
	listed(s);
	fake.fail_at = 1;
	fake.fail_with = -ETIMEDOUT;
	fake.happens = true;
	assert_int_equal(commit(s, &op, &e), -ETIMEDOUT);
	assert_string_equal(told.text, "");
	struct cs_store_op other = claim_op("n1", "b", "k8s:app=b;", 2);
	assert_int_equal(commit(s, &other, &e), 0);
	/* First what happened is found out and told, then this one gets a number of its own. */
	assert_non_null(strstr(told.text, claimed));
	assert_int_equal(other.identity, 257);
	assert_int_equal(commit(s, &op, &e), 0); /* asked again: it is there */
	assert_string_equal(told.text, "");
	assert_int_equal(op.identity, 256);
	cs_store_op_fini(&op);
	cs_store_op_fini(&other);
	cs_store_close(s);
}

static void test_somebody_else_writes_for_ever(void **state)
{
	(void)state;
	struct cs_store *s = open_fake();
	struct cs_store_op op = claim_op("n1", "a", "k8s:app=a;", 1);
	struct cs_error e = {0};
	fake.always_moved = true;
	assert_int_equal(commit(s, &op, &e), -ETIMEDOUT);
	assert_int_equal(e.reason, CS_R_STORE_UNAVAILABLE);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_IDENTITY), 0);
	cs_store_close(s);
}

static void test_who_follows_writes_nothing(void **state)
{
	(void)state;
	struct cs_store *s = open_fake();
	struct cs_store_op op = claim_op("n1", "a", "k8s:app=a;", 1);
	struct cs_error e = {0};
	unsigned before = fake.writes;
	fake.follows = true;
	assert_int_equal(commit(s, &op, &e), -EPERM);
	assert_int_equal(e.reason, CS_R_NOT_LEADER);
	assert_non_null(strstr(e.text, "the leader is r2"));
	assert_int_equal(fake.writes, before);
	cs_store_close(s);
}

/* Claims of a node that do not fit into one revision, and a failure in the middle. */
static void test_a_large_operation(void **state)
{
	(void)state;
	enum { N = 100 };
	fake.backend.ops = &narrow;
	store_config.address_quarantine_ms = 1000;
	struct cs_store *s = open_fake();
	struct cs_error e = {0};
	for (uint32_t i = 0; i < N; i++) {
		char name[8];
		snprintf(name, sizeof(name), "e%u", i);
		claim_now(s, "n1", name, "k8s:app=a;", i);
	}
	listed(s);
	struct cs_store_op keep = {.kind = CS_STORE_KEEP, .claim = {.node = "n1"}};
	fake.fail_at = 3;
	fake.fail_with = -EHOSTUNREACH;
	uint64_t before = told.revision;
	assert_int_equal(commit(s, &keep, &e), -EHOSTUNREACH);
	assert_int_equal(keep.nreleased, 0); /* no answer, but what happened is told */
	assert_int_equal(told.revision, before + 2);
	size_t left = cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM);
	assert_true(left > 0 && left < N);
	assert_int_equal(commit(s, &keep, &e), 0);
	assert_int_equal(keep.nreleased, left);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 0);
	cs_store_op_fini(&keep);
	cs_store_close(s);
	/* And that is what is there. */
	s = open_fake();
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 0);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_ADDRESS), N);
	cs_store_close(s);
}

static void test_a_batch_in_parts(void **state)
{
	(void)state;
	enum { N = 40 };
	fake.backend.ops = &narrow;
	struct cs_store *s = open_fake();
	struct cs_store_op ops[N], *refs[N];
	char names[N][8], labels[N][16];
	for (uint32_t i = 0; i < N; i++) {
		snprintf(names[i], sizeof(names[i]), "e%u", i);
		snprintf(labels[i], sizeof(labels[i]), "k8s:n=%u;", i);
		ops[i] = claim_op("n1", names[i], labels[i], i);
		refs[i] = &ops[i];
	}
	listed(s);
	struct cs_fact_sink sink = told_sink(&told);
	struct cs_error e = {0};
	uint64_t revision, before = told.revision;
	/* The second revision meets somebody else: it is decided anew, the first one is not. */
	fake.fail_at = 2;
	fake.fail_with = -ETIMEDOUT;
	assert_int_equal(cs_store_commit(s, refs, N, &sink, &revision, &e), -ETIMEDOUT);
	assert_int_equal(told.revision, before + 1);
	for (uint32_t i = 0; i < N; i++)
		assert_true(ops[i].identity == 0 && !ops[i].changed);
	assert_int_equal(cs_store_commit(s, refs, N, &sink, &revision, &e), 0);
	for (uint32_t i = 0; i < N; i++) {
		assert_int_equal(ops[i].identity, 256 + i);
		cs_store_op_fini(&ops[i]);
	}
	cs_store_close(s);
}

/* --- reading --- */

static bool seen_empty;
static void look_for_nothing(void *data, const struct cs_fact *before, const struct cs_fact *now)
{
	(void)before;
	(void)now;
	seen_empty |= cs_facts_count(cs_store_facts(data), CS_FACT_IDENTITY) == 0;
}
static void no_revision(void *data, uint64_t epoch, uint64_t revision)
{
	(void)data;
	(void)epoch;
	(void)revision;
}

/* A store that lost its place is read anew: only what differs is told, and at no moment is there nothing. */
static void test_a_whole_read_tells_the_difference(void **state)
{
	(void)state;
	struct cs_store *s = open_fake(), *other;
	struct cs_error e = {0};
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	claim_now(s, "n1", "b", "k8s:app=b;", 2);
	listed(s);
	fake.whole = true;
	assert_int_equal(poll(s, &e), 0);
	assert_string_equal(told.text, "");
	/* Somebody else changed something. */
	other = open_fake();
	claim_now(other, "n1", "c", "k8s:app=c;", 3);
	release_now(other, "n1", "a");
	cs_store_close(other);
	fake.whole = true;
	struct cs_fact_sink watching = {.change = look_for_nothing, .revision = no_revision, .data = s};
	seen_empty = false;
	assert_int_equal(cs_store_poll(s, &watching, &e), 0);
	assert_false(seen_empty);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_IDENTITY), 3);
	assert_null(cs_facts_claim(cs_store_facts(s), "n1", "a"));
	cs_store_close(s);
}

/* Rows that make no sense: everything stays as it was, and it is read again until it makes sense. */
static void test_damaged_rows(void **state)
{
	(void)state;
	struct cs_store *s = open_fake(), *other;
	struct cs_error e = {0};
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	listed(s);
	other = open_fake();
	claim_now(other, "n1", "b", "k8s:app=b;", 2);
	cs_store_close(other);
	static const char *const keys[] = {"identity/257", "claim/n1/b", "meta"};
	for (size_t i = 0; i < 3; i++) {
		fake.damaged = keys[i];
		fake.whole = true;
		assert_int_equal(poll(s, &e), -EPROTO);
		assert_string_equal(told.text, "");
		assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_IDENTITY), 1);
		/* Nothing is decided on what is not known. */
		struct cs_store_op op = claim_op("n1", "c", "k8s:app=c;", 3);
		assert_int_equal(commit(s, &op, &e), -EPROTO);
	}
	fake.damaged = NULL;
	fake.hidden = "identity/257"; /* its claim has an identity that is not there */
	fake.whole = true;
	assert_int_equal(poll(s, &e), -EPROTO);
	assert_non_null(strstr(e.text, "identity 257, which is not there"));
	fake.hidden = NULL;
	assert_int_equal(poll(s, &e), 0);
	assert_string_equal(told.text, "+ identity 257 k8s:app=b; spiffe://example.org/identity/257\n"
				       "+ claim n1 b 257 10.0.0.2\n= 3\n");
	cs_store_close(s);
}

static void test_a_store_that_was_emptied(void **state)
{
	(void)state;
	struct cs_store *s = open_fake();
	struct cs_error e = {0};
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	listed(s);
	forget_rows();
	fake.whole = true;
	assert_int_equal(poll(s, &e), -EPROTO);
	assert_non_null(strstr(e.text, "what is known stays in force"));
	assert_string_equal(told.text, "");
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 1);
	cs_store_close(s);
}

/* A backup without a new epoch is refused; with one it is taken, and the epoch is told. */
static void test_a_store_that_went_back(void **state)
{
	(void)state;
	struct cs_store *s = open_fake(), *other;
	struct cs_error e = {0};
	claim_now(s, "n1", "a", "k8s:app=a;", 1);
	struct row backup[8];
	size_t nbackup = fake.nrows;
	for (size_t i = 0; i < nbackup; i++)
		backup[i] = (struct row){.key = cs_xstrdup(fake.rows[i].key),
			.value = cs_xmemdup(fake.rows[i].value, fake.rows[i].n),
			.n = fake.rows[i].n};
	claim_now(s, "n1", "b", "k8s:app=b;", 2);
	listed(s);
	uint64_t epoch = told.epoch;
	forget_rows();
	memcpy(fake.rows, backup, nbackup * sizeof(*backup));
	fake.nrows = nbackup;
	fake.whole = true;
	assert_int_equal(poll(s, &e), -EPROTO);
	assert_non_null(strstr(e.text, "went back from revision 3 to 2"));
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 2);
	other = open_fake();
	assert_int_equal(cs_store_new_epoch(other, &e), 0);
	cs_store_close(other);
	assert_int_equal(poll(s, &e), 0);
	assert_true(told.epoch != epoch);
	assert_int_equal(cs_facts_count(cs_store_facts(s), CS_FACT_CLAIM), 1);
	cs_store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_write_that_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_write_that_happened_unheard, setup, teardown),
		cmocka_unit_test_setup_teardown(test_somebody_else_writes_for_ever, setup, teardown),
		cmocka_unit_test_setup_teardown(test_who_follows_writes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_large_operation, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_batch_in_parts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_whole_read_tells_the_difference, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_rows, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_store_that_was_emptied, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_store_that_went_back, setup, teardown),
	};
	return cmocka_run_group_tests(tests, store_group_setup, store_group_teardown);
}
