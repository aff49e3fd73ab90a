/* lib/daemon and lib/status: a whole daemon, from its command line to its end, asked over its socket. The same program
 * is the daemon when it is started with the name of one (argv[0] "example"). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <countersign/v1/status.pb-c.h>

#include "daemon.h"
#include "grpc.h"

extern char **environ;

/* ---- the daemon ---- */

struct config {
	struct cs_daemon_config common;
	char *start;
	int64_t series;
};

static const struct cs_setting rows[] = {
	CS_DAEMON_SETTINGS(struct config, common),
	CS_SET_STRING(struct config, start, "test.start", "ok", 1, 16, "How the start goes"),
	CS_SET_INT(struct config, series, "test.series", "0", 0, 100000, "series", "How many series the metric has"),
};

static int check(struct cs_daemon *d, struct cs_error *e)
{
	const struct config *c = d->config;
	return strcmp(c->start, "forbidden") == 0 ? cs_error_set(e, -EINVAL, "test.start: forbidden") : 0;
}

static int start(struct cs_daemon *d, struct cs_error *e)
{
	const struct config *c = d->config;
	struct cs_timer *timer = d->app = calloc(1, sizeof(*timer));
	cs_timer_init(timer, &d->loop, NULL, NULL);
	cs_check_new(d->status, "always");
	cs_check_fail(cs_check_new(d->status, "directory"), CS_R_DIRECTORY_STALE, "silent for %d s", 90);
	cs_check_error(cs_check_new(d->status, "other"), &(struct cs_error){.text = "broken"});
	cs_status_set_role(d->status, "all");
	cs_status_set_node(d->status, "node1");
	cs_status_set_leadership(d->status, CS_LEADERSHIP_FOLLOWER);
	struct cs_metric *m = cs_counter(d->metrics, "countersign_test_total", "Test", "n", 100000);
	for (int64_t i = 0; i < c->series; i++) {
		char n[24];
		snprintf(n, sizeof(n), "%lld", (long long)i);
		cs_metric_add(m, (double)i, n);
	}
	if (strcmp(c->start, "fails") == 0)
		return cs_error_reason(e, -EIO, CS_R_MAP_FULL, "it does not start");
	if (strcmp(c->start, "fatal") == 0)
		cs_daemon_fatal(d, &(struct cs_error){.text = "it ends"});
	else
		cs_daemon_ready(d);
	return 0;
}

static void stop(struct cs_daemon *d)
{
	cs_timer_close(d->app, NULL);
}

static void fini(struct cs_daemon *d)
{
	free(d->app);
}

static int run_mode(struct cs_daemon *d)
{
	printf("check %s reason %s rest", d->options[1] ? d->options[1] : "-", d->options[2] ? d->options[2] : "-");
	for (char **p = d->rest; *p; p++)
		printf(" %s", *p);
	printf("\n");
	return 7;
}

static const struct cs_option own[] = {
	{.name = "role", .arg = "NAME", .help = "Of the daemon"},
	{.name = "check-policy", .arg = "FILE", .mode = true, .rest = true, .help = "Check"},
	{.name = "reason", .arg = "TEXT", .help = "Why"},
	{.name = "detach", .mode = true, .help = "Detach"},
};

static const struct cs_daemon_spec spec = {.name = "example",
	.program = "countersign-example",
	.summary = "An example.",
	.examples = "  countersign-example --set test.start=ok\n",
	.settings = {rows, sizeof(rows) / sizeof(rows[0])},
	.options = own,
	.noptions = sizeof(own) / sizeof(own[0]),
	.config_size = sizeof(struct config),
	.common_offset = offsetof(struct config, common),
	.check = check,
	.run_mode = run_mode,
	.start = start,
	.stop = stop,
	.fini = fini};

/* ---- running it ---- */

static char dir[64], said[65536];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/cs-daemon-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	char command[128];
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

static const char *below(const char *name)
{
	static char paths[8][256]; /* the last eight stay valid */
	static size_t next;
	char *path = paths[next++ % 8];
	snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
	return path;
}

