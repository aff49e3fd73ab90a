/* Durations as text. */
#include "settings_row.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static const struct {
	const char *name;
	int64_t ms;
} units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
#define NUNITS (sizeof(units) / sizeof(units[0]))

#define DURATION_MAX_MS (INT64_C(36500) * 86400000) /* a hundred years: sums of two never overflow */

static int refuse(const char *text, struct cs_error *e)
{
	char quoted[80];
	cs_setting_quote(text, quoted);
	return cs_error_set(e, -EINVAL,
		"%s is not a duration; write a number and its unit (ms, s, m, h, d), largest first, like 250ms, 10m or "
		"1h30m",
		quoted);
}

/* One number at *p, which moves on; -1 if there is none or it is too large. */
static int64_t number(const char **p)
{
	int64_t n = 0;
	const char *start = *p;
	for (; **p >= '0' && **p <= '9'; (*p)++) {
		n = n * 10 + (**p - '0');
		if (n > DURATION_MAX_MS)
			return -1;
	}
	return *p > start ? n : -1;
}

int cs_duration_parse(const char *text, int64_t *ret_ms, struct cs_error *e)
{
	int64_t total = 0;
	size_t next = 0; /* the largest unit that may still come */
	const char *p = text;
	if (strcmp(text, "0") == 0) {
		*ret_ms = 0;
		return 0;
	}
	do {
		int64_t n = number(&p);
		size_t len = strcspn(p, "0123456789"), u = next;
		while (u < NUNITS && (strlen(units[u].name) != len || strncmp(units[u].name, p, len) != 0))
			u++;
		if (n < 0 || u == NUNITS || n > DURATION_MAX_MS / units[u].ms)
			return refuse(text, e);
		total += n * units[u].ms;
		if (total > DURATION_MAX_MS)
			return refuse(text, e);
		next = u + 1;
		p += len;
	} while (*p);
	*ret_ms = total;
	return 0;
}

void cs_duration_format(int64_t ms, char out[32])
{
	size_t used = 0;
	out[0] = '\0';
	if (ms <= 0) {
		snprintf(out, 32, "0");
		return;
	}
	for (size_t u = 0; u < NUNITS; u++) {
		if (ms < units[u].ms)
			continue;
		used += (size_t)snprintf(out + used, 32 - used, "%" PRId64 "%s", ms / units[u].ms, units[u].name);
		ms %= units[u].ms;
	}
}
