/* Which identities are local: by the directory's records, in whatever order they come. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "local_identities.h"

#define MAX 64

/* Events are written down as text: "+70001 spiffe://x/a", "-70001", "~70001", "synced". */
struct fixture {
	struct cs_local_identities *l;
	char events[1024];
	Countersign__V1__DirectoryBatch batch;
	Countersign__V1__Record *list[MAX], records[MAX];
	union {
		Countersign__V1__Identity identity;
		Countersign__V1__Endpoint endpoint;
	} bodies[MAX];
	Countersign__V1__LocalEndpoint local;
};

static void say(struct fixture *f, const char *fmt, ...)
{
	va_list args;
	size_t n = strlen(f->events);
	va_start(args, fmt);
	vsnprintf(f->events + n, sizeof(f->events) - n, fmt, args);
	va_end(args);
}

static void added(void *data, uint32_t identity, const char *spiffe_id)
{
	say(data, "+%u %s;", identity, spiffe_id);
}

static void touched(void *data, uint32_t identity)
{
	say(data, "~%u;", identity);
}

static void removed(void *data, uint32_t identity)
{
	say(data, "-%u;", identity);
}

static void synced(void *data)
{
	say(data, "synced;");
}

static void reset(struct fixture *f)
{
	f->batch = (Countersign__V1__DirectoryBatch)COUNTERSIGN__V1__DIRECTORY_BATCH__INIT;
	f->batch.records = f->list;
	f->events[0] = '\0';
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct cs_local_events events = {added, touched, removed, synced, f};
	f->l = cs_local_identities_new(&events);
	f->local = (Countersign__V1__LocalEndpoint)COUNTERSIGN__V1__LOCAL_ENDPOINT__INIT;
	reset(f);
	cs_local_identities_begin(f->l);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cs_local_identities_free(f->l);
	free(f);
	return 0;
}

static Countersign__V1__Record *record(struct fixture *f, bool deleted)
{
	size_t n = f->batch.n_records++;
	assert_true(n < MAX);
	f->records[n] = (Countersign__V1__Record)COUNTERSIGN__V1__RECORD__INIT;
	f->records[n].deleted = deleted;
	f->list[n] = &f->records[n];
	return &f->records[n];
}

static void identity(struct fixture *f, uint32_t id, const char *spiffe_id)
{
	Countersign__V1__Identity *body = &f->bodies[f->batch.n_records].identity;
	Countersign__V1__Record *r = record(f, !spiffe_id);
	*body = (Countersign__V1__Identity)COUNTERSIGN__V1__IDENTITY__INIT;
	body->id = id;
	if (spiffe_id)
		body->spiffe_id = (char *)spiffe_id;
	r->record_case = COUNTERSIGN__V1__RECORD__RECORD_IDENTITY;
	r->identity = body;
}

enum where { GONE, HERE, ELSEWHERE };

static void endpoint(struct fixture *f, const char *id, uint32_t of, enum where where)
{
	Countersign__V1__Endpoint *body = &f->bodies[f->batch.n_records].endpoint;
	Countersign__V1__Record *r = record(f, where == GONE);
	*body = (Countersign__V1__Endpoint)COUNTERSIGN__V1__ENDPOINT__INIT;
	body->node = (char *)(where == ELSEWHERE ? "n2" : "n1");
	body->id = (char *)id;
	body->identity = of;
	body->local = where == HERE ? &f->local : NULL;
	r->record_case = COUNTERSIGN__V1__RECORD__RECORD_ENDPOINT;
	r->endpoint = body;
}

static void send_as(struct fixture *f, bool complete, bool is_synced, const char *events)
{
	struct cs_error e;
	f->batch.complete = complete;
	f->batch.synced = is_synced;
	assert_int_equal(cs_local_identities_batch(f->l, &f->batch, &e), 0);
	assert_string_equal(f->events, events);
	reset(f);
}

