/* A channel's connections: made on demand, watched, replaced, with backoff. Everything that could call back happens in
 * on_wake, on_timer or a uv callback, never inside a function of the user's. */
#include "grpc_client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/un.h>

static void try_next_address(struct cs_grpc_channel *channel);
static void begin(struct cs_grpc_channel *channel);
static void on_wake(uv_idle_t *idle);
static void on_timer(struct cs_timer *timer);

static int64_t now(const struct cs_grpc_channel *channel)
{
	return cs_loop_mono_ms(channel->loop);
}

void cs_grpc_channel_wake(struct cs_grpc_channel *channel)
{
	uv_idle_start(&channel->wake, on_wake);
}

void cs_grpc_channel_deadline(struct cs_grpc_channel *channel, int64_t at_ms)
{
	if (at_ms >= channel->next_ms)
		return;
	channel->next_ms = at_ms;
	cs_timer_start(&channel->timer, at_ms - now(channel), 0);
}

static void set_state(struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error)
{
	if (channel->state == state)
		return;
	channel->state = state;
	if (channel->options.on_state && !channel->closing)
		channel->options.on_state(channel, state, error, channel->options.data);
}

static bool wanted(const struct cs_grpc_channel *channel)
{
	return !channel->closing && (channel->options.keep || channel->waiting);
}

/* ---- making one ---- */

static int parse_target(struct cs_grpc_channel *channel, const char *target, struct cs_error *e)
{
	snprintf(channel->name, sizeof(channel->name), "%s", target);
	channel->options.target = channel->name;
	if (strncmp(target, "unix:", 5) == 0) {
		if (strlen(target + 5) >= sizeof(((struct sockaddr_un *)0)->sun_path))
			return cs_error_set(e, -ENAMETOOLONG, "the socket path %s is too long", target + 5);
		snprintf(channel->target, sizeof(channel->target), "%s", target + 5);
		snprintf(channel->authority, sizeof(channel->authority), "localhost");
		return 0;
	}
	const char *colon = strrchr(target, ':'), *host = target;
	size_t n = colon ? (size_t)(colon - target) : 0;
	char *end;
	unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
	if (n == 0 || strlen(target) > CS_GRPC_TARGET_MAX || port == 0 || port > 65535 || *end)
		return cs_error_set(
			e, -EINVAL, "'%s' is not a target: write unix:/path, HOST:PORT or [ADDRESS]:PORT", target);
	snprintf(channel->authority, sizeof(channel->authority), "%s", target);
	if (host[0] == '[' && n > 2 && host[n - 1] == ']') {
		host++;
		n -= 2;
	}
	snprintf(channel->target, sizeof(channel->target), "%.*s", (int)n, host);
	channel->port = (uint16_t)port;
	channel->tcp = true;
	return 0;
}

int cs_grpc_channel_new(struct cs_loop *loop, const struct cs_grpc_channel_options *options,
	struct cs_grpc_channel **ret_channel, struct cs_error *e)
{
	struct cs_grpc_channel *channel = calloc(1, sizeof(*channel));
	if (!channel)
		return cs_error_set(e, -ENOMEM, "no memory for a channel");
	channel->loop = loop;
	channel->options = *options;
	cs_grpc_limits_fill(&channel->options.limits);
	if (channel->options.backoff_min_ms <= 0)
		channel->options.backoff_min_ms = CS_GRPC_BACKOFF_MIN_MS;
	if (channel->options.backoff_max_ms <= 0)
		channel->options.backoff_max_ms = CS_GRPC_BACKOFF_MAX_MS;
	channel->next_ms = channel->attempt_ms = channel->idle_ms = INT64_MAX;
	int r = parse_target(channel, options->target, e);
	if (r == 0 && (channel->tcp && !options->plain) != (options->tls != NULL))
		r = cs_error_set(e, -EINVAL,
			options->tls ? "%s: no TLS on a Unix socket" : "%s: TCP is spoken with TLS only",
			options->target);
	if (r < 0) {
		free(channel);
		return r;
	}
	cs_timer_init(&channel->timer, loop, on_timer, channel);
	uv_idle_init(&loop->uv, &channel->wake);
	channel->wake.data = channel->resolve.data = channel;
	cs_grpc_channel_wake(channel);
	*ret_channel = channel;
	return 0;
}

