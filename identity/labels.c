#include "labels.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define INVALID(e, ...) cs_error_reason(e, -EINVAL, CS_R_LABELS_INVALID, __VA_ARGS__)

static const char *const sources[] = {"unspec", "k8s", "container", "reserved", "cidr"};

void cs_labels_fini(struct cs_labels *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->items[i].key);
		free(l->items[i].value);
	}
	free(l->items);
	*l = (struct cs_labels){0};
}

const char *cs_label_source(const char *source, size_t n)
{
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++)
		if (strlen(sources[i]) == n && memcmp(sources[i], source, n) == 0)
			return sources[i];
	return NULL;
}

/* What may stand unescaped in the canonical form, and in a terminal. */
static bool key_char(unsigned char c)
{
	return c > ' ' && c < 0x7f && c != ';' && c != '=' && c != ':';
}

static bool value_char(unsigned char c)
{
	return c >= ' ' && c < 0x7f && c != ';';
}

static int check_key(const char *key, size_t n, struct cs_error *e)
{
	if (n == 0)
		return INVALID(e, "a label has no key; write [source:]key[=value]");
	if (n > CS_LABEL_KEY_MAX)
		return INVALID(
			e, "label key '%.32s...' has %zu characters, more than %d", key, n, (int)CS_LABEL_KEY_MAX);
	for (size_t i = 0; i < n; i++)
		if (!key_char((unsigned char)key[i]))
			return INVALID(e,
				"label key has character 0x%02x at %zu; printable ASCII without space, ';', '=' and "
				"':' may stand there",
				(unsigned char)key[i], i + 1);
	return 0;
}

static int check_value(const char *key, size_t nkey, const char *value, size_t n, struct cs_error *e)
{
	if (n > CS_LABEL_VALUE_MAX)
		return INVALID(e, "the value of label '%.*s' has %zu characters, more than %d", (int)nkey, key, n,
			(int)CS_LABEL_VALUE_MAX);
	for (size_t i = 0; i < n; i++)
		if (!value_char((unsigned char)value[i]))
			return INVALID(e,
				"the value of label '%.*s' has character 0x%02x at %zu; printable ASCII without ';' "
				"may stand there",
				(int)nkey, key, (unsigned char)value[i], i + 1);
	return 0;
}