static void local_endpoints_only(void **state)
{
	struct fixture *f = *state;
	identity(f, 70001, "spiffe://x/a");
	identity(f, 70002, "spiffe://x/b");
	identity(f, 70003, "spiffe://x/c");
	endpoint(f, "a", 70001, HERE);
	endpoint(f, "b", 70002, ELSEWHERE);
	endpoint(f, "not-identified", 0, HERE);
	identity(f, 1, "spiffe://x/host");
	identity(f, 1 << 24, "spiffe://x/cidr");
	endpoint(f, "reserved", 1, HERE);
	endpoint(f, "cidr", 1 << 24, HERE);
	endpoint(f, "no-such-identity", 70009, HERE);
	send_as(f, true, true, "+70001 spiffe://x/a;synced;");
	identity(f, 70009, "spiffe://x/late"); /* the identity after its endpoint */
	send_as(f, true, false, "+70009 spiffe://x/late;");
	endpoint(f, "b", 70002, GONE); /* never had it */
	endpoint(f, "zzz", 0, GONE);
	send_as(f, true, false, "");
}

static void nothing_before_synced(void **state)
{
	struct fixture *f = *state;
	identity(f, 70001, "spiffe://x/a");
	endpoint(f, "a", 70001, HERE);
	send_as(f, false, false, "");
	send_as(f, false, false, ""); /* a heartbeat */
	endpoint(f, "b", 70001, HERE);
	send_as(f, true, true, "+70001 spiffe://x/a;synced;");
}

static void withdrawn_with_the_last_endpoint(void **state)
{
	struct fixture *f = *state;
	identity(f, 70001, "spiffe://x/a");
	endpoint(f, "a", 70001, HERE);
	endpoint(f, "b", 70001, HERE);
	send_as(f, true, true, "+70001 spiffe://x/a;synced;");
	endpoint(f, "a", 0, GONE);
	send_as(f, true, false, "");
	endpoint(f, "c", 70001, HERE);
	endpoint(f, "b", 0, GONE);
	send_as(f, true, false, "~70001;");
	endpoint(f, "c", 0, GONE);
	send_as(f, true, false, "-70001;");
	endpoint(f, "a", 70001, HERE);
	send_as(f, true, false, "+70001 spiffe://x/a;");
}

static void one_revision_is_applied_whole(void **state)
{
	struct fixture *f = *state;
	identity(f, 70001, "spiffe://x/a");
	identity(f, 70002, "spiffe://x/b");
	endpoint(f, "a", 70001, HERE);
	send_as(f, true, true, "+70001 spiffe://x/a;synced;");
	endpoint(f, "a", 0, GONE); /* a revision in two batches: what comes back in it was never gone */
	send_as(f, false, false, "");
	endpoint(f, "a2", 70001, HERE);
	endpoint(f, "b", 70002, HERE);
	send_as(f, true, false, "~70001;+70002 spiffe://x/b;");
}

static void an_endpoint_may_change_its_identity(void **state)
{
	struct fixture *f = *state;
	identity(f, 70001, "spiffe://x/a");
	identity(f, 70002, "spiffe://x/b");
	endpoint(f, "a", 70001, HERE);
	send_as(f, true, true, "+70001 spiffe://x/a;synced;");
	endpoint(f, "a", 70002, HERE);
	send_as(f, true, false, "-70001;+70002 spiffe://x/b;");
	endpoint(f, "a", 0, HERE); /* not placed any more */
	send_as(f, true, false, "-70002;");
}