/* Starts it; *ret_out is a pipe with its stdout and stderr. argv[0] is put in front. */
static pid_t spawn(const char *const *args, int *ret_out)
{
	const char *argv[16] = {"example"};
	int out[2];
	pid_t pid;
	posix_spawn_file_actions_t actions;
	for (size_t i = 0; args[i]; i++)
		argv[i + 1] = args[i];
	assert_int_equal(pipe(out), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	posix_spawn_file_actions_adddup2(&actions, out[1], 2);
	posix_spawn_file_actions_addclose(&actions, out[0]);
	posix_spawn_file_actions_addclose(&actions, out[1]);
	assert_int_equal(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, (char **)argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(out[1]);
	*ret_out = out[0];
	return pid;
}

static int wait_exit(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status))
		fail_msg("ended by signal %d: %s", WTERMSIG(status), said);
	return WEXITSTATUS(status);
}

/* The exit code; all that it said is in `said`. */
static int ran(const char *const *args)
{
	int out;
	size_t used = 0;
	ssize_t n;
	pid_t pid = spawn(args, &out);
	while ((n = read(out, said + used, sizeof(said) - 1 - used)) > 0)
		used += (size_t)n;
	said[used] = '\0';
	close(out);
	return wait_exit(pid);
}

#define RAN(...) ran((const char *const[]){__VA_ARGS__, NULL})

static void says(const char *what)
{
	if (!strstr(said, what))
		fail_msg("'%s' is not in: %s", what, said);
}

/* ---- command line ---- */

static void test_help(void **state)
{
	(void)state;
	assert_int_equal(RAN("--help"), 0);
	says("countersign-example: An example.");
	says("--check-policy FILE...");
	const char *instead = strstr(said, "Instead of running as a daemon");
	assert_true(strstr(said, "--role NAME") < instead && strstr(said, "--check-policy") > instead);
	says("roles.viewer");
	says("default: group:countersign?");
	says("--set test.start=ok");
	assert_int_equal(RAN("-h"), 0);
	assert_int_equal(RAN("--version"), 0);
	assert_string_equal(said, "countersign-example " CS_VERSION "\n");
	assert_int_equal(RAN("--print-reference"), 0);
	says("| `test.start` | text of 1 to 16 characters | `ok` | How the start goes |");
}

static void test_usage(void **state)
{
	(void)state;
	assert_int_equal(RAN("--instanec", "/x"), 2);
	says("did you mean --instance?");
	assert_int_equal(RAN("word"), 2);
	says("unexpected argument 'word'");
	assert_int_equal(RAN("--config"), 2);
	assert_int_equal(RAN("--detach", "--check-policy", "f"), 2);
	says("two different things");
	assert_int_equal(RAN("--instance", "/a/..", "--check-config"), 2);
	assert_int_equal(RAN("--config", "/nonexistent", "--check-config"), 2);
	says("cannot open /nonexistent");
	assert_int_equal(RAN("--set", "test.stat=ok", "--check-config"), 2);
	says("did you mean 'test.start'?");
	assert_int_equal(RAN("--set", "test.start=forbidden"), 2);
	says("test.start: forbidden");
	assert_int_equal(RAN("--set", "roles.agent=user:no-such-user-here", "--check-config"), 2);
	says("roles.agent: there is no user 'no-such-user-here'");
	assert_int_equal(RAN("--set", "roles.agent=user:no-such-user-here?", "--check-config"), 0);
	says("the configuration is fine");
	assert_int_equal(RAN("--set", "roles.agent=nobody", "--check-config"), 2);
}

static void test_mode(void **state)
{
	(void)state;
	assert_int_equal(RAN("--instance", below("i"), "--check-policy", "a", "b", "--reason=x y", "c"), 7);
	assert_string_equal(said, "check a reason x y rest b c\n");
	assert_int_equal(access(below("i"), F_OK), -1); /* a mode makes no instance */
	assert_int_equal(RAN("--detach", "word"), 2);
}

