/* The etcd client on a string: commands from stdin, a line each; what comes of them as JSON on stdout.
 *	etcd_client [--ca F] [--cert F --key F] [--server-name N] [--user U --password P] ENDPOINT...
 *	range ID KEY END LIMIT REVISION TIMEOUT_MS	END "-": only KEY
 *	put ID KEY VALUE LEASE TIMEOUT_MS		VALUE "*N": N bytes
 *	cas ID KEY MOD_REVISION VALUE TIMEOUT_MS	else: reads it
 *	many ID KEY N BYTES TIMEOUT_MS			N keys in one transaction
 *	del ID KEY
 *	grant ID TTL_S | revoke ID LEASE | keep ID LEASE TTL_S | unkeep
 *	watch ID KEY END FROM CLUSTER_ID | unwatch
 *	endpoint ID | quit */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "etcd.h"

#define ARGS_MAX 8

struct program {
	struct cs_loop loop;
	struct cs_etcd *etcd;
	struct cs_etcd_watch *watch;
	struct cs_etcd_keep *keep;
	uv_pipe_t in;
	char line[4096];
	size_t n;
	int64_t started_ms;
};
static struct program program;

/* Who asked: the ID of the command. */
static char *id_of(const char *id)
{
	return strdup(id);
}

static void say(json_t *line)
{
	char *text = json_dumps(line, JSON_COMPACT);
	printf("%s\n", text);
	free(text);
	json_decref(line);
}

static json_t *answer(const char *id, const struct cs_etcd_result *r)
{
	static const char *const names[] = {"done", "not done", "perhaps"};
	json_t *line = json_pack("{s:s, s:s, s:I, s:s, s:I}", "id", id, "outcome", names[r->outcome], "revision",
		(json_int_t)r->revision, "error", r->outcome == CS_ETCD_DONE ? "" : strerrorname_np(-r->error.code),
		"cluster", (json_int_t)r->cluster_id);
	if (r->outcome != CS_ETCD_DONE)
		json_object_set_new(line, "text", json_string(r->error.text));
	return line;
}

static json_t *text_of(struct cs_etcd_bytes b)
{
	return b.len > 100 ? json_integer((json_int_t)b.len) : json_stringn(b.data ? b.data : "", b.len);
}

static json_t *kv_of(const struct cs_etcd_kv *kv)
{
	return json_pack("{s:o, s:o, s:I, s:I, s:I}", "key", text_of(kv->key), "value", text_of(kv->value), "created",
		(json_int_t)kv->create_revision, "modified", (json_int_t)kv->mod_revision, "lease",
		(json_int_t)kv->lease);
}

static void say_kvs(json_t *line, const struct cs_etcd_kv *kvs, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, kv_of(&kvs[i]));
	json_object_set_new(line, "kvs", list);
	say(line);
}

static void on_range(const struct cs_etcd_result *r, const struct cs_etcd_kv *kvs, size_t n, bool more, void *data)
{
	json_t *line = answer(data, r);
	json_object_set_new(line, "more", json_boolean(more));
	say_kvs(line, kvs, n);
	free(data);
}

static void on_txn(const struct cs_etcd_result *r, bool succeeded, const struct cs_etcd_kv *kvs, size_t n, void *data)
{
	json_t *line = answer(data, r);
	json_object_set_new(line, "succeeded", json_boolean(succeeded));
	say_kvs(line, kvs, n);
	free(data);
}

static void on_grant(const struct cs_etcd_result *r, int64_t lease, int64_t ttl_s, void *data)
{
	json_t *line = answer(data, r);
	json_object_set_new(line, "lease", json_integer(lease));
	json_object_set_new(line, "ttl", json_integer(ttl_s));
	say(line);
	free(data);
}

static void on_revoke(const struct cs_etcd_result *r, void *data)
{
	say(answer(data, r));
	free(data);
}

static void on_alive(int64_t until_mono_ms, void *data)
{
	(void)data;
	say(json_pack("{s:s, s:I}", "keep", "alive", "left_ms",
		(json_int_t)(until_mono_ms - cs_loop_mono_ms(&program.loop))));
}

static void on_lost(void *data)
{
	(void)data;
	program.keep = NULL;
	say(json_pack("{s:s}", "keep", "lost"));
}

static void on_revision(int64_t revision, const struct cs_etcd_event *events, size_t n, void *data)
{
	(void)data;
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++) {
		json_t *event = kv_of(&events[i].kv);
		json_object_set_new(event, "deleted", json_boolean(events[i].deleted));
		json_array_append_new(list, event);
	}
	say(json_pack("{s:I, s:o}", "watched", (json_int_t)revision, "events", list));
}

