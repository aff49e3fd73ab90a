#include "lint.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include "doc.h"
#include "error.h"

#define DAY_MS        86400000.0
#define WINDOW_MIN_MS 3600000 /* of a younger store no rate is told */

/* A set of 64-bit hashes. The hash of a label set is the sum of its labels', so that a label is taken out by a
 * subtraction. */
struct mark {
	uint64_t hash;
	UT_hash_handle hh;
};
struct key {
	char *name; /* "k8s:app" */
	size_t identities, unused, generated;
	struct mark *values, *sets; /* sets: without this label, and not an identity that is there */
	const char *example;        /* borrowed */
	UT_hash_handle hh;
};
struct lint {
	struct mark *all;
	struct key *keys;
	size_t n, unused;
};

static void *check(void *p)
{
	if (!p)
		abort();
	return p;
}

static uint64_t hash_of(const char *text)
{
	uint64_t h = 0xcbf29ce484222325; /* FNV-1a, and splitmix64's last steps: sums of it must not cancel out */
	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3;
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9;
	h = (h ^ (h >> 27)) * 0x94d049bb133111eb;
	return h ^ (h >> 31);
}

static bool in_set(const struct mark *set, uint64_t hash)
{
	struct mark *found;
	HASH_FIND(hh, set, &hash, sizeof(hash), found);
	return found != NULL;
}

static void add(struct mark **set, uint64_t hash)
{
	if (in_set(*set, hash))
		return;
	struct mark *m = check(malloc(sizeof(*m)));
	m->hash = hash;
	HASH_ADD(hh, *set, hash, sizeof(m->hash), m);
}

static void set_free(struct mark **set)
{
	struct mark *m, *next;
	HASH_ITER (hh, *set, m, next) {
		HASH_DEL(*set, m);
		free(m);
	}
}

bool cs_lint_generated(const char *value)
{
	size_t n = strlen(value), digits = 0, hex = 0, run = 0, longest = 0;
	for (size_t i = 0; i < n; i++) {
		bool digit = isdigit((unsigned char)value[i]);
		digits += digit;
		run = digit ? run + 1 : 0;
		longest = run > longest ? run : longest;
		hex += isxdigit((unsigned char)value[i]) || value[i] == '-';
	}
	if (digits == n && n > 0)
		return true; /* an index, a number, a time */
	return longest >= 5 || (n >= 6 && digits >= 2 && hex == n);
}

static struct key *key_of(struct lint *l, const char *label)
{
	size_t len = strcspn(label, "=");
	struct key *k;
	HASH_FIND(hh, l->keys, label, len, k);
	if (k)
		return k;
	k = check(calloc(1, sizeof(*k)));
	k->name = check(strndup(label, len));
	HASH_ADD_KEYPTR(hh, l->keys, k->name, len, k);
	return k;
}

static uint64_t sum_of(const json_t *labels)
{
	const json_t *label;
	size_t i;
	uint64_t sum = 0;
	json_array_foreach(labels, i, label) sum += hash_of(json_string_value(label));
	return sum;
}

static void look_at(struct lint *l, const json_t *identity)
{
	const json_t *labels = json_object_get(identity, "labels"), *label;
	bool unused = json_integer_value(json_object_get(identity, "endpoints")) == 0;
	uint64_t sum = sum_of(labels);
	size_t i;
	l->unused += unused;
	json_array_foreach(labels, i, label)
	{
		const char *text = json_string_value(label);
		struct key *k = key_of(l, text);
		uint64_t own = hash_of(text);
		const char *value = strchr(text, '=') ? strchr(text, '=') + 1 : "";
		k->identities++;
		k->unused += unused;
		if (!in_set(k->values, own)) {
			k->generated += cs_lint_generated(value);
			k->example = value;
		}
		add(&k->values, own);
		if (!in_set(l->all, sum - own))
			add(&k->sets, sum - own);
	}
}

/* It makes many identities, and its values look made by a machine, one for each workload. A label like `app` has many
 * values too, and is what identities are for. */
static bool multiplies(const struct lint *l, const struct key *k, size_t without)
{
	size_t values = HASH_COUNT(k->values);
	return values >= CS_LINT_MANY && l->n - without >= CS_LINT_MANY && 2 * k->generated >= values;
}

static json_t *label_doc(const struct lint *l, const struct key *k)
{
	size_t without = l->n - k->identities + HASH_COUNT(k->sets);
	return cs_doc_pack("{s:o, s:I, s:I, s:I, s:b, s:o, s:I}", "key", cs_doc_text(k->name), "values",
		(json_int_t)HASH_COUNT(k->values), "identities", (json_int_t)k->identities, "without",
		(json_int_t)without, "multiplies", multiplies(l, k, without), "example",
		cs_doc_text(k->example ? k->example : ""), "unused", (json_int_t)k->unused);
}

/* ---- the rate ---- */

