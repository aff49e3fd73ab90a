#include "doc.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *must(json_t *value)
{
	if (!value) {
		fprintf(stderr, "countersign: out of memory\n");
		abort();
	}
	return value;
}

json_t *cs_doc_pack(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	json_t *value = must(json_vpack_ex(NULL, 0, format, args));
	va_end(args);
	return value;
}

void cs_doc_set(json_t *object, const char *key, json_t *value)
{
	if (json_object_set_new(object, key, must(value)) < 0)
		abort();
}

void cs_doc_append(json_t *array, json_t *value)
{
	if (json_array_append_new(array, must(value)) < 0)
		abort();
}

json_t *cs_doc_text(const char *text)
{
	if (!text)
		text = "";
	json_t *value = json_string(text); /* NULL: not UTF-8 */
	if (value)
		return value;
	char *copy = strdup(text);
	for (char *p = copy; p && *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	value = must(copy ? json_string(copy) : NULL);
	free(copy);
	return value;
}

json_t *cs_doc_hex(const ProtobufCBinaryData *bytes)
{
	char text[2 * 64 + 1] = "";
	for (size_t i = 0; i < bytes->len && i < 64; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes->data[i]);
	return must(json_string(text));
}

json_t *cs_doc_mark(uint64_t mark)
{
	char text[24];
	snprintf(text, sizeof(text), "0x%016" PRIx64, mark);
	return must(json_string(text));
}

json_t *cs_doc_address(const Countersign__V1__Address *address)
{
	char text[INET6_ADDRSTRLEN] = "";
	size_t len = address ? address->ip.len : 0;
	if (len == 4 || len == 16)
		inet_ntop(len == 4 ? AF_INET : AF_INET6, address->ip.data, text, sizeof(text));
	else
		snprintf(text, sizeof(text), "(%zu bytes)", len);
	return must(json_string(text));
}

json_t *cs_doc_addresses(Countersign__V1__Address *const *addresses, size_t n)
{
	json_t *list = must(json_array());
	for (size_t i = 0; i < n; i++)
		cs_doc_append(list, cs_doc_address(addresses[i]));
	return list;
}

json_t *cs_doc_labels(Countersign__V1__Label *const *labels, size_t n)
{
	json_t *list = must(json_array());
	for (size_t i = 0; i < n; i++) {
		char *text = NULL;
		if (asprintf(&text, "%s:%s=%s", labels[i]->source, labels[i]->key, labels[i]->value) < 0)
			abort();
		cs_doc_append(list, cs_doc_text(text));
		free(text);
	}
	return list;
}

json_t *cs_doc_reason(const Countersign__V1__Reason *reason)
{
	if (!reason || (!*reason->name && !*reason->detail))
		return json_null();
	return cs_doc_pack("{s:o, s:o}", "name", cs_doc_text(reason->name), "detail", cs_doc_text(reason->detail));
}

json_t *cs_doc_verdict(Countersign__V1__Verdict verdict)
{
	static const char *const names[] = {"deny", "require", "pass"};
	return cs_doc_text((unsigned)verdict < 3 ? names[verdict] : "unknown");
}

struct sorted {
	json_t *item;
	size_t place; /* where it was: what is equal stays in its order */
};

static int compare(const void *a, const void *b, void *key)
{
	const struct sorted *s = a, *t = b;
	const json_t *x = json_object_get(s->item, key), *y = json_object_get(t->item, key);
	int order = 0;
	if (json_is_string(x) && json_is_string(y))
		order = strcmp(json_string_value(x), json_string_value(y));
	else if (json_integer_value(x) != json_integer_value(y))
		order = json_integer_value(x) > json_integer_value(y) ? 1 : -1;
	return order ? order : (s->place > t->place) - (s->place < t->place);
}

void cs_doc_sort(json_t *array, const char *key)
{
	size_t n = json_array_size(array);
	struct sorted *list = calloc(n + 1, sizeof(*list));
	if (!list)
		abort();
	for (size_t i = 0; i < n; i++)
		list[i] = (struct sorted){json_incref(json_array_get(array, i)), i};
	qsort_r(list, n, sizeof(*list), compare, (void *)key);
	json_array_clear(array);
	for (size_t i = 0; i < n; i++)
		cs_doc_append(array, list[i].item);
	free(list);
}