/* Its labels changed: it is 70001 until 70002 has its SVID, which therefore is fetched now. */
static void what_an_endpoint_is_about_to_be(void **state)
{
	struct fixture *f = *state;
	Countersign__V1__LocalEndpoint moving = COUNTERSIGN__V1__LOCAL_ENDPOINT__INIT;
	identity(f, 70001, "spiffe://x/a");
	identity(f, 70002, "spiffe://x/b");
	identity(f, 70003, "spiffe://x/c");
	endpoint(f, "a", 70001, HERE);
	send_as(f, true, true, "+70001 spiffe://x/a;synced;");
	moving.next_identity = 70002;
	endpoint(f, "a", 70001, HERE);
	f->bodies[0].endpoint.local = &moving;
	send_as(f, true, false, "~70001;+70002 spiffe://x/b;");
	moving.next_identity = 70003; /* changed its mind */
	endpoint(f, "a", 70001, HERE);
	f->bodies[0].endpoint.local = &moving;
	send_as(f, true, false, "-70002;~70001;+70003 spiffe://x/c;");
	endpoint(f, "a", 70003, HERE); /* it has moved */
	send_as(f, true, false, "-70001;~70003;");
	endpoint(f, "a", 0, GONE);
	send_as(f, true, false, "-70003;");
}

static void another_spiffe_id_is_another_identity(void **state)
{
	struct fixture *f = *state;
	identity(f, 70001, "spiffe://x/a");
	endpoint(f, "a", 70001, HERE);
	send_as(f, true, true, "+70001 spiffe://x/a;synced;");
	identity(f, 70001, "spiffe://x/a");
	send_as(f, true, false, "");
	identity(f, 70001, "spiffe://x/other");
	send_as(f, true, false, "-70001;+70001 spiffe://x/other;");
	identity(f, 70001, NULL);
	send_as(f, true, false, "-70001;");
}

static void a_full_state_replaces_at_synced(void **state)
{
	struct fixture *f = *state;
	identity(f, 70001, "spiffe://x/a");
	identity(f, 70002, "spiffe://x/b");
	endpoint(f, "a", 70001, HERE);
	endpoint(f, "b", 70002, HERE);
	send_as(f, true, true, "+70001 spiffe://x/a;+70002 spiffe://x/b;synced;");
	cs_local_identities_begin(f->l); /* identityd was away */
	identity(f, 70002, "spiffe://x/b");
	identity(f, 70003, "spiffe://x/c");
	send_as(f, false, false, "");
	cs_local_identities_begin(f->l); /* and goes again in the middle: half a state is none */
	identity(f, 70002, "spiffe://x/b");
	identity(f, 70004, "spiffe://x/d");
	endpoint(f, "b", 70002, HERE);
	endpoint(f, "d", 70004, HERE);
	send_as(f, true, true, "-70001;~70002;+70004 spiffe://x/d;synced;");
	cs_local_identities_begin(f->l);
	send_as(f, true, true, "-70002;-70004;synced;");
}

static void endpoints_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct cs_error e;
	char id[16];
	for (int i = 0; i < CS_LOCAL_ENDPOINTS_MAX; i++) {
		snprintf(id, sizeof(id), "e%d", i);
		f->batch.n_records = 0;
		endpoint(f, id, 70001, HERE);
		assert_int_equal(cs_local_identities_batch(f->l, &f->batch, &e), 0);
	}
	f->batch.n_records = 0;
	endpoint(f, "one-more", 70001, HERE);
	assert_int_equal(cs_local_identities_batch(f->l, &f->batch, &e), -ENOSPC);
	assert_int_equal(e.reason, CS_R_TOO_MANY);
}

static void names_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct cs_error e;
	char id[2000];
	memset(id, 'x', sizeof(id) - 1);
	id[sizeof(id) - 1] = '\0';
	endpoint(f, id, 70001, HERE);
	assert_int_equal(cs_local_identities_batch(f->l, &f->batch, &e), -EMSGSIZE);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(local_endpoints_only),
		T(nothing_before_synced),
		T(withdrawn_with_the_last_endpoint),
		T(one_revision_is_applied_whole),
		T(an_endpoint_may_change_its_identity),
		T(what_an_endpoint_is_about_to_be),
		T(another_spiffe_id_is_another_identity),
		T(a_full_state_replaces_at_synced),
		T(endpoints_are_bounded),
		T(names_are_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
