/* gRPC's wire format as pure functions: bytes in, values out; no sockets, no clock, no log.
 * Source: gRPC over HTTP2 (PROTOCOL-HTTP2.md). */
#ifndef CS_GRPC_WIRE_H
#define CS_GRPC_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include "grpc.h"

/* ---- Length-Prefixed-Message: u8 compressed, u32 length (big endian), bytes ---- */

#define CS_GRPC_PREFIX 5

/* Puts messages together from pieces. Memory grows with what arrived, never with what a prefix promised. */
struct cs_grpc_deframer {
	uint32_t message_max;
	uint8_t prefix[CS_GRPC_PREFIX];
	uint8_t nprefix;
	uint8_t *body; /* the message, size bytes, after 1; NULL if size is 0 and nothing was ever allocated */
	uint32_t size, have, room;
};
void cs_grpc_deframer_init(struct cs_grpc_deframer *d, uint32_t message_max);
void cs_grpc_deframer_fini(struct cs_grpc_deframer *d);
/* Takes *ret_used of n bytes, up to the end of the first message. 1: d->body holds a message until the next call; 0: it
 * wants more; -EMSGSIZE: larger than message_max; -EOPNOTSUPP: compressed, and no encoding was agreed on; -EBADMSG: the
 * flag byte is neither 0 nor 1; -ENOMEM. After an error the stream is out of step for good. */
CS_MUST_USE int cs_grpc_deframe(struct cs_grpc_deframer *d, const uint8_t *bytes, size_t n, size_t *ret_used);
/* Is it in the midst of a message? An end of stream there is an error. */
bool cs_grpc_deframer_partial(const struct cs_grpc_deframer *d);

/* ---- messages ---- */

/* A packed message with its prefix, as it waits in a queue. */
struct cs_grpc_packet {
	struct cs_grpc_packet *next;
	size_t size;
	uint8_t bytes[];
};
/* -EMSGSIZE: larger than message_max; -ENOMEM. */
CS_MUST_USE int cs_grpc_pack(
	const ProtobufCMessage *message, uint32_t message_max, struct cs_grpc_packet **ret_packet, struct cs_error *e);

/* Packets in order, read as one stream of bytes. Zeroed is empty. */
struct cs_grpc_queue {
	struct cs_grpc_packet *head, *tail;
	size_t offset; /* of head that was read */
	size_t bytes;  /* not yet read */
};
void cs_grpc_queue_take(struct cs_grpc_queue *q, struct cs_grpc_packet *packet);
size_t cs_grpc_queue_read(struct cs_grpc_queue *q, uint8_t *out, size_t room);
void cs_grpc_queue_fini(struct cs_grpc_queue *q);

/* Unpack with a bound on memory: a few bytes on the wire can become many. *ret_message is freed by
 * cs_grpc_unpack_free. -EBADMSG: not such a message; -EMSGSIZE: it would need more than unpack_max bytes. */
CS_MUST_USE int cs_grpc_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n,
	uint32_t unpack_max, ProtobufCMessage **ret_message);
void cs_grpc_unpack_free(ProtobufCMessage *message); /* NULL is fine */

/* ---- headers ---- */

/* grpc-timeout, at most 8 digits and a unit of H M S m u n; fractions of a ms count as one. -EBADMSG. */
CS_MUST_USE int cs_grpc_timeout_parse(const uint8_t *value, size_t n, int64_t *ret_ms);
void cs_grpc_timeout_format(int64_t timeout_ms, char out[16]);

/* grpc-message. Decoding is lenient about '%' as the specification asks, bounded, and always gives valid UTF-8 without
 * control characters: what is not becomes '?'. */
void cs_grpc_percent_decode(const uint8_t *value, size_t n, char *out, size_t room);
#define CS_GRPC_PERCENT_ROOM (CS_GRPC_STATUS_TEXT * 3)
void cs_grpc_percent_encode(const char *text, char out[CS_GRPC_PERCENT_ROOM]);

/* grpc-status: 0 to 16, anything else is UNKNOWN. */
enum cs_grpc_code cs_grpc_status_parse(const uint8_t *value, size_t n);

/* ":path" of the form /package.Service/Method; the parts are slices of it. -EBADMSG. */
#define CS_GRPC_PATH_MAX 255
CS_MUST_USE int cs_grpc_path_parse(const char *path, size_t n, size_t *ret_service_length, const char **ret_method);

/* "application/grpc", "application/grpc+proto", either with parameters. */
bool cs_grpc_content_type_ok(const uint8_t *value, size_t n);

/* The code for an answer that came without grpc-status (http-grpc-status-mapping.md), and for RST_STREAM. */
enum cs_grpc_code cs_grpc_code_of_http(int http_status);
enum cs_grpc_code cs_grpc_code_of_http2_error(uint32_t error_code);

#endif
