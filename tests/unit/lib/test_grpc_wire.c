/* gRPC's wire format: framing, timeouts, percent-coding, paths, statuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <nghttp2/nghttp2.h>

#include "echo.pb-c.h"
#include "grpc_wire.h"

static const uint8_t *bytes(const char *s)
{
	return (const uint8_t *)s;
}

/* Two messages, cut at every place: always the same two come out. */
static void frames_in_any_pieces(void **state)
{
	(void)state;
	static const uint8_t wire[] = "\0\0\0\0\5hello\0\0\0\0\0\0\0\0\0\3abc";
	size_t n = sizeof(wire) - 1;
	for (size_t cut = 0; cut <= n; cut++) {
		struct cs_grpc_deframer d;
		char got[32] = "";
		unsigned messages = 0;
		cs_grpc_deframer_init(&d, 100);
		for (size_t at = 0; at < n;) {
			size_t used, end = at < cut ? cut : n;
			int r = cs_grpc_deframe(&d, wire + at, end - at, &used);
			assert_true(r >= 0);
			at += used;
			if (r == 1) {
				messages++;
				if (d.size)
					strncat(got, (const char *)d.body, d.size);
				strcat(got, "|");
				assert_false(cs_grpc_deframer_partial(&d));
			}
		}
		assert_int_equal(messages, 3);
		assert_string_equal(got, "hello||abc|");
		cs_grpc_deframer_fini(&d);
	}
}

static int deframe(const char *wire, size_t n, uint32_t max)
{
	struct cs_grpc_deframer d;
	size_t used;
	cs_grpc_deframer_init(&d, max);
	int r = cs_grpc_deframe(&d, bytes(wire), n, &used);
	cs_grpc_deframer_fini(&d);
	return r;
}

static void frames_that_are_refused(void **state)
{
	(void)state;
	assert_int_equal(deframe("\1\0\0\0\0", 5, 100), -EOPNOTSUPP);
	assert_int_equal(deframe("\2\0\0\0\0", 5, 100), -EBADMSG);
	assert_int_equal(deframe("\0\0\0\0\145", 5, 100), -EMSGSIZE);
	assert_int_equal(deframe("\0\0\0\0\144", 5, 100), 0);
	assert_int_equal(deframe("\0\377\377\377\377", 5, 4u << 20), -EMSGSIZE);
	assert_int_equal(deframe("\0\0\0\0", 4, 100), 0);
}

/* A promise of 4 MiB costs nothing before bytes come. */
static void memory_follows_the_bytes(void **state)
{
	(void)state;
	struct cs_grpc_deframer d;
	size_t used;
	cs_grpc_deframer_init(&d, 4u << 20);
	assert_int_equal(cs_grpc_deframe(&d, bytes("\0\0\100\0\0xyz"), 8, &used), 0);
	assert_int_equal(d.room, 3);
	assert_true(cs_grpc_deframer_partial(&d));
	cs_grpc_deframer_fini(&d);
}

static void timeouts(void **state)
{
	(void)state;
	const struct {
		const char *text;
		int result;
		int64_t ms;
	} cases[] = {
		{"1H", 0, 3600000},
		{"2M", 0, 120000},
		{"3S", 0, 3000},
		{"4m", 0, 4},
		{"5000u", 0, 5},
		{"1u", 0, 1},
		{"1n", 0, 1},
		{"0S", 0, 0},
		{"99999999H", 0, 99999999LL * 3600000},
		{"100000000m", -EBADMSG, 0},
		{"m", -EBADMSG, 0},
		{"", -EBADMSG, 0},
		{"5", -EBADMSG, 0},
		{"5s", -EBADMSG, 0},
		{"-5m", -EBADMSG, 0},
		{"5 m", -EBADMSG, 0},
		{"5.5S", -EBADMSG, 0},
		{"0x5m", -EBADMSG, 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int64_t ms = 0;
		assert_int_equal(
			cs_grpc_timeout_parse(bytes(cases[i].text), strlen(cases[i].text), &ms), cases[i].result);
		assert_int_equal(ms, cases[i].ms);
	}
}

/* What is sent is at most 8 digits and never more time than was asked for. */
static void timeouts_out(void **state)
{
	(void)state;
	const int64_t cases[] = {-5, 0, 1, 99999999, 100000000, 123456789012, INT64_MAX};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[16];
		int64_t back;
		cs_grpc_timeout_format(cases[i], text);
		assert_int_equal(cs_grpc_timeout_parse(bytes(text), strlen(text), &back), 0);
		assert_true(back <= (cases[i] < 0 ? 0 : cases[i]));
		if (cases[i] >= 0 && cases[i] <= 99999999)
			assert_int_equal(back, cases[i]);
	}
}