enum cs_grpc_state cs_grpc_channel_state(const struct cs_grpc_channel *channel)
{
	return channel->closing ? CS_GRPC_CLOSED : channel->state;
}

uint64_t cs_grpc_channel_connection(const struct cs_grpc_channel *channel)
{
	return channel->connection;
}

const char *cs_grpc_channel_peer(const struct cs_grpc_channel *channel)
{
	return channel->state == CS_GRPC_READY && channel->conn ? channel->conn->h.peer : "";
}

/* ---- failure and backoff ---- */

static int64_t backoff_ms(const struct cs_grpc_channel *channel)
{
	double ms = (double)channel->options.backoff_min_ms, max = (double)channel->options.backoff_max_ms;
	for (unsigned i = 1; i < channel->attempts && ms < max; i++)
		ms *= 1.6;
	uint32_t jitter = UINT32_MAX / 2;
	if (getrandom(&jitter, sizeof(jitter), GRND_NONBLOCK) < 0)
		jitter = UINT32_MAX / 2; /* no randomness yet at boot: no jitter */
	return (int64_t)((ms < max ? ms : max) * (0.8 + 0.4 * jitter / UINT32_MAX));
}

static void attempt_failed(struct cs_grpc_channel *channel, const struct cs_error *why)
{
	channel->why = *why;
	if (channel->next_address < channel->naddresses) {
		try_next_address(channel);
		return;
	}
	channel->attempts++;
	channel->attempt_ms = now(channel) + backoff_ms(channel);
	cs_grpc_channel_deadline(channel, channel->attempt_ms);
	set_state(channel, CS_GRPC_BACKOFF, &channel->why);
	cs_grpc_channel_wake(channel); /* calls that do not wait fail there */
}

/* What was READY is not any more. Only a connection that held for a while ends the backoff: a server that takes us in
 * and throws us out is no better than one that is not there. */
static void lost(struct cs_grpc_channel *channel, const struct cs_error *why)
{
	channel->why = *why;
	if (now(channel) - channel->ready_ms >= channel->options.backoff_max_ms)
		channel->attempts = 0;
	channel->attempts++;
	channel->start_ms = now(channel) + backoff_ms(channel);
	set_state(channel, CS_GRPC_IDLE, &channel->why);
	cs_grpc_channel_wake(channel);
}

/* ---- connecting ---- */

static int conn_up(struct cs_http2 *h, struct cs_error *e)
{
	return cs_grpc_response_session((struct client_conn *)h, e);
}

static void conn_after_io(struct cs_http2 *h)
{
	(void)h;
}

static void conn_down(struct cs_http2 *h, const struct cs_error *why)
{
	struct client_conn *conn = (struct client_conn *)h;
	struct cs_grpc_channel *channel = conn->channel;
	struct cs_error e = *why;
	if (!conn->ready && h->is_up && !channel->tcp && (why->code == -ECONNRESET || why->code == -EPIPE))
		cs_error_reason(&e, why->code, CS_R_ROLE_REFUSED,
			"the server closed the connection at once: this user has no role there");
	if (!conn->ready)
		cs_error_prefix(&e, "cannot connect to %s", channel->options.target);
	else
		cs_error_prefix(&e, "%s", channel->options.target);
	cs_grpc_client_conn_lost(conn, &e);
	if (channel->conn != conn)
		return;
	channel->conn = NULL;
	if (channel->closing)
		return;
	if (!conn->ready) {
		attempt_failed(channel, &e);
		return;
	}
	lost(channel, &e);
}

