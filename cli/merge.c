#include "merge.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct family {
	char name[CS_MERGE_NAME];
	char *head; /* HELP and TYPE */
	char *samples;
	size_t head_len, samples_len;
};

struct cs_merge {
	struct family families[CS_MERGE_FAMILIES];
	size_t n;
};

struct cs_merge *cs_merge_new(void)
{
	return calloc(1, sizeof(struct cs_merge));
}

void cs_merge_free(struct cs_merge *m)
{
	for (size_t i = 0; m && i < m->n; i++) {
		free(m->families[i].head);
		free(m->families[i].samples);
	}
	free(m);
}

static bool append(char **to, size_t *len, const char *text, size_t n)
{
	if (n == 0) /* realloc(p, 0) would free p */
		return true;
	char *grown = realloc(*to, *len + n);
	if (!grown)
		return false;
	memcpy(grown + *len, text, n);
	*to = grown;
	*len += n;
	return true;
}

/* The name at p: letters, digits, '_' and ':'. */
static size_t name_length(const char *p, const char *end)
{
	const char *start = p;
	while (p < end && ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
				  *p == '_' || *p == ':'))
		p++;
	return (size_t)(p - start);
}

/* A stretch of text: the comments of one family, and its samples. */
struct block {
	const char *name, *head, *samples, *end;
	size_t name_len;
};

/* "# HELP name ..." and "# TYPE name ...". */
static size_t comment_name(const char *line, const char *end, const char **ret_name)
{
	if (end - line < 8 || (strncmp(line, "# HELP ", 7) != 0 && strncmp(line, "# TYPE ", 7) != 0))
		return 0;
	*ret_name = line + 7;
	return name_length(line + 7, end);
}

static const char *line_end(const char *p, const char *end)
{
	const char *newline = memchr(p, '\n', (size_t)(end - p));
	return newline ? newline + 1 : NULL;
}

static bool belongs(const char *line, const char *next, const struct block *b)
{
	size_t n = name_length(line, next);
	return n >= b->name_len && strncmp(line, b->name, b->name_len) == 0;
}

/* The block that begins at p; false if this is not the format. */
static bool read_block(const char *p, const char *end, struct block *b)
{
	const char *next, *name;
	size_t len;
	*b = (struct block){.head = p};
	for (; p < end && *p == '#'; p = next) {
		next = line_end(p, end);
		len = next ? comment_name(p, next, &name) : 0;
		if (len == 0 || len >= CS_MERGE_NAME)
			return false;
		if (b->name && (len != b->name_len || strncmp(name, b->name, len) != 0))
			break; /* a family without samples */
		b->name = name;
		b->name_len = len;
	}
	b->samples = p;
	for (; p < end && *p != '#'; p = next) {
		next = line_end(p, end);
		if (!next || !b->name || !belongs(p, next, b))
			return false;
	}
	b->end = p;
	return true;
}

static struct family *find(const struct cs_merge *m, const struct block *b)
{
	for (size_t i = 0; i < m->n; i++)
		if (strlen(m->families[i].name) == b->name_len &&
			strncmp(m->families[i].name, b->name, b->name_len) == 0)
			return (struct family *)&m->families[i];
	return NULL;
}

static int check(const struct cs_merge *m, const char *text, size_t len, struct cs_error *e)
{
	struct block b;
	size_t more = 0;
	for (const char *p = text, *end = text + len; p < end; p = b.end) {
		if (!read_block(p, end, &b))
			return cs_error_set(e, -EBADMSG, "not Prometheus text at byte %zu", (size_t)(p - text));
		more += find(m, &b) == NULL;
	}
	if (m->n + more > CS_MERGE_FAMILIES)
		return cs_error_set(e, -E2BIG, "more than %d families of metrics", CS_MERGE_FAMILIES);
	return 0;
}

int cs_merge_add(struct cs_merge *m, const char *text, size_t len, struct cs_error *e)
{
	struct block b;
	int r = check(m, text, len, e);
	for (const char *p = text, *end = text + len; r == 0 && p < end; p = b.end) {
		bool ok = read_block(p, end, &b);
		struct family *f = find(m, &b);
		if (!f) {
			f = &m->families[m->n++];
			memcpy(f->name, b.name, b.name_len);
			ok &= append(&f->head, &f->head_len, b.head, (size_t)(b.samples - b.head));
		}
		ok &= append(&f->samples, &f->samples_len, b.samples, (size_t)(b.end - b.samples));
		if (!ok)
			r = cs_error_set(e, -ENOMEM, "no memory for the metrics");
	}
	return r;
}

void cs_merge_write(const struct cs_merge *m, FILE *out)
{
	for (size_t i = 0; i < m->n; i++) {
		const struct family *f = &m->families[i];
		if (f->head_len)
			fwrite(f->head, 1, f->head_len, out);
		if (f->samples_len)
			fwrite(f->samples, 1, f->samples_len, out);
	}
}
