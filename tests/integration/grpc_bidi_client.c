/* Makes one call whose requests are a stream, and says what came of it as JSON.
 *	grpc_bidi_client [OPTIONS] TARGET METHOD
 *	--count N --payload BYTES	requests (number in `count`), and the size of each
 *	--turns			one request per answer; else as many as the queue takes
 *	--deaf			do not stop when the queue says that it is full
 *	--open			never say that the requests are over
 *	--cancel-at N		cancel after so many answers
 *	--pause-at N --pause-ms MS	read nothing for a while after every N answers
 *	--timeout MS --limit NAME=VALUE
 * Lines: "full QUEUED", "answer N", "refused ERRNO-NAME", then the JSON. */
#include <errno.h>
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
	struct cs_grpc_client_call *call;
	struct cs_grpc_channel_options options;
	struct cs_grpc_call_options call_options;
	struct cs_timer timer;
	Countersign__Test__EchoRequest request;
	uint32_t count, sent, answers, cancel_at, pause_at, pause_ms;
	uint64_t bytes;
	size_t queued_max;
	unsigned full;
	int refused;
	bool turns, deaf, open, in_order, after_end;
};

/* Sends what may be sent now. */
static void go_on(struct client *c)
{
	while (c->sent < c->count && (!c->turns || c->sent == c->answers)) {
		c->request.count = c->sent;
		int r = cs_grpc_client_send(c->call, &c->request.base);
		if (r < 0) {
			c->refused = r;
			printf("refused %s\n", strerrorname_np(-r));
			cs_grpc_client_cancel(c->call);
			return;
		}
		c->sent++;
		size_t queued = cs_grpc_client_queued(c->call);
		c->queued_max = queued > c->queued_max ? queued : c->queued_max;
		if (r == CS_GRPC_FULL && !c->deaf) {
			c->full++;
			printf("full %zu\n", queued);
			return;
		}
	}
	if (c->sent == c->count && !c->open) {
		cs_grpc_client_half_close(c->call);
		c->after_end = cs_grpc_client_send(c->call, &c->request.base) == -EPIPE;
	}
}

static void on_message(struct cs_grpc_client_call *call, const ProtobufCMessage *message, void *data)
{
	struct client *c = data;
	const Countersign__Test__EchoReply *reply = (const Countersign__Test__EchoReply *)message;
	c->in_order = c->in_order && reply->number == c->answers;
	c->answers++;
	c->bytes += reply->payload.len;
	printf("answer %u\n", (unsigned)reply->number);
	if (c->answers == c->cancel_at) {
		cs_grpc_client_cancel(call);
		return;
	}
	if (c->pause_at && c->answers % c->pause_at == 0) {
		cs_grpc_client_pause(call);
		cs_timer_start(&c->timer, c->pause_ms, 0);
	}
	if (c->turns)
		go_on(c);
}

static void on_drain(struct cs_grpc_client_call *call, void *data)
{
	(void)call;
	go_on(data);
}

static void on_done(const struct cs_grpc_status *status, void *data)
{
	struct client *c = data;
	json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:b}", "code",
		cs_grpc_code_name(status->code), "message", status->message, "sent", (json_int_t)c->sent, "answers",
		(json_int_t)c->answers, "bytes", (json_int_t)c->bytes, "queued_max", (json_int_t)c->queued_max, "full",
		(json_int_t)c->full, "in_order", c->in_order, "after_end", c->after_end, "untouched",
		status->untouched);
	char *text = json_dumps(line, JSON_COMPACT);
	printf("%s\n", text);
	free(text);
	json_decref(line);
	cs_timer_close(&c->timer, NULL);
	cs_grpc_channel_close(c->channel, NULL, NULL);
}

static void on_resume(struct cs_timer *timer)
{
	struct client *c = timer->data;
	cs_grpc_client_resume(c->call);
}

static int take_option(struct client *c, int option)
{
	uint32_t number = optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0;
	switch (option) {
	case 'c':
		c->count = number;
		return 0;
	case 'p':
		c->request.payload.len = number;
		c->request.payload.data = calloc(1, number + 1);
		return 0;
	case 'u':
		c->turns = true;
		return 0;
	case 'd':
		c->deaf = true;
		return 0;
	case 'o':
		c->open = true;
		return 0;
	case 'C':
		c->cancel_at = number;
		return 0;
	case 'P':
		c->pause_at = number;
		return 0;
	case 'M':
		c->pause_ms = number;
		return 0;
	case 'T':
		c->call_options.timeout_ms = number;
		return 0;
	case 'l':
		return echo_limit(&c->options.limits, optarg);
	default:
		return -1;
	}
}

static const struct option names[] = {{"count", 1, 0, 'c'}, {"payload", 1, 0, 'p'}, {"turns", 0, 0, 'u'},
	{"deaf", 0, 0, 'd'}, {"open", 0, 0, 'o'}, {"cancel-at", 1, 0, 'C'}, {"pause-at", 1, 0, 'P'},
	{"pause-ms", 1, 0, 'M'}, {"timeout", 1, 0, 'T'}, {"limit", 1, 0, 'l'}, {0}};

int main(int argc, char **argv)
{
	struct client c = {.count = 1, .in_order = true, .request = COUNTERSIGN__TEST__ECHO_REQUEST__INIT};
	static const struct cs_grpc_stream_events events = {
		.on_message = on_message, .on_drain = on_drain, .on_done = on_done};
	struct cs_error e = {0};
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;)
		if (take_option(&c, option) < 0)
			return 2;
	if (argc - optind != 2)
		return 2;
	c.options.target = argv[optind];
	int r = cs_loop_init(&c.loop, NULL, &e);
	if (r == 0)
		r = cs_grpc_channel_new(&c.loop, &c.options, &c.channel, &e);
	if (r == 0)
		r = cs_grpc_open(c.channel, &countersign__test__echo__descriptor, argv[optind + 1], &c.call_options,
			&events, &c, &c.call, &e);
	if (r < 0) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	cs_timer_init(&c.timer, &c.loop, on_resume, &c);
	go_on(&c);
	cs_loop_run(&c.loop);
	cs_loop_fini(&c.loop);
	free(c.request.payload.data);
	return 0;
}