static void conn_gone(struct cs_http2 *h)
{
	struct client_conn *conn = (struct client_conn *)h;
	struct cs_grpc_channel *channel = conn->channel;
	DL_DELETE(channel->conns, conn);
	free(conn);
	cs_grpc_channel_wake(channel);
}

static const struct cs_http2_events conn_events = {
	.up = conn_up, .after_io = conn_after_io, .down = conn_down, .gone = conn_gone};

static void on_connected(uv_connect_t *request, int status)
{
	struct client_conn *conn = request->data;
	struct cs_error e;
	if (conn->h.failed)
		return;
	if (status < 0)
		cs_error_set(&e, status, "%s", uv_strerror(status));
	else
		status = cs_http2_start(&conn->h, conn->channel->options.tls, &e);
	if (status < 0)
		cs_http2_fail(&conn->h, &e);
}

struct client_conn *cs_grpc_channel_conn(struct cs_grpc_channel *channel, struct cs_error *e)
{
	struct client_conn *conn = calloc(1, sizeof(*conn));
	int r = conn ? cs_http2_init(&conn->h, channel->loop, channel->tcp, false, &conn_events, e)
		     : cs_error_set(e, -ENOMEM, "no memory for a connection");
	if (r < 0) {
		free(conn);
		return NULL;
	}
	conn->channel = channel;
	conn->connect.data = conn;
	DL_APPEND(channel->conns, conn);
	channel->conn = conn;
	return conn;
}

static void connect_to(struct cs_grpc_channel *channel, const struct sockaddr *address)
{
	struct cs_error e;
	int r = 0;
	struct client_conn *conn = cs_grpc_channel_conn(channel, &e);
	if (!conn) {
		attempt_failed(channel, &e);
		return;
	}
	channel->attempt_ms = now(channel) + channel->options.limits.handshake_ms;
	cs_grpc_channel_deadline(channel, channel->attempt_ms);
	if (channel->tcp)
		r = uv_tcp_connect(&conn->connect, &conn->h.io.tcp, address, on_connected);
	else
		uv_pipe_connect(&conn->connect, &conn->h.io.pipe, channel->target, on_connected);
	if (r < 0) {
		cs_error_set(&e, r, "%s", uv_strerror(r));
		cs_http2_fail(&conn->h, &e);
	}
}

static void try_next_address(struct cs_grpc_channel *channel)
{
	connect_to(channel, (const struct sockaddr *)&channel->addresses[channel->next_address++]);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
	struct cs_grpc_channel *channel = request->data;
	bool stale = channel->resolve_stale;
	channel->resolving = channel->resolve_stale = false;
	channel->naddresses = channel->next_address = 0;
	for (const struct addrinfo *a = list; status == 0 && a && channel->naddresses < CS_GRPC_ADDRESSES_MAX;
		a = a->ai_next)
		memcpy(&channel->addresses[channel->naddresses++], a->ai_addr, a->ai_addrlen);
	uv_freeaddrinfo(list);
	cs_grpc_channel_wake(channel);
	if (channel->closing || channel->state != CS_GRPC_CONNECTING)
		return;
	if (stale) { /* given up or reset meanwhile, and wanted again since */
		begin(channel);
		return;
	}
	if (channel->naddresses > 0) {
		try_next_address(channel);
		return;
	}
	struct cs_error e;
	cs_error_set(&e, status < 0 ? status : -EADDRNOTAVAIL, "cannot resolve %s: %s", channel->target,
		status < 0 ? uv_strerror(status) : "it has no address");
	attempt_failed(channel, &e);
}

