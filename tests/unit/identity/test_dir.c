/* The directory: revisions, resuming, the policy of one node, and a follower that must end up with the same state
 * whatever happened. */
#include "dir.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <uthash.h>
#include "mem.h"

#define V(name)    countersign__v1__##name##__init
#define KIND(name) COUNTERSIGN__V1__KIND__KIND_##name

static void put_identity(struct cs_directory *dir, uint32_t id, const char *spiffe_id)
{
	cs_record r;
	Countersign__V1__Identity m;
	V(record)(&r);
	V(identity)(&m);
	m.id = id;
	m.spiffe_id = (char *)spiffe_id;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_IDENTITY;
	r.identity = &m;
	assert_true(cs_dir_put_take(dir, cs_record_copy(&r, false), NULL) >= 0);
}

static void placement(struct cs_directory *dir, uint32_t id, const char *node, bool there)
{
	cs_record r;
	Countersign__V1__Placement m;
	V(record)(&r);
	V(placement)(&m);
	m.identity = id;
	m.node = (char *)node;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_PLACEMENT;
	r.placement = &m;
	if (there)
		assert_true(cs_dir_put_take(dir, cs_record_copy(&r, false), NULL) >= 0);
	else
		cs_dir_del(dir, &r);
}

static void policy_row(struct cs_directory *dir, uint32_t local, uint32_t remote, int verdict /* < 0: goes */)
{
	cs_record r;
	Countersign__V1__PolicyRow m;
	Countersign__V1__Decision d;
	V(record)(&r);
	V(policy_row)(&m);
	V(decision)(&d);
	m.local = local;
	m.remote = remote;
	d.verdict = (Countersign__V1__Verdict)verdict;
	m.from = &d;
	r.record_case = COUNTERSIGN__V1__RECORD__RECORD_POLICY_ROW;
	r.policy_row = &m;
	if (verdict >= 0)
		assert_true(cs_dir_put_take(dir, cs_record_copy(&r, false), NULL) >= 0);
	else
		cs_dir_del(dir, &r);
}

/* What a follower knows: key to packed record. */
struct known {
	char *key;
	size_t n;
	uint8_t *bytes;
	UT_hash_handle hh;
};

static void known_del(struct known **all, const char *key)
{
	struct known *k;
	HASH_FIND_STR(*all, key, k);
	if (!k)
		return;
	HASH_DEL(*all, k);
	free(k->key);
	free(k->bytes);
	free(k);
}

static void known_put(struct known **all, const cs_record *r)
{
	struct known *k = cs_xcalloc(1, sizeof(*k));
	k->key = cs_record_key(r);
	known_del(all, k->key);
	k->n = countersign__v1__record__get_packed_size(r);
	k->bytes = cs_xcalloc(1, k->n);
	countersign__v1__record__pack(r, k->bytes);
	HASH_ADD_STR(*all, key, k);
}

static void known_clear(struct known **all)
{
	struct known *k, *tmp;
	HASH_ITER (hh, *all, k, tmp)
		known_del(all, k->key);
}

struct follower {
	struct cs_cursor *cursor;
	struct known *known, *incoming;
	uint64_t epoch, revision;
	unsigned synced, batches;
};

/* Exactly what a client is told to do (directory.proto). Returns the result of the last cs_cursor_next. */
static int follow(struct follower *f, size_t max_bytes)
{
	struct cs_batch batch;
	struct cs_error e;
	int r;
	/* Records of an incomplete batch wait; with `synced` they are the whole state. */
	cs_record *waiting[4096];
	size_t n = 0;
	while ((r = cs_cursor_next(f->cursor, max_bytes, &batch, &e)) == 1) {
		f->batches++;
		assert_true(countersign__v1__directory_batch__get_packed_size(&batch.msg) <= max_bytes || batch.n == 1);
		cs_cursor_unpack(f->cursor, &batch);
		for (size_t i = 0; i < batch.msg.n_records; i++)
			waiting[n++] = cs_record_copy(batch.msg.records[i], false);
		if (!batch.msg.complete) {
			assert_false(batch.msg.synced);
			continue;
		}
		if (batch.msg.synced) {
			known_clear(&f->known);
			f->synced++;
		}
		for (size_t i = 0; i < n; i++) {
			char *key = cs_record_key(waiting[i]);
			if (waiting[i]->deleted)
				known_del(&f->known, key);
			else
				known_put(&f->known, waiting[i]);
			free(key);
			cs_record_free(waiting[i]);
		}
		n = 0;
		f->epoch = batch.msg.position->epoch;
		f->revision = batch.msg.position->revision;
		if (batch.last)
			break;
	}
	assert_int_equal(n, 0);
	return r;
}

