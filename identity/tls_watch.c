#include "tls_watch.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "log.h"

enum { CHAIN, KEY, BUNDLE, FILES };

/* What tells two versions of a file apart: they are replaced by rename. */
struct mark {
	ino_t inode;
	off_t size;
	struct timespec modified;
};

struct cs_tls_watch {
	struct cs_loop *loop;
	enum cs_tls_role role;
	struct cs_tls *tls;
	char path[FILES][PATH_MAX];
	struct mark seen[FILES], used[FILES]; /* by the worker; those of the last that was looked into */
	struct cs_timer timer;
	uv_work_t work;
	struct cs_tls *fresh; /* what the worker made */
	int result;           /* 1: nothing changed */
	struct cs_error error, said;
	bool looked, closing;
};

static void look(const char *path, struct mark *ret)
{
	struct stat st;
	memset(ret, 0, sizeof(*ret)); /* of what is not there too; compared as bytes */
	if (stat(path, &st) < 0)
		return;
	ret->inode = st.st_ino;
	ret->size = st.st_size;
	ret->modified = st.st_mtim;
}

static void work(uv_work_t *uv)
{
	struct cs_tls_watch *w = uv->data;
	const struct cs_tls_files files = {.chain = w->path[CHAIN], .key = w->path[KEY], .bundle = w->path[BUNDLE]};
	for (int i = 0; i < FILES; i++)
		look(w->path[i], &w->seen[i]);
	w->result = 1;
	if (memcmp(w->seen, w->used, sizeof(w->seen)) != 0)
		w->result = cs_tls_new(w->role, &files, w->loop->clock, &w->fresh, &w->error);
}

static void done(uv_work_t *uv, int status)
{
	struct cs_tls_watch *w = uv->data;
	(void)status; /* never cancelled */
	if (w->closing) {
		if (w->result == 0)
			cs_tls_free(w->fresh);
		return;
	}
	if (w->result == 0)
		w->result = cs_tls_renew_take(w->tls, w->fresh, &w->error);
	if (w->result == 0) {
		memcpy(w->used, w->seen, sizeof(w->used));
		w->said.text[0] = '\0';
		if (w->looked) /* the first look is for what changed between their reading and this watch */
			cs_info("the own certificate was renewed",
				cs_i64("not_after_unix_s", cs_tls_not_after_unix_s(w->tls)));
	} else if (w->result < 0 && strcmp(w->said.text, w->error.text) != 0) {
		/* In the midst of a change it fails once, and is looked at again. */
		w->said = w->error;
		cs_warn("the own certificate's files cannot be used; what was there stays", cs_err(&w->error));
	}
	w->looked = true;
	cs_timer_start(&w->timer, CS_TLS_WATCH_MS, 0);
}

static void on_timer(struct cs_timer *timer)
{
	struct cs_tls_watch *w = timer->data;
	uv_queue_work(&w->loop->uv, &w->work, work, done);
}

struct cs_tls_watch *cs_tls_watch_new(
	struct cs_loop *loop, enum cs_tls_role role, const struct cs_tls_files *files, struct cs_tls *tls)
{
	const char *const paths[FILES] = {files->chain, files->key, files->bundle};
	struct cs_tls_watch *w = calloc(1, sizeof(*w));
	if (!w)
		return NULL;
	w->loop = loop;
	w->role = role;
	w->tls = tls;
	w->work.data = w;
	for (int i = 0; i < FILES; i++)
		snprintf(w->path[i], sizeof(w->path[i]), "%s", paths[i]);
	cs_timer_init(&w->timer, loop, on_timer, w);
	cs_timer_start(&w->timer, 0, 0);
	return w;
}

void cs_tls_watch_close(struct cs_tls_watch *w)
{
	if (!w || w->closing)
		return;
	w->closing = true;
	cs_timer_close(&w->timer, NULL);
}

void cs_tls_watch_free(struct cs_tls_watch *w)
{
	free(w);
}