/* Index of the first item whose key is not less than key. */
static size_t lower_bound(const struct cs_labels *l, const char *key)
{
	size_t low = 0, high = l->n;
	while (low < high) {
		size_t mid = (low + high) / 2;
		if (strcmp(l->items[mid].key, key) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

const struct cs_label *cs_labels_get(const struct cs_labels *l, const char *key)
{
	size_t i = lower_bound(l, key);
	return i < l->n && strcmp(l->items[i].key, key) == 0 ? &l->items[i] : NULL;
}

static size_t text_size(const struct cs_label *l)
{
	return strlen(l->source) + strlen(l->key) + strlen(l->value) + strlen(":=;");
}

static size_t set_text_size(const struct cs_labels *l)
{
	size_t size = 0;
	for (size_t i = 0; i < l->n; i++)
		size += text_size(&l->items[i]);
	return size;
}

/* Puts the checked label into its place; takes over key and value on success. */
static int insert(struct cs_labels *l, struct cs_label new, struct cs_error *e)
{
	const struct cs_label *there = cs_labels_get(l, new.key);
	if (there)
		return INVALID(e,
			"label key '%s' is there twice: %s:%s=%s and %s:%s=%s; a key has one source and value", new.key,
			there->source, there->key, there->value, new.source, new.key, new.value);
	if (l->n == CS_LABELS_MAX)
		return INVALID(e, "more than %d labels", (int)CS_LABELS_MAX);
	if (set_text_size(l) + text_size(&new) > CS_LABELS_TEXT_MAX)
		return INVALID(e, "labels of more than %d bytes in all", (int)CS_LABELS_TEXT_MAX);
	struct cs_label *grown = realloc(l->items, (l->n + 1) * sizeof(*grown));
	if (!grown)
		return cs_error_set(e, -ENOMEM, "out of memory");
	l->items = grown;
	size_t at = lower_bound(l, new.key);
	memmove(grown + at + 1, grown + at, (l->n - at) * sizeof(*grown));
	grown[at] = new;
	l->n++;
	return 0;
}

struct span {
	const char *p;
	size_t n;
};

static int add_spans(struct cs_labels *l, struct span source, struct span key, struct span value, struct cs_error *e)
{
	struct cs_label new = {.source = source.n ? cs_label_source(source.p, source.n) : "unspec"};
	if (!new.source)
		return INVALID(e, "label source '%.*s' is not known; known are k8s, container and unspec%s",
			source.n > 32 ? 32 : (int)source.n, source.p,
			source.n == 3 && memcmp(source.p, "any", 3) == 0 ? " (any is for selectors)" : "");
	int r = check_key(key.p, key.n, e);
	if (r == 0)
		r = check_value(key.p, key.n, value.p, value.n, e);
	if (r < 0)
		return r;
	new.key = strndup(key.p, key.n);
	new.value = strndup(value.p, value.n);
	r = new.key &&new.value ? insert(l, new, e) : cs_error_set(e, -ENOMEM, "out of memory");
	if (r < 0) {
		free(new.key);
		free(new.value);
	}
	return r;
}

static struct span span_of(const char *text)
{
	return (struct span){text, strlen(text)};
}

int cs_labels_add(struct cs_labels *l, const char *source, const char *key, const char *value, struct cs_error *e)
{
	return add_spans(l, span_of(source), span_of(key), span_of(value), e);
}

int cs_labels_add_text(struct cs_labels *l, const char *text, size_t n, struct cs_error *e)
{
	/* A colon in the value is the value's: only one before the first '=' ends a source. */
	const char *equals = memchr(text, '=', n);
	size_t left = equals ? (size_t)(equals - text) : n;
	const char *colon = memchr(text, ':', left);
	struct span source = {text, 0}, key = {text, left}, value = {text + n, 0};
	if (colon) {
		source.n = (size_t)(colon - text);
		key = (struct span){colon + 1, left - source.n - 1};
		if (source.n == 0)
			return INVALID(e, "label '%.*s' begins with ':'; write source:key or leave both out",
				n > 64 ? 64 : (int)n, text);
	}
	if (equals)
		value = (struct span){equals + 1, n - left - 1};
	return add_spans(l, source, key, value, e);
}

int cs_labels_parse(const char *text, size_t n, struct cs_labels *ret, struct cs_error *e)
{
	struct cs_labels l = {0};
	while (n > 0) {
		const char *end = memchr(text, ';', n);
		size_t one = end ? (size_t)(end - text) : n;
		int r = cs_labels_add_text(&l, text, one, e);
		if (r < 0) {
			cs_labels_fini(&l);
			return r;
		}
		size_t used = end ? one + 1 : one;
		text += used;
		n -= used;
	}
	*ret = l;
	return 0;
}

int cs_labels_from_proto(Countersign__V1__Label *const *labels, size_t n, struct cs_labels *ret, struct cs_error *e)
{
	struct cs_labels l = {0};
	for (size_t i = 0; i < n; i++) {
		int r = cs_labels_add(&l, labels[i]->source, labels[i]->key, labels[i]->value, e);
		if (r < 0) {
			cs_labels_fini(&l);
			return r;
		}
	}
	*ret = l;
	return 0;
}

int cs_labels_check_claim(const struct cs_labels *l, struct cs_error *e)
{
	if (l->n == 0)
		return INVALID(e, "an endpoint needs at least one label");
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->items[i].source, "reserved") == 0 || strcmp(l->items[i].source, "cidr") == 0)
			return INVALID(e,
				"label '%s:%s' cannot be claimed; the source of an endpoint's labels is "
				"k8s, container or unspec",
				l->items[i].source, l->items[i].key);
	return 0;
}

char *cs_labels_format(const struct cs_labels *l)
{
	char *text = malloc(set_text_size(l) + 1);
	if (!text)
		return NULL;
	char *p = text;
	*p = '\0';
	for (size_t i = 0; i < l->n; i++) {
		p = stpcpy(p, l->items[i].source);
		p = stpcpy(p, ":");
		p = stpcpy(p, l->items[i].key);
		p = stpcpy(p, "=");
		p = stpcpy(p, l->items[i].value);
		p = stpcpy(p, ";");
	}
	return text;
}

int cs_labels_copy(const struct cs_labels *l, struct cs_labels *ret, struct cs_error *e)
{
	struct cs_labels copy = {0};
	for (size_t i = 0; i < l->n; i++) {
		int r = cs_labels_add(&copy, l->items[i].source, l->items[i].key, l->items[i].value, e);
		if (r < 0) {
			cs_labels_fini(&copy);
			return r;
		}
	}
	*ret = copy;
	return 0;
}

bool cs_labels_equal(const struct cs_labels *a, const struct cs_labels *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->n; i++)
		if (a->items[i].source != b->items[i].source || strcmp(a->items[i].key, b->items[i].key) != 0 ||
			strcmp(a->items[i].value, b->items[i].value) != 0)
			return false;
	return true;
}