static void follower_fini(struct follower *f)
{
	cs_cursor_free(f->cursor);
	known_clear(&f->known);
}

static struct follower follower_new(struct cs_directory *dir, const char *node)
{
	struct follower f = {.cursor = cs_cursor_new(dir, &(struct cs_follow){.node = node})};
	return f;
}

static bool knows(struct follower *f, const char *key)
{
	struct known *k;
	HASH_FIND_STR(f->known, key, k);
	return k != NULL;
}

static void test_nothing_before_the_first_publication(void **state)
{
	(void)state;
	struct cs_directory *dir = cs_dir_new(7, NULL);
	struct follower f = follower_new(dir, "n1");
	put_identity(dir, 256, "spiffe://a/1");
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(f.batches, 0);
	assert_true(cs_dir_publish(dir, 5, false));
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(f.synced, 1);
	assert_int_equal(f.epoch, 7);
	assert_int_equal(f.revision, 5);
	assert_true(knows(&f, "identity/256"));
	/* What is not published is not seen. */
	put_identity(dir, 257, "spiffe://a/2");
	assert_int_equal(follow(&f, 1000), 0);
	assert_false(knows(&f, "identity/257"));
	assert_true(cs_dir_publish(dir, 6, false));
	assert_int_equal(follow(&f, 1000), 0);
	assert_true(knows(&f, "identity/257"));
	assert_int_equal(f.synced, 1);
	follower_fini(&f);
	cs_dir_free(dir);
}

static void test_the_same_record_is_no_change(void **state)
{
	(void)state;
	struct cs_directory *dir = cs_dir_new(7, NULL);
	put_identity(dir, 256, "spiffe://a/1");
	assert_true(cs_dir_publish(dir, 1, false));
	put_identity(dir, 256, "spiffe://a/1");
	assert_false(cs_dir_publish(dir, 2, false));
	assert_int_equal(cs_dir_revision(dir), 1);
	put_identity(dir, 256, "spiffe://a/2");
	assert_true(cs_dir_publish(dir, 2, false));
	assert_string_equal(cs_dir_identity(dir, 256)->spiffe_id, "spiffe://a/2");
	assert_true(cs_dir_publish(dir, 3, true));
	assert_int_equal(cs_dir_revision(dir), 3);
	cs_dir_free(dir);
}

static void test_resume(void **state)
{
	(void)state;
	struct cs_dir_limits limits = {.records = 1000, .changes = 4};
	struct cs_directory *dir = cs_dir_new(7, &limits);
	put_identity(dir, 256, "spiffe://a/1");
	assert_true(cs_dir_publish(dir, 10, false));
	for (uint32_t i = 1; i <= 6; i++) {
		put_identity(dir, 256 + i, "spiffe://a/x");
		assert_true(cs_dir_publish(dir, 10 + i, false));
	}
	assert_int_equal(cs_dir_changes(dir), 4);
	/* 13, 14, 15, 16 are kept: from 12 on one can resume. Another epoch cannot. */
	static const struct {
		uint64_t epoch, revision;
		unsigned synced, identities;
	} cases[] = {{7, 16, 0, 0}, {7, 14, 0, 2}, {7, 12, 0, 4}, {7, 11, 1, 7}, {8, 14, 1, 7}, {7, 0, 1, 7}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct follower f = {0};
		f.cursor = cs_cursor_new(dir,
			&(struct cs_follow){.resume = true, .epoch = cases[i].epoch, .revision = cases[i].revision});
		assert_int_equal(follow(&f, 1000), 0);
		assert_int_equal(f.synced, cases[i].synced);
		assert_int_equal(HASH_COUNT(f.known), cases[i].identities);
		struct cs_batch beat;
		assert_int_equal(cs_cursor_heartbeat(f.cursor, &beat), 1);
		assert_int_equal(beat.position.revision, 16);
		assert_int_equal(beat.msg.n_records, 0);
		assert_false(beat.msg.complete);
		follower_fini(&f);
	}
	cs_dir_free(dir);
}

