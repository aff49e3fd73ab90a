/* Watches for clocks that jump. Expiry in the maps counts on CLOCK_MONOTONIC, certificates on CLOCK_REALTIME, and
 * CLOCK_BOOTTIME goes on while the machine sleeps: when the distance between two of them changes by more than a slew
 * can explain, every expiry has to be derived anew.
 *
 * Pure: the caller reads the three clocks and asks. */
#ifndef CS_CLOCKWATCH_H
#define CS_CLOCKWATCH_H

#include <stdbool.h>
#include <stdint.h>

#define CS_CLOCK_JUMP_MS 500 /* adjtimex slews at most 0.5 ms per second */

struct cs_clocks {
	int64_t mono_ms, unix_ms, boot_ms;
};
struct cs_clockwatch {
	struct cs_clocks last;
	bool started;
};

/* Now, by the system's clocks. */
struct cs_clocks cs_clocks_now(void);
/* The first call only remembers. True: a jump since the last call; *ret_ms (may be NULL) is the larger one's size, signed:
 * positive means that less time is left than thought. */
bool cs_clockwatch_check(struct cs_clockwatch *watch, struct cs_clocks now, int64_t *ret_ms);

#endif