static void check_decode(const char *in, const char *expected)
{
	char out[64];
	cs_grpc_percent_decode(bytes(in), strlen(in), out, sizeof(out));
	assert_string_equal(out, expected);
}

static void percent(void **state)
{
	(void)state;
	check_decode("plain", "plain");
	check_decode("a%20b%25", "a b%");
	check_decode("%e2%82%AC", "\xe2\x82\xac");
	check_decode("%zz%4", "%zz%4"); /* lenient, as the specification asks */
	check_decode("%", "%");
	check_decode("%00%0a%7f", "???");
	check_decode("\xff\xc0\xaf", "???");      /* not UTF-8 */
	check_decode("\xed\xa0\x80", "???");      /* a surrogate */
	check_decode("\xf4\x90\x80\x80", "????"); /* beyond Unicode */
	check_decode("\xe2\x82", "??");
	char out[4];
	cs_grpc_percent_decode(bytes("ab\xe2\x82\xac"), 5, out, sizeof(out)); /* cut in the midst of a character */
	assert_string_equal(out, "ab?");
	char wire[CS_GRPC_PERCENT_ROOM], back[CS_GRPC_STATUS_TEXT], text[CS_GRPC_STATUS_TEXT];
	memset(text, 0xc3, sizeof(text) - 1);
	for (size_t i = 1; i < sizeof(text) - 1; i += 2)
		text[i] = (char)0xa4;
	text[sizeof(text) - 2] = 'x';
	text[sizeof(text) - 1] = '\0';
	cs_grpc_percent_encode(text, wire);
	cs_grpc_percent_decode(bytes(wire), strlen(wire), back, sizeof(back));
	assert_string_equal(back, text);
}

static void statuses(void **state)
{
	(void)state;
	assert_int_equal(cs_grpc_status_parse(bytes("0"), 1), CS_GRPC_OK);
	assert_int_equal(cs_grpc_status_parse(bytes("16"), 2), CS_GRPC_UNAUTHENTICATED);
	assert_int_equal(cs_grpc_status_parse(bytes("17"), 2), CS_GRPC_UNKNOWN);
	assert_int_equal(cs_grpc_status_parse(bytes("-1"), 2), CS_GRPC_UNKNOWN);
	assert_int_equal(cs_grpc_status_parse(bytes(""), 0), CS_GRPC_UNKNOWN);
	assert_int_equal(cs_grpc_status_parse(bytes("000"), 3), CS_GRPC_UNKNOWN);
	assert_int_equal(cs_grpc_code_of_http(503), CS_GRPC_UNAVAILABLE);
	assert_int_equal(cs_grpc_code_of_http(418), CS_GRPC_UNKNOWN);
	assert_int_equal(cs_grpc_code_of_http2_error(NGHTTP2_REFUSED_STREAM), CS_GRPC_UNAVAILABLE);
	assert_int_equal(cs_grpc_code_of_http2_error(NGHTTP2_CANCEL), CS_GRPC_CANCELLED);
	assert_string_equal(cs_grpc_code_name(CS_GRPC_UNIMPLEMENTED), "UNIMPLEMENTED");
	assert_string_equal(cs_grpc_code_name((enum cs_grpc_code)99), "UNKNOWN");
	struct cs_error e;
	struct cs_grpc_status status = {
		.code = CS_GRPC_PERMISSION_DENIED, .reason = CS_R_ROLE_REFUSED, .message = "no"};
	assert_int_equal(cs_grpc_status_error(&status, &e), -EACCES);
	assert_int_equal(e.reason, CS_R_ROLE_REFUSED);
	assert_string_equal(e.text, "PERMISSION_DENIED: no");
	status.code = CS_GRPC_OK;
	assert_int_equal(cs_grpc_status_error(&status, &e), 0);
}

