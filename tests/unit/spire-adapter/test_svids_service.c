/* Followers of Svids without HTTP/2: when synced is said, what a full queue does, who is cut off. The calls to gRPC are
 * taken by the linker's --wrap; everything else is real. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "svids_service.h"

struct cs_grpc_call { /* ours: the service only passes it on */
	void (*on_cancel)(struct cs_grpc_call *call, void *data);
	void (*on_drain)(struct cs_grpc_call *call, void *data);
	void *data;
	int send_result;
	unsigned batches, svids, bundles, synced, empty;
	bool finished;
	enum cs_grpc_code code;
	char text[128];
	uint64_t generation; /* of the last SVID */
};

int __wrap_cs_grpc_send(struct cs_grpc_call *call, const ProtobufCMessage *message);
void __wrap_cs_grpc_call_watch(struct cs_grpc_call *call, void (*on_cancel)(struct cs_grpc_call *, void *),
	void (*on_drain)(struct cs_grpc_call *, void *), void *data);
void __wrap_cs_grpc_finish(struct cs_grpc_call *call, enum cs_grpc_code code, const char *fmt, ...);
void __wrap_cs_grpc_finish_reason(
	struct cs_grpc_call *call, enum cs_grpc_code code, enum cs_reason reason, const char *fmt, ...);

int __wrap_cs_grpc_send(struct cs_grpc_call *call, const ProtobufCMessage *message)
{
	const Countersign__V1__SvidBatch *batch = (const Countersign__V1__SvidBatch *)message;
	assert_false(call->finished);
	if (call->send_result < 0)
		return call->send_result;
	call->batches++;
	call->svids += (unsigned)batch->n_svids;
	call->bundles += (unsigned)batch->n_bundles;
	call->synced += batch->synced;
	call->empty += batch->n_svids + batch->n_bundles == 0 && !batch->synced;
	assert_true(batch->n_svids + batch->n_bundles <= CS_SVIDS_BATCH_ITEMS);
	if (batch->n_svids > 0)
		call->generation = batch->svids[batch->n_svids - 1]->generation;
	return call->send_result;
}

void __wrap_cs_grpc_call_watch(struct cs_grpc_call *call, void (*on_cancel)(struct cs_grpc_call *, void *),
	void (*on_drain)(struct cs_grpc_call *, void *), void *data)
{
	call->on_cancel = on_cancel;
	call->on_drain = on_drain;
	call->data = data;
}

static void finish(struct cs_grpc_call *call, enum cs_grpc_code code, const char *fmt, va_list args)
{
	assert_false(call->finished);
	call->finished = true;
	call->code = code;
	vsnprintf(call->text, sizeof(call->text), fmt, args);
}

void __wrap_cs_grpc_finish(struct cs_grpc_call *call, enum cs_grpc_code code, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	finish(call, code, fmt, args);
	va_end(args);
}

void __wrap_cs_grpc_finish_reason(
	struct cs_grpc_call *call, enum cs_grpc_code code, enum cs_reason reason, const char *fmt, ...)
{
	va_list args;
	assert_int_equal(reason, CS_R_TOO_MANY);
	va_start(args, fmt);
	finish(call, code, fmt, args);
	va_end(args);
}

struct fixture {
	struct cs_loop loop;
	struct cs_clock clock;
	int64_t mono_ms;
	struct cs_svids *svids;
	struct cs_svids_service *service;
	struct cs_grpc_call calls[CS_SVIDS_FOLLOWERS_MAX + 1];
};

static int64_t fake_mono_ms(void *data)
{
	return ((struct fixture *)data)->mono_ms;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct cs_error e;
	f->mono_ms = 1000000;
	f->clock = (struct cs_clock){fake_mono_ms, cs_clock_system.mono_ns, cs_clock_system.unix_ms, f};
	assert_int_equal(cs_loop_init(&f->loop, &f->clock, &e), 0);
	f->svids = cs_svids_new("local-ca", 1000);
	f->service = cs_svids_service_new(&f->loop, f->svids);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cs_svids_service_close(f->service);
	assert_int_equal(cs_svids_service_followers(f->service), 0);
	cs_loop_run(&f->loop);
	cs_loop_fini(&f->loop);
	cs_svids_service_free(f->service);
	cs_svids_free(f->svids);
	free(f);
	return 0;
}

