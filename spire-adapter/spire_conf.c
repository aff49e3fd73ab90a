#include "spire_conf.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "mem.h"

enum token { END, WORD, OPEN, CLOSE, OPEN_LIST, CLOSE_LIST, EQUALS, COMMA, BAD };

struct reader {
	const char *name, *at, *end;
	unsigned line, depth;
	struct cs_spire_conf *conf;
	struct cs_error *e;
	char path[CS_SPIRE_CONF_PATH];
	size_t path_len;
	char word[4096]; /* of the last token */
};

static int bad(struct reader *r, const char *what)
{
	return cs_error_set(r->e, -EINVAL, "%s: line %u: %s", r->name, r->line, what);
}

/* ---- tokens ---- */

static void skip_line(struct reader *r)
{
	while (r->at < r->end && *r->at != '\n')
		r->at++;
}

static bool skip_comment(struct reader *r)
{
	size_t left = (size_t)(r->end - r->at);
	if (*r->at == '#' || (left > 1 && r->at[0] == '/' && r->at[1] == '/')) {
		skip_line(r);
		return true;
	}
	if (left < 2 || r->at[0] != '/' || r->at[1] != '*')
		return false;
	for (r->at += 2; r->at < r->end; r->at++) {
		r->line += *r->at == '\n';
		if (r->end - r->at > 1 && r->at[0] == '*' && r->at[1] == '/') {
			r->at += 2;
			break;
		}
	}
	return true;
}

static void skip_space(struct reader *r)
{
	while (r->at < r->end) {
		if (isspace((unsigned char)*r->at))
			r->line += *r->at++ == '\n';
		else if (!skip_comment(r))
			return;
	}
}

static enum token quoted(struct reader *r)
{
	size_t n = 0;
	for (r->at++; r->at < r->end && *r->at != '"' && *r->at != '\n'; r->at++) {
		char c = *r->at;
		if (c == '\\' && r->end - r->at > 1)
			c = *++r->at == 'n' ? '\n' : *r->at == 't' ? '\t' : *r->at;
		if (n + 1 == sizeof(r->word))
			return BAD;
		r->word[n++] = c;
	}
	if (r->at == r->end || *r->at != '"')
		return BAD;
	r->at++;
	r->word[n] = '\0';
	return WORD;
}

static enum token plain(struct reader *r)
{
	size_t n = 0;
	while (r->at < r->end && (isalnum((unsigned char)*r->at) || strchr("_-.+", *r->at))) {
		if (n + 1 == sizeof(r->word) || !*r->at)
			return BAD;
		r->word[n++] = *r->at++;
	}
	r->word[n] = '\0';
	return n ? WORD : BAD;
}

static enum token next(struct reader *r)
{
	static const char signs[] = "{}[]=:,";
	static const enum token tokens[] = {OPEN, CLOSE, OPEN_LIST, CLOSE_LIST, EQUALS, EQUALS, COMMA};
	skip_space(r);
	if (r->at == r->end)
		return END;
	const char *sign = *r->at ? strchr(signs, *r->at) : NULL;
	if (sign) {
		r->at++;
		return tokens[sign - signs];
	}
	return *r->at == '"' ? quoted(r) : plain(r);
}

/* ---- what they mean ---- */

static int keep(struct reader *r, const char *value)
{
	struct cs_spire_conf *conf = r->conf;
	if (conf->n == CS_SPIRE_CONF_VALUES)
		return bad(r, "more values than a configuration of SPIRE has");
	conf->items = cs_xrealloc(conf->items, conf->n + 1, sizeof(*conf->items));
	conf->items[conf->n++] =
		(struct cs_spire_conf_value){.path = cs_xstrdup(r->path), .value = value ? cs_xstrdup(value) : NULL};
	return 0;
}

/* Adds the last word; the caller sets path_len back. */
static int enter(struct reader *r)
{
	int n = snprintf(r->path + r->path_len, sizeof(r->path) - r->path_len, "%s%s", r->path_len ? "." : "", r->word);
	if (n < 0 || (size_t)n >= sizeof(r->path) - r->path_len)
		return bad(r, "a name is too long");
	r->path_len += (size_t)n;
	return 0;
}

static void leave(struct reader *r, size_t path_len)
{
	r->path_len = path_len;
	r->path[path_len] = '\0';
}

static int body(struct reader *r, enum token last);