static void resolve(struct cs_grpc_channel *channel)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct sockaddr_storage *sa = &channel->addresses[0];
	channel->naddresses = channel->next_address = 0;
	if (uv_ip4_addr(channel->target, channel->port, (struct sockaddr_in *)sa) == 0 ||
		uv_ip6_addr(channel->target, channel->port, (struct sockaddr_in6 *)sa) == 0) {
		channel->naddresses = 1;
		try_next_address(channel);
		return;
	}
	char port[8];
	snprintf(port, sizeof(port), "%u", (unsigned)channel->port);
	int r = uv_getaddrinfo(&channel->loop->uv, &channel->resolve, on_resolved, channel->target, port, &hints);
	if (r < 0) {
		struct cs_error e;
		cs_error_set(&e, r, "cannot resolve %s: %s", channel->target, uv_strerror(r));
		attempt_failed(channel, &e);
		return;
	}
	channel->resolving = true;
	channel->attempt_ms = now(channel) + channel->options.limits.handshake_ms;
	cs_grpc_channel_deadline(channel, channel->attempt_ms);
}

/* CONNECTING begins; after a connection that was lost, a moment later. */
static void begin(struct cs_grpc_channel *channel)
{
	set_state(channel, CS_GRPC_CONNECTING, NULL);
	if (channel->closing || channel->conn || channel->resolving)
		return;
	channel->attempt_ms = INT64_MAX;
	if (now(channel) < channel->start_ms)
		cs_grpc_channel_deadline(channel, channel->start_ms);
	else if (channel->tcp)
		resolve(channel);
	else
		connect_to(channel, NULL);
}

void cs_grpc_channel_ready(struct client_conn *conn)
{
	struct cs_grpc_channel *channel = conn->channel;
	conn->ready = true;
	if (channel->conn != conn || channel->closing)
		return;
	channel->ready_ms = now(channel);
	channel->attempt_ms = INT64_MAX;
	channel->connection++;
	channel->in_ready = true;
	set_state(channel, CS_GRPC_READY, NULL);
	channel->in_ready = false;
	cs_grpc_client_first(channel);
	cs_grpc_channel_wake(channel);
}

void cs_grpc_channel_goaway(struct client_conn *conn)
{
	struct cs_grpc_channel *channel = conn->channel;
	if (channel->conn != conn)
		return;
	channel->conn = NULL; /* its calls run on; new ones go elsewhere */
	struct cs_error e;
	cs_error_set(&e, -ECONNRESET, "%s: the server sent the connection away", channel->options.target);
	if (conn->ready)
		lost(channel, &e);
	else
		attempt_failed(channel, &e);
}

/* ---- time ---- */

static void fail_conn(struct client_conn *conn, int code, const char *text)
{
	struct cs_error e;
	cs_error_set(&e, code, "%s", text);
	cs_http2_fail(&conn->h, &e);
}

static void attempt_due(struct cs_grpc_channel *channel)
{
	channel->attempt_ms = INT64_MAX;
	if (channel->state == CS_GRPC_CONNECTING && channel->conn)
		fail_conn(channel->conn, -ETIMEDOUT, "no answer in time");
	else if (channel->state == CS_GRPC_CONNECTING && channel->resolving) {
		struct cs_error e;
		cs_error_set(&e, -ETIMEDOUT, "cannot resolve %s: no answer in time", channel->target);
		channel->resolve_stale = true;
		attempt_failed(channel, &e);
	} else if (channel->state == CS_GRPC_BACKOFF) {
		channel->start_ms = 0;
		if (wanted(channel))
			begin(channel);
		else
			set_state(channel, CS_GRPC_IDLE, NULL);
	}
}

static void watch_idleness(struct cs_grpc_channel *channel)
{
	bool idle = channel->state == CS_GRPC_READY && !channel->options.keep && channel->ncalls == 0;
	if (!idle)
		channel->idle_ms = INT64_MAX;
	else if (channel->idle_ms == INT64_MAX) {
		channel->idle_ms = now(channel) + channel->options.limits.idle_ms;
		cs_grpc_channel_deadline(channel, channel->idle_ms);
	}
}