/* A follower of another replica that was faster: nothing takes it back. */
static void test_resume_ahead(void **state)
{
	(void)state;
	struct cs_directory *dir = cs_dir_new(7, NULL);
	struct cs_batch beat;
	put_identity(dir, 256, "spiffe://a/1");
	assert_true(cs_dir_publish(dir, 10, false));
	for (int believe = 0; believe < 2; believe++) {
		uint64_t at = cs_dir_revision(dir);
		struct follower f = {0};
		f.cursor = cs_cursor_new(dir, &(struct cs_follow){.resume = true, .epoch = 7, .revision = at + 2});
		assert_true(cs_cursor_ahead(f.cursor));
		put_identity(dir, 256, believe ? "spiffe://a/4" : "spiffe://a/2");
		assert_true(cs_dir_publish(dir, at + 1, false));
		assert_int_equal(follow(&f, 1000), 0);
		assert_int_equal(f.revision, 0); /* nothing came */
		assert_int_equal(cs_cursor_heartbeat(f.cursor, &beat), 1);
		assert_int_equal(beat.position.revision, at + 2);
		if (believe)
			cs_cursor_believe(f.cursor);
		put_identity(dir, 257, believe ? "spiffe://a/5" : "spiffe://a/3");
		if (!believe)
			assert_true(cs_dir_publish(dir, at + 2, false));
		assert_int_equal(follow(&f, 1000), 0);
		assert_int_equal(f.synced, believe);
		assert_false(cs_cursor_ahead(f.cursor));
		put_identity(dir, 258, believe ? "spiffe://a/7" : "spiffe://a/6");
		assert_true(cs_dir_publish(dir, at + 3, false));
		assert_int_equal(follow(&f, 1000), 0);
		assert_int_equal(f.revision, at + 3);
		assert_int_equal(HASH_COUNT(f.known), believe ? 3 : 1);
		follower_fini(&f);
	}
	cs_dir_free(dir);
}

/* A restored store: its revisions may be lower, and who followed gets everything, never a hole. */
static void test_another_epoch(void **state)
{
	(void)state;
	struct cs_directory *dir = cs_dir_new(7, NULL);
	put_identity(dir, 256, "spiffe://a/1");
	put_identity(dir, 257, "spiffe://a/2");
	assert_true(cs_dir_publish(dir, 10, false));
	struct follower f = follower_new(dir, "n1");
	assert_int_equal(follow(&f, 1000), 0);
	cs_dir_set_epoch(dir, 8);
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(f.epoch, 7);
	assert_int_equal(HASH_COUNT(f.known), 2); /* no empty world in between */
	cs_dir_replace_begin(dir);
	put_identity(dir, 257, "spiffe://a/2");
	cs_dir_replace_end(dir, NULL, NULL);
	assert_true(cs_dir_publish(dir, 3, true));
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(f.synced, 2);
	assert_int_equal(f.epoch, 8);
	assert_int_equal(f.revision, 3);
	assert_int_equal(HASH_COUNT(f.known), 1);
	/* And on from there. */
	put_identity(dir, 258, "spiffe://a/3");
	assert_true(cs_dir_publish(dir, 4, false));
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(f.synced, 2);
	assert_int_equal(HASH_COUNT(f.known), 2);
	follower_fini(&f);
	f = (struct follower){0};
	f.cursor = cs_cursor_new(dir, &(struct cs_follow){.resume = true, .epoch = 7, .revision = 10});
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(f.synced, 1);
	follower_fini(&f);
	cs_dir_free(dir);
}

struct keeping_up {
	struct cs_dir_watch watch;
	struct follower *follower;
	bool will_miss;
	int result;
};

static void keep_up(struct cs_dir_watch *watch)
{
	struct keeping_up *k = watch->data;
	k->will_miss = cs_cursor_will_miss(k->follower->cursor);
	k->result = follow(k->follower, 1000);
}