static struct cs_grpc_call *follow(struct fixture *f, int i, bool once, int send_result)
{
	const struct cs_grpc_service *grpc = cs_svids_service_grpc(f->service);
	Countersign__V1__FollowSvidsRequest request = COUNTERSIGN__V1__FOLLOW_SVIDS_REQUEST__INIT;
	request.once = once;
	f->calls[i].send_result = send_result;
	assert_int_equal(grpc->nmethods, 1);
	assert_string_equal(grpc->methods[0].name, "Follow");
	assert_int_equal(grpc->methods[0].roles, CS_ROLE_VIEWER);
	grpc->methods[0].fn(&f->calls[i], &request.base, grpc->data);
	return &f->calls[i];
}

static void put(struct fixture *f, uint32_t first, unsigned n)
{
	static const uint8_t bytes[600] = {1};
	const struct cs_der chain = {bytes, sizeof(bytes)};
	struct cs_error e;
	char id[64];
	for (uint32_t i = first; i < first + n; i++) {
		struct cs_source_svid svid = {.identity = i, .chain = &chain, .nchain = 1};
		snprintf(id, sizeof(id), "spiffe://example.org/identity/%u", i);
		assert_int_equal(cs_svids_expect(f->svids, i, id, 0, &e), 0);
		assert_int_equal(cs_svids_put(f->svids, &svid, 0, &e), 0);
	}
}

static void tell(struct fixture *f)
{
	cs_svids_service_changed(f->service);
	cs_svids_service_changed(f->service); /* many changes, one round */
	uv_run(&f->loop.uv, UV_RUN_NOWAIT);
}

static void the_full_state_then_synced_then_changes(void **state)
{
	struct fixture *f = *state;
	put(f, 70000, 1000);
	cs_svids_set_known(f->svids);
	struct cs_grpc_call *call = follow(f, 0, false, 0);
	assert_int_equal(call->svids, 1000);
	assert_true(call->batches >= 1000 / CS_SVIDS_BATCH_ITEMS);
	assert_int_equal(call->synced, 1);
	put(f, 70005, 1);
	tell(f);
	assert_int_equal(call->svids, 1001);
	assert_int_equal(call->synced, 1);
	assert_false(call->finished);
}

static void synced_waits_until_the_state_is_known(void **state)
{
	struct fixture *f = *state;
	put(f, 70000, 1);
	struct cs_grpc_call *call = follow(f, 0, false, 0), *once = follow(f, 1, true, 0);
	assert_int_equal(call->svids, 1);
	assert_int_equal(call->synced, 0);
	tell(f);
	assert_int_equal(call->synced, 0);
	assert_false(once->finished);
	cs_svids_set_known(f->svids);
	tell(f);
	assert_int_equal(call->synced, 1);
	assert_int_equal(once->synced, 1);
	assert_true(once->finished);
	assert_int_equal(once->code, CS_GRPC_OK);
	assert_int_equal(cs_svids_service_followers(f->service), 1);
}

static void a_full_queue_is_waited_for(void **state)
{
	struct fixture *f = *state;
	put(f, 70000, 1000);
	cs_svids_set_known(f->svids);
	struct cs_grpc_call *call = follow(f, 0, false, CS_GRPC_FULL);
	assert_int_equal(call->batches, 1);
	assert_int_equal(call->synced, 0);
	put(f, 70999, 1); /* changes twice before it is told once */
	put(f, 70999, 1);
	tell(f);
	assert_int_equal(call->batches, 1);
	call->send_result = 0;
	call->on_drain(call, call->data);
	assert_int_equal(call->svids, 1000);
	assert_int_equal(call->synced, 1);
	assert_int_equal(call->generation, cs_svids_get(f->svids, 70999)->generation);
}

