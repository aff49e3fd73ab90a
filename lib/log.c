#include "log.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES  8192
#define VALUE_MAX_BYTES 2048 /* of one text, escaped */
#define TAIL_BYTES      32   /* kept for "truncated", the brace and the newline */
#define SITE_LIMIT      10
#define SITE_WINDOW_MS  60000

static struct {
	const char *daemon;
	enum cs_log_level level;
	bool json;
	int fd;
	pthread_mutex_t lock;
} state = {.daemon = "countersign", .level = CS_LOG_INFO, .json = true, .fd = 2, .lock = PTHREAD_MUTEX_INITIALIZER};

static const char *const level_names[] = {"debug", "info", "warn", "error", "audit"};

void cs_log_init(const char *daemon, enum cs_log_level level, enum cs_log_format format)
{
	state.daemon = daemon;
	state.level = level;
	state.json = format == CS_LOG_JSON || (format == CS_LOG_AUTO && !isatty(state.fd));
}

void cs_log_set_fd(int fd)
{
	state.fd = fd;
}

/* A line is built field by field; one that does not fit is left out whole, and the line says "truncated". */
struct line {
	char buf[LINE_MAX_BYTES];
	size_t len;
	bool full;
};

static void put(struct line *l, const char *s, size_t n)
{
	if (n > sizeof(l->buf) - TAIL_BYTES - l->len) {
		l->full = true;
		return;
	}
	memcpy(l->buf + l->len, s, n);
	l->len += n;
}

static void puts_(struct line *l, const char *s)
{
	put(l, s, strlen(s));
}

/* A quoted string; control characters and bytes that are not ASCII are escaped, so that no peer can forge a line. */
static void put_quoted(struct line *l, const char *s)
{
	size_t start = l->len;
	puts_(l, "\"");
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		char esc[8];
		if (l->len - start > VALUE_MAX_BYTES) {
			puts_(l, "...");
			break;
		}
		if (c == '"' || c == '\\')
			snprintf(esc, sizeof(esc), "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			snprintf(esc, sizeof(esc), "\\u%04x", c);
		else
			snprintf(esc, sizeof(esc), "%c", c);
		puts_(l, esc);
	}
	puts_(l, "\"");
}

static bool needs_quotes(const char *s)
{
	if (!*s || strlen(s) > VALUE_MAX_BYTES)
		return true;
	for (; *s; s++)
		if ((unsigned char)*s <= 0x20 || (unsigned char)*s >= 0x7f || *s == '"' || *s == '\\' || *s == '=')
			return true;
	return false;
}

static void put_value(struct line *l, const struct cs_field *f)
{
	char n[32];
	switch (f->type) {
	case CS_FIELD_STR: {
		const char *s = f->str ? f->str : "";
		if (state.json || needs_quotes(s))
			put_quoted(l, s);
		else
			puts_(l, s);
		return;
	}
	case CS_FIELD_U64:
		snprintf(n, sizeof(n), "%llu", (unsigned long long)f->u64);
		break;
	case CS_FIELD_I64:
		snprintf(n, sizeof(n), "%lld", (long long)f->i64);
		break;
	case CS_FIELD_BOOL:
		snprintf(n, sizeof(n), "%s", f->b ? "true" : "false");
		break;
	}
	puts_(l, n);
}

static void put_field(struct line *l, const struct cs_field *f)
{
	size_t start = l->len;
	bool was_full = l->full;
	l->full = false;
	if (state.json) {
		puts_(l, ",");
		put_quoted(l, f->key);
		puts_(l, ":");
	} else {
		puts_(l, "  ");
		puts_(l, f->key);
		puts_(l, "=");
	}
	put_value(l, f);
	if (l->full)
		l->len = start;
	l->full |= was_full;
}

static void put_head(struct line *l, enum cs_log_level level, const char *message)
{
	struct timespec ts;
	struct tm tm;
	char when[40];
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	size_t n = strftime(when, sizeof(when), state.json ? "%Y-%m-%dT%H:%M:%S" : "%H:%M:%S", &tm);
	snprintf(when + n, sizeof(when) - n, ".%03ld%s", ts.tv_nsec / 1000000, state.json ? "Z" : "");
	if (state.json) {
		puts_(l, "{\"time\":\"");
		puts_(l, when);
		puts_(l, "\",\"level\":\"");
		puts_(l, level_names[level]);
		puts_(l, "\",\"daemon\":");
		put_quoted(l, state.daemon);
		puts_(l, ",\"msg\":");
		put_quoted(l, message);
	} else {
		puts_(l, when);
		puts_(l, level == CS_LOG_INFO    ? "  "
			 : level == CS_LOG_WARN  ? "  warning: "
			 : level == CS_LOG_ERROR ? "  error: "
			 : level == CS_LOG_AUDIT ? "  audit: "
						 : "  debug: ");
		puts_(l, message);
	}
}

/* There is room for it: put() leaves TAIL_BYTES. */
static void put_tail(struct line *l)
{
	char *end = l->buf + l->len;
	if (l->full)
		end = stpcpy(end, state.json ? ",\"truncated\":true" : "  truncated=true");
	if (state.json)
		*end++ = '}';
	*end++ = '\n';
	l->len = (size_t)(end - l->buf);
}

/* Whether this line may go out; *suppressed is how many before it did not. Errors and audit records always go out. */
static bool admit(struct cs_log_site *site, enum cs_log_level level, uint32_t *suppressed)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	int64_t now_ms = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	*suppressed = 0;
	if (level != CS_LOG_INFO && level != CS_LOG_WARN)
		return true;
	if (now_ms - site->window_ms >= SITE_WINDOW_MS || site->window_ms == 0) {
		*suppressed = site->suppressed;
		*site = (struct cs_log_site){.window_ms = now_ms};
	}
	if (site->count >= SITE_LIMIT) {
		site->suppressed++;
		return false;
	}
	site->count++;
	return true;
}

void cs_log_event(struct cs_log_site *site, enum cs_log_level level, const char *message, const struct cs_field *fields,
	size_t nfields)
{
	if (level < state.level)
		return;
	pthread_mutex_lock(&state.lock);
	uint32_t suppressed;
	if (admit(site, level, &suppressed)) {
		static struct line l;
		l.len = 0;
		l.full = false;
		put_head(&l, level, message);
		for (size_t i = 0; i < nfields; i++)
			put_field(&l, &fields[i]);
		if (suppressed) {
			struct cs_field f = cs_u64("suppressed", suppressed);
			put_field(&l, &f);
		}
		put_tail(&l);
		/* A log that cannot be written has nobody to tell. */
		ssize_t n = write(state.fd, l.buf, l.len);
		(void)n;
	}
	pthread_mutex_unlock(&state.lock);
}
