#include "exporter.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <countersign/v1/status.pb-c.h>
#include "client.h"
#include "instance.h"
#include "log.h"
#include "merge.h"

#define DAEMONS    8
#define IDLE_S     15 /* of a connection, also between the bytes of a request */
#define CONN_BYTES 16384

struct scrape;

/* One question to one daemon, over a connection of its own: what a scrape finds does not depend on the one before. */
struct ask {
	struct scrape *scrape;
	const struct cs_service *service;
	struct cs_grpc_channel *channel; /* NULL: not opened, or closed again */
	char *text;
	size_t len;
	bool ok, too_large;
};

/* One request for /metrics. Belongs to its connection, and is freed with the request. */
struct scrape {
	struct cs_exporter *x;
	struct MHD_Connection *conn;
	struct ask asks[DAEMONS];
	size_t waiting;
};

struct cs_exporter {
	struct cs_loop *loop;
	int64_t timeout_ms;
	struct MHD_Daemon *http;
	struct sockaddr_storage addr;
	uv_poll_t poll;
	struct cs_timer timer; /* libmicrohttpd's own timeouts, and "now" */
	char instance[CS_PATH];
	char targets[DAEMONS][CS_PATH + 8];
	size_t ndaemons;
	bool silent[DAEMONS]; /* it gave no metrics the last time: said once */
	struct scrape *scrapes[CS_EXPORTER_SCRAPES];
	bool closing;
};

/* ---- libmicrohttpd on the loop ---- */

static void drive(struct cs_exporter *x)
{
	MHD_UNSIGNED_LONG_LONG ms;
	MHD_run(x->http);
	if (MHD_get_timeout(x->http, &ms) == MHD_YES)
		cs_timer_start(&x->timer, ms > 60000 ? 60000 : (int64_t)ms, 0);
	else
		cs_timer_stop(&x->timer);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
	(void)status;
	(void)events;
	drive(poll->data);
}

static void on_timer(struct cs_timer *timer)
{
	drive(timer->data);
}

static void on_log(void *data, const char *fmt, va_list args)
{
	(void)data;
	char text[512];
	vsnprintf(text, sizeof(text), fmt, args);
	cs_warn("the HTTP server complains", cs_str("error", text));
}

/* ---- answers ---- */

