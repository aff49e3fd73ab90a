#include "metrics.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define COLLECTORS 16
#define KEY_MAX    (CS_METRIC_LABELS * (CS_METRIC_VALUE + 1))

enum kind { COUNTER, GAUGE, HISTOGRAM };
static const char *const kind_names[] = {"counter", "gauge", "histogram"};

struct series {
	UT_hash_handle hh;
	size_t keylen;
	double value; /* HISTOGRAM: the sum */
	uint64_t count;
	uint64_t *buckets; /* HISTOGRAM: one per bound, not yet summed up */
	char key[];        /* the values of the labels, each with its NUL */
};

struct cs_metric {
	struct cs_metric *next;
	struct cs_metrics *owner;
	enum kind kind;
	char *name, *help;
	char *labels[CS_METRIC_LABELS];
	size_t nlabels;
	size_t max_series;
	struct series *series; /* uthash, in order of appearance */
	double *bounds;
	size_t nbounds;
};

struct cs_metrics {
	char *daemon;
	struct cs_metric *first, **last;
	struct {
		void (*fn)(void *data);
		void *data;
	} collectors[COLLECTORS];
	size_t ncollectors;
	struct cs_metric *overflow;
};

const double cs_metric_seconds[] = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10};
const size_t cs_metric_nseconds = sizeof(cs_metric_seconds) / sizeof(cs_metric_seconds[0]);

/* A wrong use is a bug of the caller, found by the first run. */
#define BUG_IF(condition, metric, what)                                                                                \
	do {                                                                                                           \
		if (condition) {                                                                                       \
			fprintf(stderr, "metric %s: %s\n", metric, what);                                              \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "out of memory\n");
		abort();
	}
	return p;
}

/* ---- making ---- */

struct cs_metrics *cs_metrics_new(const char *daemon)
{
	struct cs_metrics *m = must(calloc(1, sizeof(*m)));
	m->daemon = must(strdup(daemon));
	m->last = &m->first;
	m->overflow = cs_counter(m, "countersign_metrics_overflow_total",
		"Changes that were counted under the label value \"other\", because the metric has as many series as "
		"it may",
		"metric", 64);
	return m;
}

void cs_metric_clear(struct cs_metric *metric)
{
	struct series *s, *tmp;
	HASH_ITER (hh, metric->series, s, tmp) {
		HASH_DEL(metric->series, s);
		free(s->buckets);
		free(s);
	}
}

void cs_metrics_free(struct cs_metrics *m)
{
	if (!m)
		return;
	for (struct cs_metric *metric = m->first, *next; metric; metric = next) {
		next = metric->next;
		cs_metric_clear(metric);
		for (size_t i = 0; i < metric->nlabels; i++)
			free(metric->labels[i]);
		free(metric->name);
		free(metric->help);
		free(metric->bounds);
		free(metric);
	}
	free(m->daemon);
	free(m);
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);
	return n >= k && strcmp(s + n - k, end) == 0;
}

static bool is_name(const char *s)
{
	return s[0] >= 'a' && s[0] <= 'z' && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(s);
}

static void set_labels(struct cs_metric *metric, const char *labels)
{
	for (const char *p = labels; p && *p;) {
		size_t len = strcspn(p, ",");
		BUG_IF(metric->nlabels == CS_METRIC_LABELS, metric->name, "too many labels");
		char *label = must(strndup(p, len));
		BUG_IF(!is_name(label) || strcmp(label, "daemon") == 0 || strcmp(label, "le") == 0, metric->name,
			"bad name of a label");
		metric->labels[metric->nlabels++] = label;
		p += len + (p[len] == ',');
	}
}

static struct series *find_or_make(struct cs_metric *metric, const char *key, size_t keylen)
{
	struct series *s;
	HASH_FIND(hh, metric->series, key, keylen, s);
	if (s)
		return s;
	s = must(calloc(1, sizeof(*s) + keylen + 1));
	memcpy(s->key, key, keylen);
	s->keylen = keylen;
	if (metric->kind == HISTOGRAM)
		s->buckets = must(calloc(metric->nbounds, sizeof(*s->buckets)));
	HASH_ADD_KEYPTR(hh, metric->series, s->key, keylen, s);
	return s;
}