/* Identities per day, over the last days or since the first one; < 0: too young to tell. */
static double rate(const json_t *identities, int64_t now_unix_ms)
{
	const json_t *identity;
	size_t i, young = 0;
	int64_t window_ms = CS_LINT_WINDOW_DAYS * (int64_t)DAY_MS, oldest = INT64_MAX;
	json_array_foreach(identities, i, identity)
	{
		int64_t created = json_integer_value(json_object_get(identity, "created_unix_ms"));
		if (created > 0 && created < oldest)
			oldest = created;
		young += created > now_unix_ms - window_ms;
	}
	if (oldest == INT64_MAX || now_unix_ms - oldest < WINDOW_MIN_MS)
		return -1;
	if (now_unix_ms - oldest < window_ms)
		window_ms = now_unix_ms - oldest;
	return (double)young * DAY_MS / (double)window_ms;
}

static json_t *number(double n)
{
	return n < 0 ? json_null() : check(json_real(n));
}

/* ---- the document ---- */

static void warn(json_t *warnings, const char *format, ...) CS_PRINTF(2, 3);
static void warn(json_t *warnings, const char *format, ...)
{
	va_list args;
	char *text = NULL;
	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		abort();
	va_end(args);
	cs_doc_append(warnings, cs_doc_text(text));
	free(text);
}

/* "!pod\.hash": a rule of labels.filter that ignores the key. */
static char *rule_for(const char *key)
{
	const char *colon = strchr(key, ':');
	char *rule = check(malloc(2 * strlen(key) + 2)), *p = rule;
	if (colon) {
		memcpy(p, key, (size_t)(colon - key) + 1);
		p += colon - key + 1;
		key = colon + 1;
	}
	*p++ = '!';
	for (; *key; key++) {
		if (strchr(".[]()*+?{}|^$\\", *key))
			*p++ = '\\';
		*p++ = *key;
	}
	*p = '\0';
	return rule;
}

static void warn_of_labels(json_t *warnings, const json_t *labels, size_t n)
{
	const json_t *label;
	size_t i;
	json_array_foreach(labels, i, label)
	{
		if (!json_is_true(json_object_get(label, "multiplies")))
			continue;
		const char *key = json_string_value(json_object_get(label, "key"));
		char *rule = rule_for(key);
		warn(warnings,
			"%s has %lld values (like '%s'): without it there were %lld identities instead of %zu; "
			"labels.filter: ['%s'] leaves it out",
			key, (long long)json_integer_value(json_object_get(label, "values")),
			json_string_value(json_object_get(label, "example")),
			(long long)json_integer_value(json_object_get(label, "without")), n, rule);
		free(rule);
	}
}

static json_t *range_doc(const struct cs_lint_range *range)
{
	if (!range->known)
		return json_null();
	json_int_t size = (json_int_t)range->last - range->first + 1;
	json_int_t taken = (json_int_t)(range->in_use + range->resting);
	return cs_doc_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "first", (json_int_t)range->first, "last",
		(json_int_t)range->last, "size", size, "in_use", (json_int_t)range->in_use, "resting",
		(json_int_t)range->resting, "free", size > taken ? size - taken : 0);
}

static json_t *labels_doc(struct lint *l)
{
	json_t *labels = json_array();
	struct key *k, *next;
	HASH_ITER (hh, l->keys, k, next) {
		cs_doc_append(labels, label_doc(l, k));
		HASH_DEL(l->keys, k);
		set_free(&k->values);
		set_free(&k->sets);
		free(k->name);
		free(k);
	}
	cs_doc_sort(labels, "key");
	cs_doc_sort(labels, "without"); /* stable: fewest first */
	return labels;
}

json_t *cs_lint_doc(const json_t *identities, const struct cs_lint_range *range, int64_t now_unix_ms)
{
	struct lint l = {.n = json_array_size(identities)};
	const json_t *identity;
	size_t i;
	json_array_foreach(identities, i, identity) add(&l.all, sum_of(json_object_get(identity, "labels")));
	json_array_foreach(identities, i, identity) look_at(&l, identity);
	json_t *labels = labels_doc(&l), *warnings = json_array(), *ranged = range_doc(range);
	set_free(&l.all);
	double per_day = rate(identities, now_unix_ms), days = -1;
	json_int_t left = json_integer_value(json_object_get(ranged, "free"));
	if (range->known && per_day > 0)
		days = (double)left / per_day;
	warn_of_labels(warnings, labels, l.n);
	if (range->known && left == 0)
		warn(warnings, "the range is full: new label sets are refused (identities-exhausted)");
	else if (days >= 0 && days < CS_LINT_SOON_DAYS)
		warn(warnings, "at %.1f new identities a day the range is full in %.1f days", per_day, days);
	return cs_doc_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "identities", (json_int_t)l.n, "unused",
		(json_int_t)l.unused, "range", ranged, "per_day", number(per_day), "full_in_days", number(days),
		"labels", labels, "warnings", warnings);
}