static enum MHD_Result answer(
	struct MHD_Connection *conn, unsigned code, const char *type, const char *text, size_t len)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(len, (void *)text, MHD_RESPMEM_MUST_COPY);
	if (!response)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
		MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
	enum MHD_Result r = MHD_queue_response(conn, code, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result answer_text(struct MHD_Connection *conn, unsigned code, const char *text)
{
	return answer(conn, code, "text/plain; charset=utf-8", text, strlen(text));
}

static enum MHD_Result answer_metrics(struct scrape *s)
{
	struct cs_merge *merge = cs_merge_new();
	char *text = NULL;
	size_t len = 0;
	FILE *out = merge ? open_memstream(&text, &len) : NULL;
	if (!out) {
		cs_merge_free(merge);
		return MHD_NO;
	}
	fputs("# HELP countersign_up 1 if the daemon answered, else 0\n# TYPE countersign_up gauge\n", out);
	for (size_t i = 0; i < s->x->ndaemons; i++) {
		struct ask *a = &s->asks[i];
		struct cs_error e;
		if (!a->service)
			continue;
		if (a->ok && cs_merge_add(merge, a->text, a->len, &e) < 0) {
			a->ok = false;
			cs_warn("the metrics of a daemon cannot be used", cs_str("of", a->service->daemon), cs_err(&e));
		}
		fprintf(out, "countersign_up{daemon=\"%s\"} %d\n", a->service->daemon, a->ok);
	}
	cs_merge_write(merge, out);
	cs_merge_free(merge);
	bool failed = fclose(out) != 0;
	enum MHD_Result r =
		failed ? MHD_NO : answer(s->conn, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text, len);
	free(text);
	return r;
}

/* ---- asking the daemons ---- */

static void on_chunk(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct ask *a = data;
	const ProtobufCBinaryData *chunk = &((const Countersign__V1__MetricsChunk *)(const void *)message)->text;
	char *grown = a->len + chunk->len > CS_EXPORTER_TEXT ? NULL : realloc(a->text, a->len + chunk->len + 1);
	if (!grown) {
		a->too_large = true;
		cs_grpc_client_cancel(call);
		return;
	}
	memcpy(grown + a->len, chunk->data, chunk->len);
	a->text = grown;
	a->len += chunk->len;
}

static void close_http(struct cs_exporter *x);

static struct scrape **slot_of(struct cs_exporter *x, const struct scrape *scrape)
{
	for (size_t i = 0; i < CS_EXPORTER_SCRAPES; i++)
		if (x->scrapes[i] == scrape)
			return &x->scrapes[i];
	return NULL;
}

static bool is_idle(const struct cs_exporter *x)
{
	for (size_t i = 0; i < CS_EXPORTER_SCRAPES; i++)
		if (x->scrapes[i])
			return false;
	return true;
}

static void finished(struct scrape *s)
{
	struct cs_exporter *x = s->x;
	if (--s->waiting > 0)
		return;
	*slot_of(x, s) = NULL;
	MHD_resume_connection(s->conn);
	if (x->closing && is_idle(x))
		close_http(x);
	else if (!x->closing)
		cs_timer_start(&x->timer, 0, 0); /* MHD_run must follow, but not from in here */
}

static void on_closed(void *data)
{
	struct ask *a = data;
	a->channel = NULL;
	finished(a->scrape);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct ask *a = data;
	bool *silent = &a->scrape->x->silent[a - a->scrape->asks];
	a->ok = status->code == CS_GRPC_OK && !a->too_large;
	if (!a->ok && !*silent)
		cs_warn("a daemon gives no metrics", cs_str("of", a->service->daemon),
			cs_str("status", cs_grpc_code_name(status->code)),
			cs_str("error", a->too_large ? "more than the limit" : status->message));
	if (a->ok && *silent)
		cs_info("a daemon gives metrics again", cs_str("of", a->service->daemon));
	*silent = !a->ok;
	cs_grpc_channel_close(a->channel, on_closed, a);
}

static void ask(struct scrape *s, size_t i)
{
	Countersign__V1__MetricsRequest request = COUNTERSIGN__V1__METRICS_REQUEST__INIT;
	const struct cs_grpc_channel_options channel = {.target = s->x->targets[i]};
	const struct cs_grpc_call_options call = {.timeout_ms = s->x->timeout_ms};
	struct ask *a = &s->asks[i];
	struct cs_error e;
	*a = (struct ask){.scrape = s, .service = &cs_service_status[i]};
	int r = cs_grpc_channel_new(s->x->loop, &channel, &a->channel, &e);
	if (r == 0) {
		s->waiting++;
		r = cs_grpc_stream(a->channel, a->service->descriptor, "Metrics", &request.base, &call, on_chunk,
			on_done, a, NULL, &e);
		if (r < 0)
			cs_grpc_channel_close(a->channel, on_closed, a);
	}
	if (r < 0)
		cs_warn("a daemon cannot be asked", cs_str("of", a->service->daemon), cs_err(&e));
}

/* The request waits from here on, until the last daemon has answered. */
static void ask_all(struct scrape *s)
{
	MHD_suspend_connection(s->conn);
	s->waiting = 1; /* ours: it must not end before all were asked */
	for (size_t i = 0; i < s->x->ndaemons; i++)
		if (!cs_service_is_absent(s->x->instance, &cs_service_status[i]))
			ask(s, i);
	finished(s);
}

/* ---- requests ---- */

static char seen; /* *state: the header is here, its (unwanted) body may follow */

static enum MHD_Result on_request(void *data, struct MHD_Connection *conn, const char *url, const char *method,
	const char *version, const char *upload, size_t *upload_size, void **state)
{
	(void)version;
	(void)upload;
	struct cs_exporter *x = data;
	if (!*state) {
		*state = &seen;
		return MHD_YES;
	}
	if (*state != &seen)
		return answer_metrics(*state);
	if (*upload_size) { /* a body: not taken */
		*upload_size = 0;
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer_text(conn, MHD_HTTP_METHOD_NOT_ALLOWED, "GET or HEAD /metrics\n");
	if (strcmp(url, "/") == 0)
		return answer_text(conn, MHD_HTTP_OK, "countersign exporter; the metrics are at /metrics\n");
	if (strcmp(url, "/metrics") != 0)
		return answer_text(conn, MHD_HTTP_NOT_FOUND, "only /metrics is here\n");
	struct scrape **slot = slot_of(x, NULL);
	if (!slot || x->closing)
		return answer_text(conn, MHD_HTTP_SERVICE_UNAVAILABLE, "too many requests at once; try again\n");
	struct scrape *s = calloc(1, sizeof(*s));
	if (!s)
		return MHD_NO;
	s->x = x;
	s->conn = conn;
	*state = *slot = s;
	ask_all(s);
	return MHD_YES;
}

static void on_completed(void *data, struct MHD_Connection *conn, void **state, enum MHD_RequestTerminationCode why)
{
	(void)data;
	(void)conn;
	(void)why;
	struct scrape *s = *state;
	*state = NULL;
	if (!s || (void *)s == &seen)
		return;
	for (size_t i = 0; i < DAEMONS; i++)
		free(s->asks[i].text);
	free(s);
}

/* ---- life ---- */

/* "address:port" or "[address]:port" */
static int parse_listen(const char *text, struct sockaddr_storage *addr, socklen_t *len, struct cs_error *e)
{
	struct sockaddr_in *in4 = (struct sockaddr_in *)addr;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)addr;
	const char *colon = strrchr(text, ':');
	char host[64], *end = NULL;
	unsigned long port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : 65536;
	*addr = (struct sockaddr_storage){0};
	if (port <= 65535 && !*end && (size_t)(colon - text) < sizeof(host)) {
		bool bracket = text[0] == '[' && colon[-1] == ']';
		snprintf(host, sizeof(host), "%.*s", (int)(colon - text) - 2 * bracket, text + bracket);
		if (!bracket && inet_pton(AF_INET, host, &in4->sin_addr) == 1) {
			in4->sin_family = AF_INET;
			in4->sin_port = htons((uint16_t)port);
			*len = sizeof(*in4);
			return 0;
		}
		if (bracket && inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
			in6->sin6_family = AF_INET6;
			in6->sin6_port = htons((uint16_t)port);
			*len = sizeof(*in6);
			return 0;
		}
	}
	return cs_error_set(e, -EINVAL, "--listen %s: write ADDRESS:PORT, like 127.0.0.1:9964 or [::1]:9964", text);
}

static int listen_at(struct cs_exporter *x, const char *text, struct cs_error *e)
{
	socklen_t len = 0;
	const int on = 1;
	int r = parse_listen(text, &x->addr, &len, e);
	if (r < 0)
		return r;
	int fd = socket(x->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return cs_error_errno(e, -errno, "cannot make a socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
		bind(fd, (struct sockaddr *)&x->addr, len) < 0 || listen(fd, 64) < 0 ||
		getsockname(fd, (struct sockaddr *)&x->addr, &len) < 0) {
		r = cs_error_errno(e, -errno, "cannot listen on %s", text);
		close(fd);
		return r;
	}
	return fd;
}

static int start_http(struct cs_exporter *x, int fd, struct cs_error *e)
{
	x->http = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
		on_request, x, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)CS_EXPORTER_CONNS, MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONN_BYTES, MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, x, MHD_OPTION_END);
	if (!x->http) {
		close(fd);
		return cs_error_set(e, -EIO, "cannot start the HTTP server");
	}
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(x->http, MHD_DAEMON_INFO_EPOLL_FD);
	int r = info ? uv_poll_init(&x->loop->uv, &x->poll, info->epoll_fd) : UV_EINVAL;
	if (r == 0)
		r = uv_poll_start(&x->poll, UV_READABLE, on_readable);
	if (r < 0) {
		MHD_stop_daemon(x->http);
		return cs_error_set(e, r, "cannot poll the HTTP server: %s", uv_strerror(r));
	}
	x->poll.data = x;
	cs_timer_init(&x->timer, x->loop, on_timer, x);
	return 0;
}

