/* A client of ours for tests/integration/test_grpc.py. Makes --calls calls at once and says what came of each in a line
 * of JSON on stdout: {"code": "OK", "message": "", "reason": "none", "messages": 1, "bytes": 5, "text": "hello"}.
 *
 * grpc_echo_client TARGET METHOD [--tls DIR] [--text T] [--payload BYTES] [--count N] [--size N] [--delay MS] [--code N]
 *	[--never] [--timeout MS] [--wait] [--calls N] [--cancel-at N] [--pause-at N --pause-ms MS] [--limit NAME=VALUE]...
 *	[--header VALUE] (sends the metadata "test-header")
 *	[--state] (says "state NAME" too) [--each] (says "message N" too) [--repeat N] (one after the other) */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "echo.pb-c.h"
#include "grpc_echo.h"

struct client {
	struct cs_loop loop;
	struct cs_grpc_channel *channel;
	struct cs_grpc_channel_options options;
	struct cs_grpc_call_options call;
	struct cs_grpc_field field;
	struct echo_tls tls;
	const char *method, *tls_dir;
	Countersign__Test__EchoRequest request;
	unsigned calls, repeat, left;
	uint32_t cancel_at, pause_at, pause_ms;
	bool each, state;
};

struct one {
	struct client *client;
	struct cs_grpc_client_call *call;
	struct cs_timer timer;
	uint32_t messages;
	uint64_t bytes;
	bool in_order;
	char text[256];
};

static void begin(struct client *c);

static void one_closed(struct cs_timer *timer)
{
	free(timer->data);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct one *one = data;
	struct client *c = one->client;
	json_t *line = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:b}", "code", cs_grpc_code_name(status->code),
		"message", status->message, "reason", cs_reason_name(status->reason), "messages",
		(json_int_t)one->messages, "bytes", (json_int_t)one->bytes, "text", one->text, "in_order",
		one->in_order);
	char *text = json_dumps(line, JSON_COMPACT);
	printf("%s\n", text);
	free(text);
	json_decref(line);
	cs_timer_close(&one->timer, one_closed);
	if (--c->left > 0)
		return;
	if (--c->repeat > 0)
		begin(c);
	else
		cs_grpc_channel_close(c->channel, NULL, NULL);
}

static void take(struct one *one, const ProtobufCMessage *message)
{
	const Countersign__Test__EchoReply *reply = (const Countersign__Test__EchoReply *)message;
	one->in_order = one->in_order && reply->number == one->messages;
	one->messages++;
	one->bytes += reply->payload.len;
	snprintf(one->text, sizeof(one->text), "%s", reply->text);
	if (one->client->each)
		printf("message %u\n", (unsigned)reply->number);
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct one *one = data;
	take(one, message);
	if (one->messages == one->client->cancel_at)
		cs_grpc_client_cancel(call);
	if (one->client->pause_at && one->messages % one->client->pause_at == 0) {
		cs_grpc_client_pause(call);
		cs_timer_start(&one->timer, one->client->pause_ms, 0);
	}
}

static void on_resume(struct cs_timer *timer)
{
	struct one *one = timer->data;
	cs_grpc_client_resume(one->call);
}

static void on_reply(const struct cs_grpc_status *status, const ProtobufCMessage *reply, void *data)
{
	if (reply)
		take(data, reply);
	on_done(status, data);
}

static void begin(struct client *c)
{
	const ProtobufCServiceDescriptor *echo = &countersign__test__echo__descriptor;
	for (unsigned i = 0; i < c->calls; i++) {
		struct one *one = calloc(1, sizeof(*one));
		struct cs_error e = {0};
		one->client = c;
		one->in_order = true;
		cs_timer_init(&one->timer, &c->loop, on_resume, one);
		int r = strcmp(c->method, "Stream") == 0 ? cs_grpc_stream(c->channel, echo, c->method, &c->request.base,
								   &c->call, on_message, on_done, one, &one->call, &e)
							 : cs_grpc_unary(c->channel, echo, c->method, &c->request.base,
								   &c->call, on_reply, one, &one->call, &e);
		if (r < 0) {
			fprintf(stderr, "%s\n", e.text);
			exit(1);
		}
		c->left++;
	}
}