struct looking {
	struct cs_dir_watch watch;
	const struct cs_cursor *quick, *slow;
	bool quick_misses, slow_misses;
};

static void look_at_both(struct cs_dir_watch *watch)
{
	struct looking *l = watch->data;
	l->quick_misses = cs_cursor_will_miss(l->quick);
	l->slow_misses = cs_cursor_will_miss(l->slow);
}

/* As many changes as are kept have been there, and each new one has an old one forgotten: only who is that far behind has to
 * take it at once. */
static void test_who_is_about_to_miss_changes(void **state)
{
	(void)state;
	struct cs_dir_limits limits = {.records = 1000, .changes = 4};
	struct cs_directory *dir = cs_dir_new(7, &limits);
	assert_true(cs_dir_publish(dir, 1, false));
	struct follower quick = follower_new(dir, "n1"), slow = follower_new(dir, "n1");
	assert_int_equal(follow(&quick, 1000), 0);
	assert_int_equal(follow(&slow, 1000), 0);
	struct looking l = {.watch.fn = look_at_both, .watch.data = &l, .quick = quick.cursor, .slow = slow.cursor};
	cs_dir_watch(dir, &l.watch);
	for (uint32_t i = 0; i < 20; i++) {
		put_identity(dir, 256 + i, "spiffe://a/x");
		assert_true(cs_dir_publish(dir, 2 + i, false));
		assert_false(l.quick_misses);
		assert_int_equal(l.slow_misses, i >= limits.changes);
		assert_int_equal(follow(&quick, 1000), 0);
	}
	assert_int_equal(HASH_COUNT(quick.known), 20);
	assert_int_equal(follow(&slow, 1000), -EOVERFLOW);
	cs_dir_unwatch(dir, &l.watch);
	follower_fini(&quick);
	follower_fini(&slow);
	cs_dir_free(dir);
}

/* More at once than is kept: who takes it at once has it. */
static void test_a_large_publication(void **state)
{
	(void)state;
	struct cs_dir_limits limits = {.records = 1000, .changes = 4};
	struct cs_directory *dir = cs_dir_new(7, &limits);
	assert_true(cs_dir_publish(dir, 1, false));
	struct follower quick = follower_new(dir, "n1"), slow = follower_new(dir, "n1");
	assert_int_equal(follow(&quick, 1000), 0);
	assert_int_equal(follow(&slow, 1000), 0);
	struct keeping_up k = {.watch.fn = keep_up, .watch.data = &k, .follower = &quick};
	cs_dir_watch(dir, &k.watch);
	for (uint32_t i = 0; i < 20; i++)
		put_identity(dir, 256 + i, "spiffe://a/x");
	assert_true(cs_dir_publish(dir, 2, false));
	assert_true(k.will_miss);
	assert_int_equal(k.result, 0);
	assert_int_equal(HASH_COUNT(quick.known), 20);
	assert_int_equal(quick.synced, 1);
	assert_int_equal(follow(&slow, 1000), -EOVERFLOW);
	cs_dir_unwatch(dir, &k.watch);
	follower_fini(&quick);
	follower_fini(&slow);
	cs_dir_free(dir);
}

static void test_too_slow(void **state)
{
	(void)state;
	struct cs_dir_limits limits = {.records = 1000, .changes = 4};
	struct cs_directory *dir = cs_dir_new(7, &limits);
	put_identity(dir, 256, "spiffe://a/1");
	assert_true(cs_dir_publish(dir, 1, false));
	struct follower f = follower_new(dir, "n1");
	assert_int_equal(follow(&f, 1000), 0);
	for (uint32_t i = 1; i <= 4; i++) {
		put_identity(dir, 256 + i, "spiffe://a/x");
		assert_true(cs_dir_publish(dir, 1 + i, false));
	}
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(HASH_COUNT(f.known), 5);
	for (uint32_t i = 5; i <= 9; i++) {
		put_identity(dir, 256 + i, "spiffe://a/x");
		assert_true(cs_dir_publish(dir, 1 + i, false));
	}
	struct cs_batch batch;
	struct cs_error e;
	assert_int_equal(cs_cursor_next(f.cursor, 1000, &batch, &e), -EOVERFLOW);
	assert_non_null(strstr(e.text, "too slow"));
	follower_fini(&f);
	cs_dir_free(dir);
}

