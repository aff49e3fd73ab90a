/* The store's backend in etcd on a string: commands from stdin, a line each; one JSON line for each on stdout.
 *	store_etcd_client [--prefix P] [--lease S] [--timeout MS] ENDPOINT...
 *	load | poll | write KEY=VALUE... (KEY- deletes; VALUE "*N": N bytes) | campaign NAME | resign | state
 *	lead		waits until it leads
 *	news		waits until there is something to poll, then polls
 *	quit */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store_backend.h"
#include "store_etcd.h"

#define WRITES_MAX 130

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static unsigned news;
static struct cs_backend *backend;

static void on_notify(void *data)
{
	(void)data;
	pthread_mutex_lock(&lock);
	news++;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&lock);
}

static void wait_for_news(unsigned seen)
{
	struct timespec end;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 60;
	pthread_mutex_lock(&lock);
	while (news == seen)
		if (pthread_cond_timedwait(&cond, &lock, &end) != 0)
			exit(3);
	pthread_mutex_unlock(&lock);
}

static unsigned seen_news(void)
{
	pthread_mutex_lock(&lock);
	unsigned n = news;
	pthread_mutex_unlock(&lock);
	return n;
}

static void say(json_t *line)
{
	char *text = json_dumps(line, JSON_COMPACT);
	printf("%s\n", text);
	free(text);
	json_decref(line);
}

static json_t *result(int r, const struct cs_error *e)
{
	if (r == 0)
		return json_pack("{s:s}", "result", "ok");
	return json_pack(
		"{s:s, s:s, s:s}", "result", strerrorname_np(-r), "text", e->text, "reason", cs_reason_name(e->reason));
}

/* ---- reading ---- */

struct rows {
	json_t *revisions, *rows;
	bool whole;
};

static void on_whole(void *data)
{
	struct rows *r = data;
	json_array_clear(r->revisions);
	json_object_clear(r->rows);
	r->whole = true;
}

static void on_row(void *data, const char *key, const void *value, size_t n)
{
	struct rows *r = data;
	json_object_set_new(r->rows, key,
		!value    ? json_null()
		: n > 100 ? json_integer((json_int_t)n)
			  : json_stringn(value, n));
}

static void on_revision(void *data)
{
	struct rows *r = data;
	json_array_append_new(r->revisions, r->rows);
	r->rows = json_object();
}

static bool read_now(bool load)
{
	struct rows rows = {json_array(), json_object(), false};
	const struct cs_backend_reader reader = {on_whole, on_row, on_revision, &rows};
	struct cs_error e = {0};
	int r = (load ? backend->ops->load : backend->ops->poll)(backend, &reader, &e);
	bool any = r < 0 || json_array_size(rows.revisions) > 0;
	json_t *line = result(r, &e);
	json_object_set_new(line, "revisions", rows.revisions);
	json_object_set_new(line, "whole", json_boolean(rows.whole));
	json_decref(rows.rows);
	if (load || any)
		say(line);
	else
		json_decref(line);
	return any;
}

/* ---- writing ---- */

static void write_now(char *words)
{
	struct cs_store_write writes[WRITES_MAX] = {0};
	char *large[WRITES_MAX] = {0}, *word;
	size_t n = 0;
	while ((word = strsep(&words, " ")) && n < WRITES_MAX) {
		char *equals = strchr(word, '=');
		writes[n].key = word;
		if (equals) {
			*equals = '\0';
			writes[n].value = equals + 1;
			writes[n].n = strlen(equals + 1);
		} else {
			word[strlen(word) - 1] = '\0';
		}
		if (equals && equals[1] == '*') {
			writes[n].n = (size_t)atol(equals + 2);
			writes[n].value = large[n] = calloc(1, writes[n].n + 1);
		}
		n++;
	}
	struct cs_error e = {0};
	int r = backend->ops->write(backend, writes, n, &e);
	say(result(r, &e));
	for (size_t i = 0; i < n; i++)
		free(large[i]);
}

static void say_state(void)
{
	struct cs_store_state s = {0};
	backend->ops->state(backend, &s);
	say(json_pack("{s:b, s:I, s:I, s:s}", "leads", s.leads, "term", (json_int_t)s.term, "silent_ms",
		(json_int_t)s.silent_ms, "leader", s.leader));
}

static void wait_to_lead(void)
{
	for (;;) {
		unsigned seen = seen_news();
		struct cs_store_state s = {0};
		backend->ops->state(backend, &s);
		if (s.leads)
			break;
		wait_for_news(seen);
	}
	say_state();
}

static void wait_to_hear(void)
{
	for (;;) {
		unsigned seen = seen_news();
		if (read_now(false))
			return;
		wait_for_news(seen);
	}
}

static bool run(char *line)
{
	char *rest = line, *command = strsep(&rest, " ");
	struct cs_error e = {0};
	if (strcmp(command, "load") == 0)
		read_now(true);
	else if (strcmp(command, "poll") == 0) {
		if (!read_now(false))
			say(json_pack("{s:s, s:[], s:b}", "result", "ok", "revisions", "whole", 0));
	} else if (strcmp(command, "news") == 0)
		wait_to_hear();
	else if (strcmp(command, "write") == 0)
		write_now(rest);
	else if (strcmp(command, "campaign") == 0)
		say(result(backend->ops->campaign(backend, rest, &e), &e));
	else if (strcmp(command, "resign") == 0) {
		backend->ops->resign(backend);
		say(result(0, &e));
	} else if (strcmp(command, "state") == 0)
		say_state();
	else if (strcmp(command, "lead") == 0)
		wait_to_lead();
	else
		return false;
	return true;
}

static const struct option names[] = {{"prefix", 1, 0, 'p'}, {"lease", 1, 0, 'l'}, {"timeout", 1, 0, 't'}, {0}};

int main(int argc, char **argv)
{
	struct cs_etcd_config etcd = {0};
	struct cs_store_config config = {.etcd = &etcd, .notify = on_notify};
	struct cs_error e = {0};
	static char line[1 << 16];
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		if (option == 'p')
			etcd.prefix = optarg;
		else if (option == 'l')
			etcd.lease_ms = atoll(optarg) * 1000;
		else if (option == 't')
			etcd.timeout_ms = atoll(optarg);
		else
			return 2;
	}
	etcd.client.endpoints = (const char *const *)argv + optind;
	etcd.client.nendpoints = (size_t)(argc - optind);
	if (cs_backend_etcd_open(&config, &backend, &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	bool goes_on = true;
	while (goes_on && fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		goes_on = run(line);
	}
	backend->ops->close(backend);
	return 0;
}
