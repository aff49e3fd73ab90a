/* Metrics: counters, gauges and histograms with labels, rendered as Prometheus text (exposition format 0.0.4).
 *
 *	struct cs_metric *m = cs_counter(metrics, "countersign_verdicts_total", "Verdicts by result", "result,reason", 256);
 *	cs_metric_add(m, 1, "refused", cs_reason_name(r));
 *
 * Bounded: a metric has at most max_series label combinations; what comes beyond is counted under the label values
 * "other", so that no peer can fill the memory. From the loop thread only. */
#ifndef CS_METRICS_H
#define CS_METRICS_H

#include <stddef.h>
#include <stdint.h>
#include "error.h"

#define CS_METRIC_LABELS  4
#define CS_METRIC_BUCKETS 24
#define CS_METRIC_VALUE   128 /* bytes of a label value; longer ones are cut */

struct cs_metrics;
struct cs_metric;

/* Every series gets the label daemon="<daemon>" in front. */
struct cs_metrics *cs_metrics_new(const char *daemon);
void cs_metrics_free(struct cs_metrics *m);

/* name: [a-z_][a-z0-9_]*, starts with countersign_ or process_, counters end in _total, durations in _seconds and
 * sizes in _bytes. labels: comma-separated names or NULL. A metric lives as long as the registry. A wrong name or one
 * that is there already is a bug and aborts. Metrics without labels are rendered from the start, as 0. */
struct cs_metric *cs_counter(
	struct cs_metrics *m, const char *name, const char *help, const char *labels, size_t max_series);
struct cs_metric *cs_gauge(
	struct cs_metrics *m, const char *name, const char *help, const char *labels, size_t max_series);
/* bounds: upper ends of the buckets, rising, without +Inf; at most CS_METRIC_BUCKETS; copied. */
struct cs_metric *cs_histogram(struct cs_metrics *m, const char *name, const char *help, const char *labels,
	size_t max_series, const double *bounds, size_t nbounds);
/* 0.0005 to 10 s in steps of about 2: for whatever takes time. */
extern const double cs_metric_seconds[];
extern const size_t cs_metric_nseconds;

/* The values of the labels follow, all of them, as strings (NULL counts as ""). */
#define cs_metric_add(metric, by, ...)    cs_metric_change(metric, CS_METRIC_ADD, by, CS_METRIC_VALUES(__VA_ARGS__))
#define cs_metric_set(metric, to, ...)    cs_metric_change(metric, CS_METRIC_SET, to, CS_METRIC_VALUES(__VA_ARGS__))
#define cs_metric_observe(metric, x, ...) cs_metric_change(metric, CS_METRIC_OBSERVE, x, CS_METRIC_VALUES(__VA_ARGS__))
#define CS_METRIC_VALUES(...)                                                                                          \
	(const char *const[]){NULL, ##__VA_ARGS__} + 1,                                                                \
		sizeof((const char *const[]){NULL, ##__VA_ARGS__}) / sizeof(char *) - 1

/* ADD: counters (not negative) and gauges; SET: gauges, and counters that mirror one kept elsewhere, a kernel map for
 * example; OBSERVE: histograms. The wrong one, or a wrong number of labels, aborts. */
enum cs_metric_op { CS_METRIC_ADD, CS_METRIC_SET, CS_METRIC_OBSERVE };
void cs_metric_change(
	struct cs_metric *metric, enum cs_metric_op op, double x, const char *const *values, size_t nvalues);
/* Forget all series of a metric that has labels: before a collector sets those that there are now. */
void cs_metric_clear(struct cs_metric *metric);
/* The value of a counter or gauge, the number of observations of a histogram; 0 if there is no such series. */
#define cs_metric_value(metric, ...) cs_metric_read(metric, CS_METRIC_VALUES(__VA_ARGS__))
double cs_metric_read(const struct cs_metric *metric, const char *const *values, size_t nvalues);

/* fn is called before each rendering: the place to read sizes, queues and kernel maps. At most 16. */
void cs_metrics_on_render(struct cs_metrics *m, void (*fn)(void *data), void *data);
/* The text, NUL-terminated; the caller frees it. NULL if memory is short. */
char *cs_metrics_render(struct cs_metrics *m, size_t *ret_len);

#endif