static void test_full(void **state)
{
	(void)state;
	struct cs_dir_limits limits = {.records = 1, .changes = 4};
	struct cs_directory *dir = cs_dir_new(7, &limits);
	put_identity(dir, 256, "spiffe://a/1");
	cs_record *r =
		cs_record_copy(&(cs_record){.base = {.descriptor = &countersign__v1__record__descriptor}}, false);
	struct cs_error e;
	assert_int_equal(cs_dir_put_take(dir, r, &e), -EINVAL); /* without a kind */
	cs_record second;
	Countersign__V1__Identity m;
	V(record)(&second);
	V(identity)(&m);
	m.id = 257;
	second.record_case = COUNTERSIGN__V1__RECORD__RECORD_IDENTITY;
	second.identity = &m;
	assert_int_equal(cs_dir_put_take(dir, cs_record_copy(&second, false), &e), -ENOSPC);
	assert_int_equal(e.reason, CS_R_TOO_MANY);
	put_identity(dir, 256, "spiffe://a/other"); /* a change is not one more */
	cs_dir_free(dir);
}

static void test_policy_follows_placement(void **state)
{
	(void)state;
	struct cs_directory *dir = cs_dir_new(7, NULL);
	policy_row(dir, 256, 257, 1);
	policy_row(dir, 300, 257, 1);
	placement(dir, 256, "n1", true);
	placement(dir, 300, "n2", true);
	assert_true(cs_dir_publish(dir, 1, false));
	struct follower f = follower_new(dir, "n1");
	assert_int_equal(follow(&f, 1000), 0);
	assert_true(knows(&f, "row/256/257"));
	assert_false(knows(&f, "row/300/257"));
	/* It comes: so does its row, which did not change. */
	placement(dir, 300, "n1", true);
	assert_true(cs_dir_publish(dir, 2, false));
	assert_int_equal(follow(&f, 1000), 0);
	assert_true(knows(&f, "row/300/257"));
	/* It goes: the row goes here, and stays for n2. */
	placement(dir, 300, "n1", false);
	assert_true(cs_dir_publish(dir, 3, false));
	assert_int_equal(follow(&f, 1000), 0);
	assert_false(knows(&f, "row/300/257"));
	assert_true(knows(&f, "row/256/257"));
	follower_fini(&f);
	cs_dir_free(dir);
}

static void test_kinds_and_once(void **state)
{
	(void)state;
	struct cs_directory *dir = cs_dir_new(7, NULL);
	for (uint32_t i = 0; i < 100; i++)
		put_identity(dir, 256 + i, "spiffe://example.org/identity/with/a/long/path");
	placement(dir, 256, "n1", true);
	assert_true(cs_dir_publish(dir, 1, false));
	struct follower f = {.cursor = cs_cursor_new(dir, &(struct cs_follow){.kinds = 1u << KIND(IDENTITY),
								  .once = true,
								  .resume = true,
								  .epoch = 7,
								  .revision = 1})};
	follow(&f, 1000);
	assert_int_equal(HASH_COUNT(f.known), 100);
	assert_true(f.batches > 5);
	assert_int_equal(f.synced, 1);
	struct cs_batch batch;
	put_identity(dir, 1000, "spiffe://a/x");
	assert_true(cs_dir_publish(dir, 2, false));
	assert_int_equal(cs_cursor_next(f.cursor, 1000, &batch, NULL), 0); /* it was once */
	follower_fini(&f);
	cs_dir_free(dir);
}

static bool keep_placements(const cs_record *record, void *data)
{
	(void)data;
	return cs_record_kind(record) == KIND(PLACEMENT);
}

