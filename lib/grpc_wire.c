#include "grpc_wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <nghttp2/nghttp2.h>
#include "utf8.h"
#include <openssl/crypto.h>

void cs_grpc_deframer_init(struct cs_grpc_deframer *d, uint32_t message_max)
{
	*d = (struct cs_grpc_deframer){.message_max = message_max};
}

void cs_grpc_deframer_fini(struct cs_grpc_deframer *d)
{
	if (d->body)
		OPENSSL_cleanse(d->body, d->room); /* some messages carry keys */
	free(d->body);
	d->body = NULL;
}

bool cs_grpc_deframer_partial(const struct cs_grpc_deframer *d)
{
	return d->nprefix > 0 && (d->nprefix < CS_GRPC_PREFIX || d->have < d->size);
}

static int read_prefix(struct cs_grpc_deframer *d)
{
	if (d->prefix[0] > 1)
		return -EBADMSG;
	if (d->prefix[0] == 1)
		return -EOPNOTSUPP;
	d->size = (uint32_t)d->prefix[1] << 24 | (uint32_t)d->prefix[2] << 16 | (uint32_t)d->prefix[3] << 8 |
		  d->prefix[4];
	return d->size > d->message_max ? -EMSGSIZE : 0;
}

static int take_body(struct cs_grpc_deframer *d, const uint8_t *bytes, size_t n)
{
	if (n == 0)
		return 0;
	size_t need = d->have + n;
	if (need > d->room) {
		size_t room = need > 2 * (size_t)d->room ? need : 2 * (size_t)d->room;
		if (room > d->size)
			room = d->size;
		uint8_t *body = malloc(room); /* not realloc: it would leave a copy behind */
		if (!body)
			return -ENOMEM;
		if (d->have > 0)
			memcpy(body, d->body, d->have);
		cs_grpc_deframer_fini(d);
		d->body = body;
		d->room = (uint32_t)room;
	}
	memcpy(d->body + d->have, bytes, n);
	d->have += (uint32_t)n;
	return 0;
}

int cs_grpc_deframe(struct cs_grpc_deframer *d, const uint8_t *bytes, size_t n, size_t *ret_used)
{
	*ret_used = 0;
	if (d->nprefix == CS_GRPC_PREFIX && d->have == d->size) { /* the last one was delivered */
		d->nprefix = 0;
		d->size = d->have = 0;
	}
	size_t used = 0;
	while (used < n && d->nprefix < CS_GRPC_PREFIX) {
		d->prefix[d->nprefix++] = bytes[used++];
		int r = d->nprefix == CS_GRPC_PREFIX ? read_prefix(d) : 0;
		if (r < 0)
			return r;
	}
	if (d->nprefix < CS_GRPC_PREFIX) {
		*ret_used = used;
		return 0;
	}
	size_t take = n - used < d->size - d->have ? n - used : d->size - d->have;
	int r = take_body(d, bytes + used, take);
	if (r < 0)
		return r;
	*ret_used = used + take;
	return d->have == d->size;
}

int cs_grpc_timeout_parse(const uint8_t *value, size_t n, int64_t *ret_ms)
{
	if (n < 2 || n > 9)
		return -EBADMSG;
	int64_t number = 0;
	for (size_t i = 0; i < n - 1; i++) {
		if (value[i] < '0' || value[i] > '9')
			return -EBADMSG;
		number = number * 10 + (value[i] - '0');
	}
	switch (value[n - 1]) {
	case 'H':
		*ret_ms = number * 3600000;
		return 0;
	case 'M':
		*ret_ms = number * 60000;
		return 0;
	case 'S':
		*ret_ms = number * 1000;
		return 0;
	case 'm':
		*ret_ms = number;
		return 0;
	case 'u':
		*ret_ms = (number + 999) / 1000;
		return 0;
	case 'n':
		*ret_ms = (number + 999999) / 1000000;
		return 0;
	default:
		return -EBADMSG;
	}
}

void cs_grpc_timeout_format(int64_t timeout_ms, char out[16])
{
	static const struct {
		char unit;
		int64_t ms;
	} units[] = {{'m', 1}, {'S', 1000}, {'M', 60000}, {'H', 3600000}};
	if (timeout_ms < 0)
		timeout_ms = 0;
	size_t u = 0;
	while (u < 3 && timeout_ms / units[u].ms > 99999999)
		u++;
	int64_t number = timeout_ms / units[u].ms;
	snprintf(out, 16, "%u%c", (unsigned)(number > 99999999 ? 99999999 : number), units[u].unit);
}

