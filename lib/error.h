/* Errors are values: a function that can fail returns 0 (or something positive) or a negative errno, and fills a
 * struct cs_error that carries the sentence a person will read. Who returns an error does not log it; who handles
 * it logs it once. */
#ifndef CS_ERROR_H
#define CS_ERROR_H

#include <countersign/reason.h>

#define CS_MUST_USE          __attribute__((warn_unused_result))
#define CS_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

struct cs_error {
	int code;              /* negative errno */
	enum cs_reason reason; /* CS_R_NONE where the list has none */
	char text[1024];       /* one sentence, no newline, names the offending value and the way out */
};

/* Fill *e (which may be NULL) and return code. Long texts are cut with an ellipsis; control characters, and bytes that
 * are not UTF-8, become '?'.
 * The arguments must not point into *e. */
int cs_error_set(struct cs_error *e, int code, const char *fmt, ...) CS_PRINTF(3, 4);
int cs_error_reason(struct cs_error *e, int code, enum cs_reason reason, const char *fmt, ...) CS_PRINTF(4, 5);
/* The text of errno code follows fmt: "open /x: Permission denied". */
int cs_error_errno(struct cs_error *e, int code, const char *fmt, ...) CS_PRINTF(3, 4);
/* Put context before what is there: "policy a.yaml: line 3: unknown field 'foo'". Returns e->code
 * (-EINVAL if e is NULL, so that an error stays one). */
int cs_error_prefix(struct cs_error *e, const char *fmt, ...) CS_PRINTF(2, 3);

/* Name ("svid-expired") and sentence of a reason; unknown numbers give "unknown-reason". Static strings. */
const char *cs_reason_name(enum cs_reason reason);
const char *cs_reason_sentence(enum cs_reason reason);
/* The reason of a name, or -1. */
int cs_reason_parse(const char *name);

#endif