static void test_replace(void **state)
{
	(void)state;
	struct cs_directory *dir = cs_dir_new(7, NULL);
	put_identity(dir, 256, "spiffe://a/1");
	put_identity(dir, 257, "spiffe://a/2");
	placement(dir, 256, "n1", true);
	assert_true(cs_dir_publish(dir, 1, false));
	struct follower f = follower_new(dir, "n1");
	assert_int_equal(follow(&f, 1000), 0);
	cs_dir_replace_begin(dir);
	put_identity(dir, 257, "spiffe://a/2");
	put_identity(dir, 258, "spiffe://a/3");
	cs_dir_replace_end(dir, keep_placements, NULL);
	assert_true(cs_dir_publish(dir, 2, false));
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(f.synced, 1); /* those who follow see the difference only */
	assert_false(knows(&f, "identity/256"));
	assert_true(knows(&f, "identity/257"));
	assert_true(knows(&f, "identity/258"));
	assert_true(knows(&f, "placement/256/n1"));
	cs_dir_replace_begin(dir);
	cs_dir_replace_end(dir, NULL, NULL);
	assert_true(cs_dir_publish(dir, 3, false));
	assert_int_equal(follow(&f, 1000), 0);
	assert_int_equal(HASH_COUNT(f.known), 0);
	follower_fini(&f);
	cs_dir_free(dir);
}

static uint32_t rng = 2463534242u;
static uint32_t below(uint32_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 17;
	rng ^= rng << 5;
	return rng % n;
}

static void random_change(struct cs_directory *dir)
{
	static const char *const nodes[] = {"n1", "n2"};
	uint32_t local = 256 + below(6);
	char text[32];
	switch (below(4)) {
	case 0:
		snprintf(text, sizeof(text), "spiffe://a/%u", below(5));
		put_identity(dir, local, text);
		break;
	case 1:
		placement(dir, local, nodes[below(2)], below(2));
		break;
	default:
		policy_row(dir, local, 256 + below(6), (int)below(4) - 1);
		break;
	}
}

/* Whoever follows, resumes, or comes late ends with what somebody gets who asks for the full state now. */
static void test_random_changes(void **state)
{
	(void)state;
	struct cs_dir_limits limits = {.records = 1000, .changes = 200};
	struct cs_directory *dir = cs_dir_new(7, &limits);
	assert_true(cs_dir_publish(dir, 1, false));
	struct follower f = follower_new(dir, "n1");
	uint64_t revision = 1;
	for (int round = 0; round < 3000; round++) {
		for (uint32_t i = below(8); i > 0; i--) {
			for (uint32_t k = below(5); k > 0; k--)
				random_change(dir);
			if (cs_dir_publish(dir, revision + 1, false))
				revision++;
		}
		if (below(4) == 0)
			continue;
		if (below(5) == 0) { /* the connection broke: resume from where it was */
			cs_cursor_free(f.cursor);
			f.cursor = cs_cursor_new(
				dir, &(struct cs_follow){
					     .node = "n1", .resume = true, .epoch = f.epoch, .revision = f.revision});
		}
		int r = follow(&f, 200 + below(2000));
		if (r == -EOVERFLOW) { /* as it is told: anew */
			cs_cursor_free(f.cursor);
			f.cursor = cs_cursor_new(dir, &(struct cs_follow){.node = "n1"});
			r = follow(&f, 1000);
		}
		assert_int_equal(r, 0);
		struct follower fresh = follower_new(dir, "n1");
		assert_int_equal(follow(&fresh, 4000), 0);
		assert_int_equal(HASH_COUNT(fresh.known), HASH_COUNT(f.known));
		struct known *k, *tmp, *other;
		HASH_ITER (hh, fresh.known, k, tmp) {
			HASH_FIND_STR(f.known, k->key, other);
			assert_non_null(other);
			assert_int_equal(other->n, k->n);
			assert_memory_equal(other->bytes, k->bytes, k->n);
		}
		follower_fini(&fresh);
	}
	follower_fini(&f);
	cs_dir_free(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_before_the_first_publication),
		cmocka_unit_test(test_the_same_record_is_no_change),
		cmocka_unit_test(test_resume),
		cmocka_unit_test(test_resume_ahead),
		cmocka_unit_test(test_another_epoch),
		cmocka_unit_test(test_a_large_publication),
		cmocka_unit_test(test_who_is_about_to_miss_changes),
		cmocka_unit_test(test_too_slow),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_policy_follows_placement),
		cmocka_unit_test(test_kinds_and_once),
		cmocka_unit_test(test_replace),
		cmocka_unit_test(test_random_changes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