static void on_compacted(const struct cs_error *why, void *data)
{
	(void)data;
	program.watch = NULL;
	say(json_pack(
		"{s:s, s:s, s:s}", "watch", "compacted", "error", strerrorname_np(-why->code), "text", why->text));
}

static void on_failed(const struct cs_error *why, void *data)
{
	(void)data;
	program.watch = NULL;
	say(json_pack("{s:s, s:s, s:s}", "watch", "failed", "error", strerrorname_np(-why->code), "text", why->text));
}

static void on_watch_alive(void *data)
{
	(void)data;
	say(json_pack("{s:b}", "alive", 1));
}

static struct cs_etcd_bytes bytes(const char *s)
{
	return strcmp(s, "-") == 0 ? (struct cs_etcd_bytes){0} : (struct cs_etcd_bytes){s, strlen(s)};
}

static int do_range(char **a, struct cs_error *e)
{
	const struct cs_etcd_range range = {
		.key = bytes(a[2]), .end = bytes(a[3]), .limit = atoll(a[4]), .revision = atoll(a[5])};
	return cs_etcd_range(program.etcd, &range, atoll(a[6]), on_range, id_of(a[1]), e);
}

static int do_put(char **a, struct cs_error *e)
{
	struct cs_etcd_bytes value = bytes(a[3]);
	char *large = NULL;
	if (*a[3] == '*') {
		value.len = (size_t)atoll(a[3] + 1);
		value.data = large = calloc(1, value.len + 1);
	}
	const struct cs_etcd_op op = {.kind = CS_ETCD_PUT, .key = bytes(a[2]), .value = value, .lease = atoll(a[4])};
	const struct cs_etcd_txn txn = {.then = &op, .nthen = 1};
	int r = cs_etcd_txn(program.etcd, &txn, atoll(a[5]), on_txn, id_of(a[1]), e);
	free(large);
	return r;
}

static int do_cas(char **a, struct cs_error *e)
{
	const struct cs_etcd_compare compare = {.key = bytes(a[2]), .what = CS_ETCD_MOD_REVISION, .is = atoll(a[3])};
	const struct cs_etcd_op put = {.kind = CS_ETCD_PUT, .key = bytes(a[2]), .value = bytes(a[4])};
	const struct cs_etcd_op get = {.kind = CS_ETCD_GET, .key = bytes(a[2])};
	const struct cs_etcd_txn txn = {
		.compares = &compare, .then = &put, .otherwise = &get, .ncompares = 1, .nthen = 1, .notherwise = 1};
	return cs_etcd_txn(program.etcd, &txn, atoll(a[5]), on_txn, id_of(a[1]), e);
}

static int do_many(char **a, struct cs_error *e)
{
	size_t n = (size_t)atoll(a[3]);
	char(*keys)[64] = calloc(n, sizeof(*keys)), *value = calloc(1, (size_t)atoll(a[4]) + 1);
	struct cs_etcd_op *ops = calloc(n, sizeof(*ops));
	for (size_t i = 0; i < n; i++) {
		snprintf(keys[i], sizeof(keys[i]), "%s%06zu", a[2], i);
		ops[i] = (struct cs_etcd_op){
			.kind = CS_ETCD_PUT, .key = bytes(keys[i]), .value = {value, (size_t)atoll(a[4])}};
	}
	const struct cs_etcd_txn txn = {.then = ops, .nthen = n};
	int r = cs_etcd_txn(program.etcd, &txn, atoll(a[5]), on_txn, id_of(a[1]), e);
	free(keys);
	free(value);
	free(ops);
	return r;
}

static int do_del(char **a, struct cs_error *e)
{
	const struct cs_etcd_op op = {.kind = CS_ETCD_DELETE, .key = bytes(a[2])};
	const struct cs_etcd_txn txn = {.then = &op, .nthen = 1};
	return cs_etcd_txn(program.etcd, &txn, 5000, on_txn, id_of(a[1]), e);
}

static int do_grant(char **a, struct cs_error *e)
{
	return cs_etcd_grant(program.etcd, atoll(a[2]), 5000, on_grant, id_of(a[1]), e);
}

static int do_revoke(char **a, struct cs_error *e)
{
	return cs_etcd_revoke(program.etcd, atoll(a[2]), 5000, on_revoke, id_of(a[1]), e);
}

static int do_keep(char **a, struct cs_error *e)
{
	static const struct cs_etcd_keep_events events = {.alive = on_alive, .lost = on_lost};
	return cs_etcd_keep(program.etcd, atoll(a[2]), atoll(a[3]), &events, NULL, &program.keep, e);
}

