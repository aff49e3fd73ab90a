/* gRPC's wire format: whatever the bytes and however they are cut, the same messages come out; a message that unpacks
 * packs to something that unpacks to the same; text is always clean. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "echo.pb-c.h"
#include "grpc_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define UNPACK_MAX (1u << 20)

/* Deframe in pieces of `step` bytes; a checksum of everything that came out. */
static uint64_t deframe(const uint8_t *data, size_t size, size_t step)
{
	struct cs_grpc_deframer d;
	uint64_t sum = 1;
	cs_grpc_deframer_init(&d, 4096);
	for (size_t at = 0; at < size;) {
		size_t n = size - at < step ? size - at : step, used;
		int r = cs_grpc_deframe(&d, data + at, n, &used);
		if (r < 0) {
			sum = sum * 31 + (uint64_t)-r;
			break;
		}
		assert(used > 0 && used <= n);
		at += used;
		if (r == 0) {
			assert(used == n);
			continue;
		}
		assert(d.size <= 4096);
		for (uint32_t i = 0; i < d.size; i++)
			sum = sum * 31 + d.body[i];
		sum = sum * 31 + d.size;
	}
	assert(d.room <= 4096);
	cs_grpc_deframer_fini(&d);
	return sum;
}

/* protobuf-c takes a field number of 0 (80 00 ..) for an unknown field and then cannot read what it packs. Nothing of
 * ours passes unknown fields on. */
static bool has_unknown(const Countersign__Test__EchoRequest *request)
{
	bool unknown = request->base.n_unknown_fields > 0;
	for (size_t i = 0; i < request->n_nested && !unknown; i++)
		unknown = has_unknown(request->nested[i]);
	return unknown;
}

static void unpack(const uint8_t *data, size_t size)
{
	ProtobufCMessage *message, *again;
	struct cs_grpc_packet *packet, *second;
	const ProtobufCMessageDescriptor *type = &countersign__test__echo_request__descriptor;
	if (cs_grpc_unpack(type, data, size, UNPACK_MAX, &message) < 0)
		return;
	if (has_unknown((const Countersign__Test__EchoRequest *)message)) {
		cs_grpc_unpack_free(message);
		return;
	}
	assert(cs_grpc_pack(message, UINT32_MAX, &packet, NULL) == 0);
	assert(cs_grpc_unpack(type, packet->bytes + CS_GRPC_PREFIX, packet->size - CS_GRPC_PREFIX, 2 * UNPACK_MAX,
		       &again) == 0);
	assert(cs_grpc_pack(again, UINT32_MAX, &second, NULL) == 0);
	assert(packet->size == second->size && memcmp(packet->bytes, second->bytes, packet->size) == 0);
	free(packet);
	free(second);
	cs_grpc_unpack_free(message);
	cs_grpc_unpack_free(again);
}

static void headers(const uint8_t *data, size_t size)
{
	int64_t ms;
	size_t service;
	const char *method;
	char text[128], wire[CS_GRPC_PERCENT_ROOM], back[128];
	if (cs_grpc_timeout_parse(data, size, &ms) == 0)
		assert(ms >= 0);
	if (cs_grpc_path_parse((const char *)data, size, &service, &method) == 0)
		assert(service + 2 < size && method == (const char *)data + service + 2);
	cs_grpc_content_type_ok(data, size);
	assert(cs_grpc_status_parse(data, size) <= CS_GRPC_UNAUTHENTICATED);
	cs_grpc_percent_decode(data, size, text, sizeof(text));
	assert(strlen(text) < sizeof(text));
	cs_grpc_percent_encode(text, wire);
	cs_grpc_percent_decode((const uint8_t *)wire, strlen(wire), back, sizeof(back));
	assert(strcmp(text, back) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	size_t step = 1 + data[0] % 61;
	data++;
	size--;
	assert(deframe(data, size, step) == deframe(data, size, SIZE_MAX));
	unpack(data, size);
	headers(data, size);
	return 0;
}
