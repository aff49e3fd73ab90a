#include "status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <countersign/v1/status.pb-c.h>
#include "grpc.h"
#include "log.h"
#include "utf8.h"

#define CHUNK         65536
#define GRACE_MS      200
#define NAME_SIZE     256
#define REFUSED_PER_S 20 /* records of who was turned away */

struct cs_check {
	struct cs_status *owner;
	const char *name;
	bool ok;
	enum cs_reason reason;
	char text[512];
	int64_t since_unix_ms;
};

struct cs_status {
	struct cs_loop *loop;
	struct cs_metrics *metrics;
	struct cs_grpc_server *server;
	struct cs_grpc_service service;
	char daemon[64], role[64], node[NAME_SIZE];
	enum cs_leadership leadership;
	int64_t started_unix_ms;
	struct cs_check checks[CS_STATUS_CHECKS];
	size_t nchecks;
	void (*on_read)(void *data);
	void *on_read_data;
	struct cs_metric *check_ok, *refused;
	int64_t refused_since_mono_ms; /* of the second that is counted */
	uint64_t refused_now, refused_unsaid;
};

/* ---- checks ---- */

struct cs_check *cs_check_new(struct cs_status *s, const char *name)
{
	if (s->nchecks == CS_STATUS_CHECKS) {
		fprintf(stderr, "more than %d checks\n", CS_STATUS_CHECKS);
		abort();
	}
	struct cs_check *c = &s->checks[s->nchecks++];
	*c = (struct cs_check){.owner = s, .name = name, .ok = true, .since_unix_ms = cs_loop_unix_ms(s->loop)};
	cs_metric_set(s->check_ok, 1, name);
	return c;
}

static void turn(struct cs_check *c, bool ok)
{
	if (c->ok != ok)
		c->since_unix_ms = cs_loop_unix_ms(c->owner->loop);
	c->ok = ok;
	cs_metric_set(c->owner->check_ok, ok, c->name);
}

void cs_check_ok(struct cs_check *c)
{
	turn(c, true);
	c->reason = CS_R_NONE;
	c->text[0] = '\0';
}

void cs_check_fail(struct cs_check *c, enum cs_reason reason, const char *fmt, ...)
{
	va_list args;
	turn(c, false);
	c->reason = reason;
	va_start(args, fmt);
	vsnprintf(c->text, sizeof(c->text), fmt, args);
	va_end(args);
	cs_utf8_clean(c->text, strlen(c->text));
}

void cs_check_error(struct cs_check *c, const struct cs_error *e)
{
	cs_check_fail(c, e->reason, "%s", e->text);
}

void cs_status_on_read(struct cs_status *s, void (*fn)(void *data), void *data)
{
	s->on_read = fn;
	s->on_read_data = data;
}

static void before_read(void *data)
{
	struct cs_status *s = data;
	if (s->on_read)
		s->on_read(s->on_read_data);
}

bool cs_status_healthy(const struct cs_status *s)
{
	for (size_t i = 0; i < s->nchecks; i++)
		if (!s->checks[i].ok)
			return false;
	return true;
}

/* ---- the service ---- */

static void get(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	(void)in;
	struct cs_status *s = data;
	Countersign__V1__Check checks[CS_STATUS_CHECKS], *list[CS_STATUS_CHECKS];
	Countersign__V1__Reason reasons[CS_STATUS_CHECKS];
	before_read(s);
	for (size_t i = 0; i < s->nchecks; i++) {
		const struct cs_check *c = &s->checks[i];
		countersign__v1__reason__init(&reasons[i]);
		countersign__v1__check__init(&checks[i]);
		reasons[i].name = (char *)(c->reason == CS_R_NONE ? "" : cs_reason_name(c->reason));
		reasons[i].detail = (char *)c->text;
		checks[i].name = (char *)c->name;
		checks[i].ok = c->ok;
		checks[i].reason = c->ok ? NULL : &reasons[i];
		checks[i].since_unix_ms = c->since_unix_ms;
		list[i] = &checks[i];
	}
	Countersign__V1__StatusReply reply = COUNTERSIGN__V1__STATUS_REPLY__INIT;
	reply.daemon = s->daemon;
	reply.version = (char *)CS_VERSION;
	reply.role = s->role;
	reply.node = s->node;
	reply.started_unix_ms = s->started_unix_ms;
	reply.healthy = cs_status_healthy(s);
	reply.checks = list;
	reply.n_checks = s->nchecks;
	reply.leadership = (Countersign__V1__Leadership)s->leadership;
	cs_grpc_reply(call, &reply.base);
}

/* One answer to Metrics on its way out. */
struct text {
	char *bytes;
	size_t len, at;
};

/* Cut after the last line end that fits. */
static size_t next_chunk(const struct text *t)
{
	size_t rest = t->len - t->at;
	if (rest <= CHUNK)
		return rest;
	const char *end = memrchr(t->bytes + t->at, '\n', CHUNK);
	return end ? (size_t)(end - (t->bytes + t->at)) + 1 : CHUNK;
}

static void text_free(struct text *t)
{
	free(t->bytes);
	free(t);
}

static void text_cancelled(struct cs_grpc_call *call, void *data)
{
	(void)call;
	text_free(data);
}

