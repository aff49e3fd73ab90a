/* UTF-8 (RFC 3629). */
#ifndef CS_UTF8_H
#define CS_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at s, of which n > 0 bytes are there: no surrogates, no overlong forms, up to U+10FFFF. 0: none. */
size_t cs_utf8_length(const uint8_t *s, size_t n);
/* In the n bytes of text control characters (C1 and NUL too) and what is not UTF-8 become '?': texts come from peers and
 * files, and go to terminals and into protobuf's strings. A NUL follows text. */
void cs_utf8_clean(char *text, size_t n);

#endif
