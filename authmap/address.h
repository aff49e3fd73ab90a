/* IP addresses and prefixes as keys: bytes that compare as they are. */
#ifndef CS_ADDRESS_H
#define CS_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct cs_ip {
	uint8_t family; /* 4 or 6 */
	uint8_t pad[3];
	uint8_t b[16]; /* as on the wire; IPv4 in the first four bytes, rest 0 */
};
struct cs_ip_prefix {
	struct cs_ip ip; /* bits beyond `bits` are 0 */
	uint32_t bits;
};

#define CS_IP_TEXT 64

/* 4 or 16 bytes; false: another length. */
bool cs_ip_from_bytes(struct cs_ip *ip, const void *bytes, size_t len);
bool cs_ip_equal(const struct cs_ip *a, const struct cs_ip *b);
/* Text into out, which is returned. */
const char *cs_ip_text(const struct cs_ip *ip, char out[CS_IP_TEXT]);
/* An IPv4-mapped IPv6 address becomes IPv4. False: another family. */
bool cs_ip_from_sockaddr(struct cs_ip *ip, const struct sockaddr *sa);
socklen_t cs_ip_to_sockaddr(const struct cs_ip *ip, uint16_t port, struct sockaddr_storage *ret);
/* ::ffff:a.b.c.d, as struct cs_node has it, and back. */
void cs_ip_to_mapped(const struct cs_ip *ip, uint8_t out[16]);

/* False: more bits than the family has, or bits set beyond them. */
bool cs_ip_prefix_make(struct cs_ip_prefix *prefix, const struct cs_ip *ip, uint32_t bits);
/* Does it hold these first `bits` of ip? */
bool cs_ip_prefix_holds(const struct cs_ip_prefix *prefix, const struct cs_ip *ip, uint32_t bits);

#endif
