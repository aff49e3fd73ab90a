/* countersign-handshaker: TLS and certificates, nothing else. Started by countersign-authd with one end of a
 * SEQPACKET socketpair on descriptor 3; takes work, sends verdicts, and ends when the other end is gone. */
#include <countersign/handshaker.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>
#include "log.h"
#include "work.h"

#define MONITOR_FD 3

struct handshaker {
	struct cs_loop loop;
	struct cs_hs_world world;
	struct cs_hs_work work;
	uv_poll_t monitor;
	uv_idle_t warm; /* runs while own chains wait to be checked */
	bool ending;
};

static void end(struct handshaker *h);

static void to_monitor(struct handshaker *h, const void *message, size_t len)
{
	/* The socket blocks: a monitor that does not read holds its handshaker, which is what a full queue should do. */
	if (send(MONITOR_FD, message, len, MSG_NOSIGNAL) != (ssize_t)len)
		end(h);
}

static void on_verdict(const struct cs_hs_verdict *verdict, void *data)
{
	to_monitor(data, verdict, sizeof(*verdict));
}

static void on_done(const struct cs_hs_done *done, void *data)
{
	struct handshaker *h = data;
	if (!h->ending)
		to_monitor(h, done, sizeof(*done));
}

static void on_drained(void *data)
{
	(void)data; /* the loop ends when its last handle is closed */
}

static void end(struct handshaker *h)
{
	if (h->ending)
		return;
	h->ending = true;
	uv_close((uv_handle_t *)&h->monitor, NULL);
	uv_close((uv_handle_t *)&h->warm, NULL);
	cs_hs_work_stop(&h->work, on_drained);
}

/* The content of a sealed memfd; *ret_map is to be unmapped. */
static int map_list(int fd, const uint8_t **ret_map, size_t *ret_len, struct cs_error *e)
{
	const int wanted = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
	struct stat st;
	if ((fcntl(fd, F_GET_SEALS) & wanted) != wanted || fstat(fd, &st) < 0 || st.st_size > CS_HS_LIST_MAX)
		return cs_error_set(e, -EBADMSG, "message from the monitor: not a sealed memfd of at most %d bytes",
			CS_HS_LIST_MAX);
	*ret_len = (size_t)st.st_size;
	*ret_map = st.st_size ? mmap(NULL, *ret_len, PROT_READ, MAP_SHARED, fd, 0) : (const uint8_t *)"";
	return *ret_map == MAP_FAILED ? cs_error_errno(e, -errno, "cannot read a certificate list") : 0;
}

static void on_idle(uv_idle_t *idle)
{
	struct handshaker *h = idle->data;
	if (!cs_hs_world_warm(&h->world))
		uv_idle_stop(idle);
}

static int take_state(struct handshaker *h, const union cs_hs_message *m, int fd, struct cs_error *e)
{
	const uint8_t *list = NULL;
	size_t len = 0;
	struct cs_error why;
	int r = fd >= 0 ? map_list(fd, &list, &len, e) : 0;
	if (r < 0)
		return r;
	/* A list that cannot be used leaves nothing in use; that is no reason to end. */
	int used = m->head.type == CS_HS_SVID ? cs_hs_world_svid(&h->world, &m->svid, list, len, &why)
					      : cs_hs_world_bundle(&h->world, &m->bundle, list, len, &why);
	if (used < 0)
		cs_warn("certificates cannot be used", cs_err(&why), cs_why(why.reason));
	if (len)
		munmap((void *)list, len);
	uv_idle_start(&h->warm, on_idle);
	return 0;
}