static int set_targets(struct cs_exporter *x, const char *instance, struct cs_error *e)
{
	snprintf(x->instance, sizeof(x->instance), "%s", instance);
	for (size_t i = 0; i < cs_service_nstatus && i < DAEMONS; i++) {
		char path[CS_PATH];
		int r = cs_instance_path(instance, cs_service_status[i].daemon, cs_service_status[i].socket, path, e);
		if (r < 0)
			return r;
		snprintf(x->targets[i], sizeof(x->targets[i]), "unix:%s", path);
		x->ndaemons = i + 1;
	}
	return 0;
}

/* No request is suspended any more. */
static void close_http(struct cs_exporter *x)
{
	MHD_run(x->http); /* the last answers */
	uv_close((uv_handle_t *)&x->poll, NULL);
	cs_timer_close(&x->timer, NULL);
	MHD_stop_daemon(x->http);
	x->http = NULL;
}

int cs_exporter_new(struct cs_loop *loop, const char *instance, const char *listen, int64_t timeout_ms,
	struct cs_exporter **ret_exporter, struct cs_error *e)
{
	struct cs_exporter *x = calloc(1, sizeof(*x));
	if (!x)
		return cs_error_errno(e, -ENOMEM, "exporter");
	x->loop = loop;
	x->timeout_ms = timeout_ms;
	int r = set_targets(x, instance, e);
	if (r == 0)
		r = listen_at(x, listen, e);
	if (r >= 0)
		r = start_http(x, r, e);
	if (r < 0) {
		free(x);
		return r;
	}
	*ret_exporter = x;
	return 0;
}

void cs_exporter_address(const struct cs_exporter *x, char out[CS_EXPORTER_ADDRESS])
{
	char host[INET6_ADDRSTRLEN] = "";
	const struct sockaddr_in *in4 = (const struct sockaddr_in *)&x->addr;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&x->addr;
	if (x->addr.ss_family == AF_INET) {
		inet_ntop(AF_INET, &in4->sin_addr, host, sizeof(host));
		snprintf(out, CS_EXPORTER_ADDRESS, "http://%s:%u/metrics", host, ntohs(in4->sin_port));
	} else {
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		snprintf(out, CS_EXPORTER_ADDRESS, "http://[%s]:%u/metrics", host, ntohs(in6->sin6_port));
	}
}

void cs_exporter_close(struct cs_exporter *x)
{
	x->closing = true;
	if (is_idle(x))
		close_http(x);
	for (size_t i = 0; i < CS_EXPORTER_SCRAPES; i++)
		for (size_t j = 0; x->scrapes[i] && j < x->ndaemons; j++)
			if (x->scrapes[i]->asks[j].channel)
				cs_grpc_channel_close(
					x->scrapes[i]->asks[j].channel, on_closed, &x->scrapes[i]->asks[j]);
}

void cs_exporter_free(struct cs_exporter *x)
{
	free(x);
}
