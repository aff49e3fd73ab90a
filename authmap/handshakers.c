#include "handshakers.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utlist.h>
#include "hs_message.h"
#include "log.h"

#define CHILD_FD      3
#define STEADY_MS     10000 /* one that lived so long starts again at once */
#define MESSAGES_TURN 256

struct queued {
	struct queued *next;
	int fd; /* -1: none */
	size_t len;
	char bytes[];
};
struct handshaker {
	struct cs_handshakers *all;
	unsigned index;
	pid_t pid; /* 0: none runs */
	int fd;    /* our end */
	bool ready, polling, closing;
	unsigned work;
	int64_t started_mono_ms, backoff_ms;
	uv_poll_t poll;
	struct cs_timer restart;
	struct queued *queue, *queue_end;
	size_t nqueue;
};
struct cs_handshakers {
	struct cs_loop *loop;
	struct cs_handshakers_callbacks callbacks;
	int program;
	bool drop_user;
	uid_t uid;
	gid_t gid;
	unsigned n, open;
	uint64_t restarts;
	uv_signal_t child;
	bool closing;
	struct handshaker each[CS_HANDSHAKERS_MAX];
};

static void spawn(struct handshaker *h);

/* ---- the queue ---- */

static void queue_clear(struct handshaker *h)
{
	while (h->queue) {
		struct queued *q = h->queue;
		h->queue = q->next;
		if (q->fd >= 0)
			close(q->fd);
		free(q);
	}
	h->queue_end = NULL;
	h->nqueue = 0;
}

static int send_one(struct handshaker *h, const void *bytes, size_t len, int fd)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	return sendmsg(h->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static void on_socket(uv_poll_t *poll, int status, int events);

static void listen_for(struct handshaker *h)
{
	uv_poll_start(&h->poll, UV_READABLE | (h->queue ? UV_WRITABLE : 0), on_socket);
}

static int enqueue(struct handshaker *h, const void *bytes, size_t len, int fd)
{
	if (h->nqueue >= CS_HS_QUEUE)
		return -ENOBUFS;
	struct queued *q = malloc(sizeof(*q) + len);
	int copy = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (!q || (fd >= 0 && copy < 0)) {
		free(q);
		return -ENOMEM;
	}
	q->next = NULL;
	q->fd = copy;
	q->len = len;
	memcpy(q->bytes, bytes, len);
	if (h->queue)
		h->queue_end->next = q;
	else
		h->queue = q;
	h->queue_end = q;
	h->nqueue++;
	listen_for(h);
	return 0;
}

static void flush(struct handshaker *h)
{
	while (h->queue) {
		struct queued *q = h->queue;
		if (send_one(h, q->bytes, q->len, q->fd) < 0)
			break; /* full; or gone, and then reading says so */
		h->queue = q->next;
		h->nqueue--;
		if (q->fd >= 0)
			close(q->fd);
		free(q);
	}
	listen_for(h);
}

/* ---- its end ---- */

static void on_poll_closed(uv_handle_t *handle)
{
	struct handshaker *h = handle->data;
	struct cs_handshakers *all = h->all;
	h->polling = false;
	if (!all->closing && !h->pid)
		cs_timer_start(&h->restart, h->backoff_ms, 0);
	if (all->closing && --all->open == 0)
		free(all);
}

/* No more of it: it is killed if it still runs, and reaped by SIGCHLD. */
static void end(struct handshaker *h)
{
	if (h->fd < 0)
		return;
	if (h->pid)
		kill(h->pid, SIGKILL);
	uv_poll_stop(&h->poll);
	uv_close((uv_handle_t *)&h->poll, on_poll_closed);
	close(h->fd);
	h->fd = -1;
	h->ready = false;
	h->work = 0;
	queue_clear(h);
	if (!h->all->closing)
		h->all->callbacks.on_died(h->all->callbacks.data, h->index);
}

static void reaped(struct handshaker *h, int status)
{
	struct cs_handshakers *all = h->all;
	bool steady = cs_loop_mono_ms(all->loop) - h->started_mono_ms >= STEADY_MS;
	h->pid = 0;
	end(h);
	h->backoff_ms = steady || !h->backoff_ms ? CS_HS_RESTART_MIN_MS : 2 * h->backoff_ms;
	if (h->backoff_ms > CS_HS_RESTART_MAX_MS)
		h->backoff_ms = CS_HS_RESTART_MAX_MS;
	all->restarts++;
	cs_warn("a handshaker ended and is started again", cs_u64("index", h->index),
		cs_i64(WIFSIGNALED(status) ? "signal" : "code",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)),
		cs_i64("in_ms", h->backoff_ms));
	if (!h->polling)
		cs_timer_start(&h->restart, h->backoff_ms, 0);
}

static void on_child(uv_signal_t *signal, int signum)
{
	struct cs_handshakers *all = signal->data;
	(void)signum;
	for (unsigned i = 0; i < all->n; i++) {
		int status;
		struct handshaker *h = &all->each[i];
		if (h->pid && waitpid(h->pid, &status, WNOHANG) == h->pid)
			reaped(h, status);
	}
}

