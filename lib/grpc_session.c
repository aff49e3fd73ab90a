#include "grpc_session.h"

#include <errno.h>
#include <string.h>

#define FILL(field, value)                                                                                             \
	if (limits->field == 0)                                                                                        \
	limits->field = (value)

void cs_grpc_limits_fill(struct cs_grpc_limits *limits)
{
	FILL(message_max, CS_GRPC_MESSAGE_MAX);
	FILL(unpack_max, CS_GRPC_UNPACK_MAX);
	FILL(streams_max, CS_GRPC_STREAMS_MAX);
	FILL(calls_max, CS_GRPC_CALLS_MAX);
	FILL(window, CS_GRPC_WINDOW);
	FILL(conn_window, CS_GRPC_CONN_WINDOW);
	FILL(queue_high, CS_GRPC_QUEUE_HIGH);
	FILL(queue_max, CS_GRPC_QUEUE_MAX);
	FILL(headers_max, CS_GRPC_HEADERS_MAX);
	FILL(connections_max, CS_GRPC_CONNECTIONS_MAX);
	FILL(per_user_max, CS_GRPC_PER_USER_MAX);
	FILL(pending_max, CS_GRPC_PENDING_MAX);
	FILL(handshake_ms, CS_GRPC_HANDSHAKE_MS);
	FILL(request_ms, CS_GRPC_REQUEST_MS);
	FILL(idle_ms, CS_GRPC_IDLE_MS);
}

static int make_session(struct cs_http2 *h, const nghttp2_session_callbacks *callbacks, void *data)
{
	nghttp2_option *option;
	int r = nghttp2_option_new(&option);
	if (r < 0)
		return r;
	nghttp2_option_set_no_auto_window_update(option, 1);
	nghttp2_option_set_max_outbound_ack(option, CS_GRPC_ACKS_MAX);
	nghttp2_option_set_max_settings(option, CS_GRPC_SETTINGS_MAX);
	nghttp2_option_set_stream_reset_rate_limit(option, CS_GRPC_RESETS_BURST, CS_GRPC_RESETS_PER_S);
	r = h->server ? nghttp2_session_server_new2(&h->session, callbacks, data, option)
		      : nghttp2_session_client_new2(&h->session, callbacks, data, option);
	nghttp2_option_del(option);
	return r;
}

int cs_grpc_session_new(struct cs_http2 *h, const nghttp2_session_callbacks *callbacks,
	const struct cs_grpc_limits *limits, uint32_t streams, void *data, struct cs_error *e)
{
	int r = make_session(h, callbacks, data);
	const nghttp2_settings_entry settings[] = {
		{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, streams},
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits->window},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits->headers_max},
		{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	};
	if (r == 0)
		r = nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings, h->server ? 3 : 4);
	if (r == 0)
		r = nghttp2_session_set_local_window_size(
			h->session, NGHTTP2_FLAG_NONE, 0, (int32_t)limits->conn_window);
	if (r < 0)
		return cs_error_set(e, -ENOMEM, "cannot start HTTP/2: %s", nghttp2_strerror(r));
	return 0;
}

nghttp2_nv cs_grpc_nv(const char *name, const char *value)
{
	return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
		.value = (uint8_t *)(uintptr_t)value,
		.namelen = strlen(name),
		.valuelen = strlen(value)};
}

bool cs_grpc_name_is(const uint8_t *name, size_t n, const char *expected)
{
	return n == strlen(expected) && memcmp(name, expected, n) == 0;
}
