#include "clockwatch.h"

#include <stdlib.h>
#include <time.h>

static int64_t clock_ms(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

struct cs_clocks cs_clocks_now(void)
{
	return (struct cs_clocks){.mono_ms = clock_ms(CLOCK_MONOTONIC),
		.unix_ms = clock_ms(CLOCK_REALTIME),
		.boot_ms = clock_ms(CLOCK_BOOTTIME)};
}

bool cs_clockwatch_check(struct cs_clockwatch *watch, struct cs_clocks now, int64_t *ret_ms)
{
	int64_t mono_ms = now.mono_ms - watch->last.mono_ms;
	int64_t by_unix_ms = now.unix_ms - watch->last.unix_ms - mono_ms;
	int64_t by_boot_ms = now.boot_ms - watch->last.boot_ms - mono_ms;
	bool first = !watch->started;
	watch->last = now;
	watch->started = true;
	if (first || (llabs(by_unix_ms) < CS_CLOCK_JUMP_MS && llabs(by_boot_ms) < CS_CLOCK_JUMP_MS))
		return false;
	if (ret_ms)
		*ret_ms = llabs(by_unix_ms) >= llabs(by_boot_ms) ? by_unix_ms : by_boot_ms;
	return true;
}
