#include "node_local.h"

#include <errno.h>
#include "log.h"
#include "mem.h"

#define HELLO_RETRY_MS 5000

struct local {
	struct cs_link link;
	struct cs_cluster *cluster;
	struct cs_node *node;
	struct cs_directory_service *directory;
	struct cs_cursor *cursor;
	struct cs_dir_watch watch;
	struct cs_timer hello;
	bool waiting, closed, freed; /* waiting: for the answer to Hello */
};

static int ask_take(struct cs_link *link, struct cs_ask *ask, struct cs_error *e)
{
	struct local *l = (struct local *)link;
	return cs_cluster_ask_take(l->cluster, ask, e);
}

static int64_t silent_ms(struct cs_link *link)
{
	(void)link;
	return 0; /* it is here */
}

struct asking {
	cs_node_published *done;
	void *data;
};

static void on_published(void *data, size_t have, size_t stale)
{
	struct asking *a = data;
	a->done(a->data, have, stale, NULL);
	free(a);
}

static void published(struct cs_link *link, uint64_t revision, cs_node_published *done, void *data)
{
	struct local *l = (struct local *)link;
	struct cs_published *ignored;
	struct cs_error e;
	if (!l->directory) {
		done(data, 0, 0, NULL);
		return;
	}
	struct asking *a = cs_xcalloc(1, sizeof(*a));
	*a = (struct asking){.done = done, .data = data};
	if (cs_directory_service_published(l->directory, revision, on_published, a, &ignored, &e) < 0) {
		free(a);
		done(data, 0, 0, &e);
	}
}

void cs_link_local_published(struct cs_link *link, struct cs_directory_service *directory)
{
	((struct local *)link)->directory = directory;
}

static void pump(struct local *l)
{
	struct cs_batch batch;
	struct cs_error e;
	int r;
	while ((r = cs_cursor_next(l->cursor, CS_BATCH_BYTES_MAX, &batch, &e)) == 1) {
		cs_cursor_unpack(l->cursor, &batch);
		cs_node_link_batch(l->node, &batch.msg);
	}
	if (r < 0) { /* cannot be too slow, but if it is: from the start */
		cs_cursor_free(l->cursor);
		l->cursor = cs_cursor_new(
			cs_cluster_directory(l->cluster), &(struct cs_follow){.node = cs_node_name(l->node)});
		pump(l);
	}
}

static void on_publish(struct cs_dir_watch *watch)
{
	pump(watch->data);
}

static void maybe_free(struct local *l)
{
	if (l->freed && !l->waiting)
		free(l);
}

static void on_hello(struct cs_ask *ask, void *data)
{
	struct local *l = data;
	int result = ask->result;
	struct cs_error e = ask->error;
	cs_ask_free(ask);
	l->waiting = false;
	if (l->closed) {
		maybe_free(l);
		return;
	}
	if (result < 0) {
		cs_node_link_down(l->node, &e);
		cs_timer_start(&l->hello, HELLO_RETRY_MS, 0);
		return;
	}
	cs_node_link_up(l->node, 0);
}

static void say_hello(struct cs_timer *timer)
{
	struct local *l = timer->data;
	struct cs_ask *ask = cs_node_hello(l->node);
	struct cs_error e;
	ask->done = on_hello;
	ask->data = l;
	l->waiting = true;
	if (cs_cluster_ask_take(l->cluster, ask, &e) < 0) {
		ask->result = e.code;
		ask->error = e;
		on_hello(ask, l);
	}
}

struct cs_link *cs_link_local_new(struct cs_loop *loop, struct cs_cluster *cluster, struct cs_node *node)
{
	struct local *l = cs_xcalloc(1, sizeof(*l));
	l->link = (struct cs_link){.ask_take = ask_take, .silent_ms = silent_ms, .published = published};
	l->cluster = cluster;
	l->node = node;
	l->cursor = cs_cursor_new(cs_cluster_directory(cluster), &(struct cs_follow){.node = cs_node_name(node)});
	l->watch = (struct cs_dir_watch){.fn = on_publish, .data = l};
	cs_dir_watch(cs_cluster_directory(cluster), &l->watch);
	cs_timer_init(&l->hello, loop, say_hello, l);
	cs_timer_start(&l->hello, 0, 0);
	cs_node_set_link(node, &l->link);
	pump(l);
	return &l->link;
}

static void timer_closed(struct cs_timer *timer)
{
	struct local *l = timer->data;
	l->freed = true;
	maybe_free(l);
}

void cs_link_local_close(struct cs_link *link)
{
	struct local *l = (struct local *)link;
	if (!l || l->closed)
		return;
	l->closed = true;
	cs_node_set_link(l->node, NULL);
	cs_dir_unwatch(cs_cluster_directory(l->cluster), &l->watch);
	cs_cursor_free(l->cursor);
	cs_timer_close(&l->hello, timer_closed);
}