static void text_push(struct cs_grpc_call *call, void *data)
{
	struct text *t = data;
	while (t->at < t->len) {
		Countersign__V1__MetricsChunk chunk = COUNTERSIGN__V1__METRICS_CHUNK__INIT;
		chunk.text.data = (uint8_t *)t->bytes + t->at;
		chunk.text.len = next_chunk(t);
		int r = cs_grpc_send(call, &chunk.base);
		if (r < 0) {
			cs_grpc_finish(call, CS_GRPC_RESOURCE_EXHAUSTED, "no room for the metrics: %s", strerror(-r));
			text_free(t);
			return;
		}
		t->at += chunk.text.len;
		if (r == CS_GRPC_FULL && t->at < t->len)
			return; /* on_drain comes back here */
	}
	cs_grpc_finish(call, CS_GRPC_OK, "%s", "");
	text_free(t);
}

static void metrics(struct cs_grpc_call *call, const ProtobufCMessage *in, void *data)
{
	(void)in;
	struct cs_status *s = data;
	struct text *t = calloc(1, sizeof(*t));
	if (t)
		t->bytes = cs_metrics_render(s->metrics, &t->len);
	if (!t || !t->bytes) {
		free(t);
		cs_grpc_finish(call, CS_GRPC_RESOURCE_EXHAUSTED, "no memory for the metrics");
		return;
	}
	cs_grpc_call_watch(call, text_cancelled, text_push, t);
	text_push(call, t);
}

static const struct cs_grpc_method methods[] = {
	{.name = "Get", .roles = CS_ROLE_VIEWER, .fn = get},
	{.name = "Metrics", .roles = CS_ROLE_VIEWER, .streaming = true, .fn = metrics},
};

/* ---- life ---- */

struct cs_status *cs_status_new(struct cs_loop *loop, const char *daemon, struct cs_metrics *m)
{
	struct cs_status *s = calloc(1, sizeof(*s));
	if (!s)
		abort();
	s->loop = loop;
	s->metrics = m;
	s->started_unix_ms = cs_loop_unix_ms(loop);
	snprintf(s->daemon, sizeof(s->daemon), "%s", daemon);
	cs_metric_set(
		cs_gauge(m, "countersign_build_info", "1, with the version as a label", "version", 1), 1, CS_VERSION);
	cs_metric_set(cs_gauge(m, "countersign_start_time_seconds", "When the daemon started, Unix time", NULL, 0),
		(double)s->started_unix_ms / 1000);
	s->check_ok = cs_gauge(
		m, "countersign_check_ok", "1 while the check of that name is ok, else 0", "check", CS_STATUS_CHECKS);
	s->refused = cs_counter(m, "countersign_refused_calls_total",
		"Connections and calls that were turned away, by reason", "reason", CS_REASON_MAX);
	cs_metrics_on_render(m, before_read, s);
	return s;
}

void cs_status_set_role(struct cs_status *s, const char *role)
{
	snprintf(s->role, sizeof(s->role), "%s", role);
}

_Static_assert((int)CS_LEADERSHIP_FOLLOWER == COUNTERSIGN__V1__LEADERSHIP__LEADERSHIP_FOLLOWER &&
		       (int)CS_LEADERSHIP_LEADER == COUNTERSIGN__V1__LEADERSHIP__LEADERSHIP_LEADER,
	"as in v1/status.proto");

void cs_status_set_leadership(struct cs_status *s, enum cs_leadership leadership)
{
	s->leadership = leadership;
}

void cs_status_set_node(struct cs_status *s, const char *node)
{
	snprintf(s->node, sizeof(s->node), "%s", node);
}

void cs_status_refused(const struct cs_grpc_refusal *refusal, void *status)
{
	struct cs_status *s = status;
	int64_t now_mono_ms = cs_loop_mono_ms(s->loop);
	cs_metric_add(s->refused, 1, cs_reason_name(refusal->reason));
	if (now_mono_ms - s->refused_since_mono_ms >= 1000) {
		s->refused_since_mono_ms = now_mono_ms;
		s->refused_now = 0;
	}
	if (s->refused_now >= REFUSED_PER_S) { /* anybody may knock: nobody may fill the disk by it */
		s->refused_unsaid++;
		return;
	}
	s->refused_now++;
	cs_audit("turned a caller away", cs_str("peer", refusal->peer), cs_str("method", refusal->method),
		cs_why(refusal->reason), cs_str("error", refusal->text), cs_u64("unsaid", s->refused_unsaid));
	s->refused_unsaid = 0;
}

int cs_status_listen(struct cs_status *s, const char *path, const struct cs_roles *roles, struct cs_error *e)
{
	s->service = (struct cs_grpc_service){.descriptor = &countersign__v1__status__descriptor,
		.methods = methods,
		.nmethods = sizeof(methods) / sizeof(methods[0]),
		.data = s};
	const struct cs_grpc_server_options options = {.on_refused = cs_status_refused, .refused_data = s};
	int r = cs_grpc_server_new(s->loop, &options, &s->server, e);
	if (r == 0)
		r = cs_grpc_server_add(s->server, &s->service, e);
	/* Anybody may connect; roles decide before a byte is read. */
	if (r == 0)
		r = cs_grpc_server_listen_unix(s->server, path, 0666, (gid_t)-1, roles, e);
	return r;
}

static void closed(void *data)
{
	struct cs_status *s = data;
	s->server = NULL;
}

void cs_status_close(struct cs_status *s)
{
	if (s->server)
		cs_grpc_server_close(s->server, GRACE_MS, closed, s);
}

void cs_status_free(struct cs_status *s)
{
	free(s);
}
