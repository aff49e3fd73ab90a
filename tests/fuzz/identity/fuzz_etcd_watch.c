/* Whatever a member of etcd says on a watch: revisions are told whole, each once, and in order; and nobody is called after the
 * end. Input: answers, each with its length (2 bytes) before it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "etcd_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct told {
	int64_t revision;
	bool over;
};

static void on_revision(int64_t revision, const struct cs_etcd_event *events, size_t n, void *data)
{
	struct told *t = data;
	if (t->over || n == 0 || revision <= t->revision)
		abort();
	for (size_t i = 0; i < n; i++)
		if (events[i].kv.mod_revision != revision)
			abort();
	t->revision = revision;
}

static void on_over(const struct cs_error *why, void *data)
{
	struct told *t = data;
	if (t->over || why->code >= 0 || !*why->text)
		abort();
	t->over = true;
}

static void answer(struct etcd_stream *s, const uint8_t *bytes, size_t n)
{
	ProtobufCMessage *message =
		protobuf_c_message_unpack(&etcdserverpb__watch_response__descriptor, NULL, n, bytes);
	if (message)
		s->ops->message(s, message);
	protobuf_c_message_free_unpacked(message, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct cs_etcd_watch_events events = {
		.revision = on_revision, .compacted = on_over, .failed = on_over};
	static const char *const endpoint = "http://127.0.0.1:1";
	const struct cs_etcd_options options = {.endpoints = &endpoint, .nendpoints = 1};
	struct cs_loop loop;
	struct cs_etcd *etcd;
	struct cs_etcd_watch *watch;
	struct cs_error e;
	struct told told = {.revision = 4};
	if (cs_loop_init(&loop, NULL, &e) < 0 || cs_etcd_new(&loop, &options, &etcd, &e) < 0 ||
		cs_etcd_watch(etcd, (struct cs_etcd_bytes){"a", 1}, (struct cs_etcd_bytes){"b", 1}, 5, 7, &events,
			&told, &watch, &e) < 0)
		abort();
	struct etcd_stream *stream = (struct etcd_stream *)watch;
	while (size >= 2 && !told.over) {
		size_t n = (size_t)data[0] << 8 | data[1];
		data += 2;
		size -= 2;
		n = n < size ? n : size;
		answer(stream, data, n);
		data += n;
		size -= n;
	}
	if (!told.over)
		cs_etcd_watch_free(watch);
	told.over = true;
	cs_etcd_close(etcd, NULL, NULL);
	cs_loop_run(&loop);
	cs_loop_fini(&loop);
	return 0;
}
