/* Messages in and out of their packed form (grpc_wire.h). */
#include "grpc_wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int cs_grpc_pack(
	const ProtobufCMessage *message, uint32_t message_max, struct cs_grpc_packet **ret_packet, struct cs_error *e)
{
	size_t size = protobuf_c_message_get_packed_size(message);
	if (size > message_max)
		return cs_error_set(e, -EMSGSIZE, "a %s of %zu bytes is larger than a message may be (%u bytes)",
			message->descriptor->name, size, (unsigned)message_max);
	struct cs_grpc_packet *packet = malloc(sizeof(*packet) + CS_GRPC_PREFIX + size);
	if (!packet)
		return cs_error_set(e, -ENOMEM, "no memory for a %s of %zu bytes", message->descriptor->name, size);
	packet->next = NULL;
	packet->size = CS_GRPC_PREFIX + size;
	packet->bytes[0] = 0;
	packet->bytes[1] = (uint8_t)(size >> 24);
	packet->bytes[2] = (uint8_t)(size >> 16);
	packet->bytes[3] = (uint8_t)(size >> 8);
	packet->bytes[4] = (uint8_t)size;
	protobuf_c_message_pack(message, packet->bytes + CS_GRPC_PREFIX);
	*ret_packet = packet;
	return 0;
}

void cs_grpc_queue_take(struct cs_grpc_queue *q, struct cs_grpc_packet *packet)
{
	packet->next = NULL;
	if (q->tail)
		q->tail->next = packet;
	else
		q->head = packet;
	q->tail = packet;
	q->bytes += packet->size;
}

static void queue_pop(struct cs_grpc_queue *q)
{
	struct cs_grpc_packet *packet = q->head;
	q->head = packet->next;
	q->offset = 0;
	if (!q->head)
		q->tail = NULL;
	free(packet);
}

size_t cs_grpc_queue_read(struct cs_grpc_queue *q, uint8_t *out, size_t room)
{
	size_t have = 0;
	while (q->head && have < room) {
		size_t left = q->head->size - q->offset;
		size_t n = left < room - have ? left : room - have;
		memcpy(out + have, q->head->bytes + q->offset, n);
		have += n;
		q->offset += n;
		if (n == left)
			queue_pop(q);
	}
	q->bytes -= have;
	return have;
}

void cs_grpc_queue_fini(struct cs_grpc_queue *q)
{
	while (q->head)
		queue_pop(q);
	q->bytes = 0;
}

#define ALLOC_OVERHEAD 16 /* malloc's own cost of an object: what a flood of empty ones really takes */

struct budget {
	size_t left;
	bool exceeded;
};

static void *budget_alloc(void *data, size_t size)
{
	struct budget *budget = data;
	if (size + ALLOC_OVERHEAD > budget->left) {
		budget->exceeded = true;
		return NULL;
	}
	budget->left -= size + ALLOC_OVERHEAD;
	return malloc(size ? size : 1);
}

static void budget_free(void *data, void *pointer)
{
	(void)data;
	free(pointer);
}

int cs_grpc_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n, uint32_t unpack_max,
	ProtobufCMessage **ret_message)
{
	static const uint8_t nothing[1];
	struct budget budget = {.left = unpack_max};
	ProtobufCAllocator allocator = {.alloc = budget_alloc, .free = budget_free, .allocator_data = &budget};
	ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, n, n ? bytes : nothing);
	if (!message)
		return budget.exceeded ? -EMSGSIZE : -EBADMSG;
	*ret_message = message;
	return 0;
}

void cs_grpc_unpack_free(ProtobufCMessage *message)
{
	static ProtobufCAllocator allocator = {.alloc = budget_alloc, .free = budget_free};
	if (message)
		protobuf_c_message_free_unpacked(message, &allocator);
}