void cs_handshakers_kill(struct cs_handshakers *all, unsigned index, const char *why)
{
	struct handshaker *h = &all->each[index];
	if (h->fd < 0)
		return;
	cs_fail("a handshaker broke the protocol and is killed", cs_u64("index", index), cs_str("why", why));
	end(h);
}

/* ---- what it says ---- */

static void hear(struct handshaker *h, const union cs_hs_report *m)
{
	const struct cs_handshakers_callbacks *cb = &h->all->callbacks;
	switch (m->head.type) {
	case CS_HS_READY:
		if (h->ready) {
			cs_handshakers_kill(h->all, h->index, "ready twice");
			return;
		}
		h->ready = true;
		cb->on_ready(cb->data, h->index);
		break;
	case CS_HS_VERDICT:
		cb->on_verdict(cb->data, h->index, &m->verdict);
		break;
	default: /* CS_HS_DONE: checked */
		if (h->work)
			h->work--;
		cb->on_done(cb->data, h->index, &m->done);
		break;
	}
}

/* Bytes of one message and whether a descriptor came with it (it is closed). */
static ssize_t receive(int fd, void *bytes, size_t room, bool *ret_fd)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(8 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = bytes, .iov_len = room};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
	if (n < 0)
		return -errno;
	*ret_fd = (msg.msg_flags & MSG_CTRUNC) != 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		*ret_fd = true;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int got;
			memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
			close(got);
		}
	}
	return n;
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
	struct handshaker *h = poll->data;
	union cs_hs_report m;
	char bytes[sizeof(m) + 1];
	if (events & UV_WRITABLE)
		flush(h);
	for (int i = 0; i < MESSAGES_TURN && h->fd >= 0; i++) {
		struct cs_error e;
		bool has_fd = false;
		ssize_t n = receive(h->fd, bytes, sizeof(bytes), &has_fd);
		if ((n == -EAGAIN || n == -EINTR) && status == 0)
			return;
		if (n <= 0) { /* status: libuv has stopped listening */
			end(h);
			return;
		}
		if (cs_hs_report_parse(bytes, (size_t)n, has_fd, &m, &e) < 0)
			cs_handshakers_kill(h->all, h->index, e.text);
		else if (m.head.type != CS_HS_READY && !h->ready)
			cs_handshakers_kill(h->all, h->index, "it spoke before it was ready");
		else
			hear(h, &m);
	}
}

/* ---- starting ---- */

