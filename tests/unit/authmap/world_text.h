/* Directory records from one line of text each, so that a test reads like what the directory says:
 *
 *	node n1 self 10.0.0.1 fd00::1		identity 100 [incarnation]	placement 100 n2
 *	endpoint n2 web 100 10.1.0.1		endpoint n1 db 101 10.1.0.2 @ veth1 7 [dhcp] [audit]
 *	row 101 100 deny require		default 101 pass pass require deny	(from_ep from_other to_ep to_other)
 *	prefix 192.0.2.0/24 16777217		depends dns 102 192.0.2.8/29
 *	revoke r1 identity 100			... node n2 | placement 100 n2 | leaf BYTE | authority BYTE | serial BYTE BYTE
 *						... [from S] [until S]
 * A line that begins with '-' deletes. SPIFFE IDs are spiffe://example.org/identity/ID, verdicts take '+audit'. */
#ifndef WORLD_TEXT_H
#define WORLD_TEXT_H

#include "world.h"

/* Feeds all lines. */
void world_say(struct cs_world *w, const char *lines);
/* The same as the full state. */
void world_replace(struct cs_world *w, const char *lines);
struct cs_ip ip_of(const char *text);
/* What a revocation's BYTE stands for: 32 (serial: 20) such bytes. */
void fill_leaf(struct cs_leaf *leaf, int leaf_byte, int serial_byte, int authority_byte);

#endif
