/* What the benches have in common: the clock, the middle of a series, and an end with a message. */
#ifndef CS_BENCH_MEASURE_H
#define CS_BENCH_MEASURE_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "error.h"

static inline double bench_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static inline int bench_by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Sorts them. */
static inline double bench_median(double *values, size_t n)
{
	qsort(values, n, sizeof(*values), bench_by_value);
	return values[n / 2];
}

static inline void bench_need(int r, const struct cs_error *e)
{
	if (r >= 0)
		return;
	fprintf(stderr, "bench: %s\n", e->text);
	exit(1);
}

#endif