static struct cs_metric *add(
	struct cs_metrics *m, enum kind kind, const char *name, const char *help, const char *labels, size_t max_series)
{
	BUG_IF(!is_name(name) || (strncmp(name, "countersign_", 12) != 0 && strncmp(name, "process_", 8) != 0), name,
		"bad name");
	BUG_IF((kind == COUNTER) != ends_with(name, "_total"), name, "counters, and only they, end in _total");
	for (const struct cs_metric *other = m->first; other; other = other->next)
		BUG_IF(strcmp(other->name, name) == 0, name, "is there already");
	struct cs_metric *metric = must(calloc(1, sizeof(*metric)));
	metric->owner = m;
	metric->kind = kind;
	metric->name = must(strdup(name));
	metric->help = must(strdup(help));
	metric->max_series = max_series;
	set_labels(metric, labels);
	BUG_IF(metric->nlabels && max_series == 0, name, "labels without a limit");
	*m->last = metric;
	m->last = &metric->next;
	return metric;
}

/* Without labels it is there from the start. */
static struct cs_metric *started(struct cs_metric *metric)
{
	if (!metric->nlabels)
		find_or_make(metric, "", 0);
	return metric;
}

struct cs_metric *cs_counter(
	struct cs_metrics *m, const char *name, const char *help, const char *labels, size_t max_series)
{
	return started(add(m, COUNTER, name, help, labels, max_series));
}

struct cs_metric *cs_gauge(
	struct cs_metrics *m, const char *name, const char *help, const char *labels, size_t max_series)
{
	return started(add(m, GAUGE, name, help, labels, max_series));
}

struct cs_metric *cs_histogram(struct cs_metrics *m, const char *name, const char *help, const char *labels,
	size_t max_series, const double *bounds, size_t nbounds)
{
	BUG_IF(nbounds == 0 || nbounds > CS_METRIC_BUCKETS, name, "no or too many buckets");
	for (size_t i = 1; i < nbounds; i++)
		BUG_IF(bounds[i] <= bounds[i - 1], name, "buckets do not rise");
	struct cs_metric *metric = add(m, HISTOGRAM, name, help, labels, max_series);
	metric->bounds = must(malloc(nbounds * sizeof(*bounds)));
	memcpy(metric->bounds, bounds, nbounds * sizeof(*bounds));
	metric->nbounds = nbounds;
	return started(metric);
}

void cs_metrics_on_render(struct cs_metrics *m, void (*fn)(void *data), void *data)
{
	BUG_IF(m->ncollectors == COLLECTORS, m->daemon, "too many collectors");
	m->collectors[m->ncollectors].fn = fn;
	m->collectors[m->ncollectors++].data = data;
}

/* ---- changing ---- */

static size_t make_key(const char *const *values, size_t n, char key[KEY_MAX])
{
	size_t used = 0;
	for (size_t i = 0; i < n; i++) {
		const char *v = values[i] ? values[i] : "";
		size_t len = strnlen(v, CS_METRIC_VALUE);
		memcpy(key + used, v, len);
		used += len;
		key[used++] = '\0';
	}
	return used;
}

static struct series *lookup(struct cs_metric *metric, const char *const *values, size_t nvalues)
{
	char key[KEY_MAX];
	struct series *s;
	BUG_IF(nvalues != metric->nlabels, metric->name, "wrong number of label values");
	size_t len = make_key(values, nvalues, key);
	HASH_FIND(hh, metric->series, key, len, s);
	if (s)
		return s;
	if (metric->nlabels && HASH_COUNT(metric->series) >= metric->max_series) {
		const char *const other[CS_METRIC_LABELS] = {"other", "other", "other", "other"};
		len = make_key(other, nvalues, key);
		if (metric != metric->owner->overflow)
			cs_metric_add(metric->owner->overflow, 1, metric->name);
	}
	return find_or_make(metric, key, len);
}

static void observe(const struct cs_metric *metric, struct series *s, double x)
{
	s->count++;
	s->value += x;
	for (size_t i = 0; i < metric->nbounds; i++)
		if (x <= metric->bounds[i]) {
			s->buckets[i]++;
			return;
		}
}

void cs_metric_change(
	struct cs_metric *metric, enum cs_metric_op op, double x, const char *const *values, size_t nvalues)
{
	BUG_IF((op == CS_METRIC_OBSERVE) != (metric->kind == HISTOGRAM), metric->name, "not for this kind of metric");
	BUG_IF(metric->kind == COUNTER && x < 0, metric->name, "a counter does not go back");
	struct series *s = lookup(metric, values, nvalues);
	switch (op) {
	case CS_METRIC_ADD:
		s->value += x;
		break;
	case CS_METRIC_SET:
		s->value = x;
		break;
	case CS_METRIC_OBSERVE:
		observe(metric, s, x);
		break;
	}
}

