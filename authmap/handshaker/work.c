#include "work.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tls_side.h"

enum phase { HANDSHAKING, AWAIT_CLOSE, AWAIT_ANSWER, OVER };

struct cs_hs_job {
	struct cs_hs_work *work;
	uint64_t request;
	enum cs_hs_role role;
	enum phase phase;
	uint32_t local;                   /* dialler and loopback; the acceptor's comes from the SNI */
	struct cs_hs_side client, server; /* dialler: client only; acceptor: server only */
	int fd;                           /* -1: loopback */
	uv_poll_t poll;
	struct cs_timer deadline;
	int open_handles;
	uint64_t started_ns;
	uint32_t micros;
	UT_hash_handle hh;
};

static uint64_t now_ns(void)
{
	return (uint64_t)cs_clock_system.mono_ns(NULL);
}

/* ---- the end ---- */

static void handle_closed(struct cs_hs_job *job)
{
	if (--job->open_handles > 0)
		return;
	struct cs_hs_work *work = job->work;
	if (job->fd >= 0)
		close(job->fd);
	HASH_DEL(work->jobs, job);
	free(job);
	if (!work->jobs && work->drained) {
		void (*drained)(void *) = work->drained;
		work->drained = NULL;
		drained(work->data);
	}
}

static void poll_closed(uv_handle_t *handle)
{
	handle_closed(handle->data);
}

static void deadline_closed(struct cs_timer *timer)
{
	handle_closed(timer->data);
}

static void make_printable(char *s)
{
	for (; *s; s++)
		if (*s < 0x20 || *s > 0x7e)
			*s = '?';
}

static void finish(struct cs_hs_job *job, enum cs_reason reason, const char *detail)
{
	if (job->phase == OVER)
		return;
	job->phase = OVER;
	struct cs_hs_side *side = job->client.ssl ? &job->client : &job->server;
	struct cs_hs_done done = {.h = {.type = CS_HS_DONE, .request = job->request},
		.reason = reason,
		.alert = side->alert,
		.micros = job->micros};
	snprintf(done.detail, sizeof(done.detail), "%s", detail ? detail : "");
	make_printable(done.detail);
	cs_hs_side_fini(&job->client);
	cs_hs_side_fini(&job->server);
	if (job->fd >= 0)
		uv_close((uv_handle_t *)&job->poll, poll_closed);
	cs_timer_close(&job->deadline, deadline_closed);
	job->work->done(&done, job->work->data);
}

static void on_deadline(struct cs_timer *timer)
{
	struct cs_hs_job *job = timer->data;
	finish(job, CS_R_PEER_TIMEOUT, job->phase == AWAIT_ANSWER ? "the monitor did not answer" : NULL);
}

static void fail(struct cs_hs_job *job, struct cs_hs_side *side, int ssl_error)
{
	char detail[128];
	enum cs_reason reason = cs_hs_side_failure(side, ssl_error, detail, sizeof(detail));
	if (reason == CS_R_VERDICT_TRUNCATED && job->role == CS_HS_ACCEPTOR && !side->heard)
		reason = CS_R_NOT_TLS; /* it left without a word */
	finish(job, reason, detail);
}

/* ---- the verdict ---- */

