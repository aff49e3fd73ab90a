/* Structured logging: one event is one message and typed fields. JSON lines, or a plain form for terminals.
 *
 *	cs_info("endpoint registered", cs_str("id", id), cs_u64("identity", n));
 *
 * A message is a constant sentence without values: it is also the key of the rate limit (10 lines a minute for one
 * message at one place, informations and warnings; what was left out is counted in the next line as "suppressed").
 *
 * What must be on record one by one - an authentication, a refusal, who changed what - is written by cs_audit(): its level
 * "audit" is above all others, so that no log.level hides it, and no rate limit applies. Whoever calls it bounds how often
 * that can be: by the work that it stands for, a backoff, or a budget.
 *
 * Never pass a secret. Safe from the loop thread and from worker threads. */
#ifndef CS_LOG_H
#define CS_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "error.h"

enum cs_log_level { CS_LOG_DEBUG, CS_LOG_INFO, CS_LOG_WARN, CS_LOG_ERROR, CS_LOG_AUDIT };
enum cs_log_format { CS_LOG_AUTO /* plain on a terminal, else JSON */, CS_LOG_JSON, CS_LOG_PLAIN };

struct cs_field {
	const char *key;
	enum { CS_FIELD_STR, CS_FIELD_U64, CS_FIELD_I64, CS_FIELD_BOOL } type;
	union {
		const char *str; /* borrowed; NULL prints as "" */
		uint64_t u64;
		int64_t i64;
		bool b;
	};
};

static inline struct cs_field cs_str(const char *key, const char *value)
{
	return (struct cs_field){.key = key, .type = CS_FIELD_STR, .str = value};
}
static inline struct cs_field cs_u64(const char *key, uint64_t value)
{
	return (struct cs_field){.key = key, .type = CS_FIELD_U64, .u64 = value};
}
static inline struct cs_field cs_i64(const char *key, int64_t value)
{
	return (struct cs_field){.key = key, .type = CS_FIELD_I64, .i64 = value};
}
static inline struct cs_field cs_bool(const char *key, bool value)
{
	return (struct cs_field){.key = key, .type = CS_FIELD_BOOL, .b = value};
}
/* The text of an error, under the key "error"; its reason follows under "reason" by cs_why. */
static inline struct cs_field cs_err(const struct cs_error *e)
{
	return cs_str("error", e->text);
}
static inline struct cs_field cs_why(enum cs_reason reason)
{
	return cs_str("reason", cs_reason_name(reason));
}

/* Once, early in main. daemon is borrowed for the life of the process. Output goes to stderr. */
void cs_log_init(const char *daemon, enum cs_log_level level, enum cs_log_format format);
/* Tests: another descriptor than stderr. */
void cs_log_set_fd(int fd);

struct cs_log_site { /* one per place in the code: the rate limit's memory */
	int64_t window_ms;
	uint32_t count, suppressed;
};
void cs_log_event(struct cs_log_site *site, enum cs_log_level level, const char *message, const struct cs_field *fields,
	size_t nfields);

#define CS_LOG(level, message, ...)                                                                                    \
	do {                                                                                                           \
		static struct cs_log_site cs_site_;                                                                    \
		const struct cs_field cs_fields_[] = {{0}, ##__VA_ARGS__};                                             \
		cs_log_event(                                                                                          \
			&cs_site_, level, message, cs_fields_ + 1, sizeof(cs_fields_) / sizeof(cs_fields_[0]) - 1);    \
	} while (0)
#define cs_debug(message, ...) CS_LOG(CS_LOG_DEBUG, message, ##__VA_ARGS__)
#define cs_info(message, ...)  CS_LOG(CS_LOG_INFO, message, ##__VA_ARGS__)
#define cs_warn(message, ...)  CS_LOG(CS_LOG_WARN, message, ##__VA_ARGS__)
#define cs_fail(message, ...)  CS_LOG(CS_LOG_ERROR, message, ##__VA_ARGS__)
#define cs_audit(message, ...) CS_LOG(CS_LOG_AUDIT, message, ##__VA_ARGS__)

#endif