static void paths(void **state)
{
	(void)state;
	size_t service;
	const char *method;
	assert_int_equal(cs_grpc_path_parse("/a.b.C/D", 8, &service, &method), 0);
	assert_int_equal(service, 5);
	assert_string_equal(method, "D");
	const char *bad[] = {"", "/", "//", "/a", "/a/", "a/b", "//b", "/a/b/", "/a/b/c", "/a b/c", "/a/b?c", "/a/..",
		"/\xc3\xa4/b"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cs_grpc_path_parse(bad[i], strlen(bad[i]), &service, &method), -EBADMSG);
	char lengthy[300];
	memset(lengthy, 'a', sizeof(lengthy));
	lengthy[0] = lengthy[100] = '/';
	assert_int_equal(cs_grpc_path_parse(lengthy, CS_GRPC_PATH_MAX, &service, &method), 0);
	assert_int_equal(cs_grpc_path_parse(lengthy, CS_GRPC_PATH_MAX + 1, &service, &method), -EBADMSG);
}

static void content_types(void **state)
{
	(void)state;
	const char *good[] = {"application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"},
		   *bad[] = {"", "application/grp", "application/grpcx", "application/grpc+json", "text/html",
			   "application/grpc-web"};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(cs_grpc_content_type_ok(bytes(good[i]), strlen(good[i])));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(cs_grpc_content_type_ok(bytes(bad[i]), strlen(bad[i])));
}

static void messages(void **state)
{
	(void)state;
	Countersign__Test__EchoRequest request = COUNTERSIGN__TEST__ECHO_REQUEST__INIT;
	request.text = (char *)(uintptr_t) "hello";
	struct cs_grpc_packet *packet;
	struct cs_error e;
	assert_int_equal(cs_grpc_pack(&request.base, 6, &packet, &e), -EMSGSIZE);
	assert_int_equal(cs_grpc_pack(&request.base, 7, &packet, &e), 0);
	assert_int_equal(packet->size, CS_GRPC_PREFIX + 7);
	assert_memory_equal(packet->bytes, "\0\0\0\0\7\12\5hello", 12);
	ProtobufCMessage *back;
	const ProtobufCMessageDescriptor *type = &countersign__test__echo_request__descriptor;
	assert_int_equal(cs_grpc_unpack(type, packet->bytes + 5, 7, 1000, &back), 0);
	assert_string_equal(((Countersign__Test__EchoRequest *)back)->text, "hello");
	cs_grpc_unpack_free(back);
	assert_int_equal(cs_grpc_unpack(type, packet->bytes + 5, 7, 10, &back), -EMSGSIZE);
	assert_int_equal(cs_grpc_unpack(type, packet->bytes + 5, 6, 1000, &back), -EBADMSG);
	assert_int_equal(cs_grpc_unpack(type, NULL, 0, 1000, &back), 0);
	cs_grpc_unpack_free(back);
	cs_grpc_unpack_free(NULL);
	free(packet);
}

static void queues(void **state)
{
	(void)state;
	struct cs_grpc_queue q = {0};
	uint8_t out[40];
	Countersign__Test__EchoRequest request = COUNTERSIGN__TEST__ECHO_REQUEST__INIT;
	for (int i = 0; i < 4; i++) {
		struct cs_grpc_packet *packet;
		request.count = (uint32_t)i + 1;
		assert_int_equal(cs_grpc_pack(&request.base, 100, &packet, NULL), 0);
		cs_grpc_queue_take(&q, packet);
	}
	assert_int_equal(q.bytes, 28);
	assert_int_equal(cs_grpc_queue_read(&q, out, 10), 10);
	assert_int_equal(cs_grpc_queue_read(&q, out + 10, 11), 11);
	assert_memory_equal(out, "\0\0\0\0\2\30\1\0\0\0\0\2\30\2\0\0\0\0\2\30\3", 21);
	assert_int_equal(q.bytes, 7);
	assert_int_equal(cs_grpc_queue_read(&q, out, 1), 1);
	cs_grpc_queue_fini(&q);
	assert_int_equal(cs_grpc_queue_read(&q, out, 10), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_in_any_pieces),
		cmocka_unit_test(frames_that_are_refused),
		cmocka_unit_test(memory_follows_the_bytes),
		cmocka_unit_test(timeouts),
		cmocka_unit_test(timeouts_out),
		cmocka_unit_test(percent),
		cmocka_unit_test(statuses),
		cmocka_unit_test(paths),
		cmocka_unit_test(content_types),
		cmocka_unit_test(messages),
		cmocka_unit_test(queues),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
