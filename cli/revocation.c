#include "revocation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "doc.h"

static char *subject_text(json_t *r)
{
	static const struct {
		const char *key, *format;
	} parts[] = {{"identity", "identity %s"}, {"node", "node %s"}, {"leaf_sha256", "leaf %s"},
		{"serial", "serial %s"}, {"authority", "authority %s"}};
	char *text = NULL, number[16];
	size_t len;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		abort();
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		const json_t *value = json_object_get(r, parts[i].key);
		if (json_is_null(value))
			continue;
		snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
		fputs(ftell(f) == 0 ? "" : strcmp(parts[i].key, "node") == 0 ? " on " : " of ", f);
		fprintf(f, parts[i].format, json_is_integer(value) ? number : json_string_value(value));
	}
	fclose(f);
	return text;
}

json_t *cs_revocation_doc(const Countersign__V1__Revocation *r)
{
	json_t *doc = cs_doc_pack("{s:o, s:n, s:n, s:n, s:n, s:n, s:I, s:I, s:o, s:o}", "id", cs_doc_text(r->id),
		"identity", "node", "leaf_sha256", "serial", "authority", "from_unix_s", (json_int_t)r->from_unix_s,
		"until_unix_s", (json_int_t)r->until_unix_s, "why", cs_doc_text(r->why), "who", cs_doc_text(r->who));
	switch (r->subject_case) {
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_IDENTITY:
		cs_doc_set(doc, "identity", json_integer(r->identity));
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_NODE:
		cs_doc_set(doc, "node", cs_doc_text(r->node));
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_PLACEMENT:
		cs_doc_set(doc, "identity", json_integer(r->placement->identity));
		cs_doc_set(doc, "node", cs_doc_text(r->placement->node));
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_LEAF_SHA256:
		cs_doc_set(doc, "leaf_sha256", cs_doc_hex(&r->leaf_sha256));
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_SERIAL:
		cs_doc_set(doc, "serial", cs_doc_hex(&r->serial->serial));
		cs_doc_set(doc, "authority", cs_doc_hex(&r->serial->authority));
		break;
	case COUNTERSIGN__V1__REVOCATION__SUBJECT_AUTHORITY:
		cs_doc_set(doc, "authority", cs_doc_hex(&r->authority));
		break;
	default:
		break;
	}
	char *text = subject_text(doc);
	cs_doc_set(doc, "subject", cs_doc_text(text));
	free(text);
	return doc;
}

static int digit(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : -1;
}

int cs_hex_parse(const char *text, uint8_t *bytes, size_t max, size_t *ret_n, struct cs_error *e)
{
	size_t n = 0;
	for (const char *p = text; *p; p += 2) {
		if (*p == ':' && n > 0)
			p++;
		int high = digit(p[0]), low = high < 0 ? -1 : digit(p[1]);
		if (low < 0 || n == max)
			return cs_error_set(e, -EINVAL,
				"'%.80s' is not hexadecimal of 1 to %zu bytes, like 0a1b2c or 0A:1B:2C", text, max);
		bytes[n++] = (uint8_t)(high << 4 | low);
	}
	*ret_n = n;
	return n > 0 ? 0 : cs_error_set(e, -EINVAL, "hexadecimal is missing");
}