/* In the child: only what is safe after fork. Never returns. */
static void child(const struct cs_handshakers *all, int fd)
{
	static char name[] = "countersign-handshaker";
	static char path[] = "PATH=/usr/bin:/bin";
	char *argv[] = {name, NULL};
	char *envp[] = {path, NULL};
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	int program = fcntl(all->program, F_DUPFD_CLOEXEC, 16);
	int null = open("/dev/null", O_RDWR);
	if (program < 0 || null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(fd, CHILD_FD) < 0)
		_exit(126);
	/* Everything else goes at exec. */
	syscall(SYS_close_range, CHILD_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
	if (fd == CHILD_FD && fcntl(fd, F_SETFD, 0) < 0)
		_exit(126);
	if (all->drop_user && (setgroups(0, NULL) < 0 || setgid(all->gid) < 0 || setuid(all->uid) < 0))
		_exit(125);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	syscall(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
	_exit(127);
}

static int try_spawn(struct handshaker *h, struct cs_error *e)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return cs_error_errno(e, -errno, "no socketpair for a handshaker");
	pid_t pid = fork();
	if (pid == 0)
		child(h->all, pair[1]);
	close(pair[1]);
	int r = pid < 0 ? -errno : uv_poll_init(&h->all->loop->uv, &h->poll, pair[0]);
	if (r < 0) {
		close(pair[0]);
		h->pid = pid > 0 ? pid : 0; /* it ends by itself: its socket is closed */
		return cs_error_errno(e, r, "cannot start a handshaker");
	}
	h->pid = pid;
	h->fd = pair[0];
	h->polling = true;
	h->poll.data = h;
	h->started_mono_ms = cs_loop_mono_ms(h->all->loop);
	listen_for(h);
	return 0;
}

static void spawn(struct handshaker *h)
{
	struct cs_error e;
	if (h->all->closing || h->pid || h->polling)
		return;
	if (try_spawn(h, &e) < 0) {
		cs_fail("a handshaker could not be started", cs_err(&e));
		if (!h->pid)
			cs_timer_start(&h->restart, CS_HS_RESTART_MAX_MS, 0);
	}
}

static void on_restart(struct cs_timer *t)
{
	spawn(t->data);
}

int cs_handshakers_user(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct cs_error *e)
{
	const struct passwd *pw = getpwnam(user);
	if (!pw)
		return cs_error_set(e, -ENOENT,
			"handshaker.user: there is no user '%s'; make it (useradd --system --no-create-home --shell "
			"/usr/sbin/nologin %s), name another one, or give \"\" to run handshakers as authd's own user",
			user, user);
	*ret_uid = pw->pw_uid;
	*ret_gid = pw->pw_gid;
	return 0;
}

static int prepare(struct cs_handshakers *all, const struct cs_handshakers_config *config, struct cs_error *e)
{
	struct stat st;
	all->program = open(config->path, O_RDONLY | O_CLOEXEC);
	if (all->program < 0)
		return cs_error_errno(e, -errno, "handshaker.path: cannot open %s", config->path);
	if (fstat(all->program, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		return cs_error_set(e, -EACCES, "handshaker.path: %s is not a program", config->path);
	if (!config->user[0])
		return 0;
	all->drop_user = true;
	return cs_handshakers_user(config->user, &all->uid, &all->gid, e);
}

int cs_handshakers_new(struct cs_loop *loop, const struct cs_handshakers_config *config,
	const struct cs_handshakers_callbacks *callbacks, struct cs_handshakers **ret, struct cs_error *e)
{
	struct cs_handshakers *all = calloc(1, sizeof(*all));
	if (!all)
		return cs_error_set(e, -ENOMEM, "no memory");
	all->loop = loop;
	all->callbacks = *callbacks;
	int r = prepare(all, config, e);
	if (r < 0) {
		if (all->program >= 0)
			close(all->program);
		free(all);
		return r;
	}
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	all->n = config->count ? config->count : cores > 0 ? (unsigned)cores : 1;
	if (all->n > CS_HANDSHAKERS_MAX)
		all->n = CS_HANDSHAKERS_MAX;
	uv_signal_init(&loop->uv, &all->child);
	all->child.data = all;
	uv_signal_start(&all->child, on_child, SIGCHLD);
	for (unsigned i = 0; i < all->n; i++) {
		struct handshaker *h = &all->each[i];
		*h = (struct handshaker){.all = all, .index = i, .fd = -1};
		cs_timer_init(&h->restart, loop, on_restart, h);
		spawn(h);
	}
	*ret = all;
	return 0;
}

static void closed(struct cs_handshakers *all)
{
	if (--all->open == 0)
		free(all);
}

static void on_timer_closed(struct cs_timer *t)
{
	closed(((struct handshaker *)t->data)->all);
}

static void on_signal_closed(uv_handle_t *handle)
{
	closed(handle->data);
}

void cs_handshakers_close(struct cs_handshakers *all)
{
	if (!all)
		return;
	all->closing = true;
	all->open = 1 + all->n;
	for (unsigned i = 0; i < all->n; i++) {
		struct handshaker *h = &all->each[i];
		all->open += h->polling;
		end(h);
		if (h->pid)
			waitpid(h->pid, NULL, 0); /* killed: soon */
		cs_timer_close(&h->restart, on_timer_closed);
	}
	uv_close((uv_handle_t *)&all->child, on_signal_closed);
	close(all->program);
}

/* ---- work ---- */

unsigned cs_handshakers_count(const struct cs_handshakers *all)
{
	return all->n;
}

unsigned cs_handshakers_ready_count(const struct cs_handshakers *all)
{
	unsigned n = 0;
	for (unsigned i = 0; i < all->n; i++)
		n += all->each[i].ready;
	return n;
}

bool cs_handshakers_ready(const struct cs_handshakers *all, unsigned index)
{
	return all->each[index].ready;
}

uint64_t cs_handshakers_restarts(const struct cs_handshakers *all)
{
	return all->restarts;
}

int cs_handshakers_pick(const struct cs_handshakers *all, int except)
{
	int best = -1;
	for (int i = 0; i < (int)all->n; i++) {
		const struct handshaker *h = &all->each[i];
		if (h->ready && i != except && h->work < CS_HS_WORK_MAX && (best < 0 || h->work < all->each[best].work))
			best = i;
	}
	return best;
}

int cs_handshakers_send(struct cs_handshakers *all, unsigned index, const void *message, size_t len, int fd)
{
	struct handshaker *h = &all->each[index];
	uint32_t type = ((const struct cs_hs_head *)message)->type;
	if (!h->ready)
		return -ENOTCONN;
	int r = h->queue ? -EAGAIN : send_one(h, message, len, fd);
	if (r < 0)
		r = r == -EAGAIN || r == -ENOBUFS || r == -ETOOMANYREFS ? enqueue(h, message, len, fd) : r;
	if (r == 0 && (type == CS_HS_DIAL || type == CS_HS_ACCEPT))
		h->work++;
	return r;
}

void cs_handshakers_tick(struct cs_handshakers *all)
{
	int64_t now = cs_loop_mono_ms(all->loop);
	for (unsigned i = 0; i < all->n; i++)
		if (!all->each[i].ready && all->each[i].fd >= 0 && now - all->each[i].started_mono_ms > CS_HS_READY_MS)
			cs_handshakers_kill(all, i, "it does not get ready");
}

int cs_handshakers_list(const void *bytes, size_t len)
{
	int fd = memfd_create("list", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	size_t done = 0;
	while (done < len) {
		ssize_t n = write(fd, (const char *)bytes + done, len - done);
		if (n < 0)
			break;
		done += (size_t)n;
	}
	if (done < len || fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
		int r = -errno;
		close(fd);
		return r;
	}
	return fd;
}