static void leaf_facts(struct cs_leaf *leaf, const struct cs_peer *peer)
{
	memcpy(leaf->sha256, cs_peer_leaf_sha256(peer), sizeof(leaf->sha256));
	memcpy(leaf->root_sha256, cs_peer_root_sha256(peer), sizeof(leaf->root_sha256));
	memcpy(leaf->authority_kid, cs_peer_authority_kid(peer), sizeof(leaf->authority_kid));
	memcpy(leaf->serial, cs_peer_serial(peer), sizeof(leaf->serial));
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static void tell_verdict(struct cs_hs_job *job)
{
	bool loopback = job->role == CS_HS_LOOPBACK;
	struct cs_hs_side *mine = job->role == CS_HS_ACCEPTOR ? &job->server : &job->client;
	struct cs_hs_verdict v = {.h = {.type = CS_HS_VERDICT, .request = job->request},
		.role = job->role,
		.local = mine->svid->identity,
		.local_svid_generation = mine->svid->generation,
		.remote_svid_generation = loopback ? job->server.svid->generation : 0,
		.local_bundle_generation = cs_peer_bundle_generation(mine->self),
		.remote_bundle_generation = cs_peer_bundle_generation(mine->peer),
		.not_after_unix_s =
			earlier(cs_peer_not_after_unix_s(mine->self), cs_peer_not_after_unix_s(mine->peer))};
	leaf_facts(&v.local_leaf, mine->self);
	leaf_facts(&v.remote_leaf, mine->peer);
	memcpy(v.remote_spiffe_id, cs_peer_id(mine->peer)->text, cs_peer_id(mine->peer)->len);
	job->phase = AWAIT_ANSWER;
	if (job->fd >= 0)
		uv_poll_stop(&job->poll);
	job->work->verdict(&v, job->work->data);
}

/* ---- progress ---- */

static void on_ready(uv_poll_t *handle, int status, int events);

/* Waits for what OpenSSL wants, or says that ssl_error is none of that. */
static bool wait_for_peer(struct cs_hs_job *job, int ssl_error)
{
	if (ssl_error != SSL_ERROR_WANT_READ && ssl_error != SSL_ERROR_WANT_WRITE)
		return false;
	uv_poll_start(&job->poll, ssl_error == SSL_ERROR_WANT_READ ? UV_READABLE : UV_WRITABLE, on_ready);
	return true;
}

/* The dialler's second half: nothing is written, not even close_notify, until the acceptor has said what it thinks. */
static void read_answer(struct cs_hs_job *job)
{
	uint8_t byte;
	ERR_clear_error();
	errno = 0;
	int n = SSL_read(job->client.ssl, &byte, 1);
	int ssl_error = n > 0 ? SSL_ERROR_NONE : SSL_get_error(job->client.ssl, n);
	if (n > 0)
		finish(job, CS_R_VERDICT_GARBAGE, NULL);
	else if (ssl_error == SSL_ERROR_ZERO_RETURN)
		tell_verdict(job);
	else if (!wait_for_peer(job, ssl_error))
		fail(job, &job->client, ssl_error);
}

static void shake(struct cs_hs_job *job)
{
	struct cs_hs_side *side = job->role == CS_HS_DIALLER ? &job->client : &job->server;
	ERR_clear_error();
	errno = 0;
	int n = SSL_do_handshake(side->ssl);
	if (n != 1) {
		int ssl_error = SSL_get_error(side->ssl, n);
		if (!wait_for_peer(job, ssl_error))
			fail(job, side, ssl_error);
		return;
	}
	job->micros = (uint32_t)((now_ns() - job->started_ns) / 1000);
	if (!side->peer || !side->self) /* cannot be: a certificate is asked for, and no session is resumed */
		finish(job, CS_R_NO_CERTIFICATE, NULL);
	else if (job->role == CS_HS_ACCEPTOR)
		tell_verdict(job);
	else {
		job->phase = AWAIT_CLOSE;
		read_answer(job);
	}
}

static void on_ready(uv_poll_t *handle, int status, int events)
{
	(void)status; /* an error shows at the next read or write */
	(void)events;
	struct cs_hs_job *job = handle->data;
	if (job->phase == HANDSHAKING)
		shake(job);
	else if (job->phase == AWAIT_CLOSE)
		read_answer(job);
}

/* Both ends are here: turn by turn until both are done; a bounded number, for a turn that brings nothing new ends it. */
static void shake_loopback(struct cs_hs_job *job)
{
	struct cs_hs_side *sides[] = {&job->client, &job->server};
	bool done[2] = {false, false};
	for (int turn = 0; turn < 16 && !(done[0] && done[1]); turn++) {
		int i = turn & 1;
		if (done[i])
			continue;
		ERR_clear_error();
		errno = 0;
		int n = SSL_do_handshake(sides[i]->ssl);
		int ssl_error = n == 1 ? SSL_ERROR_NONE : SSL_get_error(sides[i]->ssl, n);
		done[i] = n == 1;
		if (ssl_error != SSL_ERROR_NONE && ssl_error != SSL_ERROR_WANT_READ &&
			ssl_error != SSL_ERROR_WANT_WRITE) {
			fail(job, sides[i], ssl_error);
			return;
		}
	}
	job->micros = (uint32_t)((now_ns() - job->started_ns) / 1000);
	if (done[0] && done[1] && job->client.peer && job->server.peer)
		tell_verdict(job);
	else
		finish(job, CS_R_VERDICT_TRUNCATED, "the two ends did not come together");
}

/* ---- what the monitor asks ---- */

int cs_hs_work_init(struct cs_hs_work *work, struct cs_error *e)
{
	return cs_hs_side_contexts(work->world, e);
}

/* The job exists from here on and ends with one `done`. */
static int job_new(struct cs_hs_work *work, uint64_t request, enum cs_hs_role role, int64_t deadline_mono_ms, int fd,
	struct cs_hs_job **ret, struct cs_error *e)
{
	struct cs_hs_job *job;
	HASH_FIND(hh, work->jobs, &request, sizeof(request), job);
	if (job || !(job = calloc(1, sizeof(*job)))) {
		if (fd >= 0)
			close(fd);
		return job ? cs_error_set(e, -EEXIST, "request %llu is there already", (unsigned long long)request)
			   : cs_error_set(e, -ENOMEM, "no memory for a handshake");
	}
	*job = (struct cs_hs_job){.work = work, .request = request, .role = role, .fd = fd, .started_ns = now_ns()};
	HASH_ADD(hh, work->jobs, request, sizeof(request), job);
	cs_timer_init(&job->deadline, work->loop, on_deadline, job);
	job->open_handles = 1;
	if (fd >= 0 && uv_poll_init(&work->loop->uv, &job->poll, fd) == 0) {
		job->poll.data = job;
		job->open_handles = 2;
	} else if (fd >= 0) {
		close(fd);
		job->fd = -1;
		finish(job, CS_R_PEER_UNREACHABLE, "not a socket that can be waited for");
		return 0;
	}
	if (HASH_COUNT(work->jobs) > CS_HS_WORK_MAX) {
		finish(job, CS_R_TOO_MANY, "too many handshakes in flight");
		return 0;
	}
	int64_t left_ms = deadline_mono_ms - cs_loop_mono_ms(work->loop);
	if (left_ms <= 0) {
		finish(job, CS_R_PEER_TIMEOUT, "the deadline had passed");
		return 0;
	}
	cs_timer_start(&job->deadline, left_ms, 0);
	*ret = job;
	return 0;
}

static void refuse(struct cs_hs_job *job, const struct cs_error *e)
{
	finish(job, e->reason != CS_R_NONE ? e->reason : CS_R_TOO_MANY, e->text);
}

/* Connected by a pair of BIOs in memory. */
static int join(struct cs_hs_job *job, struct cs_error *e)
{
	BIO *a, *b;
	if (BIO_new_bio_pair(&a, 32 * 1024, &b, 32 * 1024) != 1)
		return cs_error_set(e, -ENOMEM, "no memory");
	SSL_set_bio(job->client.ssl, a, a);
	SSL_set_bio(job->server.ssl, b, b);
	return 0;
}

int cs_hs_dial_take(struct cs_hs_work *work, const struct cs_hs_dial *m, int fd, struct cs_error *e)
{
	struct cs_hs_job *job = NULL;
	struct cs_error why = {0};
	int r = job_new(work, m->h.request, (enum cs_hs_role)m->role, m->deadline_mono_ms, fd, &job, e);
	if (r < 0 || !job)
		return r;
	r = cs_hs_side_client(&job->client, work->world, m->local, m->sni, m->remote_spiffe_id, &why);
	if (r == 0 && job->role == CS_HS_LOOPBACK) {
		r = cs_hs_side_server(&job->server, work->world, &job->client.svid->id, &why);
		if (r == 0)
			r = join(job, &why);
	} else if (r == 0 && SSL_set_fd(job->client.ssl, fd) != 1) {
		r = cs_error_set(&why, -ENOMEM, "no memory");
	}
	if (r < 0)
		refuse(job, &why);
	else if (job->role == CS_HS_LOOPBACK)
		shake_loopback(job);
	else
		shake(job);
	return 0;
}

int cs_hs_accept_take(struct cs_hs_work *work, const struct cs_hs_accept *m, int fd, struct cs_error *e)
{
	struct cs_hs_job *job = NULL;
	struct cs_error why = {0};
	int r = job_new(work, m->h.request, CS_HS_ACCEPTOR, m->deadline_mono_ms, fd, &job, e);
	if (r < 0 || !job)
		return r;
	r = cs_hs_side_server(&job->server, work->world, NULL, &why);
	if (r == 0 && SSL_set_fd(job->server.ssl, fd) != 1)
		r = cs_error_set(&why, -ENOMEM, "no memory");
	if (r < 0)
		refuse(job, &why);
	else
		shake(job);
	return 0;
}

void cs_hs_cancel(struct cs_hs_work *work, uint64_t request)
{
	struct cs_hs_job *job;
	HASH_FIND(hh, work->jobs, &request, sizeof(request), job);
	if (job)
		finish(job, CS_R_STALE_VERDICT, "cancelled");
}

/* Unread bytes at close would make the kernel send a reset, which can overtake our answer at the peer. */
static void drain(int fd)
{
	uint8_t sink[2048];
	for (int i = 0; i < 8 && recv(fd, sink, sizeof(sink), MSG_DONTWAIT) > 0; i++)
		;
}

/* Whoever is not known here yet may try again in a moment (authenticate.c); nobody else need know why. */
static uint8_t alert_for(enum cs_reason reason)
{
	switch (reason) {
	case CS_R_MAP_WRITE_FAILED:
		return SSL_AD_INTERNAL_ERROR;
	case CS_R_SPIFFE_ID_UNKNOWN:
	case CS_R_PEER_NOT_PLACED:
		return SSL_AD_CERTIFICATE_UNKNOWN;
	default:
		return SSL_AD_ACCESS_DENIED;
	}
}

static void say_no(struct cs_hs_job *job, enum cs_reason reason)
{
	uint8_t record[CS_LATE_ALERT_RECORD];
	uint8_t alert = alert_for(reason);
	struct cs_hs_side *side = &job->server;
	if (cs_late_alert(job->work->world->ctx, SSL_get_current_cipher(side->ssl), &side->secret, alert, record) ==
			0 &&
		send(job->fd, record, sizeof(record), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(record)) {
		side->alert = alert;
		shutdown(job->fd, SHUT_WR);
		drain(job->fd);
	}
	finish(job, reason, NULL);
}

void cs_hs_answer(struct cs_hs_work *work, const struct cs_hs_answer *m)
{
	struct cs_hs_job *job;
	HASH_FIND(hh, work->jobs, &m->h.request, sizeof(m->h.request), job);
	if (!job || job->phase != AWAIT_ANSWER)
		return;
	enum cs_reason reason = (enum cs_reason)m->reason;
	if (job->role == CS_HS_LOOPBACK) {
		finish(job, reason, NULL);
		return;
	}
	if (reason != CS_R_NONE && job->role == CS_HS_ACCEPTOR) {
		say_no(job, reason);
		return;
	}
	struct cs_hs_side *side = job->role == CS_HS_ACCEPTOR ? &job->server : &job->client;
	ERR_clear_error();
	if (reason == CS_R_NONE && SSL_shutdown(side->ssl) < 0 && job->role == CS_HS_ACCEPTOR) {
		finish(job, CS_R_VERDICT_TRUNCATED, "the answer could not be sent");
		return;
	}
	shutdown(job->fd, SHUT_WR);
	drain(job->fd);
	finish(job, reason, NULL);
}

void cs_hs_work_stop(struct cs_hs_work *work, void (*drained)(void *data))
{
	struct cs_hs_job *job, *next;
	if (!work->jobs) {
		drained(work->data);
		return;
	}
	work->drained = drained;
	HASH_ITER (hh, work->jobs, job, next)
		finish(job, CS_R_STALE_VERDICT, "the handshaker ends");
}
