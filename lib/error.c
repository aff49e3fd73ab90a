#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "utf8.h"

static void fill(struct cs_error *e, int code, enum cs_reason reason, const char *fmt, va_list args)
{
	e->code = code;
	e->reason = reason;
	int n = vsnprintf(e->text, sizeof(e->text), fmt, args);
	if (n >= (int)sizeof(e->text))
		memcpy(e->text + sizeof(e->text) - 4, "...", 4);
	cs_utf8_clean(e->text, strlen(e->text));
}

int cs_error_set(struct cs_error *e, int code, const char *fmt, ...)
{
	if (e) {
		va_list args;
		va_start(args, fmt);
		fill(e, code, CS_R_NONE, fmt, args);
		va_end(args);
	}
	return code;
}

int cs_error_reason(struct cs_error *e, int code, enum cs_reason reason, const char *fmt, ...)
{
	if (e) {
		va_list args;
		va_start(args, fmt);
		fill(e, code, reason, fmt, args);
		va_end(args);
	}
	return code;
}

int cs_error_errno(struct cs_error *e, int code, const char *fmt, ...)
{
	if (e) {
		va_list args;
		va_start(args, fmt);
		fill(e, code, CS_R_NONE, fmt, args);
		va_end(args);
		size_t used = strlen(e->text);
		snprintf(e->text + used, sizeof(e->text) - used, ": %s",
			strerrordesc_np(code < 0 ? -code : code) ?: "unknown error");
	}
	return code;
}

int cs_error_prefix(struct cs_error *e, const char *fmt, ...)
{
	if (!e)
		return -EINVAL;
	char old[sizeof(e->text)];
	memcpy(old, e->text, sizeof(old));
	va_list args;
	va_start(args, fmt);
	fill(e, e->code, e->reason, fmt, args);
	va_end(args);
	size_t used = strlen(e->text);
	if (snprintf(e->text + used, sizeof(e->text) - used, ": %s", old) >= (int)(sizeof(e->text) - used))
		memcpy(e->text + sizeof(e->text) - 4, "...", 4);
	cs_utf8_clean(e->text, strlen(e->text)); /* a character may have been cut */
	return e->code;
}

static const struct {
	int number;
	const char *name, *sentence;
} reasons[] = {
#define CS_X(number, c, name, sentence) {number, name, sentence},
	CS_REASONS(CS_X)
#undef CS_X
};
#define NREASONS (sizeof(reasons) / sizeof(reasons[0]))

const char *cs_reason_name(enum cs_reason reason)
{
	for (size_t i = 0; i < NREASONS; i++)
		if (reasons[i].number == (int)reason)
			return reasons[i].name;
	return "unknown-reason";
}

const char *cs_reason_sentence(enum cs_reason reason)
{
	for (size_t i = 0; i < NREASONS; i++)
		if (reasons[i].number == (int)reason)
			return reasons[i].sentence;
	return "a reason that this version does not know";
}

int cs_reason_parse(const char *name)
{
	for (size_t i = 0; i < NREASONS; i++)
		if (strcmp(reasons[i].name, name) == 0)
			return reasons[i].number;
	return -1;
}