static void one_who_takes_nothing_is_cut_off(void **state)
{
	struct fixture *f = *state;
	put(f, 70000, 200);
	cs_svids_set_known(f->svids);
	struct cs_grpc_call *slow = follow(f, 0, false, CS_GRPC_FULL), *fast = follow(f, 1, false, 0);
	f->mono_ms += CS_SVIDS_SLOW_MS - 1;
	struct cs_grpc_call *later = follow(f, 2, false, CS_GRPC_FULL);
	f->mono_ms += 1;
	while (fast->empty == 0) /* a heartbeat, which is when it is looked at */
		uv_run(&f->loop.uv, UV_RUN_ONCE);
	assert_true(slow->finished);
	assert_int_equal(slow->code, CS_GRPC_RESOURCE_EXHAUSTED);
	assert_non_null(strstr(slow->text, "30 s"));
	assert_false(fast->finished);
	assert_false(later->finished);
	assert_int_equal(later->empty, 0); /* nothing is added to a full queue */
	assert_int_equal(cs_svids_service_followers(f->service), 2);
}

static void one_whose_queue_overflows_is_cut_off(void **state)
{
	struct fixture *f = *state;
	put(f, 70000, 1);
	struct cs_grpc_call *call = follow(f, 0, false, -ENOBUFS);
	assert_true(call->finished);
	assert_int_equal(call->code, CS_GRPC_RESOURCE_EXHAUSTED);
	assert_int_equal(cs_svids_service_followers(f->service), 0);
}

static void followers_are_bounded_and_may_go(void **state)
{
	struct fixture *f = *state;
	for (int i = 0; i < CS_SVIDS_FOLLOWERS_MAX; i++)
		assert_false(follow(f, i, false, 0)->finished);
	struct cs_grpc_call *one_more = follow(f, CS_SVIDS_FOLLOWERS_MAX, false, 0);
	assert_true(one_more->finished);
	assert_int_equal(one_more->code, CS_GRPC_RESOURCE_EXHAUSTED);
	f->calls[3].on_cancel(&f->calls[3], f->calls[3].data);
	assert_int_equal(cs_svids_service_followers(f->service), CS_SVIDS_FOLLOWERS_MAX - 1);
	f->calls[3] = (struct cs_grpc_call){0};
	assert_false(follow(f, 3, false, 0)->finished);
	cs_svids_service_close(f->service);
	assert_int_equal(f->calls[3].code, CS_GRPC_UNAVAILABLE);
	f->calls[4] = (struct cs_grpc_call){0};
	assert_int_equal(follow(f, 4, false, 0)->code, CS_GRPC_UNAVAILABLE);
}

static void the_last_word_reaches_everybody(void **state)
{
	struct fixture *f = *state;
	struct cs_svids_item item;
	put(f, 70000, 2);
	cs_svids_set_known(f->svids);
	struct cs_grpc_call *fast = follow(f, 0, false, 0), *slow = follow(f, 1, false, CS_GRPC_FULL);
	cs_svids_forget(f->svids, 70000, 0);
	tell(f);
	assert_int_equal(fast->svids, 3);
	assert_int_equal(fast->generation, 0);
	tell(f);
	slow->send_result = 0;
	slow->on_drain(slow, slow->data);
	assert_int_equal(slow->svids, 3);
	assert_int_equal(slow->generation, 0);
	tell(f); /* and only now it is forgotten */
	assert_true(cs_svids_next(f->svids, 0, &item));
	assert_int_equal(item.svid->identity, 70001);
	assert_false(cs_svids_next(f->svids, item.change, &item));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_full_state_then_synced_then_changes),
		T(synced_waits_until_the_state_is_known),
		T(a_full_queue_is_waited_for),
		T(one_who_takes_nothing_is_cut_off),
		T(one_whose_queue_overflows_is_cut_off),
		T(followers_are_bounded_and_may_go),
		T(the_last_word_reaches_everybody),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
