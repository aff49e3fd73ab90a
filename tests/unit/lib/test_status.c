/* lib/status: checks over time, and a reader of metrics who hangs up. Server and client share one loop, whose clock is
 * the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <countersign/v1/status.pb-c.h>

#include "grpc.h"
#include "log.h"
#include "status.h"

static int64_t now_ms;

static int64_t fake_ms(void *data)
{
	(void)data;
	return now_ms;
}

static int64_t fake_ns(void *data)
{
	(void)data;
	return now_ms * 1000000;
}

static const struct cs_clock fake = {.mono_ms = fake_ms, .mono_ns = fake_ns, .unix_ms = fake_ms};

struct seen {
	bool healthy, ok;
	char reason[64], detail[64];
	int64_t since_ms;
	size_t n;
};

struct world {
	struct cs_loop loop;
	struct cs_metrics *metrics;
	struct cs_status *status;
	struct cs_roles roles;
	struct cs_grpc_channel *channel;
	struct seen seen;
	bool waiting;
	char dir[32], path[64];
};

static int setup(void **state)
{
	struct world *w = *state = calloc(1, sizeof(*w));
	char target[80], me[32];
	struct cs_error e;
	now_ms = 1000000;
	strcpy(w->dir, "/tmp/cs-status-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->path, sizeof(w->path), "%s/s", w->dir);
	snprintf(target, sizeof(target), "unix:%s", w->path);
	snprintf(me, sizeof(me), "uid:%u", (unsigned)getuid());
	assert_int_equal(cs_roles_allow(&w->roles, CS_ROLE_VIEWER, me, &e), 0);
	assert_int_equal(cs_loop_init(&w->loop, &fake, &e), 0);
	w->metrics = cs_metrics_new("example");
	w->status = cs_status_new(&w->loop, "example", w->metrics);
	assert_int_equal(cs_status_listen(w->status, w->path, &w->roles, &e), 0);
	const struct cs_grpc_channel_options options = {.target = target};
	assert_int_equal(cs_grpc_channel_new(&w->loop, &options, &w->channel, &e), 0);
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	cs_grpc_channel_close(w->channel, NULL, NULL);
	cs_status_close(w->status);
	cs_loop_run(&w->loop);
	cs_loop_fini(&w->loop);
	cs_status_free(w->status);
	cs_metrics_free(w->metrics);
	rmdir(w->dir);
	free(w);
	return 0;
}

static void got(const struct cs_grpc_status *status, const ProtobufCMessage *message, void *data)
{
	struct world *w = data;
	const Countersign__V1__StatusReply *r = (const void *)message;
	assert_int_equal(status->code, CS_GRPC_OK);
	w->waiting = false;
	w->seen = (struct seen){.healthy = r->healthy, .n = r->n_checks};
	if (r->n_checks) {
		const Countersign__V1__Check *c = r->checks[0];
		w->seen.ok = c->ok;
		w->seen.since_ms = c->since_unix_ms;
		snprintf(w->seen.reason, sizeof(w->seen.reason), "%s", c->reason ? c->reason->name : "");
		snprintf(w->seen.detail, sizeof(w->seen.detail), "%s", c->reason ? c->reason->detail : "");
	}
}

static const struct seen *look(struct world *w)
{
	static const Countersign__V1__StatusRequest request = COUNTERSIGN__V1__STATUS_REQUEST__INIT;
	struct cs_error e;
	w->waiting = true;
	assert_int_equal(cs_grpc_unary(w->channel, &countersign__v1__status__descriptor, "Get", &request.base, NULL,
				 got, w, NULL, &e),
		0);
	while (w->waiting)
		uv_run(&w->loop.uv, UV_RUN_ONCE);
	return &w->seen;
}

static void test_checks(void **state)
{
	struct world *w = *state;
	assert_true(look(w)->healthy); /* nothing to complain about */
	assert_int_equal(w->seen.n, 0);
	struct cs_check *c = cs_check_new(w->status, "directory"), *other = cs_check_new(w->status, "other");
	assert_true(look(w)->ok);
	assert_int_equal(w->seen.since_ms, 1000000);

	now_ms = 2000000;
	cs_check_fail(c, CS_R_DIRECTORY_STALE, "silent for %d s", 90);
	assert_false(look(w)->ok);
	assert_false(w->seen.healthy);
	assert_false(cs_status_healthy(w->status));
	assert_int_equal(w->seen.since_ms, 2000000);
	assert_string_equal(w->seen.reason, "directory-stale");
	assert_string_equal(w->seen.detail, "silent for 90 s");

	now_ms = 3000000; /* still wrong, for another reason: the time stays */
	cs_check_error(c, &(struct cs_error){.reason = CS_R_MAP_FULL, .text = "full"});
	assert_int_equal(look(w)->since_ms, 2000000);
	assert_string_equal(w->seen.reason, "map-full");

	cs_check_ok(c);
	assert_true(look(w)->ok);
	assert_int_equal(w->seen.since_ms, 3000000);
	assert_string_equal(w->seen.reason, "");
	assert_true(w->seen.healthy);

	cs_check_fail(other, CS_R_NONE, "broken");
	assert_true(look(w)->ok);
	assert_false(w->seen.healthy);
}