static int do_unkeep(char **a, struct cs_error *e)
{
	(void)a;
	(void)e;
	cs_etcd_keep_free(program.keep);
	program.keep = NULL;
	return 0;
}

static int do_watch(char **a, struct cs_error *e)
{
	static const struct cs_etcd_watch_events events = {
		.revision = on_revision, .compacted = on_compacted, .failed = on_failed, .alive = on_watch_alive};
	return cs_etcd_watch(program.etcd, bytes(a[2]), bytes(a[3]), atoll(a[4]), strtoull(a[5], NULL, 10), &events,
		NULL, &program.watch, e);
}

static int do_unwatch(char **a, struct cs_error *e)
{
	(void)a;
	(void)e;
	cs_etcd_watch_free(program.watch);
	program.watch = NULL;
	return 0;
}

static int do_endpoint(char **a, struct cs_error *e)
{
	(void)e;
	say(json_pack("{s:s, s:s}", "id", a[1], "endpoint", cs_etcd_endpoint(program.etcd)));
	return 0;
}

static int do_quit(char **a, struct cs_error *e)
{
	(void)a;
	(void)e;
	uv_close((uv_handle_t *)&program.in, NULL);
	cs_etcd_close(program.etcd, NULL, NULL);
	return 0;
}

static const struct {
	const char *name;
	int nargs;
	int (*fn)(char **a, struct cs_error *e);
} commands[] = {{"range", 7, do_range}, {"put", 6, do_put}, {"cas", 6, do_cas}, {"many", 6, do_many},
	{"del", 3, do_del}, {"grant", 3, do_grant}, {"revoke", 3, do_revoke}, {"keep", 4, do_keep},
	{"unkeep", 1, do_unkeep}, {"watch", 6, do_watch}, {"unwatch", 1, do_unwatch}, {"endpoint", 2, do_endpoint},
	{"quit", 1, do_quit}};

static void run(char *line)
{
	char *args[ARGS_MAX], *rest = line, *word;
	int n = 0;
	while (n < ARGS_MAX && (word = strsep(&rest, " ")))
		args[n++] = word;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		struct cs_error e = {0};
		if (strcmp(commands[i].name, args[0]) != 0 || commands[i].nargs != n)
			continue;
		int r = commands[i].fn(args, &e);
		if (r < 0)
			say(json_pack("{s:s, s:s, s:s, s:s}", "id", args[1], "outcome", "refused", "error",
				strerrorname_np(-r), "text", e.text));
		return;
	}
	fprintf(stderr, "no such command: %s with %d words\n", args[0], n);
	exit(2);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
	(void)handle;
	(void)size;
	*buf = uv_buf_init(program.line + program.n, (unsigned)(sizeof(program.line) - program.n));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	(void)buf;
	if (n < 0) {
		if (!uv_is_closing((uv_handle_t *)stream))
			do_quit(NULL, NULL);
		return;
	}
	program.n += (size_t)n;
	char *end;
	while ((end = memchr(program.line, '\n', program.n)) && !uv_is_closing((uv_handle_t *)stream)) {
		char line[sizeof(program.line)];
		size_t length = (size_t)(end - program.line);
		memcpy(line, program.line, length);
		line[length] = '\0';
		program.n -= length + 1;
		memmove(program.line, end + 1, program.n);
		run(line);
	}
}

static const struct option names[] = {{"ca", 1, 0, 'a'}, {"cert", 1, 0, 'c'}, {"key", 1, 0, 'k'},
	{"server-name", 1, 0, 's'}, {"user", 1, 0, 'u'}, {"password", 1, 0, 'p'}, {0}};

int main(int argc, char **argv)
{
	struct cs_etcd_options options = {0};
	struct cs_error e = {0};
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		const char **where = option == 'a'   ? &options.ca_file
				     : option == 'c' ? &options.cert_file
				     : option == 'k' ? &options.key_file
				     : option == 's' ? &options.server_name
				     : option == 'u' ? &options.user
						     : &options.password;
		*where = optarg;
	}
	options.endpoints = (const char *const *)argv + optind;
	options.nendpoints = (size_t)(argc - optind);
	if (cs_loop_init(&program.loop, NULL, &e) < 0 || cs_etcd_new(&program.loop, &options, &program.etcd, &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	uv_pipe_init(&program.loop.uv, &program.in, 0);
	uv_pipe_open(&program.in, 0);
	uv_read_start((uv_stream_t *)&program.in, on_alloc, on_read);
	cs_loop_run(&program.loop);
	cs_loop_fini(&program.loop);
	return 0;
}
