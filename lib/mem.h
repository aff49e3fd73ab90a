/* Memory that is there or the process ends: a daemon that bounds everything it keeps has no better answer. */
#ifndef CS_MEM_H
#define CS_MEM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void *cs_mem_check(void *p)
{
	if (!p) {
		fputs("out of memory\n", stderr);
		abort();
	}
	return p;
}

static inline void *cs_xcalloc(size_t n, size_t size)
{
	return cs_mem_check(calloc(n ? n : 1, size));
}

static inline void *cs_xrealloc(void *p, size_t n, size_t size)
{
	return cs_mem_check(reallocarray(p, n ? n : 1, size));
}

static inline char *cs_xstrdup(const char *s)
{
	return cs_mem_check(strdup(s));
}

static inline void *cs_xmemdup(const void *p, size_t n)
{
	void *copy = cs_xcalloc(1, n);
	if (n)
		memcpy(copy, p, n);
	return copy;
}

/* Cut where it does not fit. */
static inline void cs_text_cut(char *to, size_t size, const char *from)
{
	size_t n = strnlen(from, size - 1);
	memcpy(to, from, n);
	to[n] = '\0';
}

#endif