static void test_config_file(void **state)
{
	(void)state;
	FILE *f = fopen(below("c.yaml"), "w");
	fputs("test:\n  start: forbidden\n", f);
	fclose(f);
	assert_int_equal(RAN("--config", below("c.yaml"), "--check-config"), 2);
	/* --set is over the file, wherever it stands */
	assert_int_equal(RAN("--set", "test.start=x", "--config", below("c.yaml"), "--check-config"), 0);
	f = fopen(below("c.yaml"), "w");
	fputs("test:\n  start: a\n  stort: b\n", f);
	fclose(f);
	assert_int_equal(RAN("--config", below("c.yaml"), "--check-config"), 2);
	says("c.yaml:3: unknown setting 'test.stort'; did you mean 'test.start'?");
}

/* ---- as a daemon ---- */

static int notify_fd;

/* Started, and it said READY. */
static pid_t serve(const char *const *args, int *ret_out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char got[128] = "";
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", below("notify"));
	notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(notify_fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	setenv("NOTIFY_SOCKET", addr.sun_path, 1);
	pid_t pid = spawn(args, ret_out);
	struct pollfd p = {.fd = notify_fd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_true(recv(notify_fd, got, sizeof(got) - 1, 0) > 0);
	assert_memory_equal(got, "READY=1\n", 8);
	return pid;
}

/* SIGTERM, STOPPING=1, exit code 0. */
static void end(pid_t pid, int out)
{
	char got[128] = "";
	kill(pid, SIGTERM);
	struct pollfd p = {.fd = notify_fd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_true(recv(notify_fd, got, sizeof(got) - 1, 0) > 0);
	assert_string_equal(got, "STOPPING=1");
	assert_int_equal(wait_exit(pid), 0);
	close(out);
	close(notify_fd);
	unlink(below("notify"));
	unsetenv("NOTIFY_SOCKET");
}

static int call(const char *method, void (*fn)(const ProtobufCMessage *message, void *data), void *data,
	struct cs_grpc_status *status)
{
	static const Countersign__V1__StatusRequest get = COUNTERSIGN__V1__STATUS_REQUEST__INIT;
	static const Countersign__V1__MetricsRequest metrics = COUNTERSIGN__V1__METRICS_REQUEST__INIT;
	char target[300];
	struct cs_error e;
	snprintf(target, sizeof(target), "unix:%s", below("i/example/status.sock"));
	const struct cs_grpc_channel_options options = {.target = target};
	return cs_grpc_call_sync(&options, &countersign__v1__status__descriptor, method,
		method[0] == 'G' ? &get.base : &metrics.base, 10000, fn, data, status, &e);
}

static void got_status(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__StatusReply *r = (const void *)message;
	assert_string_equal(r->daemon, "example");
	assert_string_equal(r->version, CS_VERSION);
	assert_string_equal(r->role, "all");
	assert_string_equal(r->node, "node1");
	assert_int_equal(r->leadership, COUNTERSIGN__V1__LEADERSHIP__LEADERSHIP_FOLLOWER);
	assert_true(r->started_unix_ms > INT64_C(1600000000000));
	assert_false(r->healthy);
	assert_int_equal(r->n_checks, 3);
	assert_string_equal(r->checks[0]->name, "always");
	assert_true(r->checks[0]->ok);
	assert_null(r->checks[0]->reason);
	assert_string_equal(r->checks[1]->name, "directory");
	assert_false(r->checks[1]->ok);
	assert_string_equal(r->checks[1]->reason->name, "directory-stale");
	assert_string_equal(r->checks[1]->reason->detail, "silent for 90 s");
	assert_true(r->checks[1]->since_unix_ms >= r->started_unix_ms);
	assert_string_equal(r->checks[2]->reason->name, "");
	assert_string_equal(r->checks[2]->reason->detail, "broken");
	++*(int *)data;
}

struct text {
	char *bytes;
	size_t len, chunks;
};

static void got_chunk(const ProtobufCMessage *message, void *data)
{
	const Countersign__V1__MetricsChunk *c = (const void *)message;
	struct text *t = data;
	assert_true(c->text.len > 0 && c->text.len <= 65536);
	assert_int_equal(c->text.data[c->text.len - 1], '\n');
	t->bytes = realloc(t->bytes, t->len + c->text.len + 1);
	memcpy(t->bytes + t->len, c->text.data, c->text.len);
	t->len += c->text.len;
	t->bytes[t->len] = '\0';
	t->chunks++;
}

static void test_serves(void **state)
{
	(void)state;
	int out, answers = 0;
	struct text text = {0};
	struct stat st;
	char instance[256];
	struct cs_grpc_status status;
	snprintf(instance, sizeof(instance), "%s/", below("i"));
	pid_t pid = serve((const char *const[]){"--instance", instance, "--set", "test.series=20000", NULL}, &out);
	assert_int_equal(call("Get", got_status, &answers, &status), 0);
	assert_int_equal(answers, 1);
	/* some 1.3 MB: more than any window and queue on the way */
	assert_int_equal(call("Metrics", got_chunk, &text, &status), 0);
	assert_true(text.chunks > 10);
	assert_non_null(strstr(text.bytes, "\ncountersign_test_total{daemon=\"example\",n=\"19999\"} 19999\n"));
	assert_non_null(strstr(text.bytes, "countersign_check_ok{daemon=\"example\",check=\"always\"} 1\n"));
	assert_non_null(strstr(text.bytes, "countersign_check_ok{daemon=\"example\",check=\"directory\"} 0\n"));
	assert_non_null(
		strstr(text.bytes, "countersign_build_info{daemon=\"example\",version=\"" CS_VERSION "\"} 1\n"));
	free(text.bytes);
	end(pid, out);
	assert_int_equal(stat(below("i/example/status.sock"), &st), -1); /* it goes with the daemon */
}

/* Whoever has no role is turned away, counted and logged. */
static void test_refused(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		print_message("needs root to become another user\n");
		skip();
	}
	int out, answers = 0, child;
	struct text text = {0};
	struct cs_grpc_status status;
	pid_t pid = serve((const char *const[]){"--instance", below("i"), NULL}, &out);
	chmod(dir, 0755);
	pid_t other = fork();
	if (other == 0) {
		if (setgid(54321) != 0 || setuid(54321) != 0)
			_exit(9);
		_exit(call("Get", got_status, &answers, &status) < 0 && answers == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(other, &child, 0), other);
	assert_true(WIFEXITED(child) && WEXITSTATUS(child) == 0);
	assert_int_equal(call("Metrics", got_chunk, &text, &status), 0);
	if (!strstr(text.bytes, "countersign_refused_calls_total{daemon=\"example\",reason=\"role-refused\"} 1\n"))
		fail_msg("not counted: %s", text.bytes);
	free(text.bytes);
	end(pid, out);
}

static void test_fails(void **state)
{
	(void)state;
	assert_int_equal(RAN("--instance", below("i"), "--set", "test.start=fails"), 1);
	says("\"msg\":\"cannot start\"");
	says("it does not start");
	says("\"reason\":\"map-full\"");
	assert_int_equal(RAN("--instance", below("i"), "--set", "test.start=fatal", "--set", "log.format=plain"), 1);
	says("error: cannot go on  error=\"it ends\"");
}

/* Two daemons of one instance: the second one ends, even when the first has no socket yet. */
static void test_twice(void **state)
{
	(void)state;
	int out, answers = 0;
	struct cs_grpc_status status;
	pid_t pid = serve((const char *const[]){"--instance", below("i"), NULL}, &out);
	assert_int_equal(RAN("--instance", below("i")), 1);
	says("another process is example of the instance");
	assert_int_equal(call("Get", got_status, &answers, &status), 0);
	end(pid, out);
	struct cs_error e;
	int lock = cs_instance_lock(below("i"), "example", &e);
	assert_true(lock >= 0);
	assert_int_equal(RAN("--instance", below("i")), 1);
	says("another process is example of the instance");
	close(lock);
	pid = serve((const char *const[]){"--instance", below("i"), NULL}, &out);
	end(pid, out);
}

int main(int argc, char **argv)
{
	if (strcmp(argv[0], "example") == 0)
		return cs_daemon_main(&spec, argc, argv);
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {T(test_help), T(test_usage), T(test_mode), T(test_config_file),
		T(test_serves), T(test_refused), T(test_fails), T(test_twice)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