static int block(struct reader *r)
{
	if (++r->depth > CS_SPIRE_CONF_DEPTH)
		return bad(r, "blocks are nested too deep");
	int rc = keep(r, NULL);
	if (rc == 0)
		rc = body(r, CLOSE);
	r->depth--;
	return rc;
}

static int list(struct reader *r)
{
	for (;;) {
		int rc = 0;
		switch (next(r)) {
		case WORD:
			rc = keep(r, r->word);
			break;
		case OPEN:
			rc = block(r);
			break;
		case COMMA:
			break;
		case CLOSE_LIST:
			return 0;
		default:
			return bad(r, "a list does not end");
		}
		if (rc < 0)
			return rc;
	}
}

static int value(struct reader *r, enum token first)
{
	switch (first) {
	case WORD:
		return keep(r, r->word);
	case OPEN_LIST:
		return list(r);
	case OPEN:
		return block(r);
	default:
		return bad(r, "a value is missing");
	}
}

/* name = value, or name "label" { ... }; the name has been read. */
static int item(struct reader *r)
{
	size_t before = r->path_len;
	enum token t;
	int rc = enter(r);
	while (rc == 0 && (t = next(r)) == WORD)
		rc = enter(r);
	if (rc < 0)
		return rc;
	if (t == EQUALS)
		rc = value(r, next(r));
	else if (t == OPEN)
		rc = block(r);
	else
		rc = bad(r, "after a name there should be '=' or '{'");
	leave(r, before);
	return rc;
}

static int body(struct reader *r, enum token last)
{
	for (;;) {
		enum token t = next(r);
		int rc = 0;
		if (t == last)
			return 0;
		if (t == WORD)
			rc = item(r);
		else if (t != COMMA)
			rc = bad(r, t == END ? "a block does not end" : "a name should be here");
		if (rc < 0)
			return rc;
	}
}

/* JSON has braces around everything. */
static int whole(struct reader *r)
{
	skip_space(r);
	if (r->at == r->end || *r->at != '{')
		return body(r, END);
	next(r);
	int rc = body(r, CLOSE);
	return rc < 0 || next(r) == END ? rc : bad(r, "something follows the last brace");
}

int cs_spire_conf_parse(const char *name, const char *text, size_t len, struct cs_spire_conf *ret, struct cs_error *e)
{
	struct reader r = {.name = name, .at = text, .end = text + len, .line = 1, .conf = ret, .e = e};
	*ret = (struct cs_spire_conf){0};
	int rc = whole(&r);
	if (rc < 0)
		cs_spire_conf_fini(ret);
	return rc;
}

int cs_spire_conf_read(const char *file, struct cs_spire_conf *ret, struct cs_error *e)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return cs_error_errno(e, -errno, "open %s", file);
	char *text = cs_xcalloc(1, CS_SPIRE_CONF_BYTES + 1);
	size_t len = 0;
	ssize_t n = 0;
	while (len <= CS_SPIRE_CONF_BYTES && (n = read(fd, text + len, CS_SPIRE_CONF_BYTES + 1 - len)) > 0)
		len += (size_t)n;
	int r = n < 0 ? cs_error_errno(e, -errno, "read %s", file)
		: len > CS_SPIRE_CONF_BYTES
			? cs_error_set(e, -EFBIG, "%s has more than %u bytes", file, CS_SPIRE_CONF_BYTES)
			: cs_spire_conf_parse(file, text, len, ret, e);
	free(text);
	close(fd);
	return r;
}

void cs_spire_conf_fini(struct cs_spire_conf *conf)
{
	for (size_t i = 0; i < conf->n; i++) {
		free(conf->items[i].path);
		free(conf->items[i].value);
	}
	free(conf->items);
	*conf = (struct cs_spire_conf){0};
}

const char *cs_spire_conf_get(const struct cs_spire_conf *conf, const char *path)
{
	for (size_t i = conf->n; i-- > 0;)
		if (conf->items[i].value && strcmp(conf->items[i].path, path) == 0)
			return conf->items[i].value;
	return NULL;
}

bool cs_spire_conf_has(const struct cs_spire_conf *conf, const char *path)
{
	for (size_t i = 0; i < conf->n; i++)
		if (!conf->items[i].value && strcmp(conf->items[i].path, path) == 0)
			return true;
	return false;
}

bool cs_spire_conf_lists(const struct cs_spire_conf *conf, const char *path, const char *value)
{
	for (size_t i = 0; i < conf->n; i++)
		if (conf->items[i].value && strcmp(conf->items[i].path, path) == 0 &&
			strcmp(conf->items[i].value, value) == 0)
			return true;
	return false;
}