static int left;

static void count_left(void *check)
{
	if (left > 0)
		cs_check_fail(check, CS_R_NO_LOCAL_SVID, "%d are left", left);
	else
		cs_check_ok(check);
}

/* Whoever asks gets what is so now. */
static void test_on_read(void **state)
{
	struct world *w = *state;
	size_t len;
	cs_status_on_read(w->status, count_left, cs_check_new(w->status, "svids"));
	left = 2;
	assert_false(look(w)->ok);
	assert_string_equal(w->seen.detail, "2 are left");
	left = 0;
	char *text = cs_metrics_render(w->metrics, &len);
	assert_non_null(strstr(text, "countersign_check_ok{daemon=\"example\",check=\"svids\"} 1\n"));
	free(text);
	left = 1;
	assert_string_equal(look(w)->detail, "1 are left");
	left = 0;
	assert_true(look(w)->ok);
}

/* ---- who was turned away ---- */

static void turn_away(struct world *w, int times)
{
	const struct cs_grpc_refusal refusal = {
		.peer = "uid 1000 (pid 7)", .method = "", .reason = CS_R_ROLE_REFUSED, .text = "no role"};
	for (int i = 0; i < times; i++)
		cs_status_refused(&refusal, w->status);
}

/* How many records there are from where it read last; `unsaid` of the first one. */
static int records(FILE *log, long *at, long long *ret_unsaid)
{
	char line[1024];
	int n = 0;
	fseek(log, *at, SEEK_SET);
	while (fgets(line, sizeof(line), log)) {
		json_t *o = json_loads(line, 0, NULL);
		assert_non_null(o);
		assert_string_equal(json_string_value(json_object_get(o, "level")), "audit");
		assert_string_equal(json_string_value(json_object_get(o, "reason")), "role-refused");
		if (n++ == 0)
			*ret_unsaid = json_integer_value(json_object_get(o, "unsaid"));
		json_decref(o);
	}
	*at = ftell(log);
	return n;
}

/* Each is on record, but for those of a flood, which are counted. */
static void test_refused(void **state)
{
	struct world *w = *state;
	FILE *log = tmpfile();
	size_t len;
	long at = 0;
	long long unsaid = -1;
	assert_non_null(log);
	cs_log_set_fd(fileno(log));
	cs_log_init("example", CS_LOG_ERROR, CS_LOG_JSON);
	turn_away(w, 1);
	assert_int_equal(records(log, &at, &unsaid), 1);
	assert_int_equal(unsaid, 0);
	turn_away(w, 49);
	assert_int_equal(records(log, &at, &unsaid), 19);
	now_ms += 1000;
	turn_away(w, 1);
	assert_int_equal(records(log, &at, &unsaid), 1);
	assert_int_equal(unsaid, 30);
	cs_log_set_fd(2);
	fclose(log);
	char *text = cs_metrics_render(w->metrics, &len);
	assert_non_null(
		strstr(text, "countersign_refused_calls_total{daemon=\"example\",reason=\"role-refused\"} 51\n"));
	free(text);
}

static void on_first(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	(void)message;
	((struct world *)data)->seen.n++;
	cs_grpc_client_cancel(call);
}

static void on_end(const struct cs_grpc_status *status, void *data)
{
	struct world *w = data;
	assert_int_equal(status->code, CS_GRPC_CANCELLED);
	w->waiting = false;
}

/* What waits to be sent to whoever hangs up is freed, and the next one is served. */
static void test_hang_up(void **state)
{
	struct world *w = *state;
	static const Countersign__V1__MetricsRequest request = COUNTERSIGN__V1__METRICS_REQUEST__INIT;
	struct cs_metric *m = cs_gauge(w->metrics, "countersign_test", "Test", "n", 50000);
	struct cs_error e;
	for (int i = 0; i < 50000; i++) {
		char n[16];
		snprintf(n, sizeof(n), "%d", i);
		cs_metric_set(m, i, n);
	}
	for (int i = 0; i < 3; i++) {
		w->waiting = true;
		w->seen.n = 0;
		assert_int_equal(cs_grpc_stream(w->channel, &countersign__v1__status__descriptor, "Metrics",
					 &request.base, NULL, on_first, on_end, w, NULL, &e),
			0);
		while (w->waiting)
			uv_run(&w->loop.uv, UV_RUN_ONCE);
		assert_int_equal(w->seen.n, 1);
	}
	assert_true(look(w)->healthy);
}

static void test_too_many(void **state)
{
	struct world *w = *state;
	int status;
	for (int i = 0; i < CS_STATUS_CHECKS; i++)
		assert_non_null(cs_check_new(w->status, "check"));
	assert_int_equal(look(w)->n, CS_STATUS_CHECKS);
	pid_t pid = fork();
	if (pid == 0) {
		fclose(stderr);
		signal(SIGABRT, SIG_DFL);
		cs_check_new(w->status, "one more");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_checks), T(test_on_read), T(test_refused), T(test_hang_up), T(test_too_many)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
