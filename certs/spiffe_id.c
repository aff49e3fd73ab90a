#include "spiffe_id.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SCHEME_LEN (sizeof(CS_SPIFFE_SCHEME) - 1)

/* How a byte is shown in an error: itself, or its number where it would not print. */
static const char *show(unsigned char byte, char text[static 8])
{
	if (isprint(byte))
		snprintf(text, 8, "'%c'", byte);
	else
		snprintf(text, 8, "0x%02x", byte);
	return text;
}

static bool domain_byte(unsigned char b)
{
	return (b >= 'a' && b <= 'z') || (b >= '0' && b <= '9') || b == '.' || b == '-' || b == '_';
}

static bool segment_byte(unsigned char b)
{
	return domain_byte(b) || (b >= 'A' && b <= 'Z');
}

/* SPIFFE-ID 2.1: a trust domain is a-z 0-9 . - _ ; 2.3: at most 255 bytes. */
int cs_trust_domain_check(const void *name, size_t len, struct cs_error *e)
{
	const unsigned char *b = name;
	char text[8];
	if (len == 0)
		return cs_error_set(e, -EINVAL, "the trust domain is empty");
	if (len > CS_TRUST_DOMAIN_MAX)
		return cs_error_set(
			e, -EINVAL, "the trust domain has %zu bytes; the most is %d", len, CS_TRUST_DOMAIN_MAX);
	for (size_t i = 0; i < len; i++)
		if (!domain_byte(b[i]))
			return cs_error_set(e, -EINVAL,
				"the trust domain has %s at byte %zu; it may have a-z 0-9 . - _ only", show(b[i], text),
				i + 1);
	return 0;
}

/* SPIFFE-ID 2.2: '/' segment, repeated; a segment is not empty, not "." and not "..". */
static int check_path(const unsigned char *path, size_t len, struct cs_error *e)
{
	size_t start = 0;
	char text[8];
	for (size_t i = 0; i <= len; i++) {
		if (i > 0 && (i == len || path[i] == '/')) {
			const unsigned char *segment = path + start + 1;
			size_t n = i - start - 1;
			if (n == 0)
				return cs_error_set(e, -EINVAL, "the path has an empty segment at byte %zu", i);
			if ((n == 1 && segment[0] == '.') || (n == 2 && segment[0] == '.' && segment[1] == '.'))
				return cs_error_set(e, -EINVAL, "the path has the segment '%.*s'", (int)n, segment);
			start = i;
		} else if (i < len && i > 0 && !segment_byte(path[i])) {
			return cs_error_set(e, -EINVAL,
				"the path has %s at byte %zu; a segment may have a-z A-Z 0-9 . - _ only",
				show(path[i], text), i + 1);
		}
	}
	return 0;
}

int cs_spiffe_id_parse(struct cs_spiffe_id *ret, const void *bytes, size_t len, struct cs_error *e)
{
	const char *text = bytes;
	if (len > CS_SPIFFE_ID_MAX)
		return cs_error_set(e, -EINVAL, "the SPIFFE ID has %zu bytes; the most is %d", len, CS_SPIFFE_ID_MAX);
	if (len < SCHEME_LEN || memcmp(text, CS_SPIFFE_SCHEME, SCHEME_LEN) != 0)
		return cs_error_set(e, -EINVAL, "the SPIFFE ID does not start with '%s'", CS_SPIFFE_SCHEME);
	const char *domain = text + SCHEME_LEN, *slash = memchr(domain, '/', len - SCHEME_LEN);
	size_t domain_len = slash ? (size_t)(slash - domain) : len - SCHEME_LEN;
	int r = cs_trust_domain_check(domain, domain_len, e);
	if (r == 0 && slash)
		r = check_path((const unsigned char *)slash, len - SCHEME_LEN - domain_len, e);
	if (r < 0) {
		cs_error_prefix(e, "SPIFFE ID");
		return r;
	}
	ret->len = len;
	ret->domain_len = domain_len;
	memcpy(ret->text, text, len);
	ret->text[len] = '\0';
	return 0;
}

int cs_spiffe_id_make(struct cs_spiffe_id *ret, const char *domain, const char *path, struct cs_error *e)
{
	char text[CS_SPIFFE_ID_MAX + 2]; /* one more, so that what is too long stays too long */
	int r = cs_trust_domain_check(domain, strlen(domain), e);
	if (r < 0)
		return r;
	if (path[0] != '\0' && path[0] != '/')
		return cs_error_set(e, -EINVAL, "the path '%s' does not start with '/'", path);
	int n = snprintf(text, sizeof(text), "%s%s%s", CS_SPIFFE_SCHEME, domain, path);
	return cs_spiffe_id_parse(ret, text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1, e);
}

bool cs_spiffe_id_equal(const struct cs_spiffe_id *a, const struct cs_spiffe_id *b)
{
	return a->len == b->len && memcmp(a->text, b->text, a->len) == 0;
}

const char *cs_spiffe_id_path(const struct cs_spiffe_id *id)
{
	return id->text + SCHEME_LEN + id->domain_len;
}

void cs_spiffe_id_domain(const struct cs_spiffe_id *id, char ret[static CS_TRUST_DOMAIN_MAX + 1])
{
	memcpy(ret, id->text + SCHEME_LEN, id->domain_len);
	ret[id->domain_len] = '\0';
}