double cs_metric_read(const struct cs_metric *metric, const char *const *values, size_t nvalues)
{
	char key[KEY_MAX];
	struct series *s;
	BUG_IF(nvalues != metric->nlabels, metric->name, "wrong number of label values");
	size_t len = make_key(values, nvalues, key);
	HASH_FIND(hh, metric->series, key, len, s);
	return !s ? 0 : metric->kind == HISTOGRAM ? (double)s->count : s->value;
}

/* ---- rendering: https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4 ---- */

/* Backslash, newline and (in a label value) quote are escaped. The format wants UTF-8 and values may come from a peer:
 * other bytes than printable ASCII become '?'. */
static void put_escaped(FILE *out, const char *s, bool quote)
{
	for (; *s; s++) {
		if (*s == '\n')
			fputs("\\n", out);
		else if (*s == '\\' || (quote && *s == '"'))
			fprintf(out, "\\%c", *s);
		else
			fputc((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f ? '?' : *s, out);
	}
}

static void put_number(FILE *out, double x)
{
	if (isnan(x))
		fputs("NaN", out);
	else if (isinf(x))
		fputs(x > 0 ? "+Inf" : "-Inf", out);
	else if (x == floor(x) && fabs(x) < 1e15)
		fprintf(out, "%.0f", x);
	else { /* the shortest that reads back as x */
		char text[32];
		snprintf(text, sizeof(text), "%.15g", x);
		if (strtod(text, NULL) != x)
			snprintf(text, sizeof(text), "%.17g", x);
		fputs(text, out);
	}
}

/* name_suffix{daemon="...",labels,le="..."} without the value; le may be NULL. */
static void put_series(
	FILE *out, const struct cs_metric *metric, const struct series *s, const char *suffix, const double *le)
{
	fprintf(out, "%s%s{daemon=\"", metric->name, suffix);
	put_escaped(out, metric->owner->daemon, true);
	fputc('"', out);
	const char *value = s->key;
	for (size_t i = 0; i < metric->nlabels; i++, value += strlen(value) + 1) {
		fprintf(out, ",%s=\"", metric->labels[i]);
		put_escaped(out, value, true);
		fputc('"', out);
	}
	if (le && isinf(*le))
		fputs(",le=\"+Inf\"", out);
	else if (le)
		fprintf(out, ",le=\"%.10g\"", *le);
	fputs("} ", out);
}

static void put_line(FILE *out, const struct cs_metric *metric, const struct series *s, const char *suffix,
	const double *le, double value)
{
	put_series(out, metric, s, suffix, le);
	put_number(out, value);
	fputc('\n', out);
}

static void put_histogram(FILE *out, const struct cs_metric *metric, const struct series *s)
{
	const double infinity = INFINITY;
	uint64_t sum = 0;
	for (size_t i = 0; i < metric->nbounds; i++) {
		sum += s->buckets[i];
		put_line(out, metric, s, "_bucket", &metric->bounds[i], (double)sum);
	}
	put_line(out, metric, s, "_bucket", &infinity, (double)s->count);
	put_line(out, metric, s, "_sum", NULL, s->value);
	put_line(out, metric, s, "_count", NULL, (double)s->count);
}

static void put_metric(FILE *out, const struct cs_metric *metric)
{
	fprintf(out, "# HELP %s ", metric->name);
	put_escaped(out, metric->help, false);
	fprintf(out, "\n# TYPE %s %s\n", metric->name, kind_names[metric->kind]);
	for (const struct series *s = metric->series; s; s = s->hh.next) {
		if (metric->kind == HISTOGRAM)
			put_histogram(out, metric, s);
		else
			put_line(out, metric, s, "", NULL, s->value);
	}
}

char *cs_metrics_render(struct cs_metrics *m, size_t *ret_len)
{
	char *text = NULL;
	size_t len = 0;
	for (size_t i = 0; i < m->ncollectors; i++)
		m->collectors[i].fn(m->collectors[i].data);
	FILE *out = open_memstream(&text, &len);
	if (!out)
		return NULL;
	for (const struct cs_metric *metric = m->first; metric; metric = metric->next)
		put_metric(out, metric);
	bool failed = ferror(out) != 0;
	if (fclose(out) != 0 || failed) {
		free(text);
		return NULL;
	}
	*ret_len = len;
	return text;
}