static void on_state(
	struct cs_grpc_channel *channel, enum cs_grpc_state state, const struct cs_error *error, void *data)
{
	static const char *const names[] = {"IDLE", "CONNECTING", "READY", "BACKOFF", "CLOSED"};
	const struct client *c = data;
	if (c->state)
		printf("state %s %s\n", names[state], error ? error->text : cs_grpc_channel_peer(channel));
}

static uint32_t number(void)
{
	return (uint32_t)strtoul(optarg, NULL, 10);
}

static int take_option(struct client *c, int option)
{
	switch (option) {
	case 't':
		c->request.text = optarg;
		return 0;
	case 'p':
		c->request.payload.len = number();
		c->request.payload.data = calloc(1, c->request.payload.len + 1);
		return 0;
	case 'c':
		c->request.count = number();
		return 0;
	case 's':
		c->request.size = number();
		return 0;
	case 'd':
		c->request.delay_ms = number();
		return 0;
	case 'x':
		c->request.code = number();
		return 0;
	case 'n':
		c->request.never = 1;
		return 0;
	case 'T':
		c->call.timeout_ms = number();
		return 0;
	case 'w':
		c->call.wait = true;
		return 0;
	case 'N':
		c->calls = number();
		return 0;
	case 'R':
		c->repeat = number();
		return 0;
	case 'C':
		c->cancel_at = number();
		return 0;
	case 'P':
		c->pause_at = number();
		return 0;
	case 'M':
		c->pause_ms = number();
		return 0;
	case 'e':
		c->each = true;
		return 0;
	case 'S':
		c->state = true;
		return 0;
	case 'L':
		c->tls_dir = optarg;
		return 0;
	case 'h':
		c->field = (struct cs_grpc_field){"test-header", optarg};
		c->call.fields = &c->field;
		c->call.nfields = 1;
		return 0;
	case 'l':
		return echo_limit(&c->options.limits, optarg);
	default:
		return -1;
	}
}

static const struct option names[] = {{"text", 1, 0, 't'}, {"payload", 1, 0, 'p'}, {"count", 1, 0, 'c'},
	{"size", 1, 0, 's'}, {"delay", 1, 0, 'd'}, {"code", 1, 0, 'x'}, {"never", 0, 0, 'n'}, {"timeout", 1, 0, 'T'},
	{"wait", 0, 0, 'w'}, {"calls", 1, 0, 'N'}, {"repeat", 1, 0, 'R'}, {"cancel-at", 1, 0, 'C'},
	{"pause-at", 1, 0, 'P'}, {"pause-ms", 1, 0, 'M'}, {"each", 0, 0, 'e'}, {"state", 0, 0, 'S'}, {"tls", 1, 0, 'L'},
	{"limit", 1, 0, 'l'}, {"header", 1, 0, 'h'}, {0}};

int main(int argc, char **argv)
{
	struct client c = {.calls = 1, .repeat = 1, .request = COUNTERSIGN__TEST__ECHO_REQUEST__INIT};
	struct cs_error e = {0};
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;)
		if (take_option(&c, option) < 0)
			return 2;
	if (argc - optind != 2)
		return 2;
	c.options.target = argv[optind];
	c.method = argv[optind + 1];
	c.options.on_state = on_state;
	c.options.data = &c;
	int r = c.tls_dir ? echo_tls_init(&c.tls, c.tls_dir, false, &e) : 0;
	if (c.tls_dir)
		c.options.tls = &c.tls.tls;
	if (r == 0)
		r = cs_loop_init(&c.loop, NULL, &e);
	if (r == 0)
		r = cs_grpc_channel_new(&c.loop, &c.options, &c.channel, &e);
	if (r < 0) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	begin(&c);
	cs_loop_run(&c.loop);
	cs_loop_fini(&c.loop);
	echo_tls_fini(&c.tls);
	free(c.request.payload.data);
	return 0;
}
