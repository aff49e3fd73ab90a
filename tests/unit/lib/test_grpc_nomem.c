/* Out of memory at every place: the scenario runs once to count the allocations of lib/, then once for each of them
 * with that one failing. It must end, leave nothing behind, and call back exactly once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "echo.pb-c.h"
#include "grpc.h"

/* ---- the allocator, by the linker's --wrap ---- */

static bool counting;
static unsigned allocations, fail_at;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);

static bool fails(void)
{
	return counting && ++allocations == fail_at;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
	return fails() ? NULL : __real_realloc(p, size);
}

char *__wrap_strdup(const char *s)
{
	size_t n = strlen(s) + 1;
	char *copy = fails() ? NULL : __real_malloc(n);
	return copy ? memcpy(copy, s, n) : NULL;
}

/* ---- the scenario: a unary call, a stream that is paused and resumed, and one whose request is a stream ---- */

struct scene {
	struct cs_loop loop;
	struct cs_roles roles;
	struct cs_grpc_server *server;
	struct cs_grpc_channel *channel;
	struct cs_grpc_client_call *call;
	struct cs_timer timer;
	char path[96], target[128];
	unsigned started, ended, messages, ok;
};

static void say(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	(void)data;
	Countersign__Test__EchoReply reply = COUNTERSIGN__TEST__ECHO_REPLY__INIT;
	reply.text = ((const Countersign__Test__EchoRequest *)in)->text;
	cs_grpc_reply(call, &reply.base);
}

static void stream(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	(void)in;
	(void)data;
	Countersign__Test__EchoReply reply = COUNTERSIGN__TEST__ECHO_REPLY__INIT;
	int r = 0;
	for (reply.number = 0; reply.number < 4 && r >= 0; reply.number++)
		r = cs_grpc_send(call, &reply.base);
	cs_grpc_finish(call, r < 0 ? CS_GRPC_RESOURCE_EXHAUSTED : CS_GRPC_OK, "%s", r < 0 ? "no memory" : "");
}

static const struct cs_grpc_method methods[] = {{.name = "Say", .roles = CS_ROLE_VIEWER, .fn = say},
	{.name = "Stream", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = stream}};
static const struct cs_grpc_service service = {
	.descriptor = &countersign__test__echo__descriptor, .methods = methods, .nmethods = 2};

static void finish(struct scene *s)
{
	if (s->channel)
		cs_grpc_channel_close(s->channel, NULL, NULL);
	if (s->server)
		cs_grpc_server_close(s->server, 0, NULL, NULL);
	cs_timer_close(&s->timer, NULL);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct scene *s = data;
	s->ok += status->code == CS_GRPC_OK;
	if (++s->ended == s->started)
		finish(s);
}

static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	(void)reply;
	on_done(status, data);
}

static void on_stream_done(const struct cs_grpc_status *status, void *data)
{
	((struct scene *)data)->call = NULL;
	on_done(status, data);
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct scene *s = data;
	(void)message;
	if (++s->messages != 2)
		return;
	cs_grpc_client_pause(call);
	cs_timer_start(&s->timer, 1, 0);
}

static void on_timer(struct cs_timer *timer)
{
	struct scene *s = timer->data;
	if (s->call)
		cs_grpc_client_resume(s->call);
}

static void on_open_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)call;
	(void)message;
	(void)data;
}

/* With a secret in its metadata; what cannot be sent is cancelled. */
static int start_open(struct scene *s, const ProtobufCMessage *request)
{
	static const struct cs_grpc_stream_events events = {.on_message = on_open_message, .on_done = on_done};
	static const struct cs_grpc_field field = {"token", "secret"};
	const struct cs_grpc_call_options options = {.timeout_ms = 2000, .fields = &field, .nfields = 1};
	struct cs_grpc_client_call *call;
	struct cs_error e;
	int r = cs_grpc_open(s->channel, service.descriptor, "Stream", &options, &events, s, &call, &e);
	if (r < 0)
		return r;
	if (cs_grpc_client_send(call, request) < 0)
		cs_grpc_client_cancel(call);
	cs_grpc_client_half_close(call);
	return 0;
}

static int start(struct scene *s)
{
	struct cs_error e;
	const struct cs_grpc_limits limits = {.handshake_ms = 100};
	const struct cs_grpc_server_options server = {.limits = limits};
	const struct cs_grpc_channel_options channel = {.target = s->target, .limits = limits};
	const struct cs_grpc_call_options options = {.timeout_ms = 2000};
	const ProtobufCServiceDescriptor *echo = service.descriptor;
	Countersign__Test__EchoRequest request = COUNTERSIGN__TEST__ECHO_REQUEST__INIT;
	int r = cs_grpc_server_new(&s->loop, &server, &s->server, &e);
	if (r == 0)
		r = cs_grpc_server_add(s->server, &service, &e);
	if (r == 0)
		r = cs_grpc_server_listen_unix(s->server, s->path, 0600, (gid_t)-1, &s->roles, &e);
	if (r == 0)
		r = cs_grpc_channel_new(&s->loop, &channel, &s->channel, &e);
	if (r == 0)
		r = cs_grpc_unary(s->channel, echo, "Say", &request.base, &options, on_reply, s, NULL, &e);
	if (r < 0)
		return r;
	s->started++;
	r = cs_grpc_stream(
		s->channel, echo, "Stream", &request.base, &options, on_message, on_stream_done, s, &s->call, &e);
	s->started += r == 0;
	s->started += start_open(s, &request.base) == 0;
	return 0;
}

/* Returns how many of the three calls went well. */
static unsigned run(const char *dir, unsigned nth)
{
	struct scene s = {0};
	struct cs_error e;
	char me[32];
	snprintf(s.path, sizeof(s.path), "%s/s.sock", dir);
	snprintf(s.target, sizeof(s.target), "unix:%s", s.path);
	snprintf(me, sizeof(me), "uid:%u", (unsigned)geteuid());
	assert_int_equal(cs_roles_allow(&s.roles, CS_ROLE_VIEWER, me, &e), 0);
	assert_int_equal(cs_loop_init(&s.loop, NULL, &e), 0);
	cs_timer_init(&s.timer, &s.loop, on_timer, &s);
	allocations = 0;
	fail_at = nth;
	counting = true;
	if (start(&s) < 0)
		finish(&s);
	cs_loop_run(&s.loop);
	counting = false;
	cs_loop_fini(&s.loop);
	assert_int_equal(s.started, s.ended);
	assert_int_not_equal(access(s.path, F_OK), 0);
	return s.ok;
}

static void every_allocation_fails_once(void **state)
{
	(void)state;
	char dir[] = "/tmp/cs-nomem-XXXXXX";
	assert_non_null(mkdtemp(dir));
	assert_int_equal(run(dir, 0), 3);
	unsigned n = allocations, spoiled = 0;
	assert_in_range(n, 20, 2000);
	for (unsigned i = 1; i <= n; i++)
		spoiled += run(dir, i) < 3;
	assert_in_range(spoiled, n / 2, n);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