static int handle(struct handshaker *h, const union cs_hs_message *m, int fd, struct cs_error *e)
{
	int r = 0;
	switch (m->head.type) {
	case CS_HS_SVID:
	case CS_HS_BUNDLE:
		r = take_state(h, m, fd, e);
		if (fd >= 0)
			close(fd);
		return r;
	case CS_HS_SIGNER:
		cs_sign_channel_take(&h->world.signer, fd);
		return 0;
	case CS_HS_DIAL:
		return cs_hs_dial_take(&h->work, &m->dial, fd, e);
	case CS_HS_ACCEPT:
		return cs_hs_accept_take(&h->work, &m->accept, fd, e);
	case CS_HS_CANCEL:
		cs_hs_cancel(&h->work, m->head.request);
		return 0;
	default: /* CS_HS_ANSWER: checked */
		cs_hs_answer(&h->work, &m->answer);
		return 0;
	}
}

/* One message and its descriptor (-1: none). The length, 0 at the end, or -errno. */
static ssize_t receive(union cs_hs_message *m, int *ret_fd)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = m, .iov_len = sizeof(*m)};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(MONITOR_FD, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	*ret_fd = -1;
	if (n < 0)
		return -errno;
	size_t count = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++, count++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (*ret_fd >= 0)
				close(fd);
			else
				*ret_fd = fd;
		}
	}
	return (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || count > 1 ? -EBADMSG : n;
}

static void on_monitor(uv_poll_t *poll, int status, int events)
{
	struct handshaker *h = poll->data;
	(void)status;
	(void)events;
	for (int i = 0; i < 64 && !h->ending; i++) { /* then the connections get a turn */
		union cs_hs_message m;
		struct cs_error e = {0};
		int fd;
		ssize_t n = receive(&m, &fd);
		if (n == -EAGAIN || n == -EINTR)
			return;
		int r = n > 0 ? cs_hs_message_check(&m, (size_t)n, fd >= 0, &e) : (int)n;
		if (r == 0 && n > 0) {
			r = handle(h, &m, fd, &e);
		} else if (fd >= 0) {
			close(fd);
		}
		if (n == 0 || r < 0) {
			if (r < 0)
				cs_fail("the monitor broke the protocol",
					cs_str("error", e.text[0] ? e.text : strerror(-r)));
			end(h);
		}
	}
}

static void lock_in(void)
{
	struct rlimit none = {0, 0};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0);
	setrlimit(RLIMIT_CORE, &none);
}

int main(int argc, char **argv)
{
	static struct handshaker h;
	struct cs_error e;
	struct stat st;
	if (argc > 1 || fstat(MONITOR_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		fprintf(stderr,
			"%s is started by countersign-authd, with a socket on descriptor %d, and takes no arguments\n",
			argv[0], MONITOR_FD);
		return 2;
	}
	cs_log_init("handshaker", CS_LOG_INFO, CS_LOG_AUTO);
	lock_in();
	int r = cs_loop_init(&h.loop, NULL, &e);
	if (r == 0)
		r = cs_hs_world_init(&h.world, &e);
	h.work = (struct cs_hs_work){
		.loop = &h.loop, .world = &h.world, .verdict = on_verdict, .done = on_done, .data = &h};
	if (r == 0)
		r = cs_hs_work_init(&h.work, &e);
	if (r == 0 && (r = uv_poll_init(&h.loop.uv, &h.monitor, MONITOR_FD)) < 0)
		cs_error_set(&e, r, "descriptor %d cannot be waited for: %s", MONITOR_FD, uv_strerror(r));
	if (r < 0) {
		cs_fail("cannot start", cs_err(&e));
		return 1;
	}
	fcntl(MONITOR_FD, F_SETFL, fcntl(MONITOR_FD, F_GETFL) & ~O_NONBLOCK); /* to_monitor() may wait */
	h.monitor.data = &h;
	uv_idle_init(&h.loop.uv, &h.warm);
	h.warm.data = &h;
	uv_poll_start(&h.monitor, UV_READABLE, on_monitor);
	struct cs_hs_head ready = {.type = CS_HS_READY};
	to_monitor(&h, &ready, sizeof(ready));
	cs_loop_run(&h.loop);
	cs_hs_world_fini(&h.world);
	cs_loop_fini(&h.loop);
	return 0;
}