static int hex(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void cs_grpc_percent_decode(const uint8_t *value, size_t n, char *out, size_t room)
{
	size_t have = 0;
	for (size_t i = 0; i < n && have < room - 1; i++) {
		uint8_t c = value[i];
		if (c == '%' && i + 2 < n && hex(value[i + 1]) >= 0 && hex(value[i + 2]) >= 0) {
			c = (uint8_t)(hex(value[i + 1]) << 4 | hex(value[i + 2]));
			i += 2;
		}
		out[have++] = (char)c;
	}
	out[have] = '\0';
	cs_utf8_clean(out, have);
}

void cs_grpc_percent_encode(const char *text, char out[CS_GRPC_PERCENT_ROOM])
{
	static const char digits[] = "0123456789ABCDEF";
	size_t have = 0;
	for (const uint8_t *s = (const uint8_t *)text; *s && have + 4 <= CS_GRPC_PERCENT_ROOM; s++) {
		if (*s >= 0x20 && *s <= 0x7e && *s != '%') {
			out[have++] = (char)*s;
			continue;
		}
		out[have++] = '%';
		out[have++] = digits[*s >> 4];
		out[have++] = digits[*s & 15];
	}
	out[have] = '\0';
}

enum cs_grpc_code cs_grpc_status_parse(const uint8_t *value, size_t n)
{
	if (n < 1 || n > 2)
		return CS_GRPC_UNKNOWN;
	int number = 0;
	for (size_t i = 0; i < n; i++) {
		if (value[i] < '0' || value[i] > '9')
			return CS_GRPC_UNKNOWN;
		number = number * 10 + (value[i] - '0');
	}
	return number <= CS_GRPC_UNAUTHENTICATED ? (enum cs_grpc_code)number : CS_GRPC_UNKNOWN;
}

/* Letters, digits, '_' and, in the service, '.': what protobuf allows in names. */
static size_t name_length(const char *s, size_t n, bool dots)
{
	size_t i = 0;
	while (i < n && ((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') ||
				s[i] == '_' || (dots && s[i] == '.')))
		i++;
	return i;
}

int cs_grpc_path_parse(const char *path, size_t n, size_t *ret_service_length, const char **ret_method)
{
	if (n < 4 || n > CS_GRPC_PATH_MAX || path[0] != '/')
		return -EBADMSG;
	size_t service = name_length(path + 1, n - 1, true);
	if (service == 0 || 1 + service >= n || path[1 + service] != '/')
		return -EBADMSG;
	size_t at = 1 + service + 1;
	if (at == n || name_length(path + at, n - at, false) != n - at)
		return -EBADMSG;
	*ret_service_length = service;
	*ret_method = path + at;
	return 0;
}

bool cs_grpc_content_type_ok(const uint8_t *value, size_t n)
{
	static const char plain[] = "application/grpc", proto[] = "application/grpc+proto";
	size_t length = 0;
	while (length < n && value[length] != ';' && value[length] != ' ')
		length++;
	return (length == sizeof(plain) - 1 && memcmp(value, plain, length) == 0) ||
	       (length == sizeof(proto) - 1 && memcmp(value, proto, length) == 0);
}

enum cs_grpc_code cs_grpc_code_of_http(int http_status)
{
	switch (http_status) {
	case 400:
		return CS_GRPC_INTERNAL;
	case 401:
		return CS_GRPC_UNAUTHENTICATED;
	case 403:
		return CS_GRPC_PERMISSION_DENIED;
	case 404:
		return CS_GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return CS_GRPC_UNAVAILABLE;
	default:
		return CS_GRPC_UNKNOWN;
	}
}

enum cs_grpc_code cs_grpc_code_of_http2_error(uint32_t error_code)
{
	switch (error_code) {
	case NGHTTP2_REFUSED_STREAM:
		return CS_GRPC_UNAVAILABLE;
	case NGHTTP2_CANCEL:
		return CS_GRPC_CANCELLED;
	case NGHTTP2_ENHANCE_YOUR_CALM:
		return CS_GRPC_RESOURCE_EXHAUSTED;
	case NGHTTP2_INADEQUATE_SECURITY:
		return CS_GRPC_PERMISSION_DENIED;
	default:
		return CS_GRPC_INTERNAL;
	}
}
