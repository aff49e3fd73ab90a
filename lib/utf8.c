#include "utf8.h"

#include <stdbool.h>
#include <string.h>

size_t cs_utf8_length(const uint8_t *s, size_t n)
{
	if (s[0] < 0x80)
		return 1;
	size_t length = s[0] >= 0xc2 && s[0] < 0xe0   ? 2
			: s[0] >= 0xe0 && s[0] < 0xf0 ? 3
			: s[0] >= 0xf0 && s[0] < 0xf5 ? 4
						      : 0;
	if (length == 0 || length > n)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	bool bad = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
		   (s[0] == 0xf4 && s[1] > 0x8f);
	return bad ? 0 : length;
}

void cs_utf8_clean(char *text, size_t n)
{
	uint8_t *s = (uint8_t *)text;
	while (n > 0) {
		size_t length = cs_utf8_length(s, n);
		bool control = *s < 0x20 || *s == 0x7f || (*s == 0xc2 && s[1] < 0xa0);
		if (length == 0)
			length = 1, *s = '?';
		else if (control)
			memset(s, '?', length);
		s += length;
		n -= length;
	}
}