static void on_timer(struct cs_timer *timer)
{
	struct cs_grpc_channel *channel = timer->data;
	int64_t now_ms = now(channel);
	channel->next_ms = INT64_MAX;
	int64_t next_ms = cs_grpc_client_due(channel, now_ms);
	if (now_ms >= channel->attempt_ms)
		attempt_due(channel);
	if (channel->state == CS_GRPC_CONNECTING && !channel->conn && !channel->resolving) {
		if (now_ms >= channel->start_ms)
			begin(channel);
		else
			next_ms = channel->start_ms < next_ms ? channel->start_ms : next_ms;
	}
	if (now_ms >= channel->idle_ms && channel->conn) {
		channel->idle_ms = INT64_MAX;
		fail_conn(channel->conn, -ECONNRESET, "closed by this side: idle");
	}
	next_ms = channel->attempt_ms < next_ms ? channel->attempt_ms : next_ms;
	next_ms = channel->idle_ms < next_ms ? channel->idle_ms : next_ms;
	cs_grpc_channel_deadline(channel, next_ms);
}

/* ---- the end ---- */

static void handle_closed(struct cs_grpc_channel *channel)
{
	if (--channel->closing_handles > 0)
		return;
	void (*closed)(void *data) = channel->closed;
	void *data = channel->closed_data;
	free(channel);
	if (closed)
		closed(data);
}

static void on_timer_closed(struct cs_timer *timer)
{
	handle_closed(timer->data);
}

static void on_wake_closed(uv_handle_t *handle)
{
	handle_closed(handle->data);
}

static void close_step(struct cs_grpc_channel *channel)
{
	cs_grpc_client_cancel_all(channel);
	struct client_conn *conn;
	DL_FOREACH (channel->conns, conn)
		fail_conn(conn, -ESHUTDOWN, "the channel was closed");
	cs_grpc_client_callbacks(channel);
	uv_idle_stop(&channel->wake);
	if (channel->resolving)
		uv_cancel((uv_req_t *)&channel->resolve); /* one that runs has to be waited for */
	if (channel->conns || channel->resolving || channel->closing_handles > 0)
		return; /* conn_gone and on_resolved wake us again */
	channel->closing_handles = 2;
	cs_timer_close(&channel->timer, on_timer_closed);
	uv_close((uv_handle_t *)&channel->wake, on_wake_closed);
}

static void reset_step(struct cs_grpc_channel *channel)
{
	channel->reset = false;
	channel->attempts = 0;
	channel->start_ms = 0;
	channel->resolve_stale = channel->resolving;
	channel->naddresses = channel->next_address = 0;
	if (channel->conn)
		fail_conn(channel->conn, -ECONNRESET, "reset by this side");
	else if (channel->state == CS_GRPC_BACKOFF) {
		channel->attempt_ms = INT64_MAX;
		set_state(channel, CS_GRPC_IDLE, NULL);
	} else if (channel->state == CS_GRPC_CONNECTING) { /* it waits for its turn: that is now */
		begin(channel);
	}
}

static void on_wake(uv_idle_t *idle)
{
	struct cs_grpc_channel *channel = idle->data;
	uv_idle_stop(idle);
	if (channel->reset && !channel->closing)
		reset_step(channel);
	if (!channel->closing && channel->state == CS_GRPC_IDLE && wanted(channel))
		begin(channel);
	if (!channel->closing && channel->state == CS_GRPC_BACKOFF)
		cs_grpc_client_fail_waiting(channel, &channel->why);
	if (!channel->closing)
		cs_grpc_client_submit_all(channel);
	if (channel->closing) {
		close_step(channel);
		return;
	}
	cs_grpc_client_callbacks(channel);
	watch_idleness(channel);
}

void cs_grpc_channel_reset(struct cs_grpc_channel *channel)
{
	channel->reset = true;
	cs_grpc_channel_wake(channel);
}

void cs_grpc_channel_close(struct cs_grpc_channel *channel, void (*closed)(void *data), void *data)
{
	if (channel->closing)
		return;
	channel->closing = true;
	channel->closed = closed;
	channel->closed_data = data;
	cs_grpc_channel_wake(channel);
}
