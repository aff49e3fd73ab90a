#include "sign_channel.h"

#include <countersign/sign.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t now_mono_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void cs_sign_channel_init(struct cs_sign_channel *channel)
{
	*channel = (struct cs_sign_channel){.fd = -1};
}

void cs_sign_channel_take(struct cs_sign_channel *channel, int fd)
{
	cs_sign_channel_fini(channel);
	struct timeval limit = {.tv_sec = CS_SIGN_TIMEOUT_MS / 1000, .tv_usec = CS_SIGN_TIMEOUT_MS % 1000 * 1000};
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); /* the monitor connected it on its loop */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	channel->fd = fd;
	channel->rest_until_mono_ms = 0;
}

void cs_sign_channel_fini(struct cs_sign_channel *channel)
{
	if (channel->fd >= 0)
		close(channel->fd);
	channel->fd = -1;
}

static int failed(
	struct cs_sign_channel *channel, int code, enum cs_reason reason, struct cs_error *e, const char *what)
{
	channel->error = code;
	channel->reason = reason;
	return cs_error_reason(e, code, reason, "the signer %s", what);
}

/* The answer to seq; answers to requests that were given up are dropped. */
static int receive(struct cs_sign_channel *channel, struct cs_sign_answer *answer)
{
	int64_t deadline = now_mono_ms() + CS_SIGN_TIMEOUT_MS;
	do {
		ssize_t n = recv(channel->fd, answer, sizeof(*answer), MSG_TRUNC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (n == 0)
			return -EPIPE;
		if (n != (ssize_t)sizeof(*answer))
			return -EBADMSG;
		if (answer->seq == channel->seq)
			return 0;
	} while (now_mono_ms() < deadline);
	return -ETIMEDOUT;
}

int cs_sign(struct cs_sign_channel *channel, uint32_t identity, uint64_t generation, uint16_t scheme, uint8_t kind,
	const uint8_t *hash, size_t hash_len, uint8_t *sig, size_t *len, struct cs_error *e)
{
	struct cs_sign_request q = {.seq = ++channel->seq,
		.generation = generation,
		.identity = identity,
		.scheme = scheme,
		.kind = kind,
		.hash_len = (uint8_t)hash_len};
	struct cs_sign_answer a;
	if (hash_len != 32 && hash_len != 48)
		return failed(channel, -EINVAL, CS_R_SIGNER_UNAVAILABLE, e, "signs hashes of 32 or 48 bytes only");
	if (channel->fd < 0)
		return failed(channel, -ENOTCONN, CS_R_SIGNER_UNAVAILABLE, e, "is not connected");
	if (now_mono_ms() < channel->rest_until_mono_ms)
		return failed(channel, -ETIMEDOUT, CS_R_SIGNER_UNAVAILABLE, e, "did not answer a moment ago");
	memcpy(q.hash, hash, hash_len);
	if (send(channel->fd, &q, sizeof(q), MSG_NOSIGNAL) != (ssize_t)sizeof(q)) {
		channel->rest_until_mono_ms = now_mono_ms() + CS_SIGN_REST_MS;
		return failed(channel, -errno, CS_R_SIGNER_UNAVAILABLE, e, "does not take requests");
	}
	int r = receive(channel, &a);
	if (r < 0) {
		channel->rest_until_mono_ms = now_mono_ms() + CS_SIGN_REST_MS;
		return failed(channel, r, CS_R_SIGNER_UNAVAILABLE, e,
			r == -EBADMSG ? "broke the protocol" : "does not answer");
	}
	if (a.reason != CS_R_NONE)
		return failed(channel, -EPERM, (enum cs_reason)a.reason, e, "refused");
	if (a.len == 0 || a.len > sizeof(a.signature) || a.len > *len)
		return failed(
			channel, -EBADMSG, CS_R_SIGNER_UNAVAILABLE, e, "gave a signature of an impossible length");
	memcpy(sig, a.signature, a.len);
	*len = a.len;
	return 0;
}
