/* Who of the followers has what. Nobody says so unless somebody waits for it: then a batch asks, once at a time for each
 * follower, however many wait. */
#include "directory_service_private.h"

#include <errno.h>
#include "identity_limits.h"
#include "mem.h"

/* Does this one wait for that one? */
static bool counts(const struct cs_published *p, const struct follower *f)
{
	return p->counting && !f->stale && f->fresh < p->turn && f->acked < p->revision;
}

static void finish(struct cs_published *p)
{
	struct cs_directory_service *s = p->service;
	DL_DELETE(s->waiting, p);
	s->nwaiting--;
	p->done(p->data, p->have, p->stale);
	free(p);
}

/* Ask now, if what it has been sent is enough and no other question is out; else the next batch asks. */
static void nudge(struct follower *f)
{
	if (f->want > f->acked && f->asked <= f->acked && !f->full && cs_cursor_at(f->cursor) >= f->want)
		cs_follower_beat(f);
}

bool cs_follower_asks(struct follower *f, uint64_t revision)
{
	if (!f->acks || f->want <= f->acked || f->asked > f->acked || revision < f->want)
		return false;
	f->asked = revision;
	return true;
}

static void start(struct cs_published *p)
{
	struct cs_directory_service *s = p->service;
	struct follower *f, *tmp;
	p->counting = true;
	HASH_ITER (hh, s->ackers, f, tmp) {
		if (counts(p, f)) {
			p->missing++;
			f->want = p->revision > f->want ? p->revision : f->want;
			nudge(f); /* which may be the end of it */
		} else if (f->stale) {
			p->stale++;
			f->want = p->revision > f->want ? p->revision : f->want;
			nudge(f);
		} else if (f->acked >= p->revision) {
			p->have++;
		}
	}
}

static void set_stale(struct follower *f, bool stale)
{
	if (f->stale == stale)
		return;
	f->stale = stale;
	f->service->nstale += stale ? 1 : (size_t)-1;
	cs_metric_set(f->service->stale_gauge, (double)f->service->nstale, f->service->options.label);
}

/* It is no longer waited for, by anybody. */
static void give_up(struct follower *f, bool stale)
{
	struct cs_published *p, *tmp;
	DL_FOREACH_SAFE (f->service->waiting, p, tmp) {
		if (!counts(p, f))
			continue;
		p->missing--;
		p->stale += stale;
	}
}

/* Those for whom nobody is missing any more. */
static void finish_ready(struct cs_directory_service *s)
{
	struct cs_published *p, *tmp;
	DL_FOREACH_SAFE (s->waiting, p, tmp)
		if (p->counting && p->missing == 0)
			finish(p);
}

void cs_published_look(struct cs_directory_service *s)
{
	struct cs_published *p, *tmp;
	DL_FOREACH_SAFE (s->waiting, p, tmp)
		if (!p->counting && cs_dir_revision(s->options.dir) >= p->revision)
			start(p);
	finish_ready(s);
}

static void on_expiry(struct cs_timer *timer)
{
	struct cs_directory_service *s = timer->data;
	int64_t at = cs_loop_mono_ms(s->options.loop);
	while (s->waiting && s->waiting->deadline_mono_ms <= at) {
		struct cs_published *p = s->waiting;
		struct follower *f, *tmp;
		HASH_ITER (hh, s->ackers, f, tmp) {
			if (!counts(p, f))
				continue;
			give_up(f, true);
			set_stale(f, true);
		}
		finish(p);
	}
	finish_ready(s);
	if (s->waiting)
		cs_timer_start(&s->expiry, s->waiting->deadline_mono_ms - at, 0);
}

void cs_directory_service_applied(
	struct cs_directory_service *s, const struct cs_grpc_conn *conn, uint64_t epoch, uint64_t revision)
{
	struct follower *f;
	HASH_FIND_PTR(s->ackers, &conn, f);
	if (!f || epoch != cs_dir_epoch(s->options.dir) || revision <= f->acked || revision > cs_cursor_at(f->cursor))
		return;
	struct cs_published *p;
	DL_FOREACH (s->waiting, p) {
		if (!counts(p, f) || revision < p->revision)
			continue;
		p->missing--;
		p->have++;
	}
	f->acked = revision;
	if (f->stale) { /* heard again */
		set_stale(f, false);
		f->fresh = ++s->turn;
	}
	nudge(f);
	finish_ready(s);
}

int cs_directory_service_published(struct cs_directory_service *s, uint64_t revision, cs_published_done *done,
	void *data, struct cs_published **ret, struct cs_error *e)
{
	if (s->closed)
		return cs_error_set(e, -ESHUTDOWN, "identityd is ending");
	if (s->nwaiting >= CS_PUBLISHED_WAITERS_MAX)
		return cs_error_reason(e, -ENOBUFS, CS_R_TOO_MANY, "%zu wait for followers already", s->nwaiting);
	struct cs_published *p = cs_xcalloc(1, sizeof(*p));
	*p = (struct cs_published){.service = s,
		.revision = revision,
		.turn = ++s->turn,
		.deadline_mono_ms = cs_loop_mono_ms(s->options.loop) + CS_PUBLISHED_MS,
		.done = done,
		.data = data};
	*ret = p;
	DL_APPEND(s->waiting, p);
	s->nwaiting++;
	if (s->waiting == p)
		cs_timer_start(&s->expiry, CS_PUBLISHED_MS, 0);
	if (cs_dir_revision(s->options.dir) >= revision)
		start(p);
	finish_ready(s);
	return 0;
}

void cs_published_cancel(struct cs_published *p)
{
	DL_DELETE(p->service->waiting, p);
	p->service->nwaiting--;
	free(p);
}

/* A connection has one follower that counts: the first. */
void cs_follower_acks_init(struct follower *f)
{
	struct cs_directory_service *s = f->service;
	struct follower *other;
	HASH_FIND_PTR(s->ackers, &f->conn, other);
	if (other)
		return;
	f->acks = true;
	f->fresh = ++s->turn;
	HASH_ADD_PTR(s->ackers, conn, f);
}

void cs_follower_acks_fini(struct follower *f)
{
	struct cs_directory_service *s = f->service;
	if (!f->acks)
		return;
	give_up(f, false);
	set_stale(f, false);
	HASH_DEL(s->ackers, f);
	f->acks = false;
	/* Whoever waited for it alone is answered from the loop: this is called in the midst of other things. */
	if (s->waiting && !s->closed)
		cs_timer_start(&s->expiry, 0, 0);
}

void cs_published_init(struct cs_directory_service *s)
{
	cs_timer_init(&s->expiry, s->options.loop, on_expiry, s);
}

void cs_published_close(struct cs_directory_service *s)
{
	cs_timer_close(&s->expiry, NULL);
	while (s->waiting)
		finish(s->waiting);
}
